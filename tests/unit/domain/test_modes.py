"""The mode machine of one destination."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.identifiers import Millis
from pipeline.domain.modes import CALM_S, SLOW_AFTER_S, Figures, Mode, Modes

CALM = Figures(False, 0, 0.0)
BUSY = Figures(False, 5, 0.1)
SLOW = Figures(False, 5, SLOW_AFTER_S + 0.1)
OPEN = Figures(True, 5, 0.1)


def played(steps: list[tuple[Figures, float]]) -> list[Mode]:
    """Modes entered."""
    modes, now_ms, entered = Modes(), 0, []
    for figures, passed_s in steps:
        now_ms += int(passed_s * 1000)
        change = modes.judge(figures, Millis(now_ms))
        if change is not None:
            assert change.mode is modes.mode
            entered.append(change.mode)
    return entered


def test_a_backlog_that_keeps_moving_is_normal() -> None:
    assert played([(BUSY, 1.0)] * 20) == []


def test_slow_when_something_waited_too_long_and_normal_only_after_a_calm_time() -> None:
    assert played([(SLOW, 0.5), (BUSY, 0.5), (SLOW, 1.0), (BUSY, 1.0)]) == [Mode.SLOW]
    assert played([(SLOW, 0.5), (BUSY, 0.5), (BUSY, CALM_S)]) == [Mode.SLOW, Mode.NORMAL]


def test_an_outage_ends_in_recovery_and_recovery_when_drained() -> None:
    assert played([(OPEN, 1), (OPEN, 60), (SLOW, 1), (SLOW, 30), (CALM, 1)]) == [Mode.OUTAGE, Mode.RECOVERY, Mode.NORMAL]


def test_an_outage_during_recovery_is_an_outage_again() -> None:
    assert played([(OPEN, 1), (SLOW, 1), (OPEN, 1), (SLOW, 1)]) == [Mode.OUTAGE, Mode.RECOVERY, Mode.OUTAGE, Mode.RECOVERY]


def test_recovery_ends_also_where_new_changes_keep_coming() -> None:
    assert played([(OPEN, 1), (BUSY, 1), (BUSY, CALM_S)]) == [Mode.OUTAGE, Mode.RECOVERY, Mode.NORMAL]


def test_an_open_breaker_is_an_outage_even_where_nothing_waits() -> None:
    assert played([(Figures(True, 0, 0.0), 1)]) == [Mode.OUTAGE]


@pytest.mark.parametrize("wait_s", [SLOW_AFTER_S, 0.0])
def test_the_bound_itself_is_not_slow(wait_s: float) -> None:
    assert played([(Figures(False, 1, wait_s), 1)]) == []


@given(st.lists(st.tuples(st.sampled_from((CALM, BUSY, SLOW, OPEN)), st.floats(0, 10)), max_size=60))
def test_whatever_happened_it_is_normal_after_quiet(steps: list[tuple[Figures, float]]) -> None:
    modes, now_ms = Modes(), 0
    for figures, passed_s in steps:
        now_ms += int(passed_s * 1000)
        previous = modes.mode
        change = modes.judge(figures, Millis(now_ms))
        assert (change is None) == (modes.mode is previous)
        assert change is None or change.previous is previous
    for passed_s in (0.0, CALM_S, CALM_S):
        now_ms += int(passed_s * 1000)
        modes.judge(CALM, Millis(now_ms))
    assert modes.mode is Mode.NORMAL
