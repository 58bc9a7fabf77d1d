"""What changed over a run, in even steps of time: lag, what waited, modes, what the EHRs answered. Pure."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from loadtest.tracker import Closed
from pipeline.domain.identifiers import Millis
from pipeline.domain.lag import Histogram
from pipeline.domain.records import LANES, LagReport, ModeChange, OutcomeKind

MAX_STEPS: Final = 90
ROUND_S: Final = (1, 2, 5, 10, 15, 20, 30, 60)
Value = TypeVar("Value")
ANSWERED: Final = (OutcomeKind.CONFIRMED, OutcomeKind.FAILED)


class Span(msgspec.Struct, frozen=True):
    """A mode of a destination, seconds after the shape's begin."""

    mode: str
    from_s: float
    to_s: float


class Series(msgspec.Struct, frozen=True):
    """Values per step of `step_s`, the first from `from_s` on; None where nothing was measured.

    `lag_p99_ms` and `pending` (entities) by lane, over all destinations; the rest by destination, `ehr_per_s` also by
    what was answered.
    """

    from_s: float
    step_s: float
    steps: int
    lag_p99_ms: dict[str, list[float | None]]
    pending: dict[str, list[int | None]]
    ehr_per_s: dict[str, dict[str, list[float]]]
    concurrency: dict[str, list[int | None]]
    modes: dict[str, list[Span]]


@dataclass(frozen=True, slots=True)
class Axis:
    """Time in steps. `begins_at` is second 0."""

    begins_at: Millis
    from_s: float
    to_s: float

    @property
    def step_s(self) -> float:
        """A round step with at most MAX_STEPS of them."""
        rough = (self.to_s - self.from_s) / MAX_STEPS
        return float(next((step for step in ROUND_S if step >= rough), math.ceil(rough / 60) * 60))

    @property
    def steps(self) -> int:
        """How many."""
        return max(1, math.ceil((self.to_s - self.from_s) / self.step_s))

    def place(self, at: Millis) -> int:
        """Step that a moment lies in, or the nearest."""
        return min(self.steps - 1, max(0, int((self.second(at) - self.from_s) / self.step_s)))

    def second(self, at: Millis) -> float:
        """Seconds after the begin."""
        return (at - self.begins_at) / 1000


def make_series(
    axis: Axis,
    closed: Iterable[Closed],
    reports: Sequence[LagReport],
    modes: Iterable[ModeChange],
    outcomes: Iterable[tuple[Millis, str, str]],
) -> Series:
    """Everything of a run; records in any order."""
    return Series(
        axis.from_s,
        axis.step_s,
        axis.steps,
        _lags(axis, closed),
        _pending(axis, reports),
        _answered(axis, outcomes),
        _concurrency(axis, reports),
        _modes(axis, modes, {report.destination for report in reports}),
    )


def _lags(axis: Axis, closed: Iterable[Closed]) -> dict[str, list[float | None]]:
    by_lane: dict[str, dict[int, Histogram]] = defaultdict(lambda: defaultdict(Histogram))
    for each in closed:
        by_lane[each.lane.value][axis.place(each.at)].add(each.lag_ms)
    return {
        lane.value: [by_lane[lane.value][step].p99_ms if step in by_lane[lane.value] else None for step in range(axis.steps)]
        for lane in LANES
        if lane.value in by_lane
    }


def _pending(axis: Axis, reports: Sequence[LagReport]) -> dict[str, list[int | None]]:
    """Entities that wait at the end of each step, as each writer instance said last."""
    filled = _last_words(axis, reports, lambda report: report.pending)
    if not reports:
        return {}
    sums = [Counter[str]() if words else None for words in filled]
    for total, words in zip(sums, filled, strict=True):
        for pending in words.values():
            if total is not None:
                total.update(pending)
    return {lane.value: [None if total is None else total[lane.value] for total in sums] for lane in LANES}


def _concurrency(axis: Axis, reports: Sequence[LagReport]) -> dict[str, list[int | None]]:
    """Writes allowed at once, all instances of a destination together."""
    filled = _last_words(axis, reports, lambda report: report.concurrency)
    destinations = sorted({report.destination for report in reports})
    return {
        name: [
            sum(value for (destination, _), value in words.items() if destination == name)
            if any(destination == name for destination, _ in words)
            else None
            for words in filled
        ]
        for name in destinations
    }


def _last_words(axis: Axis, reports: Sequence[LagReport], of: Callable[[LagReport], Value]) -> list[dict[tuple[str, str], Value]]:
    """Per step what each instance of a destination had said last by its end."""
    by_step: dict[int, list[LagReport]] = defaultdict(list)
    for report in sorted(reports, key=lambda report: report.window_end):
        by_step[axis.place(report.window_end)].append(report)
    now: dict[tuple[str, str], Value] = {}
    filled = []
    for step in range(axis.steps):
        now.update({(report.destination, report.instance): of(report) for report in by_step[step]})
        filled.append(dict(now))
    return filled


def _answered(axis: Axis, outcomes: Iterable[tuple[Millis, str, str]]) -> dict[str, dict[str, list[float]]]:
    counts: dict[str, Counter[tuple[str, int]]] = defaultdict(Counter)
    for at, destination, kind in outcomes:
        counts[destination][kind, axis.place(at)] += 1
    return {
        destination: {
            kind.value.lower(): [round(counted[kind.value, step] / axis.step_s, 2) for step in range(axis.steps)]
            for kind in ANSWERED
        }
        for destination, counted in sorted(counts.items())
    }


def _modes(axis: Axis, changes: Iterable[ModeChange], destinations: Iterable[str]) -> dict[str, list[Span]]:
    """Without any change a destination was in the mode that the first one left, or normal."""
    by_destination: dict[str, list[ModeChange]] = {name: [] for name in sorted(destinations)}
    for change in sorted(changes, key=lambda change: change.at):
        by_destination.setdefault(change.destination, []).append(change)
    return {name: _spans(axis, its) for name, its in by_destination.items()}


def _spans(axis: Axis, changes: Sequence[ModeChange]) -> list[Span]:
    """A writer that starts again enters its mode anew: spans of one mode that meet are one."""
    edges = [(changes[0].previous if changes else "normal", axis.from_s)]
    for change in changes:
        edges.append((change.mode, round(min(max(axis.second(change.at), axis.from_s), axis.to_s), 1)))
    spans: list[Span] = []
    for (mode, from_s), (_, to_s) in zip(edges, [*edges[1:], ("", axis.to_s)], strict=True):
        if spans and (mode == spans[-1].mode or to_s <= from_s):
            spans[-1] = Span(spans[-1].mode, spans[-1].from_s, to_s)
        elif to_s > from_s:
            spans.append(Span(mode, from_s, to_s))
    return spans
