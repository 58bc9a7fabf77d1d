"""What modes and reports are told of a delivery that goes by the history and not by lanes: nothing in it is ever frozen."""

from collections import Counter
from collections.abc import Callable, Container, Sequence

from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Lane
from pipeline.domain.writing.mode_policy import FreezeRule
from pipeline.stream.every.backlog import Backlog


class Gate:
    """`held`: nothing is sent at all, as in a forced outage and until the mode is known at the start."""

    def __init__(self, opened: Callable[[], None]) -> None:
        self.asks_kinds = False
        self._held = False
        self._opened = opened

    @property
    def held(self) -> bool:
        """Whether nothing is sent."""
        return self._held

    @held.setter
    def held(self, held: bool) -> None:
        was, self._held = self._held, held
        if was and not held:
            self._opened()

    async def apply(self, rules: Sequence[FreezeRule]) -> None:
        """Nothing: a lane that waits would let later changes of its entities wait as well, for no one's good."""

    def thaw(self, count: int) -> int:
        """Nothing was frozen."""
        return 0 * count


class Frozen:
    """Nothing."""

    def __len__(self) -> int:
        return 0

    def counts(self) -> Counter[tuple[Lane, EntityType]]:
        """None of any lane."""
        return Counter()


class Waits:
    """How long what is in hand has waited. In order there are no turns: nothing waits for its turn alone."""

    def __init__(self, backlog: Backlog, under_way: Callable[[], int]) -> None:
        self._backlog, self._under_way = backlog, under_way
        self.frozen = Frozen()

    @property
    def in_flight(self) -> int:
        """Attempts under way."""
        return self._under_way()

    def counts(self) -> dict[Lane, int]:
        """Changes in hand, by lane."""
        return self._backlog.counts()

    def oldest_since(self) -> Millis | None:
        """Receipt of the change that has waited longest."""
        return self._backlog.oldest_since()

    def awake_since(self, troubled: Container[bytes]) -> Millis | None:
        """As `oldest_since`, without what fails for its own sake."""
        return self._backlog.oldest_since(of_their_own=False)

    def turn_since(self, lanes: Sequence[Lane]) -> Millis | None:
        """Nothing."""
        return None
