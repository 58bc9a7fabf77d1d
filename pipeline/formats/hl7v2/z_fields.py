"""Fields of an encounter that a profile reads from a Z-segment. Pure."""

from typing import Any

import msgspec
from msgspec import UNSET

from pipeline.domain.event import Encounter
from pipeline.formats.hl7v2.profile import PLACE_FIELDS, TIME_FIELDS, Z_FIELDS
from pipeline.formats.hl7v2.reading import Reading
from pipeline.formats.hl7v2.triggers import STATED, Rule


def added(reading: Reading, rule: Rule, stay: Encounter) -> Encounter:
    """The encounter with what the Z-segments say of it. A value there comes before the standard's position; what the trigger
    clears stays cleared, and a place is stated only by a trigger that states such places."""
    said: dict[str, Any] = {}
    for field in Z_FIELDS:
        position = reading.profile.z_position(field)
        if position is None or field in rule.clears or (field in PLACE_FIELDS and field not in STATED[rule.places]):
            continue
        name, n, component = position
        segment = reading.message.segment(name)
        if field in PLACE_FIELDS:
            value: Any = reading.place(segment, n)
        elif field in TIME_FIELDS:
            value = reading.time(segment, n, component)
        else:
            value = reading.text(segment, n, component)
        if value is not UNSET:
            said[field] = value
    return msgspec.structs.replace(stay, **said) if said else stay
