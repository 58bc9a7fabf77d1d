"""PV1 and PV2: which visit it is, and what the message says of it."""

from typing import Final

from msgspec import UNSET, UnsetType

from pipeline.domain.event import EncounterStatus, PatientClass, Reference
from pipeline.domain.identifiers import Millis
from pipeline.formats.hl7v2.datatypes import MAX_TEXT_CHARS, identifiers_of
from pipeline.formats.hl7v2.er7 import NULL, Segment
from pipeline.formats.hl7v2.profile import Profile
from pipeline.formats.hl7v2.reading import Reading
from pipeline.formats.hl7v2.verdict import Reason, Rejected

TABLE_0004: Final = {symbol.value: symbol for symbol in PatientClass}

STATUS_BY_CLASS: Final = {
    PatientClass.PREADMIT: EncounterStatus.PLANNED,
    PatientClass.UNKNOWN: EncounterStatus.UNKNOWN,
}
"""Any other class, and a code of no table, is IN_PROGRESS (v2-to-FHIR guide, PV1-2)."""


def visit_reference(pid: Segment, pv1: Segment | None, profile: Profile) -> Reference | Rejected:
    """The visit by the first of the profile's fields that is valued; rejected where none is, or one holds several."""
    for field in profile.visit_number_fields:
        segment, n, namespace = (
            (pv1, 19, profile.namespace_of_visits) if field == "PV1-19" else (pid, 18, profile.namespace_of_accounts)
        )
        found = {(i.value, i.authority) for i in identifiers_of(segment, n, profile.authorities)} if segment else set()
        if len(found) > 1:
            return Rejected(Reason.AMBIGUOUS_IDENTITY, field, "several visit numbers", "send one visit number")
        for value, authority in found:
            if len(value) > MAX_TEXT_CHARS or len(authority or "") > MAX_TEXT_CHARS:
                return Rejected(Reason.TOO_LONG, field, f"longer than {MAX_TEXT_CHARS} characters", "send a shorter number")
            return Reference(authority or namespace, value)
    field = profile.visit_number_fields[0]
    return Rejected(Reason.MISSING_FIELD, field, "no visit number", f"send the visit number in {field}")


def episode(reading: Reading, pv1: Segment) -> Reference | UnsetType | None:
    """The episode of care that PV1-54 names; nothing where it is too long or there are several."""
    if not pv1.raw(54):
        return UNSET
    if pv1.raw(54) == NULL:
        return None
    found = {(i.value, i.authority) for i in identifiers_of(pv1, 54, reading.profile.authorities)}
    if len(found) != 1:
        return reading.not_read("PV1-54")
    ((value, authority),) = found
    if len(value) > MAX_TEXT_CHARS or len(authority or "") > MAX_TEXT_CHARS:
        return reading.too_long("PV1-54")
    return Reference(authority or reading.profile.namespace_of_visits, value)


def patient_class(reading: Reading, pv1: Segment) -> PatientClass | UnsetType | None:
    """PV1-2 by the profile's own codes, then table 0004; a code of neither is left unsaid."""
    return reading.code(pv1, 2, reading.profile.patient_classes, TABLE_0004)


def status_by_class(known: PatientClass | UnsetType | None, discharged_at: Millis | UnsetType | None) -> EncounterStatus:
    """Status of a visit that the trigger itself does not settle: over if PV1-45 is a time, else by PV1-2."""
    if isinstance(discharged_at, int):
        return EncounterStatus.FINISHED
    return (
        STATUS_BY_CLASS.get(known, EncounterStatus.IN_PROGRESS)
        if isinstance(known, PatientClass)
        else (EncounterStatus.IN_PROGRESS)
    )


def discharge_time(reading: Reading, pv1: Segment, occurred_at: Millis | None, recorded_at: Millis) -> Millis:
    """When the patient left: PV1-45, else EVN-6, else EVN-2, which versions before 2.3 defined as the event's time."""
    said = reading.time(pv1, 45)
    if isinstance(said, int):
        return said
    return recorded_at if occurred_at is None else occurred_at
