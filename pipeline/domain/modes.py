"""The mode of a destination, judged from figures: normal, slow, outage, recovery."""

from dataclasses import dataclass
from typing import Final

from pipeline.domain.event import Described
from pipeline.domain.identifiers import Millis

SLOW_AFTER_S: Final = 5.0
"""A destination is slow when its oldest unconfirmed change has waited this long."""

CALM_S: Final = 3.0
"""It is normal again when nothing has waited longer than SLOW_AFTER_S for this long."""


class Mode(Described):
    """How a destination is doing."""

    NORMAL = "normal", "current"
    SLOW = "slow", "changes wait; the newest state of each entity goes first"
    OUTAGE = "outage", "the destination can't be reached; everything is kept"
    RECOVERY = "recovery", "it is back; what waited is being written"


@dataclass(frozen=True, slots=True)
class Figures:
    """What a mode is judged from."""

    breaker_open: bool
    pending: int
    oldest_wait_s: float


@dataclass(frozen=True, slots=True)
class Entered:
    """A change of mode with its cause."""

    mode: Mode
    previous: Mode
    cause: str


class Modes:
    """The mode machine of one destination."""

    def __init__(self) -> None:
        self.mode = Mode.NORMAL
        self._calm_since: Millis | None = None

    def judge(self, figures: Figures, now: Millis) -> Entered | None:
        """Take in the figures; a change of mode, if they cause one."""
        waits = figures.pending > 0 and figures.oldest_wait_s > SLOW_AFTER_S
        if waits or figures.breaker_open:
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now
        if figures.breaker_open:
            return self._enter(Mode.OUTAGE, "the breaker is open")
        if self.mode is Mode.OUTAGE:
            return self._enter(Mode.RECOVERY, "the destination answers again")
        if self.mode is Mode.RECOVERY:
            return self._enter(Mode.NORMAL, "drained") if figures.pending == 0 or self._calm(now) else None
        if waits:
            return self._enter(Mode.SLOW, f"a change has waited longer than {SLOW_AFTER_S:g} s")
        return self._enter(Mode.NORMAL, "nothing waits") if self._calm(now) else None

    def _calm(self, now: Millis) -> bool:
        return self._calm_since is not None and now - self._calm_since >= CALM_S * 1000

    def _enter(self, mode: Mode, cause: str) -> Entered | None:
        if mode is self.mode:
            return None
        previous, self.mode = self.mode, mode
        return Entered(mode, previous, cause)
