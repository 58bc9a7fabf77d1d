"""Delivery to one destination: takes what is due from the scheduler, writes it, and makes the outcome durable.

It holds no truth. What is due is in the pending table; what became of a write is an outcome on the log, and only when
the agent has read that outcome back is the entity free for its next write. A crash at any point leaves the entity due,
and its next write begins with a read.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
from aiolimiter import AsyncLimiter

from pipeline.destinations.protocol import Current, Destination
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import EventId, Millis, Revision
from pipeline.domain.limits import Breaker, Limiter, next_delay
from pipeline.domain.pending import Pending
from pipeline.domain.records import Accepted, Lane, Outcome, OutcomeKind, Reason, Stuck
from pipeline.domain.scheduler import Entry, LaneScheduler
from pipeline.stream.attempt import Attempt, Verdict

CURRENT_CACHE_BOUND: Final = 10_000
"""Bodies kept to save the read before a write; the version in the write's condition discards one that is out of date."""

STUCK_AFTER_ATTEMPTS: Final = 3
STUCK_LISTED: Final = 50

IDLE_WAIT_S: Final = 0.5

RATE_PERIOD_S: Final = 0.1
"""Time over which the rate is kept: a burst is a tenth of a second's worth at most."""


_ABSENCE: Final = frozenset({Reason.TIMEOUT, Reason.CONNECTION, Reason.UNAVAILABLE, Reason.AMBIGUOUS})


@dataclass(frozen=True, slots=True)
class Change:
    """What the agent has just stored of one entity; `outcomes` are those of this destination that it read for it."""

    partition: int
    key: bytes
    pending: Pending | None
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one destination's delivery."""

    attempt_timeout_s: float
    max_attempts: int
    rate_per_s: float


class Ledger(Protocol):
    """Where outcomes become durable, each with its entry in the audit chain."""

    async def record(self, outcome: Outcome, key: bytes) -> None:
        """Return once both are acknowledged; ends the process if they can't be."""
        ...


class Pendings(Protocol):
    """The pending table, read on the loop's thread."""

    def get(self, partition: int, key: bytes) -> Pending | None: ...
    def is_assigned(self, partition: int) -> bool: ...


class Observer(Protocol):
    """Told of each attempt and confirmation; feeds metrics and lag windows."""

    def attempted(self, accepted: Accepted, kind: OutcomeKind, reason: Reason) -> None: ...
    def confirmed(self, accepted: Accepted, pending: Pending, at: Millis) -> None: ...
    def failed_inside(self, error: BaseException) -> None: ...


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
    ) -> None:
        self.scheduler = LaneScheduler()
        self.breaker = breaker
        self.limiter = limiter
        self._destination = destination
        self._pendings = pendings
        self._ledger = ledger
        self._limits = limits
        self._decode = decode
        self._observer = observer
        self._clock = clock
        self._draw = draw
        self._writer = writer
        self._partition_of: dict[bytes, int] = {}
        self._awaiting: dict[bytes, tuple[int, Revision]] = {}
        self._troubled: dict[bytes, Pending] = {}
        self._cache: OrderedDict[bytes, Current] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._rate = AsyncLimiter(max(1.0, limits.rate_per_s * RATE_PERIOD_S), RATE_PERIOD_S)
        self._wake = asyncio.Event()
        self._stopping = False

    # -- what the agent tells

    def changed(self, changes: Sequence[Change]) -> None:
        """Take in what the agent stored."""
        for change in changes:
            if change.pending is not None:
                self._know(change.partition, change.key, change.pending)
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
        gone = {key for key, partition in self._partition_of.items() if partition in partitions}
        for key in gone:
            self.scheduler.discard(key)
            self._partition_of.pop(key, None)
            self._troubled.pop(key, None)
            self._cache.pop(key, None)
        # The outcome that these wait for will be read by whoever has the partition now.
        for key in [key for key, (partition, _) in self._awaiting.items() if partition in partitions]:
            del self._awaiting[key]
            self.scheduler.release(key)

    def _know(self, partition: int, key: bytes, pending: Pending) -> None:
        self._partition_of[key] = partition
        lane = pending.lane
        if pending.is_due and lane is not None:
            self.scheduler.put(Entry(key, lane, pending.since, pending.not_before))
        else:
            self.scheduler.discard(key)
        if pending.is_parked or (pending.is_due and pending.attempts >= STUCK_AFTER_ATTEMPTS):
            self._troubled[key] = pending
        else:
            self._troubled.pop(key, None)
        if not pending.is_due and not pending.is_parked and key not in self._cache:
            self._partition_of.pop(key, None)

    def _release_if_ours(self, change: Change) -> None:
        awaited = self._awaiting.get(change.key)
        if awaited is not None and any(o.writer == self._writer and o.revision == awaited[1] for o in change.outcomes):
            del self._awaiting[change.key]
            self.scheduler.release(change.key)

    # -- the loop

    async def run(self) -> None:
        """Start writes as they fall due, until `stop`."""
        while not self._stopping:
            now = self._clock()
            if len(self._tasks) < self.limiter.allowed and self.breaker.allows(now):
                entry = self.scheduler.take(now)
                if entry is not None:
                    self.breaker.started()
                    self._start(entry)
                    continue
            await self._wait(now)

    async def stop(self, within_s: float) -> None:
        """Start nothing more; let what is under way end."""
        self._stopping = True
        self._wake.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within_s)

    def stuck(self) -> tuple[int, tuple[Stuck, ...]]:
        """How many entities are parked, and the longest stuck first (subjects are entity keys: digest before showing)."""
        parked = sum(1 for p in self._troubled.values() if p.is_parked)
        worst = sorted(self._troubled.items(), key=lambda item: item[1].since)[:STUCK_LISTED]
        return parked, tuple(_as_stuck(key, pending) for key, pending in worst)

    async def _wait(self, now: Millis) -> None:
        waits = [IDLE_WAIT_S * 1000, self.scheduler.wait_ms(now), self.breaker.wait_ms(now) or None]
        self._wake.clear()
        try:
            await asyncio.wait_for(self._wake.wait(), max(0.001, min(w for w in waits if w is not None) / 1000))
        except TimeoutError:
            return

    def _start(self, entry: Entry) -> None:
        task = asyncio.get_running_loop().create_task(self._write(entry))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._wake.set()

    # -- one write

    async def _write(self, entry: Entry) -> None:
        partition = self._partition_of.get(entry.key)
        pending = self._pendings.get(partition, entry.key) if partition is not None else None
        if partition is None or pending is None or pending.newest is None or not pending.is_due:
            self._give_back(entry.key)
            return
        accepted = self._decode(pending.newest)
        try:
            attempt = Attempt(self, entry.key, partition, pending, accepted)
            verdict = await attempt.run()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # A fault of ours in one write must not stop the others: it is retried, then parked, and seen.
            self._observer.failed_inside(error)
            verdict = Verdict(OutcomeKind.FAILED, Reason.INTERNAL)
        if verdict is None:
            self._give_back(entry.key)
            return
        await self._conclude(entry.key, partition, pending, accepted, verdict)

    def _give_back(self, key: bytes) -> None:
        self.breaker.abandoned()
        self.scheduler.release(key)

    async def _conclude(
        self, key: bytes, partition: int, pending: Pending, accepted: Accepted, verdict: Verdict
    ) -> None:
        now = self._clock()
        self._learn(verdict, now)
        attempts = pending.attempts + 1
        kind, reason, retry_at = verdict.kind, verdict.reason, None
        if kind is OutcomeKind.FAILED:
            if attempts >= self._limits.max_attempts and not self.breaker.is_open:
                kind, reason = OutcomeKind.PARKED, Reason.ATTEMPTS_EXHAUSTED if reason is Reason.NONE else reason
            else:
                delay = next_delay(attempts, self._draw(), verdict.after_s)
                retry_at = Millis(now + int(delay.total_seconds() * 1000))
        if verdict.current is not None and kind is OutcomeKind.CONFIRMED:
            self._remember(key, verdict.current)
        else:
            self._cache.pop(key, None)
        after = pending.confirmed
        if verdict.shown > pending.confirmed and verdict.shown < accepted.revision:
            # The destination shows a revision whose outcome was lost with an earlier process: it closes first.
            earlier = self._outcome(accepted, pending, OutcomeKind.CONFIRMED, Reason.ALREADY_THERE, now, after)
            await self._ledger.record(_as_earlier(earlier, verdict), key)
            after = verdict.shown
        outcome = self._outcome(accepted, pending, kind, reason, now, after, verdict, attempts, retry_at)
        self._awaiting[key] = (partition, outcome.revision)
        await self._ledger.record(outcome, key)
        self._observer.attempted(accepted, kind, reason)
        if kind is OutcomeKind.CONFIRMED:
            self._observer.confirmed(accepted, pending, now)

    def _outcome(
        self,
        accepted: Accepted,
        pending: Pending,
        kind: OutcomeKind,
        reason: Reason,
        now: Millis,
        after: Revision,
        verdict: Verdict | None = None,
        attempts: int = 1,
        retry_at: Millis | None = None,
    ) -> Outcome:
        return Outcome(
            destination=self._destination.name,
            tenant=accepted.tenant,
            entity_type=accepted.entity_type,
            namespace=accepted.namespace,
            entity_id=accepted.entity_id,
            kind=kind,
            reason=reason,
            revision=accepted.revision,
            after=after,
            partition=accepted.partition,
            event_id=accepted.event_id,
            content_hash=accepted.content_hash,
            state_hash=accepted.state_hash,
            lane=pending.lane or accepted.lane,
            remote_id=verdict.remote_id if verdict else None,
            etag=verdict.etag if verdict else None,
            attempts=attempts,
            retry_at=retry_at,
            open_since=pending.since or accepted.received_at,
            received_at=accepted.received_at,
            recorded_at=accepted.recorded_at,
            at=now,
            writer=self._writer,
        )

    def _learn(self, verdict: Verdict, now: Millis) -> None:
        if verdict.reason in _ABSENCE:
            self.breaker.failed(now)
            self.limiter.refused(now)
        elif verdict.reason is Reason.INTERNAL:
            self.breaker.abandoned()
        else:
            self.breaker.succeeded()
            if verdict.reason is Reason.RATE_LIMITED:
                self.limiter.refused(now)
            else:
                self.limiter.succeeded(now)

    def cached(self, key: bytes) -> Current | None:
        """Body of the last confirmed write, if it is still kept."""
        return self._cache.get(key)

    def forget(self, key: bytes) -> None:
        """The body kept is out of date."""
        self._cache.pop(key, None)

    def _remember(self, key: bytes, current: Current) -> None:
        self._cache[key] = current
        self._cache.move_to_end(key)
        while len(self._cache) > CURRENT_CACHE_BOUND:
            self._cache.popitem(last=False)

    # -- what an attempt needs

    @property
    def destination(self) -> Destination:
        """Where it goes."""
        return self._destination

    async def pace(self) -> None:
        """Wait for the turn that the rate allows."""
        await self._rate.acquire()

    def now(self) -> Millis:
        """The clock."""
        return self._clock()

    def deadline(self) -> Millis:
        """End of an attempt that begins now."""
        return Millis(self._clock() + int(self._limits.attempt_timeout_s * 1000))

    def may_send(self, partition: int, deadline_at: Millis) -> bool:
        """Checked just before sending: the partition is still ours and the attempt's time is not over."""
        return self._pendings.is_assigned(partition) and self._clock() < deadline_at


def _as_earlier(outcome: Outcome, verdict: Verdict) -> Outcome:
    return msgspec.structs.replace(
        outcome, revision=verdict.shown, state_hash=verdict.shown_hash or "", event_id=EventId(""), content_hash=""
    )


def _as_stuck(key: bytes, pending: Pending) -> Stuck:
    return Stuck(
        subject=key.decode(errors="replace"),
        entity_type=EntityType(key.split(b"|")[1].decode()),
        lane=pending.lane or Lane.BULK,
        reason=pending.parked_reason if pending.is_parked else pending.last_reason,
        attempts=pending.attempts,
        since=pending.since,
        revision=pending.newest_revision,
    )
