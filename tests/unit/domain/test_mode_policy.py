"""The policy of modes: read, refused with all that is wrong, and what it freezes."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

import pipeline
from pipeline.domain.event import EntityType, EventType
from pipeline.domain.judging.policy import BadPolicy
from pipeline.domain.records import LANES, Lane
from pipeline.domain.writing.mode_policy import FreezeRule, mode_policy_from
from pipeline.roles.policies import load_modes

FILE = Path(pipeline.__file__).parent / "policies" / "modes.yaml"


@pytest.fixture
def document() -> dict[str, Any]:
    shipped: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return copy.deepcopy(shipped)


def test_the_shipped_policy_freezes_in_severe_alone_and_neither_urgent_nor_encounters() -> None:
    policy = load_modes()
    assert policy.slow.freezes == policy.outage.freezes == ()
    frozen = {
        (lane, kind)
        for lane in LANES
        for kind in EntityType
        if any(rule.holds(lane, kind, None) for rule in policy.severe.freezes)
    }
    assert {lane for lane, _ in frozen} == {Lane.ROUTINE, Lane.BULK}
    assert EntityType.ENCOUNTER not in {kind for _, kind in frozen}
    assert (Lane.ROUTINE, EntityType.BED) not in frozen


def test_all_that_is_wrong_is_listed_at_once(document: dict[str, Any]) -> None:
    document["slow"]["leave_below_s"] = 5
    document["severe"]["enter_after_s"] = 4
    document["severe"]["freezes"] += [
        {"why": "typo", "lanes": ["critical"]},
        {"why": "stays", "lanes": ["bulk"], "entity_types": ["encounter"]},
    ]
    with pytest.raises(BadPolicy) as refused:
        mode_policy_from(document)
    text = "\n".join(refused.value.problems)
    for part in ("slow.leave_below_s", "severe.leave_below_s", "severe.enter_after_s", "critical is never", "encounter is"):
        assert part in text
    assert len(refused.value.problems) == 5


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("slow", "freeze"), []),
        (("recovery",), {"calm_s": 1}),
        (("severe", "dwell_s"), 0),
        (("severe", "freezes"), [{"lanes": ["bulk"]}]),
        (("severe", "freezes"), [{"why": "w", "lanes": []}]),
        (("severe", "freezes"), [{"why": "w", "lanes": ["bulk"], "event_types": ["SNAPSHOTS"]}]),
        (("thaw", "per_s"), 0),
        (("version",), 0),
    ],
)
def test_what_is_misspelt_or_out_of_bounds_is_refused(document: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    section = document
    for name in path[:-1]:
        section = section[name]
    section[path[-1]] = value
    with pytest.raises(BadPolicy):
        mode_policy_from(document)


@pytest.mark.parametrize("name", ["slow", "severe", "outage", "thaw", "version"])
def test_no_section_can_be_left_out(document: dict[str, Any], name: str) -> None:
    del document[name]
    with pytest.raises(BadPolicy):
        mode_policy_from(document)


def test_a_rule_by_kind_holds_only_where_the_kind_of_all_that_is_unconfirmed_is_known() -> None:
    rule = FreezeRule("w", (Lane.ROUTINE,), event_types=(EventType.DEMOGRAPHICS,))
    assert rule.holds(Lane.ROUTINE, EntityType.PATIENT, EventType.DEMOGRAPHICS)
    assert not rule.holds(Lane.ROUTINE, EntityType.PATIENT, None)
    assert not rule.holds(Lane.URGENT, EntityType.PATIENT, EventType.DEMOGRAPHICS)
    assert not rule.holds(Lane.ROUTINE, EntityType.ENCOUNTER, EventType.DEMOGRAPHICS)


def test_a_file_that_is_not_there_or_no_yaml_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(BadPolicy):
        load_modes(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("slow: [")
    with pytest.raises(BadPolicy):
        load_modes(tmp_path / "bad.yaml")
