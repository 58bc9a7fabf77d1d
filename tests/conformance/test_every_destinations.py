"""What every way out that is told of each change promises the writer: a letter is the same whenever it is built, a send is one
send, and whatever a receiver does wrong is a value and never a yes.

Such destinations are found in their folder; each needs an adapter here, or this suite fails.
"""

import asyncio
import importlib
import inspect
import logging
import pkgutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import pytest

import pipeline.destinations
from pipeline.destinations.hl7v2.destination import Hl7v2Destination
from pipeline.destinations.protocol import Ambiguous, Confirmed, EveryDestination, Refused, Retry
from pipeline.domain.event import Bed, BedOccupancy, Encounter, EncounterStatus, Occupancy, PatientClass, Reference, Staffing
from pipeline.domain.records import Accepted, Reason
from pipeline.formats.hl7v2.out_messages import Letter
from pipeline.local.ports import HOST, free_port
from tests.support.mllp_receiver import Receiver, ack, always, listening
from tests.unit.formats.test_hl7_out import REPLICA, record

CANARY: Final = "Zzyzxqv"
BOUND_S: Final = 20.0
PROMISES: Final = ("expects", "build", "send", "cut", "close")
FREE: Final = Bed(occupancy=BedOccupancy(Occupancy.VACANT))
STAY: Final = Encounter(
    patient=Reference("GEN", CANARY), patient_class=PatientClass.INPATIENT, status=EncounterStatus.IN_PROGRESS, service=CANARY
)

pytestmark = pytest.mark.timeout(120)


def found_destinations() -> dict[str, type]:
    """Each class of the folder that is told of each change, by its module."""
    walked = pkgutil.walk_packages(pipeline.destinations.__path__, "pipeline.destinations.")
    modules = [importlib.import_module(each.name) for each in walked]
    return {
        module.__name__.split(".")[2]: cls
        for module in modules
        for cls in vars(module).values()
        if inspect.isclass(cls) and cls.__module__ == module.__name__ and vars(cls).get("delivery") == "every"
    }


def hl7v2(port: int, answer_s: float = BOUND_S) -> Hl7v2Destination:
    return Hl7v2Destination("lab", HOST, port, msgspec.structs.replace(REPLICA, ack_timeout_s=answer_s, connect_timeout_s=5.0))


MAKERS: Final[dict[str, Callable[..., EveryDestination]]] = {"hl7v2": hl7v2}


def test_every_such_destination_has_an_adapter_and_everything_that_the_writer_asks() -> None:
    found = found_destinations()
    assert found.keys() == MAKERS.keys(), "add a maker to tests/conformance/test_every_destinations.py"
    for cls in found.values():
        assert [name for name in PROMISES if not callable(getattr(cls, name, None))] == []
        for name in PROMISES:
            promised, made = (inspect.signature(getattr(each, name)).parameters for each in (EveryDestination, cls))
            assert [*made][: len(promised)] == [*promised], name


class Lab:
    def __init__(self, receiver: Receiver, to: EveryDestination) -> None:
        self.receiver, self.to = receiver, to

    async def told(self, change: Accepted) -> object:
        letter = self.to.build(change)
        assert isinstance(letter, Letter)
        async with asyncio.timeout(BOUND_S):
            return await self.to.send(letter)


@asynccontextmanager
async def at_work(name: str, answer_s: float = BOUND_S) -> AsyncIterator[Lab]:
    async with listening(Receiver()) as receiver:
        to = MAKERS[name](receiver.port, answer_s)
        try:
            yield Lab(receiver, to)
        finally:
            await to.close()


@pytest.fixture(params=sorted(MAKERS))
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    async with at_work(request.param) as made:
        yield made


def change(offset: int = 7) -> Accepted:
    return record(STAY, entity_id="V1", offset=offset)


async def test_a_letter_is_the_same_whenever_it_is_built_and_another_change_has_another_id(lab: Lab) -> None:
    one, again, other = lab.to.build(change()), lab.to.build(change()), lab.to.build(change(8))
    assert isinstance(one, Letter)
    assert isinstance(other, Letter)
    assert one == again
    assert one.control_id != other.control_id
    assert not inspect.iscoroutinefunction(lab.to.build)


async def test_it_declares_itself_and_expects_what_it_can_tell_of(lab: Lab) -> None:
    assert (lab.to.name, lab.to.delivery, lab.to.window >= 1) == ("lab", "every", True)
    assert lab.to.expects(change())
    assert lab.to.expects(record(FREE))
    assert not lab.to.expects(record(Staffing(unit="ICU")))


async def test_one_send_is_one_message_whatever_is_answered(lab: Lab) -> None:
    for code, errors, wanted in (
        ("AA", (), Confirmed),
        ("AE", ("207",), Retry),
        ("AR", ("103",), Refused),
        ("CA", (), Confirmed),
        ("CE", (), Retry),
        ("CR", (), Refused),
    ):
        before = len(lab.receiver.seen)
        lab.receiver.say = lambda seen, code=code, errors=errors: ack(code, seen.control_id, *errors)  # type: ignore[misc]
        assert isinstance(await lab.told(change()), wanted), code
        assert len(lab.receiver.seen) == before + 1


async def test_an_answer_that_is_lost_is_ambiguous_and_the_repeat_is_the_same_message(lab: Lab) -> None:
    lab.receiver.say = lambda seen: None
    assert isinstance(await lab.told(change()), Ambiguous)
    lab.receiver.say = always()
    assert isinstance(await lab.told(change()), Confirmed)
    assert lab.receiver.seen[0].data == lab.receiver.seen[1].data


async def test_what_may_not_go_any_more_is_not_sent(lab: Lab) -> None:
    letter = lab.to.build(change())
    assert isinstance(letter, Letter)
    assert await lab.to.send(letter, lambda: False) == Retry(Reason.NONE)
    assert lab.receiver.seen == []


@pytest.mark.parametrize("name", sorted(MAKERS))
@pytest.mark.parametrize("answer", [b"", b"\x0bMSH|", b"HTTP/1.1 500\r\n" * 600, b"\x0bhello\x1c\r", None])
async def test_whatever_a_receiver_does_wrong_is_a_value_and_never_a_yes(
    name: str, answer: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        async with at_work(name, 0.5) as lab:
            lab.receiver.say = lambda _: answer
            said = await lab.told(change())
    assert isinstance(said, Ambiguous | Retry)
    assert CANARY not in caplog.text + repr((said, lab.to.build(change())))


@pytest.mark.parametrize("name", sorted(MAKERS))
async def test_nobody_there_is_a_retry_and_not_ambiguous(name: str) -> None:
    to = MAKERS[name](free_port())
    letter = to.build(change())
    assert isinstance(letter, Letter)
    assert await to.send(letter) == Retry(Reason.CONNECTION)
    await to.close()
    await to.close()
