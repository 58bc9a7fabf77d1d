"""A transfer request as Task. The transfer centre is ours to speak for, so an EHR of record may be told of it.

`status` is R4's, derived by a table; what the transfer centre itself calls the stage is in `businessStatus`. The patient may
be unknown: then `for` is absent, never a stand-in.
"""

from typing import Final

from msgspec import UNSET

from pipeline.domain.event import EntityType, Place, StageState, Transfer, TransferKind, TransferStage
from pipeline.formats.fhir import terms
from pipeline.formats.fhir.naming import Ident, Naming, logical_reference, referenced
from pipeline.formats.fhir.owned import Body, Json, Member, Owned, Path, value_at
from pipeline.formats.fhir.resource import (
    ResourceMap,
    carries,
    extension,
    identifier_of,
    moment,
    reference,
    shown_extension,
    text,
)
from pipeline.formats.fhir.terms import TASK_CODE, TASK_STATUS, TRANSFER_KIND, TRANSFER_STAGE
from pipeline.formats.fhir.times import same_moment
from pipeline.formats.rfc3339 import rfc3339_of

EXTENSIONS: Final = terms.EXTENSIONS[EntityType.TRANSFER]
"""Our extensions of a transfer, by field: name and value."""

_KIND: Final[Path] = ("code", "coding", Member((("system", TRANSFER_KIND),)), "code")


def _desired(transfer: Transfer, ident: Ident, naming: Naming, current: Body) -> tuple[Owned, ...]:
    return (
        identifier_of("identifier", ident),
        *_kind(transfer),
        *_stage(transfer, naming),
        *_last_modified(transfer, current),
        *reference("patient", ("for",), EntityType.PATIENT, transfer.patient, naming, current),
        *reference("encounter", ("encounter",), EntityType.ENCOUNTER, transfer.encounter, naming, current),
        *_origin(transfer, naming),
        *_destination(transfer, naming, current),
        *extension("service", _url("service", naming), "String", _stated_text(transfer.service)),
        *moment("requested_at", ("authoredOn",), transfer.requested_at),
    )


def _kind(transfer: Transfer) -> tuple[Owned, ...]:
    return () if transfer.kind is UNSET else (Owned("kind", _KIND, transfer.kind.value if transfer.kind else None),)


def _stage(transfer: Transfer, naming: Naming) -> tuple[Owned, ...]:
    """Task.status is mandatory: a cleared stage asks for something, and no more is claimed."""
    stage = transfer.stage
    if stage is UNSET:
        return ()
    status = TASK_STATUS[stage.stage if stage else TransferStage.UNKNOWN]
    at = rfc3339_of(stage.at) if stage and stage.at is not None else None
    return (
        Owned("status", ("status",), naming.profile.status(EntityType.TRANSFER, "status", status)),
        Owned("stage", (*_business_status(naming), "code"), _stage_code(stage, naming)),
        Owned("stage", (*naming.profile.form.task_reason, "text"), text(stage.reason) if stage else None),
        *extension("stage", _url("stage", naming), "DateTime", at),
    )


def _stage_code(stage: StageState | None, naming: Naming) -> str | None:
    return naming.profile.status(EntityType.TRANSFER, "stage", stage.stage.value) if stage else None


def _business_status(naming: Naming) -> Path:
    system = naming.profile.status_system(EntityType.TRANSFER, "stage", TRANSFER_STAGE)
    return ("businessStatus", "coding", Member((("system", system),)))


def _last_modified(transfer: Transfer, current: Body) -> tuple[Owned, ...]:
    """When the stage was reached; left out where that would be before the request (inv-1). Our extension has it anyway."""
    authored = _effective(transfer.requested_at, current.get("authoredOn"))
    modified = _effective(UNSET if transfer.stage is UNSET else transfer.stage and transfer.stage.at, current.get("lastModified"))
    too_early = authored is not None and modified is not None and modified < authored
    if transfer.stage is UNSET and not too_early:
        return ()
    return moment("last_modified", ("lastModified",), None if too_early else modified)


def _effective(stated: Json, present: Json) -> int | None:
    """The time that the resource will have: the state's or, where it is silent, what is there."""
    value = same_moment(present) if stated is UNSET else stated
    return value if isinstance(value, int) else None


def _destination(transfer: Transfer, naming: Naming, current: Body) -> tuple[Owned, ...]:
    if transfer.destination is UNSET:
        return ()
    ident = naming.innermost(transfer.destination) if transfer.destination else None
    if ident is None:
        return (Owned("destination", ("location",), None),)
    kept, wanted = current.get("location"), logical_reference("Location", ident)
    return (Owned("destination", ("location",), kept if referenced(kept) == referenced(wanted) else wanted),)


def _origin(transfer: Transfer, naming: Naming) -> tuple[Owned, ...]:
    """Where the patient comes from. A place without its facility is one of ours only where the move is internal: elsewhere
    it would name a ward of ours that has the same name."""
    if transfer.origin is UNSET:
        return ()
    origin = transfer.origin
    named = isinstance(origin, Place) and (origin.facility or transfer.kind is TransferKind.INTERNAL)
    ident = naming.innermost(origin) if isinstance(origin, Place) and named else None
    return extension("origin", _url("origin", naming), "Reference", logical_reference("Location", ident) if ident else None)


def _stated_text(value: Json) -> Json:
    return value if value is UNSET else text(value)


def _url(field: str, naming: Naming) -> str:
    return naming.profile.extension(EXTENSIONS[field][0])


def _shown(body: Body, ident: Ident, naming: Naming) -> dict[str, Json]:
    return {
        "identifier": carries(body, ident),
        "kind": value_at(body, _KIND),
        "status": body.get("status"),
        "stage": [
            value_at(body, (*_business_status(naming), "code")),
            value_at(body, (*naming.profile.form.task_reason, "text")),
            shown_extension(body, _url("stage", naming)),
        ],
        "last_modified": same_moment(body.get("lastModified")),
        "patient": referenced(body.get("for")),
        "encounter": referenced(body.get("encounter")),
        "origin": shown_extension(body, _url("origin", naming)),
        "destination": referenced(body.get("location")),
        "service": shown_extension(body, _url("service", naming)),
        "requested_at": same_moment(body.get("authoredOn")),
    }


def _created(transfer: Transfer, naming: Naming) -> Body:
    """Status and intent are mandatory; the code tells a transfer request from the EHR's other tasks."""
    return {
        "resourceType": "Task",
        "status": naming.profile.status(EntityType.TRANSFER, "status", TASK_STATUS[TransferStage.UNKNOWN]),
        "intent": "order",
        "code": {"coding": [{"system": TASK_CODE, "code": "transfer", "display": "Transfer of a patient"}]},
    }


TASK: Final = ResourceMap(EntityType.TRANSFER, "Task", _desired, _shown, _created)
