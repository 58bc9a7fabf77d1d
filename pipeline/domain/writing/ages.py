"""Who has waited longest, without looking at all that wait."""

import heapq
from collections.abc import Callable, Container, Iterable, Iterator
from itertools import islice
from typing import Final

from pipeline.domain.identifiers import Millis

STALE_SHARE: Final = 4
"""Heaps are made anew when they hold this many times more places than entities wait, so that replacing costs no memory."""

STALE_SPARE: Final = 1_024
"""Places that a heap may hold in any case."""

PASSED_OVER: Final = 256
"""So many that don't count, or are dead, are passed over before all are looked at in one pass, which is then the shorter way."""

Place = tuple[Millis, bytes]


class Ages:
    """A heap of keys by since when they wait. A place is dead, and goes sooner or later, once `is_live` says so of it."""

    def __init__(self, is_live: Callable[[Millis, bytes], bool]) -> None:
        self._is_live = is_live
        self._heap: list[Place] = []
        self._passed_dead = 0

    def add(self, since: Millis, key: bytes, waiting: int) -> None:
        """A key that waits from now on, or since another time; of `waiting` in all."""
        if len(self._heap) > STALE_SPARE + STALE_SHARE * waiting:
            self._bury()
        heapq.heappush(self._heap, (since, key))

    def first(self, but: Container[bytes] = ()) -> Millis | None:
        """Since when the one that has waited longest does, of those that are not among `but`."""
        for number, (since, key) in enumerate(self):
            if key not in but:
                return since
            if number >= PASSED_OVER:
                return min((since for since, key in self._heap if key not in but and self._is_live(since, key)), default=None)
        return None

    def __iter__(self) -> Iterator[Place]:
        """Longest first; one that was added twice may come twice. Nothing may be added meanwhile."""
        if self._passed_dead > PASSED_OVER:
            self._bury()
        heap = self._heap
        while heap and not self._is_live(*heap[0]):
            heapq.heappop(heap)
        ahead = [(heap[0], 0)] if heap else []
        while ahead:
            place, at = heapq.heappop(ahead)
            for child in (2 * at + 1, 2 * at + 2):
                if child < len(heap):
                    heapq.heappush(ahead, (heap[child], child))
            if self._is_live(*place):
                yield place
            else:
                self._passed_dead += 1

    def _bury(self) -> None:
        self._heap = list({place for place in self._heap if self._is_live(*place)})
        heapq.heapify(self._heap)
        self._passed_dead = 0


def first_of(places: Iterable[Place], count: int) -> list[bytes]:
    """The keys of the first `count` places, each once."""
    known: dict[bytes, None] = {}
    return list(islice((known.setdefault(key) or key for _, key in places if key not in known), count))
