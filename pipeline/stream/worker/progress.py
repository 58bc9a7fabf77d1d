"""Whether a recovery still gets on. Pure: on a clock that callers hand in."""

from typing import Final

RECOVERY_STALL_S: Final = 30.0
"""A recovery whose remaining records do not fall for this long is ended: the next one begins anew and reads them."""


class Progress:
    """Watches the number of changelog records that a recovery still has to read."""

    def __init__(self) -> None:
        self._remaining = 0
        self._since = 0.0

    def is_stalled(self, remaining: int, now_s: float) -> bool:
        """Take in the number, 0 where nothing is being recovered; true once it has stood still for too long."""
        if remaining <= 0 or remaining != self._remaining:
            self._remaining, self._since = remaining, now_s
            return False
        return now_s - self._since >= RECOVERY_STALL_S
