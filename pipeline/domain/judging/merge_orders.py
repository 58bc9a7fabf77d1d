"""What follows from a merge in the logs of others: a release, a merge taken back, references looked at again."""

import msgspec

from pipeline.domain.event import Bed, BedOccupancy, EventType, Occupancy, Payload, Reference
from pipeline.domain.head import Absorbed, Head
from pipeline.domain.identifiers import EntityKey, Millis, derive_event_id, revision_of
from pipeline.domain.judging.lanes import lane_of
from pipeline.domain.judging.merges import CIRCLE, HOPS, aliases, blank, link_of, release, reopening, with_absorbed
from pipeline.domain.judging.policy import Policy
from pipeline.domain.judging.referring import Resolve, resolved
from pipeline.domain.judging.restating import PIPELINE, Restated, awaits_of, order_decision, restate, suppressed
from pipeline.domain.judging.verdicts import Accept, Position, Send, Suppress, Verdict, moved
from pipeline.domain.records import Control, DecisionKind, MergeLink, Reason


def released(head: Head | None, at: Position, key: bytes | None, order: Control, policy: Policy) -> Verdict:
    """An identity merged into this one is closed, or is not: the writers are told by a new revision with the same state.

    Where this one is retired itself, the release goes on to its survivor. One that has been there before has proven a
    circle.
    """
    entity = EntityKey.decode(key or b"")
    own = Reference(entity.namespace, entity.id)
    if not order.trail or order.trail[-1].survivor != own:
        return suppressed(head, at, order, policy, DecisionKind.STALE, Reason.RELEASE)
    if order.undone:
        return _withdrawn(head, at, key, order, policy)
    known = _with_release(head or blank(at), at, order)
    if known.retired is None:
        return _told(head, known, at, key, order, policy, ())
    trail = (*order.trail, link_of(own, known.retired))
    circle = _circle(trail)
    if circle or len(trail) > HOPS:
        undone = (reopening(entity.tenant, at, _latest(circle)),) if circle else ()
        decision = order_decision(head, at, order, policy, DecisionKind.QUARANTINED, CIRCLE.reason)
        return Suppress(moved(known, at), msgspec.structs.replace(decision, detail=CIRCLE.rule), CIRCLE, undone)
    return _told(head, known, at, key, order, policy, (release(entity.tenant, at, trail, order.loser_revision),))


def _with_release(head: Head, at: Position, order: Control) -> Head:
    """One that came by way of another is not waited for: the one in between waits for it. What is older says nothing."""
    link, direct, recorded = order.trail[0], len(order.trail) == 1, _recorded(order)
    known = next((each for each in head.absorbed if each.loser == link.loser), None)
    if known is None:
        return with_absorbed(head, Absorbed(link.loser, order.loser_revision, at.timestamp, recorded, direct))
    if not direct and (known.expected or known.told >= order.loser_revision):
        return head  # its own word to us is still to come, or came later
    recorded = max(known.recorded, recorded)
    if known.told >= order.loser_revision:
        return with_absorbed(head, msgspec.structs.replace(known, recorded=recorded))
    return with_absorbed(head, Absorbed(link.loser, order.loser_revision, known.since, recorded, direct))


def _recorded(order: Control) -> Millis:
    return order.trail[0].recorded_at if order.answers is None else max(order.answers, order.trail[0].recorded_at)


def _told(
    before: Head | None, known: Head, at: Position, key: bytes | None, order: Control, policy: Policy, sends: tuple[Send, ...]
) -> Verdict:
    """A new revision where what is waited for has changed, else none."""
    awaited = awaits_of(before.absorbed) if before is not None else ()
    if known.revision and awaited != awaits_of(known.absorbed):
        return _with_sends(_restated(known, at, key, order, policy, known.state, ()), sends)
    decision = order_decision(known, at, order, policy, DecisionKind.CONTROL, Reason.RELEASE)
    return Suppress(moved(known, at), decision, sends=sends)


def _withdrawn(head: Head | None, at: Position, key: bytes | None, order: Control, policy: Policy) -> Verdict:
    """The merge did not come to pass, or is no longer in force. It may be told of before the survivor has heard of it."""
    head = head or blank(at)
    kept = _without(head, at, order)
    sends: tuple[Send, ...] = ()
    if head.retired is not None:
        entity = EntityKey.decode(key or b"")
        trail = (*order.trail, link_of(Reference(entity.namespace, entity.id), head.retired))
        if not _circle(trail) and len(trail) <= HOPS:
            sends = (release(entity.tenant, at, trail, order.loser_revision, undone=True),)
    return _told(head, kept, at, key, order, policy, sends)


def _without(head: Head, at: Position, order: Control) -> Head:
    """Where a newer merge of the same two is expected, this one is no longer of interest."""
    link, direct, recorded = order.trail[0], len(order.trail) == 1, _recorded(order)
    known = next((each for each in head.absorbed if each.loser == link.loser), None)
    if known is None:
        refused = Absorbed(link.loser, order.loser_revision, at.timestamp, recorded, refused=True)
        return with_absorbed(head, refused) if direct else head
    if known.told > order.loser_revision or known.direct is not direct:
        return head
    if known.expected and known.recorded > recorded:
        return with_absorbed(head, msgspec.structs.replace(known, told=order.loser_revision))
    recorded = max(known.recorded, recorded)
    return with_absorbed(head, Absorbed(link.loser, order.loser_revision, known.since, recorded, direct, refused=True))


def _circle(trail: tuple[MergeLink, ...]) -> tuple[MergeLink, ...]:
    """The merges at the trail's end that form a circle; none where they don't."""
    end = trail[-1].survivor
    start = next((place for place, link in enumerate(trail) if link.loser == end), None)
    return trail[start:] if start is not None else ()


def _latest(circle: tuple[MergeLink, ...]) -> MergeLink:
    """The merge that is taken back: the one recorded last. Whoever finds the circle finds the same one."""
    return max(circle, key=lambda link: (link.recorded_at, link.event_id))


def reopened(head: Head | None, at: Position, key: bytes | None, order: Control, policy: Policy) -> Verdict:
    """Take back the merge that the order names, if it is still the one in force."""
    entity = EntityKey.decode(key or b"")
    retired = head.retired if head is not None else None
    if head is None or retired is None or not order.trail or retired.event_id != order.trail[0].event_id:
        return suppressed(head, at, order, policy, DecisionKind.CONTROL, Reason.REOPEN)
    link = link_of(Reference(entity.namespace, entity.id), retired)
    state = msgspec.structs.replace(head.state, merged_into=None)
    accept = _restated(msgspec.structs.replace(head, retired=None), at, key, order, policy, state, ("merged_into",))
    withdrawn = release(entity.tenant, at, (link,), accept.head.revision, undone=True)
    return _with_sends(accept, (withdrawn, *aliases(entity.tenant, at, link, accept.head.revision, undone=True)))


def repointed(head: Head | None, at: Position, key: bytes | None, order: Control, policy: Policy, resolve: Resolve) -> Verdict:
    """The entity's references as they are meant by now. Their clocks stay: nobody has stated anything."""
    state = resolved(head.state, at.entity_type, resolve) if head is not None else None
    if head is None or state is None or state is head.state or not head.revision:
        return suppressed(head, at, order, policy, DecisionKind.CONTROL, Reason.REPOINT)
    state = _without_who_left(head, state)
    changed = tuple(name for name in state.__struct_fields__ if getattr(state, name) != getattr(head.state, name))
    return _restated(head, at, key, order, policy, state, changed)


def _without_who_left(head: Head, state: Payload) -> Payload:
    """A bed whose occupant turns out to be the one who has left it since."""
    now, known = (state.occupancy if isinstance(state, Bed) else None), head.clocks.get("occupancy")
    if not isinstance(state, Bed) or not isinstance(now, BedOccupancy) or head.left is None or known is None:
        return state
    if now.status is not Occupancy.OCCUPIED or now.encounter != head.left.encounter or head.left.recorded < known.recorded:
        return state
    return msgspec.structs.replace(state, occupancy=BedOccupancy(Occupancy.VACANT, now.encounter))


def _restated(
    head: Head, at: Position, key: bytes | None, order: Control, policy: Policy, state: Payload, changed: tuple[str, ...]
) -> Accept:
    """Of a position of its own: an order that is sent again may find something to do again, by what came in between."""
    entity, position = EntityKey.decode(key or b""), str(revision_of(at.epoch, at.offset))
    event_id = derive_event_id(entity.tenant, PIPELINE, (order.event_id, position), entity, 0)
    order = msgspec.structs.replace(order, event_id=event_id)
    lane = lane_of(policy, EventType.MERGE, head.facility, head.state, state, changed)
    return restate(head, at, key, order, policy, Restated(EventType.MERGE, state, changed, lane))


def _with_sends(accept: Accept, sends: tuple[Send, ...]) -> Accept:
    return Accept(accept.head, accept.accepted, sends)
