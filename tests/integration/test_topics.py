"""Topics, publishing and reading on a real broker."""

import asyncio
import itertools
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Final, Protocol

import msgspec
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from pipeline import topology
from pipeline.domain.identifiers import Millis
from pipeline.formats.avro.codec import Codec
from pipeline.kafka import admin
from pipeline.kafka.admin import ProblemKind
from pipeline.kafka.client import KafkaUnavailable, Message
from pipeline.kafka.producer import OutRecord, Publisher, PublishError, PublishFailed
from pipeline.kafka.reader import Follower, LogTruncated, begin_offsets, end_offsets, read_topic
from pipeline.kafka.specs import TopicSpec, load_specs
from pipeline.local.servers.broker import Broker
from pipeline.resources import topics_dir
from pipeline.settings.sections.kafka import KafkaSettings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

NOW: Final = Millis(1_700_000_000_000)
PREFIXES: Final = (f"t{time.time_ns():x}-{number}." for number in itertools.count())
CODEC: Final = Codec.shipped()


class HasBootstrap(Protocol):
    @property
    def bootstrap(self) -> str: ...


@pytest.fixture
def kafka(broker: HasBootstrap) -> KafkaSettings:
    """Settings of a prefix that no other test uses."""
    return KafkaSettings(
        bootstrap_servers=broker.bootstrap, topic_prefix=next(PREFIXES), replication_factor=1, min_insync_replicas=1
    )


@pytest.fixture
async def publisher(kafka: KafkaSettings) -> AsyncIterator[Publisher]:
    made = Publisher(kafka)
    yield made
    await made.close(5)


def few() -> list[TopicSpec]:
    """Enough of the topics: a landing topic, its epochs, and a changelog."""
    names = {"landing.bed", "epochs", topology.GATE_CHANGELOG}
    return [spec for spec in load_specs(topics_dir(), []) if spec.name in names]


def broker_admin(kafka: KafkaSettings) -> AdminClient:
    """To be kept in a variable while an answer is awaited: answers of a client that is gone never come."""
    return AdminClient({"bootstrap.servers": kafka.bootstrap_servers})


def delete(kafka: KafkaSettings, name: str) -> None:
    client = broker_admin(kafka)
    for answer in client.delete_topics([name]).values():
        answer.result(30)
    wait_until(lambda: name not in client.list_topics(timeout=10).topics)


def wait_until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not within its bound"
        time.sleep(0.05)


def made(kafka: KafkaSettings, partitions: int = 3, name: str = "landing.bed") -> str:
    """A topic to publish to; its name on the map."""
    spec = next(spec for spec in few() if spec.name == "landing.bed")
    spec = msgspec.structs.replace(spec, name=name, partitions=partitions)
    admin.create(kafka, [spec])
    return name


def test_every_declared_topic_is_made_and_then_nothing_is_left_to_do(kafka: KafkaSettings) -> None:
    specs = load_specs(topics_dir(), ["ehr"])
    assert len(admin.plan(kafka, specs).create) == len(specs)
    assert {problem.kind for problem in admin.check(kafka, specs, CODEC)} == {ProblemKind.MISSING}
    applied = admin.apply(kafka, specs, CODEC, "test", NOW)
    assert applied.refused == ()
    assert {record.epoch for record in applied.recorded} == {1}
    assert len(applied.recorded) == len(topology.LANDING)
    assert admin.check(kafka, specs, CODEC) == []
    again = admin.apply(kafka, specs, CODEC, "test", NOW)
    assert (again.plan.create, again.plan.change, again.recorded) == ((), (), ())
    assert len(again.plan.unchanged) == len(specs)
    epochs = admin.read_epochs(kafka, CODEC)
    assert set(epochs) == {topology.topic(name, kafka.topic_prefix) for name in topology.LANDING.values()}


def test_a_topic_deleted_and_made_again_is_refused_until_an_operator_says_so(kafka: KafkaSettings) -> None:
    specs = few()
    admin.apply(kafka, specs, CODEC, "test", NOW)
    name = topology.topic("landing.bed", kafka.topic_prefix)
    delete(kafka, name)
    refused = admin.apply(kafka, specs, CODEC, "test", NOW)
    assert [problem.kind for problem in refused.refused] == [ProblemKind.UNKNOWN_ID]
    assert [problem.kind for problem in admin.check(kafka, specs, CODEC)] == [ProblemKind.UNKNOWN_ID]
    assert admin.read_epochs(kafka, CODEC)[name].epoch == 1
    accepted = admin.apply(kafka, specs, CODEC, "test", NOW, new_epoch=True)
    assert [record.epoch for record in accepted.recorded] == [2]
    assert admin.check(kafka, specs, CODEC) == []
    assert admin.read_epochs(kafka, CODEC)[name].epoch == 2


async def test_a_landing_topic_with_records_and_no_epoch_is_refused(kafka: KafkaSettings, publisher: Publisher) -> None:
    name = made(kafka, partitions=topology.ENTITY_PARTITIONS)
    await publisher.publish([OutRecord(name, b"k", b"v")])
    applied = await asyncio.to_thread(admin.apply, kafka, few(), CODEC, "test", NOW)
    assert [problem.topic for problem in applied.refused] == [topology.topic(name, kafka.topic_prefix)]
    assert applied.recorded == ()


def test_a_wrong_partition_count_refuses_everything(kafka: KafkaSettings) -> None:
    made(kafka, partitions=3)
    applied = admin.apply(kafka, few(), CODEC, "test", NOW)
    assert [problem.kind for problem in applied.refused] == [ProblemKind.PARTITIONS]
    existing = broker_admin(kafka).list_topics(timeout=10).topics
    assert topology.topic("epochs", kafka.topic_prefix) not in existing
    assert ProblemKind.PARTITIONS in {problem.kind for problem in admin.check(kafka, few(), CODEC)}


def test_a_topic_made_by_hand_is_brought_to_its_declaration(kafka: KafkaSettings) -> None:
    name = topology.topic(topology.GATE_CHANGELOG, kafka.topic_prefix)
    client = broker_admin(kafka)
    for answer in client.create_topics([NewTopic(name, num_partitions=8, replication_factor=1)]).values():
        answer.result(30)
    specs = [spec for spec in few() if spec.name == topology.GATE_CHANGELOG]
    wait_until(lambda: name in client.list_topics(timeout=10).topics)
    wrong = admin.check(kafka, specs, CODEC)
    assert {problem.kind for problem in wrong} == {ProblemKind.CONFIG}
    assert any("cleanup.policy" in problem.detail for problem in wrong)
    applied = admin.apply(kafka, specs, CODEC, "test", NOW)
    assert {"cleanup.policy", "min.compaction.lag.ms"} <= {change.name for change in applied.plan.change}
    wait_until(lambda: not admin.check(kafka, specs, CODEC))


def test_a_broker_that_does_not_answer_is_told_and_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "METADATA_TIMEOUT_S", 1.0)
    with pytest.raises(KafkaUnavailable):
        admin.plan(KafkaSettings(bootstrap_servers="127.0.0.1:1"), few())


def records(topic: str, count: int, size: int = 200) -> list[OutRecord]:
    return [OutRecord(topic, f"default|bed|MAIN|{number}".encode(), b"x" * size) for number in range(count)]


async def test_publish_returns_where_each_record_lies_stamped_by_the_broker(kafka: KafkaSettings, publisher: Publisher) -> None:
    name = made(kafka)
    before = time.time() * 1000
    sent = [*records(name, 50), OutRecord(name, b"k", b"named", partition=2, headers=(("reason", b"TEST"),))]
    positions = await publisher.publish(sent)
    read = {(item.partition, item.offset): item for item in await asyncio.to_thread(list, read_topic(kafka, name))}
    assert len(read) == len(sent)
    for record, position in zip(sent, positions, strict=True):
        item = read[position.partition, position.offset]
        assert (item.topic, item.key, item.value, item.headers) == (name, record.key, record.value, record.headers)
        assert item.timestamp_ms == position.timestamp_ms
        assert abs(position.timestamp_ms - before) < 60_000
    assert positions[-1].partition == 2


async def test_records_of_one_key_lie_in_the_order_of_the_calls(kafka: KafkaSettings, publisher: Publisher) -> None:
    name = made(kafka)
    calls = [publisher.publish([OutRecord(name, b"one", str(number).encode())]) for number in range(200)]
    await asyncio.gather(*calls)
    values = [int(item.value or b"") for item in await asyncio.to_thread(list, read_topic(kafka, name))]
    assert values == sorted(values)
    assert publisher.pressure() == 0


async def test_callers_beyond_the_bound_wait_and_all_get_through(kafka: KafkaSettings) -> None:
    name = made(kafka)
    narrow = Publisher(kafka, max_records=20)
    try:
        async with asyncio.timeout(30):
            done = await asyncio.gather(*(narrow.publish(records(name, 15)) for _ in range(30)))
    finally:
        await narrow.close(5)
    assert sum(len(positions) for positions in done) == 450
    assert sum((await asyncio.to_thread(end_offsets, kafka, name)).values()) == 450


async def test_a_record_above_the_topic_s_limit_fails_its_batch_and_nothing_else(
    kafka: KafkaSettings, publisher: Publisher
) -> None:
    name = made(kafka)
    great = OutRecord(name, b"k", os.urandom(2_000_000))
    results = await asyncio.gather(publisher.publish([great]), publisher.publish(records(name, 5)), return_exceptions=True)
    assert isinstance(results[0], PublishFailed)
    assert results[0].reason is PublishError.TOO_LARGE
    assert not isinstance(results[1], BaseException)


async def test_close_delivers_what_was_taken(kafka: KafkaSettings) -> None:
    name = made(kafka)
    publisher = Publisher(kafka)
    task = asyncio.create_task(publisher.publish(records(name, 1_000)))
    await asyncio.sleep(0)
    await publisher.close(10)
    assert len(await task) == 1_000


async def test_a_killed_broker_loses_nothing_that_was_acknowledged_and_publishing_goes_on(own_broker: Broker) -> None:
    kafka = KafkaSettings(
        bootstrap_servers=own_broker.bootstrap,
        topic_prefix=next(PREFIXES),
        replication_factor=1,
        min_insync_replicas=1,
        delivery_timeout_s=180,  # the restart of a broker on a busy machine
    )
    name = made(kafka)
    publisher = Publisher(kafka)
    acknowledged: set[bytes] = set()

    async def keep_publishing(sender: int, stop: asyncio.Event) -> None:
        for number in itertools.count():
            value = f"{sender}/{number}".encode()
            await publisher.publish([OutRecord(name, value, value)])
            acknowledged.add(value)
            if stop.is_set():
                return

    stop = asyncio.Event()
    try:
        async with asyncio.timeout(240), asyncio.TaskGroup() as group:
            for sender in range(4):
                group.create_task(keep_publishing(sender, stop))
            while len(acknowledged) < 200:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(own_broker.kill)
            before = len(acknowledged)
            await asyncio.to_thread(own_broker.start)
            while len(acknowledged) < before + 200:
                await asyncio.sleep(0.01)
            stop.set()
    finally:
        await publisher.close(10)
    values = [message.value for message in await asyncio.to_thread(list, read_topic(kafka, name))]
    assert acknowledged <= set(values)
    assert len(values) == len(set(values)), "an idempotent producer wrote a record twice"


async def test_ten_thousand_records_a_second_get_through(kafka: KafkaSettings, publisher: Publisher) -> None:
    """A floor far below what a quiet machine does, so that it says something on a busy one too."""
    name = made(kafka)
    await publisher.publish(records(name, 100))
    started = time.perf_counter()
    await asyncio.gather(*(publisher.publish(records(name, 500, 500)) for _ in range(40)))
    rate = 20_000 / (time.perf_counter() - started)
    print(f"published {rate:.0f} records/s")  # noqa: T201 - the measured figure, with -s
    assert rate > 2_000


def fill(kafka: KafkaSettings, name: str, sent: Sequence[OutRecord]) -> None:
    async def publish() -> None:
        publisher = Publisher(kafka)
        await publisher.publish(sent)
        await publisher.close(5)

    asyncio.run(publish())


@pytest.fixture
def filled(kafka: KafkaSettings) -> str:
    """A topic of three partitions: ten records, four records, none."""
    name = made(kafka)
    fill(kafka, name, [OutRecord(name, b"k", str(n).encode(), 0) for n in range(10)])
    fill(kafka, name, [OutRecord(name, b"k", str(n).encode(), 1) for n in range(4)])
    return name


def offsets(found: Iterator[Message], partition: int) -> list[int]:
    return [message.offset for message in found if message.partition == partition]


def test_reading_ends_where_the_log_did_and_passes_over_empty_partitions(kafka: KafkaSettings, filled: str) -> None:
    assert end_offsets(kafka, filled) == {0: 10, 1: 4, 2: 0}
    reading = read_topic(kafka, filled)
    fill(kafka, filled, [OutRecord(filled, b"k", b"late", 0)])
    assert len(list(reading)) == 14


def test_reading_begins_and_ends_where_it_is_told(kafka: KafkaSettings, filled: str) -> None:
    assert offsets(read_topic(kafka, filled, start={0: 3}, end={0: 7}), 0) == [3, 4, 5, 6]
    assert offsets(read_topic(kafka, filled, start={0: 10}), 0) == []
    assert offsets(read_topic(kafka, filled, start={0: 3}), 1) == [0, 1, 2, 3]
    assert offsets(read_topic(kafka, filled, end={0: 0, 1: 99}), 1) == [0, 1, 2, 3]


def test_records_that_are_gone_are_told_and_never_passed_over(kafka: KafkaSettings, filled: str) -> None:
    client = broker_admin(kafka)
    for answer in client.delete_records([TopicPartition(topology.topic(filled, kafka.topic_prefix), 0, 6)]).values():
        answer.result(30)
    assert begin_offsets(kafka, filled) == {0: 6, 1: 0, 2: 0}
    assert offsets(read_topic(kafka, filled), 0) == [6, 7, 8, 9]
    with pytest.raises(LogTruncated) as caught:
        read_topic(kafka, filled, start={0: 2})
    assert (caught.value.wanted, caught.value.begins) == (2, 6)


def test_reading_a_topic_that_is_not_there_is_an_error_and_not_an_empty_answer(kafka: KafkaSettings) -> None:
    with pytest.raises(KafkaUnavailable):
        read_topic(kafka, "landing.bed")


def test_a_follower_catches_up_and_then_goes_on(kafka: KafkaSettings, filled: str) -> None:
    seen: list[Message] = []
    follower = Follower(kafka, [filled], seen.append).start()
    assert follower.caught_up.wait(20)
    assert len(seen) == 14
    fill(kafka, filled, [OutRecord(filled, b"k", b"new", 2)])
    wait_until(lambda: len(seen) == 15)
    follower.stop()
    assert follower.ended.is_set()
    assert follower.failure is None


def test_a_follower_begins_at_a_time_and_misses_nothing_after_it(kafka: KafkaSettings, filled: str) -> None:
    after = max(message.timestamp_ms for message in read_topic(kafka, filled)) + 1
    wait_until(lambda: time.time() * 1000 > after)
    fill(kafka, filled, [OutRecord(filled, b"k", b"new", 0)])
    seen: list[Message] = []
    follower = Follower(kafka, [filled], seen.append, since_ms=after).start()
    assert follower.caught_up.wait(20)
    fill(kafka, filled, [OutRecord(filled, b"k", b"newer", 2)])
    wait_until(lambda: len(seen) == 2)
    follower.stop()
    assert [message.value for message in seen] == [b"new", b"newer"]


def test_a_follower_whose_callback_fails_ends_and_says_so(kafka: KafkaSettings, filled: str) -> None:
    def fail(_: Message) -> None:
        raise ValueError("no")

    follower = Follower(kafka, [filled], fail).start()
    assert follower.ended.wait(20)
    assert isinstance(follower.failure, ValueError)
    assert not follower.caught_up.is_set()


def test_a_follower_may_be_stopped_from_its_own_callback(kafka: KafkaSettings, filled: str) -> None:
    stopped = threading.Event()
    follower: Follower

    def stop(_: Message) -> None:
        follower.stop()
        stopped.set()

    follower = Follower(kafka, [filled], stop)
    follower.start()
    assert stopped.wait(20)
    assert follower.ended.wait(20)
