"""Values as they go out: data types of chapter 2A from the model's, segments by position. Pure; the inverse of `datatypes`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from msgspec import UnsetType

from pipeline.domain.event import Identifier, Name, Place, Reference
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Reason
from pipeline.formats.hl7v2.datatypes import zone
from pipeline.formats.hl7v2.er7 import NULL, Components, FieldContent, Repetitions
from pipeline.formats.hl7v2.out_profile import OutProfile

Line = tuple[str, Sequence[FieldContent]]
"""A segment for `er7.build`."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Held:
    """A state that can't go out as it is; `field` is a position, never a value."""

    reason: Reason
    field: str


class Untellable(Exception):
    """A value of the state has no form in HL7 v2. Raised and caught within one build."""

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field: Final = field


def segment(name: str, fields: Mapping[int, FieldContent]) -> Line:
    """A segment of which only these fields are valued; MSH is numbered as in the standard, from MSH-3 on."""
    first = 3 if name == "MSH" else 1
    last = max(fields, default=first - 1)
    return name, tuple(fields.get(n, "") for n in range(first, last + 1))


def text(value: str | UnsetType | None, field: str) -> str:
    """A text: empty where nothing is said, the explicit null where it was cleared. A text that is the null itself has no form."""
    if value is None:
        return NULL
    if isinstance(value, UnsetType):
        return ""
    if value.strip() == NULL:
        raise Untellable(field)
    return value


def time(value: Millis | UnsetType | None, profile: OutProfile, field: str) -> str:
    """DTM to the second, to the millisecond where it has any, in the profile's zone."""
    if value is None:
        return NULL
    if isinstance(value, UnsetType):
        return ""
    try:
        moment = (_EPOCH + timedelta(milliseconds=value)).astimezone(zone(profile.time_zone))
    except (OverflowError, ValueError) as error:
        raise Untellable(field) from error
    milliseconds = value % 1000
    offset = moment.strftime("%z")[:5] if profile.offsets else ""
    year = f"{moment.year:04d}"
    return year + moment.strftime("%m%d%H%M%S") + (f".{milliseconds:03d}" if milliseconds else "") + offset


def place(value: Place | UnsetType | None, field: str) -> FieldContent:
    """PL."""
    if value is None:
        return NULL
    if isinstance(value, UnsetType):
        return ""
    parts = (value.point_of_care, value.room, value.bed, value.facility, None, None, value.building, value.floor)
    if not any(parts):
        return ""
    return one(*(text(part, field) if part is not None else "" for part in parts))


def cx(reference: Reference, type_: str, field: str) -> Components:
    """CX: identifier, authority, type."""
    parts = (text(reference.id, field), "", "", text(reference.namespace, field), type_)
    return tuple((part,) for part in parts)


def identifier(known: Identifier, field: str) -> Components:
    """CX of one of a person's identifiers."""
    return cx(Reference(known.system, known.value), known.type or "", field)


def name(value: Name | UnsetType | None, field: str) -> FieldContent:
    """XPN, the legal name; the first given name by itself, the others behind it."""
    if value is None:
        return NULL
    if isinstance(value, UnsetType):
        return ""
    first, _, others = (value.given or "").strip().partition(" ")
    parts = (value.family or "", first, others.strip())
    if not any(parts):
        return ""
    return one(*(text(part, field) if part else "" for part in parts), "", "", "", "L")


def one(*components: str) -> Repetitions:
    """A field with one repetition of simple components."""
    return (tuple((component,) for component in components),)


def bed_place(namespace: str, entity_id: str, known: Place | UnsetType | None) -> Place:
    """Where a bed stands by its name `unit/room/bed`; a bed with another kind of name has it in PL.3 alone, unless the
    location master says where it stands. The namespace is the facility of PL.4: there it is read from."""
    parts = entity_id.split("/")
    if len(parts) == 3 and parts[2]:
        unit, room, bed = (part.replace("%2F", "/").replace("%25", "%") or None for part in parts)
        master = known if isinstance(known, Place) else Place()
        return Place(namespace, master.building, master.floor, unit, room, bed)
    if isinstance(known, Place) and known.bed:
        return Place(namespace, known.building, known.floor, known.point_of_care, known.room, known.bed)
    return Place(namespace, bed=entity_id)
