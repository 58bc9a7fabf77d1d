"""A cycle's steps: outputs, changelog, store, and only then what is told; on the loop's thread and on one of its own."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from pipeline.stream.worker import batch as batch_module
from pipeline.stream.worker import outputs as outputs_module
from pipeline.stream.worker.batch import SMALL_BYTES, SMALL_RECORDS, BatchRunner, Cycle, PartitionBatch
from pipeline.stream.worker.outputs import EXIT_FOREIGN_WRITER, EXIT_NOT_DURABLE, Outputs
from pipeline.stream.worker.store import POSITIONS_KEY
from tests.support.turns import turns_beside

CHANGELOG = "heads-changelog"


class Died(BaseException):
    """The process would have ended."""


class Log:
    """Outputs as a broker would take them: nothing is durable before it is flushed."""

    def __init__(self, steps: list[str]) -> None:
        self.steps = steps
        self.logged: list[tuple[int, bytes]] = []
        self.ends = {0: 100, 1: 200}
        self.foreign = 0
        self.held = asyncio.Event()
        self.held.set()

    def send(self, topic: str, partition: int, key: bytes | None, value: bytes) -> None:
        self.steps.append(f"send {value.decode()}")

    def log(self, topic: str, partition: int, key: bytes, value: bytes) -> None:
        assert topic == CHANGELOG
        self.logged.append((partition, key))

    def flush(self) -> None:
        self.steps.append("flushed")

    async def flushed(self) -> None:
        await self.held.wait()
        self.flush()

    def flush_log(self) -> Mapping[tuple[str, int], list[int]]:
        self.steps.append("logged")
        offsets: dict[tuple[str, int], list[int]] = {}
        for partition, _ in self.logged:
            self.ends[partition] += self.foreign
            offsets.setdefault((CHANGELOG, partition), []).append(self.ends[partition])
            self.ends[partition] += 1
        self.logged = []
        return offsets

    async def flushed_log(self) -> Mapping[tuple[str, int], list[int]]:
        await self.held.wait()
        return self.flush_log()


class Store:
    """Remembers what is kept, with the changelog's offset."""

    def __init__(self, steps: list[str]) -> None:
        self.steps = steps
        self.kept: list[tuple[int, set[bytes], int | None]] = []
        self.late: dict[int, int] = {}
        self.regressed: dict[int, set[bytes]] = {}

    def handle(self, partition: int) -> Any:
        return SimpleNamespace(get=lambda keys: [None if key == POSITIONS_KEY else b"known" for key in keys])

    def keep(self, partition: int, db: Any, puts: Mapping[bytes, bytes], offset: int | None) -> None:
        self.steps.append(f"kept {partition}")
        self.kept.append((partition, set(puts), offset))

    def persisted_offset(self, tp: Any) -> int | None:
        return None


class Upper:
    """Work: each record is said again, and stored by its key."""

    def __init__(self, steps: list[str]) -> None:
        self.steps = steps
        self.threads: set[int] = set()
        self.slow = b"no key"

    def is_quick(self, record: Any) -> bool:
        return bool(record.key != self.slow)

    def judge(self, batch: PartitionBatch, outputs: Outputs) -> None:
        self.threads.add(threading.get_ident())
        for record in batch.records:
            outputs.send("out", batch.partition, record.key, record.value)
            batch.puts[record.key] = record.value

    def after(self, batches: Sequence[PartitionBatch]) -> None:
        self.steps.append("after")


class Rig:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[str] = []
        self.ends: list[int] = []
        self.log, self.store, self.work = Log(self.steps), Store(self.steps), Upper(self.steps)
        table: Any = SimpleNamespace(name="heads", changelog_topic_name=CHANGELOG, store=self.store)
        app: Any = SimpleNamespace(consumer_generation_id=1)
        outputs: Any = self.log
        self.runner = BatchRunner(app, table, self.work, outputs, Cycle())

        def die(code: int) -> None:
            self.ends.append(code)
            raise Died

        monkeypatch.setattr(batch_module, "die", die)

    @staticmethod
    def event(partition: int, count: int, first: int = 0, generation: int = 1, value: bytes = b"v") -> Any:
        records = [
            SimpleNamespace(topic="landing.bed", offset=first + n, key=f"k{first + n}".encode(), value=value)
            for n in range(count)
        ]
        return SimpleNamespace(value=records, message=SimpleNamespace(partition=partition, generation_id=generation))


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(monkeypatch)


@pytest.mark.parametrize("count", [1, SMALL_RECORDS // 2, SMALL_RECORDS])
async def test_outputs_are_durable_before_the_changelog_and_the_changelog_before_the_store(rig: Rig, count: int) -> None:
    """With two partitions, so that the third is beyond what is done on the loop's thread."""
    await rig.runner._all([rig.event(0, count), rig.event(1, count)])
    assert rig.steps == ["send v"] * (2 * count) + ["flushed", "logged", "kept 0", "kept 1", "after"]
    keys = {f"k{n}".encode() for n in range(count)} | {POSITIONS_KEY}
    assert rig.store.kept == [(0, keys, 100 + count), (1, keys, 200 + count)]
    assert (rig.work.threads == {threading.get_ident()}) == (2 * count <= SMALL_RECORDS)
    assert rig.ends == []


async def test_the_loop_judges_nothing_that_may_take_long(rig: Rig) -> None:
    """One record that is not quick, or records of many bytes: a thread of their own."""
    here = threading.get_ident()
    await rig.runner._all([rig.event(0, 2), rig.event(1, 2)])
    assert rig.work.threads == {here}
    rig.work.slow = b"k1"
    await rig.runner._all([rig.event(0, 2), rig.event(1, 2)])
    assert len(rig.work.threads - {here}) == 1
    rig.work.slow = b"no key"
    rig.work.threads.clear()
    await rig.runner._all([rig.event(0, 1, value=b"v" * SMALL_BYTES)])
    assert rig.work.threads == {here}
    rig.work.threads.clear()
    await rig.runner._all([rig.event(0, 1, value=b"v" * SMALL_BYTES), rig.event(1, 1)])
    assert here not in rig.work.threads


@pytest.mark.parametrize("count", [1, SMALL_RECORDS + 1])
async def test_a_foreign_record_in_the_changelog_ends_the_process_before_anything_is_stored(rig: Rig, count: int) -> None:
    await rig.runner._all([rig.event(0, count)])
    rig.log.foreign = 1
    rig.store.kept.clear()
    with pytest.raises(Died):
        await rig.runner._all([rig.event(0, count, first=count)])
    assert rig.ends[0] == EXIT_FOREIGN_WRITER
    assert rig.store.kept == []


@pytest.mark.parametrize("count", [1, SMALL_RECORDS + 1])
async def test_what_a_record_does_to_the_work_never_leaves_the_agent(
    rig: Rig, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(batch: PartitionBatch, outputs: Outputs) -> None:
        raise ValueError("a fault")

    monkeypatch.setattr(rig.work, "judge", judge)
    with pytest.raises(Died):
        await rig.runner._all([rig.event(0, count)])
    assert rig.ends == [EXIT_NOT_DURABLE]
    assert rig.steps == []


async def test_what_a_recovery_writes_again_waits_for_the_cycle_that_is_under_way(rig: Rig) -> None:
    """Else one would take the other's changelog offsets for its own."""
    rig.log.held.clear()
    cycle = asyncio.create_task(rig.runner._all([rig.event(0, 2)]))
    await asyncio.sleep(0)
    rig.store.regressed[1] = {b"old"}
    recovered = asyncio.create_task(rig.runner.on_recovered([0, 1]))
    await asyncio.wait({cycle, recovered}, timeout=0.05)
    assert rig.store.kept == []
    rig.log.held.set()
    await asyncio.wait_for(asyncio.gather(cycle, recovered), 10)
    assert rig.store.kept == [(0, {b"k0", b"k1", POSITIONS_KEY}, 102), (1, {b"old"}, 200)]


async def test_others_have_their_turns_while_the_broker_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what nobody acknowledges ends the process after FLUSH_S."""
    monkeypatch.setattr(outputs_module, "FLUSH_S", 0.2)

    def die(code: int) -> None:
        raise Died

    monkeypatch.setattr(outputs_module, "die", die)
    outputs = Outputs({"bootstrap.servers": "127.0.0.1:1", "log_level": 0})
    outputs.log(CHANGELOG, 0, b"k", msgspec.msgpack.encode({}))
    async with turns_beside() as turns:
        with pytest.raises(Died):
            await outputs.flushed_log()
    assert turns.count > 10
    outputs._log.purge()
