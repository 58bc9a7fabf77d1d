"""Bed capacity of one site as a FHIR R4 MeasureReport of US SAFR (`hl7.fhir.us.safr` 1.0.0), in a collection Bundle. Pure.

One group per count, each with a LOINC code and one initial population, as the guide's own example has it. Ids are derived:
the same counts of the same site and time make the same bytes.
"""

import uuid
from typing import Any, Final

import msgspec

from pipeline.domain.identifiers import Millis
from pipeline.domain.ward.capacity import CapacityCounts
from pipeline.formats.rfc3339 import rfc3339_of

MEASURE: Final = "http://hl7.org/fhir/us/safr/Measure/BedCapacityMeasure|1.0.0"
BUNDLE_PROFILE: Final = "http://hl7.org/fhir/us/safr/StructureDefinition/us-safr-measurereport-bundle"
ORGANIZATION_PROFILE: Final = "http://hl7.org/fhir/us/safr/StructureDefinition/us-safr-submitting-organization"
REPORT_PROFILE: Final = "http://hl7.org/fhir/us/davinci-deqm/StructureDefinition/indv-measurereport-deqm"
SCORING: Final = "http://hl7.org/fhir/us/davinci-deqm/StructureDefinition/extension-measureScoring"
LOINC: Final = "http://loinc.org"
_TERMS: Final = "http://terminology.hl7.org/CodeSystem"
_IDS: Final = uuid.UUID("6f1b4f5e-53e5-5ad4-8f0e-2d5c5f0a7c11")
"""Name space of our derived ids."""

GROUPS: Final[tuple[tuple[str, str, str], ...]] = (
    ("112579-8", "all_occupied", "All inpatient beds occupied"),
    ("112578-0", "all_unoccupied", "All inpatient beds unoccupied"),
    ("112575-6", "adult_icu_occupied", "Adult ICU beds occupied"),
    ("112574-9", "adult_icu_unoccupied", "Adult ICU beds unoccupied"),
    ("112508-7", "ed_patients", "Emergency department patients"),
    ("112507-9", "ed_admitted", "Emergency department patients who are admitted"),
    ("112525-1", "surge_occupied", "Active surge beds occupied"),
    ("112524-4", "surge_unoccupied", "Active surge beds unoccupied"),
    ("112523-6", "surge_inactive", "Inactive surge beds"),
)
"""LOINC code, the count that it stands for, and what it means in our words."""


def safr_bundle(facility: str, counts: CapacityCounts, start: Millis, as_of: Millis) -> bytes:
    """The report of one site for the period from `start` to `as_of`, up to which the counts are complete. No patient data."""
    organization, location, report = (_id(facility, kind) for kind in ("organization", "location", f"report {start} {as_of}"))
    bundle = {
        "resourceType": "Bundle",
        "id": _id(facility, f"bundle {start} {as_of}"),
        "meta": {"profile": [BUNDLE_PROFILE]},
        "type": "collection",
        "timestamp": rfc3339_of(as_of),
        "entry": [
            _entry(organization, _organization(organization, facility)),
            _entry(location, _location(location, organization, facility)),
            _entry(report, _report(report, organization, location, counts, start, as_of)),
        ],
    }
    return msgspec.json.format(msgspec.json.encode(bundle), indent=2) + b"\n"


def _organization(own: str, facility: str) -> dict[str, Any]:
    return {
        "resourceType": "Organization",
        "id": own,
        "meta": {"profile": [ORGANIZATION_PROFILE]},
        "identifier": [{"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{own}"}],
        "active": True,
        "type": [{"coding": [{"system": f"{_TERMS}/organization-type", "code": "prov", "display": "Healthcare Provider"}]}],
        "name": facility,
    }


def _location(own: str, organization: str, facility: str) -> dict[str, Any]:
    return {
        "resourceType": "Location",
        "id": own,
        "status": "active",
        "name": facility,
        "mode": "instance",
        "managingOrganization": {"reference": f"urn:uuid:{organization}"},
    }


def _report(own: str, organization: str, location: str, counts: CapacityCounts, start: Millis, as_of: Millis) -> dict[str, Any]:
    scoring = {"coding": [{"system": f"{_TERMS}/measure-scoring", "code": "continuous-variable"}]}
    return {
        "resourceType": "MeasureReport",
        "id": own,
        "meta": {"profile": [REPORT_PROFILE]},
        "extension": [{"url": SCORING, "valueCodeableConcept": scoring}],
        "status": "complete",
        "type": "individual",
        "measure": MEASURE,
        "subject": {"reference": f"urn:uuid:{location}"},
        "date": rfc3339_of(as_of),
        "reporter": {"reference": f"urn:uuid:{organization}"},
        "period": {"start": rfc3339_of(start), "end": rfc3339_of(as_of)},
        "improvementNotation": {"coding": [{"system": f"{_TERMS}/measure-improvement-notation", "code": "increase"}]},
        "group": [_group(code, name, text, getattr(counts, name)) for code, name, text in GROUPS],
    }


def _group(code: str, name: str, text: str, count: int) -> dict[str, Any]:
    label = name.replace("_", "-")
    population = {"coding": [{"system": f"{_TERMS}/measure-population", "code": "initial-population"}]}
    return {
        "id": label,
        "code": {"coding": [{"system": LOINC, "code": code}], "text": text},
        "population": [{"id": f"{label}-population", "code": population, "count": count}],
    }


def _entry(own: str, resource: dict[str, Any]) -> dict[str, Any]:
    return {"fullUrl": f"urn:uuid:{own}", "resource": resource}


def _id(facility: str, what: str) -> str:
    return str(uuid.uuid5(_IDS, f"{len(facility)} {facility} {what}"))
