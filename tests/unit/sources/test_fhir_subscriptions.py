"""What the backport IG asks of a client that is notified, row by row (docs/operating/fhir-subscriptions.md)."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pipeline.domain.subscriptions.life import Watch
from pipeline.local.ports import free_port
from pipeline.sources.fhir.resource import Content, Version
from tests.support.fhir_in import Receiver, until
from tests.support.fhir_in_fixtures import Make, make, quick
from tests.support.fhir_in_server import SECRET, WAIT_S, Clock, PlayedServer, bed, echo_of, headers_of

pytestmark = pytest.mark.timeout(120)

__all__ = ["make", "quick"]  # fixtures


# -- making and adopting


@pytest.mark.parametrize("version", ["R4", "R4B", "R5"])
async def test_a_subscription_is_made_with_topic_content_heartbeat_and_secret_and_answers_the_handshake(
    make: Make, version: Version
) -> None:
    server, receiver = await make(version)
    (sub,) = server.subscriptions.values()
    assert sub["status"] == "active"
    assert headers_of(sub) == {"Authorization": f"Bearer {SECRET}"}
    assert server.content() == "full-resource"
    heartbeat = sub.get("heartbeatPeriod") or sub["channel"]["extension"][0]["valueUnsignedInt"]
    assert heartbeat == 60
    assert receiver.feed.status()["secret_at_server"]
    assert receiver.cursor.notes == ["subscription.created"]


async def test_a_restart_adopts_the_subscription_that_is_there_and_does_not_touch_it(make: Make, tmp_path: Path) -> None:
    server, receiver = await make()
    await receiver.end()
    server.asked.clear()
    again = await Receiver(server, tmp_path, port=receiver.port).start()  # nothing was kept: the cursor is lost too
    await again.active()
    assert len(server.subscriptions) == 1
    assert not [each for each in server.asked if each.startswith(("POST", "PUT"))]
    await again.end()


async def test_two_instances_that_start_at_once_end_up_with_one_subscription(tmp_path: Path) -> None:
    async with PlayedServer(Clock()).serve() as server:
        meeting = asyncio.Barrier(2)

        async def late(request: web.Request) -> None:
            if request.method == "POST" and meeting.n_waiting < 2 and len(server.subscriptions) < 2:
                await meeting.wait()

        server.delay = late
        first = await Receiver(server, tmp_path, port=(port := free_port())).start()
        # A second one behind the same address.
        second = await Receiver(server, tmp_path, port=port, listen=free_port(), sink=first.sink).start()
        await until(lambda: len(server.subscriptions) == 2, first.shown)
        await first.active()

        def agree() -> bool:
            server.clock.ahead_ms += 100
            alike = first.feed.status()["subscription"] == second.feed.status()["subscription"]
            return alike and sorted(each["status"] for each in server.subscriptions.values()) == ["active", "off"]

        async with asyncio.timeout(WAIT_S):
            while not agree():
                await server.beat_all()
                await asyncio.sleep(0.02)
        await first.end()
        await second.end()


async def test_of_several_subscriptions_to_our_address_one_is_kept_and_the_others_are_switched_off(tmp_path: Path) -> None:
    async with PlayedServer(Clock()).serve() as server:
        receiver = Receiver(server, tmp_path, port=free_port())
        for own in ("s10", "s9"):
            server.subscriptions[own] = {
                "resourceType": "Subscription",
                "id": own,
                "status": "active",
                "criteria": "urn:topic:another",
                "channel": {"type": "rest-hook", "endpoint": f"http://127.0.0.1:{receiver.port}/fhir/beds"},
            }
        await receiver.start()
        await receiver.active()
        assert {own: each["status"] for own, each in server.subscriptions.items()} == {"s9": "active", "s10": "off"}
        assert server.subscriptions["s9"]["criteria"] == "urn:topic:bed-changed"
        assert receiver.cursor.notes == ["subscription.off", "subscription.put"], "what is changed at a server is audited"
        await receiver.end()


# -- taking


@pytest.mark.parametrize("version", ["R4", "R4B", "R5"])
@pytest.mark.parametrize("content", ["empty", "id-only", "full-resource"])
async def test_each_content_in_each_version_is_durable_before_the_answer(make: Make, version: Version, content: Content) -> None:
    server, receiver = await make(version, content=content)
    server.put(bed("A"))
    assert await server.tell(1) == 204
    assert receiver.sink.beds() == {"A"}
    assert receiver.state.cursor == 1


async def test_the_wrong_secret_is_401_and_nothing_is_taken(make: Make) -> None:
    server, receiver = await make()
    server.put(bed("A"))
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": SECRET}, {"Authorization": f"bearer {SECRET}"}):
        assert await server.send(server.event_bundle(1), headers=headers) == 401
    assert receiver.sink.raw == []
    assert receiver.state.front == 0


async def test_a_secret_is_rotated_without_a_restart_and_both_are_known_meanwhile(make: Make) -> None:
    server, receiver = await make()
    new = "another-hook-secret-of-24-bytes"
    receiver.secret_file.write_text(f"{new}\n{SECRET}\n")
    await until(lambda: headers_of(server.subscription) == {"Authorization": f"Bearer {new}"}, receiver.shown)
    await until(lambda: receiver.feed.status()["secret_at_server"], receiver.shown)
    server.put(bed("A"))
    bundle = server.event_bundle(1)
    assert await server.send(bundle, headers={"Authorization": f"Bearer {SECRET}"}) == 204
    assert await server.send(bundle, headers={"Authorization": f"Bearer {new}"}) == 204
    receiver.secret_file.write_text(f"{new}\n")
    assert await server.send(bundle, headers={"Authorization": f"Bearer {SECRET}"}) == 401


async def test_a_server_that_hides_the_secret_is_not_told_it_again_and_again(make: Make) -> None:
    server, receiver = await make(watch=Watch(heartbeat_ms=None))
    server.hides_headers = True
    for _ in range(5):
        server.clock.ahead_ms += 400_000
        asks = len(receiver.observed.asks)
        await until(lambda seen=asks: ("check", "done") in receiver.observed.asks[seen:], receiver.shown)  # type: ignore[misc]
    assert len([each for each in server.asked if each.startswith("PUT Subscription")]) <= 1


async def test_a_broker_that_is_away_is_answered_503_with_retry_after_and_the_repeat_is_taken(make: Make) -> None:
    server, receiver = await make()
    server.put(bed("A"))
    receiver.sink.away = True
    status, headers = await server.send_raw(server.event_bundle(1))
    assert (status, headers["Retry-After"]) == (503, "3")
    assert (receiver.state.cursor, receiver.state.missing) == (0, 1)
    receiver.sink.away = False
    assert await server.tell(1) == 204
    assert receiver.sink.beds() == {"A"}
    assert (receiver.state.cursor, receiver.state.missing) == (1, 0)


async def test_what_a_server_does_not_send_again_after_503_is_read_without_waiting_for_its_next_event(make: Make) -> None:
    server, receiver = await make()
    server.put(bed("A"))
    receiver.sink.away = True
    assert await server.send(server.event_bundle(1)) == 503
    receiver.sink.away = False
    server.clock.ahead_ms += 6_000
    await until(lambda: receiver.sink.beds() == {"A"} and receiver.state.missing == 0, receiver.shown)


async def test_what_could_not_be_made_durable_in_time_is_missing_until_it_is(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    server, receiver = await make()
    server.put(bed("A"))
    accept = receiver.sink.accept

    async def slow(*arguments: Any, **named: Any) -> Any:
        await asyncio.sleep(WAIT_S)

    monkeypatch.setattr(receiver.sink, "accept", slow)
    assert await server.send(server.event_bundle(1)) == 503
    assert receiver.state.missing == 1
    monkeypatch.setattr(receiver.sink, "accept", accept)
    assert await server.tell(1) == 204
    assert receiver.state.missing == 0


async def test_a_repeat_is_answered_the_same_and_makes_nothing_new(make: Make) -> None:
    server, receiver = await make()
    server.put(bed("A"))
    bundle = server.event_bundle(1)
    assert [await server.send(bundle) for _ in range(3)] == [204] * 3
    assert len(receiver.sink.events) == 1
    assert await server.tell(1) == 204, "the same event in another envelope"
    assert {event.event_id for event in receiver.sink.events} == {receiver.sink.events[0].event_id}


async def test_disorder_is_normal_and_asks_nothing_of_the_server(make: Make) -> None:
    server, receiver = await make()
    for own in "ABCD":
        server.put(bed(own))
    server.asked.clear()
    for number in (4, 2, 1, 3):
        assert await server.tell(number) == 204
    assert receiver.state.cursor == 4
    assert receiver.state.gaps == ()
    assert receiver.sink.beds() == set("ABCD")
    assert [each for each in server.asked if "$events" in each] == []


async def test_a_resource_that_is_gone_has_a_defined_result_and_counts_as_heard(make: Make) -> None:
    server, receiver = await make(content="id-only")
    server.put(bed("A"))
    server.put(bed("B"))
    del server.resources["Location/A"]
    server.resources["Location/B"]["deleted"] = True
    assert await server.send(server.event_bundle(1, content="id-only")) == 204
    assert await server.send(server.event_bundle(2, content="id-only")) == 204
    assert receiver.observed.resources.count(("notified", "gone")) == 2
    assert receiver.state.cursor == 2
    assert receiver.sink.events == []


async def test_what_cannot_be_read_now_is_503_and_missing_until_it_is_read(make: Make) -> None:
    server, receiver = await make(content="id-only")
    server.put(bed("A"))
    server.fault = lambda request: (
        web.Response(status=503, headers={"Retry-After": "7"}) if "Location/A" in request.path else None
    )
    status, headers = await server.send_raw(server.event_bundle(1))
    assert (status, headers["Retry-After"]) == (503, "7")
    assert receiver.state.missing == 1, "the server may give up: the number stays open"
    server.fault = lambda request: None
    server.clock.ahead_ms += 6_000
    await until(lambda: receiver.sink.beds() == {"A"} and receiver.state.missing == 0, receiver.shown)


async def test_a_stale_read_is_not_taken_for_what_was_spoken_of(make: Make) -> None:
    server, receiver = await make(content="id-only")
    old = server.put(bed("A", "K"), counted=False)
    server.clock.ahead_ms += 20_000
    server.put(bed("A", "U"))
    lagging = True
    server.fault = lambda request: web.json_response(old) if lagging and request.path.endswith("Location/A") else None
    assert await server.tell(1) == 204
    assert receiver.state.missing == 1
    lagging = False

    def is_read() -> bool:
        server.clock.ahead_ms += 200
        return receiver.state.missing == 0

    await until(is_read, receiver.shown)
    assert receiver.sink.events[-1].recorded_at > receiver.sink.events[0].recorded_at


async def test_a_server_set_back_to_a_backup_counts_versions_anew_and_what_it_says_is_landed(make: Make) -> None:
    server, receiver = await make(content="id-only")
    server.put(bed("A", "K"))
    assert await server.tell(1) == 204
    server.resources.clear()
    server.clock.ahead_ms += 1_000
    server.put(bed("A", "U"))
    assert await server.tell(2) == 204
    assert len(receiver.sink.events) == 2, "the gate judges it, and shows the conflict"


async def test_what_may_not_be_read_is_quarantined_with_a_remedy_and_not_asked_for_ever(make: Make) -> None:
    server, receiver = await make(content="id-only")
    server.put(bed("A"))
    server.fault = lambda request: web.Response(status=403) if "Location/A" in request.path else None
    assert await server.tell(1) == 204
    (broken,) = receiver.sink.broken
    assert broken.reason.value == "BAD_RESOURCE"
    assert "let our client read" in broken.remedy
    assert receiver.state.cursor == 1


async def test_a_resource_that_breaks_a_rule_is_quarantined_and_answered_taken(make: Make) -> None:
    server, receiver = await make()
    server.put(bed("A") | {"operationalStatus": {"system": "http://terminology.hl7.org/CodeSystem/v2-0116", "code": "Zanzibar"}})
    server.put(bed("B"))
    assert await server.tell(1, 2) == 204
    (broken,) = receiver.sink.broken
    assert (broken.reason.value, broken.field is not None) == ("BAD_RESOURCE", True)
    assert broken.remedy
    assert "Zanzibar" not in f"{broken!r}{broken.rule}{broken.remedy}{broken.field}"
    assert json.loads(broken.part)["id"] == "A"
    assert receiver.sink.beds() == {"B"}
    assert receiver.state.cursor == 2


async def test_json_that_is_no_notification_is_kept_in_quarantine_and_answered_taken(make: Make) -> None:
    server, receiver = await make()
    for body in (
        {"resourceType": "Bundle", "type": "document"},
        {"a": 1},
        {"resourceType": "Bundle", "type": "history", "entry": 3},
    ):
        assert await server.send(body) == 204
    assert len(receiver.sink.broken) == len(receiver.sink.raw) == 3
    assert receiver.sink.events == []


async def test_our_own_echo_makes_no_event(make: Make) -> None:
    server, receiver = await make()
    server.put(echo_of("A"))
    assert await server.tell(1) == 204
    assert receiver.sink.events == []
    assert receiver.observed.resources == [("notified", "ignored")]
    assert receiver.state.cursor == 1


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "", 405), ("POST", "/../other", 404), ("POST", "-other", 404)])
async def test_what_is_no_notification_of_a_feed_is_refused(make: Make, method: str, path: str, status: int) -> None:
    server, _ = await make()
    assert await server.send(b"{}", method=method, below=path) == status


async def test_a_body_that_is_too_large_is_413(make: Make) -> None:
    server, receiver = await make()
    assert await server.send(b"{" + b" " * 1_100_000 + b"}") == 413
    assert receiver.sink.raw == []


async def test_more_at_once_than_the_bound_is_503_with_retry_after(make: Make) -> None:
    server, receiver = await make(max_requests=1)
    server.put(bed("A"))
    held, entered = asyncio.Event(), asyncio.Event()
    accept = receiver.sink.accept

    async def slow(*arguments: Any) -> Any:
        entered.set()
        await held.wait()
        return await accept(*arguments)

    receiver.sink.accept = slow
    first = asyncio.create_task(server.tell(1))
    await asyncio.wait_for(entered.wait(), 10)
    status, headers = await server.send_raw(server.event_bundle(1))
    assert (status, int(headers["Retry-After"]) >= 1) == (503, True)
    held.set()
    assert await first == 204


# -- classic


async def test_a_classic_rest_hook_is_taken_in_each_way_that_servers_send_it(make: Make) -> None:
    server, receiver = await make(channel="classic")
    sub = server.subscription
    assert sub["criteria"] == "Location?status=active"
    assert "_payload" not in sub["channel"]
    assert await server.send(server.put(bed("A"))) == 204
    assert await server.send(server.put(bed("B")), method="PUT", below="/Location/B") == 204
    server.put(bed("C"))
    assert await server.send(b"") == 204
    assert await server.send(b"", method="DELETE", below="/Location/A") == 204
    assert receiver.sink.beds() == {"A", "B", "C"}
    assert receiver.state.status.value == "active"


# -- what nobody may see


async def test_no_log_line_and_no_address_holds_what_a_notification_says(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    server, receiver = await make()
    body = bed("A") | {"name": "Zzyzxqv", "description": "Zzyzxqv"}
    server.put(body)
    assert await server.tell(1) == 204
    assert await server.send({**body, "resourceType": "Zzyzxqv"}) == 204
    receiver.sink.accept = None
    assert await server.tell(1) == 500
    assert "Zzyzxqv" not in caplog.text + " ".join(server.asked) + str(receiver.feed.status())
    assert SECRET not in caplog.text + str(receiver.feed.status())
