"""What the HTTP API promises a sender, over a sink in memory."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator

import httpx
import pytest

from pipeline.sources.errors import Oversize
from pipeline.sources.http.api import NoObserver
from pipeline.sources.http.openapi import EXAMPLE, EXAMPLE_DIVERSION, document
from pipeline.sources.http.source import HttpSource
from tests.support.http_fakes import OTHER_TOKEN, MemorySink, application, client_of, headers, new_tracker, settings

BUSY_S = 60.0
"""Bound of every wait for what takes a moment on an idle machine."""

SECRET = "Canary Zzyzx"
EVENT = json.dumps(EXAMPLE).encode()


def batch(*items: object) -> bytes:
    return json.dumps({"events": items}).encode()


async def post(sink: MemorySink, body: bytes, path: str = "/v1/events", key: str = "k-1", **more: str) -> httpx.Response:
    app, _ = application(sink)
    async with client_of(app) as client:
        return await client.post(path, content=body, headers=headers(key, **more))


def problem_of(response: httpx.Response) -> dict[str, object]:
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, object] = response.json()
    assert body["status"] == response.status_code
    return body


async def test_202_names_the_event_and_where_to_ask_for_it() -> None:
    sink = MemorySink()
    response = await post(sink, EVENT)
    assert response.status_code == 202
    assert response.json() == {
        "status": 202,
        "event_id": sink.events[0].event_id,
        "status_url": f"/v1/events/{sink.events[0].event_id}",
    }
    assert sink.raws[0].body == EVENT
    assert sink.events[0].tenant == "north"
    assert sink.events[0].feed == "board"


async def test_a_repeat_gets_the_first_answer_byte_for_byte_and_another_body_none() -> None:
    sink = MemorySink()
    first = await post(sink, EVENT)
    again = await post(sink, EVENT)
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert len(sink.events) == 1
    other = await post(sink, json.dumps(EXAMPLE_DIVERSION).encode())
    assert other.status_code == 422
    assert str(problem_of(other)["type"]).endswith("idempotency-key-reused")


async def test_clients_of_two_tenants_do_not_share_keys() -> None:
    sink = MemorySink()
    app, _ = application(sink)
    async with client_of(app) as client:
        await client.post("/v1/events", content=EVENT, headers=headers())
        await client.post("/v1/events", content=EVENT, headers=headers(token=OTHER_TOKEN))
    assert {event.tenant for event in sink.events} == {"north", "south"}
    assert len({event.event_id for event in sink.events}) == 2


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer ", "Bearer wrong", "Basic a-token-of-north", "Bearer \xff"])
async def test_without_a_known_token_nothing_is_read(authorization: str) -> None:
    sink = MemorySink()
    app, _ = application(sink)
    async with client_of(app) as client:
        for method, path in (("POST", "/v1/events"), ("POST", "/v1/events:batch"), ("GET", "/v1/events/" + "0" * 32)):
            response = await client.request(method, path, headers=[(b"authorization", authorization.encode("latin-1"))])
            assert response.status_code == 401
            assert response.headers["www-authenticate"].startswith("Bearer")
            problem_of(response)


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\xe9", "a\tb"])
async def test_a_post_without_a_usable_key_is_refused(key: str) -> None:
    app, _ = application(MemorySink())
    async with client_of(app) as client:
        sent = [(b"authorization", b"Bearer a-token-of-north"), (b"content-type", b"application/json")]
        for extra in (
            [(b"idempotency-key", key.encode("latin-1"))],
            [],
            [(b"idempotency-key", b"a"), (b"idempotency-key", b"b")],
        ):
            response = await client.post("/v1/events", content=EVENT, headers=sent + extra)
            assert response.status_code == 422
            assert str(problem_of(response)["type"]).endswith(":idempotency-key")


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        (b"", "", "not-json"),
        (b"{", "", "not-json"),
        (b"\xef\xbb\xbf{}", "", "not-json"),
        (b'{"a": "\xff"}', "", "not-json"),
        (b"[" * 2_000, "", "not-json"),
        (b"[" * 100_000, "", "count"),
        (b'{"a": NaN}', "", "not-json"),
        (b"[]", "", "wrong-type"),
        (json.dumps(EXAMPLE | {"recorded_at": SECRET}).encode(), "/recorded_at", "time"),
        (json.dumps(EXAMPLE | {"payload": {"environment": SECRET}}).encode(), "/payload/environment", "not-allowed"),
    ],
)
async def test_422_names_field_rule_and_remedy_but_no_value(body: bytes, field: str, rule: str) -> None:
    sink = MemorySink()
    response = await post(sink, body)
    problem = problem_of(response)
    assert (response.status_code, problem.get("field", ""), problem["rule"]) == (422, field, rule)
    assert problem["remedy"]
    assert SECRET not in response.text
    assert not sink.raws


async def test_an_event_of_a_foreign_source_is_403() -> None:
    response = await post(MemorySink(), json.dumps(EXAMPLE | {"source_system": SECRET}).encode())
    assert response.status_code == 403
    assert problem_of(response)["field"] == "/source_system"
    assert SECRET not in response.text


@pytest.mark.parametrize("content_type", ["text/plain", "", "application/json; charset=latin-1", "application/xml"])
async def test_other_media_types_are_415(content_type: str) -> None:
    assert (await post(MemorySink(), EVENT, **{"Content-Type": content_type})).status_code == 415


async def test_a_compressed_body_is_415() -> None:
    assert (await post(MemorySink(), EVENT, **{"Content-Encoding": "gzip"})).status_code == 415


async def test_too_large_is_413_by_length_and_when_streamed() -> None:
    async def stream() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b" " * 500

    app, intake = application(MemorySink(), max_body_bytes=1000)
    async with client_of(app) as client:
        for content in (b" " * 1001, stream()):
            response = await client.post("/v1/events", content=content, headers=headers())
            assert response.status_code == 413
            problem_of(response)
    assert intake.admission.requests == 0


async def test_an_oversize_event_found_by_the_sink_is_413_with_its_place() -> None:
    sink = MemorySink()
    sink.raises = Oversize(1, 2000, 1000)
    response = await post(sink, batch(EXAMPLE, EXAMPLE_DIVERSION), "/v1/events:batch")
    assert response.status_code == 413
    assert problem_of(response)["field"] == "/events/1"


async def test_503_with_retry_after_when_the_broker_does_not_take_it_or_is_full() -> None:
    sink = MemorySink()
    sink.refuse = True
    response = await post(sink, EVENT)
    assert (response.status_code, response.headers["retry-after"]) == (503, "3")
    sink.refuse, sink.full = False, 1.0
    assert (await post(sink, EVENT)).status_code == 503
    assert not sink.events


async def test_requests_are_bounded_overall_and_a_client_leaves_room_for_the_next() -> None:
    sink = MemorySink()
    sink.gate.clear()
    app, intake = application(sink, max_requests=3)
    async with client_of(app) as client:

        def send(number: int, token: str | None = None) -> "asyncio.Task[httpx.Response]":
            sent = headers(f"k-{number}", token) if token else headers(f"k-{number}")
            return asyncio.create_task(client.post("/v1/events", content=EVENT, headers=sent))

        held = [send(1), send(2)]
        await _until(lambda: sink.waiting == 2)
        refused = await send(3)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        held.append(send(4, OTHER_TOKEN))
        await _until(lambda: sink.waiting == 3)
        assert (await send(6, OTHER_TOKEN)).status_code == 503
        sink.gate.set()
        assert [response.status_code for response in await asyncio.gather(*held)] == [202] * 3
    assert intake.admission.requests == intake.admission.held_bytes == 0


async def test_bytes_are_bounded_and_one_clients_large_bodies_leave_room_for_another() -> None:
    sink = MemorySink()
    sink.gate.clear()
    app, intake = application(sink, max_bytes_in_flight=1_500_000)
    large = EVENT + b" " * 700_000
    async with client_of(app) as client:
        held = [asyncio.create_task(client.post("/v1/events", content=large, headers=headers("k-1")))]
        await _until(lambda: sink.waiting == 1)
        assert (await client.post("/v1/events", content=large, headers=headers("k-2"))).status_code == 429
        held.append(asyncio.create_task(client.post("/v1/events", content=large, headers=headers("k-3", OTHER_TOKEN))))
        await _until(lambda: sink.waiting == 2)
        assert (await client.post("/v1/events", content=large, headers=headers("k-4", OTHER_TOKEN))).status_code == 503
        assert intake.admission.held_bytes == 2 * len(large)
        sink.gate.set()
        assert [response.status_code for response in await asyncio.gather(*held)] == [202, 202]
    assert intake.admission.held_bytes == 0


async def test_what_an_unannounced_body_reserves_beyond_its_size_is_free_once_it_has_arrived() -> None:
    sink = MemorySink()
    sink.gate.clear()
    app, intake = application(sink)

    async def pieces() -> AsyncIterator[bytes]:
        yield EVENT

    async with client_of(app) as client:
        sending = asyncio.create_task(client.post("/v1/events", content=pieces(), headers=headers()))
        await _until(lambda: sink.waiting == 1)
        assert intake.admission.held_bytes == len(EVENT)
        sink.gate.set()
        assert (await sending).status_code == 202


async def test_a_body_that_would_be_many_times_as_large_once_decoded_is_refused() -> None:
    sink = MemorySink()
    response = await post(sink, batch(EXAMPLE, [[]] * 200_000), "/v1/events:batch")
    assert response.status_code == 422
    assert problem_of(response)["rule"] == "count"
    assert not sink.events


def doubled(body: bytes, member: str) -> bytes:
    """A body with one of its members written twice, the second time as it was."""
    name = f'"{member}":'.encode()
    at = body.index(name)
    return body[:at] + name + b'"' + SECRET.encode() + b'", ' + body[at:]


TWICE = "give this member once"


@pytest.mark.parametrize(
    ("path", "body", "field", "remedy"),
    [
        ("/v1/events:batch", batch(EXAMPLE)[:-1] + b", " + batch(EXAMPLE_DIVERSION)[1:], "/events", TWICE),
        ("/v1/events:batch", batch(EXAMPLE)[:-1] + b', "\\u0065vents" : []}', "/events", TWICE),
        ("/v1/events", doubled(EVENT, "entity_id"), "/entity_id", TWICE),
        ("/v1/events", doubled(EVENT, "payload"), "/payload", TWICE),
        ("/v1/events", doubled(EVENT, "environment"), "/payload/environment", TWICE),
        ("/v1/events", b'{"%b":1,"%b":2}' % (SECRET.encode(), SECRET.encode()), "", "give each member of this object once"),
    ],
)
async def test_a_member_that_stands_twice_is_refused_by_name_and_nothing_of_it_is_taken(
    path: str, body: bytes, field: str, remedy: str
) -> None:
    sink = MemorySink()
    response = await post(sink, body, path)
    problem = problem_of(response)
    assert (response.status_code, problem.get("field", ""), problem["rule"]) == (422, field, "count")
    assert str(problem["remedy"]).startswith(remedy)
    assert SECRET not in response.text
    assert not sink.raws


async def test_an_item_with_a_member_twice_is_refused_and_the_others_are_taken() -> None:
    sink = MemorySink()
    body = b'{"events": [' + EVENT + b", " + doubled(EVENT, "entity_id") + b", " + json.dumps(EXAMPLE_DIVERSION).encode() + b"]}"
    answer = (await post(sink, body, "/v1/events:batch")).json()
    assert [item["status"] for item in answer["items"]] == [202, 422, 202]
    assert answer["items"][1]["problem"]["field"] == "/events/1/entity_id"
    assert len(sink.events) == 2


async def test_a_text_that_looks_like_a_member_is_taken() -> None:
    sink = MemorySink()
    said = EXAMPLE | {"payload": {"service": {"status": "BLOCKED", "reason": 'see "events": below, "entity_id" : A'}}}
    assert (await post(sink, batch(said, EXAMPLE_DIVERSION), "/v1/events:batch")).status_code == 202
    assert len(sink.events) == 2


async def test_items_of_a_batch_are_independent() -> None:
    sink = MemorySink()
    bad = EXAMPLE | {"entity_id": ""}
    foreign = EXAMPLE | {"tenant": SECRET}
    response = await post(sink, batch(EXAMPLE, bad, foreign, EXAMPLE_DIVERSION), "/v1/events:batch")
    body = response.json()
    assert (response.status_code, body["status"], body["accepted"], body["refused"]) == (207, 207, 2, 2)
    assert [item["status"] for item in body["items"]] == [202, 422, 403, 202]
    assert [item["problem"]["field"] for item in body["items"][1:3]] == ["/events/1/entity_id", "/events/2/tenant"]
    assert [event.event_id for event in sink.events] == [body["items"][0]["event_id"], body["items"][3]["event_id"]]
    again = await post(sink, batch(EXAMPLE, bad, foreign, EXAMPLE_DIVERSION), "/v1/events:batch")
    assert (again.status_code, again.content) == (207, response.content)
    assert SECRET not in response.text


async def test_a_whole_batch_is_202_and_one_without_a_good_item_stores_nothing() -> None:
    sink = MemorySink()
    assert (await post(sink, batch(EXAMPLE), "/v1/events:batch")).status_code == 202
    empty = MemorySink()
    response = await post(empty, batch({}, 1), "/v1/events:batch")
    assert (response.status_code, response.json()["accepted"], empty.raws) == (207, 0, [])


async def test_an_item_with_its_own_key_keeps_its_id_across_batches() -> None:
    item = EXAMPLE | {"idempotency_key": "item-7"}
    sink = MemorySink()
    first = (await post(sink, batch(item), "/v1/events:batch", key="b-1")).json()["items"][0]["event_id"]
    second = (await post(sink, batch(EXAMPLE, item), "/v1/events:batch", key="b-2")).json()["items"][1]["event_id"]
    assert first == second
    twice = (await post(MemorySink(), batch(item, item), "/v1/events:batch")).json()
    assert twice["items"][1]["problem"]["rule"] == "repeated-key"


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"events": {}}', b'{"events": []}', b'{"events": [1], "x": 1}'])
async def test_a_batch_has_one_member_with_at_least_one_event(body: bytes) -> None:
    assert (await post(MemorySink(), body, "/v1/events:batch")).status_code == 422


async def test_a_batch_is_bounded() -> None:
    app, _ = application(MemorySink(), max_batch_items=2)
    async with client_of(app) as client:
        response = await client.post("/v1/events:batch", content=batch(1, 2, 3), headers=headers())
    assert response.status_code == 422
    assert problem_of(response)["rule"] == "count"


async def test_the_trace_id_of_the_request_goes_with_its_events() -> None:
    sink = MemorySink()
    await post(sink, EVENT, traceparent=f"00-{'a1' * 16}-{'b2' * 8}-01")
    await post(sink, EVENT, key="k-2", traceparent=f"00-{'0' * 32}-{'b2' * 8}-01")
    await post(sink, json.dumps(EXAMPLE | {"trace_id": "own"}).encode(), key="k-3", traceparent=f"00-{'a1' * 16}-{'b2' * 8}-01")
    assert [event.trace_id for event in sink.events] == ["a1" * 16, None, "own"]


async def test_status_is_for_the_own_tenant_only_and_unknown_ones_say_why() -> None:
    tracker, sink = new_tracker(), MemorySink()
    app, _ = application(sink, tracker)
    async with client_of(app) as client:
        url = (await client.post("/v1/events", content=EVENT, headers=headers())).json()["status_url"]
        mine = await client.get(url, headers=headers())
        assert mine.status_code == 200
        assert mine.json()["state"] == "received"
        assert (await client.get(url, headers=headers(token=OTHER_TOKEN))).status_code == 404
        unknown = await client.get("/v1/events/" + "0" * 32, headers=headers())
        assert unknown.status_code == 404
        assert "older" in str(problem_of(unknown)["remedy"])


async def test_readiness_follows_receipts_pressure_and_drain() -> None:
    sink, known = MemorySink(), [False]
    app, intake = HttpSource(settings(), new_tracker(), ready=lambda: known[0]).application(sink)
    async with client_of(app) as client:
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/readyz")).status_code == 503
        known[0] = True
        assert (await client.get("/readyz")).status_code == 200
        sink.full = 1.0
        assert (await client.get("/readyz")).json()["checks"]["broker"] is False
        sink.full = 0.0
        intake.admission.drain()
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.post("/v1/events", content=EVENT, headers=headers())).status_code == 503


class Watching(NoObserver):
    """Notes what is told of faults."""

    def __init__(self) -> None:
        self.faults: list[tuple[str, str]] = []

    def faulted(self, operation: str, fault: Exception) -> None:
        self.faults.append((operation, type(fault).__name__))


async def test_a_fault_of_ours_is_500_and_told_to_the_observer_and_leaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    sink, watching, chosen = MemorySink(), Watching(), settings()
    sink.raises = RuntimeError(SECRET)
    app, _ = HttpSource(chosen, new_tracker(), observer=watching).application(sink)
    with caplog.at_level(logging.DEBUG):
        async with client_of(app) as client:
            response = await client.post("/v1/events", content=EVENT, headers=headers())
    assert response.status_code == 500
    assert SECRET not in response.text + caplog.text
    assert watching.faults == [("postEvent", "RuntimeError")]


async def test_paths_and_methods_that_are_not_here_are_problems() -> None:
    app, _ = application(MemorySink())
    async with client_of(app) as client:
        assert problem_of(await client.get("/nowhere"))["status"] == 404
        response = await client.delete("/v1/events")
        assert problem_of(response)["status"] == 405
        assert response.headers["allow"] == "POST"


def test_every_route_is_documented() -> None:
    app, _ = application(MemorySink())
    served = {str(getattr(route, "path", "")) for route in app.routes} - {"/openapi.json"}
    assert served == set(document(500)["paths"])


async def test_a_stop_finishes_requests_under_way_and_refuses_new_ones() -> None:
    sink, stop = MemorySink(), asyncio.Event()
    sink.gate.clear()
    source = HttpSource(settings(port=0), new_tracker())
    serving = asyncio.create_task(source.run(sink, stop))
    await asyncio.wait_for(source.listening.wait(), BUSY_S)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{source.port}", transport=httpx.AsyncHTTPTransport(retries=5), timeout=BUSY_S
    ) as client:
        under_way = asyncio.create_task(client.post("/v1/events", content=EVENT, headers=headers()))
        await _until(lambda: sink.waiting == 1)
        stop.set()
        await asyncio.sleep(0)
        refused = await client.post("/v1/events", content=EVENT, headers=headers("k-2"))
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        sink.gate.set()
        assert (await under_way).status_code == 202
    await asyncio.wait_for(serving, BUSY_S)
    assert len(sink.events) == 1


async def _until(condition: "object", timeout_s: float = BUSY_S) -> None:
    assert callable(condition)
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_sender_that_hangs_up_leaves_no_request_behind_and_what_was_begun_is_finished() -> None:
    sink, stop = MemorySink(), asyncio.Event()
    source = HttpSource(settings(port=0, max_requests=2), new_tracker())
    serving = asyncio.create_task(source.run(sink, stop))
    await asyncio.wait_for(source.listening.wait(), BUSY_S)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{source.port}", transport=httpx.AsyncHTTPTransport(retries=5), timeout=BUSY_S
    ) as client:
        assert (await client.get("/livez")).status_code == 200
        sink.gate.clear()
        for length in (len(EVENT), len(EVENT) + 1):
            _, writer = await asyncio.open_connection("127.0.0.1", source.port)
            head = "".join(f"{name}: {value}\r\n" for name, value in headers(f"hung-up-{length}").items())
            writer.write(f"POST /v1/events HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {length}\r\n\r\n".encode() + EVENT)
            await writer.drain()
            await _until(lambda: sink.waiting == 1)  # the whole request is in hand; of the other a byte is missing
            writer.close()
        sink.gate.set()
        await _until(lambda: len(sink.events) == 1)
        async with asyncio.timeout(BUSY_S):
            while (await client.post("/v1/events", content=EVENT, headers=headers("next"))).status_code != 202:
                await asyncio.sleep(0.01)
    stop.set()
    await asyncio.wait_for(serving, BUSY_S)
    assert len(sink.events) == 2


async def test_a_sender_of_far_too_much_still_sees_why_it_is_refused() -> None:
    stop, source = asyncio.Event(), HttpSource(settings(port=0), new_tracker())
    serving = asyncio.create_task(source.run(MemorySink(), stop))
    await asyncio.wait_for(source.listening.wait(), BUSY_S)
    transport = httpx.AsyncHTTPTransport(retries=5)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{source.port}", transport=transport, timeout=BUSY_S) as client:
        sizes = (1_000_001, 8_000_000)
        statuses = [(await client.post("/v1/events", content=b" " * size, headers=headers())).status_code for size in sizes]
    assert statuses == [413, 413]
    stop.set()
    await asyncio.wait_for(serving, BUSY_S)
