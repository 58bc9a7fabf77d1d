"""How much a delivery may ask of its destination now, learnt from how its attempts end; and whether one is tried again."""

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipeline.domain.identifiers import Millis
from pipeline.domain.records import OutcomeKind, Reason
from pipeline.domain.writing.limits import MOST_REFUSALS_ALONE, SINGLED_OUT_AFTER, Breaker, Hold, Limiter, Refusals, next_delay
from pipeline.domain.writing.pace import Pace
from pipeline.domain.writing.pending import Pending
from pipeline.stream.writing.attempt import Verdict
from pipeline.stream.writing.outcomes import Judged
from pipeline.stream.writing.turnstile import Turnstile

SPARE_SHARE: Final = 8
"""Of this many writes at once one is kept for what is critical, so that it never waits for a slow bulk write to end."""

_ABSENCE: Final = frozenset(
    {Reason.TIMEOUT, Reason.CONNECTION, Reason.UNAVAILABLE, Reason.AMBIGUOUS, Reason.UNAUTHENTICATED, Reason.NO_TOKEN}
)
"""The destination is away, for us at least: an expired credential must hold everything back, not park it one by one."""

_SAYS_NOTHING: Final = frozenset({Reason.RATE_LIMITED, Reason.NO_TOKEN, Reason.PREREQUISITE, Reason.MERGE_OPEN})
"""About the entity; such an attempt doesn't count."""

_OURS: Final = frozenset({Reason.INTERNAL, Reason.PREREQUISITE, Reason.MERGE_OPEN})
"""The destination was not asked; nor was it where what we know of it already said enough."""

_PAUSES: Final = frozenset({Reason.RATE_LIMITED, Reason.UNAVAILABLE, Reason.AMBIGUOUS})
"""What can come with a time before which the destination wants nothing."""


class Admits(enum.Enum):
    """What may start now."""

    NOTHING = enum.auto()
    CRITICAL = enum.auto()
    ANY = enum.auto()


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one destination's delivery."""

    attempt_timeout_s: float
    max_attempts: int
    rate_per_s: float
    merge_hold_s: float = 60.0
    """A survivor that has waited this long for what was merged into it shows as stuck, and goes on waiting."""


class Throttle:
    """Of one destination. `max_attempts` are those that count before a change is parked. Each `now` but that of `judge`, and
    `clock`, are of a clock that is never set: see `steady_ms`."""

    def __init__(
        self, limiter: Limiter, breaker: Breaker, rate_per_s: float, max_attempts: int, clock: Callable[[], Millis]
    ) -> None:
        self.limiter = limiter
        self.breaker = breaker
        self._max_attempts = max_attempts
        self._clock = clock
        self._pace = Pace(rate_per_s)
        self._turnstile = Turnstile(self._pace, clock)
        self._hold = Hold()
        self._refusals = Refusals()

    def admits(self, now: Millis, under_way: int, begun: int = 0, spent: bool = False) -> Admits:
        """What may start, with so many writes under way, of which the last `begun` have not taken their turns yet.

        Chosen when the rate has a turn for it, and not before: who waits for a turn is neither the newest state by then, nor in
        the highest lane. `spent`: so many critical ones went in a row that what is kept for them is another's for once.
        """
        allowed = self.limiter.allowed
        if under_way >= allowed or self._hold.wait_ms(now) or not self.breaker.allows(now):
            return Admits.NOTHING
        if self._pace.wait_ms(now, True, begun) > 0:
            return Admits.NOTHING
        has_room = under_way < allowed - allowed // SPARE_SHARE
        return Admits.ANY if has_room and self._pace.wait_ms(now, spent, begun) <= 0 else Admits.CRITICAL

    def wait_ms(self, now: Millis) -> int:
        """Until something may start that may not now; 0 where that is not a matter of time."""
        held_ms = max(self._hold.wait_ms(now), self.breaker.wait_ms(now))
        return held_ms or math.ceil(self._pace.wait_ms(now, True) or self._pace.wait_ms(now))

    def pause_s(self) -> float:
        """What is left of a pause that the destination asked for; 0.0 for none. Nothing is sent in it."""
        return self._hold.wait_ms(self._clock()) / 1000

    def per_s(self) -> float:
        """Requests in a second, as learnt by now."""
        return self._pace.per_s(self._clock())

    async def pace(self, critical: bool) -> None:
        """Wait for the next turn, or for a pause to begin."""
        await self._turnstile.turn(critical)

    def learn(self, key: bytes, verdict: Verdict, probe: int) -> None:
        """What an attempt's end says about the destination."""
        now, reason = self._clock(), verdict.reason
        alone = self._learn_pause(key, verdict, now)
        if reason in _ABSENCE:
            self.breaker.failed(now, probe)
            self.limiter.refused(now, verdict.took_ms)
        elif reason in _OURS or not verdict.asked:
            self.breaker.abandoned(probe)
        else:
            self.breaker.succeeded()
            self._learn_answered(key, verdict, alone, now)

    def _learn_answered(self, key: bytes, verdict: Verdict, alone: int, now: Millis) -> None:
        if verdict.reason is not Reason.RATE_LIMITED:
            self._pace.taken(now, verdict.asked)
            self.limiter.succeeded(now, verdict.took_ms)
            self._refusals.taken(key)
        elif not alone:
            self._pause(now, self._pace.limited(now))

    def _learn_pause(self, key: bytes, verdict: Verdict, now: Millis) -> int:
        """A pause is the whole destination's, but for an entity that alone is refused again and again; how often it was."""
        alone = self._refusals.refused(key) if _asks_for_pause(verdict) else 0
        if verdict.reason in _PAUSES and alone < SINGLED_OUT_AFTER:
            self._pause(now, verdict.after_s)
        return alone

    def _pause(self, now: Millis, after_s: float) -> None:
        if after_s > 0:
            self._hold.ask(now, after_s)
            self._pace.paused(now, Millis(now + self._hold.wait_ms(now)))
            self._turnstile.let_go()

    def judge(self, key: bytes, pending: Pending, verdict: Verdict, given_up: OutcomeKind, jitter: float, now: Millis) -> Judged:
        """Whether it is tried again, and when: that is durable, so `now` is the time of day. `given_up`: how it ends if not.

        A probe of a destination that is away, a pause that it asks for, the lack of a token, and waiting for another entity
        say nothing about this one: they don't count, or an outage would use up the attempts and the first hiccup after it
        would park what waited longest. One that alone is refused is parked in the end all the same.
        """
        kind, reason = verdict.kind, verdict.reason
        pauses = _asks_for_pause(verdict)
        away = (reason in _ABSENCE and self.breaker.is_open) or reason in _SAYS_NOTHING or pauses
        attempts = max(1, pending.attempts + (0 if away else 1))
        if kind is not OutcomeKind.FAILED:
            return Judged(kind, reason, attempts, None)
        alone = self._refusals.alone(key) if pauses else 0
        if alone >= MOST_REFUSALS_ALONE or (attempts >= self._max_attempts and not away):
            return Judged(given_up, Reason.ATTEMPTS_EXHAUSTED if reason is Reason.NONE else reason, attempts, None)
        delay = next_delay(max(attempts, alone), jitter, verdict.after_s)
        return Judged(kind, reason, attempts, Millis(now + int(delay.total_seconds() * 1000)))


def _asks_for_pause(verdict: Verdict) -> bool:
    """A 429, or a 503 that says for how long."""
    return verdict.reason is Reason.RATE_LIMITED or (verdict.reason is Reason.UNAVAILABLE and verdict.after_s > 0)
