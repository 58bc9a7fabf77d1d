"""Told of each change, through crashes at any moment: none is lost or goes back, repeats are alike, no early acknowledgement."""

import asyncio
import random
from typing import Final

import pytest

from pipeline.destinations.protocol import Ambiguous, Confirmed, Refused, Retry
from pipeline.domain.identifiers import NO_REVISION
from pipeline.domain.records import Accepted, OutcomeKind, Reason
from pipeline.stream.every import delivery as every
from pipeline.stream.every.told import NOTHING, Told, after, decode_told
from tests.unit.stream.test_every import BOUND_S, Lab, Poll, Receiver, accepted, key_of

pytestmark = pytest.mark.timeout(120)

CHANGES: Final = 60
ENTITIES: Final = "ABCDE"
CRASHES: Final = 5


def history(chance: random.Random) -> list[Accepted]:
    """Changes of some entities; now and then a stretch comes twice, as a gate that was killed says it again."""
    made: list[Accepted] = []
    before = dict.fromkeys(ENTITIES, 0)
    for offset in range(1, CHANGES + 1):
        entity = chance.choice(ENTITIES)
        made.append(accepted(entity, offset, before[entity]))
        before[entity] = offset
        if chance.random() < 0.1:
            made += made[-chance.randint(1, 4) :]
    return made


class World(Receiver):
    """A receiver that takes, wants again, refuses, or falls silent, after it has noted what came."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(window=chance.choice((1, 3)))
        self.chance, self.calm = chance, False
        self.answer = self.decide

    def decide(self, change: Accepted) -> Confirmed | Refused | Retry | Ambiguous:
        luck = 1.0 if self.calm else self.chance.random()
        if luck < 0.1:
            return Retry(Reason.ASKED_AGAIN)
        if luck < 0.2:
            return Ambiguous()
        return Refused(Reason.REFUSED_INVALID) if luck < 0.25 else Confirmed("", None, NO_REVISION)


def ended_by(outcomes: Lab) -> dict[bytes, Told]:
    """What a start reads from `outcomes` beside its table."""
    found: dict[bytes, Told] = {}
    for outcome in outcomes.outcomes:
        key = b"|".join(
            part.encode() for part in (outcome.tenant, outcome.entity_type.value, outcome.namespace, outcome.entity_id)
        )
        found[key] = after(found.get(key, NOTHING), outcome)
    return found


async def one_life(world: World, earlier: Lab, polls: list[list[Accepted]], dies_after: int | None) -> tuple[Lab, int]:
    """A process from its start to its death, or to the end of the history; how many polls it acknowledged."""
    lab = Lab(world, max_attempts=50)
    lab.table, lab.outcomes, lab.tick_ms = earlier.table, earlier.outcomes, 1_000
    lab.delivery.assigned(0, {}, ended_by(earlier))
    taken: list[Poll] = []

    async def read() -> None:
        for poll in polls:
            taken.append(await lab.bring(*poll))

    told = len(world.told)
    running = [asyncio.create_task(work) for work in (lab.delivery.run(), read())]
    enough = told + (dies_after or 1_000_000)
    await lab.until(lambda: len(world.told) >= enough or (len(taken) == len(polls) and not len(lab.delivery.backlog)))
    if dies_after is None or world.chance.random() < 0.5:
        await lab.delivery.keep()
    lab.delivery._stopping = True  # a cancellation that meets a wake-up is lost in asyncio.wait_for (3.11): the loop must end
    for task in [*running, *lab.delivery._tasks]:  # kill -9: nothing is finished, nothing is told
        task.cancel()
    await asyncio.wait_for(asyncio.gather(*running, *lab.delivery._tasks, return_exceptions=True), BOUND_S)
    world.under_way.clear()
    return lab, next((number for number, poll in enumerate(taken) if not poll.acked), len(taken))


@pytest.mark.parametrize("seed", range(15))
async def test_through_crashes_nothing_is_lost_or_goes_back_and_repeats_are_alike(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(every, "IDLE_WAIT_S", 0.002)  # the clock of the test runs ahead of the one that is slept by
    chance = random.Random(seed)
    changes = history(chance)
    polls = [changes[start : start + 4] for start in range(0, len(changes), 4)]
    world, committed = World(chance), 0
    lab = Lab(world)
    for crash in range(CRASHES + 1):
        world.calm = crash == CRASHES
        dies_after = None if world.calm else chance.randint(1, 25)
        lab, acknowledged = await one_life(world, lab, polls[committed:], dies_after)
        committed += acknowledged
        ends = {outcome.revision for outcome in lab.outcomes if outcome.kind is not OutcomeKind.FAILED}
        assert {change.revision for poll in polls[:committed] for change in poll} <= ends, "acknowledged before it ended"
    assert committed == len(polls)
    assert len(world.told) > len({change.revision for change in world.told}), "nothing ever went again"
    assert {change.revision for change in changes} == ends
    for entity in ENTITIES:
        offsets = world.offsets(entity)
        assert offsets == sorted(offsets), (seed, entity, offsets)
    for change, letter_id in zip(world.told, world.ids, strict=True):
        assert letter_id == world.ids[next(n for n, each in enumerate(world.told) if each.revision == change.revision)]
    newest = {key_of(change): change.revision for change in sorted(changes, key=lambda each: each.revision)}
    assert {key: told.revision for key in newest if (told := decode_told(lab.table[key])) is not None} == newest
