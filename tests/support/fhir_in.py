"""A receiver of FHIR subscriptions with a sink in memory, at a played server or at a real one."""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import aiohttp

from pipeline.destinations.fhir.profile import load_profile
from pipeline.domain.event import Event
from pipeline.domain.identifiers import Millis
from pipeline.domain.subscriptions.life import State, Watch
from pipeline.formats.fhir.inbound import events_of, needed
from pipeline.formats.fhir.inbound_verdict import Origin, Verdict
from pipeline.formats.fhir.owned import Body
from pipeline.local.ports import free_port
from pipeline.sources.fhir.feed import Feed, FeedConfig, Known
from pipeline.sources.fhir.keeper import Plan
from pipeline.sources.fhir.receiver import FhirSource, Listener
from pipeline.sources.fhir.resource import Channel, Content, Version, Wanted
from pipeline.sources.fhir.secret import HookSecret
from pipeline.sources.fhir.server import FhirServer, Reply
from pipeline.sources.protocol import Broken, OtherContent, RawMessage, Receipted, Repeated, Stored, Unavailable
from tests.support.fhir_in_server import DIGEST_KEY, SECRET, TOPIC, WAIT_S, Clock, PlayedServer


class MemorySink:
    """A sink with the contract of the real one; away while a test says so."""

    def __init__(self) -> None:
        self.raw: list[RawMessage] = []
        self.events: list[Event] = []
        self.broken: list[Broken] = []
        self.away = False
        self._receipts: dict[str, tuple[str, bytes]] = {}

    async def accept(self, raw: RawMessage, events: Sequence[Event], answer: bytes, broken: Sequence[Broken] = ()) -> Receipted:
        await asyncio.sleep(0)
        if self.away:
            return Unavailable(3.0)
        digest = hashlib.sha256(raw.body).hexdigest()
        known = self._receipts.get(raw.identity)
        if known is not None:
            return Repeated(known[1]) if known[0] == digest else OtherContent()
        self.raw.append(raw)
        self.events += events
        self.broken += broken
        self._receipts[raw.identity] = digest, answer
        return Stored(answer)

    def pressure(self) -> float:
        return 0.0

    def beds(self) -> set[str]:
        """Beds of which something landed."""
        return {event.entity_id.rpartition("/")[2] for event in self.events}


class Mapped:
    """As the role maps, under a profile that ships."""

    def __init__(self, version: Version = "R4") -> None:
        self._origin = Origin("north", "MAIN", "ehr-main", "beds", version)
        self._profile = load_profile("sekmet-replica")

    def needed(self, resource: Body, known: Mapping[str, Body]) -> Sequence[str]:
        return needed(resource, self._origin, self._profile, known)

    def events(self, resource: Body, known: Mapping[str, Body], received_at: Millis) -> Verdict:
        return events_of(resource, self._origin, self._profile, DIGEST_KEY, received_at, known)


class Observed:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, str]] = []
        self.faults: list[Exception] = []
        self.resources: list[tuple[str, str]] = []
        self.asks: list[tuple[str, str]] = []
        self.last: State | None = None
        self.cut = 0

    def answered(self, feed: str, status: int, problem: str, seconds: float) -> None:
        self.answers.append((status, problem))

    def faulted(self, fault: Exception) -> None:
        self.faults.append(fault)

    def cut_off(self, connections: int) -> None:
        self.cut += connections

    def resource(self, feed: str, way: str, result: str) -> None:
        self.resources.append((way, result))

    def asked(self, feed: str, what: str, result: str) -> None:
        self.asks.append((what, result))

    def state(self, feed: str, state: State, now: Millis) -> None:
        self.last = state


class MemoryCursor:
    """Keeps the last state of each feed."""

    def __init__(self) -> None:
        self.kept: dict[str, Known] = {}
        self.notes: list[str] = []

    async def note(self, feed: str, action: str, subscription: str) -> None:
        self.notes.append(action)

    async def keep(self, feed: str, subscription: str | None, state: bytes) -> bool:
        self.kept[feed] = Known(subscription, state)
        return True


class Elsewhere:
    """A server that is not played."""

    def __init__(self, base: str, version: Version) -> None:
        self.base, self.version, self.clock, self.asked = base, version, Clock(), list[str]()


class Receiver:
    """One receiver with one feed, `beds`, at a played server. It may be killed, and started anew with what it kept."""

    def __init__(
        self,
        server: "PlayedServer | Elsewhere",
        folder: Path,
        *,
        content: Content = "full-resource",
        channel: Channel = "backport",
        port: int = 0,
        listen: int = 0,
        sink: MemorySink | None = None,
        cursor: MemoryCursor | None = None,
        watch: Watch | None = None,
        max_requests: int = 64,
        criteria: str | None = None,
        filters: tuple[str, ...] = (),
    ) -> None:
        self.server, self.content, self.channel, self.port = server, content, channel, port
        self.listen = listen
        """Port listened at, where a proxy stands before it; the endpoint's own without."""
        self.sink = sink or MemorySink()
        self.cursor = cursor or MemoryCursor()
        self.observed = Observed()
        self.watch = watch or Watch(heartbeat_ms=60_000, numbered=channel == "backport", fetches=channel == "backport")
        self.secret_file = folder / "hook.token"
        if not self.secret_file.exists():
            self.secret_file.write_text(SECRET + "\n")
        self.max_requests = max_requests
        self.filters = filters
        self.criteria = criteria or (TOPIC if channel == "backport" else "Location?status=active")
        self.stop = asyncio.Event()
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> "Receiver":
        self.port = self.port or free_port()
        secret = HookSecret(self.secret_file)
        self.session = aiohttp.ClientSession()
        wanted = Wanted(
            version=self.server.version,
            channel=self.channel,
            criteria=self.criteria,
            filters=self.filters,
            endpoint=f"http://127.0.0.1:{self.port}/fhir/beds",
            content=self.content,
            heartbeat_s=None if self.watch.heartbeat_ms is None else self.watch.heartbeat_ms // 1000,
            timeout_s=None,
            reason="surgeline feed beds",
        )
        config = FeedConfig(Plan("beds", wanted, ("Location",)), "north", "ehr-main", self.watch)
        self.feed = Feed(
            config,
            secret,
            FhirServer(self.server.base, self._exchange),
            Mapped(self.server.version),
            self.cursor,
            self.cursor.kept.get("beds"),
            self.observed,
            self.server.clock,
        )
        listener = Listener("127.0.0.1", self.listen or self.port, 1_000_000, self.max_requests, 5.0)
        self.source = FhirSource(listener, {"beds": (self.feed, secret)}, self.observed)
        self.stop = asyncio.Event()
        self.running = asyncio.create_task(self.source.run(self.sink, self.stop))
        await until(lambda: self.source.listening.is_set() or self.running.done())
        return self

    async def _exchange(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        try:
            async with self.session.request(
                method, f"{self.server.base}/{target}", headers=dict(headers), data=body, timeout=aiohttp.ClientTimeout(total=5)
            ) as answer:
                data = await answer.read()
                try:
                    parsed = json.loads(data) if data else None
                except ValueError:
                    parsed = None
                after = float(answer.headers.get("Retry-After", "0"))
                return Reply(answer.status, parsed if isinstance(parsed, dict) else None, answer.headers.get("Location"), after)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return Reply(0)

    async def active(self) -> "Receiver":
        """Until the receiver knows that its subscription is active, and has read what it was deaf for. Time passes quickly."""

        def is_active() -> bool:
            self.server.clock.ahead_ms += 100
            return self.state.status.value == "active" and self.state.missed is None

        await until(is_active, self.shown)
        return self

    async def end(self) -> None:
        self.stop.set()
        await asyncio.wait_for(self.running, WAIT_S)
        await self.session.close()

    async def kill(self) -> None:
        """As kill -9 leaves it: nothing is finished, only what was kept is there."""
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        await self.session.close()

    @property
    def state(self) -> State:
        return self.feed._life.state

    def shown(self) -> str:
        return f"{self.feed.status()} {self.observed.asks[-10:]} {self.server.asked[-10:]}"


async def until(condition: Callable[[], bool], shown: Callable[[], str] = lambda: "", timeout_s: float = WAIT_S) -> None:
    """Wait for a condition, with a bound."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {shown()}"
        await asyncio.sleep(0.01)
