"""The world and the judge of the hostile runs: what they take for granted, and that a bed with two stays in it is seen."""

import random
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from pipeline.domain.event import Encounter, EncounterStatus, EntityType, Place
from tests.support.hostile_judge import lyings, two_in_one_bed
from tests.support.hostile_worlds import Fact, Ward

WAVES: Final = 30


def told(seed: int) -> list[Fact]:
    ward = Ward("HOSTILE", random.Random(seed), beds=6)
    return ward.first() + [fact for _ in range(WAVES) for fact in ward.next()]


def bed_in(state: Encounter) -> str | None:
    lies = state.status is EncounterStatus.IN_PROGRESS and isinstance(state.location, Place)
    return state.location.room if lies and isinstance(state.location, Place) else None


@given(st.integers(0, 10**6))
def test_no_two_stays_of_a_ward_ever_claim_one_bed_and_nobody_goes_back(seed: int) -> None:
    lies: dict[str, str | None] = {}
    for entity_type, entity_id, state in told(seed):
        if entity_type is not EntityType.ENCOUNTER:
            continue
        assert isinstance(state, Encounter)
        before, bed = lies.get(entity_id), bed_in(state)
        assert before is None or bed is None or bed >= before
        lies[entity_id] = bed
        taken = [each for each in lies.values() if each is not None]
        assert len(taken) == len(set(taken))


def test_a_ward_is_the_same_for_the_same_seed_and_speaks_of_everything() -> None:
    assert told(7) == told(7)
    assert told(7) != told(8)
    kinds = {kind for kind, _, _ in told(7)}
    assert kinds == {
        EntityType.BED, EntityType.PATIENT, EntityType.ENCOUNTER, EntityType.TRANSFER, EntityType.PROCEDURE,
    }  # fmt: skip
    assert any(isinstance(state, Encounter) and state.episode not in (None, UNSET) for _, _, state in told(7))


def version(number: int, minute: int, bed: str | None, **more: Any) -> dict[str, Any]:
    """A stay in a bed from a minute on; in none, it is finished."""
    ident = {"location": {"identifier": {"system": "urn:beds", "value": bed or "X"}}}
    return {
        "meta": {"versionId": str(number), "lastUpdated": f"2026-01-31T08:{minute:02}:00.000Z"},
        "status": "in-progress" if bed else "finished",
        "location": [{**ident, "status": "active"}],
    } | more


FIRST: Final = [version(1, 0, "X"), version(2, 10, None)]


@pytest.mark.parametrize(
    ("second", "problems"),
    [
        ([version(1, 10, "X")], 0),
        ([version(1, 9, "X")], 1),
        ([version(1, 9, "Y"), version(2, 11, "X")], 0),
        ([version(1, 2, "X"), version(2, 3, "Y")], 1),
        ([version(1, 9, "X", status="planned"), version(2, 10, "X")], 0),
    ],
)
def test_a_stay_that_came_before_the_other_had_left_is_seen(second: list[dict[str, Any]], problems: int) -> None:
    found = [*lyings("Encounter/1", FIRST), *lyings("Encounter/2", second)]
    assert two_in_one_bed(found) == ["one bed: two stays in it at once"] * problems
