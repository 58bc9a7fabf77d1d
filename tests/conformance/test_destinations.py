"""What every way out promises the writer: errors are values, `build` is pure, a revision never goes back.

Destinations are found in their folder; each needs an adapter in `tests/support/destination_adapters.py`, or this suite fails.
"""

import asyncio
import copy
import importlib
import inspect
import logging
import pkgutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, ClassVar, Final

import pytest

import pipeline.destinations
from pipeline.destinations.protocol import (
    Absent,
    Ambiguous,
    Confirmed,
    Current,
    Destination,
    Newer,
    NotApplied,
    PendingWrite,
    Refused,
    Request,
    Retry,
    Suppressed,
    Unknown,
    VersionMismatch,
)
from pipeline.domain.event import Bed, BedOccupancy, EntityType, Environment, Occupancy, Place, Reference, Staffing
from pipeline.domain.records import Reason
from pipeline.local.ports import HOST
from tests.support.destination_adapters import ADAPTERS, Adapter, Server
from tests.support.fhir_lab import accepted, pending

CANARY: Final = "Zzyzxqv"
BOUND_S: Final = 20.0
PROMISES: Final = ("expects", "read", "build", "send", "read_back", "close")
FREE: Final = Bed(occupancy=BedOccupancy(Occupancy.VACANT), place=Place(point_of_care="ICU", room=CANARY, bed="A"))
TAKEN: Final = Bed(occupancy=BedOccupancy(Occupancy.OCCUPIED, Reference("MAIN", CANARY)), environment=Environment.CLEAN)
ENTITY: Final = f"ICU/{CANARY}/A"


def found_destinations() -> dict[str, type]:
    """Each class of the folder that reads, builds and sends, by its module."""
    walked = pkgutil.walk_packages(pipeline.destinations.__path__, "pipeline.destinations.")
    modules = [importlib.import_module(each.name) for each in walked]
    return {
        module.__name__.split(".")[2]: cls
        for module in modules
        for cls in vars(module).values()
        if inspect.isclass(cls)
        and cls.__module__ == module.__name__
        and not getattr(cls, "_is_protocol", False)
        and {"read", "build", "send"} <= vars(cls).keys()
    }


DESTINATIONS: Final = found_destinations()


def no_adapter(module: str) -> str:
    return (
        f"the destination {DESTINATIONS[module].__name__} (pipeline/destinations/{module}/) has no adapter: add a class to "
        "tests/support/destination_adapters.py with roles, faults, serve() and destination(role, address), and name it there"
    )


class Lab:
    """A destination in one role at a server that works."""

    def __init__(self, server: Server, destination: Destination) -> None:
        self.server, self.to = server, destination

    async def request(self, write: PendingWrite) -> Request:
        """What is to be sent after a fresh read."""
        found = await self.to.read(write)
        assert isinstance(found, Current | Absent), type(found)
        request = self.to.build(write, found)
        assert isinstance(request, Request), request
        return request

    async def write(self, write: PendingWrite) -> Confirmed:
        outcome = await self.to.send(await self.request(write))
        assert isinstance(outcome, Confirmed), outcome
        return outcome

    async def current(self, write: PendingWrite) -> Current:
        found = await self.to.read(write)
        assert isinstance(found, Current), type(found)
        return found


def write_of(offset: int, state: Bed = FREE, within_ms: int = 60_000) -> PendingWrite:
    return pending(accepted(state, ENTITY, offset), within_ms=within_ms)


CASES: Final = [(module, role) for module in sorted(DESTINATIONS) for role in getattr(ADAPTERS.get(module), "roles", ("none",))]


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[Adapter, str]:
    module, role = request.param
    if module not in ADAPTERS:
        pytest.fail(no_adapter(module))
    return ADAPTERS[module], role


@pytest.fixture
async def lab(case: tuple[Adapter, str]) -> AsyncIterator[Lab]:
    adapter, role = case
    async with adapter.serve() as server:
        destination = adapter.destination(role, server.address)
        yield Lab(server, destination)
        await destination.close()


# -- found by folder


def test_every_destination_has_an_adapter_and_every_adapter_a_destination() -> None:
    missing = [no_adapter(module) for module in DESTINATIONS if module not in ADAPTERS]
    assert not missing, "\n".join(missing)
    assert ADAPTERS.keys() == DESTINATIONS.keys()


def test_a_destination_without_an_adapter_fails_with_what_to_add(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fresh:
        name: ClassVar[str] = "fresh"

    monkeypatch.setitem(DESTINATIONS, "fresh", Fresh)
    with pytest.raises(AssertionError, match=r"Fresh .* has no adapter: add a class"):
        test_every_destination_has_an_adapter_and_every_adapter_a_destination()


@pytest.mark.parametrize("cls", DESTINATIONS.values(), ids=DESTINATIONS)
def test_a_destination_has_everything_that_the_writer_asks(cls: type) -> None:
    assert [name for name in PROMISES if not callable(getattr(cls, name, None))] == []
    for name in PROMISES:
        promised, made = (inspect.signature(getattr(each, name)).parameters for each in (Destination, cls))
        assert [*made][: len(promised)] == [*promised], name


def test_it_declares_its_name_role_and_delivery(lab: Lab) -> None:
    assert lab.to.name == "lab"
    assert lab.to.role in ("owner", "replica")
    assert lab.to.delivery in ("latest", "every")


# -- the way of one write


async def test_what_is_not_there_is_written_and_then_shown_at_its_revision(lab: Lab) -> None:
    write = write_of(1)
    assert isinstance(await lab.to.read(write), Absent)
    confirmed = await lab.write(write)
    shown = await lab.current(write)
    assert confirmed.revision == shown.revision == write.accepted.revision
    assert shown.state_hash == write.accepted.state_hash
    assert shown.remote_id == confirmed.remote_id


async def test_a_known_remote_id_and_a_search_find_the_same(lab: Lab) -> None:
    confirmed = await lab.write(write_of(1))
    by_id = await lab.to.read(pending(accepted(FREE, ENTITY, 1), remote_id=confirmed.remote_id, etag=confirmed.etag))
    assert by_id == await lab.current(write_of(1))


async def test_a_write_that_is_already_there_is_not_sent_again(lab: Lab) -> None:
    await lab.write(write_of(1))
    again = lab.to.build(write_of(1), await lab.current(write_of(1)))
    assert again == Suppressed(Reason.ALREADY_THERE, write_of(1).accepted.revision)


async def test_an_older_revision_is_never_built_over_a_newer_one(lab: Lab) -> None:
    await lab.write(write_of(5, TAKEN))
    older = lab.to.build(write_of(4), await lab.current(write_of(4)))
    assert older == Suppressed(Reason.NEWER_AT_DESTINATION, write_of(5).accepted.revision)


async def test_of_two_writes_made_from_one_read_only_the_first_is_taken(lab: Lab) -> None:
    await lab.write(write_of(1))
    first, second = await lab.request(write_of(2, TAKEN)), await lab.request(write_of(3))
    assert isinstance(await lab.to.send(second), Confirmed)
    assert isinstance(await lab.to.send(first), VersionMismatch)
    assert (await lab.current(write_of(3))).revision == write_of(3).accepted.revision


async def test_of_two_that_create_one_entity_at_once_one_is_taken_and_no_second_one_is_made(lab: Lab) -> None:
    requests = [await lab.request(write_of(1)), await lab.request(write_of(1))]
    outcomes = [await lab.to.send(request) for request in requests]
    assert [type(outcome) for outcome in outcomes] == [Confirmed, VersionMismatch]
    assert isinstance(await lab.to.read(write_of(1)), Current)


async def test_an_entity_type_that_is_not_mapped_is_not_expected_and_refused_without_a_request(lab: Lab) -> None:
    other = pending(accepted(Staffing(unit="ICU"), "ICU|D|RN", 1, EntityType.STAFFING))
    assert not lab.to.expects(other.accepted)
    assert lab.to.expects(write_of(1).accepted)
    assert isinstance(await lab.to.read(other), Refused)
    assert isinstance(lab.to.build(other, Absent()), Refused)
    assert lab.server.seen_in_the_open() == ""


# -- build is pure


@pytest.mark.parametrize("offset", [1, 2], ids=["new", "changed"])
async def test_build_gives_the_same_for_the_same_changes_nothing_and_asks_nobody(lab: Lab, offset: int) -> None:
    if offset > 1:
        await lab.write(write_of(1))
    found = await lab.to.read(write_of(offset, TAKEN))
    assert isinstance(found, Current | Absent)
    before, asked = copy.deepcopy(found), lab.server.seen_in_the_open()
    write = write_of(offset, TAKEN)
    assert lab.to.build(write, found) == lab.to.build(write, found)
    assert not inspect.iscoroutinefunction(lab.to.build)
    assert found == before
    assert lab.server.seen_in_the_open() == asked


async def test_differences_are_names_before_a_write_and_none_after_it_and_nobody_is_asked(lab: Lab) -> None:
    absent = lab.to.differences(write_of(1), Absent())
    assert absent
    assert lab.server.seen_in_the_open() == ""
    await lab.write(write_of(1))
    current, asked, writes = await lab.current(write_of(1)), lab.server.seen_in_the_open(), lab.server.writes()
    before = copy.deepcopy(current)
    assert lab.to.differences(write_of(2), current) == (), "the same state at a later revision"
    changed = lab.to.differences(write_of(2, TAKEN), current)
    assert changed
    assert all(name.isidentifier() for name in (*absent, *changed))
    assert (current, lab.server.seen_in_the_open(), lab.server.writes()) == (before, asked, writes)


# -- errors are values


async def test_an_answer_that_is_lost_is_ambiguous_and_reading_back_tells_that_it_happened(lab: Lab) -> None:
    request = await lab.request(write_of(1))
    lab.server.lose_next_answer()
    assert isinstance(await lab.to.send(request), Ambiguous)
    back = await lab.to.read_back(request)
    assert isinstance(back, Confirmed)
    assert back.revision == request.write.accepted.revision


async def test_reading_back_tells_absent_older_and_newer_apart(lab: Lab) -> None:
    new = await lab.request(write_of(1))
    assert isinstance(await lab.to.read_back(new), Absent)
    await lab.to.send(new)
    later = await lab.request(write_of(2, TAKEN))
    assert isinstance(await lab.to.read_back(later), NotApplied)
    await lab.write(write_of(9, TAKEN))
    assert await lab.to.read_back(later) == Newer(write_of(9).accepted.revision)


async def test_one_send_is_one_write_whatever_is_answered(lab: Lab) -> None:
    await lab.write(write_of(1))
    request, before = await lab.request(write_of(2, TAKEN)), lab.server.writes()
    lab.server.lose_next_answer()
    await lab.to.send(request)
    assert lab.server.writes() == before + 1


async def test_a_write_whose_time_is_over_is_not_sent(lab: Lab) -> None:
    request = await lab.request(write_of(1))
    late = Request(write_of(1, within_ms=-1), request.method, request.target, request.headers, request.body)
    before = lab.server.writes()
    assert isinstance(await lab.to.send(late), Retry)
    assert isinstance(await lab.to.read(late.write), Retry)
    assert isinstance(await lab.to.read_back(late), Unknown)
    assert lab.server.writes() == before


@asynccontextmanager
async def broken(answer: bytes | None) -> AsyncIterator[str]:
    """A server that gives one answer to everything; with None it takes the request and says nothing."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.read(1 << 16)
            if answer is None:
                await reader.read()
            else:
                writer.write(answer)
                await writer.drain()
            writer.close()

    server = await asyncio.start_server(handle, HOST, 0)
    try:
        yield f"http://{HOST}:{server.sockets[0].getsockname()[1]}/base"
    finally:
        server.close()


@asynccontextmanager
async def refusing() -> AsyncIterator[str]:
    """A port that nobody listens at."""
    with socket.socket() as held:
        held.bind((HOST, 0))
        yield f"http://{HOST}:{held.getsockname()[1]}/base"


FAULTS: Final = sorted({name for adapter in ADAPTERS.values() for name in adapter.faults})


def fault_of(adapter: Adapter, name: str) -> AbstractAsyncContextManager[str]:
    special: dict[str, Callable[[], AbstractAsyncContextManager[str]]] = {
        "refused": refusing,
        "silence": lambda: broken(None),
        "closed": lambda: broken(b""),
    }
    if name in special:
        return special[name]()
    if name not in adapter.faults:
        pytest.skip("not a fault of this protocol")
    return broken(adapter.faults[name])


@pytest.mark.parametrize("fault", ["refused", "silence", "closed", *FAULTS])
async def test_whatever_a_server_does_wrong_is_a_value_within_the_bound_and_never_a_yes(
    case: tuple[Adapter, str], lab: Lab, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    request = await lab.request(write_of(1))
    adapter, role = case
    with caplog.at_level(logging.DEBUG):
        async with fault_of(adapter, fault) as address, asyncio.timeout(BOUND_S):
            destination = adapter.destination(role, address)
            found = await destination.read(write_of(1))
            outcome = await destination.send(request)
            back = await destination.read_back(request)
            await destination.close()
    assert isinstance(found, Retry), "what can't be read is not absent, or it would be made a second time"
    assert isinstance(outcome, Retry | Ambiguous), "a write that may pass later is not refused, and not confirmed"
    assert isinstance(back, Unknown)
    assert CANARY not in caplog.text + repr((found, outcome, back, request))


async def test_a_write_that_never_reached_the_server_is_a_retry_and_not_ambiguous(case: tuple[Adapter, str], lab: Lab) -> None:
    request = await lab.request(write_of(1))
    adapter, role = case
    async with refusing() as address:
        destination = adapter.destination(role, address)
        assert isinstance(await destination.send(request), Retry)
        await destination.close()


async def test_a_server_that_comes_back_is_written_to_by_the_same_destination(lab: Lab) -> None:
    request = await lab.request(write_of(1))
    lab.server.lose_next_answer()
    await lab.to.send(request)
    await lab.write(write_of(2, TAKEN))


# -- nothing of a patient in the open


async def test_no_identifier_gets_into_an_address_or_a_repr(lab: Lab) -> None:
    await lab.write(write_of(1))
    await lab.write(write_of(2, TAKEN))
    shown: list[Any] = [await lab.current(write_of(2)), await lab.request(write_of(3))]
    assert CANARY not in lab.server.seen_in_the_open()
    assert CANARY not in repr(shown)


async def test_it_can_be_closed_twice_and_unused(lab: Lab, case: tuple[Adapter, str]) -> None:
    adapter, role = case
    unused = adapter.destination(role, lab.server.address)
    for _ in range(2):
        await unused.close()
    await lab.write(write_of(1))
    for _ in range(2):
        await lab.to.close()
