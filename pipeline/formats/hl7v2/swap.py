"""A17: two patients change beds. One message about two visits, each with its PID and PV1. Pure."""

from dataclasses import replace
from typing import Final

from pipeline.domain.event import Bed, BedOccupancy, Occupancy
from pipeline.formats.draft import Draft
from pipeline.formats.hl7v2 import adt, triggers
from pipeline.formats.hl7v2.header import Header
from pipeline.formats.hl7v2.reading import Reading
from pipeline.formats.hl7v2.verdict import Reason, Rejected

PATIENTS: Final = 2
"""Who swap."""


def drafts(reading: Reading, header: Header, rule: triggers.Rule | None) -> tuple[Draft, ...] | Rejected:
    """Events of both visits, as of two moves; a bed that the other one takes is not said to be vacant in between."""
    halves = reading.message.each("PID", PATIENTS)
    if halves is None or len(halves) != PATIENTS:
        return Rejected(
            Reason.SEGMENT_SEQUENCE, "PID", "a swap is about two patients", "send PID and PV1 of each of the two that swap"
        )
    found: list[Draft] = []
    for number, half in enumerate(halves):
        part = Reading(half, reading.profile)
        made = adt.drafts(part, header, rule)
        reading.take_over(part)
        if isinstance(made, Rejected):
            return made
        found += (replace(draft, ordinal=draft.ordinal + number * adt.ROLES) for draft in made)
    stays = {_name(draft) for draft in found if draft.ordinal % adt.ROLES == adt.ENCOUNTER}
    if len(stays) != PATIENTS:
        return Rejected(Reason.AMBIGUOUS_IDENTITY, "PV1-19", "both are one visit", "send the number of each visit")
    taken = [_name(draft) for draft in found if _occupancy(draft) is Occupancy.OCCUPIED]
    if len(set(taken)) != len(taken):
        return Rejected(Reason.AMBIGUOUS_IDENTITY, "PV1-3", "both would be in one bed", "send each patient's new bed in PV1-3")
    return tuple(draft for draft in found if _occupancy(draft) is not Occupancy.VACANT or _name(draft) not in taken)


def _name(draft: Draft) -> tuple[str, str]:
    return draft.namespace, draft.entity_id


def _occupancy(draft: Draft) -> Occupancy | None:
    said = draft.payload.occupancy if isinstance(draft.payload, Bed) else None
    return said.status if isinstance(said, BedOccupancy) else None
