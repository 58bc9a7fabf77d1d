"""How long a peer may be silent: a deadline per connection that is moved for each message without a timer being made anew."""

import asyncio
from typing import Final

NEVER: Final = float("inf")


class Patience:
    """Ends the wait of a reader with TimeoutError once its deadline has come. For one event loop.

    A timer is set only where none rings early enough; one that rings too early is set again. So a connection that is served
    well costs a comparison per message, where a timer of its own for each read would be made and cancelled.
    """

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._loop = asyncio.get_running_loop()
        self._until = NEVER
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, until: float) -> None:
        """From now on the reader waits for its peer, until this time of the loop."""
        self._until = until
        if self._timer is None or until < self._timer.when():
            self.close()
            self._timer = self._loop.call_at(until, self._ring)

    def end(self) -> None:
        """The reader waits no more."""
        self._until = NEVER

    def close(self) -> None:
        """Let the timer go. Safe to repeat."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        if self._until == NEVER:
            return
        if self._until <= self._loop.time():
            self._reader.set_exception(TimeoutError())
        else:
            self._timer = self._loop.call_at(self._until, self._ring)
