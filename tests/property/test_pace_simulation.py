"""A limit that nobody told, learnt from 429s with a time: what is critical, what is used of it, and what goes beyond it."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.domain.writing.pace import Pace
from tests.support.limited_ehr import Bucket, Counter, Events, Surge, Window

LIMITED_MS = 2_000.0
"""When the EHR begins to count."""

LEARNT_MS = 15_000.0
"""From here on the limit is known."""

MOST_PER_S = 100_000.0
"""What the settings allow."""

CRITICAL_SHARE = 0.4
"""Of the limit."""


def counters(per_s: float) -> dict[str, Counter]:
    """As EHRs count."""
    return {
        "bucket of a quarter": Bucket(per_s, 0.25),
        "bucket of a second": Bucket(per_s, 1.0),
        "sliding": Window(per_s, slides=True),
        "fixed": Window(per_s, slides=False),
    }


KINDS = sorted(counters(1.0))


@settings(max_examples=5, deadline=None)
@example(2_000.0, "bucket of a quarter", 0.5, 5.0, 1)
@given(
    st.floats(20, 300),
    st.sampled_from(KINDS),
    st.sampled_from([0.5, 1.0, 3.0]),
    st.floats(0, 20),
    st.integers(0, 1 << 16),
)
def test_any_limit_is_learnt_and_what_is_critical_waits_little_longer_than_the_pause(
    per_s: float, kind: str, retry_after_s: float, jitter_ms: float, seed: int
) -> None:
    ehr, at_once = counters(per_s)[kind], max(16, int(per_s / 12))
    surge = Surge(ehr, Pace(MOST_PER_S), CRITICAL_SHARE * per_s, retry_after_s, seed, at_once=at_once, jitter_ms=jitter_ms)
    span_ms = LEARNT_MS + 15_000 * max(1.0, retry_after_s)
    course = surge.run(span_ms)
    longest_ms = max(lag for at, lag in course.lags if at >= LEARNT_MS * max(1.0, retry_after_s))
    assert longest_ms <= 1.5 * retry_after_s * 1000 + 400
    taken_share = course.taken_per_s(LEARNT_MS, span_ms) / per_s
    assert taken_share >= 0.5
    most = course.busiest(LIMITED_MS + 5_000 * max(1.0, retry_after_s))
    assert most <= 1.1 + 1 / per_s


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per_s", [20.0, 200.0])
def test_the_critical_p99_of_a_minute_is_the_pause_and_a_little(per_s: float, kind: str) -> None:
    """The floor is the pause itself: what comes when one begins waits for its end, and nothing may be asked before."""
    surge = Surge(counters(per_s)[kind], Pace(MOST_PER_S), per_s / 2, 1.0, seed=1)
    course = surge.run(62_000)
    assert course.p99_ms(LIMITED_MS, 62_000) <= (1_300 if per_s >= 100 else 2_000)
    assert len([at for at in course.pauses if at >= LEARNT_MS]) <= 4


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (100.0, 400.0, "sliding"),
        (400.0, 60.0, "bucket of a quarter"),
        (50.0, 1_000.0, "bucket of a quarter"),
        (1_000.0, 50.0, "sliding"),
    ],
)
def test_a_limit_that_changes_is_followed(before: float, after: float, kind: str) -> None:
    ehr = counters(before)[kind]
    surge = Surge(ehr, Pace(MOST_PER_S), 0.4 * min(before, after), 1.0, seed=2, at_once=100, changes=((30_000.0, after),))
    course = surge.run(150_000)
    taken_per_s = course.taken_per_s(120_000, 150_000)
    assert taken_per_s >= 0.6 * after
    assert max(lag for at, lag in course.lags if at >= 60_000) <= 2_000


def test_who_is_left_alone_for_half_a_minute_with_each_429_is_not_asked_for_it_often() -> None:
    course = Surge(Bucket(100.0, 0.25), Pace(MOST_PER_S), 30.0, 30.0, seed=3).run(900_000)
    late = [at for at in course.pauses if at >= 300_000]
    assert len(late) <= 6
    assert course.taken_per_s(300_000, 900_000) >= 60


def test_a_window_of_a_minute_is_learnt_from_its_pauses() -> None:
    """Who counts by the minute tells by its pauses how much a minute holds: in the end not every other one is used up."""
    ehr = Window(100.0, slides=False, window_ms=60_000.0)
    course = Surge(ehr, Pace(MOST_PER_S), 30.0, 30.0, seed=4).run(900_000)
    late = [at for at in course.pauses if at >= 400_000]
    assert len(late) <= 5
    assert course.taken_per_s(400_000, 900_000) >= 80


def test_a_storm_of_429s_starves_nobody() -> None:
    """Another client uses the limit up for a minute: no more than one request in each pause, and all goes on after it."""
    ehr = Bucket(100.0, 0.25)
    surge = Surge(ehr, Pace(MOST_PER_S), 20.0, 1.0, seed=5, changes=((20_000.0, 0.001), (80_000.0, 100.0)))
    course = surge.run(120_000)
    asked = [at for at, _ in course.started if 25_000 <= at < 80_000]
    assert len(asked) <= 4 * 55
    assert course.taken_per_s(83_000, 86_000) >= 20
    assert course.taken_per_s(100_000, 120_000) >= 70
    assert max(lag for at, lag in course.lags if at >= 105_000) <= 2_500


@pytest.mark.parametrize("kind", KINDS)
def test_writers_that_share_one_limit_share_it_and_use_it(kind: str) -> None:
    """Instances of one writer are one client to the EHR, and don't know of each other."""
    ehr, events = counters(100.0)[kind], Events()
    surges = [Surge(ehr, Pace(MOST_PER_S), 10.0, 1.0, seed=seed, events=events) for seed in (6, 7)]
    for surge in surges:
        surge.begin(90_000)
    events.play(90_000)
    courses = [surge.end(90_000) for surge in surges]
    taken = [course.taken_per_s(30_000, 90_000) for course in courses]
    assert sum(taken) >= 75
    assert min(taken) >= 15
    assert max(course.p99_ms(30_000, 90_000) for course in courses) <= 1_500
