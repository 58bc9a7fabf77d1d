"""How many requests a destination may be asked in a second: learnt from its 429s. Callers bring the time."""

import math
from collections import deque
from collections.abc import Iterator
from typing import Final

from pipeline.domain.identifiers import Millis
from pipeline.domain.writing.limits import next_delay

BURST_S: Final = 0.1
"""What may go at once after a lull: a tenth of a second's worth, or one request where that is less. After a pause nothing may."""

KEPT_S: Final = 0.05
"""Of that burst so much is kept for what is critical: the others begin only while more than this is left."""

FINEST_MS: Final = 1.0
"""The clock tells no shorter time: a shorter wait is none."""

LOOKED_BACK_MS: Final = 10_000
MEASURED_MS: Final = 1_000
PEAK_MS: Final = 200
STEP_MS: Final = 50
"""Without pauses a rate is measured as the busiest PEAK_MS among the last MEASURED_MS: what goes in bundles comes in jumps, and
refusals that follow each other closely must not each cut what the one before has cut."""

FEW: Final = 20
"""Fewer in the busiest PEAK_MS are too few to tell a rate from; then all of MEASURED_MS counts."""

CUT: Final = 0.9
"""After a 429 without a time the rate becomes this part of what the destination took, at least DEEPEST_CUT of what it was."""

DEEPEST_CUT: Final = 0.5

FIRST_CUT: Final = 0.25
"""Where a pause comes with the first 429 the rate becomes this part of what was asked: what was taken until then tells of no
limit, and a guess that is too low is grown out of, where one that is too high costs the next pause at once."""

FIRST_GUESS_PER_S: Final = 200.0
"""A rate that was never cut is no guess at the limit: the first cut starts from what was asked, or from this if that is less."""

CUT_EVERY_MS: Final = 100

BELOW: Final = 0.95
"""After a pause the rate becomes this part of the limit as it was judged."""

LENT_S: Final = 0.25
"""A limit lends: a bucket so much at once, a window what it has left. Judged as if it lent a quarter of a second's worth."""

AGREES: Final = 1.04
DIFFERS: Final = 1.25
WORKED_SHARE: Final = 0.5
"""Two rates, at least DIFFERS times apart, of which the same came out over work and pause together (but for AGREES), are a
window that was used up sooner or later: then that is the limit. It tells nothing where the pause was most of it."""

UNSURE: Final = 1.5
UNSURE_S: Final = 4.0
"""Where the judged limit is so much lower than what was refused, the truth lies between: the rate grows there in UNSURE_S, or
in as many times the pause where that was longer than a second."""

GROWTH_PER_S: Final = 0.05
"""Growth of a rate just after it was cut, until the next cut or the rate that the settings allow.

It is as much more as seconds have passed: close to the limit the rate creeps, far below it the rate runs. Seconds in which
nothing was asked don't count: an outage tells of no limit.
"""

UNUSED_MS: Final = 2_500
"""Who asks for nothing so long doesn't use the rate: longer than between two turns at the lowest, shorter than between probes."""

TOLD_S: Final = 1.0
HEADROOM: Final = 1.04
HELD_S: Final = 10.0
"""What was taken from one 429 to the next, at least TOLD_S later, is the limit, whatever it lends: it had lent all at both. For
HELD_S the rate goes no further beyond it than HEADROOM: so a second's worth, with its burst, stays within a tenth over it."""

MOST_GROWTH: Final = 20.0

PATIENCE: Final = 10.0
MOST_PATIENCE: Final = 100.0
"""After a pause the rate takes 1 + PATIENCE times its seconds longer to grow, at most MOST_PATIENCE: who asks for a second with
each refusal is felt for about every twenty seconds, who asks for half a minute every few minutes."""

LOWEST_RATE_PER_S: Final = 1.0


class Pace:
    """Requests in a second: what the settings allow at most, and less where the destination answers 429.

    A destination that counts requests can't be kept within its limit by concurrency: two at once, answered in a
    millisecond, are two thousand a second. So a 429 cuts the rate to a little below what the destination took, and the
    rate grows again from there: it stays between about CUT and 1 of a limit that nobody has told.

    A 429 that comes with a pause costs the pause, so it has to tell more: from what was taken between two pauses the limit
    is judged when the second ends, and the rate creeps up from a little below it.
    """

    def __init__(self, most_per_s: float) -> None:
        self._most = most_per_s
        self._floor = min(most_per_s, LOWEST_RATE_PER_S)
        self._base = most_per_s
        """The rate when it last began to grow."""
        self._cut_at: Millis | None = None
        self._grows_from = Millis(0)
        """The last cut, and as much later as the rate was not used since."""
        self._started_at = Millis(0)
        self._told: float | None = None
        """The limit, as far as 429s without a time told it."""
        self._resumes_at = Millis(0)
        self._patience, self._unsure, self._unsure_s = 1.0, 0.0, UNSURE_S
        self._free_at_ms = 0.0
        self._took_some = False
        self._refused_all = 0
        self._taken, self._asked = _Counted(), _Counted()
        self._works_from: Millis | None = None
        """End of the last pause; None before there was any."""
        self._refused: tuple[Millis, float] | None = None
        """When a pause was asked for, and at which rate; until the limit is judged from it."""
        self._sustained: tuple[float, float] | None = None
        """At which rate it worked before the pause before, and what came of it over work and pause."""
        self._count = 0
        """Taken since the last pause was judged, or since `_counts_from`."""
        self._counts_from: Millis | None = None
        """The last 429 without a time, where no pause came after it."""

    def per_s(self, now: Millis) -> float:
        """Requests that may start in a second."""
        if self._refused is not None and now >= self._resumes_at:
            self._judge(*self._refused)
        if self._base >= self._most:
            return self._most
        grown_s = max(0, now - max(self._grows_from, self._resumes_at)) / 1000
        slow_s = grown_s / self._patience
        growth = _growth(slow_s) + self._unsure * min(1.0, grown_s / self._unsure_s)
        rate = self._base * math.exp(min(MOST_GROWTH, growth))
        if self._told is not None:
            beyond = math.exp(min(MOST_GROWTH, _growth(max(0.0, grown_s - HELD_S))))
            rate = min(rate, max(self._base, HEADROOM * self._told) * beyond)
        return min(self._most, rate)

    def wait_ms(self, now: Millis, critical: bool = False, ahead: int = 0) -> float:
        """Until the next request may start, as things are; 0.0 for at once. `ahead`: so many others will have started by then."""
        rate = self.per_s(now)
        burst_s = max(BURST_S if critical else BURST_S - KEPT_S, 1 / rate)
        wait_ms = max(self._free_at_ms, float(now)) + 1000 * ((ahead + 1) / rate - burst_s) - now
        return wait_ms if wait_ms >= FINEST_MS else 0.0

    def start(self, now: Millis) -> None:
        """A request starts."""
        self._asked.add(now, 1)
        if now - self._started_at > UNUSED_MS:
            self._leave_out(Millis(now - self._started_at))
        self._started_at = now
        self._free_at_ms = max(self._free_at_ms, float(now)) + 1000 / self.per_s(now)

    def _leave_out(self, unused: Millis) -> None:
        """Time in which nothing was asked, up to now."""
        end = Millis(self._started_at + unused)
        self._grows_from = Millis(min(end, self._grows_from + unused))
        if self._counts_from is not None:
            self._counts_from = Millis(min(end, self._counts_from + unused))

    def reserve(self, now: Millis) -> float:
        """Take the next turn in any case, for whom nobody overtakes; seconds until it comes."""
        wait_ms = self.wait_ms(now, critical=True)
        self.start(now)
        return wait_ms / 1000

    def paused(self, now: Millis, until: Millis) -> None:
        """Nothing goes before `until`, and from then on one after the other: a burst after each pause is refused at once by
        who allows for little, and asks for the next pause."""
        if self._resumes_at <= now:
            self._base, self._unsure = self.per_s(now), 0.0
        self._resumes_at = max(self._resumes_at, until)
        asked_s = (self._resumes_at - now) / 1000
        self._patience, self._unsure_s = min(MOST_PATIENCE, 1 + PATIENCE * asked_s), UNSURE_S * max(1.0, asked_s)
        self._free_at_ms = max(self._free_at_ms, self._resumes_at + 1000 * max(BURST_S, 1 / self._base))

    def taken(self, now: Millis, count: int = 1) -> None:
        """The destination took so many requests."""
        self._taken.add(now, count)
        self._count += count
        self._took_some, self._refused_all = True, 0

    def limited(self, now: Millis) -> float:
        """It said that it is too much (429). Seconds for which it is to be left alone, 0.0 for none.

        Told after the pause that came with it, if any. Where it has taken nothing since it last said so, that is no matter of
        the rate: it is left alone for as long as it asked, or for a time that doubles where it asked for none.
        """
        rate, has_pause = self.per_s(now), self._resumes_at > now
        if self._refused is not None or (self._cut_at is not None and now - self._cut_at < CUT_EVERY_MS):
            return 0.0
        self._cut_at = self._grows_from = now
        if not self._took_some:
            self._refused_all += 1
            return 0.0 if has_pause else next_delay(self._refused_all, 0.5).total_seconds()
        self._took_some = False
        before = rate if rate < self._most else min(rate, max(FIRST_GUESS_PER_S, self._asked.per_s(now)))
        if has_pause:
            self._refused, self._told = (now, before), None
            return 0.0
        if self._counts_from is not None and now - self._counts_from >= TOLD_S * 1000:
            self._told = self._count * 1000 / (now - self._counts_from)
        self._counts_from, self._count = now, 0
        self._patience, self._unsure, self._works_from = 1.0, 0.0, None
        self._base = max(self._floor, min(rate, max(CUT * self._taken.peak_per_s(now), DEEPEST_CUT * before)))
        return 0.0

    def _judge(self, at: Millis, was: float) -> None:
        """The limit, from what was taken between two pauses, at whose end `was` a second was refused.

        Judged when the second ends, so that all that was under way has been answered by then.
        """
        self._refused = None
        limit, is_sure = (FIRST_CUT * was, False) if self._works_from is None else self._limit(self._works_from, at, was)
        self._base = max(self._floor, BELOW * min(was, limit))
        above = BELOW * was / self._base
        self._unsure = math.log(above) if above > UNSURE and not is_sure else 0.0
        self._works_from, self._counts_from, self._count = self._resumes_at, None, 0

    def _limit(self, start: Millis, at: Millis, was: float) -> tuple[float, bool]:
        """The limit, and whether two pauses agree on it.

        It can't be less than what was taken over work and pause together; the geometric mean of that and of what was refused
        is a guess that is wrong by no more than the root of what is not known.
        """
        worked_s, paused_s = max(1, at - start) / 1000, (self._resumes_at - at) / 1000
        worked, sustained = self._count / worked_s, self._count / (worked_s + paused_s)
        before, self._sustained = self._sustained, None
        if worked_s >= WORKED_SHARE * paused_s:
            self._sustained = worked, sustained
            if before is not None and _apart(before[0], worked) >= DIFFERS and _apart(before[1], sustained) <= AGREES:
                return sustained, True
        return max(self._taken.lent_per_s(start, at), math.sqrt(sustained * was)), False


def _growth(seconds: float) -> float:
    """Exponent by which a rate has grown."""
    return GROWTH_PER_S * (seconds + seconds**2 / 2)


def _apart(one: float, other: float) -> float:
    return max(one, other) / min(one, other) if min(one, other) > 0 else math.inf


class _Counted:
    """Counts events of the last LOOKED_BACK_MS."""

    def __init__(self) -> None:
        self._steps: deque[tuple[int, int]] = deque(maxlen=LOOKED_BACK_MS // STEP_MS)

    def add(self, now: Millis, count: int) -> None:
        step = now // STEP_MS
        if self._steps and self._steps[-1][0] == step:
            count += self._steps.pop()[1]
        self._steps.append((step, count))

    def per_s(self, now: Millis) -> float:
        """Over the last MEASURED_MS."""
        return sum(count for _, count in self._last(now)) * 1000 / MEASURED_MS

    def peak_per_s(self, now: Millis) -> float:
        """In the busiest PEAK_MS among the last MEASURED_MS, where that are enough to tell a rate."""
        steps, wide = list(self._last(now)), PEAK_MS // STEP_MS
        peak = max((sum(count for at, count in steps if start <= at < start + wide) for start, _ in steps), default=0)
        return peak * 1000 / PEAK_MS if peak >= FEW else self.per_s(now)

    def lent_per_s(self, start: Millis, end: Millis) -> float:
        """The least limit that lends LENT_S of its worth and let through what was counted, however long before `end` one
        begins to count; but not before `start`."""
        limit, total = 0.0, 0
        for step, count in reversed(self._steps):
            if (step + 1) * STEP_MS <= start:
                break
            total += count
            limit = max(limit, total / (max(0, end - max(start, step * STEP_MS)) / 1000 + LENT_S))
        return limit

    def _last(self, now: Millis) -> Iterator[tuple[int, int]]:
        return (each for each in self._steps if now - each[0] * STEP_MS <= MEASURED_MS)
