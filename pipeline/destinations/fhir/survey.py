"""What a FHIR server shows, read by pages and without writing: for comparing, not for writing.

A page at a time is in memory. Each answer is a value: what could not be read is told as such and never taken for absence.
Names go by POST (`_search`), so that no identifier gets into a URL.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlencode

from pipeline.destinations.fhir.answers import RESOURCE_ID
from pipeline.destinations.fhir.build import Builder
from pipeline.destinations.fhir.export import BulkExport, ExportFile, NoExport
from pipeline.destinations.fhir_http import Answer, FhirHttp, NotSent
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Reason
from pipeline.formats.fhir.links import below
from pipeline.formats.fhir.naming import RESOURCE_TYPE, Ident
from pipeline.formats.fhir.outcome import classify
from pipeline.formats.fhir.owned import Body, elements
from pipeline.formats.rfc3339 import rfc3339_of

MAX_PAGES: Final = 20_000
"""Pages of one resource type: at 200 a page four million resources."""
TRIES: Final = 4
"""How often one page is asked for."""
PAUSE_S: Final = 0.5
MAX_PAUSE_S: Final = 30.0
"""Between two tries: doubled from the first on, or what the server asks for, within these."""
NAMES_AT_ONCE: Final = 20
"""Identifiers asked for in one search."""
FOUND_COUNT: Final = 100
"""Matches asked for in such a search, more than can be meant."""
FOUND_PAGES: Final = 10
SHORT_SHARE: Final = 0.02
SHORT_LEAST: Final = 10
"""What pages may lack of the total that the server told, because it changes meanwhile; beyond it the answer was cut short."""

_HEADERS: Final = (("Cache-Control", "no-cache"),)
_STRICT: Final = (*_HEADERS, ("Prefer", "handling=strict"))


@dataclass(frozen=True, slots=True)
class Unread:
    """It can't be told what is there. `reason` is one of a bounded set."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class _Page:
    """Some of what a search found, the target of the next page, and how many there are in all, where the server says so."""

    resources: tuple[Body, ...]
    next_target: str | None
    total: int | None


class Survey:
    """Reads one server. At most `at_once` requests are under way; `timeout_s` bounds each of them.

    With an `export` everything is read by that, and by pages only where the server refuses it, or what has changed.
    """

    def __init__(
        self,
        http: FhirHttp,
        builder: Builder,
        page_count: int,
        at_once: int,
        timeout_s: float,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        export: BulkExport | None = None,
    ) -> None:
        self._http = http
        self._export = export
        self._builder = builder
        self._page_count = page_count
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(at_once)
        self._pause = pause

    async def pages(self, entity_type: EntityType, since: Millis | None) -> AsyncIterator[tuple[Body, ...] | Unread]:
        """Every resource of a type, or those changed at `since` or later by the server's clock; the last is Unread where it broke
        off, or told less than it said that there is. A resource may come twice, or not at all if pages shift meanwhile.
        """
        if since is None and self._export is not None and self._export.covers(RESOURCE_TYPE[entity_type]):
            files = await self._export.files(RESOURCE_TYPE[entity_type])
            if not isinstance(files, NoExport):
                async for part in self._exported(self._export, files):
                    yield part
                return
        terms: dict[str, object] = {"_count": self._page_count}
        if since is not None:
            terms |= {"_lastUpdated": f"ge{rfc3339_of(max(since, 0))}", "_sort": "_lastUpdated"}
        first = f"{RESOURCE_TYPE[entity_type]}?{urlencode(terms, safe=':')}"
        target: str | None = self._builder.under_base(entity_type, first)
        told: int | None = None
        seen = 0
        for _ in range(MAX_PAGES):
            assert target is not None
            page = await self._page("GET", target, _HEADERS, None)
            if isinstance(page, Unread):
                yield page
                return
            told = page.total if told is None else told
            seen += len(page.resources)
            yield page.resources
            if (target := page.next_target) is None:
                break
        if target is not None or (told is not None and seen < told - max(SHORT_LEAST, told * SHORT_SHARE)):
            yield Unread(Reason.ERROR_IN_BODY)

    async def _exported(self, export: BulkExport, files: Sequence[ExportFile]) -> AsyncIterator[tuple[Body, ...] | Unread]:
        for file in files:
            page: list[Body] = []
            async with self._slots:
                async for each in export.resources(file):
                    if isinstance(each, Reason):
                        yield tuple(page)
                        yield Unread(each)
                        return
                    page.append(each)
                    if len(page) >= self._page_count:
                        yield tuple(page)
                        page = []
            yield tuple(page)

    @property
    def export_refused(self) -> Reason | None:
        """Why the server was read by pages though it has an export; None where it was not."""
        return self._export.refused if self._export is not None else None

    @property
    def read_by(self) -> str:
        """How the server was read: `export` or `pages`."""
        return "export" if self._export is not None and self._export.is_read else "pages"

    async def find(self, entity_type: EntityType, idents: Sequence[Ident]) -> list[Body] | Unread:
        """Every resource of a type that carries one of these identifiers, at most `NAMES_AT_ONCE` of them."""
        found = await self._search(entity_type, idents)
        if isinstance(found, Unread) and found.reason is Reason.REFUSED_INVALID and len(idents) > 1:
            # Not every server takes several at once.
            alone = await asyncio.gather(*(self._search(entity_type, [ident]) for ident in idents))
            whole = [body for each in alone if not isinstance(each, Unread) for body in each]
            return next((each for each in alone if isinstance(each, Unread)), whole)
        return found

    async def read(self, entity_type: EntityType, remote_id: str) -> Body | Unread | None:
        """The resource of this id; None where there is none (404, 410)."""
        if not RESOURCE_ID.fullmatch(remote_id):
            return Unread(Reason.REFUSED_INVALID)
        target = self._builder.under_base(entity_type, f"{RESOURCE_TYPE[entity_type]}/{remote_id}")
        answer = await self._asked("GET", target, _HEADERS, None, absent=True)
        if isinstance(answer, Unread):
            return answer
        if answer.status in (404, 410):
            return None
        body = answer.body or {}
        return body if body.get("resourceType") == RESOURCE_TYPE[entity_type] else Unread(Reason.ERROR_IN_BODY)

    async def close(self) -> None:
        """Close the connections; of an export nothing is left at the server."""
        if self._export is not None:
            await self._export.close()
        await self._http.close()

    async def _search(self, entity_type: EntityType, idents: Sequence[Ident]) -> list[Body] | Unread:
        form = {"identifier": ",".join(ident.token() for ident in idents), "_count": str(FOUND_COUNT)}
        target = self._builder.under_base(entity_type, f"{RESOURCE_TYPE[entity_type]}/_search")
        page = await self._page("POST", target, _STRICT, form)
        found: list[Body] = []
        for _ in range(FOUND_PAGES):
            if isinstance(page, Unread):
                return page
            found += page.resources
            if page.next_target is None:
                return found
            page = await self._page("GET", page.next_target, _HEADERS, None)
        return Unread(Reason.MULTIPLE_MATCHES)

    async def _page(
        self, method: Literal["GET", "POST"], target: str, headers: tuple[tuple[str, str], ...], form: Mapping[str, str] | None
    ) -> _Page | Unread:
        answer = await self._asked(method, target, headers, form)
        if isinstance(answer, Unread):
            return answer
        body = answer.body
        if body is None or body.get("resourceType") != "Bundle":
            return Unread(Reason.ERROR_IN_BODY)
        resources = tuple(
            resource
            for entry in elements(body, "entry")
            if _is_match(entry) and isinstance(resource := entry.get("resource"), dict)
        )
        total = body.get("total")
        links = [link.get("url") for link in elements(body, "link") if link.get("relation") == "next"]
        following = below(self._http.base_url, links[0]) if links and isinstance(links[0], str) else None
        if links and following is None:
            return Unread(Reason.ERROR_IN_BODY)  # a link to another place: our token does not go there
        return _Page(resources, following, total if isinstance(total, int) else None)

    async def _asked(
        self,
        method: Literal["GET", "POST"],
        target: str,
        headers: tuple[tuple[str, str], ...],
        form: Mapping[str, str] | None,
        absent: bool = False,
    ) -> Answer | Unread:
        """An answer that says what was asked, after `TRIES` at most. Reading changes nothing, so any of them may be repeated."""
        reason = Reason.CONNECTION
        for attempt in range(TRIES):
            async with self._slots:
                exchange = await self._http.exchange(method, target, headers, form, self._timeout_s)
            after_s = 0.0
            if isinstance(exchange, Answer):
                if absent and exchange.status in (404, 410):
                    return exchange
                failure = classify(exchange.status, exchange.body)
                if failure is None and exchange.readable:
                    return exchange
                reason = failure.reason if failure is not None else Reason.ERROR_IN_BODY
                if reason in _FINAL:
                    return Unread(reason)
                after_s = exchange.retry_after_s
            else:
                reason = exchange.reason
                after_s = exchange.after_s if isinstance(exchange, NotSent) else 0.0
            if attempt + 1 < TRIES:
                await self._pause(min(MAX_PAUSE_S, max(after_s, PAUSE_S * 2**attempt)))
        return Unread(reason)


_FINAL: Final = frozenset(
    {
        Reason.REFUSED_INVALID,
        Reason.REFUSED_FORBIDDEN,
        Reason.REFUSED_MISSING,
        Reason.REFUSED_GONE,
        Reason.REFUSED_OTHER,
    }
)
"""Answers that asking again doesn't change."""


def _is_match(entry: Body) -> bool:
    search = entry.get("search")
    return not isinstance(search, dict) or search.get("mode", "match") == "match"
