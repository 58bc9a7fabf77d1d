"""FHIR in: what each resource of an EHR says, what is our own word come back, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from pipeline.domain.event import (
    Bed,
    BedOccupancy,
    Encounter,
    EncounterStatus,
    EntityType,
    Environment,
    Occupancy,
    Patient,
    SequenceBasis,
    Service,
    ServiceStatus,
    Sex,
    content_hash_of,
)
from pipeline.formats.fhir.codec import decode
from pipeline.formats.fhir.inbound import (
    MAPPED_TYPES,
    Ignored,
    IgnoredBecause,
    Mapped,
    Origin,
    RejectedBecause,
    events_of,
)
from pipeline.formats.fhir.inbound_document import render
from pipeline.formats.fhir.owned import Body
from pipeline.formats.fhir.profile import ResourceProfile
from pipeline.formats.fhir.samples import SAMPLES
from pipeline.formats.fhir.terms import OURS
from tests.support.fhir_resources import (
    ACT_CODE,
    ICU_12_A,
    ORIGIN,
    OWNER,
    PEOPLE,
    PLACES,
    RECEIVED_MS,
    REPLICA,
    STAYS,
    UPDATED_MS,
    appointment,
    at_bed,
    coded,
    encounter,
    events,
    first,
    location,
    only,
    patient,
    read,
    refusal,
    stored,
    transfer_task,
    written,
)

# -- our own word come back, and what was changed since


@pytest.mark.parametrize("entity_type", [t for t in OWNER.resources if t in SAMPLES])
def test_at_the_owner_an_echo_makes_no_event(entity_type: EntityType) -> None:
    verdict = read(written(OWNER, entity_type, SAMPLES[entity_type]))
    assert isinstance(verdict, Ignored)
    assert verdict.reason is IgnoredBecause.ECHO


@pytest.mark.parametrize("entity_type", [t for t in REPLICA.resources if t in SAMPLES])
def test_at_a_replica_an_echo_makes_no_event(entity_type: EntityType) -> None:
    verdict = read(written(REPLICA, entity_type, SAMPLES[entity_type]), REPLICA)
    assert isinstance(verdict, Ignored)
    assert verdict.reason is IgnoredBecause.ECHO


def test_a_clinician_s_edit_under_our_mark_enters_as_that_field_alone() -> None:
    body = written(REPLICA, EntityType.PATIENT, SAMPLES[EntityType.PATIENT]) | {"gender": "male"}
    assert first(body, REPLICA) == Patient(sex=Sex.MALE)


def test_an_edited_bed_status_enters_as_its_own_dimension() -> None:
    bed = Bed(occupancy=BedOccupancy(Occupancy.VACANT), environment=Environment.CLEAN)
    body = written(OWNER, EntityType.BED, bed) | {"operationalStatus": coded("H")}
    assert first(body) == Bed(environment=Environment.DIRTY)


def test_an_edited_extension_enters_and_one_that_was_taken_away_is_cleared() -> None:
    bed = Bed(environment=Environment.CLEAN, staffed=True)
    body = written(OWNER, EntityType.BED, bed)
    body["extension"] = [
        {**each, "valueCode": "DIRTY"} if each["url"] == OURS + "bed-environment" else each
        for each in body["extension"]
        if each["url"] != OURS + "bed-staffed"
    ]
    assert first(body) == Bed(environment=Environment.DIRTY, staffed=None)


def test_a_status_of_the_ehr_s_own_enters_beside_our_mark_where_it_contradicts_us() -> None:
    body = written(OWNER, EntityType.BED, Bed(environment=Environment.CLEAN)) | {"status": "suspended"}
    assert first(body) == Bed(service=Service(ServiceStatus.BLOCKED))


def owner_s_bed(**elements: Any) -> Body:
    """A bed of the EHR's own, with its place and status, into which we wrote what an owner may be told."""
    body = written(OWNER, EntityType.BED, Bed(environment=Environment.CLEAN))
    around = {"type": "Location", "identifier": {"system": PLACES, "value": "si:MAIN/wa:ICU/ro:12"}}
    return body | {"status": "active", "partOf": around} | elements


def test_an_owner_s_own_status_and_place_beside_our_mark_are_no_news_while_they_agree() -> None:
    verdict = read(owner_s_bed())
    assert isinstance(verdict, Ignored)
    assert verdict.reason is IgnoredBecause.ECHO


def test_an_owner_s_bed_that_was_moved_tells_its_new_place() -> None:
    around = {"type": "Location", "identifier": {"system": PLACES, "value": "si:MAIN/wa:MED/ro:12"}}
    assert first(owner_s_bed(partOf=around)) == Bed(place=replace(ICU_12_A, point_of_care="MED"))


def test_a_reservation_that_the_ehr_took_away_is_cleared() -> None:
    fields = dict(OWNER.resources)
    fields[EntityType.ENCOUNTER] = ResourceProfile(STAYS, ("pending_location",))
    profile = replace(OWNER, resources=fields, references={EntityType.PATIENT: OWNER.references[EntityType.PATIENT]})
    body = written(profile, EntityType.ENCOUNTER, Encounter(pending_location=ICU_12_A), "V1")
    assert body["location"]
    gone = body | {"location": []}
    assert first(gone, profile).pending_location is None


def test_at_the_owner_a_stay_with_our_reservation_still_tells_what_the_ehr_says() -> None:
    fields = dict(OWNER.resources)
    fields[EntityType.ENCOUNTER] = ResourceProfile(STAYS, ("pending_location",))
    profile = replace(OWNER, resources=fields, references={EntityType.PATIENT: OWNER.references[EntityType.PATIENT]})
    body = written(profile, EntityType.ENCOUNTER, Encounter(pending_location=ICU_12_A), "V1") | {"status": "in-progress"}
    stay = first(body, profile)
    assert stay.status is EncounterStatus.IN_PROGRESS
    assert stay.pending_location is UNSET


def test_another_key_takes_nothing_for_an_echo() -> None:
    body = written(OWNER, EntityType.BED, Bed(environment=Environment.CLEAN))
    assert isinstance(events_of(body, ORIGIN, OWNER, b"another key of the tests", RECEIVED_MS), Mapped)


def test_a_resource_with_two_marks_is_read_as_one_without() -> None:
    body = written(OWNER, EntityType.BED, Bed(environment=Environment.CLEAN))
    body["extension"] = body["extension"] + [each for each in body["extension"] if each["url"] == OURS + "revision"]
    assert first(body).environment is Environment.CLEAN


# -- identity, order, common part


def test_the_common_part_says_where_it_comes_from_and_when_it_was_recorded() -> None:
    event = only(patient())
    assert (event.tenant, event.facility, event.source_system, event.feed) == ("demo", "MAIN", "ehr", "fhir")
    assert (event.entity_type, event.namespace, event.entity_id) == (EntityType.PATIENT, "MAIN", "P1")
    assert (event.recorded_at, event.received_at) == (UPDATED_MS, RECEIVED_MS)
    assert (event.sequence, event.sequence_basis) == (None, SequenceBasis.RECORDED_TIME)
    assert event.content_hash == content_hash_of(event)


def test_one_version_always_makes_the_same_ids_and_another_version_others() -> None:
    once, again, later = events(encounter()), events(encounter()), events(stored(encounter(), "4"))
    assert [e.event_id for e in once] == [e.event_id for e in again]
    assert {e.event_id for e in once}.isdisjoint(e.event_id for e in later)
    assert len({e.event_id for e in once}) == len(once)


def test_two_feeds_of_one_server_make_the_same_ids() -> None:
    other = Origin("demo", "MAIN", "ehr", "another feed")
    assert only(patient()).event_id == only(patient(), origin=other).event_id
    assert only(patient()).event_id != only(patient(), origin=Origin("demo", "MAIN", "ehr2", "fhir")).event_id


def test_without_a_version_the_content_names_the_resource() -> None:
    body = patient()
    del body["meta"]["versionId"]
    other = body | {"gender": "male"}
    assert only(body).event_id == only(dict(reversed(body.items()))).event_id
    assert only(body).event_id != only(other).event_id


def test_without_a_time_of_update_it_is_refused() -> None:
    body = patient()
    body["meta"] = {"versionId": "1"}
    assert refusal(body).field == "Patient.meta.lastUpdated"


@pytest.mark.parametrize(
    "identifiers",
    [
        None,
        [],
        [{"system": "http://ehr.example/mrn", "value": "P1"}],
        [{"value": "MAIN/P1"}],
        [{"system": PEOPLE, "value": "MAIN/P1"}, {"system": PEOPLE, "value": "MAIN/P2"}],
    ],
)
def test_none_or_two_names_are_refused_and_never_guessed(identifiers: Any) -> None:
    found = refusal(patient(identifier=identifiers))
    assert (found.reason, found.field) == (RejectedBecause.AMBIGUOUS_IDENTITY, "Patient.identifier")


@pytest.mark.parametrize("value", ["P1", "MAIN/", "/P1", "MA%49N/P1", "MA%ZZN/P1", "MA IN/P1", "MAIN/P\n1", "MAIN/" + "x" * 300])
def test_a_name_that_is_not_as_we_write_it_is_refused(value: str) -> None:
    assert refusal(patient(identifier=[{"system": PEOPLE, "value": value}])).field == "Patient.identifier"


def test_an_authority_of_the_ehr_s_own_names_by_the_bare_value() -> None:
    references = dict(OWNER.references)
    references[EntityType.PATIENT] = replace(references[EntityType.PATIENT], authorities={"MRN": "http://ehr.example/mrn"})
    profile = replace(OWNER, references=references)
    event = only(patient(identifier=[{"system": "http://ehr.example/mrn", "value": "P/7"}]), profile)
    assert (event.namespace, event.entity_id) == ("MRN", "P/7")


def test_a_namespace_with_signs_comes_back_as_it_was() -> None:
    event = only(patient(identifier=[{"system": PEOPLE, "value": "S%C3%BCd%2FOst/P1"}]))
    assert event.namespace == "Süd/Ost"


# -- what is refused, with its place


@pytest.mark.parametrize(
    ("body", "reason", "field"),
    [
        (encounter(status="bogus"), RejectedBecause.UNKNOWN_CODE, "Encounter.status"),
        (encounter(status=7), RejectedBecause.WRONG_TYPE, "Encounter.status"),
        (encounter(status=None), RejectedBecause.MISSING_ELEMENT, "Encounter.status"),
        (encounter(**{"class": {"system": ACT_CODE, "code": "XYZ"}}), RejectedBecause.UNKNOWN_CODE, "Encounter.class.code"),
        (encounter(subject={"reference": "Practitioner/1"}), RejectedBecause.WRONG_TARGET, "Encounter.subject"),
        (encounter(subject="Patient/1"), RejectedBecause.WRONG_TYPE, "Encounter.subject"),
        (encounter(period={"start": "2026-02-31T00:00:00Z"}), RejectedBecause.BAD_VALUE, "Encounter.period.start"),
        (encounter(period={"start": "yesterday"}), RejectedBecause.BAD_VALUE, "Encounter.period.start"),
        (
            encounter(period={"start": "2026-01-31T00:00:00Z", "end": "2026-01-30T00:00:00Z"}),
            RejectedBecause.CONTRADICTION,
            "Encounter.period",
        ),
        (encounter(location={}), RejectedBecause.WRONG_TYPE, "Encounter.location"),
        (encounter(location=[{}]), RejectedBecause.MISSING_ELEMENT, "Encounter.location[0].location"),
        (
            encounter(location=[{"location": at_bed(), "status": "here"}]),
            RejectedBecause.UNKNOWN_CODE,
            "Encounter.location[0].status",
        ),
        (
            encounter(location=[{"location": {"reference": "Patient/1"}}]),
            RejectedBecause.WRONG_TARGET,
            "Encounter.location[0].location",
        ),
        (encounter(location=[{"location": at_bed()}] * 300), RejectedBecause.TOO_MANY, "Encounter.location"),
        (location(operationalStatus=coded("X")), RejectedBecause.UNKNOWN_CODE, "Location.operationalStatus.code"),
        (location(operationalStatus=["O"]), RejectedBecause.WRONG_TYPE, "Location.operationalStatus"),
        (location(status="open"), RejectedBecause.UNKNOWN_CODE, "Location.status"),
        (patient(gender="f"), RejectedBecause.UNKNOWN_CODE, "Patient.gender"),
        (patient(birthDate="1970-02-30"), RejectedBecause.BAD_VALUE, "Patient.birthDate"),
        (patient(birthDate="31.01.1970"), RejectedBecause.BAD_VALUE, "Patient.birthDate"),
        (patient(name="FAMILY"), RejectedBecause.WRONG_TYPE, "Patient.name"),
        (patient(name=[{"use": "official", "given": "GIVEN"}]), RejectedBecause.WRONG_TYPE, "Patient.name[0].given"),
        (patient(deceasedBoolean="yes"), RejectedBecause.WRONG_TYPE, "Patient.deceasedBoolean"),
        (patient(deceasedBoolean=False, deceasedDateTime="2026-01-30"), RejectedBecause.CONTRADICTION, "Patient.deceased"),
        (patient(link=[{"type": "replaced-by"}]), RejectedBecause.MISSING_ELEMENT, "Patient.link[0].other"),
        (patient() | {"meta": "1"}, RejectedBecause.WRONG_TYPE, "Patient.meta"),
        (patient() | {"meta": {"lastUpdated": "2026-01-31"}}, RejectedBecause.BAD_VALUE, "Patient.meta.lastUpdated"),
        (transfer_task() | {"status": "asked"}, RejectedBecause.UNKNOWN_CODE, "Task.status"),
        ({}, RejectedBecause.NOT_A_RESOURCE, "resourceType"),
        ({"resourceType": "not a type"}, RejectedBecause.NOT_A_RESOURCE, "resourceType"),
        ([], RejectedBecause.NOT_A_RESOURCE, "resourceType"),
    ],
)
def test_a_broken_resource_is_refused_with_its_place_and_without_its_value(
    body: Any, reason: RejectedBecause, field: str
) -> None:
    found = refusal(body)
    assert (found.reason, found.field) == (reason, field)


def test_a_bogus_appointment_is_refused() -> None:
    assert refusal(appointment(status="maybe"), REPLICA).field == "Appointment.status"
    assert (
        refusal(appointment(participant=[{"actor": {"reference": "Encounter/1"}}]), REPLICA).reason
        is RejectedBecause.WRONG_TARGET
    )
    assert refusal(appointment(end="2026-02-01T07:00:00Z"), REPLICA).reason is RejectedBecause.CONTRADICTION


def test_other_resources_are_ignored_by_name() -> None:
    assert read(stored({"resourceType": "Observation"})) == Ignored(IgnoredBecause.NOT_MAPPED, "Observation")


def test_a_bare_date_is_no_moment() -> None:
    verdict = read(encounter(period={"start": "2026-01-30"}))
    assert isinstance(verdict, Mapped)
    assert verdict.events[0].payload.admitted_at is UNSET
    assert verdict.unread == ("Encounter.period.start",)


# -- the standard's own examples


def test_no_example_of_the_standard_is_an_exception(shared_data: Path) -> None:
    found: dict[str, int] = {}
    for file in sorted((shared_data / "fhir").rglob("*.json")):
        body = decode(file.read_bytes().removeprefix(b"\xef\xbb\xbf"))
        if body is None:
            continue
        inside = [entry.get("resource") for entry in body.get("entry", []) if isinstance(entry, dict)]
        for resource in [body, *inside]:
            for version in ("R4", "R4B", "R5"):
                timed = {**resource, "meta": {"lastUpdated": "2026-01-31T08:00:00Z"}} if isinstance(resource, dict) else resource
                verdict = read(timed, REPLICA, origin=Origin("demo", "MAIN", "ehr", "fhir", version))  # type: ignore[arg-type]
                found[type(verdict).__name__] = found.get(type(verdict).__name__, 0) + 1
    assert found["Ignored"] > 100
    assert found["Rejected"] > 20


def test_each_mapped_type_is_read() -> None:
    assert set(MAPPED_TYPES) == {"Location", "Encounter", "Patient", "Task", "Appointment"}


def test_the_page_says_what_the_code_does() -> None:
    page = Path(__file__).parents[3] / "docs/mapping/fhir-in.md"
    command = "run: python -m pipeline.formats.fhir.inbound_document > docs/mapping/fhir-in.md"
    assert page.read_text(encoding="utf-8") == render(), command
