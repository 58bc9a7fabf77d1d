"""A writer's process as a hostile run has it: its log, its table, its delivery, and how it is killed, told again or frozen.

Real: destination, delivery, order across entities. In the place of Kafka: lists that are read by position, and a table that
can be taken back to an earlier state together with its positions, as a changelog is.
"""

import asyncio
import itertools
import random
import time
from dataclasses import dataclass, field, replace
from typing import Any, Final
from zlib import crc32

from msgspec import structs

from pipeline.destinations.fhir.destination import FhirDestination
from pipeline.destinations.protocol import Absent, Current, PendingWrite, ReadBack, Refused, Request, Retry
from pipeline.destinations.protocol import Outcome as Sent
from pipeline.domain.event import EntityType, Payload
from pipeline.domain.identifiers import EntityKey, Millis, Revision
from pipeline.domain.records import Accepted, Lane, Outcome, OutcomeKind, Reason
from pipeline.domain.writing.limits import AdaptiveLimiter, ConsecutiveBreaker
from pipeline.domain.writing.occupants import Occupants
from pipeline.domain.writing.pending import Pending, on_accepted, on_outcome
from pipeline.domain.writing.turns import AnyOrder, Order, VacateFirst
from pipeline.formats.fhir.profile import Profile
from pipeline.stream.writing.delivery import Change, Delivery
from pipeline.stream.writing.throttle import Limits
from tests.support.changes import decoded, encoded
from tests.support.fhir_lab import DIGEST_KEY, accepted

DESTINATION: Final = "ehr"
PARTITION: Final = 0
HISTORIES: Final = 3
"""Partitions of the history that everybody can read: what is told of two stays may come in any order."""
ATTEMPT_TIMEOUT_S: Final = 2.0
MAX_ATTEMPTS: Final = 100_000
WRITES_AT_ONCE: Final = 8
SNAPSHOTS: Final = 5
BATCH: Final = 7
LOOK_S: Final = 0.01


@dataclass
class Log:
    """What Kafka holds: accepted revisions by lane and as history, outcomes, and what the gate's table says at the end."""

    lanes: dict[Lane, list[Accepted]] = field(default_factory=lambda: {lane: [] for lane in Lane})
    history: list[list[Accepted]] = field(default_factory=lambda: [[] for _ in range(HISTORIES)])
    outcomes: list[tuple[bytes, Outcome]] = field(default_factory=list)
    heads: dict[bytes, Accepted] = field(default_factory=dict)
    offsets: Any = field(default_factory=lambda: itertools.count(1))

    def publish(self, entity_type: EntityType, entity_id: str, state: Payload, lane: Lane) -> Accepted:
        """The gate accepts one revision."""
        record = structs.replace(accepted(state, entity_id, next(self.offsets), entity_type), lane=lane)
        key = key_of(record)
        self.lanes[lane].append(record)
        self.history[crc32(key) % HISTORIES].append(record)
        self.heads[key] = record
        return record

    def lately(self, many: int) -> list[Accepted]:
        """The heads that changed last."""
        return sorted(self.heads.values(), key=lambda head: head.offset)[-many:]

    def everything(self) -> list[Accepted]:
        """Every revision of every entity."""
        return [record for partition in self.history for record in partition]

    def revisions_of(self, record: Accepted) -> set[Revision | None]:
        """Of this record's entity."""
        key = key_of(record)
        return {each.revision for each in self.history[crc32(key) % HISTORIES] if key_of(each) == key}

    def head_of(self, record: Accepted) -> Accepted:
        """The newest of its entity."""
        return self.heads[key_of(record)]

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


class Follower:
    """Reads the whole history and all outcomes, from their beginning, each partition for itself; a process has one."""

    def __init__(self, log: Log, chance: random.Random) -> None:
        self.occupants = Occupants(DESTINATION, lambda facts: True)
        self._log, self._chance = log, chance
        self._outcomes = 0
        self._read = [0] * HISTORIES
        self._ends = [len(partition) for partition in log.history], len(log.outcomes)

    def is_current(self) -> bool:
        """Whether it has read what there was when it began."""
        ends, outcomes = self._ends
        return self._outcomes >= outcomes and all(map(int.__ge__, self._read, ends))

    def step(self) -> bool:
        """Take in some of one partition; whether there was any anywhere."""
        parts = list(range(HISTORIES + 1))
        self._chance.shuffle(parts)
        return any(self._outcomes_taken() if which == HISTORIES else self._taken(which) for which in parts)

    def _outcomes_taken(self) -> bool:
        told = self._log.outcomes[self._outcomes : self._outcomes + BATCH]
        self._outcomes += len(told)
        for _, outcome in told:
            self.occupants.on_outcome(outcome)
        return bool(told)

    def _taken(self, which: int) -> bool:
        records = self._log.history[which][self._read[which] : self._read[which] + BATCH]
        self._read[which] += len(records)
        for record in records:
            self.occupants.on_accepted(record)
        return bool(records)


class Freezable(FhirDestination):
    """A destination whose process can be stopped at the moment before a request leaves it, and resumed.

    Then what it held leaves, though its time is over: the checks that a process makes just before sending were made.
    """

    def __init__(self, base_url: str, profile: Profile) -> None:
        super().__init__(DESTINATION, base_url, profile, DIGEST_KEY, attempt_timeout_s=ATTEMPT_TIMEOUT_S)
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

    def __init__(
        self, name: str, log: Log, start: Snapshot, destination: Freezable, chance: random.Random, ordered: bool = True
    ) -> None:
        """`ordered`: whether a bed is vacated before it is occupied, as a writer's process has it."""
        self.destination = destination
        self.faults: list[str] = []
        self.snapshots = [start]
        self.rows = dict(start.rows)
        self._log, self._chance = log, chance
        self._lanes, self._outcomes = dict(start.lanes), start.outcomes
        self._dead = False
        self._follower = Follower(log, chance)
        order: Order = VacateFirst(self._follower.occupants, self._follower.is_current) if ordered else AnyOrder()
        self._delivery = Delivery(
            destination, self, self, AdaptiveLimiter(WRITES_AT_ONCE), ConsecutiveBreaker(),
            Limits(ATTEMPT_TIMEOUT_S, MAX_ATTEMPTS, 1_000.0), decoded, self, now_ms, chance.random, name, order,
        )  # fmt: skip
        self._delivery.assigned(PARTITION, list(self.rows.items()))
        self._tasks = [asyncio.create_task(work) for work in (self._delivery.run(), self._read(), self._follow())]

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

    async def _follow(self) -> None:
        while True:
            await self.destination.running.wait()
            await asyncio.sleep(0 if self._follower.step() else LOOK_S)

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


def key_of(record: Accepted) -> bytes:
    """Entity key."""
    return EntityKey(record.tenant, record.entity_type.value, record.namespace, record.entity_id).encode()


def now_ms() -> Millis:
    return Millis(time.time_ns() // 1_000_000)
