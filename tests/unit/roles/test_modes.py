"""A writer's mode: nothing is sent before it is known, orders are followed, and no change of mode is lost on its way to Kafka."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import EntityKey, Millis
from pipeline.domain.records import Lane, ModeChange, ModeOrder, OutcomeKind, Reason
from pipeline.domain.writing.modes import Cause, Mode, Modes
from pipeline.domain.writing.scheduler import Entry, LaneScheduler
from pipeline.formats.avro import Codec
from pipeline.kafka.client import Message
from pipeline.kafka.producer import OutRecord, PublishError, PublishFailed
from pipeline.ops import log_catalogue as lines
from pipeline.ops.metrics import REGISTRY
from pipeline.roles.policies import load_modes
from pipeline.roles.writers import modes
from pipeline.roles.writers.modes import ModeKeeper, Told
from pipeline.stream.writing.freezing import Freezing

CODEC = Codec.shipped()
NOW = Millis(1_800_000_000_000)


def message(record: ModeChange | ModeOrder | None) -> Message:
    return Message("modes", 0, 0, NOW, b"k", CODEC.encode(record) if record is not None else None, ())


def order(mode: str | None = "severe", destination: str = "ehr", for_s: int = 60) -> ModeOrder:
    until = Millis(NOW + for_s * 1000)
    return ModeOrder(destination=destination, mode=mode, actor="operator:a", reason="why", at=NOW, until=until)


def changed(mode: str = "severe", instance: str = "0", cause: str = "TURNS_WAIT") -> ModeChange:
    return ModeChange(destination="ehr", instance=instance, mode=mode, previous="slow", at=NOW, cause=cause, frozen_since=NOW)


class FakeFollower:
    """In place of the thread that reads `modes`."""

    def __init__(self, *_: Any) -> None:
        self.caught_up, self.ended = threading.Event(), threading.Event()

    def start(self) -> None:
        return


class FakePublisher:
    def __init__(self) -> None:
        self.failing = False
        self.records: list[Any] = []

    async def publish(self, records: list[OutRecord]) -> None:
        if self.failing:
            raise PublishFailed(PublishError.TIMED_OUT)
        self.records += [CODEC.decode(record.value) for record in records]


class World:
    """A keeper with everything around it faked; its clock is moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now: Millis = NOW
        self.notes: list[tuple[str, str, dict[str, str]]] = []
        self.said: list[tuple[str, dict[str, Any]]] = []
        monkeypatch.setattr(modes, "Follower", FakeFollower)
        monkeypatch.setattr(modes, "now_ms", lambda: self.now)
        monkeypatch.setattr(modes, "emit", lambda line, **fields: self.said.append((line.name, fields)))
        self.scheduler = LaneScheduler()
        self.delivery: Any = SimpleNamespace(
            scheduler=self.scheduler,
            freezing=Freezing(self.scheduler, lambda _: None),  # type: ignore[arg-type,return-value]
            breaker=SimpleNamespace(is_open=False),
            arrived=0,
            troubled=(),
        )
        process: Any = SimpleNamespace(codec=CODEC, settings=SimpleNamespace(kafka=None))
        self.keeper = ModeKeeper(process, "ehr", "0", load_modes(), self)
        self.publisher: Any = FakePublisher()

    async def note(
        self, action: str, subject: str, destination: str, cause: str, figures: dict[str, str], at: Millis, actor: str
    ) -> None:
        self.notes.append((action, cause, figures))

    def wait(self, lane: Lane, since_s: float, name: str = "a") -> None:
        key = EntityKey("t", "bed", "n", name).encode()
        self.scheduler.put(Entry(key, lane, Millis(self.now - int(since_s * 1000)), Millis(0)))

    async def look(self, passed_s: float = 0.5) -> Mode:
        self.now = Millis(self.now + int(passed_s * 1000))
        await self.keeper._judge(self.publisher, self.delivery, self.now)
        return self.keeper.mode


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_of_what_lies_on_modes_only_orders_for_the_destination_and_the_instances_own_word_count() -> None:
    told = Told(CODEC, "ehr", "0")
    for record in (order(destination="other"), changed(instance="1"), None):
        told.apply(message(record))
    assert (told.order, told.known) == (None, None)
    told.apply(message(order()))
    told.apply(message(changed()))
    assert told.order is not None
    assert told.known is not None
    assert (told.order.mode, told.known.mode, told.known.frozen_since) == (Mode.SEVERE, Mode.SEVERE, NOW)
    told.apply(message(order(None)))
    assert told.order is None


@pytest.mark.parametrize("mode", ["panic", ""])
def test_an_order_or_a_mode_of_a_later_build_is_none(mode: str) -> None:
    told = Told(CODEC, "ehr", "0")
    told.apply(message(order(mode)))
    told.apply(message(changed(mode)))
    told.apply(Message("modes", 0, 0, NOW, b"k", b"rubbish", ()))
    assert (told.order, told.known) == (None, None)


def test_an_order_without_a_near_end_ends_after_a_day() -> None:
    told = Told(CODEC, "ehr", "0")
    told.apply(message(order(for_s=30 * 86_400)))
    assert told.order is not None
    assert told.order.until == NOW + 86_400_000


async def test_nothing_is_sent_before_the_topic_was_read_and_all_that_is_pending_is_known(world: World) -> None:
    ready = False
    world.keeper.hold(world.delivery)
    world.keeper._told.apply(message(changed()))
    world.wait(Lane.BULK, 1)
    task = asyncio.create_task(world.keeper.run(world.publisher, world.delivery, lambda: ready))
    try:
        await asyncio.sleep(0.2)
        assert world.delivery.freezing.held
        world.keeper.follower.caught_up.set()
        async with asyncio.timeout(30):
            while not len(world.scheduler.frozen):
                await asyncio.sleep(0.05)
        assert world.delivery.freezing.held
        ready = True
        async with asyncio.timeout(30):
            while world.delivery.freezing.held:
                await asyncio.sleep(0.05)
        assert (world.keeper.mode, world.notes) == (Mode.SEVERE, [])
    finally:
        task.cancel()


async def test_a_change_is_in_the_audit_log_with_its_figures_and_then_in_force_and_on_the_topic(world: World) -> None:
    world.wait(Lane.URGENT, 20)
    world.wait(Lane.BULK, 90, "b")
    assert await world.look() is Mode.SEVERE
    action, cause, figures = world.notes[0]
    assert (action, cause) == ("mode.severe", Cause.TURNS_WAIT.value)
    assert (figures["pending_urgent"], figures["pending_bulk"], figures["turn_wait_s"]) == ("1", "1", "20.5")
    assert world.scheduler.frozen.counts() == {(Lane.BULK, EntityType.BED): 1}
    (change,) = world.publisher.records
    assert (change.mode, change.cause, change.frozen_since) == ("severe", Cause.TURNS_WAIT.value, world.now)
    assert world.said == [
        ("mode.changed", {"destination": "ehr", "mode": "severe", "previous_mode": "normal", "cause": Cause.TURNS_WAIT.value})
    ]
    assert REGISTRY.get_sample_value("surgeline_writer_mode", {"destination": "ehr", "mode": "severe"}) == 1
    assert REGISTRY.get_sample_value("surgeline_writer_mode", {"destination": "ehr", "mode": "normal"}) == 0


async def test_a_change_that_the_topic_did_not_take_is_told_at_a_later_look(world: World) -> None:
    world.publisher.failing = True
    world.wait(Lane.URGENT, 20)
    await world.look()
    await world.look()
    assert world.publisher.records == []
    world.publisher.failing = False
    await world.look()
    await world.look()
    assert [change.mode for change in world.publisher.records] == ["severe"]
    assert len(world.notes) == 1


async def test_a_forced_outage_holds_at_once_and_names_who_ordered_it(world: World) -> None:
    world.keeper._told.apply(message(order("outage")))
    assert await world.look() is Mode.OUTAGE
    assert world.delivery.freezing.held
    action, cause, figures = world.notes[0]
    assert (action, cause) == ("mode.outage", Cause.FORCED.value)
    assert (figures["ordered_by"], figures["ordered_because"]) == ("operator:a", "why")
    assert REGISTRY.get_sample_value("surgeline_writer_mode_forced", {"destination": "ehr"}) == 1
    assert "why" not in str(world.said)
    world.keeper._told.apply(message(order(None)))
    await world.look()
    assert not world.delivery.freezing.held
    assert REGISTRY.get_sample_value("surgeline_writer_mode_forced", {"destination": "ehr"}) == 0


async def test_a_restart_in_an_outage_ends_with_an_answer_and_not_with_an_attempt_that_got_none(world: World) -> None:
    world.keeper._told.apply(message(changed("outage", cause=Cause.BREAKER_OPEN.value)))
    world.keeper._modes = Modes(load_modes(), world.keeper._told.known)
    world.keeper.attempted(OutcomeKind.FAILED, Reason.CONNECTION)
    for _ in range(10):
        assert await world.look() is Mode.OUTAGE
    world.keeper.attempted(OutcomeKind.PARKED, Reason.REFUSED_INVALID)
    assert await world.look() is Mode.RECOVERY


async def test_an_open_breaker_is_logged_once_and_its_closing_with_how_long_it_was_open(world: World) -> None:
    for is_open, at in ((False, 0), (True, 1_000), (True, 1_500), (False, 4_000), (False, 4_500)):
        world.keeper._tell_breaker(is_open, Millis(at))
    assert world.said == [
        (lines.BREAKER_OPENED.name, {"destination": "ehr"}),
        (lines.BREAKER_CLOSED.name, {"destination": "ehr", "duration_ms": 3_000.0}),
    ]
