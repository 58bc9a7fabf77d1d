"""Managed files, the way in: senders' folders are looked at, and a file is taken when its manifest is there and true.

"Yes" is NAME.ack.json with the outcome `taken`: every row of the file is acknowledged by the broker, landed or in
quarantine. While the broker is away or the way to it is full files stay where they are, unread.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import ClassVar, Final

from pipeline.carriers.protocol import Unreachable
from pipeline.sources.files.desk import Desk, FilesObserver, NotKept
from pipeline.sources.protocol import Sink

DRAIN_S: Final = 15.0
"""Longest time to finish what is in hand once asked to stop."""
AGAIN_S: Final = 2.0
"""Pause after a fault, or where the ledger could not be written; doubled each time a place can't be reached."""
LONGEST_PAUSE_S: Final = 60.0


class FilesSource:
    """Serves the folders of all senders, each by itself: one that is slow or broken holds up no other."""

    name: ClassVar[str] = "files"

    def __init__(self, desks: Sequence[Desk], observer: FilesObserver, poll_s: float, drain_s: float | None = None) -> None:
        """`poll_s`: how often a folder is looked at."""
        self._desks = desks
        self._observer = observer
        self._poll_s = poll_s
        self._drain_s = DRAIN_S if drain_s is None else drain_s
        self._serving: set[str] = set()

    @property
    def serving(self) -> frozenset[str]:
        """Senders whose folder this process looks at; others' are looked at by another process, or can't be opened."""
        return frozenset(self._serving)

    async def run(self, sink: Sink, stop: asyncio.Event) -> None:
        """See `Source`. What is in hand when it ends is finished, or gone on with after the next start."""
        tasks = [asyncio.create_task(self._serve(desk, sink, stop)) for desk in self._desks]
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
            stop.set()
            await asyncio.wait(tasks, timeout=self._drain_s)
        finally:
            for task in (stopped, *tasks):
                task.cancel()
            await asyncio.gather(stopped, *tasks, return_exceptions=True)

    async def _serve(self, desk: Desk, sink: Sink, stop: asyncio.Event) -> None:
        begun, away = False, 0
        try:
            while not stop.is_set():
                pause = self._poll_s
                try:
                    begun = await self._round(desk, sink, stop, begun)
                    away = 0
                except Unreachable as unreachable:
                    self._observer.waits(desk.name, unreachable.reason)
                    pause, away = min(LONGEST_PAUSE_S, AGAIN_S * 2**away), min(away + 1, 10)
                    self._serving.discard(desk.name)
                except NotKept:
                    self._observer.waits(desk.name, "UNAVAILABLE")
                    begun, pause = False, AGAIN_S
                except Exception as fault:  # noqa: BLE001 - one sender's folder must not end the others; it is told and tried again
                    self._observer.faulted(desk.name, fault)
                    begun, pause = False, AGAIN_S
                    self._serving.discard(desk.name)
                await _pause(stop, pause)
        finally:
            self._serving.discard(desk.name)
            await asyncio.to_thread(desk.unlock)

    async def _round(self, desk: Desk, sink: Sink, stop: asyncio.Event, begun: bool) -> bool:
        """One look, if the place is ours; whether what a process before us left is done with."""
        if not await asyncio.to_thread(desk.locked):
            self._serving.discard(desk.name)
            return False
        self._serving.add(desk.name)
        if not begun:
            await desk.begin(sink, stop)
        await desk.round(sink, stop)
        return True


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
