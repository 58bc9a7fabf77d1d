"""Thresholds: what a run must keep to. Pure but for reading the file.

What was not measured has not kept to anything: a lane without changes fails, as does a deed that could not be done.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import yaml
from msgspec import Meta

from pipeline.domain.records import LANES

SHIPPED: Final = Path(__file__).with_name("thresholds.yaml")
Count = Annotated[int, Meta(ge=0)]
Figure = Annotated[float, Meta(gt=0)]


class LaneLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Greatest p99 of a lane, and how many changes it must have had."""

    p99_ms: Figure
    at_least: Count = 1


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one shape must keep to. Lanes and ways in that are not named have no limit."""

    lost: Count
    refused: Count
    left: Count
    open: Count
    parked: Count
    slip_p99_ms: Figure
    drained_s: Figure
    lanes: dict[str, LaneLimit]
    answered_p99_ms: dict[str, Figure]


class BadThresholds(Exception):
    """The file of thresholds says something else."""


class Check(msgspec.Struct, frozen=True):
    """One threshold, what was seen, and whether it held."""

    name: str
    limit: str
    seen: str
    held: bool


class LaneFigures(msgspec.Struct, frozen=True):
    """Lag of one lane at one destination, ms. `seen_*` is as a reader of Kafka saw it while it happened."""

    destination: str
    lane: str
    changes: int
    superseded: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    seen_p50_ms: float | None = None
    seen_p99_ms: float | None = None


class WayFigures(msgspec.Struct, frozen=True):
    """One way in: messages answered "yes", and the time from when each was due, ms."""

    way: str
    answered: int
    errors: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Figures(msgspec.Struct, frozen=True):
    """What is judged."""

    lost: int
    refused: int
    left: int
    open: int
    parked: int
    slip_p99_ms: float
    drained_s: float | None
    books_balanced: bool
    deeds_missed: tuple[str, ...]
    lanes: tuple[LaneFigures, ...]
    ways: tuple[WayFigures, ...]


def limits_for(shape: str, file: Path = SHIPPED) -> Limits:
    """Limits of a shape. BadThresholds where the file can't be read or names a lane that there isn't."""
    try:
        document = yaml.safe_load(file.read_text())
        if document.pop("version") != 1 or document.keys() - {"all", "shapes"}:
            raise BadThresholds(f"{file}: version 1 with `all` and `shapes` is expected")
        limits = msgspec.convert(_over(document["all"], (document.get("shapes") or {}).get(shape) or {}), Limits)
    except (OSError, yaml.YAMLError, KeyError, AttributeError, TypeError, msgspec.ValidationError) as error:
        raise BadThresholds(f"{file}: {error}") from None
    if unknown := limits.lanes.keys() - {lane.value for lane in LANES}:
        raise BadThresholds(f"{file}: there is no lane {', '.join(sorted(unknown))}")
    return limits


def judge(figures: Figures, limits: Limits) -> tuple[Check, ...]:
    """Every threshold with what was seen."""
    return (*_counts(figures, limits), *_times(figures, limits), *_lanes(figures.lanes, limits), *_ways(figures.ways, limits))


def _counts(figures: Figures, limits: Limits) -> Iterator[Check]:
    for name, seen, most in (
        ("answered and lost", figures.lost, limits.lost),
        ("refused", figures.refused, limits.refused),
        ("not answered at the end", figures.left, limits.left),
        ("open at the end", figures.open, limits.open),
        ("parked at the end", figures.parked, limits.parked),
    ):
        yield Check(name, f"at most {most}", str(seen), seen <= most)
    said = "they do" if figures.books_balanced else "they do not, or could not be read"
    yield Check("the books balance", "they do", said, figures.books_balanced)
    missed = ", ".join(figures.deeds_missed)
    yield Check("the trouble was made", "all of it", f"not: {missed}" if missed else "all of it", not missed)


def _times(figures: Figures, limits: Limits) -> Iterator[Check]:
    slip = figures.slip_p99_ms
    yield Check("senders late, p99", f"at most {limits.slip_p99_ms:g} ms", f"{slip:.0f} ms", slip <= limits.slip_p99_ms)
    drained = figures.drained_s
    seen = "not drained" if drained is None else f"{drained:.1f} s"
    held = drained is not None and drained <= limits.drained_s
    yield Check("drained after the last message", f"within {limits.drained_s:g} s", seen, held)


def _lanes(lanes: Sequence[LaneFigures], limits: Limits) -> Iterator[Check]:
    for lane, limit in limits.lanes.items():
        of_lane = [figures for figures in lanes if figures.lane == lane]
        measured = sum(figures.changes for figures in of_lane)
        if measured < limit.at_least:
            yield Check(f"{lane} lag, p99", f"{limit.at_least} changes or more", f"{measured} changes", False)
            continue
        for figures in of_lane:
            told, seen = f"at most {limit.p99_ms:g} ms", f"{figures.p99_ms:.0f} ms"
            yield Check(f"{lane} lag at {figures.destination}, p99", told, seen, figures.p99_ms <= limit.p99_ms)


def _ways(ways: Sequence[WayFigures], limits: Limits) -> Iterator[Check]:
    known = {figures.way: figures for figures in ways}
    for way, most in limits.answered_p99_ms.items():
        figures = known.get(way)
        if figures is None or not figures.answered:
            yield Check(f"{way} answered, p99", f"at most {most:g} ms", "nothing was answered", False)
        else:
            yield Check(f"{way} answered, p99", f"at most {most:g} ms", f"{figures.p99_ms:.0f} ms", figures.p99_ms <= most)


def _over(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in more.items():
        known = merged.get(key)
        merged[key] = _over(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged
