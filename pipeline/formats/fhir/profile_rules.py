"""Reads a profile, and says everything that is wrong with it. An owner's profile may not map what the EHR owns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from pipeline.domain.event import EntityType
from pipeline.formats.fhir.profile import (
    FIELDS,
    MAX_BUNDLE_BYTES,
    MAX_BUNDLE_ENTRIES,
    MIN_BUNDLE_BYTES,
    NO_PLACE,
    OWNER_FIELDS,
    OWNER_MAKES,
    PROFILE_VERSION,
    Profile,
    ResourceProfile,
    StatusMap,
)
from pipeline.formats.fhir.statuses import STATUSES_OF
from pipeline.formats.fhir.terms import EXTENSIONS, REVISION_NAME


@dataclass(frozen=True, slots=True)
class ProfileProblems:
    """Why a profile is refused: all that is wrong with it, each with its place."""

    problems: tuple[str, ...]


def parse_profile(document: object) -> Profile | ProfileProblems:
    """The profile in a parsed YAML or JSON document, or everything that is wrong with it."""
    if not isinstance(document, Mapping):
        return ProfileProblems(("a profile is a mapping",))
    problems = list(_shape_problems(document))
    profile = msgspec.convert(_readable(document) if problems else document, Profile)
    for check in _PART_CHECKS if problems else (*_PART_CHECKS, *_WHOLE_CHECKS):
        problems += check(profile)
    return ProfileProblems(tuple(problems)) if problems else profile


def _shape_problems(document: Mapping[Any, Any]) -> list[str]:
    """One problem at most per part, so that one mistake doesn't hide those of the other parts."""
    found = []
    for field in msgspec.structs.fields(Profile):
        if field.name not in document:
            found += [f"{field.name}: missing"] if field.required else []
        elif field.name == "resources" and isinstance(document["resources"], Mapping):
            found += _resource_shape_problems(document["resources"])
        else:
            found += _convert_problem(field.name, document[field.name], field.type)
    known = {field.name for field in msgspec.structs.fields(Profile)}
    return found + [f"{name}: unknown" for name in document if name not in known]


def _readable(document: Mapping[Any, Any]) -> dict[str, Any]:
    """What has the right shape of a profile, with stand-ins for what can't do without: its problems are told as well."""
    resources = document.get("resources")
    parts: dict[str, Any] = {"version": PROFILE_VERSION, "role": "replica", "places": {"system": "urn:surgeline:places"}}
    for field in msgspec.structs.fields(Profile):
        if field.name in document and not _convert_problem(field.name, document[field.name], field.type):
            parts[field.name] = document[field.name]
    parts["resources"] = {
        name: resource
        for name, resource in (resources.items() if isinstance(resources, Mapping) else ())
        if not _resource_shape_problems({name: resource})
    }
    return parts


def _resource_shape_problems(resources: Mapping[Any, Any]) -> list[str]:
    found = []
    for name, resource in resources.items():
        found += _convert_problem("resources", name, EntityType)
        found += _convert_problem(f"resources.{name}", resource, ResourceProfile)
    return found


def _convert_problem(where: str, value: object, kind: Any) -> list[str]:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        return [f"{where}: {error}"]
    return []


def _check_version(profile: Profile) -> list[str]:
    return [] if profile.version == PROFILE_VERSION else [f"version: {profile.version} isn't {PROFILE_VERSION}"]


def _check_fields(profile: Profile) -> list[str]:
    found = []
    for entity_type, resource in profile.resources.items():
        where = f"resources.{entity_type}.fields"
        if entity_type in NO_PLACE:
            found.append(f"resources.{entity_type}: an EHR has no place for {entity_type}; leave it out, it goes to no EHR")
            continue
        found += [f"{where}: {name} has no FHIR form" for name in resource.fields if name not in FIELDS[entity_type]]
        found += [] if resource.fields else [f"{where}: none"]
    return found


def _check_owner(profile: Profile) -> list[str]:
    if profile.role != "owner":
        return []
    return [
        f"resources.{entity_type}.fields: {name} is the EHR's own; an owner is never written what it owns"
        for entity_type, resource in profile.resources.items()
        for name in resource.fields
        if name in FIELDS.get(entity_type, ()) and name not in OWNER_FIELDS[entity_type]
    ] + [
        f"resources.{entity_type}.create: an owner makes its own {entity_type} resources"
        for entity_type, resource in profile.resources.items()
        if entity_type in OWNER_MAKES and resource.create != "never"
    ]


def _check_reservation(profile: Profile) -> list[str]:
    needed = {"extension": (EntityType.BED, "allocation"), "pending-location": (EntityType.ENCOUNTER, "pending_location")}
    if profile.reservation not in needed:
        return []
    entity_type, field = needed[profile.reservation]
    if field in profile.fields_of(entity_type):
        return []
    return [f"reservation: {profile.reservation} needs {field} among resources.{entity_type}.fields"]


def _check_together(profile: Profile) -> list[str]:
    """Elements that R4 allows only together, or asks for at least once."""
    found = []
    fields = profile.fields_of(EntityType.PROCEDURE)
    times = fields & {"status", "start", "end"}
    if times and len(times) < 3:
        found.append("resources.procedure.fields: status, start and end go out together (R4 app-2, app-3)")
    if EntityType.PROCEDURE in profile.resources and not fields & {"patient", "place"}:
        found.append("resources.procedure.fields: patient or place is needed, an Appointment has a participant")
    if "reason" in fields and "status" not in fields:
        found.append("resources.procedure.fields: reason needs status, a reason of cancelling stands with cancelled (R4 app-4)")
    transfer = profile.fields_of(EntityType.TRANSFER)
    if "last_modified" in transfer and "requested_at" not in transfer:
        found.append("resources.transfer.fields: last_modified needs requested_at, it is never before it (R4 inv-1)")
    return found


def _check_statuses(profile: Profile) -> list[str]:
    found = []
    for entity_type, resource in profile.resources.items():
        for field, mapped in resource.statuses.items():
            found += _status_problems(f"resources.{entity_type}.statuses.{field}", profile.fhir, entity_type, field, mapped)
    return found


def _status_problems(where: str, version: str, entity_type: EntityType, field: str, mapped: StatusMap) -> list[str]:
    element = STATUSES_OF[version].get(entity_type, {}).get(field)
    if element is None:
        return [f"{where}: no status"]
    found = [f"{where}.codes.{code}: no code of ours in {element.element}" for code in mapped.codes if code not in element.ours]
    found += [
        f"{where}.codes.{code}: {theirs!r} is not a code that {version} allows in {element.element}"
        for code, theirs in mapped.codes.items()
        if element.bound is not None and theirs not in element.bound
    ]
    found += [f"{where}.codes.{code}: no code" for code, theirs in mapped.codes.items() if theirs.split() != [theirs]]
    if mapped.system is not None and element.system is None:
        found.append(f"{where}.system: {element.element} is a plain code and has no system")
    if mapped.system is not None and ":" not in mapped.system:
        found.append(f"{where}.system: not an absolute URI")
    return found


def _check_extensions(profile: Profile) -> list[str]:
    known = {name for names in EXTENSIONS.values() for name, _ in names.values()} | {REVISION_NAME}
    found = [f"extensions.{name}: no extension of ours" for name in profile.extensions if name not in known]
    found += [f"extensions.{name}: not an absolute URI" for name, url in profile.extensions.items() if ":" not in url]
    named: dict[str, str] = {}
    for name in sorted(known):
        url = profile.extension(name)
        if url in named:
            found.append(f"extensions.{name}: the same URL as {named[url]}")
        named.setdefault(url, name)
    return found


def _check_episodes(profile: Profile) -> list[str]:
    if "episode" in profile.fields_of(EntityType.ENCOUNTER) and profile.episodes is None:
        return ["episodes: needed, because resources.encounter.fields names episode"]
    return []


def _check_fence(profile: Profile) -> list[str]:
    if profile.revision == "none" and profile.fence == "none":
        return ["revision: none needs fence if-match, or nothing keeps an old write from replacing a newer one"]
    return []


def _check_systems(profile: Profile) -> list[str]:
    systems = {"places.system": profile.places.system}
    if profile.episodes is not None:
        systems["episodes.system"] = profile.episodes.system
    systems |= {f"resources.{entity_type}.system": resource.system for entity_type, resource in profile.resources.items()}
    systems |= {f"references.{entity_type}.system": named.system for entity_type, named in profile.references.items()}
    found = [f"{where}: not an absolute URI" for where, system in systems.items() if ":" not in system]
    found += [f"references.{name}: named by resources.{name} already" for name in profile.references if name in profile.resources]
    named: dict[str, str] = {}
    for where, system in systems.items():
        if system in named:
            found.append(f"{where}: the same system as {named[system]}")
        named.setdefault(system, where)
    return found


def _check_places(profile: Profile) -> list[str]:
    places = profile.places
    found = [] if len(set(places.levels)) == len(places.levels) else ["places.levels: a level twice"]
    return found + ([] if "bed" in places.bed_id else ["places.bed_id: the bed itself is missing"])


def _check_patient_identifiers(profile: Profile) -> list[str]:
    if "identifiers" not in profile.fields_of(EntityType.PATIENT):
        return []
    if profile.patient_identifiers is None:
        return ["patient_identifiers: needed, because resources.patient.fields names identifiers"]
    return [] if "{authority}" in profile.patient_identifiers.system else ["patient_identifiers.system: no {authority} in it"]


def _check_bundle(profile: Profile) -> list[str]:
    bundle = profile.bundle
    if bundle is None:
        return []
    found = [] if 2 <= bundle.entries <= MAX_BUNDLE_ENTRIES else [f"bundle.entries: not from 2 to {MAX_BUNDLE_ENTRIES}"]
    if not MIN_BUNDLE_BYTES <= bundle.bytes <= MAX_BUNDLE_BYTES:
        found.append(f"bundle.bytes: not from {MIN_BUNDLE_BYTES} to {MAX_BUNDLE_BYTES}")
    if profile.fence != "if-match":
        # An entry waits for its bundle after its partition was last known to be ours: only the version stops it then.
        found.append("bundle: needs a fence")
    return found


def _check_headers(profile: Profile) -> list[str]:
    secret = {"authorization", "cookie", "proxy-authorization", "x-api-key"}
    return [f"headers.{name}: a secret has no place in a profile" for name in profile.headers if name.lower() in secret]


_PART_CHECKS: Final[tuple[Callable[[Profile], list[str]], ...]] = (
    _check_version, _check_fields, _check_together, _check_owner, _check_statuses, _check_extensions, _check_places,
    _check_headers,
)  # fmt: skip
"""Rules of one part each: these say what is wrong with the parts that can be read, whatever is wrong with others."""

_WHOLE_CHECKS: Final[tuple[Callable[[Profile], list[str]], ...]] = (
    _check_reservation, _check_fence, _check_systems, _check_episodes, _check_patient_identifiers, _check_bundle,
)  # fmt: skip
"""Rules between parts."""
