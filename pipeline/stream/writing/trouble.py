"""Entities that somebody may have to look at: what was given up, what failed several times, what is over its deadline."""

from collections.abc import Mapping
from typing import Final

from pipeline.domain.records import Reason, Stuck
from pipeline.domain.writing.pending import Pending
from pipeline.domain.writing.scheduler import Entry
from pipeline.stream.writing.outcomes import stuck_of

STUCK_AFTER_ATTEMPTS: Final = 3
STUCK_LISTED: Final = 50
BEHIND_ANOTHER: Final = frozenset({Reason.PREREQUISITE, Reason.MERGE_OPEN})
"""What waits for the write of another entity, for too long."""


class Trouble:
    """Those of one worker's partitions."""

    def __init__(self) -> None:
        self._troubled: dict[bytes, Stuck] = {}
        self._parked: set[bytes] = set()

    def know(self, key: bytes, pending: Pending, entry: Entry | None) -> None:
        """What is pending of an entity, and its place in the queue; None where it does not wait."""
        hindered = pending.attempts >= STUCK_AFTER_ATTEMPTS or pending.last_reason in BEHIND_ANOTHER
        (self._parked.add if pending.is_parked else self._parked.discard)(key)
        if pending.is_parked or (entry is not None and hindered):
            self._troubled[key] = stuck_of(key, pending, entry)
        else:
            self.forget(key)

    def forget(self, key: bytes) -> None:
        """It is well, or somebody else's."""
        self._troubled.pop(key, None)
        self._parked.discard(key)

    def __contains__(self, key: object) -> bool:
        """Whether somebody may have to look at it."""
        return key in self._troubled

    @property
    def parked(self) -> int:
        """Entities given up."""
        return len(self._parked)

    def listed(self, overdue: Mapping[bytes, Stuck]) -> tuple[Stuck, ...]:
        """These and the ones over their deadline, longest first, at most STUCK_LISTED."""
        return tuple(sorted({**overdue, **self._troubled}.values(), key=lambda stuck: stuck.since)[:STUCK_LISTED])
