"""What one EHR may be told, and how: its profile, parsed once at start.

A profile that is wrong is refused with all its problems. An owner's profile may not map what the EHR owns.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from pipeline.domain.event import EntityType

PROFILE_VERSION: Final = 1

BED_FIELDS: Final = (
    "identifier", "kind", "status", "operational_status", "place", "occupancy", "environment", "allocation", "service",
    "staffed", "licensed", "surge", "isolation", "level_of_care", "age_group", "negative_pressure", "telemetry",
)  # fmt: skip
ENCOUNTER_FIELDS: Final = (
    "identifier", "patient", "patient_class", "status", "location", "prior_location", "temporary_location",
    "pending_location", "service", "admitted_at", "discharged_at", "disposition", "admit_decision_at",
    "expected_discharge_at", "discharge_ordered_at",
)  # fmt: skip
PATIENT_FIELDS: Final = ("identifier", "identifiers", "name", "birth_date", "sex", "deceased", "merged_into")

FIELDS: Final[dict[EntityType, tuple[str, ...]]] = {
    EntityType.BED: BED_FIELDS,
    EntityType.ENCOUNTER: ENCOUNTER_FIELDS,
    EntityType.PATIENT: PATIENT_FIELDS,
}
"""Fields that have a FHIR form, by entity type; a profile names those that it lets out."""

OWNER_FIELDS: Final[dict[EntityType, frozenset[str]]] = {
    EntityType.BED: frozenset(BED_FIELDS) - {"identifier", "kind", "status", "place"},
    EntityType.ENCOUNTER: frozenset({"pending_location"}),
    EntityType.PATIENT: frozenset(),
}
"""What may be written to the EHR of record at most: operational status, our own extensions on a bed, and reservations."""

LEVELS: Final = ("room", "floor", "point_of_care", "building", "facility")

Create = Literal["never", "transaction-if-none-exist", "put-client-id"]
Reservation = Literal["untellable", "extension", "pending-location"]


class ResourceProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one entity type goes out.

    `system` names the identifier by which we find the resource; `{tenant}` stands for the tenant. Its value is
    `namespace/id`, but for a namespace in `authorities`: that has a system of its own there, with the bare id.
    """

    system: str
    fields: tuple[str, ...]
    create: Create = "never"
    authorities: dict[str, str] = {}


class ReferenceProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How entities are named that are referred to but not written: as in `ResourceProfile`."""

    system: str
    authorities: dict[str, str] = {}


class PlaceProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a place is named: the levels around a bed, innermost first, and the parts that make a bed's own entity key."""

    system: str
    levels: tuple[Literal["room", "floor", "point_of_care", "building", "facility"], ...] = LEVELS
    bed_namespace: Literal["facility", "building", "point_of_care"] = "facility"
    bed_id: tuple[Literal["building", "floor", "point_of_care", "room", "bed"], ...] = ("point_of_care", "room", "bed")


class PatientIdentifiers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Systems of a person's other identifiers: by assigning authority, else `system` with `{authority}` filled in."""

    system: str
    authorities: dict[str, str] = {}


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One EHR.

    `fence` is `if-match` where the server refuses a stale version; `none` declares it unfenced. `reservation` is how a
    bed's promise reaches this EHR, if at all. `headers` are sent with every request and hold no secret.
    """

    version: int
    role: Literal["owner", "replica"]
    places: PlaceProfile
    resources: dict[EntityType, ResourceProfile]
    references: dict[EntityType, ReferenceProfile] = {}
    patient_identifiers: PatientIdentifiers | None = None
    fence: Literal["if-match", "none"] = "if-match"
    revision: Literal["extension"] = "extension"
    reservation: Reservation = "untellable"
    headers: dict[str, str] = {}

    def fields_of(self, entity_type: EntityType) -> frozenset[str]:
        """Fields that may be written."""
        mapped = self.resources.get(entity_type)
        return frozenset(mapped.fields) if mapped else frozenset()


@dataclass(frozen=True, slots=True)
class ProfileProblems:
    """Why a profile is refused: all that is wrong with it, each with its place."""

    problems: tuple[str, ...]


def parse_profile(document: object) -> Profile | ProfileProblems:
    """The profile in a parsed YAML or JSON document, or everything that is wrong with it."""
    if not isinstance(document, Mapping):
        return ProfileProblems(("a profile is a mapping",))
    problems = list(_shape_problems(document))
    if problems:
        return ProfileProblems(tuple(problems))
    profile = msgspec.convert(document, Profile)
    for check in _CHECKS:
        problems += check(profile)
    return ProfileProblems(tuple(problems)) if problems else profile


def profile_schema() -> dict[str, Any]:
    """JSON Schema of a profile, for editors; `parse_profile` checks more than a schema can say."""
    return msgspec.json.schema(Profile)


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
        if entity_type not in FIELDS:
            found.append(f"resources.{entity_type}: has no FHIR form here")
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
        if entity_type is not EntityType.BED and resource.create != "never"
    ]


def _check_reservation(profile: Profile) -> list[str]:
    needed = {"extension": (EntityType.BED, "allocation"), "pending-location": (EntityType.ENCOUNTER, "pending_location")}
    if profile.reservation not in needed:
        return []
    entity_type, field = needed[profile.reservation]
    if field in profile.fields_of(entity_type):
        return []
    return [f"reservation: {profile.reservation} needs {field} among resources.{entity_type}.fields"]


def _check_systems(profile: Profile) -> list[str]:
    systems = {"places.system": profile.places.system}
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


def _check_headers(profile: Profile) -> list[str]:
    secret = {"authorization", "cookie", "proxy-authorization", "x-api-key"}
    return [f"headers.{name}: a secret has no place in a profile" for name in profile.headers if name.lower() in secret]


_CHECKS: Final[tuple[Callable[[Profile], list[str]], ...]] = (
    _check_version, _check_fields, _check_owner, _check_reservation, _check_systems, _check_places,
    _check_patient_identifiers, _check_headers,
)  # fmt: skip
