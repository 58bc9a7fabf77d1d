"""The scheduler on a clock moved by hand: order, ageing, tenants in turn, and that no entry is lost or taken twice.

The bound that is proved here: once an entity has aged (routine after 60 s, bulk after 180 s), and k aged entities of its
tenant are older, and n other tenants have aged ones, it is taken within
(k + 1) * (n + 1) * AGED_SHARE * (CRITICAL_SHARE + 1) turns, whatever else arrives.
"""

import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.domain.identifiers import Millis
from pipeline.domain.records import LANES, RANK, Lane
from pipeline.domain.writing.ages import STALE_SHARE, STALE_SPARE
from pipeline.domain.writing.scheduler import AGED_SHARE, AGEING_S, CRITICAL_SHARE, SET_BACK_MS, Entry, LaneScheduler
from tests.support.examples import examples


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


def done(scheduler: LaneScheduler, taken: Entry) -> None:
    """Its write has ended, and nothing of it is open."""
    scheduler.discard(taken.key)
    scheduler.release(taken.key)


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


def test_what_came_at_the_very_time_until_which_it_is_delayed_is_taken() -> None:
    scheduler = filled(entry("a", since=500, not_before=500))
    for now in (500, 600):
        assert order(scheduler, now) == ["a"]
        scheduler.release(b"a")


def test_postponing_keeps_what_is_known_and_never_brings_forward() -> None:
    scheduler = filled(entry("a", Lane.CRITICAL, 7))
    scheduler.postpone(b"a", Millis(300))
    scheduler.postpone(b"a", Millis(200))
    scheduler.postpone(b"unknown", Millis(200))
    assert order(scheduler, 299) == []
    taken = scheduler.take(Millis(300))
    assert taken is not None
    assert (taken.lane, taken.since) == (Lane.CRITICAL, 7)


def test_what_was_put_off_by_a_clock_that_is_set_back_waits_for_nothing_and_may_be_put_off_anew() -> None:
    hour = 3_600_000
    scheduler = filled(entry("waits", not_before=2 * hour), entry("under way", since=1, not_before=hour))
    assert order(scheduler, hour) == ["under way"]
    assert order(scheduler, 1_000) == ["waits"]
    scheduler.postpone(b"under way", Millis(1_250))
    scheduler.release(b"under way")
    assert order(scheduler, 1_249) == []
    assert order(scheduler, 1_250) == ["under way"]


def test_a_clock_that_is_set_back_a_little_brings_nothing_forward() -> None:
    scheduler = filled(entry("waits", not_before=20_000))
    assert order(scheduler, 10_000) == []
    assert order(scheduler, 10_000 - SET_BACK_MS) == []


def test_what_was_promoted_goes_in_that_lane_as_old_as_it_is_until_it_is_put_again() -> None:
    leaves = entry("leaves", Lane.BULK, 1)
    scheduler = filled(leaves, entry("u", Lane.URGENT, 0), entry("c", Lane.CRITICAL, 2), entry("d", Lane.CRITICAL, 0))
    scheduler.promote((b"leaves", b"d", b"unknown"), Lane.CRITICAL)
    scheduler.promote((b"leaves",), Lane.ROUTINE)
    assert scheduler.counts()[Lane.CRITICAL] == 3
    assert order(scheduler, 5) == ["d", "leaves", "c", "u"]
    scheduler.put(leaves)
    scheduler.release(b"leaves")
    taken = scheduler.take(Millis(5))
    assert taken is not None
    assert taken.lane is Lane.BULK


def test_what_was_hastened_waits_no_longer_and_one_under_way_is_not_taken_twice() -> None:
    scheduler = filled(entry("a", not_before=500), entry("b"))
    assert order(scheduler, 1) == ["b"]
    scheduler.hasten((b"a", b"b", b"unknown"))
    assert order(scheduler, 1) == ["a"]
    scheduler.postpone(b"a", Millis(900))
    scheduler.hasten((b"a",))
    assert order(scheduler, 1) == []
    scheduler.release(b"a")
    assert order(scheduler, 1) == ["a"]


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


@settings(max_examples=examples(40), deadline=None)
@given(st.sampled_from((Lane.ROUTINE, Lane.BULK)), st.integers(0, 6), st.integers(0, 4), st.integers(0, 2**32))
def test_ageing_bound_holds_whatever_else_arrives(lane: Lane, older: int, others: int, seed: int) -> None:
    """Other tenants have more that is aged and older than can be taken within the bound."""
    chance = random.Random(seed)
    aged_at = int(AGEING_S[Lane.BULK] * 1000) + 100
    bound = (older + 1) * (others + 1) * AGED_SHARE * (CRITICAL_SHARE + 1)
    scheduler = filled(
        *(entry(f"other{n % others}|{n}", chance.choice((Lane.ROUTINE, Lane.BULK)), 0) for n in range(bound if others else 0)),
        *(entry(f"mine|old{n}", lane, n) for n in range(older)),
        entry("mine|subject", lane, 50),
    )
    for turn in range(bound):
        for n in range(3):
            busy = chance.choice((Lane.CRITICAL, Lane.CRITICAL, Lane.URGENT, Lane.ROUTINE))
            scheduler.put(entry(f"{chance.choice(TENANTS)}|{turn}.{n}", busy, aged_at + turn))
        taken = scheduler.take(Millis(aged_at + turn))
        assert taken is not None
        done(scheduler, taken)
        if taken.key == b"mine|subject":
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
    assert sum(map(len, scheduler._heaps())) == scheduler._places <= STALE_SPARE + STALE_SHARE * 10 + 1
    assert sorted(order(scheduler, 10**9)) == sorted(f"{n}" for n in range(10))


def test_lanes_are_strict_across_tenants() -> None:
    scheduler = filled(
        entry("a|r", Lane.ROUTINE, 1), entry("a|c", Lane.CRITICAL, 9), entry("b|u", Lane.URGENT, 5), entry("c|b", Lane.BULK, 0)
    )  # fmt: skip
    assert order(scheduler, 100) == ["a|c", "b|u", "a|r", "c|b"]


def test_tenants_take_turns_within_a_lane_and_the_oldest_of_each_goes_first() -> None:
    scheduler = filled(
        *(entry(f"big|{n}", since=n) for n in range(4)), entry("small|2", since=70), entry("small|1", since=60),
        entry("late|1", since=99),
    )  # fmt: skip
    assert order(scheduler, 100) == ["big|0", "small|1", "late|1", "big|1", "small|2", "big|2", "big|3"]


@pytest.mark.parametrize("lane", LANES)
def test_a_tenant_with_100_000_pending_changes_of_any_lane_delays_another_by_no_more_than_its_turns(lane: Lane) -> None:
    """The flood has aged as well; the other tenant's are of the lane itself and of all above it."""
    now = 10_000_000
    scheduler = filled(*(entry(f"big|{n}", lane, n) for n in range(100_000)))
    theirs = LANES[: LANES.index(lane) + 1]
    for each in theirs:
        scheduler.put(entry(f"small|{each.value}", each, now - 1))
    first = order(scheduler, now, most=2 * (len(theirs) + 1))
    assert {f"small|{each.value}" for each in theirs} <= set(first)


def test_a_tenant_that_comes_and_goes_gets_no_more_turns_than_one_that_always_has_something() -> None:
    scheduler = filled(*(entry(f"big|{n}", since=n) for n in range(1_000)))
    turns: Counter[str] = Counter()
    for turn in range(600):
        scheduler.put(entry(f"brief|{turn}", since=0))
        taken = scheduler.take(Millis(1_000))
        assert taken is not None
        turns[taken.key.decode().split("|")[0]] += 1
        done(scheduler, taken)
    assert turns["big"] == turns["brief"] == 300


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(LANES)), min_size=1, max_size=60))
def test_as_long_as_two_tenants_have_something_in_a_lane_neither_is_ahead_by_more_than_one_turn(
    waiting: list[tuple[str, Lane]],
) -> None:
    scheduler = filled(*(entry(f"{tenant}|{n}", lane, n) for n, (tenant, lane) in enumerate(waiting)))
    left, taken = Counter(waiting), Counter[tuple[str, Lane]]()
    lanes = dict(zip((f"{tenant}|{n}" for n, (tenant, _) in enumerate(waiting)), (lane for _, lane in waiting), strict=True))
    for key in order(scheduler, 100):
        which = key.split("|")[0], lanes[key]
        taken[which] += 1
        left[which] -= 1
        for other in "abc":
            if left[other, which[1]]:
                assert taken[which] - taken[other, which[1]] <= 1
    assert not +left


class Hospital:
    """Writes that take a second each, `slots` at once, of several tenants' changes that arrive faster than that."""

    def __init__(self, slots: int, seed: int) -> None:
        self.scheduler, self.slots, self.chance = LaneScheduler(), slots, random.Random(seed)
        self.waits: dict[tuple[str, Lane], list[int]] = {}
        self.arrived = 0

    def run(self, seconds: int, arrivals: Callable[[int], list[tuple[str, Lane]]]) -> None:
        """In steps of a second; what is taken was put no later, and is done in the same step."""
        for now in range(0, seconds * 1_000, 1_000):
            for tenant, lane in arrivals(now):
                self.arrived += 1
                self.scheduler.put(entry(f"{tenant}|{self.arrived}", lane, now))
            for _ in range(self.slots):
                taken = self.scheduler.take(Millis(now))
                if taken is None:
                    break
                who = taken.key.decode().split("|")[0], taken.lane
                self.waits.setdefault(who, []).append(now - taken.since)
                done(self.scheduler, taken)

    def p99(self, tenant: str, lane: Lane) -> int:
        waits = sorted(self.waits[tenant, lane])
        return waits[len(waits) * 99 // 100]


@pytest.mark.parametrize("seed", range(3))
def test_with_ten_times_what_can_be_written_the_critical_is_written_at_once_and_the_bulk_in_bounded_time(seed: int) -> None:
    """100 changes a second where 10 are written: a critical one is written in the second in which it comes, or the next; a bulk
    one waits for what there is and no longer, for no turn is left unused. The flood ends, or nothing could bound that."""
    hospital, flood_s = Hospital(slots=10, seed=seed), 120
    flood = [("big", Lane.BULK)] * 60 + [("big", Lane.ROUTINE)] * 25 + [("small", Lane.ROUTINE)] * 10

    def arrivals(now: int) -> list[tuple[str, Lane]]:
        urgent = [("big", Lane.URGENT), ("small", Lane.URGENT)] if now < 1_000 * flood_s else []
        critical = [(hospital.chance.choice(("big", "small")), Lane.CRITICAL) for _ in range(hospital.chance.choice((2, 3)))]
        return critical + urgent + (flood if now < 1_000 * flood_s else [])

    hospital.run(2_500, arrivals)
    for tenant in ("big", "small"):
        assert hospital.p99(tenant, Lane.CRITICAL) <= 1_000
        assert hospital.p99(tenant, Lane.URGENT) <= 2_000
    assert hospital.p99("small", Lane.ROUTINE) < hospital.p99("big", Lane.ROUTINE) / 2, "each has its turns"
    left_per_s = hospital.slots - 3  # of the turns, after what is critical; once the flood has ended nothing else is new
    worst_s = flood_s + len(flood) * flood_s / left_per_s
    assert max(hospital.waits["big", Lane.BULK]) / 1_000 <= worst_s
    assert sum(map(len, hospital.waits.values())) == hospital.arrived, "all of it was written in the end"


@pytest.mark.parametrize("lanes", [(Lane.CRITICAL,), (Lane.CRITICAL, Lane.URGENT), (Lane.URGENT, Lane.ROUTINE)])
def test_what_has_aged_is_not_starved_by_a_flood_that_never_ends(lanes: tuple[Lane, ...]) -> None:
    hospital = Hospital(slots=9, seed=1)
    old = [("old", Lane.BULK)] * 20
    hospital.run(400, lambda now: [("new", lane) for lane in lanes for _ in range(20)] + (old if now == 0 else []))
    worst_s = AGEING_S[Lane.BULK] + (20 + 1) * 2 * AGED_SHARE * (CRITICAL_SHARE + 1) / hospital.slots
    assert len(hospital.waits["old", Lane.BULK]) == 20
    assert max(hospital.waits["old", Lane.BULK]) / 1_000 <= worst_s


TENANTS = ("one", "two", "three")
KEYS = tuple(f"{tenant}|k{n}" for tenant in TENANTS for n in range(3))


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
        tenant = taken.key.split(b"|")[0]
        same_lane = [e for e in ready if e.lane is taken.lane and e.key.split(b"|")[0] == tenant]
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


SchedulerMachine.TestCase.settings = settings(max_examples=examples(60), stateful_step_count=50, deadline=None)
TestSchedulerMachine = SchedulerMachine.TestCase


@pytest.mark.parametrize("lane", [Lane.CRITICAL, Lane.URGENT])
def test_who_has_been_critical_longest_goes_first_however_old_anothers_bulk_change_is(lane: Lane) -> None:
    scheduler = filled(
        Entry(b"t|bed|n|new", lane, Millis(1_000), Millis(0), Millis(90_000)),
        Entry(b"t|bed|n|old", lane, Millis(80_000), Millis(0)),
        Entry(b"t|bed|n|delayed", lane, Millis(500), Millis(85_000), Millis(85_000)),
    )
    assert scheduler.turn_since((lane,)) == 80_000
    taken = [scheduler.take(Millis(95_000)) for _ in range(3)]
    assert [each.key.rpartition(b"|")[2] for each in taken if each is not None] == [b"old", b"delayed", b"new"]
