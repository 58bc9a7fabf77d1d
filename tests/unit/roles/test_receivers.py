"""Receivers of HL7 v2 from settings: what may start, what may not, and what is expected at each destination."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.domain.event import Bed, BedOccupancy, EntityType, Environment, Occupancy, Patient, Place
from pipeline.roles.process import Refused, specs_of
from pipeline.roles.writers.profiles import entity_types_of, expected_at, out_profile_for, types_at
from pipeline.roles.writers.receivers import receiver_of
from pipeline.settings.model import Settings
from pipeline.settings.reading import SettingsError, load
from pipeline.topology import writer_changelog
from tests.support.certificates import Authority
from tests.unit.formats.test_hl7_out import PROFILES, record


def settings(folder: Path, demo: bool = True, **receiver: Any) -> Settings:
    section = {"host": "127.0.0.1", "port": 2575, "profile": "replica", "role": "replica", "data_dir": "data/adt", **receiver}
    ehr = {"base_url": "http://127.0.0.1/fhir", "profile": "sekmet-replica", "role": "replica", "data_dir": "data/ehr"}
    path = folder / "surgeline.yaml"
    path.write_text(yaml.safe_dump({"demo": demo, "writers": {"ehr": ehr}, "hl7_out": {"adt": section}}))
    return load(path, role="writer-adt")


def problems(folder: Path, **receiver: Any) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        settings(folder, **receiver)
    return {problem.setting: str(problem) for problem in caught.value.problems}


def test_a_receiver_is_a_destination_with_a_changelog_of_its_own(tmp_path: Path) -> None:
    found = settings(tmp_path)
    assert found.destinations == ("adt", "ehr")
    assert {writer_changelog("adt"), writer_changelog("ehr")} <= {spec.name for spec in specs_of(found)}


def test_patient_data_never_leaves_this_machine_in_clear_text(tmp_path: Path) -> None:
    assert "clear text" in problems(tmp_path, demo=False, host="adt.example.org")["hl7_out.adt.tls"]
    assert "hl7_out.adt.tls" not in problems(tmp_path, demo=False, host="adt.example.org", tls=True)
    (tmp_path / "ca.pem").write_bytes(Authority().certificate)
    assert "certificates are named" in problems(tmp_path, ca_file="ca.pem")["hl7_out.adt.tls"]


def test_a_certificate_without_its_key_and_a_folder_of_another_table_are_refused(tmp_path: Path) -> None:
    (tmp_path / "own.pem").write_bytes(Authority().issue("own").certificate)
    assert "hl7_out.adt.key_file" in problems(tmp_path, tls=True, cert_file="own.pem")
    assert "two tables would mix" in problems(tmp_path, data_dir="data/ehr")["hl7_out.adt.data_dir"]


def test_two_destinations_never_have_one_name(tmp_path: Path) -> None:
    path = tmp_path / "surgeline.yaml"
    found = settings(tmp_path)
    document = yaml.safe_load(path.read_text())
    document["writers"]["adt"] = document["writers"].pop("ehr")
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(SettingsError, match="has the same name"):
        load(path, role="writer-adt")
    assert found.hl7_out["adt"].port == 2575


def test_an_owner_is_never_told_what_it_owns(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="role is owner, but the profile replica is for an replica"):
        out_profile_for("adt", settings(tmp_path, role="owner").hl7_out["adt"])
    greedy = tmp_path / "greedy.yaml"
    greedy.write_text((PROFILES / "replica.yaml").read_text().replace("role: replica", "role: owner"))
    with pytest.raises(Refused, match="an owner is never told what it owns: encounter, patient, procedure"):
        out_profile_for("adt", settings(tmp_path, role="owner", profile=str(greedy)).hl7_out["adt"])
    owner = out_profile_for("adt", settings(tmp_path, role="owner", profile="owner").hl7_out["adt"])
    assert set(owner.sends) == {EntityType.BED}


def test_a_profile_that_is_missing_or_wrong_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"hl7_out.adt.profile: profile nobody.yaml"):
        out_profile_for("adt", settings(tmp_path, profile="nobody").hl7_out["adt"])


def test_certificates_that_make_no_tls_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(Refused, match="make no TLS"):
        receiver_of("adt", settings(tmp_path, tls=True, ca_file="ca.pem").hl7_out["adt"])


def test_of_each_destination_is_expected_what_it_can_be_told(tmp_path: Path) -> None:
    found = settings(tmp_path)
    assert types_at(found)["adt"] == {EntityType.BED, EntityType.ENCOUNTER, EntityType.PATIENT, EntityType.PROCEDURE}
    assert types_at(found)["ehr"] == entity_types_of("ehr", found.writers["ehr"])
    due = expected_at(found)["adt"]
    assert due(record(Bed(environment=Environment.DIRTY)))
    assert due(record(Patient(), entity_id="P"))
    assert not due(record(Bed(place=Place(bed="A"), telemetry=True))), "nothing that HL7 v2 has a word for"
    owner = expected_at(settings(tmp_path, role="owner", profile="owner"))["adt"]
    assert owner(record(Bed(occupancy=BedOccupancy(Occupancy.VACANT))))
    assert not owner(record(Patient(), entity_id="P"))
