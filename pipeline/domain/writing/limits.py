"""How a destination may be written to: retries, concurrency, when to leave it alone. Callers bring time and chance."""

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
