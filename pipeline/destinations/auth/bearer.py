"""A bearer token that somebody else puts into a file (RFC 6750, 2.1)."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pipeline.destinations.auth.credentials import Authorised, News, NoToken, Observe
from pipeline.destinations.auth.files import LOOK_EVERY_S, WatchedFiles

MAX_TOKEN_CHARS: Final = 16_384

_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
"""Wider than RFC 6750's b64token, as servers are; without what would break the header."""


def is_token(value: str) -> bool:
    """Whether it can stand in a header."""
    return len(value) <= MAX_TOKEN_CHARS and _VISIBLE.fullmatch(value) is not None


def bearer(token: str) -> Authorised:
    """Its header."""
    return Authorised(f"Bearer {token}")


class BearerFile:
    """The token that the file holds now. While it holds none, as in the midst of a rotation, the last one serves on."""

    def __init__(self, path: Path, observe: Observe, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._files = WatchedFiles((path,), monotonic)
        self._observe = observe
        self._now: Authorised | None = None

    async def authorise(self, within_s: float) -> Authorised | NoToken:
        """The token; it takes no time."""
        self._look(at_once=False)
        return self._now or NoToken(LOOK_EVERY_S)

    async def renew(self, refused: Authorised, within_s: float) -> Authorised | NoToken | None:
        """The token, if the file holds another one by now."""
        self._look(at_once=True)
        if self._now == refused:
            self._observe(News.UNAUTHENTICATED)
            return None
        return self._now

    async def close(self) -> None:
        """Nothing is open."""

    def _look(self, at_once: bool) -> None:
        contents = self._files.changed(at_once)
        if contents is None:
            return
        token = contents[0].decode("latin-1").strip() if contents else ""
        if not is_token(token):
            self._observe(News.BEARER_UNUSABLE)
            return
        if self._now is not None:
            self._observe(News.BEARER_ROTATED)
        self._now = bearer(token)
