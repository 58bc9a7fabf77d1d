"""What we build is valid FHIR R4, by the published models and by the code tables and reference targets that these don't check."""

import json
import re
from pathlib import Path
from typing import Final

import pytest
from msgspec import structs

from pipeline.destinations.fhir.profile import load_profile
from pipeline.domain.bed import BedStatusCode
from pipeline.domain.event import (
    Bed,
    BedOccupancy,
    Encounter,
    EncounterStatus,
    EntityType,
    Environment,
    Name,
    Occupancy,
    Patient,
    PatientClass,
    Payload,
    Place,
    Service,
    ServiceStatus,
)
from pipeline.domain.identifiers import Millis
from pipeline.formats.fhir.document import render
from pipeline.formats.fhir.location import operational_status
from pipeline.formats.fhir.naming import Ident, Naming
from pipeline.formats.fhir.owned import Body, apply_owned
from pipeline.formats.fhir.profile import FIELDS
from pipeline.formats.fhir.resources import RESOURCES
from pipeline.formats.fhir.samples import SAMPLES
from pipeline.formats.fhir.times import same_moment
from pipeline.formats.hl7v2.datatypes import bed_id
from pipeline.formats.rfc3339 import rfc3339_of
from tests.support.fhir_checks import check

REPOSITORY: Final = Path(__file__).resolve().parents[3]
NAMING: Final = Naming(load_profile("sekmet-replica"), "t1", "MAIN")


def built(state: Payload, current: Body | None = None, naming: Naming = NAMING) -> Body:
    entity_type = next(item for item in RESOURCES if isinstance(state, type(SAMPLES[item])))
    resource, ident = RESOURCES[entity_type], naming.entity(entity_type, "MAIN", "x")
    body = current if current is not None else resource.created(state, naming)
    return apply_owned(body, resource.desired(state, ident, naming, body))


@pytest.mark.parametrize("entity_type", RESOURCES)
def test_a_full_state_makes_a_valid_resource(entity_type: EntityType) -> None:
    check(built(SAMPLES[entity_type]))


@pytest.mark.parametrize("entity_type", RESOURCES)
def test_an_empty_state_makes_a_valid_resource(entity_type: EntityType) -> None:
    check(built(type(SAMPLES[entity_type])()))


@pytest.mark.parametrize("entity_type", RESOURCES)
def test_a_resource_stays_valid_when_everything_is_cleared(entity_type: EntityType) -> None:
    state = SAMPLES[entity_type]
    cleared = type(state)(**dict.fromkeys(structs.asdict(state)))
    check(built(cleared, built(state)))


@pytest.mark.parametrize("entity_type", RESOURCES)
def test_every_field_with_a_fhir_form_is_written_and_shown(entity_type: EntityType) -> None:
    resource, ident = RESOURCES[entity_type], NAMING.entity(entity_type, "MAIN", "x")
    desired = resource.desired(SAMPLES[entity_type], ident, NAMING, resource.created(SAMPLES[entity_type], NAMING))
    assert {owned.field for owned in desired} == set(FIELDS[entity_type])
    assert set(resource.shown({}, ident, NAMING)) == set(FIELDS[entity_type])


@pytest.mark.parametrize("status", EncounterStatus)
@pytest.mark.parametrize("patient_class", PatientClass)
def test_every_status_and_class_is_a_code_of_r4(status: EncounterStatus, patient_class: PatientClass) -> None:
    state = structs.replace(SAMPLES[EntityType.ENCOUNTER], status=status, patient_class=patient_class)
    check(built(state))


def test_every_code_of_table_0116_has_its_system_and_display() -> None:
    for code in BedStatusCode:
        coding = operational_status(code, NAMING)
        assert coding["system"] == "http://terminology.hl7.org/CodeSystem/v2-0116"
        assert coding["display"] == code.doc.capitalize()


@pytest.mark.parametrize(
    ("service", "status"),
    [(ServiceStatus.OPEN, "active"), (ServiceStatus.BLOCKED, "suspended"), (ServiceStatus.CLOSED, "inactive")],
)
def test_service_is_the_status_of_the_location(service: ServiceStatus, status: str) -> None:
    assert built(Bed(service=Service(service)))["status"] == status


def test_a_code_that_is_no_longer_known_is_withdrawn() -> None:
    shown = built(Bed(occupancy=BedOccupancy(Occupancy.VACANT), environment=Environment.CLEAN))
    assert "operationalStatus" in shown
    assert "operationalStatus" not in built(Bed(occupancy=BedOccupancy(Occupancy.UNKNOWN), environment=None), shown)
    assert built(Bed(staffed=True), shown)["operationalStatus"] == shown["operationalStatus"]


def test_a_place_names_its_bed_as_every_way_in_does() -> None:
    for place in (Place("F", "B", "3", "ICU", "12", "A"), Place(point_of_care="I/C%U", bed="A"), Place("F", bed="B")):
        name = bed_id(place)
        assert name is not None
        assert NAMING.innermost(place) == NAMING.entity(EntityType.BED, place.facility or "MAIN", name)


def test_places_of_two_sites_have_two_names() -> None:
    here, there = (NAMING.innermost(Place(facility, point_of_care="ICU", room="12")) for facility in ("A", "B"))
    assert here != there


def test_a_separator_in_a_name_makes_no_two_names_equal() -> None:
    assert NAMING.entity(EntityType.BED, "a/b", "c") != NAMING.entity(EntityType.BED, "a", "b/c")
    assert Ident("s", "a|b").token() != Ident("s|a", "b").token()


def test_a_namespace_with_a_system_of_its_own_goes_out_bare() -> None:
    profile = NAMING.profile
    patient = structs.replace(profile.resources[EntityType.PATIENT], authorities={"HOSP": "urn:oid:1.2"})
    naming = Naming(structs.replace(profile, resources={**profile.resources, EntityType.PATIENT: patient}), "t1", "MAIN")
    assert naming.entity(EntityType.PATIENT, "HOSP", "4711") == Ident("urn:oid:1.2", "4711")
    assert naming.entity(EntityType.PATIENT, "MAIN", "4711").value == "MAIN/4711"


def test_two_tenants_never_share_an_identifier() -> None:
    other = Naming(NAMING.profile, "t2", "MAIN")
    for entity_type in RESOURCES:
        assert other.entity(entity_type, "MAIN", "x") != NAMING.entity(entity_type, "MAIN", "x")


def test_a_finished_stay_is_nowhere() -> None:
    stay = Encounter(location=Place(bed="A"), pending_location=Place(bed="B"), status=EncounterStatus.IN_PROGRESS)
    over = Encounter(location=Place(bed="A"), pending_location=Place(bed="B"), status=EncounterStatus.FINISHED)
    assert [item["status"] for item in built(stay)["location"]] == ["active", "reserved"]
    assert [item["status"] for item in built(over, built(stay))["location"]] == ["completed"]


def test_a_stay_that_ends_before_it_begins_has_no_end() -> None:
    odd = built(Encounter(admitted_at=Millis(2_000), discharged_at=Millis(1_000)))
    assert odd["period"] == {"start": "1970-01-01T00:00:02.000Z"}
    assert built(Encounter(admitted_at=Millis(500), discharged_at=Millis(1_000)), odd)["period"].keys() == {"start", "end"}


def test_a_cleared_code_leaves_no_empty_shell_and_spares_the_codes_of_others() -> None:
    stay = built(Encounter(service="MED", disposition="01"))
    cleared = built(Encounter(service=None, disposition=None), stay)
    assert ("serviceType" in cleared, "hospitalization" in cleared) == (False, False)
    stay["serviceType"]["coding"].append({"system": "urn:other", "code": "7"})
    assert built(Encounter(service=None), stay)["serviceType"] == {"coding": [{"system": "urn:other", "code": "7"}]}


def test_an_arrival_ends_the_promise_of_the_same_bed() -> None:
    promised = built(Encounter(location=Place(bed="A"), pending_location=Place(bed="B")))
    arrived = built(Encounter(location=Place(bed="B"), prior_location=Place(bed="A"), pending_location=None), promised)
    shown = {item["location"]["identifier"]["value"][-1]: item["status"] for item in arrived["location"]}
    assert shown == {"A": "completed", "B": "active"}


def test_a_promised_bed_that_an_owner_shows_as_taken_is_left_alone() -> None:
    profile = NAMING.profile
    only = structs.replace(profile.resources[EntityType.ENCOUNTER], fields=("pending_location",), create="never")
    naming = Naming(structs.replace(profile, resources={**profile.resources, EntityType.ENCOUNTER: only}), "t1", "MAIN")
    theirs = built(Encounter(location=Place(bed="B")))
    resource, ident = RESOURCES[EntityType.ENCOUNTER], naming.entity(EntityType.ENCOUNTER, "MAIN", "x")
    desired = resource.desired(Encounter(pending_location=Place(bed="B")), ident, naming, theirs)
    assert [owned for owned in desired if owned.field == "pending_location"] == []


def test_a_time_of_death_says_more_than_ours_and_yields_to_its_denial() -> None:
    dead = {"resourceType": "Patient", "deceasedDateTime": "2024-01-02"}
    assert built(Patient(deceased=True), dead)["deceasedDateTime"] == "2024-01-02"
    assert "deceasedBoolean" not in built(Patient(deceased=True), dead)
    denied = built(Patient(deceased=False), dead)
    assert (denied.get("deceasedDateTime"), denied["deceasedBoolean"]) == (None, False)


def test_a_merge_that_is_taken_back_makes_the_patient_active_again() -> None:
    merged = built(SAMPLES[EntityType.PATIENT])
    restored = built(Patient(merged_into=None), merged)
    assert (restored["active"], restored.get("link")) == (True, None)
    assert "active" not in built(Patient(merged_into=None))


def test_an_identifier_under_a_real_authority_is_never_taken_away() -> None:
    systems = structs.replace(NAMING.profile.patient_identifiers, authorities={"SSA": "urn:oid:9"})  # type: ignore[type-var]
    naming = Naming(structs.replace(NAMING.profile, patient_identifiers=systems), "t1", "MAIN")
    theirs = {"resourceType": "Patient", "identifier": [{"system": "urn:oid:9", "value": "older"}]}
    body = built(Patient(identifiers=()), theirs, naming)
    assert body["identifier"][0] == {"system": "urn:oid:9", "value": "older"}


def test_a_given_name_that_changes_takes_no_extension_of_the_old_one_along() -> None:
    theirs = {
        "resourceType": "Patient",
        "name": [{"use": "official", "given": ["Ann"], "_given": [{"id": "a"}], "prefix": ["Dr"]}],
    }
    assert built(Patient(name=Name("Doe", "Ann")), theirs)["name"][0]["_given"] == [{"id": "a"}]
    changed = built(Patient(name=Name("Doe", "Bea")), theirs)["name"][0]
    assert ("_given" in changed, changed["prefix"]) == (False, ["Dr"])


@pytest.mark.parametrize("millis", [0, 1, 999, 1_700_000_000_123, -1, -62_135_596_800_000, 253_402_300_799_999])
def test_a_moment_is_written_to_the_millisecond(millis: int) -> None:
    text = rfc3339_of(millis)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    assert same_moment(text) == millis


def test_the_same_moment_in_another_spelling_is_equal() -> None:
    assert same_moment("2024-01-02T03:04:05+02:00") == same_moment("2024-01-02T01:04:05.000Z")
    assert same_moment("2024-01-02") == "2024-01-02"


@pytest.mark.parametrize(("millis", "year"), [(10**18, "9999"), (-(10**18), "0001")])
def test_a_time_outside_the_calendar_that_a_head_holds_parks_no_stay(millis: int, year: str) -> None:
    told = built(Encounter(admitted_at=Millis(millis)))
    assert year in json.dumps(told)


def test_the_page_of_the_mapping_is_current() -> None:
    page = REPOSITORY / "docs" / "mapping" / "fhir.md"
    assert page.read_text(encoding="utf-8") == render(), "run: python -m pipeline.formats.fhir.document > docs/mapping/fhir.md"
