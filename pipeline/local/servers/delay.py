"""A proxy between us and an EHR that makes faults on purpose: late, refusing, cut off, or lying.

In process: `async with FaultProxy(target) as proxy: proxy.faults.set(...)`. As a process of its own:
`python -m pipeline.local.servers.delay --target URL --port N --control-port M`, where GET, PUT and DELETE on
`http://127.0.0.1:M/faults` show, replace and clear the faults. Bodies pass as they are: absolute URLs in them keep
naming the target.
"""

import argparse
import asyncio
import contextlib
import email.utils
import json
import math
import signal
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, assert_never

import msgspec
from aiohttp import (
    ClientConnectionError,
    ClientConnectorError,
    ClientError,
    ClientHandlerType,
    ClientOSError,
    ClientRequest,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ServerDisconnectedError,
    TCPConnector,
    web,
)
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from pipeline.local.ports import HOST, free_port
from pipeline.local.servers.faults import Fault, FaultKind, Faults
from pipeline.local.servers.stale import Body, aged

MAX_BODY_BYTES: Final = 32 * 1024 * 1024
MAX_CONNECTIONS: Final = 256
TARGET_TIMEOUT_S: Final = 120.0
DRAIN_S: Final = 1.0
HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade"}
)
"""RFC 9110, section 7.6.1: about one connection, not to be passed on."""
RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of zero seconds: closing sends RST instead of FIN."""
FHIR_JSON: Final = "application/fhir+json"
OUTCOME: Final = {
    "resourceType": "OperationOutcome",
    "issue": [{"severity": "error", "code": "exception", "diagnostics": "made by the fault proxy"}],
}


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """What the target said."""

    status: int
    reason: str | None
    headers: CIMultiDict[str]
    body: bytes
    took_s: float


class FaultProxy:
    """Forwards every request to `target`'s server and makes the faults that `faults` holds."""

    def __init__(self, target: str, port: int | None = None, seed: int = 0) -> None:
        """`target` is the FHIR base; `seed` makes the draws of faults that have a probability repeatable."""
        self.faults = Faults(seed)
        self._target = URL(target)
        self._port = port or free_port()
        self._session: ClientSession | None = None
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """The target's base as seen through the proxy, without a slash at its end."""
        return f"http://{HOST}:{self._port}{self._target.path.rstrip('/')}"

    async def start(self) -> None:
        """Listen; returns when requests are served."""
        self._session = ClientSession(
            connector=TCPConnector(limit=MAX_CONNECTIONS),
            timeout=ClientTimeout(total=TARGET_TIMEOUT_S),
            auto_decompress=False,
            middlewares=(_once,),
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
        )
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._handle)
        try:
            self._runner = await _serve(app, self._port)
        except OSError:
            await self._session.close()
            raise

    async def stop(self) -> None:
        """Stop listening. Requests under way get DRAIN_S."""
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        """Faults before forwarding, the forwarding, faults after it.

        A client that gives up doesn't stop this: what was received is still forwarded, late, as a network would.
        """
        strike = self.faults.strike(request.method)
        body = await request.read()
        if strike.delay_s:
            await asyncio.sleep(strike.delay_s)
        if (made := _before(request, strike.fault)) is not None:
            return made
        ages = strike.fault is not None and strike.fault.kind is FaultKind.STALE_READ and _reads(request)
        try:
            answer = await self._forward(request, body, "accept-encoding" if ages else "host")
        except ClientConnectorError:
            return web.Response(status=502, text="the target does not listen")
        except (ClientError, TimeoutError):
            return _drop(request)
        if strike.slow_factor > 1:
            await asyncio.sleep(answer.took_s * (strike.slow_factor - 1))
        if ages and answer.status == 200:
            answer = await self._aged(answer, max(1, int(strike.fault.amount if strike.fault else 1)))
        return await _after(request, strike.fault, answer)

    async def _forward(self, request: web.Request, body: bytes, also_dropped: str) -> Answer:
        assert self._session is not None
        started = time.monotonic()
        url = self._target.origin().join(URL(request.raw_path, encoded=True))
        headers = _end_to_end(request.headers, "host", "content-length", also_dropped)
        data = body if request.body_exists else None
        async with self._session.request(request.method, url, headers=headers, data=data, allow_redirects=False) as got:
            content = await got.read()
            kept = _end_to_end(got.headers, "content-length")
            return Answer(got.status, got.reason, kept, content, time.monotonic() - started)

    async def _aged(self, answer: Answer, versions: int) -> Answer:
        found = await aged(answer.body, versions, self._fetch)
        if found is None:
            return Answer(404, "Not Found", CIMultiDict({"Content-Type": FHIR_JSON}), json.dumps(OUTCOME).encode(), answer.took_s)
        headers = answer.headers.copy()
        if found[1] is not None:
            headers["ETag"] = found[1]
        return Answer(answer.status, answer.reason, headers, found[0], answer.took_s)

    async def _fetch(self, path: str) -> Body | None:
        assert self._session is not None
        url = URL(f"{str(self._target).rstrip('/')}/{path}")
        async with self._session.get(url, headers={"Accept": FHIR_JSON}) as got:
            found = await got.json(content_type=None) if got.status == 200 else None
            return found if isinstance(found, dict) else None


def _reads(request: web.Request) -> bool:
    return request.method == "GET" or (request.method == "POST" and request.path.endswith("/_search"))


async def _once(request: ClientRequest, send: ClientHandlerType) -> ClientResponse:
    """Keep aiohttp from sending a GET or PUT again by itself when the connection breaks: faults must stay visible.

    It repeats after exactly these two errors, and not after their common base.
    """
    try:
        return await send(request)
    except ClientConnectorError:
        raise
    except (ClientOSError, ServerDisconnectedError) as error:
        raise ClientConnectionError("the target closed the connection") from error


def _before(request: web.Request, fault: Fault | None) -> web.StreamResponse | None:
    """The answer of a fault that never reaches the target; None for all others."""
    match fault.kind if fault else None:
        case FaultKind.TOO_MANY_REQUESTS:
            return _refuse(429, fault)
        case FaultKind.UNAVAILABLE:
            return _refuse(503, fault)
        case FaultKind.RESET_BEFORE:
            return _drop(request)
        case FaultKind.ERROR_IN_200:
            return web.json_response(OUTCOME, content_type=FHIR_JSON)
        case _:
            return None


async def _after(request: web.Request, fault: Fault | None, answer: Answer) -> web.StreamResponse:
    """Pass the target's answer on, unless a fault of the way back strikes: then it has acted and we don't hear of it."""
    if fault is not None:
        match fault.kind:
            case FaultKind.RESET_AFTER_COMMIT:
                return _drop(request)
            case FaultKind.TRUNCATED:
                return await _truncate(request, answer)
            case FaultKind.SLOW_FIRST_BYTE:
                await asyncio.sleep(fault.amount)
            case (
                FaultKind.LATENCY
                | FaultKind.SLOW_FACTOR
                | FaultKind.TOO_MANY_REQUESTS
                | FaultKind.UNAVAILABLE
                | FaultKind.RESET_BEFORE
                | FaultKind.ERROR_IN_200
                | FaultKind.STALE_READ
            ):
                pass
            case _:
                assert_never(fault.kind)
    return web.Response(status=answer.status, reason=answer.reason, headers=answer.headers, body=answer.body)


def _refuse(status: int, fault: Fault | None) -> web.Response:
    headers = {"Retry-After": _retry_after(fault)} if fault and fault.retry_after_s is not None else {}
    return web.json_response(OUTCOME, status=status, headers=headers, content_type=FHIR_JSON)


def _retry_after(fault: Fault) -> str:
    """RFC 9110, section 10.2.3; a date is in whole seconds, so it is the next one: the pause is never shorter than asked."""
    seconds = fault.retry_after_s or 0
    if fault.retry_after_as == "date":
        return email.utils.formatdate(math.ceil(time.time() + seconds), usegmt=True)
    return str(seconds)


async def _truncate(request: web.Request, answer: Answer) -> web.StreamResponse:
    """Announce the whole body, send half of it, reset."""
    response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=answer.headers)
    response.content_length = max(len(answer.body), 2)
    with contextlib.suppress(ConnectionError):  # a client that has given up meanwhile
        await response.prepare(request)
        await response.write(answer.body[: len(answer.body) // 2])
    _abort(request, politely=True)
    return response


def _drop(request: web.Request) -> web.Response:
    """Cut the connection without an answer; the returned response is never sent."""
    _abort(request)
    return web.Response(status=502)


def _abort(request: web.Request, politely: bool = False) -> None:
    """Cut the connection: by RST, or `politely` by FIN, where what was sent must still arrive."""
    transport = request.transport
    if transport is None:
        return
    if politely:
        transport.close()
        return
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    transport.abort()


def _end_to_end(headers: CIMultiDictProxy[str], *also_dropped: str) -> CIMultiDict[str]:
    dropped = HOP_BY_HOP | set(also_dropped)
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in dropped)


async def _serve(app: web.Application, port: int) -> web.AppRunner:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=DRAIN_S)
    await runner.setup()
    await web.TCPSite(runner, HOST, port).start()
    return runner


def control_app(faults: Faults) -> web.Application:
    """GET shows the faults and how often each struck, PUT replaces them (a JSON list), DELETE clears them."""

    async def show(_: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(faults.report()), content_type="application/json")

    async def replace(request: web.Request) -> web.Response:
        try:
            faults.set(*msgspec.json.decode(await request.read(), type=list[Fault]))
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            return web.json_response({"error": str(error)}, status=422)
        return await show(request)

    async def clear(request: web.Request) -> web.Response:
        faults.clear()
        return await show(request)

    app = web.Application()
    app.add_routes([web.get("/faults", show), web.put("/faults", replace), web.delete("/faults", clear)])
    return app


@contextlib.asynccontextmanager
async def controlled(target: str, port: int, control_port: int, seed: int) -> AsyncIterator[FaultProxy]:
    """A proxy with its control endpoint."""
    async with FaultProxy(target, port, seed) as proxy:
        control = await _serve(control_app(proxy.faults), control_port)
        try:
            yield proxy
        finally:
            await control.cleanup()


async def _main(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for wanted in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(wanted, stop.set)
    async with controlled(arguments.target, arguments.port, arguments.control_port, arguments.seed) as proxy:
        sys.stdout.write(f"{proxy.url} -> {arguments.target}, faults: http://{HOST}:{arguments.control_port}/faults\n")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A proxy that makes faults on purpose.")
    parser.add_argument("--target", required=True, help="FHIR base to forward to")
    parser.add_argument("--port", type=int, required=True, help="port to listen on")
    parser.add_argument("--control-port", type=int, required=True, help="port of the control endpoint")
    parser.add_argument("--seed", type=int, default=0, help="seed of faults that have a probability")
    asyncio.run(_main(parser.parse_args()))
