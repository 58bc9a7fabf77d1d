"""What an operator puts into force is in the audit log, in the same publication, and the log stays whole."""

import itertools
import time
from typing import Final, Protocol

import pytest
from confluent_kafka.admin import AdminClient

from pipeline import topology
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Control
from pipeline.formats.avro.codec import Codec
from pipeline.kafka import admin
from pipeline.kafka.client import KafkaUnavailable
from pipeline.kafka.reader import read_topic
from pipeline.kafka.specs import load_specs
from pipeline.ops.audit import AuditFilter, read_entries, show, verify_all
from pipeline.ops.topics import KafkaTopics
from pipeline.resources import topics_dir
from pipeline.roles.operator_log import epoch_entries
from pipeline.roles.policies import apply_policy, load_policy
from pipeline.settings import KafkaSettings, Settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

NOW: Final = Millis(1_700_000_000_000)
PREFIXES: Final = (f"o{time.time_ns():x}-{number}." for number in itertools.count())
CODEC: Final = Codec.shipped()
ACTOR: Final = "operator:rosa"
DELETED_S: Final = 30.0


class HasBootstrap(Protocol):
    @property
    def bootstrap(self) -> str: ...


@pytest.fixture
def settings(broker: HasBootstrap) -> Settings:
    """All topics, under a prefix that no other test uses."""
    kafka = KafkaSettings(
        bootstrap_servers=broker.bootstrap, topic_prefix=next(PREFIXES), replication_factor=1, min_insync_replicas=1
    )
    admin.apply(kafka, load_specs(topics_dir(), []), CODEC, "test", NOW)
    return Settings(kafka=kafka)


def test_a_policy_and_a_next_epoch_are_entries_of_the_operators_chain(settings: Settings) -> None:
    policy = load_policy()
    told = apply_policy(settings, CODEC, policy, ACTOR, "the first rules", NOW)
    assert told == len(topology.LANDING) * topology.ENTITY_PARTITIONS
    landing = topology.LANDING.values()
    orders = [CODEC.decode(message.value) for topic in landing for message in read_topic(settings.kafka, topic)]
    assert len(orders) == told
    assert all(isinstance(order, Control) for order in orders)

    made_anew(settings.kafka, "landing.bed")
    specs = load_specs(topics_dir(), [])
    refused = admin.apply(settings.kafka, specs, CODEC, ACTOR, NOW)
    assert [problem.topic for problem in refused.refused] == [topology.topic("landing.bed", settings.kafka.topic_prefix)]
    applied = admin.apply(settings.kafka, specs, CODEC, ACTOR, NOW, new_epoch=True, told=epoch_entries(settings, CODEC))
    assert [record.epoch for record in applied.recorded] == [2]
    assert (
        admin.apply(settings.kafka, specs, CODEC, ACTOR, NOW, new_epoch=True, told=epoch_entries(settings, CODEC)).recorded == ()
    )

    entries = list(read_entries(KafkaTopics(settings.kafka), CODEC))
    shown = show(entries, AuditFilter(chain="operator/"))
    assert [(each.chain, each.actor, each.action, each.subject) for each in shown] == [
        ("operator/rosa", ACTOR, "policy.applied", policy.version),
        ("operator/rosa", ACTOR, "epoch.new", "landing.bed"),
    ]
    assert shown[0].reason == "the first rules"
    assert shown[1].detail["epoch"] == "2"
    assert verify_all(entries).whole


def test_a_policy_that_kafka_does_not_take_is_told_as_such() -> None:
    nowhere = KafkaSettings(bootstrap_servers="127.0.0.1:1", topic_prefix=next(PREFIXES))
    with pytest.raises(KafkaUnavailable):
        apply_policy(Settings(kafka=nowhere), CODEC, load_policy(), ACTOR, "", NOW)


def made_anew(kafka: KafkaSettings, name: str) -> None:
    """Delete a topic: `apply` makes it again, with another id."""
    client = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    full = topology.topic(name, kafka.topic_prefix)
    for answer in client.delete_topics([full]).values():
        answer.result(DELETED_S)
    deadline = time.monotonic() + DELETED_S
    while full in client.list_topics(timeout=10).topics:
        assert time.monotonic() < deadline, "the topic is gone within its bound"
        time.sleep(0.05)
