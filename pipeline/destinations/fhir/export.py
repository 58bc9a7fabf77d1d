"""A whole server read by one asynchronous export, as FHIR Bulk Data Access 2.0.0 has it: for comparing, not for writing.

Kick-off, polling as slowly as the server asks for, files of NDJSON one line at a time, and the job deleted at the end. What goes
wrong before the first file is no failure of the survey: it reads by pages then. No link leads away from the server's base
address: our token would go there. What a file says is as old as the export; who compares asks again for what differs.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from pipeline.destinations.fhir_http import Answer, FhirHttp, NotSent
from pipeline.domain.records import Reason
from pipeline.formats.fhir.codec import decode
from pipeline.formats.fhir.links import below
from pipeline.formats.fhir.outcome import classify
from pipeline.formats.fhir.owned import Body, elements

MAX_EXPORT_S: Final = 1_800.0
"""From kick-off to the list of files; a job that takes longer is deleted."""
MAX_POLLS: Final = 2_000
MIN_POLL_S: Final = 0.5
FIRST_POLL_S: Final = 1.0
MAX_POLL_S: Final = 60.0
"""Between two looks at a job: what the server asks for, else doubled from the first on, within these."""
TRIES: Final = 3
"""How often a job is asked for, and one file."""
MAX_FILES: Final = 10_000
MAX_FILE_S: Final = 3_600.0
MAX_LINES: Final = 4_000_000
"""Resources of one file."""
ACCEPTED: Final = 202
NDJSON: Final = "application/fhir+ndjson"

_ASKED: Final = (("Accept", "application/fhir+json"), ("Prefer", "respond-async"), ("Cache-Control", "no-cache"))
_FILE: Final = (("Accept", NDJSON), ("Cache-Control", "no-cache"))


@dataclass(frozen=True, slots=True)
class ExportFile:
    """One file of an export: where it is below the base, and how many resources it is said to hold."""

    target: str
    count: int | None


@dataclass(frozen=True, slots=True)
class NoExport:
    """The server can't be read so. `reason` is one of a bounded set."""

    reason: Reason


class BulkExport:
    """One export of some resource types. It is begun when it is first asked for, and once for all who ask.

    `timeout_s` bounds each request, and each pause within a file.
    """

    def __init__(
        self,
        http: FhirHttp,
        resource_types: Sequence[str],
        timeout_s: float,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._http = http
        self._types = tuple(resource_types)
        self._timeout_s = timeout_s
        self._pause = pause
        self._turn = asyncio.Lock()
        self._job: str | None = None
        self._found: dict[str, list[ExportFile]] | NoExport | None = None

    def covers(self, resource_type: str) -> bool:
        """Whether resources of this type are in it."""
        return resource_type in self._types

    @property
    def refused(self) -> Reason | None:
        """Why it came to nothing; None where it did not, or was not begun."""
        return self._found.reason if isinstance(self._found, NoExport) else None

    @property
    def is_read(self) -> bool:
        """Whether there were files to be read."""
        return isinstance(self._found, dict)

    async def files(self, resource_type: str) -> list[ExportFile] | NoExport:
        """The files of a type, once the server has made them all; none where it has no such resources."""
        async with self._turn:
            if self._found is None:
                self._found = await self._made()
                if isinstance(self._found, NoExport):
                    await self._delete()
        return self._found if isinstance(self._found, NoExport) else self._found.get(resource_type, [])

    async def resources(self, file: ExportFile) -> AsyncIterator[Body | Reason]:
        """Each resource of a file; a Reason is the last and says why the rest is not known. After a break it begins anew, so
        that some come twice."""
        reason = Reason.CONNECTION
        for attempt in range(TRIES):
            seen = 0
            async for line in self._http.lines(file.target, _FILE, self._timeout_s, MAX_FILE_S):
                if isinstance(line, Reason):
                    reason = line
                    break
                body = decode(line)
                if body is None or (seen := seen + 1) > MAX_LINES:
                    yield Reason.ERROR_IN_BODY
                    return
                yield body
            else:
                if file.count is not None and seen < file.count:
                    yield Reason.ERROR_IN_BODY
                return
            if reason in _FINAL or attempt + 1 == TRIES:
                break
            await self._pause(FIRST_POLL_S * 2**attempt)
        yield reason

    async def close(self) -> None:
        """Have the server forget the files, where there are any: they hold what it was asked for."""
        await self._delete()

    async def _made(self) -> dict[str, list[ExportFile]] | NoExport:
        begun = await self._begun()
        if isinstance(begun, NoExport):
            return begun
        self._job = begun
        try:
            async with asyncio.timeout(MAX_EXPORT_S):
                manifest = await self._manifest(begun)
        except TimeoutError:
            return NoExport(Reason.TIMEOUT)
        return manifest if isinstance(manifest, NoExport) else self._sorted(manifest)

    async def _begun(self) -> str | NoExport:
        """Ask for the job; where its status is told."""
        target = f"$export?{urlencode({'_type': ','.join(self._types), '_outputFormat': NDJSON}, safe=',')}"
        reason = Reason.CONNECTION
        for attempt in range(TRIES):
            exchange = await self._http.exchange("GET", target, _ASKED, None, self._timeout_s)
            if isinstance(exchange, Answer) and exchange.status == ACCEPTED:
                job = below(self._http.base_url, exchange.content_location or "")
                return job if job else NoExport(Reason.ERROR_IN_BODY)
            after_s = 0.0
            if isinstance(exchange, Answer):
                failure = classify(exchange.status, exchange.body)
                reason, after_s = failure.reason if failure else Reason.REFUSED_OTHER, exchange.retry_after_s
                if reason in _FINAL:
                    break
            else:
                reason = exchange.reason
                after_s = exchange.after_s if isinstance(exchange, NotSent) else 0.0
            if attempt + 1 < TRIES:
                await self._pause(_wait_s(after_s, attempt))
        return NoExport(reason)

    async def _manifest(self, job: str) -> Body | NoExport:
        """Ask how far the job is until it says where its files are."""
        failed = waited = 0
        for _ in range(MAX_POLLS):
            exchange = await self._http.exchange("GET", job, _ASKED[:1], None, self._timeout_s)
            after_s = exchange.retry_after_s if isinstance(exchange, Answer) else 0.0
            if isinstance(exchange, Answer) and exchange.status == ACCEPTED:
                failed, waited = 0, waited + 1
            else:
                failure = classify(exchange.status, exchange.body) if isinstance(exchange, Answer) else exchange
                if failure is None and isinstance(exchange, Answer):
                    return exchange.body if exchange.body is not None else NoExport(Reason.ERROR_IN_BODY)
                reason = failure.reason if failure is not None else Reason.ERROR_IN_BODY
                failed += reason is not Reason.RATE_LIMITED
                if reason in _FINAL or failed >= TRIES:
                    return NoExport(reason)
            await self._pause(_wait_s(after_s, waited))
        return NoExport(Reason.TIMEOUT)

    def _sorted(self, manifest: Body) -> dict[str, list[ExportFile]] | NoExport:
        """Files by type. An export that tells of errors may lack what they are about: it is not taken."""
        output = elements(manifest, "output")
        if not isinstance(manifest.get("output"), list) or elements(manifest, "error") or len(output) > MAX_FILES:
            return NoExport(Reason.ERROR_IN_BODY)
        found: dict[str, list[ExportFile]] = {}
        for each in output:
            kind, url, count = each.get("type"), each.get("url"), each.get("count")
            target = below(self._http.base_url, url) if isinstance(url, str) else None
            if not isinstance(kind, str) or not target:
                return NoExport(Reason.ERROR_IN_BODY)
            found.setdefault(kind, []).append(ExportFile(target, count if isinstance(count, int) else None))
        return found

    async def _delete(self) -> None:
        if self._job is not None:
            job, self._job = self._job, None
            await self._http.exchange("DELETE", job, (), None, self._timeout_s)


_FINAL: Final = frozenset(
    {
        Reason.REFUSED_INVALID,
        Reason.REFUSED_FORBIDDEN,
        Reason.REFUSED_MISSING,
        Reason.REFUSED_GONE,
        Reason.REFUSED_OTHER,
        Reason.ERROR_IN_BODY,
    }
)
"""Answers that asking again doesn't change."""


def _wait_s(asked_s: float, before: int) -> float:
    """Seconds until the next look, after so many before."""
    return min(MAX_POLL_S, max(MIN_POLL_S, asked_s or FIRST_POLL_S * 2 ** min(before, 6)))
