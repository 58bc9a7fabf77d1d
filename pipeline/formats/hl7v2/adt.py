"""ADT about a visit: the rule of each trigger as data, and the events that it makes. `docs/mapping/adt.md` shows them."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from msgspec import UNSET, UnsetType

from pipeline.domain.event import (
    Bed,
    BedOccupancy,
    Encounter,
    EncounterStatus,
    EventType,
    Occupancy,
    PatientClass,
    Place,
    Reference,
)
from pipeline.domain.identifiers import Millis
from pipeline.formats.draft import Draft
from pipeline.formats.hl7v2.datatypes import bed_id
from pipeline.formats.hl7v2.er7 import Segment
from pipeline.formats.hl7v2.header import Header
from pipeline.formats.hl7v2.patient import patient_of, patient_reference
from pipeline.formats.hl7v2.reading import Reading
from pipeline.formats.hl7v2.verdict import Reason, Rejected
from pipeline.formats.hl7v2.visit import discharge_time, episode, patient_class, status_by_class, visit_reference

PATIENT, ENCOUNTER, PRIOR_BED, BED = range(4)
"""Ordinals of the events of one message: each role has its own, so that a missing bed shifts no id."""


class Says(StrEnum):
    """What a trigger says about one side of the visit."""

    NOTHING = "nothing"
    BY_CLASS = "finished if PV1-45 is a time, else by PV1-2 (table 0004)"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    IN_PROGRESS = "in progress"


class Moves(StrEnum):
    """What a trigger does to the bed of PV1-3."""

    NOBODY = "nothing"
    IN = "occupied by this visit; vacant of this visit if the visit is finished"
    OUT = "vacant of this visit"


@dataclass(frozen=True, slots=True)
class Rule:
    """One trigger. `location` is whether PV1-3, 6, 11 and 42 are stated; `prior_bed`, whether PV1-6 is vacated of this visit."""

    trigger: str
    meaning: str
    event_type: EventType
    status: Says
    bed: Moves
    location: bool = False
    prior_bed: bool = False
    place_required: bool = False
    visit_required: bool = True
    discharge: str = "PV1-45"
    clears: tuple[str, ...] = ()


_A08: Final = Rule(
    "A08", "update", EventType.DEMOGRAPHICS, Says.NOTHING, Moves.NOBODY, visit_required=False, discharge="not stated"
)
_A08_MOVES: Final = Rule("A08", "update that may move", EventType.UPDATE, Says.BY_CLASS, Moves.IN, location=True, prior_bed=True)
_NEVER_LEFT: Final = ("discharged_at", "disposition")

RULES: Final = (
    Rule("A01", "admit", EventType.ADMIT, Says.BY_CLASS, Moves.IN, location=True),
    Rule("A02", "transfer", EventType.TRANSFER, Says.BY_CLASS, Moves.IN, location=True, prior_bed=True, place_required=True),
    Rule("A03", "discharge", EventType.DISCHARGE, Says.FINISHED, Moves.OUT, discharge="PV1-45, else EVN-6, else EVN-2"),
    Rule("A04", "register", EventType.REGISTER, Says.BY_CLASS, Moves.IN, location=True),
    _A08,
    Rule("A11", "cancel of an admit", EventType.CANCEL_ADMIT, Says.CANCELLED, Moves.OUT, discharge="not stated"),
    Rule(
        "A12",
        "cancel of a transfer",
        EventType.CANCEL_TRANSFER,
        Says.BY_CLASS,
        Moves.IN,
        location=True,
        prior_bed=True,
        place_required=True,
        clears=("prior_location",),
    ),
    Rule(
        "A13",
        "cancel of a discharge",
        EventType.CANCEL_DISCHARGE,
        Says.IN_PROGRESS,
        Moves.IN,
        location=True,
        discharge="cleared",
        clears=_NEVER_LEFT,
    ),
)

MOVING_UPDATE: Final = _A08_MOVES
BY_TRIGGER: Final = {rule.trigger: rule for rule in RULES}


def rule_of(trigger: str, a08_moves: bool) -> Rule | None:
    """Rule of a trigger under the profile."""
    return MOVING_UPDATE if trigger == "A08" and a08_moves else BY_TRIGGER.get(trigger)


def drafts(reading: Reading, header: Header, rule: Rule) -> tuple[Draft, ...] | Rejected:
    """Events of the message: patient, encounter, the bed left, the bed taken."""
    segments = _segments(reading, rule)
    if isinstance(segments, Rejected):
        return segments
    pid, pv1 = segments
    patient = patient_reference(pid, reading.profile)
    if isinstance(patient, Rejected):
        return patient
    where = _place(reading, pv1, 3)
    person = Draft(PATIENT, rule.event_type, patient.namespace, patient.id, where, patient_of(reading, pid))
    if pv1 is None:
        return (person,)
    visit = visit_reference(pid, pv1, reading.profile)
    if isinstance(visit, Rejected):
        optional = not rule.visit_required and visit.reason is Reason.MISSING_FIELD
        return (person,) if optional else visit
    if rule.place_required and where is None:
        return Rejected(Reason.MISSING_FIELD, "PV1-3", "no location to move to", "send the patient's location in PV1-3")
    stay = _encounter(reading, header, rule, pv1, patient)
    encounter = Draft(ENCOUNTER, rule.event_type, visit.namespace, visit.id, where, stay)
    return person, encounter, *_beds(reading, rule, pv1, visit, stay)


def _segments(reading: Reading, rule: Rule) -> tuple[Segment, Segment | None] | Rejected:
    """PID and PV1, each at most once: with two of them it can't be told which belongs to which."""
    message = reading.message
    bad = message.bad_segment()
    if bad:
        return Rejected(
            Reason.SEGMENT_SEQUENCE,
            f"segment {bad}",
            "no segment has such a name",
            "begin each segment with its name of three characters",
        )
    for name in ("PID", "PV1"):
        if message.count(name) > 1:
            return Rejected(Reason.SEGMENT_SEQUENCE, name, "sent more than once", f"send one {name} in a message of this trigger")
    pid, pv1 = message.segment("PID"), message.segment("PV1")
    if pid is None:
        return Rejected(Reason.SEGMENT_SEQUENCE, "PID", "segment missing", "send PID, with the patient's identifier in PID-3")
    if pv1 is None and rule.visit_required:
        return Rejected(Reason.SEGMENT_SEQUENCE, "PV1", "segment missing", "send PV1, with the visit number")
    return pid, pv1


def _encounter(reading: Reading, header: Header, rule: Rule, pv1: Segment, patient: Reference) -> Encounter:
    known = patient_class(reading, pv1)
    discharged_at = _discharged_at(reading, header, rule, pv1)
    stated = rule.location
    return Encounter(
        patient=patient,
        patient_class=known,
        status=_status(rule, known, discharged_at),
        location=reading.place(pv1, 3) if stated else UNSET,
        prior_location=None if "prior_location" in rule.clears else reading.place(pv1, 6) if stated else UNSET,
        temporary_location=reading.place(pv1, 11) if stated else UNSET,
        pending_location=reading.place(pv1, 42) if stated else UNSET,
        service=reading.text(pv1, 10),
        admitted_at=reading.time(pv1, 44),
        expected_discharge_at=reading.time(reading.message.segment("PV2"), 9),
        discharged_at=discharged_at,
        disposition=_disposition(reading, rule, pv1),
        episode=episode(reading, pv1),
    )


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
    return UNSET if rule.discharge == "not stated" else reading.text(pv1, 36)


def _status(
    rule: Rule, known: PatientClass | UnsetType | None, discharged_at: Millis | UnsetType | None
) -> EncounterStatus | UnsetType:
    match rule.status:
        case Says.NOTHING:
            return UNSET
        case Says.FINISHED:
            return EncounterStatus.FINISHED
        case Says.CANCELLED:
            return EncounterStatus.CANCELLED
        case Says.IN_PROGRESS:
            return EncounterStatus.IN_PROGRESS
        case Says.BY_CLASS:
            return status_by_class(known, discharged_at)


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
