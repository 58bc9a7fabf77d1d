"""A FHIR R4 server as destination: read, build, send once, read back. The writer owns time, order and repetition.

The server is the fence (rule 8): an update carries the version of the read that it was made from, a create is conditional
in the way that the profile says, and nothing is ever deleted. What the server says in words stays here.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Literal

from pipeline.destinations.auth.credentials import Credentials
from pipeline.destinations.fhir_build import JSON_TYPE, Builder, Subject, encoded
from pipeline.destinations.fhir_http import Answer, Exchange, FhirHttp, NotSent, TlsSource, system_clock
from pipeline.destinations.fhir_places import PlaceCache
from pipeline.destinations.protocol import (
    Absent,
    Ambiguous,
    Confirmed,
    Current,
    Newer,
    NotApplied,
    Outcome,
    PendingWrite,
    ReadBack,
    Refused,
    Request,
    Retry,
    Suppressed,
    Unknown,
    VersionMismatch,
)
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Accepted, Reason
from pipeline.formats.fhir.naming import Ident
from pipeline.formats.fhir.outcome import Failure, Meaning, classify
from pipeline.formats.fhir.owned import Body, dotted_value, elements
from pipeline.formats.fhir.profile import Profile
from pipeline.formats.fhir.resource import carries
from pipeline.formats.fhir.revision import read_mark

DEFAULT_ATTEMPT_TIMEOUT_S: Final = 10.0
SEARCH_COUNT: Final = 5
"""Matches asked for by identifier; two are already too many."""

_ID: Final = re.compile(r"[A-Za-z0-9\-.]{1,64}", re.ASCII)
_READ_HEADERS: Final = (("Cache-Control", "no-cache"),)
"""Some servers answer a repeated search from a cache, which would show a resource as absent that was just made."""

_MINIMAL: Final = (("Prefer", "return=minimal"),)


class FhirDestination:
    """One FHIR R4 server, by its profile.

    `attempt_timeout_s` bounds each exchange, as does the write's own deadline. Nothing here raises for what a server does.
    """

    delivery: Literal["latest", "every"] = "latest"

    def __init__(
        self,
        name: str,
        base_url: str,
        profile: Profile,
        digest_key: bytes,
        credentials: Credentials | None = None,
        attempt_timeout_s: float = DEFAULT_ATTEMPT_TIMEOUT_S,
        clock: Callable[[], Millis] = system_clock,
        tls: TlsSource | None = None,
    ) -> None:
        self.name = name
        self.role: Literal["owner", "replica"] = profile.role
        self.builder = Builder(profile, digest_key)
        self._attempt_timeout_s = attempt_timeout_s
        self._clock = clock
        self._places = PlaceCache()
        self._http = FhirHttp(base_url, {"Accept": JSON_TYPE, **profile.headers}, credentials, clock, tls)

    def expects(self, accepted: Accepted) -> bool:
        """Whether the profile maps this entity type."""
        return self.builder.maps(accepted.entity_type)

    async def read(self, write: PendingWrite) -> Current | Absent | Refused | Retry:
        """By remote id if known, else by identifier: a search by POST, so that no identifier gets into a URL or a log of URLs.

        A known id that the server no longer knows is searched for again, since a resource may have been made anew.
        """
        if not self.expects(write.accepted):
            return Refused(Reason.REFUSED_OTHER)
        subject = self.builder.subject(write.accepted)
        if write.remote_id is not None and _ID.fullmatch(write.remote_id):
            found = await self._read_by_id(subject, write.remote_id, write.deadline_at)
            if not isinstance(found, Absent):
                return found
        return await self._search(subject, write.deadline_at)

    def build(self, write: PendingWrite, current: Current | Absent) -> Request | Suppressed | Refused:
        """See `Builder.build`. The same places known, the same request."""
        return self.builder.build(write, current, self._places.known)

    async def send(self, request: Request) -> Outcome:
        """Send once, with no more than the time that is left.

        Only an answer confirms. Without one the write is ambiguous as soon as any of it may have reached the server.
        """
        timeout_s = self._time_left(request.write.deadline_at)
        if timeout_s <= 0:
            return Retry(Reason.TIMEOUT)
        headers = (*_MINIMAL, *request.headers)
        exchange = await self._http.exchange(request.method, request.target, headers, encoded(request), timeout_s)
        if isinstance(exchange, NotSent):
            return Retry(exchange.reason, exchange.after_s)
        if not isinstance(exchange, Answer):
            return Ambiguous()
        outcome = _outcome(request, exchange)
        if isinstance(outcome, Confirmed | VersionMismatch):
            self._learn_places(request, exchange.body)
        elif isinstance(outcome, Refused) and self._places.forget_if_used(request):
            return VersionMismatch()  # perhaps for an id that is wrong by now; built anew, the request does without it
        return replace(outcome, etag=self.builder.fence_of(outcome.etag)) if isinstance(outcome, Confirmed) else outcome

    async def read_back(self, request: Request) -> ReadBack:
        """What the server shows after an ambiguous write. It is confirmed only if revision and owned fields both show."""
        found = await self.read(request.write)
        match found:
            case Absent():
                return found
            case Refused(reason):
                return Unknown(reason)
            case Retry(reason, after_s):
                return Unknown(reason, after_s)
            case Current():
                return self._compare(request, found)

    async def close(self) -> None:
        """Close the pool."""
        await self._http.close()

    def _compare(self, request: Request, current: Current) -> ReadBack:
        accepted = request.write.accepted
        if current.revision > accepted.revision:
            return Newer(current.revision)
        if self.builder.agrees(accepted, current):
            return Confirmed(current.remote_id, current.etag, current.revision)
        return NotApplied()

    async def _read_by_id(self, subject: Subject, remote_id: str, deadline_at: Millis) -> Current | Absent | Refused | Retry:
        target = f"{subject.resource.resource_type}/{remote_id}"
        answer = await self._ask("GET", target, (), None, deadline_at)
        if not isinstance(answer, Answer):
            return answer
        if answer.status == 404:
            return Absent()
        body = answer.body
        if body is None or body.get("resourceType") != subject.resource.resource_type:
            return Retry(Reason.ERROR_IN_BODY)
        if not carries(body, subject.ident) and read_mark(body) is None:
            return Absent()  # the id names something else by now
        return self.builder.current_of(body, answer.etag or _etag_of(body))

    async def _search(self, subject: Subject, deadline_at: Millis) -> Current | Absent | Refused | Retry:
        resource_type = subject.resource.resource_type
        form = {"identifier": subject.ident.token(), "_count": str(SEARCH_COUNT)}
        answer = await self._ask("POST", f"{resource_type}/_search", (("Prefer", "handling=strict"),), form, deadline_at)
        if not isinstance(answer, Answer):
            return answer
        if answer.status == 404 or answer.body is None or answer.body.get("resourceType") != "Bundle":
            return Retry(Reason.ERROR_IN_BODY)
        resources = [entry.get("resource") for entry in elements(answer.body, "entry")]
        found = [
            resource
            for resource in resources
            if isinstance(resource, dict) and resource.get("resourceType") == resource_type and carries(resource, subject.ident)
        ]
        if len(found) > 1:
            return Refused(Reason.MULTIPLE_MATCHES)
        if not found:
            return Absent()
        return self.builder.current_of(found[0], _etag_of(found[0]))

    async def _ask(
        self, method: str, target: str, headers: tuple[tuple[str, str], ...], form: dict[str, str] | None, deadline_at: Millis
    ) -> Answer | Refused | Retry:
        """A read. A 404 is an answer; without an answer nothing has happened, so every failure that may pass is a retry."""
        timeout_s = self._time_left(deadline_at)
        if timeout_s <= 0:
            return Retry(Reason.TIMEOUT)
        exchange: Exchange = await self._http.exchange(method, target, (*_READ_HEADERS, *headers), form, timeout_s)
        if isinstance(exchange, NotSent):
            return Retry(exchange.reason, exchange.after_s)
        if not isinstance(exchange, Answer):
            return Retry(exchange.reason)
        if exchange.status == 404:
            return exchange
        if (failure := classify(exchange.status, exchange.body)) is None:
            return exchange
        if failure.meaning is Meaning.REFUSED:
            return Refused(failure.reason)
        return Retry(failure.reason, exchange.retry_after_s)

    def _learn_places(self, request: Request, body: Body | None) -> None:
        """Ids of the places that a transaction made or met: all its entries but the last."""
        asked, answers = elements(request.body, "entry"), elements(body or {}, "entry")
        if len(asked) != len(answers):
            return
        for entry, answer in zip(asked[:-1], answers[:-1], strict=True):
            identifiers, remote_id = elements(entry["resource"], "identifier"), _id_of(answer)
            if identifiers and remote_id is not None:
                self._places.learn(Ident(identifiers[0]["system"], identifiers[0]["value"]), remote_id)

    def _time_left(self, deadline_at: Millis) -> float:
        return min(self._attempt_timeout_s, (deadline_at - self._clock()) / 1000)


def _outcome(request: Request, answer: Answer) -> Outcome:
    updates = request.target != ""
    if answer.status == 404 and updates:
        return VersionMismatch()  # it was there when it was read
    if (failure := classify(answer.status, answer.body)) is not None:
        return _failed(failure, answer.retry_after_s)
    if not answer.readable:
        return Ambiguous()  # a success that isn't FHIR may come from something in between
    if request.method == "POST":
        return _transaction_outcome(request, answer.body)
    if _is_fenced_create(request) and answer.status != 201:
        return VersionMismatch()
    etag = answer.etag or (_etag_of(answer.body) if answer.body else None)
    return Confirmed(request.target.rpartition("/")[2], etag, request.write.accepted.revision)


def _failed(failure: Failure, retry_after_s: float) -> Outcome:
    match failure.meaning:
        case Meaning.RETRY:
            return Retry(failure.reason, retry_after_s)
        case Meaning.REFUSED:
            return Refused(failure.reason)
        case Meaning.MISMATCH:
            return VersionMismatch()
        case Meaning.UNKNOWN:
            return Ambiguous()


def _transaction_outcome(request: Request, body: Body | None) -> Outcome:
    """The answer of each entry counts: a conditional create that met an existing resource wrote nothing into it."""
    answers = elements(body, "entry") if body is not None and body.get("resourceType") == "Bundle" else []
    asked = elements(request.body, "entry")
    if len(answers) != len(asked):
        return Ambiguous()
    for entry in answers:
        failure = classify(_status_of(entry), dotted_value(entry, "response.outcome"))
        if failure is not None:
            return _failed(failure, 0.0)
    last, wanted = answers[-1], dotted_value(asked[-1], "request")
    creates = wanted.get("method") == "POST" or "ifNoneMatch" in wanted
    if creates and _status_of(last) != 201:
        return VersionMismatch()
    remote_id = wanted["url"].rpartition("/")[2] if wanted.get("method") == "PUT" else _id_of(last)
    if remote_id is None:
        return Ambiguous()  # it is there, but what it is called has to be read
    return Confirmed(remote_id, _entry_etag(last), request.write.accepted.revision)


def _status_of(entry: Body) -> int:
    """Status of an entry, 500 where it says none: then nobody knows."""
    head = str(dotted_value(entry, "response.status") or "")[:3]
    return int(head) if head.isascii() and head.isdigit() else 500


def _id_of(entry: Body) -> str | None:
    location = dotted_value(entry, "response.location")
    if isinstance(location, str):
        parts = location.partition("/_history/")[0].rsplit("/", 1)
        if len(parts) == 2 and _ID.fullmatch(parts[1]):
            return parts[1]
    remote_id = dotted_value(entry, "resource.id")
    return remote_id if isinstance(remote_id, str) and _ID.fullmatch(remote_id) else None


def _entry_etag(entry: Body) -> str | None:
    etag = dotted_value(entry, "response.etag")
    resource = entry.get("resource")
    if isinstance(etag, str):
        return etag if etag.endswith('"') else f'W/"{etag}"'  # HAPI gives the bare version here
    return _etag_of(resource) if isinstance(resource, dict) else None


def _etag_of(body: Body) -> str | None:
    """Weak ETag of the version that a resource names (R4, 3.1.0.1.2)."""
    version = dotted_value(body, "meta.versionId")
    return f'W/"{version}"' if isinstance(version, str) else None


def _is_fenced_create(request: Request) -> bool:
    return any(name.lower() == "if-none-match" for name, _ in request.headers)
