"""Accepted revisions and outcomes, made short for tests."""

from typing import Final

import msgspec

from pipeline.domain.event import Bed, EntityType, Environment, EventType
from pipeline.domain.head import state_hash_of
from pipeline.domain.identifiers import EntityKey, EventId, Millis, Revision, revision_of
from pipeline.domain.records import Accepted, Lane, Outcome, OutcomeKind, Reason

ENCODER: Final = msgspec.msgpack.Encoder()
DECODER: Final = msgspec.msgpack.Decoder(Accepted)
DESTINATION: Final = "ehr"
WRITER: Final = "ehr/one"


def key_of(bed: str) -> bytes:
    """Entity key of a bed."""
    return EntityKey("t", "bed", "N", bed).encode()


def change(
    offset: int,
    bed: str = "A",
    *,
    lane: Lane = Lane.ROUTINE,
    previous: int | None = None,
    received_at: int = 1_000,
    environment: Environment = Environment.DIRTY,
    partition: int = 0,
    epoch: int = 1,
) -> Accepted:
    """An accepted revision of a bed."""
    state = Bed(environment=environment)
    return Accepted(
        event_id=EventId(f"{offset:032x}"),
        tenant="t",
        facility="F",
        entity_type=EntityType.BED,
        namespace="N",
        entity_id=bed,
        event_type=EventType.UPDATE,
        source_system="capacity",
        feed="x",
        epoch=epoch,
        partition=partition,
        offset=offset,
        revision=revision_of(epoch, offset),
        previous_revision=revision_of(epoch, previous) if previous is not None else Revision(0),
        lane=lane,
        changed=("environment",),
        state=state,
        state_hash=state_hash_of(state),
        content_hash="0" * 16,
        recorded_at=Millis(received_at),
        received_at=Millis(received_at),
        accepted_at=Millis(received_at),
        policy_version="1",
    )


def outcome(
    accepted: Accepted,
    kind: OutcomeKind,
    *,
    after: int = 0,
    reason: Reason = Reason.NONE,
    attempts: int = 1,
    retry_at: int | None = None,
    etag: str | None = None,
    remote_id: str | None = None,
    at: int = 5_000,
    writer: str = WRITER,
) -> Outcome:
    """What became of a revision."""
    return Outcome(
        destination=DESTINATION,
        tenant=accepted.tenant,
        entity_type=accepted.entity_type,
        namespace=accepted.namespace,
        entity_id=accepted.entity_id,
        kind=kind,
        reason=reason,
        revision=accepted.revision,
        after=Revision(after),
        partition=accepted.partition,
        event_id=accepted.event_id,
        content_hash=accepted.content_hash,
        state_hash=accepted.state_hash,
        lane=accepted.lane,
        remote_id=remote_id,
        etag=etag,
        attempts=attempts,
        retry_at=Millis(retry_at) if retry_at is not None else None,
        open_since=accepted.received_at,
        received_at=accepted.received_at,
        recorded_at=accepted.recorded_at,
        at=Millis(at),
        writer=writer,
    )


def encoded(accepted: Accepted) -> bytes:
    """As the lanes carry it, in a plainer encoding."""
    return ENCODER.encode(accepted)


def decoded(data: bytes) -> Accepted:
    """Inverse of `encoded`."""
    return DECODER.decode(data)
