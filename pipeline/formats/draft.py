"""Events as a mapping drafts them: what is each one's own, and what all events of one message have in common. Pure."""

from dataclasses import dataclass
from typing import Final

from pipeline.domain.event import PAYLOADS, EntityType, Event, EventType, Payload, Place, Reference, SequenceBasis, sealed
from pipeline.domain.identifiers import EntityKey, Millis, derive_event_id

_TYPE_OF: Final[dict[type[Payload], EntityType]] = {payload: entity_type for entity_type, payload in PAYLOADS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """What all events of one message share. `facility` stands in where a place doesn't say which; `identity` names the
    message at its source."""

    tenant: str
    facility: str
    source_system: str
    feed: str
    identity: tuple[str, ...]
    recorded_at: Millis
    received_at: Millis
    sequence: int | None = None
    sequence_basis: SequenceBasis = SequenceBasis.RECORDED_TIME
    occurred_at: Millis | None = None
    control_id: str | None = None
    user: str | None = None
    reason: str | None = None
    priority: str | None = None
    audit_context: str | None = None

    def __repr__(self) -> str:
        return f"Common({self.source_system}, {self.feed}, <redacted>)"


@dataclass(frozen=True, slots=True)
class Draft:
    """An event before the common part is added."""

    ordinal: int
    event_type: EventType
    namespace: str
    entity_id: str
    place: Place | None
    payload: Payload
    replaces: Reference | None = None

    def __repr__(self) -> str:
        return f"Draft({self.ordinal}, {self.event_type}, <redacted>)"

    def event(self, common: Common) -> Event:
        """The event, with an id derived from the message, the entity and the ordinal."""
        entity_type = _TYPE_OF[type(self.payload)]
        key = EntityKey(common.tenant, entity_type.value, self.namespace, self.entity_id)
        return sealed(
            Event(
                event_id=derive_event_id(common.tenant, common.source_system, common.identity, key, self.ordinal),
                tenant=common.tenant,
                facility=(self.place.facility if self.place else None) or common.facility,
                source_system=common.source_system,
                feed=common.feed,
                entity_type=entity_type,
                namespace=self.namespace,
                entity_id=self.entity_id,
                event_type=self.event_type,
                sequence=common.sequence,
                sequence_basis=common.sequence_basis,
                occurred_at=common.occurred_at,
                recorded_at=common.recorded_at,
                received_at=common.received_at,
                control_id=common.control_id,
                location=self.place,
                user=common.user,
                reason=common.reason,
                priority=common.priority,
                audit_context=common.audit_context,
                payload=self.payload,
                replaces=self.replaces,
            )
        )
