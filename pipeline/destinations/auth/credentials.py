"""What authorises a request, and what its keepers tell of themselves. Neither shows a secret in its representation."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol


class News(enum.Enum):
    """What happened to our credentials: bounded, because it is a metric label and stands in the log. Never a server's words."""

    ISSUED = "issued"
    SCOPE_NARROWED = "scope_narrowed"
    BEARER_ROTATED = "bearer_rotated"
    KEY_ROTATED = "key_rotated"
    TLS_ROTATED = "tls_rotated"
    BEARER_UNUSABLE = "bearer_unusable"
    KEY_UNUSABLE = "key_unusable"
    TLS_UNUSABLE = "tls_unusable"
    UNAUTHENTICATED = "unauthenticated"
    ENDPOINT_NOT_NAMED = "endpoint_not_named"
    ENDPOINT_UNREACHABLE = "endpoint_unreachable"
    ENDPOINT_TIMED_OUT = "endpoint_timed_out"
    ENDPOINT_UNAVAILABLE = "endpoint_unavailable"
    ENDPOINT_GARBLED = "endpoint_garbled"
    CLIENT_REFUSED = "client_refused"
    SCOPE_REFUSED = "scope_refused"
    GRANT_REFUSED = "grant_refused"

    @property
    def is_good(self) -> bool:
        """Whether all is as it should be after it."""
        return self in _GOOD


_GOOD: Final = frozenset({News.ISSUED, News.BEARER_ROTATED, News.KEY_ROTATED, News.TLS_ROTATED})

Observe = Callable[[News], None]


@dataclass(frozen=True, slots=True, repr=False)
class Authorised:
    """The value of a request's Authorization header."""

    authorization: str


@dataclass(frozen=True, slots=True)
class NoToken:
    """There is none now, so nothing can be sent. Asking again makes sense after `after_s`."""

    after_s: float


class Credentials(Protocol):
    """Keeps what authorises requests to one server. Nothing here raises, and each call keeps to its time."""

    async def authorise(self, within_s: float) -> Authorised | NoToken:
        """For the next request."""
        ...

    async def renew(self, refused: Authorised, within_s: float) -> Authorised | NoToken | None:
        """After a 401. Another one than `refused`; None where there is no better one, and the 401 stands."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
