"""Statuses that a profile may map to an EHR's own: where our codes go, and which codes may stand there."""

from dataclasses import dataclass
from typing import Final

from pipeline.domain.bed import BedStatusCode
from pipeline.domain.event import EntityType, TransferStage
from pipeline.formats.fhir.forms import R4, R5, R5_ENCOUNTER_READ
from pipeline.formats.fhir.terms import (
    APPOINTMENT_STATUS,
    BED_STATUS,
    HELD,
    LOCATION_STATUS,
    TASK_STATUS,
    TRANSFER_STAGE,
)


@dataclass(frozen=True, slots=True)
class StatusElement:
    """One element that holds a status. `ours` are the codes that we send; `bound` those that the standard allows, if it binds.

    `system` is the code system of ours there; None where the element is a plain code and has none.
    """

    element: str
    ours: tuple[str, ...]
    bound: frozenset[str] | None = None
    system: str | None = None


R4_LOCATION: Final = frozenset({"active", "suspended", "inactive"})
R4_ENCOUNTER: Final = frozenset(
    {"planned", "arrived", "triaged", "in-progress", "onleave", "finished", "cancelled", "entered-in-error", "unknown"}
)
R5_ENCOUNTER: Final = frozenset(R5_ENCOUNTER_READ)
R4_TASK: Final = frozenset(
    {
        "draft", "requested", "received", "accepted", "rejected", "ready", "cancelled", "in-progress", "on-hold", "failed",
        "completed", "entered-in-error",
    }
)  # fmt: skip
R4_APPOINTMENT: Final = frozenset(
    {
        "proposed", "pending", "booked", "arrived", "fulfilled", "cancelled", "noshow", "entered-in-error", "checked-in",
        "waitlist",
    }
)  # fmt: skip

STATUSES: Final[dict[EntityType, dict[str, StatusElement]]] = {
    EntityType.BED: {
        "status": StatusElement("Location.status", tuple(LOCATION_STATUS.values()), R4_LOCATION),
        "operational_status": StatusElement(
            "Location.operationalStatus", tuple(code.value for code in BedStatusCode), system=BED_STATUS
        ),
    },
    EntityType.ENCOUNTER: {
        "status": StatusElement("Encounter.status", R4.encounter_codes, R4_ENCOUNTER),
    },
    EntityType.TRANSFER: {
        "status": StatusElement("Task.status", tuple(dict.fromkeys(TASK_STATUS.values())), R4_TASK),
        "stage": StatusElement("Task.businessStatus", tuple(stage.value for stage in TransferStage), system=TRANSFER_STAGE),
    },
    EntityType.PROCEDURE: {
        "status": StatusElement(
            "Appointment.status",
            tuple(dict.fromkeys(code for codes in APPOINTMENT_STATUS.values() for code in codes if code != HELD)),
            R4_APPOINTMENT,
        ),
    },
}
"""By entity type and field, as R4 has them."""

STATUSES_OF: Final[dict[str, dict[EntityType, dict[str, StatusElement]]]] = {
    R4.name: STATUSES,
    R5.name: STATUSES | {EntityType.ENCOUNTER: {"status": StatusElement("Encounter.status", R5.encounter_codes, R5_ENCOUNTER)}},
}
"""By version: R5 has other words for a stay's status, and the same for all others."""
