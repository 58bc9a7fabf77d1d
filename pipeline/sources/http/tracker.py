"""What became of an event, for its sender: a bounded projection of `events.accepted`, `decisions` and `outcomes`.

The three topics are read side by side, so a record may come before one that it refers to. The projection holds for
what it has seen: an event older than it, or evicted, is unknown here and not therefore lost (`surgeline books` proves).
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Final, assert_never

from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import EntityKey, EventId, Millis, Revision
from pipeline.domain.records import Accepted, Decision, DecisionKind, Lane, Outcome, OutcomeKind, Reason

MAX_EVENTS: Final = 200_000
"""Most events kept; the least recently changed go first."""
MAX_ENTITIES: Final = 200_000
"""Most entities whose newest outcomes are kept; the least recently changed go first."""
TRACKED: Final = f"the last day, or not among the newest {MAX_EVENTS} events"
"""How far back events are known, in words."""
OUTCOMES_KEPT: Final = 8
"""Newest outcomes kept per entity, for events whose acceptance is read after them."""
EVENTS_KEPT_PER_ENTITY: Final = 64
"""Newest events of an entity that an outcome is applied to; of older ones the last known state stays."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where an accepted event stands at one destination. OPEN is neither confirmed nor closed otherwise."""

    state: str
    at: Millis | None = None
    lag_ms: int | None = None
    superseded_by: Revision | None = None
    reason: Reason = Reason.NONE
    attempts: int = 0


OPEN: Final = Delivery("open")
_FINAL: Final = frozenset({"confirmed", "superseded"})


@dataclass(frozen=True, slots=True)
class Received:
    """Taken in here; the gate has not judged it yet."""

    tenant: str
    at: Millis


@dataclass(frozen=True, slots=True)
class Suppressed:
    """Judged and not accepted; `kind` says how, with the rule in `detail`."""

    tenant: str
    kind: DecisionKind
    reason: Reason
    detail: str
    at: Millis


@dataclass(slots=True)
class Progress:
    """Accepted, with its state at each destination that is due or has spoken."""

    tenant: str
    key: bytes
    entity_type: EntityType
    revision: Revision
    previous_revision: Revision
    lane: Lane
    received_at: Millis
    accepted_at: Millis
    deliveries: dict[str, Delivery] = field(default_factory=dict)


Status = Received | Suppressed | Progress


@dataclass(slots=True)
class _Entity:
    """Plain containers, oldest first: of 200,000 of them an OrderedDict and a deque each would be 200 MB."""

    events: dict[Revision, EventId] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)


class Tracker:
    """Answers what became of an event. For any thread; every record may be applied twice."""

    def __init__(
        self,
        destinations: Mapping[str, AbstractSet[EntityType]],
        *,
        max_events: int = MAX_EVENTS,
        max_entities: int = MAX_ENTITIES,
    ) -> None:
        """`destinations`: which entity types are due at which destination; only there an event is shown as open."""
        self._destinations = destinations
        self._max_events = max_events
        self._max_entities = max_entities
        self._events: OrderedDict[EventId, Status] = OrderedDict()
        self._entities: OrderedDict[bytes, _Entity] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._events)

    def status(self, tenant: str, event_id: EventId) -> Status | None:
        """State of an event of this tenant; None where it isn't known here or is another tenant's."""
        with self._lock:
            known = self._events.get(event_id)
            if known is None or known.tenant != tenant:
                return None
            return replace(known, deliveries=dict(known.deliveries)) if isinstance(known, Progress) else known

    def note_received(self, tenant: str, event_id: EventId, at: Millis) -> None:
        """This process has just taken the event in. Changes nothing that is known already."""
        with self._lock:
            if event_id not in self._events:
                self._keep(event_id, Received(tenant, at))

    def on_accepted(self, accepted: Accepted) -> None:
        """From `events.accepted`."""
        key = accepted.key.encode()
        progress = Progress(
            tenant=accepted.tenant,
            key=key,
            entity_type=accepted.entity_type,
            revision=accepted.revision,
            previous_revision=accepted.previous_revision,
            lane=accepted.lane,
            received_at=Millis(accepted.received_at),
            accepted_at=Millis(accepted.accepted_at),
            deliveries={name: OPEN for name, due in self._destinations.items() if accepted.entity_type in due},
        )
        with self._lock:
            known = self._events.get(accepted.event_id)
            if isinstance(known, Progress) and known.revision >= accepted.revision:
                return
            self._keep(accepted.event_id, progress)
            entity = self._entity(key)
            entity.events[accepted.revision] = accepted.event_id
            if len(entity.events) > EVENTS_KEPT_PER_ENTITY:
                del entity.events[next(iter(entity.events))]
            for outcome in entity.outcomes:
                _apply(progress, outcome)

    def on_decision(self, decision: Decision, record_key: bytes | None) -> None:
        """From `decisions`; the tenant is the record key's, or that of the request where the key can't be read.

        A verdict on a later copy of an accepted event (a duplicate) does not change what the event is.
        """
        event_id = decision.event_id
        if event_id is None or decision.kind is DecisionKind.CONTROL:
            return
        with self._lock:
            known = self._events.get(event_id)
            tenant = known.tenant if known is not None else _tenant_of(record_key)
            if tenant is None or isinstance(known, Progress | Suppressed):
                return
            at = Millis(decision.decided_at)
            self._keep(event_id, Suppressed(tenant, decision.kind, decision.reason, decision.detail, at))

    def on_outcome(self, outcome: Outcome) -> None:
        """From `outcomes`: CONFIRMED supersedes each revision between `after` and its own, SHADOWED passes over each."""
        key = outcome.key.encode()
        with self._lock:
            entity = self._entity(key)
            entity.outcomes.append(outcome)
            del entity.outcomes[:-OUTCOMES_KEPT]
            for event_id in entity.events.values():
                progress = self._events.get(event_id)
                if isinstance(progress, Progress):
                    _apply(progress, outcome)

    def _keep(self, event_id: EventId, status: Status) -> None:
        self._events[event_id] = status
        self._events.move_to_end(event_id)
        if len(self._events) > self._max_events:
            self._events.popitem(last=False)

    def _entity(self, key: bytes) -> _Entity:
        entity = self._entities.get(key)
        if entity is None:
            entity = self._entities[key] = _Entity()
            if len(self._entities) > self._max_entities:
                self._entities.popitem(last=False)
        self._entities.move_to_end(key)
        return entity


def _apply(progress: Progress, outcome: Outcome) -> None:
    """Move one event's state at one destination on; a final state stays."""
    now = progress.deliveries.get(outcome.destination, OPEN)
    if now.state in _FINAL:
        return
    if outcome.revision == progress.revision:
        progress.deliveries[outcome.destination] = _delivery(progress, outcome)
    elif not outcome.after < progress.revision < outcome.revision:
        return
    elif outcome.kind is OutcomeKind.SHADOWED:
        progress.deliveries[outcome.destination] = _delivery(progress, outcome)
    elif outcome.kind is OutcomeKind.CONFIRMED:
        at = Millis(outcome.at)
        progress.deliveries[outcome.destination] = Delivery(
            "superseded", at, outcome.at - progress.received_at, outcome.revision, attempts=outcome.attempts
        )


def _delivery(progress: Progress, outcome: Outcome) -> Delivery:
    at = Millis(outcome.at)
    match outcome.kind:
        case OutcomeKind.CONFIRMED:
            return Delivery("confirmed", at, outcome.at - progress.received_at, None, outcome.reason, outcome.attempts)
        case OutcomeKind.SHADOWED:
            return Delivery("shadowed", at, None, None, outcome.reason, outcome.attempts)
        case OutcomeKind.PARKED:
            return Delivery("parked", at, None, None, outcome.reason, outcome.attempts)
        case OutcomeKind.FAILED:
            return Delivery("open", at, None, None, outcome.reason, outcome.attempts)
        case unknown:
            assert_never(unknown)


def _tenant_of(record_key: bytes | None) -> str | None:
    try:
        return EntityKey.decode(record_key).tenant if record_key else None
    except ValueError:
        return None
