"""Who waits for a turn: what is critical goes first, nobody is forgotten, and no turn is added for anybody."""

import asyncio

import pytest

from pipeline.domain.identifiers import Millis
from pipeline.domain.writing.pace import Pace
from pipeline.domain.writing.scheduler import CRITICAL_SHARE
from pipeline.stream.writing.turnstile import Turnstile

RATE_PER_S = 200.0


def loop_clock() -> Millis:
    """The loop's own time."""
    return Millis(int(asyncio.get_running_loop().time() * 1000))


class Gate:
    """A turnstile whose burst has just been used up, and the names of who passed."""

    def __init__(self) -> None:
        self.pace = Pace(RATE_PER_S)
        self.turnstile = Turnstile(self.pace, loop_clock)
        self.passed: list[str] = []
        while self.pace.wait_ms(loop_clock(), critical=True) == 0.0:
            self.pace.start(loop_clock())

    def enter(self, name: str, critical: bool = False) -> "asyncio.Task[None]":
        return asyncio.create_task(self._pass(name, critical))

    async def _pass(self, name: str, critical: bool) -> None:
        await self.turnstile.turn(critical)
        self.passed.append(name)


async def test_what_is_critical_takes_the_next_turn_of_those_that_wait_longer() -> None:
    gate = Gate()
    tasks = [gate.enter(f"bulk {number}") for number in range(5)]
    await asyncio.sleep(0)
    tasks.append(gate.enter("critical", critical=True))
    await asyncio.wait_for(asyncio.gather(*tasks), 30)
    assert gate.passed == ["critical", *(f"bulk {number}" for number in range(5))]


async def test_after_so_many_critical_ones_in_a_row_one_of_the_others_goes() -> None:
    gate = Gate()
    tasks = [gate.enter("bulk"), *(gate.enter("critical", critical=True) for _ in range(3 * CRITICAL_SHARE))]
    await asyncio.wait_for(asyncio.gather(*tasks), 30)
    assert gate.passed.index("bulk") == CRITICAL_SHARE


async def test_critical_ones_add_no_turn_to_those_that_the_rate_allows() -> None:
    gate, began = Gate(), asyncio.get_running_loop().time()
    count = 40
    tasks = [gate.enter("any", critical=number % 2 == 0) for number in range(count)]
    await asyncio.wait_for(asyncio.gather(*tasks), 30)
    assert asyncio.get_running_loop().time() - began >= (count - 1) / RATE_PER_S - 0.05


async def test_who_is_cancelled_while_it_waits_takes_no_turn_from_the_next() -> None:
    gate = Gate()
    gone, stays = gate.enter("gone"), gate.enter("stays")
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait_for(stays, 30)
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert gate.passed == ["stays"]


async def test_at_a_pause_all_go_on_and_take_no_turns() -> None:
    gate = Gate()
    tasks = [gate.enter("any", critical=number == 0) for number in range(4)]
    await asyncio.sleep(0)
    now = loop_clock()
    gate.pace.paused(now, Millis(now + 3_600_000))
    gate.turnstile.let_go()
    await asyncio.wait_for(asyncio.gather(*tasks), 5)
    assert len(gate.passed) == 4
    assert gate.pace.wait_ms(loop_clock()) > 3_500_000
