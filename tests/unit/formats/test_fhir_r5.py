"""R5's form of what goes out and comes in: valid by the published models, and the same meaning as R4's, there and back."""

import json
from typing import Any

import pytest
from msgspec import structs

from pipeline.domain.event import (
    Bed,
    Encounter,
    EncounterStatus,
    EntityType,
    EventType,
    Occupancy,
    PatientClass,
    Payload,
    Place,
    Procedure,
    ProcedureStatus,
    Reference,
    StageState,
    Transfer,
    TransferStage,
)
from pipeline.domain.identifiers import Millis
from pipeline.formats.fhir import episode
from pipeline.formats.fhir.inbound import Ignored, IgnoredBecause, Origin, needed
from pipeline.formats.fhir.inbound_verdict import RejectedBecause
from pipeline.formats.fhir.location import with_known_place
from pipeline.formats.fhir.naming import Naming
from pipeline.formats.fhir.owned import Body, apply_owned
from pipeline.formats.fhir.profile import FIELDS
from pipeline.formats.fhir.profile_rules import ProfileProblems, parse_profile
from pipeline.formats.fhir.resources import RESOURCES
from pipeline.formats.fhir.samples import SAMPLES
from pipeline.formats.fhir.terms import SUBJECT_STATUS
from tests.support.fhir_checks import check
from tests.support.fhir_resources import FACILITY, REPLICA, TENANT, events, read, refusal, unmarked, written
from tests.unit.formats.test_fhir_profile import document

PROFILE = structs.replace(REPLICA, fhir="R5")
NAMING = Naming(PROFILE, TENANT, FACILITY)
ORIGIN = Origin(TENANT, FACILITY, "ehr", "fhir", "R5")
START, END = Millis(1_769_800_000_000), Millis(1_769_803_600_000)
BED_A, BED_B = (Place(FACILITY, point_of_care="ICU", room="12", bed=bed) for bed in "AB")
STAY = Encounter(
    patient=Reference(FACILITY, "P1"),
    patient_class=PatientClass.INPATIENT,
    status=EncounterStatus.IN_PROGRESS,
    location=BED_A,
    service="MED",
    admitted_at=START,
    expected_discharge_at=END,
)
BOOKED = Procedure(status=ProcedureStatus.BOOKED, start=START, end=END, patient=Reference(FACILITY, "P1"), service="HIP")
OF_R4 = ("period", "hospitalization", "physicalType", "cancelationReason")


def built(state: Payload, current: Body | None = None) -> Body:
    entity_type = next(item for item in RESOURCES if isinstance(state, type(SAMPLES[item])))
    resource, ident = RESOURCES[entity_type], NAMING.entity(entity_type, FACILITY, "x")
    body = current if current is not None else resource.created(state, NAMING)
    made = apply_owned(body, resource.desired(state, ident, NAMING, body))
    check(made, "R5")
    return made


def subject_status(*codes: str, system: str = SUBJECT_STATUS) -> Body:
    return {"coding": [{"system": system, "code": code} for code in codes]}


def stay(**elements: Any) -> Body:
    """A stay that we wrote, and that somebody edited since."""
    return written(PROFILE, EntityType.ENCOUNTER, STAY, "V1") | elements


def edit(body: Body) -> Payload:
    """What the edited resource states of its own entity."""
    return events(body, PROFILE, origin=ORIGIN)[0].payload


# -- out


@pytest.mark.parametrize("entity_type", RESOURCES)
def test_a_full_an_empty_and_a_cleared_state_are_valid(entity_type: EntityType) -> None:
    full = SAMPLES[entity_type]
    made = built(full)
    built(type(full)())
    built(type(full)(**dict.fromkeys(structs.asdict(full))), made)
    names = json.dumps(made)
    assert not [name for name in OF_R4 if f'"{name}":' in names]


@pytest.mark.parametrize("entity_type", RESOURCES)
def test_every_field_with_a_form_is_written_and_shown(entity_type: EntityType) -> None:
    resource, ident, full = RESOURCES[entity_type], NAMING.entity(entity_type, FACILITY, "x"), SAMPLES[entity_type]
    desired = resource.desired(full, ident, NAMING, resource.created(full, NAMING))
    assert {owned.field for owned in desired} == set(FIELDS[entity_type])
    assert set(resource.shown({}, ident, NAMING)) == set(FIELDS[entity_type])


@pytest.mark.parametrize("status", EncounterStatus)
@pytest.mark.parametrize("patient_class", PatientClass)
def test_every_status_and_class_is_said_in_words_of_r5_and_read_as_what_it_was(
    status: EncounterStatus, patient_class: PatientClass
) -> None:
    state = Encounter(patient=Reference(FACILITY, "P1"), status=status, patient_class=patient_class)
    built(state)
    told = edit(unmarked(written(PROFILE, EntityType.ENCOUNTER, state, "V1")))
    assert isinstance(told, Encounter)
    assert (told.status, told.patient_class) == (status, patient_class)


@pytest.mark.parametrize("before", EncounterStatus)
@pytest.mark.parametrize("after", EncounterStatus)
def test_no_word_of_an_earlier_status_is_left_beside_the_next(before: EncounterStatus, after: EncounterStatus) -> None:
    """Else a patient who came to be treated would be on leave for good."""
    assert built(Encounter(status=after), built(Encounter(status=before))) == built(Encounter(status=after))


@pytest.mark.parametrize("code", ["receiving-care", "departed"])
def test_what_the_ehr_says_of_the_subject_stays_where_it_does_not_contradict(code: str) -> None:
    theirs = built(STAY) | {"subjectStatus": subject_status(code) | {"text": "theirs"}}
    assert built(STAY, theirs)["subjectStatus"] == theirs["subjectStatus"]
    assert built(structs.replace(STAY, status=EncounterStatus.TRIAGED), theirs)["subjectStatus"] == {
        **subject_status("triaged"),
        "text": "theirs",
    }


def test_codes_of_other_systems_stay_in_every_list() -> None:
    other = {"coding": [{"system": "urn:theirs", "code": "7"}]}
    theirs = built(structs.replace(STAY, patient_class=PatientClass.RECURRING))
    theirs["class"].insert(0, other)
    theirs["serviceType"].append({"reference": {"reference": "HealthcareService/1"}})
    made = built(STAY, theirs)
    assert [concept["coding"][0]["code"] for concept in made["class"]] == ["7", "IMP"]
    cleared = built(structs.replace(STAY, service=None), made)
    assert cleared["serviceType"] == [{"reference": {"reference": "HealthcareService/1"}}]


def test_a_stay_ends_in_its_actual_period_and_is_expected_to_in_its_planned_end() -> None:
    made = built(structs.replace(STAY, discharged_at=END, disposition="01"))
    assert (made["actualPeriod"].keys(), made["plannedEndDate"]) == ({"start", "end"}, made["actualPeriod"]["end"])
    assert made["admission"]["dischargeDisposition"]["coding"][0]["code"] == "01"
    assert "plannedEndDate" not in built(structs.replace(STAY, expected_discharge_at=None), made)


def test_a_stay_that_has_not_begun_has_a_planned_start_and_an_actual_one_once_it_has() -> None:
    planned = built(structs.replace(STAY, status=EncounterStatus.PLANNED))
    assert ("actualPeriod" in planned, planned["plannedStartDate"]) == (False, "2026-01-30T19:06:40.000Z")
    begun = built(structs.replace(STAY, admitted_at=END), planned)
    assert (begun["plannedStartDate"], begun["actualPeriod"]) == (planned["plannedStartDate"], {"start": begun["plannedEndDate"]})
    assert "actualPeriod" not in built(structs.replace(STAY, status=EncounterStatus.PLANNED), begun)
    told = edit(unmarked(written(PROFILE, EntityType.ENCOUNTER, structs.replace(STAY, status=EncounterStatus.PLANNED), "V1")))
    assert isinstance(told, Encounter)
    assert told.admitted_at == START


def test_a_planned_stay_that_a_clinician_lets_begin_loses_no_begin() -> None:
    ours = written(PROFILE, EntityType.ENCOUNTER, structs.replace(STAY, status=EncounterStatus.PLANNED), "V1")
    told = edit(ours | {"status": "in-progress", "actualPeriod": {"start": "2026-01-30T20:06:40Z"}})
    assert isinstance(told, Encounter)
    assert (told.status, told.admitted_at) == (EncounterStatus.IN_PROGRESS, END)


def test_a_procedure_names_its_patient_twice_and_withdraws_both() -> None:
    made = built(BOOKED)
    assert made["subject"]["identifier"] == made["participant"][0]["actor"]["identifier"]
    assert "subject" not in built(structs.replace(BOOKED, patient=None), made)
    group = {"reference": "Group/1"}
    assert built(structs.replace(BOOKED, patient=None), {**made, "subject": group})["subject"] == group


def test_a_reason_of_cancelling_is_spelled_as_r5_does_and_goes_with_the_status() -> None:
    off = built(structs.replace(BOOKED, status=ProcedureStatus.CANCELLED, reason="NO_BED"))
    assert off["cancellationReason"] == {"text": "NO_BED"}
    assert "cancellationReason" not in built(structs.replace(BOOKED, reason="LATE"), off)


def test_the_reason_of_a_transfer_s_stage_leaves_a_reference_beside_it() -> None:
    made = built(Transfer(stage=StageState(TransferStage.DECLINED, "NO_BED")))
    assert made["statusReason"] == {"concept": {"text": "NO_BED"}}
    made["statusReason"]["reference"] = {"reference": "Observation/1"}
    after = built(Transfer(stage=StageState(TransferStage.IN_REVIEW)), made)
    assert after["statusReason"] == {"reference": {"reference": "Observation/1"}}


def test_what_is_made_with_a_bed_or_a_stay_is_valid_too() -> None:
    bed, whole = SAMPLES[EntityType.BED], SAMPLES[EntityType.ENCOUNTER]
    assert isinstance(bed, Bed)
    assert isinstance(bed.place, Place)
    assert isinstance(whole, Encounter)
    entries = with_known_place(built(bed), bed.place, NAMING, {})[1] + episode.entries_of(whole, NAMING, built(whole))
    assert len(entries) > 2
    for entry in entries:
        check(entry["resource"], "R5")


def test_a_profile_s_own_statuses_are_r5_s() -> None:
    changed = document("hapi-replica-r5")
    changed["resources"]["encounter"]["statuses"] = {"status": {"codes": {"completed": "discharged"}}}
    profile = parse_profile(changed)
    assert not isinstance(profile, ProfileProblems)
    over = structs.replace(STAY, status=EncounterStatus.FINISHED)
    body = written(profile, EntityType.ENCOUNTER, over, "V1")
    assert body["status"] == "discharged"
    assert read(body, profile, origin=ORIGIN) == Ignored(IgnoredBecause.ECHO, "Encounter")
    told = events(unmarked(body), profile, origin=ORIGIN)[0].payload
    assert isinstance(told, Encounter)
    assert told.status is EncounterStatus.FINISHED
    changed["resources"]["encounter"]["statuses"] = {"status": {"codes": {"finished": "onleave"}}}
    refused = parse_profile(changed)
    assert isinstance(refused, ProfileProblems)
    assert len(refused.problems) == 2


# -- in


@pytest.mark.parametrize("entity_type", RESOURCES)
def test_what_we_wrote_is_an_echo(entity_type: EntityType) -> None:
    body = written(PROFILE, entity_type, SAMPLES[entity_type])
    assert read(body, PROFILE, origin=ORIGIN) == Ignored(IgnoredBecause.ECHO, body["resourceType"])


@pytest.mark.parametrize("status", ["discharged", "completed", "discontinued"])
def test_a_clinician_who_ends_a_stay_frees_its_bed(status: str) -> None:
    told = events(stay(status=status), PROFILE, origin=ORIGIN)
    assert told[0].event_type is EventType.DISCHARGE
    assert told[0].payload == Encounter(status=EncounterStatus.FINISHED)
    assert [event.payload.occupancy.status for event in told[1:]] == [Occupancy.VACANT]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("elements", "stated"),
    [
        ({"status": "on-hold"}, {"status": EncounterStatus.ONLEAVE}),
        ({"subjectStatus": subject_status("on-leave")}, {"status": EncounterStatus.ONLEAVE}),
        ({"subjectStatus": subject_status("triaged")}, {"status": EncounterStatus.TRIAGED}),
        ({"subjectStatus": subject_status("receiving-care")}, {"status": EncounterStatus.IN_PROGRESS}),
        ({"plannedEndDate": "2026-02-01T08:00:00Z"}, {"expected_discharge_at": 1_769_932_800_000}),
        ({"plannedEndDate": None}, {"expected_discharge_at": None}),
        ({"class": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "EMER"}]}]},
         {"patient_class": PatientClass.EMERGENCY}),
        ({"serviceType": []}, {"service": None}),
    ],
)  # fmt: skip
def test_an_edit_enters_as_that_field_alone(elements: Body, stated: dict[str, Any]) -> None:
    body = {name: value for name, value in stay(**elements).items() if value is not None}
    assert edit(body) == Encounter(**stated)


def test_an_edit_that_says_nothing_to_us_is_an_echo() -> None:
    theirs = stay(subjectStatus=subject_status("7", system="urn:theirs"), plannedStartDate="2026-01-30T20:00:00Z")
    theirs["class"].append({"coding": [{"system": "urn:theirs", "code": "7"}]})
    assert read(theirs, PROFILE, origin=ORIGIN) == Ignored(IgnoredBecause.ECHO, "Encounter")


def test_a_transfer_that_a_clinician_declines_comes_with_the_reason() -> None:
    ours = written(PROFILE, EntityType.TRANSFER, Transfer(stage=StageState(TransferStage.REQUESTED)), "T1")
    told = edit(ours | {"status": "rejected", "statusReason": {"concept": {"text": "NO_BED"}}})
    assert isinstance(told, Transfer)
    assert isinstance(told.stage, StageState)
    assert (told.stage.stage, told.stage.reason) == (TransferStage.DECLINED, "NO_BED")


def test_a_procedure_that_a_clinician_cancels_comes_with_the_reason() -> None:
    ours = written(PROFILE, EntityType.PROCEDURE, BOOKED, "S1")
    told = edit(ours | {"status": "cancelled", "cancellationReason": {"text": "NO_BED"}})
    assert told == Procedure(status=ProcedureStatus.CANCELLED, reason="NO_BED")


def test_a_procedure_whose_subject_is_not_its_participant_is_refused_and_a_group_is_left_unsaid() -> None:
    ours = written(PROFILE, EntityType.PROCEDURE, BOOKED, "S1")
    other = {"type": "Patient", "identifier": NAMING.entity(EntityType.PATIENT, FACILITY, "P2").body()}
    assert refusal(ours | {"subject": other}, PROFILE, origin=ORIGIN).reason is RejectedBecause.CONTRADICTION
    wrong = {"reference": "Practitioner/1"}
    assert refusal(ours | {"subject": wrong}, PROFILE, origin=ORIGIN).reason is RejectedBecause.WRONG_TARGET
    group = unmarked(ours) | {"subject": {"reference": "Group/1"}}
    told = edit(group)
    assert isinstance(told, Procedure)
    assert told.patient == BOOKED.patient


def test_a_subject_alone_names_the_patient_and_is_read_where_it_is_literal() -> None:
    body = unmarked(written(PROFILE, EntityType.PROCEDURE, BOOKED, "S1"))
    alone = body | {"participant": [{"status": "accepted", "actor": {"display": "theatre"}}]}
    told = edit(alone)
    assert isinstance(told, Procedure)
    assert told.patient == BOOKED.patient
    assert needed(alone | {"subject": {"reference": "Patient/9"}}, ORIGIN, PROFILE) == ("Patient/9",)
