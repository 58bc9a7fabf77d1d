"""The scheduler on a clock moved by hand: order, ageing, and that no entry is lost or taken twice.

The bound that is proved here: once an entity has aged (routine after 60 s, bulk after 180 s) and k aged entities are older,
it is taken within (k + 1) * AGED_SHARE * (CRITICAL_SHARE + 1) turns, whatever else arrives.
"""

import random
import time

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.domain.identifiers import Millis
from pipeline.domain.records import LANES, RANK, Lane
from pipeline.domain.scheduler import AGED_SHARE, AGEING_S, CRITICAL_SHARE, STALE_SHARE, STALE_SPARE, Entry, LaneScheduler


def entry(key: str, lane: Lane = Lane.ROUTINE, since: int = 0, not_before: int = 0) -> Entry:
    return Entry(key.encode(), lane, Millis(since), Millis(not_before))


def order(scheduler: LaneScheduler, now: int, most: int = 1_000) -> list[str]:
    """Keys in the order in which they are taken."""
    keys = []
    for _ in range(most):
        taken = scheduler.take(Millis(now))
        if taken is None:
            break
        keys.append(taken.key.decode())
    return keys


def filled(*entries: Entry) -> LaneScheduler:
    scheduler = LaneScheduler()
    for each in entries:
        scheduler.put(each)
    return scheduler


def test_lanes_are_strict_and_the_oldest_goes_first() -> None:
    scheduler = filled(
        entry("b", Lane.BULK, 1), entry("r2", Lane.ROUTINE, 3), entry("r1", Lane.ROUTINE, 2),
        entry("u", Lane.URGENT, 9), entry("c", Lane.CRITICAL, 99),
    )  # fmt: skip
    assert order(scheduler, 100) == ["c", "u", "r1", "r2", "b"]


def test_one_write_per_entity_at_a_time() -> None:
    scheduler = filled(entry("a"))
    assert order(scheduler, 1) == ["a"]
    scheduler.put(entry("a", Lane.CRITICAL))
    assert order(scheduler, 1) == []
    scheduler.release(b"a")
    assert order(scheduler, 1) == ["a"]


def test_what_was_discarded_under_way_does_not_come_back() -> None:
    scheduler = filled(entry("a"))
    order(scheduler, 1)
    scheduler.discard(b"a")
    scheduler.release(b"a")
    assert order(scheduler, 1) == []
    assert len(scheduler) == scheduler.in_flight == 0


def test_what_came_again_after_it_was_discarded_under_way_is_taken_once_released() -> None:
    scheduler = filled(entry("a"))
    order(scheduler, 1)
    scheduler.discard(b"a")
    scheduler.put(entry("a", Lane.URGENT))
    assert order(scheduler, 1) == []
    scheduler.release(b"a")
    scheduler.release(b"a")
    assert order(scheduler, 1) == ["a"]


def test_a_replaced_entry_is_known_by_its_last_word_only() -> None:
    scheduler = filled(entry("a", Lane.BULK, 1), entry("b", Lane.ROUTINE, 1), entry("a", Lane.URGENT, 1))
    assert order(scheduler, 5) == ["a", "b"]
    assert order(filled(entry("a", Lane.URGENT, 1), entry("b", Lane.ROUTINE, 1), entry("a", Lane.BULK, 1)), 5) == ["b", "a"]


def test_a_delayed_entry_waits_for_its_time_and_says_when() -> None:
    scheduler = filled(entry("a", not_before=500))
    assert order(scheduler, 499) == []
    assert scheduler.wait_ms(Millis(400)) == 100
    assert order(scheduler, 500) == ["a"]
    assert scheduler.wait_ms(Millis(500)) is None


def test_postponing_keeps_what_is_known_and_never_brings_forward() -> None:
    scheduler = filled(entry("a", Lane.CRITICAL, 7))
    scheduler.postpone(b"a", Millis(300))
    scheduler.postpone(b"a", Millis(200))
    scheduler.postpone(b"unknown", Millis(200))
    assert order(scheduler, 299) == []
    taken = scheduler.take(Millis(300))
    assert taken is not None
    assert (taken.lane, taken.since) == (Lane.CRITICAL, 7)


def test_urgent_gets_a_turn_under_a_flood_of_critical() -> None:
    scheduler = filled(*(entry(f"c{n}", Lane.CRITICAL) for n in range(30)), entry("u", Lane.URGENT))
    assert order(scheduler, 1).index("u") == CRITICAL_SHARE


def test_an_old_bulk_backlog_after_an_outage_holds_up_nothing_urgent() -> None:
    """Once, all that had aged went by its age before what was urgent now: 5,000 snapshots before the transfer."""
    now = 600_000
    scheduler = filled(
        *(entry(f"b{n}", Lane.BULK, n) for n in range(5_000)), *(entry(f"u{n}", Lane.URGENT, now - 100 + n) for n in range(20))
    )
    taken = order(scheduler, now, most=10_000)
    assert max(taken.index(f"u{n}") for n in range(20)) < 20 * AGED_SHARE // (AGED_SHARE - 1) + AGED_SHARE
    assert len(taken) == 5_020


@settings(max_examples=25)
@given(st.sampled_from((Lane.ROUTINE, Lane.BULK)), st.integers(0, 6), st.integers(0, 2**32))
def test_ageing_bound_holds_whatever_else_arrives(lane: Lane, older: int, seed: int) -> None:
    chance = random.Random(seed)
    aged_at = int(AGEING_S[lane] * 1000) + 100
    scheduler = filled(*(entry(f"old{n}", lane, n) for n in range(older)), entry("subject", lane, 50))
    for turn in range((older + 1) * AGED_SHARE * (CRITICAL_SHARE + 1)):
        for n in range(3):
            busy = chance.choice((Lane.CRITICAL, Lane.CRITICAL, Lane.URGENT, Lane.ROUTINE))
            scheduler.put(entry(f"{turn}.{n}", busy, aged_at + turn))
        taken = scheduler.take(Millis(aged_at + turn))
        assert taken is not None
        scheduler.discard(taken.key)
        scheduler.release(taken.key)
        if taken.key == b"subject":
            return
    raise AssertionError("not taken within the bound")


def test_nothing_ages_into_critical() -> None:
    scheduler = filled(entry("old", Lane.BULK, 0), *(entry(f"c{n}", Lane.CRITICAL, 10**9) for n in range(CRITICAL_SHARE)))
    assert order(scheduler, 10**9)[:CRITICAL_SHARE] == [f"c{n}" for n in range(CRITICAL_SHARE)]


def test_memory_is_bounded_by_the_entities_and_not_by_their_changes() -> None:
    """With the breaker open nothing is taken, while each entity goes on changing."""
    scheduler = LaneScheduler()
    for turn in range(50_000):
        scheduler.put(entry(f"{turn % 10}", LANES[turn % 4], turn, turn % 3))
    heaps = [*scheduler._ready.values(), scheduler._delayed]
    assert max(len(heap) for heap in heaps) <= STALE_SPARE + STALE_SHARE * 10 + 1
    assert sorted(order(scheduler, 10**9)) == sorted(f"{n}" for n in range(10))


KEYS = tuple(f"k{n}" for n in range(6))


class SchedulerMachine(RuleBasedStateMachine):
    """Against a model that is a plain dictionary."""

    @initialize()
    def start(self) -> None:
        self.scheduler = LaneScheduler()
        self.known: dict[bytes, Entry] = {}
        self.under_way: set[bytes] = set()
        self.now = 0

    @rule(key=st.sampled_from(KEYS), lane=st.sampled_from(LANES), since=st.integers(0, 50), delay=st.integers(0, 3))
    def put(self, key: str, lane: Lane, since: int, delay: int) -> None:
        new = entry(key, lane, since * 1_000, (self.now + delay * 1_000) if delay else 0)
        self.known[new.key] = new
        self.scheduler.put(new)

    @rule(key=st.sampled_from(KEYS))
    def discard(self, key: str) -> None:
        self.known.pop(key.encode(), None)
        self.scheduler.discard(key.encode())

    @rule(key=st.sampled_from(KEYS))
    def release(self, key: str) -> None:
        self.under_way.discard(key.encode())
        self.scheduler.release(key.encode())

    @rule(seconds=st.integers(0, 200))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds * 1_000

    @rule()
    def take(self) -> None:
        ready = [e for e in self.known.values() if e.key not in self.under_way and e.not_before <= self.now]
        taken = self.scheduler.take(Millis(self.now))
        if taken is None:
            assert not ready
            return
        assert taken in ready
        self.under_way.add(taken.key)
        same_lane = [e for e in ready if e.lane is taken.lane]
        assert taken.since == min(e.since for e in same_lane)
        may_age = [e for e in ready if self.now - e.since > AGEING_S.get(e.lane, float("inf")) * 1_000]
        critical = [e for e in ready if e.lane is Lane.CRITICAL]
        if not may_age and not critical:
            assert RANK[taken.lane] == min(RANK[e.lane] for e in ready)

    @precondition(lambda self: self.known)
    @rule()
    def drain(self) -> None:
        self.now = max([self.now, *(e.not_before for e in self.known.values())])
        while self.scheduler.take(Millis(self.now)) is not None:
            pass
        self.under_way |= set(self.known)

    @invariant()
    def counts_agree(self) -> None:
        if hasattr(self, "scheduler"):
            assert len(self.scheduler) == len(self.known) == sum(self.scheduler.counts().values())
            assert self.scheduler.in_flight == len(self.under_way)
            assert self.scheduler.oldest_since() == min((e.since for e in self.known.values()), default=None)

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        for key in list(self.under_way):
            self.release(key.decode())
        self.now = 10**9
        assert sorted(order(self.scheduler, self.now)) == sorted(key.decode() for key in self.known)


SchedulerMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestSchedulerMachine = SchedulerMachine.TestCase


def test_microseconds_per_decision_at_100_000_entities_are_told(record_property: object, capsys: object) -> None:
    chance = random.Random(1)
    scheduler = filled(*(entry(f"{n}", chance.choice(LANES), n) for n in range(100_000)))
    began = time.perf_counter()
    for turn in range(20_000):
        taken = scheduler.take(Millis(100_000 + turn))
        assert taken is not None
        scheduler.put(Entry(taken.key, taken.lane, Millis(100_000 + turn), Millis(0)))
        scheduler.release(taken.key)
    micros = (time.perf_counter() - began) / 20_000 * 1e6
    with capsys.disabled():  # type: ignore[attr-defined]
        print(f"\nscheduler: {micros:.1f} us per take, put and release at 100,000 entities")  # noqa: T201
