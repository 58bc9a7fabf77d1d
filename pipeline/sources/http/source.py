"""Events by HTTP: POST /v1/events and /v1/events:batch, GET /v1/events/{event_id}."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable
from typing import ClassVar, Final

from fastapi import FastAPI
from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings
from granian.server.embed import Server

from pipeline.domain.identifiers import Millis
from pipeline.formats.json_events import Client
from pipeline.settings.sections.ways_in import HttpSettings
from pipeline.sources.connections import Doorkeeper, cut_off_all, cut_off_who_never_reads, peers_of
from pipeline.sources.http.api import Api, HttpObserver, NoObserver, create_app
from pipeline.sources.http.intake import Admission, Credential, Intake, Limits
from pipeline.sources.http.tracker import Tracker
from pipeline.sources.protocol import Sink

DRAIN_S: Final = 11.0
"""Longest time for requests under way to end once the role is asked to stop; each has an answer before."""
STOP_S: Final = 1.5
"""Longest time for answers to leave after the drain; then what is still connected is cut off, and given as long again."""
HEADER_TIMEOUT_MS: Final = 30_000
"""Longest time for the headers of a request; also ends a connection on which nothing comes."""
BACKLOG: Final = 1024
"""Connections that wait at the kernel, beyond `http.max_connections`."""
THREADS_END_S: Final = 1.0
"""Longest time for the server's threads to end after that."""
SPAWN_S: Final = 0.05
"""Time within which granian has started its threads."""
POLL_S: Final = 0.005


def now_ms() -> Millis:
    """Wall clock."""
    return Millis(time.time_ns() // 1_000_000)


class HttpSource:
    """The HTTP way in. What a request's answer promises is in docs/http-api.md."""

    name: ClassVar[str] = "http"

    def __init__(
        self,
        settings: HttpSettings,
        tracker: Tracker,
        *,
        ready: Callable[[], bool] = lambda: True,
        clock: Callable[[], Millis] = now_ms,
        observer: HttpObserver | None = None,
    ) -> None:
        """`ready` says whether earlier answers are known; reads the clients' token files."""
        self._settings = settings
        self._tracker = tracker
        self._ready = ready
        self._clock = clock
        self._observer = observer or NoObserver()
        self._credentials = [
            Credential(Client(each.name, each.tenant, frozenset(each.source_systems)), bytes.fromhex(each.token_digest()))
            for each in settings.clients
        ]
        self._admission: Admission | None = None
        self.listening = asyncio.Event()
        """Set once requests are taken."""
        self.port = settings.port
        """Port listened at; the one that was taken, once `run` has begun, where the settings say 0."""

    @property
    def connections(self) -> int:
        """Connections that are taken now."""
        return len(peers_of(self.port))

    @property
    def held_bytes(self) -> int:
        """Bytes of bodies that are held now."""
        return 0 if self._admission is None else self._admission.held_bytes

    def application(self, sink: Sink) -> tuple[FastAPI, Intake]:
        """The ASGI application over a sink, for a server or a test."""
        limits = Limits(
            self._settings.max_body_bytes,
            self._settings.max_batch_items,
            self._settings.max_requests,
            self._settings.max_bytes_in_flight,
        )
        intake = Intake(sink, self._credentials, limits, self._tracker, self._clock)
        api = Api(intake, self._tracker, self._ready, self._observer)
        return create_app(api, self._settings.max_batch_items), intake

    async def run(self, sink: Sink, stop: asyncio.Event) -> None:
        """Serve until `stop`; then refuse new requests, finish those under way within `DRAIN_S`, and close.

        Raises RuntimeError if the server ends by itself.
        """
        app, intake = self.application(sink)
        self.port = self._settings.port or _free_port(self._settings.host)
        server = self._server(app)
        before = _native_threads()
        serving = asyncio.create_task(server.serve(), name="http-server")
        await asyncio.sleep(SPAWN_S)
        threads = _native_threads() - before
        cut_off_who_never_reads(self.port)
        self._admission = intake.admission
        keeping = asyncio.create_task(Doorkeeper(self.port, self._settings.max_connections, self._observer.cut_off).run())
        self.listening.set()
        stopping = asyncio.create_task(stop.wait(), name="http-stop")
        try:
            await asyncio.wait({serving, stopping, keeping}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done() or keeping.done():
                ended = serving if serving.done() else keeping
                raise RuntimeError("the HTTP server ended by itself") from ended.exception()
            await _drained(intake)
        finally:
            stopping.cancel()
            keeping.cancel()
            await _closed(server, serving, threads, self.port)

    def _server(self, app: FastAPI) -> Server:
        cert, key = self._settings.tls_cert_file, self._settings.tls_key_file
        return Server(
            app,
            address=self._settings.host,
            port=self.port,
            interface=Interfaces.ASGINL,
            http=HTTPModes.http1,
            websockets=False,
            backlog=BACKLOG,
            backpressure=self._settings.max_connections,
            http1_settings=HTTP1Settings(header_read_timeout=HEADER_TIMEOUT_MS),
            log_enabled=False,
            log_access=False,
            ssl_cert=cert,
            ssl_key=key,
            ssl_protocol_min=SSLProtocols.tls12,
        )


async def _drained(intake: Intake) -> None:
    """No new requests; those under way may end."""
    intake.admission.drain()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            while intake.admission.requests:
                await asyncio.sleep(POLL_S)


async def _closed(server: Server, serving: "asyncio.Task[None]", threads: frozenset[str], port: int) -> None:
    """End the server and its threads. It waits for each connection, for ever where a peer reads nothing: hence the cut.

    granian's `serve` returns a moment before its threads have ended. One that still holds Python objects while the
    interpreter shuts down aborts the process (exit status 134, seen in one of five runs).
    """
    server.stop()  # type: ignore[no-untyped-call]
    with contextlib.suppress(TimeoutError):
        _, still = await asyncio.wait({serving}, timeout=STOP_S)
        if still:
            await asyncio.to_thread(cut_off_all, port)
            await asyncio.wait({serving}, timeout=STOP_S)
        async with asyncio.timeout(THREADS_END_S):
            while threads & _native_threads():
                await asyncio.sleep(POLL_S)


def _native_threads() -> frozenset[str]:
    """Ids of this process's threads, those of libraries included; none where the system doesn't tell."""
    try:
        return frozenset(os.listdir("/proc/self/task"))
    except OSError:
        return frozenset()


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
