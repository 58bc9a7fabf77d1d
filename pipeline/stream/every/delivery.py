"""Delivery to a destination that is told of each change: in order per entity, at least once, never past what is unacknowledged.

It holds no truth. What is to be told is on `events.accepted` behind the committed offset; a change has come to its end when its
outcome is on the log. Only then may its entity's next one go, and only when all changes of a poll have ended is it acknowledged.
A crash at any point leaves it to be read again; what has an outcome by then is passed over, and what has none goes again as the
same message, byte for byte. While the destination is away nothing is taken in beyond what is in hand, and what is in hand is
let go with its partition: nothing is held through a rebalance.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, assert_never

from faust.types import EventT

from pipeline.destinations.protocol import Ambiguous, Confirmed, EveryDestination, Refused, Retry
from pipeline.domain.identifiers import NO_REVISION, Millis
from pipeline.domain.records import Accepted, Outcome, OutcomeKind, Reason, Stuck
from pipeline.domain.writing.limits import Breaker, next_delay
from pipeline.domain.writing.pace import Pace
from pipeline.stream.every.backlog import Backlog, Item
from pipeline.stream.every.kept import Kept, give_back
from pipeline.stream.every.ports import Bounds, End, Observer, Room
from pipeline.stream.every.told import Told, after, passed_over
from pipeline.stream.every.watch import Gate, Waits
from pipeline.stream.writing.outcomes import Scribe
from pipeline.stream.writing.ports import Ledger
from pipeline.stream.writing.shadows import Rollout, Unrestricted
from pipeline.stream.writing.trouble import STUCK_LISTED

MAX_HELD: Final = 2_000
"""Changes in hand; no poll is taken in while there are more. One poll may go beyond it by itself."""

FLUSH_S: Final = 0.5
"""Time between two writes of the table, each followed by the acknowledgement of what it covers."""

IDLE_WAIT_S: Final = 0.5

STUCK_AFTER_TRIES: Final = 3
LETTING_GO_S: Final = 5.0
"""Time for what is under way when its partition is asked back; then the connection is given up."""

AWAY: Final = frozenset({Reason.CONNECTION, Reason.TIMEOUT, Reason.AMBIGUOUS})
"""The destination does not answer; ASKED_AGAIN is an answer, though not one to go on with."""


class EveryDelivery:
    """Runs on the loop of the writer's agent."""

    def __init__(
        self,
        destination: EveryDestination,
        room: Room,
        ledger: Ledger,
        breaker: Breaker,
        bounds: Bounds,
        observer: Observer,
        clock: Callable[[], Millis],
        draw: Callable[[], float],
        writer: str,
        rollout: Rollout | None = None,
        steady: Callable[[], Millis] | None = None,
    ) -> None:
        """`clock` tells the time of day, `steady` one that is never set, for what waits here alone; else `clock` does both."""
        self._steady = steady or clock
        self.breaker = breaker
        self.freezing = Gate(self._wake_up)
        self.arrived = 0
        self._destination, self._room, self._ledger = destination, room, ledger
        self._bounds, self._observer, self._clock, self._draw = bounds, observer, clock, draw
        self._scribe = Scribe(destination.name, writer)
        self._rollout = rollout or Unrestricted()
        self._pace = Pace(bounds.rate_per_s)
        self.backlog = Backlog()
        self.scheduler = Waits(self.backlog, lambda: len(self._tasks))
        self._kept = Kept(room)
        self._sending: set[Item] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._taken = self._refused = 0
        self._wake, self._space = asyncio.Event(), asyncio.Event()
        self._letting_go = self._stopping = False

    # -- what the agent brings

    async def take(self, event: EventT[Any], changes: Collection[tuple[bytes, Accepted]]) -> None:
        """Take a poll of one partition in, once there is space for it. Nothing is taken in while partitions are asked back."""
        while not self._stopping and (len(self.backlog) > MAX_HELD or self._letting_go):
            self._space.clear()
            await self._space.wait()
        message = event.message
        if self._stopping or message.generation_id != event.app.consumer_generation_id:
            give_back(event)
            return
        portion = self._kept.begun(event, len(changes))
        for key, accepted in changes:
            self.backlog.put(Item(key, accepted, portion))
        self.arrived += len(changes)
        self._wake_up()

    def assigned(self, partition: int, parked: Mapping[bytes, Told], ended: Mapping[bytes, Told]) -> None:
        """A partition came: with what was given up in it, and what came to its end and is not in the table yet."""
        self.revoked((partition,))
        self._kept.assigned(partition, parked, ended)
        self._letting_go = False
        self._space.set()
        self._wake_up()

    async def let_go(self) -> None:
        """Partitions are asked back: start nothing more, let what is under way end, keep what has ended."""
        self._letting_go = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LETTING_GO_S)
        if self._tasks:
            self._destination.cut()
            await asyncio.wait(self._tasks, timeout=LETTING_GO_S)
        await self.keep()

    def revoked(self, partitions: Collection[int]) -> None:
        """Partitions went: forget what is in hand of them. It was never acknowledged. Nothing is taken in before some come."""
        self._letting_go = True
        self.backlog.drop(frozenset(partitions))
        self._kept.revoked(partitions)

    # -- the loop

    async def run(self) -> None:
        """Tell changes as their turn comes, until `stop`."""
        while not self._stopping:
            now = self._steady()
            item = self.backlog.take(now) if self._may_start(now) else None
            if item is not None:
                self._start(item)
            else:
                await self._wait(now)

    async def keep(self) -> None:
        """Write the table and acknowledge what has ended."""
        await self._kept.keep(self._clock())

    async def run_keeper(self) -> None:
        """Write the table and acknowledge, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.keep()

    async def stop(self, within_s: float) -> None:
        """Start nothing more; let what is under way end, and keep what has ended."""
        self._stopping = True
        self._wake_up()
        self._space.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within_s)
        await self.keep()

    def _may_start(self, now: Millis) -> bool:
        busy = len(self._sending) >= self._destination.window
        return not (busy or self._letting_go or self.freezing.held) and self.breaker.allows(now)

    def _start(self, item: Item) -> None:
        probe = self.breaker.started()
        self._sending.add(item)
        task = asyncio.get_running_loop().create_task(self._tell(item, probe))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._wake_up()

    async def _wait(self, now: Millis) -> None:
        times = [wait for wait in (self.backlog.wait_ms(now), self.breaker.wait_ms(now)) if wait]
        self._wake.clear()
        try:
            await asyncio.wait_for(self._wake.wait(), min([IDLE_WAIT_S, *(wait / 1000 for wait in times)]))
        except TimeoutError:
            return

    def _wake_up(self) -> None:
        self._wake.set()

    # -- one change

    async def _tell(self, item: Item, probe: int) -> None:
        """One attempt. Whatever goes wrong in it, the change stays in hand and the others go on."""
        try:
            await self._attempt(item, probe)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - a change that is forgotten under way would hold its partition for ever
            self._observer.failed_inside(error)
            self.breaker.abandoned(probe)
            await self._fault(item)
        finally:
            self._sending.discard(item)

    async def _fault(self, item: Item) -> None:
        """A fault of ours in one change: tried again like a refusal of its own, and given up in the end."""
        item.own, item.tries, item.reason = item.own + 1, item.tries + 1, Reason.INTERNAL
        kind = OutcomeKind.PARKED if item.own >= self._bounds.max_attempts else OutcomeKind.FAILED
        await self._conclude(item, self._kept.known(item), End(kind, Reason.INTERNAL))

    async def _attempt(self, item: Item, probe: int) -> None:
        known, accepted = self._kept.known(item), item.accepted
        if accepted.revision <= known.revision:
            self.breaker.abandoned(probe)
            self._done(item, known)
            return
        if NO_REVISION != known.revision < accepted.previous_revision:
            self._observer.gap(accepted)
        if not self._destination.expects(accepted):
            self.breaker.abandoned(probe)
            self._done(item, passed_over(known, accepted))
            return
        outcome = await self._asked(item, probe)
        self._sending.discard(item)
        self._wake_up()
        if outcome is not None:
            await self._conclude(item, known, outcome)
        else:
            self._again(item)

    async def _asked(self, item: Item, probe: int) -> End | None:
        """How the attempt ended; None where nothing was sent because it may not go now."""
        letter = self._destination.build(item.accepted)
        if isinstance(letter, Refused):
            self.breaker.abandoned(probe)
            held = OutcomeKind.PARKED if self._rollout.may_write(item.accepted) else OutcomeKind.SHADOWED
            return End(held, letter.reason)
        if not self._rollout.may_write(item.accepted):
            self.breaker.abandoned(probe)
            return End(OutcomeKind.SHADOWED, Reason.SHADOW)
        wait_s = self._pace.reserve(self._steady())
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        answer = await self._destination.send(letter, lambda: self._may_go(item)) if self._may_go(item) else Retry(Reason.NONE)
        match answer:
            case Confirmed():
                self._answered(item)
                return End(OutcomeKind.CONFIRMED, Reason.NONE, letter.control_id)
            case Refused(reason):
                self._answered(item)
                return End(OutcomeKind.PARKED, reason, letter.control_id)
            case Retry(Reason.NONE):
                self.breaker.abandoned(probe)
                return None
            case Retry(reason):
                return self._failed(item, reason, letter.control_id, probe)
            case Ambiguous():
                return self._failed(item, Reason.AMBIGUOUS, letter.control_id, probe)
            case _:
                assert_never(answer)

    def _answered(self, item: Item) -> None:
        """It was taken, or refused for good."""
        self.breaker.succeeded()
        self._taken += 1
        item.tries += 1

    def _failed(self, item: Item, reason: Reason, control_id: str, probe: int) -> End:
        """Whether it failed for its own sake, or with all the others; only the former counts, or an outage would give up all."""
        self.breaker.failed(self._steady(), probe)
        others_taken = self._taken > item.taken
        others_refused = self._refused > item.refused
        alone = not others_refused and reason not in AWAY
        if item.tries == 0 or others_taken or alone:
            item.own += 1 if item.tries or reason not in AWAY else 0
        item.tries += 1
        self._refused += 1
        item.taken, item.refused, item.reason = self._taken, self._refused, reason
        kind = OutcomeKind.PARKED if item.own >= self._bounds.max_attempts else OutcomeKind.FAILED
        return End(kind, reason, control_id)

    async def _conclude(self, item: Item, known: Told, end: End) -> None:
        now = self._clock()
        delay_ms = int(next_delay(max(1, item.own), self._draw()).total_seconds() * 1000)
        retry_at = Millis(now + delay_ms) if end.kind is OutcomeKind.FAILED else None
        outcome = self._outcome(item, end, retry_at, now)
        if end.kind is not OutcomeKind.FAILED or self._kept.is_current(item.portion):
            await self._ledger.record(outcome, item.key)
        self._report(item, outcome)
        if retry_at is not None:
            self.backlog.put_off(item, Millis(self._steady() + delay_ms))
        else:
            self._done(item, after(known, outcome))

    def _outcome(self, item: Item, end: End, retry_at: Millis | None, now: Millis) -> Outcome:
        accepted = item.accepted
        return Outcome(
            destination=self._scribe.destination,
            tenant=accepted.tenant,
            entity_type=accepted.entity_type,
            namespace=accepted.namespace,
            entity_id=accepted.entity_id,
            kind=end.kind,
            reason=end.reason,
            revision=accepted.revision,
            after=accepted.previous_revision,
            partition=accepted.partition,
            event_id=accepted.event_id,
            content_hash=accepted.content_hash,
            state_hash=accepted.state_hash,
            lane=accepted.lane,
            remote_id=end.remote_id,
            attempts=max(1, item.tries),
            retry_at=retry_at,
            open_since=accepted.received_at,
            received_at=accepted.received_at,
            recorded_at=accepted.recorded_at,
            at=now,
            writer=self._scribe.writer,
        )

    def _report(self, item: Item, outcome: Outcome) -> None:
        try:
            self._observer.attempted(item.accepted, outcome.kind, outcome.reason)
            if outcome.kind is OutcomeKind.CONFIRMED:
                self._observer.confirmed(item.accepted, outcome.at)
        except Exception as error:  # noqa: BLE001 - figures are no reason to tell anything twice
            self._observer.failed_inside(error)

    def _again(self, item: Item) -> None:
        self.backlog.put_off(item, Millis(self._steady() + int(IDLE_WAIT_S * 1000)))

    def _done(self, item: Item, told: Told) -> None:
        """It has come to its end; where its partition went meanwhile, whoever has it now reads the outcome."""
        if self._kept.is_current(item.portion):
            self._kept.ended(item, told)
            self.backlog.done(item)
            self._space.set()

    def _may_go(self, item: Item) -> bool:
        """Asked just before the first byte: whether it is ours, and was all the time since it was read."""
        held = self._letting_go or self.freezing.held
        return not held and self._kept.is_current(item.portion) and self._room.is_assigned(item.portion.partition)

    # -- what is shown

    @property
    def troubled(self) -> Collection[bytes]:
        """Entities that wait for themselves: those whose next change failed for its own sake."""
        return {item.key for item in self.backlog.heads() if item.own}

    def stuck(self) -> tuple[int, tuple[Stuck, ...]]:
        """How many entities' last change was given up, and the longest stuck (subjects are entity keys, to be digested)."""
        known = [told.stuck(key) for key, (_, told) in self._kept.parked.items()]
        known += [_waits(item) for item in self.backlog.heads() if item.own >= STUCK_AFTER_TRIES]
        return len(self._kept.parked), tuple(sorted(known, key=lambda stuck: stuck.since)[:STUCK_LISTED])

    def per_s(self) -> float:
        """Messages that may go in a second."""
        return self._pace.per_s(self._steady())


def _waits(item: Item) -> Stuck:
    accepted = item.accepted
    return Stuck(
        subject=accepted.key.encode().decode(errors="replace"),
        entity_type=accepted.entity_type,
        lane=accepted.lane,
        reason=item.reason,
        attempts=item.tries,
        since=accepted.received_at,
        revision=accepted.revision,
    )
