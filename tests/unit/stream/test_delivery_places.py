"""How many writes a delivery has under way: what the destination is asked at once, and no more than the log takes."""

import asyncio

from pipeline.domain.records import Outcome as Recorded
from pipeline.domain.records import OutcomeKind
from pipeline.stream.writing.delivery import CONCLUDING_AT_ONCE
from tests.support.changes import change
from tests.unit.stream.test_delivery import World


class SlowLog:
    """In the world's ledger's place: it takes nothing before it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.log: list[tuple[bytes, Recorded]] = []

    async def record(self, outcome: Recorded, key: bytes) -> None:
        await self.opened.wait()
        self.log.append((key, outcome))


def waiting(world: World, count: int) -> SlowLog:
    """So many entities wait to be written, and the log is slow."""
    log = SlowLog()
    world.delivery._ledger = log
    for number in range(count):
        world.accept(change(number + 1, bed=f"B-{number}"))
    return log


async def test_a_write_that_was_answered_takes_no_other_s_place_while_its_outcome_is_on_its_way() -> None:
    world = World(concurrency=1)
    log = waiting(world, 5)
    running = asyncio.create_task(world.delivery.run())
    for _ in range(200):
        await asyncio.sleep(0)
    assert len(world.ehr.history) == 5
    log.opened.set()
    await world.delivery.stop(20.0)
    await running
    assert [outcome.kind for _, outcome in log.log] == [OutcomeKind.CONFIRMED] * 5
    assert not world.delivery._concluding


async def test_a_log_that_takes_nothing_stops_the_writes_at_a_bound() -> None:
    world = World(concurrency=4)
    log = waiting(world, CONCLUDING_AT_ONCE + 40)
    running = asyncio.create_task(world.delivery.run())
    for _ in range(2_000):
        await asyncio.sleep(0)
    assert CONCLUDING_AT_ONCE <= len(world.ehr.history) < CONCLUDING_AT_ONCE + 4 + 1
    log.opened.set()
    for _ in range(2_000):
        await asyncio.sleep(0)
    assert len(world.ehr.history) == CONCLUDING_AT_ONCE + 40
    await world.delivery.stop(20.0)
    await running
