"""Subscriptions at HAPI: no handshake, no heartbeat, numbers that repeat and come in disorder, and a counter in memory."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from pipeline.domain.subscription import Watch
from pipeline.formats.fhir.owned import Body
from pipeline.local.hapi import Hapi
from pipeline.sources.fhir_subscription import Channel, Content
from tests.support.fhir_in import Elsewhere, Receiver, until
from tests.support.fhir_in_server import bed

TOPIC: Final = "http://surgeline.dev/test/SubscriptionTopic/location-changed"
EXTENSION: Final = "http://hl7.org/fhir/5.0/StructureDefinition/extension-SubscriptionTopic"
TRIGGER: Final = "http://hl7.org/fhir/4.3/StructureDefinition/extension-SubscriptionTopic.resourceTrigger"
"""Of 4.3 where the others are of 5.0, and with the bare name of a type: HAPI takes a topic that says either otherwise, and
never sends a notification of it."""
BEDS: Final = 60
WRITERS: Final = 8
BOUND_S: Final = 120.0
SWEEP_MS: Final = 600_000


def topic() -> Body:
    """A topic of R4: any change of a Location."""
    trigger = [
        {"url": "description", "valueMarkdown": "a location changed"},
        {"url": "resource", "valueUri": "Location"},
        {"url": "supportedInteraction", "valueCode": "create"},
        {"url": "supportedInteraction", "valueCode": "update"},
    ]
    return {
        "resourceType": "Basic",
        "id": "topic-location-changed",
        "modifierExtension": [{"url": f"{EXTENSION}.status", "valueCode": "active"}],
        "extension": [
            {"url": f"{EXTENSION}.url", "valueUri": TOPIC},
            {"url": f"{EXTENSION}.version", "valueString": "1.0.0"},
            {"url": f"{EXTENSION}.title", "valueString": "location-changed"},
            {"url": TRIGGER, "extension": trigger},
        ],
        "code": {"coding": [{"system": "http://hl7.org/fhir/fhir-types", "code": "SubscriptionTopic"}]},
    }


async def put(hapi: Hapi, body: Body) -> None:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session,
        session.put(f"{hapi.base_url}/{body['resourceType']}/{body['id']}", json=body) as answer,
    ):
        assert answer.status in (200, 201), answer.status


async def put_all(hapi: Hapi, names: list[str]) -> None:
    slots = asyncio.Semaphore(WRITERS)

    async def one(name: str) -> None:
        async with slots:
            await put(hapi, bed(name))

    await asyncio.gather(*(one(name) for name in names))


@pytest.fixture
async def started(hapi: Hapi, tmp_path: Path) -> AsyncIterator[Any]:
    made: list[Receiver] = []

    async def start(channel: Channel, content: Content) -> Receiver:
        await put(hapi, topic())
        await asyncio.to_thread(hapi.read_topics)
        server = Elsewhere(hapi.base_url, "R4")
        watch = Watch(heartbeat_ms=None, numbered=channel == "backport", unique=False, fetches=channel == "backport")
        filters = ("Location?status=active",) if channel == "backport" else ()  # HAPI refuses a topic without a filter (422)
        criteria = TOPIC if channel == "backport" else "Location?status=active"
        receiver = await Receiver(
            server, tmp_path, channel=channel, content=content, watch=watch, criteria=criteria, filters=filters
        ).start()
        made.append(receiver)
        # Active here means that it matches; HAPI takes a moment more to do so.
        await until(receiver_is_active(receiver), receiver.shown, BOUND_S)
        await asyncio.sleep(2)
        return receiver

    yield start
    for receiver in made:
        await receiver.end()


def receiver_is_active(receiver: Receiver) -> Any:
    def is_active() -> bool:
        receiver.server.clock.ahead_ms += 50
        return receiver.state.status.value == "active" and receiver.state.missed is None

    return is_active


@pytest.mark.parametrize("content", ["full-resource", "id-only"])
async def test_under_load_every_change_lands_and_no_gap_stays_open(hapi: Hapi, started: Any, content: Content) -> None:
    receiver = await started("backport", content)
    names = [f"{content[0]}{number}" for number in range(BEDS)]
    await put_all(hapi, names)
    await until(lambda: receiver.sink.beds() >= set(names), receiver.shown, BOUND_S)
    assert receiver.observed.resources.count(("notified" if content == "full-resource" else "read", "mapped"))

    def is_closed() -> bool:
        receiver.server.clock.ahead_ms += 200
        return receiver.state.missing == 0

    await until(is_closed, receiver.shown, BOUND_S)
    assert {status for status, _ in receiver.observed.answers} == {204}


async def test_a_classic_rest_hook_lands(hapi: Hapi, started: Any) -> None:
    receiver = await started("classic", "full-resource")
    await put(hapi, bed("K1"))
    await until(lambda: "K1" in receiver.sink.beds(), receiver.shown, BOUND_S)
    assert ("notified", "mapped") in receiver.observed.resources


async def test_a_kill_amid_notifications_loses_nothing(hapi: Hapi, started: Any) -> None:
    receiver = await started("backport", "full-resource")
    names = [f"x{number}" for number in range(BEDS)]
    await put_all(hapi, names[: BEDS // 2])
    await asyncio.to_thread(hapi.kill)  # what it queued for us is gone with its memory
    await asyncio.to_thread(hapi.start)
    await put_all(hapi, names[BEDS // 2 :])
    receiver.server.clock.ahead_ms += SWEEP_MS
    await until(lambda: receiver.sink.beds() >= set(names), receiver.shown, BOUND_S)

    def is_active() -> bool:
        receiver.server.clock.ahead_ms += 200
        return receiver.state.status.value == "active" and receiver.state.missing == 0

    await until(is_active, receiver.shown, BOUND_S)
