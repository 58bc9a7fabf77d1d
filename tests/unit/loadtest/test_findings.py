"""From what was found to what is judged: nothing of the warm-up, all workers together, the worst of them counts."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from loadtest.director import Done
from loadtest.evidence import BooksSaid, Found
from loadtest.feeder import Feeder
from loadtest.findings import Findings, drained_after_s, figures_of, report_of, sent_of
from loadtest.judge import WayFigures, limits_for
from loadtest.plan import Order
from loadtest.shapes import SHAPES
from loadtest.tracker import Closed, Tracker
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Lane
from tests.support.load_records import ACCEPTED

BEGIN = Millis(1_800_000_000_000)
SHAPE = SHAPES["worst-day"].scaled(1, 0.1)


def closed(received_s: float, lag_ms: int, lane: Lane = Lane.CRITICAL) -> Closed:
    received = Millis(BEGIN + int(received_s * 1000))
    return Closed("ehr", lane, received, Millis(received + lag_ms), superseded=False)


def told(**changes: Any) -> Mapping[str, Any]:
    return Feeder().told() | {"total": 20, "done": 20, "answered": 20} | changes


def findings(**changes: Any) -> Findings:
    found = Found(Tracker({"ehr": {EntityType.BED}}), {"a", "b"})
    found.closed = [closed(number, 100, lane) for number in range(12) for lane in (Lane.CRITICAL, Lane.URGENT)]
    fields: dict[str, Any] = {
        "shape": SHAPE,
        "order": Order(SHAPE.name, 1, 0.1, 1, BEGIN, 2),
        "since": Millis(BEGIN - 2_000),
        "found": found,
        "books": BooksSaid(0, positions=40),
        "promised": frozenset({"a", "b"}),
        "told": (told(), told()),
        "left": 0,
        "deeds": tuple(Done(act.deed.value, act.role, act.at_s, act.at_s, True) for act in SHAPE.acts),
        "ways": (WayFigures("HTTP", 20, 0, 1.0, 2.0, 3.0), WayFigures("MLLP", 20, 0, 1.0, 2.0, 3.0)),
        "seen": {("ehr", "critical"): (101.0, 102.0)},
    }
    return Findings(**(fields | changes))


def test_a_good_run_passes_and_tells_its_figures() -> None:
    report = report_of(findings(), limits_for(SHAPE.name))
    assert report.passed, [check for check in report.checks if not check.held]
    critical = report.lanes[0]
    assert (critical.lane, critical.changes, critical.p99_ms, critical.seen_p99_ms) == ("critical", 12, 100.0, 102.0)
    assert (report.sent.messages, report.sent.workers, report.positions) == (40, 2, 40)
    assert msgspec.json.decode(msgspec.json.encode(report), type=type(report)) == report


def test_what_came_in_the_warm_up_is_drawn_and_not_judged() -> None:
    made = findings()
    made.found.closed.append(closed(-1.5, 90_000))
    report = report_of(made, limits_for(SHAPE.name))
    assert report.lanes[0].changes == 12
    assert any(value and value > 80_000 for value in report.series.lag_p99_ms["critical"])


def test_a_promise_that_nobody_judged_is_a_loss() -> None:
    assert figures_of(findings(promised=frozenset({"a", "b", "c"}))).lost == 1


def test_a_change_that_waits_keeps_a_run_from_having_drained() -> None:
    made = findings()
    made.found.tracker.take_accepted(ACCEPTED)
    assert (figures_of(made).open, figures_of(made).drained_s) == (1, None)


def test_draining_counts_from_the_last_message_that_was_due() -> None:
    assert drained_after_s([closed(SHAPE.for_s, 1_500)], 0, BEGIN, SHAPE) == 1.5
    assert drained_after_s([closed(1, 10)], 0, BEGIN, SHAPE) == 0.0


@pytest.mark.parametrize("kept", [0, 3])
def test_trouble_that_never_ended_is_missed(kept: int) -> None:
    assert figures_of(findings(deeds=findings().deeds[:kept])).deeds_missed == ("deeds that never ended",)


def test_trouble_that_was_not_made_is_missed_by_its_name() -> None:
    *others, last = findings().deeds
    assert figures_of(findings(deeds=(*others, msgspec.structs.replace(last, held=False)))).deeds_missed == ("kill -9 mllp",)


def test_books_that_do_not_balance_or_cannot_be_read_are_not_balanced() -> None:
    assert not figures_of(findings(books=BooksSaid(1))).books_balanced
    assert not figures_of(findings(books=BooksSaid(None))).books_balanced


def test_of_several_workers_counts_add_up_and_the_latest_one_counts() -> None:
    sent = sent_of((told(codes={"202": 3}, slip_p99_ms=5.0), told(codes={"202": 4, "AA": 1}, slip_p99_ms=900.0, refused=2)), 2)
    assert (sent.codes, sent.slip_p99_ms, sent.refused, sent.answered) == ({"202": 7, "AA": 1}, 900.0, 2, 40)


def test_nobody_heard_of_is_nothing_sent() -> None:
    assert sent_of((), 2).messages == 0
