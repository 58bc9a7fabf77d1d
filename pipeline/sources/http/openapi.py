"""The OpenAPI document of the HTTP way in. The schemas of events come from the shapes that read them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from pipeline.domain.event import PAYLOADS, EntityType
from pipeline.domain.records import DecisionKind, Lane, Reason
from pipeline.formats.json_events import ENVELOPE, IDEMPOTENCY_KEY_MAX_CHARS, PAYLOAD_RECORDS, SEQUENCE_RULE
from pipeline.formats.json_shapes import Items, Record, Rule, Shape
from pipeline.sources.http.answers import BatchAnswer, EventAnswer, HealthBody, StatusBody
from pipeline.sources.http.problems import (
    BAD_KEY,
    FORBIDDEN,
    INTERNAL,
    INVALID,
    KEY_REUSED,
    KINDS,
    PROBLEM_TYPE,
    TOO_LARGE,
    TOO_MANY,
    TOO_SLOW,
    TYPE_BASE,
    UNAUTHORISED,
    UNAVAILABLE,
    UNKNOWN_EVENT,
    UNSUPPORTED,
    Kind,
    ProblemBody,
)

JsonObject = dict[str, Any]

API_VERSION: Final = "1.0.0"
EXAMPLE: Final[JsonObject] = {
    "facility": "GH",
    "source_system": "capacity",
    "entity_type": "bed",
    "namespace": "GH",
    "entity_id": "ICU-12",
    "event_type": "BED_STATUS",
    "recorded_at": "2026-01-31T08:00:00.000Z",
    "payload": {"environment": "CLEAN", "service": {"status": "OPEN"}},
}
EXAMPLE_DIVERSION: Final[JsonObject] = {
    "facility": "GH",
    "source_system": "capacity",
    "entity_type": "diversion",
    "namespace": "GH",
    "entity_id": "ED",
    "event_type": "UPDATE",
    "recorded_at": "2026-01-31T08:00:00.000Z",
    "payload": {"category": "ED", "state": {"status": "CLOSED", "until": "2026-01-31T12:00:00.000Z", "reason": "SURGE"}},
}
_EXAMPLE_ID: Final = "0123456789abcdef0123456789abcdef"

_POST_ERRORS: Final = (
    UNAUTHORISED,
    TOO_SLOW,
    TOO_LARGE,
    UNSUPPORTED,
    INVALID,
    BAD_KEY,
    KEY_REUSED,
    TOO_MANY,
    INTERNAL,
    UNAVAILABLE,
)


def document(max_batch_items: int) -> JsonObject:
    """The OpenAPI 3.1 document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "surgeline, events by HTTP",
            "version": API_VERSION,
            "summary": "Takes changes of beds, staff, diversion, transfers, procedures, encounters and patients.",
            "description": "A 202 is given only after the broker has acknowledged every event. Repeat a request with the same "
            "Idempotency-Key and body until it is answered: the first answer is given again, and nothing happens twice.",
        },
        "paths": {
            "/v1/events": {"post": _post_event()},
            "/v1/events:batch": {"post": _post_batch(max_batch_items)},
            "/v1/events/{event_id}": {"get": _get_event()},
            "/livez": {"get": _health("live", "Whether the process answers.", ())},
            "/readyz": {"get": _health("ready", "Whether events can be taken in now.", ("503",))},
        },
        "components": {
            "schemas": _schemas(max_batch_items),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "the client's token"}},
        },
    }


def _post_event() -> JsonObject:
    return {
        "operationId": "postEvent",
        "summary": "Take in one event.",
        "security": [{"token": []}],
        "parameters": _HEADERS,
        "requestBody": _body("NewEvent", {"bed": EXAMPLE, "diversion": EXAMPLE_DIVERSION}),
        "responses": {
            "202": _json("The event is durable.", "EventAnswer", {"status": 202, **_accepted_example()}),
            **_problems((*_POST_ERRORS, FORBIDDEN)),
        },
    }


def _post_batch(max_batch_items: int) -> JsonObject:
    refused = {"status": 422, "problem": _problem_example(INVALID)}
    accepted = {"status": 202, **_accepted_example()}
    return {
        "operationId": "postEventBatch",
        "summary": "Take in several events; each is judged by itself.",
        "description": f"At most {max_batch_items} events. An item that is refused does not keep the others from being taken in: "
        "the answer is then 207 and says what became of each item. Correct the refused items and send those under a new key. "
        "An item may carry an idempotency_key of its own; its event id then derives from that alone, and stays the same in "
        "whichever request the item comes.",
        "security": [{"token": []}],
        "parameters": _HEADERS,
        "requestBody": _body("NewEventBatch", {"two": {"events": [EXAMPLE, EXAMPLE_DIVERSION]}}),
        "responses": {
            "202": _json(
                "Every event is durable.", "BatchAnswer", {"status": 202, "accepted": 1, "refused": 0, "items": [accepted]}
            ),
            "207": _json(
                "The accepted events, if any, are durable; the others were refused.",
                "BatchAnswer",
                {"status": 207, "accepted": 1, "refused": 1, "items": [accepted, refused]},
            ),
            **_problems(_POST_ERRORS),
        },
    }


def _get_event() -> JsonObject:
    pattern = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
    return {
        "operationId": "getEvent",
        "summary": "What became of an event.",
        "description": "Only for events of the client's own tenant. The newest events are known: an older one is 404 here, and "
        "not therefore lost.",
        "security": [{"token": []}],
        "parameters": [{"name": "event_id", "in": "path", "required": True, "schema": pattern, "example": _EXAMPLE_ID}],
        "responses": {
            "200": _json("State of the event.", "StatusBody", {"event_id": _EXAMPLE_ID, "state": "received"}),
            **_problems((UNAUTHORISED, UNKNOWN_EVENT, INTERNAL)),
        },
    }


def _health(name: str, summary: str, more: Sequence[str]) -> JsonObject:
    example = {"status": "ok", "checks": {name: True}}
    return {
        "operationId": name,
        "summary": summary,
        "security": [],
        "responses": {status: _json(summary, "HealthBody", example) for status in ("200", *more)},
    }


_HEADERS: Final[list[JsonObject]] = [
    {
        "name": "Idempotency-Key",
        "in": "header",
        "required": True,
        "description": "Names this request for good: printable ASCII, no blanks at its ends. Repeat it with the same body only.",
        "schema": {
            "type": "string",
            "minLength": 1,
            "maxLength": IDEMPOTENCY_KEY_MAX_CHARS,
            "pattern": "^[!-~]([ -~]*[!-~])?$",
        },
        "example": "bedboard-2026-01-31-000017",
    },
    {
        "name": "traceparent",
        "in": "header",
        "required": False,
        "description": "W3C trace context; its trace id goes with the events. Ignored where it isn't one.",
        "schema": {"type": "string"},
        "example": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    },
]


def _body(schema: str, examples: Mapping[str, JsonObject]) -> JsonObject:
    content = {"schema": _ref(schema), "examples": {name: {"value": value} for name, value in examples.items()}}
    return {"required": True, "content": {"application/json": content}}


def _json(description: str, schema: str, example: JsonObject) -> JsonObject:
    return {"description": description, "content": {"application/json": {"schema": _ref(schema), "example": example}}}


def _problems(kinds: Sequence[Kind]) -> JsonObject:
    """Error responses; kinds that share a status are examples of one response."""
    responses: JsonObject = {}
    for kind in kinds:
        response = responses.setdefault(
            str(kind.status.value),
            {"description": kind.title, "content": {PROBLEM_TYPE: {"schema": _ref("ProblemBody"), "examples": {}}}},
        )
        response["content"][PROBLEM_TYPE]["examples"][kind.name] = {"value": _problem_example(kind)}
        if kind in (TOO_MANY, UNAVAILABLE):
            response["headers"] = {
                "Retry-After": {"description": "whole seconds to wait", "schema": {"type": "integer", "minimum": 1}}
            }
        if kind is UNAUTHORISED:
            response["headers"] = {"WWW-Authenticate": {"description": "asks for a bearer token", "schema": {"type": "string"}}}
    return responses


def _problem_example(kind: Kind) -> JsonObject:
    example: JsonObject = {"type": TYPE_BASE + kind.name, "title": kind.title, "status": kind.status.value}
    if kind is INVALID:
        example |= {"detail": Rule.REQUIRED.doc, "field": "/entity_id", "rule": Rule.REQUIRED.value, "remedy": "add it"}
    return example


def _accepted_example() -> JsonObject:
    return {"event_id": _EXAMPLE_ID, "status_url": f"/v1/events/{_EXAMPLE_ID}"}


def _ref(name: str) -> JsonObject:
    return {"$ref": f"#/components/schemas/{name}"}


def _schemas(max_batch_items: int) -> JsonObject:
    records = {record.cls.__name__: record.definition() for record in _records()}
    names = {kind: f"New{cls.__name__}Event" for kind, cls in PAYLOADS.items()}
    _, ours = msgspec.json.schema_components(
        (EventAnswer, BatchAnswer, ProblemBody, StatusBody, HealthBody), ref_template="#/components/schemas/{name}"
    )
    ours["ProblemBody"]["properties"]["type"]["enum"] = [TYPE_BASE + kind.name for kind in KINDS]
    ours["ProblemBody"]["properties"]["rule"] |= {"description": _rules()}
    ours["StatusBody"]["properties"]["state"]["enum"] = ["received", "accepted", "suppressed", "quarantined"]
    ours["StatusBody"]["properties"]["kind"] |= {"description": _meanings(DecisionKind)}
    ours["StatusBody"]["properties"]["lane"] |= {"description": _meanings(Lane)}
    ours["DeliveryBody"]["properties"]["reason"] |= {"description": _meanings(Reason)}
    ours["DeliveryBody"]["properties"]["state"]["enum"] = ["open", "confirmed", "superseded", "shadowed", "parked"]
    return {
        **records,
        **{names[kind]: _event_schema(kind) for kind in EntityType},
        "NewEvent": {
            "description": "One change to one entity. " + SEQUENCE_RULE,
            "oneOf": [_ref(name) for name in names.values()],
            "discriminator": {
                "propertyName": "entity_type",
                "mapping": {kind.value: f"#/components/schemas/{name}" for kind, name in names.items()},
            },
        },
        "NewEventBatch": {
            "type": "object",
            "properties": {
                "events": {"type": "array", "items": _ref("NewEvent"), "minItems": 1, "maxItems": max_batch_items},
            },
            "required": ["events"],
            "additionalProperties": False,
        },
        **ours,
    }


def _event_schema(kind: EntityType) -> JsonObject:
    definition = ENVELOPE.definition()
    properties = definition["properties"]
    properties["entity_type"] = {"type": "string", "const": kind.value, "description": kind.doc}
    properties["payload"] = PAYLOAD_RECORDS[kind].schema()
    return {
        **definition,
        "description": f"A change to {kind.doc}.",
        "required": [*definition["required"], "payload"],
        "anyOf": [
            {"properties": {"sequence_basis": {"enum": ["RECORDED_TIME"]}}},
            {"required": ["sequence"], "properties": {"sequence": {"type": "integer"}}},
        ],
    }


def _records() -> list[Record]:
    """Every object within an event, each once."""
    found: dict[str, Record] = {}
    waiting: list[Shape] = [*PAYLOAD_RECORDS.values(), *(member.shape for member in ENVELOPE.members.values())]
    while waiting:
        shape = waiting.pop()
        if isinstance(shape, Items):
            waiting.append(shape.item)
        elif isinstance(shape, Record) and shape.cls.__name__ not in found:
            found[shape.cls.__name__] = shape
            waiting.extend(member.shape for member in shape.members.values())
    return list(found.values())


def _meanings(symbols: type[DecisionKind] | type[Lane] | type[Reason]) -> str:
    return "; ".join(f"{symbol.value}: {symbol.doc}" for symbol in symbols)


def _rules() -> str:
    return "; ".join(f"{rule.value}: {rule.doc}" for rule in Rule)
