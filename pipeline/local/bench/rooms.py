"""Benchmarks of the pure rooms, in CPU time of one process: `surgeline bench`."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from pipeline import topology
from pipeline.domain.event import Bed, EntityType, Environment, Event, EventType, sealed
from pipeline.domain.identifiers import EntityKey, Millis, derive_event_id
from pipeline.formats.avro import Codec
from pipeline.formats.hl7v2.mapping import map_bytes
from pipeline.roles.policies import load_policy
from pipeline.roles.ways_in.intake import hl7_profile
from pipeline.stream.judging.gate import Destinations, GateWork
from pipeline.stream.worker.batch import PartitionBatch

EVENTS: Final = 40_000
ENTITIES: Final = 2_000
CYCLE: Final = 500
GATE_GOAL: Final = 5_000.0
PARSE_GOAL: Final = 5_000.0
STATES: Final = (Environment.DIRTY, Environment.CLEANING, Environment.CLEAN)

ADT: Final = "\r".join(
    (
        r"MSH|^~\&|EPICADT|GENERAL|SURGELINE|GENERAL|20260101120000.000+0000||ADT^A02^ADT_A02|M{n}|P|2.5.1",
        "EVN|A02|20260101120000.000+0000|||OP1|20260101115900+0000",
        "PID|1||P{n}^^^GENERAL^MR||DOE^JANE^Q||19700101|F|||1 STREET^^CITY^ST^00000|||||||V{n}",
        "PV1|1|I|ICU^12^A^GENERAL||MED^3^B^GENERAL||A1^DOC^ATT||||MED||||7|A0||||V{n}^^^GENERAL^VN"
        + "|" * 25
        + "20260101080000+0000",
        "",
    )
)


class Figures(msgspec.Struct, frozen=True):
    """What was measured."""

    items: int
    cpu_s: float
    items_per_cpu_s: float
    us_per_item: float
    goal_items_per_cpu_s: float
    reached: bool


class _Store(dict[bytes, bytes]):
    """Stands for RocksDB, which is not measured here."""

    def get(self, key: Any, default: Any = None) -> Any:
        return [dict.get(self, each) for each in key] if isinstance(key, list) else dict.get(self, key)


@dataclass(frozen=True, slots=True)
class _Record:
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes
    value: bytes


class _Sent:
    def send(self, topic: str, partition: int, key: bytes | None, value: bytes) -> None:
        """Not measured here."""


def bench_gate() -> Figures:
    """Decode, decide, encode: what the gate does per event, without Kafka, Faust and RocksDB."""
    codec = Codec.shipped()
    landing = topology.LANDING[EntityType.BED]
    topics = Destinations(
        "a", "d", "q", {lane.value: "l" for lane in topology.LANE_TOPICS}, {landing: EntityType.BED}, {landing: 1}
    )
    work = GateWork(codec, topics, load_policy(), lambda data, _: data, 900_000, lambda _: None)
    records = [_record(codec, landing, number) for number in range(EVENTS)]
    store = _Store()

    def judge() -> None:
        for start in range(0, EVENTS, CYCLE):
            batch = PartitionBatch(0, store, list(records[start : start + CYCLE]))  # type: ignore[arg-type]
            work.judge(batch, _Sent())  # type: ignore[arg-type]
            store.update(batch.puts)

    return _measure(judge, EVENTS, GATE_GOAL)


def _record(codec: Codec, topic: str, number: int) -> _Record:
    key = EntityKey("demo", "bed", "GENERAL", f"ICU/{number % ENTITIES}/A")
    event = Event(
        event_id=derive_event_id("demo", "bench", (str(number),), key, 0),
        tenant="demo",
        facility="GENERAL",
        source_system="capacity",
        feed="bench",
        entity_type=EntityType.BED,
        namespace="GENERAL",
        entity_id=key.id,
        event_type=EventType.UPDATE,
        recorded_at=Millis(number),
        received_at=Millis(number),
        payload=Bed(environment=STATES[number // ENTITIES % len(STATES)], staffed=True),
    )
    return _Record(topic, 0, number, number, key.encode(), codec.encode(sealed(event)))


def bench_parse() -> Figures:
    """Read ADT^A02 messages into canonical events."""
    profile = hl7_profile("default")
    messages = [ADT.format(n=number).encode() for number in range(EVENTS // 4)]

    def parse() -> None:
        for message in messages:
            map_bytes(message, profile, "demo", Millis(1))

    return _measure(parse, len(messages), PARSE_GOAL)


def _measure(work: Callable[[], None], items: int, goal: float) -> Figures:
    began = time.process_time()
    work()
    cpu_s = time.process_time() - began
    rate = items / cpu_s
    return Figures(items, cpu_s, rate, cpu_s / items * 1e6, goal, rate >= goal)


BENCHES: Final[dict[str, Callable[[], Figures]]] = {"gate": bench_gate, "parse": bench_parse}
