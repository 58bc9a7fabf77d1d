"""SMART Backend Services (SMART App Launch 2.2): short-lived tokens for assertions that our key signs.

One token serves all requests to a server; it is renewed before it ends, one renewal at a time, while it is still in use.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from pipeline.destinations.auth.bearer import bearer
from pipeline.destinations.auth.credentials import Authorised, News, NoToken, Observe
from pipeline.destinations.auth.files import WatchedFiles
from pipeline.destinations.auth.key import Algorithm, SigningKey, parse_signing_key
from pipeline.destinations.auth.token_endpoint import NotIssued, Token
from pipeline.domain.writing.limits import next_delay

RENEW_BEFORE_S: Final = 60.0
"""A token is renewed so long before its end, or after three quarters of its life where that is later."""

UNUSED_BEFORE_S: Final = 5.0
"""A token isn't sent any more so long before its end, or after nine tenths of its life: it would end under way."""

REFUSED_PAUSE_S: Final = 5.0
"""Between two renewals for the reason that the server refused a token: it may refuse us, whatever the token."""


ASK_AGAIN_S: Final = 5.0
"""Longest time after which whoever got no token may ask again: it costs nothing here, and a key may be set right by then."""


class Endpoint(Protocol):
    """Who issues tokens."""

    async def issue(self, key: SigningKey) -> Token | NotIssued:
        """A new one; bounded in time, and raises nothing."""
        ...

    async def close(self) -> None: ...


class KeyFile:
    """The key that the file holds now. While it holds none that we can use, the last one serves on."""

    def __init__(
        self,
        path: Path,
        algorithm: Algorithm,
        key_id: str | None,
        observe: Observe,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = WatchedFiles((path,), monotonic)
        self._algorithm: Algorithm = algorithm
        self._key_id = key_id
        self._observe = observe
        self.key: SigningKey | None = None

    def rotated(self) -> bool:
        """Look, and take up a key that wasn't there before; whether there was one."""
        contents = self._files.changed()
        if contents is None:
            return False
        parsed = parse_signing_key(contents[0], self._algorithm, self._key_id) if contents else None
        if not isinstance(parsed, SigningKey):
            self._observe(News.KEY_UNUSABLE)
            return False
        if self.key is not None:
            self._observe(News.KEY_ROTATED)
        self.key = parsed
        return True


@dataclass(frozen=True, slots=True, repr=False)
class _Held:
    """A token and its times, on the monotonic clock in seconds."""

    authorised: Authorised
    renew_from: float
    usable_until: float


class SmartBackend:
    """Keeps one access token. See `Credentials`.

    `observe` is told of each token, refusal and rotation; `draw` gives the jitter of the pauses between failed renewals.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        keys: KeyFile,
        observe: Observe,
        draw: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoint = endpoint
        self._keys = keys
        self._observe = observe
        self._draw = draw
        self._monotonic = monotonic
        self._token: _Held | None = None
        self._is_narrowed = False
        self._renewal: asyncio.Task[Authorised | NoToken] | None = None
        self._failures = 0
        self._not_before = float("-inf")
        self._refused_at = float("-inf")

    async def authorise(self, within_s: float) -> Authorised | NoToken:
        """The token, for as long as it is good; a late renewal holds nobody up before."""
        if self._keys.rotated():
            self._not_before, self._failures = float("-inf"), 0  # what was refused may be right now
        now, token = self._monotonic(), self._token
        if token is None or now >= token.usable_until:
            return await self._renewed(within_s)
        if now >= token.renew_from and now >= self._not_before:
            self._begin()
        return token.authorised

    async def renew(self, refused: Authorised, within_s: float) -> Authorised | NoToken | None:
        """Another token, unless the server refused the last new one just now: then it is us that it refuses."""
        if self._token is not None and self._token.authorised == refused:
            now = self._monotonic()
            if now - self._refused_at < REFUSED_PAUSE_S:
                return None
            self._observe(News.UNAUTHENTICATED)
            self._refused_at, self._token = now, None
        return await self.authorise(within_s)

    async def close(self) -> None:
        """Give up a renewal that is under way."""
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait((self._renewal,))
        await self._endpoint.close()

    async def _renewed(self, within_s: float) -> Authorised | NoToken:
        """Wait for the one renewal. Whoever waits no longer doesn't end it: the others, and the next, want it too."""
        wait_s = self._not_before - self._monotonic()
        if self._renewal is None and wait_s > 0:
            return NoToken(min(wait_s, ASK_AGAIN_S))
        renewal = self._begin()
        await asyncio.wait((renewal,), timeout=within_s)
        if not renewal.done() or renewal.cancelled():
            return NoToken(0.0)
        return renewal.result()

    def _begin(self) -> "asyncio.Task[Authorised | NoToken]":
        if self._renewal is None:
            self._renewal = asyncio.get_running_loop().create_task(self._renew())
        return self._renewal

    async def _renew(self) -> Authorised | NoToken:
        try:
            asked_at, key = self._monotonic(), self._keys.key
            issued = NotIssued(News.KEY_UNUSABLE) if key is None else await self._endpoint.issue(key)
            return self._failed(issued) if isinstance(issued, NotIssued) else self._take(issued, asked_at)
        finally:
            self._renewal = None

    def _take(self, token: Token, asked_at: float) -> Authorised:
        life_s = token.lifetime_s
        held = _Held(
            bearer(token.value),
            renew_from=asked_at + life_s - min(RENEW_BEFORE_S, life_s / 4),
            usable_until=asked_at + life_s - min(UNUSED_BEFORE_S, life_s / 10),
        )
        self._token, self._failures = held, 0
        self._observe(News.ISSUED)
        if token.is_narrowed and not self._is_narrowed:
            self._observe(News.SCOPE_NARROWED)
        self._is_narrowed = token.is_narrowed
        return held.authorised

    def _failed(self, failure: NotIssued) -> NoToken:
        self._failures += 1
        pause_s = next_delay(self._failures, self._draw(), failure.after_s).total_seconds()
        self._not_before = self._monotonic() + pause_s
        self._observe(failure.news)
        return NoToken(min(pause_s, ASK_AGAIN_S))
