"""Whether a recovery still gets on. Pure: on a clock that callers hand in."""

import enum
from typing import Final

RECOVERY_STALL_S: Final = 30.0
"""A recovery whose remaining records do not fall for this long is ended: the next one begins anew and reads them."""


class Pace(enum.Enum):
    """What a look at a recovery tells."""

    IDLE = "idle"
    """Nothing is being recovered, or it has begun only now."""
    GETS_ON = "gets on"
    """Records were read since the last look: however long it takes, it comes to an end."""
    STANDS = "stands"
    STALLED = "stalled"


class Progress:
    """Watches the number of changelog records that a recovery still has to read."""

    def __init__(self) -> None:
        self._remaining = 0
        self._since = 0.0

    def look(self, remaining: int, now_s: float) -> Pace:
        """Take in the number, 0 where nothing is being recovered. More than before is another recovery, which begins."""
        before = self._remaining
        if remaining <= 0 or remaining != before:
            self._remaining, self._since = remaining, now_s
            return Pace.GETS_ON if 0 < remaining < before else Pace.IDLE
        return Pace.STALLED if now_s - self._since >= RECOVERY_STALL_S else Pace.STANDS
