"""One HTTP exchange with a FHIR server, as a value: an answer, or how far the request got without one.

Nothing is tried twice, no redirect is followed, and no text of the server leaves this module other than as parsed JSON.
"""

import asyncio
import email.utils
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

import aiohttp

from pipeline.destinations.auth.credentials import Authorised, Credentials, NoToken
from pipeline.destinations.protocol import always
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Reason
from pipeline.formats.fhir.codec import MAX_BODY_BYTES, decode
from pipeline.formats.fhir.outcome import classify
from pipeline.formats.fhir.owned import Body

MAX_CONNECTIONS: Final = 64
KEEPALIVE_S: Final = 4.0
"""Below the five seconds after which common servers close an idle connection: a write into a closed one is ambiguous."""

MAX_RETRY_AFTER_S: Final = 3600.0
"""A longer pause that a server asks for is cut to this; the writer asks again then."""

Headers = tuple[tuple[str, str], ...]
TlsSource = Callable[[], ssl.SSLContext]
"""The context for new connections; asked before each request, so that it may change."""

AUTHORISE_SHARE: Final = 0.5
"""Of the time left: a token that takes longer is given up, so that the lack of it is known as such before the deadline."""

UNAUTHORISED: Final = 401
OK: Final = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `body` is None for an empty one; `readable` is False where there was one that is no JSON object."""

    status: int
    etag: str | None
    location: str | None
    retry_after_s: float
    body: Body | None
    readable: bool = True
    content_location: str | None = None
    """Where a job that was begun tells how far it is."""

    def __repr__(self) -> str:
        return f"Answer({self.status}, <redacted>)"


@dataclass(frozen=True, slots=True)
class NotSent:
    """The server has seen nothing of it, or refused to look at it without a token that is to be had.

    `reason` is TIMEOUT, CONNECTION, NO_TOKEN, RATE_LIMITED in a pause, or NONE where it was taken back. `after_s` is what is
    left of a pause, or the time that a token won't be had for, else 0.
    """

    reason: Reason
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """It was sent, at least in part, and no whole answer came. `reason` is TIMEOUT or CONNECTION.

    OVERSIZE: it was answered 200 with more than `MAX_BODY_BYTES`, and would be again.
    """

    reason: Reason


Exchange = Answer | NotSent | NoAnswer


class FhirHttp:
    """A bounded keep-alive pool to one server. Made lazily, on the loop that uses it first."""

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        credentials: Credentials | None,
        clock: Callable[[], Millis],
        tls: TlsSource | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = dict(headers)
        self._credentials = credentials
        self._clock = clock
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    @property
    def base_url(self) -> str:
        """FHIR base, without a slash at its end."""
        return self._base_url

    async def exchange(
        self,
        method: str,
        target: str,
        headers: Headers,
        body: bytes | Mapping[str, str] | None,
        timeout_s: float,
        may_go: Callable[[], bool] = always,
    ) -> Exchange:
        """Send once and read the whole answer within `timeout_s`. A mapping as body is sent as a form.

        A 401 says that nothing was done: where there is another token, the request is sent once more with that.
        `may_go` is asked after each wait for a token: not sent where it says no.
        """
        ends_at = asyncio.get_running_loop().time() + timeout_s
        everything = {**self._headers, **dict(headers)}
        if self._credentials is None:
            return await self._send(method, target, everything, body, ends_at)
        authorised = await self._credentials.authorise(timeout_s * AUTHORISE_SHARE)
        if not isinstance(authorised, Authorised):
            return NotSent(Reason.NO_TOKEN, authorised.after_s)
        if not may_go():
            return NotSent(Reason.NONE)
        exchange = await self._send(method, target, _with(authorised, everything), body, ends_at)
        left_s = ends_at - asyncio.get_running_loop().time()
        if not isinstance(exchange, Answer) or exchange.status != UNAUTHORISED or left_s <= 0:
            return exchange
        match await self._credentials.renew(authorised, left_s * AUTHORISE_SHARE):
            case Authorised() if not may_go():
                return NotSent(Reason.NONE)
            case Authorised() as renewed:
                return await self._send(method, target, _with(renewed, everything), body, ends_at)
            case NoToken(after_s):
                return NotSent(Reason.NO_TOKEN, after_s)
            case None:
                return exchange

    async def lines(self, target: str, headers: Headers, pause_s: float, timeout_s: float) -> AsyncIterator[bytes | Reason]:
        """Each line of a text, without its end and without empty ones; a Reason is the last and says why the rest isn't known.

        `pause_s` is the longest wait for more of it, `timeout_s` the time for all; a line has at most `MAX_BODY_BYTES`. After a
        401 it is asked once more where there is another token.
        """
        everything = {**self._headers, **dict(headers)}
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=pause_s, sock_read=pause_s)
        token = None if self._credentials is None else await self._credentials.authorise(pause_s)
        is_renewed = False
        try:
            while not isinstance(token, NoToken):
                sent = everything if token is None else _with(token, everything)
                async with self._asked("GET", target, sent, SimpleNamespace(sent=False), timeout=timeout) as response:
                    if response.status == OK:
                        async for line in _lines_of(response):
                            yield line
                        return
                    failure = classify(response.status, None)
                another = None
                if response.status == UNAUTHORISED and self._credentials is not None and token is not None and not is_renewed:
                    another = await self._credentials.renew(token, pause_s)
                if another is None:
                    yield failure.reason if failure is not None else Reason.ERROR_IN_BODY
                    return
                token, is_renewed = another, True
            yield Reason.NO_TOKEN
        except TimeoutError:
            yield Reason.TIMEOUT
        except (aiohttp.ClientError, OSError, ValueError):
            yield Reason.CONNECTION

    async def close(self) -> None:
        """Close the pool."""
        if self._credentials is not None:
            await self._credentials.close()
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | Mapping[str, str] | None, ends_at: float
    ) -> Exchange:
        """Once, until `ends_at` on the loop's clock."""
        progress = SimpleNamespace(sent=False)
        try:
            async with asyncio.timeout_at(ends_at):
                return await self._once(method, target, headers, body, progress)
        except TimeoutError:
            reason = Reason.TIMEOUT
        except TooLarge as large:
            reason = Reason.OVERSIZE if large.status == OK else Reason.CONNECTION
        except (aiohttp.ClientError, OSError, ValueError):
            reason = Reason.CONNECTION
        return NoAnswer(reason) if progress.sent else NotSent(reason)

    async def _once(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | Mapping[str, str] | None,
        progress: SimpleNamespace,
    ) -> Answer:
        async with self._asked(method, target, headers, progress, data=body) as response:
            data = await read_bounded(response, MAX_BODY_BYTES)
        parsed = decode(data) if data.strip() else None
        return Answer(
            status=response.status,
            etag=response.headers.get("ETag"),
            location=response.headers.get("Location"),
            retry_after_s=retry_after_s(response.headers.get("Retry-After"), self._clock()),
            body=parsed,
            readable=parsed is not None or not data.strip(),
            content_location=response.headers.get("Content-Location"),
        )

    def _asked(
        self, method: str, target: str, headers: Mapping[str, str], progress: SimpleNamespace, **others: Any
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """A request of the pool; redirects are not followed."""
        return self._pool().request(
            method,
            f"{self._base_url}/{target}" if target else self._base_url,
            headers=headers,
            allow_redirects=False,
            trace_request_ctx=progress,
            ssl=True if self._tls is None else self._tls(),  # another context opens other connections; those in use go on
            **others,
        )

    def _pool(self) -> aiohttp.ClientSession:
        if self._session is None:
            trace = aiohttp.TraceConfig()
            trace.on_request_headers_sent.append(_note_sent)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=KEEPALIVE_S),
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


def _with(authorised: Authorised, headers: Mapping[str, str]) -> dict[str, str]:
    return {**headers, "Authorization": authorised.authorization}


class TooLarge(ValueError):
    """An answer has more bytes than are read; `status` is the one that it came with."""

    def __init__(self, status: int) -> None:
        super().__init__("the answer is larger than the bound")
        self.status: Final = status


async def read_bounded(response: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
    """The answer's body; TooLarge, and an end of the connection, where it is larger."""
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > limit_bytes:
            response.close()
            raise TooLarge(response.status)
        chunks.append(chunk)
    return b"".join(chunks)


async def _lines_of(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Lines of the body; ValueError, and an end of the connection, where one is too long."""
    rest = b""
    async for chunk in response.content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line.strip():
                yield line
        if len(rest) > MAX_BODY_BYTES:
            response.close()
            raise ValueError("a line is longer than the bound")
    if rest.strip():
        yield rest


def retry_after_s(header: str | None, now: Millis) -> float:
    """Retry-After in seconds, from seconds or an HTTP date (RFC 9110, 10.2.3); 0 where there is none or none that can be read."""
    if header is None:
        return 0.0
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), MAX_RETRY_AFTER_S)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(moment.timestamp() - now / 1000, 0.0), MAX_RETRY_AFTER_S)


def system_clock() -> Millis:
    """Now."""
    return Millis(time.time_ns() // 1_000_000)
