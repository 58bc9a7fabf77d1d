"""Attacks by records that no stage of ours wrote: none of them may end a worker, hold an entity or be skipped."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from pipeline.destinations.protocol import Destination
from pipeline.domain.event import Bed, BedOccupancy, EntityType, Occupancy
from pipeline.domain.identifiers import Millis
from pipeline.domain.judging.merges import ALIAS_KEY
from pipeline.domain.records import Accepted, Decision, DecisionKind, Lane, Quarantined, Reason
from pipeline.formats.avro import Codec
from pipeline.stream.judging.gate import KEY_BOUND, Destinations, GateWork
from pipeline.stream.worker.batch import PartitionBatch
from pipeline.stream.worker.outputs import Outputs
from pipeline.stream.writing.agent import WriterWork
from pipeline.stream.writing.delivery import Change, Delivery
from tests.support.fhir_lab import accepted
from tests.support.policies import shipped_policy

CODEC = Codec.shipped()
KEY = b"t1|bed|MAIN|B1"
BED = accepted(Bed(occupancy=BedOccupancy(Occupancy.VACANT)), "B1", 5)


class Sent:
    """Outputs in memory."""

    def __init__(self) -> None:
        self.records: list[tuple[str, bytes | None, bytes]] = []

    def send(self, topic: str, _partition: int, key: bytes | None, value: bytes) -> None:
        self.records.append((topic, key, value))


class Changes:
    """A delivery that only notes what it is told."""

    def __init__(self) -> None:
        self.seen: list[Change] = []

    def changed(self, changes: list[Change]) -> None:
        self.seen += changes


def record(topic: str, key: bytes | None, value: bytes | None, partition: int = 0) -> Any:
    return SimpleNamespace(topic=topic, partition=partition, offset=9, key=key, value=value, timestamp=1_800_000_000_000)


def batch_of(*records: Any) -> PartitionBatch:
    empty: Any = SimpleNamespace(get=lambda keys: [None] * len(keys) if isinstance(keys, list) else None)
    return PartitionBatch(0, empty, list(records))


def folded(each: Any) -> tuple[PartitionBatch, Sent, Changes]:
    """What a writer makes of one record."""
    changes, sent, batch = Changes(), Sent(), batch_of(each)
    destination = cast(Destination, SimpleNamespace(name="ehr", expects=lambda _: True))
    work = WriterWork(
        CODEC, destination, cast(Delivery, changes), dict.fromkeys(Lane, 60.0), "outcomes", "quarantine", lambda data, _: data
    )
    work.judge(batch, cast(Outputs, sent))
    work.after([batch])
    return batch, sent, changes


def test_a_lane_record_in_its_place_is_pending() -> None:
    batch, sent, changes = folded(record("lane.routine", KEY, CODEC.encode(BED)))
    assert set(batch.puts) == {KEY}
    assert sent.records == []
    assert len(changes.seen) == 1


@pytest.mark.parametrize(
    ("key", "elsewhere"),
    [(None, False), (b"\x00positions", False), (b"no entity", False), (b"t1|bed|MAIN|B2", False), (KEY, True)],
)
def test_a_lane_record_out_of_its_place_is_kept_aside_and_stops_nothing(key: bytes | None, elsewhere: bool) -> None:
    content = msgspec.structs.replace(BED, partition=3) if elsewhere else BED
    batch, sent, changes = folded(record("lane.routine", key, CODEC.encode(content)))
    assert batch.puts == {}
    assert changes.seen == []
    (kept,) = [CODEC.decode(value) for _, _, value in sent.records]
    assert isinstance(kept, Quarantined)
    assert kept.reason is Reason.KEY_MISMATCH


def gate_work(observe: Callable[[Any], None]) -> GateWork:
    topics = Destinations("accepted", "decisions", "quarantine", {}, {"landing.bed": EntityType.BED}, {"landing.bed": 1})
    return GateWork(CODEC, topics, shipped_policy(), lambda data, _: data, 900_000, observe)


def test_a_landing_record_with_an_endless_key_is_quarantined_under_no_key() -> None:
    sent, seen = Sent(), list[Accepted | Decision]()
    gate = gate_work(seen.append)
    batch = batch_of(record("landing.bed", b"t1|bed|MAIN|" + b"x" * KEY_BOUND, b"anything"))
    gate.judge(batch, cast(Outputs, sent))
    (decision,) = seen
    assert isinstance(decision, Decision)
    assert (decision.kind, decision.reason, decision.decided_at) == (
        DecisionKind.QUARANTINED,
        Reason.BAD_KEY,
        Millis(1_800_000_000_000),
    )
    assert all(len(key or b"") <= KEY_BOUND for _, key, _ in sent.records)
    assert batch.puts == {}


@pytest.mark.parametrize(
    ("key", "value", "is_quick"),
    [
        (KEY, CODEC.encode(BED), True),
        (None, CODEC.encode(BED), True),
        (KEY, None, False),
        (KEY, b"no Avro", False),
        (KEY, b"\x00" + (2**31).to_bytes(4, "big") + b"of a schema that the registry may have", False),
    ],
    ids=["known", "without a key", "without a value", "no Avro", "an unknown schema"],
)
def test_what_the_registry_may_be_asked_for_is_not_judged_on_the_loop(
    key: bytes | None, value: bytes | None, is_quick: bool
) -> None:
    nobody: Any = None
    writer = WriterWork(CODEC, nobody, nobody, {}, "outcomes", "quarantine", lambda data, _: data)
    gate = gate_work(lambda _: None)
    assert gate.is_quick(record("landing.bed", key, value)) is is_quick
    assert writer.is_quick(record("lane.routine", key, value)) is is_quick


def test_an_alias_is_not_judged_on_the_loop_because_the_gate_looks_at_all_heads_for_it() -> None:
    assert not gate_work(lambda _: None).is_quick(record("landing.bed", ALIAS_KEY + KEY, CODEC.encode(BED)))
