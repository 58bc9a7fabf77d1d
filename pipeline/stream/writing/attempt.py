"""One attempt to bring one revision to a destination: read, build, send, and read back, within one deadline."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar, assert_never

from pipeline.destinations.protocol import (
    Absent,
    Ambiguous,
    Confirmed,
    Current,
    Destination,
    Newer,
    NotApplied,
    PendingWrite,
    ReadBack,
    Refused,
    Request,
    Retry,
    Suppressed,
    Unknown,
    VersionMismatch,
)
from pipeline.domain.identifiers import NO_REVISION, Millis, Revision
from pipeline.domain.records import Accepted, Lane, OutcomeKind, Reason, Would
from pipeline.domain.writing.pending import Pending
from pipeline.stream.writing.contact import Contact

T = TypeVar("T")

REREADS: Final = 3
"""Times that a write begins anew within one attempt because somebody else wrote first."""

READ_BACKS: Final = 3
"""Times that an unanswered write is looked for within one attempt."""


_NOT_READ: Final[Current | Absent | Refused | Retry] = Retry(Reason.TIMEOUT)
_NOT_TOLD: Final[ReadBack] = Unknown(Reason.TIMEOUT)


class Room(Protocol):
    """What an attempt needs of the delivery around it."""

    @property
    def destination(self) -> Destination: ...
    @property
    def contact(self) -> Contact: ...
    def now(self) -> Millis: ...
    def deadline(self) -> Millis: ...
    async def pace(self, critical: bool) -> None: ...
    def pause_s(self) -> float: ...
    def may_write(self, accepted: Accepted) -> bool: ...
    def cached(self, key: bytes) -> Current | None: ...
    def forget(self, key: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an attempt ended. `shown` is the revision that the destination showed before; `current` what it shows now.

    `era` is the one of `current`; in another it proves nothing.

    `would` and `fields` say of a write that was only compared what it would have done, and to which fields.
    """

    kind: OutcomeKind
    reason: Reason
    after_s: float = 0.0
    remote_id: str | None = None
    etag: str | None = None
    shown: Revision = NO_REVISION
    shown_hash: str | None = None
    current: Current | None = None
    era: int = 0
    took_ms: int = 0
    asked: int = 0
    would: Would | None = None
    fields: tuple[str, ...] = ()


class _Again:
    """Begin anew with a read."""


_AGAIN: Final = _Again()


class Attempt:
    """One attempt at one revision. Where the flags allow no more, it reads, builds and compares, and sends nothing.

    `is_ours`: whether the entity is ours still, and was all the time; asked just before sending.
    """

    def __init__(self, room: Room, key: bytes, is_ours: Callable[[], bool], pending: Pending, accepted: Accepted) -> None:
        self._room = room
        self._key = key
        self._is_ours = is_ours
        self._deadline_at = room.deadline()
        lane = pending.lane or accepted.lane
        attempt = pending.attempts + 1
        self._write = PendingWrite(
            accepted,
            pending.remote_id,
            pending.etag,
            attempt,
            self._deadline_at,
            lane,
            lambda: self._may_send() and self._may_write() and self._still_holds(),
        )
        self._shown = NO_REVISION
        self._shown_hash: str | None = None
        self._took_ms = self._asked = 0
        self._era = room.contact.era()
        """In which the destination showed what this attempt goes by."""
        self._kept = NO_REVISION
        """Revision of the body that was kept, until a read said whether the destination still has it."""

    async def run(self) -> Verdict | None:
        """The verdict; None if the partition went, a flag was flipped or a pause was asked for before anything was sent."""
        for _ in range(REREADS + 1):
            step = await self._once()
            if step is not _AGAIN:
                return step if isinstance(step, Verdict) else None
            self._room.forget(self._key)
        return self._verdict(OutcomeKind.FAILED, Reason.VERSION_MISMATCH)

    async def _once(self) -> Verdict | _Again | None:
        destination = self._room.destination
        current = kept = self._cached()
        if current is None:
            if not await self._has_turn():
                return None
            self._era = self._room.contact.era()
            current = await self._in_time(destination.read(self._write), _NOT_READ)
            if self._shows_less(current):
                self._room.contact.lost()
                return _AGAIN
            if isinstance(current, Current | Absent):
                self._era = self._room.contact.heard(self._era)
        match current:
            case Refused(reason):
                return self._held(reason)
            case Retry(reason, after_s):
                return self._verdict(OutcomeKind.FAILED, reason, after_s)
            case Current(revision=revision, state_hash=state_hash):
                self._shown, self._shown_hash = revision, state_hash
            case Absent():
                pass
            case _:
                assert_never(current)
        request = destination.build(self._write, current)
        match request:
            case Refused(reason):
                return self._held(reason)
            case Suppressed(reason, _):
                return self._suppressed(reason, current, kept is not None)
            case Request():
                return await self._send(request, current) if self._may_write() else self._compared(current)
            case _:
                assert_never(request)

    def _cached(self) -> Current | Absent | Refused | Retry | None:
        cached = self._room.cached(self._key) if self._may_write() else None
        self._era = self._room.contact.era()
        if cached is not None:
            self._kept = cached.revision
        return cached

    def _shows_less(self, read: Current | Absent | Refused | Retry) -> bool:
        """Whether the destination has lost what it once confirmed to us: it was restored, and no other body holds either."""
        kept, self._kept = self._kept, NO_REVISION
        match read:
            case Current(revision=revision):
                return revision < kept
            case Absent():
                return kept > NO_REVISION
            case _:
                return False

    def _suppressed(self, reason: Reason, current: Current | Absent, is_kept: bool) -> Verdict | _Again:
        if reason is Reason.ALREADY_THERE and isinstance(current, Current):
            if is_kept:
                # Nothing goes out whose condition would tell that somebody wrote since, and a repair may be for that.
                self._kept = NO_REVISION  # where no revision travels a read shows none, which is no less
                return _AGAIN
            return self._verdict(OutcomeKind.CONFIRMED, reason, remote_id=current.remote_id, etag=current.etag, current=current)
        if reason is Reason.NEWER_AT_DESTINATION and self._may_write():
            # A newer revision is at the destination and on its way to us: it will close this one.
            return self._verdict(OutcomeKind.FAILED, reason)
        return self._held(reason)

    def _may_write(self) -> bool:
        return self._room.may_write(self._write.accepted)

    def _may_send(self) -> bool:
        return self._is_ours() and self._room.pause_s() <= 0

    def _still_holds(self) -> bool:
        """Whether the destination was there all the time since it showed what the request goes by: else that may be of before
        a restore, and its version another's."""
        return self._room.contact.era() == self._era

    def _note_cut(self, reason: Reason) -> None:
        """A connection that was cut off may have been the destination's end: it may come back restored from a backup."""
        if reason is Reason.CONNECTION:
            self._room.contact.lost()

    def _held(self, reason: Reason) -> Verdict:
        """Nothing to send: given up where it would be written, and no more than noted where it is only compared."""
        if self._may_write():
            return self._verdict(OutcomeKind.PARKED, reason)
        return replace(self._verdict(OutcomeKind.SHADOWED, reason), would=Would.HOLD)

    def _compared(self, current: Current | Absent) -> Verdict:
        fields = self._room.destination.differences(self._write, current)
        if isinstance(current, Absent):
            return replace(self._verdict(OutcomeKind.SHADOWED, Reason.SHADOW), would=Would.CREATE, fields=fields)
        verdict = self._verdict(OutcomeKind.SHADOWED, Reason.SHADOW, remote_id=current.remote_id)
        return replace(verdict, would=Would.UPDATE if fields else Would.MARK, fields=fields)

    async def _send(self, request: Request, current: Current | Absent) -> Verdict | _Again | None:
        if not await self._has_turn():
            return None
        if not self._may_write():
            return self._compared(current)  # the flag was flipped while this waited for its turn
        if self._room.now() >= self._deadline_at:
            # Seen, or a destination that is slow to read from would be asked again and again, and never be known as slow.
            return self._verdict(OutcomeKind.FAILED, Reason.TIMEOUT)
        request = replace(request, write=self._write)
        if not self._still_holds():
            return _AGAIN
        outcome = await self._in_time(self._room.destination.send(request), Ambiguous(Reason.TIMEOUT))
        if isinstance(outcome, Confirmed):
            # All else can be said by what stands in the place of a destination that is away: a 404, a 403, a page.
            self._era = self._room.contact.heard(self._era)
        match outcome:
            case Confirmed():
                return self._confirmed(outcome, request)
            case Refused(reason):
                return self._verdict(OutcomeKind.PARKED, reason)
            case Retry(reason=Reason.NONE):
                return None
            case Retry(reason, after_s):
                # A 429 says that nothing was done: what was read still holds, and its version tells if it does not.
                kept = current if reason is Reason.RATE_LIMITED and isinstance(current, Current) else None
                return self._verdict(OutcomeKind.FAILED, reason, after_s, current=kept)
            case VersionMismatch():
                return _AGAIN
            case Ambiguous(reason):
                self._note_cut(reason)
                return await self._read_back(request)
            case _:
                assert_never(outcome)

    async def _read_back(self, request: Request) -> Verdict:
        """Neither failed nor done: ask. Not found now may still come true later; the version in the condition fences it."""
        self._room.forget(self._key)
        for _ in range(READ_BACKS):
            await self._pace()
            if (pause_s := self._room.pause_s()) > 0:
                return self._verdict(OutcomeKind.FAILED, Reason.AMBIGUOUS, pause_s)
            self._era = self._room.contact.era()
            answer = await self._in_time(self._room.destination.read_back(request), _NOT_TOLD)
            if isinstance(answer, Unknown):
                self._note_cut(answer.reason)
            match answer:
                case Confirmed():
                    self._era = self._room.contact.heard(self._era)
                    return self._confirmed(answer, None)
                case NotApplied() | Absent():
                    return self._verdict(OutcomeKind.FAILED, Reason.AMBIGUOUS)
                case Newer():
                    return self._verdict(OutcomeKind.FAILED, Reason.NEWER_AT_DESTINATION)
                case Unknown(after_s=after_s) if after_s > 0:
                    return self._verdict(OutcomeKind.FAILED, Reason.AMBIGUOUS, after_s)
                case Unknown():
                    continue
                case _:
                    assert_never(answer)
        return self._verdict(OutcomeKind.FAILED, Reason.AMBIGUOUS)

    def _confirmed(self, confirmed: Confirmed, request: Request | None) -> Verdict:
        current = None
        body = request.body if request is not None and request.method == "PUT" else confirmed.made
        if body is not None:
            accepted = self._write.accepted
            current = Current(confirmed.remote_id, confirmed.etag, body, accepted.revision, accepted.state_hash)
        return self._verdict(
            OutcomeKind.CONFIRMED, Reason.NONE, remote_id=confirmed.remote_id, etag=confirmed.etag, current=current
        )

    def _verdict(
        self,
        kind: OutcomeKind,
        reason: Reason,
        after_s: float = 0.0,
        *,
        remote_id: str | None = None,
        etag: str | None = None,
        current: Current | None = None,
    ) -> Verdict:
        return Verdict(
            kind, reason, after_s, remote_id, etag, self._shown, self._shown_hash, current, self._era, self._took_ms, self._asked
        )

    async def _has_turn(self) -> bool:
        """Wait for the turn; whether it may be used: the entity is ours, and the destination did not ask for a pause.

        Who waited through a pause would be in the way of what is critical at its end.
        """
        if not self._may_send():
            return False
        await self._pace()
        return self._may_send()

    async def _pace(self) -> None:
        """Wait for the turn that the rate allows; our own waiting is not held against the destination."""
        began_at = self._room.now()
        await self._room.pace(self._write.lane is Lane.CRITICAL)
        self._deadline_at = Millis(self._deadline_at + max(0, self._room.now() - began_at))
        self._write = replace(self._write, deadline_at=self._deadline_at)

    async def _in_time(self, call: Awaitable[T], late: T) -> T:
        """The call's answer, or `late` at the attempt's deadline."""
        self._asked += 1
        began_at = self._room.now()
        left_s = max(0.05, (self._deadline_at - began_at) / 1000)
        try:
            return await asyncio.wait_for(call, left_s)
        except TimeoutError:
            return late
        finally:
            self._took_ms = max(self._took_ms, self._room.now() - began_at)
