"""One JSON object to one canonical event, and back. Names are the event's own; times are RFC 3339 with their offset.

What the pipeline sets itself (the id, the times of receipt, the hash, the provenance) is refused in a request by name,
so that nobody believes to have set it. An unknown member is refused too: a misspelt field would otherwise be lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec.inspect

from pipeline.domain.event import PAYLOADS, EntityType, Event, EventType, Payload, SequenceBasis, sealed
from pipeline.domain.identifiers import EntityKey, Millis, derive_event_id
from pipeline.formats.json_members import Doubled
from pipeline.formats.json_shapes import (
    CODE_MAX_CHARS,
    FORBIDDEN,
    ID_MAX_CHARS,
    TEXT_MAX_CHARS,
    Member,
    Record,
    Refused,
    Rule,
    Symbol,
    Text,
    member_of,
    record_of,
    refused_doubled,
)

IDEMPOTENCY_KEY_MAX_CHARS: Final = 255
ID_SOURCE: Final = "http"
"""Second part of every id derived here (rule 13)."""

SET_BY_US: Final = ("event_id", "received_at", "content_hash", "provenance", "came_by")
RESERVED_TYPES: Final = frozenset({EventType.EXPIRED, EventType.REASSERT, EventType.OVERRIDE})
"""Made by the pipeline itself or by an operator."""
OPTIONAL_HERE: Final = frozenset({"tenant", "feed"})
"""Required on an event, but known from the client: the tenant is the client's, the feed defaults to the client's name."""
MAX_CHARS: Final[Mapping[str, int]] = {
    "tenant": CODE_MAX_CHARS,
    "facility": CODE_MAX_CHARS,
    "source_system": CODE_MAX_CHARS,
    "feed": CODE_MAX_CHARS,
    "namespace": ID_MAX_CHARS,
    "entity_id": ID_MAX_CHARS,
    "priority": CODE_MAX_CHARS,
    "trace_id": CODE_MAX_CHARS,
    "idempotency_key": IDEMPOTENCY_KEY_MAX_CHARS,
}


SEQUENCE_RULE: Final = "Where sequence_basis is SOURCE, sequence is required."


@dataclass(frozen=True, slots=True)
class Client:
    """Who may send, and for whom it speaks."""

    name: str
    tenant: str
    source_systems: frozenset[str]


@dataclass(frozen=True, slots=True)
class Invalid:
    """Why an object is no event of this client. `field` is a JSON pointer within the object; no value is ever repeated."""

    field: str
    rule: Rule
    remedy: str

    @property
    def forbidden(self) -> bool:
        """The event is well-formed, but not this client's to send."""
        return self.rule in FORBIDDEN


def _envelope() -> Record:
    info = msgspec.inspect.type_info(Event)
    assert isinstance(info, msgspec.inspect.StructType)
    members: dict[str, Member] = {}
    for field in info.fields:
        if field.name in SET_BY_US or field.name == "payload":
            continue
        member = member_of(field)
        shape = member.shape
        if isinstance(shape, Text):
            shape = Text(MAX_CHARS.get(field.name, TEXT_MAX_CHARS))
        if field.name == "event_type":
            shape = Symbol({each.value: each for each in EventType if each not in RESERVED_TYPES})
        members[field.name] = Member(shape, member.required and field.name not in OPTIONAL_HERE, member.nullable, member.doc)
    return Record(Event, members)


ENVELOPE: Final = _envelope()
"""Members of an event beside its payload."""
NAMES: Final = frozenset({*ENVELOPE.members, *SET_BY_US, "payload"})
"""Members of an event that we know, those included that are refused."""
PAYLOAD_RECORDS: Final[Mapping[EntityType, Record]] = {kind: record_of(cls, stated=True) for kind, cls in PAYLOADS.items()}


def parse_event(obj: object, *, client: Client, idempotency_key: str, item: int, received_at: Millis) -> Event | Invalid:
    """The event that `obj` states, sealed, or the first rule that it breaks.

    The id derives from tenant, client, key and `item` (0-based place in the request). An `idempotency_key` within the
    object takes the place of both, so that an item keeps its id in whichever request it comes. An object that names a member
    more than once is refused, if `obj` was decoded by `json_members.decode`.
    Pure: the same arguments always give the same event.
    """
    try:
        return _event(obj, client, idempotency_key, item, received_at)
    except Refused as refused:
        return Invalid(refused.pointer, refused.rule, refused.remedy)


def event_to_json(event: Event) -> dict[str, Any]:
    """The event under the same names, with times as RFC 3339 in UTC. Null in the payload says "cleared"."""
    written: dict[str, Any] = {"event_id": event.event_id, **ENVELOPE.write(event)}
    written["received_at"] = _TIME_WRITER(event.received_at)
    written["payload"] = PAYLOAD_RECORDS[event.entity_type].write(event.payload)
    if event.content_hash:
        written["content_hash"] = event.content_hash
    if event.provenance is not None:
        written["provenance"] = record_of(type(event.provenance)).write(event.provenance)
    return written


_TIME_WRITER: Final = ENVELOPE.members["recorded_at"].shape.write


def _event(obj: object, client: Client, idempotency_key: str, item: int, received_at: Millis) -> Event:
    if type(obj) is Doubled:
        raise refused_doubled(obj, NAMES)
    if type(obj) is not dict:
        raise Refused(Rule.WRONG_TYPE, "give an object")
    _refuse_ours(obj)
    said = ENVELOPE.read_members({name: value for name, value in obj.items() if name != "payload"})
    payload = _payload(obj, said["entity_type"])
    _check_granted(said, client)
    if said.get("sequence_basis") is SequenceBasis.SOURCE and said.get("sequence") is None:
        raise Refused(Rule.NO_SEQUENCE, "add sequence, or leave sequence_basis out", "sequence")
    own_key = said.get("idempotency_key")
    identity = (client.name, own_key, "0") if own_key else (client.name, idempotency_key, str(item))
    key = EntityKey(client.tenant, said["entity_type"].value, said["namespace"], said["entity_id"])
    said |= {"tenant": client.tenant, "idempotency_key": own_key or idempotency_key}
    said.setdefault("feed", client.name)
    return sealed(
        Event(
            event_id=derive_event_id(client.tenant, ID_SOURCE, identity, key, 0),
            received_at=received_at,
            payload=payload,
            **said,
        )
    )


def _refuse_ours(obj: dict[str, Any]) -> None:
    for name in SET_BY_US:
        if name in obj:
            raise Refused(Rule.READ_ONLY, "remove it", name)
    if "payload" not in obj:
        raise Refused(Rule.REQUIRED, "add it: the fields that the event states", "payload")


def _payload(obj: dict[str, Any], entity_type: EntityType) -> Payload:
    try:
        return cast(Payload, PAYLOAD_RECORDS[entity_type].read(obj["payload"]))
    except Refused as refused:
        refused.path.append("payload")
        raise


def _check_granted(said: dict[str, Any], client: Client) -> None:
    if said.get("tenant", client.tenant) != client.tenant:
        raise Refused(Rule.FOREIGN_TENANT, "leave tenant out: it is the client's", "tenant")
    if said["source_system"] not in client.source_systems:
        raise Refused(Rule.FOREIGN_SOURCE, "ask the operator to grant this source system to the client", "source_system")
