"""Ends what is valid until a time: a bed's promise or block, a diversion.

The orders' ids are derived from entity, field and time, and the gate applies an order only where the field still has
that end. So two of these, or one that was restarted, do no harm.
"""

import asyncio
import heapq
import itertools
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, Final

from pipeline.domain.event import UNTIL_FIELDS
from pipeline.domain.identifiers import NO_REVISION, EntityKey, Millis, Revision, derive_event_id
from pipeline.domain.records import Accepted, Control, ControlKind

LOOK_S: Final = 0.2
"""How late an end may be seen."""

MAX_ORDERS: Final = 500
"""Orders published at once."""

REPEAT_MS: Final = 10_000
"""An end that the history does not show by then is ordered again; the wait doubles up to MAX_REPEAT_MS.

The broker's clock may be behind ours: an order that lands before the end, by that clock, changes nothing.
"""
MAX_REPEAT_MS: Final = 3_600_000

Publish = Callable[[Sequence[tuple[EntityKey, Control]]], Awaitable[None]]


class Ends:
    """The ends that lie ahead. `on_accepted` may be called from another thread than `due`."""

    def __init__(self) -> None:
        self._heap: list[tuple[Millis, int, int, EntityKey, str]] = []
        """When to order, which end, the wait after that in ms, and what ends."""
        self._current: dict[tuple[EntityKey, str], tuple[Millis, int]] = {}
        """The end of each field, and its number: one that was withdrawn and set again has another."""
        self._revisions: dict[EntityKey, Revision] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def on_accepted(self, accepted: Accepted) -> None:
        """Take in a state: its ends replace those that were known. A repeat of an older state, as a zombie writes it, doesn't."""
        fields = UNTIL_FIELDS.get(accepted.entity_type, ())
        key = accepted.key
        if not fields or accepted.revision < self._revisions.get(key, NO_REVISION):
            return
        self._revisions[key] = accepted.revision
        for field in fields:
            until = getattr(getattr(accepted.state, field, None), "until", None)
            with self._lock:
                if until is None:
                    self._current.pop((key, field), None)
                elif self._current.get((key, field), (None,))[0] != until:
                    number = next(self._numbers)
                    self._current[(key, field)] = until, number
                    heapq.heappush(self._heap, (until, number, REPEAT_MS, key, field))

    def due(self, now: Millis) -> list[tuple[EntityKey, Control]]:
        """Orders for what has come to its end, at most MAX_ORDERS. The order stands until the history shows another end."""
        orders: list[tuple[EntityKey, Control]] = []
        with self._lock:
            while self._heap and self._heap[0][0] <= now and len(orders) < MAX_ORDERS:
                _, number, wait_ms, key, field = heapq.heappop(self._heap)
                until, current = self._current.get((key, field), (now, None))
                if current == number:
                    again = min(wait_ms * 2, MAX_REPEAT_MS)
                    heapq.heappush(self._heap, (Millis(now + wait_ms), number, again, key, field))
                    orders.append((key, _order(key, field, until)))
        return orders

    def __len__(self) -> int:
        return len(self._current)


def _order(key: EntityKey, field: str, until: Millis) -> Control:
    return Control(
        kind=ControlKind.EXPIRE,
        event_id=derive_event_id(key.tenant, "surgeline-timers", (field, str(until)), key, 0),
        actor="timers",
        reason="its time is over",
        at=until,
        field=field,
        until=until,
    )


class Timers:
    """Publishes orders as ends are reached."""

    name: ClassVar[str] = "timers"

    def __init__(self, ends: Ends, publish: Publish, ready: Callable[[], bool], clock: Callable[[], Millis]) -> None:
        self._ends = ends
        self._publish = publish
        self._ready = ready
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Look for ends until `stop`. Nothing is ordered before all states are known: a later one may have moved an end."""
        while not stop.is_set():
            orders = self._ends.due(self._clock()) if self._ready() else []
            if orders:
                await self._publish(orders)
                continue
            try:
                await asyncio.wait_for(stop.wait(), LOOK_S)
            except TimeoutError:
                continue
