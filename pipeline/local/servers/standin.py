"""A stand-in for an EHR that takes so much and no more: versions, ETags, If-Match, bundles, and a cap.

For measuring and for tests. It keeps everything in memory and answers as a FHIR R4 server does. Requests by themselves and
resources in bundles have a cap each; what is over it waits (`queue`) or is answered 429 (`refuse`), with a time or without.
It can be slow, and out. It remembers what it was asked when, and of each resource which revisions it showed in which order:
a witness that is none of ours.

As a process of its own: `python -m pipeline.local.servers.standin --port N --singles 400 --resources 2000 --mode queue`.
"""

import argparse
import asyncio
import itertools
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import parse_qs, unquote

import msgspec
import uvloop
from aiohttp import web

from pipeline.formats.fhir.revision import read_mark
from pipeline.local.ports import HOST
from pipeline.local.servers.standin_export import Exports
from pipeline.local.servers.standin_pages import Pages, parts_of, tokens_of

Body = dict[str, Any]
Mode = Literal["queue", "refuse"]

BUCKET_S: Final = 0.25
"""What may come at once after a pause: a quarter of a second's worth."""

STEP_MS: Final = 100
"""Requests are counted by steps of this length."""

MAX_WAIT_S: Final = 60.0
MAX_BODY_BYTES: Final = 64 * 1024 * 1024
JSON: Final = "application/fhir+json"


class Bucket:
    """Tokens at `per_s`; a debt is waited for in turn."""

    def __init__(self, per_s: float, mode: Mode, burst_s: float = BUCKET_S) -> None:
        self._per_s, self._mode = per_s, mode
        self._tokens, self._most = 0.0, max(1.0, per_s * burst_s)
        self._at_s = time.monotonic()

    async def take(self, count: int) -> bool:
        """Whether `count` were to be had; in mode `queue` after waiting for them."""
        now = time.monotonic()
        self._tokens = min(self._most, self._tokens + (now - self._at_s) * self._per_s)
        self._at_s = now
        if self._mode == "refuse" and self._tokens < min(count, self._most):
            return False
        self._tokens -= count
        if self._tokens < 0:
            await asyncio.sleep(min(MAX_WAIT_S, -self._tokens / self._per_s))
        return True


@dataclass(slots=True)
class Counts:
    """What it did so far."""

    reads: int = 0
    writes: int = 0
    mismatches: int = 0
    requests: int = 0
    bundles: int = 0
    refused: int = 0


@dataclass(slots=True)
class Store:
    """Resources by `type/id`, each with its version."""

    resources: dict[str, tuple[int, Body]] = field(default_factory=dict)
    shown: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """Of each resource the revision that each version carried (0 for none), and when it was made, ms."""
    by_identifier: dict[tuple[str, str, str], set[str]] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    _ids: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def read(self, key: str) -> tuple[int, Body | None]:
        """Status and body."""
        self.counts.reads += 1
        known = self.resources.get(key)
        return (404, None) if known is None else (200, known[1])

    def put(self, key: str, body: Body, if_match: str | None, if_none_match: str | None) -> tuple[int, int]:
        """Status and version."""
        version, before = self.resources.get(key, (0, None))
        if (if_match is not None and if_match != f'W/"{version}"') or (if_none_match is not None and before is not None):
            self.counts.mismatches += 1
            return 412, version
        return (200 if before is not None else 201), self.keep(key, body, version + 1)

    def create(self, resource_type: str, body: Body, if_none_exist: str | None) -> tuple[int, str]:
        """Status and `type/id`."""
        if if_none_exist is not None:
            found = self.search(resource_type, unquote(if_none_exist.partition("=")[2]))
            if found:
                return (200, found[0]) if len(found) == 1 else (412, "")
        key = f"{resource_type}/{next(self._ids)}"
        self.keep(key, body, 1)
        return 201, key

    def search(self, resource_type: str, token: str) -> list[str]:
        """`type/id` of what carries an identifier, or one of several with commas between."""
        self.counts.reads += 1
        found = (self.by_identifier.get((resource_type, *parts_of(each)), set()) for each in tokens_of(token))
        return sorted(set[str]().union(*found))

    def forget(self, key: str) -> None:
        """Delete a resource, as somebody else may."""
        _, body = self.resources.pop(key, (0, None))
        for each in body.get("identifier", ()) if body is not None else ():
            self.by_identifier.get((key.partition("/")[0], each.get("system", ""), each.get("value", "")), set()).discard(key)

    def keep(self, key: str, body: Body, version: int) -> int:
        """Store a version."""
        self.counts.writes += 1
        resource_type, _, remote_id = key.partition("/")
        kept = {**body, "id": remote_id, "meta": {**body.get("meta", {}), "versionId": str(version)}}
        self.resources[key] = version, kept
        mark = read_mark(kept)
        self.shown.setdefault(key, []).append((mark.revision if mark is not None else 0, time.time_ns() // 1_000_000))
        for each in body.get("identifier", ()):
            self.by_identifier.setdefault((resource_type, each.get("system", ""), each.get("value", "")), set()).add(key)
        return version


class Behaviour(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How it is at the moment. The caps are of requests that are no bundle, and of resources in bundles.

    `latency_s` is what an answer takes beyond its waiting; `retry_after_s` (0 for none) goes with each 429; `out`: whoever
    asks loses the connection; `export_polls`: how often an `$export` says that it is not done (-1: there is none).
    """

    singles_per_s: float = 400.0
    resources_per_s: float = 2_000.0
    mode: Mode = "queue"
    burst_s: float = BUCKET_S
    latency_s: float = 0.0
    retry_after_s: int = 0
    out: bool = False
    export_polls: int = -1


class Witness(msgspec.Struct, frozen=True):
    """What it saw. `arrivals`: per step (its beginning in ms) how many requests were taken, refused, and cut off."""

    shown: dict[str, list[tuple[int, int]]]
    arrivals: list[tuple[int, int, int, int]]


class StandIn:
    """The server."""

    def __init__(self, singles_per_s: float, resources_per_s: float, mode: Mode) -> None:
        self.store = Store()
        self._arrivals: dict[int, list[int]] = {}
        self._pages = Pages(lambda: self.store)
        self._exports = Exports(lambda: self._pages, lambda: self._behaviour.export_polls)
        self.behave(Behaviour(singles_per_s, resources_per_s, mode))

    def behave(self, behaviour: Behaviour) -> None:
        """From now on; what waits goes on waiting as it began."""
        self._behaviour = behaviour
        self._singles = Bucket(behaviour.singles_per_s, behaviour.mode, behaviour.burst_s)
        self._resources = Bucket(behaviour.resources_per_s, behaviour.mode, behaviour.burst_s)

    def app(self) -> web.Application:
        """Serves `/fhir`; `/stats` has the counts, `/witness` all that it saw, `/seed` takes a list of resources outside the
        caps and `/forget` a list of `type/id`, `/behave` a `Behaviour`."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.add_routes(
            [
                web.get("/fhir/metadata", self._metadata),
                web.get("/stats", self._stats),
                web.get("/witness", self._tell),
                web.post("/behave", self._change),
                web.post("/seed", self._seed),
                web.post("/forget", self._forget),
                *self._exports.routes(),
                web.get("/fhir/{type}", self._paged),
                web.post("/fhir", self._bundle),
                web.post("/fhir/{type}/_search", self._search),
                web.get("/fhir/{type}/{id}", self._read),
                web.put("/fhir/{type}/{id}", self._put),
            ]
        )
        return app

    async def _metadata(self, _: web.Request) -> web.Response:
        return _answer(200, {"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1"})

    async def _stats(self, _: web.Request) -> web.Response:
        counts = self.store.counts
        return web.json_response({name: getattr(counts, name) for name in Counts.__slots__})

    async def _tell(self, _: web.Request) -> web.Response:
        arrivals = [(step * STEP_MS, *counts) for step, counts in sorted(self._arrivals.items())]
        return web.Response(body=msgspec.json.encode(Witness(self.store.shown, arrivals)))  # type: ignore[arg-type]

    async def _change(self, request: web.Request) -> web.Response:
        self.behave(msgspec.json.decode(await request.read(), type=Behaviour))
        return web.Response(status=204)

    async def _seed(self, request: web.Request) -> web.Response:
        for body in msgspec.json.decode(await request.read()):
            self.store.keep(f"{body['resourceType']}/{body['id']}", body, 1)
        return web.json_response({"resources": len(self.store.resources)})

    async def _forget(self, request: web.Request) -> web.Response:
        for key in msgspec.json.decode(await request.read()):
            self.store.forget(key)
        return web.Response(status=204)

    async def _paged(self, request: web.Request) -> web.Response:
        if (refusal := await self._refusal(request, self._singles, 1)) is not None:
            return refusal
        self.store.counts.reads += 1
        return _answer(200, self._pages.page(f"http://{request.host}/fhir", request.match_info["type"], request.query))

    async def _read(self, request: web.Request) -> web.Response:
        if (refusal := await self._refusal(request, self._singles, 1)) is not None:
            return refusal
        status, body = self.store.read(_key(request))
        return _outcome(404) if body is None else _answer(status, body, {"ETag": f'W/"{body["meta"]["versionId"]}"'})

    async def _search(self, request: web.Request) -> web.Response:
        if (refusal := await self._refusal(request, self._singles, 1)) is not None:
            return refusal
        form = parse_qs(await request.text())
        found = self.store.search(request.match_info["type"], form.get("identifier", [""])[0])
        entries = [{"resource": self.store.resources[key][1]} for key in found]
        return _answer(200, {"resourceType": "Bundle", "type": "searchset", "entry": entries})

    async def _put(self, request: web.Request) -> web.Response:
        if (refusal := await self._refusal(request, self._singles, 1)) is not None:
            return refusal
        body = msgspec.json.decode(await request.read())
        headers = request.headers
        status, version = self.store.put(_key(request), body, headers.get("If-Match"), headers.get("If-None-Match"))
        return _outcome(412) if status == 412 else web.Response(status=status, headers={"ETag": f'W/"{version}"'})

    async def _bundle(self, request: web.Request) -> web.Response:
        bundle = msgspec.json.decode(await request.read())
        entries = bundle.get("entry", [])
        single = bundle.get("type") == "transaction" and len(entries) == 1
        self.store.counts.bundles += 1
        if (refusal := await self._refusal(request, self._singles if single else self._resources, len(entries))) is not None:
            return refusal
        if bundle.get("type") == "batch":
            return _answer(200, _bundle_of("batch-response", [self._entry(entry) for entry in entries]))
        return self._transaction(entries, "return=representation" in request.headers.getall("Prefer", ()))

    def _transaction(self, entries: list[Body], shown: bool) -> web.Response:
        """All or nothing: conditions are looked at before anything is done. What is made is shown to whom it likes to see it."""
        for entry in entries:
            wanted = entry["request"]
            version = self.store.resources.get(wanted["url"], (0, None))[0]
            if wanted["method"] == "PUT" and wanted.get("ifMatch", f'W/"{version}"') != f'W/"{version}"':
                self.store.counts.mismatches += 1
                return _outcome(412)
        answers = []
        names: dict[str, str] = {}
        for entry in entries:
            answer = self._entry({**entry, "resource": _renamed(entry["resource"], names)})
            if "fullUrl" in entry and "location" in answer["response"]:
                names[entry["fullUrl"]] = answer["response"]["location"].partition("/_history/")[0]
            if shown and (key := answer["response"].get("location", "").partition("/_history/")[0]) in self.store.resources:
                answer["resource"] = self.store.resources[key][1]
            answers.append(answer)
        return _answer(200, _bundle_of("transaction-response", answers))

    def _entry(self, entry: Body) -> Body:
        wanted = entry["request"]
        match wanted["method"]:
            case "GET":
                status, body = self.store.read(wanted["url"])
                return {"response": {"status": str(status)}} | ({"resource": body} if body is not None else {})
            case "PUT":
                key = wanted["url"]
                status, version = self.store.put(key, entry["resource"], wanted.get("ifMatch"), wanted.get("ifNoneMatch"))
            case "POST":
                status, key = self.store.create(wanted["url"], entry["resource"], wanted.get("ifNoneExist"))
                version = self.store.resources.get(key, (0, None))[0]
            case _:
                status, key, version = 405, "", 0
        if status >= 400:
            return {"response": {"status": str(status), "outcome": _issue(status)}}
        told = {"status": str(status), "location": f"{key}/_history/{version}", "etag": f'W/"{version}"'}
        return {"response": told}

    async def _refusal(self, request: web.Request, bucket: Bucket, count: int) -> web.Response | None:
        """None once it is the request's turn; nothing has been done before that."""
        counts, now, behaviour = self._arrivals.setdefault(_step(), [0, 0, 0]), self.store.counts, self._behaviour
        now.requests += 1
        if behaviour.out:
            counts[2] += 1
            return _cut_off(request)
        admitted = await bucket.take(count)
        counts[0 if admitted else 1] += 1
        if not admitted:
            now.refused += 1
            return _outcome(429, behaviour.retry_after_s)
        if behaviour.latency_s > 0:
            await asyncio.sleep(behaviour.latency_s)
        return _cut_off(request) if self._behaviour.out else None


def _step() -> int:
    return time.time_ns() // (STEP_MS * 1_000_000)


def _cut_off(request: web.Request) -> web.Response:
    """The connection is gone; what is returned reaches nobody."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=503)


def _renamed(resource: Body, names: Mapping[str, str]) -> Body:
    if not names:
        return resource
    text = msgspec.json.encode(resource)
    for urn, name in names.items():
        text = text.replace(msgspec.json.encode(urn), msgspec.json.encode(name))
    renamed: Body = msgspec.json.decode(text)
    return renamed


def _key(request: web.Request) -> str:
    return f"{request.match_info['type']}/{request.match_info['id']}"


def _bundle_of(kind: str, entries: list[Body]) -> Body:
    return {"resourceType": "Bundle", "type": kind, "entry": entries}


def _issue(status: int) -> Body:
    code = {404: "not-found", 412: "conflict", 429: "throttled"}.get(status, "processing")
    return {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": code}]}


def _outcome(status: int, retry_after_s: int = 0) -> web.Response:
    return _answer(status, _issue(status), {"Retry-After": str(retry_after_s)} if retry_after_s else None)


def _answer(status: int, body: Body, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(body), content_type=JSON, headers=headers)


async def _main(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for wanted in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(wanted, stop.set)
    runner = web.AppRunner(StandIn(arguments.singles, arguments.resources, arguments.mode).app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, arguments.port).start()
    sys.stdout.write(f"http://{HOST}:{arguments.port}/fhir\n")
    sys.stdout.flush()
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A stand-in for an EHR that takes so much and no more.")
    parser.add_argument("--port", type=int, required=True, help="port to listen on")
    parser.add_argument("--singles", type=float, default=400.0, help="requests in a second that are no bundle")
    parser.add_argument("--resources", type=float, default=2_000.0, help="resources in bundles in a second")
    parser.add_argument("--mode", choices=("queue", "refuse"), default="queue", help="what happens beyond that")
    uvloop.run(_main(parser.parse_args()))
