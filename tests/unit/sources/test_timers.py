"""What is valid until a time ends then: once per end, never early, and never where the end was moved or taken back."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import pytest
from msgspec import UNSET

from pipeline.domain.event import (
    Allocation,
    AllocationStatus,
    Bed,
    Diversion,
    DiversionState,
    DiversionStatus,
    EntityType,
    Payload,
    Service,
    ServiceStatus,
    Staffing,
)
from pipeline.domain.identifiers import EntityKey, Millis
from pipeline.domain.records import Control, ControlKind
from pipeline.sources.timers import MAX_ORDERS, MAX_REPEAT_MS, REPEAT_MS, Ends, Timers
from tests.support.fhir_lab import accepted

NOON = Millis(1_800_000_000_000)
BOUND_S = 20.0
OPEN = Bed(service=Service(ServiceStatus.OPEN))


def blocked(until: int | None) -> Bed:
    return Bed(service=Service(ServiceStatus.BLOCKED, "CLEANING", None if until is None else Millis(until)))


def promised(until: int | None) -> Bed:
    return Bed(allocation=Allocation(AllocationStatus.RESERVED, None, None if until is None else Millis(until)))


def ends_of(*states: tuple[str, Payload], entity_type: EntityType = EntityType.BED) -> Ends:
    ends = Ends()
    for offset, (entity_id, state) in enumerate(states):
        ends.on_accepted(accepted(state, entity_id, offset, entity_type))
    return ends


def ordered(ends: Ends, now: int) -> list[tuple[str, str | None, int | None]]:
    """Entity, field and end of each order that is due."""
    return [(key.id, order.field, order.until) for key, order in ends.due(Millis(now))]


def test_an_end_is_ordered_once_and_not_before_its_time() -> None:
    ends = ends_of(("B1", blocked(NOON)))
    assert ordered(ends, NOON - 1) == []
    assert ordered(ends, NOON) == [("B1", "service", NOON)]
    assert ordered(ends, NOON + REPEAT_MS - 1) == []
    ends.on_accepted(accepted(OPEN, "B1", 1))
    assert ordered(ends, NOON + MAX_REPEAT_MS) == []
    assert len(ends) == 0


def test_an_order_that_came_to_nothing_is_given_again_less_and_less_often() -> None:
    """It landed before the end by the broker's clock, or the gate is away."""
    ends, at = ends_of(("B1", blocked(NOON))), []
    for second in range(3 * MAX_REPEAT_MS // 1000):
        at += [second for _ in ends.due(Millis(NOON + second * 1000))]
    waits = [after - before for before, after in pairwise(at)]
    assert waits[0] == REPEAT_MS // 1000
    assert waits == sorted(waits)
    assert max(waits) == MAX_REPEAT_MS // 1000
    assert len(at) <= 12


def test_an_order_names_what_ends_and_carries_no_value_of_the_entity() -> None:
    ((key, order),) = ends_of(("B1", blocked(NOON))).due(NOON)
    assert key == EntityKey("t1", "bed", "MAIN", "B1")
    assert (order.kind, order.actor, order.field, order.until, order.at) == (ControlKind.EXPIRE, "timers", "service", NOON, NOON)
    assert "CLEANING" not in msgspec.json.encode(order).decode()


@pytest.mark.parametrize(("state", "entity_type", "field"), [
    (blocked(NOON), EntityType.BED, "service"),
    (promised(NOON), EntityType.BED, "allocation"),
    (Diversion(state=DiversionState(DiversionStatus.CLOSED, until=NOON)), EntityType.DIVERSION, "state"),
])  # fmt: skip
def test_blocks_promises_and_diversions_end(state: Payload, entity_type: EntityType, field: str) -> None:
    assert ordered(ends_of(("E", state), entity_type=entity_type), NOON) == [("E", field, NOON)]


@pytest.mark.parametrize("state", [Bed(), blocked(None), Bed(service=None), Bed(service=UNSET)])
def test_a_state_without_an_end_orders_nothing(state: Bed) -> None:
    assert ordered(ends_of(("B1", state)), NOON * 2) == []


def test_an_entity_type_without_ends_orders_nothing() -> None:
    assert ordered(ends_of(("S", Staffing(shift_end=NOON)), entity_type=EntityType.STAFFING), NOON * 2) == []


def test_a_prolonged_block_ends_at_its_new_end_only() -> None:
    ends = ends_of(("B1", blocked(NOON)), ("B1", blocked(NOON + 1000)))
    assert ordered(ends, NOON) == []
    assert ordered(ends, NOON + 1000) == [("B1", "service", NOON + 1000)]


def test_a_shortened_block_ends_at_its_new_end_and_not_again_at_the_old_one() -> None:
    ends = ends_of(("B1", blocked(NOON)), ("B1", blocked(NOON - 1000)))
    assert ordered(ends, NOON - 1000) == [("B1", "service", NOON - 1000)]
    assert ordered(ends, NOON) == []
    ends.on_accepted(accepted(OPEN, "B1", 3))
    assert ordered(ends, NOON * 2) == []


@pytest.mark.parametrize("later", [Bed(), blocked(None), Bed(service=None)])
def test_a_withdrawn_end_orders_nothing(later: Bed) -> None:
    assert ordered(ends_of(("B1", blocked(NOON)), ("B1", later)), NOON) == []


def test_an_end_that_was_withdrawn_and_set_again_is_ordered_once() -> None:
    ends = ends_of(("B1", blocked(NOON)), ("B1", Bed()), ("B1", blocked(NOON)))
    assert ordered(ends, NOON) == [("B1", "service", NOON)]


def test_an_order_given_again_is_the_same_order() -> None:
    ends = ends_of(("B1", blocked(NOON)))
    first = ends.due(NOON)
    assert ends.due(Millis(NOON + REPEAT_MS)) == first


def test_fields_and_entities_end_by_themselves_earliest_first() -> None:
    both = Bed(service=blocked(NOON).service, allocation=promised(NOON - 5).allocation)
    ends = ends_of(("B1", both), ("B2", blocked(NOON - 9)))
    assert ordered(ends, NOON) == [
        ("B2", "service", NOON - 9),
        ("B1", "allocation", NOON - 5),
        ("B1", "service", NOON),
    ]


def test_one_id_in_two_tenants_or_namespaces_is_two_entities() -> None:
    ends = Ends()
    one = accepted(blocked(NOON), "B1", 1)
    for tenant, namespace in (("t1", "MAIN"), ("t2", "MAIN"), ("t1", "EAST")):
        ends.on_accepted(msgspec.structs.replace(one, tenant=tenant, namespace=namespace))
    assert len({order.event_id for _, order in ends.due(NOON)}) == 3


def test_orders_come_in_bounded_batches_and_none_is_left_out() -> None:
    many = MAX_ORDERS * 2 + 1
    ends = ends_of(*((f"B{number}", blocked(NOON)) for number in range(many)))
    sizes, seen = [], set()
    while orders := ends.due(NOON):
        sizes.append(len(orders))
        seen |= {key.id for key, _ in orders}
    assert sizes == [MAX_ORDERS, MAX_ORDERS, 1]
    assert len(seen) == many


# -- the service


class Landing:
    """Keeps what is published; the events' ids are what the gate knows a repeat by."""

    def __init__(self) -> None:
        self.orders: list[tuple[EntityKey, Control]] = []
        self.some = asyncio.Event()

    async def publish(self, orders: Sequence[tuple[EntityKey, Control]]) -> None:
        self.orders.extend(orders)
        self.some.set()

    @property
    def ids(self) -> set[str]:
        return {order.event_id for _, order in self.orders}


async def run_until_ordered(ends: Ends, landing: Landing, now: int = NOON) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(Timers(ends, landing.publish, lambda: True, lambda: Millis(now)).run(stop))
    await asyncio.wait_for(landing.some.wait(), BOUND_S)
    stop.set()
    await asyncio.wait_for(running, BOUND_S)


async def test_two_instances_and_a_restart_give_the_same_id_so_that_the_gate_drops_the_repeats() -> None:
    landings = [Landing(), Landing(), Landing()]
    for landing in landings:
        await run_until_ordered(ends_of(("B1", blocked(NOON))), landing)
    assert [len(landing.orders) for landing in landings] == [1, 1, 1]
    assert len(set.union(*(landing.ids for landing in landings))) == 1


async def test_nothing_is_ordered_before_all_states_are_known() -> None:
    """The block that is read first was prolonged by a state that is read later."""
    ends, landing, known, stop = ends_of(("B1", blocked(NOON))), Landing(), [False], asyncio.Event()
    asked = asyncio.Event()

    def ready() -> bool:
        asked.set()
        return known[0]

    running = asyncio.create_task(Timers(ends, landing.publish, ready, lambda: NOON).run(stop))
    await asyncio.wait_for(asked.wait(), BOUND_S)
    ends.on_accepted(accepted(blocked(NOON + 1000), "B1", 1))
    ends.on_accepted(accepted(blocked(NOON), "B2", 2))
    known[0] = True
    await asyncio.wait_for(landing.some.wait(), BOUND_S)
    stop.set()
    await asyncio.wait_for(running, BOUND_S)
    assert [key.id for key, _ in landing.orders] == ["B2"]


async def test_the_service_ends_when_it_is_told_to_with_nothing_due() -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(Timers(Ends(), Landing().publish, lambda: True, lambda: NOON).run(stop))
    stop.set()
    await asyncio.wait_for(running, BOUND_S)


async def test_orders_that_could_not_be_published_end_the_service_so_that_a_restart_gives_them_again() -> None:
    async def fail(_: Sequence[tuple[EntityKey, Control]]) -> None:
        raise ConnectionError

    timers = Timers(ends_of(("B1", blocked(NOON))), fail, lambda: True, lambda: NOON)
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(timers.run(asyncio.Event()), BOUND_S)
