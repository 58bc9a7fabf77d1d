"""*Ready* and the code of table 0116, derived from independent fields."""

import itertools

import pytest
from msgspec import UNSET, UnsetType

from pipeline.domain.bed import BedStatusCode, Untellable, code_for, is_ready, speaks_of_status, status_code
from pipeline.domain.event import (
    Allocation,
    AllocationStatus,
    Bed,
    BedOccupancy,
    Environment,
    Occupancy,
    Service,
    ServiceStatus,
)


def bed(
    occupancy: Occupancy | UnsetType | None = UNSET,
    environment: Environment | UnsetType | None = UNSET,
    service: ServiceStatus | UnsetType | None = UNSET,
    allocation: AllocationStatus | UnsetType | None = UNSET,
    isolation: bool | UnsetType | None = UNSET,
    staffed: bool | UnsetType | None = UNSET,
) -> Bed:
    return Bed(
        occupancy=BedOccupancy(occupancy) if occupancy else (None if occupancy is None else UNSET),
        environment=environment,
        service=Service(service) if service else (None if service is None else UNSET),
        allocation=Allocation(allocation) if allocation else (None if allocation is None else UNSET),
        isolation=isolation,
        staffed=staffed,
    )


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (bed(Occupancy.OCCUPIED, Environment.CONTAMINATED, ServiceStatus.CLOSED), "C"),
        (bed(Occupancy.VACANT, Environment.CLEAN, ServiceStatus.BLOCKED), "C"),
        (bed(Occupancy.OCCUPIED, Environment.CONTAMINATED, isolation=True), "O"),
        (bed(Occupancy.VACANT, Environment.CONTAMINATED, isolation=True), "K"),
        (bed(Occupancy.VACANT, Environment.DIRTY, isolation=True), "H"),
        (bed(Occupancy.VACANT, Environment.CLEANING), "H"),
        (bed(Occupancy.VACANT, Environment.CLEAN, isolation=True), "I"),
        (bed(Occupancy.VACANT, Environment.CLEAN), "U"),
        (bed(Occupancy.VACANT), "U"),
    ],
)
def test_the_strongest_fact_decides_the_code(state: Bed, code: str) -> None:
    assert status_code(state) == code


@pytest.mark.parametrize("state", [bed(), bed(Occupancy.UNKNOWN), bed(None, None, None), bed(environment=Environment.CLEAN)])
def test_nothing_is_claimed_of_a_bed_nobody_knows(state: Bed) -> None:
    assert status_code(state) is None


@pytest.mark.parametrize("promise", [AllocationStatus.RESERVED, AllocationStatus.ASSIGNED])
def test_a_promised_bed_is_held_where_the_promise_cannot_be_told(promise: AllocationStatus) -> None:
    state = bed(Occupancy.VACANT, Environment.CLEAN, allocation=promise)
    assert code_for(state, reservation_reaches_receiver=False) is Untellable.RESERVATION
    assert code_for(state, reservation_reaches_receiver=True) is BedStatusCode.UNOCCUPIED


def test_a_promise_alone_never_makes_a_bed_occupied() -> None:
    unsaid = (UNSET, None)
    for occupancy, environment, promise in itertools.product((*unsaid, *Occupancy), (*unsaid, *Environment), AllocationStatus):
        state = bed(occupancy, environment, allocation=promise)
        assert (status_code(state) is BedStatusCode.OCCUPIED) is (occupancy is Occupancy.OCCUPIED)


def test_a_promise_holds_nothing_but_unoccupied() -> None:
    dirty = bed(Occupancy.VACANT, Environment.DIRTY, allocation=AllocationStatus.RESERVED)
    assert code_for(dirty, reservation_reaches_receiver=False) is BedStatusCode.HOUSEKEEPING


def test_ready_means_in_service_vacant_clean_and_staffed() -> None:
    assert is_ready(bed(Occupancy.VACANT, Environment.CLEAN)) is True
    assert is_ready(bed(Occupancy.VACANT, Environment.CLEAN, allocation=AllocationStatus.RESERVED)) is True
    assert is_ready(bed(Occupancy.VACANT, Environment.CLEAN, staffed=False)) is False
    assert is_ready(bed(Occupancy.VACANT, Environment.CLEAN, ServiceStatus.BLOCKED)) is False
    assert is_ready(bed(Occupancy.OCCUPIED)) is False
    assert is_ready(bed(environment=Environment.DIRTY)) is False


@pytest.mark.parametrize(
    "state", [bed(), bed(Occupancy.VACANT), bed(environment=Environment.CLEAN), bed(Occupancy.UNKNOWN, Environment.CLEAN)]
)
def test_ready_is_unknown_where_occupancy_or_environment_is(state: Bed) -> None:
    assert is_ready(state) is None


def test_a_ready_bed_is_never_shown_as_anything_but_free_or_isolated() -> None:
    facts = itertools.product((UNSET, *Occupancy), (UNSET, *Environment), (UNSET, *ServiceStatus))
    for (occupancy, environment, service), isolated in itertools.product(facts, (False, True)):
        state = bed(occupancy, environment, service, isolation=isolated)
        if is_ready(state):
            assert status_code(state) in (BedStatusCode.UNOCCUPIED, BedStatusCode.ISOLATED)


def test_a_withdrawn_fact_is_told_from_one_never_stated() -> None:
    assert not speaks_of_status(bed(staffed=True))
    assert speaks_of_status(bed(None))
