"""What an EHR's answer means: status and OperationOutcome together, because a 200 can carry an error."""

import enum
from dataclasses import dataclass
from typing import Final

from pipeline.domain.records import Reason
from pipeline.formats.fhir.owned import Body, elements


class Meaning(enum.Enum):
    """What to do after an answer that isn't a plain yes."""

    RETRY = "it was not processed; the same may work later"
    REFUSED = "it never will be"
    MISMATCH = "somebody else wrote first; read again"
    UNKNOWN = "it may have been processed; read back"


@dataclass(frozen=True, slots=True)
class Failure:
    """A write that didn't plainly succeed."""

    meaning: Meaning
    reason: Reason


_TRANSIENT: Final = frozenset({"transient", "lock-error", "no-store", "throttled", "incomplete"})
_CONFLICT: Final = frozenset({"conflict"})
_UNKNOWN: Final = frozenset({"exception", "timeout"})
_BAD: Final = frozenset({"error", "fatal"})

_BY_STATUS: Final[dict[int, Failure]] = {
    202: Failure(Meaning.UNKNOWN, Reason.AMBIGUOUS),
    **dict.fromkeys((301, 302, 303, 307, 308), Failure(Meaning.RETRY, Reason.UNAVAILABLE)),
    400: Failure(Meaning.REFUSED, Reason.REFUSED_INVALID),
    401: Failure(Meaning.RETRY, Reason.UNAUTHENTICATED),
    403: Failure(Meaning.REFUSED, Reason.REFUSED_FORBIDDEN),
    404: Failure(Meaning.REFUSED, Reason.REFUSED_MISSING),
    408: Failure(Meaning.RETRY, Reason.TIMEOUT),
    409: Failure(Meaning.MISMATCH, Reason.VERSION_MISMATCH),
    410: Failure(Meaning.REFUSED, Reason.REFUSED_GONE),
    412: Failure(Meaning.MISMATCH, Reason.VERSION_MISMATCH),
    422: Failure(Meaning.REFUSED, Reason.REFUSED_INVALID),
    425: Failure(Meaning.RETRY, Reason.UNAVAILABLE),
    429: Failure(Meaning.RETRY, Reason.RATE_LIMITED),
    501: Failure(Meaning.REFUSED, Reason.REFUSED_OTHER),
    503: Failure(Meaning.RETRY, Reason.UNAVAILABLE),
}


def classify(status: int, outcome: Body | None) -> Failure | None:
    """Say what an answer means for a write; None means that the EHR took it.

    429, 503, 425 and 408 say that it wasn't processed; 409 and 412 ask for a new read, unless they say that several
    resources match; other 5xx may come after the write was made. No FHIR interaction is answered by a redirect: it is of
    what stands in front of the EHR, which is away. A success whose body is an OperationOutcome with an error is judged by
    its issue codes. The EHR's own words are not looked at and go nowhere.
    """
    codes = issue_codes(outcome)
    if status == 412 and "multiple-matches" in codes:
        return Failure(Meaning.REFUSED, Reason.MULTIPLE_MATCHES)
    if (failure := _BY_STATUS.get(status)) is not None:
        return failure
    if 200 <= status < 300:
        return _error_in_body(codes) if codes else None
    if status >= 500:
        return Failure(Meaning.UNKNOWN, Reason.UNAVAILABLE)
    return Failure(Meaning.REFUSED, Reason.REFUSED_OTHER)


def is_resource(body: Body | None) -> bool:
    """Whether a body is a FHIR resource. What something else says in the EHR's place is none: a page, or JSON of its own."""
    return body is not None and isinstance(body.get("resourceType"), str)


def issue_codes(outcome: Body | None) -> frozenset[str]:
    """Issue codes of severity error or fatal; empty where the body is no OperationOutcome."""
    if outcome is None or outcome.get("resourceType") != "OperationOutcome":
        return frozenset()
    return frozenset(str(issue.get("code")) for issue in elements(outcome, "issue") if issue.get("severity") in _BAD)


def _error_in_body(codes: frozenset[str]) -> Failure:
    if codes & _UNKNOWN:
        return Failure(Meaning.UNKNOWN, Reason.ERROR_IN_BODY)
    if codes & _CONFLICT:
        return Failure(Meaning.MISMATCH, Reason.VERSION_MISMATCH)
    return Failure(Meaning.RETRY if codes <= _TRANSIENT else Meaning.REFUSED, Reason.ERROR_IN_BODY)
