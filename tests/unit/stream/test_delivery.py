"""What one destination's delivery promises, with a fake destination, ledger and table, and a clock moved by hand."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, field

import msgspec
import pytest

from pipeline.destinations.protocol import (
    Absent,
    Ambiguous,
    Confirmed,
    Current,
    NotApplied,
    Outcome,
    PendingWrite,
    ReadBack,
    Refused,
    Request,
    Retry,
    Suppressed,
    VersionMismatch,
)
from pipeline.domain.identifiers import NO_REVISION, Millis, Revision, revision_of
from pipeline.domain.records import Accepted, Lane, OutcomeKind, Reason
from pipeline.domain.records import Outcome as Recorded
from pipeline.domain.writing.limits import AdaptiveLimiter, ConsecutiveBreaker
from pipeline.domain.writing.pending import EMPTY, Pending, on_accepted, on_outcome
from pipeline.domain.writing.turns import STEP_MS, Freed, Order, Turn
from pipeline.stream.writing.delivery import FAULT_WAIT_MS, Change, Delivery
from pipeline.stream.writing.shadows import Rollout
from pipeline.stream.writing.throttle import Limits
from tests.support import changes
from tests.support.changes import WRITER, change, key_of

A = key_of("A")


class Clock:
    """Time in milliseconds, moved by hand. `steady` goes on where the clock is set back."""

    def __init__(self) -> None:
        self.now = 1_000_000
        self.was_set_back_ms = 0

    def __call__(self) -> Millis:
        return Millis(self.now)

    def steady(self) -> Millis:
        return Millis(self.now + self.was_set_back_ms)

    def set_back(self, by_ms: int) -> None:
        self.now -= by_ms
        self.was_set_back_ms += by_ms


Answer = Outcome | Exception | Callable[[], Awaitable[Outcome]]


class FakeEhr:
    """A destination that compares versions, and answers otherwise where the test says so."""

    name = "ehr"
    role = "replica"
    delivery = "latest"

    def __init__(self) -> None:
        self.resources: dict[str, tuple[int, Revision, str]] = {}
        self.history: list[tuple[str, Revision]] = []
        self.answers: list[Answer] = []
        self.reads: list[Current | Absent | Refused | Retry | Exception] = []
        self.read_backs: list[ReadBack | Exception] = []
        self.read_count = self.sent_count = self.read_back_count = 0
        self.under_way: set[str] = set()
        self.suppress: Suppressed | Refused | None = None
        self.before_send: Callable[[], None] = lambda: None

    def expects(self, accepted: Accepted) -> bool:
        return True

    async def read(self, write: PendingWrite) -> Current | Absent | Refused | Retry:
        self.read_count += 1
        if self.reads:
            answer = self.reads.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        known = self.resources.get(write.accepted.entity_id)
        if known is None:
            return Absent()
        return Current(write.accepted.entity_id, str(known[0]), {}, known[1], known[2])

    def build(self, write: PendingWrite, current: Current | Absent) -> Request | Suppressed | Refused:
        if self.suppress is not None:
            return self.suppress
        accepted = write.accepted
        if isinstance(current, Current) and current.revision == accepted.revision:
            return Suppressed(Reason.ALREADY_THERE, accepted.revision)
        if isinstance(current, Current) and current.revision > accepted.revision:
            return Suppressed(Reason.NEWER_AT_DESTINATION, current.revision)
        version = current.etag if isinstance(current, Current) else None
        return Request(write, "PUT", accepted.entity_id, (("If-Match", version or ""),), {})

    def differences(self, write: PendingWrite, current: Current | Absent) -> tuple[str, ...]:
        return ("environment",)

    async def send(self, request: Request) -> Outcome:
        self.sent_count += 1
        assert request.target not in self.under_way, "two writes of one entity at once"
        self.under_way.add(request.target)
        try:
            await asyncio.sleep(0)
            if self.answers:
                answer = self.answers.pop(0)
                if isinstance(answer, Exception):
                    raise answer
                return await answer() if callable(answer) else answer
            return self.apply(request)
        finally:
            self.under_way.discard(request.target)

    def apply(self, request: Request) -> Outcome:
        """Take the write if its version is the one that is there."""
        accepted, wanted = request.write.accepted, request.headers[0][1]
        known = self.resources.get(request.target)
        if (str(known[0]) if known else "") != wanted:
            return VersionMismatch()
        version = known[0] + 1 if known else 1
        self.resources[request.target] = (version, accepted.revision, accepted.state_hash)
        self.history.append((request.target, accepted.revision))
        return Confirmed(request.target, str(version), accepted.revision)

    async def read_back(self, request: Request) -> ReadBack:
        self.read_back_count += 1
        if self.read_backs:
            answer = self.read_backs.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        known = self.resources.get(request.target)
        if known is not None and known[1] == request.write.accepted.revision:
            return Confirmed(request.target, str(known[0]), known[1])
        return NotApplied()

    async def close(self) -> None:
        """Nothing is open."""


@dataclass
class FakeTable:
    """The pending table, and which partitions are ours."""

    rows: dict[bytes, Pending] = field(default_factory=dict)
    ours: bool = True

    def get(self, partition: int, key: bytes) -> Pending | None:
        return self.rows.get(key)

    def is_assigned(self, partition: int) -> bool:
        return self.ours


class FakeLedger:
    """The outcomes' log. The agent reads from it only when the test lets it."""

    def __init__(self) -> None:
        self.log: list[tuple[bytes, Recorded]] = []
        self.read = 0
        self.fail_next: Exception | None = None
        self.on_record: Callable[[], None] = lambda: None

    async def record(self, outcome: Recorded, key: bytes) -> None:
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            raise error
        self.log.append((key, outcome))
        self.on_record()

    def kinds(self) -> list[OutcomeKind]:
        return [outcome.kind for _, outcome in self.log]

    def reasons(self) -> list[Reason]:
        return [outcome.reason for _, outcome in self.log]


class FakeObserver:
    def __init__(self) -> None:
        self.faults: list[str] = []
        self.confirmations: list[Revision] = []

    def attempted(self, accepted: Accepted, kind: OutcomeKind, reason: Reason) -> None:
        """Not of interest."""

    def confirmed(self, accepted: Accepted, pending: Pending, at: Millis) -> None:
        self.confirmations.append(accepted.revision)

    def failed_inside(self, error: BaseException) -> None:
        self.faults.append(type(error).__name__)


class World:
    """One delivery with everything around it faked."""

    def __init__(
        self,
        *,
        max_attempts: int = 3,
        timeout_s: float = 10.0,
        threshold: int = 100,
        concurrency: int = 8,
        order: Order | None = None,
        rollout: Rollout | None = None,
        before: "World | None" = None,
        rate_per_s: float = 1_000_000.0,
    ) -> None:
        """`before`: a process that ended, whose table, log and destination are the next one's."""
        self.clock: Clock = before.clock if before else Clock()
        self.ehr: FakeEhr = before.ehr if before else FakeEhr()
        self.table: FakeTable = before.table if before else FakeTable()
        self.ledger: FakeLedger = before.ledger if before else FakeLedger()
        self.observer = FakeObserver()
        self.breaker = ConsecutiveBreaker(threshold=threshold)
        self.limiter = AdaptiveLimiter(concurrency)
        self.decode: Callable[[bytes], Accepted] = changes.decoded
        self.delivery = Delivery(
            self.ehr,  # type: ignore[arg-type]  # role and delivery are literals in the protocol
            self.table,
            self.ledger,
            self.limiter,
            self.breaker,
            Limits(timeout_s, max_attempts, rate_per_s),
            lambda data: self.decode(data),
            self.observer,
            self.clock,
            lambda: 0.0,
            WRITER,
            order,
            rollout,
            steady=self.clock.steady,
        )

    def accept(self, accepted: Accepted) -> None:
        """The agent stores an accepted revision."""
        key = key_of(accepted.entity_id)
        changed = on_accepted(self.table.rows.get(key), accepted, changes.encoded(accepted), 60)
        if changed is not None:
            self.table.rows[key] = changed
            self.delivery.changed([Change(accepted.partition, key, changed, ())])

    def read_outcomes(self) -> None:
        """The agent reads what is on the outcomes' log."""
        for key, recorded in self.ledger.log[self.ledger.read :]:
            changed = on_outcome(self.table.rows.get(key), recorded)
            if changed is not None:
                self.table.rows[key] = changed
            self.delivery.changed([Change(recorded.partition, key, self.table.rows.get(key), (recorded,))])
        self.ledger.read = len(self.ledger.log)

    async def run(self, turns: int = 40) -> None:
        """Let the loop turn; what can happen without time passing or outcomes being read has happened then."""
        task = asyncio.create_task(self.delivery.run())
        try:
            for _ in range(turns):
                await asyncio.sleep(0)
        finally:
            self.delivery._stopping = True
            self.delivery._wake.set()
            await task
            self.delivery._stopping = False

    async def live(self, most: int = 60, step_ms: int = 500) -> None:
        """Run, read outcomes and move the clock until nothing is due."""
        for _ in range(most):
            await self.run()
            self.read_outcomes()
            if not any(pending.is_due for pending in self.table.rows.values()):
                return
            if self.delivery._tasks:
                await asyncio.sleep(0.06)  # after a pause only what is critical goes at once
            self.clock.now += step_ms


async def test_a_change_is_written_once_and_its_outcome_is_durable() -> None:
    world = World()
    world.accept(change(5))
    await world.live()
    assert world.ehr.history == [("A", revision_of(1, 5))]
    assert world.ledger.kinds() == [OutcomeKind.CONFIRMED]
    assert world.observer.confirmations == [revision_of(1, 5)]
    assert world.table.rows[A].confirmed == revision_of(1, 5)


async def test_newest_state_alone_is_written_and_closes_what_is_older() -> None:
    world = World()
    for offset in (3, 5, 9):
        world.accept(change(offset))
    await world.live()
    assert world.ehr.history == [("A", revision_of(1, 9))]
    assert [(o.revision, o.after) for _, o in world.ledger.log] == [(revision_of(1, 9), NO_REVISION)]


async def test_entity_is_not_written_again_before_its_own_outcome_was_read_back() -> None:
    world = World()
    world.accept(change(5))
    await world.run()
    world.accept(change(6))
    await world.run()
    assert world.ehr.history == [("A", revision_of(1, 5))]
    world.read_outcomes()
    await world.run()
    assert world.ehr.history[-1] == ("A", revision_of(1, 6))
    assert world.ledger.log[-1][1].after == revision_of(1, 5)


async def test_an_outcome_of_an_earlier_attempt_or_another_writer_does_not_free_the_entity() -> None:
    world = World()
    world.accept(change(5))
    await world.run()
    (_, own) = world.ledger.log[0]
    for foreign in (
        msgspec.structs.replace(own, writer="ehr/two"),
        msgspec.structs.replace(own, kind=OutcomeKind.FAILED, attempts=0),
    ):
        world.delivery.changed([Change(0, A, world.table.rows[A], (foreign,))])
    await world.run()
    assert world.ehr.sent_count == world.ehr.read_count == 1
    world.read_outcomes()
    assert world.delivery.scheduler.in_flight == 0


async def test_version_mismatch_rereads_and_fails_after_a_bounded_count() -> None:
    world = World(max_attempts=2)
    world.ehr.answers = [VersionMismatch()] * 100
    world.accept(change(5))
    await world.run()
    assert world.ehr.sent_count == 4
    assert world.ehr.read_count == 4
    assert world.ledger.reasons() == [Reason.VERSION_MISMATCH]
    await world.live()
    assert world.ledger.kinds() == [OutcomeKind.FAILED, OutcomeKind.PARKED]
    assert not world.breaker.is_open


async def test_somebody_elses_write_in_between_is_read_and_then_written_over() -> None:
    world = World()
    world.ehr.resources["A"] = (1, NO_REVISION, "")
    current = Current("A", "0", {}, NO_REVISION, None)
    world.ehr.reads = [current]
    world.accept(change(5))
    await world.live()
    assert world.ehr.read_count == 2
    assert world.ledger.kinds() == [OutcomeKind.CONFIRMED]


async def test_ambiguous_write_is_read_back_and_not_written_twice() -> None:
    world = World()

    async def taken_without_an_answer() -> Outcome:
        world.ehr.resources["A"] = (1, revision_of(1, 5), change(5).state_hash)
        world.ehr.history.append(("A", revision_of(1, 5)))
        return Ambiguous()

    world.ehr.answers = [taken_without_an_answer]
    world.accept(change(5))
    await world.live()
    assert world.ehr.read_back_count == 1
    assert world.ehr.history == [("A", revision_of(1, 5))]
    assert world.ledger.kinds() == [OutcomeKind.CONFIRMED]


async def test_ambiguous_write_that_did_not_happen_is_tried_again_beginning_with_a_read() -> None:
    world = World()
    world.ehr.answers = [Ambiguous()]
    world.accept(change(5))
    await world.live()
    assert world.ledger.kinds() == [OutcomeKind.FAILED, OutcomeKind.CONFIRMED]
    assert world.ledger.reasons()[0] is Reason.AMBIGUOUS
    assert world.ehr.read_count == 2


async def test_nothing_is_sent_when_the_partition_has_gone() -> None:
    world = World()
    world.accept(change(5))
    world.table.ours = False
    await world.run()
    assert world.ehr.read_count == world.ehr.sent_count == 0
    assert world.ledger.log == []


async def test_nothing_is_sent_when_the_partition_goes_between_read_and_send() -> None:
    world = World()
    world.accept(change(5))
    build = world.ehr.build

    def building(write: PendingWrite, current: Current | Absent) -> Request | Suppressed | Refused:
        world.table.ours = False
        return build(write, current)

    world.ehr.build = building  # type: ignore[method-assign]
    await world.run()
    assert world.ehr.sent_count == 0
    assert world.ledger.log == []


async def test_a_partition_that_is_being_assigned_is_not_read_from_over_and_over() -> None:
    world = World()
    world.accept(change(5))
    world.table.ours = False
    await world.run(turns=500)
    assert world.ehr.read_count == 0
    world.table.ours = True
    await world.live()
    assert world.ledger.kinds() == [OutcomeKind.CONFIRMED]


async def test_a_read_that_uses_up_the_time_is_a_counted_failure_and_not_an_endless_repetition() -> None:
    world = World(timeout_s=10, max_attempts=2, threshold=100)
    build = world.ehr.build

    def slow(write: PendingWrite, current: Current | Absent) -> Request | Suppressed | Refused:
        world.clock.now += 11_000
        return build(write, current)

    world.ehr.build = slow  # type: ignore[method-assign]
    world.accept(change(5))
    await world.live()
    assert world.ehr.sent_count == 0
    assert world.ledger.kinds() == [OutcomeKind.FAILED, OutcomeKind.PARKED]
    assert set(world.ledger.reasons()) == {Reason.TIMEOUT}


async def test_a_revision_whose_outcome_was_lost_is_closed_before_the_newest() -> None:
    world = World()
    world.table.rows[A] = msgspec.structs.replace(EMPTY, confirmed=revision_of(1, 2), newest_revision=revision_of(1, 2))
    world.ehr.resources["A"] = (7, revision_of(1, 4), "4" * 16)
    for offset in (3, 4, 9):
        world.accept(change(offset, received_at=1_000 + offset))
    await world.live()
    assert [(o.revision, o.after, o.kind) for _, o in world.ledger.log] == [
        (revision_of(1, 4), revision_of(1, 2), OutcomeKind.CONFIRMED),
        (revision_of(1, 9), revision_of(1, 4), OutcomeKind.CONFIRMED),
    ]
    earlier = world.ledger.log[0][1]
    assert earlier.received_at == 1_003
    assert earlier.state_hash == "4" * 16


async def test_a_revision_that_is_already_there_is_confirmed_without_a_write() -> None:
    world = World()
    world.ehr.resources["A"] = (7, revision_of(1, 5), change(5).state_hash)
    world.accept(change(5))
    await world.live()
    assert world.ehr.sent_count == 0
    assert world.ledger.kinds() == [OutcomeKind.CONFIRMED]
    assert world.ledger.reasons() == [Reason.ALREADY_THERE]


async def test_nothing_is_written_over_a_newer_revision_at_the_destination() -> None:
    world = World(max_attempts=3)
    world.ehr.resources["A"] = (7, revision_of(1, 9), "9" * 16)
    world.accept(change(5))
    await world.run()
    assert world.ledger.reasons() == [Reason.NEWER_AT_DESTINATION]
    world.accept(change(9))
    await world.live()
    assert world.ehr.sent_count == 0
    assert world.table.rows[A].confirmed == revision_of(1, 9)


async def test_a_refused_write_is_parked_until_something_newer_comes() -> None:
    world = World()
    world.ehr.answers = [Refused(Reason.REFUSED_INVALID)]
    world.accept(change(5))
    await world.live()
    assert world.ledger.kinds() == [OutcomeKind.PARKED]
    assert world.delivery.stuck()[0] == 1
    await world.live(most=5, step_ms=60_000)
    assert world.ehr.sent_count == 1
    world.accept(change(6))
    await world.live()
    assert world.delivery.stuck() == (0, ())
    assert world.table.rows[A].confirmed == revision_of(1, 6)


async def test_an_exception_inside_is_retried_then_parked_and_seen_while_others_go_on() -> None:
    world = World(max_attempts=3)
    world.ehr.reads = [RuntimeError("x")] * 3
    world.accept(change(5))
    await world.live()
    assert world.ledger.kinds() == [OutcomeKind.FAILED, OutcomeKind.FAILED, OutcomeKind.PARKED]
    assert set(world.ledger.reasons()) == {Reason.INTERNAL}
    assert world.observer.faults == ["RuntimeError"] * 3
    world.accept(change(7, "B"))
    await world.live()
    assert world.ehr.history == [("B", revision_of(1, 7))]


async def test_a_fault_before_the_attempt_leaves_neither_entity_nor_breaker_stuck() -> None:
    """A pending whose record could not be decoded held its entity for ever, and the probe that it was the destination."""
    world = World(threshold=1)
    world.breaker.failed(world.clock())
    world.clock.now += 5_000

    def fails(_: bytes) -> Accepted:
        raise ValueError

    world.decode = fails
    world.accept(change(5))
    await world.run()
    assert world.observer.faults == ["ValueError"]
    assert world.breaker.allows(world.clock())
    world.decode = changes.decoded
    world.clock.now += FAULT_WAIT_MS
    await world.live()
    assert world.ledger.kinds() == [OutcomeKind.CONFIRMED]


async def test_a_fault_while_recording_leaves_the_entity_to_be_found_by_a_read() -> None:
    world = World()
    world.ledger.fail_next = RuntimeError("x")
    world.accept(change(5))
    await world.run()
    assert world.ledger.log == []
    world.clock.now += FAULT_WAIT_MS
    await world.live()
    assert world.ehr.history == [("A", revision_of(1, 5))]
    assert world.ledger.reasons() == [Reason.ALREADY_THERE]


async def test_a_partition_that_goes_and_comes_back_leaves_no_entity_waiting_for_an_outcome_that_another_read() -> None:
    world = World()
    world.accept(change(5))
    await world.run()
    world.delivery.revoked([0])
    key, recorded = world.ledger.log[0]
    elsewhere = on_outcome(world.table.rows[key], recorded)
    assert elsewhere is not None
    world.table.rows[key] = elsewhere
    world.ledger.read = 1
    world.delivery.assigned(0, [(key, elsewhere)])
    world.accept(change(6))
    await world.live()
    assert world.ehr.history[-1] == ("A", revision_of(1, 6))


@pytest.mark.parametrize("comes_back", [True, False])
async def test_a_write_that_outlives_its_assignment_is_recorded_and_holds_nothing(comes_back: bool) -> None:
    """Its outcome may be read by the worker in between: to wait for it would hold the entity for ever."""
    world = World()
    release = asyncio.Event()

    async def slow() -> Outcome:
        await release.wait()
        world.ehr.resources["A"] = (1, revision_of(1, 5), change(5).state_hash)
        return Confirmed("A", "1", revision_of(1, 5))

    world.ehr.answers = [slow]
    world.accept(change(5))
    task = asyncio.create_task(world.delivery.run())
    await until(lambda: world.ehr.sent_count == 1)
    world.delivery.revoked([0])
    if comes_back:
        world.delivery.assigned(0, list(world.table.rows.items()))
        await asyncio.sleep(0)
        assert world.ehr.sent_count == 1, "one write per entity at a time, across assignments too"
    release.set()
    await until(lambda: world.ledger.kinds()[:1] == [OutcomeKind.CONFIRMED])
    await asyncio.sleep(0)
    await world.delivery.stop(1)
    await task
    world.delivery._stopping = world.delivery._stopped = False
    assert world.delivery.room.cached(A) is None or comes_back
    world.ledger.read = len(world.ledger.log)
    pending = on_outcome(world.table.rows[A], world.ledger.log[0][1])
    assert pending is not None
    world.table.rows[A] = pending
    world.delivery.assigned(0, [(A, pending)])
    world.accept(change(6))
    await world.live()
    assert world.table.rows[A].confirmed == revision_of(1, 6)


async def test_the_answer_to_a_write_that_outlived_its_assignment_is_no_later_than_the_write() -> None:
    """Who has the partition now saw it at the destination, and has confirmed a newer one since: the books must not take this one
    for a step back."""
    world = World()
    release = asyncio.Event()

    async def slow() -> Outcome:
        await release.wait()
        return Confirmed("A", "1", revision_of(1, 5))

    world.ehr.answers = [slow]
    world.accept(change(5))
    task = asyncio.create_task(world.delivery.run())
    await until(lambda: world.ehr.sent_count == 1)
    sent_at = world.clock.now
    world.delivery.revoked([0])
    world.clock.now += 4_000
    release.set()
    await until(lambda: world.ledger.kinds()[:1] == [OutcomeKind.CONFIRMED])
    await world.delivery.stop(1)
    await task
    assert world.ledger.log[0][1].at <= sent_at


async def test_the_first_write_after_an_assignment_begins_with_a_read() -> None:
    world = World()
    world.accept(change(5))
    await world.live()
    world.accept(change(6))
    await world.live()
    assert world.ehr.read_count == 1, "the body of the last write saves the read"
    world.delivery.assigned(0, list(world.table.rows.items()))
    world.accept(change(7))
    await world.live()
    assert world.ehr.read_count == 2


async def test_a_body_that_is_out_of_date_is_dropped_and_read_again() -> None:
    world = World()
    world.accept(change(5))
    await world.live()
    version, revision, state = world.ehr.resources["A"]
    world.ehr.resources["A"] = (version + 1, revision, state)
    world.accept(change(6))
    await world.live()
    assert world.ehr.read_count == 2
    assert [revision for _, revision in world.ehr.history] == [revision_of(1, 5), revision_of(1, 6)]


HOUR_MS = 3_600_000


async def test_a_clock_that_is_set_back_stops_nothing_neither_what_is_new_nor_what_was_put_off() -> None:
    world = World()
    world.ehr.answers = [Retry(Reason.UNAVAILABLE)]
    world.accept(change(5, "A"))
    await world.run()
    world.read_outcomes()
    world.clock.set_back(HOUR_MS)
    world.accept(change(6, "B", lane=Lane.CRITICAL))
    await world.live(most=5)
    assert set(world.ehr.history) == {("A", revision_of(1, 5)), ("B", revision_of(1, 6))}


async def test_a_clock_that_is_set_back_prolongs_neither_an_outage_nor_a_pause() -> None:
    world = World(threshold=2)
    world.ehr.answers = [Retry(Reason.CONNECTION), Retry(Reason.CONNECTION), Retry(Reason.RATE_LIMITED, 5.0)]
    world.accept(change(5, "A"))
    world.accept(change(6, "B"))
    await world.run()
    assert world.breaker.is_open
    world.read_outcomes()
    world.clock.set_back(HOUR_MS)
    for _ in range(3):
        world.clock.now += 2_000
        await world.run()
        world.read_outcomes()
        if Reason.RATE_LIMITED in world.ledger.reasons():
            break
    assert world.delivery.throttle.pause_s() == 5.0
    world.clock.set_back(HOUR_MS)
    world.clock.now += 5_000
    await world.live(most=10)
    assert len(world.ehr.history) == 2


async def test_who_has_a_partition_next_does_not_wait_until_a_clock_that_was_ahead_says_so() -> None:
    world = World()
    world.ehr.answers = [Retry(Reason.UNAVAILABLE)]
    world.accept(change(5))
    await world.run()
    world.read_outcomes()
    world.clock.set_back(HOUR_MS // 6)
    other = World(before=world)
    other.delivery.assigned(0, list(other.table.rows.items()))
    await other.live(most=3)
    assert other.ehr.history == [("A", revision_of(1, 5))]


async def test_refusals_by_rate_slow_down_and_never_open_the_breaker_or_park() -> None:
    world = World(max_attempts=2, threshold=2)
    world.ehr.answers = [Retry(Reason.RATE_LIMITED, 5.0)] * 6
    world.accept(change(5))
    await world.run()
    assert world.delivery.throttle.per_s() == 1_000_000.0
    assert world.ledger.log[0][1].retry_at == world.clock.now + 5_000
    await world.live(step_ms=5_000)
    assert world.ledger.kinds() == [OutcomeKind.FAILED] * 6 + [OutcomeKind.CONFIRMED]
    assert not world.breaker.is_open


async def test_the_lack_of_a_token_holds_everything_back_and_parks_nothing_however_few_attempts_there_are() -> None:
    world = World(max_attempts=1, threshold=3)
    world.ehr.reads = [Retry(Reason.NO_TOKEN, 1.0)] * 12
    world.accept(change(5))
    while world.ehr.reads:
        await world.run()
        world.read_outcomes()
        world.clock.now += 6_000
    assert set(world.ledger.kinds()) == {OutcomeKind.FAILED}
    assert world.breaker.is_open
    await world.live()
    assert world.ledger.kinds()[-1] is OutcomeKind.CONFIRMED


async def test_silence_opens_the_breaker_and_an_answer_closes_it() -> None:
    world = World(max_attempts=50, threshold=3)
    world.ehr.answers = [Retry(Reason.CONNECTION)] * 5
    world.accept(change(5))
    for _ in range(3):
        await world.run()
        world.read_outcomes()
        world.clock.now += 900
    assert world.breaker.is_open
    sent = world.ehr.sent_count
    await world.run()
    assert world.ehr.sent_count == sent, "nothing is sent while it is open"
    await world.live()
    assert not world.breaker.is_open
    assert world.ehr.history == [("A", revision_of(1, 5))]


async def test_an_outage_uses_up_no_attempts() -> None:
    """What waited longest is the probe of an outage again and again; the first hiccup afterwards must not park it."""
    world = World(max_attempts=4, threshold=2)
    world.ehr.answers = [Retry(Reason.CONNECTION)] * 30
    world.accept(change(5))
    for _ in range(40):
        await world.run()
        world.read_outcomes()
        world.clock.now += 6_000
        if not world.ehr.answers:
            break
    assert OutcomeKind.PARKED not in world.ledger.kinds()
    world.breaker.succeeded()
    world.ehr.answers = [Retry(Reason.UNAVAILABLE)]
    await world.live()
    assert OutcomeKind.PARKED not in world.ledger.kinds()
    assert world.ledger.kinds()[-1] is OutcomeKind.CONFIRMED


async def test_an_older_parked_revision_leaves_the_newest_its_attempts() -> None:
    world = World(max_attempts=3)
    world.ehr.answers = [Retry(Reason.UNAVAILABLE), Retry(Reason.UNAVAILABLE), Retry(Reason.UNAVAILABLE)]
    world.accept(change(5))
    for _ in range(3):
        if world.ehr.sent_count == 2:
            world.ehr.before_send = lambda: None
        await world.run()
        if world.ledger.kinds()[-1] is OutcomeKind.PARKED:
            world.accept(change(6))
        world.read_outcomes()
        world.clock.now += 5_000
    assert world.table.rows[A].parked == revision_of(1, 5)
    assert world.table.rows[A].attempts == 0
    world.ehr.answers = [Retry(Reason.UNAVAILABLE)]
    await world.live()
    assert world.table.rows[A].confirmed == revision_of(1, 6)


async def test_stop_drains_what_is_under_way_and_starts_nothing_more() -> None:
    world = World()
    release = asyncio.Event()

    async def slow() -> Outcome:
        await release.wait()
        return Confirmed("A", "1", revision_of(1, 5))

    world.ehr.answers = [slow]
    world.accept(change(5))
    running = asyncio.create_task(world.delivery.run())
    await until(lambda: world.ehr.sent_count == 1)
    stopping = asyncio.create_task(world.delivery.stop(5))
    await asyncio.sleep(0)
    world.accept(change(6, "B"))
    release.set()
    await stopping
    await running
    assert world.ledger.kinds() == [OutcomeKind.CONFIRMED]
    assert world.ehr.sent_count == 1


async def test_critical_goes_first_and_concurrency_is_bounded() -> None:
    world = World(concurrency=2)
    most = 0

    async def counted() -> Outcome:
        nonlocal most
        most = max(most, len(world.ehr.under_way))
        await asyncio.sleep(0)
        return Confirmed("x", "1", NO_REVISION)

    world.ehr.answers = [counted] * 10
    for offset in range(9):
        world.accept(change(offset, f"R{offset}"))
    world.accept(change(9, "C", lane=Lane.CRITICAL))
    await world.run(turns=200)
    assert world.ledger.log[0][1].entity_id == "C" or world.ledger.log[1][1].entity_id == "C"
    assert len(world.ledger.log) == 10
    assert most <= 2


async def test_what_is_stuck_is_listed_even_where_a_name_holds_the_separator() -> None:
    world = World()
    world.ehr.answers = [Refused(Reason.REFUSED_INVALID)]
    accepted = msgspec.structs.replace(change(5), tenant="a|b")
    key = rb"a\|b|bed|N|A"
    pending = on_accepted(None, accepted, changes.encoded(accepted), 60)
    assert pending is not None
    world.table.rows[key] = pending
    world.delivery.assigned(0, [(key, pending)])
    await world.live()
    parked, stuck = world.delivery.stuck()
    assert (parked, stuck[0].reason) == (1, Reason.REFUSED_INVALID)


async def until(condition: Callable[[], bool], turns: int = 2_000) -> None:
    """Wait for a condition, within a bound of loop turns."""
    for _ in range(turns):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("the condition did not come true")


async def test_what_is_over_its_deadline_is_listed_as_stuck_and_what_is_not_is_not() -> None:
    world = World()
    world.accept(change(5))
    world.clock.now = world.table.rows[A].deadline
    assert world.delivery.stuck() == (0, ())
    world.clock.now = world.table.rows[A].deadline + 1
    parked, stuck = world.delivery.stuck()
    assert (parked, [each.revision for each in stuck]) == (0, [revision_of(1, 5)])


class Gatekeeper:
    """An order that says what the test wants."""

    def __init__(self) -> None:
        self.says: dict[str, Turn] = {}
        self.forgotten: list[bytes] = []
        self.first: dict[bytes, set[bytes]] = {}
        self.freed: Freed = lambda keys: None

    def turn(self, key: bytes, accepted: Accepted, now: Millis) -> Turn:
        return self.says.get(accepted.entity_id, Turn.NOW)

    def ahead(self, key: bytes) -> Collection[bytes]:
        return self.first.get(key, ())

    def forget(self, keys: Iterable[bytes]) -> None:
        self.forgotten += keys

    def watch(self, freed: Freed) -> None:
        self.freed = freed


async def test_what_waits_for_another_entity_holds_up_nobody_and_leaves_no_trace() -> None:
    order = Gatekeeper()
    world = World(order=order)
    order.says["A"] = Turn.LATER
    world.accept(change(5, "A", lane=Lane.CRITICAL))
    world.accept(change(6, "B", lane=Lane.BULK))
    await world.run()
    assert [target for target, _ in world.ehr.history] == ["B"]
    assert world.ledger.kinds() == [OutcomeKind.CONFIRMED]
    order.says.clear()
    world.read_outcomes()
    world.clock.now += STEP_MS
    await world.live()
    assert [target for target, _ in world.ehr.history] == ["B", "A"]


async def test_what_waits_for_another_entity_goes_at_once_when_that_has_come() -> None:
    order = Gatekeeper()
    world = World(order=order)
    order.says["A"] = Turn.LATER
    world.accept(change(5, "A", lane=Lane.CRITICAL))
    await world.run()
    order.says.clear()
    await world.run()
    assert not world.ehr.history, "it is looked at every so often only"
    order.freed((A, key_of("another worker's")))
    await world.run()
    assert world.ehr.history == [("A", revision_of(1, 5))]


async def test_what_something_critical_waits_for_goes_before_all_that_is_not() -> None:
    """Else a bed that somebody from the emergency department waits for would be left in the turn of a routine change."""
    order = Gatekeeper()
    world = World(order=order, concurrency=1)
    order.says["A"], order.first[A] = Turn.LATER, {key_of("LEAVES"), key_of("another worker's")}
    world.accept(change(5, "A", lane=Lane.CRITICAL))
    for number in range(5):
        world.accept(change(10 + number, f"U{number}", lane=Lane.URGENT))
    world.accept(change(20, "LEAVES", lane=Lane.BULK))
    await world.run(turns=200)
    assert world.ehr.history[0] == ("LEAVES", revision_of(1, 20))
    assert len(world.ehr.history) == 6, "and all others after it"


async def test_what_waits_for_too_long_shows_as_stuck_and_is_never_given_up() -> None:
    order = Gatekeeper()
    world = World(order=order, max_attempts=3)
    order.says["A"] = Turn.STUCK
    world.accept(change(5))
    await world.live(most=200)
    assert set(world.ledger.reasons()) == {Reason.PREREQUISITE}
    assert set(world.ledger.kinds()) == {OutcomeKind.FAILED}
    assert 3 < len(world.ledger.log) <= 25, "not more often than every five seconds"
    parked, stuck = world.delivery.stuck()
    assert (parked, [each.reason for each in stuck]) == (0, [Reason.PREREQUISITE])
    assert world.ehr.read_count == 0
    assert not world.breaker.is_open
    order.says.clear()
    await world.live()
    assert world.ehr.history == [("A", revision_of(1, 5))]


async def test_an_order_forgets_what_went_to_another_worker() -> None:
    order = Gatekeeper()
    world = World(order=order)
    order.says["A"] = Turn.LATER
    world.accept(change(5))
    await world.run()
    world.delivery.revoked((0,))
    assert order.forgotten == [A]
