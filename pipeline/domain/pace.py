"""How many requests a destination may be asked in a second: learnt from its 429s. Callers bring the time."""

import math
from collections import deque
from typing import Final

from pipeline.domain.identifiers import Millis
from pipeline.domain.limits import next_delay

BURST_S: Final = 0.1
"""What may go at once after a pause: a tenth of a second's worth, or one request where that is less."""

MEASURED_MS: Final = 1_000
PEAK_MS: Final = 200
STEP_MS: Final = 50
"""A rate is measured as the busiest PEAK_MS among the last MEASURED_MS: what goes in bundles comes in jumps, and refusals that
follow each other closely must not each cut what the one before has cut."""

FEW: Final = 20
"""Fewer in the busiest PEAK_MS are too few to tell a rate from; then all of MEASURED_MS counts."""

CUT: Final = 0.9
"""After a 429 the rate becomes this part of what the destination took, but at least DEEPEST_CUT of what it was."""

DEEPEST_CUT: Final = 0.5

FIRST_GUESS_PER_S: Final = 200.0
"""A rate that was never cut is no guess at the limit: the first cut starts from what was asked, or from this if that is less."""

CUT_EVERY_MS: Final = 100
GROWTH_PER_S: Final = 0.05
"""Growth of a rate just after it was cut, until the next cut or the rate that the settings allow.

It is as much more as seconds have passed: close to the limit the rate creeps, far below it the rate runs.
"""

MOST_GROWTH: Final = 20.0

PATIENCE: Final = 4.0
MOST_PATIENCE: Final = 40.0
"""After a pause the rate takes 1 + PATIENCE times its seconds longer to grow, at most MOST_PATIENCE: who asks for a second with
each refusal is felt for every few seconds, who asks for half a minute every few minutes."""

LOWEST_RATE_PER_S: Final = 1.0


class Pace:
    """Requests in a second: what the settings allow at most, and less where the destination answers 429.

    A destination that counts requests can't be kept within its limit by concurrency: two at once, answered in a
    millisecond, are two thousand a second. So a 429 cuts the rate to a little below what the destination took, and the
    rate grows again from there: it stays between about CUT and 1 of a limit that nobody has told. Where a pause comes with
    the 429, each costs so much of the destination's time: the rate grows from its end on, the slower the longer it was.
    """

    def __init__(self, most_per_s: float) -> None:
        self._most = most_per_s
        self._per_s = most_per_s
        self._grown_at = Millis(0)
        self._cut_at: Millis | None = None
        self._took_some = False
        self._refused_all = 0
        self._resumes_at = Millis(0)
        self._patience = 1.0
        self._free_at_ms = self._free_for_critical_at_ms = 0.0
        self._taken = _Counted()
        self._asked = _Counted()

    def per_s(self, now: Millis) -> float:
        """Requests that may start in a second."""
        if self._per_s < self._most:
            start, scale = max(self._cut_at or 0, self._resumes_at), 1000 * self._patience
            since_s, until_s = (max(0, at - start) / scale for at in (self._grown_at, now))
            growth = GROWTH_PER_S * (until_s - since_s + (until_s**2 - since_s**2) / 2)
            self._per_s = min(self._most, self._per_s * math.exp(min(MOST_GROWTH, max(0.0, growth))))
        self._grown_at = now
        return self._per_s

    def reserve(self, now: Millis, critical: bool = False) -> float:
        """Take the next turn; seconds until it comes, 0.0 for at once.

        What is critical waits for nothing but what is critical too; the others wait for both.
        """
        rate = self.per_s(now)
        self._asked.add(now, 1)
        burst_ms = 1000 * max(BURST_S, 1 / rate)
        self._free_at_ms = max(self._free_at_ms, float(now)) + 1000 / rate
        free_at_ms = self._free_at_ms
        if critical:
            free_at_ms = self._free_for_critical_at_ms = max(self._free_for_critical_at_ms, float(now)) + 1000 / rate
        return max(0.0, free_at_ms - burst_ms - now) / 1000

    def paused(self, now: Millis, until: Millis) -> None:
        """Nothing goes before `until`, and from then on one after the other: a burst after each pause is refused at once by
        who allows for little, and asks for the next pause."""
        from_ms = until + 1000 * max(BURST_S, 1 / self.per_s(now))
        self._resumes_at = max(self._resumes_at, until)
        self._patience = min(MOST_PATIENCE, 1 + PATIENCE * (until - now) / 1000)
        self._free_at_ms = max(self._free_at_ms, from_ms)
        self._free_for_critical_at_ms = max(self._free_for_critical_at_ms, from_ms)

    def taken(self, now: Millis, count: int = 1) -> None:
        """The destination took so many requests."""
        self._taken.add(now, count)
        self._took_some, self._refused_all = True, 0

    def limited(self, now: Millis) -> float:
        """It said that it is too much (429). Seconds for which it is to be left alone, 0.0 for none.

        Where it has taken nothing since it last said so, that is no matter of the rate, and a pause is due that doubles.
        """
        rate = self.per_s(now)
        if self._cut_at is not None and now - self._cut_at < CUT_EVERY_MS:
            return 0.0
        self._cut_at = now
        if self._resumes_at <= now:
            self._patience = 1.0
        if not self._took_some:
            self._refused_all += 1
            return next_delay(self._refused_all, 0.5).total_seconds()
        self._took_some = False
        before = rate if rate < self._most else min(rate, max(FIRST_GUESS_PER_S, self._asked.per_s(now)))
        floor = min(self._most, LOWEST_RATE_PER_S)
        # With a pause it is cut in any case: what is taken in jumps after one looks like more than the limit.
        most = CUT * rate if self._resumes_at > now else rate
        self._per_s = max(floor, min(most, max(CUT * self._taken.per_s(now), DEEPEST_CUT * before)))
        return 0.0


class _Counted:
    """Counts events, and tells the rate of the busiest PEAK_MS among the last MEASURED_MS."""

    def __init__(self) -> None:
        self._steps: deque[tuple[int, int]] = deque(maxlen=MEASURED_MS // STEP_MS)

    def add(self, now: Millis, count: int) -> None:
        step = now // STEP_MS
        if self._steps and self._steps[-1][0] == step:
            count += self._steps.pop()[1]
        self._steps.append((step, count))

    def per_s(self, now: Millis) -> float:
        while self._steps and now - self._steps[0][0] * STEP_MS > MEASURED_MS:
            self._steps.popleft()
        wide = PEAK_MS // STEP_MS
        sums = [sum(count for at, count in self._steps if start <= at < start + wide) for start, _ in self._steps]
        peak = max(sums, default=0)
        return peak * 1000 / PEAK_MS if peak >= FEW else sum(count for _, count in self._steps) * 1000 / MEASURED_MS
