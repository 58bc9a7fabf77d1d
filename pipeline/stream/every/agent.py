"""The agent of a destination that is told of each change: the history in, and only what has ended acknowledged."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from faust.types import AppT, EventT

from pipeline.domain.event import EntityType
from pipeline.domain.records import Accepted, Reason
from pipeline.formats.avro import Codec, Undecodable
from pipeline.kafka.producer import OutRecord, Publisher, PublishFailed
from pipeline.stream.every.delivery import EveryDelivery
from pipeline.stream.judging.foreign import is_in_its_place, quarantined_of, tell_quarantined
from pipeline.stream.worker.batch import BatchRunner, Cycle, PartitionBatch
from pipeline.stream.worker.faults import report
from pipeline.stream.worker.outputs import EXIT_NOT_DURABLE, Outputs, die
from pipeline.stream.worker.store import BatchTable
from pipeline.topology import QUARANTINE

RULE: Final = "the history holds accepted records, each by its entity's key"
REMEDY: Final = "find who else writes to this topic"


class Intake:
    """Reads the records of a poll. One that is not an accepted change in its own place is kept in `quarantine`."""

    def __init__(
        self,
        codec: Codec,
        destination: str,
        entity_types: Collection[EntityType],
        publisher: Publisher,
        encrypt: Callable[[bytes, bytes], bytes],
        prefix: str,
    ) -> None:
        self._codec, self._destination, self._types = codec, destination, frozenset(entity_types)
        self._publisher, self._encrypt, self._prefix = publisher, encrypt, prefix

    async def changes(self, records: Collection[Any]) -> list[tuple[bytes, Accepted]]:
        """Those that the destination may be told of, in order, by key."""
        found: list[tuple[bytes, Accepted]] = []
        for record in records:
            content = self._read(record)
            if isinstance(content, Reason):
                await self._park(record, content)
            elif content.entity_type in self._types:
                found.append((record.key, content))
        return found

    def _read(self, record: Any) -> Accepted | Reason:
        try:
            content = self._codec.decode(record.value)
        except Undecodable as error:
            return error.reason
        if not isinstance(content, Accepted):
            return Reason.WRONG_TOPIC
        return content if is_in_its_place(record, content) else Reason.KEY_MISMATCH

    async def _park(self, record: Any, reason: Reason) -> None:
        place, quarantined = quarantined_of(record, reason, RULE, REMEDY, self._encrypt, self._prefix)
        try:
            await self._publisher.publish([OutRecord(QUARANTINE, place, self._codec.encode(quarantined), record.partition)])
        except PublishFailed:
            die(EXIT_NOT_DURABLE)
        tell_quarantined(self._destination, quarantined)


class _NoWork:
    """The runner's own cycle is not used: records are worked through by the delivery."""

    def is_quick(self, record: Any) -> bool:
        """Nothing is done with it here."""
        return True

    def judge(self, batch: PartitionBatch, outputs: Outputs) -> None:
        """Nothing."""

    def after(self, batches: Collection[PartitionBatch]) -> None:
        """Nothing."""


class EveryRunner(BatchRunner):
    """Hands each poll to the delivery, which acknowledges it when all of it has ended."""

    def __init__(self, app: AppT, table: BatchTable, intake: Intake, delivery: EveryDelivery, outputs: Outputs) -> None:
        super().__init__(app, table, _NoWork(), outputs, Cycle())
        self._intake, self._delivery = intake, delivery

    async def run(self, stream: Any) -> None:
        """Agent body. It acknowledges nothing itself; nothing leaves it by an exception."""
        stream.enable_acks = False
        async for event in stream.events():
            try:
                await self._one_poll(event)
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # noqa: BLE001 - a poll that was neither taken in nor let go would be lost
                report(error)
                die(EXIT_NOT_DURABLE)

    async def _one_poll(self, event: EventT[Any]) -> None:
        await self._delivery.take(event, await self._intake.changes(event.value))

    async def keep(self, puts: Mapping[int, Mapping[bytes, bytes]]) -> None:
        """Changelog first, then the store. A partition whose database is no longer open here is left out."""
        store = self._table.store
        whole = {partition: (store.handle(partition), values) for partition, values in puts.items() if store.is_open(partition)}
        await asyncio.get_running_loop().run_in_executor(self._thread, self.store, whole)
