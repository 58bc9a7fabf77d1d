"""The bench of workers and of recovery: what its figures mean, and that what is recovered are heads of full size."""

from itertools import islice

import msgspec
import pytest

from pipeline import topology
from pipeline.domain.head import decode_head
from pipeline.domain.identifiers import partition_of
from pipeline.domain.ring import RING_LENGTH, entry_of, find
from pipeline.formats.avro import Codec
from pipeline.local.bench.scale.bench import GOAL_HEADS, Scale, ScaleReport, joined, markdown
from pipeline.local.bench.scale.recovery import Recovery, full_heads

SCALE = Scale(
    workers=2,
    entities=100,
    records=1_000_000,
    cpu_s=84.0,
    start_cpu_s=4.0,
    wall_s=55.0,
    memory=300_000_000,
    disk=10_000_000,
    ready_with_disk_s=5.0,
    ready_without_disk_s=8.0,
    changelog=900,
)
RECOVERY = Recovery(
    heads=GOAL_HEADS, head_bytes=970.0, ready_without_disk_s=9.0, ready_with_disk_s=4.0, memory=150_000_000, disk=90_000_000
)


def report(*recoveries: Recovery, commit: str = "c") -> ScaleReport:
    return ScaleReport(commit=commit, machine={"cores": 2, "python": "3"}, scales=(SCALE,), recoveries=recoveries)


def test_what_a_start_costs_is_not_what_a_record_costs() -> None:
    assert SCALE.us == 80.0
    assert SCALE.per_s == 20_000.0
    assert "| 2 | 100 | 1,000,000 | 80.0 | 20,000 | 150 MB |" in markdown(report())


def test_the_rate_of_a_recovery_is_of_what_it_adds_to_a_start_and_tells_the_start_after_a_day() -> None:
    assert RECOVERY.per_s == 20_000.0
    assert RECOVERY.day_s == pytest.approx(4.0 + (100_000 + 4_320_000) / 20_000)
    quick = msgspec.structs.replace(RECOVERY, ready_without_disk_s=3.9)
    assert quick.per_s == 1_000_000.0  # within the noise of two starts: no division by nothing


@pytest.mark.parametrize(("without", "with_disk", "reached"), [(15.0, 15.0, True), (15.1, 4.0, False), (4.0, 15.1, False)])
def test_the_goal_is_missed_by_either_start(without: float, with_disk: float, *, reached: bool) -> None:
    recovery = msgspec.structs.replace(RECOVERY, ready_without_disk_s=without, ready_with_disk_s=with_disk)
    assert report(recovery).reached is reached
    million = msgspec.structs.replace(recovery, heads=10 * GOAL_HEADS)
    assert report(million).reached  # the goal is about a hundred thousand


def test_parts_of_one_commit_are_added_and_those_of_another_replaced() -> None:
    one, other = report(), report(RECOVERY)
    both = joined(one, other)
    assert (len(both.scales), len(both.recoveries)) == (2, 1)
    assert joined(report(commit="before"), other) == other
    assert joined(None, one) == one


def test_the_heads_that_are_recovered_are_of_full_size_each_of_another_bed_in_its_partition() -> None:
    records = list(islice(full_heads(Codec.shipped()), 200))
    assert len({record.key for record in records}) == 200
    assert {record.topic for record in records} == {topology.GATE_CHANGELOG}
    assert all(record.partition == partition_of(record.key, topology.ENTITY_PARTITIONS) for record in records)
    heads = [decode_head(record.value) for record in records]
    assert all(900 < len(record.value) < 1_100 for record in records)
    assert all(find(head.ring, entry_of(head.event_id, "0" * 16)) is not None for head in heads)
    assert len({bytes(head.ring) for head in heads}) == 200
    assert RING_LENGTH * 29 < len(bytes(heads[0].ring)) < RING_LENGTH * 29 + 4
