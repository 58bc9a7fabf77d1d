"""Which entity is written next: pure, on a clock that callers hand in.

Strict lanes, oldest first within a lane, one write per entity at a time. Ageing keeps the lower lanes alive: an entity
that has waited longer than its lane's bound gets a share of the turns, oldest first; the rest stay with the lanes in their
order, so that a backlog of old bulk changes after an outage does not hold up what is urgent now.

The bound: once an entity has aged, and k aged entities are older, it is taken within
(k + 1) * AGED_SHARE * (CRITICAL_SHARE + 1) turns, whatever else arrives.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from pipeline.domain.identifiers import Millis
from pipeline.domain.records import LANES, Lane

AGEING_S: Final = {Lane.ROUTINE: 60.0, Lane.BULK: 180.0}
"""After this wait an entity of the lane has aged. Nothing ever ages into critical, and urgent has its turns anyway."""

CRITICAL_SHARE: Final = 8
"""At most this many critical writes in a row while something urgent or aged waits; then one of those goes."""

AGED_SHARE: Final = 4
"""Of this many turns that are not critical, one goes to what has aged."""

STALE_SHARE: Final = 4
"""A heap is made anew when it holds this many times more places than entities wait, so that replacing costs no memory."""

STALE_SPARE: Final = 1_024
"""Places that a heap may hold in any case."""


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
    def take(self, now: Millis, critical_only: bool = False) -> Entry | None: ...
    def release(self, key: bytes) -> None: ...
    def wait_ms(self, now: Millis) -> int | None: ...


Heap = list[tuple[int, int, bytes]]
"""Places in an order: time, serial of the entry, key. A place whose serial is no longer the entry's is dead."""


class LaneScheduler:
    """Heaps per lane with lazy deletion: logarithmic in the number of entities that wait."""

    def __init__(self) -> None:
        self._entries: dict[bytes, tuple[Entry, int]] = {}
        self._in_flight: set[bytes] = set()
        self._ready: dict[Lane, Heap] = {lane: [] for lane in LANES}
        self._delayed: Heap = []
        self._serial = 0
        self._critical_in_a_row = 0
        self._since_aged = 0

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

    def oldest(self, count: int) -> list[Entry]:
        """The `count` entities that have waited longest, longest first; linear in the number that wait."""
        return heapq.nsmallest(count, (entry for entry, *_ in self._entries.values()), key=lambda entry: entry.since)

    def oldest_since(self) -> Millis | None:
        """Receipt of the oldest change that waits or is under way; None if nothing does."""
        return min((entry.since for entry, _ in self._entries.values()), default=None)

    def put(self, entry: Entry) -> None:
        """Add an entity or replace what is known of it; one under way stays under way."""
        known = self._entries.get(entry.key)
        if known is not None and known[0] == entry:
            return
        self._serial += 1
        self._entries[entry.key] = (entry, self._serial)
        if entry.key not in self._in_flight:
            self._push(entry, self._serial)

    def postpone(self, key: bytes, until: Millis) -> None:
        """What is known of an entity stays, but it isn't taken before `until`."""
        known = self._entries.get(key)
        if known is not None and known[0].not_before < until:
            self.put(replace(known[0], not_before=until))

    def discard(self, key: bytes) -> None:
        """Forget an entity: nothing of it is open, or its partition went elsewhere."""
        self._entries.pop(key, None)

    def take(self, now: Millis, critical_only: bool = False) -> Entry | None:
        """The entity to write now, of any lane or of the critical one; it is under way until `release`."""
        self._wake(now)
        aged = self._aged_lane(now)
        for lane in (Lane.CRITICAL,) if critical_only else self._order(aged):
            entry = self._pop(lane)
            if entry is not None:
                self._count(lane, aged)
                self._in_flight.add(entry.key)
                return entry
        return None

    def release(self, key: bytes) -> None:
        """The write of an entity has ended; it competes again if something of it is still open."""
        if key not in self._in_flight:
            return
        self._in_flight.discard(key)
        known = self._entries.get(key)
        if known is not None:
            self._push(*known)

    def wait_ms(self, now: Millis) -> int | None:
        """Until the next delayed entity is due; None if none is delayed."""
        return max(0, self._delayed[0][0] - now) if self._delayed else None

    def _order(self, aged: Lane | None) -> Sequence[Lane]:
        """Lanes in the order of this turn."""
        turn = (aged,) if aged is not None and self._since_aged >= AGED_SHARE - 1 else ()
        if self._critical_in_a_row < CRITICAL_SHARE:
            return (Lane.CRITICAL, *turn, *LANES)
        return (*turn, Lane.URGENT, *((aged,) if aged is not None else ()), *LANES)

    def _count(self, lane: Lane, aged: Lane | None) -> None:
        self._critical_in_a_row = self._critical_in_a_row + 1 if lane is Lane.CRITICAL else 0
        if aged is None or lane is aged:
            self._since_aged = 0
        elif lane is not Lane.CRITICAL:
            self._since_aged += 1

    def _aged_lane(self, now: Millis) -> Lane | None:
        """Lane of the oldest entity that has waited beyond its lane's bound."""
        tops = [
            (heap[0][0], lane)
            for lane, bound_s in AGEING_S.items()
            if (heap := self._without_dead(lane)) and now - heap[0][0] > bound_s * 1000
        ]
        return min(tops, key=lambda top: top[0])[1] if tops else None

    def _without_dead(self, lane: Lane) -> Heap:
        heap = self._ready[lane]
        while heap and self._live(heap[0][2], heap[0][1]) is None:
            heapq.heappop(heap)
        return heap

    def _push(self, entry: Entry, serial: int) -> None:
        heap, at = (self._delayed, entry.not_before) if entry.not_before else (self._ready[entry.lane], entry.since)
        if len(heap) > STALE_SPARE + STALE_SHARE * len(self._entries):
            heap[:] = {place for place in heap if self._live(place[2], place[1]) is not None}
            heapq.heapify(heap)
        heapq.heappush(heap, (at, serial, entry.key))

    def _wake(self, now: Millis) -> None:
        while self._delayed and self._delayed[0][0] <= now:
            _, serial, key = heapq.heappop(self._delayed)
            entry = self._live(key, serial)
            if entry is not None:
                heapq.heappush(self._ready[entry.lane], (entry.since, serial, key))

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
