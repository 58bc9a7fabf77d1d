"""Random faults, replays, killed writers, resumed zombies and a clinician, all at one EHR: what it shows is right, or caught."""

import os
from dataclasses import dataclass
from typing import Any, Final

import pytest
from msgspec import structs

from pipeline.destinations.fhir_profile import load_profile
from pipeline.formats.fhir.profile import Profile
from pipeline.local.ehr import Ehr
from pipeline.local.faults import FaultKind
from tests.chaos.clinician import session
from tests.hazards.harness import SHORT
from tests.support.hostile import Hostile, history, hostile

GIVEN: Final = os.environ.get("SURGELINE_HOSTILE_SEED", "")
"""A seed to repeat. The draws repeat with it; what the machine does meanwhile does not."""

SEEDS: Final = [int(GIVEN)] if GIVEN else [1] if SHORT else [1, 2, 3, 4]
MUST_STRIKE: Final = frozenset({FaultKind.STALE_READ, FaultKind.RESET_AFTER_COMMIT, FaultKind.TRUNCATED, FaultKind.ERROR_IN_200})
"""Faults that a run without would prove little: at their rates the chance to miss one is small, and a seed may be changed."""


@dataclass(frozen=True)
class Server:
    """An EHR and how it is written to."""

    base_url: str
    profile: Profile


@pytest.fixture
def server(replica: Ehr) -> Server:
    return Server(replica.base_url, load_profile("sekmet-replica"))


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", SEEDS)
async def test_after_everything_the_history_rises_the_clinicians_edits_stand_and_the_end_is_the_gates(
    server: Server, seed: int
) -> None:
    async with hostile(server.base_url, server.profile, seed) as run:
        await run.run(replays=4, kills=3, zombies=4)
        assert await run.problems() == []
        told = (run.counts, run.struck, run.clinician.log.edits)
        assert (run.counts["replays"], run.counts["kills"], run.counts["zombies"]) == (4, 3, 4), told
        assert run.counts["held"] >= 4, told
        assert run.clinician.log.edits > 10, told
        assert {kind for kind in MUST_STRIKE if run.struck[kind]} == MUST_STRIKE, told


@pytest.mark.timeout(300)
async def test_a_zombie_without_a_fence_is_caught(server: Server) -> None:
    """The same run with writes that carry no version must fail, or the one above proves nothing."""
    unfenced = structs.replace(server.profile, fence="none")
    async with hostile(server.base_url, unfenced, 1, beds=2) as run:
        await run.run(replays=0, kills=0, zombies=3)
        assert [problem for problem in await run.problems() if "went back" in problem or "changed what is the EHR's" in problem]


@pytest.mark.timeout(300)
async def test_a_planted_old_version_a_second_write_and_a_lost_edit_are_caught(server: Server) -> None:
    async with hostile(server.base_url, server.profile, 1, beds=3) as run:
        await run.run(replays=3, kills=0, zombies=0)
        assert await run.problems() == []
        first, second, third = [await _versions(run, number) for number in range(3)]
        await _put(run, {**first[0], "id": first[-1]["id"]})
        await _put(run, {**second[-1], "name": "a name that only makes a version of it"})
        await _put(run, {**third[-1], "description": "not what she wrote"})
        problems = await run.problems()
        assert any(p.startswith("bed 0: ") and "went back" in p for p in problems), problems
        assert any(p.startswith("bed 1: ") and "written twice" in p for p in problems), problems
        assert any(p.startswith("bed 2: ") and "changed what is the EHR's" in p for p in problems), problems


async def _versions(run: Hostile, number: int) -> list[dict[str, Any]]:
    async with session() as http:
        shown = await run.shown(http, run.bed_ids[number])
        return await history(http, run.base_url, f"Location/{shown[0]['id']}")


async def _put(run: Hostile, body: dict[str, Any]) -> None:
    async with session() as http, http.put(f"{run.base_url}/Location/{body['id']}", json=body) as answer:
        assert answer.status == 200
