"""MFN M05: the location master (chapter 8). One event per bed. Pure."""

from typing import Any, Final

from pipeline.domain.event import Bed as BedState
from pipeline.domain.event import EventType, Place, Service, ServiceStatus
from pipeline.formats.draft import Draft
from pipeline.formats.hl7v2.datatypes import bed_id
from pipeline.formats.hl7v2.er7 import MAX_BEFORE, Message, Segment
from pipeline.formats.hl7v2.header import Header
from pipeline.formats.hl7v2.reading import Reading
from pipeline.formats.hl7v2.verdict import Ignored, Reason, Rejected

MAX_LOCATIONS: Final = 1_000
"""Most records of one message."""

ACTIONS: Final[dict[str, ServiceStatus | None]] = {
    "MAD": None,
    "MUP": None,
    "MDC": ServiceStatus.CLOSED,
    "MDL": ServiceStatus.CLOSED,
    "MAC": ServiceStatus.OPEN,
}
"""MFE-1, table 0180: what a record's action says of the bed's service. A deleted bed is closed: its history stays."""

YES_NO: Final = {"Y": True, "N": False}

FLAGS: Final = {"LIC": "licensed", "STF": "staffed", "OVR": "surge"}
"""LCH-4, table 0324: characteristics that are yes or no."""

TEXTS: Final = {"LCR": "level_of_care"}
"""LCH-4, table 0324: characteristics with a code."""


def drafts(reading: Reading, header: Header) -> tuple[Draft, ...] | Rejected | Ignored:
    """An event for each record that names a bed; ignored where none does: rooms and units have no state here."""
    records = reading.message.each("MFE", MAX_LOCATIONS)
    if not records:
        too_many = f"more than {MAX_LOCATIONS} of them, or more than {MAX_BEFORE} segments before the first"
        detail = too_many if records is None else "segment missing"
        return Rejected(Reason.SEGMENT_SEQUENCE, "MFE", detail, "send each location with one MFE and its LOC")
    found: list[Draft] = []
    for ordinal, record in enumerate(records):
        part = Reading(record, reading.profile)
        made = _draft(part, record, header, ordinal)
        reading.take_over(part)
        if isinstance(made, Rejected):
            return made
        if made is not None:
            found.append(made)
    if not found:
        return Ignored("MFN^M05 without a bed: rooms and units have no state of their own")
    return tuple(found)


def _draft(reading: Reading, record: Message, header: Header, ordinal: int) -> Draft | Rejected | None:
    entry, location = record.segment("MFE"), record.segment("LOC")
    place = reading.place(location, 1) if location else reading.place(entry, 4)
    if not isinstance(place, Place):
        return Rejected(Reason.MISSING_FIELD, "LOC-1", "no location", "send the location's key in LOC-1 or MFE-4")
    name = bed_id(place)
    if name is None:
        return None
    action = reading.text(entry, 1)
    if not isinstance(action, str) or action.upper() not in ACTIONS:
        return Rejected(Reason.UNKNOWN_CODE, "MFE-1", "not a code of table 0180", f"send one of {', '.join(ACTIONS)} in MFE-1")
    effective = reading.time(entry, 3)
    if isinstance(effective, int) and effective > header.recorded_at:
        return Rejected(Reason.BAD_VALUE, "MFE-3", "takes effect after it was recorded", "send it when it takes effect")
    service = ACTIONS[action.upper()]
    stated: dict[str, Any] = {} if service is None else {"service": Service(service, reading.profile.bed_reason)}
    for characteristic in record.segments("LCH"):
        stated |= _characteristic(reading, characteristic)
    namespace = place.facility or reading.profile.facility
    return Draft(ordinal, EventType.UPDATE, namespace, name, place, BedState(place=place, **stated))


def _characteristic(reading: Reading, characteristic: Segment) -> dict[str, Any]:
    """What one LCH states. A characteristic that beds have no field for is left unsaid and named."""
    code, value = reading.text(characteristic, 4, 1), reading.text(characteristic, 5, 1)
    known = code.upper() if isinstance(code, str) else ""
    if known in TEXTS and isinstance(value, str):
        return {TEXTS[known]: value}
    if known in FLAGS and isinstance(value, str) and value.upper() in YES_NO:
        return {FLAGS[known]: YES_NO[value.upper()]}
    reading.not_read("LCH-5" if known in TEXTS or known in FLAGS else "LCH-4")
    return {}
