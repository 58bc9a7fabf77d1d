"""What one destination still has to be told about one entity, and what it was last told.

Pending is the value of the writer's table: at most one per entity, so a backlog is bounded by the number of entities.
It holds the newest revision only. The revisions between `confirmed` and the newest are open as a range: the outcome
that confirms a revision closes all that are older, in one record.
"""

from typing import Final

import msgspec

from pipeline.domain.identifiers import NO_REVISION, Millis, Revision
from pipeline.domain.judging.merges import ABSORBED_KEPT, key_of
from pipeline.domain.records import RANK, Accepted, Await, Lane, Outcome, OutcomeKind, Reason

PENDING_VERSION: Final = 1

LOSERS_KEPT: Final = 4 * ABSORBED_KEPT
"""Identities merged into an entity whose outcome is remembered, the latest; those that its newest record awaits come on top.
More than a record can await: they need not be told of in the order in which they were merged, and may be before the record."""

MAX_PUT_OFF_MS: Final = 3_630_000
"""Longest that anything is put off: the hour that a destination may ask for, and our own half minute. What says to wait for
longer was written by a clock that was ahead."""


class Due(msgspec.Struct, frozen=True, array_like=True):
    """Unconfirmed changes of one lane: the newest, and the oldest one's receipt and deadline."""

    revision: Revision
    since: Millis
    deadline: Millis


class Loser(msgspec.Struct, frozen=True, array_like=True):
    """What became of an identity that was merged into this one: the newest of its revisions that came to an end here.

    `is_awaited`: the newest record names it, and the next ones will; so it isn't forgotten.
    """

    key: bytes
    revision: Revision
    is_awaited: bool = False


class Pending(msgspec.Struct, frozen=True, array_like=True):
    """State of one entity at one destination.

    `generation` rises with each change: of two records of an entity the greater is the later. `newest` is the accepted
    record as it came, None once it is confirmed. `parked` is the revision that was given up, kept until a higher one is
    confirmed. `shadowed` is the one that was only compared: the record stays, since a flag may let it be written later.
    `not_before` is what the last attempt that failed said at `put_off_at`, by the clock of its writer.
    """

    generation: int
    partition: int
    newest: bytes | None
    newest_revision: Revision
    newest_hash: str
    due: dict[Lane, Due]
    confirmed: Revision
    remote_id: str | None
    etag: str | None
    parked: Revision
    parked_reason: Reason
    attempts: int
    not_before: Millis
    last_reason: Reason
    shadowed: Revision = NO_REVISION
    losers: tuple[Loser, ...] = ()
    put_off_at: Millis = Millis(0)

    def __repr__(self) -> str:
        return f"Pending(generation={self.generation}, revision={self.newest_revision}, <redacted>)"

    @property
    def lane(self) -> Lane | None:
        """Highest lane of its unconfirmed changes: a critical discharge followed by a routine update stays critical."""
        return min(self.due, key=RANK.__getitem__, default=None)

    @property
    def since(self) -> Millis:
        """Receipt of the oldest unconfirmed change; 0 for none."""
        return min((due.since for due in self.due.values()), default=Millis(0))

    @property
    def deadline(self) -> Millis:
        """Earliest deadline of its unconfirmed changes; 0 for none."""
        return min((due.deadline for due in self.due.values()), default=Millis(0))

    @property
    def is_due(self) -> bool:
        """Whether there is something to write: something newer than what was confirmed, given up or only compared."""
        return self.newest is not None and self.newest_revision > max(self.confirmed, self.parked, self.shadowed)

    def waits_until(self, now: Millis) -> Millis:
        """When it may be tried again; 0 for at once. What was put off at a time that is still to come was so by a clock that
        was ahead, and does not wait until ours gets there."""
        return Millis(min(self.not_before, now + MAX_PUT_OFF_MS)) if self.put_off_at <= now else Millis(0)

    @property
    def is_shadowed(self) -> bool:
        """Whether its newest revision was only compared: due again as soon as the flags let it be written."""
        return self.newest is not None and max(self.confirmed, self.parked) < self.newest_revision <= self.shadowed

    @property
    def is_parked(self) -> bool:
        """Whether it was given up and nothing newer has been confirmed since."""
        return self.parked > self.confirmed


EMPTY: Final = Pending(
    0, 0, None, NO_REVISION, "", {}, NO_REVISION, None, None, NO_REVISION, Reason.NONE, 0, Millis(0), Reason.NONE
)

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Pending)
_PREFIX: Final = bytes([PENDING_VERSION])


class UnknownPendingVersion(ValueError):
    """A pending record was written by a later version of this code."""


def encode_pending(pending: Pending) -> bytes:
    """Table value."""
    return _PREFIX + _ENCODER.encode(pending)


def decode_pending(data: bytes) -> Pending:
    """Inverse of `encode_pending`."""
    if data[:1] != _PREFIX:
        raise UnknownPendingVersion(f"pending version {data[0] if data else 'none'}, known: {PENDING_VERSION}")
    return _DECODER.decode(memoryview(data)[1:])


class Fork(ValueError):
    """One revision arrived with two states: an alarm, not a state."""


def on_accepted(pending: Pending | None, accepted: Accepted, encoded: bytes, deadline_s: float) -> Pending | None:
    """Pending after an accepted revision; None if nothing changes (it is older than what was confirmed, or a repeat).

    A newer revision replaces the newest at once: the history keeps the older one, and the range says that it is open.
    """
    known = pending or EMPTY
    if accepted.revision <= known.confirmed:
        return None
    if accepted.revision == known.newest_revision:
        if accepted.state_hash != known.newest_hash:
            raise Fork("one revision with two states")
        return None
    due = _with(known, accepted, deadline_s)
    if due == known.due and accepted.revision < known.newest_revision:
        return None
    changes: dict[str, object] = {"generation": known.generation + 1, "partition": accepted.partition, "due": due}
    if accepted.revision > known.newest_revision:
        changes |= {
            "newest": encoded,
            "newest_revision": accepted.revision,
            "newest_hash": accepted.state_hash,
            "attempts": 0,
            "not_before": max(known.not_before, 0) if known.is_due else 0,
            "losers": _awaited(known.losers, accepted) if known.losers else (),
        }
    return msgspec.structs.replace(known, **changes)


def _with(known: Pending, accepted: Accepted, deadline_s: float) -> dict[Lane, Due]:
    """What is due, with this revision; one that was compared already waits for nothing."""
    if accepted.revision <= known.shadowed:
        return known.due
    due = Due(accepted.revision, accepted.received_at, Millis(accepted.received_at + int(deadline_s * 1000)))
    before = known.due.get(accepted.lane)
    if before is not None:
        due = Due(max(due.revision, before.revision), min(due.since, before.since), min(due.deadline, before.deadline))
    return {**known.due, accepted.lane: due}


def on_outcome(pending: Pending | None, outcome: Outcome) -> Pending | None:
    """Pending after an outcome of its destination; None if nothing changes (it is older than what is known)."""
    known = pending or EMPTY
    match outcome.kind:
        case OutcomeKind.CONFIRMED:
            return _closed(known, outcome)
        case OutcomeKind.SHADOWED:
            return _compared(known, outcome)
        case OutcomeKind.PARKED:
            if outcome.revision <= max(known.parked, known.confirmed):
                return None
            return _given_up(known, outcome)
        case OutcomeKind.FAILED:
            if outcome.revision <= known.confirmed or outcome.revision < known.newest_revision:
                return None
            return msgspec.structs.replace(
                known,
                generation=known.generation + 1,
                partition=outcome.partition,
                attempts=outcome.attempts,
                not_before=outcome.retry_at or Millis(0),
                put_off_at=outcome.at,
                last_reason=outcome.reason,
            )


def on_loser(pending: Pending | None, partition: int, key: bytes, revision: Revision) -> Pending | None:
    """Pending after the end of a revision of an identity that is merged into this one; None if nothing changes.

    It may be told before the revision that waits for it has come.
    """
    known = pending or msgspec.structs.replace(EMPTY, partition=partition)
    if any(each.key == key and each.revision >= revision for each in known.losers):
        return None
    before = next((each for each in known.losers if each.key == key), None)
    told = Loser(key, revision, before is not None and before.is_awaited)
    losers = _kept((*(each for each in known.losers if each is not before), told))
    return msgspec.structs.replace(known, generation=known.generation + 1, losers=losers)


def _awaited(losers: tuple[Loser, ...], accepted: Accepted) -> tuple[Loser, ...]:
    """Those that are known, by what the newest record awaits."""
    named = {key_of(accepted.tenant, accepted.entity_type, each.loser) for each in accepted.awaits}
    return _kept(tuple(Loser(each.key, each.revision, each.key in named) for each in losers))


def _kept(losers: tuple[Loser, ...]) -> tuple[Loser, ...]:
    """All that are awaited, which the gate bounds, and the latest of the others."""
    others = [each for each in losers if not each.is_awaited]
    forgotten = {each.key for each in others[:-LOSERS_KEPT]}
    return tuple(each for each in losers if each.key not in forgotten)


def held_for(pending: Pending, accepted: Accepted) -> tuple[tuple[bytes, Await], ...]:
    """Identities merged into this one that are not closed at the destination yet, by key: it isn't written before.

    One that was given up or only compared has come to its end as well; it is shown as such by itself.
    """
    ended = {each.key: each.revision for each in pending.losers}
    named = [(key_of(accepted.tenant, accepted.entity_type, each.loser), each) for each in accepted.awaits]
    return tuple((key, each) for key, each in named if not each.revision or ended.get(key, NO_REVISION) < each.revision)


def _given_up(known: Pending, outcome: Outcome) -> Pending:
    """Parked; one that had only been compared before is shown as stuck from now on."""
    changes: dict[str, object] = {
        "generation": known.generation + 1,
        "partition": outcome.partition,
        "parked": outcome.revision,
        "parked_reason": outcome.reason,
    }
    if outcome.revision >= known.newest_revision:
        # A newer revision has its own attempts: what an older one used up must not park it at its first failure.
        changes |= {"attempts": outcome.attempts, "last_reason": outcome.reason}
    if known.is_shadowed and not known.due:
        changes["due"] = {outcome.lane: Due(outcome.revision, outcome.at, outcome.at)}
    return msgspec.structs.replace(known, **changes)


def _closed(known: Pending, outcome: Outcome) -> Pending | None:
    if outcome.revision <= known.confirmed:
        return None
    done = outcome.revision >= known.newest_revision
    return msgspec.structs.replace(
        known,
        generation=known.generation + 1,
        partition=outcome.partition,
        newest=None if done else known.newest,
        newest_revision=max(known.newest_revision, outcome.revision),
        newest_hash=outcome.state_hash if done else known.newest_hash,
        due={lane: _left_open(due, outcome) for lane, due in known.due.items() if due.revision > outcome.revision},
        confirmed=outcome.revision,
        remote_id=outcome.remote_id or known.remote_id,
        etag=outcome.etag,
        parked=known.parked if known.parked > outcome.revision else NO_REVISION,
        parked_reason=known.parked_reason if known.parked > outcome.revision else Reason.NONE,
        attempts=0,
        not_before=Millis(0),
        last_reason=Reason.NONE,
        shadowed=known.shadowed if known.shadowed > outcome.revision else NO_REVISION,
    )


def _compared(known: Pending, outcome: Outcome) -> Pending | None:
    """Nothing waits up to this revision, and nothing of it is confirmed: the newest record and its version stay."""
    if outcome.revision <= max(known.confirmed, known.shadowed):
        return None
    changes: dict[str, object] = {
        "generation": known.generation + 1,
        "partition": outcome.partition,
        "due": {lane: _left_open(due, outcome) for lane, due in known.due.items() if due.revision > outcome.revision},
        "remote_id": outcome.remote_id or known.remote_id,
        "shadowed": outcome.revision,
    }
    if outcome.revision >= known.newest_revision:
        changes |= {"attempts": 0, "not_before": Millis(0), "last_reason": Reason.NONE}
    return msgspec.structs.replace(known, **changes)


def _left_open(due: Due, outcome: Outcome) -> Due:
    """What is left of a lane's changes: none is older than the one just closed.

    Without this an entity that changes faster than it is written would keep its first change's age for ever.
    """
    later_ms = max(0, outcome.received_at - due.since)
    return Due(due.revision, Millis(due.since + later_ms), Millis(due.deadline + later_ms))


def join(one: Pending, other: Pending) -> Pending:
    """The later of two records of an entity, with nothing of the earlier forgotten that is still open.

    A resumed zombie may have written one of them. Whatever is open in either stays open: a needless write is harmless,
    because the destination's own revision stops it; a forgotten one is a loss. What either of them has compared needs no
    second look: it is due again when the flags say so.
    """
    late, early = (one, other) if one.generation >= other.generation else (other, one)
    confirmed, shadowed = max(one.confirmed, other.confirmed), max(one.shadowed, other.shadowed)
    newest = late if late.newest_revision >= early.newest_revision else early
    due: dict[Lane, Due] = {}
    for lane in {*one.due, *other.due}:
        known = [p.due[lane] for p in (one, other) if lane in p.due]
        merged = Due(max(d.revision for d in known), min(d.since for d in known), min(d.deadline for d in known))
        if merged.revision > confirmed:
            due[lane] = merged
    at = one if one.confirmed >= other.confirmed else other
    parked = max(one, other, key=lambda p: p.parked)
    return msgspec.structs.replace(
        late,
        generation=max(one.generation, other.generation),
        newest=newest.newest if newest.newest_revision > confirmed else None,
        newest_revision=newest.newest_revision,
        newest_hash=newest.newest_hash,
        due=due,
        confirmed=confirmed,
        remote_id=at.remote_id or late.remote_id or early.remote_id,
        etag=at.etag,
        parked=parked.parked if parked.parked > confirmed else NO_REVISION,
        parked_reason=parked.parked_reason if parked.parked > confirmed else Reason.NONE,
        attempts=newest.attempts,
        not_before=newest.not_before,
        put_off_at=newest.put_off_at,
        last_reason=newest.last_reason,
        shadowed=shadowed if shadowed > confirmed else NO_REVISION,
        losers=_losers(late, early, newest),
    )


def _losers(late: Pending, early: Pending, newest: Pending) -> tuple[Loser, ...]:
    """All that either knows; awaited are those that the one with the newest record says are."""
    known: dict[bytes, Revision] = {}
    for each in (*early.losers, *late.losers):
        known[each.key] = max(each.revision, known.pop(each.key, NO_REVISION))
    awaited = {each.key for each in newest.losers if each.is_awaited}
    return _kept(tuple(Loser(key, revision, key in awaited) for key, revision in known.items()))
