"""Faust's Kafka transport, made exact and fast.

Faust costs tens of microseconds per *message*, so here one message carries all records that a poll returned for one
partition, and its offset is the last record's. Four of Faust's ways are replaced, each because it can lose an event:

* Commits (faust issue 606): `_new_offset` may commit past an event in flight. Here the commit is the last acknowledged
  offset + 1, and never passes a message that is still unacknowledged.
* Acknowledgements of an earlier generation: a batch that was buffered across a rebalance may be acknowledged after its
  partition was read again from its committed offset. Here such an acknowledgement counts for nothing.
* Records fetched before a seek: they may be delivered after it, and everything between would be skipped as read. Here
  a jump of the offsets is read again once, and believed only if the log really has the hole.
* Recovery (faust issue 596): the flow is resumed several times, and each time all queues are cleared, of what came since
  the seek, and of changelog records of standby partitions, whose loss nobody would ever notice. Here a flow that is
  resumed already is left alone.
* Partitions are opened before they are sought: what was fetched ahead would be judged before what the recovered table
  still lacks. Here nothing of a source topic is handed out between an assignment and the seek that follows its recovery.
* A fetch outlives the rebalance that stops it: begun before, it comes back with records that the next recovery sought,
  which are dropped and never read again, and the recovery waits for them for ever. Here no seek begins while a fetch of a
  stopped flow is under way, and a recovery that a rebalance has overtaken can't let the flow go on.
* A fetch takes its partitions from a set that changes under it, and one that has become empty means all of them. Here a
  fetch keeps the partitions that it began with.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final

import faust
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage, Message
from mode.services import WaitResults
from mode.utils.queues import FlowControlEvent

from pipeline.stream.worker.eager import Done, Waits, begun
from pipeline.stream.worker.versions import assert_versions

assert_versions()

RecoveredOffset = Callable[[TP], int | None]
"""Next offset of a topic partition that the recovered table is ready for: None if it says nothing, -1 if it is empty."""


class FlowControl(FlowControlEvent):
    """Clears the queues when the flow is resumed, and not again while it flows."""

    def resume(self) -> None:
        """Let messages through."""
        if not self.is_active():
            super().resume()


FETCH_ENDS_S: Final = 30.0
"""A fetch of a stopped flow ends by itself after a second; where it does not, its thread hangs, and the process ends."""


GATHER_S: Final = 0.005
FEW_RECORDS: Final = 100
"""After a poll that brought fewer than FEW_RECORDS the next comes no sooner than GATHER_S later. Each poll costs as much for one
record as for hundreds, and a fetch names every partition: asked again at once, a worker would be busy with asking."""


def _nothing(*_: object) -> None:
    """For a hook that is not set."""


def _parts(batch: list[Any], most: int | None) -> Iterator[list[Any]]:
    """The records in their order, so many at a time."""
    if most is None:
        yield batch
    else:
        yield from (batch[start : start + most] for start in range(0, len(batch), most))


class BatchConsumer(driver.Consumer):
    """Yields one message per partition and poll, of source topics and of changelogs alike."""

    recovered_offset: RecoveredOffset
    batched: Callable[[str], bool]
    records_per_message: int | None = None
    """Most records that a message of a source topic carries; None: all that a poll returned for its partition."""
    on_hole: Callable[[TP, int, int], None]
    on_rewind: Callable[[TP, int, int], None]
    on_anew: Callable[[TP, int, int], None] = staticmethod(_nothing)
    """Told of a log that began anew under us: of what it holds now, nothing may be judged by the epoch that we know."""
    on_serving: Callable[[], None] = staticmethod(_nothing)
    is_recovered: Callable[[], bool] = staticmethod(lambda: True)
    _serving = False
    _delivered: frozenset[TP] = frozenset()
    _dropped: frozenset[TP] = frozenset()
    _turn = 0
    """Counts what a rebalance consists of: a revocation and an assignment are a turn each."""
    _fetched_in = 0
    _sought_in = -1
    _gathers_until = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._expected: dict[TP, int] = {}
        self._reread: dict[TP, int] = {}
        self._no_fetch = asyncio.Event()
        self._no_fetch.set()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """As Faust's; from here on nothing is handed out until the seek after the next recovery."""
        self._next_turn()
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """As Faust's; each partition begins anew, at its committed offset."""
        self._next_turn()
        self._expected.clear()
        self._dropped = frozenset()
        await super().on_partitions_assigned(assigned, generation_id)

    def _next_turn(self) -> None:
        self._serving = False
        self._turn += 1

    def resume_flow(self) -> None:
        """As Faust's, but only after a seek of the present assignment: an overtaken recovery opens nothing."""
        if self._sought_in == self._turn:
            super().resume_flow()

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:
        """As Faust's, but a message is a batch, and what was fetched before a rebalance is not handed out after it."""
        if self._serving and self._dropped:
            await self._read_dropped()
        records, active = await self._wait_next_records(timeout)
        turn, generation = self._fetched_in, self.app.consumer_generation_id
        if records is None or self.should_stop:
            return
        for tp, batch in records.items():
            if not self._is_still(turn):
                return  # the seek of the next recovery is still to come, and waits for this fetch
            if not batch or (active is not None and tp not in active and tp not in self._buffered_partitions):
                continue
            self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
            if not self.batched(tp.topic):
                yield tp, self._batch_message(tp, batch, generation)
            elif not self._serving:
                self._expected.setdefault(tp, batch[0].offset)
                self._dropped |= {tp}
            elif await self._contiguous(tp, batch[0].offset):
                for message in self._messages(tp, batch, turn, generation):
                    yield tp, message

    def _messages(self, tp: TP, batch: list[Any], turn: int, generation: int) -> Iterator[ConsumerMessage]:
        """The batch as one message, or as the plain path wants it; none after a rebalance that came between two."""
        for some in _parts(batch, self.records_per_message):
            if not self._is_still(turn):
                return
            self._delivered |= {tp}
            self._expected[tp] = some[-1].offset + 1
            yield self._batch_message(tp, some, generation)

    async def _read_dropped(self) -> None:
        """What was fetched in the moment between the seek and the serving comes again, be it the last record of its log."""
        dropped, self._dropped = self._dropped, frozenset()
        for tp in dropped & frozenset(self.assignment()):
            await self.seek(tp, self._expected[tp])

    async def _wait_next_records(self, timeout: float) -> Any:
        """As Faust's, but soon after few records others may gather first; notes in which turn the fetch begins, and that one is
        under way."""
        if (wait_s := self._gathers_until - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(wait_s)
        while not self.flow_active and not self.should_stop:
            await self.wait(self.can_resume_flow)  # type: ignore[arg-type]  # an asyncio.Event is waited for as well
        self._fetched_in = self._turn
        self._no_fetch.clear()
        try:
            found = await super()._wait_next_records(timeout)
        finally:
            self._no_fetch.set()
        count = sum(map(len, (found[0] or {}).values()))
        self._gathers_until = asyncio.get_running_loop().time() + GATHER_S if 0 < count < FEW_RECORDS else 0.0
        return found

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
        return await super()._getmany(active_partitions and frozenset(active_partitions), timeout)  # type: ignore[arg-type]

    def _is_still(self, turn: int) -> bool:
        """Whether records flow, in the same assignment as when they were fetched."""
        return self.flow_active and self._turn == turn

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        """As Faust's, after the last fetch of a stopped flow."""
        turn = self._turn
        await self._last_fetch()
        await super().seek_wait(partitions)
        self._sought_in = turn

    async def wait_first(self, *coros: Any, timeout: Any = None) -> Any:
        """As mode's, but the first is begun at once: where it does not wait, as where a message finds room in its queue, four
        tasks and as many turns of the loop are saved."""
        first, *others = coros
        if not inspect.iscoroutine(first) or self._stopped.is_set() or self._crashed.is_set():
            return await super().wait_first(*coros, timeout=timeout)
        match begun(first):
            case Done(result):
                for other in filter(inspect.iscoroutine, others):
                    other.close()
                return WaitResults([first], [result], False)
            case Waits(rest):
                return await super().wait_first(rest, *others, timeout=timeout)

    async def _last_fetch(self) -> None:
        if not self.flow_active:
            await asyncio.wait_for(self._no_fetch.wait(), FETCH_ENDS_S)

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

    def next_offset(self, tp: TP) -> int | None:
        """Offset after the last record of a source partition that was handed out; None before the first seek."""
        return self._expected.get(tp)

    async def _contiguous(self, tp: TP, first: int) -> bool:
        expected = self._expected.get(tp)
        fell = expected is not None and first < expected and tp in self._delivered
        if expected is None or (first <= expected and not fell):
            self._reread.pop(tp, None)
            return True
        if self._reread.get(tp) != first:
            self._reread[tp] = first
            await self.seek(tp, expected)
            return False
        self._reread.pop(tp, None)
        told = self.on_anew if fell else self.on_hole
        told(tp, expected, first)
        return True

    async def perform_seek(self) -> None:
        """Seek to the committed offsets, or further back where the recovered table is behind them.

        Where nothing is committed, to the beginning: aiokafka would leave the position where an earlier fetch put it.
        """
        turn = self._turn
        await self._last_fetch()
        await super().perform_seek()
        sources = [tp for tp in self.assignment() if self.batched(tp.topic)]
        wanted = {tp: self._wanted(tp) for tp in sources}
        unclear = [tp for tp in sources if wanted[tp] != self._committed_offset.get(tp)]
        earliest = await self.earliest_offsets(*unclear) if unclear else {}
        for tp in sources:
            committed = self._committed_offset.get(tp)
            start = max(wanted[tp], earliest.get(tp) or 0)
            self._expected[tp] = start
            if start != committed:
                if committed is not None:
                    self.on_rewind(tp, committed, start)
                await self.seek(tp, start)
        self._sought_in = turn
        if turn == self._turn and self.is_recovered():
            self._serving = True
            self.on_serving()

    def _wanted(self, tp: TP) -> int:
        """Next offset that is not known to be both committed and in the table."""
        committed = self._committed_offset.get(tp)
        ready_for = self.recovered_offset(tp)
        if committed is None:
            return 0
        return committed if ready_for is None else max(0, min(ready_for, committed))

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
