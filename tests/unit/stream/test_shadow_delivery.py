"""Flags that are flipped under a delivery: what was only compared is written once it may be, and nothing that may not."""

import asyncio

import pytest

from pipeline.destinations.protocol import Confirmed, Outcome, Refused, Retry
from pipeline.domain.identifiers import NO_REVISION, Millis
from pipeline.domain.records import Accepted, Lane, OutcomeKind, Reason, Would
from tests.support.changes import change, key_of
from tests.support.turns import turns_beside
from tests.unit.stream.test_delivery import A, World


class Flags:
    """Beds that may be written; None: all."""

    def __init__(self, *beds: str) -> None:
        self.beds: tuple[str, ...] | None = beds
        self.since = Millis(1)

    def may_write(self, accepted: Accepted) -> bool:
        return self.beds is None or accepted.entity_id in self.beds


def shadowed_world(*beds: str) -> tuple[World, Flags]:
    flags = Flags(*beds)
    return World(rollout=flags), flags


def restart(world: World, flags: Flags) -> World:
    """kill -9, and another process with the same table, log and destination."""
    other = World(rollout=flags, before=world)
    other.read_outcomes()
    other.delivery.assigned(0, list(world.table.rows.items()))
    return other


async def test_in_shadow_nothing_is_sent_and_the_outcome_says_what_would_have_been() -> None:
    world, _ = shadowed_world()
    world.accept(change(3))
    await world.live()
    assert (world.ehr.sent_count, world.ehr.read_count) == (0, 1)
    [(key, said)] = world.ledger.log
    assert (key, said.kind, said.reason, said.would) == (A, OutcomeKind.SHADOWED, Reason.SHADOW, Would.CREATE)
    assert (said.fields, said.after) == (("environment",), NO_REVISION)
    assert world.delivery.shadows.count == 1
    assert world.delivery.stuck() == (0, ())


async def test_what_the_flags_list_is_written_while_the_rest_is_compared() -> None:
    world, _ = shadowed_world("A")
    world.accept(change(3, "A"))
    world.accept(change(4, "B"))
    await world.live()
    assert [target for target, _ in world.ehr.history] == ["A"]
    assert world.table.rows[key_of("B")].is_shadowed


async def test_a_flip_to_full_writes_what_was_only_compared_newest_state_alone() -> None:
    world, flags = shadowed_world()
    world.accept(change(3))
    await world.live()
    world.accept(change(7))
    await world.live()
    flags.beds = None
    assert await world.delivery.flipped() == 1
    await world.run()
    world.read_outcomes()
    assert world.ehr.history == [("A", change(7).revision)]
    assert world.ledger.kinds() == [OutcomeKind.SHADOWED, OutcomeKind.SHADOWED, OutcomeKind.CONFIRMED]
    assert world.ledger.log[-1][1].after == NO_REVISION, "what was compared was never confirmed"
    assert (world.delivery.shadows.count, world.delivery.shadows.waiting) == (0, 0)


async def test_a_flip_frees_only_what_it_is_about() -> None:
    world, flags = shadowed_world()
    for offset, bed in enumerate("ABC"):
        world.accept(change(offset, bed))
    await world.live()
    flags.beds = ("B",)
    assert await world.delivery.flipped() == 1
    await world.run()
    world.read_outcomes()
    assert [target for target, _ in world.ehr.history] == ["B"]
    assert world.delivery.shadows.count == 2


async def test_a_flip_to_shadow_sends_nothing_more_and_keeps_what_waits() -> None:
    world, flags = shadowed_world()
    flags.beds = None
    world.ehr.reads = [Retry(Reason.UNAVAILABLE)]
    world.accept(change(3))
    await world.run()
    world.read_outcomes()
    flags.beds = ()
    await world.delivery.flipped()
    await world.live()
    assert world.ehr.sent_count == 0
    assert world.ledger.kinds() == [OutcomeKind.FAILED, OutcomeKind.SHADOWED]


async def test_a_flip_and_a_flip_back_before_the_write_send_nothing() -> None:
    world, flags = shadowed_world()
    world.accept(change(3))
    await world.live()
    flags.beds = None
    await world.delivery.flipped()
    flags.beds = ()
    await world.delivery.flipped()
    await world.run()
    assert world.ehr.sent_count == 0
    assert len(world.delivery.scheduler) == 0


async def test_a_comparison_under_way_while_the_flag_is_flipped_is_followed_by_the_write() -> None:
    world, flags = shadowed_world()
    world.accept(change(3))
    await world.run()
    flags.beds = None
    assert await world.delivery.flipped() == 0, "its outcome has not been read yet"
    world.read_outcomes()
    await world.run()
    assert world.ehr.history == [("A", change(3).revision)]


@pytest.mark.parametrize("told", [True, False])
async def test_a_writer_that_dies_between_flip_and_write_leaves_it_to_the_next(told: bool) -> None:
    world, flags = shadowed_world()
    world.accept(change(3))
    await world.live()
    flags.beds = None
    if told:
        await world.delivery.flipped()
    other = restart(world, flags)
    await other.run()
    other.read_outcomes()
    assert world.ehr.history == [("A", change(3).revision)]
    assert world.table.rows[A].newest is None


async def test_a_write_that_died_unanswered_before_a_flip_to_shadow_is_confirmed_by_the_read() -> None:
    world, flags = shadowed_world()
    flags.beds = None

    async def dies() -> Outcome:
        request_done = world.ehr.resources
        request_done["A"] = (1, change(3).revision, change(3).state_hash)
        raise asyncio.CancelledError

    world.ehr.answers = [dies]
    world.accept(change(3))
    await world.run()
    flags.beds = ()
    other = restart(world, flags)
    await other.live()
    assert world.ledger.kinds() == [OutcomeKind.CONFIRMED]
    assert world.ehr.sent_count == 1


async def test_in_shadow_nothing_is_given_up() -> None:
    world, flags = shadowed_world()
    world.ehr.reads = [Retry(Reason.UNAVAILABLE)] * 9
    world.accept(change(3))
    await world.live()
    assert world.ledger.kinds()[-1] is OutcomeKind.SHADOWED
    assert (world.ledger.reasons()[-1], world.ledger.log[-1][1].would) == (Reason.UNAVAILABLE, None)
    assert OutcomeKind.PARKED not in world.ledger.kinds()
    flags.beds, world.ehr.reads = None, []
    await world.delivery.flipped()
    await world.run()
    assert world.ehr.history == [("A", change(3).revision)]


async def test_what_is_refused_after_a_flip_is_given_up_and_shows_as_stuck() -> None:
    world, flags = shadowed_world()
    world.accept(change(3))
    await world.live()
    flags.beds, world.ehr.suppress = None, Refused(Reason.REFUSED_INVALID)
    await world.delivery.flipped()
    await world.run()
    world.read_outcomes()
    parked, stuck = world.delivery.stuck()
    assert (parked, stuck[0].reason, stuck[0].since) == (1, Reason.REFUSED_INVALID, world.clock())
    assert world.delivery.shadows.count == 0


async def test_what_fails_after_a_flip_waits_since_the_flip_and_is_tried_again() -> None:
    world, flags = shadowed_world()
    world.accept(change(3, received_at=5))
    await world.live()
    flags.beds, flags.since = None, Millis(world.clock() - 1_000)
    world.ehr.reads = [Retry(Reason.UNAVAILABLE)]
    await world.delivery.flipped()
    assert world.delivery.scheduler.oldest_since() == flags.since
    await world.run()
    world.read_outcomes()
    assert world.ehr.sent_count == 0
    world.clock.now += 60_000
    await world.run()
    world.read_outcomes()
    assert world.ehr.history == [("A", change(3).revision)]


async def test_what_goes_to_another_worker_is_no_longer_counted_here() -> None:
    world, flags = shadowed_world()
    world.accept(change(3))
    await world.live()
    world.delivery.revoked((0,))
    flags.beds = None
    assert (world.delivery.shadows.count, await world.delivery.flipped()) == (0, 0)
    await world.run()
    assert world.ehr.sent_count == 0


async def test_a_flip_over_many_entities_lets_other_work_go_on() -> None:
    world, flags = shadowed_world()
    for offset in range(350):
        world.accept(change(offset, f"bed {offset}", lane=Lane.BULK))
    for _ in range(200):
        await world.run()
        world.read_outcomes()
        if world.delivery.shadows.count == 350:
            break
    flags.beds = None
    async with turns_beside() as turns:
        assert await world.delivery.flipped() == 350
    assert turns.count >= 3


async def test_a_confirmation_after_a_flip_ends_it_for_good() -> None:
    world, flags = shadowed_world()
    world.ehr.answers = [Confirmed("A", "1", change(3).revision)]
    world.accept(change(3))
    await world.live()
    flags.beds = None
    await world.delivery.flipped()
    await world.run()
    world.read_outcomes()
    flags.beds = ()
    await world.delivery.flipped()
    flags.beds = None
    assert await world.delivery.flipped() == 0
    assert world.ehr.sent_count == 1
