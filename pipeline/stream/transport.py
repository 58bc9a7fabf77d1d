"""Faust's Kafka transport, made exact and fast.

Faust costs tens of microseconds per *message*, so here one message carries all records that a poll returned for one
partition, and its offset is the last record's. Four of Faust's ways are replaced, each because it can lose an event:

* Commits (faust issue 606): `_new_offset` may commit past an event in flight. Here the commit is the last acknowledged
  offset + 1, and never passes a message that is still unacknowledged.
* Acknowledgements of an earlier generation: a batch that was buffered across a rebalance may be acknowledged after its
  partition was read again from its committed offset. Here such an acknowledgement counts for nothing.
* Records fetched before a seek: they may be delivered after it, and everything between would be skipped as read. Here
  a jump of the offsets is read again once, and believed only if the log really has the hole.
* Recovery (faust issue 596): queues that were filled while the flow was stopped are cleared after the seek. Here the flow is
  resumed before.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import faust
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage, Message

from pipeline.stream.versions import assert_versions

assert_versions()

RecoveredOffset = Callable[[TP], int | None]
"""Next offset of a topic partition that the recovered table is ready for: None if it says nothing, -1 if it is empty."""

HOLE_REREADS: Final = 1


class BatchConsumer(driver.Consumer):
    """Yields one message per partition and poll."""

    recovered_offset: RecoveredOffset
    batched: Callable[[str], bool]
    on_hole: Callable[[TP, int, int], None]
    on_rewind: Callable[[TP, int, int], None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._expected: dict[TP, int] = {}
        self._reread: defaultdict[TP, int] = defaultdict(int)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:
        """As Faust's, but a message is a batch, and what was fetched under another generation is dropped."""
        generation = self.app.consumer_generation_id
        records, active = await self._wait_next_records(timeout)
        if records is None or self.should_stop:
            return
        if not self.flow_active:
            await self.perform_seek()
            return
        for tp, batch in records.items():
            if not self.flow_active or self.app.consumer_generation_id != generation:
                return
            if not batch or (active is not None and tp not in active and tp not in self._buffered_partitions):
                continue
            self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
            if not self.batched(tp.topic):
                for record in batch:
                    yield tp, self._to_message(tp, record)
            elif await self._contiguous(tp, batch[0].offset):
                self._expected[tp] = batch[-1].offset + 1
                yield tp, self._batch_message(tp, batch, generation)

    def _batch_message(self, tp: TP, batch: list[Any], generation: int) -> ConsumerMessage:
        last = batch[-1]
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            last.offset,
            last.timestamp / 1000,
            last.timestamp_type,
            None,
            None,
            batch,  # type: ignore[arg-type]  # Faust hands it through; RecordBatch knows that it is a list
            None,
            0,
            0,
            tp,
            generation_id=generation,
        )

    async def _contiguous(self, tp: TP, first: int) -> bool:
        expected = self._expected.get(tp)
        if expected is None or first <= expected:
            self._reread.pop(tp, None)
            return True
        if self._reread[tp] < HOLE_REREADS:
            self._reread[tp] += 1
            await self.seek(tp, expected)
            return False
        self._reread.pop(tp, None)
        self.on_hole(tp, expected, first)
        return True

    async def perform_seek(self) -> None:
        """Seek to the committed offsets, or further back where the recovered table is behind them."""
        await super().perform_seek()
        for tp, committed in list(self._committed_offset.items()):
            self._expected.pop(tp, None)
            if committed is None or not self.batched(tp.topic) or tp not in self.assignment():
                continue
            self._expected[tp] = committed
            ready_for = self.recovered_offset(tp)
            if ready_for is not None and ready_for < committed:
                start = max(ready_for, (await self.earliest_offsets(tp)).get(tp) or 0)
                self.on_rewind(tp, committed, start)
                self._expected[tp] = start
                await self.seek(tp, start)

    def ack(self, message: Message) -> bool:
        """As Faust's, but only for a message of the present generation."""
        if message.generation_id is not None and message.generation_id != self.app.consumer_generation_id:
            message.acked = True
            self._unacked_messages.discard(message)
            return False
        return bool(super().ack(message))

    def _new_offset(self, tp: TP) -> int | None:
        acked = self._acked[tp]
        if not acked:
            return None
        unacked = [m.offset for m in self._unacked_messages if m.tp == tp and not m.acked]
        safe = [offset for offset in acked if not unacked or offset < min(unacked)]
        if not safe:
            return None
        acked[:] = [offset for offset in acked if offset not in set(safe)]
        self._acked_index[tp].difference_update(safe)
        return int(max(safe)) + 1

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Not needed: see `_new_offset`. Faust's interval tree would cost as much as the rest."""


class BatchTransport(driver.Transport):
    """Transport of `BatchConsumer`."""

    Consumer = BatchConsumer


class RecordBatch(faust.Schema[Any, Any]):
    """Hands the list of records through undecoded: decoding happens in the agent, where it can't acknowledge by failing."""

    def loads_key(self, app: Any, message: Any, *, loads: Any = None, serializer: Any = None) -> None:
        """A batch has no key."""

    def loads_value(self, app: Any, message: Any, *, loads: Any = None, serializer: Any = None) -> Any:
        """The records themselves."""
        return message.value


def generation_is_current(app: Any, message: Message) -> bool:
    """Whether a message still belongs to the present assignment; if not, its records will be read again by whoever has it."""
    return message.generation_id is None or bool(message.generation_id == app.consumer_generation_id)
