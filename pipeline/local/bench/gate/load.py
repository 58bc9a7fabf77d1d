"""What `surgeline bench gate` sends, and the decision by itself: pure, but for the processor's clock.

The load is that of `bench surge`: four beds to a stay, in the lanes 5, 15, 50 and 30 of a hundred. One event of ten is
published twice, as a sender does that missed its answer.
"""

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from pipeline import topology
from pipeline.domain.event import EntityType, Event
from pipeline.domain.head import decode_head, encode_head
from pipeline.domain.identifiers import EntityKey, Millis, partition_of
from pipeline.domain.judging.gate import Accept, Position, Redelivered, decide
from pipeline.domain.judging.policy import Policy
from pipeline.domain.records import Control
from pipeline.formats.avro import Codec
from pipeline.local.bench.surge.load import Load, Mix
from pipeline.stream.judging.gate import Destinations, GateWork
from pipeline.stream.worker.batch import PartitionBatch

MIX: Final = Mix(50.0, 150.0, 500.0, 300.0)
"""Events in a step of the load, by the lane that they take."""

TWICE_EVERY: Final = 10
MAX_RECORD_BYTES: Final = 900_000


class Landed(NamedTuple):
    """A landing record: topic on the map, key and value, and where it will lie in a topic that was empty before."""

    topic: str
    key: bytes
    value: bytes
    partition: int
    offset: int
    timestamp: int


@dataclass(slots=True)
class Landing:
    """Makes records, and knows their places."""

    entities: int
    codec: Codec
    seed: int = 1
    _load: Load = field(init=False)
    _next: dict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))

    def __post_init__(self) -> None:
        self._load = Load(self.entities, self.seed)

    @property
    def topics(self) -> frozenset[str]:
        """Landing topics that it uses."""
        return frozenset((topology.LANDING[EntityType.BED], topology.LANDING[EntityType.ENCOUNTER]))

    @property
    def ends(self) -> dict[tuple[str, int], int]:
        """Next offset of each partition that it has used, by topic and partition."""
        return dict(self._next)

    def first(self, now: Millis) -> list[Landed]:
        """Each entity once, with its whole state."""
        return [self._landed(event, now) for event in self._load.every(lambda: now)]

    def more(self, count: int, now: Millis) -> list[Landed]:
        """So many changes, repeats among them."""
        return [self._landed(event, now) for _, event in zip(range(count), self._events(now), strict=False)]

    def _events(self, now: Millis) -> Iterator[Event]:
        while True:
            for number, event in enumerate(self._load.due(MIX, 1.0, now), 1):
                yield event
                if number % TWICE_EVERY == 0:
                    yield event

    def _landed(self, event: Event, now: Millis) -> Landed:
        topic, key = topology.LANDING[event.entity_type], event.key.encode()
        partition = partition_of(key, topology.ENTITY_PARTITIONS)
        offset = self._next[topic, partition]
        self._next[topic, partition] = offset + 1
        return Landed(topic, key, self.codec.encode(event), partition, offset, now)


class Alone(NamedTuple):
    """The decision by itself, per record: µs of processor time and the bytes of a head."""

    us: float
    head_bytes: float


_TYPES: Final = {topic: entity_type for entity_type, topic in topology.LANDING.items()}


def one_by_one(before: Sequence[Landed], records: Sequence[Landed], codec: Codec, policy: Policy) -> Alone:
    """As whoever has one record at a time must: the head is decoded and encoded for each."""
    heads: dict[tuple[str, bytes], bytes] = {}

    def judge(some: Sequence[Landed]) -> None:
        for record in some:
            at = Position(_TYPES[record.topic], 1, record.partition, record.offset, Millis(record.timestamp))
            content = codec.decode(record.value)
            assert isinstance(content, Event | Control)
            EntityKey.decode(record.key)
            known = heads.get((record.topic, record.key))
            verdict = decide(decode_head(known) if known is not None else None, at, record.key, content, policy)
            if isinstance(verdict, Redelivered):
                continue
            if verdict.head is not None:
                heads[record.topic, record.key] = encode_head(verdict.head)
            codec.encode(verdict.accepted if isinstance(verdict, Accept) else verdict.decision)

    judge(before)
    us = _us(lambda: judge(records), len(records))
    return Alone(us, sum(map(len, heads.values())) / max(1, len(heads)))


def by_cycle(before: Sequence[Landed], records: Sequence[Landed], cycle: int, codec: Codec, policy: Policy) -> Alone:
    """As the gate calls it, with so many records in a cycle: a head that several records touch is handled once."""
    topics = Destinations(
        topology.ACCEPTED,
        topology.DECISIONS,
        topology.QUARANTINE,
        {lane.value: name for lane, name in topology.LANE_TOPICS.items()},
        _TYPES,
        dict.fromkeys(_TYPES, 1),
    )
    work = GateWork(codec, topics, policy, lambda data, _: data, MAX_RECORD_BYTES, lambda _: None)
    stores = {partition: _Store() for partition in range(topology.ENTITY_PARTITIONS)}

    def judge(some: Sequence[Landed]) -> None:
        for start in range(0, len(some), max(1, cycle)):
            by_partition: dict[int, list[Any]] = defaultdict(list)
            for record in some[start : start + max(1, cycle)]:
                by_partition[record.partition].append(record)
            for partition, part in by_partition.items():
                batch = PartitionBatch(partition, stores[partition], part)  # type: ignore[arg-type]
                work.judge(batch, _Sent())  # type: ignore[arg-type]
                stores[partition].update(batch.puts)

    judge(before)
    us = _us(lambda: judge(records), len(records))
    heads = [value for store in stores.values() for value in store.values()]
    return Alone(us, sum(map(len, heads)) / max(1, len(heads)))


class _Store(dict[bytes, bytes]):
    """Stands for RocksDB, which is not measured here."""

    def get(self, key: Any, default: Any = None) -> Any:
        return [dict.get(self, each) for each in key] if isinstance(key, list) else dict.get(self, key, default)


class _Sent:
    def send(self, topic: str, partition: int, key: bytes | None, value: bytes) -> None:
        """Not measured here."""


def _us(work: Callable[[], None], count: int) -> float:
    """Without what Python's collector makes of this process: it holds every record of the run, and a worker does not."""
    gc.collect()
    gc.freeze()
    try:
        began = time.process_time()
        work()
        return (time.process_time() - began) / max(1, count) * 1e6
    finally:
        gc.unfreeze()
