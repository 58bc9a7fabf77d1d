"""Messages about a bed (ADT^A20), a person (A28, A31, A40) and a procedure (SIU): their triggers and segments. Pure."""

from typing import Final

from msgspec import UNSET

from pipeline.domain.bed import Untellable as Unsaid
from pipeline.domain.bed import code_for, is_promised, speaks_of_status
from pipeline.domain.event import Allocation, Bed, Identifier, Patient, Procedure, ProcedureStatus, Reference, Sex
from pipeline.domain.records import Accepted, Reason
from pipeline.formats.hl7v2.er7 import NULL, Components, FieldContent
from pipeline.formats.hl7v2.out_profile import OutProfile
from pipeline.formats.hl7v2.out_values import Held, Line, bed_place, cx, identifier, name, one, place, segment, text, time
from pipeline.formats.hl7v2.out_visit import person

BED_TRIGGER: Final = "A20"


# -- beds


def bed_is_told(bed: Bed) -> bool:
    """Whether anything that table 0116 is made of was ever said of the bed; else there is nothing to tell."""
    return speaks_of_status(bed)


def bed_lines(accepted: Accepted, bed: Bed, profile: OutProfile) -> list[Line] | Held:
    """NPU. Held where no code may be claimed, and where `U` would offer a promised bed to the receiver's own people."""
    code = code_for(bed, _promise_is_told(bed, profile))
    if code is Unsaid.RESERVATION:
        return Held(Reason.RESERVATION_UNTELLABLE, "NPU-2")
    if code is None:
        return Held(Reason.UNTELLABLE, "NPU-2")
    where = bed_place(accepted.namespace, accepted.entity_id, bed.place)
    return [segment("NPU", {1: place(where, "NPU-1"), 2: code.value})]


def _promise_is_told(bed: Bed, profile: OutProfile) -> bool:
    """Only a promise to a stay can be told by that stay's PV1-42."""
    holder = bed.allocation.encounter if isinstance(bed.allocation, Allocation) else None
    return profile.reservation == "pending_move" and is_promised(bed) and holder is not None


# -- persons

MERGE: Final = "A40"
NEW_PERSON: Final = "A28"
PERSON: Final = "A31"

SEX: Final = {Sex.MALE: "M", Sex.FEMALE: "F", Sex.OTHER: "O", Sex.UNKNOWN: "U"}


def person_trigger(accepted: Accepted, state: Patient) -> str:
    """A40 where the identity was merged by this change, A28 for a person not known before, else A31."""
    if "merged_into" in accepted.changed and isinstance(state.merged_into, Reference):
        return MERGE
    return PERSON if accepted.previous_revision else NEW_PERSON


def person_lines(accepted: Accepted, state: Patient, trigger: str, profile: OutProfile) -> list[Line]:
    """PID; of a merge PID of the identity that survives and MRG of the one that is no more. PV1 says that no stay is meant."""
    own = Reference(accepted.namespace, accepted.entity_id)
    if trigger == MERGE and isinstance(state.merged_into, Reference):
        return [person(state.merged_into, profile), segment("MRG", {1: (cx(own, profile.patient_id_type, "MRG-1"),)})]
    fields: dict[int, FieldContent] = {
        1: "1",
        3: _identifiers(own, state, profile),
        5: name(state.name, "PID-5"),
        7: _date(state),
        8: NULL if state.sex is None else SEX[state.sex] if isinstance(state.sex, Sex) else "",
        30: NULL if state.deceased is None else "" if state.deceased is UNSET else "Y" if state.deceased else "N",
    }
    return [segment("PID", fields), segment("PV1", {1: "1", 2: "N"})]


def _identifiers(own: Reference, state: Patient, profile: OutProfile) -> tuple[Components, ...]:
    """The identifier that names the person here comes first, each once."""
    known = state.identifiers if isinstance(state.identifiers, tuple) else ()
    mine = [each for each in known if (each.system, each.value) == (own.namespace, own.id)]
    first = mine[0] if mine and mine[0].type else Identifier(own.namespace, own.id, profile.patient_id_type)
    others = [each for each in known if each not in mine]
    return tuple(identifier(each, "PID-3") for each in (first, *others))


def _date(state: Patient) -> str:
    return text(state.birth_date, "PID-7") if not isinstance(state.birth_date, str) else state.birth_date.replace("-", "")


# -- procedures

BY_STATUS: Final = {
    ProcedureStatus.CANCELLED: "S15",
    ProcedureStatus.DISCONTINUED: "S16",
    ProcedureStatus.DELETED: "S17",
    ProcedureStatus.BLOCKED: "S23",
    ProcedureStatus.NOSHOW: "S26",
}
"""Statuses that a trigger states by itself."""

NEW, MOVED, MODIFIED = "S12", "S13", "S14"


def procedure_trigger(accepted: Accepted, state: Procedure) -> str:
    """By the status where a trigger states it; a first word is S12, another time S13, all else S14.

    Without a status it is S14: a receiver takes S12 and S13 without SCH-25 for booked.
    """
    known = state.status if isinstance(state.status, ProcedureStatus) else ProcedureStatus.UNKNOWN
    if known in BY_STATUS:
        return BY_STATUS[known]
    if known is ProcedureStatus.UNKNOWN:
        return MODIFIED
    if not accepted.previous_revision:
        return NEW
    return MOVED if {"start", "end"} & set(accepted.changed) else MODIFIED


def procedure_lines(accepted: Accepted, state: Procedure, profile: OutProfile) -> list[Line]:
    """SCH, TQ1 from 2.5 on, PID and PV1 of the patient if one is named, and the resources: service and place."""
    start, end = time(state.start, profile, "SCH-11"), time(state.end, profile, "SCH-11")
    lines = [_sch(accepted, state, start, end)]
    if profile.is_at_least("2.5") and (start or end):
        lines.append(segment("TQ1", {1: "1", 7: start, 8: end}))
    if isinstance(state.patient, Reference):
        lines.append(person(state.patient, profile))
        if isinstance(state.encounter, Reference):
            stay = (cx(state.encounter, "VN", "PV1-19"),)
            lines.append(segment("PV1", {1: "1", 2: profile.unknown_class, 19: stay}))
    lines.append(segment("RGS", {1: "1", 2: "A"}))
    service = text(state.service, "AIS-3")
    if service:
        lines.append(segment("AIS", {1: "1", 3: service, 4: start}))
    where = place(state.place, "AIL-3")
    if where:
        lines.append(segment("AIL", {1: "1", 3: where}))
    return lines


def _sch(accepted: Accepted, state: Procedure, start: str, end: str) -> Line:
    named = one(text(accepted.entity_id, "SCH-2"), text(accepted.namespace, "SCH-2"))
    known = state.status if isinstance(state.status, ProcedureStatus) else None
    fields: dict[int, FieldContent] = {2: named, 6: text(state.reason, "SCH-6")}
    if start or end:
        fields[11] = one("", "", "", start, end)
    if known is not None and known is not ProcedureStatus.UNKNOWN:
        fields[25] = known.value
    return segment("SCH", fields)
