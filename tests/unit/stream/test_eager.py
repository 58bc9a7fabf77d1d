"""Awaiting without a turn of the loop where nothing is waited for."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine
from typing import Any

import pytest
from mode import Service

from pipeline.stream.worker.eager import Done, Waits, begun, without_pause
from pipeline.stream.worker.transport import BatchConsumer
from tests.support.turns import turns_beside


class Broken(Exception):
    pass


def turns_of(coroutine: Coroutine[Any, Any, Any]) -> tuple[Any, int]:
    """Its result, and how often something else had a turn meanwhile."""

    async def run() -> tuple[Any, int]:
        async with turns_beside() as turns:
            await asyncio.sleep(0)
            before = turns.count
            result = await coroutine
            return result, turns.count - before

    return asyncio.run(run())


async def paused(times: int) -> str:
    for _ in range(times):
        await asyncio.sleep(0)
    return "done"


def test_pauses_are_passed_over() -> None:
    assert turns_of(without_pause(paused(50))) == ("done", 0)


def test_what_is_waited_for_is_waited_for() -> None:
    async def both() -> str:
        await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        return await paused(3)

    result, turns = turns_of(without_pause(both()))
    assert result == "done"
    assert turns > 0


async def test_what_ends_without_waiting_has_ended_at_once_and_what_waits_goes_on_where_it_was() -> None:
    gate = asyncio.Event()
    steps = []

    async def waiting() -> str:
        steps.append("before")
        await gate.wait()
        steps.append("after")
        return "through"

    match begun(waiting()):
        case Waits(rest):
            assert steps == ["before"]
        case Done():
            pytest.fail("it waits")
    gate.set()
    assert await asyncio.ensure_future(rest) == "through"
    assert steps == ["before", "after"]
    assert begun(waiting()) == Done("through")


async def test_a_message_that_finds_no_room_waits_until_there_is_or_the_flow_is_stopped() -> None:
    """As Faust's consumer hands messages on, with what mode itself makes of what waits."""
    consumer = BatchConsumer.__new__(BatchConsumer)
    Service.__init__(consumer)
    queue: asyncio.Queue[int] = asyncio.Queue(maxsize=1)
    stopped = asyncio.Event()
    first, second = queue.put(1), queue.put(2)
    assert (await consumer.wait_first(first, stopped.wait())).done == [first]
    waiting = asyncio.ensure_future(consumer.wait_first(second, stopped.wait()))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    assert queue.get_nowait() == 1
    assert len((await asyncio.wait_for(waiting, 20.0)).done) == 1
    assert queue.get_nowait() == 2

    await consumer.wait_first(queue.put(3), stopped.wait())
    interrupted = asyncio.ensure_future(consumer.wait_first(queue.put(4), stopped.wait()))
    await asyncio.sleep(0.01)
    stopped.set()
    await asyncio.wait_for(interrupted, 20.0)
    assert queue.get_nowait() == 3
    await asyncio.sleep(0.01)
    assert queue.empty()


async def test_what_is_raised_is_raised() -> None:
    async def broken(pauses: int) -> None:
        await paused(pauses)
        raise Broken

    with pytest.raises(Broken):
        begun(broken(0))
    with pytest.raises(Broken):
        await without_pause(broken(3))


async def test_a_cancellation_reaches_what_waits_which_may_clean_up() -> None:
    cleaned = []

    async def waiting() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    started = begun(waiting())
    assert isinstance(started, Waits)
    assert isinstance(started.rest, Awaitable)
    for rest in (started.rest, without_pause(waiting())):
        task = asyncio.ensure_future(rest)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert cleaned == [True, True]


async def test_the_end_of_a_generator_is_told() -> None:
    async def numbers() -> AsyncIterator[int]:
        await asyncio.sleep(0)
        yield 1

    taking = numbers()
    assert await without_pause(anext(taking)) == 1
    with pytest.raises(StopAsyncIteration):
        await without_pause(anext(taking))
