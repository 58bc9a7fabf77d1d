"""What each answer of a server, and each lack of one, means for a write."""

import asyncio
import email.utils
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from pipeline.destinations.auth.credentials import Authorised, NoToken
from pipeline.destinations.fhir.destination import FhirDestination
from pipeline.destinations.fhir.profile import load_profile
from pipeline.destinations.fhir_http import MAX_RETRY_AFTER_S, retry_after_s
from pipeline.destinations.protocol import (
    Absent,
    Ambiguous,
    Confirmed,
    Current,
    NotApplied,
    Outcome,
    PendingWrite,
    Refused,
    Request,
    Retry,
    Suppressed,
    Unknown,
    VersionMismatch,
)
from pipeline.domain.event import (
    Allocation,
    AllocationStatus,
    Bed,
    BedOccupancy,
    EntityType,
    EventType,
    Occupancy,
    Place,
    Reference,
    Service,
    ServiceStatus,
)
from pipeline.domain.identifiers import EventId, Millis, Revision, revision_of
from pipeline.domain.records import Accepted, Lane, Reason
from pipeline.formats.fhir.codec import MAX_BODY_BYTES
from pipeline.formats.fhir.profile import Profile

KEY = b"a key for tests, of 32 bytes....."
PROFILE = load_profile("sekmet-replica")
NO_PLACE = Bed(occupancy=BedOccupancy(Occupancy.VACANT))
PLACED = Bed(occupancy=BedOccupancy(Occupancy.VACANT), place=Place(point_of_care="ICU", room="12", bed="A"))

Handler = Callable[[web.Request], Any]


def accepted(state: Bed = NO_PLACE, entity_type: EntityType = EntityType.BED) -> Accepted:
    return Accepted(
        event_id=EventId("0" * 32),
        tenant="t1",
        facility="MAIN",
        entity_type=entity_type,
        namespace="MAIN",
        entity_id="ICU/12/A",
        event_type=EventType.UPDATE,
        source_system="capacity",
        feed="http",
        epoch=1,
        partition=0,
        offset=7,
        revision=revision_of(1, 7),
        previous_revision=Revision(0),
        lane=Lane.ROUTINE,
        changed=(),
        state=state,
        state_hash="0123456789abcdef",
        content_hash="0" * 16,
        recorded_at=Millis(0),
        received_at=Millis(0),
        accepted_at=Millis(0),
        policy_version="1",
    )


def pending(record: Accepted | None = None, remote_id: str | None = None, within_ms: int = 60_000) -> PendingWrite:
    return PendingWrite(record or accepted(), remote_id, None, 1, Millis(time.time_ns() // 1_000_000 + within_ms))


class Server:
    """Answers as its `handler` says."""

    def __init__(self) -> None:
        self.handler: Handler = lambda request: web.Response(status=200)
        self.seen: list[web.Request] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        await request.read()
        answer = self.handler(request)
        settled: web.StreamResponse = await answer if asyncio.iscoroutine(answer) else answer
        return settled

    def answers(self, status: int, body: object = None, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.handler = lambda request: (
            web.Response(status=status, headers=named) if body is None else web.json_response(body, status=status, headers=named)
        )


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made, app = Server(), web.Application()
    app.router.add_route("*", "/{tail:.*}", made.handle)
    async with TestServer(app) as running:
        made.url = str(running.make_url("/fhir"))
        yield made


def destination_at(url: str, profile: Profile = PROFILE, **options: Any) -> FhirDestination:
    return FhirDestination("test", url, profile, KEY, **options)


@pytest.fixture
async def destination(server: Server) -> AsyncIterator[FhirDestination]:
    made = destination_at(server.url)
    yield made
    await made.close()


def update(destination: FhirDestination, state: Bed = NO_PLACE) -> Request:
    current = Current("b1", 'W/"3"', {"resourceType": "Location", "id": "b1"}, Revision(0), None)
    request = destination.build(pending(accepted(state)), current)
    assert isinstance(request, Request)
    return request


def create(destination: FhirDestination, state: Bed = NO_PLACE) -> Request:
    request = destination.build(pending(accepted(state)), Absent())
    assert isinstance(request, Request)
    return request


def outcome(code: str, severity: str = "error") -> dict[str, Any]:
    return {"resourceType": "OperationOutcome", "issue": [{"severity": severity, "code": code, "diagnostics": "Zanzibar-4711"}]}


def confirmed(etag: str | None) -> Confirmed:
    return Confirmed("b1", etag, revision_of(1, 7))


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, None, confirmed('W/"4"')),
        (201, None, confirmed('W/"4"')),
        (204, None, confirmed('W/"4"')),
        (200, outcome("informational", "information"), confirmed('W/"4"')),
        (200, outcome("processing"), Refused(Reason.ERROR_IN_BODY)),
        (200, outcome("lock-error"), Retry(Reason.ERROR_IN_BODY)),
        (200, outcome("timeout"), Ambiguous()),
        (200, outcome("conflict"), VersionMismatch()),
        (202, None, Ambiguous()),
        (200, {"error": "maintenance"}, Ambiguous()),
        (302, None, Retry(Reason.UNAVAILABLE)),  # nothing that speaks FHIR redirects: it is said in front of the EHR
        (400, outcome("invalid"), Refused(Reason.REFUSED_INVALID)),
        (401, None, Retry(Reason.UNAUTHENTICATED)),
        (403, None, Refused(Reason.REFUSED_FORBIDDEN)),
        (404, outcome("not-found"), VersionMismatch()),
        (404, None, VersionMismatch()),
        (408, None, Retry(Reason.TIMEOUT)),
        (409, None, VersionMismatch()),
        (410, outcome("deleted"), Refused(Reason.REFUSED_GONE)),
        (412, outcome("conflict"), VersionMismatch()),
        (412, outcome("multiple-matches"), Refused(Reason.MULTIPLE_MATCHES)),
        (418, None, Refused(Reason.REFUSED_OTHER)),
        (422, None, Refused(Reason.REFUSED_INVALID)),
        (429, None, Retry(Reason.RATE_LIMITED)),
        (500, outcome("exception"), Ambiguous()),
        (502, None, Ambiguous()),
        (503, None, Retry(Reason.UNAVAILABLE)),
        (504, None, Ambiguous()),
    ],
)
async def test_an_update_is_judged_by_status_and_body(
    server: Server, destination: FhirDestination, status: int, body: object, expected: Outcome
) -> None:
    server.answers(status, body, ETag='W/"4"')
    assert await destination.send(update(destination)) == expected
    assert len(server.seen) == 1


async def test_an_update_carries_the_version_of_its_read(server: Server, destination: FhirDestination) -> None:
    await destination.send(update(destination))
    assert server.seen[0].headers["If-Match"] == 'W/"3"'
    assert (server.seen[0].method, server.seen[0].path) == ("PUT", "/fhir/Location/b1")


async def test_a_success_that_is_no_json_is_not_believed(server: Server, destination: FhirDestination) -> None:
    server.handler = lambda request: web.Response(status=200, text="<html>sign in</html>")
    assert await destination.send(update(destination)) == Ambiguous()


async def test_an_answer_without_end_is_cut_off(server: Server, destination: FhirDestination) -> None:
    server.handler = lambda request: web.Response(body=b" " * (MAX_BODY_BYTES + 1))
    assert await destination.send(update(destination)) == Ambiguous()
    assert await destination.read(pending()) == Retry(Reason.OVERSIZE), "the server is there: it must not look as if it were away"
    server.handler = lambda request: web.Response(status=503, body=b" " * (MAX_BODY_BYTES + 1))
    assert await destination.read(pending()) == Retry(Reason.CONNECTION)


def test_nothing_that_is_logged_by_mistake_shows_a_value() -> None:
    destination = destination_at("http://h/fhir")
    record = accepted(PLACED)
    request = create(destination, PLACED)
    subject = destination.builder.subject(record)
    desired = subject.resource.desired(PLACED, subject.ident, subject.naming, {})
    shown = repr((request, request.write, subject.ident, desired, destination.builder, PLACED))
    assert "ICU" not in shown
    assert KEY.decode() not in shown


@pytest.mark.parametrize(
    ("header", "after_s"), [("7", 7.0), ("0", 0.0), ("99999999", MAX_RETRY_AFTER_S), ("soon", 0.0), ("-3", 0.0), ("", 0.0)]
)
async def test_a_pause_asked_for_in_seconds_is_handed_on(
    server: Server, destination: FhirDestination, header: str, after_s: float
) -> None:
    server.answers(503, None, Retry_After=header)
    assert await destination.send(update(destination)) == Retry(Reason.UNAVAILABLE, after_s)


def test_a_pause_asked_for_by_date_is_counted_from_now() -> None:
    now = Millis(1_700_000_000_000)
    assert retry_after_s(email.utils.formatdate(1_700_000_030, usegmt=True), now) == 30.0
    assert retry_after_s(email.utils.formatdate(1_600_000_000, usegmt=True), now) == 0.0
    assert retry_after_s("Wed, 99 Xyz 2020 00:00:00 GMT", now) == 0.0


async def test_a_server_that_is_not_there_has_taken_nothing() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        destination = destination_at(f"http://127.0.0.1:{closed.getsockname()[1]}/fhir")
        assert await destination.send(update(destination)) == Retry(Reason.CONNECTION)
        assert await destination.read(pending()) == Retry(Reason.CONNECTION)
        await destination.close()


async def test_a_connection_that_breaks_after_sending_is_ambiguous(server: Server, destination: FhirDestination) -> None:
    def drop(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    server.handler = drop
    assert await destination.send(update(destination)) == Ambiguous()
    assert len(server.seen) == 1  # the client library would have sent it again on a kept connection
    assert await destination.read_back(update(destination)) == Unknown(Reason.CONNECTION)


async def test_a_kept_connection_that_dies_is_not_sent_on_twice(server: Server, destination: FhirDestination) -> None:
    assert await destination.send(update(destination)) == confirmed(None)

    def drop(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    server.handler = drop
    assert await destination.send(update(destination)) == Ambiguous()
    assert len(server.seen) == 2


async def test_an_answer_that_takes_too_long_leaves_the_write_ambiguous(server: Server) -> None:
    release = asyncio.Event()

    async def stall() -> web.Response:
        await release.wait()
        return web.Response()

    server.handler = lambda request: stall()
    destination = destination_at(server.url, attempt_timeout_s=0.1)
    assert await destination.send(update(destination)) == Ambiguous()
    assert await destination.read(pending()) == Retry(Reason.TIMEOUT)
    release.set()
    await destination.close()


async def test_a_write_whose_time_is_over_is_not_sent(server: Server, destination: FhirDestination) -> None:
    request = destination.build(pending(within_ms=-1), Absent())
    assert isinstance(request, Request)
    assert await destination.send(request) == Retry(Reason.TIMEOUT)
    assert server.seen == []


class Tokens:
    """Credentials that hand out the given answers, one a request, and one after a 401."""

    def __init__(self, first: Authorised | NoToken, after: Authorised | NoToken | None = None) -> None:
        self.first, self.after = first, after
        self.refused: list[Authorised] = []

    async def authorise(self, within_s: float) -> Authorised | NoToken:
        return self.first

    async def renew(self, refused: Authorised, within_s: float) -> Authorised | NoToken | None:
        self.refused.append(refused)
        return self.after

    async def close(self) -> None:
        pass


async def test_without_a_token_nothing_is_sent_and_the_entity_is_not_blamed(server: Server) -> None:
    destination = destination_at(server.url, credentials=Tokens(NoToken(7.0)))
    assert await destination.send(update(destination)) == Retry(Reason.NO_TOKEN, 7.0)
    assert await destination.read(pending()) == Retry(Reason.NO_TOKEN, 7.0)
    assert await destination.read_back(update(destination)) == Unknown(Reason.NO_TOKEN, 7.0)
    assert server.seen == []
    await destination.close()


@pytest.mark.parametrize("status", [200, 401])
async def test_a_write_that_may_go_no_more_once_there_is_a_token_is_not_sent(server: Server, status: int) -> None:
    """Its partition went, or a flag was flipped, while it waited: for the first token, or for another after a 401."""
    may_go = [True] * (1 if status == 200 else 2) + [False]
    server.answers(status)
    tokens = Tokens(Authorised("Bearer t"), Authorised("Bearer u"))
    destination = destination_at(server.url, credentials=tokens)
    request = update(destination)
    taken_back = replace(request, write=replace(request.write, may_go=lambda: may_go.pop(0)))
    assert await destination.send(taken_back) == Retry(Reason.NONE)
    assert len(server.seen) == (0 if status == 200 else 1)
    await destination.close()


async def test_every_request_is_authorised(server: Server) -> None:
    destination = destination_at(server.url, credentials=Tokens(Authorised("Bearer t")))
    await destination.send(update(destination))
    await destination.read(pending(remote_id="b1"))
    assert {request.headers["Authorization"] for request in server.seen} == {"Bearer t"}
    await destination.close()


def knows(token: str) -> Handler:
    """A server that takes one token."""
    return lambda request: web.Response(
        status=200 if request.headers["Authorization"] == token else 401, headers={"ETag": 'W/"4"'}
    )


async def test_a_write_that_met_a_401_is_sent_once_more_with_the_new_token(server: Server) -> None:
    server.handler = knows("Bearer new")
    tokens = Tokens(Authorised("Bearer old"), Authorised("Bearer new"))
    destination = destination_at(server.url, credentials=tokens)
    assert await destination.send(update(destination)) == confirmed('W/"4"')
    assert [request.headers["Authorization"] for request in server.seen] == ["Bearer old", "Bearer new"]
    assert len({request.headers["If-Match"] for request in server.seen}) == 1
    assert tokens.refused == [Authorised("Bearer old")]
    await destination.close()


@pytest.mark.parametrize(
    ("after", "expected", "sent"),
    [
        (Authorised("Bearer newer"), Retry(Reason.UNAUTHENTICATED), 2),
        (None, Retry(Reason.UNAUTHENTICATED), 1),
        (NoToken(3.0), Retry(Reason.NO_TOKEN, 3.0), 1),
    ],
)
async def test_after_a_second_401_or_without_another_token_nothing_more_is_sent(
    server: Server, after: Authorised | NoToken | None, expected: Outcome, sent: int
) -> None:
    server.answers(401, None)
    destination = destination_at(server.url, credentials=Tokens(Authorised("Bearer old"), after))
    assert await destination.send(update(destination)) == expected
    assert len(server.seen) == sent
    await destination.close()


async def test_a_repeated_write_whose_answer_is_lost_is_ambiguous(server: Server) -> None:
    def answer(request: web.Request) -> web.Response:
        if request.headers["Authorization"] == "Bearer new":
            assert request.transport is not None
            request.transport.abort()
        return web.Response(status=401)

    server.handler = answer
    destination = destination_at(server.url, credentials=Tokens(Authorised("Bearer old"), Authorised("Bearer new")))
    assert await destination.send(update(destination)) == Ambiguous()
    await destination.close()


def entry(status: str, location: str | None = "Location/b1/_history/1", **more: object) -> dict[str, Any]:
    return {"response": {"status": status, "location": location, "etag": 'W/"1"', **more}}


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([entry("201 Created")], confirmed('W/"1"')),
        ([entry("201 Created", "http://h/fhir/Location/b1/_history/1")], confirmed('W/"1"')),
        ([entry("200 OK")], VersionMismatch()),
        ([entry("412 Precondition Failed")], VersionMismatch()),
        ([entry("422 Unprocessable", outcome=outcome("invalid"))], Refused(Reason.REFUSED_INVALID)),
        ([entry("201 Created", None)], Ambiguous()),
        ([{}], Ambiguous()),
        ([], Ambiguous()),
    ],
)
async def test_a_create_is_judged_by_its_own_entry(
    server: Server, destination: FhirDestination, entries: list[dict[str, Any]], expected: Outcome
) -> None:
    server.answers(200, {"resourceType": "Bundle", "type": "transaction-response", "entry": entries})
    assert await destination.send(create(destination)) == expected


async def test_what_a_create_made_is_known_as_far_as_the_server_shows_it(server: Server, destination: FhirDestination) -> None:
    """What a server adds by itself is its own: what we sent says nothing of it."""
    request = create(destination)
    shown = {**request.body["entry"][-1]["resource"], "id": "b1", "alias": ["the server's own"]}
    for resource, known in (
        (shown, shown), (None, None), ({**shown, "id": "b2"}, None), ({"resourceType": "OperationOutcome"}, None)
    ):  # fmt: skip
        told = entry("201 Created") | ({"resource": resource} if resource else {})
        server.answers(200, {"resourceType": "Bundle", "entry": [told]})
        outcome = await destination.send(request)
        assert isinstance(outcome, Confirmed)
        assert outcome.made == known
    assert {asked.headers["Prefer"] for asked in server.seen} == {"return=representation"}


async def test_a_bare_version_in_an_entry_becomes_an_etag(server: Server, destination: FhirDestination) -> None:
    server.answers(200, {"resourceType": "Bundle", "entry": [{"response": {**entry("201 Created")["response"], "etag": "1"}}]})
    assert await destination.send(create(destination)) == confirmed('W/"1"')


async def test_a_create_without_a_word_of_its_entries_is_ambiguous(server: Server, destination: FhirDestination) -> None:
    server.answers(200)
    assert await destination.send(create(destination)) == Ambiguous()


async def test_a_place_once_made_is_referred_to_by_id(server: Server, destination: FhirDestination) -> None:
    first = create(destination, PLACED)
    made = [entry("201 Created", f"Location/p{i}/_history/1") for i in range(len(first.body["entry"]) - 1)]
    server.answers(200, {"resourceType": "Bundle", "entry": [*made, entry("201 Created")]})
    assert await destination.send(first) == confirmed('W/"1"')
    second = create(destination, PLACED)
    assert [item["resource"]["partOf"]["reference"] for item in second.body["entry"]] == [f"Location/p{len(made) - 1}"]


async def test_a_refusal_forgets_the_places_that_it_was_built_on(server: Server, destination: FhirDestination) -> None:
    await test_a_place_once_made_is_referred_to_by_id(server, destination)
    server.answers(400, outcome("invalid"))
    assert await destination.send(create(destination, PLACED)) == VersionMismatch()
    rebuilt = create(destination, PLACED)
    assert len(rebuilt.body["entry"]) > 1
    assert await destination.send(rebuilt) == Refused(Reason.REFUSED_INVALID)


def with_create(how: str) -> Profile:
    bed = msgspec.structs.replace(PROFILE.resources[EntityType.BED], create=how)
    return msgspec.structs.replace(PROFILE, resources={**PROFILE.resources, EntityType.BED: bed})


@pytest.mark.parametrize(("status", "expected"), [(201, Confirmed), (200, VersionMismatch), (412, VersionMismatch)])
async def test_a_create_by_our_own_id_met_nothing_or_is_read_again(server: Server, status: int, expected: type) -> None:
    destination = destination_at(server.url, with_create("put-client-id"))
    request = create(destination)
    server.answers(status)
    assert isinstance(await destination.send(request), expected)
    assert server.seen[0].headers["If-None-Match"] == "*"
    assert "ICU" not in request.target
    assert create(destination).target == request.target
    await destination.close()


def test_what_may_not_be_made_is_refused_as_missing() -> None:
    destination = destination_at("http://h/fhir", with_create("never"))
    assert destination.build(pending(), Absent()) == Refused(Reason.REFUSED_MISSING)


def test_without_a_version_nothing_is_written_where_the_profile_promises_a_fence() -> None:
    current = Current("b1", None, {"resourceType": "Location", "id": "b1"}, Revision(0), None)
    assert destination_at("http://h/fhir").build(pending(), current) == Refused(Reason.REFUSED_OTHER)
    unfenced = destination_at("http://h/fhir", msgspec.structs.replace(PROFILE, fence="none"))
    request = unfenced.build(pending(), current)
    assert isinstance(request, Request)
    assert "If-Match" not in dict(request.headers)


def test_a_time_beyond_the_calendar_is_written_as_its_end() -> None:
    """A head may hold one from before ways in refused them: refused, each later change of the bed would be parked with it."""
    state = Bed(service=Service(ServiceStatus.BLOCKED, until=Millis(10**18)))
    destination = destination_at("http://h/fhir")
    current = Current("b1", 'W/"1"', {"resourceType": "Location", "id": "b1"}, Revision(0), None)
    for found in (Absent(), current):
        request = destination.build(pending(accepted(state)), found)
        assert isinstance(request, Request)
        assert "9999-12-31T23:59:59.999Z" in json.dumps(request.body)


def test_a_resource_of_another_shape_is_refused_and_does_not_raise() -> None:
    current = Current("b1", 'W/"1"', {"resourceType": "Location", "id": "b1", "extension": {"url": "x"}}, Revision(0), None)
    assert destination_at("http://h/fhir").build(pending(), current) == Refused(Reason.REFUSED_INVALID)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, None, Retry(Reason.UNAUTHENTICATED, 3.0)),
        (410, outcome("deleted"), Refused(Reason.REFUSED_GONE)),
        (429, None, Retry(Reason.RATE_LIMITED, 3.0)),
        (500, None, Retry(Reason.UNAVAILABLE, 3.0)),
        (503, None, Retry(Reason.UNAVAILABLE, 3.0)),
        (200, outcome("exception"), Retry(Reason.ERROR_IN_BODY, 3.0)),
        (302, None, Retry(Reason.UNAVAILABLE, 3.0)),
        (404, None, Retry(Reason.UNAVAILABLE)),
        (404, outcome("not-supported"), Retry(Reason.ERROR_IN_BODY)),
        (200, None, Retry(Reason.UNAVAILABLE)),  # no EHR shows a resource without a body
        (200, {"error": "maintenance"}, Retry(Reason.UNAVAILABLE)),
        (200, {"resourceType": "Patient"}, Retry(Reason.ERROR_IN_BODY)),
    ],
)
async def test_a_read_that_fails_says_nothing_of_the_resource(
    server: Server, destination: FhirDestination, status: int, body: object, expected: object
) -> None:
    server.answers(status, body, Retry_After="3")
    assert await destination.read(pending(remote_id="b1")) == expected


async def test_an_id_that_names_something_else_by_now_is_searched_for_anew(server: Server, destination: FhirDestination) -> None:
    other = {"resourceType": "Location", "id": "b1", "meta": {"versionId": "3"}}
    server.handler = lambda request: web.json_response(other if request.method == "GET" else {"resourceType": "Bundle"})
    assert await destination.read(pending(remote_id="b1")) == Absent()
    assert [request.method for request in server.seen] == ["GET", "POST"]


async def test_a_resource_with_our_mark_is_ours_without_our_identifier(server: Server, destination: FhirDestination) -> None:
    body = {**update(destination).body, "meta": {"versionId": "4"}}
    del body["identifier"]
    server.answers(200, body)
    found = await destination.read(pending(remote_id="b1"))
    assert isinstance(found, Current)
    assert (found.revision, found.etag) == (revision_of(1, 7), 'W/"4"')


async def test_a_resource_with_our_mark_and_another_entitys_name_is_the_other_entitys(
    server: Server, destination: FhirDestination
) -> None:
    """A server that mixed up its answers told us the id of one patient's resource for another's."""
    body = {**update(destination).body, "meta": {"versionId": "4"}}
    body["identifier"] = [{**body["identifier"][0], "value": "MAIN/ICU/12/B"}]
    server.handler = lambda request: web.json_response(body if request.method == "GET" else {"resourceType": "Bundle"})
    assert await destination.read(pending(remote_id="b1")) == Absent()
    assert [request.method for request in server.seen] == ["GET", "POST"]


async def test_matches_that_carry_another_identifier_are_no_matches(server: Server, destination: FhirDestination) -> None:
    server.answers(200, {"resourceType": "Bundle", "entry": [{"resource": {"resourceType": "Location", "id": "x"}}]})
    assert await destination.read(pending()) == Absent()


async def test_an_id_that_is_none_never_gets_into_a_url(server: Server, destination: FhirDestination) -> None:
    server.answers(200, {"resourceType": "Bundle"})
    assert await destination.read(pending(remote_id="../Patient?name=x")) == Absent()
    assert [request.path_qs for request in server.seen] == ["/fhir/Location/_search"]


def test_nothing_is_written_of_a_type_that_the_profile_does_not_map() -> None:
    record = accepted(entity_type=EntityType.DIVERSION)
    destination = destination_at("http://h/fhir")
    assert not destination.expects(record)
    assert destination.build(pending(record), Absent()) == Refused(Reason.REFUSED_OTHER)


def test_what_is_shown_already_is_not_written_again() -> None:
    destination = destination_at("http://h/fhir")
    body = update(destination, PLACED).body["entry"][-1]["resource"]
    shown = destination.builder.current_of(body, 'W/"4"')
    assert destination.build(pending(accepted(PLACED)), shown) == Suppressed(Reason.ALREADY_THERE, revision_of(1, 7))


def test_a_short_digest_key_is_refused() -> None:
    with pytest.raises(ValueError, match="16 to 64"):
        FhirDestination("test", "http://h/fhir", PROFILE, b"short")


async def test_a_redirect_is_not_followed_with_patient_data(server: Server, destination: FhirDestination) -> None:
    server.answers(307, None, Location="/elsewhere")
    assert await destination.send(update(destination)) == Retry(Reason.UNAVAILABLE)
    assert [request.path for request in server.seen] == ["/fhir/Location/b1"]


@pytest.mark.parametrize(
    ("body", "expected"), [(None, VersionMismatch()), (outcome("not-found"), Refused(Reason.REFUSED_MISSING))]
)
async def test_a_create_that_is_answered_404_is_given_up_only_where_an_ehr_says_so(
    server: Server, destination: FhirDestination, body: object, expected: Outcome
) -> None:
    server.answers(404, body)
    assert await destination.send(create(destination)) == expected


async def test_what_is_ambiguous_says_whether_the_connection_was_cut_off(server: Server, destination: FhirDestination) -> None:
    def drop(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    server.handler = drop
    cut = await destination.send(update(destination))
    server.answers(502)
    answered = await destination.send(update(destination))
    assert isinstance(cut, Ambiguous)
    assert isinstance(answered, Ambiguous)
    assert (cut.reason, answered.reason) == (Reason.CONNECTION, Reason.AMBIGUOUS)


async def test_no_read_is_answered_from_a_cache(server: Server, destination: FhirDestination) -> None:
    await destination.read(pending(remote_id="b1"))
    await destination.read(pending())
    assert {request.headers["Cache-Control"] for request in server.seen} == {"no-cache"}


def test_a_bed_that_stays_where_it_is_keeps_its_reference_and_needs_no_transaction() -> None:
    destination = destination_at("http://h/fhir")
    body = create(destination, PLACED).body["entry"][-1]["resource"]
    body = {**body, "id": "b1", "partOf": {**body["partOf"], "reference": "Location/p9"}}
    again = msgspec.structs.replace(accepted(PLACED), revision=revision_of(1, 8))
    request = destination.build(pending(again), destination.builder.current_of(body, 'W/"1"'))
    assert isinstance(request, Request)
    assert (request.method, request.body["partOf"]) == ("PUT", body["partOf"])


async def test_the_same_revision_of_another_state_is_no_confirmation(server: Server, destination: FhirDestination) -> None:
    other = msgspec.structs.replace(accepted(), state_hash="f" * 16)
    current = Current("b1", 'W/"3"', {"resourceType": "Location", "id": "b1"}, Revision(0), None)
    theirs = destination.build(pending(other), current)
    assert isinstance(theirs, Request)
    for body, expected in ((theirs.body, NotApplied()), (update(destination).body, confirmed('W/"4"'))):
        shown = {**body, "meta": {"versionId": "4"}}
        server.answers(200, {"resourceType": "Bundle", "entry": [{"resource": shown}]})
        assert await destination.read_back(update(destination)) == expected


def promised(encounter: Reference | None) -> Accepted:
    allocation = Allocation(AllocationStatus.RESERVED, encounter)
    return accepted(Bed(occupancy=BedOccupancy(Occupancy.VACANT), allocation=allocation))


def test_a_promise_to_nobody_cannot_be_told_as_a_pending_location() -> None:
    destination = destination_at("http://h/fhir", msgspec.structs.replace(PROFILE, reservation="pending-location"))
    held = Suppressed(Reason.RESERVATION_UNTELLABLE, revision_of(1, 7))
    assert destination.build(pending(promised(None)), Absent()) == held
    assert isinstance(destination.build(pending(promised(Reference("MAIN", "V1"))), Absent()), Request)
