"""From what was found to the report: figures, checks, series. Pure but for the commit and the machine that it names."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from loadtest.director import Done
from loadtest.evidence import BooksSaid, Found, lost
from loadtest.judge import Figures, LaneFigures, Limits, WayFigures, judge
from loadtest.plan import Order
from loadtest.report import LoadReport, Sent
from loadtest.series import Axis, make_series
from loadtest.shapes import Shape
from loadtest.tracker import Closed
from pipeline.domain.identifiers import Millis
from pipeline.domain.lag import Histogram
from pipeline.domain.records import LANES, Lane
from pipeline.local.provenance import commit, machine

AFTER_S: Final = 2.0
"""Shown on the charts behind the last confirmation."""


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that a report is made of. `told` is what each load process said last, `promised` every id that was answered
    "yes", `seen` p50 and p99 in ms by destination and lane as a live reader saw them."""

    shape: Shape
    order: Order
    since: Millis
    found: Found
    books: BooksSaid
    promised: frozenset[str]
    told: tuple[Mapping[str, Any], ...]
    left: int
    deeds: tuple[Done, ...]
    ways: tuple[WayFigures, ...]
    seen: Mapping[tuple[str, str], tuple[float, float]]


def report_of(findings: Findings, limits: Limits) -> LoadReport:
    """The report, judged."""
    shape, order, found = findings.shape, findings.order, findings.found
    figures = figures_of(findings)
    checks = judge(figures, limits)
    return LoadReport(
        commit=commit("pipeline", "loadtest"),
        machine=machine(),
        at=moment(order.begins_at),
        shape=shape.name,
        says=shape.says,
        rate_scale=order.rate,
        time_scale=order.time,
        seed=order.seed,
        for_s=round(shape.for_s, 1),
        peak_per_s=round(max(phase.rate_per_s for phase in shape.phases) * (1 + shape.copies), 1),
        phases=shape.phases,
        deeds=findings.deeds,
        sent=sent_of(findings.told, order.workers),
        verdicts=dict(sorted(found.kinds.items())),
        ways=figures.ways,
        lanes=figures.lanes,
        lost=figures.lost,
        open=figures.open,
        parked=figures.parked,
        positions=findings.books.positions,
        drained_s=figures.drained_s,
        writes=_writes(found),
        checks=checks,
        passed=all(check.held for check in checks),
        series=make_series(_axis(findings), found.closed, found.reports, found.modes, found.outcomes),
    )


def figures_of(findings: Findings) -> Figures:
    """What is judged. Lags are of what was received from the begin of the shape on."""
    found, order = findings.found, findings.order
    sent = sent_of(findings.told, order.workers)
    return Figures(
        lost=lost(findings.promised, found),
        refused=sent.refused,
        left=findings.left,
        open=found.tracker.waiting,
        parked=found.tracker.parked,
        slip_p99_ms=sent.slip_p99_ms,
        drained_s=drained_after_s(found.closed, found.tracker.waiting, order.begins_at, findings.shape),
        books_balanced=findings.books.balanced,
        deeds_missed=_missed(findings.shape, findings.deeds),
        lanes=lanes_of([each for each in found.closed if each.received_at >= order.begins_at], findings.seen),
        ways=findings.ways,
    )


def sent_of(told: Sequence[Mapping[str, Any]], workers: int) -> Sent:
    """All load processes together; of how late they were, the worst."""
    codes: Counter[str] = Counter()
    for data in told:
        codes.update(data["codes"])
    return Sent(
        messages=sum(data["total"] or 0 for data in told),
        answered=sum(data["answered"] for data in told),
        refused=sum(data["refused"] for data in told),
        slowed=sum(data["slowed"] for data in told),
        unanswered=sum(data["unanswered"] for data in told),
        slip_p99_ms=max((data["slip_p99_ms"] for data in told), default=0.0),
        codes=dict(sorted(codes.items())),
        workers=workers,
    )


def lanes_of(closed: Sequence[Closed], seen: Mapping[tuple[str, str], tuple[float, float]]) -> tuple[LaneFigures, ...]:
    """Per destination and lane, strictest first; `seen` has what a live reader saw, p50 and p99 in ms."""
    lags: dict[tuple[str, Lane], Histogram] = defaultdict(Histogram)
    superseded: dict[tuple[str, Lane], int] = defaultdict(int)
    for each in closed:
        lags[each.destination, each.lane].add(each.lag_ms)
        superseded[each.destination, each.lane] += each.superseded
    return tuple(
        LaneFigures(
            destination,
            lane.value,
            histogram.count,
            superseded[destination, lane],
            round(histogram.p50_ms, 1),
            round(histogram.p99_ms, 1),
            float(histogram.max_ms),
            *seen.get((destination, lane.value), (None, None)),
        )
        for (destination, lane), histogram in sorted(lags.items(), key=lambda item: (item[0][0], LANES.index(item[0][1])))
    )


def drained_after_s(closed: Sequence[Closed], waiting: int, begins_at: Millis, shape: Shape) -> float | None:
    """From the last message that was due to the last confirmation; None while something waits. 0 where it came before."""
    if waiting:
        return None
    last = max((each.at for each in closed), default=begins_at)
    return round(max(0.0, (last - begins_at) / 1000 - shape.for_s), 1)


def moment(at: Millis) -> str:
    """RFC 3339 in UTC, to the second."""
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _axis(findings: Findings) -> Axis:
    begin = findings.order.begins_at
    last_s = max(((each.at - begin) / 1000 for each in findings.found.closed), default=0.0)
    end_s = max(findings.shape.for_s, last_s) + AFTER_S
    return Axis(begin, round((findings.since - begin) / 1000, 1), round(end_s, 1))


def _missed(shape: Shape, deeds: Sequence[Done]) -> tuple[str, ...]:
    """Deeds that were planned and not made."""
    missed = [f"{done.deed} {done.role}".strip() for done in deeds if not done.held]
    return tuple(missed + ["deeds that never ended"] * (len(deeds) < len(shape.acts)))


def _writes(found: Found) -> dict[str, dict[str, int]]:
    writes: dict[str, dict[str, int]] = {}
    for (destination, kind), count in sorted(found.tracker.attempts.items()):
        writes.setdefault(destination, {})[kind.value.lower()] = count
    return writes
