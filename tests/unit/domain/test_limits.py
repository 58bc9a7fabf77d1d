"""Retries, concurrency and the breaker."""

import bisect
import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.identifiers import Millis
from pipeline.domain.writing.limits import (
    FIRST_ALLOWED,
    FIRST_DELAY_S,
    HALVE_EVERY_MS,
    MAX_DELAY_S,
    MAX_REFUSED_KEYS,
    MOST_REFUSALS_ALONE,
    SLOW_FACTOR,
    SLOW_MS,
    AdaptiveLimiter,
    ConsecutiveBreaker,
    Hold,
    Refusals,
    next_delay,
)
from pipeline.domain.writing.pace import BURST_S, CUT, DEEPEST_CUT, FIRST_GUESS_PER_S, Pace


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True), st.floats(0, 1e6))
def test_retry_after_is_never_shortened(attempt: int, jitter: float, floor_s: float) -> None:
    assert next_delay(attempt, jitter, floor_s).total_seconds() >= floor_s - 1e-6


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_own_delays_are_bounded_and_at_least_half_of_what_they_could_be(attempt: int, jitter: float) -> None:
    full_s = min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** min(attempt - 1, 16))
    assert full_s / 2 <= next_delay(attempt, jitter).total_seconds() <= full_s


def test_delays_double_to_the_bound() -> None:
    delays = [next_delay(attempt, 0.0).total_seconds() for attempt in range(1, 12)]
    assert delays[:3] == [0.125, 0.25, 0.5]
    assert delays == sorted(delays)
    assert delays[-1] == MAX_DELAY_S / 2


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2_000)), max_size=200), st.integers(1, 64))
def test_concurrency_stays_between_one_and_the_bound(steps: list[tuple[bool, int]], most: int) -> None:
    limiter, now = AdaptiveLimiter(most), 10_000
    for refused, passed_ms in steps:
        now += passed_ms
        if refused:
            limiter.refused(Millis(now))
        else:
            limiter.succeeded(Millis(now))
        assert 1 <= limiter.allowed <= most


def settled(most: int) -> AdaptiveLimiter:
    return AdaptiveLimiter(most, first=most)


def test_concurrency_is_halved_once_a_second_however_many_writes_are_refused() -> None:
    limiter = settled(16)
    for _ in range(16):
        limiter.refused(Millis(10_000))
    assert limiter.allowed == 8
    limiter.refused(Millis(10_000 + HALVE_EVERY_MS))
    assert limiter.allowed == 4


def test_what_was_sent_before_it_was_halved_halves_nothing_again() -> None:
    """Sixteen writes hang for ten seconds: that they all time out says one thing, once."""
    limiter = settled(16)
    limiter.refused(Millis(20_000), 10_000)
    limiter.refused(Millis(21_500), 10_000)
    assert limiter.allowed == 8


def test_an_unknown_destination_is_begun_with_gently_and_learnt_within_a_few_rounds() -> None:
    limiter = AdaptiveLimiter(64)
    assert limiter.allowed == FIRST_ALLOWED
    for _ in range(3):
        for _ in range(limiter.allowed):
            limiter.succeeded(Millis(1), 5)
    assert limiter.allowed == 64


def test_concurrency_grows_by_one_per_round_of_successes_once_it_was_refused() -> None:
    limiter = settled(16)
    limiter.refused(Millis(10_000))
    for _ in range(9):
        limiter.succeeded(Millis(10_001))
    assert limiter.allowed == 9


def test_a_destination_that_is_slow_by_nature_is_not_taken_for_one_that_queues() -> None:
    limiter = AdaptiveLimiter(8)
    for number in range(200):
        limiter.succeeded(Millis(number * 3_000), 3_000)
    assert limiter.allowed == 8


def test_one_slow_answer_is_no_queue() -> None:
    limiter = AdaptiveLimiter(8)
    for number in range(200):
        limiter.succeeded(Millis(number * 10), 10 if number != 100 else 4_000)
    assert limiter.allowed == 8


def test_a_destination_that_became_slower_for_good_is_measured_by_its_present() -> None:
    limiter = AdaptiveLimiter(8)
    now = 0
    for took_ms, rounds in ((10, 1_000), (2_500, 400)):
        for _ in range(rounds):
            now += took_ms
            limiter.succeeded(Millis(now), took_ms)
    assert limiter.allowed == 8


# -- a destination that is simulated


class Queueing:
    """Takes everything and works it off at `cap_per_s`, one after the other."""

    def __init__(self, cap_per_s: float, base_ms: float = 5.0) -> None:
        self.cap_per_s, self.base_ms = cap_per_s, base_ms
        self._free_ms = 0.0

    def took_ms(self, now_ms: float) -> float:
        self._free_ms = max(self._free_ms, now_ms) + 1000 / self.cap_per_s
        return self._free_ms - now_ms + self.base_ms


class Distant:
    """Takes as much at once as it is given, each in its time."""

    def __init__(self, ms: float) -> None:
        self.ms = ms

    def took_ms(self, now_ms: float) -> float:
        return self.ms * (0.9 + 0.2 * ((now_ms * 7919) % 1))


class Counting:
    """Answers 429, and says no time, where its bucket of `cap_per_s` is empty."""

    def __init__(self, cap_per_s: float, bucket: float = 50.0, answer_ms: float = 3.0) -> None:
        self.cap_per_s, self.answer_ms, self._bucket = cap_per_s, answer_ms, bucket
        self._most, self._at_ms = bucket, 0.0

    def takes(self, now_ms: float) -> bool:
        self._bucket = min(self._most, self._bucket + (now_ms - self._at_ms) / 1000 * self.cap_per_s)
        self._at_ms = now_ms
        if self._bucket < 1:
            return False
        self._bucket -= 1
        return True


Done = tuple[float, int, bool, int]


def drive(
    server: Queueing | Counting | Distant, limiter: AdaptiveLimiter, pace: Pace, from_ms: float, for_ms: float
) -> list[Done]:
    """An endless backlog against the server: (when it ended, ms it took, whether it was taken, allowed then)."""
    now, until, serial = from_ms, from_ms + for_ms, 0
    under_way: list[tuple[float, int, int, bool]] = []
    ended: list[Done] = []
    while now < until:
        while len(under_way) < limiter.allowed:
            start = now + pace.wait_ms(Millis(int(now)))
            pace.start(Millis(int(start)))
            if isinstance(server, Queueing | Distant):
                end, taken = start + server.took_ms(start), True
            else:
                end, taken = start + server.answer_ms, server.takes(start)
            serial += 1
            heapq.heappush(under_way, (end, serial, int(end - start), taken))
        now, _, took_ms, taken = heapq.heappop(under_way)
        at = Millis(int(now))
        if taken:
            pace.taken(at)
            limiter.succeeded(at, took_ms)
        else:
            pace.limited(at)
        ended.append((now, took_ms, taken, limiter.allowed))
    return ended


def taken_per_s(ended: list[Done], from_ms: float) -> float:
    late = [each for each in ended if each[0] >= from_ms]
    return sum(each[2] for each in late) / (late[-1][0] - from_ms) * 1000


SETTLED_MS = 10_000.0
LOWEST_SHARE = 0.92
"""The band: what is reached of a cap that nobody told. The tests say beside each cap what part may be refused for it."""


@pytest.mark.parametrize(("cap_per_s", "refused_share"), [(10, 0.12), (400, 0.03), (2_000, 0.01)])
@pytest.mark.parametrize("most_per_s", [200.0, 100_000.0])
def test_a_limit_that_is_answered_with_429_alone_is_learnt_within_a_band(
    cap_per_s: int, refused_share: float, most_per_s: float
) -> None:
    reachable = min(cap_per_s, most_per_s)
    ended = drive(Counting(cap_per_s, bucket=max(2, cap_per_s / 4)), AdaptiveLimiter(16), Pace(most_per_s), 0, 60_000)
    late = [each for each in ended if each[0] >= SETTLED_MS]
    assert taken_per_s(ended, SETTLED_MS) >= LOWEST_SHARE * reachable
    assert sum(not each[2] for each in late) <= max(refused_share * len(late), 2)


class Told(Pace):
    """Remembers when what started."""

    def __init__(self, most_per_s: float) -> None:
        super().__init__(most_per_s)
        self.starts: list[Millis] = []

    def start(self, now: Millis) -> None:
        self.starts.append(now)
        super().start(now)


@pytest.mark.parametrize("cap_per_s", [100, 400, 2_000])
def test_once_a_limit_is_learnt_no_second_has_a_tenth_more_than_it(cap_per_s: int) -> None:
    pace = Told(100_000.0)
    ended = drive(Counting(cap_per_s, bucket=cap_per_s / 4), AdaptiveLimiter(16), pace, 0, 60_000)
    late = [at for at in pace.starts if at >= SETTLED_MS]
    assert max(bisect.bisect_left(late, at + 1_000) - number for number, at in enumerate(late)) <= 1.1 * cap_per_s
    assert taken_per_s(ended, SETTLED_MS) >= 0.97 * cap_per_s


def test_an_outage_unlearns_no_limit() -> None:
    """Ten minutes in which only probes go out; then all that waited wants to."""
    server, limiter, pace = Counting(100, bucket=25), AdaptiveLimiter(16), Told(100_000.0)
    drive(server, limiter, pace, 0, 60_000)
    learnt = pace.per_s(Millis(60_000))
    for number in range(150):
        pace.start(Millis(64_000 + 4_000 * number))
    back = pace.starts[-1] + 4_000
    drive(server, limiter, pace, back, 20_000)
    late = [at for at in pace.starts if at >= back]
    assert max(bisect.bisect_left(late, at + 1_000) - number for number, at in enumerate(late)) <= 1.1 * max(learnt, 104)


@pytest.mark.parametrize(("before", "after"), [(400, 800), (800, 400), (50, 2_000)])
def test_a_limit_that_changes_is_followed_within_a_minute_and_a_half(before: int, after: int) -> None:
    server, limiter, pace = Counting(before), AdaptiveLimiter(16), Pace(100_000.0)
    drive(server, limiter, pace, 0, 20_000)
    server.cap_per_s = after
    ended = drive(server, limiter, pace, 20_000, 120_000)
    assert taken_per_s(ended, 110_000) >= LOWEST_SHARE * after


@pytest.mark.parametrize("most", [16, 1_000])
@pytest.mark.parametrize("cap_per_s", [20, 400, 2_000])
def test_a_destination_that_queues_is_kept_busy_and_its_queue_short(cap_per_s: int, most: int) -> None:
    ended = drive(Queueing(cap_per_s), AdaptiveLimiter(most), Pace(100_000.0), 0, 60_000)
    late = [each for each in ended if each[0] >= SETTLED_MS]
    assert taken_per_s(ended, SETTLED_MS) >= 0.99 * cap_per_s
    assert max(each[1] for each in late) <= 3 * max(SLOW_MS, SLOW_FACTOR * 1000 / cap_per_s)


@pytest.mark.parametrize(("cap_per_s", "longest_ms"), [(20, 400), (50, 160), (100, 100)])
@pytest.mark.parametrize("before_per_s", [200, 1_000])
def test_a_destination_that_begins_to_queue_is_kept_busy_by_few_at_once(
    before_per_s: int, cap_per_s: int, longest_ms: int
) -> None:
    """What is critical stands behind them in its queue. What it did before it queued is not held against the trial."""
    server, limiter, pace = Queueing(before_per_s), AdaptiveLimiter(16), Pace(100_000.0)
    drive(server, limiter, pace, 0, 10_000)
    server.cap_per_s = cap_per_s
    ended = drive(server, limiter, pace, 10_000, 50_000)
    assert taken_per_s(ended, 13_000) >= 0.99 * cap_per_s
    assert max(each[1] for each in ended if each[0] >= 13_000) <= longest_ms


@pytest.mark.parametrize("factor", [10, 40, 100])
def test_a_destination_that_has_become_slow_but_does_as_much_at_once_is_given_as_much(factor: int) -> None:
    """Less at once would make a slow EHR slower still, in the very minutes that count."""
    most = 16
    server, limiter, pace = Distant(20), AdaptiveLimiter(most), Pace(100_000.0)
    drive(server, limiter, pace, 0, 20_000)
    server.ms = 20 * factor
    ended = drive(server, limiter, pace, 20_000, 60_000)
    assert taken_per_s(ended, 20_000) >= 0.75 * most / server.ms * 1000
    assert limiter.allowed == most
    server.ms = 20
    ended = drive(server, limiter, pace, 80_000, 10_000)
    assert taken_per_s(ended, 81_000) >= 0.9 * most / 20 * 1000


def test_a_slow_destination_that_is_asked_little_is_not_unlearnt() -> None:
    """Nothing is told of a queue by what is hardly used; the surge that follows finds what was learnt before."""
    limiter = AdaptiveLimiter(16)
    drive(Distant(20), limiter, Pace(100_000.0), 0, 20_000)
    for number in range(60):
        limiter.succeeded(Millis(20_000 + 500 * number), 900)
    assert limiter.allowed == 16


def test_a_queue_whose_cap_rises_is_given_more() -> None:
    server, limiter, pace = Queueing(400), AdaptiveLimiter(1_000), Pace(100_000.0)
    drive(server, limiter, pace, 0, 20_000)
    server.cap_per_s = 1_600
    ended = drive(server, limiter, pace, 20_000, 60_000)
    assert taken_per_s(ended, 60_000) >= 0.99 * 1_600


# -- pace, holds and refusals


@pytest.mark.parametrize("rate_per_s", [0.2, 1.0, 3.0, 10.0, 250.0])
def test_a_rate_is_kept_also_below_one_request_in_a_burst(rate_per_s: float) -> None:
    pace, now, started = Pace(rate_per_s), 1_000_000.0, 0
    until = now + 20_000
    while now < until:
        now += pace.wait_ms(Millis(int(now)))
        pace.start(Millis(int(now)))
        started += 1
    assert started <= 20 * rate_per_s + max(1.0, BURST_S * rate_per_s) + 1
    assert started >= 20 * rate_per_s - 1


def test_turns_that_are_reserved_follow_each_other_at_the_rate() -> None:
    pace = Pace(100.0)
    waits = [pace.reserve(Millis(1_000)) for _ in range(13)]
    assert waits == pytest.approx([0.0] * 10 + [0.01, 0.02, 0.03])


def test_a_429_cuts_to_a_little_below_what_was_taken() -> None:
    pace = Pace(1_000.0)
    for number in range(200):
        pace.taken(Millis(10_000 + number * 2))  # five hundred a second
    for late_ms in (400, 450, 500, 600, 700):
        pace.taken(Millis(10_000 + late_ms))
        pace.limited(Millis(10_000 + late_ms))
        assert pace.per_s(Millis(10_000 + late_ms)) == pytest.approx(CUT * 500, rel=0.05)


def test_after_a_pause_the_turns_come_one_after_the_other() -> None:
    """What might have gone in the pause does not follow at once: who allows for little would ask for the next pause."""
    pace, now, waits = Pace(100.0), 1_500.0, []
    pace.start(Millis(0))
    pace.paused(Millis(500), Millis(1_500))
    for _ in range(3):
        waits.append(pace.wait_ms(Millis(int(now)), critical=True))
        now += waits[-1]
        pace.start(Millis(int(now)))
    assert waits == pytest.approx([10, 10, 10])


def test_a_rate_grows_from_the_pauses_end_on_and_the_slower_the_longer_it_was() -> None:
    rates = {}
    for pause_ms in (0, 1_000, 5_000):
        pace = Pace(1_000.0)
        pace.taken(Millis(10_000))
        pace.limited(Millis(10_000))
        if pause_ms:
            pace.paused(Millis(10_000), Millis(10_000 + pause_ms))
        cut = pace.per_s(Millis(10_000 + pause_ms))
        rates[pause_ms] = pace.per_s(Millis(13_000 + pause_ms)) / cut
    assert rates[0] > rates[1_000] > rates[5_000] > 1


def test_a_429_among_few_requests_cuts_no_deeper_than_half() -> None:
    """What little was asked says nothing of the limit."""
    pace = Pace(1_000.0)
    for number in range(40):
        pace.start(Millis(number * 1_000))
        pace.taken(Millis(number * 1_000))
    pace.limited(Millis(40_000))
    assert pace.per_s(Millis(40_000)) == DEEPEST_CUT * FIRST_GUESS_PER_S
    pace.taken(Millis(40_500))
    pace.limited(Millis(41_000))
    assert pace.per_s(Millis(41_000)) == pytest.approx(DEEPEST_CUT**2 * FIRST_GUESS_PER_S, rel=0.1)


def test_a_destination_that_takes_nothing_is_left_alone_longer_and_longer_and_its_rate_is_not_unlearnt() -> None:
    pace, now, pauses = Pace(100.0), 0, []
    for _ in range(12):
        now += 60_000
        pauses.append(pace.limited(Millis(now)))
    assert pauses == sorted(pauses)
    assert 0 < pauses[0] < 1 <= MAX_DELAY_S / 2 < pauses[-1] <= MAX_DELAY_S
    assert pace.per_s(Millis(now)) == 100.0
    pace.taken(Millis(now))
    assert pace.limited(Millis(now + 1_000)) == 0.0


def test_one_slow_bundle_is_no_queue() -> None:
    limiter, now = AdaptiveLimiter(150), 0
    for took_ms in (25,) * 40 + (900,) + (25,) * 40:
        now += took_ms
        for _ in range(50):
            limiter.succeeded(Millis(now), took_ms)
        assert limiter.allowed >= min(150, FIRST_ALLOWED + 50)


def test_of_each_burst_a_part_is_kept_for_what_is_critical() -> None:
    pace, now = Pace(100.0), Millis(1_000_000)
    for _ in range(5):
        assert pace.wait_ms(now) == 0.0
        pace.start(now)
    assert pace.wait_ms(now) == pytest.approx(10)
    for _ in range(5):
        assert pace.wait_ms(now, critical=True) == 0.0
        pace.start(now)
    assert pace.wait_ms(now, critical=True) == pytest.approx(10)


def test_a_pause_is_never_shortened_by_a_later_one() -> None:
    hold = Hold()
    assert hold.wait_ms(Millis(0)) == 0
    hold.ask(Millis(1_000), 30.0)
    hold.ask(Millis(2_000), 0.5)
    assert hold.wait_ms(Millis(2_000)) == 29_000
    assert hold.wait_ms(Millis(31_000)) == 0


def test_an_entity_that_alone_is_refused_is_told_from_a_destination_that_refuses_all() -> None:
    refusals = Refusals()
    for _ in range(MOST_REFUSALS_ALONE + 1):
        alone = refusals.refused(b"A")
        refusals.taken(b"B")
        refusals.taken(b"C")
    assert alone == MOST_REFUSALS_ALONE


@given(st.integers(2, 50), st.integers(0, 20))
def test_a_destination_that_refuses_more_than_it_takes_parks_nothing(entities: int, taken_per_round: int) -> None:
    refusals = Refusals()
    for _ in range(200):
        for number in range(entities):
            assert refusals.refused(b"%d" % number) == 0
        for _ in range(min(taken_per_round, entities - 1)):
            refusals.taken(b"other")


def test_an_entity_that_is_taken_is_no_longer_suspect_and_the_memory_is_bounded() -> None:
    refusals = Refusals()
    refusals.refused(b"A")
    refusals.taken(b"B")
    assert refusals.refused(b"A") == 1
    refusals.taken(b"A")
    assert refusals.refused(b"A") == 0
    for number in range(2 * MAX_REFUSED_KEYS):
        refusals.refused(b"%d" % number)
    assert len(refusals._known) == MAX_REFUSED_KEYS


# -- the breaker


def opened(threshold: int = 3) -> ConsecutiveBreaker:
    breaker = ConsecutiveBreaker(threshold=threshold)
    for _ in range(threshold):
        breaker.failed(Millis(0))
    return breaker


def test_breaker_opens_after_failures_in_a_row_only() -> None:
    breaker = ConsecutiveBreaker(threshold=3)
    for _ in range(10):
        breaker.failed(Millis(0))
        breaker.failed(Millis(0))
        breaker.succeeded()
    assert not breaker.is_open
    for _ in range(3):
        breaker.failed(Millis(0))
    assert breaker.is_open
    assert not breaker.allows(Millis(0))


def test_half_open_breaker_lets_exactly_one_probe_through() -> None:
    breaker = opened()
    now = Millis(breaker.open_ms)
    assert breaker.allows(now)
    probe = breaker.started()
    assert probe
    assert not breaker.allows(now)
    assert not breaker.allows(Millis(now + 3_600_000))


def test_writes_from_before_it_opened_do_not_end_the_probe() -> None:
    """Sixteen writes hang, eight fail and open it; the others end while the one probe is under way."""
    breaker = opened()
    now = Millis(breaker.open_ms)
    probe = breaker.started()
    breaker.failed(now)
    assert not breaker.allows(Millis(now + 10_000))
    breaker.abandoned()
    assert not breaker.allows(Millis(now + 10_000))
    breaker.failed(now, probe)
    assert breaker.allows(Millis(now + 10_000))


def test_a_failed_probe_doubles_the_wait_up_to_its_bound() -> None:
    breaker, now, waits = opened(), 0, []
    for _ in range(6):
        now += breaker.wait_ms(Millis(now))
        assert breaker.allows(Millis(now))
        breaker.failed(Millis(now), breaker.started())
        waits.append(breaker.wait_ms(Millis(now)))
    assert waits == [2_000, 4_000, 4_000, 4_000, 4_000, 4_000]


def test_an_abandoned_probe_lets_the_next_one_go_at_once() -> None:
    breaker = opened()
    now = Millis(breaker.open_ms)
    breaker.abandoned(breaker.started())
    assert breaker.allows(now)


def test_any_answer_closes_it_and_an_old_probes_failure_is_one_failure() -> None:
    breaker = opened()
    probe = breaker.started()
    breaker.succeeded()
    assert not breaker.is_open
    assert breaker.wait_ms(Millis(0)) == 0
    breaker.failed(Millis(0), probe)
    assert not breaker.is_open
    assert breaker.started() == 0


def test_the_failure_of_a_probe_from_an_earlier_opening_does_not_end_the_present_one() -> None:
    breaker = opened()
    old = breaker.started()
    breaker.succeeded()
    for _ in range(3):
        breaker.failed(Millis(0))
    breaker.started()
    breaker.failed(Millis(9_000), old)
    assert not breaker.allows(Millis(100_000))
