"""How an EHR finds what we speak of: identifiers of entities, of places, and references between resources.

References are logical, by type and identifier. A literal one needs the id of the other resource, which is written from
another partition, by another worker, maybe later: an encounter need not wait for its patient to be there, and no worker
looks into another's table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from pipeline.domain.event import EntityType, Place, Reference
from pipeline.formats.fhir.owned import Body, Json, dotted_value
from pipeline.formats.fhir.profile import LEVELS, PatientIdentifiers, Profile, ReferenceProfile
from pipeline.formats.fhir.terms import LEVEL_TYPE

RESOURCE_TYPE: Final = {
    EntityType.BED: "Location",
    EntityType.ENCOUNTER: "Encounter",
    EntityType.PATIENT: "Patient",
    EntityType.TRANSFER: "Task",
    EntityType.PROCEDURE: "Appointment",
}


@dataclass(frozen=True, slots=True)
class Ident:
    """A FHIR identifier. May be a person's: its representation shows nothing."""

    system: str
    value: str

    def body(self) -> Body:
        """Identifier."""
        return {"system": self.system, "value": self.value}

    def token(self) -> str:
        """Search parameter value `system|value`, escaped as R4 search asks for."""
        return f"{_escaped(self.system)}|{_escaped(self.value)}"

    def __repr__(self) -> str:
        return "Ident(<redacted>)"


@dataclass(frozen=True, slots=True)
class PlaceNode:
    """One level of a place that surrounds a bed: what it is, what it is called, what names it."""

    level: str
    name: str
    ident: Ident


@dataclass(frozen=True, slots=True)
class Naming:
    """Names of one tenant's things at one EHR. `facility` stands in where a place doesn't say which."""

    profile: Profile
    tenant: str
    facility: str

    def entity(self, entity_type: EntityType, namespace: str, entity_id: str) -> Ident:
        """Identifier of an entity. A type that the profile doesn't name has a system of our own making."""
        system, authorities = self._named(entity_type)
        if namespace in authorities:
            return Ident(authorities[namespace], entity_id)
        return Ident(system, f"{_quoted(namespace)}/{entity_id}")

    def reference(self, entity_type: EntityType, reference: Reference) -> Body:
        """Logical reference to another entity."""
        return logical_reference(RESOURCE_TYPE[entity_type], self.entity(entity_type, reference.namespace, reference.id))

    def names(self, entity_type: EntityType, system: str) -> bool:
        """Whether references under this identifier system are to entities of this type by names of ours."""
        own, authorities = self._named(entity_type)
        return system == own or system in authorities.values()

    def episode(self, reference: Reference) -> Ident:
        """Identifier of an episode of care."""
        named = self.profile.episodes or ReferenceProfile("urn:surgeline:{tenant}:episode")
        if reference.namespace in named.authorities:
            return Ident(named.authorities[reference.namespace], reference.id)
        return Ident(self._system(named.system), f"{_quoted(reference.namespace)}/{reference.id}")

    def names_episodes(self, system: str) -> bool:
        """Whether references under this identifier system are to episodes of care by names of ours."""
        named = self.profile.episodes
        return named is not None and (system == self._system(named.system) or system in named.authorities.values())

    def authority(self, authority: str) -> str:
        """System of a person's identifier that `authority` assigned."""
        systems = self.profile.patient_identifiers or PatientIdentifiers("urn:surgeline:{tenant}:authority:{authority}")
        return systems.authorities.get(authority) or self._system(systems.system).replace("{authority}", _quoted(authority))

    def is_made_by_us(self, system: str) -> bool:
        """Whether the system of a person's identifier is one that only we write under."""
        systems = self.profile.patient_identifiers
        return systems is not None and system.startswith(self._system(systems.system).partition("{authority}")[0])

    def knows(self, system: str) -> bool:
        """Whether a person's identifiers under this system are mapped."""
        systems = self.profile.patient_identifiers
        return self.is_made_by_us(system) or (systems is not None and system in systems.authorities.values())

    def chain(self, place: Place) -> tuple[PlaceNode, ...]:
        """What surrounds the bed of `place`, innermost first. A level that isn't named is left out."""
        present: list[str] = [level for level in self.profile.places.levels if self._part(place, level)]
        return tuple(self._node(place, level, present[index:]) for index, level in enumerate(present))

    def innermost(self, place: Place) -> Ident | None:
        """Identifier of the bed, else of the innermost level that is named; None for a place that says nothing."""
        if place.bed:
            # As every way in names a bed: parts that aren't known stay as empty ones, so that no two places get one name.
            parts = [getattr(place, level) or "" for level in self.profile.places.bed_id]
            namespace = self._part(place, self.profile.places.bed_namespace) or self.facility
            return self.entity(
                EntityType.BED, namespace, "/".join(part.replace("%", "%25").replace("/", "%2F") for part in parts)
            )
        chain = self.chain(place)
        return chain[0].ident if chain and any(getattr(place, level) for level in LEVELS) else None

    def names_places(self, system: str) -> bool:
        """Whether references under this identifier system are to places by names of ours."""
        return system == self._system(self.profile.places.system) or self.names(EntityType.BED, system)

    def _node(self, place: Place, level: str, outward: list[str]) -> PlaceNode:
        path = "/".join(f"{LEVEL_TYPE[name][0]}:{_quoted(self._part(place, name))}" for name in reversed(outward))
        return PlaceNode(level, self._part(place, level), Ident(self._system(self.profile.places.system), path))

    def _part(self, place: Place, level: str) -> str:
        return getattr(place, level) or (self.facility if level == "facility" else "")

    def _named(self, entity_type: EntityType) -> tuple[str, Mapping[str, str]]:
        named = self.profile.resources.get(entity_type) or self.profile.references.get(entity_type)
        system = named.system if named is not None else f"urn:surgeline:{{tenant}}:{entity_type}"
        return self._system(system), named.authorities if named is not None else {}

    def _system(self, template: str) -> str:
        return template.replace("{tenant}", _quoted(self.tenant))


def logical_reference(resource_type: str, ident: Ident) -> Body:
    """Reference by type and identifier."""
    return {"type": resource_type, "identifier": ident.body()}


def referenced(reference: Json) -> Json:
    """What a reference points to, comparable: our identifier's value by its system, else the literal reference."""
    if not isinstance(reference, dict):
        return None
    system, value = dotted_value(reference, "identifier.system"), dotted_value(reference, "identifier.value")
    return [system, value] if system and value else reference.get("reference")


def _quoted(text: str) -> str:
    """Percent-encoding of all but letters, digits and `-._~`."""
    return quote(text, safe="", encoding="utf-8", errors="surrogatepass")


def query_quoted(text: str) -> str:
    """Percent-encoding for a query."""
    return _quoted(text)


def _escaped(text: str) -> str:
    for special in ("\\", "|", ",", "$"):
        text = text.replace(special, "\\" + special)
    return text
