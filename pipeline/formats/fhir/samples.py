"""States of each type that state every field with a FHIR form, and a profile that lets everything out: what pages are made of."""

from typing import Final

from msgspec import structs

from pipeline.domain.event import (
    Allocation,
    AllocationStatus,
    Bed,
    BedOccupancy,
    Encounter,
    EncounterStatus,
    EntityType,
    Environment,
    Identifier,
    Name,
    Occupancy,
    Patient,
    PatientClass,
    Payload,
    Place,
    Procedure,
    ProcedureStatus,
    Reference,
    Service,
    ServiceStatus,
    Sex,
    StageState,
    Transfer,
    TransferKind,
    TransferStage,
)
from pipeline.domain.identifiers import Millis
from pipeline.formats.fhir.naming import Naming
from pipeline.formats.fhir.profile import FIELDS, PatientIdentifiers, PlaceProfile, Profile, ReferenceProfile, ResourceProfile

ALL: Final = Profile(
    version=1,
    role="replica",
    places=PlaceProfile("PLACES"),
    resources={entity_type: ResourceProfile(f"{entity_type.value.upper()}S", fields) for entity_type, fields in FIELDS.items()},
    patient_identifiers=PatientIdentifiers("{authority}"),
    episodes=ReferenceProfile("EPISODES"),
)
"""A profile that lets everything out."""

NAMING: Final = Naming(ALL, "TENANT", "FACILITY")
NAMING_R5: Final = Naming(structs.replace(ALL, fhir="R5"), "TENANT", "FACILITY")
_STAY: Final = Reference("AUTHORITY", "STAY")
_TIME: Final = Millis(0)

_BED: Final = Bed(
    occupancy=BedOccupancy(Occupancy.OCCUPIED, _STAY),
    environment=Environment.CLEAN,
    allocation=Allocation(AllocationStatus.RESERVED, _STAY, _TIME),
    service=Service(ServiceStatus.OPEN, "REASON", _TIME),
    staffed=True,
    licensed=True,
    surge=True,
    isolation=True,
    place=Place("FACILITY", "BUILDING", "FLOOR", "UNIT", "ROOM", "BED"),
    level_of_care="LEVEL",
    age_group="GROUP",
    negative_pressure=True,
    telemetry=True,
)
_ENCOUNTER: Final = Encounter(
    patient=Reference("AUTHORITY", "PERSON"),
    patient_class=PatientClass.INPATIENT,
    status=EncounterStatus.IN_PROGRESS,
    location=Place(point_of_care="UNIT", room="ROOM", bed="A"),
    prior_location=Place(point_of_care="UNIT", room="ROOM", bed="B"),
    temporary_location=Place(point_of_care="UNIT", room="ROOM", bed="C"),
    pending_location=Place(point_of_care="UNIT", room="ROOM", bed="D"),
    service="SERVICE",
    admitted_at=_TIME,
    admit_decision_at=_TIME,
    expected_discharge_at=_TIME,
    discharge_ordered_at=_TIME,
    discharged_at=_TIME,
    disposition="DISPOSITION",
    episode=Reference("AUTHORITY", "EPISODE"),
)
_PATIENT: Final = Patient(
    identifiers=(Identifier("OTHER", "NUMBER", "MR"),),
    name=Name("FAMILY", "GIVEN"),
    birth_date="1970-01-01",
    sex=Sex.FEMALE,
    deceased=False,
    merged_into=Reference("AUTHORITY", "SURVIVOR"),
)
_TRANSFER: Final = Transfer(
    kind=TransferKind.INCOMING,
    stage=StageState(TransferStage.REDIRECTED, "REASON", _TIME),
    patient=Reference("AUTHORITY", "PERSON"),
    encounter=_STAY,
    origin=Place(facility="ELSEWHERE", point_of_care="UNIT"),
    destination=Place(point_of_care="UNIT", room="ROOM", bed="BED"),
    service="SERVICE",
    requested_at=_TIME,
)
_PROCEDURE: Final = Procedure(
    status=ProcedureStatus.CANCELLED,
    start=_TIME,
    end=Millis(5_400_000),
    place=Place(point_of_care="UNIT", room="ROOM"),
    patient=Reference("AUTHORITY", "PERSON"),
    encounter=_STAY,
    service="SERVICE",
    reason="REASON",
)
SAMPLES: Final[dict[EntityType, Payload]] = {
    EntityType.BED: _BED,
    EntityType.ENCOUNTER: _ENCOUNTER,
    EntityType.PATIENT: _PATIENT,
    EntityType.TRANSFER: _TRANSFER,
    EntityType.PROCEDURE: _PROCEDURE,
}
"""A state of each type that states every field with a FHIR form."""
