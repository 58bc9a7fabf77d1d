"""What the HTTP API says when it doesn't do as asked: RFC 9457 problem details, from a bounded list of kinds.

No problem repeats a value of the request.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import msgspec

from pipeline.formats.json_events import Invalid

PROBLEM_TYPE: Final = "application/problem+json"
TYPE_BASE: Final = "urn:surgeline:problem:"
HEADERS_OF_401: Final[Mapping[str, str]] = {"WWW-Authenticate": 'Bearer realm="surgeline"'}


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem; `name` ends its type's URN and is a metric label."""

    name: str
    status: HTTPStatus
    title: str


UNAUTHORISED: Final = Kind("unauthorised", HTTPStatus.UNAUTHORIZED, "A known bearer token is required.")
FORBIDDEN: Final = Kind("forbidden", HTTPStatus.FORBIDDEN, "The client may not send this event.")
NOT_FOUND: Final = Kind("not-found", HTTPStatus.NOT_FOUND, "There is no such thing here.")
UNKNOWN_EVENT: Final = Kind("unknown-event", HTTPStatus.NOT_FOUND, "This event is not known here.")
METHOD_NOT_ALLOWED: Final = Kind("method-not-allowed", HTTPStatus.METHOD_NOT_ALLOWED, "The method is not allowed here.")
TOO_SLOW: Final = Kind("too-slow", HTTPStatus.REQUEST_TIMEOUT, "The body did not arrive in time.")
TOO_LARGE: Final = Kind("too-large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body or one of its events is too large.")
UNSUPPORTED: Final = Kind(
    "unsupported-media-type", HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body must be application/json, not encoded."
)
INVALID: Final = Kind("invalid-event", HTTPStatus.UNPROCESSABLE_ENTITY, "The body breaks a rule.")
BAD_KEY: Final = Kind(
    "idempotency-key", HTTPStatus.UNPROCESSABLE_ENTITY, "One Idempotency-Key of 1 to 255 printable ASCII characters is required."
)
KEY_REUSED: Final = Kind(
    "idempotency-key-reused", HTTPStatus.UNPROCESSABLE_ENTITY, "This Idempotency-Key was used for another body."
)
INTERNAL: Final = Kind("internal", HTTPStatus.INTERNAL_SERVER_ERROR, "A fault of the pipeline; nothing was promised.")
TOO_MANY: Final = Kind("too-many-requests", HTTPStatus.TOO_MANY_REQUESTS, "The client has too many requests under way.")
UNAVAILABLE: Final = Kind("unavailable", HTTPStatus.SERVICE_UNAVAILABLE, "Nothing was taken in; try again later.")

KINDS: Final = (
    UNAUTHORISED,
    FORBIDDEN,
    NOT_FOUND,
    UNKNOWN_EVENT,
    METHOD_NOT_ALLOWED,
    TOO_SLOW,
    TOO_LARGE,
    UNSUPPORTED,
    INVALID,
    BAD_KEY,
    KEY_REUSED,
    TOO_MANY,
    INTERNAL,
    UNAVAILABLE,
)


class ProblemBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of a problem (RFC 9457, 3.1), with our members `field`, `rule` and `remedy`."""

    type: str
    title: str
    status: int
    detail: str | None = None
    field: str | None = None
    rule: str | None = None
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer that is not what was asked for. `field` is a JSON pointer into the request's body."""

    kind: Kind
    remedy: str
    detail: str | None = None
    field: str | None = None
    rule: str | None = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def body(self) -> ProblemBody:
        """What is sent, under `PROBLEM_TYPE`."""
        return ProblemBody(
            type=TYPE_BASE + self.kind.name,
            title=self.kind.title,
            status=self.kind.status.value,
            detail=self.detail,
            field=self.field,
            rule=self.rule,
            remedy=self.remedy,
        )


class Refusal(Exception):
    """Ends a request with a problem; the application's handler turns it into the answer."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.kind.name)
        self.problem = problem


def of_invalid(invalid: Invalid, within: str = "") -> Problem:
    """422 or 403 for an event that breaks a rule. `within` is the pointer of the event in the body."""
    kind = FORBIDDEN if invalid.forbidden else INVALID
    return Problem(kind, invalid.remedy, invalid.rule.doc, within + invalid.field, invalid.rule.value)


def retry_later(kind: Kind, after_s: float, detail: str, *, ends_connection: bool = False) -> Problem:
    """429 or 503 with Retry-After in whole seconds, never less than asked for and at least one.

    `ends_connection`: the repeat is for another instance, so it must not come by this connection.
    """
    after = max(1, math.ceil(after_s))
    headers = {"Retry-After": str(after)} | ({"Connection": "close"} if ends_connection else {})
    return Problem(kind, f"send the same request again after {after} s", detail, headers=headers)
