"""One question to a token endpoint (RFC 6749, 4.4; SMART App Launch 2.2, backend services), and what its answer means.

Nothing is asked twice here, and none of the endpoint's words leave this module.
"""

import asyncio
import secrets
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from pipeline.destinations.auth.bearer import is_token
from pipeline.destinations.auth.credentials import News
from pipeline.destinations.auth.key import SigningKey, assertion
from pipeline.destinations.fhir_http import read_bounded, retry_after_s
from pipeline.domain.identifiers import Millis
from pipeline.formats.fhir.codec import decode

ISSUE_TIMEOUT_S: Final = 10.0
"""Time to get a token, its endpoint's discovery included."""

MAX_ANSWER_BYTES: Final = 65_536
DEFAULT_LIFETIME_S: Final = 300.0
"""Of a token whose answer doesn't tell: what SMART recommends as the longest. One that ends sooner is renewed after a 401."""

MAX_LIFETIME_S: Final = 86_400.0
WELL_KNOWN: Final = ".well-known/smart-configuration"
ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

_REFUSALS: Final = {
    "invalid_client": News.CLIENT_REFUSED,
    "unauthorized_client": News.CLIENT_REFUSED,
    "invalid_scope": News.SCOPE_REFUSED,
}
"""Of RFC 6749, 5.2: what a person has to set right at either end."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What we ask for. Without a `token_url` the FHIR server at `base_url` is asked for it."""

    client_id: str
    scope: str
    base_url: str
    token_url: str | None


@dataclass(frozen=True, slots=True, repr=False)
class Token:
    """An access token, good for `lifetime_s` from the moment it was asked for. `is_narrowed`: for less than we asked for."""

    value: str
    lifetime_s: float
    is_narrowed: bool


@dataclass(frozen=True, slots=True)
class NotIssued:
    """No token, and why; the endpoint wants to be left alone for `after_s`."""

    news: News
    after_s: float = 0.0


class TokenEndpoint:
    """Asks for tokens. An endpoint that was discovered is forgotten once it fails, and then discovered anew."""

    def __init__(self, grant: Grant, clock: Callable[[], Millis], tls: Callable[[], ssl.SSLContext] | None) -> None:
        self._grant = grant
        self._clock = clock
        self._tls = tls
        self._discovered: str | None = None
        self._session: aiohttp.ClientSession | None = None

    async def issue(self, key: SigningKey) -> Token | NotIssued:
        """A new token for an assertion of its own, within ISSUE_TIMEOUT_S."""
        try:
            async with asyncio.timeout(ISSUE_TIMEOUT_S):
                issued = await self._issue(key)
        except TimeoutError:
            issued = NotIssued(News.ENDPOINT_TIMED_OUT)
        except (aiohttp.ClientError, OSError):
            issued = NotIssued(News.ENDPOINT_UNREACHABLE)
        except ValueError:
            issued = NotIssued(News.ENDPOINT_GARBLED)
        if isinstance(issued, NotIssued):
            self._discovered = None
        return issued

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _issue(self, key: SigningKey) -> Token | NotIssued:
        url = self._grant.token_url or self._discovered or await self._discover()
        if isinstance(url, NotIssued):
            return url
        signed = assertion(key, self._grant.client_id, url, self._clock() // 1000, secrets.token_hex(16))
        form = {
            "grant_type": "client_credentials",
            "scope": self._grant.scope,
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": signed,
        }
        answer = await self._ask("POST", url, form)
        return _token_of(answer, self._grant.scope) if answer.status == 200 else _refusal_of(answer)

    async def _discover(self) -> str | NotIssued:
        """From the FHIR server's own description; an endpoint in the clear only where the server itself is spoken to so."""
        answer = await self._ask("GET", f"{self._grant.base_url.rstrip('/')}/{WELL_KNOWN}", None)
        if answer.status == 429 or answer.status >= 500:
            return NotIssued(News.ENDPOINT_UNAVAILABLE, answer.after_s)
        url = answer.body.get("token_endpoint") if answer.status == 200 else None
        if not isinstance(url, str) or not _may_be_asked(url, self._grant.base_url):
            return NotIssued(News.ENDPOINT_NOT_NAMED)
        self._discovered = url
        return url

    async def _ask(self, method: str, url: str, form: Mapping[str, str] | None) -> "_Answer":
        """No redirect is followed: an assertion is for the one who was asked."""
        context = self._tls() if self._tls is not None else True
        async with self._pool().request(
            method, url, data=form, headers={"Accept": "application/json"}, allow_redirects=False, ssl=context
        ) as response:
            data = await read_bounded(response, MAX_ANSWER_BYTES)
        after_s = retry_after_s(response.headers.get("Retry-After"), self._clock())
        return _Answer(response.status, decode(data) or {}, after_s)

    def _pool(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=2, force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),  # `issue` has the bound
            )
        return self._session


@dataclass(frozen=True, slots=True, repr=False)
class _Answer:
    status: int
    body: Mapping[str, Any]
    after_s: float


def _may_be_asked(url: str, base_url: str) -> bool:
    parts = urlsplit(url)
    secure = parts.scheme == "https" or (parts.scheme == "http" and urlsplit(base_url).scheme == "http")
    return secure and bool(parts.hostname) and not parts.fragment and parts.username is None


def _token_of(answer: _Answer, asked_scope: str) -> Token | NotIssued:
    value, kind, granted = answer.body.get("access_token"), answer.body.get("token_type", "bearer"), answer.body.get("scope")
    if not isinstance(value, str) or not is_token(value) or not isinstance(kind, str) or kind.lower() != "bearer":
        return NotIssued(News.ENDPOINT_GARBLED)
    narrowed = isinstance(granted, str) and not set(asked_scope.split()) <= set(granted.split())
    return Token(value, _lifetime_s(answer.body.get("expires_in")), narrowed)


def _lifetime_s(expires_in: object) -> float:
    """Seconds; some servers write the number as text."""
    try:
        seconds = float(str(expires_in))
    except ValueError:
        return DEFAULT_LIFETIME_S
    return min(seconds, MAX_LIFETIME_S) if seconds > 0 else DEFAULT_LIFETIME_S


def _refusal_of(answer: _Answer) -> NotIssued:
    if answer.status in (408, 425, 429) or answer.status >= 500:
        return NotIssued(News.ENDPOINT_UNAVAILABLE, answer.after_s)
    if answer.status not in (400, 401, 403):
        return NotIssued(News.ENDPOINT_GARBLED, answer.after_s)
    return NotIssued(_REFUSALS.get(str(answer.body.get("error")), News.GRANT_REFUSED), answer.after_s)
