"""Reads the fields of one message into what an event may say: a value, None for the explicit null, UNSET for nothing."""

from datetime import tzinfo
from typing import Final

from msgspec import UNSET, UnsetType

from pipeline.domain.event import Place
from pipeline.domain.identifiers import Millis
from pipeline.formats.hl7v2.datatypes import MAX_TEXT_CHARS, UNREADABLE, dtm, offset_of, place_of, zone
from pipeline.formats.hl7v2.er7 import NULL, Message, Segment
from pipeline.formats.hl7v2.profile import Profile

MAX_UNREAD: Final = 50
"""How many unreadable fields of one message are named."""


class Reading:
    """A message under its profile, with the list of optional fields that could not be read."""

    __slots__ = ("message", "profile", "unread", "zone")

    def __init__(self, message: Message, profile: Profile) -> None:
        self.message = message
        self.profile = profile
        self.zone: tzinfo = offset_of(message.field("MSH", 7)) or zone(profile.time_zone)
        self.unread: list[str] = []

    def not_read(self, name: str) -> UnsetType:
        """Note that the field of this position is left unsaid."""
        if len(self.unread) < MAX_UNREAD:
            self.unread.append(name)
        return UNSET

    def text(self, segment: Segment | None, n: int, component: int = 0) -> str | UnsetType | None:
        """A text without surrounding blanks."""
        if segment is None:
            return UNSET
        value = segment.value(n, component)
        if value is None or not (value := value.strip()):
            return UNSET
        if value == NULL:
            return None
        return value if len(value) <= MAX_TEXT_CHARS else self.not_read(f"{segment.name}-{n}")

    def time(self, segment: Segment | None, n: int) -> Millis | UnsetType | None:
        """A time, in milliseconds of the epoch."""
        value = self.text(segment, n)
        if not isinstance(value, str) or segment is None:
            return UNSET if isinstance(value, UnsetType) else None
        moment = dtm(value, self.zone)
        return self.not_read(f"{segment.name}-{n}") if moment is UNREADABLE else moment

    def place(self, segment: Segment | None, n: int) -> Place | UnsetType | None:
        """A place."""
        if segment is None or not segment.raw(n):
            return UNSET
        if segment.raw(n) == NULL:
            return None
        place = place_of(segment, n)
        if place is None:
            return UNSET
        return self.not_read(f"{segment.name}-{n}") if _too_long(place) else place


def _too_long(place: Place) -> bool:
    return any(len(getattr(place, field) or "") > MAX_TEXT_CHARS for field in place.__struct_fields__)


def or_none(value: str | UnsetType | None) -> str | None:
    """The value, where nothing said and deleted are the same."""
    return value if isinstance(value, str) else None
