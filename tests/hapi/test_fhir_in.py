"""Subscriptions at HAPI: no handshake, no heartbeat, numbers that repeat and come in disorder, and a counter in memory."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from aiohttp import web

from pipeline.domain.event import Bed, Environment
from pipeline.domain.subscriptions.life import Watch
from pipeline.formats.fhir.owned import Body
from pipeline.local.ports import free_port
from pipeline.local.servers.hapi import Hapi
from pipeline.sources.fhir.resource import Channel, Content
from tests.support.fhir_in import Elsewhere, Receiver, until
from tests.support.fhir_in_server import SECRET, bed

TOPIC: Final = "http://surgeline.dev/test/SubscriptionTopic/location-changed"
EXTENSION: Final = "http://hl7.org/fhir/5.0/StructureDefinition/extension-SubscriptionTopic"
TRIGGER: Final = "http://hl7.org/fhir/4.3/StructureDefinition/extension-SubscriptionTopic.resourceTrigger"
"""Of 4.3 where the others are of 5.0, and with the bare name of a type: HAPI takes a topic that says either otherwise, and
never sends a notification of it."""
TYPES: Final = {"system": "http://hl7.org/fhir/fhir-types", "code": "SubscriptionTopic"}
OTHER_SECRET: Final = "another-hook-secret-of-24-bytes"
BEDS: Final = 40
WRITERS: Final = 8
BOUND_S: Final = 120.0
PROBE_S: Final = 2.0
PROBES: Final = 30

Start = Callable[..., Awaitable[Receiver]]


def topic(hapi: Hapi) -> Body:
    """Any change of a Location, as each version writes a topic."""
    interactions = ["create", "update"]
    if hapi.version != "R4":
        trigger = {"description": "a location changed", "resource": "Location", "supportedInteraction": interactions}
        own = {"resourceType": "SubscriptionTopic", "id": "location-changed", "url": TOPIC, "status": "active"}
        return {**own, "resourceTrigger": [trigger]}
    return {
        "resourceType": "Basic",
        "id": "location-changed",
        "modifierExtension": [{"url": f"{EXTENSION}.status", "valueCode": "active"}],
        "extension": [
            {"url": f"{EXTENSION}.url", "valueUri": TOPIC},
            {
                "url": TRIGGER,
                "extension": [
                    {"url": "resource", "valueUri": "Location"},
                    *({"url": "supportedInteraction", "valueCode": each} for each in interactions),
                ],
            },
        ],
        "code": {"coding": [TYPES]},
    }


async def ask(hapi: Hapi, method: str, target: str, body: Body | None = None) -> int:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session,
        session.request(method, f"{hapi.base_url}/{target}", json=body) as answer,
    ):
        await answer.read()
        return answer.status


async def put(hapi: Hapi, body: Body) -> None:
    assert await ask(hapi, "PUT", f"{body['resourceType']}/{body['id']}", body) in (200, 201)


async def put_all(hapi: Hapi, names: list[str], codes: str = "K") -> None:
    """Each bed once for each code, in this order."""
    slots = asyncio.Semaphore(WRITERS)

    async def one(name: str) -> None:
        async with slots:
            for code in codes:
                await put(hapi, bed(name, code))

    await asyncio.gather(*(one(name) for name in names))


async def hears(receiver: Receiver, hapi: Hapi, prefix: str) -> None:
    """Until a change is told to the receiver: an active subscription is matched a moment later."""

    def told() -> int:
        return sum(way in ("notified", "read") for way, _ in receiver.observed.resources)

    before = told()
    for number in range(PROBES):
        await put(hapi, bed(f"{prefix}{number}"))
        try:
            await until(lambda: told() > before, timeout_s=PROBE_S)
            return
        except AssertionError:
            continue
    pytest.fail(f"nothing is told: {receiver.shown()}")


def goes_on(receiver: Receiver, holds: Callable[[], bool]) -> Callable[[], bool]:
    """A condition to wait for while the receiver's clock runs ahead: what it does by the clock takes minutes otherwise."""

    def condition() -> bool:
        receiver.server.clock.ahead_ms += 100
        return holds()

    return condition


def is_whole(receiver: Receiver) -> bool:
    return receiver.state.status.value == "active" and receiver.state.missing == 0 and receiver.state.missed is None


@pytest.fixture
async def started(tmp_path: Path) -> AsyncIterator[Start]:
    made: list[tuple[Hapi, Receiver]] = []

    async def start(
        hapi: Hapi, content: Content = "full-resource", channel: Channel = "backport", port: int = 0, listen: int = 0
    ) -> Receiver:
        await put(hapi, topic(hapi))
        await asyncio.to_thread(hapi.read_topics)
        by_topic = channel == "backport"
        receiver = await Receiver(
            Elsewhere(hapi.base_url, hapi.version),
            tmp_path,
            channel=channel,
            content=content,
            watch=Watch(heartbeat_ms=None, numbered=by_topic, unique=False, fetches=by_topic),
            criteria=TOPIC if by_topic else "Location?status=active",
            filters=("Location?status=active",) if by_topic else (),  # HAPI refuses a topic without a filter (422)
            port=port,
            listen=listen,
        ).start()
        made.append((hapi, receiver))
        await until(goes_on(receiver, lambda: is_whole(receiver)), receiver.shown, BOUND_S)
        return receiver

    yield start
    for hapi, receiver in made:
        await receiver.end()
        # What it goes on to send to nobody would slow the next test.
        await ask(hapi, "DELETE", f"Subscription/{receiver.feed.status()['subscription']}")


def latest(receiver: Receiver) -> dict[str, object]:
    """What landed last of each bed, by the server's own time."""
    found: dict[str, object] = {}
    for event in sorted(receiver.sink.events, key=lambda event: event.recorded_at):
        if isinstance(event.payload, Bed):
            found[event.entity_id.rpartition("/")[2]] = event.payload.environment
    return found


@asynccontextmanager
async def giving_the_secret(port: int, to: int) -> AsyncIterator[None]:
    """A proxy before the receiver, as it is put there for a server that sends no header of its subscription."""

    async def handle(request: web.Request) -> web.Response:
        data, url = await request.read(), f"http://127.0.0.1:{to}{request.path}"
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {SECRET}"}) as session,
            session.request(request.method, url, data=data) as answer,
        ):
            return web.Response(status=answer.status)

    app = web.Application(client_max_size=1_000_000)
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield
    await runner.cleanup()


async def every_change_lands(hapi: Hapi, receiver: Receiver, prefix: str) -> None:
    """Two changes of each bed, many at once: the later one of each lands, and nothing stays missing."""
    names = [f"{prefix}{number}" for number in range(BEDS)]
    await hears(receiver, hapi, f"probe-{prefix}")
    before, read_again = len(receiver.observed.answers), list(receiver.observed.resources)
    await put_all(hapi, names, codes="KH")
    await until(lambda: all(latest(receiver).get(name) is Environment.DIRTY for name in names), receiver.shown, BOUND_S)
    await until(goes_on(receiver, lambda: is_whole(receiver)), receiver.shown, BOUND_S)
    assert {status for status, _ in receiver.observed.answers[before:]} == {204}
    assert read_again.count(("reread", "mapped")) == receiver.observed.resources.count(("reread", "mapped")), "all was told"


@pytest.mark.parametrize("content", ["full-resource", "id-only"])
async def test_under_load_every_change_lands_and_no_gap_stays_open(hapi: Hapi, started: Start, content: Content) -> None:
    await every_change_lands(hapi, await started(hapi, content), content[0])


async def test_a_notification_that_names_nothing_has_what_changed_read_before_it_is_answered(hapi: Hapi, started: Start) -> None:
    receiver = await started(hapi, "empty")
    answered = len(receiver.observed.answers)
    for number in range(PROBES):  # an active subscription is matched a moment later
        await put(hapi, bed(f"probe-e{number}"))
        with contextlib.suppress(AssertionError):
            await until(lambda: len(receiver.observed.answers) > answered, timeout_s=PROBE_S)
            break
    before = len(receiver.observed.answers)
    names = [f"e{number}" for number in range(BEDS)]
    await put_all(hapi, names, codes="KH")
    await until(lambda: all(latest(receiver).get(name) is Environment.DIRTY for name in names), receiver.shown, BOUND_S)
    await until(goes_on(receiver, lambda: is_whole(receiver)), receiver.shown, BOUND_S)
    assert 204 in {status for status, _ in receiver.observed.answers[before:]}
    assert {way for way, _ in receiver.observed.resources} == {"reread"}, "no notification named a resource"


@pytest.mark.parametrize("later", ["R4B"], indirect=True)
async def test_r4b_tells_by_topic_too(later: Hapi, started: Start) -> None:
    await every_change_lands(later, await started(later), "v")


@pytest.mark.parametrize("later", ["R5"], indirect=True)
async def test_r5_tells_by_topic_too_where_a_proxy_gives_the_secret_that_it_does_not_send(later: Hapi, started: Start) -> None:
    port, behind = free_port(), free_port()
    async with giving_the_secret(port, behind):
        await every_change_lands(later, await started(later, port=port, listen=behind), "v")


@pytest.mark.parametrize("later", ["R5"], indirect=True)
async def test_what_r5_tells_without_the_secret_is_read_again_within_the_time_of_a_poll(later: Hapi, started: Start) -> None:
    receiver = await started(later)
    await put(later, bed("N1"))
    await until(lambda: 401 in {status for status, _ in receiver.observed.answers}, receiver.shown, BOUND_S)
    assert "N1" not in receiver.sink.beds()
    receiver.server.clock.ahead_ms += receiver.watch.poll_ms
    await until(lambda: "N1" in receiver.sink.beds(), receiver.shown, BOUND_S)


async def test_a_classic_rest_hook_lands(hapi: Hapi, started: Start) -> None:
    receiver = await started(hapi, channel="classic")
    await hears(receiver, hapi, "classic")
    await put(hapi, bed("K1"))
    await until(lambda: "K1" in receiver.sink.beds(), receiver.shown, BOUND_S)
    assert ("notified", "mapped") in receiver.observed.resources


async def test_what_was_not_taken_shows_as_missing_and_is_sent_again(hapi: Hapi, started: Start) -> None:
    receiver = await started(hapi)
    await hears(receiver, hapi, "before-w")
    receiver.sink.away = True
    await put(hapi, bed("W1"))
    await until(lambda: 503 in {status for status, _ in receiver.observed.answers}, receiver.shown, BOUND_S)
    assert receiver.state.missing == 1
    receiver.sink.away = False
    await until(lambda: "W1" in receiver.sink.beds() and receiver.state.missing == 0, receiver.shown, BOUND_S)
    assert receiver.observed.answers[-1][0] == 204


async def test_the_secret_is_rotated_and_notifications_go_on(hapi: Hapi, started: Start) -> None:
    receiver = await started(hapi)
    await hears(receiver, hapi, "before-s")
    receiver.secret_file.write_text(f"{OTHER_SECRET}\n{SECRET}\n")
    at_server = goes_on(receiver, lambda: receiver.feed.status()["secret_at_server"] and is_whole(receiver))
    await until(at_server, receiver.shown, BOUND_S)
    await hears(receiver, hapi, "rotating")
    receiver.secret_file.write_text(f"{OTHER_SECRET}\n")
    await hears(receiver, hapi, "rotated")
    assert {status for status, _ in receiver.observed.answers} == {204}


async def test_a_receiver_that_was_killed_reads_what_it_did_not_hear(hapi: Hapi, started: Start) -> None:
    receiver = await started(hapi)
    await hears(receiver, hapi, "before-d")
    await receiver.kill()
    names = [f"d{number}" for number in range(WRITERS)]
    await put_all(hapi, names)
    await receiver.start()
    await until(goes_on(receiver, lambda: receiver.sink.beds() >= set(names) and is_whole(receiver)), receiver.shown, BOUND_S)
    await hears(receiver, hapi, "after")


async def test_a_kill_of_the_server_amid_notifications_loses_nothing(hapi: Hapi, started: Start) -> None:
    receiver = await started(hapi)
    await hears(receiver, hapi, "before-x")
    names = [f"x{number}" for number in range(BEDS)]
    receiver.sink.away = True
    await put_all(hapi, names[: BEDS // 2])
    await until(lambda: 503 in {status for status, _ in receiver.observed.answers}, receiver.shown, BOUND_S)
    await asyncio.to_thread(hapi.kill)  # what it queued for us, and its counter, are gone with its memory
    receiver.sink.away = False
    assert receiver.state.missing or receiver.state.missed, "what is missing shows until it is read again"
    await asyncio.to_thread(hapi.start)
    await put_all(hapi, names[BEDS // 2 :])
    await until(goes_on(receiver, lambda: receiver.sink.beds() >= set(names) and is_whole(receiver)), receiver.shown, BOUND_S)
    assert ("reread", "mapped") in receiver.observed.resources
    await hears(receiver, hapi, "again")
