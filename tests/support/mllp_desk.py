"""A receiver of HL7 v2 on a loop of its own, at a port that stays the same while it goes away and comes back."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.local.ports import free_port
from tests.support.mllp_receiver import Receiver, listening
from tests.support.stacks import ANSWER_S


class Desk:
    """Not listening until `come`."""

    def __init__(self) -> None:
        self.receiver, self.port = Receiver(), free_port()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._closing: asyncio.Event | None = None
        self._open: Any = None

    def come(self) -> None:
        """Listen."""
        ready = threading.Event()
        self._open = asyncio.run_coroutine_threadsafe(self._listen(ready), self._loop)
        assert ready.wait(ANSWER_S)

    async def _listen(self, ready: threading.Event) -> None:
        self._closing = asyncio.Event()
        async with listening(self.receiver, self.port):
            ready.set()
            await self._closing.wait()

    def go(self) -> None:
        """Listen no more, and end every connection."""
        if self._closing is not None:
            self._loop.call_soon_threadsafe(self._closing.set)
            self._open.result(ANSWER_S)
            self._closing = None

    def end(self) -> None:
        self.go()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(ANSWER_S)


@contextmanager
def desk() -> Iterator[Desk]:
    """A desk that listens."""
    made = Desk()
    made.come()
    try:
        yield made
    finally:
        made.end()
