"""Bodies of the HTTP API's answers. The one to an accepted request is a pure function of the request."""

from typing import Final, assert_never

import msgspec

from pipeline.domain.identifiers import EventId, show_revision
from pipeline.domain.records import DecisionKind
from pipeline.formats.rfc3339 import rfc3339_of
from pipeline.sources.http.problems import Problem, ProblemBody
from pipeline.sources.http.tracker import Delivery, Progress, Received, Status, Suppressed

ACCEPTED_STATUS: Final = 202
MIXED_STATUS: Final = 207
QUARANTINE_REMEDY: Final = "correct the event and send it under a new Idempotency-Key, or ask the operator to replay it"


class EventAnswer(msgspec.Struct, frozen=True):
    """The event is durable; it will be judged and carried on."""

    status: int
    event_id: str
    status_url: str


class ItemAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one item of a batch: its event's id, or why it was not taken in."""

    status: int
    event_id: str | None = None
    status_url: str | None = None
    problem: ProblemBody | None = None


class BatchAnswer(msgspec.Struct, frozen=True):
    """One result per item, in the order of the request."""

    status: int
    accepted: int
    refused: int
    items: tuple[ItemAnswer, ...]


class DeliveryBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where an event stands at one destination."""

    destination: str
    state: str
    at: str | None = None
    lag_ms: int | None = None
    superseded_by: int | None = None
    superseded_by_text: str | None = None
    reason: str | None = None
    attempts: int = 0


class StatusBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one event."""

    event_id: str
    state: str
    received_at: str | None = None
    decided_at: str | None = None
    kind: str | None = None
    reason: str | None = None
    rule: str | None = None
    remedy: str | None = None
    revision: int | None = None
    revision_text: str | None = None
    previous_revision: int | None = None
    lane: str | None = None
    destinations: tuple[DeliveryBody, ...] | None = None


class HealthBody(msgspec.Struct, frozen=True):
    """State of this process, and the checks that made it."""

    status: str
    checks: dict[str, bool]


class _AnyAnswer(msgspec.Struct, frozen=True):
    status: int


def event_answer(event_id: EventId) -> EventAnswer:
    """Answer to one accepted event."""
    return EventAnswer(ACCEPTED_STATUS, event_id, _status_url(event_id))


def batch_answer(items: list[EventId | Problem]) -> BatchAnswer:
    """Answer to a batch: 202 if every item was accepted, else 207."""
    refused = sum(isinstance(item, Problem) for item in items)
    return BatchAnswer(
        status=MIXED_STATUS if refused else ACCEPTED_STATUS,
        accepted=len(items) - refused,
        refused=refused,
        items=tuple(_item(item) for item in items),
    )


def _item(item: EventId | Problem) -> ItemAnswer:
    if isinstance(item, Problem):
        return ItemAnswer(item.kind.status.value, problem=item.body())
    return ItemAnswer(ACCEPTED_STATUS, item, _status_url(item))


def _status_url(event_id: EventId) -> str:
    return f"/v1/events/{event_id}"


def status_of_answer(answer: bytes) -> int:
    """HTTP status that an earlier answer was sent with."""
    return msgspec.json.decode(answer, type=_AnyAnswer).status


def status_body(event_id: EventId, status: Status) -> StatusBody:
    """What the sender is told of an event."""
    match status:
        case Received():
            return StatusBody(event_id, "received", received_at=rfc3339_of(status.at))
        case Suppressed(kind=DecisionKind.QUARANTINED):
            return _not_accepted(event_id, "quarantined", status, QUARANTINE_REMEDY)
        case Suppressed():
            return _not_accepted(event_id, "suppressed", status, None)
        case Progress():
            return _accepted(event_id, status)
        case unknown:
            assert_never(unknown)


def _not_accepted(event_id: EventId, state: str, status: Suppressed, remedy: str | None) -> StatusBody:
    return StatusBody(
        event_id,
        state,
        decided_at=rfc3339_of(status.at),
        kind=status.kind.value,
        reason=status.reason.value,
        rule=status.detail or status.reason.doc,
        remedy=remedy,
    )


def _accepted(event_id: EventId, status: Progress) -> StatusBody:
    return StatusBody(
        event_id,
        "accepted",
        received_at=rfc3339_of(status.received_at),
        decided_at=rfc3339_of(status.accepted_at),
        revision=status.revision,
        revision_text=show_revision(status.revision),
        previous_revision=status.previous_revision,
        lane=status.lane.value,
        destinations=tuple(_delivery(name, delivery) for name, delivery in sorted(status.deliveries.items())),
    )


def _delivery(name: str, delivery: Delivery) -> DeliveryBody:
    newer = delivery.superseded_by
    return DeliveryBody(
        destination=name,
        state=delivery.state,
        at=None if delivery.at is None else rfc3339_of(delivery.at),
        lag_ms=delivery.lag_ms,
        superseded_by=newer,
        superseded_by_text=None if newer is None else show_revision(newer),
        reason=None if delivery.reason.value == "NONE" else delivery.reason.value,
        attempts=delivery.attempts,
    )
