"""The publisher of a busy event loop: what the broker says is heard by the loop's own thread.

Each delivery report is a call of Python. On a thread of its own every one of them waits for the interpreter while the loop
works, hundreds of times in a row; between two steps of the loop none waits for anything.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

from pipeline.kafka.producer import POLL_S, OutRecord, Position, Publisher
from pipeline.kafka.window import FREE_BYTES

TICK_S: Final = 0.001
"""How often it is listened while records are on their way."""
IDLE_S: Final = 0.25
"""How often the thread listens: for what is said while nothing is on its way, and for a loop that is held up."""


class LoopPublisher(Publisher):
    """See `Publisher`."""

    _listening: asyncio.TimerHandle | None = None

    async def publish(self, records: Sequence[OutRecord]) -> Sequence[Position]:
        """See `Publisher.publish`."""
        if self._listening is None:
            self._listen_soon()
        return await super().publish(records)

    def is_quick(self) -> bool:
        """Whether the broker has been taking at once what it was given, for some seconds."""
        return self._window.limit_bytes >= FREE_BYTES

    def _listen_soon(self) -> None:
        self._listening = asyncio.get_running_loop().call_later(TICK_S, self._listen)

    def _listen(self) -> None:
        self._listening = None
        self._producer.poll(0)
        self._settle()
        if self._begun or self._waiting:
            self._listen_soon()

    def _settle(self) -> None:
        """On the loop's thread alone: nobody else takes from what is done."""
        finished = []
        while self._done:
            finished.append(self._done.popleft())
        self._finish(finished)

    def _hand_back(self) -> None:
        if self._done and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._settle)

    def _poll(self) -> None:
        while not self._stop.wait(IDLE_S):
            self._producer.poll(0)
            self._hand_back()
        self._producer.flush(self._flush_s)
        self._producer.purge()
        self._producer.flush(POLL_S)
        self._hand_back()
