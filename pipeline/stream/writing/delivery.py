"""Delivery to one destination: takes what is due from the scheduler, writes it, and makes the outcome durable.

It holds no truth. What is due is in the pending table; what became of a write is an outcome on the log, and only when
the agent has read that outcome back is the entity free for its next write. A crash at any point leaves the entity due,
and its next write begins with a read.
"""

import asyncio
from collections.abc import Callable, Collection, Container, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.destinations.protocol import Destination
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Accepted, Lane, Outcome, OutcomeKind, Reason, Stuck
from pipeline.domain.writing.limits import Breaker, Limiter
from pipeline.domain.writing.pending import Pending, held_for
from pipeline.domain.writing.scheduler import Entry, LaneScheduler
from pipeline.domain.writing.turns import STEP_MS, AnyOrder, Order, Turn
from pipeline.stream.writing.attempt import Attempt, Verdict
from pipeline.stream.writing.bodies import Bodies
from pipeline.stream.writing.contact import Contact
from pipeline.stream.writing.freezing import Freezing
from pipeline.stream.writing.outcomes import Job, Judged, Mark, Scribe, earlier_outcome, mark_of, outcome_of, stuck_of
from pipeline.stream.writing.ports import Ledger, Observer, Pendings
from pipeline.stream.writing.room import DeliveryRoom
from pipeline.stream.writing.shadows import Rollout, Shadows, Unrestricted
from pipeline.stream.writing.throttle import Admits, Limits, Throttle
from pipeline.stream.writing.trouble import STUCK_LISTED, Trouble

STUCK_AGAIN_S: Final = 5.0
"""Time between two records that a write is stuck behind another one's."""

IDLE_WAIT_S: Final = 0.5

FLIPPED_AT_ONCE: Final = 100
"""Entities that are looked at anew in one go after a flip of the flags."""

NOT_OURS_WAIT_MS: Final = 250
"""A write whose partition is not known to be ours waits this long, lest it read again and again while it is being assigned."""

CONCLUDING_AT_ONCE: Final = 64
"""Attempts that have ended and whose outcomes are on their way to the log. They ask nothing of the destination, so they take no
other write's place; beyond this the log is what is slow, and nothing more begins."""

FAULT_WAIT_MS: Final = 30_000
"""An entity whose write met a fault that could not even be recorded waits this long."""


@dataclass(frozen=True, slots=True)
class Change:
    """What the agent has just stored of one entity; `outcomes` are those of this destination that it read for it."""

    partition: int
    key: bytes
    pending: Pending | None
    outcomes: tuple[Outcome, ...]


class Delivery:
    """Runs on the loop of the writer's agent."""

    def __init__(
        self,
        destination: Destination,
        pendings: Pendings,
        ledger: Ledger,
        limiter: Limiter,
        breaker: Breaker,
        limits: Limits,
        decode: Callable[[bytes], Accepted],
        observer: Observer,
        clock: Callable[[], Millis],
        draw: Callable[[], float],
        writer: str,
        order: Order | None = None,
        rollout: Rollout | None = None,
        scheduler: LaneScheduler | None = None,
        steady: Callable[[], Millis] | None = None,
    ) -> None:
        """`clock` tells the time of day, `steady` one that is never set, for what waits here alone; else `clock` does both."""
        self._steady = steady or clock
        self.scheduler = LaneScheduler() if scheduler is None else scheduler
        self.throttle = Throttle(limiter, breaker, limits.rate_per_s, limits.max_attempts, self._steady)
        self._pendings = pendings
        self._ledger = ledger
        self._limits = limits
        self._decode = decode
        self._observer = observer
        self._clock = clock
        self._draw = draw
        self._scribe = Scribe(destination.name, writer)
        self._order = order or AnyOrder()
        self._order.watch(self._freed)
        self._bodies = Bodies()
        self._contact = Contact(clock, self._bodies.clear)
        flags = rollout or Unrestricted()
        timeout_s = limits.attempt_timeout_s
        self.room = DeliveryRoom(destination, self.throttle, flags, self._bodies, self._contact, clock, timeout_s)
        self.shadows = Shadows(flags, decode, clock)
        self.freezing = Freezing(self.scheduler, decode)
        self.arrived = 0
        """Entities with something new to write, counted once per change that the agent told."""
        self._partition_of: dict[bytes, int] = {}
        self._tenures: dict[int, int] = {}
        self._awaiting: dict[bytes, tuple[int, Mark]] = {}
        self._trouble = Trouble()
        self._tasks: set[asyncio.Task[None]] = set()
        self._concluding: set[asyncio.Task[None]] = set()
        """Of these, whose attempt has ended: of the others the destination is asked."""
        self._wake = asyncio.Event()
        self._stopping = self._stopped = False

    @property
    def limiter(self) -> Limiter:
        """Writes at once."""
        return self.throttle.limiter

    @property
    def breaker(self) -> Breaker:
        """Whether the destination is tried at all."""
        return self.throttle.breaker

    # -- what the agent tells

    def changed(self, changes: Sequence[Change]) -> None:
        """Take in what the agent stored."""
        for change in changes:
            if change.pending is not None:
                self._know(change.partition, change.key, change.pending)
                self.arrived += change.pending.is_due and not change.outcomes
            self._release_if_ours(change)
        self._wake.set()

    def assigned(self, partition: int, pendings: Sequence[tuple[bytes, Pending]]) -> None:
        """A partition came, with everything that is pending in it. Each entity's next write begins with a read."""
        self.revoked((partition,))
        for key, pending in pendings:
            self._know(partition, key, pending)
        self._wake.set()

    def revoked(self, partitions: Collection[int]) -> None:
        """Partitions went: forget what waits in them. A write under way ends by itself and its outcome stays true."""
        for partition in partitions:
            self._tenures[partition] = self._tenures.get(partition, 0) + 1
        for key in [key for key, partition in self._partition_of.items() if partition in partitions]:
            self.freezing.discard(key)
            self._partition_of.pop(key, None)
            self._trouble.forget(key)
            self.shadows.forget(key)
            self._order.forget((key,))
        self._bodies.forget_all(partitions)
        # The outcome that these wait for will be read by whoever has the partition now.
        for key in [key for key, (partition, _) in self._awaiting.items() if partition in partitions]:
            del self._awaiting[key]
            self.scheduler.release(key)

    async def flipped(self) -> int:
        """The flags changed: what was only compared waits again where it may be written by now. How many do.

        Other work goes on in between; an attempt that has begun asks the flags once more before it sends.
        """
        for number, key in enumerate(self.shadows.keys(), 1):
            partition = self._partition_of.get(key)
            pending = self._pendings.get(partition, key) if partition is not None else None
            if partition is not None and pending is not None:
                self._know(partition, key, pending)
            if number % FLIPPED_AT_ONCE == 0:
                await asyncio.sleep(0)
        self._wake.set()
        return self.shadows.waiting

    def _know(self, partition: int, key: bytes, pending: Pending) -> None:
        entry = self.shadows.entry(key, pending)
        if entry is not None:
            self.freezing.put(entry, pending)
        else:
            self.freezing.discard(key)
        self._trouble.know(key, pending, entry)
        if pending.is_due or pending.is_parked or pending.is_shadowed:
            self._partition_of[key] = partition
        else:
            self._partition_of.pop(key, None)

    def _release_if_ours(self, change: Change) -> None:
        awaited = self._awaiting.get(change.key)
        if awaited is not None and any(mark_of(outcome) == awaited[1] for outcome in change.outcomes):
            del self._awaiting[change.key]
            self.scheduler.release(change.key)

    def _freed(self, keys: Collection[bytes]) -> None:
        self.scheduler.hasten(keys)
        self._wake.set()

    # -- the loop

    async def run(self) -> None:
        """Start writes as they fall due, until `stop`."""
        begun = 0  # since others had their say: these have not taken their turns yet
        while not self._stopping:
            now, steady = self._clock(), self._steady()
            concluding = len(self._concluding)
            admits = self.throttle.admits(steady, len(self._tasks) - concluding, begun, self.scheduler.is_spent)
            is_shut = admits is Admits.NOTHING or self.freezing.held or concluding >= CONCLUDING_AT_ONCE
            entry = None if is_shut else self.scheduler.take(now, critical_only=admits is Admits.CRITICAL)
            if entry is not None:
                self._start(entry, self.breaker.started())
                begun += 1
            elif begun:
                begun = 0
                await asyncio.sleep(0)
            else:
                waits = (self.throttle.wait_ms(steady) or None, None if is_shut else self.scheduler.wait_ms(now))
                await self._wait(min((each for each in waits if each is not None), default=None))

    async def stop(self, within_s: float) -> None:
        """Start nothing more; let what is under way end. What hasn't been sent by then never is: the partitions go."""
        self._stopping = True
        self._wake.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within_s)
        self._stopped = True

    def stuck(self) -> tuple[int, tuple[Stuck, ...]]:
        """How many entities are parked, and the longest stuck first (subjects are entity keys: digest before showing)."""
        return self._trouble.parked, self._trouble.listed(self._overdue())

    @property
    def troubled(self) -> Container[bytes]:
        """Entities that wait for themselves: given up, failed several times, or behind another one's write."""
        return self._trouble

    def _overdue(self) -> dict[bytes, Stuck]:
        """Of those that wait longest: which are over their deadline."""
        now, overdue = self._clock(), {}
        for entry in self.scheduler.oldest(STUCK_LISTED):
            partition = self._partition_of.get(entry.key)
            pending = self._pendings.get(partition, entry.key) if partition is not None else None
            if pending is not None and pending.is_due and pending.deadline < now:
                overdue[entry.key] = stuck_of(entry.key, pending, entry)
        return overdue

    async def _wait(self, at_most_ms: int | None) -> None:
        idle_ms = IDLE_WAIT_S * 1000
        self._wake.clear()
        try:
            await asyncio.wait_for(self._wake.wait(), max(1, min(idle_ms, at_most_ms or idle_ms)) / 1000)
        except TimeoutError:
            return

    def _start(self, entry: Entry, probe: int) -> None:
        task = asyncio.get_running_loop().create_task(self._write(entry, probe))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._concluding.discard(task)
        self._wake.set()

    def _has_answer(self) -> None:
        """Of the present task: its place is another's."""
        task = asyncio.current_task()
        if task in self._tasks:
            self._concluding.add(task)
            self._wake.set()

    # -- one write

    async def _write(self, entry: Entry, probe: int) -> None:
        """One write. Whatever goes wrong in it, the entity stays known and the other writes go on."""
        key = entry.key
        try:
            job = self._job(key)
            if job is None:
                # The agent stored that nothing is due, and is about to say so.
                self.freezing.discard(key)
                self._give_back(key, probe)
                return
            turn, behind = self._turn(job, entry.lane)
            # Else what is urgent would wait behind what is not, or is frozen.
            self.scheduler.promote(self._order.ahead(key), entry.lane)
            if turn is Turn.LATER:
                self._put_off(key, STEP_MS, probe)
                return
            verdict = await self._attempted(job, turn, behind) if self._is_ours(job) else None
            if verdict is None:
                self._put_off(key, round(self.throttle.pause_s() * 1000) or NOT_OURS_WAIT_MS, probe)
                return
            self.throttle.learn(key, verdict, probe)
            if self.breaker.is_open or verdict.reason is Reason.CONNECTION:
                self._contact.lost()  # it may come back restored from a backup
            self._has_answer()
            judged = await self._conclude(job, verdict)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - a key left under way would never be written again
            self._observer.failed_inside(error)
            self._bodies.forget(key)
            self._put_off(key, FAULT_WAIT_MS, probe)
            return
        self._tell(job, judged)

    def _job(self, key: bytes) -> Job | None:
        partition = self._partition_of.get(key)
        pending = self._pendings.get(partition, key) if partition is not None else None
        if partition is None or pending is None or pending.newest is None or self.shadows.entry(key, pending) is None:
            return None
        return Job(key, partition, self._tenures.get(partition, 0), pending, self._decode(pending.newest))

    def _turn(self, job: Job, lane: Lane) -> tuple[Turn, Reason]:
        """Whether it may go, and what it waits for if not. A survivor goes after what was merged into it, wherever that is."""
        held = held_for(job.pending, job.accepted)
        if not held:
            return self._order.turn(job.key, job.accepted, self._steady()), Reason.PREREQUISITE
        self.scheduler.promote((key for key, _ in held), lane)
        since = min(each.since for _, each in held)
        overdue = self._clock() - since >= self._limits.merge_hold_s * 1000
        return Turn.STUCK if overdue else Turn.LATER, Reason.MERGE_OPEN

    async def _attempted(self, job: Job, turn: Turn, behind: Reason) -> Verdict | None:
        if turn is Turn.STUCK:
            return Verdict(OutcomeKind.FAILED, behind, STUCK_AGAIN_S)
        try:
            return await Attempt(self.room, job.key, lambda: self._is_ours(job), job.pending, job.accepted).run()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - a fault in one write must not stop the others: retried, parked, seen
            self._observer.failed_inside(error)
            return Verdict(OutcomeKind.FAILED, Reason.INTERNAL)

    def _put_off(self, key: bytes, wait_ms: int, probe: int) -> None:
        self.scheduler.postpone(key, Millis(self._clock() + wait_ms))
        self._give_back(key, probe)

    def _give_back(self, key: bytes, probe: int) -> None:
        self.breaker.abandoned(probe)
        self.scheduler.release(key)

    async def _conclude(self, job: Job, verdict: Verdict) -> Judged:
        now, key, pending, accepted = self._clock(), job.key, job.pending, job.accepted
        # What may not be written can't be given up: it is due anew when the flags let it be.
        given_up = OutcomeKind.PARKED if self.room.may_write(accepted) else OutcomeKind.SHADOWED
        judged = self.throttle.judge(key, pending, verdict, given_up, self._draw(), now)
        if verdict.current is not None and self._is_same_tenure(job) and verdict.era == self._contact.era():
            self._bodies.keep(key, job.partition, verdict.current)
        else:
            self._bodies.forget(key)
        after = pending.confirmed
        if verdict.shown > pending.confirmed and verdict.shown < accepted.revision:
            # The destination shows a revision whose outcome was lost with an earlier process: it closes first.
            await self._ledger.record(earlier_outcome(job, verdict, self._scribe, now), key)
            after = verdict.shown
        # Whoever has the partition by now may have confirmed a newer one before this answer came, not before it was asked for.
        at = now if self._is_same_tenure(job) else Millis(now - verdict.took_ms)
        outcome = outcome_of(job, judged, verdict, self._scribe, after, at)
        await self._record_and_await(job, outcome)
        return judged

    async def _record_and_await(self, job: Job, outcome: Outcome) -> None:
        """The entity stays under way until the agent has read the outcome back, or its partition has gone."""
        if not self._is_same_tenure(job):
            # The partition went, and may have come back: another may be the one who reads this outcome.
            await self._ledger.record(outcome, job.key)
            self.scheduler.release(job.key)
            return
        awaited = (job.partition, mark_of(outcome))
        self._awaiting[job.key] = awaited
        try:
            await self._ledger.record(outcome, job.key)
        except Exception as error:
            if self._awaiting.get(job.key) is awaited:
                del self._awaiting[job.key]
                raise
            # It was freed in the meantime, and may be under way again.
            self._observer.failed_inside(error)

    def _tell(self, job: Job, judged: Judged) -> None:
        try:
            self._observer.attempted(job.accepted, judged.kind, judged.reason)
            if judged.kind is OutcomeKind.CONFIRMED:
                self._observer.confirmed(job.accepted, job.pending, self._clock())
        except Exception as error:  # noqa: BLE001 - figures are no reason to disturb a write that is durable
            self._observer.failed_inside(error)

    def _is_ours(self, job: Job) -> bool:
        """Whether the partition is assigned to us and never went since the job began: another may have written in between,
        and where nothing fences its write ours would undo it."""
        if self._stopped or self.freezing.held:
            return False
        return self._is_same_tenure(job) and self._pendings.is_assigned(job.partition)

    def _is_same_tenure(self, job: Job) -> bool:
        return self._tenures.get(job.partition, 0) == job.tenure
