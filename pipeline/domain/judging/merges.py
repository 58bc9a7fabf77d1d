"""Merges: one identity is retired into another, each in its own log, most often in two partitions.

A merge is two events. The loser's states `merged_into`: its gate closes the head, tells the survivor's log up to which
revision (RELEASE), and redirects whatever comes later. The survivor's names the loser in `replaces`: from there on a
writer holds the survivor, until it has seen the release and what became of the loser. No gate ever waits for another.

Merges that contradict each other can close a circle of heads, each before it hears of the others. So a release that
comes to a retired identity goes on to its survivor, with the merges on its way; one that comes to an identity again has
proven a circle, and the merge in it that was recorded last is taken back.
"""

from typing import Final

import msgspec
from msgspec import UNSET

from pipeline.domain.event import (
    PAYLOADS,
    Encounter,
    EncounterStatus,
    EntityType,
    Event,
    EventType,
    Patient,
    Payload,
    Reference,
    sealed,
)
from pipeline.domain.head import Absorbed, Head, Retired
from pipeline.domain.identifiers import NO_REVISION, EntityKey, EventId, Millis, Revision, derive_event_id
from pipeline.domain.judging.policy import Policy
from pipeline.domain.judging.precedence import clock_of, older
from pipeline.domain.judging.referring import ALIAS_HOPS, referring
from pipeline.domain.judging.restating import PIPELINE
from pipeline.domain.judging.verdicts import Accept, Broken, Position, Send, Suppress, Verdict, decision_of, moved
from pipeline.domain.records import Control, ControlKind, DecisionKind, MergeLink, Outcome, Reason
from pipeline.domain.ring import EMPTY_RING

HOPS: Final = ALIAS_HOPS
"""Identities that may be retired into one another in a row; an event or a release that has come by as many goes no further."""

ABSORBED_KEPT: Final = 16
"""Identities merged into one that it remembers, the latest: of an earlier one a circle is found by its release only."""

ALIAS_KEY: Final = b"\x00alias|"
"""Beginning of the key of an alias in a landing topic, and of the one under which a partition keeps it; then the entity key."""

MERGES: Final = frozenset({EventType.MERGE, EventType.RENAME})
_FIELD: Final = "merged_into"

CIRCLE: Final = Broken(
    Reason.MERGE_CYCLE,
    _FIELD,
    f"no identity is merged into itself, nor by way of others, of which there are at most {HOPS}",
    "find out at the source which of the identities survives, have it send that merge again, then replay",
)


def identity_of(event: Event) -> Reference:
    """Whom the event is about."""
    return Reference(event.namespace, event.entity_id)


def target_of(payload: Payload) -> Reference | None:
    """The survivor that a payload states; None where it states none."""
    target = getattr(payload, _FIELD, None)
    return target if isinstance(target, Reference) else None


def key_of(tenant: str, entity_type: EntityType, reference: Reference) -> bytes:
    """Entity key of what a reference names."""
    return EntityKey(tenant, entity_type.value, reference.namespace, reference.id).encode()


def is_copy(outcome: Outcome, key: bytes | None) -> bool:
    """Whether an outcome's record is the copy for its survivor: it tells nothing new of its own entity, and out of order."""
    return outcome.survivor is not None and key == key_of(outcome.tenant, outcome.entity_type, outcome.survivor)


def may_merge(event: Event, policy: Policy) -> bool:
    """Whether the source may merge entities of this type: whether it may state `merged_into`."""
    role = policy.role_of(event.source_system)
    return role is not None and policy.rank(event.entity_type, _FIELD, role) is not None


def closes_a_circle(head: Head | None, event: Event) -> bool:
    """Whether the merge contradicts one that is known here already."""
    target = target_of(event.payload)
    if target is None and event.replaces is None:
        return False
    if identity_of(event) in (target, event.replaces):
        return True
    return target is not None and head is not None and any(each.loser == target and not each.refused for each in head.absorbed)


# -- the survivor


def expecting(head: Head | None, at: Position, event: Event, policy: Policy) -> Head | None:
    """The head, with the identity that the event merges into it as one that is waited for.

    Not for one that was redirected to here: the retired identity in between waits for that one, and this one for it.
    """
    if event.replaces is None or event.came_by or not may_merge(event, policy):
        return head
    head, recorded = head or blank(at), event.recorded_at
    known = next((each for each in head.absorbed if each.loser == event.replaces), None)
    if known is None:
        return with_absorbed(head, Absorbed(event.replaces, NO_REVISION, at.timestamp, recorded, expected=True))
    if known.recorded >= recorded:
        return head
    if known.is_awaited:
        return with_absorbed(head, msgspec.structs.replace(known, recorded=recorded))
    again = Absorbed(event.replaces, known.told, at.timestamp, recorded, expected=True)
    return with_absorbed(head, again)


def with_absorbed(head: Head, new: Absorbed) -> Head:
    """The head with what is known of one identity merged into it; of too many, one that is closed is forgotten first."""
    absorbed = [new if each.loser == new.loser else each for each in head.absorbed]
    if new not in absorbed:
        absorbed.append(new)
    if len(absorbed) > ABSORBED_KEPT:
        absorbed.remove(next((each for each in absorbed[:-1] if not (each.expected and each.is_awaited)), absorbed[0]))
    return msgspec.structs.replace(head, absorbed=tuple(absorbed))


def blank(at: Position) -> Head:
    """Head of an identity of which nothing is known but that another was merged into it."""
    state = PAYLOADS[at.entity_type]()
    return Head(at.epoch, at.offset, NO_REVISION, "", "", state, {}, EMPTY_RING, EventId(""), "", Millis(0), Millis(0))


# -- the loser


_MISTAKES: Final = frozenset({EncounterStatus.CANCELLED, EncounterStatus.ENTERED_IN_ERROR})


def ends_the_record(event: Event) -> bool:
    """Whether the event says that the record itself should not be, as senders do of a visit that they have merged away: it
    is about that record, and neither the survivor's end nor that of its stay in a bed."""
    is_mistake = isinstance(event.payload, Encounter) and event.payload.status in _MISTAKES
    return is_mistake or event.event_type in (EventType.CANCEL_ADMIT, EventType.DELETION)


def is_redirected(head: Head | None, event: Event) -> bool:
    """Whether the event is about a retired identity, and neither about its merge nor the record that it was."""
    if head is None or head.retired is None or getattr(event.payload, _FIELD, UNSET) is not UNSET:
        return False
    return not (isinstance(event.payload, Encounter) and ends_the_record(event))


def redirect(head: Head, retired: Retired, at: Position, event: Event, seen: msgspec.Raw, policy: Policy) -> Suppress | Broken:
    """Hand the event on to the survivor's log, with the id and clocks that it has; `seen` is the ring with it.

    One that this identity knew when it was closed, or that is older, is told by no one anew: a repeat from before the
    merge would take effect at a second entity.
    """
    own = identity_of(event)
    came_by = (*event.came_by, own)
    if retired.survivor in came_by or len(came_by) > HOPS:
        return CIRCLE
    noted = msgspec.structs.replace(moved(head, at), ring=seen)
    if event.replaces is None and (late := _known_here(head, event, policy)) is not None:
        kind = DecisionKind.NO_OP if late is Reason.SAME_STATE else DecisionKind.STALE
        return Suppress(noted, decision_of(head, at, event, policy, kind, late))
    payload = msgspec.structs.replace(event.payload, identifiers=UNSET) if isinstance(event.payload, Patient) else event.payload
    redirected = msgspec.structs.replace(
        event, namespace=retired.survivor.namespace, entity_id=retired.survivor.id, payload=payload, came_by=came_by
    )
    sends = (Send(at.entity_type, redirected.key.encode(), redirected),)
    decision = decision_of(head, at, event, policy, DecisionKind.CONTROL, Reason.FORWARDED)
    return Suppress(noted, decision, sends=sends)


def _known_here(head: Head, event: Event, policy: Policy) -> Reason | None:
    """Why the event says nothing that the retired identity did not know; None if it does, or may state none of it."""
    role = policy.role_of(event.source_system)
    late: list[Reason] = []
    for name in event.payload.__struct_fields__:
        value = getattr(event.payload, name)
        rank = policy.rank(event.entity_type, name, role) if role is not None and value is not UNSET else None
        if rank is None:
            continue
        known = head.clocks.get(name)
        clock = clock_of(event, rank, known)
        reason = older(clock, known)
        if reason is None and not (known == clock and getattr(head.state, name) == value):
            return None
        late.append(reason or Reason.SAME_STATE)
    return next((reason for reason in late if reason is not Reason.SAME_STATE), late[0] if late else None)


def closed(before: Head | None, at: Position, event: Event, accept: Accept) -> Accept:
    """The verdict on a statement of `merged_into` that was accepted: the head is closed, or opened again, and who has to
    know is told."""
    head, target = accept.head, target_of(accept.head.state)
    own, past = identity_of(event), before.retired if before is not None else None
    sends: list[Send] = []
    if past is not None and past.survivor != target:
        sends.append(release(event.tenant, at, (link_of(own, past),), head.revision, undone=True))
    if target is None:
        if past is not None:
            sends += aliases(event.tenant, at, link_of(own, past), head.revision, undone=True)
        return Accept(msgspec.structs.replace(head, retired=None), accept.accepted, tuple(sends))
    retired = Retired(target, head.revision, event.recorded_at, event.event_id)
    if event.event_type is EventType.RENAME and before is not None and before.revision:
        sends.append(_handover(before, event, target))
    sends.append(release(event.tenant, at, (link_of(own, retired),), head.revision))
    sends += aliases(event.tenant, at, link_of(own, retired), head.revision)
    return Accept(msgspec.structs.replace(head, retired=retired), accept.accepted, tuple(sends))


def answered(head: Head | None, at: Position, event: Event, verdict: Verdict) -> Verdict:
    """A merge that was not accepted here is no reason to hold the survivor: its log is told, whatever the reason was."""
    if event.event_type not in MERGES or not isinstance(verdict, Suppress):
        return verdict
    own, target = identity_of(event), target_of(event.payload)
    if target is None or target == own:
        return verdict
    if verdict.decision.kind is DecisionKind.DUPLICATE:
        return verdict
    known = head.retired if head is not None else None
    stands = known is not None and known.survivor == target
    link = link_of(own, known) if stands and known else MergeLink(own, target, event.recorded_at, event.event_id)
    revision = head.revision if head is not None else NO_REVISION
    told = known.revision if stands and known else revision
    send = release(event.tenant, at, (link,), told, undone=not stands, answers=event.recorded_at)
    return Suppress(verdict.head, verdict.decision, verdict.broken, (*verdict.sends, send))


# -- what is told


def link_of(own: Reference, retired: Retired) -> MergeLink:
    """The merge that retired an identity, as others are told of it."""
    return MergeLink(own, retired.survivor, retired.recorded, retired.event_id)


def release(
    tenant: str,
    at: Position,
    trail: tuple[MergeLink, ...],
    revision: Revision,
    *,
    undone: bool = False,
    answers: Millis | None = None,
) -> Send:
    """Tell the survivor at the trail's end that the identity at its beginning is closed, or that it is not its loser."""
    key = key_of(tenant, at.entity_type, trail[-1].survivor)
    return _order(ControlKind.RELEASE, tenant, at, trail, revision, key, undone=undone, answers=answers)


def reopening(tenant: str, at: Position, link: MergeLink) -> Send:
    """Order to take a merge back."""
    return _order(ControlKind.REOPEN, tenant, at, (link,), NO_REVISION, key_of(tenant, at.entity_type, link.loser))


def aliases(tenant: str, at: Position, link: MergeLink, revision: Revision, *, undone: bool = False) -> list[Send]:
    """Tell all whose entities may refer to an identity whom they mean by it from here on."""
    key = ALIAS_KEY + key_of(tenant, at.entity_type, link.loser)
    order = _order(ControlKind.ALIAS, tenant, at, (link,), revision, key, undone=undone).record
    return [Send(entity_type, key, order, everywhere=True) for entity_type in referring(at.entity_type)]


def _order(
    kind: ControlKind,
    tenant: str,
    at: Position,
    trail: tuple[MergeLink, ...],
    revision: Revision,
    key: bytes,
    *,
    undone: bool = False,
    answers: Millis | None = None,
) -> Send:
    """The same order has the same id, so that its repeat is one."""
    loser = key_of(tenant, at.entity_type, trail[0].loser)
    said = (kind.value, *(link.event_id for link in trail), str(revision), str(undone))
    order = Control(
        kind=kind,
        event_id=derive_event_id(tenant, PIPELINE, said, EntityKey.decode(loser), 0),
        actor="gate",
        at=at.timestamp,
        loser_revision=revision,
        trail=trail,
        undone=undone,
        answers=answers,
    )
    return Send(at.entity_type, key, order)


def _handover(before: Head, event: Event, target: Reference) -> Send:
    """The old number's state for the new one, as old as the oldest of it: it fills in what nobody has said there yet."""
    blanks = {name: UNSET for name in (_FIELD, "identifiers") if hasattr(before.state, name)}
    payload = msgspec.structs.replace(before.state, **blanks)
    key = EntityKey(event.tenant, event.entity_type.value, target.namespace, target.id)
    handed = Event(
        event_id=derive_event_id(event.tenant, PIPELINE, ("handover", event.event_id), key, 0),
        tenant=event.tenant,
        facility=before.facility,
        source_system=event.source_system,
        feed=event.feed,
        entity_type=event.entity_type,
        namespace=target.namespace,
        entity_id=target.id,
        event_type=EventType.RENAME,
        recorded_at=min((clock.recorded for clock in before.clocks.values()), default=event.recorded_at),
        received_at=event.received_at,
        payload=payload,
        came_by=(identity_of(event),),
    )
    return Send(event.entity_type, key.encode(), sealed(handed))
