"""A transfer request from Task. Tasks of another code are the EHR's own business."""

from typing import Any, Final

from msgspec import UNSET, UnsetType

from pipeline.domain.event import EntityType, EventType, Place, Reference, StageState, Transfer, TransferKind, TransferStage
from pipeline.formats.draft import Draft
from pipeline.formats.fhir.inbound_reading import Reading, missing
from pipeline.formats.fhir.inbound_verdict import Ignorable, IgnoredBecause
from pipeline.formats.fhir.owned import Body, elements
from pipeline.formats.fhir.references import reference_of
from pipeline.formats.fhir.statuses import R4_TASK
from pipeline.formats.fhir.terms import EXTENSIONS, TASK_CODE, TASK_STATUS, TRANSFER_KIND, TRANSFER_STAGE

ORDINAL: Final = 0
_TYPE: Final = EntityType.TRANSFER

STAGE_OF: Final[dict[str, TransferStage]] = {
    "requested": TransferStage.REQUESTED,
    "received": TransferStage.IN_REVIEW,
    "accepted": TransferStage.CLINICALLY_ACCEPTED,
    "in-progress": TransferStage.DEPARTED,
    "completed": TransferStage.ARRIVED,
    "rejected": TransferStage.DECLINED,
    "cancelled": TransferStage.CANCELLED,
    "failed": TransferStage.CANCELLED,
    "entered-in-error": TransferStage.CANCELLED,
}
"""The stage that a Task.status claims by itself, where businessStatus doesn't say the same in more words. `draft`, `ready`
and `on-hold` claim none."""


def drafts(reading: Reading) -> tuple[Draft, ...]:
    """The one event of a transfer request; none where nothing is the EHR's word."""
    if not _is_transfer(reading):
        raise Ignorable(IgnoredBecause.NOT_MAPPED)
    request = reading.names.identity(_TYPE, reading.body, "Task.identifier")
    body, counts = reading.body, reading.scope.counts
    stated: dict[str, Any] = {
        "kind": _kind(reading) if counts("kind") else UNSET,
        "stage": _stage(reading),
        "patient": _patient(reading) if counts("patient") else UNSET,
        "encounter": _stay(reading) if counts("encounter") else UNSET,
        "origin": _origin(reading) if counts("origin") else UNSET,
        "destination": _destination(reading) if counts("destination") else UNSET,
        "service": _service(reading) if counts("service") else UNSET,
        "requested_at": _or_gone(reading, "requested_at", reading.time(body, "authoredOn", "Task"))
        if counts("requested_at")
        else UNSET,
    }
    transfer = Transfer(**stated)
    if transfer == Transfer():
        return ()
    where = transfer.destination if isinstance(transfer.destination, Place) else None
    return (Draft(ORDINAL, EventType.UPDATE, request.namespace, request.id, where, transfer),)


def _is_transfer(reading: Reading) -> bool:
    """By its code, or by an identifier of ours."""
    concept = reading.object(reading.body, "code", "Task") or {}
    coded = any((c.get("system"), c.get("code")) == (TASK_CODE, "transfer") for c in elements(concept, "coding"))
    systems = [element.get("system") for element in elements(reading.body, "identifier")]
    return coded or any(isinstance(system, str) and reading.names.naming.names(_TYPE, system) for system in systems)


def _or_gone(reading: Reading, field: str, value: Any) -> Any:
    return None if value is UNSET and field in reading.scope.changed else value


def _kind(reading: Reading) -> Any:
    concept = reading.object(reading.body, "code", "Task") or {}
    for path, coding in reading.objects(concept, "coding", "Task.code"):
        if coding.get("system") == TRANSFER_KIND:
            return reading.code(coding, "code", path, {kind.value: kind for kind in TransferKind})
    return _or_gone(reading, "kind", UNSET)


def _stage(reading: Reading) -> StageState | UnsetType:
    """businessStatus says the stage; Task.status does where somebody changed it to one that the other does not go with."""
    theirs = reading.profile.codes_of(_TYPE, "status", TASK_STATUS.values())
    status = reading.code(reading.body, "status", "Task", {code: code for code in sorted(R4_TASK)} | theirs)
    if isinstance(status, UnsetType):
        raise missing("Task.status", "the status")
    changed, counts = reading.scope.changed, reading.scope.counts
    named = _business_status(reading)
    if "status" in changed:
        told = named if "stage" in changed else UNSET
        agrees = isinstance(named, TransferStage) and TASK_STATUS[named] == status
        stage = told if agrees else STAGE_OF.get(status, told)
    elif counts("stage"):
        stage = named if named is not UNSET or "stage" in changed else STAGE_OF.get(status, UNSET)
    else:
        return UNSET
    return UNSET if isinstance(stage, UnsetType) else StageState(stage, _reason(reading), _reached_at(reading))


def _business_status(reading: Reading) -> TransferStage | UnsetType:
    system = reading.profile.status_system(_TYPE, "stage", TRANSFER_STAGE)
    meant = reading.profile.codes_of(_TYPE, "stage", (stage.value for stage in TransferStage))
    table = {theirs: TransferStage(ours) for theirs, ours in meant.items()}
    concept = reading.object(reading.body, "businessStatus", "Task") or {}
    for path, coding in reading.objects(concept, "coding", "Task.businessStatus"):
        if coding.get("system") == system:
            return reading.code(coding, "code", path, table)
    return UNSET


def _reason(reading: Reading) -> str | None:
    held, path = reading.body, "Task"
    for name in reading.form.task_reason:
        held, path = reading.object(held, name, path) or {}, f"{path}.{name}"
    text = reading.text(held, "text", path)
    return text if isinstance(text, str) else None


def _reached_at(reading: Reading) -> Any:
    for path, element in _extension(reading, "stage"):
        at = reading.time(element, "valueDateTime", path)
        if isinstance(at, int) and "stage" not in reading.scope.changed and "status" not in reading.scope.changed:
            return at
    at = reading.time(reading.body, "lastModified", "Task")
    return at if isinstance(at, int) else None


def _patient(reading: Reading) -> Reference | UnsetType | None:
    """Whom it is for. A task may be for anything; what is no patient is left unsaid."""
    held = reading.object(reading.body, "for", "Task")
    if held is None:
        return None if "patient" in reading.scope.changed else UNSET
    kind = held.get("type") or (reference_of(held.get("reference")) or "").partition("/")[0]
    if kind not in ("Patient", ""):
        return reading.not_read("Task.for")
    return reading.names.reference(EntityType.PATIENT, "Patient", held, "Task.for")


def _stay(reading: Reading) -> Reference | UnsetType | None:
    held = reading.object(reading.body, "encounter", "Task")
    if held is None:
        return None if "encounter" in reading.scope.changed else UNSET
    return reading.names.reference(EntityType.ENCOUNTER, "Encounter", held, "Task.encounter")


def _destination(reading: Reading) -> Place | UnsetType | None:
    held = reading.object(reading.body, "location", "Task")
    if held is None:
        return None if "destination" in reading.scope.changed else UNSET
    return reading.names.place(held, "Task.location")


def _origin(reading: Reading) -> Place | UnsetType | None:
    """Where the patient comes from, which may be a place that nobody here knows."""
    for path, element in _extension(reading, "origin"):
        held = reading.object(element, "valueReference", path)
        place = reading.names.place_if_known(held, f"{path}.valueReference") if held else None
        return place or reading.not_read(path)
    return None if "origin" in reading.scope.changed else UNSET


def _service(reading: Reading) -> Any:
    for path, element in _extension(reading, "service"):
        return reading.text(element, "valueString", path)
    return _or_gone(reading, "service", UNSET)


def _extension(reading: Reading, field: str) -> list[tuple[str, Body]]:
    url = reading.profile.extension(EXTENSIONS[_TYPE][field][0])
    return [pair for pair in reading.objects(reading.body, "extension", "Task") if pair[1].get("url") == url][:1]
