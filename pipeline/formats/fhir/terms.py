"""Names that others defined: code systems, and our own extensions; the tables behind them."""

from typing import Final

from pipeline.domain.event import (
    EncounterStatus,
    EntityType,
    PatientClass,
    ProcedureStatus,
    ServiceStatus,
    Sex,
    TransferStage,
)

TERMINOLOGY: Final = "http://terminology.hl7.org/CodeSystem/"
BED_STATUS: Final = TERMINOLOGY + "v2-0116"
PHYSICAL_TYPE: Final = TERMINOLOGY + "location-physical-type"
ACT_CODE: Final = TERMINOLOGY + "v3-ActCode"
PATIENT_CLASS: Final = TERMINOLOGY + "v2-0004"
HOSPITAL_SERVICE: Final = TERMINOLOGY + "v2-0069"
DISCHARGE_DISPOSITION: Final = TERMINOLOGY + "v2-0112"
IDENTIFIER_TYPE: Final = TERMINOLOGY + "v2-0203"
SUBJECT_STATUS: Final = TERMINOLOGY + "encounter-subject-status"

LOCATION_CLASSIFICATION: Final = "http://hl7.org/fhir/StructureDefinition/subject-locationClassification"
LOCATION_CLASS_SYSTEM: Final = "http://hl7.org/fhir/ValueSet/subject-location"
"""As the v2-to-FHIR guide marks PV1-11, a temporary location."""

ACTOR_ROLE: Final = TERMINOLOGY + "v3-ParticipationType"

OURS: Final = "https://surgeline.dev/fhir/StructureDefinition/"
"""Base of our extensions; a profile may give each another URL."""

REVISION_NAME: Final = "revision"
REVISION: Final = OURS + REVISION_NAME

OUR_CODES: Final = "https://surgeline.dev/fhir/CodeSystem/"
TASK_CODE: Final = OUR_CODES + "task-code"
TRANSFER_KIND: Final = OUR_CODES + "transfer-kind"
TRANSFER_STAGE: Final = OUR_CODES + "transfer-stage"
PARTICIPANT: Final = OUR_CODES + "participant"
PROCEDURE_SERVICE: Final = OUR_CODES + "procedure-service"
"""The codes that the source itself uses; what system they are of, it doesn't say."""

EXTENSIONS: Final[dict[EntityType, dict[str, tuple[str, str]]]] = {
    EntityType.BED: {
        "occupancy": ("bed-occupancy", "parts status (code), encounter (Reference)"),
        "environment": ("bed-environment", "code"),
        "allocation": ("bed-allocation", "parts status (code), encounter (Reference), until (dateTime)"),
        "service": ("bed-service", "parts status (code), reason (string), until (dateTime)"),
        "staffed": ("bed-staffed", "boolean"),
        "licensed": ("bed-licensed", "boolean"),
        "surge": ("bed-surge", "boolean"),
        "isolation": ("bed-isolation", "boolean"),
        "level_of_care": ("bed-level-of-care", "string"),
        "age_group": ("bed-age-group", "string"),
        "negative_pressure": ("bed-negative-pressure", "boolean"),
        "telemetry": ("bed-telemetry", "boolean"),
    },
    EntityType.ENCOUNTER: {
        "admit_decision_at": ("encounter-admit-decision", "dateTime"),
        "expected_discharge_at": ("encounter-expected-discharge", "dateTime"),
        "discharge_ordered_at": ("encounter-discharge-ordered", "dateTime"),
    },
    EntityType.TRANSFER: {
        "stage": ("transfer-stage-at", "dateTime"),
        "origin": ("transfer-origin", "Reference"),
        "service": ("transfer-service", "string"),
    },
    EntityType.PROCEDURE: {
        "status": ("procedure-status", "code"),
        "start": ("procedure-start", "dateTime"),
        "end": ("procedure-end", "dateTime"),
        "reason": ("procedure-reason", "string"),
    },
}
"""Our extensions by field: name and value. R4 has no element for these."""

CLASS_OF: Final[dict[PatientClass, tuple[str, str]]] = {
    PatientClass.EMERGENCY: (ACT_CODE, "EMER"),
    PatientClass.INPATIENT: (ACT_CODE, "IMP"),
    PatientClass.OUTPATIENT: (ACT_CODE, "AMB"),
    PatientClass.PREADMIT: (ACT_CODE, "PRENC"),
    PatientClass.RECURRING: (PATIENT_CLASS, "R"),
    PatientClass.OBSTETRICS: (PATIENT_CLASS, "B"),
    PatientClass.COMMERCIAL: (PATIENT_CLASS, "C"),
    PatientClass.NOT_APPLICABLE: (PATIENT_CLASS, "N"),
    PatientClass.UNKNOWN: (PATIENT_CLASS, "U"),
}
"""Encounter.class, by the v2-to-FHIR guide's map PatientClass[EncounterClass]."""

ENCOUNTER_STATUS: Final[dict[EncounterStatus, str]] = {
    status: status.value.lower().replace("_", "-") for status in EncounterStatus
}
"""Encounter.status."""

TASK_STATUS: Final[dict[TransferStage, str]] = {
    TransferStage.REQUESTED: "requested",
    TransferStage.IN_REVIEW: "received",
    TransferStage.CLINICALLY_ACCEPTED: "accepted",
    TransferStage.BED_REQUESTED: "accepted",
    TransferStage.BED_ASSIGNED: "accepted",
    TransferStage.TRANSPORT_ARRANGED: "accepted",
    TransferStage.DEPARTED: "in-progress",
    TransferStage.ARRIVED: "completed",
    TransferStage.DECLINED: "rejected",
    TransferStage.CANCELLED: "cancelled",
    TransferStage.REDIRECTED: "cancelled",
    TransferStage.UNKNOWN: "requested",
}
"""Task.status. It is mandatory and R4 has no code for unknown: `requested` claims the least; businessStatus says the rest."""

HELD: Final = ""
"""In place of an Appointment.status: R4 has none that would be both valid and true."""

APPOINTMENT_STATUS: Final[dict[ProcedureStatus, tuple[str, str]]] = {
    ProcedureStatus.PENDING: ("pending", "proposed"),
    ProcedureStatus.WAITLIST: ("waitlist", "waitlist"),
    ProcedureStatus.BOOKED: ("booked", "proposed"),
    ProcedureStatus.STARTED: ("checked-in", HELD),
    ProcedureStatus.COMPLETE: ("fulfilled", HELD),
    ProcedureStatus.CANCELLED: ("cancelled", "cancelled"),
    ProcedureStatus.DISCONTINUED: ("cancelled", "cancelled"),
    ProcedureStatus.DELETED: ("entered-in-error", "cancelled"),
    ProcedureStatus.BLOCKED: ("pending", "proposed"),
    ProcedureStatus.OVERBOOK: ("booked", "proposed"),
    ProcedureStatus.NOSHOW: ("noshow", HELD),
    ProcedureStatus.UNKNOWN: ("proposed", "proposed"),
}
"""Appointment.status, with both times known and without, by the v2-to-FHIR guide's map of table 0278 where it has one.

Without start and end R4 allows proposed, cancelled and waitlist only (app-3): what isn't fixed in time yet is proposed.
The guide leaves Discontinued, Blocked and Overbook open.
"""

TIMELESS: Final = frozenset({"proposed", "cancelled", "waitlist"})
"""Appointment.status for which R4 asks no start and end (app-3)."""

GENDER: Final[dict[Sex, str]] = {sex: sex.value.lower() for sex in Sex}
"""Patient.gender."""

LOCATION_STATUS: Final[dict[ServiceStatus, str]] = {
    ServiceStatus.OPEN: "active",
    ServiceStatus.BLOCKED: "suspended",
    ServiceStatus.CLOSED: "inactive",
}
"""Location.status."""

LEVEL_TYPE: Final[dict[str, tuple[str, str]]] = {
    "bed": ("bd", "Bed"),
    "room": ("ro", "Room"),
    "floor": ("lvl", "Level"),
    "point_of_care": ("wa", "Ward"),
    "building": ("bu", "Building"),
    "facility": ("si", "Site"),
}
"""Location.physicalType of each level of a place. The guide leaves the point of care open; `wa` is R4's code for a ward."""
