"""The soak's judgement, pure: what must stand still while events go on coming, and whether it does."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from pipeline.domain.lag import Histogram
from pipeline.local.bench.e2e.send import AT_ONCE
from tests.chaos.report import Check

MOST_GROWTH: Final = 0.10
"""From the first quarter of what is judged to its last, each by its median."""

SPARE_BYTES: Final = 16 * 1024 * 1024
"""Growth that says nothing: a table's write buffers and an allocator's arenas."""

SPARE_FILES: Final = 16
SPARE_LAG_MS: Final = 100.0
"""Two quiet minutes differ by as much."""

FEWEST: Final = 8
"""Looks that a verdict needs: fewer have no quarters."""

SETTLED_S: Final = 60.0
"""Of the load so much is not judged: pools, caches and tables fill."""

WAY_IN: Final = "way in"
WAY_IN_BYTES: Final = 800 * 1024 * 1024
"""The way in remembers a day's answers and the last 200,000 events, each within its bound, and grows into these."""


class Look(msgspec.Struct, frozen=True):
    """One look, `at_s` after the load began: by process memory in bytes and open descriptors, by part bytes on disk."""

    at_s: float
    memory: dict[str, int]
    files: dict[str, int]
    disk: dict[str, int]


class Minute(msgspec.Struct, frozen=True):
    """Lags of the writes that were confirmed within a minute of the load, ms; `number` from 0."""

    number: int
    lane: str
    count: int
    p50_ms: float
    p99_ms: float


@dataclass(slots=True)
class Lags:
    """Counts lags by minute and lane."""

    began_ms: int
    known: dict[tuple[int, str], Histogram] = field(default_factory=dict)

    def add(self, at_ms: int, lane: str, lag_ms: int) -> None:
        """One write, confirmed at `at_ms`."""
        if at_ms >= self.began_ms:
            self.known.setdefault(((at_ms - self.began_ms) // 60_000, lane), Histogram()).add(lag_ms)

    def minutes(self) -> tuple[Minute, ...]:
        """All, in order."""
        return tuple(Minute(n, lane, each.count, each.p50_ms, each.p99_ms) for (n, lane), each in sorted(self.known.items()))


def quarters(figures: Sequence[float]) -> tuple[float, float] | None:
    """Medians of the first and of the last quarter; None where there are too few to tell."""
    if len(figures) < FEWEST:
        return None
    part = len(figures) // 4
    return statistics.median(figures[:part]), statistics.median(figures[-part:])


def flat(name: str, unit: str, figures: Sequence[float], spare: float) -> Check:
    """Whether it ends where it began, but for MOST_GROWTH or `spare`, whichever is more."""
    ends = quarters(figures)
    if ends is None:
        return Check(name, False, f"{len(figures)} looks are too few to tell")
    first, last = ends
    return Check(name, last <= first + max(MOST_GROWTH * first, spare), f"from {first:,.0f} to {last:,.0f} {unit}")


def checks_of(looks: Sequence[Look], minutes: Iterable[Minute], tables: Iterable[str]) -> list[Check]:
    """Of memory, descriptors, the disk that `tables` (parts of it) take, and the lag of each lane."""
    judged = [look for look in looks if look.at_s >= SETTLED_S]
    names = sorted({name for look in judged for name in look.memory})
    made = [_memory(name, _of(judged, "memory", name)) for name in names]
    made += [flat(f"descriptors of the {name} stand still", "open", _of(judged, "files", name), _spare(name)) for name in names]
    made += [
        flat(f"disk of the {name}'s table stands still", "MB", _scaled(_of(judged, "disk", name)), SPARE_BYTES / 1e6)
        for name in tables
    ]
    whole = list(minutes)[:]
    return made + [_lag(lane, whole) for lane in dict.fromkeys(each.lane for each in whole)]


def _spare(name: str) -> int:
    """Descriptors. At the way in the sender opens another connection where all are busy, and keeps it."""
    return SPARE_FILES + (AT_ONCE if name == WAY_IN else 0)


def _memory(name: str, figures: Sequence[float]) -> Check:
    if name != WAY_IN:
        return flat(f"memory of the {name} stands still", "MB", _scaled(figures), SPARE_BYTES / 1e6)
    most = max(figures, default=0.0)
    seen = f"at most {most / 1e6:,.0f} MB, allowed {WAY_IN_BYTES / 1e6:,.0f}"
    return Check(f"memory of the {name} keeps to its bound", 0 < most <= WAY_IN_BYTES, seen)


def _lag(lane: str, minutes: Sequence[Minute]) -> Check:
    """By the medians of whole minutes: an outlier is one of many, a queue that grows is not. The first has the start in it, the
    last is no whole one."""
    figures = [each.p50_ms for each in minutes if each.lane == lane][1:-1]
    if len(figures) < 2:
        return Check(f"lag of the {lane} lane stands still", False, f"{len(figures)} whole minutes are too few to tell")
    middle = len(figures) // 2
    first, last = statistics.median(figures[:middle]), statistics.median(figures[middle:])
    held = last <= first + max(first / 2, SPARE_LAG_MS)
    return Check(f"lag of the {lane} lane stands still", held, f"median from {first:,.0f} to {last:,.0f} ms")


def none_lost(yes: int, verdicts: Mapping[str, int]) -> Check:
    """Each event that was answered yes has a verdict of its own; a copy's verdict is no event's."""
    judged = sum(count for name, count in verdicts.items() if name not in ("DUPLICATE", "CONTROL"))
    return Check("no event is lost", yes > 0 and judged >= yes, f"{yes:,} answered yes, {judged:,} judged")


def _of(looks: Sequence[Look], kind: str, name: str) -> list[float]:
    return [float(getattr(look, kind)[name]) for look in looks if name in getattr(look, kind)]


def _scaled(figures: Sequence[float]) -> list[float]:
    return [each / 1e6 for each in figures]
