"""A FHIR server of a hundred lines that does what it is told to do wrong, and makers of writes."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, unquote

from aiohttp import web
from aiohttp.test_utils import TestServer

from pipeline.destinations.fhir.build import Builder
from pipeline.destinations.protocol import PendingWrite
from pipeline.domain.event import EntityType, EventType, Payload
from pipeline.domain.identifiers import EventId, Millis, Revision, revision_of
from pipeline.domain.records import Accepted, Lane
from pipeline.formats.fhir.revision import changed_fields_at_ehr

Body = dict[str, Any]
DIGEST_KEY = b"a key for tests, of 32 bytes....."
FAR_MS = 60_000


class FakeFhir:
    """Resources with versions, conditional creates in transactions, If-Match and If-None-Match, and scripted faults.

    `fault` sees each write before it is done: it may answer in the server's place, or return None. `lose_answers` makes
    the server do the next n writes and then drop the connection.
    """

    def __init__(self) -> None:
        self.resources: dict[str, Body] = {}
        self.urls: list[str] = []
        self.writes = 0
        self.fault: Callable[[web.Request], web.StreamResponse | None] = lambda request: None
        self.lose_answers = 0
        self.stall = asyncio.Event()
        self.stall.set()
        self._ids = itertools.count(1)
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_route("*", "/fhir{tail:.*}", self._handle)
        async with TestServer(app) as server:
            yield str(server.make_url("/fhir"))

    def put(self, body: Body) -> Body:
        key = f"{body['resourceType']}/{body['id']}"
        version = int(self.resources.get(key, {}).get("meta", {}).get("versionId", "0")) + 1
        self.resources[key] = {**body, "meta": {**body.get("meta", {}), "versionId": str(version)}}
        self.writes += 1
        return self.resources[key]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.urls.append(str(request.rel_url))
        path = request.match_info["tail"].strip("/")
        if request.method == "GET":
            return self._read(path)
        if path.endswith("/_search"):
            return self._search(path.partition("/")[0], parse_qs(await request.text()))
        if (answer := self.fault(request)) is not None:
            return answer
        body = json.loads(await request.read())
        async with self._lock:
            answer = self._transaction(body) if path == "" else self._put(path, body, request.headers)
        if self.lose_answers > 0:
            self.lose_answers -= 1
            assert request.transport is not None
            request.transport.abort()
        await self.stall.wait()
        return answer

    def _read(self, path: str) -> web.Response:
        body = self.resources.get(path)
        if body is None:
            return outcome(404, "not-found")
        if "deleted" in body:
            return outcome(410, "deleted")
        return web.json_response(body, headers={"ETag": f'W/"{body["meta"]["versionId"]}"'})

    def _search(self, resource_type: str, form: dict[str, list[str]]) -> web.Response:
        found = self._matching(resource_type, form["identifier"][0])
        return web.json_response({"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": body} for body in found]})

    def _matching(self, resource_type: str, token: str) -> list[Body]:
        system, value = _unescaped_parts(token)
        return [
            body
            for body in self.resources.values()
            if body["resourceType"] == resource_type and {"system": system, "value": value} in body.get("identifier", [])
        ]

    def _put(self, path: str, body: Body, headers: Any) -> web.Response:
        existing, fence = self.resources.get(path), headers.get("If-Match")
        if "deleted" in (existing or {}):
            return outcome(410, "deleted")
        if fence is not None and (existing is None or f'W/"{existing["meta"]["versionId"]}"' != fence):
            return outcome(412, "conflict")
        if headers.get("If-None-Match") == "*" and existing is not None:
            return outcome(412, "conflict")
        stored = self.put(body)
        status = 200 if existing else 201
        return web.Response(status=status, headers={"ETag": f'W/"{stored["meta"]["versionId"]}"'})

    def _transaction(self, bundle: Body) -> web.Response:
        names: dict[str, str] = {}
        for entry in bundle["entry"]:
            request, resource = entry["request"], entry["resource"]
            if request["method"] == "PUT":
                names[entry["fullUrl"]] = request["url"]
                existing = self.resources.get(request["url"])
                if existing is None or f'W/"{existing["meta"]["versionId"]}"' != request.get("ifMatch"):
                    return outcome(412, "conflict")
                continue
            found = self._matching(resource["resourceType"], unquote(request["ifNoneExist"].partition("=")[2]))
            if len(found) > 1:
                return outcome(412, "multiple-matches")
            names[entry["fullUrl"]] = f"{resource['resourceType']}/{found[0]['id'] if found else next(self._ids)}"
        answers = [self._entry(entry, names) for entry in bundle["entry"]]
        return web.json_response({"resourceType": "Bundle", "type": "transaction-response", "entry": answers})

    def _entry(self, entry: Body, names: dict[str, str]) -> Body:
        key = names[entry["fullUrl"]]
        existing = self.resources.get(key)
        stored = existing
        if existing is None or entry["request"]["method"] == "PUT":
            text = json.dumps(entry["resource"])
            for urn, name in names.items():
                text = text.replace(json.dumps(urn), json.dumps(name))
            stored = self.put({**json.loads(text), "id": key.partition("/")[2]})
        assert stored is not None
        version = stored["meta"]["versionId"]
        status = "201 Created" if existing is None else "200 OK"
        return {"response": {"status": status, "location": f"{key}/_history/{version}", "etag": f'W/"{version}"'}}


def _unescaped_parts(token: str) -> tuple[str, str]:
    """System and value of a token; a backslash escapes the character after it."""
    parts, escaped = [""], False
    for character in token:
        if not escaped and character == "|":
            parts.append("")
        elif escaped or character != "\\":
            parts[-1] += character
        escaped = character == "\\" and not escaped
    return parts[0], parts[1]


def outcome(status: int, code: str, severity: str = "error", headers: dict[str, str] | None = None) -> web.Response:
    """An OperationOutcome with words in it that must go nowhere."""
    issue = {"severity": severity, "code": code, "diagnostics": "CANARY Zanzibar-4711 was refused"}
    return web.json_response({"resourceType": "OperationOutcome", "issue": [issue]}, status=status, headers=headers)


def accepted(
    state: Payload, entity_id: str, offset: int, entity_type: EntityType = EntityType.BED, state_hash: str = ""
) -> Accepted:
    """An accepted record at `offset` of epoch 1."""
    revision = revision_of(1, offset)
    return Accepted(
        event_id=EventId(f"{offset:032x}"),
        tenant="t1",
        facility="MAIN",
        entity_type=entity_type,
        namespace="MAIN",
        entity_id=entity_id,
        event_type=EventType.UPDATE,
        source_system="capacity",
        feed="http",
        epoch=1,
        partition=0,
        offset=offset,
        revision=revision,
        previous_revision=Revision(0),
        lane=Lane.ROUTINE,
        changed=(),
        state=state,
        state_hash=state_hash or f"{offset:016x}",
        content_hash="0" * 16,
        recorded_at=Millis(0),
        received_at=Millis(0),
        accepted_at=Millis(0),
        policy_version="1",
    )


def pending(record: Accepted, remote_id: str | None = None, etag: str | None = None, within_ms: int = FAR_MS) -> PendingWrite:
    """A write that is due within `within_ms`."""
    return PendingWrite(record, remote_id, etag, 1, Millis(time.time_ns() // 1_000_000 + within_ms))


def changed_at_ehr(builder: Builder, record: Accepted, body: Body) -> tuple[str, ...] | None:
    """Fields of the record's entity that somebody changed at the EHR since we wrote the revision that `body` carries."""
    subject = builder.subject(record)
    shown = subject.resource.shown(body, subject.ident, subject.naming)
    return changed_fields_at_ehr(body, shown, builder.digest_key, builder.carrier)
