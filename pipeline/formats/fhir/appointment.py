"""A scheduled procedure as Appointment, for replicas: the schedule is another system's.

R4 asks for start and end together, and for both unless the appointment is proposed, cancelled or on the waiting list (app-2,
app-3). A state that has no form both valid and true, such as a started procedure without its times, is refused, not bent.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from msgspec import UNSET

from pipeline.domain.event import EntityType, Place, Procedure, ProcedureStatus, Reference
from pipeline.formats.fhir import terms
from pipeline.formats.fhir.naming import Ident, Naming, logical_reference, referenced
from pipeline.formats.fhir.owned import Body, Json, Member, Misshapen, Owned, Path, dotted_value, elements, value_at
from pipeline.formats.fhir.resource import (
    ResourceMap,
    carries,
    code,
    extension,
    identifier_of,
    reference,
    shown_extension,
    text,
)
from pipeline.formats.fhir.terms import ACTOR_ROLE, APPOINTMENT_STATUS, HELD, PARTICIPANT, TIMELESS
from pipeline.formats.fhir.times import same_moment
from pipeline.formats.rfc3339 import rfc3339_of

EXTENSIONS: Final = terms.EXTENSIONS[EntityType.PROCEDURE]
"""Our extensions of a procedure, by field: name and value."""

MINUTE_MS: Final = 60_000

CANCELLED: Final = "cancelled"

UNDECIDED: Final = frozenset({"proposed", "pending", "waitlist"})
"""Appointment.status in which a participant whom we add has yet to say yes."""

_NOBODY: Final = Member((("type[].coding[].system", PARTICIPANT),))


@dataclass(frozen=True, slots=True)
class _Times:
    """Start and end as the resource will have them, from the state or, where it is silent, from what is there."""

    start: int | None
    end: int | None

    @property
    def fixed(self) -> bool:
        """Both are known and in order."""
        return self.start is not None and self.end is not None and self.start <= self.end

    @property
    def minutes(self) -> int | None:
        """Whole minutes; a positive number or none, as R4's positiveInt asks."""
        if self.start is None or self.end is None:
            return None
        minutes = (self.end - self.start) // MINUTE_MS
        return minutes if minutes > 0 else None


def _desired(procedure: Procedure, ident: Ident, naming: Naming, current: Body) -> tuple[Owned, ...]:
    times = _Times(_effective(procedure.start, current.get("start")), _effective(procedure.end, current.get("end")))
    status = _status_code(procedure, times, naming, current)
    return (
        identifier_of("identifier", ident),
        *_status(procedure, status, naming),
        *_times(procedure, times, naming),
        *_Participants(procedure, naming, current, status).owned(),
        *_subject(procedure, naming, current),
        *_encounter(procedure, naming, current),
        *_service(procedure, naming),
        *_reason(procedure, status, naming),
    )


def _effective(stated: Json, present: Json) -> int | None:
    value = same_moment(present) if stated is UNSET else stated
    return value if isinstance(value, int) else None


def _status_code(procedure: Procedure, times: _Times, naming: Naming, current: Body) -> str:
    """Appointment.status at this EHR. Misshapen where the times that R4 asks for are missing and no code without them is true."""
    if procedure.status is UNSET:
        status = str(current.get("status"))
        if not times.fixed and status not in TIMELESS and (procedure.start is not UNSET or procedure.end is not UNSET):
            raise Misshapen("an Appointment without start and end")
        return status
    with_times, without = APPOINTMENT_STATUS[procedure.status or ProcedureStatus.UNKNOWN]
    ours = with_times if times.fixed else without
    theirs = naming.profile.status(EntityType.PROCEDURE, "status", ours)
    if ours == HELD or (not times.fixed and theirs not in TIMELESS):
        raise Misshapen("an Appointment without start and end")
    return theirs


def _status(procedure: Procedure, status: str, naming: Naming) -> tuple[Owned, ...]:
    """The raw status beside R4's: that of table 0278 says more. Who says that it isn't cancelled withdraws the reason of
    cancelling with it, whoever gave that: R4 makes one statement of the two (app-4)."""
    if procedure.status is UNSET:
        return ()
    raw = procedure.status.value if procedure.status else None
    withdrawn = () if status == CANCELLED else (Owned("status", (naming.profile.form.cancel_reason,), None),)
    return (Owned("status", ("status",), status), *withdrawn, *extension("status", _url("status", naming), "Code", raw))


def _times(procedure: Procedure, times: _Times, naming: Naming) -> tuple[Owned, ...]:
    """Both or neither (app-2); of times that aren't fixed, what is known goes into extensions."""
    stated = {field: value for field in ("start", "end") if (value := getattr(procedure, field)) is not UNSET}
    if not stated:
        return ()
    known = {"start": times.start, "end": times.end}
    owned: tuple[Owned, ...] = (Owned("end", ("minutesDuration",), times.minutes),)
    for field, value in known.items():
        written = rfc3339_of(value) if value is not None else None
        if field in stated or not times.fixed:
            owned += (Owned(field, (field,), written if times.fixed else None),)
        if field in stated:
            owned += extension(field, _url(field, naming), "DateTime", None if times.fixed else written)
    return owned


class _Participants:
    """Patient and place among the participants, each addressed by its reference; whoever else takes part is left alone."""

    def __init__(self, procedure: Procedure, naming: Naming, current: Body, status: str) -> None:
        self._naming, self._status = naming, status
        fields = naming.profile.fields_of(EntityType.PROCEDURE)
        self._stated: dict[str, Ident | None] = {}
        if procedure.patient is not UNSET and "patient" in fields:
            self._stated["patient"] = _patient(procedure.patient, naming)
        if procedure.place is not UNSET and "place" in fields:
            self._stated["place"] = naming.innermost(procedure.place) if isinstance(procedure.place, Place) else None
        self._shares = [field for field in ("patient", "place") if field in fields]
        self._present = elements(current, "participant")

    def owned(self) -> Iterator[Owned]:
        for field, wanted in self._stated.items():
            for ident in self._named(field):
                if ident != wanted:
                    yield Owned(field, _participant(ident), None)
            if wanted is not None:
                yield from self._write(field, wanted)
        nobody = value_at({"participant": self._present}, ("participant", _NOBODY))
        if nobody is None or "actor" not in nobody:  # else somebody has filled it in
            for field in self._shares:
                yield Owned(field, ("participant", _NOBODY), None if self._somebody() else _nobody())

    def _named(self, field: str) -> list[Ident]:
        return [ident for element in self._present if (ident := _actor(element, field, self._naming)) is not None]

    def _write(self, field: str, wanted: Ident) -> Iterator[Owned]:
        path, kind = _participant(wanted), "Patient" if field == "patient" else "Location"
        found = value_at({"participant": self._present}, path)
        kept = found.get("actor") if found else None
        yield Owned(field, (*path, "actor"), kept if kept else logical_reference(kind, wanted))
        if found is None or "status" not in found:
            yield Owned(field, (*path, "status"), "needs-action" if self._status in UNDECIDED else "accepted")

    def _somebody(self) -> bool:
        """Whether anybody takes part after this write."""
        if any(self._stated.values()):
            return True
        return any(
            not _NOBODY.matches(element) or "actor" in element
            for element in self._present
            if not any(_actor(element, field, self._naming) is not None for field in self._stated)
        )


def _subject(procedure: Procedure, naming: Naming, current: Body) -> tuple[Owned, ...]:
    """R5 names the patient a second time, as the subject; a subject of the EHR's own is left alone until we name one."""
    if not naming.profile.form.names_subject or procedure.patient is UNSET:
        return ()
    if procedure.patient is None and _shown_subject(current, naming) is None:
        return ()
    return reference("patient", ("subject",), EntityType.PATIENT, procedure.patient, naming, current)


def _shown_subject(body: Body, naming: Naming) -> Json:
    """The subject, where it is by a name of ours."""
    system = dotted_value(body, "subject.identifier.system")
    return referenced(body.get("subject")) if isinstance(system, str) and naming.names(EntityType.PATIENT, system) else None


def _nobody() -> Body:
    """A subject of whom nothing is known: Appointment.participant is mandatory, and an actor isn't (app-1)."""
    codes = [{"system": ACTOR_ROLE, "code": "SBJ"}, {"system": PARTICIPANT, "code": "not-known-yet"}]
    return {"type": [{"coding": codes}], "status": "needs-action"}


def _patient(patient: Reference | None, naming: Naming) -> Ident | None:
    return naming.entity(EntityType.PATIENT, patient.namespace, patient.id) if patient else None


def _participant(ident: Ident) -> Path:
    return ("participant", Member((("actor.identifier.system", ident.system), ("actor.identifier.value", ident.value))))


def _actor(element: Body, field: str, naming: Naming) -> Ident | None:
    """Whom a participant names by a name of ours, if it is of this field."""
    system, value = dotted_value(element, "actor.identifier.system"), dotted_value(element, "actor.identifier.value")
    if not isinstance(system, str) or not isinstance(value, str):
        return None
    ours = naming.names(EntityType.PATIENT, system) if field == "patient" else naming.names_places(system)
    return Ident(system, value) if ours else None


def _encounter(procedure: Procedure, naming: Naming, current: Body) -> tuple[Owned, ...]:
    """The stay, among the supporting information: R4 has no element of its own for it on this side."""
    if procedure.encounter is UNSET:
        return ()
    stay = procedure.encounter
    wanted = naming.entity(EntityType.ENCOUNTER, stay.namespace, stay.id) if stay else None
    present = _stays(current, naming)
    stale = tuple(Owned("encounter", _stay_path(ident), None) for ident in present if ident != wanted)
    if wanted is None:
        return stale
    return (*stale, Owned("encounter", _stay_path(wanted), present.get(wanted) or logical_reference("Encounter", wanted)))


def _stays(body: Body, naming: Naming) -> dict[Ident, Body]:
    found: dict[Ident, Body] = {}
    for element in elements(body, "supportingInformation"):
        system, value = dotted_value(element, "identifier.system"), dotted_value(element, "identifier.value")
        if isinstance(system, str) and isinstance(value, str) and naming.names(EntityType.ENCOUNTER, system):
            found.setdefault(Ident(system, value), element)
    return found


def _stay_path(ident: Ident) -> Path:
    return ("supportingInformation", Member((("identifier.system", ident.system), ("identifier.value", ident.value))))


def _service(procedure: Procedure, naming: Naming) -> tuple[Owned, ...]:
    path = naming.profile.form.appointment_service
    return () if procedure.service is UNSET else (Owned("service", path, code(procedure.service)),)


def _reason(procedure: Procedure, status: str, naming: Naming) -> tuple[Owned, ...]:
    """Why it changed last: the reason of cancelling where it is cancelled (app-4), else an extension.

    Appointment.reasonCode is why the appointment takes place, which a reason of delay isn't.
    """
    if procedure.reason is UNSET:
        return ()
    reason = text(procedure.reason)
    if status != CANCELLED:
        return extension("reason", _url("reason", naming), "String", reason)
    given = Owned("reason", (naming.profile.form.cancel_reason, "text"), reason)
    return (given, *extension("reason", _url("reason", naming), "String", None))


def _url(field: str, naming: Naming) -> str:
    return naming.profile.extension(EXTENSIONS[field][0])


def _shown(body: Body, ident: Ident, naming: Naming) -> dict[str, Json]:
    taking_part = elements(body, "participant")
    named = {
        field: sorted([who.system, who.value] for element in taking_part if (who := _actor(element, field, naming)) is not None)
        for field in ("patient", "place")
    }
    form = naming.profile.form
    if form.names_subject:
        named["patient"].append(_shown_subject(body, naming))
    return {
        "identifier": carries(body, ident),
        "status": [body.get("status"), shown_extension(body, _url("status", naming))],
        "start": [same_moment(body.get("start")), shown_extension(body, _url("start", naming))],
        "end": [same_moment(body.get("end")), body.get("minutesDuration"), shown_extension(body, _url("end", naming))],
        **named,
        "encounter": sorted([ident.system, ident.value] for ident in _stays(body, naming)),
        "service": value_at(body, form.appointment_service),
        "reason": [value_at(body, (form.cancel_reason, "text")), shown_extension(body, _url("reason", naming))],
    }


def _created(procedure: Procedure, naming: Naming) -> Body:
    """Status and a participant are mandatory; `desired` puts in who takes part."""
    return {
        "resourceType": "Appointment",
        "status": naming.profile.status(EntityType.PROCEDURE, "status", APPOINTMENT_STATUS[ProcedureStatus.UNKNOWN][1]),
    }


APPOINTMENT: Final = ResourceMap(EntityType.PROCEDURE, "Appointment", _desired, _shown, _created)
