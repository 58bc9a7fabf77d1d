"""One HTTP exchange with a FHIR server, as a value: an answer, or how far the request got without one.

Nothing is tried twice, no redirect is followed, and no text of the server leaves this module other than as parsed JSON.
"""

import asyncio
import email.utils
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Final

import aiohttp

from pipeline.domain.identifiers import Millis
from pipeline.formats.fhir.codec import MAX_BODY_BYTES, decode
from pipeline.formats.fhir.owned import Body

MAX_CONNECTIONS: Final = 64
KEEPALIVE_S: Final = 4.0
"""Below the five seconds after which common servers close an idle connection: a write into a closed one is ambiguous."""

MAX_RETRY_AFTER_S: Final = 3600.0
"""A longer pause that a server asks for is cut to this; the writer asks again then."""

Headers = tuple[tuple[str, str], ...]
AuthHeaders = Callable[[], Awaitable[Mapping[str, str]]]
"""Headers that authorise a request; called before each, so it keeps its own token and renews it in time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `body` is None for an empty one; `readable` is False where there was one that is no JSON object."""

    status: int
    etag: str | None
    location: str | None
    retry_after_s: float
    body: Body | None
    readable: bool = True

    def __repr__(self) -> str:
        return f"Answer({self.status}, <redacted>)"


@dataclass(frozen=True, slots=True)
class NotSent:
    """The server has seen nothing of it. `timed_out` tells a lack of time from a lack of connection."""

    timed_out: bool


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """It was sent, at least in part, and no whole answer came."""

    timed_out: bool


Exchange = Answer | NotSent | NoAnswer


class FhirHttp:
    """A bounded keep-alive pool to one server. Made lazily, on the loop that uses it first."""

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        authorise: AuthHeaders | None,
        clock: Callable[[], Millis],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = dict(headers)
        self._authorise = authorise
        self._clock = clock
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    @property
    def base_url(self) -> str:
        """FHIR base, without a slash at its end."""
        return self._base_url

    async def exchange(
        self, method: str, target: str, headers: Headers, body: bytes | Mapping[str, str] | None, timeout_s: float
    ) -> Exchange:
        """Send once and read the whole answer within `timeout_s`. A mapping as body is sent as a form."""
        progress = SimpleNamespace(sent=False)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._once(method, target, headers, body, progress)
        except TimeoutError:
            return NoAnswer(timed_out=True) if progress.sent else NotSent(timed_out=True)
        except (aiohttp.ClientError, OSError, ValueError):
            return NoAnswer(timed_out=False) if progress.sent else NotSent(timed_out=False)

    async def close(self) -> None:
        """Close the pool."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _once(
        self, method: str, target: str, headers: Headers, body: bytes | Mapping[str, str] | None, progress: SimpleNamespace
    ) -> Answer:
        everything = {**self._headers, **(dict(await self._authorise()) if self._authorise else {}), **dict(headers)}
        url = f"{self._base_url}/{target}" if target else self._base_url
        async with self._pool().request(
            method, url, headers=everything, data=body, allow_redirects=False, trace_request_ctx=progress
        ) as response:
            data = await _read_bounded(response)
        parsed = decode(data) if data.strip() else None
        return Answer(
            status=response.status,
            etag=response.headers.get("ETag"),
            location=response.headers.get("Location"),
            retry_after_s=retry_after_s(response.headers.get("Retry-After"), self._clock()),
            body=parsed,
            readable=parsed is not None or not data.strip(),
        )

    def _pool(self) -> aiohttp.ClientSession:
        if self._session is None:
            trace = aiohttp.TraceConfig()
            trace.on_request_headers_sent.append(_note_sent)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=KEEPALIVE_S, ssl=self._tls or True),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),  # each exchange has its own bound
                trace_configs=[trace],
                auto_decompress=True,
            )
            # aiohttp sends an idempotent method again when a kept connection turns out dead: repetition is the writer's.
            self._session._retry_connection = False
        return self._session


async def _note_sent(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestHeadersSentParams
) -> None:
    context.trace_request_ctx.sent = True


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            response.close()
            raise ValueError("the answer is larger than the bound")
        chunks.append(chunk)
    return b"".join(chunks)


def retry_after_s(header: str | None, now: Millis) -> float:
    """Retry-After in seconds, from seconds or an HTTP date (RFC 9110, 10.2.3); 0 where there is none or none that can be read."""
    if header is None:
        return 0.0
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), MAX_RETRY_AFTER_S)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return 0.0
    return min(max(moment.timestamp() - now / 1000, 0.0), MAX_RETRY_AFTER_S)


def system_clock() -> Millis:
    """Now."""
    return Millis(time.time_ns() // 1_000_000)
