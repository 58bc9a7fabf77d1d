"""Whether what was read of a destination may still be trusted: one that was away may have come back as it was before.

An EHR that is restored from a backup gives its version numbers a second time. A condition on a version that was read before
that would then hold against what a clinician wrote since, and our body would undo it.
"""

from collections.abc import Callable
from typing import Final

from pipeline.domain.identifiers import Millis

MAX_SILENCE_MS: Final = 60_000
"""A destination that was not heard of for longer may have been away unnoticed. Nobody stops a server, restores and starts it in
less. The end of an era costs a read of each entity: with 10 s a surge after a short lull took half as long again to write."""


class Contact:
    """With one destination. What was read in one era proves nothing in another.

    An era ends when the destination is known to be away, when it shows less than it did, and when it was not heard of for
    MAX_SILENCE_MS. `ended` is called then: nothing that was kept holds any more.
    """

    def __init__(self, clock: Callable[[], Millis], ended: Callable[[], None]) -> None:
        self._clock = clock
        self._ended = ended
        self._era = 0
        self._heard_at: Millis | None = None

    def era(self) -> int:
        """The present one."""
        if self._is_silent(now := self._clock()):
            self._heard_at = now
            self.lost()
        return self._era

    def heard(self, since: int) -> int:
        """It took a write, or showed what it holds, asked in the era `since`; the era of that, an old one where it ended since.

        Nothing else is to be taken for its word: a refusal or a 404 may come from what stands in its place. After a silence
        the answer itself is of the new era, and everything from before it is not.
        """
        if since != self._era:
            return since
        now = self._clock()
        if self._is_silent(now):
            self.lost()
        self._heard_at = now
        return self._era

    def lost(self) -> None:
        """It is away, or is not what it was."""
        self._era += 1
        self._ended()

    def _is_silent(self, now: Millis) -> bool:
        """A clock that was set back says nothing about how long it was."""
        return self._heard_at is not None and not 0 <= now - self._heard_at <= MAX_SILENCE_MS
