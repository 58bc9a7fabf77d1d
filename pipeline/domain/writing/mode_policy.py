"""The policy of modes, `modes.yaml`: at which waits a destination enters and leaves one, and what each freezes."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import msgspec

from pipeline.domain.event import EntityType, EventType
from pipeline.domain.judging.policy import BadPolicy, Text, Version
from pipeline.domain.records import Lane

Wait = Annotated[float, msgspec.Meta(gt=0, le=86_400, description="seconds")]
Dwell = Annotated[float, msgspec.Meta(ge=0.5, le=3_600, description="seconds; shorter ones would let a mode flap")]
ThawRate = Annotated[float, msgspec.Meta(ge=0.01, le=1_000, description="entities in a second")]

NEVER_FROZEN: Final = frozenset({EntityType.ENCOUNTER})
"""A stay may be what the next one in its bed waits for, and that may be critical."""


class FreezeRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Entities that wait; all conditions that are written must hold.

    `lanes`: the highest lane of an entity's unconfirmed changes. `entity_types`: empty for every type but encounter.
    `event_types`: holds only for an entity with one unconfirmed change, of one of these kinds; of several, the kinds of the
    older ones are not known, and freezing must never catch more than was meant.
    """

    why: Text
    lanes: Annotated[tuple[Lane, ...], msgspec.Meta(min_length=1)]
    entity_types: tuple[EntityType, ...] = ()
    event_types: tuple[EventType, ...] = ()

    def holds(self, lane: Lane, entity_type: EntityType, kind: EventType | None) -> bool:
        """Whether it freezes an entity; `kind` is of its one unconfirmed change, None where there are several."""
        return (
            lane in self.lanes
            and entity_type not in NEVER_FROZEN
            and (not self.entity_types or entity_type in self.entity_types)
            and (not self.event_types or kind in self.event_types)
        )


class Slowness(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of slow and of severe, and what is frozen in it."""

    enter_after_s: Wait
    leave_below_s: Wait
    calm_s: Dwell
    dwell_s: Dwell
    freezes: tuple[FreezeRule, ...] = ()


class Outage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The destination is back once the breaker was closed for `calm_s`."""

    calm_s: Dwell
    freezes: tuple[FreezeRule, ...] = ()


class Thaw(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The longest that a freeze lasts, and how many a second compete again from then on, those that waited longest first."""

    after_s: Wait
    per_s: ThawRate


class ModesFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`modes.yaml`: the modes of a destination."""

    version: Version
    slow: Slowness
    severe: Slowness
    outage: Outage
    thaw: Thaw


def mode_policy_from(document: Mapping[str, object]) -> ModesFile:
    """From the parsed file; BadPolicy lists what is wrong with it."""
    try:
        policy = msgspec.convert(document, ModesFile)
    except msgspec.ValidationError as error:
        raise BadPolicy([f"modes.yaml: {error}"]) from None
    problems = _problems(policy)
    if problems:
        raise BadPolicy([f"modes.yaml: {problem}" for problem in problems])
    return policy


def _problems(policy: ModesFile) -> Sequence[str]:
    problems = [
        f"{name}.leave_below_s: not lower than enter_after_s, so that the mode would flap"
        for name, bounds in (("slow", policy.slow), ("severe", policy.severe))
        if bounds.leave_below_s >= bounds.enter_after_s
    ]
    if policy.severe.enter_after_s < policy.slow.enter_after_s:
        problems.append("severe.enter_after_s: lower than slow.enter_after_s")
    for name, rules in (("slow", policy.slow.freezes), ("severe", policy.severe.freezes), ("outage", policy.outage.freezes)):
        for number, rule in enumerate(rules, 1):
            problems += [f"{name}.freezes.{number} ({rule.why}): {problem}" for problem in _freeze_problems(rule)]
    return problems


def _freeze_problems(rule: FreezeRule) -> Sequence[str]:
    problems = []
    if Lane.CRITICAL in rule.lanes:
        problems.append("critical is never frozen")
    problems += [f"{each} is never frozen: others wait for it" for each in rule.entity_types if each in NEVER_FROZEN]
    return problems
