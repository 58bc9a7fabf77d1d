"""Every real message of the shared data: none crashes, each verdict is one a person would agree with, and the mapped ones say
what python-hl7, an independent parser, reads at the same positions."""

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import hl7
import pytest
from msgspec import UNSET, structs

from pipeline.domain.event import Bed, Encounter, EntityType, Event, Occupancy, Patient, Place, Procedure, Reference
from pipeline.formats.avro import Codec
from pipeline.formats.hl7v2 import ack
from pipeline.formats.hl7v2.datatypes import dtm, offset_of, zone
from pipeline.formats.hl7v2.er7 import Message, parse
from pipeline.formats.hl7v2.leniency import Leniency
from pipeline.formats.hl7v2.mapping import MAPPED, map_bytes, map_hl7
from pipeline.formats.hl7v2.verdict import Ignored, Mapped, Reason, Rejected
from tests.support.hl7_samples import DEFAULT, RECEIVED_AT

UNSUPPORTED = {Reason.UNSUPPORTED_EVENT, Reason.UNSUPPORTED_MESSAGE}
IGNORED = re.compile(r"(ADT_A29|ADT_A60|BAR|DFT|MDM|OMG|OML|OMP|ORM|ORU|OUL|PPR|RDE|RDS|REF|RSP|VXU)_")
NOT_YET = re.compile(r"(ZDT_Z01)_")
EXPECTED_MESSAGES = 236


@pytest.fixture(scope="session")
def samples(shared_data: Path) -> list[Path]:
    return sorted((shared_data / "hl7v2").glob("*.hl7"))


def normalised(data: bytes) -> str:
    """As python-hl7 wants it: CR ends, no mark, the doubled backslash of three senders undone."""
    text = parse_text(data).replace("\r\n", "\r").replace("\n", "\r").strip("\r")
    return text.replace("^~\\\\&", "^~\\&", 1)


def parse_text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


class Oracle:
    """python-hl7's view of one message."""

    def __init__(self, data: bytes) -> None:
        self._message = hl7.parse(normalised(data))

    def at(self, segment: str, field: int, component: int = 1, repetition: int = 1) -> str | None:
        try:
            found = self._message.extract_field(segment, 1, field, repetition, component, 1)
        except (LookupError, KeyError):
            return None
        text = str(found).strip() if found is not None else ""
        return None if text in ("", '""') else text


def test_all_samples_are_there(samples: list[Path]) -> None:
    assert len(samples) == EXPECTED_MESSAGES


def test_every_sample_gets_a_verdict_and_an_answer(samples: list[Path]) -> None:
    counts: Counter[str] = Counter()
    for path in samples:
        message, verdict = map_bytes(path.read_bytes(), DEFAULT, "t1", RECEIVED_AT)
        counts[type(verdict).__name__] += 1
        assert list(map_hl7(path.read_bytes(), profile=DEFAULT, tenant="t1", received_at=RECEIVED_AT, file=path.name))
        refused = isinstance(verdict, Rejected)
        answer = ack.refused(message, verdict, "original") if refused else ack.accepted(required(message), "original")
        assert isinstance(parse(answer), Message), path.name
    assert counts == {"Mapped": 52, "Ignored": 132, "Rejected": 52}


def test_what_moves_no_capacity_is_ignored_and_what_is_not_mapped_yet_is_refused(samples: list[Path]) -> None:
    for path in samples:
        verdict = map_bytes(path.read_bytes(), DEFAULT, "t1", RECEIVED_AT)[1]
        assert isinstance(verdict, Ignored) == bool(IGNORED.match(path.name)), path.name
        unsupported = isinstance(verdict, Rejected) and verdict.reason in UNSUPPORTED
        assert unsupported == bool(NOT_YET.match(path.name)), path.name


def test_a_mapped_trigger_is_rejected_only_for_what_it_lacks(samples: list[Path]) -> None:
    """The independent parser agrees that the field at fault is empty, ambiguous or unreadable."""
    for path in samples:
        message, verdict = map_bytes(path.read_bytes(), DEFAULT, "t1", RECEIVED_AT)
        if not isinstance(verdict, Rejected) or message is None or verdict.reason in UNSUPPORTED:
            continue
        oracle = Oracle(path.read_bytes())
        match verdict.reason, verdict.field:
            case Reason.MISSING_FIELD, "EVN-2":
                assert (oracle.at("EVN", 2) or oracle.at("MSH", 7)) is None, path.name
            case Reason.MISSING_FIELD, "PV1-19":
                assert (oracle.at("PV1", 19) or oracle.at("PID", 18)) is None, path.name
            case Reason.MISSING_FIELD, "PID-3":
                assert not oracle.at("PID", 3), path.name
            case Reason.AMBIGUOUS_IDENTITY, "PID-3":
                assert [oracle.at("PID", 3, 5, n) for n in (1, 2, 3)].count("MR") != 1, path.name
            case Reason.SEGMENT_SEQUENCE, "PV1" | "PID":
                assert verdict.field not in message.names(), path.name
            case Reason.SEGMENT_SEQUENCE, _:
                assert message.bad_segment(), path.name
            case Reason.BAD_VALUE, "EVN-2":
                assert oracle.at("MSH", 7) == "201610015080000", path.name
            case other:
                pytest.fail(f"{path.name}: {other}")


@pytest.mark.parametrize(
    ("setting", "value", "taken"),
    [
        ("tolerates", (*DEFAULT.tolerates, Leniency.TYPE_IN_AUTHORITY), {"ADT_A04_007"}),
        (
            "patient_id_types",
            (*DEFAULT.patient_id_types, "GOOD HEALTH HOSPITAL"),
            {"ADT_A06_002", "ADT_A07_001", "ADT_A10_001", "ADT_A45_001"},
        ),
    ],
)
def test_a_sender_that_writes_its_identifiers_otherwise_needs_one_line_of_a_profile(
    samples: list[Path], setting: str, value: object, taken: set[str]
) -> None:
    """What the default refuses for good reasons: an authority that looks like a type, and a type that is a name."""
    of_the_sender = structs.replace(DEFAULT, **{setting: value})  # type: ignore[arg-type]
    found = set()
    for path in samples:
        data = path.read_bytes()
        by_default, verdict = (map_bytes(data, profile, "t1", RECEIVED_AT)[1] for profile in (DEFAULT, of_the_sender))
        if isinstance(by_default, Mapped):
            assert isinstance(verdict, Mapped), path.name
        elif isinstance(verdict, Mapped):
            found.add(path.stem)
            assert all(event.entity_id for event in verdict.events)
    assert found == taken


def test_mapped_messages_say_what_an_independent_parser_reads(samples: list[Path]) -> None:
    checked = 0
    for path in samples:
        data = path.read_bytes()
        verdict = map_bytes(data, DEFAULT, "t1", RECEIVED_AT)[1]
        if isinstance(verdict, Mapped):
            agrees(path.name, Oracle(data), verdict.events, verdict.unread)
            checked += 1
    assert checked == 52


def test_every_event_fits_its_schema_and_stays_small(samples: list[Path]) -> None:
    codec = Codec.shipped()
    for path in samples:
        verdict = map_bytes(path.read_bytes(), DEFAULT, "t1", RECEIVED_AT)[1]
        for event in verdict.events if isinstance(verdict, Mapped) else ():
            encoded = codec.encode(event)
            assert codec.decode(encoded) == event, path.name
            assert len(encoded) < 1024, path.name


def agrees(name: str, oracle: Oracle, events: tuple[Event, ...], unread: tuple[str, ...]) -> None:
    trigger = f"{oracle.at('MSH', 9, 1)}^{oracle.at('MSH', 9, 2)}"
    assert trigger in MAPPED, name
    if trigger.startswith("SIU"):
        agrees_on_appointment(name, oracle, events)
        return
    if any(event.replaces for event in events):
        agrees_on_merge(name, oracle, events)
        return
    person = events[0]
    identifiers = [(oracle.at("PID", 3, 1, n), oracle.at("PID", 3, 5, n)) for n in range(1, 6)]
    assert (person.entity_id) in {value for value, kind in identifiers if kind in (None, "MR", "MRN", "PI")}, name
    assert isinstance(person.payload, Patient)
    default = offset_of(oracle.at("MSH", 7)) or zone(DEFAULT.time_zone)
    assert person.recorded_at == dtm(oracle.at("EVN", 2) or oracle.at("MSH", 7) or "", default), name
    if "EVN-6" not in unread:
        occurred = oracle.at("EVN", 6)
        assert person.occurred_at == (dtm(occurred, default) if occurred else None), name
    assert person.location == place(oracle, 3), name
    of_the_first = events[: len(events) // 2] if trigger == "ADT^A17" else events
    for event in of_the_first[1:]:
        match event.payload:
            case Encounter() as stay:
                assert event.entity_id == (oracle.at("PV1", 19) or oracle.at("PID", 18)), name
                known = oracle.at("PV1", 2)
                if "PV1-2" not in unread and known:
                    assert stay.patient_class == {"INPATIENT": "I", "OBSERVATION": "O"}.get(known, known), name
                if stay.admitted_at:
                    assert stay.admitted_at == dtm(oracle.at("PV1", 44) or "", default), name
            case Bed() as bed:
                assert bed.occupancy
                assert event.location in (place(oracle, 3), place(oracle, 6)), name
                assert event.entity_id == "/".join(oracle.at("PV1", field_of(event, oracle), n) or "" for n in (1, 2, 3)), name
            case _:
                pytest.fail(name)
    if trigger in ("ADT^A02", "ADT^A01"):
        taken = [e for e in events if isinstance(e.payload, Bed) and e.payload.occupancy and occupied(e.payload)]
        assert len(taken) == bool(oracle.at("PV1", 3, 3)), name


def agrees_on_merge(name: str, oracle: Oracle, events: tuple[Event, ...]) -> None:
    """Of the first group: who is retired is in MRG, who survives where the loser's event points."""
    lost, kept = next((lost, kept) for lost, kept in pairwise(events) if kept.replaces is not None)
    field, at = {EntityType.PATIENT: (1, ("PID", 3)), EntityType.ENCOUNTER: (3, ("PID", 18))}[lost.entity_type]
    assert lost.entity_id == oracle.at("MRG", field), name
    assert kept.entity_id in {oracle.at(*at, 1, n) for n in range(1, 4)}, name
    assert getattr(lost.payload, "merged_into", None) == Reference(kept.namespace, kept.entity_id), name
    assert kept.replaces == Reference(lost.namespace, lost.entity_id), name


def agrees_on_appointment(name: str, oracle: Oracle, events: tuple[Event, ...]) -> None:
    (event,) = events
    assert isinstance(event.payload, Procedure), name
    said = event.payload
    assert event.entity_id == oracle.at("SCH", 2), name
    default = offset_of(oracle.at("MSH", 7)) or zone(DEFAULT.time_zone)
    start = oracle.at("AIS", 4) or oracle.at("TQ1", 7) or oracle.at("SCH", 11, 4)
    assert said.start == (dtm(start, default) if start else UNSET), name
    assert event.location == place(oracle, 3, "AIL"), name
    assert said.service == (oracle.at("AIS", 3) or UNSET), name
    assert isinstance(said.patient, Reference), name
    assert said.patient.id in {oracle.at("PID", 3, 1, n) for n in range(1, 6)}, name


def occupied(bed: Bed) -> bool:
    return bool(bed.occupancy and bed.occupancy.status is Occupancy.OCCUPIED)


def field_of(event: Event, oracle: Oracle) -> int:
    return 3 if event.location == place(oracle, 3) else 6


def place(oracle: Oracle, field: int, segment: str = "PV1") -> Place | None:
    found = Place(*(oracle.at(segment, field, n) for n in (4, 7, 8, 1, 2, 3)))
    return found if found != Place() else None


def required(message: Message | None) -> Message:
    assert message is not None
    return message
