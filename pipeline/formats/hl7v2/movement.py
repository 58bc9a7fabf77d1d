"""ZBE, the movement that a message is about (IHE PAM, ITI-30 and ITI-31): what its action and its flag make of a trigger. Pure.

A movement has an id (ZBE-1), a start (ZBE-2), an action (ZBE-4: INSERT, UPDATE, CANCEL) and says whether it is past (ZBE-5).
A past movement is history: it moves nobody now. An update or a cancel is about the movement of that id; which one that was is
for the sender's flag to say, so that neither is taken without id and flag. Z99 updates a movement whose trigger is in ZBE-6.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from msgspec import UNSET, UnsetType

from pipeline.domain.event import EventType
from pipeline.domain.identifiers import Millis
from pipeline.formats.hl7v2.datatypes import text_of
from pipeline.formats.hl7v2.er7 import Message, Segment
from pipeline.formats.hl7v2.reading import Reading
from pipeline.formats.hl7v2.triggers import BY_TRIGGER, Places, Rule, Says, Visit
from pipeline.formats.hl7v2.verdict import Ignored, Reason, Rejected

UPDATE_TRIGGER: Final = "Z99"


class Action(StrEnum):
    """ZBE-4."""

    INSERT = "INSERT"
    UPDATE = "UPDATE"
    CANCEL = "CANCEL"


PAST: Final = {"Y": True, "N": False}
"""ZBE-5."""

CANCELS: Final = frozenset({"A11", "A12", "A13", "A25", "A26", "A27", "A32", "A33", "A38", "A52", "A53"})
"""Triggers that take back a movement; all others that a movement can have insert one."""

PLANNED: Final = frozenset({"A05", "A14", "A15", "A16"})
"""Movements that are to come: their start is a plan, not when something happened."""


@dataclass(frozen=True, slots=True)
class Movement:
    """One ZBE."""

    name: str | None
    action: Action
    is_past: bool
    original: str | None

    def __repr__(self) -> str:
        return f"Movement({self.action}, past={self.is_past}, <redacted>)"


def segment_of(message: Message, is_read: bool) -> Segment | None:
    """The one ZBE of a message, if the profile reads it and there are not several."""
    found = message.segment("ZBE") if is_read else None
    return found if found is not None and message.segment("ZBE", 1) is None else None


def is_read(reading: Reading) -> bool:
    """Whether the profile takes ZBE for what IHE PAM says it is."""
    return reading.profile.movements == "IHE_PAM"


def name_of(reading: Reading) -> str | None:
    """ZBE-1.1."""
    segment = segment_of(reading.message, is_read(reading))
    return text_of(segment.value(1, 1)) if segment is not None else None


def inserted(reading: Reading) -> int | None:
    """Number of the movement that is inserted, where ZBE-1 is one; an update or a cancel has the number of an earlier one."""
    segment = segment_of(reading.message, is_read(reading))
    if segment is None or (text_of(segment.value(4)) or "").upper() != Action.INSERT:
        return None
    number = text_of(segment.value(1, 1)) or ""
    if not (number.isascii() and number.isdecimal() and len(number) < 19):
        reading.not_read("ZBE-1")
        return None
    return int(number)


def happened_at(reading: Reading, trigger: str) -> Millis | None:
    """ZBE-2, where the movement is one that has happened. A trigger of any kind that plans tells no such time."""
    segment = segment_of(reading.message, is_read(reading))
    if segment is None or PLANNED & {trigger, (text_of(segment.value(6)) or "").upper()}:
        return None
    moment = reading.time(segment, 2)
    return moment if isinstance(moment, int) else None


def planned_at(reading: Reading) -> Millis | UnsetType:
    """ZBE-2 of a movement that is to come."""
    moment = reading.time(segment_of(reading.message, is_read(reading)), 2)
    return moment if isinstance(moment, int) else UNSET


def ignored_of(reading: Reading) -> Ignored | None:
    """Verdict on the update of a movement whose first trigger the profile ignores: of a doctor, or of a ward in charge."""
    segment = reading.message.segment("ZBE")
    original = text_of(segment.value(6)) if segment is not None else None
    name = f"ADT^{(original or '').upper()}"
    return Ignored(f"{name} moves no capacity: named by the profile") if name in reading.profile.ignored else None


def ruled(reading: Reading, rule: Rule | None) -> Rule | Rejected:
    """The rule of the message's trigger as its movement bends it. `rule` is None for a Z99: its rule is that of ZBE-6."""
    segment = reading.message.segment("ZBE") if is_read(reading) else None
    if segment is None:
        if rule is not None:
            return rule
        return Rejected(
            Reason.SEGMENT_SEQUENCE, "ZBE", "an update of a movement without one", "send ZBE, with the movement's id in ZBE-1"
        )
    if reading.message.segment("ZBE", 1) is not None:
        return Rejected(Reason.SEGMENT_SEQUENCE, "ZBE", "sent more than once", "send one movement in a message")
    movement = _movement(segment)
    return movement if isinstance(movement, Rejected) else _bent(rule, movement)


def _movement(segment: Segment) -> Movement | Rejected:
    action = (text_of(segment.value(4)) or "").upper()
    if action not in Action.__members__:
        reason = Reason.UNKNOWN_CODE if action else Reason.MISSING_FIELD
        remedy = "send INSERT, UPDATE or CANCEL in ZBE-4; where ZBE is something else, set `movements: ignored` in the profile"
        return Rejected(reason, "ZBE-4", "not an action on a movement", remedy)
    name, flag = text_of(segment.value(1, 1)), (text_of(segment.value(5)) or "").upper()
    if flag not in PAST and (flag or action != Action.INSERT):
        reason = Reason.UNKNOWN_CODE if flag else Reason.MISSING_FIELD
        return Rejected(
            reason, "ZBE-5", "it can't be told whether the movement is past", "send Y (a past movement) or N in ZBE-5"
        )
    if name is None and action != Action.INSERT:
        return Rejected(Reason.AMBIGUOUS_IDENTITY, "ZBE-1", "it can't be told which movement", "send the movement's id in ZBE-1")
    return Movement(name, Action(action), PAST.get(flag, False), (text_of(segment.value(6)) or "").upper() or None)


def _bent(rule: Rule | None, movement: Movement) -> Rule | Rejected:
    if rule is None:
        if movement.action is not Action.UPDATE:
            return Rejected(
                Reason.UNKNOWN_CODE, "ZBE-4", "Z99 updates a movement and does nothing else", "send the trigger of what happened"
            )
        original = BY_TRIGGER.get(movement.original or "")
        if original is None or original.trigger in CANCELS:
            reason = Reason.UNKNOWN_CODE if movement.original else Reason.MISSING_FIELD
            return Rejected(
                reason, "ZBE-6", "not the trigger that a movement is inserted by", "send the movement's first trigger in ZBE-6"
            )
        rule = replace(original, meaning=f"update of a movement: {original.meaning}")
    elif rule.visit is Visit.REQUIRED and (rule.trigger in CANCELS) != (movement.action is Action.CANCEL):
        return Rejected(
            Reason.BAD_VALUE, "ZBE-4", "trigger and action contradict each other", "send CANCEL with a trigger that cancels"
        )
    return past(rule) if movement.is_past else rule


def past(rule: Rule) -> Rule:
    """The rule for a past movement: who the stay is of and when it began, and nothing of where anybody is now."""
    return Rule(
        rule.trigger,
        f"a past movement: {rule.meaning}",
        EventType.DEMOGRAPHICS,
        Says.NOTHING,
        places=Places.NONE,
        visit=rule.visit,
        is_past=True,
    )
