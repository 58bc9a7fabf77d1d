"""Retries, concurrency and the breaker."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.identifiers import Millis
from pipeline.domain.limits import FIRST_DELAY_S, HALVE_EVERY_MS, MAX_DELAY_S, AdaptiveLimiter, ConsecutiveBreaker, next_delay


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


def test_concurrency_is_halved_once_a_second_however_many_writes_are_refused() -> None:
    limiter = AdaptiveLimiter(16)
    for _ in range(16):
        limiter.refused(Millis(10_000))
    assert limiter.allowed == 8
    limiter.refused(Millis(10_000 + HALVE_EVERY_MS))
    assert limiter.allowed == 4


def test_concurrency_grows_by_one_per_round_of_successes() -> None:
    limiter = AdaptiveLimiter(16)
    limiter.refused(Millis(10_000))
    for _ in range(9):
        limiter.succeeded(Millis(10_001))
    assert limiter.allowed == 9


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
    assert waits == [2_000, 4_000, 5_000, 5_000, 5_000, 5_000]


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
