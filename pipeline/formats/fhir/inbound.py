"""From a resource that an EHR sent us to canonical events: the one entrance. Pure, and never an exception.

A resource that carries our mark enters as a difference: a field that we wrote is the EHR's word only where its digest
tells that it changed since; a field that we never wrote always is. So our own echo makes no event, and a clinician's
edit on a resource that still carries our mark is not taken for one.
"""

import hashlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from msgspec import structs

from pipeline.domain.event import PAYLOADS, EntityType
from pipeline.domain.identifiers import Millis
from pipeline.formats.draft import Common, Draft
from pipeline.formats.fhir import inbound_appointment, inbound_encounter, inbound_location, inbound_patient, inbound_task
from pipeline.formats.fhir.codec import canonical
from pipeline.formats.fhir.forms import FORMS
from pipeline.formats.fhir.inbound_names import Names, literal_of
from pipeline.formats.fhir.inbound_reading import Reading, Scope, missing
from pipeline.formats.fhir.inbound_verdict import (
    Ignorable,
    Ignored,
    IgnoredBecause,
    Mapped,
    Origin,
    Refusal,
    Rejected,
    RejectedBecause,
    Verdict,
)
from pipeline.formats.fhir.naming import Naming
from pipeline.formats.fhir.owned import Body, elements
from pipeline.formats.fhir.profile import Profile
from pipeline.formats.fhir.references import is_id, is_type
from pipeline.formats.fhir.resources import RESOURCES
from pipeline.formats.fhir.revision import carrier_of, changed_fields_at_ehr
from pipeline.formats.rfc3339 import millis_of

__all__ = ["Ignored", "IgnoredBecause", "Mapped", "Origin", "Rejected", "RejectedBecause", "Verdict", "events_of", "needed"]

NOTHING_KNOWN: Final[Mapping[str, Body]] = MappingProxyType({})

_READERS: Final[dict[str, tuple[EntityType, Callable[[Reading], tuple[Draft, ...]]]]] = {
    "Location": (EntityType.BED, inbound_location.drafts),
    "Encounter": (EntityType.ENCOUNTER, inbound_encounter.drafts),
    "Patient": (EntityType.PATIENT, inbound_patient.drafts),
    "Task": (EntityType.TRANSFER, inbound_task.drafts),
    "Appointment": (EntityType.PROCEDURE, inbound_appointment.drafts),
}
"""Resource types that are mapped."""

MAPPED_TYPES: Final = tuple(_READERS)

_REFERENCES: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "Location": (("partOf",),),
    "Encounter": (("subject",), ("location", "location"), ("episodeOfCare",)),
    "Patient": (("link", "other"),),
    "Task": (("for",), ("encounter",), ("location",)),
    "Appointment": (("participant", "actor"), ("subject",), ("supportingInformation",)),
}
"""Elements by which a resource names others, by type."""


_NAMED_TYPES: Final = frozenset({"Patient", "Encounter", "Location", "EpisodeOfCare"})
"""Types of resources that an event may name; what else a reference leads to is not read."""


def needed(resource: Body, origin: Origin, profile: Profile, known: Mapping[str, Body] = NOTHING_KNOWN) -> tuple[str, ...]:
    """Resources, as `Type/id`, that have to be read before `events_of` can name what this one refers to.

    A reference that carries an identifier of the profile's systems needs none. To be given to `events_of` as `known`.
    """
    kind = resource.get("resourceType") if isinstance(resource, dict) else None
    naming = Naming(profile, origin.tenant, origin.facility)
    found: dict[str, None] = {}
    for path in _REFERENCES.get(kind, ()) if isinstance(kind, str) else ():
        for reference in _at(resource, path):
            name = literal_of(reference)
            if name is None or name.partition("/")[0] not in _NAMED_TYPES:
                continue
            if name not in known and not _is_named(reference, naming):
                found[name] = None
    return tuple(found)


def events_of(
    resource: Body,
    origin: Origin,
    profile: Profile,
    digest_key: bytes,
    received_at: Millis,
    known: Mapping[str, Body] = NOTHING_KNOWN,
) -> Verdict:
    """The events that a resource makes, sealed, in the order in which they are to be published; or why there are none.

    The same version of a resource always gives the same ids and hashes. `digest_key` is the key that our writer marks with:
    under another one every field of ours would pass for an edit. `known` has the resources that literal references lead to.
    """
    try:
        return _events_of(resource, origin, profile, digest_key, received_at, known)
    except Refusal as refusal:
        return refusal.rejected
    except Ignorable as ignorable:
        kind = resource["resourceType"]
        return Ignored(ignorable.reason, kind)


def _events_of(
    resource: Body, origin: Origin, profile: Profile, key: bytes, received_at: Millis, known: Mapping[str, Body]
) -> Verdict:
    kind = resource.get("resourceType") if isinstance(resource, dict) else None
    if not isinstance(kind, str) or not is_type(kind):
        raise Refusal(
            RejectedBecause.NOT_A_RESOURCE, "resourceType", "a resource names its type", "send a resource of the standard"
        )
    if kind not in _READERS:
        raise Ignorable(IgnoredBecause.NOT_MAPPED)
    entity_type, drafts_of = _READERS[kind]
    spoken = profile if FORMS[origin.version] is profile.form else structs.replace(profile, fhir=FORMS[origin.version].name)
    naming = Naming(spoken, origin.tenant, origin.facility)
    names = Names(naming, known, _contained(resource))
    recorded_at = _recorded_at(resource, kind)
    scope = _scope(resource, entity_type, names, key)
    reading = Reading(resource, kind, names, scope, origin.version, recorded_at)
    drafts = drafts_of(reading)
    if not drafts:
        echo = scope.marked and not scope.changed
        return Ignored(IgnoredBecause.ECHO if echo else IgnoredBecause.NOTHING_STATED, kind)
    common = Common(
        tenant=origin.tenant,
        facility=origin.facility,
        source_system=origin.server,
        feed=origin.feed,
        identity=_identity(resource, kind, origin),
        recorded_at=recorded_at,
        received_at=received_at,
    )
    return Mapped(tuple(draft.event(common) for draft in drafts), tuple(reading.unread))


def _recorded_at(resource: Body, kind: str) -> Millis:
    """meta.lastUpdated: the server's own time of this version, and the only order that it has."""
    meta = resource.get("meta")
    if meta is not None and not isinstance(meta, dict):
        raise Refusal(RejectedBecause.WRONG_TYPE, f"{kind}.meta", "the element is an object", "read the resource from the server")
    at = (meta or {}).get("lastUpdated")
    if at is None:
        raise missing(f"{kind}.meta.lastUpdated", "the time of the last update")
    moment = millis_of(at) if isinstance(at, str) else None
    if moment is None:
        raise Refusal(
            RejectedBecause.BAD_VALUE,
            f"{kind}.meta.lastUpdated",
            "an instant has a date, a time and an offset",
            "read the resource from the server, which sets it",
        )
    return moment


def _scope(resource: Body, entity_type: EntityType, names: Names, key: bytes) -> Scope:
    """What of the resource is the EHR's word."""
    carrier = carrier_of(names.naming.profile)
    mark = carrier.read(resource)
    if mark is None:
        return Scope()
    named = names.identity(entity_type, resource, f"{resource['resourceType']}.identifier")
    ident = names.naming.entity(entity_type, named.namespace, named.id)
    mapped = RESOURCES[entity_type]
    try:
        shown = mapped.shown(resource, ident, names.naming)
        changed = changed_fields_at_ehr(resource, shown, key, carrier)
    except (TypeError, ValueError, AttributeError, LookupError, RecursionError) as error:
        # The writer's own view of a resource takes its shape for granted; a body that lacks it is no resource of the standard.
        raise Refusal(
            RejectedBecause.WRONG_TYPE,
            str(resource["resourceType"]),
            "the elements have the types that the standard gives them",
            "send the resource as the standard writes it",
        ) from error
    written = mark.written(shown)
    bare = mapped.shown(mapped.created(PAYLOADS[entity_type](), names.naming), ident, names.naming)
    unsaid = names.naming.profile.fields_of(entity_type) - written
    silent = frozenset(field for field in unsaid if field in shown and shown[field] == bare[field])
    return Scope(written, frozenset(changed or ()), silent, marked=True)


def _identity(resource: Body, kind: str, origin: Origin) -> tuple[str, ...]:
    """Server, type, id, versionId; without a version the digest of the content takes its place."""
    own, version = resource.get("id"), (resource.get("meta") or {}).get("versionId")
    if isinstance(own, str) and is_id(own) and isinstance(version, str) and is_id(version):
        return (origin.server, kind, own, version)
    try:
        content = canonical(resource)
    except (TypeError, ValueError, RecursionError) as error:
        raise Refusal(
            RejectedBecause.NOT_A_RESOURCE, kind, "a resource is JSON text in UTF-8", "send a versionId, or correct the text"
        ) from error
    return (origin.server, kind, "sha256", hashlib.sha256(content).hexdigest())


def _contained(resource: Body) -> dict[str, Body]:
    return {own: inner for inner in elements(resource, "contained") if isinstance(own := inner.get("id"), str)}


def _at(node: Any, path: tuple[str, ...]) -> list[Body]:
    """Objects at a path, through lists."""
    nodes = [node]
    for name in path:
        below = [inner.get(name) for inner in nodes if isinstance(inner, dict)]
        nodes = [each for inner in below for each in (inner if isinstance(inner, list) else [inner])]
    return [node for node in nodes if isinstance(node, dict)]


def _is_named(reference: Body, naming: Naming) -> bool:
    identifier = reference.get("identifier")
    system = identifier.get("system") if isinstance(identifier, dict) else None
    if not isinstance(system, str):
        return False
    named = any(naming.names(entity_type, system) for entity_type in (EntityType.PATIENT, EntityType.ENCOUNTER))
    return named or naming.names_places(system) or naming.names_episodes(system)
