"""What changed over a run: steps that stay few, gaps that stay gaps, and modes without holes."""

from typing import Any

import msgspec
import pytest

from loadtest.series import MAX_STEPS, Axis, Span, make_series
from loadtest.tracker import Closed
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import LagReport, Lane, ModeChange

BEGIN = Millis(1_800_000_000_000)
AXIS = Axis(BEGIN, -2.0, 8.0)


def at(second: float) -> Millis:
    return Millis(BEGIN + int(second * 1000))


def report(second: float, **changes: Any) -> LagReport:
    said = LagReport(
        destination="ehr",
        instance="0",
        partitions=(0,),
        window_start=at(second - 2),
        window_end=at(second),
        mode="normal",
        pending={},
        in_flight=0,
        parked=0,
        concurrency=4,
    )
    return msgspec.structs.replace(said, **changes)


def change(second: float, previous: str, mode: str) -> ModeChange:
    return ModeChange(destination="ehr", instance="0", mode=mode, previous=previous, at=at(second), cause="")


@pytest.mark.parametrize("length_s", [1, 30, 90, 91, 600, 3_600, 86_400])
def test_steps_stay_few_and_cover_everything(length_s: float) -> None:
    axis = Axis(BEGIN, 0.0, length_s)
    assert axis.steps <= MAX_STEPS
    assert axis.steps * axis.step_s >= length_s


def test_lag_is_a_gap_where_nothing_ended_and_not_zero() -> None:
    closed = [Closed("ehr", Lane.CRITICAL, at(0.0), at(1.5), False), Closed("ehr", Lane.CRITICAL, at(1.0), at(1.7), False)]
    lag = make_series(AXIS, closed, [], [], []).lag_p99_ms
    assert lag.keys() == {"critical"}
    assert [value is None for value in lag["critical"]] == [step != 3 for step in range(10)]
    assert lag["critical"][3] == pytest.approx(1_500, rel=0.01)


def test_what_waits_is_summed_over_instances_and_stays_until_the_next_word() -> None:
    reports = [
        report(0.5, pending={"critical": 3}),
        report(0.5, instance="1", pending={"critical": 4, "bulk": 9}),
        report(4.5, pending={"critical": 1}),
    ]
    pending = make_series(AXIS, [], list(reversed(reports)), [], []).pending
    assert pending["critical"] == [None, None, 7, 7, 7, 7, 5, 5, 5, 5]
    assert pending["bulk"][9] == 9


def test_writes_are_told_by_second_and_answer() -> None:
    outcomes = [(at(1.1), "ehr", "CONFIRMED"), (at(1.9), "ehr", "CONFIRMED"), (at(1.2), "ehr", "FAILED")]
    rates = make_series(AXIS, [], [], [], outcomes).ehr_per_s["ehr"]
    assert (rates["confirmed"][3], rates["failed"][3]) == (2.0, 1.0)
    assert sum(rates["confirmed"]) == 2.0


def test_modes_follow_each_other_without_a_hole_and_begin_with_what_was_before() -> None:
    changes = [change(3, "normal", "outage"), change(6, "outage", "recovery"), change(-9, "slow", "normal")]
    spans = make_series(AXIS, [], [report(0)], changes, []).modes["ehr"]
    assert spans == [Span("normal", -2.0, 3.0), Span("outage", 3.0, 6.0), Span("recovery", 6.0, 8.0)]


def test_a_writer_that_starts_again_in_its_mode_makes_no_second_span() -> None:
    changes = [change(3, "normal", "slow"), change(5, "normal", "slow"), change(6, "slow", "normal"), change(6, "normal", "slow")]
    assert make_series(AXIS, [], [report(0)], changes, []).modes["ehr"] == [Span("normal", -2.0, 3.0), Span("slow", 3.0, 8.0)]


def test_a_destination_that_never_changed_its_mode_was_normal() -> None:
    assert make_series(AXIS, [], [report(0)], [], []).modes == {"ehr": [Span("normal", -2.0, 8.0)]}
