"""Two feeds of one source side by side: what both say, what only one says, and how much later. Pure.

For moving a source from one feed to another (HL7 v2 to FHIR) while both run: see `surgeline feeds compare`. Only changes
count: a feed that says again what it said last says nothing. Values are compared by digest and never kept.
"""

import hashlib
import math
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Final

import msgspec
from msgspec import UNSET

from pipeline.domain.event import EntityType, Event
from pipeline.domain.identifiers import Millis

WINDOW_MS: Final = 10 * 60 * 1000
"""Two statements of one value are the same change if they came within this time; a lone one is given up after it."""

UNMATCHED_KEPT: Final = 64
"""Statements of one field of one entity that wait for the other feed; beyond it the oldest counts as alone."""

DELAYS_KEPT: Final = 10_000
"""Newest delays of a field that its quantiles are taken from."""

DIFFERENT_KEPT: Final = 20
"""Entities that are named where the feeds end apart."""


class FieldFigures(msgspec.Struct, frozen=True):
    """One field of one entity type. Delays are of the second feed behind the first, negative where it was earlier."""

    entity_type: EntityType
    field: str
    agreed: int
    only_first: int
    only_second: int
    waiting: int
    different_now: int
    delay_p50_ms: float | None
    delay_p99_ms: float | None

    @property
    def agreement(self) -> float | None:
        """Share of the changes that both feeds told, 0 to 1; None where there was none."""
        told = self.agreed + self.only_first + self.only_second
        return self.agreed / told if told else None


class Comparison(msgspec.Struct, frozen=True):
    """Fields in order of type and name; `different` are entities for which the feeds end apart, bounded, by key."""

    first: str
    second: str
    events: tuple[int, int]
    fields: tuple[FieldFigures, ...]
    different: tuple[str, ...]


@dataclass(slots=True)
class _Statements:
    """What the feeds said of one field of one entity: the last digest of each, and what waits for the other."""

    last: list[bytes | None] = field(default_factory=lambda: [None, None])
    waiting: tuple[deque[tuple[bytes, Millis]], deque[tuple[bytes, Millis]]] = field(default_factory=lambda: (deque(), deque()))


@dataclass(slots=True)
class _Count:
    agreed: int = 0
    alone: list[int] = field(default_factory=lambda: [0, 0])
    delays: deque[float] = field(default_factory=lambda: deque(maxlen=DELAYS_KEPT))


class FeedComparison:
    """Takes in events of two feeds, those of each entity in the order of their landing."""

    def __init__(self, first: str, second: str) -> None:
        self._feeds = (first, second)
        self._events = [0, 0]
        self._statements: dict[tuple[bytes, EntityType, str], _Statements] = {}
        self._counts: defaultdict[tuple[EntityType, str], _Count] = defaultdict(_Count)

    def add(self, event: Event) -> None:
        """An event of either feed; others are passed over."""
        if event.feed not in self._feeds:
            return
        side, key = self._feeds.index(event.feed), event.key.encode()
        self._events[side] += 1
        for name in event.payload.__struct_fields__:
            value = getattr(event.payload, name)
            if value is not UNSET:
                self._state(side, (key, event.entity_type, name), _digest(value), Millis(event.received_at))

    def _state(self, side: int, place: tuple[bytes, EntityType, str], said: bytes, at: Millis) -> None:
        known = self._statements.setdefault(place, _Statements())
        if known.last[side] == said:
            return
        known.last[side] = said
        count = self._counts[place[1], place[2]]
        _give_up(known, count, at)
        other = known.waiting[1 - side]
        for index, (value, came_at) in enumerate(other):
            if value == said:
                del other[index]
                count.agreed += 1
                count.delays.append(float(at - came_at) if side == 1 else float(came_at - at))
                return
        known.waiting[side].append((said, at))
        if len(known.waiting[side]) > UNMATCHED_KEPT:
            known.waiting[side].popleft()
            count.alone[side] += 1

    def result(self, now: Millis) -> Comparison:
        """The comparison so far. What came less than WINDOW_MS ago may still be told by the other feed: it is waiting."""
        waiting: defaultdict[tuple[EntityType, str], int] = defaultdict(int)
        apart: defaultdict[tuple[EntityType, str], int] = defaultdict(int)
        different: dict[str, None] = {}
        for (key, entity_type, name), known in self._statements.items():
            _give_up(known, self._counts[entity_type, name], now)
            left = sum(map(len, known.waiting))
            waiting[entity_type, name] += left
            first, second = known.last
            if not left and first is not None and second is not None and first != second:
                apart[entity_type, name] += 1
                if len(different) < DIFFERENT_KEPT:
                    different[key.decode(errors="replace")] = None
        return Comparison(
            *self._feeds,
            events=(self._events[0], self._events[1]),
            fields=tuple(
                _figures(place, count, waiting[place], apart[place])
                for place, count in sorted(self._counts.items(), key=lambda item: (item[0][0].value, item[0][1]))
            ),
            different=tuple(different),
        )


def _give_up(known: _Statements, count: _Count, now: Millis) -> None:
    for side, waiting in enumerate(known.waiting):
        while waiting and now - waiting[0][1] > WINDOW_MS:
            waiting.popleft()
            count.alone[side] += 1


def _figures(place: tuple[EntityType, str], count: _Count, waiting: int, apart: int) -> FieldFigures:
    delays = sorted(count.delays)
    return FieldFigures(
        entity_type=place[0],
        field=place[1],
        agreed=count.agreed,
        only_first=count.alone[0],
        only_second=count.alone[1],
        waiting=waiting,
        different_now=apart,
        delay_p50_ms=_quantile(delays, 0.5),
        delay_p99_ms=_quantile(delays, 0.99),
    )


def _quantile(ordered: list[float], share: float) -> float | None:
    """By nearest rank."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _digest(value: object) -> bytes:
    return hashlib.blake2b(msgspec.json.encode(value, order="deterministic"), digest_size=8).digest()
