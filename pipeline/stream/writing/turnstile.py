"""Where requests wait for the turn that a destination's rate allows: what is critical first."""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Final

from pipeline.domain.identifiers import Millis
from pipeline.domain.writing.pace import Pace
from pipeline.domain.writing.scheduler import CRITICAL_SHARE

Waiting = deque["asyncio.Future[None]"]


class Turnstile:
    """Lets one request after the other through. Who waits is bounded by who is allowed to be under way.

    A turn belongs to nobody before it comes, so what is critical takes the next one without another being added to it. After
    CRITICAL_SHARE critical ones in a row one of the others goes, as in the scheduler.
    """

    def __init__(self, pace: Pace, clock: Callable[[], Millis]) -> None:
        self._pace = pace
        self._clock = clock
        self._critical: Final[Waiting] = deque()
        self._others: Final[Waiting] = deque()
        self._in_a_row = 0
        self._timer: asyncio.TimerHandle | None = None

    async def turn(self, critical: bool) -> None:
        """Wait for a turn, and take it."""
        passed = asyncio.get_running_loop().create_future()
        (self._critical if critical else self._others).append(passed)
        self._open(self._clock())
        await passed

    def let_go(self) -> None:
        """Nobody's turn comes now: who waits goes on without, and has to look why."""
        for waiting in (self._critical, self._others):
            while waiting:
                _wake(waiting.popleft())

    def _open(self, now: Millis) -> None:
        while (waiting := self._next()) is not None:
            wait_ms = self._pace.wait_ms(now, critical=bool(self._critical))
            if wait_ms > 0:
                self._open_at(now, wait_ms)
                return
            self._in_a_row = self._in_a_row + 1 if waiting is self._critical else 0
            self._pace.start(now)
            _wake(waiting.popleft())

    def _next(self) -> Waiting | None:
        for waiting in (self._critical, self._others):
            while waiting and waiting[0].done():
                waiting.popleft()  # whoever waited was cancelled
        is_spent = self._in_a_row >= CRITICAL_SHARE and self._others
        return (self._critical if self._critical and not is_spent else self._others) or None

    def _open_at(self, now: Millis, wait_ms: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        due = Millis(now + math.ceil(wait_ms))
        self._timer = asyncio.get_running_loop().call_later(wait_ms / 1000, lambda: self._open(max(due, self._clock())))


def _wake(passed: "asyncio.Future[None]") -> None:
    if not passed.done():
        passed.set_result(None)
