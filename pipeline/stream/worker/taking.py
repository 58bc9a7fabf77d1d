"""Polls of a Faust stream, several at a time: woken by what comes, where Faust's own `take_events` looks on a tick.

A tick of 2 ms costs a worker a twelfth of a processor while nothing comes, and each cycle the rest of a tick. What the stream's
queue holds is taken at once, and not one event for each turn of the loop.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from faust.types import EventT

from pipeline.stream.worker.eager import without_pause


class Taking:
    """Takes events from one stream. As with `take_events`, nothing is acknowledged before the caller is done with it, and no
    more than one event leaves the stream's bounded queue meanwhile."""

    def __init__(self, stream: Any, most: int, within_s: float) -> None:
        """At most `most` at a time; after the first, others are waited for `within_s`."""
        self._stream = stream
        self._most = most
        self._within_s = within_s
        self._taken: list[EventT[Any]] = []
        self._arrived = asyncio.Event()
        self._is_free = asyncio.Event()

    async def events(self) -> AsyncIterator[Sequence[EventT[Any]]]:
        """What has come, until the stream ends; acknowledged once the next is asked for. Raises what reading raises."""
        self._stream.enable_acks = False
        reading = asyncio.ensure_future(self._read())
        reading.add_done_callback(lambda _: self._arrived.set())
        try:
            while True:
                self._is_free.set()
                await self._arrived.wait()
                if not self._taken:
                    await reading  # it has ended, or the event would not be set
                    return
                if len(self._taken) < self._most:
                    await asyncio.sleep(self._within_s)
                self._is_free.clear()
                events = self._taken
                yield events
                for event in events:
                    await self._stream.ack(event)
                self._taken = []
                if not reading.done():
                    self._arrived.clear()
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({reading})

    async def _read(self) -> None:
        """Never holds an event back while the caller has none: a rebalance waits for the end of what was handed out."""
        events = aiter(self._stream.events())
        with contextlib.suppress(StopAsyncIteration):
            while True:
                event = await without_pause(anext(events))
                await self._is_free.wait()
                self._taken.append(event)
                self._arrived.set()
                if len(self._taken) >= self._most:
                    self._is_free.clear()
