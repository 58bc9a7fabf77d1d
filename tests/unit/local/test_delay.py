"""Each fault of the proxy as a client sees it, and whether the target acted."""

import asyncio
import email.utils
import sys
import time
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from aiohttp import web

from pipeline.local.child import Child
from pipeline.local.ports import HOST, free_port, is_listening
from pipeline.local.servers.delay import FaultProxy, controlled
from pipeline.local.servers.faults import Fault, FaultKind

BODY: Final = {"resourceType": "Patient", "id": "1", "active": True}
WAIT_S: Final = 5.0
REPOSITORY: Final = Path(__file__).resolve().parents[3]


class Target:
    """A tiny server that remembers what it was asked."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.think_s = 0.0
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.seen.append((request.method, request.raw_path, dict(request.headers), await request.read()))
        await asyncio.sleep(self.think_s)
        return web.json_response(BODY, status=201, headers={"ETag": 'W/"7"', "Location": f"{self.url}/Patient/1"})


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    served, port = Target(), free_port()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", served.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, HOST, port).start()
    served.url = f"http://{HOST}:{port}/fhir"
    yield served
    await runner.cleanup()


@pytest.fixture
async def proxy(target: Target) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(target.url, seed=1) as started:
        yield started


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_S), middlewares=(once,)) as opened:
        yield opened


async def once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """A client that doesn't repeat by itself; aiohttp sends a PUT twice when the first connection breaks."""
    try:
        return await send(request)
    except aiohttp.ClientConnectionError as error:
        raise aiohttp.ClientConnectionError("broken") from error


async def put(session: aiohttp.ClientSession, url: str) -> tuple[int, Mapping[str, str], Any]:
    async with session.put(f"{url}/Patient/1?a=b%26c", json=BODY, headers={"If-Match": 'W/"6"'}) as answer:
        return answer.status, answer.headers, await answer.json(content_type=None)


async def test_without_faults_everything_passes_unchanged(
    target: Target, proxy: FaultProxy, session: aiohttp.ClientSession
) -> None:
    status, headers, body = await put(session, proxy.url)
    assert (status, headers["ETag"], body) == (201, 'W/"7"', BODY)
    assert headers["Location"] == f"{target.url}/Patient/1"
    ((method, path, seen, _),) = target.seen
    assert (method, path, seen["If-Match"]) == ("PUT", "/fhir/Patient/1?a=b%26c", 'W/"6"')
    assert seen["Host"] == target.url.split("/")[2]


@pytest.mark.parametrize(("kind", "status"), [(FaultKind.TOO_MANY_REQUESTS, 429), (FaultKind.UNAVAILABLE, 503)])
@pytest.mark.parametrize("retry_after_s", [None, 4])
async def test_refusal_carries_retry_after_if_told_and_never_reaches_the_target(
    target: Target, proxy: FaultProxy, session: aiohttp.ClientSession, kind: FaultKind, status: int, retry_after_s: int | None
) -> None:
    proxy.faults.set(Fault(kind=kind, retry_after_s=retry_after_s, times=1))
    got, headers, body = await put(session, proxy.url)
    assert got == status
    assert headers.get("Retry-After") == (None if retry_after_s is None else "4")
    assert body["resourceType"] == "OperationOutcome"
    assert target.seen == []
    assert (await put(session, proxy.url))[0] == 201


async def test_refusal_can_name_the_date_before_which_nobody_may_come_again(
    target: Target, proxy: FaultProxy, session: aiohttp.ClientSession
) -> None:
    for kind, wanted in ((FaultKind.TOO_MANY_REQUESTS, 429), (FaultKind.UNAVAILABLE, 503)):
        proxy.faults.set(Fault(kind=kind, retry_after_s=90, retry_after_as="date"))
        asked_at = time.time()
        status, headers, _ = await put(session, proxy.url)
        named = email.utils.parsedate_to_datetime(headers["Retry-After"])
        assert status == wanted
        assert asked_at + 90 <= named.timestamp() <= time.time() + 91
        assert named.utcoffset() == timedelta(0)
    assert target.seen == []


@pytest.fixture
async def past() -> AsyncIterator[str]:
    """A server with a resource of three versions and one of one; answers gzip to whoever takes it, as HAPI does."""

    def version(name: str, number: int) -> dict[str, Any]:
        return {"resourceType": "Location", "id": name, "meta": {"versionId": str(number)}, "description": f"as of {number}"}

    async def handle(request: web.Request) -> web.Response:
        if request.method == "PUT":
            return web.json_response(await request.json())
        path = request.match_info["path"]
        entries = [{"resource": version("a", 3)}, {"resource": version("b", 1)}]
        bodies: dict[str, dict[str, Any]] = {"Location/a": version("a", 3), "Location/b": version("b", 1)}
        bodies |= {f"Location/a/_history/{n}": version("a", n) for n in (1, 2, 3)}
        bodies["Location/_search"] = {"resourceType": "Bundle", "type": "searchset", "total": 2, "entry": entries}
        answer = web.json_response(bodies[path], headers={"ETag": 'W/"3"'})
        answer.enable_compression()
        return answer

    app = web.Application()
    app.router.add_route("*", "/fhir/{path:.*}", handle)
    runner, port = web.AppRunner(app), free_port()
    await runner.setup()
    await web.TCPSite(runner, HOST, port).start()
    yield f"http://{HOST}:{port}/fhir"
    await runner.cleanup()


async def test_stale_read_shows_an_earlier_version_with_its_own_etag(past: str, session: aiohttp.ClientSession) -> None:
    async with FaultProxy(past) as proxy:
        for amount, shown in ((0, 2), (1, 2), (2, 1)):
            proxy.faults.set(Fault(kind=FaultKind.STALE_READ, amount=amount))
            async with session.get(f"{proxy.url}/Location/a") as answer:
                body = await answer.json(content_type=None)
            assert (answer.status, body["description"], answer.headers["ETag"]) == (200, f"as of {shown}", f'W/"{shown}"')
        async with session.get(f"{proxy.url}/Location/b") as answer:
            assert answer.status == 404
        async with session.put(f"{proxy.url}/Location/a", json=BODY) as answer:
            assert await answer.json() == BODY


async def test_stale_search_leaves_out_what_did_not_exist_yet(past: str, session: aiohttp.ClientSession) -> None:
    async with FaultProxy(past) as proxy:
        proxy.faults.set(Fault(kind=FaultKind.STALE_READ))
        async with session.post(f"{proxy.url}/Location/_search", data={"identifier": "x"}) as answer:
            body = await answer.json(content_type=None)
        assert [entry["resource"]["meta"]["versionId"] for entry in body["entry"]] == ["2"]
        assert "total" not in body


async def test_reset_before_forwarding_leaves_the_target_untouched(
    target: Target, proxy: FaultProxy, session: aiohttp.ClientSession
) -> None:
    proxy.faults.set(Fault(kind=FaultKind.RESET_BEFORE))
    with pytest.raises(aiohttp.ClientConnectionError):
        await put(session, proxy.url)
    assert target.seen == []


async def test_reset_after_commit_loses_the_answer_and_not_the_write(
    target: Target, proxy: FaultProxy, session: aiohttp.ClientSession
) -> None:
    proxy.faults.set(Fault(kind=FaultKind.RESET_AFTER_COMMIT))
    with pytest.raises(aiohttp.ClientConnectionError):
        await put(session, proxy.url)
    assert len(target.seen) == 1


async def test_truncated_answer_is_noticed_by_its_length(
    target: Target, proxy: FaultProxy, session: aiohttp.ClientSession
) -> None:
    proxy.faults.set(Fault(kind=FaultKind.TRUNCATED))
    async with session.put(f"{proxy.url}/Patient/1", json=BODY) as answer:
        assert answer.status == 201
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
    assert len(target.seen) == 1


async def test_success_status_can_carry_an_error_body(target: Target, proxy: FaultProxy, session: aiohttp.ClientSession) -> None:
    proxy.faults.set(Fault(kind=FaultKind.ERROR_IN_200))
    status, headers, body = await put(session, proxy.url)
    assert (status, body["issue"][0]["severity"]) == (200, "error")
    assert headers["Content-Type"].startswith("application/fhir+json")
    assert target.seen == []


async def test_latency_passes_before_the_target_is_asked(
    target: Target, proxy: FaultProxy, session: aiohttp.ClientSession
) -> None:
    proxy.faults.set(Fault(kind=FaultKind.LATENCY, amount=0.3))
    started = time.monotonic()
    pending = asyncio.create_task(put(session, proxy.url))
    await asyncio.sleep(0.1)
    assert target.seen == []
    assert (await pending)[0] == 201
    assert time.monotonic() - started >= 0.3


async def test_write_of_a_client_that_gave_up_still_lands_late(target: Target, proxy: FaultProxy) -> None:
    proxy.faults.set(Fault(kind=FaultKind.LATENCY, amount=0.4))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.1), middlewares=(once,)) as impatient:
        with pytest.raises(TimeoutError):
            await put(impatient, proxy.url)
    deadline = time.monotonic() + WAIT_S
    while not target.seen and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    assert len(target.seen) == 1


async def test_factor_slows_the_targets_own_time(target: Target, proxy: FaultProxy, session: aiohttp.ClientSession) -> None:
    target.think_s = 0.1
    proxy.faults.set(Fault(kind=FaultKind.SLOW_FACTOR, amount=4))
    started = time.monotonic()
    assert (await put(session, proxy.url))[0] == 201
    assert time.monotonic() - started >= 0.39


async def test_slow_first_byte_comes_after_the_target_has_acted(
    target: Target, proxy: FaultProxy, session: aiohttp.ClientSession
) -> None:
    proxy.faults.set(Fault(kind=FaultKind.SLOW_FIRST_BYTE, amount=0.5))
    started = time.monotonic()
    pending = asyncio.create_task(put(session, proxy.url))
    while not target.seen and time.monotonic() - started < WAIT_S:
        await asyncio.sleep(0.01)
    assert not pending.done()
    assert (await pending)[0] == 201
    assert time.monotonic() - started >= 0.5


async def test_target_that_does_not_listen_is_a_502(session: aiohttp.ClientSession) -> None:
    async with FaultProxy(f"http://{HOST}:{free_port()}/fhir") as proxy, session.get(f"{proxy.url}/metadata") as answer:
        assert answer.status == 502


async def test_faults_are_switched_at_run_time_by_the_control_endpoint(target: Target, session: aiohttp.ClientSession) -> None:
    port, control_port = free_port(), free_port()
    control = f"http://{HOST}:{control_port}/faults"
    async with controlled(target.url, port, control_port, seed=0) as proxy:
        async with session.put(control, json=[{"kind": "unavailable", "methods": ["PUT"]}]) as answer:
            assert answer.status == 200
        assert (await put(session, proxy.url))[0] == 503
        async with session.get(control) as answer:
            (report,) = await answer.json()
            assert report["struck"] == 1
        async with session.put(control, json=[{"kind": "gremlins"}]) as answer:
            assert answer.status == 422
        async with session.delete(control) as answer:
            assert await answer.json() == []
        assert (await put(session, proxy.url))[0] == 201


async def test_proxy_runs_as_a_process_of_its_own(target: Target, session: aiohttp.ClientSession, tmp_path: Path) -> None:
    port, control_port = free_port(), free_port()
    ports = ["--port", str(port), "--control-port", str(control_port)]
    command = ["-m", "pipeline.local.servers.delay", "--target", target.url, *ports]
    process = Child("the proxy", [sys.executable, *command], REPOSITORY, tmp_path / "proxy.log")
    process.start()
    await asyncio.to_thread(process.wait_until, lambda: is_listening(control_port), 30)
    async with session.put(f"http://{HOST}:{control_port}/faults", json=[{"kind": "too_many_requests", "times": 1}]) as answer:
        assert answer.status == 200
    statuses = [(await put(session, f"http://{HOST}:{port}/fhir"))[0] for _ in range(2)]
    assert statuses == [429, 201]
    process.stop(timeout_s=10)
