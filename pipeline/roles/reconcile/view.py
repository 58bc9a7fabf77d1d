"""One destination as it is compared: which resource is which entity, and what a resource shows of it."""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from pipeline.destinations.fhir.build import Builder
from pipeline.destinations.protocol import Current
from pipeline.domain.event import EntityType, EventType
from pipeline.domain.head import Head, decode_head
from pipeline.domain.identifiers import NO_REVISION, EntityKey, Millis
from pipeline.domain.reconcile.compare import Held, Rights, Shown
from pipeline.domain.records import Accepted, Lane
from pipeline.formats.fhir.naming import RESOURCE_TYPE, Ident, Naming
from pipeline.formats.fhir.owned import Body, dotted_value, elements
from pipeline.formats.fhir.resources import RESOURCES
from pipeline.formats.fhir.revision import ALL_FIELDS, changed_fields_at_ehr
from pipeline.formats.fhir.times import same_moment
from pipeline.kafka.holdings import Holdings

NAME_BYTES: Final = 12
_UNSHAPED: Final = (TypeError, ValueError, AttributeError, LookupError, RecursionError)
"""What reading a body that lacks the standard's shape may raise."""


class View:
    """Entities of one destination by the identifiers of their resources: some 120 bytes each."""

    def __init__(self, builder: Builder, adopts: Mapping[EntityType, frozenset[str]]) -> None:
        """`adopts`: fields that the server's own system may say by the policy, and has a feed for."""
        self._builder = builder
        self._profile = builder.profile
        self._rights = {
            entity_type: Rights(resource.create != "never", adopts.get(entity_type, frozenset()))
            for entity_type, resource in builder.profile.resources.items()
        }
        self._keys: dict[bytes, bytes] = {}
        self._own_systems: dict[tuple[EntityType, str], set[str]] = {}
        self._known_systems: dict[tuple[EntityType, str], set[str]] = {}
        self._tenants: set[str] = set()
        self._learnt = 0

    @property
    def types(self) -> tuple[EntityType, ...]:
        """Entity types that are written there."""
        return tuple(sorted(entity_type for entity_type in self._profile.resources if entity_type in RESOURCES))

    @property
    def by_value(self) -> bool:
        """Whether values have to be compared, since no mark of ours travels there."""
        return self._profile.revision == "none"

    def learn(self, holdings: Holdings) -> None:
        """Take in the entities that were read since the last time."""
        for key in holdings.order[self._learnt :]:
            entity = EntityKey.decode(key)
            entity_type = EntityType(entity.entity_type)
            if entity_type in self._rights:
                self._keys[_name(entity_type, self.ident(key, holdings.held[key]))] = key
            if entity.tenant not in self._tenants:
                self._learn_tenant(entity.tenant)
        self._learnt = len(holdings.order)

    def ident(self, key: bytes, held: Held) -> Ident:
        """The identifier by which an entity is found there."""
        entity = EntityKey.decode(key)
        naming = Naming(self._profile, entity.tenant, held.facility)
        return naming.entity(EntityType(entity.entity_type), entity.namespace, entity.id)

    def key_of(self, entity_type: EntityType, body: Body) -> bytes | None:
        """The entity that a resource is about, by its identifiers."""
        return next((key for name in _names(entity_type, body) if (key := self._keys.get(name)) is not None), None)

    def owners(self, entity_type: EntityType, body: Body) -> frozenset[str]:
        """Tenants of whom a resource may be: it carries an identifier under a system of our own making, or our mark and one
        under any that we use. None where it is not ours.

        A mark alone may be that of another pipeline, for another organisation at the same server.
        """
        if body.get("resourceType") != RESOURCE_TYPE[entity_type]:
            return frozenset()
        systems = {
            (entity_type, system) for each in elements(body, "identifier") if isinstance(system := each.get("system"), str)
        }
        own = _tenants_at(self._own_systems, systems)
        if own:
            return own
        try:
            known = _tenants_at(self._known_systems, systems)
            return known if known and self._builder.mark_in(body) is not None else frozenset()
        except _UNSHAPED:
            return frozenset()

    def rights(self, entity_type: EntityType) -> Rights:
        """What may be done there."""
        return self._rights[entity_type]

    def shown(self, key: bytes, held: Held, body: Body, copies: int = 1) -> Shown:
        """What a resource shows of its entity. A body without the standard's shape shows something else in every field."""
        entity = EntityKey.decode(key)
        entity_type = EntityType(entity.entity_type)
        updated_at = updated(body)
        if self.by_value and held.head is not None:
            accepted = _as_accepted(entity, decode_head(held.head))
            current = Current(str(body.get("id", "")), None, body, NO_REVISION, None)
            changed = self._builder.differences(accepted, current)
            return Shown(held.revision, held.state_hash, changed, updated_at, copies)
        naming = Naming(self._profile, entity.tenant, held.facility)
        ident = naming.entity(entity_type, entity.namespace, entity.id)
        carrier = self._builder.carrier
        try:
            mark = carrier.read(body)
            seen = RESOURCES[entity_type].shown(body, ident, naming)
            told = changed_fields_at_ehr(body, seen, self._builder.digest_key, carrier)
        except _UNSHAPED:
            return Shown(NO_REVISION, None, (ALL_FIELDS,), updated_at, copies)
        if mark is None:
            return Shown(NO_REVISION, None, (), updated_at, copies)
        return Shown(mark.revision, mark.state_hash, told or (), updated_at, copies)

    def _learn_tenant(self, tenant: str) -> None:
        self._tenants.add(tenant)
        naming = Naming(self._profile, tenant, "")
        for entity_type in self._rights:
            # No authority has an empty name: so this is the system of our own names.
            self._own_systems.setdefault((entity_type, naming.entity(entity_type, "", "").system), set()).add(tenant)
            for system in self._profile.resources[entity_type].authorities.values():
                self._known_systems.setdefault((entity_type, system), set()).add(tenant)


def updated(body: Body) -> Millis | None:
    """When the server last changed a resource, by its clock; None where it doesn't say."""
    moment = same_moment(dotted_value(body, "meta.lastUpdated"))
    return Millis(moment) if isinstance(moment, int) else None


def etag(body: Body) -> str | None:
    """Version that a resource names."""
    version = dotted_value(body, "meta.versionId")
    return f'W/"{version}"' if isinstance(version, str) else None


def _tenants_at(known: Mapping[tuple[EntityType, str], set[str]], systems: Collection[tuple[EntityType, str]]) -> frozenset[str]:
    return frozenset(tenant for system in systems for tenant in known.get(system, ()))


def _names(entity_type: EntityType, body: Body) -> Iterator[bytes]:
    if body.get("resourceType") != RESOURCE_TYPE[entity_type]:
        return
    for each in elements(body, "identifier"):
        system, value = each.get("system"), each.get("value")
        if isinstance(system, str) and isinstance(value, str):
            yield _name(entity_type, Ident(system, value))


def _name(entity_type: EntityType, ident: Ident) -> bytes:
    text = f"{entity_type.value}|{len(ident.system)}|{ident.system}{ident.value}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=NAME_BYTES).digest()


def _as_accepted(entity: EntityKey, head: Head) -> Accepted:
    return Accepted(
        event_id=head.event_id,
        tenant=entity.tenant,
        facility=head.facility,
        entity_type=EntityType(entity.entity_type),
        namespace=entity.namespace,
        entity_id=entity.id,
        event_type=EventType.REASSERT,
        source_system="",
        feed="",
        epoch=head.epoch,
        partition=0,
        offset=head.position,
        revision=head.revision,
        previous_revision=NO_REVISION,
        lane=Lane.BULK,
        changed=(),
        state=head.state,
        state_hash=head.state_hash,
        content_hash=head.content_hash,
        recorded_at=head.recorded_at,
        received_at=head.received_at,
        accepted_at=head.received_at,
        policy_version="",
    )
