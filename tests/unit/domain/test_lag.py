"""The lag histogram keeps its 1 % promise in bounded memory, and windows begin empty."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.event import EntityType
from pipeline.domain.lag import BUCKETS, LONGEST_MS, Histogram, LagWindows
from pipeline.domain.records import Lane

LAGS = st.lists(st.integers(0, LONGEST_MS), min_size=1, max_size=200)


def _of(lags: list[int]) -> Histogram:
    histogram = Histogram()
    for lag in lags:
        histogram.add(lag)
    return histogram


@given(LAGS, st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]))
def test_every_quantile_is_within_one_per_cent_of_the_true_one(lags: list[int], share: float) -> None:
    true = sorted(lags)[max(1, math.ceil(share * len(lags))) - 1]
    assert _of(lags).quantile(share) == pytest.approx(true, rel=0.01)


@given(LAGS, LAGS)
def test_a_merge_says_what_one_histogram_of_all_would_say(left: list[int], right: list[int]) -> None:
    both, whole = _of(left), _of(left + right)
    both.merge(_of(right))
    both.merge(Histogram())
    assert (both.count, both.p50_ms, both.p99_ms, both.max_ms) == (whole.count, whole.p50_ms, whole.p99_ms, whole.max_ms)


def test_a_lag_of_days_is_counted_and_its_maximum_stays_exact() -> None:
    histogram = _of([5, 3 * LONGEST_MS])
    assert (histogram.count, histogram.max_ms) == (2, 3 * LONGEST_MS)
    assert BUCKETS < 1500


def test_a_negative_lag_counts_as_none_and_is_seen() -> None:
    histogram = _of([-40, 10])
    assert (histogram.min_ms, histogram.max_ms, histogram.negative) == (0, 10, 1)


def test_an_empty_histogram_says_zero() -> None:
    assert (Histogram().p50_ms, Histogram().p99_ms, Histogram().max_ms) == (0.0, 0.0, 0)


def test_a_window_lists_its_lanes_strictest_first_and_begins_anew() -> None:
    windows = LagWindows()
    windows.add(Lane.BULK, EntityType.BED, 900)
    windows.add(Lane.CRITICAL, EntityType.ENCOUNTER, 20)
    windows.add(Lane.CRITICAL, EntityType.BED, 10)
    windows.add(Lane.CRITICAL, EntityType.BED, 30)
    rolled = windows.roll()
    assert [(window.lane, window.entity_type, window.count) for window in rolled] == [
        (Lane.CRITICAL, EntityType.BED, 2),
        (Lane.CRITICAL, EntityType.ENCOUNTER, 1),
        (Lane.BULK, EntityType.BED, 1),
    ]
    assert (rolled[0].p50_ms, rolled[0].max_ms) == (10.0, 30.0)
    assert windows.roll() == ()
