"""A bed as Location: its status by HL7 table 0116, its place as a partOf chain, its independent fields as extensions."""

import itertools
from collections.abc import Mapping
from typing import Final

from msgspec import UNSET

from pipeline.domain.bed import BedStatusCode, speaks_of_status, status_code
from pipeline.domain.event import Allocation, Bed, BedOccupancy, EntityType, Place, Reference, Service
from pipeline.formats.fhir import terms
from pipeline.formats.fhir.naming import Ident, Naming, PlaceNode, logical_reference, query_quoted, referenced
from pipeline.formats.fhir.owned import Body, Json, Owned, dotted_value
from pipeline.formats.fhir.resource import (
    ResourceMap,
    carries,
    code,
    composite,
    extension,
    identifier_of,
    shown_extension,
    text,
    urn_of,
)
from pipeline.formats.fhir.terms import BED_STATUS, LEVEL_TYPE, LOCATION_STATUS, PHYSICAL_TYPE
from pipeline.formats.rfc3339 import rfc3339_of

EXTENSIONS: Final = terms.EXTENSIONS[EntityType.BED]
"""Our extensions of a bed, by field: name and value."""

_FLAGS: Final = ("staffed", "licensed", "surge", "isolation", "negative_pressure", "telemetry")
_TEXTS: Final = ("level_of_care", "age_group")


def _desired(bed: Bed, ident: Ident, naming: Naming, current: Body) -> tuple[Owned, ...]:
    return (
        identifier_of("identifier", ident),
        Owned("kind", ("mode",), "instance"),
        Owned("kind", (naming.profile.form.location_kind,), physical_type("bed")),
        *_status(bed, naming),
        *_operational_status(bed, naming),
        *_place(bed, naming, current),
        *_composites(bed, naming),
        *extension("environment", _url("environment", naming), "Code", bed.environment and bed.environment.value),
        *(owned for field in _FLAGS for owned in extension(field, _url(field, naming), "Boolean", getattr(bed, field))),
        *(
            owned
            for field in _TEXTS
            for owned in extension(field, _url(field, naming), "String", _stated_text(getattr(bed, field)))
        ),
    )


def _status(bed: Bed, naming: Naming) -> tuple[Owned, ...]:
    if bed.service is UNSET:
        return ()
    status = naming.profile.status(EntityType.BED, "status", LOCATION_STATUS[bed.service.status]) if bed.service else None
    return (Owned("status", ("status",), status),)


def _operational_status(bed: Bed, naming: Naming) -> tuple[Owned, ...]:
    if not speaks_of_status(bed):
        return ()
    status = status_code(bed)
    return (Owned("operational_status", ("operationalStatus",), operational_status(status, naming) if status else None),)


def operational_status(status: BedStatusCode, naming: Naming) -> Body:
    """Coding of table 0116, or of the EHR's own codes; theirs has no display, because the words are theirs too."""
    profile = naming.profile
    system = profile.status_system(EntityType.BED, "operational_status", BED_STATUS)
    shown = profile.status(EntityType.BED, "operational_status", status.value)
    coding = {"system": system, "code": shown}
    return coding if (system, shown) != (BED_STATUS, status.value) else {**coding, "display": status.doc.capitalize()}


def physical_type(level: str) -> Body:
    """CodeableConcept for one level of a place."""
    level_code, display = LEVEL_TYPE[level]
    return {"coding": [{"system": PHYSICAL_TYPE, "code": level_code, "display": display}]}


def _place(bed: Bed, naming: Naming, current: Body) -> tuple[Owned, ...]:
    if bed.place is UNSET:
        return ()
    if bed.place is None:
        return Owned("place", ("name",), None), Owned("place", ("partOf",), None)
    chain = naming.chain(bed.place)
    return Owned("place", ("name",), _name(bed.place)), Owned("place", ("partOf",), _part_of(chain, current))


def _part_of(chain: tuple[PlaceNode, ...], current: Body) -> Json:
    """Reference to the innermost surrounding level: kept if it names that level already, else to be resolved by the server."""
    if not chain:
        return None
    kept = current.get("partOf")
    if isinstance(kept, dict) and referenced(kept) == [chain[0].ident.system, chain[0].ident.value]:
        return kept
    return chain_reference(chain[0], {})


def chain_reference(node: PlaceNode, known: Mapping[Ident, str]) -> Body:
    """Reference to a surrounding place: by id if `known`, else by a URN that the transaction resolves.

    The identifier stays beside it, so that the next read can compare.
    """
    literal = f"Location/{known[node.ident]}" if node.ident in known else urn_of(node.ident)
    return {"reference": literal, **logical_reference("Location", node.ident)}


def with_known_place(body: Body, place: Place, naming: Naming, known: Mapping[Ident, str]) -> tuple[Body, list[Body]]:
    """`body` with its partOf settled, and the transaction entries, outermost first, that make the places not yet known.

    A body that refers to its place by id already needs neither. Each entry is a conditional create.
    """
    chain, part_of = naming.chain(place), body.get("partOf")
    if not chain or not isinstance(part_of, dict) or part_of.get("reference") != urn_of(chain[0].ident):
        return body, []
    unknown = list(itertools.takewhile(lambda node: node.ident not in known, chain))
    outward = [*chain[1:], None]
    kind = naming.profile.form.location_kind
    entries = [_chain_entry(node, outward[index], known, kind) for index, node in reversed(list(enumerate(unknown)))]
    return {**body, "partOf": chain_reference(chain[0], known)}, entries


def _chain_entry(node: PlaceNode, outer: PlaceNode | None, known: Mapping[Ident, str], kind: str) -> Body:
    resource: Body = {
        "resourceType": "Location",
        "identifier": [node.ident.body()],
        "status": "active",
        "name": node.name,
        "mode": "instance",
        kind: physical_type(node.level),
    }
    if outer is not None:
        resource["partOf"] = chain_reference(outer, known)
    request = {"method": "POST", "url": "Location", "ifNoneExist": f"identifier={query_quoted(node.ident.token())}"}
    return {"fullUrl": urn_of(node.ident), "resource": resource, "request": request}


def _composites(bed: Bed, naming: Naming) -> tuple[Owned, ...]:
    owned: tuple[Owned, ...] = ()
    if bed.occupancy is not UNSET:
        owned += composite(
            "occupancy", _url("occupancy", naming), _occupancy_parts(bed.occupancy, naming) if bed.occupancy else None
        )
    if bed.allocation is not UNSET:
        owned += composite(
            "allocation", _url("allocation", naming), _allocation_parts(bed.allocation, naming) if bed.allocation else None
        )
    if bed.service is not UNSET:
        owned += composite("service", _url("service", naming), _service_parts(bed.service) if bed.service else None)
    return owned


def _occupancy_parts(occupancy: BedOccupancy, naming: Naming) -> dict[str, tuple[str, Json]]:
    return {"status": ("Code", occupancy.status.value), "encounter": ("Reference", _encounter(occupancy.encounter, naming))}


def _allocation_parts(allocation: Allocation, naming: Naming) -> dict[str, tuple[str, Json]]:
    return {
        "status": ("Code", allocation.status.value),
        "encounter": ("Reference", _encounter(allocation.encounter, naming)),
        "until": ("DateTime", _moment(allocation.until)),
    }


def _service_parts(service: Service) -> dict[str, tuple[str, Json]]:
    return {
        "status": ("Code", service.status.value),
        "reason": ("String", text(service.reason)),
        "until": ("DateTime", _moment(service.until)),
    }


def _encounter(reference: Reference | None, naming: Naming) -> Json:
    return naming.reference(EntityType.ENCOUNTER, reference) if reference else None


def _moment(millis: int | None) -> str | None:
    return rfc3339_of(millis) if millis is not None else None


def _stated_text(value: Json) -> Json:
    return value if value is UNSET else text(value)


def _url(field: str, naming: Naming) -> str:
    return naming.profile.extension(EXTENSIONS[field][0])


def _name(place: Place) -> str | None:
    return " ".join(part for name in (place.point_of_care, place.room, place.bed) if (part := code(name))) or None


def _shown(body: Body, ident: Ident, naming: Naming) -> dict[str, Json]:
    shown = {field: shown_extension(body, _url(field, naming)) for field in EXTENSIONS}
    return shown | {
        "identifier": carries(body, ident),
        "kind": [body.get("mode"), _first_code(body, naming.profile.form.location_kind)],
        "status": body.get("status"),
        "operational_status": [dotted_value(body, "operationalStatus.system"), dotted_value(body, "operationalStatus.code")],
        "place": [body.get("name"), referenced(body.get("partOf"))],
    }


def _first_code(body: Body, name: str) -> Json:
    codings = dotted_value(body, f"{name}.coding")
    return codings[0].get("code") if isinstance(codings, list) and codings and isinstance(codings[0], dict) else None


def _created(bed: Bed, naming: Naming) -> Body:
    return {"resourceType": "Location"}


LOCATION: Final = ResourceMap(EntityType.BED, "Location", _desired, _shown, _created, frozenset({"identifier", "kind", "place"}))
