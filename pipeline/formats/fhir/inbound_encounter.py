"""A stay from Encounter: who, what for, since when, and where; and the beds that it takes and leaves.

R5 names the same elements otherwise (`forms`): its own statuses, `class` as a list, `actualPeriod`, `admission`.
"""

from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from pipeline.domain.event import (
    Bed,
    BedOccupancy,
    Encounter,
    EncounterStatus,
    EntityType,
    EventType,
    Occupancy,
    PatientClass,
    Place,
    Reference,
)
from pipeline.domain.identifiers import Millis
from pipeline.formats.draft import Draft
from pipeline.formats.fhir.encounter import OVER
from pipeline.formats.fhir.inbound_names import unresolved
from pipeline.formats.fhir.inbound_reading import Reading, missing, unknown_code
from pipeline.formats.fhir.inbound_verdict import Ignorable, IgnoredBecause, Refusal, RejectedBecause
from pipeline.formats.fhir.owned import Body, elements
from pipeline.formats.fhir.references import reference_of
from pipeline.formats.fhir.terms import (
    ACT_CODE,
    CLASS_OF,
    DISCHARGE_DISPOSITION,
    EXTENSIONS,
    HOSPITAL_SERVICE,
    LOCATION_CLASSIFICATION,
    PATIENT_CLASS,
    SUBJECT_STATUS,
)

ENCOUNTER, PRIOR_BED, BED = range(1, 4)
"""Ordinals of the events of one resource, by role, as for an ADT."""

VACATED_WINDOW_MS: Final = 86_400_000
"""How long before the update a place may have been left for its bed to be vacated again; the last one left always is."""

_KIND: Final = EntityType.ENCOUNTER
_PLACES: Final = ("location", "temporary_location", "prior_location", "status")

MORE_CLASSES: Final[dict[str, PatientClass]] = {
    "ACUTE": PatientClass.INPATIENT,
    "NONAC": PatientClass.INPATIENT,
    "OBSENC": PatientClass.OUTPATIENT,
    "SS": PatientClass.OUTPATIENT,
    "HH": PatientClass.OUTPATIENT,
    "VR": PatientClass.OUTPATIENT,
    "FLD": PatientClass.EMERGENCY,
}
"""Classes of v3-ActCode that the map of table 0004 does not give out, by the class that they are a kind of."""

_CLASSES: Final = {(system, code): known for known, (system, code) in CLASS_OF.items()} | {
    (ACT_CODE, code): known for code, known in MORE_CLASSES.items()
}
_ELEMENT_STATUS: Final = {code: code for code in ("planned", "active", "reserved", "completed")}


def drafts(reading: Reading) -> tuple[Draft, ...]:
    """The stay, the beds left, and the bed taken, in this order: a bed is vacated before another is taken."""
    _check_subject(reading)
    stay = reading.names.identity(_KIND, reading.body, "Encounter.identifier")
    status = _status(reading)
    whereabouts = _Whereabouts.of(reading, status) if reading.scope.counts(*_PLACES, "pending_location") else None
    encounter = _encounter(reading, status, whereabouts)
    where = encounter.location if isinstance(encounter.location, Place) else None
    kind = _event_type(encounter.status)
    found = [] if encounter == Encounter() else [Draft(ENCOUNTER, kind, stay.namespace, stay.id, where, encounter)]
    if whereabouts is None or all(getattr(encounter, field) is UNSET for field in _PLACES):
        return tuple(found)
    left, taken = whereabouts.beds(reading)
    vacated = [_bed(PRIOR_BED, kind, bed, place, Occupancy.VACANT, stay) for bed, place in left.items()]
    occupied = [_bed(BED, kind, bed, place, Occupancy.OCCUPIED, stay) for bed, place in taken.items()]
    return (*found, *vacated, *occupied)


def _check_subject(reading: Reading) -> None:
    """A stay of a group names no patient, and no bed."""
    subject = reading.object(reading.body, "subject", "Encounter")
    named = reference_of(subject.get("reference")) if subject else None
    if subject is not None and "Group" in (subject.get("type"), (named or "").partition("/")[0]):
        raise Ignorable(IgnoredBecause.NOT_A_PERSON)


def _event_type(status: object) -> EventType:
    if status is EncounterStatus.FINISHED:
        return EventType.DISCHARGE
    return EventType.CANCEL_ADMIT if status in (EncounterStatus.CANCELLED, EncounterStatus.ENTERED_IN_ERROR) else EventType.UPDATE


def _bed(ordinal: int, kind: EventType, bed: Reference, place: Place, status: Occupancy, stay: Reference) -> Draft:
    return Draft(ordinal, kind, bed.namespace, bed.id, place, Bed(occupancy=BedOccupancy(status, stay)))


def _status(reading: Reading) -> EncounterStatus:
    form = reading.form
    theirs = reading.profile.codes_of(_KIND, "status", form.encounter_codes)
    code = reading.code(reading.body, "status", "Encounter", {code: code for code in form.encounter_read} | theirs)
    if isinstance(code, UnsetType):
        raise missing("Encounter.status", "the status")
    subjects = _subject_codes(reading) if form.subject_read else ()
    told = (form.subject_read[code, subject] for subject in subjects if (code, subject) in form.subject_read)
    return next(told, form.encounter_read[code])


def _subject_codes(reading: Reading) -> tuple[str, ...]:
    """What R5's Encounter.subjectStatus says in the standard's own words; those of others are left unsaid."""
    concept = reading.object(reading.body, "subjectStatus", "Encounter") or {}
    codings = reading.objects(concept, "coding", "Encounter.subjectStatus")
    found = (reading.text(coding, "code", path) for path, coding in codings if coding.get("system") == SUBJECT_STATUS)
    return tuple(code for code in found if isinstance(code, str))


def _encounter(reading: Reading, status: EncounterStatus, whereabouts: "_Whereabouts | None") -> Encounter:
    counts, over = reading.scope.counts, status in OVER
    stated: dict[str, Any] = {
        "patient": _patient(reading) if counts("patient") else UNSET,
        "patient_class": _class(reading) if counts("patient_class") else UNSET,
        "status": status if counts("status") else UNSET,
        "service": _service(reading) if counts("service") else UNSET,
        **(whereabouts.stated(reading) if whereabouts else {}),
        **_times(reading, status),
        "disposition": _disposition(reading, over) if counts("disposition") else UNSET,
        "episode": _episode(reading) if counts("episode") else UNSET,
    }
    return Encounter(**stated)


def _patient(reading: Reading) -> Reference | UnsetType:
    subject = reading.object(reading.body, "subject", "Encounter")
    if subject is None:
        return UNSET
    return reading.names.reference(EntityType.PATIENT, "Patient", subject, "Encounter.subject")


def _class(reading: Reading) -> PatientClass | UnsetType:
    """R4: one Coding. R5: a list of concepts. A code of another system is left unsaid, one that its system lacks is refused."""
    held = reading.body.get("class")
    if isinstance(held, list):
        concepts = reading.objects(reading.body, "class", "Encounter")
        codings = [pair for path, concept in concepts for pair in reading.objects(concept, "coding", path)]
    else:
        coding = reading.object(reading.body, "class", "Encounter")
        codings = [] if coding is None else [("Encounter.class", coding)]
    for path, coding in codings:
        system, code = coding.get("system"), coding.get("code")
        if system not in (ACT_CODE, PATIENT_CLASS):
            continue
        if not isinstance(code, str) or (system, code) not in _CLASSES:
            raise unknown_code(f"{path}.code", {known: None for of, known in _CLASSES if of == system})
        return _CLASSES[system, code]
    return reading.not_read("Encounter.class") if codings else UNSET


def _service(reading: Reading) -> str | UnsetType | None:
    held = reading.body.get("serviceType")
    said: str | UnsetType = UNSET
    if isinstance(held, list):  # R5: CodeableReference
        for path, element in reading.objects(reading.body, "serviceType", "Encounter"):
            said = reading.coding(element, "concept", path, HOSPITAL_SERVICE)
            if said is not UNSET:
                break
    else:
        said = reading.coding(reading.body, "serviceType", "Encounter", HOSPITAL_SERVICE)
    return None if said is UNSET and "service" in reading.scope.changed else said


def _disposition(reading: Reading, over: bool) -> str | UnsetType | None:
    """Where the patient went; cleared while the stay goes on."""
    name = reading.form.encounter_stay
    held = reading.object(reading.body, name, "Encounter")
    said = reading.coding(held, "dischargeDisposition", f"Encounter.{name}", DISCHARGE_DISPOSITION) if held else UNSET
    return None if said is UNSET and not over else said


def _times(reading: Reading, status: EncounterStatus) -> dict[str, Any]:
    """Begin and end. A stay that goes on without an end has not ended: a discharge that was taken back is cleared."""
    counts, over, planned_start = reading.scope.counts, status in OVER, reading.form.planned_start
    name = reading.form.encounter_period
    held = reading.object(reading.body, name, "Encounter") or {}
    start, end = reading.time(held, "start", f"Encounter.{name}"), reading.time(held, "end", f"Encounter.{name}")
    if isinstance(start, int) and isinstance(end, int) and end < start:
        raise Refusal(
            RejectedBecause.CONTRADICTION,
            f"Encounter.{name}",
            "a period does not end before it starts (per-1)",
            "correct the period",
        )
    if status is EncounterStatus.PLANNED and planned_start is not None:
        start = reading.time(reading.body, planned_start, "Encounter")
    gone = end is UNSET and held.get("end") is None and not over
    stated: dict[str, Any] = {
        "admitted_at": start if counts("admitted_at") else UNSET,
        "discharged_at": (None if gone else end if over else UNSET) if counts("discharged_at") else UNSET,
    }
    for field, (extension, _) in EXTENSIONS[_KIND].items():
        if counts(field):
            stated[field] = _extension(reading, field, reading.profile.extension(extension))
    return stated


def _extension(reading: Reading, field: str, url: str) -> Millis | UnsetType | None:
    """Our extension, or the element that this version has in its place."""
    element = reading.form.encounter_elements.get(field)
    if element is not None and reading.body.get(element) is not None:
        return reading.time(reading.body, element, "Encounter")
    for path, held in reading.objects(reading.body, "extension", "Encounter"):
        if held.get("url") == url:
            return reading.time(held, "valueDateTime", path)
    return None if field in reading.scope.changed else UNSET


def _episode(reading: Reading) -> Reference | UnsetType | None:
    for path, element in reading.objects(reading.body, "episodeOfCare", "Encounter"):
        if (episode := reading.names.episode(element, path)) is not None:
            return episode
    return None if "episode" in reading.scope.changed else UNSET


# -- where


@dataclass(frozen=True, slots=True)
class _At:
    """One element of Encounter.location whose place is known."""

    place: Place
    status: str
    temporary: bool
    start: Millis | None
    end: Millis | None

    @property
    def depth(self) -> int:
        return sum(1 for field in self.place.__struct_fields__ if getattr(self.place, field) is not None)


@dataclass(frozen=True, slots=True)
class _Whereabouts:
    """Encounter.location, read: where the patient is, is for a while, is expected, and was."""

    told: bool
    over: bool
    planned: bool
    here: _At | None
    temporary: _At | None
    expected: _At | None
    left: tuple[_At, ...]

    @staticmethod
    def of(reading: Reading, status: EncounterStatus) -> "_Whereabouts":
        """Each element with its place. One that nobody here knows is left unsaid, unless it is all that tells where the
        patient is: then it can't be told which bed is taken, and the stay is refused."""
        listed = reading.objects(reading.body, "location", "Encounter")
        read = [_at(reading, path, element) for path, element in listed]
        found = [at for at in read if isinstance(at, _At)]
        lost = [path for path in read if isinstance(path, str)]
        if lost and status not in OVER and not any(at.status == "active" and at.place.bed for at in found):
            raise unresolved(lost[0], "Location")
        planned = status is EncounterStatus.PLANNED
        active = [at for at in found if at.status == "active" or (planned and at.status == "planned")]
        expected = [at for at in found if at.status == "reserved" or (not planned and at.status == "planned")]
        return _Whereabouts(
            told=bool(listed),
            over=status in OVER,
            planned=planned,
            here=_innermost([at for at in active if not at.temporary], "active"),
            temporary=_innermost([at for at in active if at.temporary], "temporary"),
            expected=_innermost([at for at in expected if at.status == "reserved"] or expected, "expected"),
            left=tuple(at for at in found if at.status == "completed"),
        )

    def stated(self, reading: Reading) -> dict[str, Any]:
        """The fields of the stay. While it goes on, a place that nothing names is one that the patient isn't at."""
        counts = reading.scope.counts
        prior = self.last_left
        said: dict[str, Any] = {}
        if self.told and not self.over:
            said |= {
                "location": self.here.place if self.here else None,
                "temporary_location": self.temporary.place if self.temporary else None,
                "prior_location": prior.place if prior else UNSET,
                "pending_location": self.expected.place if self.expected else UNSET,
            }
        if "pending_location" in reading.scope.changed and self.expected is None:
            said["pending_location"] = None  # we wrote the promise, and somebody took it away
        return {field: value for field, value in said.items() if counts(field)}

    @property
    def last_left(self) -> _At | None:
        """The place left last: by its end, else by its position in the list."""
        ended = [at for at in self.left if at.end is not None]
        if ended:
            return max(ended, key=lambda at: at.end or 0)
        return self.left[-1] if self.left else None

    def beds(self, reading: Reading) -> tuple[dict[Reference, Place], dict[Reference, Place]]:
        """The beds left and the beds taken; a bed that the patient is in was not left."""
        here = [at for at in (self.here, self.temporary) if at is not None]
        recent = [
            at
            for at in self.left
            if at is self.last_left or (at.end is not None and reading.recorded_at - at.end <= VACATED_WINDOW_MS)
        ]
        taken = {} if self.over or self.planned else _beds(reading, here)
        left = _beds(reading, recent + (here if self.over else []))
        return {bed: place for bed, place in left.items() if bed not in taken}, taken


def _beds(reading: Reading, places: list[_At]) -> dict[Reference, Place]:
    return {bed: at.place for at in places if (bed := reading.names.bed_of(at.place)) is not None}


def _at(reading: Reading, path: str, element: Body) -> _At | str | None:
    """The element; its path where the patient is at a place that nobody here knows, None where he was or is expected there."""
    reference = reading.object(element, "location", path)
    if reference is None:
        raise missing(f"{path}.location", "the location")
    period = reading.object(element, "period", path) or {}
    start, end = reading.time(period, "start", f"{path}.period"), reading.time(period, "end", f"{path}.period")
    told = reading.code(element, "status", path, _ELEMENT_STATUS)
    status = told if isinstance(told, str) else ("completed" if period.get("end") is not None else "active")
    place = reading.names.place_if_known(reference, f"{path}.location")
    if place is None:
        reading.not_read(f"{path}.location")
        return f"{path}.location" if status == "active" else None
    temporary = any(extension.get("url") == LOCATION_CLASSIFICATION for extension in elements(element, "extension"))
    return _At(place, status, temporary, _or_none(start), _or_none(end))


def _or_none(value: Millis | UnsetType) -> Millis | None:
    return None if isinstance(value, UnsetType) else value


def _innermost(found: list[_At], what: str) -> _At | None:
    """The one place of several: a bed within the ward that is named beside it, else the one begun last; never a guess."""
    if not found:
        return None
    deepest = max(found, key=lambda at: at.depth)
    others = [at for at in found if not _within(deepest.place, at.place)]
    if not others:
        return deepest
    starts = [at.start for at in (deepest, *others)]
    latest = max((start for start in starts if start is not None), default=None)
    if latest is None or None in starts or starts.count(latest) > 1:
        raise Refusal(
            RejectedBecause.CONTRADICTION,
            "Encounter.location",
            f"a patient is at one {what} place at a time, or the periods tell which came last",
            "complete the locations that the patient has left, or give each a period.start",
        )
    return next(at for at in (deepest, *others) if at.start == latest)


def _within(inner: Place, outer: Place) -> bool:
    """Whether one place is the other, or lies in it, as far as both say."""
    named = [field for field in outer.__struct_fields__ if getattr(outer, field) is not None]
    return all(getattr(inner, field) in (None, getattr(outer, field)) for field in named if field != "bed") and (
        outer.bed is None or msgspec.structs.asdict(inner).get("bed") == outer.bed
    )
