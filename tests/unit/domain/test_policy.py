"""Policies as data: read, refused with all that is wrong, and carried by a record."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

import pipeline
from pipeline.domain.event import PAYLOADS
from pipeline.domain.judging.policy import ROLE_CACHE_BOUND, BadPolicy, decode_policy, encode_policy, policy_from
from tests.support.policies import shipped_policy

FOLDER = Path(pipeline.__file__).parent / "policies"


@pytest.fixture
def files() -> tuple[dict[str, Any], dict[str, Any]]:
    ownership, lanes = (yaml.safe_load((FOLDER / name).read_text()) for name in ("ownership.yaml", "lanes.yaml"))
    return copy.deepcopy(ownership), copy.deepcopy(lanes)


def test_shipped_policy_gives_every_field_to_somebody() -> None:
    policy = shipped_policy()
    for entity_type, payload in PAYLOADS.items():
        assert set(policy.fields[entity_type]) == set(payload.__struct_fields__)


def test_all_problems_are_listed_at_once(files: tuple[dict[str, Any], dict[str, Any]]) -> None:
    ownership, lanes = files
    del ownership["fields"]["bed"]["surge"]
    ownership["fields"]["bed"]["colour"] = {"roles": ["capacity"], "condition": "c"}
    ownership["fields"]["patient"]["name"]["roles"] = ["nobody"]
    lanes["units"]["*"]["ward"] = ["5W"]
    lanes["rules"].append({"lane": "urgent", "why": "typo", "entity": "bed", "changed": ["ocupancy"], "units": ["icuu"]})
    lanes["rules"].append({"lane": "urgent", "why": "other type", "entity": "bed", "becomes": {"stage.stage": ["X"]}})
    lanes["rules"].append({"lane": "urgent", "why": "late", "later": "begin"})
    with pytest.raises(BadPolicy) as refused:
        policy_from(ownership, lanes)
    text = "\n".join(refused.value.problems)
    for part in ("colour", "surge", "nobody", "ward", "ocupancy", "icuu", "stage", "begin"):
        assert part in text
    assert len(refused.value.problems) == 8


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [(0, "systems", [{"system": "", "role": "ehr"}]), (1, "rules", [{"lane": "soon", "why": "w"}]), (0, "future_skew_s", -1)],
)
def test_a_value_of_the_wrong_kind_is_refused(
    files: tuple[dict[str, Any], dict[str, Any]], file: int, key: str, value: object
) -> None:
    files[file][key] = value
    with pytest.raises(BadPolicy):
        policy_from(*files)


def test_version_names_the_content(files: tuple[dict[str, Any], dict[str, Any]]) -> None:
    first = policy_from(*files).version
    assert first == shipped_policy().version
    files[0]["future_skew_s"] = 301
    assert policy_from(*files).version != first


def test_a_policy_survives_its_record() -> None:
    policy = shipped_policy()
    assert decode_policy(encode_policy(policy)) == policy
    for text in ("", "{}", "[]"):
        with pytest.raises(BadPolicy):
            decode_policy(text)


def test_the_first_pattern_that_matches_names_the_role_and_case_counts() -> None:
    policy = shipped_policy()
    assert [policy.role_of(name) for name in ("EPICADT2", "ehr-2", "capacity", "Capacity", "")] == [
        "ehr", "ehr", "capacity", None, None,
    ]  # fmt: skip


def test_names_that_are_made_up_cost_bounded_memory() -> None:
    policy = decode_policy(encode_policy(shipped_policy()) + " ")
    for number in range(ROLE_CACHE_BOUND + 10):
        policy.role_of(f"x{number}")
    assert len(policy.__dict__["_roles"]) <= ROLE_CACHE_BOUND


def test_units_of_a_facility_add_to_those_of_all(files: tuple[dict[str, Any], dict[str, Any]]) -> None:
    files[1]["units"]["F"] = {"icu": ["X1"], "boarding": ["ICU"]}
    policy = policy_from(*files)
    assert policy.unit_kinds("F", "X1") == {"icu"}
    assert policy.unit_kinds("F", "ICU") == {"icu", "boarding"}
    assert policy.unit_kinds("G", "X1") == policy.unit_kinds("F", None) == frozenset()
