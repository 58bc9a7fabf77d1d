"""What a writer learns of all stays at its start, from the tables' changelogs at a real broker."""

import time
from collections.abc import Iterator
from typing import Final, Protocol

import msgspec
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from pipeline.domain.event import EncounterStatus
from pipeline.domain.head import encode_head
from pipeline.domain.identifiers import Millis, Revision, partition_of, revision_of
from pipeline.domain.records import Accepted
from pipeline.domain.writing.occupants import Occupants
from pipeline.domain.writing.pending import EMPTY, encode_pending
from pipeline.formats.avro import Codec
from pipeline.kafka.projections import is_current
from pipeline.kafka.reader import Follower
from pipeline.kafka.stays import follow_stays
from pipeline.settings.sections.kafka import KafkaSettings
from pipeline.topology import ACCEPTED, ENTITY_PARTITIONS, GATE_CHANGELOG, OUTCOMES, writer_changelog
from tests.unit.domain.test_occupants import key, stay
from tests.unit.domain.test_old_stays import head

DESTINATION: Final = "ehr"
STAYS: Final = 20_000
READY_S: Final = 60.0
"""Bound on a noisy machine; on a quiet one it is two or three seconds."""

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


class HasBootstrap(Protocol):
    @property
    def bootstrap(self) -> str: ...


@pytest.fixture
def kafka(broker: HasBootstrap) -> Iterator[KafkaSettings]:
    settings = KafkaSettings(bootstrap_servers=broker.bootstrap, topic_prefix=f"old{time.time_ns():x}.")
    client = AdminClient(dict(settings.client_config()))
    names = [settings.topic_prefix + name for name in (GATE_CHANGELOG, writer_changelog(DESTINATION), ACCEPTED, OUTCOMES)]
    for made in client.create_topics([NewTopic(name, ENTITY_PARTITIONS, 1) for name in names]).values():
        made.result(60)
    yield settings
    for gone in client.delete_topics(names).values():
        gone.result(60)


class Tables:
    """The gate's and a writer's changelog, filled."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._prefix, self._producer = kafka.topic_prefix, Producer(dict(kafka.producer_config()))

    def put(self, accepted: Accepted, confirmed: Revision | None) -> None:
        """A head; and, unless it was never theirs to write, what the writers know of it."""
        who = key(accepted.entity_id)
        self._append(GATE_CHANGELOG, who, encode_head(head(accepted)))
        if confirmed is not None:
            known = msgspec.structs.replace(EMPTY, newest_revision=accepted.revision, confirmed=confirmed)
            self._append(writer_changelog(DESTINATION), who, encode_pending(known))

    def _append(self, topic: str, who: bytes, value: bytes) -> None:
        self._producer.produce(self._prefix + topic, value, who, partition_of(who, ENTITY_PARTITIONS))
        self._producer.poll(0)

    def flush(self) -> None:
        assert self._producer.flush(60) == 0


def ready(kafka: KafkaSettings, occupants: Occupants) -> Follower:
    follower = follow_stays(kafka, Codec.shipped(), occupants, DESTINATION, Millis(time.time_ns() // 1_000_000))
    assert follower.caught_up.wait(READY_S), follower.failure
    assert is_current(follower)
    return follower


def test_twenty_thousand_stays_are_known_soon_after_a_start_and_those_that_are_over_take_no_memory(kafka: KafkaSettings) -> None:
    tables, occupants = Tables(kafka), Occupants(DESTINATION)
    for number in range(STAYS):
        lies = stay(number, f"LIES-{number}", f"B{number}")
        left = stay(number, f"LEFT-{number}", f"B{number}", status=EncounterStatus.FINISHED)
        tables.put(lies, lies.revision)
        tables.put(left, left.revision)
    tables.put(stay(STAYS, "NOT-OURS", "B1"), None)
    tables.flush()
    follower = ready(kafka, occupants)
    assert len(occupants) == STAYS
    newcomer = stay(STAYS + 1, "COMES", "B7")
    assert occupants.before(key("COMES"), newcomer).claiming == {key("LIES-7")}
    follower.stop()


def test_a_zombie_s_record_takes_nothing_back_and_what_is_no_stay_is_passed_over(kafka: KafkaSettings) -> None:
    tables, occupants = Tables(kafka), Occupants(DESTINATION)
    lies, left = stay(1, "A", "X"), stay(2, "A", "X", status=EncounterStatus.FINISHED)
    tables.put(lies, lies.revision)
    tables.put(left, left.revision)
    tables.put(lies, revision_of(1, 0))
    for strange in (b"\x00policy", b"no key", b"t|bed|N|B1"):
        tables._append(GATE_CHANGELOG, strange, b"\xf2?")
    tables._append(GATE_CHANGELOG, key("A"), b"\x09a later version's")
    tables.flush()
    follower = ready(kafka, occupants)
    assert len(occupants) == 0
    follower.stop()


def test_a_start_that_is_called_off_while_it_reads_ends(kafka: KafkaSettings) -> None:
    tables, occupants = Tables(kafka), Occupants(DESTINATION)
    for number in range(200):
        tables.put(stay(number, f"LIES-{number}", f"B{number}"), Revision(1))
    tables.flush()
    follower = follow_stays(kafka, Codec.shipped(), occupants, DESTINATION, Millis(time.time_ns() // 1_000_000))
    follower.stop(READY_S)
    assert follower.ended.is_set()
    assert follower.failure is None
