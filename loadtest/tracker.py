"""From accepted changes and outcomes to lags, while they come or afterwards. Pure.

The two topics are read side by side, so an outcome may be seen before the change that it closes. What a destination's
confirmation closes is as in the books: the revision itself, and each older one as superseded by it.
"""

from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Accepted, Lane, Outcome, OutcomeKind

ENDS_KEPT: Final = 128
"""Confirmations remembered of an entity for changes that are read after them."""

Entity = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Closed:
    """A change has come to its end at a destination. `superseded`: by a newer state of its entity."""

    destination: str
    lane: Lane
    received_at: Millis
    at: Millis
    superseded: bool

    @property
    def lag_ms(self) -> int:
        """From receipt to confirmation."""
        return self.at - self.received_at


@dataclass(slots=True)
class _Course:
    """One entity at one destination."""

    waiting: dict[int, tuple[Lane, Millis]] = field(default_factory=dict)
    parked: dict[int, tuple[Lane, Millis]] = field(default_factory=dict)
    ends: deque[tuple[int, Millis, OutcomeKind]] = field(default_factory=lambda: deque(maxlen=ENDS_KEPT))


class Tracker:
    """`expects` are the entity types that each destination is told of."""

    def __init__(self, expects: Mapping[str, Collection[EntityType]]) -> None:
        self.waiting = 0
        self.parked = 0
        self.shadowed = 0
        self.accepted = 0
        self.attempts: Counter[tuple[str, OutcomeKind]] = Counter()
        self._expects = expects
        self._courses: dict[tuple[str, Entity], _Course] = {}
        self._seen: set[tuple[Entity, int]] = set()

    def take_accepted(self, record: Accepted) -> list[Closed]:
        """Take in a change; what had closed it before it was read. A repeat of a record counts once."""
        entity = (record.tenant, record.entity_type.value, record.namespace, record.entity_id)
        if (entity, record.revision) in self._seen:
            return []
        self._seen.add((entity, record.revision))
        self.accepted += 1
        closed = []
        for destination, types in self._expects.items():
            if record.entity_type in types:
                course = self._courses.setdefault((destination, entity), _Course())
                course.waiting[record.revision] = (record.lane, record.received_at)
                self.waiting += 1
                for revision, at, kind in tuple(course.ends):
                    closed += self._end(course, destination, revision, at, kind)
        return closed

    def take_outcome(self, record: Outcome) -> list[Closed]:
        """Take in an outcome; the changes that it closes."""
        self.attempts[record.destination, record.kind] += 1
        if record.kind is OutcomeKind.FAILED or record.destination not in self._expects:
            return []
        entity = (record.tenant, record.entity_type.value, record.namespace, record.entity_id)
        course = self._courses.setdefault((record.destination, entity), _Course())
        course.ends.append((record.revision, record.at, record.kind))
        return self._end(course, record.destination, record.revision, record.at, record.kind)

    def _end(self, course: _Course, destination: str, upto: int, at: Millis, kind: OutcomeKind) -> list[Closed]:
        ended = {revision: course.waiting.pop(revision) for revision in sorted(course.waiting) if revision <= upto}
        self.waiting -= len(ended)
        if kind is OutcomeKind.PARKED:
            course.parked |= ended
            self.parked += len(ended)
            return []
        unparked = {revision: course.parked.pop(revision) for revision in sorted(course.parked) if revision <= upto}
        self.parked -= len(unparked)
        if kind is OutcomeKind.SHADOWED:
            self.shadowed += len(ended) + len(unparked)
            return []
        both = sorted((ended | unparked).items())
        return [Closed(destination, lane, received, at, revision < upto) for revision, (lane, received) in both]
