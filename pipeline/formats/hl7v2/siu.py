"""SIU S12 to S24 and S26: the procedure schedule (chapter 10). One event about one appointment. Pure."""

from typing import Final

from msgspec import UNSET, UnsetType

from pipeline.domain.event import EventType, Place, Procedure, ProcedureStatus, Reference
from pipeline.domain.identifiers import Millis
from pipeline.formats.draft import Draft
from pipeline.formats.hl7v2.datatypes import MAX_TEXT_CHARS, UNREADABLE, dtm, text_of
from pipeline.formats.hl7v2.er7 import Segment
from pipeline.formats.hl7v2.patient import patient_reference
from pipeline.formats.hl7v2.reading import Reading
from pipeline.formats.hl7v2.verdict import Reason, Rejected
from pipeline.formats.hl7v2.visit import visit_reference

TRIGGERS: Final[dict[str, tuple[str, ProcedureStatus | None]]] = {
    "S12": ("new appointment", None),
    "S13": ("rescheduled", None),
    "S14": ("modified", None),
    "S15": ("cancelled", ProcedureStatus.CANCELLED),
    "S16": ("discontinued", ProcedureStatus.DISCONTINUED),
    "S17": ("deleted", ProcedureStatus.DELETED),
    "S18": ("service or resource added", None),
    "S19": ("service or resource modified", None),
    "S20": ("service or resource cancelled", None),
    "S21": ("service or resource discontinued", None),
    "S22": ("service or resource deleted", None),
    "S23": ("slot blocked", ProcedureStatus.BLOCKED),
    "S24": ("slot opened again", ProcedureStatus.DELETED),
    "S26": ("patient did not come", ProcedureStatus.NOSHOW),
}
"""Meaning, and the status that the trigger itself states. Else SCH-25 states it; without it S12 and S13 say BOOKED."""

BOOKS: Final = frozenset({"S12", "S13"})

TABLE_0278: Final = {status.value: status for status in ProcedureStatus if status is not ProcedureStatus.UNKNOWN} | {
    "DC": ProcedureStatus.DISCONTINUED
}

UNITS: Final = {
    "S": 1, "SEC": 1, "SECOND": 1, "SECONDS": 1,
    "M": 60, "MIN": 60, "MINUTE": 60, "MINUTES": 60,
    "H": 3_600, "HR": 3_600, "HOUR": 3_600, "HOURS": 3_600,
    "D": 86_400, "DAY": 86_400, "DAYS": 86_400,
}  # fmt: skip
"""Seconds of a unit of duration, by ISO+, UCUM and what senders write."""

MAX_DURATION_S: Final = 7 * 86_400
"""A longer one is a slip of the unit."""

PROCEDURE: Final = 0
"""Ordinal of the event."""


def drafts(reading: Reading, trigger: str) -> tuple[Draft, ...] | Rejected:
    """The appointment's event; rejected where it can't be told which appointment, or whose."""
    schedule = reading.message.segment("SCH")
    if schedule is None or reading.message.count("SCH") > 1:
        return Rejected(Reason.SEGMENT_SEQUENCE, "SCH", "not exactly one of them", "send one SCH in a message")
    name = _appointment(reading, schedule)
    if isinstance(name, Rejected):
        return name
    people = _people(reading)
    if isinstance(people, Rejected):
        return people
    patient, encounter = people
    start, end = _when(reading, schedule)
    place = reading.place(reading.message.segment("AIL"), 3)
    said = Procedure(
        status=_status(reading, schedule, trigger),
        start=start,
        end=end,
        place=place,
        patient=patient,
        encounter=encounter,
        service=reading.text(reading.message.segment("AIS"), 3, 1),
        reason=reading.text(schedule, 6, 1),
    )
    return (Draft(PROCEDURE, EventType.UPDATE, name.namespace, name.id, place if isinstance(place, Place) else None, said),)


def _appointment(reading: Reading, schedule: Segment) -> Reference | Rejected:
    """SCH-2, the filler's id: the placer's differs from it, and an appointment must not have two names."""
    value, authority = text_of(schedule.value(2, 1)), text_of(schedule.value(2, 2))
    if value is None:
        return Rejected(Reason.MISSING_FIELD, "SCH-2", "no appointment id", "send the filler's appointment id in SCH-2")
    if max(len(value), len(authority or "")) > MAX_TEXT_CHARS:
        return Rejected(Reason.TOO_LONG, "SCH-2", f"longer than {MAX_TEXT_CHARS} characters", "send a shorter id")
    return Reference(authority or reading.profile.facility, value)


def _people(reading: Reading) -> tuple[Reference | UnsetType, Reference | UnsetType] | Rejected:
    """Patient and visit. A blocked slot has none; a group appointment has several and is nobody's in particular."""
    pid, pv1 = reading.message.segment("PID"), reading.message.segment("PV1")
    if pid is None:
        return UNSET, UNSET
    if reading.message.count("PID") > 1:
        return reading.not_read("PID"), UNSET
    patient = patient_reference(pid, reading.profile)
    if isinstance(patient, Rejected):
        return patient
    visit = visit_reference(pid, pv1, reading.profile)
    if isinstance(visit, Rejected):
        return (patient, UNSET) if visit.reason is Reason.MISSING_FIELD else visit
    return patient, visit


def _status(reading: Reading, schedule: Segment, trigger: str) -> ProcedureStatus | UnsetType | None:
    """The trigger's own status, else SCH-25 (table 0278, in any case), else BOOKED for what books."""
    stated = TRIGGERS[trigger][1]
    if stated is not None:
        return stated
    value = reading.code(schedule, 25, reading.profile.appointment_statuses, TABLE_0278)
    if isinstance(value, ProcedureStatus):
        return value
    if reading.text(schedule, 25, 1) is not UNSET:
        return UNSET
    return ProcedureStatus.BOOKED if value is UNSET and trigger in BOOKS else UNSET


def _when(reading: Reading, schedule: Segment) -> tuple[Millis | UnsetType, Millis | UnsetType]:
    """Start and end by AIS, else TQ1, else SCH-11 (withdrawn, and still what most send)."""
    service, timing = reading.message.segment("AIS"), reading.message.segment("TQ1")
    start = _time(reading, service, 4) or _time(reading, timing, 7) or _time(reading, schedule, 11, 4)
    if start is None:
        return UNSET, UNSET
    for holder, value, unit in ((service, 7, 8), (schedule, 9, 10)):
        lasts = _duration_s(reading, holder, value, unit)
        if lasts is not None:
            return start, Millis(start + lasts * 1_000)
    end = _time(reading, timing, 8) or _time(reading, schedule, 11, 5)
    return start, UNSET if end is None or end < start else end


def _time(reading: Reading, segment: Segment | None, n: int, component: int = 1) -> Millis | None:
    value = reading.text(segment, n, component)
    if segment is None or not isinstance(value, str):
        return None
    moment = dtm(value, reading.zone, to_the_minute=True)
    if moment is UNREADABLE:
        reading.not_read(f"{segment.name}-{n}")
        return None
    return moment


def _duration_s(reading: Reading, segment: Segment | None, value: int, unit: int) -> int | None:
    amount = reading.text(segment, value, 1)
    if segment is None or not isinstance(amount, str):
        return None
    of = reading.text(segment, unit, 1)
    seconds = UNITS.get(of.upper()) if isinstance(of, str) else None
    number = int(amount) if amount.isascii() and amount.isdecimal() and len(amount) < 7 else 0
    if seconds is None or not 0 < number * seconds <= MAX_DURATION_S:
        reading.not_read(f"{segment.name}-{value}")
        return None
    return number * seconds
