"""The gate: one pure verdict on each landing record.

`decide` knows the entity's head, the record and the policy in force; its "now" is the record's landing time. Given the
same three it always says the same, so a redelivery changes nothing. What the shell must keep: outputs are durable
before the head is stored, and the head is stored before the record is acknowledged.
"""

from typing import Final, NamedTuple, assert_never

import msgspec
from msgspec import UNSET

from pipeline.domain.event import (
    PAYLOADS,
    Allocation,
    AllocationStatus,
    Bed,
    BedOccupancy,
    EntityType,
    Event,
    EventType,
    Occupancy,
    Payload,
)
from pipeline.domain.head import Clock, Head, Left, state_hash_of
from pipeline.domain.identifiers import NO_REVISION, revision_of
from pipeline.domain.judging.lanes import lane_of
from pipeline.domain.judging.merges import (
    CIRCLE,
    answered,
    closed,
    closes_a_circle,
    ends_the_record,
    expecting,
    is_redirected,
    redirect,
)
from pipeline.domain.judging.orders import obey
from pipeline.domain.judging.policy import Policy
from pipeline.domain.judging.precedence import clock_of, is_reset, older
from pipeline.domain.judging.referring import Resolve, as_it_stands, resolved_event, resolved_head
from pipeline.domain.judging.restating import awaits_of
from pipeline.domain.judging.verdicts import Accept, Broken, Position, Redelivered, Send, Suppress, Verdict, decision_of, moved
from pipeline.domain.records import Accepted, Control, DecisionKind, Dropped, Reason
from pipeline.domain.ring import EMPTY_RING, entry_of, find, with_entry

__all__ = ["Accept", "Broken", "Position", "Redelivered", "Send", "Suppress", "Verdict", "decide"]


def decide(
    head: Head | None,
    at: Position,
    key: bytes | None,
    record: Event | Control | Broken,
    policy: Policy,
    resolve: Resolve = as_it_stands,
) -> Verdict:
    """Judge one landing record. `resolve` says whom a reference means at this position, after the merges that it knows of.

    Checked in this order: already applied; readable and addressed to this entity; published twice; by a feed that is not
    live; ignored by rule; about a retired identity;
    each field: may the source say it, is it newer; does anything differ.
    """
    if head is not None and type(head.state) is not PAYLOADS[at.entity_type]:
        head = None  # the key is of another type's log: an offset there says nothing about an offset here
    if head is not None and revision_of(at.epoch, at.offset) <= head.at:
        return Redelivered()
    match record:
        case Broken():
            return _quarantine(head, at, None, record, policy)
        case Control():
            return obey(head, at, key, record, policy, resolve)
        case Event():
            broken = _check(at, key, record, policy)
            if broken is not None:
                return answered(head, at, record, _quarantine(head, at, record, broken, policy))
            return answered(head, at, record, _as_meant(head, at, record, policy, resolve))
        case _:
            assert_never(record)


def _as_meant(head: Head | None, at: Position, event: Event, policy: Policy, resolve: Resolve) -> Verdict:
    """Verdict on what is said of whom it means by now, the head's references being meant so too."""
    if resolve is as_it_stands:
        return _event(head, at, event, policy)
    meant = resolved_head(head, at.entity_type, resolve)
    is_mistake = isinstance(event.payload, Bed) and ends_the_record(event)
    verdict = _event(meant, at, event if is_mistake else resolved_event(event, resolve), policy)
    if head is None or meant is None or meant is head:
        return verdict
    if isinstance(verdict, Accept):
        names = {name for name in meant.state.__struct_fields__ if getattr(meant.state, name) != getattr(head.state, name)}
        changed = (*verdict.accepted.changed, *sorted(names.difference(verdict.accepted.changed)))
        return Accept(verdict.head, msgspec.structs.replace(verdict.accepted, changed=changed), verdict.sends)
    if isinstance(verdict, Suppress) and verdict.head is not None:
        # No revision says it yet; the order to look at the references again is on its way.
        kept = msgspec.structs.replace(verdict.head, state=head.state)
        return Suppress(kept, verdict.decision, verdict.broken, verdict.sends)
    return verdict


def _event(head: Head | None, at: Position, event: Event, policy: Policy) -> Verdict:
    seen = entry_of(event.event_id, event.content_hash)
    repeat = find(head.ring, seen) if head is not None else None
    if repeat is not None and head is not None:
        kind, reason = (
            (DecisionKind.DUPLICATE, Reason.REPEATED_ID) if repeat == seen else (DecisionKind.CONFLICT, Reason.CONTENT_DIFFERS)
        )
        return Suppress(moved(head, at), decision_of(head, at, event, policy, kind, reason))
    live = policy.live_feed(event.source_system, event.facility)
    if live is not None and live != event.feed:
        # Its id is not remembered: once the feed is live, a replay of it is decided anew.
        decision = decision_of(head, at, event, policy, DecisionKind.IGNORED, Reason.FEED_NOT_LIVE)
        return Suppress(moved(head, at) if head is not None else None, decision)
    for rule in policy.ignore:
        if _ignored(rule.entity, rule.event_types, rule.source_system, event):
            decision = decision_of(head, at, event, policy, DecisionKind.IGNORED, Reason.IGNORED_BY_RULE, detail=rule.reason)
            return Suppress(_noted(head, at, seen), decision)
    return _of_whom(head, at, event, seen, policy)


def _of_whom(head: Head | None, at: Position, event: Event, seen: bytes, policy: Policy) -> Verdict:
    """An event about a retired identity is its survivor's; one that says who survives closes the head, or is waited for."""
    if closes_a_circle(head, event):
        return _quarantine(head, at, event, CIRCLE, policy)
    if head is not None and head.retired is not None and is_redirected(head, event):
        redirected = redirect(head, head.retired, at, event, _rung(head, seen), policy)
        return _quarantine(head, at, event, redirected, policy) if isinstance(redirected, Broken) else redirected
    verdict = _merge(expecting(head, at, event, policy), at, event, seen, policy)
    if isinstance(verdict, Accept) and "merged_into" in verdict.accepted.changed:
        return closed(head, at, event, verdict)
    return verdict


def _ignored(entity: EntityType | None, types: tuple[EventType, ...], source: str | None, event: Event) -> bool:
    return (
        (entity is None or entity is event.entity_type)
        and (not types or event.event_type in types)
        and (source is None or source == event.source_system)
    )


_REQUIRED: Final = ("tenant", "facility", "source_system", "feed", "namespace", "entity_id")
_HEX_DIGITS: Final = "0123456789abcdef"


def _check(at: Position, key: bytes | None, event: Event, policy: Policy) -> Broken | None:
    if event.entity_type is not at.entity_type:
        return Broken(
            Reason.WRONG_TOPIC, "entity_type", f"this topic holds {at.entity_type} only", "publish it to its own landing topic"
        )
    if type(event.payload) is not PAYLOADS[event.entity_type]:
        return Broken(
            Reason.WRONG_TOPIC, "payload", "the payload is of the entity type", "send the payload that belongs to entity_type"
        )
    if not (event.tenant and event.facility and event.source_system and event.feed and event.namespace and event.entity_id):
        name = next(name for name in _REQUIRED if not getattr(event, name))
        return Broken(Reason.MISSING_FIELD, name, f"{name} is required", f"fill in {name} at the source, then replay")
    if event.key.encode() != key:
        return Broken(
            Reason.KEY_MISMATCH, None, "the record's key is the event's entity key", "key the record tenant|type|namespace|id"
        )
    if len(event.event_id) != 32 or len(event.content_hash) != 16 or (event.event_id + event.content_hash).strip(_HEX_DIGITS):
        return Broken(
            Reason.MISSING_FIELD, "event_id", "event_id has 32 hexadecimal digits, content_hash 16", "publish through a way in"
        )
    if event.recorded_at > at.timestamp + policy.future_skew_s * 1000:
        return Broken(
            Reason.FUTURE_TIME,
            "recorded_at",
            f"recorded at most {policy.future_skew_s} s after it lands",
            "set the source's clock or time zone, then replay",
        )
    return None


def _merge(head: Head | None, at: Position, event: Event, seen: bytes, policy: Policy) -> Verdict:
    role = policy.role_of(event.source_system)
    survivors: dict[str, object] = {}
    clocks = dict(head.clocks) if head is not None else {}
    dropped: list[Dropped] = []
    reset = False
    for name, value in zip(event.payload.__struct_fields__, msgspec.structs.astuple(event.payload), strict=True):
        if value is UNSET:
            continue
        rank = policy.rank(event.entity_type, name, role) if role is not None else None
        if rank is None:
            dropped.append(Dropped(name, Reason.UNKNOWN_SOURCE if role is None else Reason.FIELD_NOT_OWNED))
            continue
        known = clocks.get(name)
        clock = clock_of(event, rank, known)
        late = older(clock, known)
        if clock.sequence is not None and is_reset(clock, known):
            clock, reset = msgspec.structs.replace(clock, floor=clock.recorded), True
        if late is None and head is not None and name == "occupancy":
            late = _occupant_changed(head.state, value, event.event_type)
            head = _with_departure(head, value, clock) if late is not None else head
        if late is not None:
            dropped.append(Dropped(name, late))
            continue
        clocks[name] = clock
        survivors[name] = value
    if not survivors:
        return _none_survived(head, at, event, seen, policy, tuple(dropped))
    return _apply(head, at, event, seen, policy, _Merged(survivors, clocks, tuple(dropped), reset))


class _Merged(NamedTuple):
    survivors: dict[str, object]
    clocks: dict[str, Clock]
    dropped: tuple[Dropped, ...]
    reset: bool


def _none_survived(
    head: Head | None, at: Position, event: Event, seen: bytes, policy: Policy, dropped: tuple[Dropped, ...]
) -> Verdict:
    reasons = {d.reason for d in dropped}
    if not dropped:
        kind, reason = DecisionKind.NO_OP, Reason.SAME_STATE
    elif reasons <= {Reason.FIELD_NOT_OWNED, Reason.UNKNOWN_SOURCE}:
        kind, reason = DecisionKind.NOT_OWNER, dropped[0].reason
    else:
        kind = DecisionKind.STALE
        reason = next(d.reason for d in dropped if d.reason not in (Reason.FIELD_NOT_OWNED, Reason.UNKNOWN_SOURCE))
    return Suppress(_noted(head, at, seen), decision_of(head, at, event, policy, kind, reason, dropped=dropped))


def _apply(head: Head | None, at: Position, event: Event, seen: bytes, policy: Policy, merged: _Merged) -> Verdict:
    before = head.state if head is not None else PAYLOADS[event.entity_type]()
    changed = tuple([name for name, value in merged.survivors.items() if getattr(before, name) != value])
    ring = _rung(head, seen)
    if not changed and head is not None and head.revision:
        noted = msgspec.structs.replace(moved(head, at), clocks=merged.clocks, ring=ring)
        decision = decision_of(head, at, event, policy, DecisionKind.NO_OP, Reason.SAME_STATE, dropped=merged.dropped)
        return Suppress(noted, decision)
    state = msgspec.structs.replace(before, **{name: merged.survivors[name] for name in changed})
    revision = revision_of(at.epoch, at.offset)
    state_hash = state_hash_of(state)
    had_state = head is not None and bool(head.revision)
    accepted = Accepted(
        event_id=event.event_id,
        tenant=event.tenant,
        facility=event.facility,
        entity_type=event.entity_type,
        namespace=event.namespace,
        entity_id=event.entity_id,
        event_type=event.event_type,
        source_system=event.source_system,
        feed=event.feed,
        epoch=at.epoch,
        partition=at.partition,
        offset=at.offset,
        revision=revision,
        previous_revision=head.revision if head is not None else NO_REVISION,
        lane=lane_of(policy, event.event_type, event.facility, before if had_state else None, state, changed, event.location),
        changed=changed,
        dropped=merged.dropped,
        state=state,
        state_hash=state_hash,
        content_hash=event.content_hash,
        occurred_at=event.occurred_at,
        recorded_at=event.recorded_at,
        received_at=event.received_at,
        accepted_at=at.timestamp,
        policy_version=policy.version,
        sequence_reset=merged.reset,
        trace_id=event.trace_id,
        awaits=awaits_of(head.absorbed) if head is not None else (),
    )
    new = Head(
        epoch=at.epoch,
        position=at.offset,
        revision=revision,
        state_hash=state_hash,
        facility=event.facility,
        state=state,
        clocks=merged.clocks,
        ring=ring,
        event_id=event.event_id,
        content_hash=event.content_hash,
        recorded_at=event.recorded_at,
        received_at=event.received_at,
        retired=head.retired if head is not None else None,
        absorbed=head.absorbed if head is not None else (),
        left=head.left if head is not None else None,
    )
    return Accept(new, accepted)


def _with_departure(head: Head, value: object, clock: Clock) -> Head:
    """Remember who left without having been known to be there: a merge may tell that this was the occupant."""
    if not isinstance(value, BedOccupancy) or value.status is not Occupancy.VACANT or value.encounter is None:
        return head
    return msgspec.structs.replace(head, left=Left(value.encounter, clock.recorded))


_CANCELS: Final = frozenset({EventType.CANCEL_ADMIT, EventType.CANCEL_TRANSFER, EventType.CANCEL_DISCHARGE})


def _occupant_changed(state: Payload, value: object, event_type: EventType) -> Reason | None:
    """A departure ends only the stay of its own patient, and a cancel never puts a patient into a bed given away since."""
    if not isinstance(state, Bed) or not isinstance(value, BedOccupancy) or value.encounter is None:
        return None
    now = state.occupancy
    held = isinstance(now, BedOccupancy) and now.status is Occupancy.OCCUPIED and now.encounter is not None
    other = held and isinstance(now, BedOccupancy) and now.encounter != value.encounter
    if value.status is Occupancy.VACANT:
        return Reason.OCCUPANT_CHANGED if other else None
    promised = state.allocation
    given_away = (
        isinstance(promised, Allocation)
        and promised.status is not AllocationStatus.NONE
        and promised.encounter is not None
        and promised.encounter != value.encounter
    )
    return Reason.OCCUPANT_CHANGED if event_type in _CANCELS and (other or given_away) else None


def _quarantine(head: Head | None, at: Position, event: Event | None, broken: Broken, policy: Policy) -> Suppress:
    """The head stays as it is: a quarantined id is not "seen", so that its replay is judged anew."""
    decision = decision_of(head, at, event, policy, DecisionKind.QUARANTINED, broken.reason, detail=broken.rule)
    return Suppress(None, decision, broken)


def _rung(head: Head | None, seen: bytes) -> msgspec.Raw:
    return with_entry(head.ring if head is not None else EMPTY_RING, seen)


def _noted(head: Head | None, at: Position, seen: bytes) -> Head | None:
    """The head after an event that changed nothing: moved on, its id remembered. Nothing is kept of an unknown entity."""
    return msgspec.structs.replace(moved(head, at), ring=_rung(head, seen)) if head is not None else None
