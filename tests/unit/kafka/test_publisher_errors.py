"""The publisher where there is no broker: it fails in time, with a bounded reason, and it never waits for ever."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.kafka.loop_publisher import LoopPublisher
from pipeline.kafka.producer import OutRecord, Publisher, PublishError, PublishFailed
from pipeline.settings.sections.kafka import KafkaSettings

RECORD = OutRecord("landing.bed", b"key", b"value")


@pytest.fixture(params=[Publisher, LoopPublisher])
async def publisher(request: pytest.FixtureRequest) -> AsyncIterator[Publisher]:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        settings = KafkaSettings(bootstrap_servers=f"127.0.0.1:{unused.getsockname()[1]}", delivery_timeout_s=1)
        made: Publisher = request.param(settings, max_records=10, max_bytes=10_000)
        yield made
        await made.close(0.1)


def reason_of(results: list[object]) -> list[object]:
    return [result.reason if isinstance(result, PublishFailed) else result for result in results]


async def test_without_a_broker_a_record_fails_within_the_delivery_timeout(publisher: Publisher) -> None:
    async with asyncio.timeout(10):
        with pytest.raises(PublishFailed) as caught:
            await publisher.publish([RECORD])
    assert caught.value.reason is PublishError.TIMED_OUT
    assert publisher.pressure() == 0


async def test_what_exceeds_the_bound_waits_its_turn_and_then_fails(publisher: Publisher) -> None:
    first = asyncio.create_task(publisher.publish([RECORD] * 10))
    await asyncio.sleep(0)
    assert publisher.pressure() == 1
    async with asyncio.timeout(10):
        results = await asyncio.gather(first, publisher.publish([RECORD]), return_exceptions=True)
    reasons = reason_of(list(results))
    assert reasons[0] is PublishError.TIMED_OUT
    assert reasons[1] in (PublishError.QUEUE_FULL, PublishError.TIMED_OUT)
    assert publisher.pressure() == 0


async def test_a_cancelled_wait_takes_no_room(publisher: Publisher) -> None:
    first = asyncio.create_task(publisher.publish([RECORD] * 10))
    waiting = asyncio.create_task(publisher.publish([RECORD] * 5))
    await asyncio.sleep(0)
    waiting.cancel()
    async with asyncio.timeout(10):
        await asyncio.gather(first, waiting, return_exceptions=True)
    assert publisher.pressure() == 0


async def test_a_batch_above_the_whole_bound_is_refused_at_once(publisher: Publisher) -> None:
    for batch in ([RECORD] * 11, [OutRecord("landing.bed", None, b"x" * 10_000)]):
        with pytest.raises(PublishFailed) as caught:
            await publisher.publish(batch)
        assert caught.value.reason is PublishError.TOO_LARGE


async def test_close_ends_every_wait_and_takes_nothing_more(publisher: Publisher) -> None:
    waiting = [asyncio.create_task(publisher.publish([RECORD] * 6)) for _ in range(3)]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await publisher.close(0.1)
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert set(reason_of(list(results))) <= {PublishError.CLOSED, PublishError.TIMED_OUT}
    with pytest.raises(PublishFailed) as caught:
        await publisher.publish([RECORD])
    assert caught.value.reason is PublishError.CLOSED


async def test_nothing_to_publish_is_done_at_once(publisher: Publisher) -> None:
    assert list(await publisher.publish([])) == []


class Client:
    """librdkafka's part: takes records in the order of the calls, and acknowledges when it is told to."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self._reports: list[Callable[[object, object], None]] = []

    def produce(self, topic: str, *, value: bytes, on_delivery: Callable[[object, object], None], **_: object) -> None:
        self.taken.append(value)
        self._reports.append(on_delivery)

    def acknowledge(self) -> None:
        reports, self._reports = self._reports, []
        for number, report in enumerate(reports):
            report(None, SimpleNamespace(partition=lambda: 0, offset=lambda at=number: at, timestamp=lambda: (1, 0)))

    def poll(self, _: float) -> None:
        time.sleep(0.05)

    def flush(self, _: float) -> int:
        return 0

    def purge(self) -> None:
        """Nothing waits here."""


async def test_under_back_pressure_records_go_out_in_the_order_of_the_calls(publisher: Publisher) -> None:
    """A call that finds room as an earlier one is about to be let in does not overtake it."""
    client = Client()
    publisher._producer = client  # type: ignore[misc, assignment]

    def call(number: int, records: int) -> "asyncio.Task[Any]":
        return asyncio.create_task(publisher.publish([OutRecord("landing.bed", b"k", b"%d" % number)] * records))

    calls = [call(number, 6) for number in range(2)]
    await asyncio.sleep(0)
    assert client.taken == [b"0"] * 6, "there is room for ten"
    for number in range(2, 5):
        client.acknowledge()
        publisher._hand_back()
        calls.append(call(number, 4))
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        while not all(each.done() for each in calls):
            client.acknowledge()
            await asyncio.sleep(0.01)
    numbers = [int(value) for value in client.taken]
    assert numbers == sorted(numbers)
    assert publisher.pressure() == 0


def test_a_record_never_shows_what_it_holds() -> None:
    assert "value" not in repr(RECORD)
    assert "key" not in repr(RECORD)
