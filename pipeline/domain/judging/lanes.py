"""Which lane an accepted change takes: the first rule of the policy that holds."""

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from msgspec import UNSET

from pipeline.domain.bed import is_ready
from pipeline.domain.event import Allocation, AllocationStatus, Bed, Encounter, EventType, Payload, Place
from pipeline.domain.judging.policy import LaneRule, Policy
from pipeline.domain.records import Lane

DEFAULT_LANE = Lane.ROUTINE

CANDIDATES_BOUND: Final = 10_000
"""Kinds of change whose rules are kept; a kind is an event type with the names of the changed fields."""


class _Change(NamedTuple):
    event_type: EventType
    facility: str
    before: Payload | None
    after: Payload
    changed: Collection[str]
    where: Place | None


def lane_of(
    policy: Policy,
    event_type: EventType,
    facility: str,
    before: Payload | None,
    after: Payload,
    changed: Collection[str],
    where: Place | None = None,
) -> Lane:
    """Lane of a change from `before` (None for a first state) to `after`.

    `where` is the place that the event itself names: it counts for a bed whose own place no location master has told.
    """
    change = _Change(event_type, facility, before, after, changed, where)
    for rule in _candidates(policy, type(after), event_type, tuple(changed)):
        if _holds(rule, policy, change):
            return rule.lane
    return DEFAULT_LANE


def _candidates(policy: Policy, kind: type[Payload], event_type: EventType, changed: tuple[str, ...]) -> tuple[LaneRule, ...]:
    """The rules that can hold for such a change, whatever the values are; worked out once for each kind of change."""
    known: dict[object, tuple[LaneRule, ...]] = policy.__dict__.setdefault("_candidates", {})
    which = kind, event_type, changed
    rules = known.get(which)
    if rules is None:
        if len(known) >= CANDIDATES_BOUND:
            known.clear()
        tag = str(kind.__struct_config__.tag)
        rules = known[which] = tuple(rule for rule in policy.lanes_for(tag) if _may_hold(rule, event_type, changed))
    return rules


def _may_hold(rule: LaneRule, event_type: EventType, changed: Collection[str]) -> bool:
    return (
        (not rule.event_types or event_type in rule.event_types)
        and (not rule.changed or any(field in changed for field in rule.changed))
        and (not rule.only_changed or (bool(changed) and all(field in rule.only_changed for field in changed)))
        and all(path.partition(".")[0] in changed for path in (*rule.becomes, *rule.leaves))
        and (rule.later is None or rule.later in changed)
    )


def _holds(rule: LaneRule, policy: Policy, change: _Change) -> bool:
    """Whether a rule that can hold for such a change does, by its values."""
    before, after = change.before, change.after
    return (
        (not rule.becomes or _values_match(rule.becomes, after))
        and (not rule.leaves or (before is not None and _values_match(rule.leaves, before)))
        and (not rule.units or _touches(rule.units, policy, change))
        and (rule.ready is None or _becomes_ready(before, after) is rule.ready)
        and (not rule.promised_or_boarding or _promised_or_boarding(policy, change))
        and (rule.later is None or _moved_later(rule.later, before, after))
    )


def _values_match(wanted: Mapping[str, tuple[str, ...]], state: Payload) -> bool:
    """Each `field` or `field.part` named has one of the values."""
    for path, values in wanted.items():
        field, _, part = path.partition(".")
        value = getattr(state, field, None)
        if part and value is not UNSET:
            value = getattr(value, part, None)
        if value is None or value is UNSET or str(value) not in values:
            return False
    return True


def _touches(kinds: Collection[str], policy: Policy, change: _Change) -> bool:
    """Units before and after. A prior location counts only where this change states it: else it is that of an earlier move."""
    places = [_place_of(change.before), _place_of(change.after)]
    if isinstance(change.after, Encounter) and "prior_location" in change.changed:
        places.append(change.after.prior_location)
    if isinstance(change.after, Bed) and not isinstance(change.after.place, Place):
        places.append(change.where)
    units = {place.point_of_care for place in places if isinstance(place, Place) and place.point_of_care}
    return any(not policy.unit_kinds(change.facility, unit).isdisjoint(kinds) for unit in units)


def _place_of(state: Payload | None) -> object:
    match state:
        case Encounter(location=place) | Bed(place=place):
            return place
        case _:
            return None


def _becomes_ready(before: Payload | None, after: Payload) -> bool:
    return isinstance(after, Bed) and is_ready(after) is True and not (isinstance(before, Bed) and is_ready(before) is True)


def _promised_or_boarding(policy: Policy, change: _Change) -> bool:
    if not isinstance(change.after, Bed):
        return False
    allocation = change.after.allocation
    promised = isinstance(allocation, Allocation) and allocation.status is not AllocationStatus.NONE
    return promised or _touches(("boarding",), policy, change)


def _moved_later(field: str, before: Payload | None, after: Payload) -> bool:
    if before is None:
        return False
    old, new = getattr(before, field, None), getattr(after, field, None)
    return isinstance(old, int) and isinstance(new, int) and new > old
