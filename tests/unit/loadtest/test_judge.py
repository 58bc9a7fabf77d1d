"""Thresholds: each one fails a run by itself, and what was not measured has not held."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadtest.judge import BadThresholds, Figures, LaneFigures, WayFigures, judge, limits_for
from loadtest.shapes import SHAPES

GOOD = Figures(
    lost=0,
    refused=0,
    left=0,
    open=0,
    parked=0,
    slip_p99_ms=5.0,
    drained_s=1.0,
    books_balanced=True,
    deeds_missed=(),
    lanes=tuple(LaneFigures("ehr", lane, 50, 3, 20.0, 100.0, 150.0) for lane in ("critical", "urgent", "routine")),
    ways=(WayFigures("HTTP", 100, 0, 5.0, 50.0, 60.0), WayFigures("MLLP", 100, 0, 5.0, 50.0, 60.0)),
)
LIMITS = limits_for("mass-casualty")


def failed(figures: Figures) -> list[str]:
    return [check.name for check in judge(figures, LIMITS) if not check.held]


def test_a_good_run_holds() -> None:
    assert failed(GOOD) == []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"lost": 1}, "answered and lost"),
        ({"refused": 1}, "refused"),
        ({"left": 1}, "not answered at the end"),
        ({"open": 1}, "open at the end"),
        ({"parked": 1}, "parked at the end"),
        ({"books_balanced": False}, "the books balance"),
        ({"deeds_missed": ("slow EHR",)}, "the trouble was made"),
        ({"slip_p99_ms": 5_000.0}, "senders late, p99"),
        ({"drained_s": None}, "drained after the last message"),
        ({"drained_s": 10_000.0}, "drained after the last message"),
        (
            {"lanes": (LaneFigures("ehr", "critical", 50, 0, 1.0, 99_999.0, 99_999.0), *GOOD.lanes[1:])},
            "critical lag at ehr, p99",
        ),
        ({"lanes": GOOD.lanes[1:]}, "critical lag, p99"),
        ({"ways": GOOD.ways[:1]}, "MLLP answered, p99"),
        ({"ways": (WayFigures("HTTP", 0, 9, 0.0, 0.0, 0.0), GOOD.ways[1])}, "HTTP answered, p99"),
        ({"ways": (WayFigures("HTTP", 100, 0, 5.0, 9e9, 9e9), GOOD.ways[1])}, "HTTP answered, p99"),
    ],
)
def test_each_threshold_fails_the_run_by_itself(change: dict[str, Any], name: str) -> None:
    assert failed(msgspec.structs.replace(GOOD, **change)) == [name]


def test_a_lane_is_judged_at_each_destination() -> None:
    slow = LaneFigures("other", "critical", 50, 0, 1.0, 99_999.0, 99_999.0)
    assert failed(msgspec.structs.replace(GOOD, lanes=(*GOOD.lanes, slow))) == ["critical lag at other, p99"]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shipped_thresholds_let_nothing_be_lost_in_any_shape(shape: str) -> None:
    limits = limits_for(shape)
    assert (limits.lost, limits.refused, limits.left, limits.open) == (0, 0, 0, 0)
    assert limits.lanes["critical"].at_least > 0


def test_a_shapes_own_entries_come_on_top_of_those_of_all() -> None:
    assert limits_for("steady-day").lanes["critical"].p99_ms < LIMITS.lanes["critical"].p99_ms
    assert limits_for("steady-day").lost == LIMITS.lost


COMPLETE = (
    "version: 1\nall: {lost: 0, refused: 0, left: 0, open: 0, parked: 0, slip_p99_ms: 1, drained_s: 1, lanes: {}, "
    "answered_p99_ms: {}}\n"
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "version: [",
        "version: 1",
        "version: 1\nall: {lost: 0}",
        COMPLETE.replace("version: 1", "version: 2"),
        COMPLETE.replace("lost: 0", "lost: -1"),
        COMPLETE.replace("lanes: {}", "lanes: {critcal: {p99_ms: 1}}"),
        COMPLETE.replace("lanes: {}", "lots: 0, lanes: {}"),
        COMPLETE + "shape: {}\n",
    ],
)
def test_thresholds_that_say_something_else_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "thresholds.yaml"
    file.write_text(text)
    with pytest.raises(BadThresholds):
        limits_for("steady-day", file)


def test_thresholds_that_are_whole_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "thresholds.yaml"
    file.write_text(COMPLETE)
    assert limits_for("steady-day", file).lanes == {}


def test_thresholds_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadThresholds):
        limits_for("steady-day", tmp_path / "none.yaml")
