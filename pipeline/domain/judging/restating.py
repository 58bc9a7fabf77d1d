"""New revisions that no event made: an entity's state is sent out again, by an order of the pipeline."""

from dataclasses import dataclass
from typing import Final

import msgspec

from pipeline.domain.event import EventType, Payload
from pipeline.domain.head import Absorbed, Head, state_hash_of
from pipeline.domain.identifiers import NO_REVISION, EntityKey, EventId, revision_of
from pipeline.domain.judging.policy import Policy
from pipeline.domain.judging.verdicts import Accept, Position, Suppress, decision_of, moved
from pipeline.domain.records import Accepted, Await, Control, Decision, DecisionKind, Lane, Reason

PIPELINE: Final = "surgeline"
"""Source system of what the pipeline itself states: expiries, repairs and what follows from a merge."""


@dataclass(frozen=True, slots=True)
class Restated:
    """What is sent out: the state, which of its fields are new, why, and how urgently."""

    event_type: EventType
    state: Payload
    changed: tuple[str, ...]
    lane: Lane


def awaits_of(absorbed: tuple[Absorbed, ...]) -> tuple[Await, ...]:
    """What a writer waits for before it writes a survivor."""
    return tuple(
        Await(each.loser, NO_REVISION if each.expected else each.told, each.since) for each in absorbed if each.is_awaited
    )


def restate(head: Head, at: Position, key: bytes | None, order: Control, policy: Policy, new: Restated) -> Accept:
    """The head's state, or what the order makes of it, at a new revision."""
    entity = EntityKey.decode(key or b"")
    revision, state_hash = revision_of(at.epoch, at.offset), state_hash_of(new.state)
    accepted = Accepted(
        event_id=order.event_id,
        tenant=entity.tenant,
        facility=head.facility,
        entity_type=at.entity_type,
        namespace=entity.namespace,
        entity_id=entity.id,
        event_type=new.event_type,
        source_system=PIPELINE,
        feed=order.actor,
        epoch=at.epoch,
        partition=at.partition,
        offset=at.offset,
        revision=revision,
        previous_revision=head.revision,
        lane=new.lane,
        changed=new.changed,
        state=new.state,
        state_hash=state_hash,
        content_hash=head.content_hash,
        recorded_at=order.at,
        received_at=order.at,
        accepted_at=at.timestamp,
        policy_version=policy.version,
        awaits=awaits_of(head.absorbed),
    )
    restated = msgspec.structs.replace(moved(head, at), revision=revision, state=new.state, state_hash=state_hash)
    return Accept(restated, accepted)


def suppressed(head: Head | None, at: Position, order: Control, policy: Policy, kind: DecisionKind, reason: Reason) -> Suppress:
    """No new revision by this order."""
    return Suppress(moved(head, at) if head else None, order_decision(head, at, order, policy, kind, reason))


def order_decision(
    head: Head | None, at: Position, order: Control, policy: Policy, kind: DecisionKind, reason: Reason
) -> Decision:
    """The verdict on an order."""
    decision = decision_of(head, at, None, policy, kind, reason, detail=order.kind.value)
    return msgspec.structs.replace(decision, event_id=EventId(order.event_id))
