"""A procedure as Appointment: R4's rules on times, participants and reasons hold, and no status is bent to fit them."""

from typing import Any

import pytest
from msgspec import structs

from pipeline.destinations.fhir.profile import load_profile
from pipeline.domain.event import EntityType, Place, Procedure, ProcedureStatus, Reference
from pipeline.domain.identifiers import Millis
from pipeline.formats.fhir.appointment import APPOINTMENT
from pipeline.formats.fhir.naming import Naming
from pipeline.formats.fhir.owned import Body, Misshapen, apply_owned
from pipeline.formats.fhir.profile import StatusMap
from pipeline.formats.fhir.statuses import R4_APPOINTMENT
from tests.support.fhir_checks import check

NAMING = Naming(load_profile("sekmet-replica"), "t1", "MAIN")
START, END = Millis(1_700_000_000_000), Millis(1_700_005_400_000)
PATIENT, OTHER = Reference("MAIN", "P1"), Reference("MAIN", "P2")
THEATRE = Place(point_of_care="OR", room="3")


def appointment(procedure: Procedure, current: Body | None = None, naming: Naming = NAMING) -> Body:
    body = APPOINTMENT.created(procedure, naming) if current is None else current
    owned = APPOINTMENT.desired(procedure, naming.entity(EntityType.PROCEDURE, "MAIN", "x"), naming, body)
    fields = naming.profile.fields_of(EntityType.PROCEDURE)
    made = apply_owned(body, [each for each in owned if each.field in fields])
    check(made)
    return made


def actors(body: Body) -> list[str]:
    return [item.get("actor", {}).get("identifier", {}).get("value", "-") for item in body["participant"]]


@pytest.mark.parametrize("status", ProcedureStatus)
def test_every_status_of_table_0278_is_a_code_of_r4_and_kept_raw(status: ProcedureStatus) -> None:
    made = appointment(Procedure(status=status, start=START, end=END))
    assert made["status"] in R4_APPOINTMENT
    assert made["extension"][0]["valueCode"] == status.value


@pytest.mark.parametrize(
    ("status", "timed", "timeless"),
    [
        (ProcedureStatus.BOOKED, "booked", "proposed"),
        (ProcedureStatus.WAITLIST, "waitlist", "waitlist"),
        (ProcedureStatus.CANCELLED, "cancelled", "cancelled"),
        (ProcedureStatus.DELETED, "entered-in-error", "cancelled"),
        (ProcedureStatus.STARTED, "checked-in", None),
        (ProcedureStatus.COMPLETE, "fulfilled", None),
        (ProcedureStatus.NOSHOW, "noshow", None),
    ],
)
@pytest.mark.parametrize("times", [{}, {"start": START}, {"end": END}, {"start": END, "end": START}, {"start": None}])
def test_without_both_times_in_order_only_what_r4_allows_goes_out(
    status: ProcedureStatus, timed: str, timeless: str | None, times: dict[str, Any]
) -> None:
    assert appointment(Procedure(status=status, start=START, end=END))["status"] == timed
    if timeless is None:
        with pytest.raises(Misshapen):
            appointment(Procedure(status=status, **times))
    else:
        made = appointment(Procedure(status=status, **times))
        assert (made["status"], "start" in made, "end" in made) == (timeless, False, False)


def test_a_start_that_is_known_alone_is_told_in_an_extension_and_moves_when_the_end_comes() -> None:
    lone = appointment(Procedure(status=ProcedureStatus.BOOKED, start=START))
    assert [item.get("valueDateTime") for item in lone["extension"]][1:] == ["2023-11-14T22:13:20.000Z"]
    both = appointment(Procedure(status=ProcedureStatus.BOOKED, start=START, end=END), lone)
    assert (both["status"], both["start"], both["minutesDuration"]) == ("booked", "2023-11-14T22:13:20.000Z", 90)
    assert len(both["extension"]) == 1


def test_times_that_are_cleared_take_the_duration_with_them() -> None:
    booked = appointment(Procedure(status=ProcedureStatus.BOOKED, start=START, end=END))
    put_off = appointment(Procedure(status=ProcedureStatus.BOOKED, start=None, end=None), booked)
    assert {"start", "end", "minutesDuration"} & put_off.keys() == set()


@pytest.mark.parametrize("end", [START, Millis(START + 59_999)])
def test_less_than_a_minute_has_no_duration(end: Millis) -> None:
    assert "minutesDuration" not in appointment(Procedure(status=ProcedureStatus.BOOKED, start=START, end=end))


def test_where_nobody_is_known_one_participant_says_so_and_goes_when_somebody_is() -> None:
    nobody = appointment(Procedure(status=ProcedureStatus.BOOKED, start=START, end=END))
    assert [item["status"] for item in nobody["participant"]] == ["needs-action"]
    assert actors(nobody) == ["-"]
    somebody = appointment(Procedure(patient=PATIENT, place=THEATRE), nobody)
    assert actors(somebody) == ["MAIN/P1", "si:MAIN/wa:OR/ro:3"]
    assert actors(appointment(Procedure(patient=None, place=None), somebody)) == ["-"]


def test_where_others_take_part_no_stand_in_is_needed() -> None:
    theirs = {"actor": {"reference": "Practitioner/7"}, "status": "tentative"}
    made = appointment(Procedure(patient=PATIENT))
    made["participant"].insert(0, theirs)
    assert appointment(Procedure(patient=None), made)["participant"] == [theirs]


def test_a_stand_in_that_a_clinician_filled_in_is_theirs() -> None:
    made = appointment(Procedure(status=ProcedureStatus.BOOKED, start=START, end=END))
    made["participant"][0] |= {"actor": {"reference": "Patient/7"}, "status": "accepted"}
    kept = dict(made["participant"][0])
    after = appointment(Procedure(patient=PATIENT), made)
    assert after["participant"][0] == kept
    assert actors(after) == ["-", "MAIN/P1"]


def test_another_patient_replaces_the_one_before_and_a_participants_own_answer_stands() -> None:
    made = appointment(Procedure(status=ProcedureStatus.BOOKED, start=START, end=END, patient=PATIENT, place=THEATRE))
    made["participant"][1]["status"] = "declined"
    after = appointment(Procedure(patient=OTHER, place=THEATRE), made)
    assert actors(after) == ["si:MAIN/wa:OR/ro:3", "MAIN/P2"]
    assert [item["status"] for item in after["participant"]] == ["declined", "accepted"]


def test_a_replica_that_is_told_no_patients_gets_none() -> None:
    profile = NAMING.profile
    mute = structs.replace(profile.resources[EntityType.PROCEDURE], fields=("identifier", "status", "start", "end", "place"))
    naming = Naming(structs.replace(profile, resources={**profile.resources, EntityType.PROCEDURE: mute}), "t1", "MAIN")
    made = appointment(Procedure(patient=PATIENT), None, naming)
    assert actors(made) == ["-"]
    assert "P1" not in str(made)
    assert actors(appointment(Procedure(patient=PATIENT, place=THEATRE), made, naming)) == ["si:MAIN/wa:OR/ro:3"]


def test_a_reason_is_one_of_cancelling_only_where_it_is_cancelled() -> None:
    late = appointment(Procedure(status=ProcedureStatus.BOOKED, start=START, end=END, reason="LATE"))
    assert ("cancelationReason" in late, late["extension"][1]["valueString"]) == (False, "LATE")
    off = appointment(Procedure(status=ProcedureStatus.CANCELLED, reason="NO_BED"), late)
    assert off["cancelationReason"] == {"text": "NO_BED"}
    assert len(off["extension"]) == 1
    off["cancelationReason"]["coding"] = [{"system": "urn:theirs", "code": "7"}]
    on = appointment(Procedure(status=ProcedureStatus.BOOKED, start=START, end=END, reason=None), off)
    assert "cancelationReason" not in on


def test_the_stay_is_among_the_supporting_information_and_changes_alone() -> None:
    made = appointment(Procedure(encounter=Reference("MAIN", "V1")))
    made["supportingInformation"].insert(0, {"reference": "Observation/7"})
    after = appointment(Procedure(encounter=Reference("MAIN", "V2")), made)
    assert after["supportingInformation"][0] == {"reference": "Observation/7"}
    assert [item["identifier"]["value"] for item in after["supportingInformation"][1:]] == ["MAIN/V2"]
    assert appointment(Procedure(encounter=None), after)["supportingInformation"] == [{"reference": "Observation/7"}]


def test_the_service_is_a_code_beside_those_of_others() -> None:
    theirs = {"coding": [{"system": "urn:theirs", "code": "7"}], "text": "hip"}
    made = appointment(Procedure(service="HIP 1"), appointment(Procedure(patient=PATIENT)) | {"serviceType": [theirs]})
    assert [item["coding"][0]["code"] for item in made["serviceType"]] == ["7", "HIP 1"]
    assert appointment(Procedure(service=None), made)["serviceType"] == [theirs]


def test_an_ehr_without_a_status_gets_the_one_that_its_profile_names() -> None:
    profile = NAMING.profile
    mapped = structs.replace(
        profile.resources[EntityType.PROCEDURE], statuses={"status": StatusMap({"noshow": "cancelled", "proposed": "pending"})}
    )
    naming = Naming(structs.replace(profile, resources={**profile.resources, EntityType.PROCEDURE: mapped}), "t1", "MAIN")
    made = appointment(Procedure(status=ProcedureStatus.NOSHOW, start=START, end=END, reason="X"), None, naming)
    assert (made["status"], made["cancelationReason"]) == ("cancelled", {"text": "X"})
    with pytest.raises(Misshapen):  # pending has to have its times, whatever it stands for
        appointment(Procedure(status=ProcedureStatus.BOOKED), None, naming)
