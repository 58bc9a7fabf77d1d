"""References to other entities, and what they mean once the other one is merged away."""

from collections.abc import Callable
from typing import Final

import msgspec

from pipeline.domain.event import REFERENCES, Allocation, BedOccupancy, EntityType, Event, Payload, Reference
from pipeline.domain.head import Head

Resolve = Callable[[EntityType, Reference], Reference]
"""The entity that a reference means: itself, or the survivor of the merges that retired it."""

ALIAS_HOPS: Final = 16
"""Merges in a row that a reference is followed through; as many as may retire one identity into another."""


def as_it_stands(_: EntityType, reference: Reference) -> Reference:
    """Where nothing was merged."""
    return reference


def referring(entity_type: EntityType) -> tuple[EntityType, ...]:
    """Entity types that name others of this type."""
    return tuple(each for each, fields in REFERENCES.items() if entity_type in fields.values())


def references_of(payload: Payload, entity_type: EntityType) -> dict[str, tuple[EntityType, Reference]]:
    """The references that a payload states, by field, with the type of what they name."""
    found = {}
    for field, named in REFERENCES.get(entity_type, {}).items():
        value = getattr(payload, field)
        reference = value.encounter if isinstance(value, (BedOccupancy, Allocation)) else value
        if isinstance(reference, Reference):
            found[field] = named, reference
    return found


def resolved(payload: Payload, entity_type: EntityType, resolve: Resolve) -> Payload:
    """The payload with each reference to a retired identity replaced; the same object where there is none."""
    if resolve is as_it_stands:
        return payload
    changes: dict[str, object] = {}
    for field, (named, reference) in references_of(payload, entity_type).items():
        meant = resolve(named, reference)
        if meant != reference:
            value = getattr(payload, field)
            composite = isinstance(value, (BedOccupancy, Allocation))
            changes[field] = msgspec.structs.replace(value, encounter=meant) if composite else meant
    return msgspec.structs.replace(payload, **changes) if changes else payload


def resolved_event(event: Event, resolve: Resolve) -> Event:
    """The event as it is meant. Its id and content hash stay those of what was said."""
    payload = resolved(event.payload, event.entity_type, resolve)
    return event if payload is event.payload else msgspec.structs.replace(event, payload=payload)


def resolved_head(head: Head | None, entity_type: EntityType, resolve: Resolve) -> Head | None:
    """The head as it is meant. It is stored so only with a revision that says so."""
    state = resolved(head.state, entity_type, resolve) if head is not None else None
    return head if head is None or state is None or state is head.state else msgspec.structs.replace(head, state=state)
