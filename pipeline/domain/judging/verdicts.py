"""What the gate says of a landing record, and of which position it says it."""

import msgspec

from pipeline.domain.event import EntityType, Event
from pipeline.domain.head import Head
from pipeline.domain.identifiers import NO_REVISION, Millis
from pipeline.domain.judging.policy import Policy
from pipeline.domain.records import Accepted, Control, Decision, DecisionKind, Dropped, Reason


class Position(msgspec.Struct, frozen=True):
    """A landing position; `timestamp` is the broker's, and the gate's clock."""

    entity_type: EntityType
    epoch: int
    partition: int
    offset: int
    timestamp: Millis


class Broken(msgspec.Struct, frozen=True):
    """A record that can't be judged: the rule that it breaks and what to do, without any value of it."""

    reason: Reason
    field: str | None
    rule: str
    remedy: str


class Send(msgspec.Struct, frozen=True):
    """A record for another log: that of `key`, or, `everywhere`, of each partition of the entity type's topic."""

    entity_type: EntityType
    key: bytes
    record: Event | Control
    everywhere: bool = False

    def __repr__(self) -> str:
        return f"Send({self.entity_type}, <redacted>)"


class Accept(msgspec.Struct, frozen=True):
    """A new revision: publish it, then store the head. `sends` are durable before the head is stored as well."""

    head: Head
    accepted: Accepted
    sends: tuple[Send, ...] = ()


class Suppress(msgspec.Struct, frozen=True):
    """No new revision: publish the decision, then store the head (None: it stays as it is)."""

    head: Head | None
    decision: Decision
    broken: Broken | None = None
    sends: tuple[Send, ...] = ()


class Redelivered(msgspec.Struct, frozen=True):
    """The position is at or below the head's: its outputs are durable, there is nothing to do."""


Verdict = Accept | Suppress | Redelivered


def decision_of(
    head: Head | None,
    at: Position,
    event: Event | None,
    policy: Policy,
    kind: DecisionKind,
    reason: Reason,
    *,
    detail: str = "",
    dropped: tuple[Dropped, ...] = (),
) -> Decision:
    """Decision on a position; `event` is None where the record could not be read, or is an order."""
    return Decision(
        topic=f"landing.{at.entity_type}",
        epoch=at.epoch,
        partition=at.partition,
        offset=at.offset,
        kind=kind,
        reason=reason,
        detail=detail,
        event_id=event.event_id if event is not None else None,
        content_hash=event.content_hash if event is not None else None,
        revision=head.revision if head is not None else NO_REVISION,
        dropped=dropped,
        received_at=event.received_at if event is not None else None,
        decided_at=at.timestamp,
        policy_version=policy.version,
    )


def moved(head: Head, at: Position) -> Head:
    """The head after a position that was applied."""
    return msgspec.structs.replace(head, epoch=at.epoch, position=at.offset)
