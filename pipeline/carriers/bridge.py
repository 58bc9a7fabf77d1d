"""Libraries that speak asyncio, for callers that block: one thread with a loop of its own for each place."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TimedOut
from typing import Any, TypeVar

from pipeline.carriers.protocol import Unreachable

T = TypeVar("T")


class Bridge:
    """Runs coroutines in a thread that is started when it is first needed, and ends with the process."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn = threading.Lock()

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """What `work` returns or raises; `Unreachable` where it takes longer, which ends it."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._running())
        try:
            return future.result(timeout_s)
        except TimedOut:
            future.cancel()
            raise Unreachable("TIMEOUT") from None

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._turn:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name=self._name, daemon=True).start()
            return self._loop
