"""Which entity is written next: pure, on a clock that callers hand in.

Strict lanes, oldest first within a lane, one write per entity at a time. Ageing keeps the lower lanes alive: an entity
that has waited longer than its lane's bound competes one lane higher, and so on up to urgent; nothing but a critical
change is ever treated as critical.
"""

import heapq
from dataclasses import dataclass
from typing import Final, Protocol

from pipeline.domain.identifiers import Millis
from pipeline.domain.records import LANES, RANK, Lane

AGEING_S: Final = {Lane.BULK: 120.0, Lane.ROUTINE: 60.0}
"""After this wait an entity of the lane competes one lane higher: a bulk change waits 180 s at most before it ranks as
urgent. Urgent itself does not age into critical."""

CRITICAL_SHARE: Final = 8
"""At most this many critical writes in a row while something urgent waits; then one of the next lane goes."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entity that waits."""

    key: bytes
    lane: Lane
    since: Millis
    not_before: Millis


class Scheduler(Protocol):
    """Port of the scheduler."""

    def put(self, entry: Entry) -> None: ...
    def discard(self, key: bytes) -> None: ...
    def take(self, now: Millis) -> Entry | None: ...
    def release(self, key: bytes) -> None: ...
    def wait_ms(self, now: Millis) -> int | None: ...


class LaneScheduler:
    """Heaps per lane with lazy deletion: logarithmic in the number of entities that wait."""

    def __init__(self) -> None:
        self._entries: dict[bytes, tuple[Entry, int]] = {}
        self._in_flight: set[bytes] = set()
        self._ready: dict[Lane, list[tuple[int, int, bytes]]] = {lane: [] for lane in LANES}
        self._delayed: list[tuple[int, int, bytes]] = []
        self._serial = 0
        self._critical_in_a_row = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def in_flight(self) -> int:
        """Writes under way."""
        return len(self._in_flight)

    def counts(self) -> dict[Lane, int]:
        """Entities that wait, by lane."""
        counts = dict.fromkeys(LANES, 0)
        for entry, _ in self._entries.values():
            counts[entry.lane] += 1
        return counts

    def oldest_since(self) -> Millis | None:
        """Receipt of the oldest change that waits or is under way; None if nothing does."""
        return min((entry.since for entry, _ in self._entries.values()), default=None)

    def put(self, entry: Entry) -> None:
        """Add an entity or replace what is known of it; one under way stays under way."""
        self._serial += 1
        self._entries[entry.key] = (entry, self._serial)
        if entry.key not in self._in_flight:
            self._push(entry, self._serial)

    def discard(self, key: bytes) -> None:
        """Forget an entity: nothing of it is open, or its partition went elsewhere."""
        self._entries.pop(key, None)

    def take(self, now: Millis) -> Entry | None:
        """The entity to write now; it is under way until `release`."""
        self._wake(now)
        self._age(now)
        for lane in self._order():
            entry = self._pop(lane)
            if entry is not None:
                self._critical_in_a_row = self._critical_in_a_row + 1 if lane is Lane.CRITICAL else 0
                self._in_flight.add(entry.key)
                return entry
        return None

    def release(self, key: bytes) -> None:
        """The write of an entity has ended; it competes again if something of it is still open."""
        self._in_flight.discard(key)
        known = self._entries.get(key)
        if known is not None:
            self._push(*known)

    def wait_ms(self, now: Millis) -> int | None:
        """Until the next delayed entity is due; None if none is delayed."""
        return max(0, self._delayed[0][0] - now) if self._delayed else None

    def _order(self) -> tuple[Lane, ...]:
        if self._critical_in_a_row >= CRITICAL_SHARE:
            return (Lane.URGENT, Lane.CRITICAL, Lane.ROUTINE, Lane.BULK)
        return LANES

    def _push(self, entry: Entry, serial: int) -> None:
        if entry.not_before:
            heapq.heappush(self._delayed, (entry.not_before, serial, entry.key))
        else:
            heapq.heappush(self._ready[entry.lane], (entry.since, serial, entry.key))

    def _wake(self, now: Millis) -> None:
        while self._delayed and self._delayed[0][0] <= now:
            _, serial, key = heapq.heappop(self._delayed)
            entry = self._live(key, serial)
            if entry is not None:
                heapq.heappush(self._ready[entry.lane], (entry.since, serial, key))

    def _age(self, now: Millis) -> None:
        for lane, bound_s in AGEING_S.items():
            heap, higher = self._ready[lane], self._ready[LANES[RANK[lane] - 1]]
            while heap and now - heap[0][0] > bound_s * 1000:
                heapq.heappush(higher, heapq.heappop(heap))

    def _pop(self, lane: Lane) -> Entry | None:
        heap = self._ready[lane]
        while heap:
            _, serial, key = heapq.heappop(heap)
            entry = self._live(key, serial)
            if entry is not None:
                return entry
        return None

    def _live(self, key: bytes, serial: int) -> Entry | None:
        known = self._entries.get(key)
        return known[0] if known is not None and known[1] == serial and key not in self._in_flight else None
