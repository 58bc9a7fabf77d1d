"""Events of a stream, several at a time."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from pipeline.stream.worker.taking import Taking

BOUND_S = 20.0


class Stream:
    """Hands out what is put into its queue; `None` ends it, an exception is raised."""

    def __init__(self) -> None:
        self.enable_acks = True
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.acked: list[Any] = []

    def put(self, *items: Any) -> None:
        for item in items:
            self.queue.put_nowait(item)

    async def events(self) -> AsyncIterator[Any]:
        while (item := await self.queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    async def ack(self, event: Any) -> None:
        self.acked.append(event)


def batches(stream: Stream, most: int = 10, within_s: float = 0.0) -> AsyncIterator[Sequence[Any]]:
    return Taking(stream, most, within_s).events()


async def following(taking: AsyncIterator[Sequence[Any]]) -> list[Any]:
    return list(await asyncio.wait_for(anext(taking), BOUND_S))


async def test_what_came_is_taken_in_its_order_and_acknowledged_only_once_the_next_is_asked_for() -> None:
    stream = Stream()
    taking = batches(stream, within_s=0.01)
    stream.put(1, 2, 3)
    assert await following(taking) == [1, 2, 3]
    assert (stream.acked, stream.enable_acks) == ([], False)
    stream.put(4)
    assert await following(taking) == [4]
    assert stream.acked == [1, 2, 3]
    stream.put(None)
    assert [event async for batch in taking for event in batch] == []
    assert stream.acked == [1, 2, 3, 4]


async def test_no_more_than_the_most_is_taken_and_nothing_is_left_over_or_taken_twice() -> None:
    stream = Stream()
    stream.put(*range(100), None)
    found = [list(batch) async for batch in batches(stream, most=7)]
    assert [event for batch in found for event in batch] == list(range(100)) == stream.acked
    assert max(map(len, found)) <= 7


async def test_while_a_batch_is_worked_on_the_stream_keeps_all_but_one() -> None:
    """The stream's queue is bounded and pauses the fetch: what piled up here would not be."""
    stream = Stream()
    stream.put(1)
    taking = batches(stream)
    assert await following(taking) == [1]
    stream.put(*range(50))
    for _ in range(20):
        await asyncio.sleep(0)
    assert stream.queue.qsize() >= 49
    assert stream.acked == []


async def test_one_that_waits_is_handed_out_although_nothing_follows() -> None:
    """A rebalance waits for the end of what was handed out, and nothing comes meanwhile."""
    stream = Stream()
    taking = batches(stream, most=256, within_s=0.001)
    waiting = asyncio.ensure_future(following(taking))
    await asyncio.sleep(0)
    stream.put("only")
    assert await waiting == ["only"]


async def test_what_reading_raises_is_raised_after_what_came_before_it() -> None:
    stream = Stream()
    stream.put(1, ValueError("broken"))
    taking = batches(stream, within_s=0.01)
    assert await following(taking) == [1]
    with pytest.raises(ValueError, match="broken"):
        await following(taking)


async def test_a_cancelled_one_reads_no_further_and_acknowledges_nothing() -> None:
    stream = Stream()
    waiting = asyncio.ensure_future(following(batches(stream)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    stream.put(1)
    await asyncio.sleep(0)
    assert stream.acked == []
