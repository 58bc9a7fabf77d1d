"""Random faults, replays, killed writers, resumed zombies and a clinician, all at one EHR: what it shows is right, or caught."""

import os
from dataclasses import dataclass
from typing import Any, Final

import pytest
from msgspec import structs

from pipeline.destinations.fhir.profile import load_profile
from pipeline.domain.event import EntityType
from pipeline.domain.records import Lane
from pipeline.formats.fhir.profile import BundleProfile, Profile
from pipeline.local.servers.ehr import Ehr
from pipeline.local.servers.faults import Fault, FaultKind
from tests.chaos import clinician
from tests.chaos.clinician import session
from tests.hazards.harness import SHORT
from tests.support.bundle_faults import BundleFault
from tests.support.hostile import Hostile, hostile
from tests.support.hostile_judge import history
from tests.support.hostile_worlds import Ward
from tests.support.hostile_writers_that_fail import BlindRepeater, TakesAnyEntryForDone

GIVEN: Final = os.environ.get("SURGELINE_HOSTILE_SEED", "")
"""A seed to repeat. The draws repeat with it; what the machine does meanwhile does not."""

SEEDS: Final = [int(GIVEN)] if GIVEN else [1] if SHORT else [1, 2, 3, 4]
MUST_STRIKE: Final = frozenset({FaultKind.STALE_READ, FaultKind.RESET_AFTER_COMMIT, FaultKind.TRUNCATED, FaultKind.ERROR_IN_200})
"""Faults that a run without would prove little: at their rates the chance to miss one is small, and a seed may be changed."""

BUNDLES: Final = BundleProfile(12)
WARD_BEDS: Final = 6


@dataclass(frozen=True)
class Server:
    """An EHR and how it is written to."""

    base_url: str
    profile: Profile

    @property
    def in_bundles(self) -> Profile:
        return structs.replace(self.profile, bundle=BUNDLES)


@pytest.fixture
def server(replica: Ehr) -> Server:
    return Server(replica.base_url, load_profile("sekmet-replica"))


def told(run: Hostile) -> object:
    """What was done to whom in a run."""
    return run.seed, run.counts, run.struck, run.proxy.batches, run.proxy.struck, run.clinician.log.edits


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", SEEDS)
async def test_after_everything_the_history_rises_the_clinicians_edits_stand_and_the_end_is_the_gates(
    server: Server, seed: int
) -> None:
    async with hostile(server.base_url, server.profile, seed) as run:
        await run.run(replays=4, kills=3, zombies=4)
        assert await run.problems() == []
        assert (run.counts["replays"], run.counts["kills"], run.counts["zombies"]) == (4, 3, 4), told(run)
        assert run.counts["held"] >= 4, told(run)
        assert run.clinician.log.edits > 10, told(run)
        assert {kind for kind in MUST_STRIKE if run.struck[kind]} == MUST_STRIKE, told(run)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", SEEDS)
async def test_in_bundles_too_a_whole_ward_is_right_in_the_end_and_no_bed_ever_had_two_stays(server: Server, seed: int) -> None:
    """Beds, people, stays, transfers, procedures, episodes; bundles done in part, answered out of order, in part, or wrongly."""
    async with hostile(server.base_url, server.in_bundles, seed, WARD_BEDS, ward=True) as run:
        await run.run(replays=2, kills=2, zombies=2)
        assert await run.problems() == [], told(run)
        assert (run.counts["replays"], run.counts["kills"], run.counts["zombies"]) == (2, 2, 2), told(run)
        assert run.clinician.log.edits > 10, told(run)
        assert run.proxy.batches > 20, told(run)
        assert {fault for fault in BundleFault if run.proxy.struck[fault]} == set(BundleFault), told(run)


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


@pytest.mark.timeout(300)
async def test_a_writer_that_repeats_blindly_where_no_answer_came_is_caught(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first was done, and the clinician writes before the second."""
    monkeypatch.setattr(clinician, "THINK_S", 0.0)
    async with hostile(server.base_url, server.profile, 1, WARD_BEDS, ward=True, make=BlindRepeater) as run, session() as http:
        run.begin()
        await run.settled()
        person = next(head for head in run.log.heads.values() if head.entity_type is EntityType.PATIENT)
        shown = await run.judge.shown(http, person)
        run.proxy.faults.set(Fault(kind=FaultKind.RESET_AFTER_COMMIT, methods=("PUT",), times=1))
        run.publish([run.world.again(person.entity_type, person.entity_id)], Lane.ROUTINE)
        await run.until(lambda: run.proxy.faults.struck(FaultKind.RESET_AFTER_COMMIT) > 0, "a write without an answer")
        await run.clinician.edit(http, f"Patient/{shown[0]['id']}")
        await run.settled()
        problems = await run.problems()
        assert any(p.startswith("patient 0: ") and "changed what is the EHR's" in p for p in problems), problems


@pytest.mark.timeout(300)
async def test_a_writer_that_takes_every_entry_of_an_answered_bundle_for_done_is_caught(server: Server) -> None:
    async with hostile(server.base_url, server.in_bundles, 1, WARD_BEDS, ward=True, make=TakesAnyEntryForDone) as run:
        run.begin()
        await run.settled()
        run.proxy.batch_share, run.proxy.only = 1.0, BundleFault.REFUSED_ENTRY
        run.publish([fact for fact in run.world.first() if fact[1] in _entities(run)], Lane.ROUTINE)
        await run.settled()
        problems = await run.problems()
        assert run.proxy.struck[BundleFault.REFUSED_ENTRY] > 0
        assert any("isn't the gate's state" in problem for problem in problems), problems


@pytest.mark.timeout(300)
@pytest.mark.parametrize("ordered", [True, False])
async def test_a_stay_written_before_the_one_that_leaves_its_bed_is_caught(server: Server, ordered: bool) -> None:
    """Whoever leaves is held up by the EHR, whoever comes is not: only the order across entities keeps the bed to one."""
    async with hostile(server.base_url, server.profile, 1, WARD_BEDS, ward=True, ordered=ordered) as run:
        run.begin()
        await run.settled()
        run.proxy.faults.set(Fault(kind=FaultKind.UNAVAILABLE, methods=("PUT",), times=4))
        ward = _ward(run)
        bed = ward.lies["V0-" + ward.run]
        run.publish([ward.goes_home("V0-" + ward.run), *ward.admitted(bed)], Lane.ROUTINE)
        await run.settled()
        assert await run.problems() == ([] if ordered else ["one bed: two stays in it at once"])


@pytest.mark.timeout(300)
async def test_a_stay_whose_arrival_had_no_answer_keeps_its_bed_until_it_is_known_to_have_left(server: Server) -> None:
    """It is in the bed and nobody knows; by the time that it leaves, its arrival is not even due any more."""
    async with hostile(server.base_url, server.profile, 1, WARD_BEDS, ward=True) as run:
        run.begin()
        await run.settled()
        ward = _ward(run)
        (moves,) = (stay for stay, bed in ward.lies.items() if bed == 0)
        run.proxy.faults.set(
            Fault(kind=FaultKind.RESET_AFTER_COMMIT, methods=("PUT",), times=1),
            Fault(kind=FaultKind.UNAVAILABLE, methods=("GET", "PUT"), times=6),
        )
        run.publish([ward.moved(moves, 1)], Lane.ROUTINE)
        await run.until(lambda: run.proxy.faults.struck(FaultKind.UNAVAILABLE) > 0, "an arrival without an answer")
        run.publish([ward.goes_home(moves), *ward.admitted(1)], Lane.ROUTINE)
        await run.settled()
        assert await run.problems() == []


def _ward(run: Hostile) -> Ward:
    assert isinstance(run.world, Ward)
    return run.world


def _entities(run: Hostile) -> set[str]:
    return {head.entity_id for head in run.log.heads.values()}


async def _versions(run: Hostile, number: int) -> list[dict[str, Any]]:
    async with session() as http:
        heads = list(run.log.heads.values())
        shown = await run.judge.shown(http, heads[number])
        return await history(http, run.base_url, f"Location/{shown[0]['id']}")


async def _put(run: Hostile, body: dict[str, Any]) -> None:
    async with session() as http, http.put(f"{run.base_url}/Location/{body['id']}", json=body) as answer:
        assert answer.status == 200
