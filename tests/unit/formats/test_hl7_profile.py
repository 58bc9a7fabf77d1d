"""Profiles: the files that ship are valid, a wrong one stops the start, and the page shows what the tables do."""

import fnmatch
import re
from pathlib import Path

import msgspec
import pytest
from msgspec import UNSET

from pipeline.domain.event import Encounter, Patient
from pipeline.formats.hl7v2.explain import render
from pipeline.formats.hl7v2.mapping import map_hl7
from pipeline.formats.hl7v2.origins import FIELDS
from pipeline.formats.hl7v2.profile_file import profile_of
from tests.support.hl7_samples import PROFILES, RECEIVED_AT, a20, adt, encounter, events_of, patient

PAGE = Path(__file__).resolve().parents[3] / "docs" / "mapping" / "adt.md"
GOOD = "version: '1'\nsource_system: EHR\nfeed: adt\nfacility: MAIN\ntime_zone: Europe/Berlin\n"
SAMPLE = {
    "PID-3": "4711^^^MAIN^MR",
    "PID-5": "DOE",
    "PID-7": "1975",
    "PID-8": "F",
    "PID-30": "Y",
    "PV1-2": "E",
    "PV1-3": "A^B^C",
    "PV1-6": "D^E^F",
    "PV1-10": "CAR",
    "PV1-11": "G",
    "PV1-36": "01",
    "PV1-42": "H",
    "PV1-44": "20260101",
    "PV1-45": "20260102",
    "PV1-54": "E7^^^MAIN",
    "PV2-9": "20260103",
}


@pytest.mark.parametrize("path", sorted(PROFILES.glob("*.yaml")), ids=lambda path: path.name)
def test_the_profiles_that_ship_are_valid(path: Path) -> None:
    assert profile_of(path.read_bytes()).version


@pytest.mark.parametrize("path", sorted(PROFILES.glob("*.yaml")), ids=lambda path: path.name)
def test_the_ownership_policy_that_ships_knows_who_speaks(path: Path) -> None:
    named = msgspec.yaml.decode((PROFILES.parents[1] / "policies" / "ownership.yaml").read_bytes())["systems"]
    assert any(fnmatch.fnmatchcase(profile_of(path.read_bytes()).source_system, known["system"]) for known in named)


@pytest.mark.parametrize(
    "wrong",
    [
        "time_zone: Nowhere/City",
        "visit_number_fields: [PV1-50]",
        "visit_number_fields: []",
        "bed_status: {X: {occupancy: VACANT}}",
        "bed_status: {U: {occupancy: EMPTY}}",
        "charset_fallback: [klingon]",
        "max_message_bytes: 1",
        "no_such_setting: 1",
        "facility: ''",
    ],
)
def test_a_wrong_profile_stops_the_start(wrong: str) -> None:
    name = wrong.split(":", 1)[0]
    kept = "".join(line + "\n" for line in GOOD.splitlines() if not line.startswith(name))
    with pytest.raises(msgspec.ValidationError):
        profile_of(kept + wrong + "\n")


def test_the_smallest_profile_takes_the_safe_side() -> None:
    profile = profile_of(GOOD)
    assert (profile.a08_moves, profile.sequence, profile.patient_id_sole_untyped) == (False, "none", False)
    assert (profile.processing_ids, profile.ignored, profile.visit_number_fields) == (("P",), (), ("PV1-19",))


def test_the_page_shows_the_tables_as_they_are() -> None:
    assert PAGE.read_text() == render(), "python -m pipeline.formats.hl7v2.explain > docs/mapping/adt.md"


@pytest.mark.parametrize(("payload", "field"), [(payload, field) for payload, fields in FIELDS.items() for field in fields])
def test_each_field_is_read_where_the_page_says(payload: type[msgspec.Struct], field: str) -> None:
    at = FIELDS[payload][field]
    name, n = at.split("-")

    def said(value: str) -> object:
        fields = {int(n): value}
        data = adt(
            "A01",
            pid={3: "4711^^^MAIN^MR", 5: "", **(fields if name == "PID" else {})},
            pv1={2: "", 3: "", **(fields if name == "PV1" else {})},
            more=("PV2" + "|" * int(n) + value,) if name == "PV2" else (),
        )
        return getattr(encounter(data) if payload is Encounter else patient(data), field)

    assert payload in (Encounter, Patient)
    assert said(SAMPLE[at]) not in (UNSET, None)
    if at != "PID-3":
        assert said("") is UNSET
        assert said('""') is None


def test_a_file_is_shown_as_events_or_with_the_reason_why_not() -> None:
    data = adt("A01") + adt("A99") + adt("A60") + a20("H")
    profile = profile_of((PROFILES / "default.yaml").read_bytes())
    shown = list(map_hl7(data, profile=profile, tenant="t1", received_at=RECEIVED_AT, file="f.hl7"))
    assert [item.get("entity_id") for item in shown] == ["4711", "V1", "ICU/1/A", None, None, "ICU/1/A"]
    assert shown[3]["rejected"] == "UNSUPPORTED_EVENT"
    assert (shown[3]["file"], shown[4]["file"], shown[4]["ignored"]) == ("f.hl7", "f.hl7", "rule")
    assert msgspec.json.encode(shown)
    assert shown[0]["event_id"] == events_of(adt("A01"))[0].event_id


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("time_zon: UTC", 6, "did you mean `time_zone`?"),
        ("qwertz: UTC", 6, "take it out"),
        ("a08_moves: maybe", 6, "a08_moves"),
        ("bed_status:\n  U:\n    occupancy: EMPTY", 8, "EMPTY"),
        ("bed_status:\n  U:\n    ocupancy: VACANT", 8, "did you mean `occupancy`?"),
        ("bed_status:\n  X: {occupancy: VACANT}", 6, "own_bed_status"),
        ("units:\n  A: {}\n  B: {unit: 1}", 8, "unit"),
        ("units:\n  A: {facility: ''}", 6, "units"),
        ("tolerates:\n  - LF_ENDINGS\n  - EVERYTHING", 8, "EVERYTHING"),
        ("sequence: MSH-10", 6, "MSH-10"),
        ("site_field: MSH-4", 6, "facilities"),
        ("admission_types:\n  X: Y", 6, "0007"),
        ("z_fields:\n  status: ZPV-1", 6, "z_fields"),
        ("z_fields:\n  service: PV1-10", 6, "ZPV-3"),
        ("z_fields:\n  service: ZPV-0", 6, "ZPV-3"),
        ("ignored:\n  - ORU\n  - ADT_A60", 6, "ADT^A60"),
        ("patient_id_types: []", 6, "as MR"),
        ("feed: other", 6, "twice"),
        ("a08_moves: [", 7, "YAML"),
        ("- x", 6, "YAML"),
    ],
)
def test_a_wrong_profile_is_told_at_its_line_and_what_to_do(text: str, line: int, says: str) -> None:
    with pytest.raises(msgspec.ValidationError) as told:
        profile_of(f"{GOOD}{text}\n")
    assert str(told.value).startswith(f"line {line}: ")
    assert says in str(told.value)


@pytest.mark.parametrize("text", ["", "- a", "x", "a: &a [*a]", "\x00", "version: '1'"])
def test_what_is_no_profile_at_all_is_said_to_be_none(text: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"^line "):
        profile_of(text)


def test_the_profile_of_the_guide_to_onboarding_is_one() -> None:
    text = (PAGE.parents[1] / "onboarding-a-feed.md").read_text()
    (shown,) = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "patient_id_types" in block]
    profile = profile_of(GOOD + shown)
    assert profile.z_position("service") == ("ZBE", 7, 1)
    assert set(profile.facilities.values()) == {"NORTH", "SOUTH"}
