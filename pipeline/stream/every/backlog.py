"""Changes in hand, in order per entity: an entity's next one waits until the one before has come to its end. Pure.

Entities take turns by when their first change in hand arrived, so that with one message under way at a time everything goes
in the order of the history, but for what waits for another attempt.
"""

import heapq
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Accepted, Lane, Reason


@dataclass(slots=True, eq=False)
class Portion:
    """Records of one poll of one partition; `left` have not come to their end. `event` is what acknowledges them all."""

    partition: int
    tenure: int
    event: Any
    left: int = 0


@dataclass(slots=True, eq=False)
class Item:
    """One change in hand. `own`: attempts that failed for its own sake; `tries`: all of them.

    `taken` and `refused` are what the destination had taken and refused of all when this one failed last, for `reason`.
    """

    key: bytes
    accepted: Accepted
    portion: Portion
    number: int = 0
    own: int = 0
    tries: int = 0
    taken: int = 0
    refused: int = 0
    reason: Reason = Reason.NONE


@dataclass(slots=True)
class Backlog:
    """What is in hand. Not bounded by itself: who puts asks for its length first."""

    _queues: dict[bytes, deque[Item]] = field(default_factory=dict)
    _ready: list[tuple[int, bytes]] = field(default_factory=list)
    _later: list[tuple[Millis, int, bytes]] = field(default_factory=list)
    _arrived: int = 0
    _length: int = 0
    _lanes: Counter[Lane] = field(default_factory=Counter)

    def __len__(self) -> int:
        return self._length

    def put(self, item: Item) -> None:
        """Take in the next change of the history."""
        self._arrived += 1
        item.number = self._arrived
        queue = self._queues.setdefault(item.key, deque())
        queue.append(item)
        self._length += 1
        self._lanes[item.accepted.lane] += 1
        if len(queue) == 1:
            heapq.heappush(self._ready, (item.number, item.key))

    def take(self, now: Millis) -> Item | None:
        """The next change that may go; its entity's others wait until it is done or put off."""
        while self._later and self._later[0][0] <= now:
            _, number, key = heapq.heappop(self._later)
            heapq.heappush(self._ready, (number, key))
        while self._ready:
            number, key = heapq.heappop(self._ready)
            queue = self._queues.get(key)
            if queue and queue[0].number == number:
                return queue[0]
        return None

    def done(self, item: Item) -> None:
        """It has come to its end: the entity's next one may go."""
        queue = self._queues.get(item.key)
        if not queue or queue[0] is not item:
            return
        queue.popleft()
        self._forget(item)
        if queue:
            heapq.heappush(self._ready, (queue[0].number, item.key))
        else:
            del self._queues[item.key]

    def put_off(self, item: Item, until: Millis) -> None:
        """It goes again, not before `until`."""
        queue = self._queues.get(item.key)
        if queue and queue[0] is item:
            heapq.heappush(self._later, (until, item.number, item.key))

    def drop(self, partitions: frozenset[int]) -> None:
        """Forget what is of these partitions; whoever has them next reads it again."""
        for key in [key for key, queue in self._queues.items() if queue[0].portion.partition in partitions]:
            for item in self._queues.pop(key):
                self._forget(item)

    def _forget(self, item: Item) -> None:
        self._length -= 1
        self._lanes[item.accepted.lane] -= 1

    def wait_ms(self, now: Millis) -> int | None:
        """Until something that was put off may go; None where nothing was."""
        return max(1, self._later[0][0] - now) if self._later else None

    def counts(self) -> dict[Lane, int]:
        """Changes in hand, by lane."""
        return {lane: self._lanes[lane] for lane in Lane}

    def heads(self) -> list[Item]:
        """The first change in hand of each entity, oldest first."""
        return sorted((queue[0] for queue in self._queues.values()), key=lambda item: item.number)

    def oldest_since(self, of_their_own: bool = True) -> Millis | None:
        """Receipt of the change that has waited longest; without those that fail for their own sake, if asked for so."""
        items = (queue[0] for queue in self._queues.values())
        return min((item.accepted.received_at for item in items if of_their_own or not item.own), default=None)
