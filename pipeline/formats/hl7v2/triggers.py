"""ADT about one visit: what each trigger says, as data. `docs/mapping/adt.md` shows it; `adt.py` reads messages by it. Pure."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from pipeline.domain.event import EncounterStatus, EventType


class Says(StrEnum):
    """What a trigger says about one side of the visit."""

    NOTHING = "nothing"
    BY_CLASS = "finished if PV1-45 is a time, else by PV1-2 (table 0004)"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    IN_PROGRESS = "in progress"
    PLANNED = "planned"
    PLANNED_BY_CLASS = "planned if PV1-2 is P, else nothing: the patient may be here already"
    CANCELLED_BY_CLASS = "cancelled if PV1-2 is P, else nothing: the patient may be here and stay"
    ON_LEAVE = "on leave"
    IN_ERROR = "entered in error"


STATUS_OF: Final = {
    Says.FINISHED: EncounterStatus.FINISHED,
    Says.CANCELLED: EncounterStatus.CANCELLED,
    Says.IN_PROGRESS: EncounterStatus.IN_PROGRESS,
    Says.PLANNED: EncounterStatus.PLANNED,
    Says.ON_LEAVE: EncounterStatus.ONLEAVE,
    Says.IN_ERROR: EncounterStatus.ENTERED_IN_ERROR,
}
"""What a trigger that names a status says; the others say nothing, or depend on PV1."""


class Moves(StrEnum):
    """What a trigger does to the bed of PV1-3."""

    NOBODY = "nothing"
    IN = "occupied by this visit; vacant of this visit if the visit is finished"
    OUT = "vacant of this visit"


class Places(StrEnum):
    """Which of the visit's places a trigger states; the others it leaves as they are."""

    NONE = "none"
    ALL = "PV1-3, 6, 11, 42"
    AWAY = "PV1-11, 42"
    EXPECTED = "PV1-42"


STATED: Final[dict[Places, frozenset[str]]] = {
    Places.NONE: frozenset(),
    Places.ALL: frozenset({"location", "prior_location", "temporary_location", "pending_location"}),
    Places.AWAY: frozenset({"temporary_location", "pending_location"}),
    Places.EXPECTED: frozenset({"pending_location"}),
}
"""Fields of the encounter that each states."""


class Visit(StrEnum):
    """Whether a trigger is about a visit."""

    REQUIRED = "required"
    OPTIONAL = "if PV1 names one"
    NONE = "not read"


class Expects(StrEnum):
    """Where a trigger has the expected end of the stay from."""

    PV2_9 = "PV2-9"
    PLANNED_EVENT = "PV2-9, else EVN-3, else ZBE-2"
    CLEARED = "cleared"


@dataclass(frozen=True, slots=True)
class Rule:
    """One trigger. `prior_bed` is whether PV1-6 is vacated of this visit; `decides`, whether it is the decision to admit;
    `is_past`, whether it is about a movement of the past (ZBE-5)."""

    trigger: str
    meaning: str
    event_type: EventType
    status: Says
    bed: Moves = Moves.NOBODY
    places: Places = Places.NONE
    prior_bed: bool = False
    place_required: bool = False
    visit: Visit = Visit.REQUIRED
    discharge: str = "not stated"
    expected: Expects = Expects.PV2_9
    decides: bool = False
    clears: tuple[str, ...] = ()
    is_past: bool = False


_NEVER_LEFT: Final = ("discharged_at", "disposition")
_NOT_EXPECTED: Final = ("pending_location",)


def _arrival(trigger: str, meaning: str, event_type: EventType, *, prior_bed: bool = False) -> Rule:
    return Rule(trigger, meaning, event_type, Says.BY_CLASS, Moves.IN, Places.ALL, prior_bed=prior_bed, discharge="PV1-45")


def _move(trigger: str, meaning: str, event_type: EventType, clears: tuple[str, ...] = ()) -> Rule:
    arrival = _arrival(trigger, meaning, event_type, prior_bed=True)
    return replace(arrival, place_required=True, clears=clears)


def _update(trigger: str, meaning: str, visit: Visit) -> Rule:
    return Rule(trigger, meaning, EventType.DEMOGRAPHICS, Says.NOTHING, visit=visit)


def _tracking(trigger: str, meaning: str) -> Rule:
    return Rule(trigger, meaning, EventType.TRACKING, Says.NOTHING, places=Places.AWAY)


RULES: Final = (
    _arrival("A01", "admit", EventType.ADMIT),
    _move("A02", "transfer", EventType.TRANSFER),
    Rule("A03", "discharge", EventType.DISCHARGE, Says.FINISHED, Moves.OUT, discharge="PV1-45, else EVN-6, else EVN-2"),
    _arrival("A04", "register", EventType.REGISTER),
    Rule("A05", "pre-admit", EventType.PREADMIT, Says.PLANNED, places=Places.ALL),
    _arrival("A06", "outpatient becomes inpatient", EventType.CLASS_CHANGE, prior_bed=True),
    _arrival("A07", "inpatient becomes outpatient", EventType.CLASS_CHANGE, prior_bed=True),
    _update("A08", "update", Visit.OPTIONAL),
    _tracking("A09", "patient departs (tracking)"),
    _tracking("A10", "patient arrives (tracking)"),
    Rule("A11", "cancel of an admit", EventType.CANCEL_ADMIT, Says.CANCELLED, Moves.OUT),
    _move("A12", "cancel of a transfer", EventType.CANCEL_TRANSFER, ("prior_location",)),
    Rule(
        "A13",
        "cancel of a discharge",
        EventType.CANCEL_DISCHARGE,
        Says.IN_PROGRESS,
        Moves.IN,
        Places.ALL,
        discharge="cleared",
        clears=_NEVER_LEFT,
    ),
    Rule("A14", "pending admit", EventType.PENDING_ADMIT, Says.PLANNED_BY_CLASS, places=Places.EXPECTED, decides=True),
    Rule("A15", "pending transfer", EventType.PENDING_TRANSFER, Says.NOTHING, places=Places.EXPECTED),
    Rule("A16", "pending discharge", EventType.PENDING_DISCHARGE, Says.NOTHING, expected=Expects.PLANNED_EVENT),
    _move("A17", "swap of two beds", EventType.SWAP),
    Rule("A21", "leave of absence begins", EventType.LEAVE, Says.ON_LEAVE),
    Rule("A22", "return from leave of absence", EventType.RETURN, Says.IN_PROGRESS),
    Rule("A23", "deletion of a visit", EventType.DELETION, Says.IN_ERROR, Moves.OUT),
    Rule("A25", "cancel of a pending discharge", EventType.CANCEL_PENDING, Says.NOTHING, expected=Expects.CLEARED),
    Rule("A26", "cancel of a pending transfer", EventType.CANCEL_PENDING, Says.NOTHING, clears=_NOT_EXPECTED),
    Rule(
        "A27",
        "cancel of a pending admit",
        EventType.CANCEL_PENDING,
        Says.CANCELLED_BY_CLASS,
        clears=(*_NOT_EXPECTED, "admit_decision_at"),
    ),
    _update("A28", "new person", Visit.NONE),
    _update("A31", "update of a person", Visit.NONE),
    _tracking("A32", "cancel of an arrival"),
    _tracking("A33", "cancel of a departure"),
    Rule("A38", "cancel of a pre-admit", EventType.CANCEL_PENDING, Says.CANCELLED, clears=_NOT_EXPECTED),
    Rule("A52", "cancel of a leave of absence", EventType.RETURN, Says.IN_PROGRESS),
    Rule("A53", "cancel of a return from leave", EventType.LEAVE, Says.ON_LEAVE),
)

MOVING_UPDATE: Final = _arrival("A08", "update that may move", EventType.UPDATE, prior_bed=True)
BY_TRIGGER: Final = {rule.trigger: rule for rule in RULES}


def rule_of(trigger: str, a08_moves: bool) -> Rule | None:
    """Rule of a trigger under the profile."""
    return MOVING_UPDATE if trigger == "A08" and a08_moves else BY_TRIGGER.get(trigger)
