"""A whole server is read by one export where it has one, by pages where it refuses, and what is not whole is told as such."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import pytest
from aiohttp import web

from pipeline.destinations.auth.credentials import Authorised, NoToken
from pipeline.destinations.fhir.build import Builder
from pipeline.destinations.fhir.export import TRIES, BulkExport
from pipeline.destinations.fhir.profile import load_profile
from pipeline.destinations.fhir.survey import Survey, Unread
from pipeline.destinations.fhir_http import FhirHttp, system_clock
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Reason
from pipeline.formats.fhir import codec
from pipeline.local.ports import HOST
from pipeline.local.servers.standin import Behaviour, StandIn

PLENTY: Final = 1e6
BEDS: Final = 25
TYPES: Final = ("Encounter", "Location")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Bulk:
    """The stand-in, with answers of a test's own put before it, and a note of each request."""

    def __init__(self, polls: int = 2) -> None:
        self.standin = StandIn(PLENTY, PLENTY, "queue")
        self.standin.behave(Behaviour(PLENTY, PLENTY, export_polls=polls))
        for number in range(BEDS):
            self.standin.store.keep(f"Location/{number}", {"resourceType": "Location"}, 1)
        self.instead: dict[str, Handler] = {}
        self.credentials: Any = None
        self.asked: list[str] = []
        self.pauses: list[float] = []

    async def read(
        self, entity_type: EntityType = EntityType.BED, since: Millis | None = None
    ) -> tuple[list[Any], str, Reason | None]:
        """What a survey's pages hold, how they were read, and why not by export."""

        @web.middleware
        async def between(request: web.Request, handler: Handler) -> web.StreamResponse:
            self.asked.append(f"{request.method} {request.path}")
            first = next((own for part, own in self.instead.items() if f"/{part}" in f"{request.path}/"), handler)
            return await first(request)

        app = self.standin.app()
        app.middlewares.append(cast(Any, between))
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, HOST, 0)
        await site.start()
        port = runner.addresses[0][1]
        http = FhirHttp(f"http://{HOST}:{port}/fhir", {}, self.credentials, system_clock)
        builder = Builder(load_profile("sekmet-replica"), b"a key for tests, of 32 bytes....")
        survey = Survey(http, builder, 10, 2, 5.0, self._pause, BulkExport(http, TYPES, 5.0, self._pause))
        try:
            return [page async for page in survey.pages(entity_type, since)], survey.read_by, survey.export_refused
        finally:
            await survey.close()
            await runner.cleanup()

    async def _pause(self, wait_s: float) -> None:
        self.pauses.append(wait_s)


def ids(pages: list[Any]) -> set[str]:
    return {body["id"] for page in pages if not isinstance(page, Unread) for body in page}


ALL: Final = {str(number) for number in range(BEDS)}


async def test_a_whole_server_is_read_by_one_export_that_is_deleted_at_the_end() -> None:
    bulk = Bulk(polls=2)
    pages, read_by, refused = await bulk.read()
    assert (ids(pages), read_by, refused) == (ALL, "export", None)
    assert max(len(page) for page in pages) <= 10, "a page at a time is in memory"
    assert bulk.pauses == [1.0, 1.0], "as slowly as the server asks for"
    assert bulk.asked[0] == "GET /fhir/$export"
    assert bulk.asked[-1].startswith("DELETE /fhir/$export-status/")
    assert not any(each == "GET /fhir/Location" for each in bulk.asked)


async def test_a_type_without_resources_has_no_file_and_is_read_whole() -> None:
    pages, read_by, _ = await Bulk().read(EntityType.ENCOUNTER)
    assert (pages, read_by) == ([], "export")


async def test_what_changed_and_what_the_export_does_not_cover_is_read_by_pages() -> None:
    assert (await Bulk().read(since=Millis(0)))[1] == "pages"
    bulk = Bulk()
    assert (await bulk.read(EntityType.PATIENT))[1:] == ("pages", None)
    assert not any("export" in each for each in bulk.asked)


def answering(status: int, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None) -> Handler:
    async def handle(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers=headers) if body is None else web.json_response(body, status=status)

    return handle


ELSEWHERE: Final = {"type": "Location", "url": "https://elsewhere.example.org/other/file", "count": 1}
FAILED: Final = {"type": "OperationOutcome", "url": "/fhir/errors"}


HAPI_SAYS: Final = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "not-supported"}]}
"""HAPI FHIR 8.8 without its bulk module."""


@pytest.mark.parametrize(
    ("where", "handler", "reason"),
    [
        ("$export/", answering(403), Reason.REFUSED_FORBIDDEN),
        ("$export/", answering(501), Reason.REFUSED_OTHER),
        ("$export/", answering(400, HAPI_SAYS), Reason.REFUSED_INVALID),
        ("$export/", answering(429), Reason.RATE_LIMITED),
        ("$export/", answering(202), Reason.ERROR_IN_BODY),
        (
            "$export/",
            answering(202, headers={"Content-Location": "https://elsewhere.example.org/other/job"}),
            Reason.ERROR_IN_BODY,
        ),
        ("$export-status/", answering(500), Reason.UNAVAILABLE),
        ("$export-status/", answering(410), Reason.REFUSED_GONE),
        ("$export-status/", answering(200, {"output": [ELSEWHERE], "error": []}), Reason.ERROR_IN_BODY),
        ("$export-status/", answering(200, {"output": [], "error": [FAILED]}), Reason.ERROR_IN_BODY),
        ("$export-status/", answering(200, {"resourceType": "Bundle"}), Reason.ERROR_IN_BODY),
        ("$export-status/", answering(202), Reason.TIMEOUT),
    ],
    ids=lambda each: each if isinstance(each, str) else None,
)
async def test_a_server_that_gives_no_export_is_read_by_pages_and_it_is_told(
    where: str, handler: Handler, reason: Reason
) -> None:
    bulk = Bulk()
    bulk.instead[where] = handler
    pages, read_by, refused = await bulk.read()
    assert (ids(pages), read_by) == (ALL, "pages")
    assert refused is reason
    assert not any(isinstance(page, Unread) for page in pages)


async def test_a_server_without_export_is_asked_once() -> None:
    bulk = Bulk(polls=-1)
    pages, read_by, refused = await bulk.read()
    assert (ids(pages), read_by, refused) == (ALL, "pages", Reason.REFUSED_MISSING)
    assert sum("export" in each for each in bulk.asked) == 1


def cut_after(lines: int, times: int) -> tuple[Handler, list[int]]:
    """A file that breaks off after some lines, so often; then it is whole."""
    broke: list[int] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/fhir+ndjson"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        for number in range(BEDS):
            if number == lines and len(broke) < times:
                broke.append(1)
                assert request.transport is not None
                request.transport.abort()
                return response
            await response.write(codec.encode({"resourceType": "Location", "id": str(number)}) + b"\n")
        return response

    return handle, broke


async def test_a_file_that_breaks_off_is_read_anew_and_one_that_stays_broken_is_unread() -> None:
    bulk = Bulk(polls=0)
    bulk.instead["$export-file/"], broke = cut_after(13, 1)
    pages, _, _ = await bulk.read()
    assert (ids(pages), len(broke)) == (ALL, 1)
    bulk.instead["$export-file/"], _ = cut_after(13, 99)
    pages, _, refused = await bulk.read()
    assert (pages[-1], refused) == (Unread(Reason.CONNECTION), None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"resourceType":"Location","id":"1"}\n', Reason.ERROR_IN_BODY),
        (b'{"resourceType":"Location"\n' * BEDS, Reason.ERROR_IN_BODY),
        (b"x" * (codec.MAX_BODY_BYTES + 70_000), Reason.CONNECTION),
    ],
    ids=["fewer than it said", "no JSON", "a line without an end"],
)
async def test_a_file_that_is_not_whole_is_never_taken_for_absence(text: bytes, reason: Reason) -> None:
    async def handle(_: web.Request) -> web.StreamResponse:
        return web.Response(body=text)

    bulk = Bulk(polls=0)
    bulk.instead["$export-file/"] = handle
    pages, read_by, _ = await bulk.read()
    assert (pages[-1], read_by) == (Unread(reason), "export")


async def test_an_export_that_takes_too_long_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.destinations.fhir.export.MAX_EXPORT_S", 0.05)
    bulk = Bulk(polls=1_000_000)

    async def slow(_: float) -> None:
        await asyncio.sleep(0.02)

    bulk._pause = slow  # type: ignore[assignment, method-assign]
    pages, read_by, refused = await bulk.read()
    assert (ids(pages), read_by, refused) == (ALL, "pages", Reason.TIMEOUT)
    assert any(each.startswith("DELETE") for each in bulk.asked)


class Tokens:
    """Credentials of which there is one, and after a refusal what `renewed` says."""

    def __init__(self, renewed: Authorised | NoToken | None) -> None:
        self.now = Authorised("Bearer 0")
        self.renewed = renewed

    async def authorise(self, within_s: float) -> Authorised:
        return self.now

    async def renew(self, refused: Authorised, within_s: float) -> Authorised | NoToken | None:
        if isinstance(self.renewed, Authorised):
            self.now = self.renewed
        return self.renewed

    async def close(self) -> None:
        return None


@pytest.mark.parametrize(
    ("renewed", "asked", "unread"),
    [
        (Authorised("Bearer 1"), ["Bearer 0", "Bearer 1"], []),
        (None, ["Bearer 0"] * TRIES, [Unread(Reason.UNAUTHENTICATED)]),
        (NoToken(5.0), ["Bearer 0"] * TRIES, [Unread(Reason.NO_TOKEN)]),
        (Authorised("Bearer 2"), ["Bearer 0", *["Bearer 2"] * (2 * TRIES - 1)], [Unread(Reason.UNAUTHENTICATED)]),
    ],
    ids=["renewed", "none is better", "none is to be had", "refused as well"],
)
async def test_a_file_whose_token_is_refused_is_asked_for_once_more_with_another(
    renewed: Authorised | NoToken | None, asked: list[str], unread: list[Unread]
) -> None:
    """Tokens may live for five minutes, an export's files take longer."""
    bulk = Bulk()
    bulk.credentials = Tokens(renewed)
    tried: list[str] = []

    async def once(request: web.Request) -> web.StreamResponse:
        tried.append(request.headers["Authorization"])
        if tried[-1] != "Bearer 1":
            return web.Response(status=401)
        lines = (codec.encode({"resourceType": "Location", "id": number}) for number in sorted(ALL))
        return web.Response(body=b"\n".join(lines))

    bulk.instead["$export-file/"] = once
    pages, _, _ = await bulk.read()
    assert tried == asked
    assert [page for page in pages if isinstance(page, Unread)] == unread
    assert ids(pages) == (set() if unread else ALL)
