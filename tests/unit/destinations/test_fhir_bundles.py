"""Exchanges in company: each gets its own answer, no poisoned one takes the others down, nothing critical waits."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from pipeline.destinations.fhir.bundles import BUNDLES_AT_ONCE, USELESS_BUNDLES, WITHOUT_S, Bundles
from pipeline.destinations.fhir.destination import FhirDestination
from pipeline.destinations.fhir.entries import ALONE, Entry, Part, entry_of
from pipeline.destinations.fhir.profile import load_profile
from pipeline.destinations.fhir_http import Answer, Exchange, NoAnswer, NotSent
from pipeline.destinations.protocol import (
    Ambiguous,
    Confirmed,
    Current,
    Outcome,
    PendingWrite,
    Refused,
    Request,
    Retry,
    VersionMismatch,
)
from pipeline.domain.event import Bed, BedOccupancy, Occupancy
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Lane, Reason
from pipeline.formats.fhir.profile import BundleProfile
from pipeline.local.servers.standin import StandIn
from tests.support.fhir_lab import DIGEST_KEY, accepted, outcome, pending

Body = dict[str, Any]
Serve = Callable[[list[Body]], Answer | NoAnswer | NotSent | Awaitable[Exchange]]
PLENTY_S = 30.0


def put(number: int, size: int = 0) -> Entry:
    resource: Body = {"resourceType": "Location", "id": str(number), "name": "x" * size}
    return entry_of(f"Location/{number}", {"method": "PUT", "url": f"Location/{number}", "ifMatch": 'W/"1"'}, resource)


def get(number: int) -> Entry:
    return entry_of(f"Location/{number}", {"method": "GET", "url": f"Location/{number}"}, None)


def response(url: str, status: str = "200 OK") -> Body:
    if status.startswith("2"):
        return {"response": {"status": status, "location": f"{url}/_history/2", "etag": 'W/"2"'}}
    return {"response": {"status": status}}


def answered(*entries: Body) -> Answer:
    return Answer(200, None, None, 0.0, {"resourceType": "Bundle", "type": "batch-response", "entry": list(entries)})


def all_taken(entries: list[Body]) -> Answer:
    return answered(*(response(entry["request"]["url"]) for entry in entries))


def failed(status: int, retry_after_s: float = 0.0) -> Answer:
    return Answer(status, None, None, retry_after_s, {"resourceType": "OperationOutcome", "issue": [{"severity": "error"}]})


class Post:
    """Where bundles go; `serve` answers each."""

    def __init__(self, serve: Serve = all_taken) -> None:
        self.serve = serve
        self.bundles: list[list[str]] = []
        self.at_once = self.most_at_once = 0

    async def __call__(self, data: bytes, timeout_s: float, may_go: Callable[[], bool]) -> Exchange:
        bundle = msgspec.json.decode(data)
        assert (bundle["resourceType"], bundle["type"]) == ("Bundle", "batch")
        self.bundles.append([entry["request"]["url"] for entry in bundle["entry"]])
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            made = self.serve(bundle["entry"])
            return made if isinstance(made, Answer | NoAnswer | NotSent) else await made
        finally:
            self.at_once -= 1


class Lab:
    def __init__(self, serve: Serve = all_taken, entries: int = 10, size: int = 1_000_000) -> None:
        self.post = Post(serve)
        self.now = 1_000_000
        self.bundles = Bundles(BundleProfile(entries, size), self.post, lambda: Millis(self.now))

    async def carry(self, *entries: Entry, within_s: float = PLENTY_S) -> list[Part]:
        return list(await asyncio.gather(*(self.bundles.carry(entry, within_s) for entry in entries)))


def status_of(part: Part) -> int | None:
    return part.status if isinstance(part, Answer) else None


async def test_what_is_under_way_at_once_goes_as_one_and_each_gets_its_own_answer() -> None:
    statuses = ["200", "201 Created", "412", "409 Conflict", "429", "503", "500"]
    lab = Lab(lambda entries: answered(*(response(e["request"]["url"], s) for e, s in zip(entries, statuses, strict=True))))
    parts = await lab.carry(*map(put, range(7)))
    assert [status_of(part) for part in parts] == [200, 201, 412, 409, 429, 503, 500]
    assert len(lab.post.bundles) == 1
    assert isinstance(parts[0], Answer)
    assert parts[0].etag == 'W/"2"'


@pytest.mark.parametrize("status", ["400", "403", "404", "410", "422", "501"])
async def test_an_entry_that_is_refused_in_company_is_asked_again_alone(status: str) -> None:
    lab = Lab(lambda entries: answered(response("Location/0"), response("Location/1", status)))
    parts = await lab.carry(put(0), put(1))
    assert status_of(parts[0]) == 200
    assert parts[1] is ALONE


async def test_a_success_with_an_error_inside_is_no_success() -> None:
    bad = response("Location/1") | {"resource": {"resourceType": "OperationOutcome", "issue": [{"severity": "error"}]}}
    bad["response"]["outcome"] = bad.pop("resource")
    lab = Lab(lambda entries: answered(response("Location/0"), bad))
    parts = await lab.carry(put(0), put(1))
    assert status_of(parts[0]) == 200
    assert parts[1] is ALONE


async def test_one_alone_travels_alone_and_waits_for_company_no_longer_than_the_gathering() -> None:
    lab = Lab()
    assert await lab.carry(put(0)) == [ALONE]
    assert lab.post.bundles == []


async def test_no_bundle_is_larger_than_the_profile_says_in_entries_and_bytes() -> None:
    lab = Lab(entries=4)
    assert {status_of(part) for part in await lab.carry(*map(put, range(12)))} == {200}
    assert [len(bundle) for bundle in lab.post.bundles] == [4, 4, 4]
    lab = Lab(entries=100, size=20_000)
    parts = await lab.carry(*(put(number, 4_500) for number in range(8)))
    assert max(len(bundle) for bundle in lab.post.bundles) == 4
    assert {status_of(part) for part in parts} == {200}
    assert await lab.carry(put(1, 30_000), put(2, 30_000)) == [ALONE, ALONE]


async def test_while_bundles_are_under_way_the_next_fills_and_no_more_go_at_once_than_named() -> None:
    gate = asyncio.Event()

    async def slow(entries: list[Body]) -> Exchange:
        await gate.wait()
        return all_taken(entries)

    lab = Lab(slow, entries=5)
    waiting = asyncio.ensure_future(lab.carry(*map(put, range(18))))
    while lab.post.at_once < BUNDLES_AT_ONCE:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)
    assert len(lab.post.bundles) == BUNDLES_AT_ONCE
    gate.set()
    assert {status_of(part) for part in await waiting} == {200}
    assert lab.post.most_at_once == BUNDLES_AT_ONCE
    assert [len(bundle) for bundle in lab.post.bundles] == [5, 5, 5, 3]


async def test_what_may_go_no_more_when_its_bundle_leaves_is_left_behind() -> None:
    """Its partition went, or a flag was flipped, while it waited for company or for the bundles before it."""
    gate, flags = asyncio.Event(), {"open": True}

    async def slow(entries: list[Body]) -> Exchange:
        await gate.wait()
        return all_taken(entries)

    lab = Lab(slow, entries=2)
    first = asyncio.ensure_future(lab.carry(*map(put, range(2 * BUNDLES_AT_ONCE))))
    while lab.post.at_once < BUNDLES_AT_ONCE:
        await asyncio.sleep(0.001)
    late = [asyncio.ensure_future(lab.bundles.carry(put(each), PLENTY_S, lambda: flags["open"])) for each in (20, 21)]
    late.append(asyncio.ensure_future(lab.bundles.carry(put(22), PLENTY_S)))
    late.append(asyncio.ensure_future(lab.bundles.carry(put(23), PLENTY_S)))
    await asyncio.sleep(0.02)
    flags["open"] = False
    gate.set()
    assert {status_of(part) for part in await first} == {200}
    assert [status_of(part) or part for part in await asyncio.gather(*late)] == [NotSent(Reason.NONE)] * 2 + [200] * 2
    assert not any("Location/20" in bundle or "Location/21" in bundle for bundle in lab.post.bundles)


async def test_two_entries_of_one_resource_are_never_in_one_bundle() -> None:
    lab = Lab()
    await lab.carry(put(1), put(2), put(1), put(3), put(1), put(4))
    for bundle in lab.post.bundles:
        assert len(set(bundle)) == len(bundle)


@pytest.mark.parametrize("status", [401, 408, 425, 429, 503, 500, 502, 504, 202])
async def test_what_is_said_of_the_bundle_is_said_of_each(status: int) -> None:
    lab = Lab(lambda entries: failed(status, 7.0))
    parts = await lab.carry(*map(put, range(3)))
    assert [(status_of(part), part.retry_after_s) for part in parts if isinstance(part, Answer)] == [(status, 7.0)] * 3
    assert len(lab.post.bundles) == 1


async def test_a_pause_that_is_asked_for_holds_also_what_has_gathered_meanwhile() -> None:
    gate = asyncio.Event()

    async def slow(entries: list[Body]) -> Exchange:
        await gate.wait()
        return failed(429, 30.0)

    lab = Lab(slow, entries=2)
    waiting = asyncio.ensure_future(lab.carry(*map(put, range(2 * BUNDLES_AT_ONCE + 1))))
    while lab.post.at_once < BUNDLES_AT_ONCE:
        await asyncio.sleep(0.001)
    gate.set()
    parts = await waiting
    assert parts[-1] == NotSent(Reason.RATE_LIMITED, 30.0)
    assert len(lab.post.bundles) == BUNDLES_AT_ONCE


async def test_a_pause_that_is_asked_for_amid_halving_stops_the_other_half_and_what_comes_before_its_end() -> None:
    answers = [failed(400), failed(429, 30.0)]
    lab = Lab(lambda entries: answers.pop(0))
    parts = await lab.carry(*map(put, range(8)))
    assert [status_of(part) for part in parts[:4]] == [429] * 4
    assert parts[4:] == [NotSent(Reason.RATE_LIMITED, 30.0)] * 4
    assert await lab.carry(put(9), put(10)) == [NotSent(Reason.RATE_LIMITED, 30.0)] * 2
    lab.now += 30_000
    lab.post.serve = all_taken
    assert {status_of(part) for part in await lab.carry(put(9), put(10))} == {200}


@pytest.mark.parametrize("lost", [NoAnswer(Reason.CONNECTION), NoAnswer(Reason.TIMEOUT), NotSent(Reason.CONNECTION)])
async def test_without_an_answer_each_write_is_as_if_it_had_none(lost: Exchange) -> None:
    lab = Lab(lambda entries: lost)
    assert await lab.carry(put(1), put(2)) == [lost, lost]


async def test_a_read_whose_bundle_was_cut_off_is_read_alone() -> None:
    """The answer may have been too large together; reading again does no harm."""
    lab = Lab(lambda entries: NoAnswer(Reason.CONNECTION))
    assert await lab.carry(put(1), get(2), get(3)) == [NoAnswer(Reason.CONNECTION), ALONE, ALONE]


async def test_of_reads_that_were_cut_off_together_one_is_told_of_it() -> None:
    """The server may come back as it was before, and what was kept of it would be trusted on."""
    lab = Lab(lambda entries: NoAnswer(Reason.CONNECTION))
    assert await lab.carry(get(1), get(2), get(3)) == [NoAnswer(Reason.CONNECTION), ALONE, ALONE]
    lab.post.serve = lambda entries: NoAnswer(Reason.OVERSIZE)
    assert await lab.carry(get(1), get(2)) == [ALONE, ALONE]


@pytest.mark.parametrize("status", [400, 409, 412, 413, 422])
async def test_a_bundle_refused_for_one_entry_is_halved_until_that_one_is_alone(status: int) -> None:
    lab = Lab(lambda entries: failed(status) if any(e["request"]["url"] == "Location/5" for e in entries) else all_taken(entries))
    parts = await lab.carry(*map(put, range(10)))
    assert parts[5] is ALONE
    assert sum(status_of(part) == 200 for part in parts) >= 7
    assert all(part is ALONE or status_of(part) == 200 for part in parts)


async def test_too_large_a_bundle_teaches_a_smaller_size() -> None:
    def serve(entries: list[Body]) -> Answer:
        return failed(413) if len(msgspec.json.encode(entries)) > 60_000 else all_taken(entries)

    lab = Lab(serve, entries=50, size=200_000)
    await lab.carry(*(put(number, 4_000) for number in range(40)))
    lab.post.bundles.clear()
    parts = await lab.carry(*(put(number, 4_000) for number in range(40)))
    assert {status_of(part) for part in parts} == {200}
    assert max(len(bundle) for bundle in lab.post.bundles) <= 25


@pytest.mark.parametrize("status", [403, 404, 405, 501, 400])
async def test_a_server_without_bundles_is_written_to_alone_and_asked_again_later(status: int) -> None:
    lab = Lab(lambda entries: failed(status))
    for _ in range(USELESS_BUNDLES + 2):
        assert await lab.carry(put(1), put(2), put(3)) == [ALONE] * 3
    asked = len(lab.post.bundles)
    assert await lab.carry(put(1), put(2), put(3)) == [ALONE] * 3
    assert len(lab.post.bundles) == asked
    lab.now += int(WITHOUT_S * 1000) + 1
    lab.post.serve = all_taken
    assert {status_of(part) for part in await lab.carry(put(1), put(2), put(3))} == {200}


EXCEPTION = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "exception"}]}
TRANSIENT = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "transient"}]}


@pytest.mark.parametrize(
    "fault",
    [failed(500), NoAnswer(Reason.CONNECTION), Answer(200, None, None, 0.0, EXCEPTION), Answer(200, None, None, 0.0, TRANSIENT)],
)
async def test_after_a_fault_of_the_whole_bundle_each_goes_alone_until_it_was_answered(fault: Exchange) -> None:
    """One poisoned entry that makes the server stumble must not park the others with it."""
    lab = Lab(lambda entries: fault if isinstance(fault, Answer) else NoAnswer(Reason.CONNECTION))
    first, second = put(1), put(2)
    await lab.carry(first, second)
    lab.post.serve = all_taken
    assert await lab.carry(first, second) == [ALONE, ALONE]
    lab.bundles.acquit(first)
    parts = await lab.carry(first, second, put(3))
    assert (status_of(parts[0]), parts[1], status_of(parts[2])) == (200, ALONE, 200)
    assert {status_of(part) for part in await lab.carry(get(2), put(3))} == {200}


@pytest.mark.parametrize(
    "mangle",
    [
        lambda told: told[::-1],
        lambda told: [*told[1:], response("Location/77")],
        lambda told: [told[0], told[2], told[1], *told[3:]],
    ],
)
async def test_answers_in_another_order_are_told_by_their_names(mangle: Callable[[list[Body]], list[Body]]) -> None:
    def serve(entries: list[Body]) -> Answer:
        return answered(*mangle([response(entry["request"]["url"]) for entry in entries]))

    lab = Lab(serve)
    parts = await lab.carry(*map(put, range(5)))
    for number, part in enumerate(parts):
        if isinstance(part, Answer):
            assert part.location == f"Location/{number}/_history/2"
        else:
            assert part == NoAnswer(Reason.ERROR_IN_BODY)
    assert sum(isinstance(part, Answer) for part in parts) >= 4


@pytest.mark.parametrize(
    "mangle",
    [lambda told: told[1:], lambda told: [*told, told[0]], lambda told: [], lambda told: [told[1], told[0], *told[2:]]],
)
async def test_an_answer_that_names_no_resource_counts_by_place_only_where_all_places_fit(
    mangle: Callable[[list[Body]], list[Body]],
) -> None:
    def serve(entries: list[Body]) -> Answer:
        statuses = ["412", "200", "412", "200"]
        return answered(*mangle([response(e["request"]["url"], s) for e, s in zip(entries, statuses, strict=True)]))

    parts = await Lab(serve).carry(*map(put, range(4)))
    assert parts[0] == parts[2] == NoAnswer(Reason.ERROR_IN_BODY)


@pytest.mark.parametrize("body", [None, {"resourceType": "Patient"}, {"resourceType": "Bundle"}])
async def test_a_yes_without_entries_says_nothing_of_a_write(body: Body | None) -> None:
    lab = Lab(lambda entries: Answer(200, None, None, 0.0, body))
    assert await lab.carry(put(1), put(2)) == [NoAnswer(Reason.ERROR_IN_BODY)] * 2


async def test_who_gives_up_before_the_bundle_leaves_is_not_in_it() -> None:
    gate = asyncio.Event()

    async def slow(entries: list[Body]) -> Exchange:
        await gate.wait()
        return all_taken(entries)

    lab = Lab(slow, entries=2)
    first = asyncio.ensure_future(lab.carry(*map(put, range(2 * BUNDLES_AT_ONCE))))
    while lab.post.at_once < BUNDLES_AT_ONCE:
        await asyncio.sleep(0.001)
    given_up = asyncio.ensure_future(lab.bundles.carry(put(100), PLENTY_S))
    late = asyncio.ensure_future(lab.bundles.carry(put(101), 0.01))
    others = asyncio.ensure_future(lab.carry(put(102), put(103)))
    await asyncio.sleep(0)
    given_up.cancel()
    assert await late == NotSent(Reason.TIMEOUT)
    gate.set()
    await asyncio.gather(first, others)
    assert lab.post.bundles[-1] == ["Location/102", "Location/103"]


async def test_who_gives_up_while_the_bundle_is_under_way_knows_nothing_and_the_others_get_theirs() -> None:
    gate = asyncio.Event()

    async def slow(entries: list[Body]) -> Exchange:
        await gate.wait()
        return all_taken(entries)

    lab = Lab(slow)
    late = asyncio.ensure_future(lab.bundles.carry(put(1), 0.02))
    other = asyncio.ensure_future(lab.bundles.carry(put(2), PLENTY_S))
    assert await late == NoAnswer(Reason.TIMEOUT)
    gate.set()
    assert status_of(await other) == 200


async def test_closing_leaves_nobody_waiting() -> None:
    async def never(entries: list[Body]) -> Exchange:
        await asyncio.Event().wait()
        return all_taken(entries)

    lab = Lab(never, entries=2)
    waiting = asyncio.ensure_future(lab.carry(*map(put, range(2 * BUNDLES_AT_ONCE + 1))))
    while lab.post.at_once < BUNDLES_AT_ONCE:
        await asyncio.sleep(0.001)
    await lab.bundles.close()
    parts = await asyncio.wait_for(waiting, PLENTY_S)
    assert parts == [NoAnswer(Reason.CONNECTION)] * (2 * BUNDLES_AT_ONCE) + [NotSent(Reason.CONNECTION)]


async def test_a_fault_of_ours_reaches_everybody_who_waits() -> None:
    def serve(entries: list[Body]) -> Answer:
        raise KeyError("ours")

    lab = Lab(serve)
    parts = await asyncio.gather(*(lab.bundles.carry(put(n), PLENTY_S) for n in range(3)), return_exceptions=True)
    assert [type(part) for part in parts] == [KeyError] * 3


# -- with the destination around it

BUNDLED = msgspec.structs.replace(load_profile("sekmet-replica"), bundle=BundleProfile(50, creates=True))
NO_PLACE = Bed(occupancy=BedOccupancy(Occupancy.VACANT))


class AtStandIn:
    """A destination at a stand-in without much of a cap."""

    def __init__(self, standin: StandIn, destination: FhirDestination) -> None:
        self.standin, self.destination = standin, destination

    async def written(self, write: PendingWrite) -> Outcome:
        current = await self.destination.read(write)
        assert not isinstance(current, Refused | Retry)
        request = self.destination.build(write, current)
        assert isinstance(request, Request)
        return await self.destination.send(request)


async def at_standin(work: Callable[[AtStandIn], Awaitable[None]], profile: Any = BUNDLED) -> None:
    standin = StandIn(100_000, 100_000, "queue")
    async with TestServer(standin.app()) as server:
        destination = FhirDestination("ehr", str(server.make_url("/fhir")), profile, DIGEST_KEY)
        try:
            await work(AtStandIn(standin, destination))
        finally:
            await destination.close()


def writes(count: int, offset: int, remote_ids: list[str | None] | None = None) -> list[PendingWrite]:
    return [pending(accepted(NO_PLACE, f"ICU/{n}/A", offset + n), remote_ids[n] if remote_ids else None) for n in range(count)]


async def test_creates_reads_and_updates_of_many_travel_together_and_each_is_confirmed() -> None:
    async def work(at: AtStandIn) -> None:
        created = await asyncio.gather(*map(at.written, writes(40, 100)))
        ids = [outcome.remote_id for outcome in created if isinstance(outcome, Confirmed)]
        assert len(set(ids)) == 40
        requests = at.standin.store.counts.requests
        updated = await asyncio.gather(*map(at.written, writes(40, 200, list(ids))))
        assert [isinstance(each, Confirmed) and each.etag for each in updated] == ['W/"2"'] * 40
        assert at.standin.store.counts.requests - requests <= 4

    await at_standin(work)


async def test_a_stale_version_in_a_bundle_is_a_mismatch_of_that_entity_alone() -> None:
    async def work(at: AtStandIn) -> None:
        created = await asyncio.gather(*map(at.written, writes(10, 100)))
        ids = [outcome.remote_id for outcome in created if isinstance(outcome, Confirmed)]
        later = writes(10, 200, list(ids))
        found = await asyncio.gather(*map(at.destination.read, later))
        requests = [
            at.destination.build(write, each) for write, each in zip(later, found, strict=True) if isinstance(each, Current)
        ]
        touched = f"Location/{ids[3]}"
        at.standin.store.put(touched, at.standin.store.resources[touched][1], None, None)
        outcomes = await asyncio.gather(*(at.destination.send(each) for each in requests if isinstance(each, Request)))
        assert outcomes[3] == VersionMismatch()
        assert sum(isinstance(each, Confirmed) for each in outcomes) == 9

    await at_standin(work)


async def test_what_was_made_by_somebody_else_meanwhile_is_no_create_of_ours() -> None:
    async def work(at: AtStandIn) -> None:
        twice = writes(2, 100)
        requests = [at.destination.build(write, await at.destination.read(write)) for write in twice]  # type: ignore[arg-type]
        assert isinstance(await at.written(twice[0]), Confirmed)
        outcomes = await asyncio.gather(*(at.destination.send(each) for each in requests if isinstance(each, Request)))
        assert outcomes[0] == VersionMismatch()
        assert isinstance(outcomes[1], Confirmed)
        assert len(at.standin.store.resources) == 2

    await at_standin(work)


async def test_a_critical_write_waits_for_no_company() -> None:
    async def work(at: AtStandIn) -> None:
        urgent = [msgspec.structs.replace(write.accepted) for write in writes(5, 100)]
        critical = [PendingWrite(each, None, None, 1, Millis(2**53), Lane.CRITICAL) for each in urgent]
        created = await asyncio.gather(*map(at.written, critical))
        assert all(isinstance(each, Confirmed) for each in created)
        bundles = at.standin.store.counts.bundles
        assert bundles == 5  # transactions of one entry, each by itself

    await at_standin(work)


async def test_a_create_is_its_own_transaction_where_the_profile_does_not_trust_a_batch_with_it() -> None:
    async def work(at: AtStandIn) -> None:
        created = await asyncio.gather(*map(at.written, writes(5, 100)))
        assert all(isinstance(each, Confirmed) for each in created)
        assert at.standin.store.counts.bundles == 5

    await at_standin(work, msgspec.structs.replace(BUNDLED, bundle=BundleProfile(50)))


async def test_one_that_the_server_refuses_is_refused_with_its_own_reason_and_the_rest_is_written() -> None:
    """A server that answers 400 to any bundle with the bad one in it, and to the bad one alone."""
    standin = StandIn(100_000, 100_000, "queue")
    inner = standin.app()
    bad: list[bytes] = []

    @web.middleware
    async def refusing(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        data = await request.read()
        concerned = bool(bad) and request.method != "GET" and (bad[0] in data or bad[0] in request.path.encode())
        if concerned:
            return outcome(400, "invalid")
        return await handler(request)

    inner.middlewares.append(refusing)
    async with TestServer(inner) as server:
        destination = FhirDestination("ehr", str(server.make_url("/fhir")), BUNDLED, DIGEST_KEY)
        at = AtStandIn(standin, destination)
        created = await asyncio.gather(*map(at.written, writes(20, 100)))
        ids = [each.remote_id for each in created if isinstance(each, Confirmed)]
        later = writes(20, 200, list(ids))
        found = await asyncio.gather(*map(destination.read, later))
        bad.append(f"Location/{ids[7]}".encode())
        requests = [destination.build(write, each) for write, each in zip(later, found, strict=True) if isinstance(each, Current)]
        outcomes = await asyncio.gather(*(destination.send(each) for each in requests if isinstance(each, Request)))
        await destination.close()
    assert outcomes[7] == Refused(Reason.REFUSED_INVALID)
    assert sum(isinstance(each, Confirmed) for each in outcomes) == 19


async def test_an_answer_that_never_came_makes_each_ambiguous_and_each_is_found_by_reading() -> None:
    standin = StandIn(100_000, 100_000, "queue")
    inner = standin.app()
    cut: list[bool] = []

    @web.middleware
    async def cutting(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        answer = await handler(request)
        if cut and request.path.endswith("/fhir"):
            cut.clear()
            assert request.transport is not None
            request.transport.abort()
        return answer

    inner.middlewares.append(cutting)
    async with TestServer(inner) as server:
        destination = FhirDestination("ehr", str(server.make_url("/fhir")), BUNDLED, DIGEST_KEY)
        at = AtStandIn(standin, destination)
        created = await asyncio.gather(*map(at.written, writes(10, 100)))
        ids = [each.remote_id for each in created if isinstance(each, Confirmed)]
        later = writes(10, 200, list(ids))
        found = await asyncio.gather(*map(destination.read, later))
        requests = [destination.build(write, each) for write, each in zip(later, found, strict=True) if isinstance(each, Current)]
        cut.append(True)
        sent = [each for each in requests if isinstance(each, Request)]
        assert await asyncio.gather(*map(destination.send, sent)) == [Ambiguous()] * 10
        back = await asyncio.gather(*map(destination.read_back, sent))
        await destination.close()
    assert all(isinstance(each, Confirmed) for each in back)
