"""ADT A05 to A53: what is expected, on leave, tracked or swapped, and the bed that is kept meanwhile."""

import pytest
from msgspec import UNSET

from pipeline.domain.event import (
    BedOccupancy,
    Encounter,
    EncounterStatus,
    EventType,
    Occupancy,
    PatientClass,
    Place,
    Reference,
)
from pipeline.formats.hl7v2.messages import IGNORED
from pipeline.formats.hl7v2.verdict import Ignored, Reason
from tests.support.hl7_samples import adt, beds, encounter, events_of, rejected, segment, verdict_on

AT_1010 = 1767607800000
"""EVN-2 of the samples, in UTC."""
HERE = Place("MAIN", None, None, "ICU", "1", "A")
THERE = Place("MAIN", None, None, "MED", "2", "B")
VISIT = Reference("MAIN", "V1")
TO = {42: "MED^2^B^MAIN"}
PLACES = ("location", "prior_location", "temporary_location", "pending_location")


def places(stay: Encounter) -> dict[str, object]:
    """The places that it states."""
    return {field: value for field in PLACES if (value := getattr(stay, field)) is not UNSET}


def test_a_pre_admit_is_planned_where_it_will_be_and_takes_no_bed() -> None:
    stay = encounter(adt("A05", pv1={2: "P"}))
    assert (stay.status, places(stay), beds(adt("A05"))) == (EncounterStatus.PLANNED, {"location": HERE}, {})
    assert encounter(adt("A38", pv1={2: "P"})).status is EncounterStatus.CANCELLED


@pytest.mark.parametrize(
    ("trigger", "sent", "known"), [("A06", "I", PatientClass.INPATIENT), ("A07", "O", PatientClass.OUTPATIENT)]
)
def test_a_change_of_class_takes_the_bed_that_it_names_and_vacates_the_one_before(
    trigger: str, sent: str, known: PatientClass
) -> None:
    data = adt(trigger, pv1={2: sent, 6: "MED^2^B^MAIN"})
    stay = encounter(data)
    assert (stay.patient_class, stay.status, stay.location) == (known, EncounterStatus.IN_PROGRESS, HERE)
    assert {name: bed.occupancy for name, bed in beds(data).items()} == {
        "MED/2/B": BedOccupancy(Occupancy.VACANT, VISIT),
        "ICU/1/A": BedOccupancy(Occupancy.OCCUPIED, VISIT),
    }


@pytest.mark.parametrize("trigger", ["A09", "A10", "A32", "A33"])
def test_a_trip_keeps_the_bed_and_says_where_the_patient_is_meanwhile(trigger: str) -> None:
    data = adt(trigger, pv1={6: "ICU^1^A^MAIN", 11: "MED^2^B^MAIN"})
    stay = encounter(data)
    assert places(stay) == {"temporary_location": THERE}
    assert (stay.status, beds(data)) == (UNSET, {})


@pytest.mark.parametrize(
    ("trigger", "status"),
    [
        ("A21", EncounterStatus.ONLEAVE),
        ("A53", EncounterStatus.ONLEAVE),
        ("A22", EncounterStatus.IN_PROGRESS),
        ("A52", EncounterStatus.IN_PROGRESS),
    ],
)
def test_leave_changes_the_status_and_keeps_the_bed(trigger: str, status: EncounterStatus) -> None:
    stay = encounter(adt(trigger))
    assert (stay.status, places(stay), beds(adt(trigger))) == (status, {}, {})


def test_a_pending_admit_of_a_patient_in_the_emergency_department_makes_a_boarder_and_moves_nobody() -> None:
    data = adt("A14", pv1={2: "E", **TO})
    stay = encounter(data)
    assert (stay.status, stay.admit_decision_at, places(stay)) == (UNSET, AT_1010, {"pending_location": THERE})
    assert beds(data) == {}
    happened = adt("A14", evn={6: "20260105100000"}, pv1={2: "E"})
    assert encounter(happened).admit_decision_at == AT_1010 - 600_000


def test_a_pending_admit_of_somebody_who_is_nowhere_yet_is_planned_at_the_place_kept() -> None:
    stay = encounter(adt("A14", pv1={2: "P"}))
    assert (stay.status, places(stay)) == (EncounterStatus.PLANNED, {"pending_location": HERE})


def test_a_cancelled_pending_admit_ends_the_plan_but_not_a_stay() -> None:
    for known, status in (("P", EncounterStatus.CANCELLED), ("E", UNSET)):
        stay = encounter(adt("A27", pv1={2: known, **TO}))
        assert (stay.status, stay.admit_decision_at, places(stay)) == (status, None, {"pending_location": None})


def test_a_pending_transfer_is_a_promise_until_it_is_cancelled() -> None:
    assert places(encounter(adt("A15", pv1=TO))) == {"pending_location": THERE}
    assert places(encounter(adt("A26", pv1=TO))) == {"pending_location": None}
    assert beds(adt("A15", pv1=TO)) == {}


def test_a_pending_discharge_is_expected_by_pv2_9_else_evn_3_and_nobody_has_left() -> None:
    planned = {3: "20260107120000"}
    by_event = encounter(adt("A16", evn=planned))
    by_visit = encounter(adt("A16", evn=planned, more=(segment("PV2", {9: "20260107130000"}),)))
    assert isinstance(by_event.expected_discharge_at, int)
    assert by_visit.expected_discharge_at == by_event.expected_discharge_at + 3_600_000
    assert (by_event.status, by_event.discharged_at, beds(adt("A16", evn=planned))) == (UNSET, UNSET, {})
    assert encounter(adt("A01", evn=planned)).expected_discharge_at is UNSET
    cancelled = encounter(adt("A25", more=(segment("PV2", {9: "20260107130000"}),)))
    assert cancelled.expected_discharge_at is None


def test_a_deleted_visit_was_never_in_its_bed() -> None:
    assert encounter(adt("A23")).status is EncounterStatus.ENTERED_IN_ERROR
    assert beds(adt("A23"))["ICU/1/A"].occupancy == BedOccupancy(Occupancy.VACANT, VISIT)


@pytest.mark.parametrize("trigger", ["A28", "A31"])
def test_news_of_a_person_say_nothing_of_a_visit(trigger: str) -> None:
    (event,) = events_of(adt(trigger))
    assert (event.entity_id, event.event_type) == ("4711", EventType.DEMOGRAPHICS)


def swap(
    first: dict[int, str],
    second: dict[int, str],
    *,
    ids: tuple[str, str] = ("4711", "4712"),
    visits: tuple[str, str] = ("V1", "V2"),
) -> bytes:
    """An A17 after chapter 3.3.17."""
    people = zip(ids, visits, (first, second), strict=True)
    lines = [
        line
        for person, visit, pv1 in people
        for line in (segment("PID", {3: f"{person}^^^MAIN^MR"}), segment("PV1", {2: "I", 19: visit, **pv1}))
    ]
    head = adt("A17").split(b"\r")[:2]
    return b"\r".join((*head, *(line.encode() for line in lines), b""))


A, B = "ICU^1^A^MAIN", "MED^2^B^MAIN"


def test_two_patients_swap_beds_and_neither_bed_is_ever_said_to_be_free() -> None:
    data = swap({3: B, 6: A}, {3: A, 6: B})
    events = events_of(data)
    assert [(e.entity_type.value, e.entity_id) for e in events] == [
        ("patient", "4711"),
        ("encounter", "V1"),
        ("bed", "MED/2/B"),
        ("patient", "4712"),
        ("encounter", "V2"),
        ("bed", "ICU/1/A"),
    ]
    assert {name: bed.occupancy for name, bed in beds(data).items()} == {
        "MED/2/B": BedOccupancy(Occupancy.OCCUPIED, VISIT),
        "ICU/1/A": BedOccupancy(Occupancy.OCCUPIED, Reference("MAIN", "V2")),
    }
    assert len({event.event_id for event in events}) == len(events)


def test_a_bed_that_nobody_takes_in_a_swap_is_vacated() -> None:
    data = swap({3: B, 6: A}, {3: "MED^3^C^MAIN", 6: B})
    assert beds(data)["ICU/1/A"].occupancy == BedOccupancy(Occupancy.VACANT, VISIT)
    assert beds(data)["MED/2/B"].occupancy == BedOccupancy(Occupancy.OCCUPIED, VISIT)


def test_a_swap_that_does_not_tell_who_lies_where_is_refused() -> None:
    assert rejected(adt("A17")).field == "PID"
    assert rejected(swap({3: A}, {3: A})).reason is Reason.AMBIGUOUS_IDENTITY
    assert rejected(swap({3: A}, {3: B}, visits=("V1", "V1"))).field == "PV1-19"
    assert rejected(swap({3: A}, {})).field == "PV1-3"


@pytest.mark.parametrize("name", sorted(IGNORED))
def test_what_moves_no_capacity_by_its_own_meaning_is_ignored_by_name(name: str) -> None:
    verdict = verdict_on(adt("A01", msh={9: name}))
    assert isinstance(verdict, Ignored)
    assert name in verdict.detail
