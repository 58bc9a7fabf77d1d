"""Group commit: what comes together goes together, and no message's end depends on its company."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import pytest

from pipeline.kafka.groups import Groups, Stages
from pipeline.kafka.producer import OutRecord, Position, PublishError, PublishFailed

BOUND_S = 30.0


@dataclass
class Publisher:
    """Acknowledges all; `before` sees each call's records ahead."""

    calls: list[list[bytes]] = field(default_factory=list)
    before: Callable[[list[bytes]], Awaitable[None]] | None = None

    async def publish(self, records: Sequence[OutRecord]) -> Sequence[Position]:
        values = [record.value or b"" for record in records]
        self.calls.append(values)
        if self.before is not None:
            await self.before(values)
        await asyncio.sleep(0)
        return [Position(record.topic, 0, 10 * len(self.calls) + n, 0) for n, record in enumerate(records)]


def stages(name: str, events: int = 1) -> Stages:
    def landing(at: Position) -> list[OutRecord]:
        return [OutRecord("landing.bed", b"k", f"{name}-event{n}@{at.offset}".encode()) for n in range(events)]

    return Stages(OutRecord("raw.mllp", b"k", f"{name}-raw".encode()), landing, OutRecord("intake.receipts", b"k", name.encode()))


async def carried(groups: Groups, *names: str) -> list[BaseException | None]:
    async with asyncio.timeout(BOUND_S):
        return await asyncio.gather(*(groups.carry(stages(name)) for name in names), return_exceptions=True)


async def test_messages_that_come_together_share_each_stage_and_keep_their_order() -> None:
    publisher = Publisher()
    assert await carried(Groups(publisher), "a", "b", "c") == [None] * 3
    assert publisher.calls == [
        [b"a-raw", b"b-raw", b"c-raw"],
        [b"a-event0@10", b"b-event0@11", b"c-event0@12"],
        [b"a", b"b", b"c"],
    ]


async def test_what_comes_while_all_groups_are_under_way_makes_the_next_one() -> None:
    held = asyncio.Event()

    async def hold(values: list[bytes]) -> None:
        if values == [b"a-raw"]:
            await held.wait()

    publisher = Publisher(before=hold)
    groups = Groups(publisher, max_groups=1)
    first = asyncio.create_task(groups.carry(stages("a")))
    while not publisher.calls:
        await asyncio.sleep(0)
    others = [asyncio.create_task(groups.carry(stages(name))) for name in ("b", "c")]
    for _ in range(10):
        await asyncio.sleep(0)
    assert publisher.calls == [[b"a-raw"]]
    held.set()
    async with asyncio.timeout(BOUND_S):
        await asyncio.gather(first, *others)
    assert [b"b-raw", b"c-raw"] in publisher.calls


async def test_a_message_that_can_not_be_published_fails_alone_and_no_raw_is_sent_twice() -> None:
    async def refuse(values: list[bytes]) -> None:
        if any(value.startswith(b"bad-event") for value in values):
            raise PublishFailed(PublishError.TOO_LARGE)

    publisher = Publisher(before=refuse)
    good, bad, other = await carried(Groups(publisher), "good", "bad", "other")
    assert (good, other) == (None, None)
    assert isinstance(bad, PublishFailed)
    sent = [value for call in publisher.calls for value in call]
    assert sent.count(b"good-raw") == sent.count(b"bad-raw") == 1
    assert b"good" in sent
    assert b"bad" not in sent


async def test_a_stage_that_does_not_end_holds_up_only_its_own_group() -> None:
    away = asyncio.Event()

    async def hang(values: list[bytes]) -> None:
        if any(value.startswith(b"stuck-event") for value in values):
            await away.wait()

    publisher = Publisher(before=hang)
    groups = Groups(publisher, max_groups=1, slow_s=0.01)
    stuck = asyncio.create_task(groups.carry(stages("stuck")))
    while len(publisher.calls) < 2:
        await asyncio.sleep(0)
    assert await carried(groups, "a", "b") == [None, None]
    assert await carried(groups, "c", "d") == [None, None]
    assert [b"c-raw"] in publisher.calls, "no group is made while a stage does not end"
    assert not stuck.done()
    away.set()
    async with asyncio.timeout(BOUND_S):
        await stuck
    assert publisher.calls.count([b"stuck-raw"]) == 1


async def test_behind_a_slow_broker_nothing_waits_for_a_group_and_what_is_under_way_is_not_sent_twice() -> None:
    slow = asyncio.Event()

    async def hold(values: list[bytes]) -> None:
        if b"a-raw" in values:
            await slow.wait()

    publisher = Publisher(before=hold)
    groups = Groups(publisher, max_groups=1, slow_s=0.01)
    first = asyncio.create_task(groups.carry(stages("a")))
    while not publisher.calls:
        await asyncio.sleep(0)
    assert await carried(groups, "b", "c") == [None, None]
    assert [b"b-raw"] in publisher.calls, "each by itself"
    slow.set()
    async with asyncio.timeout(BOUND_S):
        await first
    assert publisher.calls.count([b"a-raw"]) == 1


async def test_no_group_is_made_while_the_broker_is_not_quick() -> None:
    publisher = Publisher()
    assert await carried(Groups(publisher, is_quick=lambda: False), "a", "b") == [None, None]
    assert publisher.calls[:2] == [[b"a-raw"], [b"b-raw"]]


async def test_a_call_that_was_cancelled_while_it_waited_publishes_nothing() -> None:
    held = asyncio.Event()

    async def hold(values: list[bytes]) -> None:
        await held.wait()

    publisher = Publisher(before=hold)
    groups = Groups(publisher, max_groups=1)
    first = asyncio.create_task(groups.carry(stages("a")))
    while not publisher.calls:
        await asyncio.sleep(0)
    second = asyncio.create_task(groups.carry(stages("b")))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    held.set()
    async with asyncio.timeout(BOUND_S):
        await first
    for _ in range(10):
        await asyncio.sleep(0)
    assert all(b"b-raw" not in call for call in publisher.calls)


async def test_a_group_is_bounded_and_a_fault_reaches_each_of_its_messages() -> None:
    publisher = Publisher()
    assert await carried(Groups(publisher, max_messages=2), "a", "b", "c") == [None] * 3
    assert max(map(len, publisher.calls)) == 2

    async def fault(_: list[bytes]) -> None:
        raise RuntimeError

    assert all(isinstance(each, RuntimeError) for each in await carried(Groups(Publisher(before=fault)), "a", "b"))
