"""Orders of the pipeline itself to one entity's gate: send the state again, end what has come to its `until`.

An order carries no value of the entity: what goes out is what the gate holds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, assert_never

import msgspec

from pipeline.domain.event import (
    Allocation,
    AllocationStatus,
    DiversionState,
    DiversionStatus,
    EntityType,
    EventType,
    Payload,
    Service,
    ServiceStatus,
)
from pipeline.domain.head import Head, state_hash_of
from pipeline.domain.identifiers import EntityKey, EventId, revision_of
from pipeline.domain.lanes import lane_of
from pipeline.domain.policy import Policy
from pipeline.domain.records import Accepted, Control, ControlKind, Decision, DecisionKind, Lane, Reason
from pipeline.domain.verdicts import Accept, Position, Suppress, Verdict, decision_of, moved

PIPELINE: Final = "surgeline"
"""Source system of what the pipeline itself states: expiries and repairs."""


def obey(head: Head | None, at: Position, key: bytes | None, order: Control, policy: Policy) -> Verdict:
    """Judge one order."""
    match order.kind:
        case ControlKind.POLICY:
            decision = _order_decision(head, at, order, policy, DecisionKind.CONTROL, Reason.POLICY)
            return Suppress(None, decision)
        case ControlKind.REASSERT:
            if head is None or not head.revision:
                return _suppress_order(head, at, order, policy, DecisionKind.STALE, Reason.UNKNOWN_ENTITY)
            if head.revision != order.seen_revision:
                return _suppress_order(head, at, order, policy, DecisionKind.STALE, Reason.HEAD_MOVED)
            return _restate(head, at, key, order, policy, _Restated(EventType.REASSERT, head.state, (), Lane.BULK))
        case ControlKind.EXPIRE:
            return _expire(head, at, key, order, policy)
        case _:
            assert_never(order.kind)


@dataclass(frozen=True, slots=True)
class _Restated:
    event_type: EventType
    state: Payload
    changed: tuple[str, ...]
    lane: Lane


_AFTER_EXPIRY: Final[dict[tuple[EntityType, str], Callable[[], object]]] = {
    (EntityType.BED, "allocation"): lambda: Allocation(AllocationStatus.NONE),
    (EntityType.BED, "service"): lambda: Service(ServiceStatus.OPEN),
    (EntityType.DIVERSION, "state"): lambda: DiversionState(DiversionStatus.NORMAL),
}


def _expire(head: Head | None, at: Position, key: bytes | None, order: Control, policy: Policy) -> Verdict:
    """End a field that is still the one whose `until` was reached.

    Its clock stays that of the statement that ended: a prolongation made before the end, but landed after it, still wins.
    """
    field = order.field or ""
    after = _AFTER_EXPIRY.get((at.entity_type, field))
    value = getattr(head.state, field, None) if head is not None else None
    if head is None or after is None or not isinstance(value, (Allocation, Service, DiversionState)):
        return _suppress_order(head, at, order, policy, DecisionKind.STALE, Reason.NOT_EXPIRED)
    if value.until is None or value.until != order.until or value.until > at.timestamp:
        return _suppress_order(head, at, order, policy, DecisionKind.STALE, Reason.NOT_EXPIRED)
    state = msgspec.structs.replace(head.state, **{field: after()})
    lane = lane_of(policy, EventType.EXPIRED, head.facility, head.state, state, (field,))
    return _restate(head, at, key, order, policy, _Restated(EventType.EXPIRED, state, (field,), lane))


def _restate(head: Head, at: Position, key: bytes | None, order: Control, policy: Policy, new: _Restated) -> Verdict:
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
    )
    restated = msgspec.structs.replace(moved(head, at), revision=revision, state=new.state, state_hash=state_hash)
    return Accept(restated, accepted)


def _suppress_order(
    head: Head | None, at: Position, order: Control, policy: Policy, kind: DecisionKind, reason: Reason
) -> Suppress:
    return Suppress(moved(head, at) if head else None, _order_decision(head, at, order, policy, kind, reason))


def _order_decision(
    head: Head | None, at: Position, order: Control, policy: Policy, kind: DecisionKind, reason: Reason
) -> Decision:
    decision = decision_of(head, at, None, policy, kind, reason, detail=order.kind.value)
    return msgspec.structs.replace(decision, event_id=EventId(order.event_id))
