"""HTTP in against a real broker: yes means durable, a failure promises nothing, a repeat gets the first answer."""

import asyncio
import hashlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol, cast

import httpx
import pytest

from pipeline.domain.event import EntityType, Event, Provenance
from pipeline.domain.identifiers import partition_of
from pipeline.domain.records import Raw
from pipeline.formats.avro import Codec
from pipeline.kafka import admin
from pipeline.kafka.client import Message
from pipeline.kafka.crypto import RawCipher
from pipeline.kafka.producer import Publisher
from pipeline.kafka.projections import follow_history, follow_receipts, is_current
from pipeline.kafka.reader import end_offsets, read_topic
from pipeline.kafka.receipts import Receipts
from pipeline.kafka.sink import KafkaSink
from pipeline.kafka.specs import load_specs
from pipeline.local.servers.broker import Broker
from pipeline.resources import topics_dir
from pipeline.settings.sections.kafka import KafkaSettings
from pipeline.settings.sections.ways_in import HttpClient, HttpSettings
from pipeline.sources.http.openapi import EXAMPLE, EXAMPLE_DIVERSION
from pipeline.sources.http.source import HttpSource, now_ms
from pipeline.sources.http.tracker import Tracker

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

TOKEN: Final = "a-token-of-north"
CODEC: Final = Codec.shipped()
CIPHER: Final = RawCipher({"key-1": bytes(range(32))}, "key-1")
ACCEPT_TIMEOUT_S: Final = 3.0
PREFIXES: Final = (f"h{time.time_ns():x}-{number}." for number in itertools.count())


class HasBootstrap(Protocol):
    @property
    def bootstrap(self) -> str: ...


@dataclass(frozen=True)
class Role:
    """One running HTTP role."""

    client: httpx.AsyncClient

    async def post(self, body: bytes, key: str, path: str = "/v1/events") -> httpx.Response:
        headers = {"Authorization": f"Bearer {TOKEN}", "Idempotency-Key": key, "Content-Type": "application/json"}
        return await self.client.post(path, content=body, headers=headers, timeout=30)


def http_settings() -> HttpSettings:
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    client = HttpClient(name="board", tenant="north", token_sha256=digest, source_systems=("capacity",))
    return HttpSettings(port=0, clients=(client,))


def settings_for(broker: HasBootstrap) -> KafkaSettings:
    """Settings of a prefix that no other test uses, with its topics made."""
    kafka = KafkaSettings(
        bootstrap_servers=broker.bootstrap,
        topic_prefix=next(PREFIXES),
        replication_factor=1,
        min_insync_replicas=1,
        delivery_timeout_s=10,
    )
    admin.apply(kafka, load_specs(topics_dir(), []), CODEC, "test", now_ms())
    return kafka


@pytest.fixture
def kafka(broker: HasBootstrap) -> KafkaSettings:
    return settings_for(broker)


@asynccontextmanager
async def role(kafka: KafkaSettings) -> AsyncIterator[Role]:
    """The role as `surgeline run http` puts it together, until the block ends."""
    publisher, receipts, tracker = Publisher(kafka), Receipts(now_ms), Tracker({"ehr": frozenset(EntityType)})
    followers = [follow_receipts(kafka, CODEC, receipts, now_ms()), follow_history(kafka, CODEC, tracker, now_ms())]
    sink = KafkaSink(
        publisher,
        CODEC,
        CIPHER,
        receipts,
        ready=lambda: is_current(followers[0]),
        clock=now_ms,
        accept_timeout_s=ACCEPT_TIMEOUT_S,
    )
    source, stop = HttpSource(http_settings(), tracker, ready=sink.ready), asyncio.Event()
    serving = asyncio.create_task(source.run(sink, stop))
    try:
        await _until(lambda: source.port != 0)
        transport = httpx.AsyncHTTPTransport(retries=5)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{source.port}", transport=transport) as client:
            async with asyncio.timeout(60):
                while (await client.get("/readyz")).status_code != 200:
                    assert followers[0].failure is None, type(followers[0].failure).__name__
                    await asyncio.sleep(0.05)
            yield Role(client)
    finally:
        stop.set()
        await asyncio.wait_for(serving, 30)
        for follower in followers:
            await asyncio.to_thread(follower.stop)
        await publisher.close(5)


async def records(kafka: KafkaSettings, topic: str) -> list[Message]:
    return await asyncio.to_thread(lambda: list(read_topic(kafka, topic)))


async def test_202_means_raw_events_and_receipt_are_on_the_broker(kafka: KafkaSettings) -> None:
    body = json.dumps({"events": [EXAMPLE, EXAMPLE_DIVERSION]}, indent=1).encode() + b"\n"
    async with role(kafka) as running:
        answer = await running.post(body, "k-1", "/v1/events:batch")
        assert answer.status_code == 202
        status = await running.client.get(answer.json()["items"][0]["status_url"], headers={"Authorization": f"Bearer {TOKEN}"})
        assert status.json()["state"] == "received"

    (kept,) = await records(kafka, "raw.http")
    raw = CODEC.decode(kept.value)
    assert isinstance(raw, Raw)
    assert CIPHER.open(raw.key_id, raw.identity, raw.ciphertext) == body
    assert b"ICU-12" not in (kept.value or b"")
    for topic, item in (("landing.bed", 0), ("landing.diversion", 1)):
        (landed,) = await records(kafka, topic)
        event = cast(Event, CODEC.decode(landed.value))
        assert event.event_id == answer.json()["items"][item]["event_id"]
        assert event.provenance == Provenance("raw.http", kept.partition, kept.offset)
        partitions = len(await asyncio.to_thread(end_offsets, kafka, topic))
        assert landed.key == event.key.encode()
        assert landed.partition == partition_of(landed.key, partitions)
    assert len(await records(kafka, "intake.receipts")) == 1


async def test_a_repeat_after_a_restart_gets_the_same_bytes_and_another_body_422(kafka: KafkaSettings) -> None:
    body = json.dumps({"events": [EXAMPLE, {}]}).encode()
    async with role(kafka) as running:
        first = await running.post(body, "k-1", "/v1/events:batch")
        assert first.status_code == 207
    async with role(kafka) as running:
        again = await running.post(body, "k-1", "/v1/events:batch")
        assert (again.status_code, again.content) == (207, first.content)
        other = await running.post(json.dumps(EXAMPLE).encode(), "k-1")
        assert other.status_code == 422
        assert other.json()["type"].endswith("idempotency-key-reused")
    assert len(await records(kafka, "landing.bed")) == 1


async def test_equal_requests_at_once_make_one_event(kafka: KafkaSettings) -> None:
    body = json.dumps(EXAMPLE).encode()
    async with role(kafka) as running:
        answers = await asyncio.gather(*(running.post(body, "k-1") for _ in range(10)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert len(await records(kafka, "landing.bed")) == 1


async def test_broker_killed_503_within_the_bound_and_nothing_promised_then_the_repeat_succeeds(own_broker: Broker) -> None:
    kafka = settings_for(own_broker)
    promised = []
    async with role(kafka) as running:
        body = json.dumps(EXAMPLE).encode()
        promised.append((await running.post(body, "before")).json()["event_id"])
        own_broker.kill()
        begun = time.monotonic()
        refused = await running.post(body, "during")
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert time.monotonic() - begun < ACCEPT_TIMEOUT_S + 2
        await asyncio.to_thread(own_broker.start)
        async with asyncio.timeout(60):
            while (answer := await running.post(body, "during")).status_code == 503:
                await asyncio.sleep(float(answer.headers["retry-after"]) / 4)
        assert answer.status_code == 202
        promised.append(answer.json()["event_id"])
    landed = {cast(Event, CODEC.decode(message.value)).event_id for message in await records(kafka, "landing.bed")}
    assert landed == set(promised)


async def _until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)
