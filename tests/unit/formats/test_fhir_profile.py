"""Profiles of EHRs: all that is wrong is said at once, and an owner is never written what it owns."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.destinations.fhir.profile import PROFILES, InvalidProfile, load_profile
from pipeline.domain.event import EntityType
from pipeline.formats.fhir.profile import FIELDS, OWNER_FIELDS, Profile
from pipeline.formats.fhir.profile_rules import ProfileProblems, parse_profile


def document(name: str = "sekmet-replica") -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((PROFILES / f"{name}.yaml").read_text())
    return loaded


def problems_of(changed: dict[str, Any]) -> tuple[str, ...]:
    parsed = parse_profile(changed)
    assert isinstance(parsed, ProfileProblems)
    return parsed.problems


@pytest.mark.parametrize("path", sorted(PROFILES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_profile_that_we_ship_is_valid(path: Path) -> None:
    assert isinstance(load_profile(path), Profile)


def test_the_profiles_by_name_have_the_roles_that_they_say() -> None:
    assert (load_profile("sekmet-owner").role, load_profile("sekmet-replica").role) == ("owner", "replica")


@pytest.mark.parametrize(
    ("entity_type", "field"),
    [
        (entity_type, field)
        for entity_type, fields in FIELDS.items()
        for field in fields
        if field not in OWNER_FIELDS[entity_type]
    ],
)
def test_an_owner_is_refused_each_field_that_it_owns(entity_type: EntityType, field: str) -> None:
    changed = document("sekmet-owner")
    changed["references"].pop(entity_type.value, None)
    changed["resources"][entity_type.value] = {"system": "urn:x", "fields": [field]}
    assert any(f"{field} is the EHR's own" in problem for problem in problems_of(changed))


def test_an_owner_makes_its_own_encounters() -> None:
    changed = document("sekmet-owner")
    del changed["references"]["encounter"]
    changed["resources"]["encounter"] = {"system": "urn:x", "fields": ["pending_location"], "create": "put-client-id"}
    assert any("makes its own encounter" in problem for problem in problems_of(changed))


def test_all_problems_are_listed_at_once() -> None:
    changed = document() | {"role": "friend", "fence": 7, "colour": "blue"}
    changed["resources"]["bed"]["create"] = "sometimes"
    changed["resources"]["spaceship"] = {"system": "urn:y", "fields": []}
    changed["resources"]["encounter"]["fields"].append("mood")
    changed["resources"]["staffing"] = {"system": "urn:s", "fields": ["unit"]}
    changed["resources"]["procedure"]["statuses"] = {"status": {"codes": {"booked": "planned"}}}
    changed["extensions"] = {"bed-colour": "urn:c"}
    changed["headers"] = {"Cookie": "x"}
    del changed["places"]
    found = "\n".join(problems_of(changed))
    for place in (
        "role:", "fence:", "colour: unknown", "resources.bed:", "spaceship", "places: missing", "mood has no FHIR form",
        "no place for staffing", "'planned' is not a code", "extensions.bed-colour", "headers.Cookie",
    ):  # fmt: skip
        assert place in found


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"version": 2}, "version: 2 isn't 1"),
        ({"headers": {"Authorization": "Bearer x"}}, "headers.Authorization: a secret"),
        ({"patient_identifiers": None}, "patient_identifiers: needed"),
        ({"patient_identifiers": {"system": "urn:x"}}, "no {authority} in it"),
        ({"places": {"system": "here"}}, "places.system: not an absolute URI"),
        ({"places": {"system": "urn:p", "levels": ["room", "room"]}}, "a level twice"),
        ({"places": {"system": "urn:p", "bed_id": ["room"]}}, "the bed itself is missing"),
        ({"places": {"system": "https://surgeline.dev/fhir/id/{tenant}/bed"}}, "the same system as"),
        ({"references": {"bed": {"system": "urn:b"}}}, "named by resources.bed already"),
    ],
)
def test_a_profile_that_contradicts_itself_is_refused(change: dict[str, Any], problem: str) -> None:
    assert any(problem in found for found in problems_of(document() | change))


@pytest.mark.parametrize("reservation", ["extension", "pending-location"])
def test_a_promise_needs_the_field_that_carries_it(reservation: str) -> None:
    changed = document() | {"reservation": reservation}
    changed["resources"]["bed"]["fields"].remove("allocation")
    changed["resources"]["encounter"]["fields"].remove("pending_location")
    assert any(f"reservation: {reservation} needs" in problem for problem in problems_of(changed))


def test_a_type_or_field_without_a_fhir_form_is_refused() -> None:
    changed = document()
    changed["resources"]["bed"]["fields"].append("colour")
    changed["resources"]["staffing"] = {"system": "urn:s", "fields": ["unit"]}
    found = "\n".join(problems_of(changed))
    assert "colour has no FHIR form" in found
    assert "staffing: an EHR has no place for staffing; leave it out" in found


@pytest.mark.parametrize("entity_type", ["staffing", "diversion"])
@pytest.mark.parametrize("name", ["sekmet-owner", "sekmet-replica"])
def test_what_an_ehr_has_no_place_for_is_refused_with_what_to_do(entity_type: str, name: str) -> None:
    changed = document(name)
    changed["resources"][entity_type] = {"system": "urn:s", "fields": ["unit"]}
    assert f"resources.{entity_type}: an EHR has no place for {entity_type}; leave it out, it goes to no EHR" in problems_of(
        changed
    )


def test_an_owner_is_told_of_transfers_and_makes_its_own_appointments() -> None:
    changed = document("sekmet-owner")
    assert EntityType.TRANSFER in load_profile("sekmet-owner").resources
    changed["resources"]["procedure"] = {
        "system": "urn:x",
        "fields": ["status", "start", "end", "place"],
        "create": "put-client-id",
    }
    found = "\n".join(problems_of(changed))
    assert "makes its own procedure resources" in found
    assert "resources.procedure.fields: status is the EHR's own" in found


@pytest.mark.parametrize(
    ("entity_type", "statuses", "problem"),
    [
        ("bed", {"colour": {}}, "statuses.colour: no status"),
        ("bed", {"operational_status": {"codes": {"X": "H"}}}, "codes.X: no code of ours in Location.operationalStatus"),
        ("bed", {"operational_status": {"codes": {"K": " "}}}, "codes.K: no code"),
        ("bed", {"operational_status": {"system": "beds"}}, "operational_status.system: not an absolute URI"),
        ("encounter", {"status": {"codes": {"triaged": "seen"}}}, "'seen' is not a code that R4 allows in Encounter.status"),
        ("encounter", {"status": {"system": "urn:s"}}, "Encounter.status is a plain code and has no system"),
        ("transfer", {"stage": {"codes": {"LOST": "L"}}}, "codes.LOST: no code of ours in Task.businessStatus"),
        (
            "procedure",
            {"status": {"codes": {"booked": "planned"}}},
            "'planned' is not a code that R4 allows in Appointment.status",
        ),
    ],
)
def test_a_map_of_statuses_names_codes_that_exist_on_both_sides(entity_type: str, statuses: dict[str, Any], problem: str) -> None:
    changed = document()
    changed["resources"][entity_type]["statuses"] = statuses
    assert any(problem in found for found in problems_of(changed))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"extensions": {"bed-colour": "urn:c"}}, "extensions.bed-colour: no extension of ours"),
        ({"extensions": {"bed-surge": "surge"}}, "extensions.bed-surge: not an absolute URI"),
        ({"extensions": {"bed-surge": "urn:x", "bed-staffed": "urn:x"}}, "the same URL as"),
        ({"episodes": None}, "episodes: needed, because resources.encounter.fields names episode"),
        ({"episodes": {"system": "https://surgeline.dev/fhir/id/{tenant}/bed"}}, "the same system as"),
        ({"revision": "none", "fence": "none"}, "revision: none needs fence if-match"),
        ({"limits": {"rate_per_s": 0}}, "limits:"),
        ({"limits": {"concurrency": -1}}, "limits:"),
        ({"authorisation": ["password"]}, "authorisation:"),
        ({"revision": "header"}, "revision:"),
    ],
)
def test_a_profile_that_promises_what_it_cannot_keep_is_refused(change: dict[str, Any], problem: str) -> None:
    assert any(problem in found for found in problems_of(document() | change))


@pytest.mark.parametrize("path", ["/R4", "R4/", "a//b", "a b", "https://x", "a?b"])
def test_a_base_path_is_segments_below_the_base_address(path: str) -> None:
    changed = document()
    changed["resources"]["bed"]["base_path"] = path
    assert any(found.startswith("resources.bed") for found in problems_of(changed))


@pytest.mark.parametrize(
    ("entity_type", "without", "problem"),
    [
        ("procedure", {"end"}, "status, start and end go out together"),
        ("procedure", {"patient", "place"}, "patient or place is needed"),
        ("procedure", {"status", "start", "end"}, "reason needs status"),
        ("transfer", {"requested_at"}, "last_modified needs requested_at"),
    ],
)
def test_elements_that_r4_binds_together_go_out_together(entity_type: str, without: set[str], problem: str) -> None:
    changed = document()
    fields = changed["resources"][entity_type]["fields"]
    changed["resources"][entity_type]["fields"] = [field for field in fields if field not in without]
    assert any(problem in found for found in problems_of(changed))


def test_start_up_is_told_all_problems_and_not_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("version: 2\nrole: owner\n")
    (tmp_path / "worse.yaml").write_text("{")
    with pytest.raises(InvalidProfile, match="places: missing"):
        load_profile(tmp_path / "bad.yaml")
    with pytest.raises(InvalidProfile, match="is no YAML"):
        load_profile(tmp_path / "worse.yaml")
    with pytest.raises(InvalidProfile, match="can't be read"):
        load_profile("nowhere")


@pytest.mark.parametrize(
    ("bundle", "fence", "problem"),
    [
        ({"entries": 1}, "if-match", "bundle.entries: not from 2 to 500"),
        ({"entries": 501}, "if-match", "bundle.entries: not from 2 to 500"),
        ({"entries": 50, "bytes": 10}, "if-match", "bundle.bytes: not from 16384 to 4000000"),
        ({"entries": 50}, "none", "bundle: needs a fence"),
    ],
)
def test_bundles_have_a_size_and_a_fence(bundle: dict[str, Any], fence: str, problem: str) -> None:
    assert problem in problems_of(document() | {"bundle": bundle, "fence": fence})


def test_without_a_word_of_bundles_there_are_none() -> None:
    assert load_profile("sekmet-owner").bundle is None


@pytest.mark.parametrize(
    ("codes", "theirs", "ours"),
    [
        ({}, "K", "K"),
        ({"K": "H"}, "H", "H"),
        ({"K": "X", "I": "X"}, "X", "K"),
        ({"K": "I", "I": "K"}, "I", "K"),
        ({"K": "X"}, "X", "K"),
    ],
)
def test_a_code_of_the_ehr_means_the_one_of_ours_that_it_is_written_like(codes: dict[str, str], theirs: str, ours: str) -> None:
    changed = document()
    changed["resources"]["bed"]["statuses"] = {"operational_status": {"codes": codes}}
    profile = parse_profile(changed)
    assert isinstance(profile, Profile)
    assert profile.codes_of(EntityType.BED, "operational_status", "CHOUKI")[theirs] == ours
