"""A scheduled procedure from Appointment."""

from typing import Any, Final

from msgspec import UNSET, UnsetType

from pipeline.domain.event import EntityType, EventType, Place, Procedure, ProcedureStatus, Reference
from pipeline.formats.draft import Draft
from pipeline.formats.fhir.inbound_reading import Reading, missing
from pipeline.formats.fhir.inbound_verdict import Refusal, RejectedBecause
from pipeline.formats.fhir.owned import Body
from pipeline.formats.fhir.references import reference_of
from pipeline.formats.fhir.terms import APPOINTMENT_STATUS, EXTENSIONS, PROCEDURE_SERVICE

ORDINAL: Final = 0
_TYPE: Final = EntityType.PROCEDURE

STATUS_OF: Final[dict[str, ProcedureStatus]] = {
    "proposed": ProcedureStatus.PENDING,
    "pending": ProcedureStatus.PENDING,
    "booked": ProcedureStatus.BOOKED,
    "arrived": ProcedureStatus.BOOKED,
    "checked-in": ProcedureStatus.STARTED,
    "fulfilled": ProcedureStatus.COMPLETE,
    "cancelled": ProcedureStatus.CANCELLED,
    "noshow": ProcedureStatus.NOSHOW,
    "entered-in-error": ProcedureStatus.DELETED,
    "waitlist": ProcedureStatus.WAITLIST,
}
"""The status that an Appointment.status claims by itself. `arrived` is the patient's, the procedure is still to come."""

ACTORS: Final = frozenset(
    {
        "Patient",
        "Practitioner",
        "PractitionerRole",
        "RelatedPerson",
        "Device",
        "HealthcareService",
        "Location",
        "CareTeam",
        "Group",
    }
)
"""Who may take part; the last two since R5."""


def drafts(reading: Reading) -> tuple[Draft, ...]:
    """The one event of a procedure; none where nothing is the EHR's word."""
    slot = reading.names.identity(_TYPE, reading.body, "Appointment.identifier")
    counts = reading.scope.counts
    _check_actors(reading)
    start, end = _time(reading, "start"), _time(reading, "end")
    if isinstance(start, int) and isinstance(end, int) and end < start and counts("start", "end"):
        raise Refusal(RejectedBecause.CONTRADICTION, "Appointment.end", "it does not end before it starts", "correct the times")
    stated: dict[str, Any] = {
        "status": _status(reading) if counts("status") else UNSET,
        "start": start if counts("start") else UNSET,
        "end": end if counts("end") else UNSET,
        "place": _place(reading) if counts("place") else UNSET,
        "patient": _patient(reading) if counts("patient") else UNSET,
        "encounter": _stay(reading) if counts("encounter") else UNSET,
        "service": _service(reading) if counts("service") else UNSET,
        "reason": _reason(reading) if counts("reason") else UNSET,
    }
    procedure = Procedure(**stated)
    if procedure == Procedure():
        return ()
    where = procedure.place if isinstance(procedure.place, Place) else None
    return (Draft(ORDINAL, EventType.UPDATE, slot.namespace, slot.id, where, procedure),)


def _status(reading: Reading) -> ProcedureStatus:
    """The raw status of table 0278 where it still says what Appointment.status says, else what that claims by itself."""
    ours = reading.profile.codes_of(_TYPE, "status", STATUS_OF)
    code = reading.code(reading.body, "status", "Appointment", {code: code for code in STATUS_OF} | ours)
    if isinstance(code, UnsetType):
        raise missing("Appointment.status", "the status")
    for path, element in _extension(reading, "status"):
        raw = reading.code(element, "valueCode", path, {status.value: status for status in ProcedureStatus})
        if isinstance(raw, ProcedureStatus) and code in APPOINTMENT_STATUS[raw]:
            return raw
    return STATUS_OF[code]


def _time(reading: Reading, field: str) -> Any:
    """From the element, else from our extension, where a time goes that R4 would not let stand alone."""
    said = reading.time(reading.body, field, "Appointment")
    if said is UNSET and field in EXTENSIONS[_TYPE]:
        for path, element in _extension(reading, field):
            said = reading.time(element, "valueDateTime", path)
    return None if said is UNSET and field in reading.scope.changed else said


def _check_actors(reading: Reading) -> None:
    for path, element in reading.objects(reading.body, "participant", "Appointment"):
        actor = reading.object(element, "actor", path)
        kind = _kind(actor) if actor else ""
        if kind and kind not in ACTORS:
            raise Refusal(
                RejectedBecause.WRONG_TARGET,
                f"{path}.actor",
                "an actor is one of " + ", ".join(sorted(ACTORS)),
                "correct the reference at the EHR",
            )


def _actors(reading: Reading, kind: str) -> list[tuple[str, Body]]:
    found = []
    for path, element in reading.objects(reading.body, "participant", "Appointment"):
        actor = reading.object(element, "actor", path)
        if actor is not None and _kind(actor) == kind:
            found.append((f"{path}.actor", actor))
    return found


def _kind(reference: Body) -> str:
    kind = reference.get("type")
    return kind if isinstance(kind, str) else (reference_of(reference.get("reference")) or "").partition("/")[0]


def _patient(reading: Reading) -> Reference | UnsetType | None:
    named = _actors(reading, "Patient")
    subject = reading.object(reading.body, "subject", "Appointment") if reading.form.names_subject else None
    if subject is not None and _kind(subject) != "Group":
        named.append(("Appointment.subject", subject))
    found = {reading.names.reference(EntityType.PATIENT, "Patient", actor, path) for path, actor in named}
    if len(found) > 1:
        raise Refusal(
            RejectedBecause.CONTRADICTION,
            "Appointment.participant",
            "a procedure is for one patient",
            "name one patient, among the participants and as the subject",
        )
    return found.pop() if found else (None if "patient" in reading.scope.changed else UNSET)


def _place(reading: Reading) -> Place | UnsetType | None:
    """Where it takes place; of several places none is guessed."""
    found = []
    for path, actor in _actors(reading, "Location"):
        place = reading.names.place_if_known(actor, path)
        if place is None:
            reading.not_read(path)
        elif place not in found:
            found.append(place)
    if len(found) > 1:
        return reading.not_read("Appointment.participant")
    return found[0] if found else (None if "place" in reading.scope.changed else UNSET)


def _stay(reading: Reading) -> Reference | UnsetType | None:
    """The stay, among the supporting information; one that nobody here knows is left unsaid."""
    for path, element in reading.objects(reading.body, "supportingInformation", "Appointment"):
        if _kind(element) == "Encounter":
            stay = reading.names.reference_if_known(EntityType.ENCOUNTER, "Encounter", element, path)
            return stay or reading.not_read(path)
    return None if "encounter" in reading.scope.changed else UNSET


def _service(reading: Reading) -> Any:
    """The source's own code, else the first code of what the EHR calls it."""
    first: Any = UNSET
    for path, element in reading.objects(reading.body, "serviceType", "Appointment"):
        concept = reading.object(element, "concept", path) if "concept" in element else element  # R5: CodeableReference
        for where, coding in reading.objects(concept or {}, "coding", path):
            code = reading.text(coding, "code", where)
            if coding.get("system") == PROCEDURE_SERVICE:
                return code
            first = code if first is UNSET else first
    return None if first is UNSET and "service" in reading.scope.changed else first


def _reason(reading: Reading) -> Any:
    name = reading.form.cancel_reason
    held = reading.object(reading.body, name, "Appointment")
    said = reading.text(held, "text", f"Appointment.{name}") if held else UNSET
    for path, element in _extension(reading, "reason") if said is UNSET else []:
        said = reading.text(element, "valueString", path)
    return None if said is UNSET and "reason" in reading.scope.changed else said


def _extension(reading: Reading, field: str) -> list[tuple[str, Body]]:
    url = reading.profile.extension(EXTENSIONS[_TYPE][field][0])
    return [pair for pair in reading.objects(reading.body, "extension", "Appointment") if pair[1].get("url") == url][:1]
