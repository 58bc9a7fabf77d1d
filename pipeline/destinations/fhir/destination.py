"""A FHIR R4 server as destination: read, build, send once, read back. The writer owns time, order and repetition.

The server is the fence: an update carries the version of the read that it was made from, a create is conditional
in the way that the profile says, and nothing is ever deleted. What the server says in words stays here.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Literal

from pipeline.destinations.auth.credentials import Credentials
from pipeline.destinations.fhir.answers import RESOURCE_ID, etag_of, id_of, outcome_of
from pipeline.destinations.fhir.build import JSON_TYPE, Builder, Subject, encoded
from pipeline.destinations.fhir.bundles import Bundles
from pipeline.destinations.fhir.entries import ALONE, Entry, Part, as_if_alone, entry_of_read, entry_of_write
from pipeline.destinations.fhir.places import PlaceCache
from pipeline.destinations.fhir_http import Answer, Exchange, FhirHttp, NotSent, TlsSource, system_clock
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
    always,
)
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Accepted, Reason
from pipeline.formats.fhir.naming import Ident
from pipeline.formats.fhir.outcome import Meaning, classify, is_resource
from pipeline.formats.fhir.owned import Body, elements
from pipeline.formats.fhir.profile import Profile
from pipeline.formats.fhir.resource import carries, names_another

DEFAULT_ATTEMPT_TIMEOUT_S: Final = 10.0
SERVER_ERROR: Final = 500
SEARCH_COUNT: Final = 5
"""Matches asked for by identifier; two are already too many."""

_READ_HEADERS: Final = (("Cache-Control", "no-cache"),)
"""Some servers answer a repeated search from a cache, which would show a resource as absent that was just made."""

_MINIMAL: Final = (("Prefer", "return=minimal"),)
_WHOLE: Final = (("Prefer", "return=representation"),)
"""Of a create: what the server adds by itself is its own, and the next write must not be made without having seen it."""


def _beside_the_point(answer: Answer) -> Retry:
    """What answers no question of ours: a fault of the EHR, or, where it is no FHIR, the word of what stands in its place."""
    return Retry(Reason.ERROR_IN_BODY if is_resource(answer.body) else Reason.UNAVAILABLE)


def _loop_clock() -> Millis:
    """The loop's own time, in milliseconds since some moment: nobody sets it, so no wait that is counted by it grows."""
    return Millis(int(asyncio.get_running_loop().time() * 1000))


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
        self._bundles = Bundles(profile.bundle, self._post_bundle, _loop_clock) if profile.bundle else None

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
        if write.remote_id is not None and RESOURCE_ID.fullmatch(write.remote_id):
            found = await self._read_by_id(subject, write)
            if not isinstance(found, Absent):
                return found
        return await self._search(subject, write.deadline_at)

    def build(self, write: PendingWrite, current: Current | Absent) -> Request | Suppressed | Refused:
        """See `Builder.build`. The same places known, the same request."""
        return self.builder.build(write, current, self._places.known)

    def differences(self, write: PendingWrite, current: Current | Absent) -> tuple[str, ...]:
        """See `Builder.differences`."""
        return self.builder.differences(write.accepted, current)

    async def send(self, request: Request) -> Outcome:
        """Send once, with no more than the time that is left.

        Only an answer confirms. Without one the write is ambiguous as soon as any of it may have reached the server.
        """
        exchange = await self._written(request)
        if isinstance(exchange, NotSent):
            return Retry(exchange.reason, exchange.after_s)
        if not isinstance(exchange, Answer):
            return Ambiguous(exchange.reason)
        outcome = outcome_of(request, exchange)
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
        if self._bundles is not None:
            await self._bundles.close()
        await self._http.close()

    async def _written(self, request: Request) -> Exchange:
        """In company where the profile lets it, else alone."""
        entry = None if self._has_own_base(request.write) else entry_of_write(request, self.builder.profile.bundle)
        part = await self._in_company(entry, request.write.deadline_at, request.write.may_go)
        if part is not ALONE:
            return as_if_alone(request, part)
        timeout_s = self._time_left(request.write.deadline_at)
        if timeout_s <= 0:
            return NotSent(Reason.TIMEOUT)
        headers = (*(_WHOLE if request.method == "POST" else _MINIMAL), *request.headers)
        target = self.builder.under_base(request.write.accepted.entity_type, request.target)
        data = encoded(request)
        if not request.write.may_go():
            return NotSent(Reason.NONE)
        exchange = await self._http.exchange(request.method, target, headers, data, timeout_s, request.write.may_go)
        if self._bundles is not None and entry is not None and isinstance(exchange, Answer) and exchange.status < SERVER_ERROR:
            self._bundles.acquit(entry)
        return exchange

    async def _in_company(self, entry: Entry | None, deadline_at: Millis, may_go: Callable[[], bool] = always) -> Part:
        timeout_s = self._time_left(deadline_at)
        if self._bundles is None or entry is None or timeout_s <= 0:
            return ALONE
        return await self._bundles.carry(entry, timeout_s, may_go)

    async def _post_bundle(self, data: bytes, timeout_s: float, may_go: Callable[[], bool]) -> Exchange:
        return await self._http.exchange("POST", "", (("Content-Type", JSON_TYPE), *_MINIMAL), data, timeout_s, may_go)

    def _has_own_base(self, write: PendingWrite) -> bool:
        """Whether the EHR serves this resource at a base of its own: then no bundle of the common one can hold it."""
        return self.builder.under_base(write.accepted.entity_type, "") != ""

    def _compare(self, request: Request, current: Current) -> ReadBack:
        accepted = request.write.accepted
        if current.revision > accepted.revision:
            return Newer(current.revision)
        if self.builder.agrees(accepted, current):
            return Confirmed(current.remote_id, current.etag, accepted.revision)
        return NotApplied()

    async def _read_by_id(self, subject: Subject, write: PendingWrite) -> Current | Absent | Refused | Retry:
        target = f"{subject.resource.resource_type}/{write.remote_id}"
        entry = None if self._has_own_base(write) else entry_of_read(target, write.lane, self.builder.profile.bundle)
        target = self.builder.under_base(subject.resource.entity_type, target)
        answer = await self._ask("GET", target, (), None, write.deadline_at, entry)
        if not isinstance(answer, Answer):
            return answer
        if answer.status == 404:
            return Absent()
        body = answer.body
        if body is None or body.get("resourceType") != subject.resource.resource_type:
            return _beside_the_point(answer)
        marked = self.builder.mark_in(body) is not None
        if not carries(body, subject.ident) and (not marked or names_another(body, subject.ident)):
            return Absent()  # the id names something else by now, or did from the beginning: answers may be mixed up
        return self.builder.current_of(body, answer.etag or etag_of(body))

    async def _search(self, subject: Subject, deadline_at: Millis) -> Current | Absent | Refused | Retry:
        resource_type = subject.resource.resource_type
        form = {"identifier": subject.ident.token(), "_count": str(SEARCH_COUNT)}
        target = self.builder.under_base(subject.resource.entity_type, f"{resource_type}/_search")
        answer = await self._ask("POST", target, (("Prefer", "handling=strict"),), form, deadline_at)
        if not isinstance(answer, Answer):
            return answer
        if answer.status == 404 or answer.body is None or answer.body.get("resourceType") != "Bundle":
            return _beside_the_point(answer)
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
        return self.builder.current_of(found[0], etag_of(found[0]))

    async def _ask(
        self,
        method: str,
        target: str,
        headers: tuple[tuple[str, str], ...],
        form: dict[str, str] | None,
        deadline_at: Millis,
        entry: Entry | None = None,
    ) -> Answer | Refused | Retry:
        """A read. A 404 is an answer; without an answer nothing has happened, so every failure that may pass is a retry."""
        exchange = await self._in_company(entry, deadline_at)
        if exchange is ALONE:
            timeout_s = self._time_left(deadline_at)
            if timeout_s <= 0:
                return Retry(Reason.TIMEOUT)
            exchange = await self._http.exchange(method, target, (*_READ_HEADERS, *headers), form, timeout_s)
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
            identifiers, remote_id = elements(entry["resource"], "identifier"), id_of(answer)
            if identifiers and remote_id is not None and entry["resource"]["resourceType"] == "Location":
                self._places.learn(Ident(identifiers[0]["system"], identifiers[0]["value"]), remote_id)

    def _time_left(self, deadline_at: Millis) -> float:
        return min(self._attempt_timeout_s, (deadline_at - self._clock()) / 1000)
