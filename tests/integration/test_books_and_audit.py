"""Books, audit chains and status, read from a real broker."""

import itertools
import time
from collections.abc import AsyncIterator
from typing import Final, Protocol

import msgspec
import pytest
from confluent_kafka import Consumer, TopicPartition

from pipeline.domain.accounts.audit import Fault
from pipeline.domain.accounts.books import of_types
from pipeline.domain.accounts.deliveries import Trouble
from pipeline.domain.event import Bed, EntityType, Environment, EventType
from pipeline.domain.identifiers import NO_REVISION, EntityKey, EventId, Millis, partition_of, revision_of
from pipeline.domain.records import (
    Accepted,
    Control,
    ControlKind,
    Decision,
    DecisionKind,
    LagReport,
    Lane,
    Outcome,
    OutcomeKind,
    Reason,
)
from pipeline.formats.avro import Codec
from pipeline.kafka import admin
from pipeline.kafka.producer import OutRecord, Publisher
from pipeline.kafka.specs import load_specs
from pipeline.ops.audit import AuditChain, read_entries, verify_all
from pipeline.ops.books import BooksReader, Waiting, take_cut
from pipeline.ops.status import Verdict, read_status
from pipeline.ops.topics import KafkaTopics
from pipeline.resources import topics_dir
from pipeline.settings.sections.kafka import KafkaSettings
from pipeline.topology import ACCEPTED, DECISIONS, GATE_APP, LAG, OUTCOMES

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

NOW: Final = Millis(1_700_000_000_000)
PREFIXES: Final = (f"b{time.time_ns():x}-{number}." for number in itertools.count())
CODEC: Final = Codec.shipped()
KEY: Final = EntityKey("acme", "bed", "capacity", "ICU-12").encode()
PARTITION: Final = partition_of(KEY, 8)


class HasBootstrap(Protocol):
    @property
    def bootstrap(self) -> str: ...


@pytest.fixture
def kafka(broker: HasBootstrap) -> KafkaSettings:
    """All topics, under a prefix that no other test uses."""
    settings = KafkaSettings(
        bootstrap_servers=broker.bootstrap, topic_prefix=next(PREFIXES), replication_factor=1, min_insync_replicas=1
    )
    admin.apply(settings, load_specs(topics_dir(), []), CODEC, "test", NOW)
    return settings


@pytest.fixture
async def publisher(kafka: KafkaSettings) -> AsyncIterator[Publisher]:
    made = Publisher(kafka)
    yield made
    await made.close(5)


def control(number: int) -> bytes:
    order = Control(kind=ControlKind.REASSERT, event_id=EventId(f"{number:032x}"), actor="test", at=NOW)
    return CODEC.encode(order)


def accepted(offset: int, previous: int | None) -> Accepted:
    return Accepted(
        event_id=EventId(f"{offset:032x}"), tenant="acme", facility="main", entity_type=EntityType.BED,
        namespace="capacity", entity_id="ICU-12", event_type=EventType.REASSERT, source_system="capacity", feed="http",
        epoch=1, partition=PARTITION, offset=offset, revision=revision_of(1, offset),
        previous_revision=NO_REVISION if previous is None else revision_of(1, previous), lane=Lane.URGENT,
        changed=("environment",), state=Bed(environment=Environment.CLEAN), state_hash=f"{offset:016x}",
        content_hash=f"{offset:016x}", recorded_at=NOW, received_at=NOW, accepted_at=NOW, policy_version="1",
    )  # fmt: skip


def stale(offset: int) -> Decision:
    return Decision(
        topic="landing.bed", epoch=1, partition=PARTITION, offset=offset, kind=DecisionKind.STALE,
        reason=Reason.HEAD_MOVED, revision=NO_REVISION, decided_at=NOW, policy_version="1",
    )  # fmt: skip


def confirmed(record: Accepted) -> Outcome:
    return Outcome(
        destination="ehr", tenant=record.tenant, entity_type=record.entity_type, namespace=record.namespace,
        entity_id=record.entity_id, kind=OutcomeKind.CONFIRMED, reason=Reason.NONE, revision=record.revision,
        after=NO_REVISION, partition=PARTITION, event_id=record.event_id, content_hash=record.content_hash,
        state_hash=record.state_hash, lane=record.lane, open_since=NOW, received_at=NOW, recorded_at=NOW,
        at=Millis(NOW + 250), writer="writer-ehr/0",
    )  # fmt: skip


def commit_as_gate(kafka: KafkaSettings, offset: int) -> None:
    consumer = Consumer(kafka.client_config() | {"group.id": f"{kafka.topic_prefix}{GATE_APP}"})
    at = TopicPartition(f"{kafka.topic_prefix}landing.bed", PARTITION, offset)
    consumer.commit(offsets=[at], asynchronous=False)
    consumer.close()


def reader(kafka: KafkaSettings) -> BooksReader:
    expects = {"ehr": of_types([EntityType.BED])}
    return BooksReader(KafkaTopics(kafka), CODEC, expects, lambda key: "digest", kafka.topic_prefix)


async def test_books_of_a_real_cut_balance_and_a_verdict_that_is_missing_is_named(
    kafka: KafkaSettings, publisher: Publisher
) -> None:
    await publisher.publish([OutRecord("landing.bed", KEY, control(number), PARTITION) for number in range(4)])
    first, last = accepted(0, None), accepted(2, 0)
    history = [OutRecord(ACCEPTED, KEY, CODEC.encode(record), PARTITION) for record in (first, last)]
    await publisher.publish([*history, OutRecord(DECISIONS, KEY, CODEC.encode(stale(1)), PARTITION)])
    commit_as_gate(kafka, 3)
    (cut,) = [part for part in take_cut(KafkaTopics(kafka), CODEC, kafka.topic_prefix) if part.end]
    assert (cut.epoch, cut.partition, cut.first, cut.end, cut.committed) == (1, PARTITION, 0, 4, 3)
    behind = reader(kafka).run(Waiting(gate_s=0))
    assert (behind.balanced, behind.complete, behind.waiting, behind.open) == (True, False, 1, 2)
    await publisher.publish([OutRecord(OUTCOMES, KEY, CODEC.encode(confirmed(last)), PARTITION)])
    commit_as_gate(kafka, 4)
    lost = reader(kafka).run(Waiting(gate_s=5))
    assert [(problem.trouble, problem.topic, problem.offset) for problem in lost.problems] == [
        (Trouble.MISSING, "landing.bed", 3)
    ]
    await publisher.publish([OutRecord(DECISIONS, KEY, CODEC.encode(stale(3)), PARTITION)])
    whole = reader(kafka).run(Waiting(gate_s=5, open_s=5))
    ehr = whole.destinations[0]
    assert (whole.complete, ehr.confirmed, ehr.superseded, ehr.lags[0].max_ms) == (True, 1, 1, 250)


async def test_a_chain_goes_on_after_a_restart_and_a_zombies_entry_is_a_named_fork(
    kafka: KafkaSettings, publisher: Publisher
) -> None:
    topics, chain = KafkaTopics(kafka), "writer-ehr/0"

    async def append(to: AuditChain, actor: str = "writer") -> None:
        entry = to.append(at=NOW, actor=actor, action="write.confirmed", subject="00112233445566aa", destination="ehr")
        await publisher.publish([entry])

    zombie = AuditChain.continued(topics, CODEC, CODEC, chain)
    await append(zombie)
    successor = AuditChain.continued(topics, CODEC, CODEC, chain)
    await append(successor)
    assert verify_all(read_entries(topics, CODEC)).whole
    await append(zombie, "zombie")
    await append(successor)
    verified = verify_all(read_entries(topics, CODEC))
    assert [(finding.sequence, finding.fault) for finding in verified.findings] == [(2, Fault.FORKED)]
    assert verified.entries == 4


async def test_status_is_read_from_real_topics(kafka: KafkaSettings, publisher: Publisher) -> None:
    assert read_status(KafkaTopics(kafka), CODEC, ["ehr"], lambda: NOW).verdict is Verdict.UNKNOWN
    report = LagReport(
        destination="ehr", instance="0", partitions=tuple(range(8)), window_start=NOW, window_end=NOW, mode="normal",
        pending={}, in_flight=0, parked=0,
    )  # fmt: skip
    old = msgspec.structs.replace(report, window_end=Millis(NOW - 5_000), parked=3)
    await publisher.publish([OutRecord(LAG, b"ehr|0", CODEC.encode(record)) for record in (old, report)])
    await publisher.publish([OutRecord(ACCEPTED, KEY, CODEC.encode(accepted(0, None)), PARTITION)])
    status = read_status(KafkaTopics(kafka), CODEC, ["ehr"], lambda: Millis(NOW + 1_000))
    assert (status.verdict, status.feeds[0].feed) == (Verdict.CURRENT, "http")
