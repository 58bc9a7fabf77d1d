"""Entities of this worker whose newest revision was only compared, and which of them the flags let be written by now."""

from collections.abc import Callable
from typing import Protocol

from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Accepted
from pipeline.domain.writing.pending import Pending
from pipeline.domain.writing.scheduler import Entry


class Rollout(Protocol):
    """The flags in force, as a delivery asks them: for each write, so in microseconds."""

    @property
    def since(self) -> Millis:
        """Since when these flags are in force."""
        ...

    def may_write(self, accepted: Accepted) -> bool:
        """Whether this state is written; else it is only compared."""
        ...


class Unrestricted:
    """No flags: everything is written."""

    since = Millis(0)

    def may_write(self, accepted: Accepted) -> bool:
        """See `Rollout`."""
        return True


class Shadows:
    """Says as what an entity competes. It follows from pending and flags alone, so a crash at any point changes nothing:

    whoever has the partition next finds the compared ones in the table and asks its flags.
    """

    def __init__(self, rollout: Rollout, decode: Callable[[bytes], Accepted], clock: Callable[[], Millis]) -> None:
        self._rollout = rollout
        self._decode = decode
        self._clock = clock
        self._is_open: dict[bytes, bool] = {}

    def entry(self, key: bytes, pending: Pending) -> Entry | None:
        """The entity's place in the queue; None if there is nothing to write.

        One that was only compared waits since the flags let it: its own time was spent on purpose.
        """
        if not pending.is_shadowed or pending.newest is None:
            self.forget(key)
            lane = pending.lane
            if lane is None or not pending.is_due:
                return None
            since, lane_since = pending.since, pending.due[lane].since
            not_before = pending.waits_until(self._clock())
            return Entry(key, lane, since, not_before, lane_since if lane_since > since else Millis(0))
        accepted = self._decode(pending.newest)
        self._is_open[key] = self._rollout.may_write(accepted)
        if not self._is_open[key]:
            return None
        return Entry(key, accepted.lane, self._rollout.since, pending.waits_until(self._clock()))

    def forget(self, key: bytes) -> None:
        """It is written, or somebody else's."""
        self._is_open.pop(key, None)

    def keys(self) -> list[bytes]:
        """All whose newest revision was only compared, whether they wait to be written or not."""
        return list(self._is_open)

    @property
    def waiting(self) -> int:
        """Those that the flags let be written."""
        return sum(self._is_open.values())

    @property
    def count(self) -> int:
        """Those that stay compared."""
        return len(self._is_open) - self.waiting
