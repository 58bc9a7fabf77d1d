"""The stand-in EHR's `$export`, as FHIR Bulk Data Access 2.0.0 has it: kick-off, status, files of NDJSON, delete."""

import itertools
from collections.abc import Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from pipeline.local.servers.standin_pages import Pages

Body = dict[str, Any]
NDJSON: Final = "application/fhir+ndjson"


class Exports:
    """Jobs under way. A file shows what there is when it is fetched."""

    def __init__(self, pages: Callable[[], Pages], polls: Callable[[], int]) -> None:
        """`polls`: how often a job says that it is not done; less than 0 where the server has no `$export`."""
        self._pages, self._polls = pages, polls
        self._jobs: dict[str, tuple[tuple[str, ...], int]] = {}
        self._numbers = itertools.count(1)

    def routes(self) -> list[web.RouteDef]:
        """Before those of a resource type."""
        return [
            web.get("/fhir/$export", self._begin),
            web.get("/fhir/$export-status/{job}", self._status),
            web.delete("/fhir/$export-status/{job}", self._delete),
            web.get("/fhir/$export-file/{job}/{type}", self._file),
        ]

    async def _begin(self, request: web.Request) -> web.Response:
        if self._polls() < 0:
            return _issue(404, "not-supported")
        if request.headers.get("Prefer") != "respond-async":
            return _issue(400, "invalid")
        job = str(next(self._numbers))
        self._jobs[job] = tuple(request.query.get("_type", "").split(",")), self._polls()
        return web.Response(status=202, headers={"Content-Location": f"http://{request.host}/fhir/$export-status/{job}"})

    async def _status(self, request: web.Request) -> web.Response:
        job = request.match_info["job"]
        types, left = self._jobs.get(job, ((), -1))
        if left < 0:
            return _issue(404, "not-found")
        if left:
            self._jobs[job] = types, left - 1
            return web.Response(status=202, headers={"Retry-After": "1", "X-Progress": f"{left} to come"})
        base = f"http://{request.host}/fhir"
        files = [{"type": kind, "url": f"{base}/$export-file/{job}/{kind}", "count": self._pages().count(kind)} for kind in types]
        return web.json_response(
            {
                "transactionTime": "2026-01-01T00:00:00Z",
                "request": f"{base}/$export",
                "requiresAccessToken": False,
                "output": [each for each in files if each["count"]],
                "error": [],
            }
        )

    async def _file(self, request: web.Request) -> web.Response:
        if request.match_info["job"] not in self._jobs:
            return _issue(404, "not-found")
        bodies = self._pages().every(request.match_info["type"])
        return web.Response(body=b"".join(msgspec.json.encode(body) + b"\n" for body in bodies), content_type=NDJSON)

    async def _delete(self, request: web.Request) -> web.Response:
        return web.Response(status=202 if self._jobs.pop(request.match_info["job"], None) else 404)


def _issue(status: int, code: str) -> web.Response:
    outcome: Body = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": code}]}
    return web.json_response(outcome, status=status)
