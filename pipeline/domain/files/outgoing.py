"""The life of a file that goes out: made once, put where its receiver finds it, and waited for until that is acknowledged.

Pure: `next_step` says what is to be done with a file, whatever happened before, so that a process that died anywhere is gone
on from by the next one. Each step may be done twice: the content and name of a file never change.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final

from msgspec import Meta
from msgspec.structs import replace

from pipeline.domain.event import Described, Redacted, Time
from pipeline.domain.identifiers import Millis

MAX_WAIT_MS: Final = 24 * 3_600_000
"""Longest time between two sendings of one file; the time doubles up to it."""


class OutKind(Described):
    """What a file that goes out holds."""

    CAPACITY = "CAPACITY", "capacity extract: every bed of some sites, no patient"
    AUDIT = "AUDIT", "entries of the audit log, each once, without a gap"
    SAFR = "SAFR", "bed capacity of one site as a FHIR MeasureReport (US SAFR)"


class OutStatus(Described):
    """Where a file that goes out stands."""

    MADE = "MADE", "its content is fixed and kept; it may not be there yet"
    SENT = "SENT", "it lies where its receiver finds it, who has not acknowledged it"
    OVERDUE = "OVERDUE", "not acknowledged in time; it is sent again, as it was"
    TAKEN = "TAKEN", "its receiver has taken it"
    REFUSED = "REFUSED", "its receiver does not take it, and says so"
    LOST = "LOST", "our copy was lost before it was acknowledged; a later file says what is so then"


class OutReason(Described):
    """Why a file stands where it does; bounded, because it is a metric label."""

    NONE = "NONE", "no further reason"
    NO_ACKNOWLEDGEMENT = "NO_ACKNOWLEDGEMENT", "its receiver has said nothing in time"
    HELD = "HELD", "its receiver holds it, and has not decided"
    OTHER_CONTENT = "OTHER_CONTENT", "the acknowledgement is of other content, or can't be read"
    BY_RECEIVER = "BY_RECEIVER", "its receiver refuses it; the acknowledgement says why"
    COPY_LOST = "COPY_LOST", "what was to be sent is gone from our disk"


CLOSED: Final = frozenset({OutStatus.TAKEN, OutStatus.REFUSED, OutStatus.LOST})


class FileOutState(Redacted, frozen=True, kw_only=True):
    """One file in the ledger of files that go out, topic `files.out`."""

    tenant: Annotated[str, Meta(description="organisation")]
    receiver: Annotated[str, Meta(description="who gets it, a name of the settings")]
    kind: Annotated[OutKind, Meta(description="what it holds")]
    file_id: Annotated[str, Meta(description="digest of tenant, receiver and name; 32 hexadecimal digits")]
    name: Annotated[str, Meta(description="its name, without .age")]
    encrypted: Annotated[bool, Meta(description="whether it is sent encrypted, as NAME.age")]
    status: Annotated[OutStatus, Meta(description="where it stands")]
    why: Annotated[OutReason, Meta(description="why it stands there")] = OutReason.NONE
    slot: Annotated[int, Meta(description="number of the period that it is of, from 1970 on")]
    facility: Annotated[str, Meta(description="SAFR: the site that it is of")] = ""
    sha256: Annotated[str, Meta(description="SHA-256 of its content, before it is encrypted")]
    size: Annotated[int, Meta(description="bytes of its content")]
    records: Annotated[int, Meta(description="records that it holds")]
    key_id: Annotated[str, Meta(description="key that its manifest is signed with")]
    created_at: Annotated[Time, Meta(description="when its content was true")]
    begins: Annotated[tuple[int, ...], Meta(description="AUDIT: offset that it begins at, per partition")] = ()
    reached: Annotated[tuple[int, ...], Meta(description="AUDIT: offset after its last entry, per partition")] = ()
    sends: Annotated[int, Meta(description="how often it was sent")] = 0
    sent_at: Annotated[Time | None, Meta(description="when it was last sent")] = None
    send_again_at: Annotated[Time | None, Meta(description="when it counts as overdue, and is sent again")] = None
    at: Annotated[Time, Meta(description="when this was written")]
    version: Annotated[int, Meta(description="rises with each record about this file")] = 1
    instance: Annotated[str, Meta(description="who wrote it")] = ""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an acknowledgement is waited for, and how often a file is sent."""

    first_ms: int
    max_sends: int


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What a receiver says of a file. `sha256` is that of which it speaks."""

    sha256: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An acknowledgement that says nothing that can be believed."""


@dataclass(frozen=True, slots=True)
class Send:
    """Put the file there, then write this down."""

    after: FileOutState


@dataclass(frozen=True, slots=True)
class Settle:
    """Write this down."""

    after: FileOutState


@dataclass(frozen=True, slots=True)
class Close:
    """Nothing more will happen to it: our copy may go."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is to be done now."""


Step = Send | Settle | Close | Wait

_TAKEN: Final = frozenset({"taken", "repeated"})
_NOT_THERE: Final = frozenset({OutStatus.LOST, OutStatus.REFUSED})


def file_out_id(tenant: str, receiver: str, name: str) -> str:
    """Id of a file: a name is given once."""
    digest = hashlib.sha256()
    for part in (tenant, receiver, name):
        data = part.encode()
        digest.update(len(data).to_bytes(4, "big") + data)
    return digest.hexdigest()[:32]


def covered(files: Iterable[FileOutState]) -> tuple[int, ...]:
    """How far exports go without a gap, per partition, from where the oldest one that is known begins.

    What its receiver did not get, because it was lost or refused, is not covered, though later ones were made before that was
    seen: from there on it comes again.
    """
    ordered = sorted(files, key=lambda each: (sum(each.begins), each.slot, each.at))
    reached = ordered[0].begins if ordered else ()
    for each in ordered:
        width = max(len(reached), len(each.begins), len(each.reached))
        now, begins, ends = (_padded(part, width) for part in (reached, each.begins, each.reached))
        if each.status not in _NOT_THERE and all(begin <= at for begin, at in zip(begins, now, strict=True)):
            reached = tuple(map(max, now, ends))
    return reached


def _padded(offsets: tuple[int, ...], width: int) -> tuple[int, ...]:
    return offsets + (0,) * (width - len(offsets))


def next_step(
    state: FileOutState, ack: Acknowledged | Unreadable | None, has_copy: bool, now: Millis, patience: Patience
) -> Step:
    """What is to be done with a file now.

    A file that was put there by a process that died before it said so is MADE still: it is put there again, or already
    acknowledged. An acknowledgement of other content settles nothing, but is told.
    """
    if state.status in CLOSED:
        return Close()
    why = OutReason.NONE
    match ack:
        case Acknowledged(sha256, outcome) if sha256 == state.sha256:
            if outcome in _TAKEN:
                return Settle(_to(state, OutStatus.TAKEN, OutReason.NONE, now))
            if outcome == "refused":
                return Settle(_to(state, OutStatus.REFUSED, OutReason.BY_RECEIVER, now))
            why = OutReason.HELD if outcome == "held" else OutReason.OTHER_CONTENT
        case Acknowledged() | Unreadable():
            why = OutReason.OTHER_CONTENT
        case None:
            pass
    if state.status is OutStatus.MADE:
        return Send(_sent(state, OutStatus.SENT, why, now, patience)) if has_copy else Settle(_lost(state, now))
    if why is OutReason.HELD:
        return Wait() if state.why is why else Settle(_to(state, state.status, why, now))
    if state.send_again_at is None or now < state.send_again_at:
        return Wait() if why in (OutReason.NONE, state.why) else Settle(_to(state, state.status, why, now))
    late = OutReason.NO_ACKNOWLEDGEMENT if why is OutReason.NONE else why
    if state.sends >= patience.max_sends:
        return Settle(replace(_to(state, OutStatus.OVERDUE, late, now), send_again_at=None))
    return Send(_sent(state, OutStatus.OVERDUE, late, now, patience)) if has_copy else Settle(_lost(state, now))


def _to(state: FileOutState, status: OutStatus, why: OutReason, now: Millis) -> FileOutState:
    return replace(state, status=status, why=why, at=now)


def _lost(state: FileOutState, now: Millis) -> FileOutState:
    return _to(state, OutStatus.LOST, OutReason.COPY_LOST, now)


def _sent(state: FileOutState, status: OutStatus, why: OutReason, now: Millis, patience: Patience) -> FileOutState:
    wait_ms = min(patience.first_ms << min(state.sends, 20), max(patience.first_ms, MAX_WAIT_MS))
    return replace(_to(state, status, why, now), sends=state.sends + 1, sent_at=now, send_again_at=Millis(now + wait_ms))
