"""`surgeline map` on FHIR files."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.domain.event import EntityType
from pipeline.formats.fhir.owned import Body
from pipeline.formats.fhir.samples import SAMPLES
from pipeline.roles.mapping import Ehr, ehr_of, map_file
from pipeline.roles.process import Refused
from pipeline.roles.ways_in.intake import hl7_profile
from tests.support.fhir_resources import BED_ID, KEY, RECEIVED_MS, encounter, location, patient, written


def ehr(key: Path | None = None, version: Any = "R4") -> Ehr:
    return ehr_of("sekmet-owner", "demo", "MAIN", "ehr", version, key)


def lines(folder: Path, document: object, of: Ehr | None = None) -> list[dict[str, Any]]:
    file = folder / "resources.json"
    file.write_text(json.dumps(document))
    return list(map_file(file, hl7_profile("default"), "demo", RECEIVED_MS, of or ehr()))


def bundle(*resources: Body) -> Body:
    entries = [{"fullUrl": f"urn:uuid:{each['id']}", "resource": each} for each in resources]
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}


def test_a_resource_is_mapped(tmp_path: Path) -> None:
    stay, bed = lines(tmp_path, encounter())
    assert (stay["entity_type"], stay["source_system"]) == ("encounter", "ehr")
    assert (bed["entity_id"], bed["payload"]["occupancy"]["status"]) == (BED_ID, "OCCUPIED")


def test_resources_of_a_bundle_refer_to_each_other(tmp_path: Path) -> None:
    stay = encounter(
        subject={"reference": "Patient/p1"}, location=[{"location": {"reference": "urn:uuid:l1"}, "status": "active"}]
    )
    found = lines(tmp_path, bundle(patient() | {"id": "p1"}, location() | {"id": "l1"}, stay))
    assert [line.get("entity_type") for line in found] == ["patient", "bed", "encounter", "bed"]


def test_what_is_refused_says_where_in_the_bundle(tmp_path: Path) -> None:
    (good, *_, refused) = lines(tmp_path, bundle(patient() | {"id": "p1"}, encounter(status="bogus")))
    assert good["entity_type"] == "patient"
    assert (refused["rejected"], refused["field"]) == ("UNKNOWN_CODE", "/0/entry/1/resource Encounter.status")
    assert "bogus" not in json.dumps(refused)


def test_what_is_ignored_says_why(tmp_path: Path) -> None:
    (ignored,) = lines(tmp_path, {"resourceType": "Observation"})
    assert ignored["ignored"] == "NOT_MAPPED"


def test_our_own_mark_needs_the_writers_key(tmp_path: Path) -> None:
    ours = written(ehr().profile, EntityType.BED, SAMPLES[EntityType.BED])
    (refused,) = lines(tmp_path, ours)
    assert refused["rejected"] == "NO_DIGEST_KEY"
    key = tmp_path / "key"
    key.write_bytes(KEY + b"\n")
    (echo,) = lines(tmp_path, ours, ehr(key))
    assert echo["ignored"] == "ECHO"


def test_json_events_are_still_events(tmp_path: Path) -> None:
    (line,) = lines(tmp_path, {"tenant": "demo"})
    assert line["rejected"] in ("required", "no-fields")


def test_files_of_another_version_than_the_profile_s_are_refused() -> None:
    with pytest.raises(Refused):
        ehr(version="R5")
    assert ehr_of("hapi-owner-r5", "demo", "MAIN", "ehr", "R5", None).profile.fhir == "R5"


@pytest.mark.parametrize(("profile", "key"), [("nosuch", None), ("sekmet-owner", Path("/nosuch/key"))])
def test_a_profile_or_key_that_is_not_there_is_refused(profile: str, key: Path | None) -> None:
    with pytest.raises(Refused):
        ehr_of(profile, "demo", "MAIN", "ehr", "R4", key)
