"""Files of FHIR resources: each line is mapped as a subscription's resource is, or broken with line, element, rule and remedy."""

import io
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import pytest

from pipeline.domain.event import Bed, Encounter, EncounterStatus, EntityType, EventType, Occupancy, Reference
from pipeline.domain.identifiers import Millis
from pipeline.formats.fhir.codec import encode
from pipeline.formats.fhir.owned import Body
from pipeline.formats.fhir.samples import SAMPLES
from pipeline.formats.files import resources
from pipeline.formats.files.profile import FileProfile, profile_of
from pipeline.formats.files.reading import Made, Tally, format_of, make, tally
from pipeline.formats.files.resources import Ehr
from pipeline.formats.files.rows import MAX_RECORD_BYTES, Format, Origin, chunks
from pipeline.roles.ways_in.intake import hl7_profile
from tests.support.fhir_resources import (
    ICU_12_A,
    KEY,
    OWNER,
    PEOPLE,
    STAYS,
    UPDATED,
    UPDATED_MS,
    appointment,
    encounter,
    events,
    location,
    patient,
    transfer_task,
    unmarked,
    written,
)
from tests.support.files_desk import PROFILES, ehr

ORIGIN: Final = Origin("demo", "ehr", "ab" * 32, Millis(UPDATED_MS + 60_000), Millis(UPDATED_MS + 90_000))
RESOURCES_PER_CPU_S: Final = 2_500
"""A floor for a slow machine; a patient, a stay and a bed in turns."""


def profile(**said: Any) -> FileProfile:
    return msgspec.structs.replace(profile_of((PROFILES / "fhir-resources.yaml").read_bytes()), **said)


def form(**said: Any) -> Format:
    return format_of(profile(**said), "MAIN", hl7_profile, lambda _: Ehr(OWNER, KEY))


def lines(*bodies: Body) -> bytes:
    return b"".join(encode(body) + b"\n" for body in bodies)


def read(data: bytes, origin: Origin = ORIGIN, reader: Format | None = None) -> Made:
    reader, whole = reader or form(), Made([], [], 0)
    for chunk in chunks(reader, io.BytesIO(data)):
        made = make(reader, chunk.entries, origin)
        whole.events += made.events
        whole.rejects += made.rejects
        whole.landed += made.landed
    counted = tally(reader, io.BytesIO(data), origin)
    assert counted == Tally(whole.landed + len(whole.rejects), len(whole.rejects)), "what is counted is what is landed"
    return whole


@pytest.mark.parametrize("body", [location(), encounter(), patient(), unmarked(transfer_task())])
def test_a_line_says_what_the_same_resource_says_when_a_subscription_brings_it(body: Body) -> None:
    made = read(lines(body))
    assert made.rejects == []
    assert [(e.key, e.payload, e.recorded_at) for e in made.events] == [(e.key, e.payload, e.recorded_at) for e in events(body)]
    assert {e.event_type for e in made.events} <= {EventType.SNAPSHOT}
    assert {(e.source_system, e.feed, e.received_at) for e in made.events} <= {("ehr", "fhir-files", ORIGIN.received_at)}
    assert {e.audit_context for e in made.events} <= {f"file {ORIGIN.sha256[:32]}/1"}


def test_each_type_that_is_mapped_is_read_by_the_shipped_profile() -> None:
    reader = format_of(profile(), "MAIN", hl7_profile, ehr)
    made = read(lines(patient(), location(), encounter(), unmarked(transfer_task()), appointment()), reader=reader)
    assert made.rejects == []
    assert {event.entity_type.value for event in made.events} == {"patient", "bed", "encounter", "transfer", "procedure"}


def test_each_event_of_a_line_has_an_id_of_its_own_that_follows_from_source_content_and_row() -> None:
    data = lines(patient(), encounter())
    ids = [event.event_id for event in read(data).events]
    assert len(ids) == len(set(ids)) == 3, "a person, a stay and its bed"
    assert [event.event_id for event in read(data).events] == ids
    again = Origin("demo", "ehr", "cd" * 32, ORIGIN.created_at, ORIGIN.received_at)
    assert not set(ids) & {event.event_id for event in read(data, again).events}


def test_a_resource_without_a_time_is_known_by_the_file_s_too_and_one_that_has_it_is_not() -> None:
    bare = {name: value for name, value in encounter().items() if name != "meta"}
    later = Origin("demo", "ehr", ORIGIN.sha256, Millis(ORIGIN.created_at + 900_000), ORIGIN.received_at)
    known = [[event.event_id for event in read(lines(encounter(), bare), origin).events] for origin in (ORIGIN, later)]
    assert len(known[0]) == len(known[1]) == 4, "a stay and its bed, twice"
    assert known[0][:2] == known[1][:2]
    assert not set(known[0][2:]) & set(known[1][2:])


def test_a_snapshot_is_as_old_as_the_resource_and_never_younger_than_the_file() -> None:
    early = Origin("demo", "ehr", "ab" * 32, Millis(UPDATED_MS - 5_000), ORIGIN.received_at)
    assert {event.recorded_at for event in read(lines(encounter())).events} == {UPDATED_MS}
    assert {event.recorded_at for event in read(lines(encounter()), early).events} == {early.created_at}
    undated = {**encounter(), "meta": {"versionId": "3"}}
    bare = {name: value for name, value in encounter().items() if name != "meta"}
    assert {event.recorded_at for event in read(lines(undated, bare)).events} == {ORIGIN.created_at}


@pytest.mark.parametrize("entity_type", [each for each in OWNER.resources if each in SAMPLES])
def test_our_own_word_in_an_export_makes_no_event(entity_type: EntityType) -> None:
    made = read(lines(written(OWNER, entity_type, SAMPLES[entity_type])))
    assert (made.events, made.rejects, made.landed) == ([], [], 1)


def test_what_says_nothing_here_is_passed_over_and_counts() -> None:
    made = read(lines({"resourceType": "Observation", "id": "1", "status": "final"}, location(mode="kind"), encounter()))
    assert (made.landed, made.rejects) == (3, [])
    assert len(made.events) == 2


LITERAL: Final = {
    "subject": {"reference": "Patient/p1"},
    "location": [{"location": {"reference": "Location/b1"}, "status": "active"}],
}


def test_a_reference_is_known_from_an_earlier_line_and_not_from_a_later_one() -> None:
    person, bed, stay = patient() | {"id": "p1"}, location() | {"id": "b1"}, encounter(**LITERAL)
    made = read(lines(person, bed, stay))
    assert made.rejects == []
    of_stay = [event.payload for event in made.events if isinstance(event.payload, Encounter)]
    assert [(each.patient, each.location) for each in of_stay] == [(Reference("MAIN", "P1"), ICU_12_A)]
    before = read(lines(stay, person, bed))
    (reject,) = before.rejects
    assert (reject.entry.line, reject.bad.field) == (1, "Encounter.location[0].location")
    assert reject.bad.rule.startswith("UNRESOLVED")
    assert "identifier" in reject.bad.remedy


def test_what_a_line_refers_to_is_the_same_when_landing_goes_on_amid_the_file() -> None:
    data = lines(patient() | {"id": "p1"}, location() | {"id": "b1"}, encounter(**LITERAL))
    (rest,) = chunks(form(), io.BytesIO(data), 2)
    assert [e.event_id for e in make(form(), rest.entries, ORIGIN).events] == [
        e.event_id for e in read(data).events if (e.audit_context or "").endswith("/3")
    ]


def test_only_so_many_earlier_lines_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "MAX_KNOWN", 1)
    made = read(lines(location() | {"id": "b1"}, patient() | {"id": "p1"}, encounter(**LITERAL)))
    assert [reject.entry.number for reject in made.rejects] == [3]


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (b"{", None),
        (b'["Patient"]', None),
        (b'{"a": \xff}', None),
        (b"{}", "resourceType"),
        (b"[" * 5_000, None),
        (b'{"resourceType":"Patient","x":"' + b"x" * MAX_RECORD_BYTES + b'"}', None),
        (encode(encounter(status="no such status")), "Encounter.status"),
        (encode(encounter(identifier=[])), "Encounter.identifier"),
        (encode(encounter(subject={"reference": "Patient/CANARY"})), "Encounter.subject"),
        (encode(encounter() | {"meta": "CANARY"}), "Encounter.meta"),
        (encode(encounter() | {"meta": {"lastUpdated": "CANARY"}}), "Encounter.meta.lastUpdated"),
        (encode(location(identifier=[{"system": STAYS, "value": "CANARY"}], extension="CANARY")), None),
    ],
)
def test_a_broken_line_names_line_element_rule_and_remedy_and_the_rest_goes_on(line: bytes, field: str | None) -> None:
    made = read(b"\xef\xbb\xbf" + lines(encounter()) + b"\r\n" + line + b"\r\n" + lines(patient()))
    assert len(made.events) == 3
    if not made.rejects:
        assert made.landed == 3, "a place that is no bed of ours says nothing"
        return
    (reject,) = made.rejects
    assert (reject.entry.number, reject.entry.line, reject.bad.field) == (2, 3, field)
    assert reject.bad.rule
    assert reject.bad.remedy
    assert "CANARY" not in repr(reject) + repr(reject.bad) + repr(reject.entry.said)


def test_a_corrected_line_lands_under_the_identity_of_the_row_that_was_broken() -> None:
    broken = lines(patient(), encounter(status="no such status"))
    (reject,) = read(broken).rejects
    (entry,) = form().entries(io.BytesIO(lines(encounter())))
    entry.number = reject.entry.number
    corrected = form().events(entry, ORIGIN)
    whole = read(lines(patient(), encounter())).events
    assert isinstance(corrected, tuple)
    assert [each.event_id for each in corrected] == [each.event_id for each in whole[1:]]


def test_a_stay_that_is_over_leaves_its_bed_and_is_still_a_snapshot() -> None:
    over = encounter(status="finished", period={"start": "2026-01-30T20:00:00Z", "end": UPDATED}, location=[])
    stay = read(lines(over)).events[0]
    assert isinstance(stay.payload, Encounter)
    assert (stay.payload.status, stay.event_type) == (EncounterStatus.FINISHED, EventType.SNAPSHOT)
    beds = [event.payload for event in read(lines(encounter())).events if isinstance(event.payload, Bed)]
    assert [bed.occupancy.status for bed in beds] == [Occupancy.OCCUPIED]  # type: ignore[union-attr]


def test_a_profile_of_resources_names_its_server_and_no_event_of_ours() -> None:
    text = (PROFILES / "fhir-resources.yaml").read_text()
    for wrong in (text.replace("ehr_profile: hapi-owner\n", ""), text + "event_type: REASSERT\n", text + "fhir_version: R3\n"):
        with pytest.raises(msgspec.ValidationError):
            profile_of(wrong.replace("fhir_version: R4\n", "") if "R3" in wrong else wrong)


def ward(count: int) -> Iterator[bytes]:
    """So many lines: a person, their stay, a bed, in turns."""
    for number in range(count // 3):
        yield encode(patient(identifier=[{"system": PEOPLE, "value": f"MAIN/P{number}"}]) | {"id": f"p{number}"}) + b"\n"
        stay = encounter(identifier=[{"system": STAYS, "value": f"MAIN/V{number}"}], subject={"reference": f"Patient/p{number}"})
        yield encode(stay) + b"\n"
        yield encode(location()) + b"\n"


def test_resources_are_read_and_mapped_at_a_rate_of_one_processor() -> None:
    data, best, rows = b"".join(ward(1_500)), 0.0, 1_500
    for _ in range(5):
        begun = time.process_time()
        assert tally(form(), io.BytesIO(data), ORIGIN) == Tally(rows, 0)
        best = max(best, rows / (time.process_time() - begun))
        if best >= RESOURCES_PER_CPU_S:
            return
    pytest.fail(f"{best:.0f} resources a second of processor time")


def test_what_is_known_of_earlier_lines_is_bounded_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "MAX_KNOWN", 200)
    data = b"".join(ward(3_000))
    tally(form(), io.BytesIO(data[:2_000]), ORIGIN)
    tracemalloc.start()
    try:
        for _ in form().entries(io.BytesIO(data)):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000
