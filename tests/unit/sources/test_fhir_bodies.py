"""The subscription that is asked for, in the form of each version; and what of a server's links is followed."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from fhir.resources.R4B.subscription import Subscription as SubscriptionR4B
from fhir.resources.subscription import Subscription as SubscriptionR5

from pipeline.formats.fhir.owned import Body
from pipeline.sources.fhir.resource import Wanted, agrees, endpoint_of, oldest_first, subscription_body
from pipeline.sources.fhir.secret import HookSecret
from pipeline.sources.fhir.server import Failed, FhirServer, Reply

WANTED: Final = Wanted(
    version="R4",
    channel="backport",
    criteria="http://example.org/FHIR/SubscriptionTopic/encounter-complete",
    filters=("Encounter?patient=Patient/example",),
    endpoint="https://s.example.org/fhir/beds",
    content="id-only",
    heartbeat_s=120,
    timeout_s=15,
    reason="surgeline feed beds",
)


@pytest.mark.parametrize("version", ["R4", "R4B", "R5"])
def test_the_body_is_a_valid_subscription_of_its_version(version: Any) -> None:
    body = subscription_body(replace(WANTED, version=version), "secret")
    model = SubscriptionR5 if version == "R5" else SubscriptionR4B
    assert model.model_validate_json(json.dumps(body)).status == "requested"
    assert endpoint_of(body) == WANTED.endpoint


@pytest.mark.parametrize(("version", "folder"), [("R4", "r4"), ("R4B", "r4b"), ("R5", "r5")])
def test_what_the_standards_own_example_asks_for_is_read_as_what_we_would_ask_for(
    shared_data: Path, version: Any, folder: str
) -> None:
    file = shared_data / "fhir" / "subscriptions" / folder / "Subscription-encounter-complete.json"
    example = json.loads(file.read_text(encoding="utf-8-sig"))
    endpoint = endpoint_of(example)
    assert endpoint is not None
    wanted = replace(WANTED, version=version, endpoint=endpoint, timeout_s=None)
    assert not agrees(example, wanted, "secret"), "it bears no secret"
    if version == "R5":
        bearing: Body = example | {"parameter": [{"name": "Authorization", "value": "Bearer secret"}]}
    else:
        bearing = example | {"channel": example["channel"] | {"header": ["Authorization: Bearer secret"]}}
    assert agrees(bearing, wanted, "secret")
    assert not agrees(bearing, replace(wanted, content="full-resource"), "secret")
    assert not agrees(bearing, replace(wanted, heartbeat_s=60), "secret")
    assert not agrees(bearing, replace(wanted, filters=()), "secret")
    assert not agrees(bearing, wanted, "another")


def test_every_instance_keeps_the_same_one_whatever_the_order_and_status() -> None:
    found = [
        {"id": own, "status": status, "channel": {"endpoint": endpoint}}
        for own, status, endpoint in (("10", "active", "e"), ("9", "error", "e"), ("1", "active", "another"))
    ]
    assert [each["id"] for each in oldest_first(found, "e")] == ["9", "10"]
    assert oldest_first(reversed(found), "e") == oldest_first(found, "e")


async def nobody(method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
    return Reply(0)


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("https://ehr.example.org/fhir/Location?page=2", "Location?page=2"),
        ("http://inner:8080/fhir/Location?page=2", "Location?page=2"),
        ("https://ehr.example.org/fhir?_getpages=abc", "?_getpages=abc"),
        ("Location?page=2", "Location?page=2"),
        ("https://evil.example.org/elsewhere/Location", None),
        ("https://evil.example.org/fhirish/Location", None),
    ],
)
def test_a_link_is_followed_below_our_base_only(link: str, target: str | None) -> None:
    assert FhirServer("https://ehr.example.org/fhir", nobody).target_of(link) == target


async def test_a_page_whose_link_leads_elsewhere_is_no_page() -> None:
    async def exchange(method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        link = {"relation": "next", "url": "https://evil.example.org/elsewhere"}
        return Reply(200, {"resourceType": "Bundle", "entry": [], "link": [link]})

    assert isinstance(await FhirServer("https://ehr.example.org/fhir", exchange).page("Location"), Failed)


@pytest.mark.parametrize("status", [0, 401, 429, 500, 503])
async def test_an_answer_that_says_nothing_against_the_question_is_passing(status: int) -> None:
    async def exchange(method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        return Reply(status, retry_after_s=7)

    assert await FhirServer("https://ehr.example.org/fhir", exchange).read("Location/1") == Failed(status, True, 7)


async def test_a_200_that_is_not_what_was_asked_for_is_no_answer() -> None:
    async def exchange(method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        return Reply(200, {"resourceType": "OperationOutcome"})

    server = FhirServer("https://ehr.example.org/fhir", exchange)
    assert await server.read("Location/1") == Failed(200, passing=True)
    assert await server.page("Location") == Failed(200, passing=True)
    assert await server.events("s1", 1, 2, "id-only") == Failed(200, passing=False)


def test_a_secret_file_that_is_away_for_a_moment_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "hook.token"
    file.write_text("one\ntwo\n")
    secret = HookSecret(file)
    file.unlink()
    assert secret.current() == "one"
    file.write_text("")
    assert secret.known("Bearer two")
    assert not secret.known(None)
    assert "one" not in repr(secret)


async def test_a_server_that_refuses_the_search_for_our_address_is_asked_without_it() -> None:
    asked: list[tuple[str, str, bool]] = []

    async def exchange(method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        asked.append((method, target, "If-None-Exist" in headers))
        if "url=" in target or "If-None-Exist" in headers:
            return Reply(400)
        if method == "POST":
            return Reply(201, location="https://ehr.example.org/fhir/Subscription/7/_history/1")
        return Reply(200, {"resourceType": "Bundle", "entry": [{"resource": {"resourceType": "Subscription", "id": "7"}}]})

    server = FhirServer("https://ehr.example.org/fhir", exchange)
    assert await server.create({}, "url=x") == "7"
    found = await server.subscriptions_to("https://s.example.org/fhir/beds")
    assert not isinstance(found, Failed)
    assert [each["id"] for each in found] == ["7"]
    assert len(asked) == 4
