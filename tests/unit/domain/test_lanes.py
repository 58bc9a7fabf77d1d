"""Each rule of the shipped lanes, with what holds and what nearly does."""

from collections.abc import Sequence

import msgspec
import pytest
from msgspec import UNSET

from pipeline.domain.event import (
    Allocation,
    AllocationStatus,
    Bed,
    BedOccupancy,
    Diversion,
    DiversionState,
    DiversionStatus,
    Encounter,
    EncounterStatus,
    Environment,
    EventType,
    Occupancy,
    Patient,
    Payload,
    Place,
    Procedure,
    ProcedureStatus,
    Reference,
    Service,
    ServiceStatus,
    Staffing,
    StageState,
    Transfer,
    TransferStage,
)
from pipeline.domain.identifiers import Millis
from pipeline.domain.judging.lanes import lane_of
from pipeline.domain.judging.policy import LaneRule, Policy
from pipeline.domain.records import Lane
from tests.support.policies import shipped_policy

U = EventType.UPDATE
C, G, R, B = Lane.CRITICAL, Lane.URGENT, Lane.ROUTINE, Lane.BULK
ICU, MED, OTHER = Place(point_of_care="ICU"), Place(point_of_care="MED"), Place(point_of_care="5W")
TAKEN = BedOccupancy(Occupancy.OCCUPIED, Reference("N", "V1"))
EMPTY = BedOccupancy(Occupancy.VACANT)
DIRTY_BED = Bed(occupancy=EMPTY, environment=Environment.DIRTY)
RESERVED = Allocation(AllocationStatus.RESERVED)


def changed_between(before: Payload | None, after: Payload) -> Sequence[str]:
    return [
        name
        for name in after.__struct_fields__
        if getattr(after, name) is not UNSET and (before is None or getattr(before, name) != getattr(after, name))
    ]


def lane(before: Payload | None, change: Payload, event_type: EventType = U, policy: Policy | None = None) -> Lane:
    """Lane of `change` on top of `before`."""
    stated = {name: value for name in change.__struct_fields__ if (value := getattr(change, name)) is not UNSET}
    after = msgspec.structs.replace(before, **stated) if before is not None else change
    return lane_of(policy or shipped_policy(), event_type, "F", before, after, changed_between(before, after))


def stage(of: TransferStage) -> Transfer:
    return Transfer(stage=StageState(of))


CASES: list[tuple[str, Payload | None, Payload, EventType, Lane]] = [
    ("a snapshot never overtakes", None, Diversion(state=DiversionState(DiversionStatus.CLOSED)), EventType.SNAPSHOT, B),
    ("nor does a repair", DIRTY_BED, Bed(service=Service(ServiceStatus.BLOCKED)), EventType.REASSERT, B),
    ("diversion changed", Diversion(category="ED"), Diversion(state=DiversionState(DiversionStatus.CLOSED)), U, C),
    ("only its category", Diversion(), Diversion(category="ED"), U, R),
    ("transfer accepted", stage(TransferStage.IN_REVIEW), stage(TransferStage.CLINICALLY_ACCEPTED), U, C),
    ("acceptance withdrawn", stage(TransferStage.CLINICALLY_ACCEPTED), stage(TransferStage.CANCELLED), U, C),
    ("declined before accepted", stage(TransferStage.IN_REVIEW), stage(TransferStage.DECLINED), U, G),
    ("accepted, and moves on", stage(TransferStage.CLINICALLY_ACCEPTED), stage(TransferStage.BED_REQUESTED), U, G),
    ("a transfer's patient", stage(TransferStage.REQUESTED), Transfer(patient=Reference("N", "P")), U, R),
    ("patient left", Encounter(location=OTHER), Encounter(status=EncounterStatus.FINISHED), EventType.DISCHARGE, C),
    ("did not leave after all", Encounter(location=OTHER), Encounter(discharged_at=None), EventType.CANCEL_DISCHARGE, C),
    ("discharge, nothing of it changed", Encounter(location=OTHER), Encounter(service="MED"), EventType.DISCHARGE, R),
    ("into the ICU", Encounter(location=OTHER), Encounter(location=ICU), EventType.TRANSFER, C),
    ("out of the ICU", Encounter(location=ICU), Encounter(location=OTHER), EventType.TRANSFER, C),
    ("from the ICU, as the move says", None, Encounter(location=OTHER, prior_location=ICU), EventType.TRANSFER, C),
    (
        "between wards, from the ICU once before",
        Encounter(location=MED, prior_location=ICU),
        Encounter(location=OTHER),
        EventType.TRANSFER,
        G,
    ),
    ("another move", Encounter(location=MED), Encounter(location=OTHER), EventType.TRANSFER, G),
    ("a pending move into the ICU", Encounter(location=MED), Encounter(pending_location=ICU), U, G),
    ("in the ICU, new service", Encounter(location=ICU), Encounter(service="MED"), U, R),
    ("discharge expected", Encounter(location=MED), Encounter(expected_discharge_at=Millis(1)), EventType.PENDING_DISCHARGE, G),
    ("discharge ordered", Encounter(location=MED), Encounter(discharge_ordered_at=Millis(1)), U, G),
    ("a boarder", Encounter(location=MED), Encounter(admit_decision_at=Millis(1)), U, G),
    ("disposition", Encounter(location=MED), Encounter(disposition="01"), U, R),
    ("bed blocked", DIRTY_BED, Bed(service=Service(ServiceStatus.BLOCKED)), U, C),
    ("bed closed", DIRTY_BED, Bed(service=Service(ServiceStatus.CLOSED)), U, C),
    ("bed opened", DIRTY_BED, Bed(service=Service(ServiceStatus.OPEN)), U, G),
    ("ready and reserved", msgspec.structs.replace(DIRTY_BED, allocation=RESERVED), Bed(environment=Environment.CLEAN), U, C),
    ("ready where boarders wait", msgspec.structs.replace(DIRTY_BED, place=MED), Bed(environment=Environment.CLEAN), U, C),
    ("ready elsewhere", msgspec.structs.replace(DIRTY_BED, place=OTHER), Bed(environment=Environment.CLEAN), U, G),
    ("clean, yet taken", Bed(occupancy=TAKEN, allocation=RESERVED), Bed(environment=Environment.CLEAN), U, R),
    (
        "ready before and after",
        Bed(occupancy=EMPTY, environment=Environment.CLEAN, place=MED),
        Bed(staffed=True),
        U,
        R,
    ),
    ("the patient left the bed", Bed(occupancy=TAKEN), Bed(occupancy=EMPTY), EventType.DISCHARGE, C),
    ("a bed in the ICU is taken", Bed(occupancy=EMPTY, place=ICU), Bed(occupancy=TAKEN), EventType.ADMIT, C),
    ("a bed elsewhere is taken", Bed(occupancy=EMPTY, place=OTHER), Bed(occupancy=TAKEN), EventType.ADMIT, G),
    ("a promise", DIRTY_BED, Bed(allocation=RESERVED), U, G),
    ("dirty", Bed(occupancy=EMPTY), Bed(environment=Environment.DIRTY), U, R),
    ("master data", DIRTY_BED, Bed(place=OTHER, telemetry=True), U, B),
    ("master data and more", DIRTY_BED, Bed(telemetry=True, staffed=True), U, R),
    ("called off", Procedure(status=ProcedureStatus.BOOKED), Procedure(status=ProcedureStatus.CANCELLED), U, G),
    ("booked", Procedure(status=ProcedureStatus.PENDING), Procedure(status=ProcedureStatus.BOOKED), U, R),
    ("delayed", Procedure(start=Millis(10)), Procedure(start=Millis(20)), U, G),
    ("brought forward", Procedure(start=Millis(10)), Procedure(start=Millis(5)), U, R),
    ("first start", Procedure(), Procedure(start=Millis(5)), U, R),
    ("staffing", None, Staffing(actual=3.0), U, R),
    ("merged away", Patient(birth_date="1980"), Patient(merged_into=Reference("N", "P2")), EventType.MERGE, G),
    ("demographics", None, Patient(birth_date="1980"), EventType.DEMOGRAPHICS, R),
]


@pytest.mark.parametrize(("before", "change", "event_type", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_lane(before: Payload | None, change: Payload, event_type: EventType, expected: Lane) -> None:
    assert lane(before, change, event_type) is expected


def test_every_shipped_rule_decides_some_case() -> None:
    policy, unused = shipped_policy(), []
    for number, rule in enumerate(policy.lanes):
        without = msgspec.structs.replace(policy, lanes=(*policy.lanes[:number], *policy.lanes[number + 1 :]))
        if all(lane(b, c, e) is lane(b, c, e, without) for _, b, c, e, _ in CASES):
            unused.append(rule.why)
    assert unused == []


def test_a_change_that_no_rule_names_is_routine() -> None:
    policy = msgspec.structs.replace(shipped_policy(), lanes=(LaneRule(C, "never", changed=("state",)),))
    assert lane(None, Staffing(actual=1.0), policy=policy) is R


def test_a_bed_whose_place_nobody_told_goes_by_the_place_that_the_event_names() -> None:
    bed = Bed(occupancy=BedOccupancy(Occupancy.OCCUPIED, Reference("F", "V1")))
    lane = lane_of(shipped_policy(), EventType.TRANSFER, "F", Bed(staffed=True), bed, ("occupancy",), Place(point_of_care="ICU"))
    elsewhere = lane_of(
        shipped_policy(), EventType.TRANSFER, "F", Bed(staffed=True), bed, ("occupancy",), Place(point_of_care="MED")
    )
    assert (lane, elsewhere) == (Lane.CRITICAL, Lane.URGENT)
