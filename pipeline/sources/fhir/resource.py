"""The Subscription resource that a feed needs at its server: as R4 and R4B (backport IG 1.1.0, or classic) or R5 writes it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from pipeline.formats.fhir.owned import Body, dotted_value, elements

Version = Literal["R4", "R4B", "R5"]
Channel = Literal["backport", "classic"]
Content = Literal["empty", "id-only", "full-resource"]

BACKPORT: Final = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition"
PROFILE: Final = f"{BACKPORT}/backport-subscription"
FILTER: Final = f"{BACKPORT}/backport-filter-criteria"
CONTENT: Final = f"{BACKPORT}/backport-payload-content"
HEARTBEAT: Final = f"{BACKPORT}/backport-heartbeat-period"
TIMEOUT: Final = f"{BACKPORT}/backport-timeout"
CHANNEL_TYPES: Final = "http://terminology.hl7.org/CodeSystem/subscription-channel-type"
MEDIA_TYPE: Final = "application/fhir+json"
HOOK_HEADER: Final = "Authorization"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a feed asks of its server. `criteria` is a topic's canonical, or a search for a classic subscription.

    `heartbeat_s` and `timeout_s` are whole seconds; None leaves them to the server.
    """

    version: Version
    channel: Channel
    criteria: str
    filters: tuple[str, ...]
    endpoint: str
    content: Content
    heartbeat_s: int | None
    timeout_s: int | None
    reason: str


def subscription_body(wanted: Wanted, secret: str) -> Body:
    """The resource to create, or to put in the place of one that isn't as wanted. Its status asks for activation."""
    if wanted.version == "R5":
        return _r5(wanted, secret)
    channel: Body = {
        "type": "rest-hook",
        "endpoint": wanted.endpoint,
        "header": [f"{HOOK_HEADER}: Bearer {secret}"],
    }
    body: Body = {"resourceType": "Subscription", "status": "requested", "reason": wanted.reason, "criteria": wanted.criteria}
    if wanted.channel == "classic":
        if wanted.content != "empty":
            channel["payload"] = MEDIA_TYPE
        return {**body, "channel": channel}
    channel |= {"payload": MEDIA_TYPE, "_payload": {"extension": [{"url": CONTENT, "valueCode": wanted.content}]}}
    periods = [
        {"url": url, "valueUnsignedInt": seconds}
        for url, seconds in ((HEARTBEAT, wanted.heartbeat_s), (TIMEOUT, wanted.timeout_s))
        if seconds is not None
    ]
    if periods:
        channel["extension"] = periods
    if wanted.filters:
        body["_criteria"] = {"extension": [{"url": FILTER, "valueString": each} for each in wanted.filters]}
    return {**body, "meta": {"profile": [PROFILE]}, "channel": channel}


def _r5(wanted: Wanted, secret: str) -> Body:
    body: Body = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": wanted.reason,
        "topic": wanted.criteria,
        "channelType": {"system": CHANNEL_TYPES, "code": "rest-hook"},
        "endpoint": wanted.endpoint,
        "parameter": [{"name": HOOK_HEADER, "value": f"Bearer {secret}"}],
        "contentType": MEDIA_TYPE,
        "content": wanted.content,
    }
    for name, seconds in (("heartbeatPeriod", wanted.heartbeat_s), ("timeout", wanted.timeout_s)):
        if seconds is not None:
            body[name] = seconds
    filters = [_filter_by(each) for each in wanted.filters]
    return {**body, "filterBy": filters} if filters else body


def _filter_by(text: str) -> Body:
    """`Type?parameter=value` as R5 writes it."""
    resource_type, _, search = text.rpartition("?")
    parameter, _, value = search.partition("=")
    name, _, modifier = parameter.partition(":")
    found = {"filterParameter": name, "value": value}
    if resource_type:
        found["resourceType"] = resource_type
    return {**found, "modifier": modifier} if modifier else found


def endpoint_of(subscription: Body) -> str | None:
    """Where it sends to."""
    value = subscription.get("endpoint") or dotted_value(subscription, "channel.endpoint")
    return value if isinstance(value, str) else None


def status_of(subscription: Body) -> str:
    """Its status; `unknown` where it shows none."""
    value = subscription.get("status")
    return value if isinstance(value, str) else "unknown"


def oldest_first(found: Iterable[Body], endpoint: str) -> list[Body]:
    """Subscriptions to our endpoint, in an order that every instance finds alike: the first is kept, the others are ended.

    The order is that of the ids and nothing else: a status, or a time that a server changes, may look different to two
    instances that ask a moment apart, and each would then end what the other keeps.
    """
    ours = [each for each in found if isinstance(each.get("id"), str) and endpoint_of(each) == endpoint]
    return sorted(ours, key=lambda each: (len(each["id"]), each["id"]))


def agrees(found: Body, wanted: Wanted, secret: str) -> bool:
    """Whether a subscription asks for what is wanted; its status isn't looked at."""
    return asked_for(found) == asked_for(subscription_body(wanted, secret))


def asked_for(body: Body) -> tuple[object, ...]:
    """What a subscription asks for, comparable over servers that add members or change their order. Holds the secret."""
    if "channelType" in body or "topic" in body:
        filters = sorted(
            (
                str(each.get("resourceType", "")),
                str(each.get("filterParameter")),
                str(each.get("value")),
                str(each.get("modifier")),
            )
            for each in elements(body, "filterBy")
        )
        parameters = sorted((str(each.get("name")), str(each.get("value"))) for each in elements(body, "parameter"))
        named = ("topic", "endpoint", "heartbeatPeriod", "timeout", "contentType", "content")
        return dotted_value(body, "channelType.code"), filters, parameters, [_text(body.get(name)) for name in named]
    channel = body.get("channel")
    channel = channel if isinstance(channel, dict) else {}
    headers = channel.get("header")
    return (
        body.get("criteria"),
        _extensions(body.get("_criteria"), (FILTER,)),
        [channel.get(name) for name in ("type", "endpoint", "payload")],
        sorted(map(str, headers)) if isinstance(headers, list) else [],
        _extensions(channel.get("_payload"), (CONTENT,)),
        _extensions(channel, (HEARTBEAT, TIMEOUT)),
    )


def _extensions(node: Any, urls: tuple[str, ...]) -> list[tuple[str, str]]:
    if not isinstance(node, dict):
        return []
    return sorted(
        (url, _text(value))
        for each in elements(node, "extension")
        if (url := str(each.get("url"))) in urls
        for name, value in each.items()
        if name.startswith("value")
    )


def _text(value: Any) -> str:
    return "" if value is None else str(value)
