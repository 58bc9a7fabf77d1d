"""Resources as an EHR holds them: as our writer left them, or as the EHR itself writes them."""

from typing import Any

from pipeline.destinations.fhir.profile import load_profile
from pipeline.domain.event import (
    Bed,
    BedOccupancy,
    EntityType,
    Event,
    Occupancy,
    Payload,
    Place,
    Reference,
    StageState,
    Transfer,
    TransferKind,
    TransferStage,
)
from pipeline.domain.identifiers import Millis, Revision, revision_of
from pipeline.formats.fhir.inbound import Mapped, Origin, Rejected, Verdict, events_of
from pipeline.formats.fhir.naming import Naming
from pipeline.formats.fhir.owned import Body, apply_owned
from pipeline.formats.fhir.profile import Profile
from pipeline.formats.fhir.resources import RESOURCES
from pipeline.formats.fhir.revision import IN_EXTENSION, mark_of
from pipeline.formats.fhir.terms import BED_STATUS

KEY = b"digest key of the tests"
TENANT, FACILITY = "demo", "MAIN"
ORIGIN = Origin(TENANT, FACILITY, "ehr", "fhir")
OWNER, REPLICA = load_profile("sekmet-owner"), load_profile("sekmet-replica")
UPDATED = "2026-01-31T08:00:00.000Z"
UPDATED_MS = Millis(1_769_846_400_000)
RECEIVED_MS = Millis(UPDATED_MS + 1_500)
REVISION: Revision = revision_of(1, 7)
BED_ID = "ICU/12/A"

BEDS = "https://surgeline.dev/fhir/id/demo/bed"
PLACES = "https://surgeline.dev/fhir/id/demo/place"
STAYS = "https://surgeline.dev/fhir/id/demo/encounter"
PEOPLE = "https://surgeline.dev/fhir/id/demo/patient"
ACT_CODE = "http://terminology.hl7.org/CodeSystem/v3-ActCode"


def written(profile: Profile, entity_type: EntityType, state: Payload, entity_id: str = BED_ID) -> Body:
    """The resource as our writer makes it, mark included, at a server that gave it an id and a version."""
    naming = Naming(profile, TENANT, FACILITY)
    resource = RESOURCES[entity_type]
    ident = naming.entity(entity_type, FACILITY, entity_id)
    start = resource.created(state, naming)
    fields = profile.fields_of(entity_type) | resource.structural
    desired = [owned for owned in resource.desired(state, ident, naming, start) if owned.field in fields]
    body = apply_owned(start, desired)
    names = {owned.field for owned in desired}
    shown = {name: value for name, value in resource.shown(body, ident, naming).items() if name in names}
    return stored(IN_EXTENSION.put(body, mark_of(REVISION, "0123456789abcdef", shown, KEY)))


def stored(body: Body, version: str = "3") -> Body:
    """As the server shows it."""
    return {**body, "id": "r1", "meta": {"versionId": version, "lastUpdated": UPDATED}}


def unmarked(body: Body) -> Body:
    """Without any extension: as an EHR writes it that takes ours away."""
    return {name: value for name, value in body.items() if name != "extension"}


def read(body: Any, profile: Profile = OWNER, origin: Origin = ORIGIN, known: dict[str, Body] | None = None) -> Verdict:
    """What becomes of the resource."""
    return events_of(body, origin, profile, KEY, RECEIVED_MS, known or {})


def bed_identifier(value: str = "MAIN/" + BED_ID) -> Body:
    return {"system": BEDS, "value": value}


def location(**elements: Any) -> Body:
    """A bed of the EHR's own making."""
    return stored(
        {"resourceType": "Location", "identifier": [bed_identifier()], "status": "active", "mode": "instance"} | elements
    )


def at_bed(value: str = "MAIN/" + BED_ID) -> Body:
    """A logical reference to a bed."""
    return {"type": "Location", "identifier": bed_identifier(value)}


def encounter(**elements: Any) -> Body:
    """A stay of the EHR's own making, in bed ICU/12/A."""
    return stored(
        {
            "resourceType": "Encounter",
            "identifier": [{"system": STAYS, "value": "MAIN/V1"}],
            "status": "in-progress",
            "class": {"system": ACT_CODE, "code": "IMP"},
            "subject": {"type": "Patient", "identifier": {"system": PEOPLE, "value": "MAIN/P1"}},
            "period": {"start": "2026-01-30T20:00:00Z"},
            "location": [{"location": at_bed(), "status": "active"}],
        }
        | elements
    )


def patient(**elements: Any) -> Body:
    """A person of the EHR's own making."""
    return stored(
        {
            "resourceType": "Patient",
            "identifier": [{"system": PEOPLE, "value": "MAIN/P1"}],
            "name": [{"use": "official", "family": "FAMILY", "given": ["GIVEN", "SECOND"]}],
            "gender": "female",
            "birthDate": "1970-01-31",
        }
        | elements
    )


ICU_12_A = Place(facility="MAIN", point_of_care="ICU", room="12", bed="A")
STAY = Reference("MAIN", "V1")


def events(body: Body, profile: Profile = OWNER, **more: Any) -> tuple[Event, ...]:
    verdict = read(body, profile, **more)
    assert isinstance(verdict, Mapped), verdict
    return verdict.events


def only(body: Body, profile: Profile = OWNER, **more: Any) -> Event:
    (event,) = events(body, profile, **more)
    return event


def first(body: Body, profile: Profile = OWNER, **more: Any) -> Any:
    """Payload of the resource's own event."""
    return events(body, profile, **more)[0].payload


def refusal(body: Body, profile: Profile = OWNER, **more: Any) -> Rejected:
    verdict = read(body, profile, **more)
    assert isinstance(verdict, Rejected), verdict
    assert verdict.rule
    assert verdict.remedy
    return verdict


def coded(code: str) -> Body:
    return {"system": BED_STATUS, "code": code}


def beds_of(found: tuple[Event, ...]) -> list[tuple[str, Occupancy]]:
    return [
        (event.entity_id, event.payload.occupancy.status)
        for event in found
        if isinstance(event.payload, Bed) and isinstance(event.payload.occupancy, BedOccupancy)
    ]


def transfer_task() -> Body:
    state = Transfer(
        kind=TransferKind.INCOMING,
        stage=StageState(TransferStage.REQUESTED, None, UPDATED_MS),
        patient=Reference("MAIN", "P1"),
        destination=ICU_12_A,
        requested_at=Millis(UPDATED_MS - 60_000),
    )
    return written(OWNER, EntityType.TRANSFER, state, "T1")


def appointment(**elements: Any) -> Body:
    return stored(
        {
            "resourceType": "Appointment",
            "identifier": [{"system": "https://surgeline.dev/fhir/id/demo/procedure", "value": "MAIN/S1"}],
            "status": "booked",
            "start": "2026-02-01T08:00:00Z",
            "end": "2026-02-01T09:30:00Z",
            "participant": [
                {"actor": {"identifier": {"system": PEOPLE, "value": "MAIN/P1"}, "type": "Patient"}, "status": "accepted"},
                {"actor": at_bed(), "status": "accepted"},
                {"actor": {"reference": "Practitioner/d1"}, "status": "accepted"},
            ],
            "serviceType": [{"coding": [{"system": "http://ehr.example/services", "code": "KNEE"}]}],
        }
        | elements
    )
