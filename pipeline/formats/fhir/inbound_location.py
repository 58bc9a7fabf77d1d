"""A bed from its Location: table 0116, our extensions, its status and its place."""

from typing import Any, Final, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from pipeline.domain.bed import BedStatusCode
from pipeline.domain.event import (
    Allocation,
    AllocationStatus,
    Bed,
    BedOccupancy,
    Described,
    EntityType,
    Environment,
    EventType,
    Occupancy,
    Place,
    Reference,
    Service,
    ServiceStatus,
)
from pipeline.domain.identifiers import Millis
from pipeline.formats.draft import Draft
from pipeline.formats.fhir.inbound_reading import Reading, unknown_code
from pipeline.formats.fhir.inbound_verdict import Ignorable, IgnoredBecause, Refusal
from pipeline.formats.fhir.owned import Body, elements
from pipeline.formats.fhir.terms import EXTENSIONS, LEVEL_TYPE, LOCATION_STATUS, PHYSICAL_TYPE
from pipeline.formats.hl7v2.profile import BED_STATUS as STATEMENTS

_E = TypeVar("_E", bound=Described)

ORDINAL: Final = 0
_KIND: Final = EntityType.BED
_FLAGS: Final = ("staffed", "licensed", "surge", "isolation", "negative_pressure", "telemetry")
_TEXTS: Final = ("level_of_care", "age_group")
_SERVICE_OF: Final = {code: status for status, code in LOCATION_STATUS.items()}


def drafts(reading: Reading) -> tuple[Draft, ...]:
    """The one event of a bed; none where nothing is the EHR's word."""
    _check_is_bed(reading)
    bed = reading.names.identity(_KIND, reading.body, "Location.identifier")
    place = _own_place(reading, bed)
    stated = _by_code(reading) | _by_extension(reading)
    stated |= _service(reading, stated) | _place(reading, place or Place())
    if not stated:
        return ()
    return (Draft(ORDINAL, EventType.BED_STATUS, bed.namespace, bed.id, place, Bed(**stated)),)


def _own_place(reading: Reading, bed: Reference) -> Place | None:
    """Where its own name puts the bed. A bed that we wrote keeps the name that a source gave it, which may say no place."""
    try:
        return reading.names.bed_place(bed, "Location.identifier")
    except Refusal:
        if reading.scope.marked:
            return None
        raise


def _check_is_bed(reading: Reading) -> None:
    """A bed by its physicalType, its bed status, or an identifier of ours; anything else is a place around beds."""
    body = reading.body
    if body.get("mode") == "kind":
        raise Ignorable(IgnoredBecause.NOT_A_BED)
    concept = reading.object(body, reading.form.location_kind, "Location")
    codes = [coding.get("code") for coding in elements(concept or {}, "coding") if coding.get("system") == PHYSICAL_TYPE]
    if codes and LEVEL_TYPE["bed"][0] not in codes:
        raise Ignorable(IgnoredBecause.NOT_A_BED)
    if not codes and "operationalStatus" not in body and not reading.names.are_beds(elements(body, "identifier")):
        raise Ignorable(IgnoredBecause.NOT_A_BED)


def _by_code(reading: Reading) -> dict[str, Any]:
    """What the code of table 0116 states: its own dimension and nothing else, as for an A20."""
    coding = reading.object(reading.body, "operationalStatus", "Location")
    if coding is None or not reading.scope.counts("operational_status"):
        return {}
    system = reading.profile.status_system(_KIND, "operational_status", _TABLE_0116)
    if coding.get("system") != system:
        reading.not_read("Location.operationalStatus")
        return {}
    table = reading.profile.codes_of(_KIND, "operational_status", (code.value for code in BedStatusCode))
    code = reading.code(coding, "code", "Location.operationalStatus", table)
    if isinstance(code, UnsetType):
        return {}
    statement = STATEMENTS[code]
    stated: dict[str, Any] = {}
    if statement.occupancy is not None:
        stated["occupancy"] = BedOccupancy(statement.occupancy)
    if statement.environment is not None:
        stated["environment"] = statement.environment
    if statement.service is not None:
        stated["service"] = Service(statement.service)
    if statement.isolation is not None:
        stated["isolation"] = statement.isolation
    return stated


_TABLE_0116: Final = "http://terminology.hl7.org/CodeSystem/v2-0116"


# -- our extensions


def _by_extension(reading: Reading) -> dict[str, Any]:
    stated: dict[str, Any] = {}
    for field, (name, _) in EXTENSIONS[_KIND].items():
        if not reading.scope.counts(field):
            continue
        url = reading.profile.extension(name)
        found = [pair for pair in reading.objects(reading.body, "extension", "Location") if pair[1].get("url") == url]
        if not found:
            if field in reading.scope.changed:
                stated[field] = None  # we wrote it, and somebody took it away
            continue
        value = _extension(reading, field, *found[0])
        if value is not UNSET:
            stated[field] = value
    return stated


def _extension(reading: Reading, field: str, path: str, element: Body) -> object:
    if field in _FLAGS:
        return reading.flag(element, "valueBoolean", path)
    if field in _TEXTS:
        return reading.text(element, "valueString", path)
    if field == "environment":
        return _symbol(reading, element, path, Environment)
    parts = {str(part.get("url")): (where, part) for where, part in reading.objects(element, "extension", path)}
    path_of_status, status = parts.get("status", (path, {}))
    if field == "occupancy":
        said = _symbol(reading, status, path_of_status, Occupancy)
        return UNSET if isinstance(said, UnsetType) else BedOccupancy(said, _stay(reading, parts))
    if field == "allocation":
        promised = _symbol(reading, status, path_of_status, AllocationStatus)
        return UNSET if isinstance(promised, UnsetType) else Allocation(promised, _stay(reading, parts), _until(reading, parts))
    usable = _symbol(reading, status, path_of_status, ServiceStatus)
    if isinstance(usable, UnsetType):
        return UNSET
    where, part = parts.get("reason", (path, {}))
    reason = reading.text(part, "valueString", where)
    return Service(usable, reason if isinstance(reason, str) else None, _until(reading, parts))


def _symbol(reading: Reading, element: Body, path: str, kind: type[_E]) -> _E | UnsetType:
    return reading.code(element, "valueCode", path, {symbol.value: symbol for symbol in kind})


def _stay(reading: Reading, parts: dict[str, tuple[str, Body]]) -> Reference | None:
    path, part = parts.get("encounter", ("", {}))
    reference = reading.object(part, "valueReference", path)
    if reference is None:
        return None
    return reading.names.reference(EntityType.ENCOUNTER, "Encounter", reference, f"{path}.valueReference")


def _until(reading: Reading, parts: dict[str, tuple[str, Body]]) -> Millis | None:
    path, part = parts.get("until", ("", {}))
    until = reading.time(part, "valueDateTime", path)
    return None if isinstance(until, UnsetType) else until


# -- status and place


def _service(reading: Reading, stated: dict[str, Any]) -> dict[str, Any]:
    """Location.status, where nothing stronger speaks of service.

    Beside our own extension it is said only where it contradicts it: what agrees with what we wrote is our word come back.
    """
    table = {reading.profile.status(_KIND, "status", code): status for code, status in _SERVICE_OF.items()} | _SERVICE_OF
    status = reading.code(reading.body, "status", "Location", table)
    if isinstance(status, UnsetType) or "service" in stated or not reading.scope.counts("status"):
        return {}
    if reading.scope.marked and "status" not in reading.scope.written:
        ours = _shown_service(reading)
        if LOCATION_STATUS[status] == LOCATION_STATUS[ours or ServiceStatus.OPEN]:
            return {}
    return {"service": Service(status)}


def _shown_service(reading: Reading) -> ServiceStatus | None:
    url = reading.profile.extension(EXTENSIONS[_KIND]["service"][0])
    for element in elements(reading.body, "extension"):
        if element.get("url") == url:
            code = next((part.get("valueCode") for part in elements(element, "extension") if part.get("url") == "status"), None)
            if not isinstance(code, str) or code not in {status.value for status in ServiceStatus}:
                raise unknown_code("Location.extension", {status.value: status for status in ServiceStatus})
            return ServiceStatus(code)
    return None


def _place(reading: Reading, own: Place) -> dict[str, Any]:
    """Where partOf puts the bed. Beside our mark it is said only where it contradicts the bed's own name."""
    part_of = reading.object(reading.body, "partOf", "Location")
    if part_of is None or not reading.scope.counts("place"):
        return {}
    around = reading.names.place_if_known(part_of, "Location.partOf")
    if around is None:
        reading.not_read("Location.partOf")
        return {}
    named = {field: value for field in around.__struct_fields__ if (value := getattr(around, field)) is not None}
    agrees = all(getattr(own, field) in (None, value) for field, value in named.items())
    if reading.scope.marked and "place" not in reading.scope.changed and agrees:
        return {}
    return {"place": msgspec.structs.replace(own, **named)}
