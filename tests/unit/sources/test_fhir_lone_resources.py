"""One resource that a server can't show, or that is larger than an answer may be, holds back nothing but itself."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web

from pipeline.destinations import fhir_http
from pipeline.destinations.fhir_http import FhirHttp
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Reason
from pipeline.domain.subscriptions.life import Watch
from pipeline.formats.fhir.owned import Body
from pipeline.formats.rfc3339 import MAX_TIME_MS
from pipeline.roles.ways_in.fhir import exchange_over
from pipeline.sources.fhir.patience import GIVE_UP_MS, GIVE_UP_TRIES, MAX_FAILING, Patience
from pipeline.sources.fhir.server import Reply, last_updated
from tests.support.fhir_in import Receiver, until
from tests.support.fhir_in_fixtures import quick
from tests.support.fhir_in_server import Clock, PlayedServer, bed

pytestmark = pytest.mark.timeout(120)

__all__ = ["quick"]  # a fixture

BOUND: Final = 20_000
"""Of one answer, in these tests."""
HUGE: Final[Body] = {"description": "x" * BOUND}
LARGE: Final[Body] = {"description": "x" * (BOUND // 4)}
STEP_MS: Final = 5_000
LONG_AGO: Final = "2020-01-01T00:00:00.000Z"

Fault = Callable[[web.Request], web.StreamResponse | None]
Make = Callable[..., Awaitable[tuple[PlayedServer, Receiver]]]


class Bounded(Receiver):
    """Asks as the role does: over a connection with a bound for each answer."""

    async def start(self) -> "Bounded":
        self.connection = FhirHttp(self.server.base, {}, None, self.server.clock)
        self.over = exchange_over(self.connection, 5.0)
        await super().start()
        return self

    async def _exchange(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        return await self.over(method, target, headers, body)

    async def kill(self) -> None:
        await super().kill()
        await self.connection.close()


@pytest.fixture
async def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """A played server with a receiver that is active, and hears nothing but what a test sends."""
    monkeypatch.setattr(fhir_http, "MAX_BODY_BYTES", BOUND)
    async with AsyncExitStack() as stack:

        async def made(**options: Any) -> tuple[PlayedServer, Receiver]:
            server = await stack.enter_async_context(PlayedServer(Clock()).serve())
            receiver = await Bounded(server, tmp_path, watch=Watch(heartbeat_ms=None), **options).start()
            stack.push_async_callback(receiver.kill)
            await receiver.active()
            return server, receiver

        yield made


def change(server: PlayedServer, bodies: Mapping[str, Body]) -> None:
    """Beds change, one after the other; nobody tells us."""
    for own, more in bodies.items():
        server.put(bed(own) | more)
        server.clock.ahead_ms += 10


def with_elements(server: PlayedServer) -> Fault:
    """The server knows `_elements`."""

    def answer(request: web.Request) -> web.StreamResponse | None:
        if "_elements" not in request.query:
            return None
        kept = ("resourceType", "id", *request.query["_elements"].split(","))
        path = request.path.removeprefix("/fhir/")
        shown = {
            name: {part: each[part] for part in kept if part in each}
            for name, each in server.resources.items()
            if path in (name, each["resourceType"])
        }
        return web.json_response(shown[path]) if path in shown else server._search(request, list(shown.values()))

    return answer


def failing(*names: str, status: int = 500) -> Fault:
    """The server can't show these."""
    return lambda request: web.Response(status=status) if request.path.removeprefix("/fhir/") in names else None


def page_fails(request: web.Request) -> web.StreamResponse | None:
    """The server can't show beds together."""
    return web.Response(status=500) if request.path == "/fhir/Location" else None


def any_of(*faults: Fault) -> Fault:
    """The first of these that answers."""
    return lambda request: next((answer for fault in faults if (answer := fault(request)) is not None), None)


def closed(server: PlayedServer, receiver: Receiver) -> Callable[[], bool]:
    """Whether nothing is missing any more; time passes quickly."""

    def is_closed() -> bool:
        server.clock.ahead_ms += STEP_MS
        return receiver.state.missing == 0 and receiver.state.missed is None

    return is_closed


async def lost(server: PlayedServer, bodies: Mapping[str, Body]) -> None:
    """Beds change, and the notifications of it are lost: only the count of the next heartbeat says so."""
    change(server, bodies)
    assert await server.beat() == 204


# -- too large


@pytest.mark.parametrize("page_limit", [1, 2, 100])
async def test_a_resource_that_is_too_large_is_left_out_by_name_and_the_gap_is_closed(make: Make, page_limit: int) -> None:
    server, receiver = await make()
    server.fault, server.page_limit = with_elements(server), page_limit
    await lost(server, {"A": {}, "B": {}, "C": HUGE, "D": {}, "E": {}})
    await until(closed(server, receiver), receiver.shown)
    assert receiver.sink.beds() == set("ABDE")
    (broken,) = receiver.sink.broken
    assert (broken.reason, broken.part, broken.field) == (Reason.OVERSIZE, b"Location/C", "Location")
    assert "smaller at the server" in broken.remedy
    assert ("reread", "rejected") in receiver.observed.resources
    assert ("fetch", "unsupported") not in receiver.observed.asks, "an answer that is too large is no refusal of `$events`"
    reads, done = server.asked.count("GET Location/C"), receiver.observed.asks.count(("reread", "done"))
    receiver.feed._life.read_again()
    await until(lambda: receiver.observed.asks.count(("reread", "done")) > done, receiver.shown)
    assert (server.asked.count("GET Location/C"), len(receiver.sink.broken)) == (reads, 1), "until it changes"


@pytest.mark.parametrize("page_limit", [4, 100])
async def test_pages_that_are_too_large_are_read_in_parts_and_nothing_is_left_out(make: Make, page_limit: int) -> None:
    server, receiver = await make()
    server.fault, server.page_limit = with_elements(server), page_limit
    await lost(server, dict.fromkeys("ABCDEFG", LARGE))
    await until(closed(server, receiver), receiver.shown)
    assert receiver.sink.beds() == set("ABCDEFG")
    assert receiver.sink.broken == []


@pytest.mark.parametrize("refuses", [True, False])
async def test_a_server_that_tells_no_names_is_asked_for_fewer_at_once(make: Make, refuses: bool) -> None:
    server, receiver = await make()
    if refuses:
        server.fault = lambda request: web.Response(status=400) if "_elements" in request.query else None
    await lost(server, dict.fromkeys("ABCDEFG", LARGE))
    await until(closed(server, receiver), receiver.shown)
    assert receiver.sink.beds() == set("ABCDEFG")
    assert receiver.sink.broken == []


async def test_many_changes_of_one_moment_are_all_read_though_their_pages_are_too_large(make: Make) -> None:
    server, receiver = await make()
    server.fault, server.page_limit = with_elements(server), 4
    change(server, dict.fromkeys("ABCDEFGHI", LARGE))
    moment = server.resources["Location/A"]["meta"]["lastUpdated"]
    for body in server.resources.values():
        body["meta"]["lastUpdated"] = moment
    assert await server.beat() == 204
    await until(closed(server, receiver), receiver.shown)
    assert receiver.sink.beds() == set("ABCDEFGHI")


async def test_a_notification_of_a_resource_that_is_too_large_is_taken_and_the_resource_quarantined(make: Make) -> None:
    server, receiver = await make(content="id-only")
    change(server, {"A": {}, "B": HUGE, "C": {}})
    for number in (1, 2, 3):
        assert await server.tell(number) == 204
    assert receiver.sink.beds() == {"A", "C"}
    (broken,) = receiver.sink.broken
    assert (broken.reason, broken.part) == (Reason.OVERSIZE, b"Location/B")
    assert (receiver.state.cursor, receiver.state.missing) == (3, 0)


@pytest.mark.parametrize("knows_elements", [True, False])
async def test_a_bed_whose_surroundings_are_too_large_to_read_is_landed(make: Make, knows_elements: bool) -> None:
    server, receiver = await make()
    server.put({"resourceType": "Location", "id": "W"} | HUGE, counted=False)
    if knows_elements:
        server.fault = with_elements(server)
    server.put(bed("A") | {"partOf": {"reference": "Location/W"}})
    assert await server.tell(1) == 204
    assert receiver.sink.beds() == {"A"}
    assert "GET Location/W?_elements=identifier" in server.asked
    assert [each.part for each in receiver.sink.broken] == ([] if knows_elements else [b"Location/W"])


# -- failing alone


def wards(server: PlayedServer, *names: str) -> None:
    """Places around beds, unchanged for long."""
    for own in names:
        server.put({"resourceType": "Location", "id": own}, counted=False)["meta"]["lastUpdated"] = LONG_AGO


@pytest.mark.parametrize("status", [500, 502, 504])
async def test_what_refers_to_a_resource_that_always_fails_waits_alone_and_not_for_ever(make: Make, status: int) -> None:
    server, receiver = await make()
    wards(server, *(f"W{own}" for own in "ABCDE"))
    server.fault = failing("Location/WC", status=status)
    await lost(server, {own: {"partOf": {"reference": f"Location/W{own}"}} for own in "ABCDE"})
    is_closed = closed(server, receiver)
    await until(lambda: is_closed() or receiver.sink.beds() == set("ABDE"), receiver.shown)
    assert receiver.sink.beds() == set("ABDE"), "the others are landed before anything is given up"
    assert receiver.sink.broken == []
    await until(is_closed, receiver.shown)
    assert receiver.sink.beds() == set("ABCDE")
    assert [(each.reason, each.part) for each in receiver.sink.broken] == [(Reason.BAD_RESOURCE, b"Location/WC")]
    assert receiver.sink.broken[0].rule.startswith("FAILING")


async def test_one_resource_that_a_server_can_t_put_on_a_page_is_given_up_by_name(make: Make) -> None:
    server, receiver = await make()
    names = with_elements(server)
    server.fault = any_of(names, page_fails, failing("Location/C"))
    server.has_events = False
    await lost(server, {own: {} for own in "ABCDE"})
    await until(closed(server, receiver), receiver.shown)
    assert receiver.sink.beds() == set("ABDE")
    assert [(each.reason, each.part) for each in receiver.sink.broken] == [(Reason.BAD_RESOURCE, b"Location/C")]
    server.fault = any_of(names, page_fails)
    await lost(server, {"C": {}})
    await until(closed(server, receiver), receiver.shown)
    assert receiver.sink.beds() == set("ABCDE"), "its next change is taken"


async def test_what_is_read_by_name_at_a_place_that_lags_behind_is_read_again(make: Make) -> None:
    server, receiver = await make()
    old = server.put(bed("A", "K"), counted=False)
    is_lagging = True
    names = with_elements(server)

    def lag(request: web.Request) -> web.StreamResponse | None:
        return web.json_response(old) if is_lagging and request.path == "/fhir/Location/A" else None

    server.fault, server.has_events = any_of(names, page_fails, lag), False
    server.clock.ahead_ms += 1_000
    new = server.put(bed("A", "U"))
    assert await server.beat() == 204
    is_closed, began_at = closed(server, receiver), server.clock()
    await until(lambda: is_closed() or server.clock() - began_at > GIVE_UP_MS, receiver.shown)
    assert receiver.state.missed is not None, "the version that was listed is not landed yet"
    is_lagging = False
    await until(is_closed, receiver.shown)
    assert new["meta"]["versionId"] == "2"
    assert [event.recorded_at for event in receiver.sink.events][-1] == last_updated(new)
    assert receiver.sink.broken == []


def everything(request: web.Request) -> web.StreamResponse | None:
    return web.Response(status=500)


def every_read(request: web.Request) -> web.StreamResponse | None:
    return web.Response(status=500) if request.path.startswith("/fhir/Location/") else None


def one_that_is_busy(request: web.Request) -> web.StreamResponse | None:
    return web.Response(status=503) if request.path == "/fhir/Location/WC" else None


@pytest.mark.parametrize(("outage", "landed"), [(everything, ""), (every_read, ""), (one_that_is_busy, "ABDE")])
async def test_an_outage_is_waited_for_however_long_it_lasts(make: Make, outage: Fault, landed: str) -> None:
    server, receiver = await make()
    wards(server, *(f"W{own}" for own in "ABCDE"))
    server.fault = outage
    await lost(server, {own: {"partOf": {"reference": f"Location/W{own}"}} for own in "ABCDE"})
    began_at, is_closed = server.clock(), closed(server, receiver)
    await until(lambda: is_closed() or server.clock() - began_at > 4 * GIVE_UP_MS, receiver.shown)
    assert receiver.state.missed is not None
    assert (receiver.sink.beds(), receiver.sink.broken) == (set(landed), [])
    server.fault = lambda request: None
    await until(is_closed, receiver.shown)
    assert receiver.sink.beds() == set("ABCDE")
    assert receiver.sink.broken == []


def test_a_resource_is_given_up_after_so_many_failures_over_so_long_and_not_before() -> None:
    patience = Patience()
    quickly = [patience.is_over("Patient/1", Millis(number)) for number in range(GIVE_UP_TRIES * 2)]
    assert quickly == [False] * GIVE_UP_TRIES * 2
    assert patience.is_over("Patient/1", Millis(GIVE_UP_MS))
    slowly = [patience.is_over("Patient/2", Millis(number * GIVE_UP_MS)) for number in range(GIVE_UP_TRIES)]
    assert slowly == [False] * (GIVE_UP_TRIES - 1) + [True]
    patience.shown("Patient/2")
    assert not patience.is_over("Patient/2", Millis(GIVE_UP_TRIES * GIVE_UP_MS)), "it was well in between"


def test_a_witness_is_another_resource_of_the_type_that_does_not_fail_itself() -> None:
    patience = Patience()
    assert patience.witness("Patient", ()) is None
    for name in ("Patient/1", "Location/1", "Patient/2", "Patient/3"):
        patience.shown(name)
    assert patience.witness("Patient", {"Patient/3": None}) == "Patient/2"
    patience.is_over("Patient/2", Millis(0))
    assert patience.witness("Patient", {"Patient/3": None}) == "Patient/1"
    assert [patience.witness("Patient", ()) for _ in range(3)] == ["Patient/3", "Patient/1", "Patient/3"], "each in turn"
    patience.absent("Patient/1")
    assert patience.witness("Patient", {"Patient/3": None}) is None


def test_how_many_failures_are_counted_is_bounded() -> None:
    patience = Patience()
    for number in range(MAX_FAILING * 2):
        patience.is_over(f"Patient/{number}", Millis(0))
    assert len(patience._failing) == MAX_FAILING


# -- times that nobody can write


@pytest.mark.parametrize(
    ("said", "at"),
    [
        ("9999-12-31T23:59:59.999Z", MAX_TIME_MS),
        ("9999-12-31T23:59:59-05:00", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("soon", None),
    ],
)
def test_a_time_of_change_beyond_the_calendar_counts_as_none(said: str, at: int | None) -> None:
    assert last_updated({"meta": {"lastUpdated": said}}) == at
