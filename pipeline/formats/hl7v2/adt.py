"""ADT about a visit: the events that a message makes by the rule of its trigger."""

from typing import Final

from msgspec import UNSET, UnsetType

from pipeline.domain.event import (
    Bed,
    BedOccupancy,
    Encounter,
    EncounterStatus,
    Occupancy,
    PatientClass,
    Place,
    Reference,
)
from pipeline.domain.identifiers import Millis
from pipeline.formats.draft import Draft
from pipeline.formats.hl7v2 import movement, z_fields
from pipeline.formats.hl7v2.datatypes import bed_id
from pipeline.formats.hl7v2.er7 import Segment
from pipeline.formats.hl7v2.header import Header
from pipeline.formats.hl7v2.leniency import Leniency
from pipeline.formats.hl7v2.patient import patient_of, patient_reference
from pipeline.formats.hl7v2.reading import Reading
from pipeline.formats.hl7v2.triggers import STATED, STATUS_OF, Expects, Moves, Rule, Says, Visit
from pipeline.formats.hl7v2.verdict import Reason, Rejected
from pipeline.formats.hl7v2.visit import discharge_time, episode, patient_class, status_by_class, visit_reference

PATIENT, ENCOUNTER, PRIOR_BED, BED = range(4)
"""Ordinals of the events of one message: each role has its own, so that a missing bed shifts no id."""

ROLES: Final = 4
"""Ordinals of one patient; in a message about two, those of the second follow."""


def drafts(reading: Reading, header: Header, by_trigger: Rule | None) -> tuple[Draft, ...] | Rejected:
    """Events of the message: patient, encounter, the bed left, the bed taken. `by_trigger` is None for a Z99."""
    rule = movement.ruled(reading, by_trigger)
    if isinstance(rule, Rejected):
        return rule
    segments = _segments(reading, rule)
    if isinstance(segments, Rejected):
        return segments
    pid, pv1 = segments
    patient = patient_reference(pid, reading.profile)
    if isinstance(patient, Rejected):
        return patient
    where = _place(reading, pv1, 3)
    person = Draft(PATIENT, rule.event_type, patient.namespace, patient.id, where, patient_of(reading, pid))
    if pv1 is None or rule.visit is Visit.NONE:
        return (person,)
    visit = visit_reference(pid, pv1, reading.profile)
    if isinstance(visit, Rejected):
        optional = rule.visit is Visit.OPTIONAL and visit.reason is Reason.MISSING_FIELD
        return (person,) if optional else visit
    if rule.place_required and where is None:
        return Rejected(Reason.MISSING_FIELD, "PV1-3", "no location to move to", "send the patient's location in PV1-3")
    stay = encounter_of(reading, header, rule, pv1, patient)
    encounter = Draft(ENCOUNTER, rule.event_type, visit.namespace, visit.id, where, stay)
    return person, encounter, *_beds(reading, rule, pv1, visit, stay)


def _segments(reading: Reading, rule: Rule) -> tuple[Segment, Segment | None] | Rejected:
    """PID and PV1, each at most once: with two of them it can't be told which belongs to which."""
    message = reading.message
    bad = message.bad_segment()
    if bad and Leniency.STRAY_LINE not in reading.profile.tolerates:
        return Rejected(
            Reason.SEGMENT_SEQUENCE,
            f"segment {bad}",
            "no segment has such a name",
            "begin each segment with its name of three characters, or name STRAY_LINE in the profile's list `tolerates`",
        )
    for name in ("PID", "PV1"):
        if message.count(name) > 1:
            return Rejected(Reason.SEGMENT_SEQUENCE, name, "sent more than once", f"send one {name} in a message of this trigger")
    pid, pv1 = message.segment("PID"), message.segment("PV1")
    if pid is None:
        return Rejected(Reason.SEGMENT_SEQUENCE, "PID", "segment missing", "send PID, with the patient's identifier in PID-3")
    if pv1 is None and rule.visit is Visit.REQUIRED:
        return Rejected(Reason.SEGMENT_SEQUENCE, "PV1", "segment missing", "send PV1, with the visit number")
    return pid, pv1


def encounter_of(reading: Reading, header: Header, rule: Rule, pv1: Segment, patient: Reference) -> Encounter:
    """What the message says of the stay, by the rule."""
    if rule.is_past:
        return Encounter(patient=patient, admitted_at=reading.time(pv1, 44))
    known = patient_class(reading, pv1)
    discharged_at = _discharged_at(reading, header, rule, pv1)
    stay = Encounter(
        patient=patient,
        patient_class=known,
        status=_status(rule, known, discharged_at),
        location=_where(reading, rule, pv1, "location", 3),
        prior_location=_where(reading, rule, pv1, "prior_location", 6),
        temporary_location=_where(reading, rule, pv1, "temporary_location", 11),
        pending_location=_expected_place(reading, rule, pv1, known),
        service=reading.text(pv1, 10),
        admitted_at=reading.time(pv1, 44),
        admit_decision_at=_decided_at(header, rule),
        expected_discharge_at=_expected_at(reading, rule),
        discharged_at=discharged_at,
        disposition=_disposition(reading, rule, pv1),
        episode=episode(reading, pv1),
    )
    return z_fields.added(reading, rule, stay) if reading.profile.z_fields else stay


def _where(reading: Reading, rule: Rule, pv1: Segment, field: str, n: int) -> Place | UnsetType | None:
    if field in rule.clears:
        return None
    return reading.place(pv1, n) if field in STATED[rule.places] else UNSET


def _expected_place(
    reading: Reading, rule: Rule, pv1: Segment, known: PatientClass | UnsetType | None
) -> Place | UnsetType | None:
    """PV1-42; of an admission to come (class P) also PV1-3: the patient is nowhere yet, so that is the place kept."""
    said = _where(reading, rule, pv1, "pending_location", 42)
    planned = rule.decides and known is PatientClass.PREADMIT
    return reading.place(pv1, 3) if said is UNSET and planned else said


def _decided_at(header: Header, rule: Rule) -> Millis | UnsetType | None:
    """When it was decided to admit: an A14 tells of it, by EVN-6, else EVN-2."""
    if "admit_decision_at" in rule.clears:
        return None
    if not rule.decides:
        return UNSET
    return header.recorded_at if header.occurred_at is None else header.occurred_at


def _expected_at(reading: Reading, rule: Rule) -> Millis | UnsetType | None:
    if rule.expected is Expects.CLEARED:
        return None
    said = reading.time(reading.message.segment("PV2"), 9)
    if said is UNSET and rule.expected is Expects.PLANNED_EVENT:
        planned = reading.time(reading.message.segment("EVN"), 3)
        return movement.planned_at(reading) if planned is UNSET else planned
    return said


def _discharged_at(reading: Reading, header: Header, rule: Rule, pv1: Segment) -> Millis | UnsetType | None:
    if "discharged_at" in rule.clears:
        return None
    if rule.discharge == "not stated":
        return UNSET
    if rule.status is Says.FINISHED:
        return discharge_time(reading, pv1, header.occurred_at, header.recorded_at)
    return reading.time(pv1, 45)


def _disposition(reading: Reading, rule: Rule, pv1: Segment) -> str | UnsetType | None:
    if "disposition" in rule.clears:
        return None
    if rule.discharge == "not stated":
        return UNSET
    said = reading.text(pv1, 36)
    return reading.profile.dispositions.get(said, said) if isinstance(said, str) else said


def _status(
    rule: Rule, known: PatientClass | UnsetType | None, discharged_at: Millis | UnsetType | None
) -> EncounterStatus | UnsetType:
    planned = known is PatientClass.PREADMIT
    match rule.status:
        case Says.NOTHING:
            return UNSET
        case Says.BY_CLASS:
            return status_by_class(known, discharged_at)
        case Says.PLANNED_BY_CLASS:
            return EncounterStatus.PLANNED if planned else UNSET
        case Says.CANCELLED_BY_CLASS:
            return EncounterStatus.CANCELLED if planned else UNSET
        case said:
            return STATUS_OF[said]


def _beds(reading: Reading, rule: Rule, pv1: Segment, visit: Reference, stay: Encounter) -> tuple[Draft, ...]:
    """The bed left comes first: a bed is vacated before the next is taken."""
    if rule.bed is Moves.NOBODY:
        return ()
    leaves = rule.bed is Moves.OUT or stay.status is EncounterStatus.FINISHED
    here = _bed(reading, rule, BED, _place(reading, pv1, 3), Occupancy.VACANT if leaves else Occupancy.OCCUPIED, visit)
    prior = None
    if rule.prior_bed:
        prior = _bed(reading, rule, PRIOR_BED, _place(reading, pv1, 6), Occupancy.VACANT, visit)
        if prior and here and (prior.namespace, prior.entity_id) == (here.namespace, here.entity_id):
            prior = None
    return tuple(draft for draft in (prior, here) if draft)


def _bed(reading: Reading, rule: Rule, ordinal: int, place: Place | None, status: Occupancy, visit: Reference) -> Draft | None:
    name = bed_id(place)
    if place is None or name is None:
        return None
    namespace = place.facility or reading.profile.facility
    return Draft(ordinal, rule.event_type, namespace, name, place, Bed(occupancy=BedOccupancy(status, visit)))


def _place(reading: Reading, pv1: Segment | None, n: int) -> Place | None:
    place = reading.place(pv1, n)
    return place if isinstance(place, Place) else None
