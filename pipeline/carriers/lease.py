"""Who serves a place that has no locks: one cell in it that is changed on condition, and looked at by whoever waits.

No clock of one machine is compared with another's: who holds the cell changes it every few seconds, and who wants it takes it
once it has seen it unchanged for `LEASE_S` by its own clock. One that was cut off, or stopped, finds out when it comes
back; until then two may serve the place, which is why all work in it is harmless when it is done twice.
"""

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from pipeline.carriers.protocol import Unreachable

LEASE_S: Final = 60.0
"""What was not changed for so long is held by nobody."""
BEAT_S: Final = 15.0
"""How often the holder changes it."""


class Cell(Protocol):
    """One small file. `content` is its whole content; a cell that is held and one that isn't differ by being there."""

    def read(self) -> bytes | None:
        """What it holds; None where it is not there. Raises `Unreachable`, as all of these do."""
        ...

    def create(self, content: bytes) -> bool:
        """Make it; False where it is there."""
        ...

    def replace(self, content: bytes, before: bytes) -> bool:
        """Change it, if it still holds `before`."""
        ...

    def remove(self, before: bytes) -> None:
        """Remove it, if it still holds `before`."""
        ...


class _Held(msgspec.Struct):
    owner: str
    beat: int


class Lease:
    """Holds a cell for as long as this process lives. `owner` is INSTANCE/PROCESS/MORE, and must be no other's.

    An instance has one process at a time: what one of the same instance held before us is taken at our first look.
    """

    def __init__(self, cell: Cell, owner: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._cell = cell
        self._owner = owner
        self._clock = clock
        self._beat = 0
        self._beaten_at = 0.0
        self._has_looked = False
        self._ours: bytes | None = None
        self._seen: tuple[bytes, float] | None = None
        self._turn = threading.Lock()
        self._ended = threading.Event()

    def hold(self) -> bool:
        """Take the cell, or keep it; see `Carrier.hold`."""
        if self._ours is not None and self._clock() - self._beaten_at > LEASE_S:
            self.beat()  # it may be another's by now
        with self._turn:
            return True if self._ours is not None else self._take()

    def let_go(self) -> None:
        """Free it for the next at once, if the place can be reached; raises nothing."""
        self._ended.set()
        with self._turn:
            ours, self._ours, self._seen = self._ours, None, None
            if ours is not None:
                try:
                    self._cell.remove(ours)
                except Unreachable:
                    return  # whoever waits for it takes it once it has stood still for long enough

    def beat(self) -> None:
        """Show that we are there. What became another's meanwhile is ours no more."""
        with self._turn:
            if self._ours is not None:
                content = self._next()
                self._ours = content if self._cell.replace(content, self._ours) else None
                self._beaten_at = self._clock()

    def _take(self) -> bool:
        found = self._cell.read()
        content = self._next()
        is_first, self._has_looked = not self._has_looked, True
        if found is None:
            is_taken = self._cell.create(content)
        elif is_first and _instance_of(found) == _instance(self._owner):
            is_taken = self._cell.replace(content, found)
        elif self._seen is None or self._seen[0] != found:
            self._seen = (found, self._clock())
            return False
        else:
            is_taken = self._clock() - self._seen[1] > LEASE_S and self._cell.replace(content, found)
        if is_taken:
            self._ours, self._seen, self._beaten_at = content, None, self._clock()
            self._ended = threading.Event()
            threading.Thread(target=self._keep, args=(self._ended,), name="lease", daemon=True).start()
        return is_taken

    def _keep(self, ended: threading.Event) -> None:
        while not ended.wait(BEAT_S) and self._ours is not None:
            try:
                self.beat()
            except Unreachable:
                continue  # it is ours until somebody takes it, which the next beat tells

    def _next(self) -> bytes:
        self._beat += 1
        return msgspec.json.encode(_Held(self._owner, self._beat))


def _instance(owner: str) -> str:
    return owner.rsplit("/", 2)[0]


def _instance_of(found: bytes) -> str | None:
    try:
        return _instance(msgspec.json.decode(found, type=_Held).owner)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # the place may be open to others
        return None
