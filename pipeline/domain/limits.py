"""How fast a destination may be written to: retries, concurrency, when to leave it alone. Callers bring time and chance."""

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
    def succeeded(self, now: Millis) -> None: ...
    def refused(self, now: Millis) -> None: ...


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


class AdaptiveLimiter:
    """Additive increase per round of successes, halved at most once a second when the destination refuses."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._allowed = float(most)
        self._halved_at = Millis(0)

    @property
    def allowed(self) -> int:
        """Writes allowed at once, at least 1."""
        return max(1, int(self._allowed))

    def succeeded(self, now: Millis) -> None:
        """A write was taken."""
        self._allowed = min(self._most, self._allowed + 1 / max(1.0, self._allowed))

    def refused(self, now: Millis) -> None:
        """The destination said that it is too much (429, 503), or did not answer in time."""
        if now - self._halved_at >= HALVE_EVERY_MS:
            self._halved_at = now
            self._allowed = max(1.0, self._allowed / 2)


HALVE_EVERY_MS: Final = 1_000


@dataclass(slots=True)
class ConsecutiveBreaker:
    """Opens after `threshold` failures in a row for `open_ms`; then lets exactly one probe through until that one ends.

    Writes that began before it opened may end while the probe is under way. Their success closes it, for the destination
    answers; their failure says nothing new, and doesn't end the probe.
    """

    threshold: int = 8
    open_ms: int = 1_000
    max_open_ms: int = 5_000
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
