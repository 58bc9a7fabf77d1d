"""What an operator puts into force is in the audit log, in the same publication, and the log stays whole."""

import itertools
import time
from typing import Final, Protocol

import msgspec
import pytest
from confluent_kafka.admin import AdminClient

from pipeline import topology
from pipeline.domain.identifiers import NO_REVISION, EntityKey, Millis, partition_of
from pipeline.domain.records import Control, ControlKind
from pipeline.formats.avro.codec import Codec
from pipeline.kafka import admin
from pipeline.kafka.client import KafkaUnavailable
from pipeline.kafka.producer import OutRecord
from pipeline.kafka.reader import read_topic
from pipeline.kafka.specs import load_specs
from pipeline.ops.audit import AuditFilter, read_entries, show, verify_all
from pipeline.ops.topics import KafkaTopics
from pipeline.resources import topics_dir
from pipeline.roles.operator_log import epoch_entries, publish_at_once
from pipeline.roles.policies import apply_policy, load_policy
from pipeline.roles.repairs.reassert import find, reassert
from pipeline.settings.model import Settings
from pipeline.settings.sections.kafka import KafkaSettings
from tests.support.changes import change

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


def test_a_reassertion_is_ordered_in_the_entitys_log_and_audited_without_its_identifier(settings: Settings) -> None:
    accepted = change(7, "R-12")
    key = EntityKey(accepted.tenant, accepted.entity_type.value, accepted.namespace, accepted.entity_id)
    assert find(settings, CODEC, key).revision == NO_REVISION
    partition = partition_of(key.encode(), topology.ENTITY_PARTITIONS)
    publish_at_once(settings, [OutRecord(topology.ACCEPTED, key.encode(), CODEC.encode(accepted), partition)])
    found = find(settings, CODEC, key)
    assert (found.revision, found.revisions) == (accepted.revision, 1)

    for _ in range(2):  # asking twice does no harm
        reassert(settings, CODEC, key, found.revision, ACTOR, "its write was parked", NOW)
    (order, again) = list(read_topic(settings.kafka, "landing.bed"))
    assert (order.key, order.partition) == (key.encode(), partition)
    control = CODEC.decode(order.value)
    assert isinstance(control, Control)
    assert (control.kind, control.seen_revision, control.actor) == (ControlKind.REASSERT, accepted.revision, ACTOR)
    assert CODEC.decode(again.value) == control

    entries = list(read_entries(KafkaTopics(settings.kafka), CODEC))
    assert [(each.action, each.revision, each.event_id) for each in entries] == [
        ("reassert", accepted.revision, control.event_id)
    ] * 2
    assert "R-12" not in repr([msgspec.to_builtins(each) for each in entries])
    assert verify_all(entries).whole


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
