"""Ends what is valid until a time: a bed's promise or block, a diversion.

The orders' ids are derived from entity, field and time, and the gate applies an order only where the field still has
that end. So two of these, or one that was restarted, do no harm.
"""

import asyncio
import heapq
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, Final

from pipeline.domain.event import UNTIL_FIELDS
from pipeline.domain.identifiers import EntityKey, Millis, derive_event_id
from pipeline.domain.records import Accepted, Control, ControlKind

LOOK_S: Final = 0.2
"""How late an end may be seen."""

MAX_ORDERS: Final = 500
"""Orders published at once."""

Publish = Callable[[Sequence[tuple[EntityKey, Control]]], Awaitable[None]]


class Ends:
    """The ends that lie ahead. `on_accepted` may be called from another thread than `due`."""

    def __init__(self) -> None:
        self._heap: list[tuple[Millis, EntityKey, str]] = []
        self._current: dict[tuple[EntityKey, str], Millis] = {}
        self._lock = threading.Lock()

    def on_accepted(self, accepted: Accepted) -> None:
        """Take in a state: its ends replace those that were known."""
        key = EntityKey(accepted.tenant, accepted.entity_type.value, accepted.namespace, accepted.entity_id)
        for field in UNTIL_FIELDS.get(accepted.entity_type, ()):
            until = getattr(getattr(accepted.state, field, None), "until", None)
            with self._lock:
                if until is None:
                    self._current.pop((key, field), None)
                elif self._current.get((key, field)) != until:
                    self._current[(key, field)] = until
                    heapq.heappush(self._heap, (until, key, field))

    def due(self, now: Millis) -> list[tuple[EntityKey, Control]]:
        """Orders for what has come to its end, at most MAX_ORDERS."""
        orders: list[tuple[EntityKey, Control]] = []
        with self._lock:
            while self._heap and self._heap[0][0] <= now and len(orders) < MAX_ORDERS:
                until, key, field = heapq.heappop(self._heap)
                if self._current.get((key, field)) == until:
                    del self._current[(key, field)]
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
