"""A stay as Encounter. An owner gets at most the reservation out of it; its own encounters are its own."""

from collections.abc import Iterator
from typing import Final

from msgspec import UNSET

from pipeline.domain.event import Encounter, EncounterStatus, EntityType, PatientClass, Place
from pipeline.formats.fhir import episode, terms
from pipeline.formats.fhir.naming import Ident, Naming, logical_reference, referenced
from pipeline.formats.fhir.owned import Body, Json, Member, Owned, dotted_value, elements, value_at
from pipeline.formats.fhir.resource import (
    ResourceMap,
    carries,
    code,
    extension,
    identifier_of,
    moment,
    reference,
    shown_extension,
)
from pipeline.formats.fhir.terms import (
    CLASS_OF,
    DISCHARGE_DISPOSITION,
    ENCOUNTER_STATUS,
    HOSPITAL_SERVICE,
    LOCATION_CLASS_SYSTEM,
    LOCATION_CLASSIFICATION,
)
from pipeline.formats.fhir.times import date_time, same_moment

EXTENSIONS: Final = terms.EXTENSIONS[EntityType.ENCOUNTER]
"""Our extensions of a stay, by field: name and value."""

OVER: Final = frozenset({EncounterStatus.FINISHED, EncounterStatus.CANCELLED, EncounterStatus.ENTERED_IN_ERROR})
"""Statuses in which nobody is anywhere: an active location is completed, a planned or reserved one is withdrawn."""

_PRESENT: Final = ("active", "planned")
_TEMPORARY: Final = Member((("url", LOCATION_CLASSIFICATION),))
_TEMPORARY_MARK: Final = {
    "url": LOCATION_CLASSIFICATION,
    "valueCodeableConcept": {"coding": [{"system": LOCATION_CLASS_SYSTEM, "code": "temporary"}]},
}
_SERVICE: Final = ("serviceType", "coding", Member((("system", HOSPITAL_SERVICE),)), "code")
_DISPOSITION: Final = ("hospitalization", "dischargeDisposition", "coding", Member((("system", DISCHARGE_DISPOSITION),)), "code")


def _desired(encounter: Encounter, ident: Ident, naming: Naming, current: Body) -> tuple[Owned, ...]:
    return (
        identifier_of("identifier", ident),
        *reference("patient", ("subject",), EntityType.PATIENT, encounter.patient, naming, current),
        *_class(encounter),
        *_status(encounter, naming),
        *_locations(encounter, naming, current),
        *_coded("service", _SERVICE, encounter.service),
        *_coded("disposition", _DISPOSITION, encounter.disposition),
        *moment("admitted_at", ("period", "start"), encounter.admitted_at),
        *moment("discharged_at", ("period", "end"), _discharged_at(encounter, current)),
        *episode.owned_of(encounter, naming, current),
        *(owned for field in EXTENSIONS for owned in _extension(field, getattr(encounter, field), naming)),
    )


def _class(encounter: Encounter) -> tuple[Owned, ...]:
    """Encounter.class is mandatory: a cleared class is unknown, not absent."""
    if encounter.patient_class is UNSET:
        return ()
    system, class_code = CLASS_OF[encounter.patient_class or PatientClass.UNKNOWN]
    return (Owned("patient_class", ("class",), {"system": system, "code": class_code}),)


def _status(encounter: Encounter, naming: Naming) -> tuple[Owned, ...]:
    """Encounter.status is mandatory: a cleared status is unknown, not absent."""
    if encounter.status is UNSET:
        return ()
    status = ENCOUNTER_STATUS[encounter.status or EncounterStatus.UNKNOWN]
    return (Owned("status", ("status",), naming.profile.status(EntityType.ENCOUNTER, "status", status)),)


def _discharged_at(encounter: Encounter, current: Body) -> Json:
    """The end of the period; none where it would be before the start (per-1): an EHR that checks would refuse the whole stay."""
    start = same_moment(dotted_value(current, "period.start")) if encounter.admitted_at is UNSET else encounter.admitted_at
    end = encounter.discharged_at
    return None if isinstance(start, int) and isinstance(end, int) and end < start else end


def _coded(field: str, path: tuple[str | Member, ...], value: Json) -> tuple[Owned, ...]:
    return () if value is UNSET else (Owned(field, path, code(value)),)


def _extension(field: str, value: Json, naming: Naming) -> tuple[Owned, ...]:
    return extension(field, _url(field, naming), "DateTime", date_time(value) if isinstance(value, int) else value)


def _url(field: str, naming: Naming) -> str:
    return naming.profile.extension(EXTENSIONS[field][0])


class _Locations:
    """What becomes of each element of Encounter.location that refers to a place by an identifier of ours.

    An element is addressed by its reference. A place that several fields name gets the strongest of its statuses: the
    patient is there, then temporarily, then a promise, then was there.
    """

    def __init__(self, encounter: Encounter, naming: Naming, current: Body) -> None:
        self._encounter, self._naming = encounter, naming
        self._over = encounter.status in OVER if encounter.status is not UNSET and encounter.status else False
        self._present = {key: element for element in elements(current, "location") if (key := _key(element, naming))}
        self._named: dict[tuple[str, str], str] = {}

    def owned(self) -> Iterator[Owned]:
        encounter = self._encounter
        expected = encounter.patient_class is PatientClass.PREADMIT or encounter.status is EncounterStatus.PLANNED
        here = "planned" if expected else "active"
        yield from self._name("location", encounter.location, "completed" if self._over else here)
        yield from self._name("temporary_location", encounter.temporary_location, "completed" if self._over else "active")
        if not self._over:
            yield from self._name("pending_location", encounter.pending_location, "reserved")
        yield from self._name("prior_location", encounter.prior_location, "completed")
        for key, element in self._present.items():
            if key not in self._named:
                yield from self._retire(key, element)

    def _name(self, field: str, place: Json, status: str) -> Iterator[Owned]:
        ident = self._naming.innermost(place) if isinstance(place, Place) else None
        if ident is None or (key := (ident.system, ident.value)) in self._named:
            return
        element = self._present.get(key)
        if field == "pending_location" and element is not None and self._is_taken(element):
            self._named[key] = field
            return
        self._named[key] = field
        yield from self._write(field, key, status, element)

    def _is_taken(self, element: Body) -> bool:
        """The promised place is where the patient is by the EHR's own word, which this profile doesn't write."""
        return element.get("status") not in ("reserved", None) and "location" not in self._naming.profile.fields_of(
            EntityType.ENCOUNTER
        )

    def _write(self, field: str, key: tuple[str, str], status: str, element: Body | None) -> Iterator[Owned]:
        path = ("location", _member(key))
        if element is None:
            reference = logical_reference("Location", Ident(*key))
            yield Owned(field, (*path, "location"), reference)
        yield Owned(field, (*path, "status"), status)
        temporary = field == "temporary_location" and not self._over
        yield Owned(field, (*path, "extension", _TEMPORARY), _TEMPORARY_MARK if temporary else None)

    def _retire(self, key: tuple[str, str], element: Body) -> Iterator[Owned]:
        """A place that the state no longer names: left if the patient was there, withdrawn if it was a plan or a promise."""
        path, status = ("location", _member(key)), element.get("status")
        field = _field_of(element)
        stated = self._over or (field is not None and getattr(self._encounter, field) is not UNSET)
        if field is None or not stated:
            return
        if status == "active":
            yield Owned(field, (*path, "status"), "completed")
            yield Owned(field, (*path, "extension", _TEMPORARY), None)
        else:
            yield Owned(field, path, None)


def _locations(encounter: Encounter, naming: Naming, current: Body) -> tuple[Owned, ...]:
    return tuple(_Locations(encounter, naming, current).owned())


def _field_of(element: Body) -> str | None:
    """The field that an element of Encounter.location shows; None for one that is past."""
    status = element.get("status")
    if status == "reserved":
        return "pending_location"
    if status in _PRESENT:
        return "temporary_location" if value_at(element, ("extension", _TEMPORARY)) else "location"
    return None


def _member(key: tuple[str, str]) -> Member:
    return Member((("location.identifier.system", key[0]), ("location.identifier.value", key[1])))


def _key(element: Body, naming: Naming) -> tuple[str, str] | None:
    system, value = dotted_value(element, "location.identifier.system"), dotted_value(element, "location.identifier.value")
    ours = isinstance(system, str) and isinstance(value, str) and naming.names_places(system)
    return (system, value) if ours else None


def _shown(body: Body, ident: Ident, naming: Naming) -> dict[str, Json]:
    places: dict[str, list[list[str]]] = {"location": [], "temporary_location": [], "pending_location": [], "prior_location": []}
    for element in elements(body, "location"):
        if (key := _key(element, naming)) is not None:
            places[_field_of(element) or "prior_location"].append([*key, str(element.get("status"))])
    return {
        "identifier": carries(body, ident),
        "patient": referenced(body.get("subject")),
        "patient_class": [dotted_value(body, "class.system"), dotted_value(body, "class.code")],
        "status": body.get("status"),
        **{field: sorted(found) for field, found in places.items()},
        "service": value_at(body, _SERVICE),
        "disposition": value_at(body, _DISPOSITION),
        "admitted_at": same_moment(dotted_value(body, "period.start")),
        "discharged_at": same_moment(dotted_value(body, "period.end")),
        "episode": episode.shown_of(body, naming),
        **{field: shown_extension(body, _url(field, naming)) for field in EXTENSIONS},
    }


def _created(encounter: Encounter, naming: Naming) -> Body:
    """Status and class are mandatory; what the state doesn't say is unknown."""
    system, class_code = CLASS_OF[PatientClass.UNKNOWN]
    return {
        "resourceType": "Encounter",
        "status": naming.profile.status(EntityType.ENCOUNTER, "status", ENCOUNTER_STATUS[EncounterStatus.UNKNOWN]),
        "class": {"system": system, "code": class_code},
    }


ENCOUNTER: Final = ResourceMap(
    EntityType.ENCOUNTER,
    "Encounter",
    _desired,
    _shown,
    _created,
    entangled=frozenset({"location", "prior_location", "temporary_location", "pending_location"}),
)
