"""FHIR subscriptions: notifications by rest-hook, and one keeper per feed that looks after its subscription.

204 says that each event of a notification is durable, or is kept in `quarantine` where it breaks a rule. 503 asks to send it
again; a server that gives up leaves a gap in its numbers, or an error on its subscription, and the keeper closes both.
204 is what every server takes as success: one of those that we know sends again after a 200 without a Bundle.
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol, assert_never

from aiohttp import web

from pipeline.domain.identifiers import Millis
from pipeline.formats.fhir.codec import decode
from pipeline.formats.fhir.owned import Body
from pipeline.formats.fhir.references import reference_of
from pipeline.formats.json_density import is_too_dense
from pipeline.sources.connections import Doorkeeper, cut_off_who_never_reads, peers_of
from pipeline.sources.fhir.feed import Feed, NotTaken, Refused, Taken
from pipeline.sources.fhir.secret import HookSecret
from pipeline.sources.protocol import Sink
from pipeline.sources.shares import Shares

DRAIN_S: Final = 10.0
"""Longest time for notifications in hand to end once the role is asked to stop."""
CLOSE_S: Final = 2.0
"""Longest time for connections to close, and for the keepers to end, after that."""
BODY_S: Final = 30.0
"""Longest time for a notification's bytes to arrive."""
RETRY_AFTER_S: Final = 2
"""What a server is asked to wait when too much is under way here."""
BACKLOG: Final = 256
IDLE_S: Final = 60.0
"""A connection on which no request comes, or comes to its end, for so long is closed."""
PATH: Final = "/fhir"


class FhirObserver(Protocol):
    """What metrics and logs are told; never patient data."""

    def answered(self, feed: str, status: int, problem: str, seconds: float) -> None:
        """An answer was sent; `problem` is empty, or one of a bounded set of names. `feed` is empty for an unknown one."""
        ...

    def faulted(self, fault: Exception) -> None:
        """A fault of ours met a notification."""
        ...

    def cut_off(self, connections: int) -> None:
        """So many connections were refused, or ended because their address held more than its share."""
        ...


class Silent:
    """An observer that does nothing."""

    def answered(self, feed: str, status: int, problem: str, seconds: float) -> None:
        """Nothing."""

    def faulted(self, fault: Exception) -> None:
        """Nothing."""

    def cut_off(self, connections: int) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Where notifications arrive, and the bounds of that. `port` 0 takes a free one."""

    host: str
    port: int
    max_body_bytes: int
    max_requests: int
    answer_s: float
    tls: ssl.SSLContext | None = None
    max_bytes_in_flight: int = 16 * 1024 * 1024
    max_connections: int = 256


class _Refusing(asyncio.Protocol):
    """Ends a connection for which there is no place."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there: it goes."""
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


@dataclass(frozen=True, slots=True)
class _Said:
    status: int
    problem: str = ""
    retry_after_s: int = 0


class FhirSource:
    """The FHIR way in, for all feeds of the settings."""

    name: ClassVar[str] = "fhir"

    def __init__(
        self,
        listener: Listener,
        feeds: Mapping[str, tuple[Feed, HookSecret]],
        observer: FhirObserver | None = None,
    ) -> None:
        """`feeds` by name, each with the secret that its notifications bear."""
        self._listener = listener
        self._feeds = feeds
        self._observer: FhirObserver = observer or Silent()
        self._requests: Shares[str] = Shares(listener.max_requests)
        self._bytes: Shares[str] = Shares(listener.max_bytes_in_flight)
        self._draining = False
        self.listening = asyncio.Event()
        """Set once notifications are taken."""
        self.port = listener.port
        """Port listened at; the one that was taken, once `run` has begun, where the settings say 0."""

    @property
    def connections(self) -> int:
        """Connections that are taken now."""
        return len(peers_of(self.port))

    @property
    def held_bytes(self) -> int:
        """Bytes of notifications that are held now."""
        return self._bytes.held

    async def run(self, sink: Sink, stop: asyncio.Event) -> None:
        """Serve until `stop`; then refuse new notifications, finish those in hand within `DRAIN_S`, and end the keepers.

        A fault in a keeper ends the service and is raised here: a feed that nobody looks after would miss things in silence.
        """
        runner, server = await self._listen(sink)
        ending = asyncio.Event()
        keepers = {asyncio.create_task(feed.keep(sink, ending), name=f"keeper-{name}") for name, (feed, _) in self._feeds.items()}
        stopping = asyncio.create_task(stop.wait(), name="fhir-stop")
        door = Doorkeeper(self.port, self._listener.max_connections, self._observer.cut_off)
        watching = asyncio.create_task(door.run(), name="fhir-door")
        try:
            done, _ = await asyncio.wait({stopping, watching, *keepers}, return_when=asyncio.FIRST_COMPLETED)
            for keeper in done - {stopping}:
                keeper.result()
            await self._drained()
        finally:
            ending.set()
            stopping.cancel()
            watching.cancel()
            server.close()
            await _ended(keepers)
            await runner.cleanup()

    async def _listen(self, sink: Sink) -> tuple[web.AppRunner, asyncio.Server]:
        app = web.Application(client_max_size=self._listener.max_body_bytes)

        async def handle(request: web.Request) -> web.Response:
            return await self._handle(sink, request)

        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_S, handle_signals=False, keepalive_timeout=IDLE_S)
        await runner.setup()
        requests = runner.server
        assert requests is not None

        def connected() -> asyncio.Protocol:
            if len(requests.connections) < self._listener.max_connections:
                return requests()
            self._observer.cut_off(1)
            return _Refusing()

        server = await asyncio.get_running_loop().create_server(
            connected, self._listener.host, self._listener.port, ssl=self._listener.tls, backlog=BACKLOG
        )
        self.port = server.sockets[0].getsockname()[1]
        cut_off_who_never_reads(self.port)
        self.listening.set()
        return runner, server

    async def _drained(self) -> None:
        self._draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while self._requests.held:
                    await asyncio.sleep(0.005)

    async def _handle(self, sink: Sink, request: web.Request) -> web.Response:
        began_s = time.monotonic()
        name, rest = self._place(request)
        try:
            said = await self._admitted(sink, request, name, rest)
        except (ConnectionError, web.HTTPException):
            raise
        except Exception as fault:  # noqa: BLE001 - a fault of ours; its text may hold the notification, so nobody sees it
            self._observer.faulted(fault)
            said = _Said(500, "FAULT")
        self._observer.answered(name, said.status, said.problem, time.monotonic() - began_s)
        headers = {"Cache-Control": "no-store"} | ({"Retry-After": str(said.retry_after_s)} if said.retry_after_s else {})
        return web.Response(status=said.status, headers=headers)

    def _place(self, request: web.Request) -> tuple[str, str]:
        """The feed's name, empty for none, and what follows it in the path."""
        start, _, rest = request.path.removeprefix(PATH + "/").partition("/")
        return (start, rest) if request.path.startswith(PATH + "/") and start in self._feeds else ("", "")

    async def _admitted(self, sink: Sink, request: web.Request, name: str, rest: str) -> _Said:
        if not name:
            return _Said(404, "UNKNOWN_FEED")
        feed, secret = self._feeds[name]
        if not secret.known(request.headers.get("Authorization")):
            feed.refused()
            return _Said(401, "UNAUTHENTICATED")
        if request.method not in ("POST", "PUT", "DELETE"):
            return _Said(405, "METHOD")
        size = min(request.content_length or self._listener.max_body_bytes, self._listener.max_body_bytes)
        if self._draining or self._requests.denied(name, 1) or self._bytes.denied(name, size):
            return _Said(503, "TOO_MANY", RETRY_AFTER_S)
        self._requests.take(name, 1)
        self._bytes.take(name, size)
        try:
            return await self._taken(sink, request, feed, rest)
        finally:
            self._requests.give(name, 1)
            self._bytes.give(name, size)

    async def _taken(self, sink: Sink, request: web.Request, feed: Feed, rest: str) -> _Said:
        data = await self._body(request)
        if isinstance(data, _Said):
            return data
        if is_too_dense(data):
            return _Said(413, "TOO_LARGE")
        body: Body | None = decode(data) if data.strip() else {}
        deleted = reference_of(rest) if request.method == "DELETE" else None
        if body is None or (not body and not feed.takes_empty and deleted is None):
            return _Said(400, "NOT_JSON")
        try:
            async with asyncio.timeout(self._listener.answer_s):
                answer = await (feed.deleted(deleted) if deleted is not None else feed.notified(sink, data, body))
        except TimeoutError:
            return _Said(503, "TOO_SLOW", RETRY_AFTER_S)
        match answer:
            case Taken():
                return _Said(204)
            case NotTaken(problem, after_s):
                return _Said(503, problem, max(RETRY_AFTER_S, min(int(after_s + 0.999), 3600)))
            case Refused(problem):
                return _Said(422, problem)
            case unknown:
                assert_never(unknown)

    async def _body(self, request: web.Request) -> bytes | _Said:
        try:
            async with asyncio.timeout(BODY_S):
                return await request.read()
        except TimeoutError:
            return _Said(408, "TOO_SLOW")
        except web.HTTPRequestEntityTooLarge:
            return _Said(413, "TOO_LARGE")


async def _ended(keepers: "set[asyncio.Task[None]]") -> None:
    """The keepers end by themselves at their next wait; one that hangs at its server is cancelled."""
    if not keepers:
        return
    _, late = await asyncio.wait(keepers, timeout=CLOSE_S)
    for keeper in late:
        keeper.cancel()
    await asyncio.gather(*keepers, return_exceptions=True)


def wall_clock() -> Millis:
    """Now."""
    return Millis(time.time_ns() // 1_000_000)
