"""What every way in promises a sender.

Sources are found in their folder; each needs an adapter in `tests/support/source_adapters.py`, or this suite fails.
"""

import asyncio
import importlib
import inspect
import logging
import pkgutil
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import ClassVar, Final

import pytest

import pipeline.sources
from pipeline import topology
from pipeline.domain.event import Event
from pipeline.sources.protocol import Broken, OtherContent, RawMessage, Receipted, Repeated, Stored, Unavailable
from tests.support.source_adapters import ADAPTERS, BOUND_S, CANARY, Adapter, Answer, Said

QUIET_S: Final = 0.3
"""How long an answer is watched for that must not come."""

NOT_A_WAY_IN: Final = {"timers": "orders ends of what is known already; takes no message from anybody"}
"""Classes of the folder with a name and a `run` of another shape, and why."""


def named_classes() -> list[type]:
    """Each class of the folder that has a name and runs."""
    modules = [
        importlib.import_module(found.name) for found in pkgutil.walk_packages(pipeline.sources.__path__, "pipeline.sources.")
    ]
    return [
        cls
        for module in modules
        for cls in vars(module).values()
        if inspect.isclass(cls)
        and cls.__module__ == module.__name__
        and not getattr(cls, "_is_protocol", False)
        and isinstance(getattr(cls, "name", None), str)
        and inspect.iscoroutinefunction(getattr(cls, "run", None))
    ]


def is_source(cls: type) -> bool:
    return [*inspect.signature(cls.__dict__["run"]).parameters] == ["self", "sink", "stop"]


SOURCES: Final = {str(vars(cls)["name"]): cls for cls in named_classes() if is_source(cls)}


class ScriptedSink:
    """A sink with the contract of the real one that does what a test tells it to."""

    def __init__(self) -> None:
        self.calls: list[tuple[RawMessage, tuple[Event, ...], bytes]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()
        self.result: Callable[[bytes], Receipted] = Stored
        self.fault: Exception | None = None
        self.level = 0.0
        self.returned = 0

    async def accept(self, raw: RawMessage, events: Sequence[Event], answer: bytes, broken: Sequence[Broken] = ()) -> Receipted:
        self.calls.append((raw, tuple(events), answer))
        self.entered.set()
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        self.returned += 1
        return Unavailable(1.0) if self.level >= 1 else self.result(answer)

    def pressure(self) -> float:
        return self.level


class Lab:
    """One source that runs, its sink, and its adapter."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter, self.sink, self.stop = adapter, ScriptedSink(), asyncio.Event()
        self.source = adapter.source()
        self.running = asyncio.create_task(self.source.run(self.sink, self.stop))

    async def listening(self) -> "Lab":
        async with asyncio.timeout(BOUND_S):
            while not self.adapter.serves(self.source):
                await asyncio.sleep(0.01)
        return self

    async def send(self, number: int = 1, variant: int = 0) -> Answer:
        return await self.send_bytes(self.adapter.message(number, variant), number)

    async def send_bytes(self, message: bytes, number: int = 1) -> Answer:
        return await self.adapter.send(self.adapter.port(self.source), message, number)

    async def end(self) -> None:
        """Ask it to stop; fails if it has not within the bound."""
        self.stop.set()
        await asyncio.wait_for(self.running, BOUND_S)


@pytest.fixture(params=sorted(SOURCES))
async def lab(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    made = ADAPTERS.get(request.param)
    if made is None:
        pytest.fail(no_adapter(request.param))
    running = Lab(made(monkeypatch))
    await running.listening()
    yield running
    running.sink.gate.set()
    running.stop.set()
    with suppress(Exception):
        await asyncio.wait_for(running.running, BOUND_S)


def no_adapter(name: str) -> str:
    return (
        f"the source {name!r} ({SOURCES[name].__module__}) has no adapter: add a class to tests/support/source_adapters.py with "
        "source(), port(), serves(), message(number, variant) and send(port, message, number), and name it in ADAPTERS"
    )


async def not_yet(sending: "asyncio.Task[Answer]") -> None:
    """No answer comes while one must not."""
    done, _ = await asyncio.wait({sending}, timeout=QUIET_S)
    assert not done, "answered before the sink had returned"


# -- found by folder


def test_every_source_has_an_adapter_and_every_adapter_a_source() -> None:
    missing = [no_adapter(name) for name in SOURCES if name not in ADAPTERS]
    assert not missing, "\n".join(missing)
    assert ADAPTERS.keys() == SOURCES.keys()


def test_a_class_that_only_looks_like_a_source_says_why_it_is_none() -> None:
    others = {str(vars(cls)["name"]) for cls in named_classes() if not is_source(cls)}
    assert others == NOT_A_WAY_IN.keys(), "give `run` the parameters sink and stop, or say in NOT_A_WAY_IN why it is no way in"


def test_names_are_words_and_each_source_has_its_own() -> None:
    found = [str(vars(cls)["name"]) for cls in named_classes()]
    assert len(set(found)) == len(found)
    assert all(re.fullmatch(r"[a-z][a-z0-9-]*", name) for name in found)


def test_a_source_without_an_adapter_fails_with_what_to_add(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fresh:
        name: ClassVar[str] = "fresh"

    monkeypatch.setitem(SOURCES, "fresh", Fresh)
    with pytest.raises(AssertionError, match=r"'fresh' .* has no adapter: add a class"):
        test_every_source_has_an_adapter_and_every_adapter_a_source()


# -- yes means durable


async def test_yes_comes_only_after_the_sink_has_stored_it(lab: Lab) -> None:
    lab.sink.gate.clear()
    sending = asyncio.create_task(lab.send())
    await asyncio.wait_for(lab.sink.entered.wait(), BOUND_S)
    await not_yet(sending)
    lab.sink.gate.set()
    assert (await asyncio.wait_for(sending, BOUND_S)).said is Said.YES
    assert lab.sink.returned == 1


async def test_what_was_answered_before_is_answered_yes_with_the_first_answer(lab: Lab) -> None:
    first = await lab.send()
    kept = lab.sink.calls[0][2]
    lab.sink.result = lambda _: Repeated(kept)
    again = await lab.send()
    assert (again.said, again.text) == (first.said, first.text) == (Said.YES, first.text)


async def test_the_sink_is_given_the_bytes_as_they_came_and_what_names_them(lab: Lab) -> None:
    await lab.send()
    ((raw, events, _),) = lab.sink.calls
    assert raw.body == lab.adapter.message(1)
    assert re.fullmatch(r"[0-9a-f]{64}", raw.identity)
    assert raw.channel in topology.RAW
    assert events
    assert all(event.tenant == "north" and event.content_hash for event in events)
    assert raw.received_at == events[0].received_at > 0


async def test_the_same_message_always_makes_the_same_identity_answer_and_events(lab: Lab) -> None:
    await lab.send(1)
    await lab.send(1)
    (raw, events, answer), (raw_again, events_again, answer_again) = lab.sink.calls
    assert raw.identity == raw_again.identity
    assert [(e.event_id, e.content_hash) for e in events] == [(e.event_id, e.content_hash) for e in events_again]
    assert answer == answer_again, "the answer is a function of the message"


async def test_another_message_has_another_identity_and_another_body_has_not(lab: Lab) -> None:
    for number, variant in ((1, 0), (2, 0), (1, 1)):
        await lab.send(number, variant)
    first, second, other_body = (raw.identity for raw, _, _ in lab.sink.calls)
    assert first != second
    assert first == other_body
    assert len({event.event_id for _, events, _ in lab.sink.calls[:2] for event in events}) == 2 * len(lab.sink.calls[0][1])


# -- no means that nothing was promised


async def test_a_broker_that_is_away_is_answered_try_again_and_the_same_message_is_taken_later(lab: Lab) -> None:
    lab.sink.result = lambda _: Unavailable(1.0)
    assert (await lab.send()).said is Said.TRY_AGAIN
    lab.sink.result = Stored
    assert (await lab.send()).said is Said.YES
    assert lab.sink.calls[0][0].identity == lab.sink.calls[1][0].identity


async def test_other_content_under_a_known_identity_is_refused_for_good(lab: Lab) -> None:
    lab.sink.result = lambda _: OtherContent()
    answer = await lab.send()
    assert answer.said is Said.REFUSED
    assert CANARY.encode() not in answer.text


async def test_a_full_sink_is_never_answered_yes(lab: Lab) -> None:
    lab.sink.level = 1.0
    sending = asyncio.create_task(lab.send())
    await asyncio.wait({sending}, timeout=QUIET_S)
    if sending.done():
        assert sending.result().said is Said.TRY_AGAIN
        sending = asyncio.create_task(lab.send())
    lab.sink.level = 0.0
    await asyncio.wait_for(sending, BOUND_S)
    assert (await lab.send(2)).said is Said.YES


async def test_a_fault_of_ours_is_no_yes_and_tells_nothing_of_the_message(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    lab.sink.fault = RuntimeError(CANARY)
    with caplog.at_level(logging.DEBUG):
        answer = await lab.send()
    assert answer.said in (Said.TRY_AGAIN, Said.NOTHING)
    assert CANARY not in answer.text.decode(errors="replace") + caplog.text


@pytest.mark.parametrize(
    "garbage", [b"", b"\x00\xff\xfe", b"{", b"neither this nor that"], ids=["empty", "binary", "brace", "text"]
)
async def test_what_is_no_message_makes_no_event_and_is_refused(lab: Lab, garbage: bytes) -> None:
    answer = await lab.send_bytes(garbage)
    assert answer.said is Said.REFUSED
    assert all(events == () for _, events, _ in lab.sink.calls)
    assert (await lab.send(2)).said is Said.YES


# -- an orderly end


async def test_it_ends_when_it_is_told_to_and_listens_no_more(lab: Lab) -> None:
    assert (await lab.send()).said is Said.YES
    await lab.end()
    assert not lab.adapter.serves(lab.source)


async def test_a_message_in_hand_is_finished_and_answered_before_it_ends(lab: Lab) -> None:
    lab.sink.gate.clear()
    sending = asyncio.create_task(lab.send())
    await asyncio.wait_for(lab.sink.entered.wait(), BOUND_S)
    lab.stop.set()
    await not_yet(sending)
    lab.sink.gate.set()
    assert (await asyncio.wait_for(sending, BOUND_S)).said is Said.YES
    await lab.end()


async def test_a_sink_that_never_returns_keeps_it_no_longer_than_its_bound_and_gets_no_yes(lab: Lab) -> None:
    lab.sink.gate.clear()
    sending = asyncio.create_task(lab.send())
    await asyncio.wait_for(lab.sink.entered.wait(), BOUND_S)
    await lab.end()
    await asyncio.wait({sending}, timeout=QUIET_S)
    if not sending.done():  # the process ends now, and the connection with it
        sending.cancel()
        return
    assert sending.result().said in (Said.NOTHING, Said.TRY_AGAIN)


async def test_it_can_be_run_again_after_its_end(lab: Lab) -> None:
    """A restart in one process, as tests and embedders do it, keeps nothing of the run before."""
    await lab.end()
    async with again(lab.adapter) as second:
        assert (await second.send()).said is Said.YES


@asynccontextmanager
async def again(adapter: Adapter) -> AsyncIterator[Lab]:
    made = await Lab(adapter).listening()
    try:
        yield made
    finally:
        await made.end()
