"""A Faust app of ours: what a crash of one of its services does, and a recovery that another rebalance overtakes."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from pipeline.settings.sections.kafka import KafkaSettings
from pipeline.settings.sections.workers import WorkerSettings
from pipeline.stream.worker import app as stream_app
from pipeline.stream.worker.app import AppSpec, Hooks, Still, Worker
from pipeline.stream.worker.batch import Cycle
from pipeline.stream.worker.outputs import EXIT_NOT_DURABLE

SOON_S = 10.0


class Ended(BaseException):
    """In place of the end of this process."""


async def test_a_crash_of_the_recovery_ends_the_process_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = AppSpec("gate", "0", tmp_path, ("landing.bed",), "heads", max, 8, Cycle(), 500, 64)
    app = stream_app._create_app(spec, KafkaSettings(), WorkerSettings())
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        raise Ended

    monkeypatch.setattr(stream_app, "die", end)
    recovery = app.tables.recovery  # type: ignore[attr-defined]  # the manager has it, its interface does not say so
    with pytest.raises(Ended):
        await recovery.crash(RuntimeError("the disk is ahead of its changelog"))
    assert codes == [EXIT_NOT_DURABLE]


class Overtaken:
    """A worker whose recovery waits for as long as the test likes, in a group that the test moves."""

    def __init__(self, folder: Path) -> None:
        self.gates: list[asyncio.Event] = []
        self.started = 0

        async def recovered(partitions: frozenset[int], still: Still) -> None:
            self.gates.append(gate := asyncio.Event())
            await gate.wait()

        def told() -> None:
            self.started += 1

        def nothing(*_: object) -> None:
            return

        async def run(stream: object) -> None:
            return

        async def on_recovered(partitions: Sequence[int]) -> None:
            return

        spec = AppSpec("gate", "0", folder, ("landing.bed",), "heads", max, 8, Cycle(), 500, 64)
        hooks = Hooks(recovered, nothing, told, nothing, nothing, nothing, nothing)
        runner: Any = SimpleNamespace(run=run, on_recovered=on_recovered)
        outputs: Any = None
        self.worker = Worker(spec, KafkaSettings(), WorkerSettings(), lambda *_: runner, outputs, hooks)
        self.worker._is_settled = True  # the tests' own process stays as it is

    def assign(self, *partitions: int) -> None:
        """A rebalance that began and brought these."""
        app: Any = self.worker.app
        app.rebalancing_count += 1
        app.assigned_in = app.rebalancing_count
        changelog = {TP(self.worker.table.changelog_topic_name, partition) for partition in partitions}
        app.assignor = SimpleNamespace(assigned_actives=lambda: changelog)
        app.consumer = SimpleNamespace(assignment=lambda: changelog)

    async def recovery(self) -> "asyncio.Task[None]":
        """One that has begun, and waits."""
        task, before = asyncio.create_task(self.worker._recovered()), len(self.gates)
        async with asyncio.timeout(SOON_S):
            while len(self.gates) == before:
                await asyncio.sleep(0)
        return task


async def test_a_recovery_that_was_overtaken_says_nothing_of_the_assignment_after_it(tmp_path: Path) -> None:
    scene = Overtaken(tmp_path)
    scene.assign(*range(8))
    first = await scene.recovery()
    scene.assign(4, 5, 6, 7)
    second = await scene.recovery()
    scene.gates[0].set()
    await first
    assert not scene.worker.ready, "the second has not ended"
    scene.gates[1].set()
    await second
    assert scene.worker.ready
    assert scene.worker.assigned == {4, 5, 6, 7}


async def test_one_that_ends_after_the_next_changes_nothing(tmp_path: Path) -> None:
    scene = Overtaken(tmp_path)
    scene.assign(*range(8))
    first = await scene.recovery()
    scene.assign(4, 5, 6, 7)
    second = await scene.recovery()
    scene.gates[1].set()
    await second
    scene.gates[0].set()
    await first
    assert scene.worker.assigned == {4, 5, 6, 7}


def test_a_worker_with_nothing_to_fetch_stays_in_its_group(tmp_path: Path) -> None:
    spec = AppSpec("gate", "0", tmp_path, ("landing.bed",), "heads", max, 8, Cycle(), 500, 64)
    app = stream_app._create_app(spec, KafkaSettings(), WorkerSettings())
    assert app.conf.broker_max_poll_interval * 1000 < 2**31, "Kafka's own bound of it"
    assert app.conf.broker_max_poll_interval >= 86_400
