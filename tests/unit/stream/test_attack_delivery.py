"""Attacks on the delivery: a slow rate, and a destination that fences nothing."""

import asyncio

import pytest
from msgspec.structs import replace

from pipeline.destinations.fhir.build import Builder
from pipeline.destinations.fhir.profile import load_profile
from pipeline.destinations.protocol import Confirmed, Current, Outcome, Request
from pipeline.domain.identifiers import Revision, revision_of
from pipeline.stream.writing.bodies import Bodies
from tests.support.changes import change
from tests.unit.stream.test_delivery import A, World

KEY = b"t1|bed|MAIN|B1"
DIGEST_KEY = b"a key for tests, of 32 bytes....."


def current(etag: str | None, size: int = 0) -> Current:
    return Current("r1", etag, {"photo": "x" * size}, Revision(1), "0" * 16)


def test_a_body_that_no_version_would_discard_is_not_kept() -> None:
    """A write made from it would undo what a clinician changed in the meantime."""
    bodies = Bodies()
    bodies.keep(KEY, 0, current('W/"1"'))
    assert bodies.get(KEY) is not None
    bodies.keep(KEY, 0, current(None))
    assert bodies.get(KEY) is None


def test_bodies_are_bounded_by_number_and_by_bytes() -> None:
    bodies = Bodies(max_bodies=5, max_bytes=10_000)
    for number in range(20):
        bodies.keep(b"small %d" % number, 0, current('W/"1"'))
    assert len(bodies) == 5
    for number in range(20):
        bodies.keep(b"large %d" % number, 1, current('W/"1"', 3_000))
    assert len(bodies) == 3
    assert bodies.get(b"large 19") is not None
    bodies.keep(b"huge", 0, current('W/"1"', 20_000))
    assert bodies.get(b"huge") is None
    bodies.keep(KEY, 0, current('W/"1"'))
    bodies.forget_all((1,))
    assert len(bodies) == 1
    bodies.forget(KEY)
    assert (len(bodies), bodies._bytes) == (0, 0)


@pytest.mark.parametrize(("fence", "etag"), [("if-match", 'W/"7"'), ("none", None)])
def test_a_destination_without_a_fence_tells_no_version(fence: str, etag: str | None) -> None:
    profile = load_profile("sekmet-replica")
    builder = Builder(replace(profile, fence=fence), DIGEST_KEY)
    assert builder.current_of({"resourceType": "Location", "id": "r1"}, 'W/"7"').etag == etag


async def test_a_write_that_waited_while_its_partition_went_and_came_back_is_read_anew_before_it_is_sent() -> None:
    """In between another worker wrote something newer; at a destination that fences nothing only we can know."""
    world, turn = World(), asyncio.Event()

    def unfenced(request: Request) -> Outcome:
        accepted = request.write.accepted
        world.ehr.resources[request.target] = (1, accepted.revision, accepted.state_hash)
        world.ehr.history.append((request.target, accepted.revision))
        return Confirmed(request.target, None, accepted.revision)

    async def pace(critical: bool) -> None:
        if world.ehr.read_count == 1 and not turn.is_set():
            await turn.wait()

    world.ehr.apply = unfenced  # type: ignore[method-assign]
    world.delivery.throttle.pace = pace  # type: ignore[method-assign]
    world.accept(change(5))
    running = asyncio.create_task(world.delivery.run())
    while world.ehr.read_count < 1:
        await asyncio.sleep(0)
    world.delivery.revoked((0,))
    world.ehr.resources["A"] = (1, revision_of(1, 6), "6" * 16)
    world.delivery.assigned(0, [(A, world.table.rows[A])])
    turn.set()
    await asyncio.sleep(0.01)
    await world.delivery.stop(10)
    await running
    assert world.ehr.history == [], "an older revision was written over a newer one"


async def test_after_the_stop_nothing_is_sent_by_what_still_waits() -> None:
    """The worker leaves its group then without being told that its partitions went, and another one writes."""
    world, turn, paced = World(), asyncio.Event(), asyncio.Event()

    async def pace(critical: bool) -> None:
        if world.ehr.read_count == 1:
            paced.set()
            await turn.wait()

    world.delivery.throttle.pace = pace  # type: ignore[method-assign]
    world.accept(change(5))
    running = asyncio.create_task(world.delivery.run())
    await asyncio.wait_for(paced.wait(), 10)
    await world.delivery.stop(0.01)
    await running
    turn.set()
    await asyncio.sleep(0.01)
    assert world.ehr.sent_count == 0
