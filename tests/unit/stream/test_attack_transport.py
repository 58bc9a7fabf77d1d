"""Attacks on the transport: what Faust does between an assignment and the end of a recovery, with a broker played here."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

import pytest
from faust.types import TP
from faust.types.tuples import Message
from mode.utils.queues import FlowControlQueue

from pipeline.stream.worker import transport
from pipeline.stream.worker.transport import BatchConsumer, FlowControl

SOURCE = TP("landing.bed", 0)
CHANGELOG = TP("changelog", 0)


class Log(BatchConsumer):
    """A consumer over logs in memory, which fetches ahead as aiokafka does: from its position, whatever is paused."""

    def __init__(self, committed: int | None, ready_for: int | None = None) -> None:
        self.app = SimpleNamespace(
            consumer_generation_id=1,
            monitor=SimpleNamespace(track_tp_end_offset=lambda *_: None),
            in_recovery=False,
            client_only=False,
        )
        self._acked = defaultdict(list)
        self._acked_index = defaultdict(set)
        self._read_offset = defaultdict(lambda: None)
        self._committed_offset = defaultdict(lambda: None)
        self._unacked_messages = WeakSet()
        self._buffered_partitions = set()
        self._expected = {}
        self._reread = {}
        self._no_fetch = asyncio.Event()
        self._no_fetch.set()
        self._active_partitions = {SOURCE, CHANGELOG}
        self.can_resume_flow, self.suspend_flow, self.not_waiting_next_records = (asyncio.Event() for _ in range(3))
        self._stopped = SimpleNamespace(is_set=lambda: False)
        self._crashed = SimpleNamespace(is_set=lambda: False)
        self.log = SimpleNamespace(dev=lambda *_: None, warning=lambda *_: None)
        self.batched = lambda topic: topic == SOURCE.topic
        self.recovered = True
        self.is_recovered = lambda: self.recovered
        self.recovered_offset = lambda _: ready_for
        self.anew: list[tuple[TP, int, int]] = []
        self.on_anew = lambda *seen: self.anew.append(seen)
        self.holes: list[tuple[TP, int, int]] = []
        self.on_hole = lambda *hole: self.holes.append(hole)
        self.on_rewind = lambda *_: None
        self.committed = committed
        self.positions = {SOURCE: committed or 0, CHANGELOG: 0}
        self.ends = {SOURCE: 1000, CHANGELOG: 100}
        self.stops_while_fetching = False
        self._thread = SimpleNamespace(getmany=self.fetched, seek_wait=self.sought)
        self.fetches: list[asyncio.Event] = []
        self.holds_fetches = False
        self.asked: list[frozenset[TP]] = []

    def __del__(self) -> None:
        """Nothing was opened."""

    @property
    def should_stop(self) -> bool:
        return False

    async def wait(self, event: Any) -> None:  # type: ignore[override]
        await event.wait()

    async def fetched(self, active: frozenset[TP], timeout: float) -> dict[TP, list[Any]]:
        """As aiokafka's fetcher, in its thread: waits for records, and then takes what is there by now."""
        if self.holds_fetches:
            self.fetches.append(asyncio.Event())
            await self.fetches[-1].wait()
        self.asked.append(frozenset(active))
        if self.stops_while_fetching:
            self.stop_flow()
        records = {}
        for tp, position in self.positions.items():
            if active and tp not in active:
                continue
            end = min(position + 100, self.ends[tp])
            records[tp] = [SimpleNamespace(offset=n, timestamp=0, timestamp_type=0) for n in range(position, end)]
            self.positions[tp] = end
        return records

    def highwater(self, tp: TP) -> int:
        return self.ends[tp]

    async def _seek(self, partition: TP, offset: int) -> None:
        self.positions[partition] = offset if offset <= self.ends[partition] else 0

    async def sought(self, positions: Mapping[TP, int]) -> None:
        self.positions.update(positions)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        if self.committed:  # as aiokafka's: with no commit, the position stays where fetching took it
            self.positions[SOURCE] = self.committed
        return {SOURCE: self.committed}  # type: ignore[dict-item]

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        return dict.fromkeys(partitions, 0)

    def assignment(self) -> set[TP]:
        return {SOURCE, CHANGELOG}

    async def read(self, polls: int) -> list[int]:
        """Offsets of the source that were handed out."""
        offsets: list[int] = []
        for _ in range(polls):
            async for tp, message in self.getmany(1.0):
                if tp == SOURCE:
                    records: list[Any] = message.value  # type: ignore[assignment]
                    offsets += [record.offset for record in records]
        return offsets


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


@pytest.mark.parametrize("committed", [None, 0, 300])
async def test_what_was_fetched_before_the_seek_is_handed_out_after_it_and_once(committed: int | None) -> None:
    consumer = Log(committed)
    assert await consumer.read(2) == [], "the table is not known to be recovered"
    await consumer.perform_seek()
    offsets = await consumer.read(5)
    begin = committed or 0
    assert offsets == list(range(begin, begin + len(offsets)))
    assert len(offsets) >= 300


async def test_the_last_record_of_a_log_is_not_left_behind_by_the_seek() -> None:
    """Fetched between the seek and the serving it was dropped, and nothing would come after it to show the jump."""
    consumer = Log(committed=None)
    consumer.ends[SOURCE] = 1
    consumer.recovered = False
    await consumer.perform_seek()
    assert await consumer.read(1) == []
    consumer.recovered = consumer._serving = True
    assert await consumer.read(1) == [0]


async def test_nothing_is_judged_before_what_the_recovered_table_lacks() -> None:
    consumer = Log(committed=500, ready_for=200)
    assert await consumer.read(1) == []
    await consumer.perform_seek()
    assert (await consumer.read(3))[0] == 200


async def test_a_seek_before_the_recovery_opens_nothing() -> None:
    consumer = Log(committed=300)
    consumer.recovered = False
    await consumer.perform_seek()
    assert await consumer.read(2) == []
    consumer.recovered = True
    await consumer.perform_seek()
    assert (await consumer.read(2))[0] == 300


async def test_what_a_stopped_flow_fetched_is_not_handed_out_and_comes_again() -> None:
    consumer = Log(committed=300)
    await consumer.perform_seek()
    consumer.stops_while_fetching = True
    assert await consumer.read(1) == []
    consumer.stops_while_fetching = False
    await consumer.perform_seek()
    consumer.resume_flow()
    assert (await consumer.read(1))[0] == 300


async def test_a_fetch_that_outlives_a_rebalance_takes_nothing_from_the_recovery_after_it() -> None:
    """It did: what it brought from the place just sought was dropped, and the recovery waited for those records for ever."""
    consumer = Log(committed=300)
    taken: list[int] = []

    async def drain() -> None:
        message: Message
        async for tp, message in consumer.getmany(1.0):
            if tp == CHANGELOG:
                records: list[Any] = message.value  # type: ignore[assignment]
                taken.extend(record.offset for record in records)

    consumer.holds_fetches = True
    overtaken = asyncio.create_task(drain())
    await until(lambda: len(consumer.fetches) == 1)
    consumer.stop_flow()
    consumer._next_turn()
    consumer._next_turn()
    seek = asyncio.create_task(consumer.seek_wait({CHANGELOG: 40}))
    await asyncio.sleep(0)
    assert not seek.done(), "not while the fetch is under way"
    consumer.fetches[0].set()
    await overtaken
    await seek
    consumer.holds_fetches = False
    consumer.resume_flow()
    await drain()
    assert taken == list(range(40, 100))


async def test_a_fetch_that_never_ends_ends_the_process_and_not_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "FETCH_ENDS_S", 0.01)
    consumer = Log(committed=300)
    consumer.holds_fetches = True
    hanging = asyncio.ensure_future(consumer.read(1))
    await until(lambda: len(consumer.fetches) == 1)
    consumer.stop_flow()
    with pytest.raises(TimeoutError):
        await consumer.seek_wait({CHANGELOG: 0})
    hanging.cancel()


async def test_a_recovery_that_a_rebalance_overtook_lets_nothing_flow() -> None:
    consumer = Log(committed=300)
    consumer.stop_flow()
    await consumer.seek_wait({CHANGELOG: 0})
    consumer._next_turn()
    consumer.resume_flow()
    assert not consumer.flow_active
    await consumer.perform_seek()
    consumer.resume_flow()
    assert consumer.flow_active


async def test_a_seek_that_a_rebalance_overtook_opens_nothing() -> None:
    consumer = Log(committed=300)
    consumer.stop_flow()
    consumer._no_fetch.clear()
    seek = asyncio.create_task(consumer.perform_seek())
    await asyncio.sleep(0)
    consumer._next_turn()
    consumer._no_fetch.set()
    await seek
    consumer.resume_flow()
    assert not consumer.flow_active
    assert not consumer._serving


async def test_a_fetch_keeps_the_partitions_that_it_began_with() -> None:
    """A set that becomes empty under aiokafka means all of them: a standby's records were fetched and dropped."""
    consumer = Log(committed=300)
    consumer._active_partitions = {CHANGELOG}
    consumer.holds_fetches = True
    reading = asyncio.ensure_future(consumer.read(1))
    await until(lambda: len(consumer.fetches) == 1)
    consumer._active_partitions.clear()
    consumer.fetches[0].set()
    await reading
    assert consumer.asked == [frozenset({CHANGELOG})]


async def test_changelog_records_of_an_earlier_generation_are_not_handed_on() -> None:
    consumer = Log(committed=300)
    other = TP("changelog", 1)
    consumer._active_partitions.add(other)
    consumer.positions[other], consumer.ends[other] = 0, 100
    taken: list[tuple[TP, int]] = []
    message: Message
    async for tp, message in consumer.getmany(1.0):
        taken.append((tp, message.offset))
        consumer._next_turn()
    assert taken == [(CHANGELOG, 99)], "of one partition, as one message; the other's come again after the next seek"


async def test_a_log_that_was_made_again_under_us_is_noticed() -> None:
    consumer = Log(committed=300)
    await consumer.perform_seek()
    await consumer.read(2)
    consumer.ends[SOURCE] = 10
    consumer.positions[SOURCE] = 0  # out of range: aiokafka goes to the beginning and says nothing
    assert await consumer.read(1) == [], "perhaps fetched before a seek: read again once"
    assert consumer.anew == []
    await consumer.read(1)
    assert consumer.anew == [(SOURCE, 500, 0)]


async def test_what_comes_twice_because_it_was_fetched_before_a_seek_is_no_new_log() -> None:
    consumer = Log(committed=300)
    await consumer.perform_seek()
    first = await consumer.read(1)
    consumer.positions[SOURCE] = 300
    assert first + await consumer.read(2) == list(range(300, 500))
    assert consumer.anew == consumer.holes == []


async def test_a_start_on_a_log_that_is_shorter_than_the_commit_does_not_fail_again_and_again() -> None:
    consumer = Log(committed=300)
    consumer.ends[SOURCE] = 10
    await consumer.perform_seek()
    consumer.positions[SOURCE] = 0
    assert await consumer.read(1) == list(range(10))
    assert consumer.anew == []


async def test_resuming_a_flow_that_flows_clears_nothing() -> None:
    """Faust resumes at the beginning of a recovery, for standby partitions, and at its end; each cleared every queue."""
    control = FlowControl()
    queue: FlowControlQueue[int] = FlowControlQueue(8, flow_control=control, clear_on_resume=True)
    queue.put_nowait(1)
    control.resume()
    assert queue.empty(), "what was there before the rebalance"
    queue.put_nowait(2)
    control.resume()
    assert queue.get_nowait() == 2, "a standby's record that no one would read again"
    control.suspend()
    queue.put_nowait(3)
    control.resume()
    assert queue.empty()
