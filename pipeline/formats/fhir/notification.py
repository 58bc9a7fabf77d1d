"""What a server's notification says: backport IG 1.1 on R4 and R4B, R5, and the classic rest-hook. Pure; nothing is raised.

Backport R4: a `history` bundle whose first entry is Parameters. R4B: a `history` bundle whose first entry is a
SubscriptionStatus. R5: a `subscription-notification` bundle with the same first entry. The answer to `$status` is a
`searchset` that holds one of the two; that to `$events` is a notification of type query-event. A classic rest-hook sends
the resource itself, or nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.domain.event import Described
from pipeline.domain.identifiers import Millis
from pipeline.domain.subscriptions.life import SubscriptionStatus
from pipeline.formats.fhir.owned import Body, Json
from pipeline.formats.fhir.references import is_type, own_name, reference_of
from pipeline.formats.rfc3339 import millis_of

MAX_EVENTS: Final = 10_000
"""Most events that one notification may tell."""
MAX_NUMBER: Final = (1 << 63) - 1
"""Greatest event number (integer64)."""


class Version(Described):
    """The form that a notification has."""

    R4 = "R4", "Parameters first (backport for R4)"
    R4B = "R4B", "SubscriptionStatus in a history bundle (backport for R4B); in an answer to $status R5 looks the same"
    R5 = "R5", "SubscriptionStatus in a subscription-notification bundle"
    CLASSIC = "CLASSIC", "the resource itself, or nothing (rest-hook of R4 without topics)"


class Kind(Described):
    """What a notification is for."""

    HANDSHAKE = "handshake", "the server tries our endpoint"
    HEARTBEAT = "heartbeat", "nothing happened, the link is alive"
    EVENT = "event-notification", "something happened"
    QUERY_STATUS = "query-status", "answer to $status"
    QUERY_EVENT = "query-event", "answer to $events"
    CLASSIC = "classic", "something happened; neither number nor type is told"


class MalformedBecause(Described):
    """Why a body is no notification; bounded, because it is a metric label."""

    NOT_A_NOTIFICATION = "NOT_A_NOTIFICATION", "the body is neither a notification bundle nor a resource"
    NO_STATUS = "NO_STATUS", "the first entry does not tell the subscription's status"
    SEVERAL_STATUSES = "SEVERAL_STATUSES", "an answer about several subscriptions"
    WRONG_TYPE = "WRONG_TYPE", "an element has another JSON type"
    UNKNOWN_KIND = "UNKNOWN_KIND", "the notification's type is not one of the standard's"
    BAD_NUMBER = "BAD_NUMBER", "an event number or a count is no number from 0 to 2^63 - 1"
    TOO_MANY_EVENTS = "TOO_MANY_EVENTS", "more events than one notification may tell"


@dataclass(frozen=True, slots=True)
class Malformed:
    """Why a body is no notification. `path` is the place in the body; no part holds a value of it."""

    reason: MalformedBecause
    rule: str
    path: str


@dataclass(frozen=True, slots=True)
class NotifiedEvent:
    """One event. `focus` is `Type/id`, None where the content is empty or names no FHIR resource.

    `at` is the time that the server gives to the event, None where it gives none to the second. `resource` is there with
    full-resource content only. `deleted`: the entry says that the focus was deleted.
    """

    number: int | None
    focus: str | None = None
    at: Millis | None = None
    resource: Body | None = None
    deleted: bool = False

    def __repr__(self) -> str:
        return f"NotifiedEvent({self.number}, <redacted>)"

    @property
    def made_at(self) -> Millis | None:
        """When the server made the event, by its own clock: what it says itself, else the resource's last update."""
        if self.at is not None or self.resource is None:
            return self.at
        meta = self.resource.get("meta")
        return _instant(meta.get("lastUpdated")) if isinstance(meta, dict) else None


@dataclass(frozen=True, slots=True)
class Notification:
    """One notification. `subscription` is `Subscription/id`; `events_since_start` counts undelivered events too.

    `error` says that the server names an error of the subscription; its words are left out. `others` are resources that
    came along (additional context), by `Type/id`.
    """

    version: Version
    kind: Kind
    subscription: str | None = None
    topic: str | None = None
    status: SubscriptionStatus = SubscriptionStatus.UNKNOWN
    events_since_start: int | None = None
    events: tuple[NotifiedEvent, ...] = ()
    error: bool = False
    others: Mapping[str, Body] | None = None

    def __repr__(self) -> str:
        return f"Notification({self.version}, {self.kind}, {len(self.events)} events)"

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the events that have one."""
        return tuple(event.number for event in self.events if event.number is not None)

    @property
    def made_at(self) -> tuple[Millis | None, ...]:
        """When the server made the events that have a number, in their order."""
        return tuple(event.made_at for event in self.events if event.number is not None)


def parse(body: Mapping[str, Any]) -> Notification | Malformed:
    """The notification in a decoded JSON body; an empty body is a classic one without content."""
    try:
        return _parse(body)
    except _Refused as refused:
        return refused.malformed


class _Refused(Exception):
    def __init__(self, reason: MalformedBecause, path: str, rule: str | None = None) -> None:
        super().__init__(reason.value)
        self.malformed = Malformed(reason, rule or reason.doc, path)


def _parse(body: Mapping[str, Any]) -> Notification:
    if not isinstance(body, Mapping):
        raise _Refused(MalformedBecause.WRONG_TYPE, "", "a notification is a JSON object")
    if not body:
        return Notification(Version.CLASSIC, Kind.CLASSIC)
    resource_type = body.get("resourceType")
    if resource_type == "Bundle":
        return _bundle(body)
    if not isinstance(resource_type, str) or not is_type(resource_type):
        raise _Refused(MalformedBecause.NOT_A_NOTIFICATION, "resourceType", "a resource names its type")
    if resource_type in ("Parameters", "SubscriptionStatus"):
        raise _Refused(MalformedBecause.NOT_A_NOTIFICATION, "resourceType", "a status comes as first entry of a bundle")
    event = NotifiedEvent(None, own_name(body), None, dict(body))
    return Notification(Version.CLASSIC, Kind.CLASSIC, events=(event,))


def _bundle(body: Mapping[str, Any]) -> Notification:
    kind = body.get("type")
    if kind not in ("history", "subscription-notification", "searchset"):
        raise _Refused(
            MalformedBecause.NOT_A_NOTIFICATION, "type", "the bundle's type is history, subscription-notification or searchset"
        )
    entries = _objects(body, "entry", "")
    first = entries[0].get("resource") if entries else None
    if not isinstance(first, dict):
        raise _Refused(MalformedBecause.NO_STATUS, "entry[0].resource")
    if kind == "searchset" and len(entries) > 1:
        raise _Refused(MalformedBecause.SEVERAL_STATUSES, "entry", "ask for the status of one subscription")
    if first.get("resourceType") == "Parameters" and kind != "subscription-notification":
        told = _of_parameters(first)
        version = Version.R4
    elif first.get("resourceType") == "SubscriptionStatus":
        told = _of_status(first)
        version = Version.R5 if kind == "subscription-notification" else Version.R4B
    else:
        raise _Refused(MalformedBecause.NO_STATUS, "entry[0].resource.resourceType")
    return _with_content(version, told, entries[1:])


# -- the status


@dataclass(frozen=True, slots=True)
class _Told:
    """The first entry, whichever its form."""

    kind: Kind
    subscription: str | None
    topic: str | None
    status: SubscriptionStatus
    count: int | None
    events: tuple[tuple[int | None, str | None, Millis | None], ...]
    error: bool


_STATUS: Final = "entry[0].resource"
_KINDS: Final = {kind.value: kind for kind in Kind if kind is not Kind.CLASSIC}
_STATUSES: Final = {
    status.value: status
    for status in (
        SubscriptionStatus.REQUESTED,
        SubscriptionStatus.ACTIVE,
        SubscriptionStatus.ERROR,
        SubscriptionStatus.OFF,
        SubscriptionStatus.ENTERED_IN_ERROR,
    )
}


def _of_parameters(resource: Body) -> _Told:
    parameters = _objects(resource, "parameter", _STATUS)
    named: dict[str, tuple[str, Json]] = {}
    events = []
    for index, parameter in enumerate(parameters):
        path, name = f"{_STATUS}.parameter[{index}]", parameter.get("name")
        if name == "notification-event":
            events.append(_event_of_parts(parameter, path))
        elif isinstance(name, str):
            named.setdefault(name, _value(parameter, path))
    nothing = (f"{_STATUS}.parameter", None)
    return _Told(
        _kind(*named.get("type", nothing)),
        _subscription(named.get("subscription", nothing)[1]),
        _text(named.get("topic", nothing)[1]),
        status_of(named.get("status", nothing)[1]),
        _number(*named.get("events-since-subscription-start", nothing)),
        tuple(events),
        "error" in named,
    )


def _event_of_parts(parameter: Body, path: str) -> tuple[int | None, str | None, Millis | None]:
    named: dict[str, tuple[str, Json]] = {}
    for index, part in enumerate(_objects(parameter, "part", path)):
        name = part.get("name")
        if isinstance(name, str):
            named.setdefault(name, _value(part, f"{path}.part[{index}]"))
    nothing = (path, None)
    return (
        _number(*named.get("event-number", nothing)),
        _focus(named.get("focus", nothing)[1]),
        _instant(named.get("timestamp", nothing)[1]),
    )


def _of_status(resource: Body) -> _Told:
    events = []
    for index, event in enumerate(_objects(resource, "notificationEvent", _STATUS)):
        path = f"{_STATUS}.notificationEvent[{index}]"
        events.append(
            (
                _number(f"{path}.eventNumber", event.get("eventNumber")),
                _focus(event.get("focus")),
                _instant(event.get("timestamp")),
            )
        )
    return _Told(
        _kind(f"{_STATUS}.type", resource.get("type")),
        _subscription(resource.get("subscription")),
        _text(resource.get("topic")),
        status_of(resource.get("status")),
        _number(f"{_STATUS}.eventsSinceSubscriptionStart", resource.get("eventsSinceSubscriptionStart")),
        tuple(events),
        bool(resource.get("error")),
    )


def status_of(code: Json) -> SubscriptionStatus:
    """Status of a subscription by its code; UNKNOWN for a code that is not the standard's."""
    return _STATUSES.get(code, SubscriptionStatus.UNKNOWN) if isinstance(code, str) else SubscriptionStatus.UNKNOWN


def _value(parameter: Body, path: str) -> tuple[str, Json]:
    """Place and value of a parameter, whichever type the server gives it."""
    for name, value in parameter.items():
        if name.startswith("value"):
            return f"{path}.{name}", value
    return path, None


def _kind(path: str, code: Json) -> Kind:
    kind = _KINDS.get(code) if isinstance(code, str) else None
    if kind is None:
        raise _Refused(MalformedBecause.UNKNOWN_KIND, path, "the type is one of " + ", ".join(_KINDS))
    return kind


def _number(path: str, value: Json) -> int | None:
    """A count: text in R4, text or a number elsewhere (R5's integer64 is text by the standard, a number on some servers)."""
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        value = int(value)
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise _Refused(MalformedBecause.BAD_NUMBER, path)
    return value


def _subscription(value: Json) -> str | None:
    """The subscription's own name, from a reference or, as one server writes it, from the bare URL."""
    text = value.get("reference") if isinstance(value, dict) else value
    name = reference_of(text)
    return name if name is not None and name.startswith("Subscription/") else None


def _focus(value: Json) -> str | None:
    return reference_of(value.get("reference")) if isinstance(value, dict) else None


def _text(value: Json) -> str | None:
    return value if isinstance(value, str) and value else None


def _instant(value: Json) -> Millis | None:
    """A bare date is no time: it would be older than all that day."""
    return millis_of(value) if isinstance(value, str) else None


# -- the content


def _with_content(version: Version, told: _Told, entries: Sequence[Body]) -> Notification:
    found, others = _resources(entries, {focus for _, focus, _ in told.events if focus})
    if len(told.events) > MAX_EVENTS:
        raise _Refused(MalformedBecause.TOO_MANY_EVENTS, _STATUS)
    seen: dict[str, int] = {}
    asked = [focus for _, focus, _ in told.events]
    events = []
    for number, focus, at in told.events:
        versions = found.get(focus, []) if focus else []
        # As many versions as events: one each, in their order. Else nobody can say which is whose: the newest stands for all.
        place = seen.get(focus or "", 0) if len(versions) == asked.count(focus) else len(versions) - 1
        seen[focus or ""] = seen.get(focus or "", 0) + 1
        resource, deleted = versions[place] if versions else (None, False)
        events.append(NotifiedEvent(number, focus, at, resource, deleted))
    return Notification(
        version, told.kind, told.subscription, told.topic, told.status, told.count, tuple(events), told.error, others
    )


def _resources(entries: Sequence[Body], wanted: set[str]) -> tuple[dict[str, list[tuple[Body | None, bool]]], dict[str, Body]]:
    """What came along: of each focus its versions, oldest first; and all other resources."""
    found: dict[str, list[tuple[Body | None, bool]]] = {}
    others: dict[str, Body] = {}
    for entry in entries:
        resource = entry.get("resource")
        request = entry.get("request")
        deleted = isinstance(request, dict) and request.get("method") == "DELETE"
        name = own_name(resource) if isinstance(resource, dict) else None
        name = (
            name
            or reference_of(entry.get("fullUrl"))
            or (reference_of(request.get("url")) if isinstance(request, dict) else None)
        )
        if name is None:
            continue
        if name in wanted and (isinstance(resource, dict) or deleted):
            found.setdefault(name, []).append((resource if isinstance(resource, dict) else None, deleted))
        elif isinstance(resource, dict):
            others[name] = resource
    for versions in found.values():
        versions.sort(key=_updated)
    return found, others


def _updated(version: tuple[Body | None, bool]) -> int:
    """Time of a version; one that tells none (a deletion) is the last word."""
    at = NotifiedEvent(None, None, None, version[0]).made_at
    return MAX_NUMBER if at is None else at


def _objects(body: Mapping[str, Any], name: str, path: str) -> list[Body]:
    value = body.get(name)
    where = f"{path}.{name}" if path else name
    if value is None:
        return []
    if not isinstance(value, list):
        raise _Refused(MalformedBecause.WRONG_TYPE, where, "the element is a list")
    for index, element in enumerate(value):
        if not isinstance(element, dict):
            raise _Refused(MalformedBecause.WRONG_TYPE, f"{where}[{index}]", "the element is an object")
    return value
