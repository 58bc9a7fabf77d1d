"""A stay as Encounter. An owner gets at most the reservation out of it; its own encounters are its own."""

from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import UNSET

from pipeline.domain.event import Encounter, EncounterStatus, EntityType, PatientClass, Place, Reference
from pipeline.formats.fhir import episode, terms
from pipeline.formats.fhir.forms import SUBJECT_STATUS_PATH, Form
from pipeline.formats.fhir.naming import Ident, Naming, logical_reference, referenced
from pipeline.formats.fhir.owned import Body, Json, Member, Owned, Path, dotted_value, elements, value_at
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
    ACT_CODE,
    CLASS_OF,
    DISCHARGE_DISPOSITION,
    LOCATION_CLASS_SYSTEM,
    LOCATION_CLASSIFICATION,
    PATIENT_CLASS,
)
from pipeline.formats.fhir.times import same_moment
from pipeline.formats.rfc3339 import rfc3339_of

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
_DISPOSITION: Final[Path] = ("dischargeDisposition", "coding", Member((("system", DISCHARGE_DISPOSITION),)), "code")


def _desired(encounter: Encounter, ident: Ident, naming: Naming, current: Body) -> tuple[Owned, ...]:
    form = naming.profile.form
    if isinstance(encounter.merged_into, Reference):
        # No version of FHIR links a stay to the one that it was merged into. Its own status counts again without the merge.
        encounter = msgspec.structs.replace(encounter, status=EncounterStatus.ENTERED_IN_ERROR)
    return (
        identifier_of("identifier", ident),
        *reference("patient", ("subject",), EntityType.PATIENT, encounter.patient, naming, current),
        *_class(encounter, form),
        *_status(encounter, naming, current),
        *_locations(encounter, naming, current),
        *_coded("service", form.encounter_service, encounter.service),
        *_coded("disposition", (form.encounter_stay, *_DISPOSITION), encounter.disposition),
        *_admitted_at(encounter, naming, current),
        *moment("discharged_at", (form.encounter_period, "end"), _discharged_at(encounter, form, current)),
        *episode.owned_of(encounter, naming, current),
        *(owned for field in EXTENSIONS for owned in _extension(field, getattr(encounter, field), naming)),
    )


def _class(encounter: Encounter, form: Form) -> tuple[Owned, ...]:
    """Encounter.class is mandatory in R4: a cleared class is unknown, not absent. In R5 it is a list of concepts, in which the
    codes of the two systems that we write under are ours."""
    if encounter.patient_class is UNSET:
        return ()
    system, class_code = CLASS_OF[encounter.patient_class or PatientClass.UNKNOWN]
    if not form.lists_classes:
        return (Owned("patient_class", ("class",), {"system": system, "code": class_code}),)
    other = PATIENT_CLASS if system == ACT_CODE else ACT_CODE
    withdrawn = Owned("patient_class", _listed_class(other), None)
    return withdrawn, Owned("patient_class", (*_listed_class(system), "code"), class_code)


def _listed_class(system: str) -> Path:
    return ("class", Member((("coding[].system", system),)), "coding", Member((("system", system),)))


def _shown_class(body: Body, form: Form) -> Json:
    if not form.lists_classes:
        return [dotted_value(body, "class.system"), dotted_value(body, "class.code")]
    return [value_at(body, (*_listed_class(system), "code")) for system in (ACT_CODE, PATIENT_CLASS)]


def _status(encounter: Encounter, naming: Naming, current: Body) -> tuple[Owned, ...]:
    """Encounter.status is mandatory: a cleared status is unknown, not absent."""
    if encounter.status is UNSET:
        return ()
    form = naming.profile.form
    words = form.encounter_status[encounter.status or EncounterStatus.UNKNOWN]
    status = Owned("status", ("status",), naming.profile.status(EntityType.ENCOUNTER, "status", words.status))
    if not form.subject_read:
        return (status,)
    present = value_at(current, SUBJECT_STATUS_PATH)
    return status, Owned("status", SUBJECT_STATUS_PATH, present if present in words.subject else words.subject[0])


def _shown_status(body: Body, form: Form) -> Json:
    return [body.get("status"), value_at(body, SUBJECT_STATUS_PATH)] if form.subject_read else body.get("status")


def _admitted_at(encounter: Encounter, naming: Naming, current: Body) -> tuple[Owned, ...]:
    """The begin; in R5 that of a stay which has not begun is planned, and nothing of it is actual."""
    form, begin = naming.profile.form, encounter.admitted_at
    actual = (form.encounter_period, "start")
    planned = _is_planned(current, naming) if encounter.status is UNSET else encounter.status is EncounterStatus.PLANNED
    if form.planned_start is None or not planned or begin is UNSET:
        return moment("admitted_at", actual, begin)
    return *moment("admitted_at", (form.planned_start,), begin), Owned("admitted_at", actual, None)


def _shown_begin(body: Body, naming: Naming) -> Json:
    form = naming.profile.form
    if form.planned_start is not None and _is_planned(body, naming):
        return same_moment(body.get(form.planned_start))
    return same_moment(value_at(body, (form.encounter_period, "start")))


def _is_planned(body: Body, naming: Naming) -> bool:
    planned = naming.profile.form.encounter_status[EncounterStatus.PLANNED].status
    return bool(body.get("status") == naming.profile.status(EntityType.ENCOUNTER, "status", planned))


def _discharged_at(encounter: Encounter, form: Form, current: Body) -> Json:
    """The end of the period; none where it would be before the start (per-1): an EHR that checks would refuse the whole stay."""
    shown = same_moment(value_at(current, (form.encounter_period, "start")))
    start = shown if encounter.admitted_at is UNSET else encounter.admitted_at
    end = encounter.discharged_at
    return None if isinstance(start, int) and isinstance(end, int) and end < start else end


def _coded(field: str, path: tuple[str | Member, ...], value: Json) -> tuple[Owned, ...]:
    return () if value is UNSET else (Owned(field, path, code(value)),)


def _extension(field: str, value: Json, naming: Naming) -> tuple[Owned, ...]:
    """Our extension, or the element that this version has in its place."""
    element = naming.profile.form.encounter_elements.get(field)
    if element is not None:
        return moment(field, (element,), value)
    return extension(field, _url(field, naming), "DateTime", rfc3339_of(value) if isinstance(value, int) else value)


def _shown_extension(body: Body, field: str, naming: Naming) -> Json:
    element = naming.profile.form.encounter_elements.get(field)
    return shown_extension(body, _url(field, naming)) if element is None else same_moment(body.get(element))


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
    form = naming.profile.form
    places: dict[str, list[list[str]]] = {"location": [], "temporary_location": [], "pending_location": [], "prior_location": []}
    for element in elements(body, "location"):
        if (key := _key(element, naming)) is not None:
            places[_field_of(element) or "prior_location"].append([*key, str(element.get("status"))])
    return {
        "identifier": carries(body, ident),
        "patient": referenced(body.get("subject")),
        "patient_class": _shown_class(body, form),
        "status": _shown_status(body, form),
        **{field: sorted(found) for field, found in places.items()},
        "service": value_at(body, form.encounter_service),
        "disposition": value_at(body, (form.encounter_stay, *_DISPOSITION)),
        "admitted_at": _shown_begin(body, naming),
        "discharged_at": same_moment(value_at(body, (form.encounter_period, "end"))),
        "episode": episode.shown_of(body, naming),
        **{field: _shown_extension(body, field, naming) for field in EXTENSIONS},
    }


def _created(encounter: Encounter, naming: Naming) -> Body:
    """The status is mandatory, and in R4 the class; what the state doesn't say is unknown."""
    system, class_code = CLASS_OF[PatientClass.UNKNOWN]
    form = naming.profile.form
    unknown = form.encounter_status[EncounterStatus.UNKNOWN].status
    body: Body = {
        "resourceType": "Encounter",
        "status": naming.profile.status(EntityType.ENCOUNTER, "status", unknown),
    }
    return body if form.lists_classes else body | {"class": {"system": system, "code": class_code}}


ENCOUNTER: Final = ResourceMap(
    EntityType.ENCOUNTER,
    "Encounter",
    _desired,
    _shown,
    _created,
    entangled=frozenset({"location", "prior_location", "temporary_location", "pending_location"}),
)
