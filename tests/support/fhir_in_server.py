"""A FHIR server that plays what servers do with subscriptions."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from pipeline.destinations.fhir.profile import load_profile
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Millis, revision_of
from pipeline.formats.fhir.naming import Naming
from pipeline.formats.fhir.owned import Body
from pipeline.formats.fhir.resources import RESOURCES
from pipeline.formats.fhir.revision import IN_EXTENSION, mark_of
from pipeline.sources.fhir.resource import Version, endpoint_of

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
    return IN_EXTENSION.put(body, mark_of(revision_of(1, 5), "ab" * 8, shown, DIGEST_KEY))


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
