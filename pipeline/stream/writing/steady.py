"""Time for waits that nobody else has to know of: it goes on evenly whatever is done to the machine's clock."""

import time

from pipeline.domain.identifiers import Millis


def steady_ms() -> Millis:
    """Milliseconds since some moment; only differences say anything, and only within one process.

    A machine's clock that is set back by an hour would make each wait that is counted by it an hour longer.
    """
    return Millis(time.monotonic_ns() // 1_000_000)
