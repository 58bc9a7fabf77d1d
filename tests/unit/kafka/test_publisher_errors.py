"""The publisher where there is no broker: it fails in time, with a bounded reason, and it never waits for ever."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from pipeline.kafka.producer import OutRecord, Publisher, PublishError, PublishFailed
from pipeline.settings import KafkaSettings

RECORD = OutRecord("landing.bed", b"key", b"value")


@pytest.fixture
async def publisher() -> AsyncIterator[Publisher]:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        settings = KafkaSettings(bootstrap_servers=f"127.0.0.1:{unused.getsockname()[1]}", delivery_timeout_s=1)
        made = Publisher(settings, max_records=10, max_bytes=10_000)
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


def test_a_record_never_shows_what_it_holds() -> None:
    assert "value" not in repr(RECORD)
    assert "key" not in repr(RECORD)
