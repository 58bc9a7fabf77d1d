"""Whatever a server sends: never an exception, never a value in what is said about it; our own writes come back as echoes."""

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.domain.event import EntityType
from pipeline.formats.fhir.inbound import Ignored, IgnoredBecause, Mapped, Origin, Rejected, needed
from pipeline.formats.fhir.inbound_verdict import FhirVersion
from pipeline.formats.fhir.notification import Malformed, Notification, parse
from pipeline.formats.fhir.owned import Body
from pipeline.formats.fhir.samples import SAMPLES
from pipeline.formats.json_events import event_to_json
from tests.support.examples import examples
from tests.support.fhir_resources import ORIGIN, REPLICA, appointment, encounter, location, patient, read, transfer_task, written

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]

_CANARY = "CANARY-9f3b"
_TEXTS = st.sampled_from(
    (
        "", " ", _CANARY, "active", "finished", "MAIN/ICU/12/A",
        "Patient/1", "#p", "urn:uuid:1", "2026-01-31", "2026-13-31T25:00:00Z",
        "2026-01-31T08:00:00+01:00", "\ud800", "\x00", "x" * 5000, "https://surgeline.dev/fhir/id/demo/bed", "/", "%",
    )
)  # fmt: skip
_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), _TEXTS, st.text(max_size=8), st.just([]), st.just({})
)
_NAMES = st.sampled_from(
    ["system", "value", "code", "coding", "url", "extension", "valueCode", "status", "reference", "identifier", "type", "period",
     "location", "resource", "resourceType", "entry", "parameter", "name", "part", "valueString", "request", "id", "meta"]
)  # fmt: skip
_JSON = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_NAMES, inner, max_size=4), max_leaves=12
)
_TYPES = st.sampled_from(["Encounter", "Location", "Patient", "Task", "Appointment"])
_BASES = (
    encounter(), location(), patient(), appointment(), transfer_task(),
    *(written(REPLICA, entity_type, SAMPLES[entity_type]) for entity_type in REPLICA.resources if entity_type in SAMPLES),
)  # fmt: skip
_VERSIONS: tuple[FhirVersion, ...] = ("R4", "R4B", "R5")


def places(node: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Each place in a JSON value."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(found for key, value in inner for found in places(value, (*path, key)))] if path or inner else [path]


def put(node: Any, path: tuple[str | int, ...], value: Any) -> None:
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value


@st.composite
def broken(draw: st.DrawFn) -> Body:
    """A resource with some of its elements replaced by anything."""
    body = copy.deepcopy(draw(st.sampled_from(_BASES)))
    for _ in range(draw(st.integers(min_value=1, max_value=3))):
        found = [path for path in places(body) if path and path[0] != "resourceType"]
        put(body, draw(st.sampled_from(found)), draw(_JSON))
    return body


def check(body: Body, version: FhirVersion) -> None:
    origin = Origin("demo", "MAIN", "ehr", "fhir", version)
    known = {"Patient/1": patient()}
    verdict = read(body, REPLICA, origin=origin, known=known)
    assert isinstance(verdict, Mapped | Ignored | Rejected)
    assert _CANARY not in repr(verdict)
    needed(body, origin, REPLICA, known)
    if isinstance(verdict, Mapped):
        for event in verdict.events:
            assert event_to_json(event)["payload"]
            assert event.key.encode()


@settings(max_examples=examples(200), deadline=None, suppress_health_check=SLOW)
@given(body=broken(), version=st.sampled_from(_VERSIONS))
def test_a_broken_resource_gets_a_verdict_that_shows_no_value(body: Body, version: FhirVersion) -> None:
    check(body, version)


_ANYTHING: tuple[Any, ...] = (None, True, -1, 1.5, 10**30, "", _CANARY, "\ud800", "\x00", [], {}, [[]], [None], [{}], {"a": []})


@pytest.mark.parametrize("version", _VERSIONS)
def test_each_place_of_a_resource_can_hold_anything(version: FhirVersion) -> None:
    for base in _BASES:
        for place in places(base):
            if place and place[0] != "resourceType":
                for value in _ANYTHING:
                    body = copy.deepcopy(base)
                    put(body, place, copy.deepcopy(value))
                    check(body, version)


@settings(max_examples=examples(100), deadline=None, suppress_health_check=SLOW)
@given(body=_JSON, kind=_TYPES)
def test_any_json_gets_a_verdict(body: Any, kind: str) -> None:
    assert isinstance(read(body, REPLICA), Mapped | Ignored | Rejected)
    if isinstance(body, dict):
        assert isinstance(read({**body, "resourceType": kind}, REPLICA), Mapped | Ignored | Rejected)


@settings(max_examples=examples(100), deadline=None, suppress_health_check=SLOW)
@given(
    body=_JSON,
    kind=st.sampled_from(["history", "subscription-notification", "searchset", "batch"]),
    first=_JSON,
    status=st.sampled_from(["Parameters", "SubscriptionStatus"]),
)
def test_any_json_is_a_notification_or_says_why_not(body: Any, kind: str, first: Any, status: str) -> None:
    resource = {
        **(first if isinstance(first, dict) else {"parameter": first, "notificationEvent": first}),
        "resourceType": status,
    }
    bundle = {"resourceType": "Bundle", "type": kind, "entry": [{"resource": resource}, body]}
    for each in (body, bundle):
        told = parse(each)
        assert isinstance(told, Notification | Malformed)
        assert _CANARY not in repr(told)


@settings(max_examples=examples(80), deadline=None, suppress_health_check=SLOW)
@given(entity_type=st.sampled_from([t for t in REPLICA.resources if t in SAMPLES]), data=st.data())
def test_any_part_of_a_state_comes_back_as_an_echo(entity_type: EntityType, data: st.DataObject) -> None:
    full = SAMPLES[entity_type]
    fields = data.draw(st.sets(st.sampled_from(full.__struct_fields__), min_size=1))
    state = type(full)(**{field: getattr(full, field) for field in fields})
    body = written(REPLICA, entity_type, state)
    verdict = read(body, REPLICA, origin=ORIGIN)
    assert isinstance(verdict, Ignored)
    assert verdict.reason is IgnoredBecause.ECHO
