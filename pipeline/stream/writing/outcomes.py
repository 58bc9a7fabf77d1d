"""What a delivery says of a write: the outcome on the log, and what is shown as stuck."""

from dataclasses import dataclass

import msgspec

from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import EntityKey, EventId, Millis, Revision
from pipeline.domain.judging.merges import target_of
from pipeline.domain.records import Accepted, Lane, Outcome, OutcomeKind, Reason, Stuck
from pipeline.domain.writing.pending import Pending
from pipeline.domain.writing.scheduler import Entry
from pipeline.stream.writing.attempt import Verdict


@dataclass(frozen=True, slots=True)
class Job:
    """One write: what is due, and in which assignment of its partition it began."""

    key: bytes
    partition: int
    tenure: int
    pending: Pending
    accepted: Accepted


@dataclass(frozen=True, slots=True)
class Judged:
    """What an attempt amounts to. `attempts` are those so far that count; `retry_at` is None where none is to follow."""

    kind: OutcomeKind
    reason: Reason
    attempts: int
    retry_at: Millis | None


@dataclass(frozen=True, slots=True)
class Scribe:
    """Who says it, of which destination."""

    destination: str
    writer: str


Mark = tuple[str, Revision, OutcomeKind, int, Millis]


def mark_of(outcome: Outcome) -> Mark:
    """What tells an outcome from those of other writers and from earlier attempts at the same revision."""
    return outcome.writer, outcome.revision, outcome.kind, outcome.attempts, outcome.at


def outcome_of(job: Job, judged: Judged, verdict: Verdict, scribe: Scribe, after: Revision, now: Millis) -> Outcome:
    """Outcome of an attempt at a job's revision; `after` is the last revision confirmed before."""
    accepted, pending = job.accepted, job.pending
    return Outcome(
        destination=scribe.destination,
        tenant=accepted.tenant,
        entity_type=accepted.entity_type,
        namespace=accepted.namespace,
        entity_id=accepted.entity_id,
        kind=judged.kind,
        reason=judged.reason,
        revision=accepted.revision,
        after=after,
        partition=accepted.partition,
        event_id=accepted.event_id,
        content_hash=accepted.content_hash,
        state_hash=accepted.state_hash,
        lane=pending.lane or accepted.lane,
        remote_id=verdict.remote_id,
        etag=verdict.etag,
        attempts=judged.attempts,
        retry_at=judged.retry_at,
        would=verdict.would,
        fields=verdict.fields,
        open_since=pending.since or accepted.received_at,
        received_at=accepted.received_at,
        recorded_at=accepted.recorded_at,
        at=now,
        writer=scribe.writer,
        survivor=target_of(accepted.state),
    )


def earlier_outcome(job: Job, verdict: Verdict, scribe: Scribe, now: Millis) -> Outcome:
    """Outcome of the older revision that the destination showed.

    Its own event isn't at hand: all that is known of its times is that it was received after the oldest that is open.
    """
    judged = Judged(OutcomeKind.CONFIRMED, Reason.ALREADY_THERE, 1, None)
    outcome = outcome_of(job, judged, verdict, scribe, job.pending.confirmed, now)
    return msgspec.structs.replace(
        outcome,
        revision=verdict.shown,
        state_hash=verdict.shown_hash or "",
        event_id=EventId(""),
        content_hash="",
        survivor=None,
        remote_id=None,
        etag=None,
        would=None,
        fields=(),
        received_at=outcome.open_since,
        recorded_at=outcome.open_since,
    )


def stuck_of(key: bytes, pending: Pending, entry: Entry | None) -> Stuck:
    """An entity in trouble; its subject is the entity key, to be digested before it is shown.

    `entry` is its place in the queue, None where it does not wait: it knows since when one that was only compared does.
    """
    return Stuck(
        subject=key.decode(errors="replace"),
        entity_type=EntityType(EntityKey.decode(key).entity_type),
        lane=(entry.lane if entry is not None else pending.lane) or Lane.BULK,
        reason=pending.parked_reason if pending.is_parked else pending.last_reason,
        attempts=pending.attempts,
        since=entry.since if entry is not None else pending.since,
        revision=pending.newest_revision,
    )
