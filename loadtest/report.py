"""What a run found, for machines: `report.json`. The page and the documents' table are made from it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from loadtest.director import Done
from loadtest.judge import Check, LaneFigures, WayFigures
from loadtest.series import Series
from loadtest.shapes import Phase, Shape
from loadtest.tracker import Closed
from pipeline.domain.identifiers import Millis
from pipeline.domain.lag import Histogram
from pipeline.domain.records import LANES, Lane


class Sent(msgspec.Struct, frozen=True):
    """What the senders did and heard, all workers together."""

    messages: int
    answered: int
    refused: int
    slowed: int
    unanswered: int
    slip_p99_ms: float
    codes: dict[str, int]
    workers: int


class LoadReport(msgspec.Struct, frozen=True):
    """One run. Times in seconds count from the shape's begin; the warm-up lies before."""

    commit: str
    machine: dict[str, Any]
    at: str
    shape: str
    says: str
    rate_scale: float
    time_scale: float
    seed: int
    for_s: float
    peak_per_s: float
    phases: tuple[Phase, ...]
    deeds: tuple[Done, ...]
    sent: Sent
    verdicts: dict[str, int]
    ways: tuple[WayFigures, ...]
    lanes: tuple[LaneFigures, ...]
    lost: int
    open: int
    parked: int
    positions: int
    drained_s: float | None
    writes: dict[str, dict[str, int]]
    checks: tuple[Check, ...]
    passed: bool
    series: Series


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


def write(report: LoadReport, file: Path) -> None:
    """As JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


def read(file: Path) -> LoadReport:
    """What `write` wrote. msgspec.ValidationError where it is something else."""
    return msgspec.json.decode(file.read_bytes(), type=LoadReport)
