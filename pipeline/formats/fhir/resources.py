"""Entity types that have a FHIR form, each with its map."""

from typing import Final

from pipeline.domain.event import EntityType
from pipeline.formats.fhir.appointment import APPOINTMENT
from pipeline.formats.fhir.encounter import ENCOUNTER
from pipeline.formats.fhir.location import LOCATION
from pipeline.formats.fhir.patient import PATIENT
from pipeline.formats.fhir.resource import ResourceMap
from pipeline.formats.fhir.task import TASK

RESOURCES: Final[dict[EntityType, ResourceMap]] = {
    item.entity_type: item for item in (LOCATION, ENCOUNTER, PATIENT, TASK, APPOINTMENT)
}
