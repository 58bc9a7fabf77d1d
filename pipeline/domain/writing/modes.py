"""The mode of a destination, judged from figures: normal, slow, severe, outage, recovery. Pure; callers bring the time.

Slow and severe each have a bound to enter and a lower one to leave; both have to be kept for a while. What has waited since
an outage waits anew from the destination's return on, or each outage would end in severe. An outage goes before everything
that an operator forces, since it is a fact. Recovery ends when nothing that had waited when the destination came back waits
any more, and only there: the change with the cause `DRAINED` is what starts a reconciliation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pipeline.domain.event import Described
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import LANES, Lane
from pipeline.domain.writing.mode_policy import FreezeRule, ModesFile, Slowness

ESSENTIAL: Final = (Lane.CRITICAL, Lane.URGENT)
"""Lanes whose waiting makes a destination's state severe."""


class Mode(Described):
    """How a destination is doing."""

    NORMAL = "normal", "current"
    SLOW = "slow", "changes wait; the newest state of each entity goes first"
    SEVERE = "severe", "critical or urgent changes wait too long; what is not essential is frozen"
    OUTAGE = "outage", "the destination can't be reached; everything is kept"
    RECOVERY = "recovery", "it is back; what waited is being written"


class Cause(Described):
    """Why a destination entered a mode."""

    WAITS = "WAITS", "a change has waited too long"
    TURNS_WAIT = "TURNS_WAIT", "a critical or urgent change has waited too long for its turn"
    CAUGHT_UP = "CAUGHT_UP", "critical and urgent changes get their turns again"
    CALM = "CALM", "nothing has waited long for a while"
    BREAKER_OPEN = "BREAKER_OPEN", "the breaker is open: the destination doesn't answer"
    ANSWERS_AGAIN = "ANSWERS_AGAIN", "the destination answers again"
    DRAINED = "DRAINED", "nothing waits any more of what waited when the destination came back; reconcile now"
    FORCED = "FORCED", "an operator forced it"
    RELEASED = "RELEASED", "an operator released what was forced"
    EXPIRED = "EXPIRED", "what was forced came to its end"


FORCEABLE: Final = (Mode.NORMAL, Mode.SLOW, Mode.SEVERE, Mode.OUTAGE)
"""What an operator can force. Recovery follows from an outage and can't be ordered."""

MAX_FORCE_S: Final = 86_400.0
"""Longest time that a mode is forced for; whoever wants longer says so again."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a mode is judged from, of one writer instance; those not used to judge are told with the change.

    `oldest_wait_s`: the longest wait of a change that is neither frozen nor stuck by itself, writes under way included.
    `turn_wait_s`: the longest wait of a critical or urgent change for nothing but its turn. `answers`: whether the
    destination has answered this process at all. Rates are entities with something new, and writes confirmed, in a second.
    """

    breaker_open: bool
    pending: Mapping[Lane, int]
    oldest_wait_s: float
    turn_wait_s: float = 0.0
    answers: bool = True
    frozen: int = 0
    arriving_per_s: float = 0.0
    confirmed_per_s: float = 0.0

    @property
    def told(self) -> dict[str, float]:
        """By name, for the record and the audit log."""
        return {
            **{f"pending_{lane.value}": float(self.pending.get(lane, 0)) for lane in LANES},
            "frozen": float(self.frozen),
            "oldest_wait_s": round(self.oldest_wait_s, 3),
            "turn_wait_s": round(self.turn_wait_s, 3),
            "arriving_per_s": round(self.arriving_per_s, 1),
            "confirmed_per_s": round(self.confirmed_per_s, 1),
            "breaker_open": float(self.breaker_open),
        }


@dataclass(frozen=True, slots=True)
class Force:
    """A mode that an operator ordered, and the end of the order. In a forced outage nothing is sent at all."""

    mode: Mode
    by: str
    reason: str
    at: Millis
    until: Millis


@dataclass(frozen=True, slots=True)
class Entered:
    """A change of mode with its cause; of the same mode where only an order began or ended."""

    mode: Mode
    previous: Mode
    cause: Cause
    at: Millis


@dataclass(frozen=True, slots=True)
class Known:
    """What a restarted process knows of the mode it was in. `back_at`: the return that it was still recovering from."""

    mode: Mode
    cause: Cause
    since: Millis
    back_at: Millis | None = None
    frozen_since: Millis | None = None


class _Level:
    """On beyond one bound, off once a lower one was kept for a while."""

    def __init__(self, bounds: Slowness) -> None:
        self._bounds = bounds
        self._calm_since: Millis | None = None
        self.on = False

    def judge(self, wait_s: float, now: Millis) -> None:
        if wait_s > self._bounds.leave_below_s:
            self._calm_since = None
            self.on = self.on or wait_s > self._bounds.enter_after_s
        else:
            self._calm_since = now if self._calm_since is None else min(self._calm_since, now)
        if self._calm_since is not None and now - self._calm_since >= self._bounds.calm_s * 1000:
            self.on = False

    def reset(self) -> None:
        self.on, self._calm_since = False, None


class Modes:
    """The mode machine of one destination at one writer instance."""

    def __init__(self, policy: ModesFile, known: Known | None = None) -> None:
        self._policy = policy
        self._slow, self._severe = _Level(policy.slow), _Level(policy.severe)
        self._away = self._held = self._forced = self._unheard = False
        self._closed_since: Millis | None = None
        self._thawed_until: Millis | None = None
        self.mode = Mode.NORMAL
        self.since: Millis | None = None
        self.back_at: Millis | None = None
        self.frozen_since: Millis | None = None
        if known is not None:
            self._take_up(known)

    def _take_up(self, known: Known) -> None:
        """Go on where an earlier process was; what is no longer so ends as it would have there."""
        self.mode, self.since, self.back_at, self.frozen_since = known.mode, known.since, known.back_at, known.frozen_since
        self._forced = known.cause is Cause.FORCED
        if self._forced:
            self._away = self._held = known.mode is Mode.OUTAGE
            return
        self._away = self._unheard = known.mode is Mode.OUTAGE
        self._severe.on = known.mode is Mode.SEVERE
        self._slow.on = known.mode in (Mode.SLOW, Mode.SEVERE)
        if known.mode is Mode.RECOVERY and self.back_at is None:
            self.back_at = known.since

    def judge(self, figures: Figures, now: Millis, order: Force | None = None) -> Entered | None:
        """Take in the figures, and what an operator ordered; a change of mode, if they cause one."""
        self._follow_clock(now)
        force = order if order is not None and now < order.until else None
        self._follow(figures, now, force is not None and force.mode is Mode.OUTAGE)
        drained = force is None and self._ends_recovery(figures, now)
        wanted, forced = self._wanted(force)
        if (wanted, forced) == (self.mode, self._forced) or (not forced and not self._forced and self._dwells(wanted, now)):
            return None
        cause = self._cause(wanted, forced, drained, order)
        return self._enter(wanted, forced, cause, now)

    @property
    def freezes(self) -> tuple[FreezeRule, ...]:
        """What the mode in force freezes."""
        policy = self._policy
        rules = {Mode.SLOW: policy.slow.freezes, Mode.SEVERE: policy.severe.freezes, Mode.OUTAGE: policy.outage.freezes}
        return rules.get(self.mode, ())

    @property
    def is_forced(self) -> bool:
        """Whether an operator's order made the mode what it is."""
        return self._forced

    @property
    def holds(self) -> bool:
        """Whether nothing is to be sent at all: an operator forced an outage."""
        return self._held

    def thaws(self, now: Millis) -> int:
        """How many frozen entities compete again from now on, since the freeze has lasted as long as it may."""
        self._follow_clock(now)
        if self.frozen_since is None:
            return 0
        thaw = self._policy.thaw
        begins_at = self.frozen_since + thaw.after_s * 1000
        if now < begins_at:
            self._thawed_until = None
            return 0
        if self._thawed_until is None:
            self._thawed_until = Millis(now - int(1000 / thaw.per_s))
        count = int((now - self._thawed_until) * thaw.per_s / 1000)
        self._thawed_until = Millis(self._thawed_until + int(count * 1000 / thaw.per_s))
        return count

    # -- what is so

    def _follow_clock(self, now: Millis) -> None:
        """A clock that was set back makes nothing last as much longer: what would begin only later begins now."""
        self.since, self.back_at = _not_ahead(self.since, now), _not_ahead(self.back_at, now)
        self.frozen_since, self._thawed_until = _not_ahead(self.frozen_since, now), _not_ahead(self._thawed_until, now)
        self._closed_since = _not_ahead(self._closed_since, now)

    def _follow(self, figures: Figures, now: Millis, held: bool) -> None:
        was_held, self._held = self._held, held
        if figures.breaker_open or held:
            self._away, self._closed_since = True, None
            self._unheard = self._unheard and not figures.breaker_open
            return
        if self._away:
            self._come_back(figures, now, was_held)
            if self._away:
                return
        waited_s = (now - self.back_at) / 1000 if self.back_at is not None else None
        self._slow.judge(_at_most(figures.oldest_wait_s, waited_s), now)
        self._severe.judge(_at_most(figures.turn_wait_s, waited_s), now)

    def _come_back(self, figures: Figures, now: Millis, was_held: bool) -> None:
        """After a restart in an outage a breaker that is closed says nothing: something must have been answered."""
        if self._closed_since is None:
            self._closed_since = now
        is_steady = was_held or now - self._closed_since >= self._policy.outage.calm_s * 1000
        if is_steady and (figures.answers or not self._unheard):
            self._away = self._unheard = False
            self.back_at = now
            self._slow.reset()
            self._severe.reset()

    def _ends_recovery(self, figures: Figures, now: Millis) -> bool:
        if self.mode is not Mode.RECOVERY or self._away or self.back_at is None:
            return False
        if figures.oldest_wait_s * 1000 > now - self.back_at:
            return False
        self.back_at = None
        # That it was slow until now was the outage's doing: what waits by now says how it is.
        self._slow.reset()
        self._slow.judge(figures.oldest_wait_s, now)
        return True

    def _wanted(self, force: Force | None) -> tuple[Mode, bool]:
        if self._away:
            return Mode.OUTAGE, self._held
        if force is not None:
            return force.mode, True
        if self._severe.on:
            return Mode.SEVERE, False
        if self.back_at is not None:
            return Mode.RECOVERY, False
        return (Mode.SLOW if self._slow.on else Mode.NORMAL), False

    # -- the change

    def _dwells(self, wanted: Mode, now: Millis) -> bool:
        """Whether the mode was entered too short a time ago to be left for a milder one."""
        if self.since is None or wanted is Mode.OUTAGE:
            return False
        match self.mode:
            case Mode.SEVERE:
                dwell_s = self._policy.severe.dwell_s
            case Mode.SLOW if wanted is Mode.NORMAL:
                dwell_s = self._policy.slow.dwell_s
            case _:
                return False
        return now - self.since < dwell_s * 1000

    def _cause(self, wanted: Mode, forced: bool, drained: bool, order: Force | None) -> Cause:
        if forced:
            return Cause.FORCED
        if wanted is Mode.OUTAGE:
            return Cause.BREAKER_OPEN
        if self._forced:
            return Cause.RELEASED if order is None else Cause.EXPIRED
        if drained:
            return Cause.DRAINED
        if wanted is Mode.SEVERE:
            return Cause.TURNS_WAIT
        if self.mode is Mode.OUTAGE:
            return Cause.ANSWERS_AGAIN
        if self.mode is Mode.SEVERE:
            return Cause.CAUGHT_UP
        return Cause.WAITS if wanted is Mode.SLOW else Cause.CALM

    def _enter(self, mode: Mode, forced: bool, cause: Cause, now: Millis) -> Entered:
        previous, self.mode, self.since, self._forced = self.mode, mode, now, forced
        if not self.freezes:
            self.frozen_since = self._thawed_until = None
        elif self.frozen_since is None:
            self.frozen_since = now
        return Entered(mode, previous, cause, now)


def _not_ahead(at: Millis | None, now: Millis) -> Millis | None:
    return min(at, now) if at is not None else None


def _at_most(wait_s: float, bound_s: float | None) -> float:
    return wait_s if bound_s is None else min(wait_s, bound_s)
