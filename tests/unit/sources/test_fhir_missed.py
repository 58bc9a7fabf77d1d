"""What the backport IG asks of a client that missed something, row by row (docs/operating/fhir-subscriptions.md)."""

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from tests.support.fhir_in import Receiver, until
from tests.support.fhir_in_fixtures import Make, make, quick
from tests.support.fhir_in_server import Clock, PlayedServer, bed, instant

pytestmark = pytest.mark.timeout(120)

__all__ = ["make", "quick"]  # fixtures


async def test_a_gap_is_shown_and_closed_by_events(make: Make) -> None:
    server, receiver = await make()
    for own in "ABC":
        server.put(bed(own))
    assert await server.tell(3) == 204
    shown = receiver.feed.status()
    assert (shown["cursor"], shown["gaps"][0]["first"], shown["gaps"][0]["last"]) == (0, 1, 2)
    server.clock.ahead_ms += 6_000
    await until(lambda: receiver.state.cursor == 3, receiver.shown)
    assert receiver.sink.beds() == set("ABC")
    assert [each for each in server.asked if "$events?eventsSinceNumber=1&eventsUntilNumber=2" in each]
    assert receiver.feed.status()["gaps"] == []


async def test_without_events_a_gap_is_closed_by_what_changed_since(make: Make) -> None:
    server, receiver = await make()
    server.has_events = False
    for own in "ABC":
        server.put(bed(own))
    assert await server.tell(3) == 204
    for _ in range(2):
        server.clock.ahead_ms += 20_000
        await until(lambda: ("fetch", "unsupported") in receiver.observed.asks, receiver.shown)
    await until(lambda: receiver.state.missing == 0 and receiver.sink.beds() == set("ABC"), receiver.shown)
    assert [each for each in server.asked if each.startswith("GET Location?_lastUpdated=ge")]
    assert receiver.feed.status()["fetches"] is False


async def test_what_a_server_tells_without_the_secret_is_read_at_the_server_before_long(make: Make) -> None:
    server, receiver = await make()
    server.put(bed("A"))
    for _ in range(20):  # as often as anybody likes: what it costs the server stays the same
        assert await server.send(server.event_bundle(1), headers={}) == 401
    assert receiver.sink.beds() == set()
    assert receiver.state.front == 0, "what is not proven to be the server's does not count"
    assert receiver.feed.status()["last_refused_at"]
    reads = [each for each in server.asked if each.startswith("GET Location?")]
    server.clock.ahead_ms += receiver.watch.poll_ms
    await until(lambda: receiver.sink.beds() == {"A"} and receiver.state.missed is None, receiver.shown)
    assert len([each for each in server.asked if each.startswith("GET Location?")]) == len(reads) + 1


async def test_a_lost_last_event_is_seen_by_the_heartbeat(make: Make) -> None:
    server, receiver = await make()
    server.put(bed("A"))
    assert await server.beat() == 204
    assert receiver.state.missing == 1
    server.clock.ahead_ms += 6_000
    await until(lambda: receiver.sink.beds() == {"A"} and receiver.state.cursor == 1, receiver.shown)


async def test_a_counter_that_falls_back_is_a_restart_and_what_changed_is_read(make: Make) -> None:
    server, receiver = await make()
    for own in "ABC":
        server.put(bed(own))
        assert await server.tell(server.count) == 204
    server.put(bed("D"))  # its notification is lost with the server's memory
    server.count, server.log = 0, []
    server.clock.ahead_ms += 10_000
    server.put(bed("E"))
    assert await server.tell(1) == 204
    await until(lambda: receiver.sink.beds() == set("ABCDE") and receiver.state.missed is None, receiver.shown)
    assert receiver.state.cursor == 1
    assert receiver.state.gaps == ()


@pytest.mark.parametrize("harm", ["error", "off", "deleted"])
async def test_a_subscription_in_error_off_or_deleted_is_restored_and_the_missed_time_read(make: Make, harm: str) -> None:
    server, receiver = await make()
    sub = server.subscription
    if harm == "deleted":
        del server.subscriptions[sub["id"]]
    else:
        server.subscriptions[sub["id"]] = {**sub, "status": harm}
    server.put(bed("A"), counted=False)
    server.clock.ahead_ms += 100_000  # the heartbeat is overdue
    await until(lambda: bool(server.subscriptions) and server.subscription["status"] == "active", receiver.shown)
    server.clock.ahead_ms += 6_000
    await until(lambda: receiver.sink.beds() == {"A"} and receiver.state.status.value == "active", receiver.shown)
    assert len(server.subscriptions) == 1


async def test_without_any_subscription_what_changes_is_polled_and_that_is_shown(tmp_path: Path) -> None:
    async with PlayedServer(Clock()).serve() as server:
        server.fault = lambda request: web.Response(status=400) if request.path.startswith("/fhir/Subscription") else None
        receiver = await Receiver(server, tmp_path).start()
        for number in range(6):
            server.put(bed(f"P{number}"))
            server.clock.ahead_ms += 40_000
            await until(lambda n=number: f"P{n}" in receiver.sink.beds(), receiver.shown)  # type: ignore[misc]
        assert receiver.feed.status()["polling"] is True
        assert ("create", "unsupported") in receiver.observed.asks
        server.fault = lambda request: None
        server.clock.ahead_ms += 400_000

        def is_over() -> bool:
            server.clock.ahead_ms += 1_000
            return receiver.feed.status()["polling"] is False

        await until(is_over, receiver.shown)
        await receiver.end()


async def test_a_receiver_that_was_killed_reads_what_it_was_deaf_for(make: Make, tmp_path: Path) -> None:
    server, receiver = await make()
    server.put(bed("A"))
    assert await server.tell(1) == 204
    await until(lambda: bool(receiver.cursor.kept), receiver.shown)
    await receiver.kill()
    server.put(bed("B"))
    assert await server.tell(2) == 0
    again = await Receiver(server, tmp_path, port=receiver.port, sink=receiver.sink, cursor=receiver.cursor).start()
    await until(lambda: again.sink.beds() == {"A", "B"}, again.shown)
    assert len(server.subscriptions) == 1
    await again.end()


async def test_a_crash_between_landing_and_cursor_only_repeats(make: Make, tmp_path: Path) -> None:
    server, receiver = await make()
    await until(lambda: bool(receiver.cursor.kept), receiver.shown)
    before = dict(receiver.cursor.kept)
    for own in "AB":
        server.put(bed(own))
        assert await server.tell(server.count) == 204
    await receiver.kill()
    receiver.cursor.kept = before
    landed = {event.event_id for event in receiver.sink.events}
    again = await Receiver(server, tmp_path, port=receiver.port, sink=receiver.sink, cursor=receiver.cursor).start()
    await again.active()
    assert await server.beat() == 204
    await until(lambda: again.state.cursor == 2, again.shown)
    assert {event.event_id for event in receiver.sink.events} == landed
    await again.end()


async def test_an_event_is_not_passed_over_when_pages_shift_while_they_are_read(make: Make) -> None:
    server, receiver = await make()
    server.page_limit = 2
    for number in range(7):
        server.put(bed(f"B{number}"), counted=False)
        await asyncio.sleep(0.003)
    seen = 0

    def shift(request: web.Request) -> None:
        nonlocal seen
        if request.path == "/fhir/Location":
            seen += 1
            if seen == 2:
                server.put(bed("B0"), counted=False)  # moves to the end: by count, one would be passed over

    server.fault = shift
    receiver.feed._life.read_again()
    await until(lambda: receiver.sink.beds() == {f"B{n}" for n in range(7)}, receiver.shown)


async def test_a_server_that_does_not_sort_is_read_by_its_links_and_never_at_another_host(make: Make) -> None:
    server, receiver = await make()
    server.page_limit, server.sorts = 2, False
    made = [server.put(bed(f"B{n}"), counted=False) for n in range(5)]
    for number, body in enumerate(made):
        body["meta"]["lastUpdated"] = instant(server.clock() - number * 1000)
    receiver.feed._life.read_again()
    await until(lambda: receiver.sink.beds() == {f"B{n}" for n in range(5)}, receiver.shown)


async def test_what_is_read_again_is_not_published_again(make: Make) -> None:
    server, receiver = await make()
    server.put(bed("A"))
    assert await server.tell(1) == 204
    stored = len(receiver.sink.raw)
    for _ in range(3):
        done = receiver.observed.asks.count(("reread", "done"))
        receiver.feed._life.read_again()
        await until(lambda seen=done: receiver.observed.asks.count(("reread", "done")) > seen, receiver.shown)  # type: ignore[misc]
    assert len(receiver.sink.raw) == stored
