"""What a delivery of each change needs of the worker around it, and is told to."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Accepted, OutcomeKind, Reason
from pipeline.stream.every.told import Told


class Observer(Protocol):
    """Told of each attempt and end; feeds metrics, lag windows and the log."""

    def attempted(self, accepted: Accepted, kind: OutcomeKind, reason: Reason) -> None:
        """An attempt ended."""
        ...

    def confirmed(self, accepted: Accepted, at: Millis) -> None:
        """A change is told."""
        ...

    def failed_inside(self, error: BaseException) -> None:
        """A fault of ours."""
        ...

    def gap(self, accepted: Accepted) -> None:
        """The history of an entity lacks the revision before this one."""
        ...


@dataclass(frozen=True, slots=True)
class Room:
    """`told` looks up what the table says of an entity, `is_assigned` whether a partition is ours at this moment, `keep` writes
    values of the table, durably."""

    told: Callable[[int, bytes], Told | None]
    is_assigned: Callable[[int], bool]
    keep: Callable[[Mapping[int, Mapping[bytes, bytes]]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of one destination's delivery. `max_attempts` are those that fail for a change's own sake."""

    rate_per_s: float
    max_attempts: int


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended. `remote_id` is the letter's own id."""

    kind: OutcomeKind
    reason: Reason
    remote_id: str | None = None
