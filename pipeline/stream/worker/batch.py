"""The batch: how an agent works through records so that a crash repeats outputs and never loses one.

1. The outputs of all records are durable. 2. The table's changelog is durable. 3. The store is written, with the
changelog offset, in one write. 4. Leaving the batch acknowledges it. So what the table holds is durable downstream.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec
from faust.types import TP, AppT, EventT
from rocksdict import Rdict

from pipeline.ops.log_catalogue import FOREIGN_WRITER
from pipeline.ops.logs import emit
from pipeline.ops.metrics import BATCH_RECORDS, BATCH_SECONDS, FORKS
from pipeline.stream.worker.faults import report
from pipeline.stream.worker.outputs import EXIT_FOREIGN_WRITER, EXIT_NOT_DURABLE, Outputs, die
from pipeline.stream.worker.store import POSITIONS_KEY, BatchTable
from pipeline.stream.worker.taking import Taking
from pipeline.stream.worker.transport import generation_is_current

SMALL_RECORDS: Final = 256
SMALL_BYTES: Final = 1024 * 1024
"""A cycle of at most so many records and bytes, each quick to judge, is done on the loop's thread, which it holds for some 20 ms.
On a thread of its own it asks for the interpreter at each call into a store and at each delivery report, and waits for it each
time while the loop works."""

Puts = Mapping[int, tuple[Rdict, Mapping[bytes, bytes]]]
"""Per partition: its database, and what is to be written there."""

_POSITIONS: Final = msgspec.msgpack.Decoder(dict[str, int])


@dataclass(slots=True)
class PartitionBatch:
    """Records of one partition, in order per topic, with the partition's database."""

    partition: int
    db: Rdict
    records: list[Any] = field(default_factory=list)
    puts: dict[bytes, bytes] = field(default_factory=dict)

    _before: dict[str, int] | None = None

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Present values of the keys. Read at once, and the positions with them: each call into the store gives the
        interpreter away, and a busy loop returns it late."""
        positions, *found = self.db.get([POSITIONS_KEY, *keys]) or (None,)
        self._before = _POSITIONS.decode(positions) if positions is not None else {}
        return {key: value for key, value in zip(keys, found, strict=True) if value is not None}

    def positions(self) -> dict[str, int]:
        """Next offset per topic after this batch; those before it came with the values of its keys."""
        if self._before is None:
            self.get(())
        positions = dict(self._before or {})
        for record in self.records:
            positions[record.topic] = max(positions.get(record.topic, 0), record.offset + 1)
        return positions


class Work(Protocol):
    """What an agent does with its records."""

    def is_quick(self, record: Any) -> bool:
        """Whether judging it asks nobody and reads no more than its own entity; what is not quick is never judged on the loop."""
        ...

    def judge(self, batch: PartitionBatch, outputs: Outputs) -> None:
        """Send the batch's outputs and set its puts. In the batch's thread or on the loop's; must not raise for any record."""
        ...

    def after(self, batches: Sequence[PartitionBatch]) -> None:
        """Called on the loop's thread once the batches are stored."""
        ...


@dataclass(frozen=True, slots=True)
class Cycle:
    """How much is done at once. `messages` are polls of a partition: with few, small polls pile up and the gate falls behind.

    `records` bounds the memory of one step; one poll may go beyond it by itself.
    """

    messages: int = 256
    records: int = 10_000
    within_s: float = 0.002


class BatchRunner:
    """Runs `Work` over a Faust stream of record batches."""

    def __init__(self, app: AppT, table: BatchTable, work: Work, outputs: Outputs, cycle: Cycle) -> None:
        self._app = app
        self._table = table
        self._work = work
        self._outputs = outputs
        self._cycle = cycle
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._turn = asyncio.Lock()
        self._next_changelog: dict[int, int] = {}

    async def run(self, stream: Any) -> None:
        """Agent body. Nothing leaves it by an exception: that would acknowledge what was not done."""
        try:
            async for events in Taking(stream, self._cycle.messages, self._cycle.within_s).events():
                await self._all(events)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - a stream that can't be read any more would stand still for ever
            report(error)
            die(EXIT_NOT_DURABLE)

    async def _all(self, events: Sequence[EventT[Any]]) -> None:
        try:
            for some in portions(events, self._cycle.records):
                await self._one(some)
        except BaseException as error:  # noqa: BLE001 - leaving by any exception would acknowledge the batch
            report(error)
            die(EXIT_NOT_DURABLE)

    async def _one(self, events: Sequence[EventT[Any]]) -> None:
        batches = self._by_partition(events)
        if batches:
            records = [record for batch in batches for record in batch.records]
            loop = asyncio.get_running_loop()
            began_s = loop.time()
            async with self._turn:
                if self._is_small(records):
                    await self._durably_here(batches)
                else:
                    await loop.run_in_executor(self._thread, self._durably, batches)
            BATCH_SECONDS.of(self._table.name).observe(loop.time() - began_s)
            BATCH_RECORDS.of(self._table.name).observe(len(records))
            self._work.after(batches)

    def _is_small(self, records: Sequence[Any]) -> bool:
        if len(records) > SMALL_RECORDS or not all(map(self._work.is_quick, records)):
            return False
        return sum(len(record.value or b"") for record in records) <= SMALL_BYTES

    def _by_partition(self, events: Sequence[EventT[Any]]) -> list[PartitionBatch]:
        """Store handles are taken here, on the loop's thread: later, a rebalance could have taken the store away."""
        batches: dict[int, PartitionBatch] = {}
        for event in events:
            if not generation_is_current(self._app, event.message):
                continue
            partition = event.message.partition
            if partition not in batches:
                batches[partition] = PartitionBatch(partition, self._table.store.handle(partition))
            batches[partition].records.extend(event.value)
        return list(batches.values())

    def _durably(self, batches: Sequence[PartitionBatch]) -> None:
        puts = self._judged(batches)
        self._outputs.flush()
        self.store(puts)

    async def _durably_here(self, batches: Sequence[PartitionBatch]) -> None:
        """The same steps on the loop's thread."""
        puts = self._judged(batches)
        await self._outputs.flushed()
        self._log(puts)
        self._keep(puts, await self._outputs.flushed_log())

    def _judged(self, batches: Sequence[PartitionBatch]) -> Puts:
        for batch in batches:
            self._work.judge(batch, self._outputs)
            batch.puts[POSITIONS_KEY] = msgspec.msgpack.encode(batch.positions())
        return {batch.partition: (batch.db, batch.puts) for batch in batches}

    def store(self, puts: Puts) -> None:
        """Changelog first, then the store; the last value of a key only. Ends the process at a foreign writer's trace."""
        self._log(puts)
        self._keep(puts, self._outputs.flush_log())

    def _log(self, puts: Puts) -> None:
        topic = self._table.changelog_topic_name
        for partition, (_, values) in puts.items():
            for key, value in values.items():
                self._outputs.log(topic, partition, key, value)

    def _keep(self, puts: Puts, offsets: Mapping[tuple[str, int], Sequence[int]]) -> None:
        for partition, (db, values) in puts.items():
            written = offsets.get((self._table.changelog_topic_name, partition), [])
            self._check_changelog(partition, written)
            self._table.store.keep(partition, db, values, written[-1] if written else None)

    def _check_changelog(self, partition: int, written: Sequence[int]) -> None:
        expected = self._next_changelog.get(partition)
        for offset in written:
            if expected is not None and offset != expected:
                emit(FOREIGN_WRITER, topic=self._table.name, partition=partition, offset=expected, count=offset - expected)
                die(EXIT_FOREIGN_WRITER)
            expected = offset + 1
        if expected is not None:
            self._next_changelog[partition] = expected

    async def on_recovered(self, partitions: Sequence[int]) -> None:
        """After each recovery: take up the changelog where it ends, and write again what an old record came after."""
        store = self._table.store
        self._next_changelog.clear()
        again: dict[int, tuple[Rdict, Mapping[bytes, bytes]]] = {}
        for partition in partitions:
            changelog = TP(self._table.changelog_topic_name, partition)
            persisted = store.persisted_offset(changelog)
            if persisted is not None:
                self._next_changelog[partition] = persisted + 1
            self._tell_late(partition, store.late.pop(partition, 0), persisted)
            regressed = store.regressed.pop(partition, None)
            if regressed:
                db = store.handle(partition)
                keys: list[Any] = list(regressed)
                values = dict(zip(keys, db.get(keys) or (), strict=True))
                again[partition] = (db, {key: value for key, value in values.items() if value is not None})
        if again:
            async with self._turn:
                await asyncio.get_running_loop().run_in_executor(self._thread, self.store, again)

    def _tell_late(self, partition: int, late: int, persisted: int | None) -> None:
        if late:
            FORKS.of("changelog").inc(late)
            emit(FOREIGN_WRITER, topic=self._table.name, partition=partition, offset=persisted or 0, count=late)


def portions(events: Sequence[EventT[Any]], max_records: int) -> Iterator[Sequence[EventT[Any]]]:
    """The events in their order, in portions of at most so many records; an event that has more is one by itself."""
    portion: list[EventT[Any]] = []
    count = 0
    for event in events:
        if portion and count + len(event.value) > max_records:
            yield portion
            portion, count = [], 0
        portion.append(event)
        count += len(event.value)
    if portion:
        yield portion
