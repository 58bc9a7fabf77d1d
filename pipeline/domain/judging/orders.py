"""Orders of the pipeline itself to one entity's gate: send the state again, end what has come to its `until`.

An order carries no value of the entity: what goes out is what the gate holds. Those that follow from a merge are in
`merge_orders`.
"""

from collections.abc import Callable
from typing import Final, assert_never

import msgspec

from pipeline.domain.event import (
    Allocation,
    AllocationStatus,
    DiversionState,
    DiversionStatus,
    EntityType,
    EventType,
    Service,
    ServiceStatus,
)
from pipeline.domain.head import Head
from pipeline.domain.judging.lanes import lane_of
from pipeline.domain.judging.merge_orders import released, reopened, repointed
from pipeline.domain.judging.policy import Policy
from pipeline.domain.judging.referring import Resolve
from pipeline.domain.judging.restating import PIPELINE, Restated, order_decision, restate, suppressed
from pipeline.domain.judging.verdicts import Position, Suppress, Verdict
from pipeline.domain.records import Control, ControlKind, DecisionKind, Lane, Reason

__all__ = ["PIPELINE", "obey"]


def obey(head: Head | None, at: Position, key: bytes | None, order: Control, policy: Policy, resolve: Resolve) -> Verdict:
    """Judge one order. A policy and an alias are the whole partition's: the shell has put them into force."""
    match order.kind:
        case ControlKind.POLICY:
            decision = order_decision(head, at, order, policy, DecisionKind.CONTROL, Reason.POLICY)
            return Suppress(None, decision)
        case ControlKind.ALIAS:
            return Suppress(None, order_decision(head, at, order, policy, DecisionKind.CONTROL, Reason.ALIAS))
        case ControlKind.RELEASE:
            return released(head, at, key, order, policy)
        case ControlKind.REOPEN:
            return reopened(head, at, key, order, policy)
        case ControlKind.REPOINT:
            return repointed(head, at, key, order, policy, resolve)
        case ControlKind.REASSERT:
            if head is None or not head.revision:
                return suppressed(head, at, order, policy, DecisionKind.STALE, Reason.UNKNOWN_ENTITY)
            if head.revision != order.seen_revision:
                return suppressed(head, at, order, policy, DecisionKind.STALE, Reason.HEAD_MOVED)
            return restate(head, at, key, order, policy, Restated(EventType.REASSERT, head.state, (), Lane.BULK))
        case ControlKind.EXPIRE:
            return _expire(head, at, key, order, policy)
        case _:
            assert_never(order.kind)


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
        return suppressed(head, at, order, policy, DecisionKind.STALE, Reason.NOT_EXPIRED)
    if value.until is None or value.until != order.until or value.until > at.timestamp:
        return suppressed(head, at, order, policy, DecisionKind.STALE, Reason.NOT_EXPIRED)
    state = msgspec.structs.replace(head.state, **{field: after()})
    lane = lane_of(policy, EventType.EXPIRED, head.facility, head.state, state, (field,))
    return restate(head, at, key, order, policy, Restated(EventType.EXPIRED, state, (field,), lane))
