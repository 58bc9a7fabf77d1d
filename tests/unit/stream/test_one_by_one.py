"""The plain path of the gate, one record at a time, says byte for byte what the batches say."""

from collections.abc import Iterable, Sequence
from typing import Any

from pipeline import topology
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import EventId, Millis
from pipeline.domain.judging.policy import encode_policy
from pipeline.domain.records import Control, ControlKind
from pipeline.formats.avro import Codec
from pipeline.local.bench.gate.load import Landed, Landing
from pipeline.roles.policies import load_policy
from pipeline.stream.judging.gate import POLICY_KEY, Destinations, GateWork
from pipeline.stream.worker.batch import PartitionBatch

NOW = Millis(1_800_000_000_000)
CODEC = Codec.shipped()
LANDING = {name: kind for kind, name in topology.LANDING.items()}
POLICY = Control(
    kind=ControlKind.POLICY,
    event_id=EventId("0" * 32),
    actor="operator:test",
    at=NOW,
    policy_version=load_policy().version,
    policy=encode_policy(load_policy()),
)


class Store(dict[bytes, bytes]):
    def get(self, key: Any, default: Any = None) -> Any:
        return [dict.get(self, each) for each in key] if isinstance(key, list) else dict.get(self, key, default)


class Sent(list[tuple[str, int, bytes | None, bytes]]):
    def send(self, topic: str, partition: int, key: bytes | None, value: bytes) -> None:
        self.append((topic, partition, key, value))


def work() -> GateWork:
    topics = Destinations(
        topology.ACCEPTED,
        topology.DECISIONS,
        topology.QUARANTINE,
        {lane.value: name for lane, name in topology.LANE_TOPICS.items()},
        LANDING,
        dict.fromkeys(LANDING, 1),
    )
    return GateWork(CODEC, topics, load_policy(), lambda data, _: data[::-1], 900_000, lambda _: None)


def records_of_one_partition() -> list[Landed]:
    """Snapshots, changes, repeats, a policy in the midst, what can't be read, and what came twice."""
    landing = Landing(40, CODEC)
    made = [r for r in (*landing.first(NOW), *landing.more(2_000, NOW)) if r.topic == topology.LANDING[EntityType.BED]]
    strange = [(POLICY_KEY, CODEC.encode(POLICY)), (b"a|bed|b|c", b"no Avro"), (made[0].key, made[1].value), (b"no key", b"")]
    every = len(made) // (len(strange) + 1)
    mixed: list[tuple[bytes, bytes]] = []
    for number, record in enumerate(made):
        if number % every == 0 and number // every in range(1, len(strange) + 1):
            mixed.append(strange[number // every - 1])
        mixed.append((record.key, record.value))
    placed = [Landed(made[0].topic, key, value, 0, offset, NOW) for offset, (key, value) in enumerate(mixed)]
    return [*placed, *placed[-50:]]


def judged(parts: Iterable[Sequence[Landed]]) -> tuple[Sent, Store]:
    gate, store, sent = work(), Store(), Sent()
    for part in parts:
        batch = PartitionBatch(0, store, list(part))  # type: ignore[arg-type]
        gate.judge(batch, sent)  # type: ignore[arg-type]
        store.update(batch.puts)
    return sent, store


def test_one_by_one_says_byte_for_byte_what_a_batch_says() -> None:
    records = records_of_one_partition()
    single = judged([record] for record in records)
    assert len(single[0]) > len(records)  # an accepted record goes to two topics
    assert {topic for topic, *_ in single[0]} >= {topology.ACCEPTED, topology.DECISIONS, topology.QUARANTINE}
    for size in (7, 500, len(records)):
        assert judged(records[start : start + size] for start in range(0, len(records), size)) == single
