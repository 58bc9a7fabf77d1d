"""ADT about a stay: which trigger says it, and PID, PV1 and PV2. Pure.

The trigger must agree with the state, or the receiver would be told something that was never accepted: an event of a
discharge whose end of the stay did not survive is no A03. So each candidate is judged by the table that reads it,
`triggers.py`; where none agrees, it is an A08, which moves nobody.
"""

from collections.abc import Iterator
from typing import Final, assert_never

from msgspec import UNSET, UnsetType

from pipeline.domain.event import Encounter, EncounterStatus, EventType, PatientClass, Place, Reference
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Accepted
from pipeline.formats.hl7v2.er7 import FieldContent
from pipeline.formats.hl7v2.out_profile import OutProfile
from pipeline.formats.hl7v2.out_values import Line, Untellable, cx, place, segment, text, time
from pipeline.formats.hl7v2.triggers import BY_TRIGGER, STATUS_OF, Rule, Says
from pipeline.formats.hl7v2.visit import status_by_class

UPDATE: Final = "A08"
MERGE: Final = "A42"

BY_EVENT: Final[dict[EventType, str]] = {
    EventType.ADMIT: "A01",
    EventType.REGISTER: "A04",
    EventType.TRANSFER: "A02",
    EventType.SWAP: "A02",
    EventType.DISCHARGE: "A03",
    EventType.PREADMIT: "A05",
    EventType.DEMOGRAPHICS: UPDATE,
    EventType.CANCEL_ADMIT: "A11",
    EventType.CANCEL_TRANSFER: "A12",
    EventType.CANCEL_DISCHARGE: "A13",
    EventType.PENDING_ADMIT: "A14",
    EventType.PENDING_TRANSFER: "A15",
    EventType.PENDING_DISCHARGE: "A16",
    EventType.LEAVE: "A21",
    EventType.RETURN: "A22",
    EventType.DELETION: "A23",
}
"""Kinds of event that have one trigger. A swap is a move of each of the two stays."""

BY_STATUS: Final[dict[EncounterStatus, str]] = {
    EncounterStatus.PLANNED: "A05",
    EncounterStatus.ARRIVED: "A04",
    EncounterStatus.TRIAGED: "A04",
    EncounterStatus.ONLEAVE: "A21",
    EncounterStatus.FINISHED: "A03",
    EncounterStatus.CANCELLED: "A11",
    EncounterStatus.ENTERED_IN_ERROR: "A23",
}
"""Trigger of a status that became so by an event which names no trigger; IN_PROGRESS see `_begun`."""

_STAYS_OVERNIGHT: Final = frozenset({PatientClass.INPATIENT, PatientClass.OBSTETRICS})
_PRESENT: Final = frozenset({EncounterStatus.IN_PROGRESS, EncounterStatus.ARRIVED, EncounterStatus.TRIAGED})
"""Statuses that HL7 v2 has one word for."""


def trigger_of(accepted: Accepted, state: Encounter) -> str:
    """The trigger that tells this change: A42 where the stay was merged by it, else the first candidate that says nothing but
    the state.
    """
    if "merged_into" in accepted.changed and isinstance(state.merged_into, Reference):
        return MERGE
    return next((name for name in _candidates(accepted, state) if agrees(BY_TRIGGER[name], state)), UPDATE)


def _candidates(accepted: Accepted, state: Encounter) -> Iterator[str]:
    """By what happened, then by what changed: the end of a stay before its place, its place before what is expected."""
    changed = frozenset(accepted.changed)
    kind = accepted.event_type
    if kind in BY_EVENT:
        yield BY_EVENT[kind]
    elif kind is EventType.CLASS_CHANGE:
        yield "A06" if state.patient_class in _STAYS_OVERNIGHT else "A07"
    elif kind is EventType.TRACKING:
        yield "A09" if isinstance(state.temporary_location, Place) else "A10"
    elif kind is EventType.CANCEL_PENDING:
        yield from _cancelled(changed)
    if "status" in changed and isinstance(state.status, EncounterStatus):
        yield BY_STATUS.get(state.status) or _begun(changed, state)
    if "location" in changed:
        yield "A02"
    if "temporary_location" in changed:
        yield "A09" if isinstance(state.temporary_location, Place) else "A10"
    if "pending_location" in changed:
        planned = state.status is EncounterStatus.PLANNED
        yield ("A14" if planned else "A15") if isinstance(state.pending_location, Place) else "A26"
    if "expected_discharge_at" in changed:
        yield "A16" if isinstance(state.expected_discharge_at, int) else "A25"


def _cancelled(changed: frozenset[str]) -> Iterator[str]:
    """What was expected is off: which of the four cancels says so by what it changed."""
    if "admit_decision_at" in changed:
        yield "A27"
    if "status" in changed:
        yield "A38"
    if "expected_discharge_at" in changed:
        yield "A25"
    yield "A26"


def _begun(changed: frozenset[str], state: Encounter) -> str:
    if "discharged_at" in changed and state.discharged_at is None:
        return "A13"
    return "A01" if state.patient_class in _STAYS_OVERNIGHT else "A04"


def agrees(rule: Rule, state: Encounter) -> bool:
    """Whether a receiver that reads the trigger by our own table learns nothing but the state."""
    if rule.place_required and not isinstance(state.location, Place):
        return False
    if any(getattr(state, field) not in (None, UNSET) for field in rule.clears):
        return False
    return _status_agrees(rule, state)


def _status_agrees(rule: Rule, state: Encounter) -> bool:
    known = state.status if isinstance(state.status, EncounterStatus) else None
    planned = state.patient_class is PatientClass.PREADMIT
    match rule.status:
        case Says.NOTHING:
            return True
        case Says.BY_CLASS:
            said = status_by_class(state.patient_class, _left_at(state))
            return known is None or known is said or (known in _PRESENT and said in (*_PRESENT, EncounterStatus.UNKNOWN))
        case Says.PLANNED_BY_CLASS:
            return not planned or known in (None, EncounterStatus.PLANNED)
        case Says.CANCELLED_BY_CLASS:
            return not planned or known is EncounterStatus.CANCELLED
        case Says.FINISHED | Says.CANCELLED | Says.IN_PROGRESS | Says.PLANNED | Says.ON_LEAVE | Says.IN_ERROR:
            return known is STATUS_OF[rule.status]
        case _ as never:
            assert_never(never)


def _left_at(state: Encounter) -> Millis | UnsetType | None:
    return state.discharged_at


def person(reference: Reference | UnsetType | None, profile: OutProfile) -> Line:
    """PID of a message about a stay: who it is, and nothing more, because an empty field changes nothing at the receiver."""
    if not isinstance(reference, Reference):
        raise Untellable("PID-3")
    return segment("PID", {1: "1", 3: (cx(reference, profile.patient_id_type, "PID-3"),)})


def visit(accepted: Accepted, state: Encounter, trigger: str, profile: OutProfile) -> list[Line]:
    """PID, PV1 and, where there is an expected discharge, PV2; of a merge what `_merge` says."""
    stay = Reference(accepted.namespace, accepted.entity_id)
    if trigger == MERGE and isinstance(state.merged_into, Reference):
        return _merge(stay, state.merged_into, state, profile)
    lines = [person(state.patient, profile), _pv1(stay, state, profile)]
    expected = time(state.expected_discharge_at, profile, "PV2-9")
    if expected and BY_TRIGGER[trigger].expected.value != "cleared":
        lines.append(segment("PV2", {9: expected}))
    return lines


def _merge(stay: Reference, survivor: Reference, state: Encounter, profile: OutProfile) -> list[Line]:
    """PID of the patient, MRG of the stay that is no more (MRG-5; MRG-1 is required and names the same patient), and PV1 of the
    one that survives, with nothing of either but the class, which PV1 must have.
    """
    if not isinstance(state.patient, Reference):
        raise Untellable("MRG-1")
    prior: dict[int, FieldContent] = {
        1: (cx(state.patient, profile.patient_id_type, "MRG-1"),),
        5: (cx(stay, "VN", "MRG-5"),),
    }
    visit: dict[int, FieldContent] = {1: "1", 2: _class(state, profile), 19: (cx(survivor, "VN", "PV1-19"),)}
    return [person(state.patient, profile), segment("MRG", prior), segment("PV1", visit)]


def _class(state: Encounter, profile: OutProfile) -> str:
    return state.patient_class.value if isinstance(state.patient_class, PatientClass) else profile.unknown_class


def _pv1(stay: Reference, state: Encounter, profile: OutProfile) -> Line:
    fields: dict[int, FieldContent] = {
        1: "1",
        2: _class(state, profile),
        3: place(state.location, "PV1-3"),
        6: place(state.prior_location, "PV1-6"),
        10: text(state.service, "PV1-10"),
        11: place(state.temporary_location, "PV1-11"),
        19: (cx(stay, "VN", "PV1-19"),),
        36: text(state.disposition, "PV1-36"),
        42: place(state.pending_location, "PV1-42"),
        44: time(state.admitted_at, profile, "PV1-44"),
        45: time(state.discharged_at, profile, "PV1-45"),
    }
    if isinstance(state.episode, Reference) and profile.is_at_least("2.8"):
        fields[54] = (cx(state.episode, "", "PV1-54"),)
    return segment("PV1", fields)
