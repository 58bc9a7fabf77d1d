"""FHIR in: what each type of resource says."""

import json

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from pipeline.domain.event import (
    Allocation,
    AllocationStatus,
    Bed,
    BedOccupancy,
    Encounter,
    EncounterStatus,
    EntityType,
    Environment,
    EventType,
    Name,
    Occupancy,
    PatientClass,
    Place,
    Procedure,
    ProcedureStatus,
    Reference,
    Service,
    ServiceStatus,
    Sex,
    TransferKind,
    TransferStage,
)
from pipeline.formats.fhir.inbound import (
    Ignored,
    IgnoredBecause,
    Mapped,
    Origin,
    RejectedBecause,
    needed,
)
from pipeline.formats.fhir.owned import Body
from pipeline.formats.fhir.profile import StatusMap
from pipeline.formats.fhir.terms import OURS, TASK_CODE
from pipeline.formats.rfc3339 import millis_of
from tests.support.fhir_resources import (
    ACT_CODE,
    BED_ID,
    ICU_12_A,
    ORIGIN,
    OWNER,
    PEOPLE,
    PLACES,
    REPLICA,
    STAY,
    UPDATED_MS,
    appointment,
    at_bed,
    bed_identifier,
    beds_of,
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
    unmarked,
    written,
)

# -- Location


def test_the_codes_of_table_0116_state_their_own_dimension() -> None:
    said = {code: first(location(operationalStatus=coded(code))) for code in "CHOUKI"}
    assert said["C"].service == Service(ServiceStatus.CLOSED)
    assert said["H"].environment is Environment.DIRTY
    assert said["O"].occupancy == BedOccupancy(Occupancy.OCCUPIED)
    assert said["U"].occupancy == BedOccupancy(Occupancy.VACANT)
    assert said["K"].environment is Environment.CONTAMINATED
    assert said["I"].isolation is True
    assert all(bed.environment is UNSET for code, bed in said.items() if code not in "HK")


def test_a_bed_s_event_names_the_bed_and_where_it_stands() -> None:
    event = only(location(operationalStatus=coded("H")))
    assert (event.entity_id, event.location, event.event_type) == (BED_ID, ICU_12_A, EventType.BED_STATUS)


def test_a_bed_s_place_comes_with_its_part_of() -> None:
    around = {"type": "Location", "identifier": {"system": PLACES, "value": "si:MAIN/bu:B1/wa:ICU/ro:12"}}
    assert first(location(partOf=around)).place == replace(ICU_12_A, building="B1")


@pytest.mark.parametrize(
    "elements",
    [
        {"physicalType": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/location-physical-type", "code": "wa"}]}},
        {"mode": "kind"},
        {"identifier": [{"system": "http://ehr.example/loc", "value": "7"}]},
    ],
)
def test_a_location_that_is_no_bed_is_ignored(elements: Body) -> None:
    verdict = read(location(**elements))
    assert verdict == Ignored(IgnoredBecause.NOT_A_BED, "Location")


def test_a_bed_without_a_name_of_ours_is_refused() -> None:
    body = location(identifier=[{"system": "http://ehr.example/loc", "value": "7"}], operationalStatus=coded("O"))
    assert refusal(body).reason is RejectedBecause.AMBIGUOUS_IDENTITY


def test_a_bed_whose_name_has_other_parts_is_refused() -> None:
    assert refusal(location(identifier=[bed_identifier("MAIN/12A")])).reason is RejectedBecause.BAD_VALUE


def test_an_ehr_s_own_code_is_read_backwards_through_its_profile() -> None:
    resources = dict(OWNER.resources)
    own = StatusMap(codes={"H": "dirty", "U": "free"}, system="http://ehr.example/bed-status")
    resources[EntityType.BED] = replace(resources[EntityType.BED], statuses={"operational_status": own})
    profile = replace(OWNER, resources=resources)
    theirs = {"system": "http://ehr.example/bed-status", "code": "dirty"}
    assert first(location(operationalStatus=theirs), profile).environment is Environment.DIRTY


def test_extensions_of_ours_on_an_unmarked_bed_are_read() -> None:
    bed = Bed(
        occupancy=BedOccupancy(Occupancy.OCCUPIED, STAY),
        environment=Environment.CLEANING,
        allocation=Allocation(AllocationStatus.RESERVED, STAY, UPDATED_MS),
        service=Service(ServiceStatus.BLOCKED, "BROKEN", UPDATED_MS),
        staffed=False,
        level_of_care="ICU",
    )
    body = written(OWNER, EntityType.BED, bed)
    body["extension"] = [each for each in body["extension"] if each["url"] != OURS + "revision"]
    assert first(body) == bed


# -- Encounter


def test_a_stay_tells_who_and_where_and_its_bed_is_occupied_by_it() -> None:
    stay, bed = events(encounter())
    assert stay.payload == Encounter(
        patient=Reference("MAIN", "P1"),
        patient_class=PatientClass.INPATIENT,
        status=EncounterStatus.IN_PROGRESS,
        location=ICU_12_A,
        temporary_location=None,
        admitted_at=millis_of("2026-01-30T20:00:00Z"),
        discharged_at=None,
        disposition=None,
    )
    assert bed.payload == Bed(occupancy=BedOccupancy(Occupancy.OCCUPIED, STAY))
    assert (bed.entity_id, bed.location) == (BED_ID, ICU_12_A)


def test_a_move_vacates_the_bed_left_before_it_occupies_the_next() -> None:
    left = {"location": at_bed("MAIN/ED/1/B"), "status": "completed", "period": {"end": "2026-01-31T07:55:00Z"}}
    found = events(encounter(location=[left, {"location": at_bed(), "status": "active"}]))
    assert beds_of(found) == [("ED/1/B", Occupancy.VACANT), (BED_ID, Occupancy.OCCUPIED)]
    assert found[0].payload.prior_location == Place(facility="MAIN", point_of_care="ED", room="1", bed="B")


def test_a_bed_left_long_ago_is_not_vacated_again_unless_it_was_the_last() -> None:
    old = {"location": at_bed("MAIN/ED/1/B"), "status": "completed", "period": {"end": "2026-01-20T07:55:00Z"}}
    newer = {"location": at_bed("MAIN/ED/2/C"), "status": "completed", "period": {"end": "2026-01-22T07:55:00Z"}}
    found = events(encounter(location=[newer, old, {"location": at_bed(), "status": "active"}]))
    assert beds_of(found) == [("ED/2/C", Occupancy.VACANT), (BED_ID, Occupancy.OCCUPIED)]


def test_a_bed_that_the_patient_came_back_to_is_not_vacated() -> None:
    was = {"location": at_bed(), "status": "completed", "period": {"end": "2026-01-31T07:00:00Z"}}
    found = events(encounter(location=[was, {"location": at_bed(), "status": "active"}]))
    assert beds_of(found) == [(BED_ID, Occupancy.OCCUPIED)]


@pytest.mark.parametrize("status", ["active", "completed"])
def test_a_discharge_ends_the_occupancy_of_the_last_bed(status: str) -> None:
    body = encounter(
        status="finished",
        location=[{"location": at_bed(), "status": status}],
        period={"start": "2026-01-30T20:00:00Z", "end": "2026-01-31T07:59:00Z"},
    )
    stay, bed = events(body)
    assert (stay.payload.status, stay.payload.discharged_at) == (EncounterStatus.FINISHED, millis_of("2026-01-31T07:59:00Z"))
    assert stay.payload.location is UNSET
    assert stay.event_type is bed.event_type is EventType.DISCHARGE
    assert bed.payload == Bed(occupancy=BedOccupancy(Occupancy.VACANT, STAY))


def test_a_discharge_that_was_taken_back_clears_its_time() -> None:
    stay = first(encounter())
    assert (stay.discharged_at, stay.disposition) == (None, None)


def test_an_admission_in_error_vacates_its_bed() -> None:
    found = events(encounter(status="entered-in-error"))
    assert found[0].event_type is EventType.CANCEL_ADMIT
    assert beds_of(found) == [(BED_ID, Occupancy.VACANT)]


def test_a_reservation_is_pending_and_occupies_nothing() -> None:
    promised = {"location": at_bed("MAIN/MED/3/C"), "status": "reserved"}
    found = events(encounter(location=[{"location": at_bed(), "status": "active"}, promised]))
    assert found[0].payload.pending_location == Place(facility="MAIN", point_of_care="MED", room="3", bed="C")
    assert beds_of(found) == [(BED_ID, Occupancy.OCCUPIED)]


def test_a_stay_that_has_not_begun_occupies_nothing() -> None:
    body = encounter(status="planned", location=[{"location": at_bed(), "status": "planned"}])
    (stay,) = events(body)
    assert stay.payload.location == ICU_12_A


def test_a_temporary_place_is_told_apart() -> None:
    mark = {"url": "http://hl7.org/fhir/StructureDefinition/subject-locationClassification", "valueCodeableConcept": {}}
    away = {"location": at_bed("MAIN/OR/1/T"), "status": "active", "extension": [mark]}
    stay = first(encounter(location=[{"location": at_bed(), "status": "active"}, away]))
    assert stay.location == ICU_12_A
    assert stay.temporary_location == Place(facility="MAIN", point_of_care="OR", room="1", bed="T")


def test_a_ward_beside_its_bed_is_no_second_place() -> None:
    ward = {"type": "Location", "identifier": {"system": PLACES, "value": "si:MAIN/wa:ICU"}}
    stay = first(encounter(location=[{"location": ward, "status": "active"}, {"location": at_bed(), "status": "active"}]))
    assert stay.location == ICU_12_A


def test_of_two_beds_the_one_begun_last_counts_and_without_times_none_is_guessed() -> None:
    two = [{"location": at_bed("MAIN/ED/1/B"), "status": "active"}, {"location": at_bed(), "status": "active"}]
    found = refusal(encounter(location=two))
    assert (found.reason, found.field) == (RejectedBecause.CONTRADICTION, "Encounter.location")
    two[0] |= {"period": {"start": "2026-01-31T01:00:00Z"}}
    two[1] |= {"period": {"start": "2026-01-31T02:00:00Z"}}
    assert first(encounter(location=two)).location == ICU_12_A


def test_literal_references_are_needed_first_and_then_resolved() -> None:
    body = encounter(
        subject={"reference": "Patient/p1"}, location=[{"location": {"reference": "http://ehr.example/fhir/Location/l1"}}]
    )
    assert needed(body, ORIGIN, OWNER) == ("Patient/p1", "Location/l1")
    assert refusal(body).reason is RejectedBecause.UNRESOLVED
    known = {"Patient/p1": patient(), "Location/l1": location()}
    assert needed(body, ORIGIN, OWNER, known) == ()
    stay, bed = events(body, known=known)
    assert (stay.payload.patient, stay.payload.location, bed.entity_id) == (Reference("MAIN", "P1"), ICU_12_A, BED_ID)


def test_references_by_our_identifiers_need_nothing() -> None:
    assert needed(encounter(), ORIGIN, OWNER) == ()


def test_a_contained_patient_is_found() -> None:
    inner = {name: value for name, value in patient().items() if name != "meta"} | {"id": "p"}
    assert first(encounter(contained=[inner], subject={"reference": "#p"})).patient == Reference("MAIN", "P1")


def test_a_place_left_that_nobody_knows_any_more_is_left_unsaid() -> None:
    was = {"location": {"reference": "Location/gone"}, "status": "completed"}
    verdict = read(encounter(location=[was, {"location": at_bed(), "status": "active"}]))
    assert isinstance(verdict, Mapped)
    assert verdict.unread == ("Encounter.location[0].location",)


def test_a_ward_that_nobody_knows_beside_a_known_bed_is_left_unsaid() -> None:
    ward = {"location": {"reference": "Location/ward"}, "status": "active"}
    verdict = read(encounter(location=[ward, {"location": at_bed(), "status": "active"}]))
    assert isinstance(verdict, Mapped)
    assert beds_of(verdict.events) == [(BED_ID, Occupancy.OCCUPIED)]
    assert verdict.unread == ("Encounter.location[0].location",)


def test_a_discharge_from_a_place_that_nobody_knows_is_a_discharge_all_the_same() -> None:
    where = {"location": {"reference": "Location/l9"}, "status": "active"}
    assert refusal(encounter(location=[where])).reason is RejectedBecause.UNRESOLVED
    (stay,) = events(encounter(status="finished", location=[where]))
    assert stay.payload.status is EncounterStatus.FINISHED


def test_a_promise_of_a_place_that_nobody_knows_is_left_unsaid() -> None:
    promised = {"location": {"reference": "Location/l9"}, "status": "reserved"}
    stay = first(encounter(location=[{"location": at_bed(), "status": "active"}, promised]))
    assert (stay.location, stay.pending_location) == (ICU_12_A, UNSET)


def test_a_stay_of_a_group_is_ignored() -> None:
    verdict = read(encounter(subject={"reference": "Group/g1"}))
    assert verdict == Ignored(IgnoredBecause.NOT_A_PERSON, "Encounter")


def test_a_stay_written_as_r5_says_the_same() -> None:
    body = encounter(
        status="discharged",
        actualPeriod={"start": "2026-01-30T20:00:00Z", "end": "2026-01-31T07:59:00Z"},
        admission={
            "dischargeDisposition": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0112", "code": "01"}]}
        },
        serviceType=[
            {"concept": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0069", "code": "MED"}]}},
        ],
    )
    body["class"] = [{"coding": [{"system": ACT_CODE, "code": "IMP"}]}]
    del body["period"]
    stay = first(body, origin=Origin("demo", "MAIN", "ehr", "fhir", "R5"))
    assert (stay.status, stay.patient_class) == (EncounterStatus.FINISHED, PatientClass.INPATIENT)
    assert (stay.disposition, stay.service) == ("01", "MED")
    assert stay.discharged_at == millis_of("2026-01-31T07:59:00Z")


def test_r5_status_is_no_r4_status() -> None:
    assert refusal(encounter(status="discharged")).reason is RejectedBecause.UNKNOWN_CODE


# -- Patient, Task, Appointment


def test_a_person_is_read() -> None:
    said = first(patient())
    assert said.name == Name("FAMILY", "GIVEN SECOND")
    assert (said.birth_date, said.sex) == ("1970-01-31", Sex.FEMALE)


def test_an_old_or_assumed_name_never_counts() -> None:
    names = [{"use": "old", "family": "OLD"}, {"use": "anonymous", "family": "ANON"}, {"use": "usual", "family": "USUAL"}]
    assert first(patient(name=names)).name == Name("USUAL")
    assert first(patient(name=names[:2])).name is UNSET


def test_a_merge_names_the_survivor() -> None:
    link = {"type": "replaced-by", "other": {"identifier": {"system": PEOPLE, "value": "MAIN/P2"}}}
    assert first(patient(link=[link])).merged_into == Reference("MAIN", "P2")
    assert first(patient(link=[link | {"type": "replaces"}])).merged_into is UNSET


def test_a_time_of_death_says_that_it_happened() -> None:
    assert first(patient(deceasedDateTime="2026-01-30")).deceased is True


def test_a_task_whose_status_somebody_changed_moves_the_stage() -> None:
    stage = first(transfer_task() | {"status": "rejected"}).stage
    assert stage.stage is TransferStage.DECLINED


def test_a_task_whose_stage_somebody_changed_is_at_that_stage() -> None:
    body = json.loads(json.dumps(transfer_task()))
    body["businessStatus"]["coding"][0]["code"] = "BED_REQUESTED"
    assert first(body).stage.stage is TransferStage.BED_REQUESTED


def test_a_task_that_somebody_declined_with_a_reason_is_declined_though_the_stage_stayed_as_it_was() -> None:
    stage = first(transfer_task() | {"status": "rejected", "statusReason": {"text": "NO_BED"}}).stage
    assert (stage.stage, stage.reason) == (TransferStage.DECLINED, "NO_BED")


def test_a_task_without_a_mark_is_read_whole() -> None:
    said = first(unmarked(transfer_task()))
    assert (said.kind, said.stage.stage) == (TransferKind.INCOMING, TransferStage.REQUESTED)
    assert (said.patient, said.destination) == (Reference("MAIN", "P1"), ICU_12_A)


def test_a_task_that_is_no_transfer_is_ignored() -> None:
    body = stored({"resourceType": "Task", "status": "requested", "intent": "order", "code": {"text": "Blood sample"}})
    assert read(body) == Ignored(IgnoredBecause.NOT_MAPPED, "Task")


def test_a_transfer_task_without_a_name_of_ours_is_refused() -> None:
    body = stored(
        {"resourceType": "Task", "status": "requested", "code": {"coding": [{"system": TASK_CODE, "code": "transfer"}]}}
    )
    assert refusal(body).reason is RejectedBecause.AMBIGUOUS_IDENTITY


def test_an_appointment_is_a_procedure() -> None:
    said = first(appointment(), REPLICA)
    assert said == Procedure(
        status=ProcedureStatus.BOOKED,
        start=millis_of("2026-02-01T08:00:00Z"),
        end=millis_of("2026-02-01T09:30:00Z"),
        place=ICU_12_A,
        patient=Reference("MAIN", "P1"),
        service="KNEE",
    )


def test_the_raw_status_counts_only_while_it_still_says_the_same() -> None:
    raw = {"url": OURS + "procedure-status", "valueCode": "OVERBOOK"}
    assert first(appointment(extension=[raw]), REPLICA).status is ProcedureStatus.OVERBOOK
    assert first(appointment(extension=[raw], status="noshow"), REPLICA).status is ProcedureStatus.NOSHOW
