"""How many bytes may be on their way to the broker, learnt from how long it takes them: a queue must not outgrow patience.

A broker that is slow for a while would otherwise be fed what nobody waits for any more: each message grows old in the queue,
its sender is told no and sends it again, and what the broker takes is never what somebody is still to be told yes for.
(Delay as the sign of a full queue: CoDel, RFC 8289. A window that is not used does not grow: RFC 7661.)
"""

from typing import Final

TARGET_S: Final = 1.5
"""What is on its way should be acknowledged within it. A message needs three acknowledgements one after the other, and its
sender waits 10 s (`ACCEPT_TIMEOUT_S`)."""
QUICK_S: Final = 0.25
"""A window grows while nothing waits longer than that: less than an interval, so that one that was just filled does not."""
LEAST_BYTES: Final = 64 * 1024
"""So much may always be on its way: without it nobody would learn that the broker is quick again."""
FREE_BYTES: Final = 16 * 1024 * 1024
"""So much may be on its way while the broker is quick, however little was before: what a way in may hold of bodies that have not
arrived, so that none of them finds the window full when it has. A broker that becomes slow is overfilled by it, once."""
INTERVAL_S: Final = 0.5
"""How often the window is set anew."""
GROWTH: Final = 2.0
"""From one interval to the next, at most."""
HEADROOM: Final = 4.0
"""Times what was on its way at most: one sender alone never fills a window (see `Shares`)."""


class Window:
    """A bound of bytes in flight. Pure: callers give the time, in seconds of any clock that does not go back."""

    def __init__(self, most_bytes: int, now: float) -> None:
        self._most = most_bytes
        self._since = now
        self._acknowledged = 0
        self._slowest_s = 0.0
        self._peak = 0
        self.limit_bytes = min(most_bytes, FREE_BYTES)
        """In force."""

    def acknowledged(self, size: int, waited_s: float) -> None:
        """So many bytes were acknowledged, or given up, after so long."""
        self._acknowledged += size
        self._slowest_s = max(self._slowest_s, waited_s)

    def pressure(self, in_flight: int, oldest_s: float, now: float) -> float:
        """How full the window is, 0 to 1; `oldest_s` is how long the oldest that is on its way has waited."""
        self._peak = max(self._peak, in_flight)
        if (span_s := now - self._since) >= INTERVAL_S:
            self._since = now
            self._set(max(self._slowest_s, oldest_s), span_s)
        return min(1.0, in_flight / self.limit_bytes)

    def _set(self, slowest_s: float, span_s: float) -> None:
        per_s = self._acknowledged / span_s
        if slowest_s > TARGET_S:
            self.limit_bytes = max(LEAST_BYTES, min(self.limit_bytes, int(per_s * TARGET_S)))
        elif slowest_s < QUICK_S:
            used = max(FREE_BYTES, int(self._peak * HEADROOM))
            self.limit_bytes = min(self._most, used, int(self.limit_bytes * GROWTH))
        self._acknowledged, self._slowest_s, self._peak = 0, 0.0, 0
