"""How much of an EHR's cap a writer reaches: `surgeline bench ehr`. No Kafka; everything else is what a writer has.

A stand-in in a process of its own takes so many requests by themselves and so many resources in bundles a second, and
makes what is beyond wait or answers it 429. Beds that it has already are revised twice each: the first write of a bed begins
with a read, as after every assignment, the second is made from the body of the first. Reads count against the cap as well.
"""

import asyncio
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from pipeline.destinations.fhir.destination import FhirDestination
from pipeline.destinations.fhir.profile import load_profile
from pipeline.destinations.protocol import Absent, PendingWrite, Request
from pipeline.domain.event import Bed, BedOccupancy, EntityType, Environment, EventType, Occupancy, Service, ServiceStatus
from pipeline.domain.head import state_hash_of
from pipeline.domain.identifiers import EntityKey, EventId, Millis, revision_of
from pipeline.domain.records import Accepted, Lane, Outcome, OutcomeKind, Reason
from pipeline.domain.writing.limits import AdaptiveLimiter, ConsecutiveBreaker
from pipeline.domain.writing.pending import EMPTY, Pending, on_accepted, on_outcome
from pipeline.formats.avro import Codec
from pipeline.formats.fhir.profile import BundleProfile, Profile
from pipeline.local.servers.standin import Mode
from pipeline.local.servers.standin_child import StandInChild
from pipeline.roles.process import now_ms
from pipeline.roles.writers.destinations import most_at_once
from pipeline.stream.writing.delivery import Change, Delivery
from pipeline.stream.writing.throttle import Limits

SINGLES_PER_S: Final = 400
RESOURCES_PER_S: Final = 2_000
BUNDLE_ENTRIES: Final = 50
GOAL_SHARE: Final = 0.85
SPAN_S: Final = 8.0
"""What each case would take at its cap."""

WRITES_A_BED: Final = 2
OPERATIONS_A_BED: Final = WRITES_A_BED + 1
CONCURRENCY: Final = 16
RATE_PER_S: Final = 100_000.0
ATTEMPT_TIMEOUT_S: Final = 10.0
MAX_ATTEMPTS: Final = 10
CASE_TIMEOUT_S: Final = 120.0
DIGEST_KEY: Final = b"a key for a bench, of 32 bytes.."
PARTITION: Final = 0
STATES: Final = (Environment.DIRTY, Environment.CLEANING, Environment.CLEAN)


class Case(msgspec.Struct, frozen=True):
    """What was measured of one cap. Operations are the reads and writes that were needed, without those of repetitions."""

    name: str
    cap_per_s: float
    operations_per_s: float
    share_of_cap: float
    reads: int
    writes: int
    refused: int
    requests: int
    cpu_us_per_write: float
    reached: bool


class EhrFigures(msgspec.Struct, frozen=True):
    """All cases, and what they ran on."""

    cases: tuple[Case, ...]
    goal_share_of_cap: float
    reached: bool
    cores: int
    python: str


def bench_ehr(span_s: float = SPAN_S) -> EhrFigures:
    """Measure writes by themselves and in bundles, against a server that queues and one that answers 429."""
    cases = tuple(
        _case(f"{way}, {mode}", cap, bundle, mode, span_s)
        for way, cap, bundle in (
            ("single", SINGLES_PER_S, None),
            ("bundles", RESOURCES_PER_S, BundleProfile(BUNDLE_ENTRIES)),
        )
        for mode in ("queue", "refuse")
    )
    return EhrFigures(cases, GOAL_SHARE, all(case.reached for case in cases), os.cpu_count() or 0, platform.python_version())


def table_of(figures: EhrFigures) -> str:
    """The cases as a table of Markdown."""
    lines = [
        "| | cap, operations/s | reached | share of the cap | reads | writes | refused | µs of processor per write |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in figures.cases:
        share, cpu = f"{case.share_of_cap:.0%}", f"{case.cpu_us_per_write:.0f}"
        reached = f"{case.operations_per_s:,.0f}"
        cells = (case.name, f"{case.cap_per_s:,.0f}", reached, share, case.reads, case.writes, case.refused, cpu)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _case(name: str, cap_per_s: float, bundle: BundleProfile | None, mode: Mode, span_s: float) -> Case:
    profile = msgspec.structs.replace(load_profile("sekmet-owner"), bundle=bundle)
    beds = int(cap_per_s * span_s / OPERATIONS_A_BED)
    with tempfile.TemporaryDirectory() as folder, StandInChild(Path(folder), mode, SINGLES_PER_S, RESOURCES_PER_S) as standin:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            took_s, cpu_s = runner.run(_Run(standin.base_url, profile, beds).measured(standin.seed))
        counts = standin.counts()
    reads, writes = counts["reads"], counts["writes"] - beds
    per_s = beds * OPERATIONS_A_BED / took_s
    return Case(
        name=name,
        cap_per_s=cap_per_s,
        operations_per_s=per_s,
        share_of_cap=per_s / cap_per_s,
        reads=reads,
        writes=writes,
        refused=counts["refused"],
        requests=counts["requests"],
        cpu_us_per_write=cpu_s / max(1, writes) * 1e6,
        reached=per_s >= GOAL_SHARE * cap_per_s and writes >= beds * WRITES_A_BED,
    )


class _Run:
    """A delivery with a table and a log in memory; it is the observer of itself."""

    def __init__(self, base_url: str, profile: Profile, beds: int) -> None:
        self._destination = FhirDestination("bench", base_url, profile, DIGEST_KEY, attempt_timeout_s=ATTEMPT_TIMEOUT_S)
        self._codec = Codec.shipped()
        self._records = [[self._coded(bed, number) for number in range(WRITES_A_BED + 1)] for bed in range(beds)]
        self._numbers = {key_of_bed(bed): bed for bed in range(beds)}
        self._rows: dict[bytes, Pending] = {}
        self._left = beds * WRITES_A_BED
        self._done = asyncio.Event()
        self._faults: list[str] = []
        self._delivery = Delivery(
            destination=self._destination,
            pendings=self,
            ledger=self,
            limiter=AdaptiveLimiter(most_at_once(CONCURRENCY, profile)),
            breaker=ConsecutiveBreaker(),
            limits=Limits(ATTEMPT_TIMEOUT_S, MAX_ATTEMPTS, RATE_PER_S),
            decode=self._decode,
            observer=self,
            clock=now_ms,
            draw=random.random,
            writer="bench/0",
        )

    async def measured(self, seed: Callable[[list[dict[str, Any]]], None]) -> tuple[float, float]:
        """Seconds that it took, and of those on the processor here."""
        await asyncio.to_thread(seed, [self._seeded(bed) for bed in range(len(self._records))])
        for bed in range(len(self._records)):
            self._rows[key_of_bed(bed)] = msgspec.structs.replace(EMPTY, remote_id=f"bed-{bed}")
        self._delivery.changed([self._accept(bed, 1) for bed in range(len(self._records))])
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        task = asyncio.create_task(self._delivery.run())
        async with asyncio.timeout(CASE_TIMEOUT_S):
            await self._done.wait()
        took_s, cpu_s = time.monotonic() - began_s, time.process_time() - began_cpu_s
        await self._delivery.stop(1.0)
        await task
        await self._destination.close()
        return took_s, cpu_s

    def _coded(self, bed: int, number: int) -> tuple[Accepted, bytes]:
        record = accepted_bed(bed, number)
        return record, self._codec.encode(record)

    def _seeded(self, bed: int) -> dict[str, Any]:
        """The bed as it is at the EHR before: an older revision of ours."""
        record = self._records[bed][0][0]
        request = self._destination.build(PendingWrite(record, None, None, 1, now_ms()), Absent())
        assert isinstance(request, Request)
        resource: dict[str, Any] = request.body["entry"][-1]["resource"]
        return {**resource, "id": f"bed-{bed}"}

    def _accept(self, bed: int, number: int) -> Change:
        record, encoded = self._records[bed][number]
        key = key_of_bed(bed)
        pending = on_accepted(self._rows.get(key), record, encoded, 60.0)
        assert pending is not None
        self._rows[key] = pending
        return Change(PARTITION, key, pending, ())

    def _decode(self, data: bytes) -> Accepted:
        record = self._codec.decode(data)
        assert isinstance(record, Accepted)
        return record

    # -- what the delivery asks

    def get(self, partition: int, key: bytes) -> Pending | None:
        """See `Pendings`."""
        return self._rows.get(key)

    def is_assigned(self, partition: int) -> bool:
        """See `Pendings`."""
        return True

    async def record(self, outcome: Outcome, key: bytes) -> None:
        """See `Ledger`; the agent reads it a turn of the loop later."""
        asyncio.get_running_loop().call_soon(self._read, outcome, key)

    def _read(self, outcome: Outcome, key: bytes) -> None:
        pending = on_outcome(self._rows.get(key), outcome)
        if pending is not None:
            self._rows[key] = pending
        changes = [Change(PARTITION, key, self._rows[key], (outcome,))]
        bed = self._numbers[key]
        confirmed = next(number for number, each in enumerate(self._records[bed]) if each[0].revision == outcome.revision)
        if outcome.kind is OutcomeKind.CONFIRMED and confirmed > 0:  # what was there before is closed first
            self._left -= 1
            if confirmed < WRITES_A_BED:
                changes.append(self._accept(bed, confirmed + 1))
        if outcome.kind is OutcomeKind.PARKED or self._left == 0:
            self._done.set()
        self._delivery.changed(changes)

    def attempted(self, accepted: Accepted, kind: OutcomeKind, reason: Reason) -> None:
        """See `Observer`."""

    def confirmed(self, accepted: Accepted, pending: Pending, at: Millis) -> None:
        """See `Observer`."""

    def failed_inside(self, error: BaseException) -> None:
        """See `Observer`: a bench with a fault in it has no figures."""
        self._done.set()
        raise error


def key_of_bed(bed: int) -> bytes:
    """Entity key of the bed."""
    return EntityKey("bench", EntityType.BED.value, "GENERAL", f"MED/{bed}/A").encode()


def accepted_bed(bed: int, number: int) -> Accepted:
    """Revision `number` of a bed."""
    state = Bed(
        occupancy=BedOccupancy(Occupancy.VACANT),
        environment=STATES[(bed + number) % len(STATES)],
        service=Service(ServiceStatus.OPEN),
        staffed=True,
    )
    offset = number * len(STATES) * 1_000_000 + bed
    return Accepted(
        event_id=EventId(f"{offset:032x}"),
        tenant="bench",
        facility="GENERAL",
        entity_type=EntityType.BED,
        namespace="GENERAL",
        entity_id=f"MED/{bed}/A",
        event_type=EventType.UPDATE,
        source_system="capacity",
        feed="bench",
        epoch=1,
        partition=PARTITION,
        offset=offset,
        revision=revision_of(1, offset),
        previous_revision=revision_of(1, 0),
        lane=Lane.ROUTINE,
        changed=("environment",),
        state=state,
        state_hash=state_hash_of(state),
        content_hash="0" * 16,
        recorded_at=Millis(offset),
        received_at=Millis(offset),
        accepted_at=Millis(offset),
        policy_version="1",
    )
