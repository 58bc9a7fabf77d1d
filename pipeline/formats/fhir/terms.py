"""Names that others defined: code systems, and our own extensions; the tables behind them."""

from typing import Final

from pipeline.domain.event import EncounterStatus, PatientClass, ServiceStatus, Sex

TERMINOLOGY: Final = "http://terminology.hl7.org/CodeSystem/"
BED_STATUS: Final = TERMINOLOGY + "v2-0116"
PHYSICAL_TYPE: Final = TERMINOLOGY + "location-physical-type"
ACT_CODE: Final = TERMINOLOGY + "v3-ActCode"
PATIENT_CLASS: Final = TERMINOLOGY + "v2-0004"
HOSPITAL_SERVICE: Final = TERMINOLOGY + "v2-0069"
DISCHARGE_DISPOSITION: Final = TERMINOLOGY + "v2-0112"
IDENTIFIER_TYPE: Final = TERMINOLOGY + "v2-0203"

LOCATION_CLASSIFICATION: Final = "http://hl7.org/fhir/StructureDefinition/subject-locationClassification"
LOCATION_CLASS_SYSTEM: Final = "http://hl7.org/fhir/ValueSet/subject-location"
"""As the v2-to-FHIR guide marks PV1-11, a temporary location."""

OURS: Final = "https://surgeline.dev/fhir/StructureDefinition/"
REVISION: Final = OURS + "revision"
BED_EXTENSION: Final = OURS + "bed-"
ENCOUNTER_EXTENSION: Final = OURS + "encounter-"

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
