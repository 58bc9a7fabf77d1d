"""One EHR written by real deliveries while everything around them goes wrong, and the judgement of what it shows then.

Real: destination, delivery, EHR, HTTP. In the place of Kafka: lists that are read by position, and a table that can be
taken back to an earlier state together with its positions, as a changelog is. A writer can be killed, be told the same
again, or be frozen at the moment before a request leaves, replaced, and resumed long after.
"""

import asyncio
import contextlib
import itertools
import random
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import aiohttp
from msgspec import structs

from pipeline.destinations.fhir import FhirDestination
from pipeline.destinations.fhir_build import Builder
from pipeline.destinations.protocol import Absent, Current, PendingWrite, ReadBack, Refused, Request, Retry
from pipeline.destinations.protocol import Outcome as Sent
from pipeline.domain.event import Bed, BedOccupancy, Environment, Occupancy, Place, Service, ServiceStatus
from pipeline.domain.identifiers import EntityKey, Millis, Revision
from pipeline.domain.limits import AdaptiveLimiter, ConsecutiveBreaker
from pipeline.domain.pending import Pending, on_accepted, on_outcome
from pipeline.domain.records import Accepted, Lane, Outcome, OutcomeKind, Reason
from pipeline.formats.fhir.profile import Profile
from pipeline.local.delay import FaultProxy
from pipeline.local.faults import Fault, FaultKind
from pipeline.stream.delivery import Change, Delivery, Limits
from tests.chaos.checks import history_problems, version_of
from tests.chaos.clinician import Clinician, pages, session
from tests.support.changes import decoded, encoded
from tests.support.fhir_lab import DIGEST_KEY, accepted

PARTITION: Final = 0
ATTEMPT_TIMEOUT_S: Final = 2.0
MAX_ATTEMPTS: Final = 100_000
WRITES_AT_ONCE: Final = 8
SNAPSHOTS: Final = 5
BATCH: Final = 7
LOOK_S: Final = 0.01
CATCH_S: Final = 45.0
"""Bound of the wait for a write that can be frozen, and for the successor that overtakes it."""
SETTLE_S: Final = 120.0
LIVES_ON_S: Final = 1.5
"""How long a resumed zombie goes on as if nothing had happened."""

PLACE: Final = Place(building="B1", floor="3", point_of_care="ICU", room="12")

FAULTS: Final = (
    Fault(kind=FaultKind.LATENCY, probability=0.05, amount=ATTEMPT_TIMEOUT_S * 1.5),
    Fault(kind=FaultKind.SLOW_FACTOR, probability=0.05, amount=4),
    Fault(kind=FaultKind.STALE_READ, probability=0.15, methods=("GET", "POST")),
    Fault(kind=FaultKind.STALE_READ, probability=0.05, methods=("GET", "POST"), amount=3),
    Fault(kind=FaultKind.RESET_AFTER_COMMIT, probability=0.08),
    Fault(kind=FaultKind.TRUNCATED, probability=0.06),
    Fault(kind=FaultKind.ERROR_IN_200, probability=0.06),
    Fault(kind=FaultKind.UNAVAILABLE, probability=0.03),
    Fault(kind=FaultKind.UNAVAILABLE, probability=0.02, retry_after_s=1, retry_after_as="date"),
    Fault(kind=FaultKind.TOO_MANY_REQUESTS, probability=0.03),
    Fault(kind=FaultKind.TOO_MANY_REQUESTS, probability=0.02, retry_after_s=1),
    Fault(kind=FaultKind.RESET_BEFORE, probability=0.04),
    Fault(kind=FaultKind.SLOW_FIRST_BYTE, probability=0.03, amount=ATTEMPT_TIMEOUT_S * 1.2),
)


@dataclass
class Log:
    """What Kafka holds: accepted revisions by lane, outcomes, and what the gate's table says at the end."""

    lanes: dict[Lane, list[Accepted]] = field(default_factory=lambda: {lane: [] for lane in Lane})
    outcomes: list[tuple[bytes, Outcome]] = field(default_factory=list)
    heads: dict[bytes, Accepted] = field(default_factory=dict)
    offsets: Any = field(default_factory=lambda: itertools.count(1))

    def publish(self, bed_id: str, state: Bed, lane: Lane) -> Accepted:
        """The gate accepts one revision."""
        record = structs.replace(accepted(state, bed_id, next(self.offsets)), lane=lane)
        self.lanes[lane].append(record)
        self.heads[key_of(record)] = record
        return record

    def confirmed(self, record: Accepted) -> bool:
        """Whether somebody said that the EHR has this revision or a later one."""
        return any(
            key == key_of(record) and outcome.kind is OutcomeKind.CONFIRMED and outcome.revision >= record.revision
            for key, outcome in reversed(self.outcomes)
        )


@dataclass(frozen=True)
class Snapshot:
    """A writer's table with the positions up to which it was made."""

    rows: dict[bytes, Pending]
    lanes: dict[Lane, int]
    outcomes: int


NOTHING: Final = Snapshot({}, dict.fromkeys(Lane, 0), 0)


class Freezable(FhirDestination):
    """A destination whose process can be stopped at the moment before a request leaves it, and resumed.

    Then what it held leaves, though its time is over: the checks that a process makes just before sending were made.
    """

    def __init__(self, base_url: str, profile: Profile) -> None:
        super().__init__("ehr", base_url, profile, DIGEST_KEY, attempt_timeout_s=ATTEMPT_TIMEOUT_S)
        self.running = asyncio.Event()
        self.running.set()
        self.catching = False
        self.caught: list[Request] = []
        self.sent: list[Revision] = []
        self._late: set[asyncio.Task[Sent]] = set()

    async def read(self, write: PendingWrite) -> Current | Absent | Refused | Retry:
        await self.running.wait()
        return await super().read(write)

    async def send(self, request: Request) -> Sent:
        if self.catching:
            self.caught.append(request)
            self.running.clear()
        if self.running.is_set():
            self.sent.append(request.write.accepted.revision)
            return await super().send(request)
        task = asyncio.create_task(self._send_late(request))
        self._late.add(task)
        return await asyncio.shield(task)  # a stopped process cancels nothing

    async def _send_late(self, request: Request) -> Sent:
        await self.running.wait()
        write = replace(request.write, deadline_at=Millis(now_ms() + int(ATTEMPT_TIMEOUT_S * 1000)))
        return await super().send(replace(request, write=write))

    async def read_back(self, request: Request) -> ReadBack:
        await self.running.wait()
        return await super().read_back(request)

    def resume(self) -> None:
        """SIGCONT."""
        self.catching = False
        self.running.set()

    async def close(self) -> None:
        """Drop connections, whatever is on them."""
        self.resume()
        if self._late:
            await asyncio.wait(self._late, timeout=ATTEMPT_TIMEOUT_S * 2)
        await super().close()


class Writer:
    """A writer's process: its agent folds the log into the table, its delivery writes."""

    def __init__(self, name: str, log: Log, start: Snapshot, destination: Freezable, chance: random.Random) -> None:
        self.destination = destination
        self.faults: list[str] = []
        self.snapshots = [start]
        self.rows = dict(start.rows)
        self._log, self._chance = log, chance
        self._lanes, self._outcomes = dict(start.lanes), start.outcomes
        self._dead = False
        self._delivery = Delivery(
            destination, self, self, AdaptiveLimiter(WRITES_AT_ONCE), ConsecutiveBreaker(),
            Limits(ATTEMPT_TIMEOUT_S, MAX_ATTEMPTS, 1_000.0), decoded, self, now_ms, chance.random, name,
        )  # fmt: skip
        self._delivery.assigned(PARTITION, list(self.rows.items()))
        self._tasks = [asyncio.create_task(self._delivery.run()), asyncio.create_task(self._read())]

    # -- what the delivery asks: the table, the ledger, an observer

    def get(self, partition: int, key: bytes) -> Pending | None:
        return self.rows.get(key)

    def is_assigned(self, partition: int) -> bool:
        return True  # so would a zombie say that has not yet been told

    async def record(self, outcome: Outcome, key: bytes) -> None:
        await self.destination.running.wait()
        if self._dead:
            await asyncio.Event().wait()
        self._log.outcomes.append((key, outcome))

    def attempted(self, accepted: Accepted, kind: OutcomeKind, reason: Reason) -> None:
        """Not of interest."""

    def confirmed(self, accepted: Accepted, pending: Pending, at: Millis) -> None:
        """Not of interest."""

    def failed_inside(self, error: BaseException) -> None:
        self.faults.append(type(error).__name__)

    # -- the agent

    async def _read(self) -> None:
        while True:
            await self.destination.running.wait()
            if not self._fold(self._batch()):
                await asyncio.sleep(LOOK_S)
            else:
                await asyncio.sleep(0)

    def _batch(self) -> list[Accepted | tuple[bytes, Outcome]]:
        """Some of one topic; the topics come in any order to each other."""
        topics: list[Lane | None] = [*Lane, None]
        self._chance.shuffle(topics)
        for topic in topics:
            if topic is None and (outcomes := self._log.outcomes[self._outcomes : self._outcomes + BATCH]):
                self._outcomes += len(outcomes)
                return list(outcomes)
            if topic is not None and (records := self._log.lanes[topic][self._lanes[topic] : self._lanes[topic] + BATCH]):
                self._lanes[topic] += len(records)
                return list(records)
        return []

    def _fold(self, batch: list[Accepted | tuple[bytes, Outcome]]) -> bool:
        told: dict[bytes, list[Outcome]] = {}
        for record in batch:
            if isinstance(record, Accepted):
                key, changed = key_of(record), on_accepted(self.rows.get(key_of(record)), record, encoded(record), 60)
                told.setdefault(key, [])
            else:
                key, changed = record[0], on_outcome(self.rows.get(record[0]), record[1])
                told.setdefault(key, []).append(record[1])
            if changed is not None:
                self.rows[key] = changed
        self._delivery.changed([Change(PARTITION, key, self.rows.get(key), tuple(said)) for key, said in told.items()])
        if batch and self._chance.random() < 0.3:
            self.snapshots = [*self.snapshots, Snapshot(dict(self.rows), dict(self._lanes), self._outcomes)][-SNAPSHOTS:]
        return bool(batch)

    # -- what is done to it

    def seek_back(self) -> None:
        """Everything since some moment is told once more."""
        earlier = self._chance.choice([*self.snapshots, NOTHING])
        self._lanes, self._outcomes = dict(earlier.lanes), earlier.outcomes

    async def end(self) -> None:
        """kill -9: writes under way lose their process, and what was not yet on the log never will be."""
        self._dead = True
        tasks = {*self._tasks, *self._delivery._tasks}
        while tasks:  # more than once: wait_for loses a cancellation that meets the end of what it waits for
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=1)
            tasks = {task for task in tasks | self._delivery._tasks if not task.done()}
        await self.destination.close()


@dataclass
class Hostile:
    """One run. `counts` tells what was done to whom, so that a test can refuse a run in which nothing happened."""

    base_url: str
    proxy: FaultProxy
    profile: Profile
    seed: int
    beds: int = 4
    log: Log = field(default_factory=Log)
    counts: Counter[str] = field(default_factory=Counter)
    struck: Counter[FaultKind] = field(default_factory=Counter)
    writers: list[Writer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._chance = random.Random(f"hostile {self.seed}")
        run = uuid.uuid4().hex[:8]
        self.bed_ids = [f"HOSTILE/{run}/{number}" for number in range(self.beds)]
        self.builder = Builder(self.profile, DIGEST_KEY)
        self.clinician = Clinician(self.base_url, self.profile.role, self.seed)
        self._stop = asyncio.Event()

    @property
    def live(self) -> Writer:
        """Who has the partition."""
        return self.writers[-1]

    # -- the run

    async def run(self, replays: int, kills: int, zombies: int) -> None:
        """Publish, harm, and let the live writer finish without faults. TimeoutError if it doesn't."""
        deeds = [self._replay] * replays + [self._kill] * kills + [self._haunt] * zombies
        self._chance.shuffle(deeds)
        self._succeed(NOTHING)
        async with session() as http:
            self._publish(bed_ids=self.bed_ids)
            bedside = asyncio.create_task(self._bedside(http))
            try:
                await self.until(lambda: bool(self.clinician.log.edits), "the clinician's first edit")
                self.proxy.faults.set(*FAULTS)
                for deed in deeds:
                    await self._trouble(deed)
            finally:
                self._pacify()
                self._stop.set()
                await bedside
        await self.until(self._is_settled, "every bed confirmed at its head")

    async def _trouble(self, deed: Callable[[], Any]) -> None:
        for _ in range(self._chance.randint(1, 4)):
            self._publish()
            await asyncio.sleep(self._chance.uniform(0, 0.5))
        done = deed()
        if done is not None:
            await done
        self._publish()

    def _pacify(self) -> None:
        for report in self.proxy.faults.report():
            self.struck[report.fault.kind] += report.struck
        self.proxy.faults.clear()

    def _publish(self, bed_ids: list[str] | None = None) -> Accepted:
        record = None
        for bed_id in bed_ids or self._chance.choices(self.bed_ids, k=self._chance.randint(1, 3)):
            record = self.log.publish(bed_id, self._state(), self._chance.choice(list(Lane)))
            self.counts["revisions"] += 1
        assert record is not None
        return record

    def _state(self) -> Bed:
        return Bed(
            occupancy=BedOccupancy(Occupancy.VACANT),
            environment=self._chance.choice([Environment.CLEAN, Environment.DIRTY, Environment.CLEANING]),
            service=Service(self._chance.choice([ServiceStatus.OPEN, ServiceStatus.CLOSED])),
            staffed=self._chance.random() < 0.5,
            place=PLACE if self._chance.random() < 0.8 else structs.replace(PLACE, room="13"),
        )

    def _is_settled(self) -> bool:
        return all(
            (row := self.live.rows.get(key)) is not None and row.confirmed == head.revision
            for key, head in self.log.heads.items()
        )

    async def _bedside(self, http: aiohttp.ClientSession) -> None:
        """She edits the same beds, past the proxy: what she saved was answered to her."""
        chance = random.Random(f"bedside {self.seed}")
        while not self._stop.is_set():
            found = await self.shown(http, chance.choice(self.bed_ids))
            if found:
                await self.clinician.edit(http, f"Location/{found[0]['id']}")
            await asyncio.sleep(chance.uniform(0, 0.3))

    # -- the deeds

    def _succeed(self, start: Snapshot) -> None:
        destination = Freezable(self.proxy.url, self.profile)
        name = f"ehr/{len(self.writers)}"
        self.writers.append(Writer(name, self.log, start, destination, random.Random(f"{self.seed} {name}")))

    def _replay(self) -> None:
        self.live.seek_back()
        self.counts["replays"] += 1

    async def _kill(self) -> None:
        killed = self.live
        await killed.end()
        self._succeed(self._chance.choice([*killed.snapshots, NOTHING]))
        self.counts["kills"] += 1

    async def _haunt(self) -> None:
        """Freeze a writer with a write in its hands, let another overtake that write, and resume the first."""
        zombie = self.live
        zombie.destination.catching = True
        held = zombie.destination.caught
        await self.until(lambda: bool(held) or bool(self._publish() and False), "a write to freeze", CATCH_S, every_s=0.3)
        zombie.destination.running.clear()
        self._succeed(self._chance.choice(zombie.snapshots))
        overtaken = held[0].write.accepted
        newer = self.log.publish(overtaken.entity_id, self._state(), Lane.CRITICAL)
        await self.until(lambda: self.log.confirmed(newer), "the successor to overtake", CATCH_S * 2)
        self.counts["held"] += len(held)
        zombie.destination.resume()
        await asyncio.sleep(LIVES_ON_S)
        await zombie.end()
        self.counts["zombies"] += 1

    async def until(self, holds: Callable[[], bool], what: str, within_s: float = SETTLE_S, every_s: float = 0.05) -> None:
        """TimeoutError with the seed if it doesn't come to hold."""
        deadline = time.monotonic() + within_s
        while not holds():
            if time.monotonic() > deadline:
                said = Counter((outcome.kind.value, outcome.reason.value) for _, outcome in self.log.outcomes)
                raise TimeoutError(f"seed {self.seed}: no {what} within {within_s:g} s; {dict(self.counts)} {dict(said)}")
            await asyncio.sleep(every_s)

    # -- the judgement

    async def problems(self) -> list[str]:
        """Everything that the EHR shows and must not, by the bed's number."""
        found = [f"a fault inside a writer: {name}" for writer in self.writers for name in writer.faults]
        async with session() as http:
            for number, bed_id in enumerate(self.bed_ids):
                found += [f"bed {number}: {problem}" for problem in await self._bed_problems(http, bed_id)]
        return found

    async def _bed_problems(self, http: aiohttp.ClientSession, bed_id: str) -> list[str]:
        shown = await self.shown(http, bed_id)
        if len(shown) != 1:
            return [f"{len(shown)} resources"]
        path = f"Location/{shown[0]['id']}"
        bodies = await history(http, self.base_url, path)
        head = next(record for record in self.log.heads.values() if record.entity_id == bed_id)
        edits = self.clinician.log.made.get(path, {})
        problems = history_problems([version_of(body, self.profile.role) for body in bodies], edits, head.revision)
        if not self.builder.agrees(head, self.builder.current_of(bodies[-1], None)):
            problems.append("what it shows in the end isn't the gate's state")
        known = {record.revision for lane in self.log.lanes.values() for record in lane if record.entity_id == bed_id}
        strange = {version_of(body, self.profile.role).revision for body in bodies} - known
        return problems + ([f"{len(strange)} revisions that the gate never made"] if strange else [])

    async def shown(self, http: aiohttp.ClientSession, bed_id: str) -> list[dict[str, Any]]:
        """The resources at the EHR that are this bed: one, if all is well."""
        ident = self.builder.subject(accepted(Bed(), bed_id, 1)).ident
        async with http.post(f"{self.base_url}/Location/_search", data={"identifier": ident.token()}) as answer:
            bundle = await answer.json(content_type=None)
        return [entry["resource"] for entry in bundle.get("entry", [])]


async def history(http: aiohttp.ClientSession, base_url: str, path: str) -> list[dict[str, Any]]:
    """Every version of a resource, the oldest first."""
    bodies = [body async for body in pages(http, f"{base_url}/{path}/_history?_count=500")]
    return sorted(bodies, key=lambda body: int(body["meta"]["versionId"]))


@asynccontextmanager
async def hostile(base_url: str, profile: Profile, seed: int, beds: int = 4) -> AsyncIterator[Hostile]:
    """A run at one server; its writers end with it."""
    async with FaultProxy(base_url, seed=seed) as proxy:
        made = Hostile(base_url, proxy, profile, seed, beds)
        try:
            yield made
        finally:
            for writer in made.writers:
                with contextlib.suppress(Exception):
                    await writer.end()


def key_of(record: Accepted) -> bytes:
    """Entity key."""
    return EntityKey(record.tenant, record.entity_type.value, record.namespace, record.entity_id).encode()


def now_ms() -> Millis:
    return Millis(time.time_ns() // 1_000_000)
