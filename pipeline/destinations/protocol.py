"""What a way out promises the writer. `build` is pure; only `read`, `send` and `read_back` touch the network.

Errors are values. None of these raises for anything that a destination can do, and none retries by itself: the writer
owns time, order and repetition.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Millis, Revision
from pipeline.domain.records import Accepted, Lane, Reason
from pipeline.formats.hl7v2.out_messages import Letter


def always() -> bool:
    """Nobody takes it back."""
    return True


@dataclass(frozen=True, slots=True)
class PendingWrite:
    """The newest revision of one entity, due at one destination.

    `remote_id` and `etag` are what the last confirmed write left, if known. `deadline_at` is the end of this attempt,
    in milliseconds of the epoch. `lane` is the highest of the changes that it makes known. `may_go`: whether it may still be
    written; a destination asks after whatever it waits for, just before it sends.
    """

    accepted: Accepted
    remote_id: str | None
    etag: str | None
    attempt: int
    deadline_at: Millis
    lane: Lane = Lane.ROUTINE
    may_go: Callable[[], bool] = field(default=always, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Current:
    """What the destination shows of the entity now. `revision` is 0 where it carries none ("unknown", not zero)."""

    remote_id: str
    etag: str | None
    body: dict[str, Any]
    revision: Revision
    state_hash: str | None

    def __repr__(self) -> str:
        return f"Current(revision={self.revision}, <redacted>)"


@dataclass(frozen=True, slots=True)
class Absent:
    """The destination has no such entity."""


@dataclass(frozen=True, slots=True)
class Request:
    """A write, ready to be sent. `method` and `target` are what the destination's protocol wants."""

    write: PendingWrite
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: dict[str, Any]

    def __repr__(self) -> str:
        return f"Request({self.method}, <redacted>)"


@dataclass(frozen=True, slots=True)
class Suppressed:
    """No write: the destination already shows it (`ALREADY_THERE`, confirms), shows something newer
    (`NEWER_AT_DESTINATION`, at `revision`), or can't be told (`RESERVATION_UNTELLABLE`, parks)."""

    reason: Reason
    revision: Revision


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The destination took the write. `made` is what a create made, as the server shows it: the next write needs no read."""

    remote_id: str
    etag: str | None
    revision: Revision
    made: dict[str, Any] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """It never will take this write."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Retry:
    """It did not take it now. `after_s` is the floor that the destination asked for (Retry-After), 0 for none.

    Reason NONE: it was never asked, because the write may not go any more.
    """

    reason: Reason
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class VersionMismatch:
    """Somebody else wrote first (409, 412): read again."""


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """It was sent and no answer came: neither failed nor done. Read back before writing again.

    `reason` is CONNECTION where the connection was cut off, TIMEOUT at the deadline, else what came in an answer's place.
    """

    reason: Reason = field(default=Reason.AMBIGUOUS, compare=False)


Outcome = Confirmed | Refused | Retry | VersionMismatch | Ambiguous


@dataclass(frozen=True, slots=True)
class NotApplied:
    """The destination shows an older revision: the ambiguous write did not happen (yet)."""


@dataclass(frozen=True, slots=True)
class Newer:
    """The destination shows a newer revision than the one asked for."""

    revision: Revision


@dataclass(frozen=True, slots=True)
class Unknown:
    """It can't be told; ask again after `after_s`."""

    reason: Reason
    after_s: float = 0.0


ReadBack = Confirmed | NotApplied | Absent | Newer | Unknown


class Destination(Protocol):
    """A way out. One file in this folder each; the conformance suite finds them by itself."""

    name: str
    role: Literal["owner", "replica"]
    delivery: Literal["latest", "every"]

    def expects(self, accepted: Accepted) -> bool:
        """Whether the profile maps this entity type: only then is an outcome due."""
        ...

    async def read(self, write: PendingWrite) -> Current | Absent | Refused | Retry:
        """What the destination shows now, by remote id if known, else by identifier (never patient data in a URL)."""
        ...

    def build(self, write: PendingWrite, current: Current | Absent) -> Request | Suppressed | Refused:
        """Replace only the owned paths on what was read, fenced by that read's version. Pure."""
        ...

    def differences(self, write: PendingWrite, current: Current | Absent) -> tuple[str, ...]:
        """Names of the fields that this write would change there, in order; never a value. Pure, sends nothing."""
        ...

    async def send(self, request: Request) -> Outcome:
        """Send once."""
        ...

    async def read_back(self, request: Request) -> ReadBack:
        """After `Ambiguous`: did it happen?"""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


class EveryDestination(Protocol):
    """A way out that is told of each change, in order per entity, and can't be asked what it shows: so nothing is read before
    a write, nor read back after an ambiguous one. It goes again, and the receiver knows it by the letter's own id.

    `window`: letters that may be under way at once, never two of one entity.
    """

    name: str
    role: Literal["owner", "replica"]
    delivery: Literal["every"]
    window: int

    @property
    def entity_types(self) -> frozenset[EntityType]:
        """What anything is told about."""
        ...

    def expects(self, accepted: Accepted) -> bool:
        """Whether it is told of this change: only then is an outcome due. Pure."""
        ...

    def build(self, accepted: Accepted) -> Letter | Refused:
        """What goes out: the same for the same record, byte for byte. Pure."""
        ...

    async def send(self, letter: Letter, may_go: Callable[[], bool] = always) -> Confirmed | Refused | Retry | Ambiguous:
        """Send once; `may_go` is asked just before the first byte. Retry of reason NONE: it may not go any more."""
        ...

    def cut(self) -> None:
        """Give up at once what is under way: it is ambiguous."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
