"""Lag: a bounded histogram from 1 ms to 24 h, and its windows per lane and entity type."""

from array import array
from typing import Final

from pipeline.domain.event import EntityType
from pipeline.domain.records import RANK, Lane, LaneWindow

STEPS_PER_OCTAVE: Final = 64
"""Linear steps between a power of two and the next: a bucket is at most 1/64 wide, its middle at most 0.8 % off."""

LONGEST_MS: Final = 24 * 60 * 60 * 1000
"""Longer lags are counted in the last bucket; the maximum stays exact."""

_SHIFT: Final = 7


def _bucket(lag_ms: int) -> int:
    if lag_ms < 2 * STEPS_PER_OCTAVE:
        return lag_ms
    octave = lag_ms.bit_length() - _SHIFT
    return STEPS_PER_OCTAVE * octave + (lag_ms >> octave)


def _middle_ms(bucket: int) -> float:
    if bucket < 2 * STEPS_PER_OCTAVE:
        return float(bucket)
    octave = bucket // STEPS_PER_OCTAVE - 1
    first = (bucket - STEPS_PER_OCTAVE * octave) << octave
    return first + ((1 << octave) - 1) / 2


BUCKETS: Final = _bucket(LONGEST_MS) + 1


class Histogram:
    """Counts of lags: exact below 128 ms, within 1 % up to 24 h, in a fixed 11 KB.

    A negative lag (clocks that disagree) counts as 0 and is also counted in `negative`. Merging is commutative.
    """

    __slots__ = ("_counts", "count", "max_ms", "min_ms", "negative")

    def __init__(self) -> None:
        self._counts = array("q", bytes(8 * BUCKETS))
        self.count = 0
        self.negative = 0
        self.max_ms = 0
        self.min_ms = 0

    def add(self, lag_ms: int) -> None:
        """Count one lag, in milliseconds."""
        if lag_ms < 0:
            self.negative += 1
            lag_ms = 0
        self._counts[_bucket(min(lag_ms, LONGEST_MS))] += 1
        self.min_ms = min(self.min_ms, lag_ms) if self.count else lag_ms
        self.max_ms = max(self.max_ms, lag_ms)
        self.count += 1

    def merge(self, other: "Histogram") -> None:
        """Add the counts of `other`, which stays as it is."""
        if not other.count:
            return
        for bucket, count in enumerate(other._counts):
            if count:
                self._counts[bucket] += count
        self.min_ms = min(self.min_ms, other.min_ms) if self.count else other.min_ms
        self.max_ms = max(self.max_ms, other.max_ms)
        self.count += other.count
        self.negative += other.negative

    def quantile(self, share: float) -> float:
        """The lag in ms that `share` (0 to 1) of all lags don't exceed, within 1 %; 0 where nothing was counted."""
        if not 0.0 <= share <= 1.0:
            raise ValueError("a share lies between 0 and 1")
        wanted, seen = max(1, -int(-share * self.count // 1)), 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                return float(min(max(_middle_ms(bucket), self.min_ms), self.max_ms))
        return 0.0

    @property
    def p50_ms(self) -> float:
        """Median, ms."""
        return self.quantile(0.5)

    @property
    def p99_ms(self) -> float:
        """99th percentile, ms."""
        return self.quantile(0.99)


class LagWindows:
    """The running window of one writer instance, per lane and entity type: at most 28 histograms.

    Nothing of a window survives a crash; the books compute every lag again from the topics.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[Lane, EntityType], Histogram] = {}

    def add(self, lane: Lane, entity_type: EntityType, lag_ms: int) -> None:
        """Count one change as confirmed, or as superseded by a confirmed one, `lag_ms` after its receipt."""
        histogram = self._open.get((lane, entity_type))
        if histogram is None:
            histogram = self._open[lane, entity_type] = Histogram()
        histogram.add(lag_ms)

    def roll(self) -> tuple[LaneWindow, ...]:
        """Close the window and begin the next one; lanes strictest first, only those that saw a change."""
        closed, self._open = self._open, {}
        return tuple(
            LaneWindow(
                lane=lane,
                entity_type=entity_type,
                count=histogram.count,
                p50_ms=histogram.p50_ms,
                p99_ms=histogram.p99_ms,
                max_ms=float(histogram.max_ms),
            )
            for (lane, entity_type), histogram in sorted(closed.items(), key=lambda item: (RANK[item[0][0]], item[0][1].value))
        )
