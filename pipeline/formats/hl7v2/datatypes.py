"""Data types of chapter 2A as the pipeline reads them: DTM, PL, CX, XPN. Pure; a value that can't be read is `UNREADABLE`."""

import enum
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from datetime import date as CalendarDate
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from pipeline.domain.event import Name, Place
from pipeline.domain.identifiers import Millis
from pipeline.formats.hl7v2.er7 import NULL, Segment
from pipeline.formats.rfc3339 import in_calendar

MAX_TEXT_CHARS: Final = 250
"""Longest value that an event takes over: an event stays about 1 KB. (HL7 gives names and ids 199 to 250.)"""


REMEMBERED_TIMES: Final = 1024
"""Times read last that are kept: those of one message, and of messages that come together, are few."""
MAX_DTM_CHARS: Final = 26
"""Longest DTM: YYYYMMDDHHMMSS.SSSSSS+ZZZZ."""


class Unreadable(enum.Enum):
    """A value is there and is not of its type."""

    UNREADABLE = "UNREADABLE"


UNREADABLE: Final = Unreadable.UNREADABLE

_DTM: Final = re.compile(
    r"(?a)(\d{4})(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:\.(\d{1,6}))?)?)?)?)?)?(?:([+-])(\d\d)(\d\d))?"
)
_PARTS: Final = ((1, 0), (2, 1), (3, 1), (4, 0), (5, 0), (6, 0))
"""Groups of `_DTM` from the year to the second, and what a missing one counts as."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


@lru_cache(maxsize=64)
def zone(name: str) -> tzinfo:
    """Time zone of the IANA database."""
    return ZoneInfo(name)


@lru_cache(maxsize=256)
def _offset(sign: str, hours: str, minutes: str) -> tzinfo | None:
    total = timedelta(hours=int(hours), minutes=int(minutes))
    if int(minutes) > 59 or total >= timedelta(hours=24):
        return None
    return timezone(-total if sign == "-" else total)


def offset_of(text: str | None) -> tzinfo | None:
    """Offset that a DTM carries. MSH-7's holds for every time of the message without one (chapter 2, MSH-7)."""
    return _offset_of(said) if text and len(said := text.strip()) <= MAX_DTM_CHARS else None


@lru_cache(maxsize=REMEMBERED_TIMES)
def _offset_of(text: str) -> tzinfo | None:
    match = _DTM.fullmatch(text)
    return _offset(match[8], match[9], match[10]) if match and match[8] else None


def dtm(text: str, default: tzinfo, *, to_the_minute: bool = False) -> Millis | Unreadable:
    """Milliseconds of the epoch; missing parts are the earliest. `to_the_minute` refuses what is less precise.

    Without an offset the time is local to `default`: an hour that a zone has twice is taken as its first, one that it
    skips as if the clock had not been changed. Both are functions of the message alone, so that a repeat says the same.
    A time outside of the years 1 to 9999 of UTC is unreadable (`rfc3339.in_calendar`).
    """
    said = text.strip()
    return _moment(said, default, to_the_minute) if len(said) <= MAX_DTM_CHARS else UNREADABLE


@lru_cache(maxsize=REMEMBERED_TIMES)
def _moment(text: str, default: tzinfo, to_the_minute: bool) -> Millis | Unreadable:
    match = _DTM.fullmatch(text)
    if not match or (to_the_minute and not match[5]):
        return UNREADABLE
    place = _offset(match[8], match[9], match[10]) if match[8] else default
    if place is None:
        return UNREADABLE
    year, month, day, hour, minute, second = (int(match[group] or least) for group, least in _PARTS)
    microsecond = int((match[7] or "").ljust(6, "0"))
    try:
        moment = datetime(year, month, day, hour, minute, second, microsecond, tzinfo=place)
        millis = in_calendar((moment - _EPOCH) // _MILLISECOND)
    except (ValueError, OverflowError):
        return UNREADABLE
    return UNREADABLE if millis is None else millis


def date(text: str) -> str | Unreadable:
    """Date as YYYY, YYYY-MM or YYYY-MM-DD; a time behind it is left out."""
    match = _DTM.fullmatch(text.strip())
    if not match:
        return UNREADABLE
    try:
        CalendarDate(int(match[1]), int(match[2] or 1), int(match[3] or 1))
    except ValueError:
        return UNREADABLE
    return "-".join(part for part in (match[1], match[2], match[3]) if part)


def text_of(value: str | None) -> str | None:
    """A value without surrounding blanks; None where nothing or the explicit null is left."""
    if value is None:
        return None
    stripped = value.strip()
    return None if stripped in ("", NULL) else stripped


def place_of(segment: Segment, n: int) -> Place | None:
    """PL (chapter 2A): point of care, room, bed, facility, building, floor, each by its first subcomponent; None if empty."""
    repetitions = segment.repetitions(n)
    if not repetitions:
        return None
    parts = [text_of(part) for part in segment.components(repetitions[0])]
    if not any(parts):
        return None
    point_of_care, room, bed, facility, _, _, building, floor = (parts + [None] * 8)[:8]
    return Place(facility, building, floor, point_of_care, room, bed)


def bed_id(place: Place | None) -> str | None:
    """`point_of_care/room/bed`; None where no bed is named. `%` and `/` inside a part are percent-encoded."""
    if place is None or place.bed is None:
        return None
    return "/".join((part or "").replace("%", "%25").replace("/", "%2F") for part in (place.point_of_care, place.room, place.bed))


class Cx:
    """One identifier with its authority and type (CX)."""

    __slots__ = ("authority", "type", "value")

    def __init__(self, value: str, authority: str | None, type_: str | None) -> None:
        self.value = value
        self.authority = authority
        self.type = type_


_AS_SENT: Final[Mapping[str, str]] = {}


def identifiers_of(segment: Segment, n: int, authorities: Mapping[str, str] = _AS_SENT) -> list[Cx]:
    """Repetitions of a CX field that hold an identifier; its authority is the namespace of the HD, else its universal id,
    by the name that `authorities` has for it."""
    found = []
    for repetition in segment.repetitions(n):
        parts = segment.components(repetition)
        value = text_of(parts[0])
        if value is not None:
            authority = text_of(parts[3]) or text_of(segment.part(repetition, 4, 2)) if len(parts) > 3 else None
            if authority is not None:
                authority = authorities.get(authority, authority)
            found.append(Cx(value, authority, text_of(parts[4]) if len(parts) > 4 else None))
    return found


def name_of(segment: Segment, n: int) -> Name | None:
    """XPN (chapter 2A): the legal name (type L) if a repetition is marked so, else the first; None if it is empty."""
    repetitions = segment.repetitions(n)
    if not repetitions:
        return None
    legal = [repetition for repetition in repetitions if segment.part(repetition, 7) == "L"]
    chosen = (legal or repetitions)[0]
    given = [text for number in (2, 3) if (text := text_of(segment.part(chosen, number)))]
    family = text_of(segment.part(chosen, 1))
    return Name(family=family, given=" ".join(given) or None) if family or given else None
