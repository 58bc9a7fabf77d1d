"""What a backlog costs: `surgeline bench scheduler`. Processor time per decision, and memory and disk per entity that waits.

Everything in one process, no broker. A decision is a `take`, the `put` of the entity's next change and the `release` of its
write. Memory is what the whole delivery holds for an entity that waits, the scheduler's share of it beside; the state itself
lies in RocksDB, as the value whose size is told.
"""

import gc
import os
import platform
import random
import time
import tracemalloc
from collections.abc import Callable
from typing import Final

import msgspec

from pipeline.destinations.fhir.destination import FhirDestination
from pipeline.destinations.fhir.profile import load_profile
from pipeline.domain.identifiers import EntityKey, Millis
from pipeline.domain.records import LANES, Accepted, Outcome, OutcomeKind, Reason
from pipeline.domain.writing.limits import AdaptiveLimiter, ConsecutiveBreaker
from pipeline.domain.writing.pending import Pending, decode_pending, encode_pending, on_accepted
from pipeline.domain.writing.scheduler import Entry, LaneScheduler
from pipeline.formats.avro import Codec
from pipeline.local.bench.ehr import DIGEST_KEY, accepted_bed
from pipeline.stream.writing.delivery import Change, Delivery
from pipeline.stream.writing.throttle import Limits

ENTITIES: Final = 100_000
DECISIONS: Final = 20_000
MANY_TENANTS: Final = 100
BEGINS_MS: Final = Millis(1_800_000_000_000)
"""A time of our days: a small number would take less memory."""

DEADLINE_S: Final = 60.0
PARTITIONS: Final = 8

GOAL_US: Final = 25.0
"""Per decision: a fortieth of a core at 1,000 writes a second."""

GOAL_BYTES: Final = 1_024.0
"""Per entity that waits, in memory: 100 MB for 100,000 of them."""


class SchedulerFigures(msgspec.Struct, frozen=True):
    """What was measured, with `entities` waiting."""

    entities: int
    us_per_decision: float
    us_per_decision_many_tenants: float
    tenants_if_many: int
    scheduler_bytes_per_entity: float
    writer_bytes_per_entity: float
    key_bytes: float
    table_value_bytes: float
    goal_us_per_decision: float
    goal_writer_bytes_per_entity: float
    reached: bool
    cores: int
    python: str


def bench_scheduler() -> SchedulerFigures:
    """Measure with one tenant, and with many; memory with one."""
    one, many = _us_per_decision(1), _us_per_decision(MANY_TENANTS)
    keys = _keys(1)
    values = _table()
    scheduler_bytes = _bytes_held(lambda: _filled(keys)) / ENTITIES
    writer_bytes = _bytes_held(lambda: _delivery(values)) / ENTITIES
    return SchedulerFigures(
        entities=ENTITIES,
        us_per_decision=one,
        us_per_decision_many_tenants=many,
        tenants_if_many=MANY_TENANTS,
        scheduler_bytes_per_entity=scheduler_bytes,
        writer_bytes_per_entity=writer_bytes,
        key_bytes=sum(map(len, keys)) / ENTITIES,
        table_value_bytes=sum(map(len, values)) / ENTITIES,
        goal_us_per_decision=GOAL_US,
        goal_writer_bytes_per_entity=GOAL_BYTES,
        reached=max(one, many) <= GOAL_US and writer_bytes <= GOAL_BYTES,
        cores=os.cpu_count() or 0,
        python=platform.python_version(),
    )


def table_of(figures: SchedulerFigures) -> str:
    """The figures as a table of Markdown."""
    rows = (
        ("processor time per decision, one tenant", f"{figures.us_per_decision:.1f} µs"),
        (f"the same, {figures.tenants_if_many} tenants", f"{figures.us_per_decision_many_tenants:.1f} µs"),
        ("memory of a writer per entity that waits", f"{figures.writer_bytes_per_entity:,.0f} bytes"),
        ("of it in the scheduler", f"{figures.scheduler_bytes_per_entity:,.0f} bytes"),
        ("value in the pending table, before compression", f"{figures.table_value_bytes:,.0f} bytes"),
    )
    lines = [f"| {figures.entities:,} entities wait | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    return "\n".join(lines)


def _keys(tenants: int) -> list[bytes]:
    return [EntityKey(f"tenant-{n % tenants}", "bed", "GENERAL", f"MED/{n}/A").encode() for n in range(ENTITIES)]


def _filled(keys: list[bytes]) -> LaneScheduler:
    chance, scheduler = random.Random(1), LaneScheduler()
    for n, key in enumerate(keys):
        scheduler.put(Entry(bytes(bytearray(key)), chance.choice(LANES), Millis(BEGINS_MS + n), Millis(0)))
    return scheduler


def _us_per_decision(tenants: int) -> float:
    """Some of what waits has aged: the last change came a hundred seconds after the first."""
    scheduler, now = _filled(_keys(tenants)), BEGINS_MS + ENTITIES
    began = time.process_time()
    for turn in range(DECISIONS):
        taken = scheduler.take(Millis(now + turn))
        assert taken is not None
        scheduler.put(Entry(taken.key, taken.lane, Millis(now + turn), Millis(0)))
        scheduler.release(taken.key)
    return (time.process_time() - began) / DECISIONS * 1e6


def _table() -> list[bytes]:
    codec, values = Codec.shipped(), []
    for n in range(ENTITIES):
        record = msgspec.structs.replace(accepted_bed(n, 1), received_at=Millis(BEGINS_MS + n), lane=LANES[n % len(LANES)])
        pending = on_accepted(None, record, codec.encode(record), DEADLINE_S)
        assert pending is not None
        values.append(encode_pending(pending))
    return values


def _bytes_held(make: Callable[[], object]) -> int:
    """Memory that what is made holds."""
    gc.collect()
    tracemalloc.start()
    try:
        made = make()
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        del made
        return held
    finally:
        tracemalloc.stop()


def _delivery(values: list[bytes]) -> Delivery:
    """A delivery that was told of each."""
    delivery = Delivery(
        destination=FhirDestination("bench", "http://127.0.0.1:9/fhir", load_profile("sekmet-owner"), DIGEST_KEY),
        pendings=_Nobody(),
        ledger=_Nobody(),
        limiter=AdaptiveLimiter(1),
        breaker=ConsecutiveBreaker(),
        limits=Limits(1.0, 1, 1.0),
        decode=_never,
        observer=_Nobody(),
        clock=lambda: BEGINS_MS,
        draw=lambda: 0.0,
        writer="bench/0",
    )
    for n, value in enumerate(values):
        key = EntityKey("tenant-0", "bed", "GENERAL", f"MED/{n}/A").encode()
        delivery.changed([Change(n % PARTITIONS, key, decode_pending(value), ())])
    return delivery


def _never(data: bytes) -> Accepted:
    raise AssertionError("nothing is written here")


class _Nobody:
    """Table, log and observer of a delivery that writes nothing."""

    def get(self, partition: int, key: bytes) -> Pending | None:
        """See `Pendings`."""
        return None

    def is_assigned(self, partition: int) -> bool:
        """See `Pendings`."""
        return False

    async def record(self, outcome: Outcome, key: bytes) -> None:
        """See `Ledger`."""

    def attempted(self, accepted: Accepted, kind: OutcomeKind, reason: Reason) -> None:
        """See `Observer`."""

    def confirmed(self, accepted: Accepted, pending: Pending, at: Millis) -> None:
        """See `Observer`."""

    def failed_inside(self, error: BaseException) -> None:
        """See `Observer`."""
        raise error
