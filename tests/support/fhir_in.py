"""A FHIR server that plays what servers do with subscriptions, and a receiver in front of it with a sink in memory."""

import asyncio
import hashlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from pipeline.destinations.fhir_profile import load_profile
from pipeline.domain.event import EntityType, Event
from pipeline.domain.identifiers import Millis, revision_of
from pipeline.domain.subscription import State, Watch
from pipeline.formats.fhir.inbound import events_of, needed
from pipeline.formats.fhir.inbound_verdict import Origin, Verdict
from pipeline.formats.fhir.naming import Naming
from pipeline.formats.fhir.owned import Body
from pipeline.formats.fhir.resources import RESOURCES
from pipeline.formats.fhir.revision import mark_of, with_mark
from pipeline.local.ports import free_port
from pipeline.sources.fhir import FhirSource, Listener
from pipeline.sources.fhir_feed import Feed, FeedConfig, Known
from pipeline.sources.fhir_keeper import Plan
from pipeline.sources.fhir_secret import HookSecret
from pipeline.sources.fhir_server import FhirServer, Reply
from pipeline.sources.fhir_subscription import Channel, Content, Version, Wanted, endpoint_of
from pipeline.sources.protocol import Broken, OtherContent, RawMessage, Receipted, Repeated, Stored, Unavailable

SECRET: Final = "a-hook-secret-of-at-least-24-bytes"
TOPIC: Final = "urn:topic:bed-changed"
DIGEST_KEY: Final = b"a key for tests, of 32 bytes....."
BEDS: Final = "https://surgeline.dev/fhir/id/north/bed"
OPERATIONAL: Final = "http://terminology.hl7.org/CodeSystem/v2-0116"
HOOK_TIMEOUT_S: Final = 10.0
WAIT_S: Final = 30.0


def bed(own: str, code: str = "K") -> Body:
    """A bed, as a clinician's system writes it."""
    return {
        "resourceType": "Location",
        "id": own,
        "identifier": [{"system": BEDS, "value": f"MAIN/ICU/1/{own}"}],
        "status": "active",
        "operationalStatus": {"system": OPERATIONAL, "code": code},
        "physicalType": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/location-physical-type", "code": "bd"}]},
    }


def echo_of(own: str) -> Body:
    """A bed as our writer left it."""
    body, naming = bed(own), Naming(load_profile("sekmet-replica"), "north", "MAIN")
    ident = naming.entity(EntityType.BED, "MAIN", f"ICU/1/{own}")
    shown = RESOURCES[EntityType.BED].shown(body, ident, naming)
    return with_mark(body, mark_of(revision_of(1, 5), "ab" * 8, shown, DIGEST_KEY))


def instant(millis: int) -> str:
    return datetime.fromtimestamp(millis / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Clock:
    """The wall clock, moved ahead by hand."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def __call__(self) -> Millis:
        return Millis(time.time_ns() // 1_000_000 + self.ahead_ms)


class PlayedServer:
    """Resources with versions, searches by time, subscriptions by topic with numbers; and the faults that a test asks for.

    Notifications go out when a test says so (`tell`, `beat`), so that each may be lost, repeated or put in another order.
    """

    def __init__(self, clock: Clock, version: Version = "R4") -> None:
        self.clock = clock
        self.version = version
        self.resources: dict[str, Body] = {}
        self.subscriptions: dict[str, Body] = {}
        self.count = 0
        self.log: list[tuple[int, str, str]] = []
        """Number, `Type/id` and time of each event."""
        self.asked: list[str] = []
        self.has_status = True
        self.has_events = True
        self.shakes_hands = True
        self.hides_headers = False
        self.sorts = True
        self.page_limit = 1_000
        self.fault: Callable[[web.Request], web.StreamResponse | None] = lambda request: None
        self.delay: Callable[[web.Request], Awaitable[None]] = _no_delay
        self.base = ""
        self._ids = itertools.count(1)
        self._tasks: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["PlayedServer"]:
        app = web.Application()
        app.router.add_route("*", "/fhir{tail:.*}", self._handle)
        async with TestServer(app) as server:
            self.base = str(server.make_url("/fhir"))
            yield self
            for task in self._tasks:
                task.cancel()

    # -- what happens at the hospital

    def put(self, body: Body, counted: bool = True) -> Body:
        """A change by somebody; with a number, but not told to anybody yet."""
        name = f"{body['resourceType']}/{body['id']}"
        version = int(self.resources.get(name, {}).get("meta", {}).get("versionId", "0")) + 1
        now = instant(self.clock())
        self.resources[name] = {**body, "meta": {"versionId": str(version), "lastUpdated": now}}
        if counted:
            self.count += 1
            self.log.append((self.count, name, now))
        return self.resources[name]

    @property
    def subscription(self) -> Body:
        """The active subscription, else the only one."""
        active = [each for each in self.subscriptions.values() if each["status"] == "active"]
        (found,) = active or list(self.subscriptions.values())
        return found

    def event_bundle(self, *numbers: int, kind: str = "event-notification", content: str | None = None) -> Body:
        """A notification of these events."""
        told = [entry for number in numbers for entry in self.log if entry[0] == number]
        content = content or self.content()
        events = [
            {"number": number, "at": at, "focus": None if content == "empty" else f"{self.base}/{name}"}
            for number, name, at in told
        ]
        entries = []
        for _, name, _ in told if content != "empty" else []:
            entry: Body = {"fullUrl": f"{self.base}/{name}", "request": {"method": "PUT", "url": name}}
            entries.append(entry | ({"resource": self.resources[name]} if content == "full-resource" else {}))
        return self._bundle(kind, events, entries)

    def content(self) -> str:
        sub = self.subscription
        if "content" in sub:
            return str(sub["content"])
        payload = sub["channel"].get("_payload", {}).get("extension", [])
        return str(payload[0]["valueCode"]) if payload else "id-only"

    def _bundle(self, kind: str, events: Sequence[Body] = (), entries: Sequence[Body] = (), sub: Body | None = None) -> Body:
        sub = sub or self.subscription
        reference = {"reference": f"{self.base}/Subscription/{sub['id']}"}
        if self.version == "R4":
            parameters: list[Body] = [
                {"name": "subscription", "valueReference": reference},
                {"name": "topic", "valueCanonical": TOPIC},
                {"name": "status", "valueCode": sub["status"]},
                {"name": "type", "valueCode": kind},
                {"name": "events-since-subscription-start", "valueString": str(self.count)},
            ]
            for event in events:
                parts = [
                    {"name": "event-number", "valueString": str(event["number"])},
                    {"name": "timestamp", "valueInstant": event["at"]},
                ]
                if event["focus"]:
                    parts.append({"name": "focus", "valueReference": {"reference": event["focus"]}})
                parameters.append({"name": "notification-event", "part": parts})
            status: Body = {"resourceType": "Parameters", "parameter": parameters}
        else:
            status = {
                "resourceType": "SubscriptionStatus",
                "status": sub["status"],
                "type": kind,
                "eventsSinceSubscriptionStart": str(self.count),
                "subscription": reference,
                "topic": TOPIC,
                "notificationEvent": [
                    {"eventNumber": str(event["number"]), "timestamp": event["at"]}
                    | ({"focus": {"reference": event["focus"]}} if event["focus"] else {})
                    for event in events
                ],
            }
        of = "subscription-notification" if self.version == "R5" else "history"
        # Each delivery has an id of its own, as real servers' have.
        return {"resourceType": "Bundle", "id": str(next(self._ids)), "type": of, "entry": [{"resource": status}, *entries]}

    async def tell(self, *numbers: int, kind: str = "event-notification") -> int:
        """Send one notification of these events; the status of the answer, 0 for none."""
        return await self.send(self.event_bundle(*numbers, kind=kind))

    async def beat(self) -> int:
        """Send a heartbeat."""
        return await self.send(self._bundle("heartbeat"))

    async def beat_all(self) -> None:
        """Send a heartbeat of each subscription that is active."""
        for sub in [each for each in self.subscriptions.values() if each["status"] == "active"]:
            await self.send_raw(self._bundle("heartbeat", sub=sub), sub=sub)

    async def send(
        self, body: Body | bytes, *, headers: Mapping[str, str] | None = None, method: str = "POST", below: str = ""
    ) -> int:
        answer = await self.send_raw(body, headers=headers, method=method, below=below)
        return answer[0]

    async def send_raw(
        self,
        body: Body | bytes,
        *,
        headers: Mapping[str, str] | None = None,
        method: str = "POST",
        below: str = "",
        sub: Body | None = None,
    ) -> tuple[int, Mapping[str, str]]:
        """Send to the subscription's endpoint with its headers, or with others."""
        sub = sub or self.subscription
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        timeout = aiohttp.ClientTimeout(total=HOOK_TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.request(
                    method, f"{endpoint_of(sub)}{below}", data=data, headers=headers_of(sub) if headers is None else headers
                ) as answer,
            ):
                return answer.status, dict(answer.headers)
        except (aiohttp.ClientError, TimeoutError):
            return 0, {}

    # -- its REST interface

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["tail"].strip("/")
        self.asked.append(f"{request.method} {path}?{request.query_string}".rstrip("?"))
        await self.delay(request)
        if (answer := self.fault(request)) is not None:
            return answer
        if path.startswith("Subscription"):
            return await self._subscriptions(request, path)
        if request.method == "PUT":
            return web.json_response(self.put(await request.json()))
        if "/" in path:
            found = self.resources.get(path)
            if found is None:
                return web.Response(status=404)
            return web.Response(status=410) if "deleted" in found else web.json_response(found)
        return self._search(request, [each for each in self.resources.values() if each["resourceType"] == path])

    def _search(self, request: web.Request, found: list[Body]) -> web.Response:
        since = request.query.get("_lastUpdated", "ge1970")[2:]
        found = [each for each in found if each.get("meta", {}).get("lastUpdated", since) >= since]
        if self.sorts:
            found.sort(key=lambda each: each.get("meta", {}).get("lastUpdated", ""))
        count = min(int(request.query.get("_count", "20")), self.page_limit)
        start = int(request.query.get("_start", "0"))
        bundle: Body = {
            "resourceType": "Bundle",
            "type": "searchset",
            "entry": [{"resource": each} for each in found[start : start + count]],
        }
        if start + count < len(found):
            # As behind a proxy: the link's host is another one than that by which the server is reached.
            query = request.rel_url.update_query(_start=start + count).query_string
            bundle["link"] = [{"relation": "next", "url": f"https://inner.example.org{request.path}?{query}"}]
        return web.json_response(bundle)

    async def _subscriptions(self, request: web.Request, path: str) -> web.StreamResponse:
        own = path.partition("/")[2]
        if own.endswith("/$status"):
            if not self.has_status:
                return web.Response(status=400)
            bundle = self._bundle("query-status", sub=self.subscriptions[own.removesuffix("/$status")])
            return web.json_response({**bundle, "type": "searchset", "entry": bundle["entry"][:1]})
        if own.endswith("/$events"):
            if not self.has_events:
                return web.Response(status=400)
            first, last = int(request.query["eventsSinceNumber"]), int(request.query["eventsUntilNumber"])
            kind = request.query.get("content")
            return web.json_response(self.event_bundle(*range(first, last + 1), kind="query-event", content=kind))
        if request.method == "POST":
            return self._keep({**await request.json(), "id": f"s{next(self._ids)}"}, 201)
        if request.method == "PUT":
            if own not in self.subscriptions:
                return web.Response(status=404)
            return self._keep(await request.json(), 200)
        if own:
            found = self.subscriptions.get(own)
            return web.Response(status=404) if found is None else web.json_response(self._shown(found))
        url = request.query.get("url")
        return self._search(
            request, [self._shown(each) for each in self.subscriptions.values() if url is None or endpoint_of(each) == url]
        )

    def _shown(self, sub: Body) -> Body:
        if self.hides_headers and "channel" in sub:
            return {**sub, "channel": {**sub["channel"], "header": ["Authorization: ***"]}}
        return sub

    def _keep(self, sub: Body, status: int) -> web.Response:
        self.subscriptions[sub["id"]] = sub
        if sub["status"] == "requested":
            task = asyncio.ensure_future(self._activate(sub))
            self._tasks.add(task)
        return web.json_response(self._shown(sub), status=status)

    async def _activate(self, sub: Body) -> None:
        good = not self.shakes_hands
        if self.shakes_hands:
            answer = await self.send_raw(self._bundle("handshake", sub=sub), sub=sub)
            good = 200 <= answer[0] < 300
        self.subscriptions[sub["id"]] = {**sub, "status": "active" if good else "error"}


async def _no_delay(request: web.Request) -> None:
    """At once."""


def headers_of(sub: Body) -> dict[str, str]:
    """What the subscription asks the server to send along."""
    if "parameter" in sub:
        return {each["name"]: each["value"] for each in sub["parameter"]}
    return dict(header.split(": ", 1) for header in sub["channel"]["header"])


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

    def answered(self, feed: str, status: int, problem: str, seconds: float) -> None:
        self.answers.append((status, problem))

    def faulted(self, fault: Exception) -> None:
        self.faults.append(fault)

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
            filters=(),
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
