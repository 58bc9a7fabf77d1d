"""One key, one partition, whoever produces: else two workers would judge one entity."""

import itertools
import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from aiokafka import AIOKafkaProducer  # type: ignore[import-untyped]
from aiokafka.partitioner import DefaultPartitioner  # type: ignore[import-untyped]
from confluent_kafka import Producer

from pipeline import topology
from pipeline.domain.identifiers import EntityKey, partition_of
from pipeline.kafka import admin
from pipeline.kafka.producer import OutRecord, Publisher
from pipeline.kafka.reader import read_topic
from pipeline.kafka.specs import load_specs
from pipeline.local.servers.broker import Broker
from pipeline.resources import topics_dir
from pipeline.settings.sections.kafka import KafkaSettings

KEYS: Final = 1_000
SEED: Final = 20
PRODUCERS: Final = frozenset(
    {
        "pipeline/kafka/producer.py",
        "pipeline/kafka/epochs.py",
        "pipeline/stream/worker/outputs.py",
        "pipeline/local/bench/gate/pace.py",
        "pipeline/local/bench/gate/run.py",
    }
)
"""Files that make a confluent-kafka producer; each takes `KafkaSettings.producer_config`, or names the partition."""
MAKES_PRODUCER: Final = re.compile(r"\b\w*Producer\(")
PREFIXES: Final = (f"p{time.time_ns():x}-{number}." for number in itertools.count())


def keys() -> list[bytes]:
    """Keys as they flow, and such as nobody expects: empty parts aside, any text may stand in an id."""
    chance = random.Random(SEED)
    alphabet = "ABCxyz0189-_ .:|\\äß東🚑"
    made = {
        EntityKey(
            chance.choice(("default", "north")),
            chance.choice(("bed", "patient", "encounter")),
            chance.choice(("MAIN", "SITE-2", "urn:oid:1.2.3")),
            "".join(chance.choices(alphabet, k=chance.randint(1, 24))) + str(number),
        ).encode()
        for number in range(KEYS)
    }
    return sorted(made)


def wanted() -> dict[bytes, int]:
    return {key: partition_of(key, topology.ENTITY_PARTITIONS) for key in keys()}


def test_the_pure_function_agrees_with_what_faust_produces_by() -> None:
    partitions = list(range(topology.ENTITY_PARTITIONS))
    faust = DefaultPartitioner()
    assert {key: faust(key, partitions, partitions) for key in keys()} == wanted()


def test_each_partition_gets_its_share_of_the_keys() -> None:
    found = list(wanted().values())
    assert all(found.count(partition) > KEYS / topology.ENTITY_PARTITIONS / 2 for partition in range(topology.ENTITY_PARTITIONS))


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The broker that SURGELINE_TEST_BOOTSTRAP names, else one for this module."""
    if given := os.environ.get("SURGELINE_TEST_BOOTSTRAP"):
        yield given
        return
    folder: Path = tmp_path_factory.mktemp("partitioner-broker")
    with Broker(folder) as started:
        yield started.bootstrap


@pytest.fixture
def kafka(bootstrap: str) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=bootstrap, topic_prefix=next(PREFIXES), replication_factor=1, min_insync_replicas=1)


@pytest.fixture
def landing(kafka: KafkaSettings) -> str:
    """A landing topic as it is declared; its name on the map."""
    spec = next(spec for spec in load_specs(topics_dir(), []) if spec.name == "landing.bed")
    admin.create(kafka, [spec])
    return spec.name


def where(kafka: KafkaSettings, name: str) -> dict[bytes, int]:
    return {message.key or b"": message.partition for message in read_topic(kafka, name)}


@pytest.mark.integration
@pytest.mark.timeout(120)
async def test_the_publisher_puts_each_key_where_faust_expects_it(kafka: KafkaSettings, landing: str) -> None:
    publisher = Publisher(kafka)
    try:
        await publisher.publish([OutRecord(landing, key, b"v") for key in keys()])
    finally:
        await publisher.close(10)
    assert where(kafka, landing) == wanted()


@pytest.mark.integration
@pytest.mark.timeout(120)
def test_a_plain_producer_with_the_settings_configuration_does_too(kafka: KafkaSettings, landing: str) -> None:
    producer = Producer(kafka.producer_config())
    for key in keys():
        producer.produce(topology.topic(landing, kafka.topic_prefix), key=key, value=b"v")
    assert producer.flush(30) == 0
    assert where(kafka, landing) == wanted()


@pytest.mark.integration
@pytest.mark.timeout(120)
async def test_faust_s_own_producer_does_too(kafka: KafkaSettings, landing: str) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, acks="all")
    await producer.start()
    try:
        for sent in [await producer.send(topology.topic(landing, kafka.topic_prefix), key=key, value=b"v") for key in keys()]:
            await sent
    finally:
        await producer.stop()
    assert where(kafka, landing) == wanted()


def test_no_other_part_makes_a_producer_of_its_own() -> None:
    root = Path(admin.__file__).parents[2]
    found = {str(file.relative_to(root)) for file in (root / "pipeline").rglob("*.py") if MAKES_PRODUCER.search(file.read_text())}
    assert found <= PRODUCERS, "use Publisher, or show here that its keys land in the same partitions"
