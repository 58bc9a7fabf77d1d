"""Where a mode meets a delivery: what it freezes is carried into the scheduler, in steps that hold up no write."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from pipeline.domain.event import EntityType, EventType
from pipeline.domain.records import Accepted, Lane
from pipeline.domain.writing.frozen import Freezes
from pipeline.domain.writing.mode_policy import FreezeRule
from pipeline.domain.writing.pending import Pending
from pipeline.domain.writing.scheduler import Entry, LaneScheduler

AT_ONCE: Final = 500
"""Entities that are looked at in one go after a change of mode: about a millisecond."""


class Freezing:
    """Of one delivery. `held`: nothing is sent at all, not even what is critical; so until its mode is known at the start."""

    def __init__(self, scheduler: LaneScheduler, decode: Callable[[bytes], Accepted]) -> None:
        self.held = False
        self.asks_kinds = False
        """Whether some rule of the policy names event types: only then the kind of each change is looked up and kept."""
        self._scheduler = scheduler
        self._decode = decode
        self._kinds: dict[bytes, EventType] = {}

    def put(self, entry: Entry, pending: Pending) -> None:
        """Let an entity wait, frozen or not."""
        self._scheduler.put(entry)
        if self.asks_kinds:
            before, kind = self._kinds.pop(entry.key, None), self._kind(pending)
            if kind is not None:
                self._kinds[entry.key] = kind
            if kind is not before:
                self._scheduler.reconsider((entry.key,))

    def _kind(self, pending: Pending) -> EventType | None:
        """Event type of the one unconfirmed change; None where there are several, or none."""
        if pending.newest is None or len(pending.due) != 1:
            return None
        newest = self._decode(pending.newest)
        due = pending.due.get(newest.lane)
        # The oldest change of the lane is the newest one, and none that was accepted in between closed without us.
        is_alone = due is not None and due.since == newest.received_at and newest.previous_revision <= pending.confirmed
        return newest.event_type if is_alone else None

    def discard(self, key: bytes) -> None:
        """It is written, or somebody else's."""
        self._kinds.pop(key, None)
        self._scheduler.discard(key)

    async def apply(self, rules: Sequence[FreezeRule]) -> None:
        """Freeze what these rules name and thaw the rest; other work goes on in between."""
        keys = self._scheduler.freeze(self._rule(rules))
        for start in range(0, len(keys), AT_ONCE):
            self._scheduler.reconsider(keys[start : start + AT_ONCE])
            await asyncio.sleep(0)
        for _ in self._scheduler.sweep():
            await asyncio.sleep(0)

    def _rule(self, rules: Sequence[FreezeRule]) -> Freezes | None:
        if not rules:
            return None
        always = {
            (lane, entity_type)
            for lane in Lane
            for entity_type in EntityType
            if any(rule.holds(lane, entity_type, None) for rule in rules)
        }
        by_kind = [rule for rule in rules if rule.event_types]

        def freezes(key: bytes, lane: Lane, entity_type: EntityType) -> bool:
            if (lane, entity_type) in always:
                return True
            return bool(by_kind) and any(rule.holds(lane, entity_type, self._kinds.get(key)) for rule in by_kind)

        return freezes

    def thaw(self, count: int) -> int:
        """The `count` that have waited longest compete again; how many there were."""
        return self._scheduler.thaw(count)
