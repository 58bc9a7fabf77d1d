"""How fast a destination may be written to: retries, concurrency, when to leave it alone. Callers bring time and chance."""

import math
from collections import OrderedDict, deque
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

from pipeline.domain.identifiers import Millis

FIRST_DELAY_S: Final = 0.25
MAX_DELAY_S: Final = 30.0


def next_delay(attempt: int, jitter: float, floor_s: float = 0.0) -> timedelta:
    """Wait before retry `attempt` (1-based); `jitter` is in [0, 1), `floor_s` what the destination asked for.

    Doubles from 250 ms to 30 s, half of it jittered. The destination's own wish is never shortened.
    """
    full = min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** min(attempt - 1, 16))
    return timedelta(seconds=max(floor_s, full / 2 + full / 2 * jitter))


class Limiter(Protocol):
    """How many writes may be under way at once."""

    @property
    def allowed(self) -> int: ...
    def succeeded(self, now: Millis, took_ms: int = 0) -> None: ...
    def refused(self, now: Millis, took_ms: int = 0) -> None: ...


class Breaker(Protocol):
    """Whether the destination may be tried at all."""

    def allows(self, now: Millis) -> bool: ...
    def started(self) -> int: ...
    def succeeded(self) -> None: ...
    def failed(self, now: Millis, probe: int = 0) -> None: ...
    def abandoned(self, probe: int = 0) -> None: ...
    def wait_ms(self, now: Millis) -> int: ...
    @property
    def is_open(self) -> bool: ...


FIRST_ALLOWED: Final = 8
"""Writes at once to a destination of which nothing is known yet."""

HALVE_EVERY_MS: Final = 1_000

SLOW_MS: Final = 50
SLOW_FACTOR: Final = 4
"""A destination queues where it takes longer than SLOW_MS and SLOW_FACTOR times as long as when it was fastest."""

FASTEST_WINDOW_MS: Final = 60_000
"""How long the fastest answer counts: a destination that has become slower for good is not measured by its past for ever."""

SMOOTHING: Final = 16
"""Answers over which the time that they took is smoothed, or a whole round where that is more: one slow answer among fast
ones is no queue, nor is one slow bundle."""


LESS_DONE: Final = 0.75
"""With half as much at once a destination that queues does as much as before. Where it does less than this part, it was no
queue: the destination is slow by itself, and asking less only gets less."""

BUSY: Final = 0.5
"""A queue of ours takes that at least this part of what is allowed at once was under way."""

RATE_OVER: Final = 64
"""Answers that a rate is taken from."""


class AdaptiveLimiter:
    """Learns how much the destination does at once: additive increase, multiplicative decrease.

    It begins with FIRST_ALLOWED and doubles per round until the destination has refused something for the first time, then
    grows by one per round. It halves, at most once in HALVE_EVERY_MS, where the destination refuses, does not answer in
    time, or has become slow. Where a slow one then does less, that was no queue: it goes back, and the new time is what
    answers take. What began before it was halved tells of the time before and doesn't count.
    """

    def __init__(self, most: int, first: int = FIRST_ALLOWED) -> None:
        self._most = most
        self._allowed = float(min(first, most))
        self._halved_at: Millis | None = None
        self._took = _Smoothed()
        self._suspected = False
        """It became slow, and a round is measured from there on: what it answered before tells another rate."""
        self._trial: tuple[float, float] | None = None
        """What was allowed, and how much was answered in a millisecond, before it was halved for slowness alone."""

    @property
    def allowed(self) -> int:
        """Writes allowed at once, at least 1."""
        return max(1, int(self._allowed))

    def succeeded(self, now: Millis, took_ms: int = 0) -> None:
        """A write was answered, `took_ms` after it was sent."""
        if self._halved_at is None or now - took_ms >= self._halved_at:
            self._took.add(took_ms, now, self._round)
        if self._trial is not None:
            self._judge(self._trial)
        elif self._suspected or self._took.is_slow:
            self._measure(now, took_ms)
        else:
            step = 1.0 if self._halved_at is None else 1 / max(1.0, self._allowed)
            self._allowed = min(self._most, self._allowed + step)

    def refused(self, now: Millis, took_ms: int = 0) -> None:
        """The destination said that it can't (503), or did not answer in time."""
        if self._halved_at is None or (now - self._halved_at >= HALVE_EVERY_MS and now - took_ms >= self._halved_at):
            self._halved_at = now
            self._allowed = max(1.0, self._allowed / 2)
            self._took.forget()
            self._suspected, self._trial = False, None

    @property
    def _round(self) -> int:
        return max(SMOOTHING, self.allowed)

    def _measure(self, now: Millis, took_ms: int) -> None:
        if not self._suspected:
            self._suspected = True
            self._took.forget()
        elif self._took.count >= self._round:
            self._suspected = False
            if self._took.is_slow:
                self._try_less(now, took_ms)

    def _try_less(self, now: Millis, took_ms: int) -> None:
        allowed, per_ms = self._allowed, self._took.per_ms
        if self.allowed == 1:
            self._took.take_as_fastest()  # one at a time is no queue of ours
            return
        if per_ms * self._took.ms < BUSY * allowed:
            return  # too little was under way for a queue of ours, or the time lags behind what is under way by now
        self.refused(now, took_ms)
        if self._halved_at == now:
            self._trial = (allowed, per_ms)

    def _judge(self, before: tuple[float, float]) -> None:
        if self._took.count < self._round:
            return
        self._trial = None
        if self._took.per_ms < LESS_DONE * before[1]:
            self._allowed = max(self._allowed, before[0])
            self._took.take_as_fastest()


class _Smoothed:
    """Time that answers take, and how short it was lately."""

    def __init__(self) -> None:
        self.ms = 0.0
        self.count = 0
        self._answered_at: deque[Millis] = deque(maxlen=RATE_OVER)
        self._fastest: float | None = None
        self._fastest_before: float | None = None
        self._window_from: Millis | None = None

    def add(self, took_ms: int, now: Millis, over: int) -> None:
        if self._window_from is None or now - self._window_from >= FASTEST_WINDOW_MS:
            self._window_from, self._fastest_before, self._fastest = now, self._fastest, None
        self._fastest = took_ms if self._fastest is None else min(self._fastest, took_ms)
        self.count += 1
        self._answered_at.append(now)
        self.ms += (took_ms - self.ms) / min(self.count, over)

    def forget(self) -> None:
        """It was halved: what was smoothed so far tells of the time before."""
        self.ms, self.count = 0.0, 0
        self._answered_at.clear()

    @property
    def per_ms(self) -> float:
        """Answers in a millisecond, of the last RATE_OVER."""
        times = self._answered_at
        return (len(times) - 1) / max(1, times[-1] - times[0]) if times else 0.0

    def take_as_fastest(self) -> None:
        """Answers take this long by now, however little is asked."""
        self._fastest, self._fastest_before = self.ms, None

    @property
    def is_slow(self) -> bool:
        known = [each for each in (self._fastest, self._fastest_before) if each is not None]
        return self.count > 0 and bool(known) and self.ms > max(SLOW_MS, SLOW_FACTOR * min(known))


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


class Hold:
    """A pause that the destination asked for (Retry-After): nothing goes to it before its end."""

    def __init__(self) -> None:
        self._until = Millis(0)

    def ask(self, now: Millis, after_s: float) -> None:
        """Leave it alone for `after_s` from now. A pause is never shortened by a later, shorter one."""
        self._until = Millis(max(self._until, now + math.ceil(after_s * 1000)))

    def wait_ms(self, now: Millis) -> int:
        """Until its end; 0 for none."""
        return max(0, self._until - now)


SINGLED_OUT_AFTER: Final = 3
"""Refusals of one entity alone after which the pause that comes with them is taken for its own and not the destination's."""

MOST_REFUSALS_ALONE: Final = 20
"""Refusals of one entity alone after which it is parked."""

MAX_REFUSED_KEYS: Final = 10_000


class Refusals:
    """Tells a destination that asks for a pause from one that refuses a single entity again and again.

    A refusal (429, or 503 with a time) is the entity's own if since its last one the destination took more requests of
    others than it refused. So an outage, however long, parks nothing, and an entity that alone is refused does not wait for
    ever. Bounded: of more than MAX_REFUSED_KEYS entities the one refused longest ago is forgotten.
    """

    def __init__(self) -> None:
        self._taken = self._refused = 0
        self._known: OrderedDict[bytes, tuple[int, int, int]] = OrderedDict()

    def refused(self, key: bytes) -> int:
        """The destination refused this entity; how often it alone was refused by now."""
        self._refused += 1
        alone, taken, refused = self._known.pop(key, (0, self._taken, self._refused - 1))
        if self._taken - taken > self._refused - refused - 1:
            alone += 1
        self._known[key] = alone, self._taken, self._refused
        if len(self._known) > MAX_REFUSED_KEYS:
            self._known.popitem(last=False)
        return alone

    def alone(self, key: bytes) -> int:
        """How often this entity alone was refused."""
        return self._known.get(key, (0, 0, 0))[0]

    def taken(self, key: bytes) -> None:
        """It took what was asked, or refused it for good: it answered."""
        self._taken += 1
        self._known.pop(key, None)


@dataclass(slots=True)
class ConsecutiveBreaker:
    """Opens after `threshold` failures in a row for `open_ms`; then lets exactly one probe through until that one ends.

    Writes that began before it opened may end while the probe is under way. Their success closes it, for the destination
    answers; their failure says nothing new, and doesn't end the probe. `max_open_ms` leaves a second of the five within which
    work is to go on after an outage: for the probe itself, and for the loop to wake.
    """

    threshold: int = 8
    open_ms: int = 1_000
    max_open_ms: int = 4_000
    _failures: int = 0
    _opened_at: Millis | None = None
    _window_ms: int = 0
    _probe: int = 0
    _probes: int = 0

    @property
    def is_open(self) -> bool:
        """Whether writes are held back."""
        return self._opened_at is not None

    def allows(self, now: Millis) -> bool:
        """Whether a write may start now; in the half-open state, only while no probe is under way."""
        return self._opened_at is None or (not self._probe and now - self._opened_at >= self._window_ms)

    def started(self) -> int:
        """A write starts. With the breaker open it is the probe: its number, to be told with how it ended; else 0."""
        if self._opened_at is None:
            return 0
        self._probes += 1
        self._probe = self._probes
        return self._probe

    def abandoned(self, probe: int = 0) -> None:
        """The write ended without the destination having been asked."""
        if probe == self._probe:
            self._probe = 0

    def wait_ms(self, now: Millis) -> int:
        """Until the next probe may start; 0 when closed."""
        return 0 if self._opened_at is None else max(0, self._window_ms - (now - self._opened_at))

    def succeeded(self) -> None:
        """The destination answered: whatever it said, it is there."""
        self._failures, self._opened_at, self._probe, self._window_ms = 0, None, 0, 0

    def failed(self, now: Millis, probe: int = 0) -> None:
        """It did not answer, or said that it can't."""
        self._failures += 1
        if self._opened_at is not None:
            if probe and probe == self._probe:
                self._opened_at, self._probe = now, 0
                self._window_ms = min(self.max_open_ms, self._window_ms * 2)
        elif self._failures >= self.threshold:
            self._opened_at, self._window_ms = now, self.open_ms
