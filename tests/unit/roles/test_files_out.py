"""Files that go out: what is due, what they say, that no patient is in them, and what proves who wrote them."""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import pyrage
import pytest
from fhir.resources.R4B.bundle import Bundle
from joserfc.jwk import OKPKey

from pipeline import topology
from pipeline.destinations.files.outgoing import Made
from pipeline.domain.accounts.audit import next_entry
from pipeline.domain.event import (
    Bed,
    BedOccupancy,
    Encounter,
    EncounterStatus,
    Environment,
    Name,
    Occupancy,
    Patient,
    Payload,
    Place,
    Reference,
    Service,
    ServiceStatus,
)
from pipeline.domain.files.life import Manifest
from pipeline.domain.files.outgoing import FileOutState, OutKind, OutStatus, covered
from pipeline.domain.head import Head, encode_head
from pipeline.domain.identifiers import EntityKey, EventId, Millis, Revision
from pipeline.domain.ring import EMPTY_RING
from pipeline.domain.ward.capacity import capacity_of
from pipeline.formats.avro import Codec
from pipeline.formats.manifest import check_signature, public_key, read_manifest
from pipeline.formats.reports.safr import GROUPS, safr_bundle
from pipeline.kafka.client import Message
from pipeline.roles.downtime.state import Standing
from pipeline.roles.files.made import Maker
from pipeline.settings.model import Settings
from tests.support.policies import shipped_policy

NOW: Final = Millis(1_767_593_700_000)
"""2026-01-05T06:15:00Z."""
CODEC: Final = Codec.shipped()
CANARY: Final = "Zzyzx"
VISIT: Final = Reference("EHR", f"V-{CANARY}")
BUSY: Final = BedOccupancy(Occupancy.OCCUPIED, VISIT)
FREE: Final = BedOccupancy(Occupancy.VACANT, VISIT)
OUT: Final = Service(ServiceStatus.BLOCKED, "leak")


class Log:
    """The audit topic of two partitions."""

    def __init__(self) -> None:
        self.entries: dict[int, list[bytes]] = {0: [], 1: []}
        self.begins = {0: 0, 1: 0}

    def write(self, count: int, partition: int = 0) -> None:
        for _ in range(count):
            number = len(self.entries[partition])
            entry = next_entry(None, chain="c", at=NOW, actor="a", action="x", subject=f"{partition}/{number}")
            self.entries[partition].append(CODEC.encode(entry))

    def begin(self, topic: str) -> Mapping[int, int]:
        return dict(self.begins)

    def end(self, topic: str) -> Mapping[int, int]:
        return {where: len(entries) for where, entries in self.entries.items()}

    def committed(self, group: str) -> Mapping[tuple[str, int], int]:
        return {}

    def read(self, topic: str, start: Mapping[int, int], end: Mapping[int, int]) -> Iterator[Message]:
        for where, entries in self.entries.items():
            for offset in range(start.get(where, 0), end[where]):
                yield Message(topic, where, offset, NOW, b"c", entries[offset])


def standing(*told: tuple[str, str, Payload]) -> Standing:
    known = Standing(Settings().kafka, Log())
    for offset, (kind, name, state) in enumerate(told):
        head = Head(1, offset, Revision(1), "", "MAIN", state, {}, EMPTY_RING, EventId("0" * 32), "", NOW, NOW)
        key = EntityKey("default", kind, "MAIN" if kind == "bed" else "EHR", name).encode()
        known.apply(Message(topology.GATE_CHANGELOG, 0, offset, NOW, key, encode_head(head)))
    known.as_of = Millis(NOW - 5_000)
    return known


def ward() -> Standing:
    return standing(
        ("bed", "ICU/1/A", Bed(occupancy=BUSY)),
        ("bed", "ICU/2/A", Bed(occupancy=FREE, environment=Environment.DIRTY)),
        ("bed", "ICU/3/A", Bed(occupancy=FREE, age_group="pediatric")),
        ("bed", "MED/1/A", Bed(occupancy=FREE, staffed=False)),
        ("bed", "MED/2/A", Bed(occupancy=FREE, service=OUT, surge=True)),
        ("bed", "MED/3/A", Bed(occupancy=FREE, surge=True, environment=Environment.CLEAN)),
        ("bed", "MED/4/A", Bed()),
        ("bed", "ED/1/A", Bed(occupancy=FREE)),
        (
            "encounter",
            f"V-{CANARY}",
            Encounter(
                location=Place(point_of_care="ICU", room="1", bed="A"),
                status=EncounterStatus.IN_PROGRESS,
                patient=Reference("EHR", f"P-{CANARY}"),
            ),
        ),
        (
            "encounter",
            "V2",
            Encounter(location=Place(point_of_care="ED", room="HALL"), status=EncounterStatus.ARRIVED, admit_decision_at=NOW),
        ),
        ("patient", f"P-{CANARY}", Patient(name=Name(CANARY, CANARY))),
    )


class Receiver:
    """The keys of one."""

    def __init__(self, folder: Path) -> None:
        self.identity = pyrage.x25519.Identity.generate()
        (folder / "r.recipients").write_text(str(self.identity.to_public()))
        self.key = OKPKey.generate_key("Ed25519", private=True)
        (folder / "sign.pem").write_bytes(self.key.as_pem(private=True))
        self.public = public_key(self.key.as_pem(private=False))
        self.folder = folder

    def settings(self, *sends: str, facilities: tuple[str, ...] = ("MAIN",)) -> Settings:
        section = {
            "folder": str(self.folder / "place"),
            "facilities": list(facilities),
            "sends": list(sends),
            "key_id": "k1",
            "key_file": str(self.folder / "sign.pem"),
            "recipients_file": str(self.folder / "r.recipients"),
        }
        return Settings.model_validate({"files_out": {"receivers": {"r": section}}})

    def maker(self, known: Standing, log: Log, *sends: str, at: int = NOW, **more: Any) -> Maker:
        settings = self.settings(*sends, **more)
        section = settings.files_out.receivers["r"]
        return Maker(settings, "r", section, known, shipped_policy(), CODEC, log, lambda: Millis(at))

    def opened(self, made: Made) -> bytes:
        content: bytes = pyrage.decrypt(made.parts[""], [self.identity])
        return content


@pytest.fixture
def receiver(tmp_path: Path) -> Receiver:
    return Receiver(tmp_path)


def test_a_file_is_encrypted_signed_and_as_its_manifest_says(receiver: Receiver) -> None:
    (made,) = receiver.maker(ward(), Log(), "capacity").due([])
    content = receiver.opened(made)
    manifest = read_manifest(made.parts[".manifest"])
    assert isinstance(manifest, Manifest)
    assert manifest.file == "capacity-20260105T061500Z.csv.age"
    assert (manifest.size, manifest.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert (manifest.records, manifest.schema, manifest.created_at) == (8, "capacity-extract/1", NOW - 5_000)
    assert receiver.public is not None
    proof = check_signature(made.parts[".manifest"], made.parts[".manifest.jws"], "k1", {"k1": receiver.public})
    assert proof is None


def test_no_patient_is_in_what_a_partner_gets(receiver: Receiver) -> None:
    for made in receiver.maker(ward(), Log(), "capacity", "safr").due([]):
        assert CANARY.encode() not in receiver.opened(made)
        assert CANARY not in f"{made.state.name}{made!r}{made.state!r}"


def test_the_capacity_extract_has_each_bed_of_the_receiver_s_sites_and_of_no_other(receiver: Receiver) -> None:
    (made,) = receiver.maker(ward(), Log(), "capacity").due([])
    rows = list(csv.DictReader(io.StringIO(receiver.opened(made).decode("utf-8-sig"), newline="")))
    assert [(row["Unit"], row["Room"], row["State"], row["Unoccupied"]) for row in rows][:3] == [
        ("ED", "1", "EMPTY", "Y"),
        ("ICU", "1", "OCCUPIED", "N"),
        ("ICU", "2", "DIRTY", "Y"),
    ]
    (other,) = receiver.maker(ward(), Log(), "capacity", facilities=("EAST",)).due([])
    assert other.state.records == 0


def test_a_period_has_one_file_and_one_that_passed_has_none(receiver: Receiver) -> None:
    known, log = ward(), Log()
    (made,) = receiver.maker(known, log, "capacity").due([])
    assert list(receiver.maker(known, log, "capacity", at=NOW + 899_000).due([made.state])) == []
    assert list(receiver.maker(known, log, "capacity", at=NOW + 900_000).due([made.state])) == [], "nothing newer is known"
    known.as_of = Millis(NOW + 7_000_000)
    (later,) = receiver.maker(known, log, "capacity", at=NOW + 7_200_000).due([made.state])
    assert later.state.name == "capacity-20260105T081500Z.csv"


def test_nothing_is_made_of_what_is_not_known_to_be_complete(receiver: Receiver) -> None:
    known = ward()
    known.as_of = None
    assert list(receiver.maker(known, Log(), "capacity", "safr").due([])) == []


def numbers(receiver: Receiver, made: Made) -> list[tuple[int, int]]:
    lines = [json.loads(line) for line in receiver.opened(made).splitlines()]
    return [(line["partition"], line["offset"]) for line in lines]


def test_audit_exports_hold_each_entry_once_and_without_a_gap(receiver: Receiver) -> None:
    log = Log()
    log.write(3)
    log.write(2, 1)
    (first,) = receiver.maker(ward(), log, "audit").due([])
    assert numbers(receiver, first) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert list(receiver.maker(ward(), log, "audit", at=NOW + 900_000).due([first.state])) == []
    log.write(1)
    (second,) = receiver.maker(ward(), log, "audit", at=NOW + 900_000).due([first.state])
    assert numbers(receiver, second) == [(0, 3)]


@pytest.mark.parametrize("ended", [OutStatus.LOST, OutStatus.REFUSED])
def test_what_an_audit_export_held_that_is_not_there_comes_again_though_later_ones_were_made(
    receiver: Receiver, ended: OutStatus
) -> None:
    log, made = Log(), []
    for turn in range(3):
        log.write(2)
        made += receiver.maker(ward(), log, "audit", at=NOW + turn * 900_000).due([each.state for each in made])
    states = [each.state for each in made]
    states[1] = msgspec.structs.replace(states[1], status=ended)
    (again,) = receiver.maker(ward(), log, "audit", at=NOW + 2_700_000).due(states)
    assert numbers(receiver, again) == [(0, number) for number in range(2, 6)]
    log.write(1)
    (after,) = receiver.maker(ward(), log, "audit", at=NOW + 3_600_000).due([*states, again.state])
    assert numbers(receiver, after) == [(0, 6)]


def test_where_the_log_begins_later_the_export_begins_there(receiver: Receiver) -> None:
    log = Log()
    log.write(5)
    log.begins = {0: 3, 1: 0}
    (made,) = receiver.maker(ward(), log, "audit").due([])
    assert numbers(receiver, made) == [(0, 3), (0, 4)]
    assert covered([made.state]) == (5, 0)
    assert covered([]) == ()


def test_unoccupied_is_staffed_and_unblocked_and_the_ed_is_counted_by_patients() -> None:
    known = ward()
    counts = capacity_of(known.boards(known.units(), NOW).values(), shipped_policy())
    assert (counts.all_occupied, counts.all_unoccupied, counts.unknown) == (1, 3, 1)
    assert (counts.adult_icu_occupied, counts.adult_icu_unoccupied) == (1, 1)
    assert (counts.ed_patients, counts.ed_admitted) == (1, 1)
    assert (counts.surge_occupied, counts.surge_unoccupied, counts.surge_inactive) == (0, 1, 1)


def test_the_safr_report_is_fhir_and_says_the_counts_under_their_codes(receiver: Receiver) -> None:
    (made,) = receiver.maker(ward(), Log(), "safr").due([])
    content = json.loads(receiver.opened(made))
    bundle = Bundle.model_validate(content)
    report = bundle.entry[2].resource
    assert (report.get_resource_type(), report.type, report.status) == ("MeasureReport", "individual", "complete")
    said = {
        group["code"]["coding"][0]["code"]: group["population"][0]["count"] for group in content["entry"][2]["resource"]["group"]
    }
    assert said == {
        "112579-8": 1,
        "112578-0": 3,
        "112575-6": 1,
        "112574-9": 1,
        "112508-7": 1,
        "112507-9": 1,
        "112525-1": 0,
        "112524-4": 1,
        "112523-6": 1,
    }
    assert len(said) == len(GROUPS)
    urls = {entry["fullUrl"] for entry in content["entry"]}
    resource = content["entry"][2]["resource"]
    assert {resource["subject"]["reference"], resource["reporter"]["reference"]} <= urls
    assert resource["period"]["start"] < resource["period"]["end"] == resource["date"]


def test_the_same_counts_make_the_same_report() -> None:
    known = ward()
    counts = capacity_of(known.boards(known.units(), NOW).values(), shipped_policy())
    one, other = (safr_bundle("MAIN", counts, Millis(NOW - 900_000), NOW) for _ in range(2))
    assert one == other != safr_bundle("EAST", counts, Millis(NOW - 900_000), NOW)


def test_each_site_has_a_safr_report_of_its_own_and_no_name_tells_which(receiver: Receiver) -> None:
    found = list(receiver.maker(ward(), Log(), "safr", facilities=("MAIN", "EAST")).due([]))
    assert [made.state.name for made in found] == ["safr-1-20260105T061500Z.json", "safr-2-20260105T061500Z.json"]
    assert [made.state.facility for made in found] == ["MAIN", "EAST"]


def test_a_record_of_the_ledger_survives_its_form() -> None:
    state = FileOutState(
        tenant="t",
        receiver="r",
        kind=OutKind.AUDIT,
        file_id="0" * 32,
        name="n",
        encrypted=True,
        status=OutStatus.SENT,
        slot=1,
        sha256="0" * 64,
        size=1,
        records=1,
        key_id="k",
        created_at=NOW,
        begins=(0, 1),
        reached=(2, 3),
        at=NOW,
    )
    assert CODEC.decode(CODEC.encode(state)) == state
