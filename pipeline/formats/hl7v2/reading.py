"""Reads the fields of one message into what an event may say: a value, None for the explicit null, UNSET for nothing."""

from collections.abc import Mapping
from datetime import tzinfo
from typing import Final, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from pipeline.domain.event import Place
from pipeline.domain.identifiers import Millis
from pipeline.formats.hl7v2.datatypes import MAX_TEXT_CHARS, UNREADABLE, dtm, offset_of, place_of, zone
from pipeline.formats.hl7v2.er7 import NULL, Message, Segment
from pipeline.formats.hl7v2.profile import Profile

_T = TypeVar("_T")

MAX_UNREAD: Final = 50
"""How many unreadable fields of one message are named."""


class Reading:
    """A message under its profile, with the list of optional fields that could not be read, and of those that are too long."""

    __slots__ = ("_places", "message", "over_long", "profile", "unread", "zone")

    def __init__(self, message: Message, profile: Profile) -> None:
        self.message = message
        self.profile = profile
        self.zone: tzinfo = offset_of(message.field("MSH", 7)) or zone(profile.time_zone)
        self.unread: list[str] = []
        self.over_long: list[str] = []
        self._places: dict[str, Place] = {}
        """By the text that they were read from: a message names the same place for the stay, its beds and its way."""

    def not_read(self, name: str) -> UnsetType:
        """Note that the field of this position is left unsaid."""
        if len(self.unread) < MAX_UNREAD:
            self.unread.append(name)
        return UNSET

    def too_long(self, name: str) -> UnsetType:
        """Note that the field of this position is left unsaid, because an event has no room for it."""
        if len(self.over_long) < MAX_UNREAD:
            self.over_long.append(name)
        return self.not_read(name)

    def take_over(self, part: "Reading") -> None:
        """Note what could not be read in a part of the message."""
        self.unread += part.unread
        self.over_long += part.over_long

    def text(self, segment: Segment | None, n: int, component: int = 0) -> str | UnsetType | None:
        """A text without surrounding blanks."""
        if segment is None:
            return UNSET
        value = segment.value(n, component)
        if value is None or not (value := value.strip()):
            return UNSET
        if value == NULL:
            return None
        return value if len(value) <= MAX_TEXT_CHARS else self.too_long(f"{segment.name}-{n}")

    def code(self, segment: Segment | None, n: int, own: Mapping[str, _T], table: Mapping[str, _T]) -> _T | UnsetType | None:
        """A code by the sender's own list, as it is written there, else by the standard's table in upper case."""
        value = self.text(segment, n)
        if segment is None or not isinstance(value, str):
            return UNSET if isinstance(value, UnsetType) else None
        if value in own:
            return own[value]
        code = value.upper()
        return table[code] if code in table else self.not_read(f"{segment.name}-{n}")

    def time(self, segment: Segment | None, n: int, component: int = 0) -> Millis | UnsetType | None:
        """A time, in milliseconds of the epoch."""
        value = self.text(segment, n, component)
        if not isinstance(value, str) or segment is None:
            return UNSET if isinstance(value, UnsetType) else None
        moment = dtm(value, self.zone)
        return self.not_read(f"{segment.name}-{n}") if moment is UNREADABLE else moment

    def place(self, segment: Segment | None, n: int) -> Place | UnsetType | None:
        """A place, by the names that the profile gives to facilities and units."""
        if segment is None or not (text := segment.raw(n)):
            return UNSET
        if (known := self._places.get(text)) is not None:
            return known
        if text == NULL:
            return None
        place = place_of(segment, n)
        if place is None:
            return UNSET
        if _too_long(place):
            return self.too_long(f"{segment.name}-{n}")
        named = self._places[text] = self._named_here(place)
        return named

    def _named_here(self, place: Place) -> Place:
        profile = self.profile
        if place.facility is not None and profile.facilities:
            place = msgspec.structs.replace(place, facility=profile.facilities.get(place.facility, place.facility))
        if place.point_of_care is None or not profile.units:
            return place
        site = place.facility or profile.facility
        unit = profile.units.get(f"{site}/{place.point_of_care}") or profile.units.get(place.point_of_care)
        if unit is None:
            return place
        named = {field: value for field in unit.__struct_fields__ if (value := getattr(unit, field)) is not None}
        return msgspec.structs.replace(place, **named)


def _too_long(place: Place) -> bool:
    return any(len(getattr(place, field) or "") > MAX_TEXT_CHARS for field in place.__struct_fields__)


def or_none(value: str | UnsetType | None) -> str | None:
    """The value, where nothing said and deleted are the same."""
    return value if isinstance(value, str) else None
