"""A ceiling that several senders share, so that none of them can take it all from the others."""

import enum
from collections import Counter
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

Holder = TypeVar("Holder", bound=Hashable)

STEEPNESS: Final = 4
"""How fast shares shrink with the pressure behind them. What is behind may be a hundredth of the ceiling: still one holder alone
must come to rest before it is full, or nobody else would find room there."""
LEAST_SHARE: Final = 1 / 400
"""Of the ceiling: what pressure takes from nobody, so that a holder of little is not turned away for those who hold much."""


class Denied(enum.Enum):
    """Why an amount can't be had now."""

    FULL = "full"
    """Nobody would get so much."""
    SHARE = "share"
    """This holder has more already than is left for all others."""


class Shares(Generic[Holder]):
    """One bounded quantity: requests, bytes or connections. Nobody may come to hold more than what is free.

    So the share shrinks as the room fills: one holder alone gets half, two of them a third each, n of them 1 / (n + 1), and
    a holder with nothing yet finds room until the last. (Dynamic thresholds of shared-memory switches, Choudhury and Hahne
    1998, with a factor of one.) Not thread-safe.
    """

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self.held = 0
        self._of: Counter[Holder] = Counter()

    def denied(self, holder: Holder, amount: int, pressure: float = 0.0) -> Denied | None:
        """Whether `holder` may take so much more. `pressure`, 0 to 1, is how full it is behind this: shares shrink with it, and a
        holder with nothing is not asked about it.
        """
        free, has = self.ceiling - self.held, self._of[holder]
        if amount > free:
            return Denied.FULL
        if has and has + amount > min(free, self.ceiling * max(LEAST_SHARE, (1.0 - pressure) ** STEEPNESS)):
            return Denied.SHARE
        return None

    def take(self, holder: Holder, amount: int) -> None:
        """Take what was not denied."""
        self.held += amount
        self._of[holder] += amount

    def give(self, holder: Holder, amount: int) -> None:
        """Give back; who holds nothing is forgotten."""
        self.held -= amount
        self._of[holder] -= amount
        if not self._of[holder]:
            del self._of[holder]

    def __len__(self) -> int:
        return len(self._of)
