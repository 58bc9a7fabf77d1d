"""What a delivery learns of its destination: pauses hold everything and park nothing, but one that alone is refused is parked."""

import asyncio

import pytest

from pipeline.destinations.protocol import Outcome, Request, Retry
from pipeline.domain.identifiers import revision_of
from pipeline.domain.records import Lane, OutcomeKind, Reason
from pipeline.domain.writing.limits import MOST_REFUSALS_ALONE, AdaptiveLimiter, ConsecutiveBreaker
from pipeline.domain.writing.scheduler import CRITICAL_SHARE
from pipeline.stream.writing.attempt import Verdict
from pipeline.stream.writing.throttle import Admits, Throttle
from tests.support.changes import change, key_of
from tests.unit.stream.test_delivery import Clock, World


@pytest.mark.parametrize("reason", [Reason.RATE_LIMITED, Reason.UNAVAILABLE])
async def test_a_pause_holds_every_entity_and_parks_none(reason: Reason) -> None:
    world = World(max_attempts=2, concurrency=1)
    world.ehr.answers = [Retry(reason, 60.0)]
    for number in range(5):
        world.accept(change(number, f"B{number}"))
    await world.run()
    assert world.ehr.sent_count == world.ehr.read_count == 1
    for _ in range(5):
        world.read_outcomes()
        world.accept(change(100, "LATE", lane=Lane.CRITICAL))
        world.clock.now += 10_000
        await world.run()
        assert world.ehr.sent_count == world.ehr.read_count == 1
    world.clock.now += 10_000
    await world.live()
    assert len(world.ehr.history) == 6
    assert OutcomeKind.PARKED not in world.ledger.kinds()


async def test_writes_under_way_when_a_pause_begins_wait_for_its_end_without_a_record() -> None:
    world = World(concurrency=3)
    held = asyncio.Event()

    async def slow() -> Outcome:
        await held.wait()
        return Retry(Reason.RATE_LIMITED, 60.0)

    world.ehr.answers = [slow]
    paced = 0

    async def pace(critical: bool) -> None:
        nonlocal paced
        paced += 1
        if paced > 4:
            await held.wait()
            await asyncio.sleep(0.02)

    world.delivery.throttle.pace = pace  # type: ignore[method-assign]
    for number in range(3):
        world.accept(change(number, f"B{number}"))
    task = asyncio.create_task(world.delivery.run())
    while world.ehr.sent_count < 1 or paced < 6:
        await asyncio.sleep(0.001)
    held.set()
    while world.delivery.scheduler.in_flight > 1:
        await asyncio.sleep(0.001)
    await world.delivery.stop(1.0)
    await task
    assert world.ehr.sent_count == 1
    assert world.ledger.kinds() == [OutcomeKind.FAILED]
    world.delivery._stopping = world.delivery._stopped = False
    del world.delivery.throttle.pace
    world.read_outcomes()
    world.clock.now += 70_000
    await world.live()
    assert len(world.ehr.history) == 3


@pytest.mark.parametrize("after_s", [0.0, 2.0])
async def test_an_entity_that_alone_is_refused_is_parked_with_the_reason_and_the_others_go_on(after_s: float) -> None:
    world = World(max_attempts=3)
    send = world.ehr.send

    async def refusing(request: Request) -> Outcome:
        if request.target == "BAD":
            return Retry(Reason.RATE_LIMITED, after_s)
        return await send(request)

    world.ehr.send = refusing  # type: ignore[method-assign]
    world.accept(change(1, "BAD"))
    for offset in range(2, 4_000, 2):
        world.accept(change(offset, "GOOD"))
        world.accept(change(offset + 1, "ALSO"))
        await world.run(20)
        world.read_outcomes()
        world.clock.now += 2_500
        if OutcomeKind.PARKED in world.ledger.kinds():
            break
    bad = [outcome for key, outcome in world.ledger.log if key == key_of("BAD")]
    assert (bad[-1].kind, bad[-1].reason) == (OutcomeKind.PARKED, Reason.RATE_LIMITED)
    assert len(bad) <= 3 * MOST_REFUSALS_ALONE
    await world.live()
    assert [r for target, r in world.ehr.history if target == "GOOD"][-1] == revision_of(1, offset)


async def test_a_destination_that_refuses_everybody_for_hours_parks_nobody() -> None:
    world = World(max_attempts=3)
    world.ehr.answers = [Retry(Reason.RATE_LIMITED)] * 400
    for number in range(6):
        world.accept(change(number, f"B{number}"))
    await world.live(most=300, step_ms=40_000)
    assert OutcomeKind.PARKED not in world.ledger.kinds()
    assert len(world.ehr.history) == 6


async def test_a_critical_write_never_waits_for_a_slow_bulk_write_to_end() -> None:
    world = World(concurrency=8)
    held = asyncio.Event()

    async def slow() -> Outcome:
        await held.wait()
        return Retry(Reason.VERSION_MISMATCH)

    world.ehr.answers = [slow] * 7
    for number in range(20):
        world.accept(change(number, f"B{number}", lane=Lane.BULK))
    task = asyncio.create_task(world.delivery.run())
    while world.ehr.sent_count < 7:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)
    assert world.ehr.sent_count == 7
    world.accept(change(99, "URGENT", lane=Lane.CRITICAL))
    while world.ehr.sent_count < 8:
        await asyncio.sleep(0.001)
    assert [target for target, _ in world.ehr.history] == ["URGENT"]
    held.set()
    await world.delivery.stop(1.0)
    await task


async def test_who_goes_is_chosen_when_the_rate_has_a_turn_so_that_what_became_critical_meanwhile_goes_first() -> None:
    world = World(rate_per_s=0.5)
    for number in range(6):
        world.ehr.resources[f"B{number}"] = (1, revision_of(1, 1), "")
        world.accept(change(10 + number, f"B{number}", lane=Lane.BULK))
    for _ in range(30):
        await world.run()
        world.read_outcomes()
        if world.ehr.history:
            break
        world.clock.now += 1_000
    assert world.delivery.scheduler.in_flight <= 1
    world.accept(change(99, "B5", lane=Lane.CRITICAL))
    for _ in range(30):
        world.clock.now += 1_000
        await world.run()
        world.read_outcomes()
        if len(world.ehr.history) > 1:
            break
    assert world.ehr.history == [("B0", revision_of(1, 10)), ("B5", revision_of(1, 99))]


async def test_where_critical_changes_use_up_the_rate_one_turn_in_nine_is_still_anothers() -> None:
    world = World(rate_per_s=20.0, concurrency=16)
    for number in range(80):
        world.ehr.resources[f"C{number}"] = (1, revision_of(1, 1), "")
        world.accept(change(100 + number, f"C{number}", lane=Lane.CRITICAL))
    world.ehr.resources["U"] = (1, revision_of(1, 1), "")
    world.accept(change(50, "U", lane=Lane.URGENT))
    for _ in range(400):
        world.clock.now += 50
        await world.run()
        world.read_outcomes()
        if ("U", revision_of(1, 50)) in world.ehr.history:
            break
    assert 1 <= len(world.ehr.history) - 1 <= 2 * CRITICAL_SHARE


async def test_a_write_that_was_refused_by_rate_is_not_read_for_again() -> None:
    world = World(concurrency=1)
    world.ehr.answers = [Retry(Reason.RATE_LIMITED)]
    world.ehr.resources["A"] = (1, revision_of(1, 1), "")
    world.accept(change(5))
    await world.live()
    assert world.ehr.history == [("A", revision_of(1, 5))]
    assert (world.ehr.read_count, world.ehr.sent_count) == (1, 2)


async def test_what_somebody_wrote_during_the_pause_is_not_overwritten() -> None:
    world = World(concurrency=1)
    world.ehr.answers = [Retry(Reason.RATE_LIMITED)]
    world.ehr.resources["A"] = (1, revision_of(1, 1), "")
    world.accept(change(5))
    await world.run()
    world.read_outcomes()
    world.ehr.resources["A"] = (2, revision_of(1, 9), "")
    world.clock.now += 60_000
    await world.live(most=3)
    assert world.ehr.history == []


def throttle_at(clock: Clock, most: int = 4) -> Throttle:
    return Throttle(AdaptiveLimiter(most), ConsecutiveBreaker(threshold=1), 1_000.0, 5, clock)


def test_as_many_start_together_as_the_rate_has_turns_and_the_last_of_them_are_kept_for_what_is_critical() -> None:
    clock = Clock()
    throttle = Throttle(AdaptiveLimiter(64, first=64), ConsecutiveBreaker(), 100.0, 5, clock)
    admitted = [throttle.admits(clock(), begun, begun) for begun in range(12)]
    assert admitted == [Admits.ANY] * 5 + [Admits.CRITICAL] * 5 + [Admits.NOTHING] * 2
    assert throttle.admits(clock(), 7, 7, spent=True) is Admits.ANY


def test_what_was_not_asked_says_nothing_of_how_fast_or_whether_the_destination_answers() -> None:
    clock = Clock()
    throttle = throttle_at(clock)
    answered = Verdict(OutcomeKind.CONFIRMED, Reason.NONE, took_ms=3_000, asked=2)
    unasked = Verdict(OutcomeKind.CONFIRMED, Reason.ALREADY_THERE)
    for _ in range(200):
        clock.now += 3_000
        throttle.learn(b"A", unasked, 0)
        throttle.learn(b"A", answered, 0)
    assert throttle.limiter.allowed == 4
    throttle.learn(b"A", Verdict(OutcomeKind.FAILED, Reason.CONNECTION, asked=1), 0)
    assert throttle.breaker.is_open
    throttle.learn(b"A", unasked, 0)
    assert throttle.breaker.is_open
