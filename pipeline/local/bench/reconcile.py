"""How long a whole comparison takes: `surgeline bench reconcile`. No Kafka; changelogs in memory, a real stand-in by HTTP.

A stand-in in a process of its own holds beds and stays as our writer made them and takes a while for each answer. One in a
hundred has drifted. Read, compared, looked at again: all that a full run does, but for publishing its repairs.
"""

import asyncio
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from pipeline.destinations.fhir.build import JSON_TYPE, Builder
from pipeline.destinations.fhir.profile import load_profile
from pipeline.destinations.fhir.survey import Survey
from pipeline.destinations.fhir_http import FhirHttp, system_clock
from pipeline.destinations.protocol import Absent, PendingWrite, Request
from pipeline.domain.event import Encounter, EncounterStatus, EntityType, Payload, Reference
from pipeline.domain.head import Head, encode_head, state_hash_of
from pipeline.domain.identifiers import Millis, revision_of
from pipeline.domain.reconcile.compare import Repairs, Settled
from pipeline.domain.records import Accepted
from pipeline.domain.residency import Borders, Place
from pipeline.domain.ring import EMPTY_RING
from pipeline.domain.writing.pending import EMPTY, encode_pending
from pipeline.kafka.holdings import Holdings
from pipeline.local.bench.ehr import DIGEST_KEY, accepted_bed
from pipeline.local.bench.memory_logs import MemoryLogs
from pipeline.local.servers.standin import Behaviour
from pipeline.local.servers.standin_child import StandInChild
from pipeline.roles.process import now_ms
from pipeline.roles.reconcile.run import Meant, Ports, Repair, Run
from pipeline.roles.reconcile.view import View
from pipeline.roles.writers.borders import BorderedSurvey
from pipeline.topology import GATE_CHANGELOG, writer_changelog

DESTINATION: Final = "bench"
PLENTY: Final = 1_000_000.0
DRIFTED_EVERY: Final = 100
GOAL_S: Final = 120.0
"""For 10,000 beds and 100,000 encounters at 5 ms."""
PAGE_COUNT: Final = 500
AT_ONCE: Final = 4
TIMEOUT_S: Final = 30.0
SEED_PORTION: Final = 1_000


class ReconcileFigures(msgspec.Struct, frozen=True):
    """What was compared, how long it took, and what it needed."""

    entities: int
    drifted: int
    found: int
    took_s: float
    holdings_s: float
    cpu_us_per_entity: float
    grown_bytes_per_entity: float
    latency_ms: float
    goal_s: float
    reached: bool


def bench_reconcile(beds: int, encounters: int, latency_ms: float) -> ReconcileFigures:
    """Fill a stand-in and changelogs that agree but for one in a hundred, and compare them once."""
    builder, logs = Builder(load_profile("sekmet-replica"), DIGEST_KEY), MemoryLogs()
    count = beds + encounters
    with tempfile.TemporaryDirectory() as folder, StandInChild(Path(folder), "queue", PLENTY, PLENTY) as standin:
        bodies: list[dict[str, Any]] = []
        for number, accepted in enumerate(_states(beds, encounters)):
            key = accepted.key.encode()
            logs.add(GATE_CHANGELOG, key, encode_head(_head(accepted)))
            told = msgspec.structs.replace(EMPTY, generation=1, newest_revision=accepted.revision, confirmed=accepted.revision)
            logs.add(writer_changelog(DESTINATION), key, encode_pending(told))
            if number % DRIFTED_EVERY:
                bodies.append(_body(builder, accepted, number))
            if len(bodies) == SEED_PORTION:
                standin.seed(bodies)
                bodies.clear()
        standin.seed(bodies)
        standin.behave(Behaviour(PLENTY, PLENTY, latency_s=latency_ms / 1_000))
        before = _memory_bytes()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            run, took_s, holdings_s, cpu_s = runner.run(_compared(builder, logs, standin.base_url))
    return ReconcileFigures(
        entities=run.entities,
        drifted=-(-count // DRIFTED_EVERY),
        found=run.tally.drifted,
        took_s=took_s,
        holdings_s=holdings_s,
        cpu_us_per_entity=cpu_s / count * 1e6,
        grown_bytes_per_entity=(_memory_bytes() - before) / count,
        latency_ms=latency_ms,
        goal_s=GOAL_S,
        reached=took_s <= GOAL_S and run.tally.settled[Settled.EQUAL] == count - run.tally.drifted,
    )


async def _compared(builder: Builder, logs: MemoryLogs, base_url: str) -> tuple[Run, float, float, float]:
    """The run, what it took in seconds, of that reading the changelogs, and of a processor."""
    http = FhirHttp(base_url, {"Accept": JSON_TYPE}, None, system_clock)
    survey = BorderedSurvey(Survey(http, builder, PAGE_COUNT, AT_ONCE, TIMEOUT_S), Borders({}), Place(None, None))

    async def order(repairs: Sequence[Repair]) -> int:
        return len(repairs)

    async def may_go() -> bool:
        return True

    holdings = Holdings(logs, (DESTINATION,))
    ports = Ports(survey, lambda key: key.decode(), order, may_go, now_ms)
    run = Run(ports, holdings, View(builder, {}), DESTINATION, Repairs(3, 86_400_000), Meant())
    began_s, cpu_s = time.monotonic(), time.process_time()
    await asyncio.to_thread(holdings.refresh)
    holdings_s = time.monotonic() - began_s
    await run.carry_out()
    took = time.monotonic() - began_s, holdings_s, time.process_time() - cpu_s
    await survey.close()
    return run, *took


def _states(beds: int, encounters: int) -> Iterator[Accepted]:
    for number in range(beds):
        yield accepted_bed(number, 0)
    for number in range(encounters):
        yield _encounter(beds + number)


def _encounter(number: int) -> Accepted:
    state: Payload = Encounter(
        status=EncounterStatus.IN_PROGRESS, patient=Reference("MRN", f"P{number}"), admitted_at=Millis(1_700_000_000_000)
    )
    changes = {"entity_type": EntityType.ENCOUNTER, "entity_id": f"V{number}", "state": state, "state_hash": state_hash_of(state)}
    return msgspec.structs.replace(accepted_bed(number, 0), **changes, revision=revision_of(1, number))


def _head(accepted: Accepted) -> Head:
    return Head(
        epoch=accepted.epoch,
        position=accepted.offset,
        revision=accepted.revision,
        state_hash=accepted.state_hash,
        facility=accepted.facility,
        state=accepted.state,
        clocks={},
        ring=EMPTY_RING,
        event_id=accepted.event_id,
        content_hash=accepted.content_hash,
        recorded_at=accepted.recorded_at,
        received_at=accepted.received_at,
    )


def _body(builder: Builder, accepted: Accepted, number: int) -> dict[str, Any]:
    request = builder.build(PendingWrite(accepted, None, None, 1, Millis(0)), Absent())
    if not isinstance(request, Request):
        raise TypeError("the profile makes every resource of the bench")
    made: dict[str, Any] = request.body["entry"][-1]["resource"]
    return {**made, "id": f"{number}"}


def _memory_bytes() -> int:
    """Most that this process had in memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
