"""Notifications of R4, R4B, R5 and the classic rest-hook, and what is none."""

import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.domain.subscriptions.life import SubscriptionStatus
from pipeline.formats.fhir.codec import decode
from pipeline.formats.fhir.notification import Kind, Malformed, MalformedBecause, Notification, NotifiedEvent, Version, parse
from pipeline.formats.fhir.owned import Body
from pipeline.formats.fhir.references import reference_of
from pipeline.formats.rfc3339 import millis_of

SERVER = "https://ehr.example/fhir"
AT = "2026-01-31T08:00:00.250Z"


def parameter(name: str, **value: Any) -> Body:
    return {"name": name, **value}


def event_part(number: str | None, focus: str | None = None, at: str | None = AT, context: str | None = None) -> Body:
    parts = []
    if number is not None:
        parts.append(parameter("event-number", valueString=number))
    if at is not None:
        parts.append(parameter("timestamp", valueInstant=at))
    if focus is not None:
        parts.append(parameter("focus", valueReference={"reference": focus}))
    if context is not None:
        parts.append(parameter("additional-context", valueReference={"reference": context}))
    return {"name": "notification-event", "part": parts}


def r4(kind: str = "event-notification", count: Any = "2", *events: Body, entries: list[Body] | None = None, **more: Any) -> Body:
    parameters = [
        parameter("subscription", valueReference={"reference": f"{SERVER}/Subscription/admission"}),
        parameter("topic", valueCanonical="http://example.org/topic/admission"),
        parameter("status", valueCode="active"),
        parameter("type", valueCode=kind),
        parameter("events-since-subscription-start", valueString=count),
        *events,
    ]
    first = {
        "fullUrl": "urn:uuid:1",
        "resource": {"resourceType": "Parameters", "parameter": parameters},
        "request": {"method": "GET", "url": f"{SERVER}/Subscription/admission/$status"},
    }
    return {"resourceType": "Bundle", "type": "history", "entry": [first, *(entries or [])], **more}


def status_bundle(bundle_type: str, number: Any = "2", **more: Any) -> Body:
    status = {
        "resourceType": "SubscriptionStatus",
        "status": "active",
        "type": "event-notification",
        "eventsSinceSubscriptionStart": number,
        "notificationEvent": [{"eventNumber": number, "timestamp": AT, "focus": {"reference": "Encounter/e1"}}],
        "subscription": {"reference": "Subscription/admission"},
        "topic": "http://example.org/topic/admission",
        **more,
    }
    return {"resourceType": "Bundle", "type": bundle_type, "entry": [{"resource": status}]}


def resource(own: str = "e1", version: str = "1", at: str = AT) -> Body:
    return {"resourceType": "Encounter", "id": own, "meta": {"versionId": version, "lastUpdated": at}}


def entry(body: Body, method: str = "PUT") -> Body:
    return {"fullUrl": f"{SERVER}/Encounter/{body['id']}", "resource": body, "request": {"method": method, "url": "Encounter/e1"}}


def told(body: Any) -> Notification:
    found = parse(body)
    assert isinstance(found, Notification), found
    return found


# -- the forms


def test_r4_tells_subscription_topic_status_count_and_events() -> None:
    found = told(r4("event-notification", "2", event_part("2", f"{SERVER}/Encounter/e1")))
    assert (found.version, found.kind, found.status) == (Version.R4, Kind.EVENT, SubscriptionStatus.ACTIVE)
    assert (found.subscription, found.topic) == ("Subscription/admission", "http://example.org/topic/admission")
    assert (found.events_since_start, found.numbers, found.error) == (2, (2,), False)
    assert found.events == (NotifiedEvent(2, "Encounter/e1", millis_of(AT)),)


@pytest.mark.parametrize("kind", ["handshake", "heartbeat", "query-status", "query-event"])
def test_each_kind_is_told(kind: str) -> None:
    assert told(r4(kind, "0")).kind.value == kind


@pytest.mark.parametrize(("bundle_type", "version"), [("history", Version.R4B), ("subscription-notification", Version.R5)])
@pytest.mark.parametrize("number", ["2", 2])
def test_r4b_and_r5_say_the_same_with_numbers_as_text_or_not(bundle_type: str, version: Version, number: Any) -> None:
    found = told(status_bundle(bundle_type, number))
    assert found.version is version
    assert (found.subscription, found.events_since_start) == ("Subscription/admission", 2)
    assert found.events == (NotifiedEvent(2, "Encounter/e1", millis_of(AT)),)


def test_an_answer_to_status_is_one() -> None:
    body = r4("query-status", "7")
    found = told({**body, "type": "searchset"})
    assert (found.kind, found.events_since_start) == (Kind.QUERY_STATUS, 7)


def test_an_answer_about_several_subscriptions_is_refused() -> None:
    body = {**r4("query-status", "7"), "type": "searchset"}
    body["entry"] = body["entry"] * 2
    assert parse(body) == Malformed(MalformedBecause.SEVERAL_STATUSES, "ask for the status of one subscription", "entry")


def test_empty_content_has_numbers_alone() -> None:
    found = told(r4("event-notification", "2", event_part("2")))
    assert found.events == (NotifiedEvent(2, None, millis_of(AT)),)


def test_a_classic_rest_hook_is_the_resource_or_nothing() -> None:
    assert told({}) == Notification(Version.CLASSIC, Kind.CLASSIC)
    found = told(resource())
    assert (found.version, found.kind, found.numbers) == (Version.CLASSIC, Kind.CLASSIC, ())
    assert found.events == (NotifiedEvent(None, "Encounter/e1", None, resource()),)


def test_an_error_is_told_without_its_words() -> None:
    found = told(r4("heartbeat", "2", parameter("error", valueCodeableConcept={"text": "CANARY"})))
    assert found.error
    assert "CANARY" not in repr(found)


def test_a_status_of_no_value_set_is_unknown() -> None:
    assert told(status_bundle("history", status="confused")).status is SubscriptionStatus.UNKNOWN


# -- the content


def test_full_content_goes_to_its_event_and_the_rest_beside() -> None:
    person = {"resourceType": "Patient", "id": "p1"}
    found = told(
        r4("event-notification", "2", event_part("2", "Encounter/e1"), entries=[entry(resource()), {"resource": person}])
    )
    assert found.events[0].resource == resource()
    assert found.others == {"Patient/p1": person}


def test_versions_of_one_resource_go_to_its_events_in_their_order() -> None:
    newer = resource(version="2", at="2026-01-31T08:00:01Z")
    events = (event_part("2", "Encounter/e1"), event_part("3", "Encounter/e1"))
    found = told(r4("event-notification", "3", *events, entries=[entry(newer), entry(resource())]))
    assert [event.resource for event in found.events] == [resource(), newer]


def test_where_versions_and_events_do_not_pair_the_newest_stands_for_all() -> None:
    newer = resource(version="2", at="2026-01-31T08:00:01Z")
    found = told(r4("event-notification", "2", event_part("2", "Encounter/e1"), entries=[entry(newer), entry(resource())]))
    assert found.events[0].resource == newer


def test_a_deletion_is_told() -> None:
    gone = {"fullUrl": f"{SERVER}/Encounter/e1", "request": {"method": "DELETE", "url": "Encounter/e1"}}
    (event,) = told(r4("event-notification", "2", event_part("2", "Encounter/e1"), entries=[gone])).events
    assert (event.deleted, event.resource) == (True, None)


def test_a_bare_date_is_no_time_and_the_resource_s_own_takes_its_place() -> None:
    dated = {
        "name": "notification-event",
        "part": [
            parameter("event-number", valueString="2"),
            parameter("timestamp", valueDate="2026-01-31"),
            parameter("focus", valueReference={"reference": "Encounter/e1"}),
        ],
    }
    found = told(r4("event-notification", "2", dated, entries=[entry(resource())]))
    assert found.events[0].at is None
    assert found.made_at == (millis_of(AT),)


# -- what is none


@pytest.mark.parametrize(
    ("body", "reason", "path"),
    [
        ([], MalformedBecause.WRONG_TYPE, ""),
        ({"x": 1}, MalformedBecause.NOT_A_NOTIFICATION, "resourceType"),
        ({"resourceType": 7}, MalformedBecause.NOT_A_NOTIFICATION, "resourceType"),
        ({"resourceType": "Parameters"}, MalformedBecause.NOT_A_NOTIFICATION, "resourceType"),
        ({"resourceType": "Bundle", "type": "transaction"}, MalformedBecause.NOT_A_NOTIFICATION, "type"),
        ({"resourceType": "Bundle", "type": "history"}, MalformedBecause.NO_STATUS, "entry[0].resource"),
        ({"resourceType": "Bundle", "type": "history", "entry": {}}, MalformedBecause.WRONG_TYPE, "entry"),
        ({"resourceType": "Bundle", "type": "history", "entry": [1]}, MalformedBecause.WRONG_TYPE, "entry[0]"),
        (
            {"resourceType": "Bundle", "type": "history", "entry": [{"resource": resource()}]},
            MalformedBecause.NO_STATUS,
            "entry[0].resource.resourceType",
        ),
        ({**r4(), "type": "subscription-notification"}, MalformedBecause.NO_STATUS, "entry[0].resource.resourceType"),
        (r4("greeting"), MalformedBecause.UNKNOWN_KIND, "entry[0].resource.parameter[3].valueCode"),
        (r4("heartbeat", "many"), MalformedBecause.BAD_NUMBER, "entry[0].resource.parameter[4].valueString"),
        (r4("heartbeat", "-1"), MalformedBecause.BAD_NUMBER, "entry[0].resource.parameter[4].valueString"),
        (r4("heartbeat", "9" * 19), MalformedBecause.BAD_NUMBER, "entry[0].resource.parameter[4].valueString"),
        (
            r4("event-notification", "2", event_part("two")),
            MalformedBecause.BAD_NUMBER,
            "entry[0].resource.parameter[5].part[0].valueString",
        ),
        (status_bundle("history", True), MalformedBecause.BAD_NUMBER, "entry[0].resource.notificationEvent[0].eventNumber"),
        (status_bundle("history", notificationEvent={}), MalformedBecause.WRONG_TYPE, "entry[0].resource.notificationEvent"),
        (status_bundle("history", type=None), MalformedBecause.UNKNOWN_KIND, "entry[0].resource.type"),
    ],
)
def test_what_is_no_notification_says_why_and_where(body: Any, reason: MalformedBecause, path: str) -> None:
    found = parse(body)
    assert isinstance(found, Malformed)
    assert (found.reason, found.path) == (reason, path)
    assert found.rule


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Encounter/e1", "Encounter/e1"),
        (f"{SERVER}/Encounter/e1", "Encounter/e1"),
        (f"{SERVER}/Encounter/e1/_history/7", "Encounter/e1"),
        ("Encounter/e1/_history/7", "Encounter/e1"),
        ("urn:uuid:5b1f", None),
        ("#p1", None),
        ("Encounter?identifier=1", None),
        ("Encounter/", None),
        ("Encounter/a b", None),
        ("e1", None),
        (None, None),
        (7, None),
    ],
)
def test_a_literal_reference_is_type_and_id(text: Any, name: str | None) -> None:
    assert reference_of(text) == name


# -- what servers really send, and the guide's own examples


def test_what_servers_really_sent_is_understood(shared_data: Path) -> None:
    folder = shared_data / "fhir" / "subscriptions"
    found = {}
    for file in sorted([*folder.glob("captured-*/*.json"), *folder.glob("*/Bundle-*.json")]):
        body = decode(file.read_bytes().removeprefix(b"\xef\xbb\xbf"))
        assert body is not None
        found[f"{file.parent.name}/{file.name}"] = told(body)
    assert len(found) >= 8
    for name, each in found.items():
        assert each.subscription is not None, name
        assert each.events_since_start is not None, name
        assert each.status is SubscriptionStatus.ACTIVE, name
        if each.kind is Kind.EVENT:
            assert all(event.focus and event.number for event in each.events), name
            assert all(event.resource is not None for event in each.events) is ("full-resource" in name), name
    versions = {name.partition("/")[0]: each.version for name, each in found.items() if "Bundle-" in name}
    assert versions == {"r4": Version.R4, "r4b": Version.R4B, "r5": Version.R5}


def test_every_kind_and_parameter_of_the_guide_is_known(shared_data: Path) -> None:
    text = (shared_data / "fhir" / "backport-ig-fsh" / "BackportNotificationR4.fsh").read_text(encoding="utf-8")
    kinds = set(re.findall(r"insert AddParameterStatus\([^,]+, #[a-z-]+, #([a-z-]+),", text))
    assert kinds
    assert kinds <= {kind.value for kind in Kind}
    names = set(re.findall(r'parameter\[\w+\]\.name = "([a-z-]+)" \(exactly\)', text))
    assert names == {"subscription", "topic", "status", "type", "events-since-subscription-start", "notification-event", "error"}
