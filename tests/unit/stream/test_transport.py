"""What the exact transport promises, with a consumer made without a broker."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

import pytest
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from pipeline.stream.worker.transport import BatchConsumer, generation_is_current

TP0 = TP("landing.bed", 0)
OTHER = TP("changelog", 0)


class Consumer(BatchConsumer):
    """Without Faust's start: only what acknowledging, committing and seeking need."""

    def __init__(self) -> None:
        self.app = SimpleNamespace(
            consumer_generation_id=1, topics=SimpleNamespace(acks_enabled_for=lambda _: True), in_recovery=False
        )
        self._acked = defaultdict(list)
        self._acked_index = defaultdict(set)
        self._read_offset = defaultdict(lambda: None)
        self._committed_offset = defaultdict(lambda: None)
        self._unacked_messages = WeakSet()
        self._waiting_for_ack = None
        self._n_acked = 0
        self._no_fetch = asyncio.Event()
        self._no_fetch.set()
        self._expected = {}
        self._reread = defaultdict(int)
        self.log = SimpleNamespace(dev=lambda *_: None)
        self.batched = lambda topic: topic == TP0.topic
        self.ready_for: dict[TP, int | None] = {}
        self.recovered_offset = lambda tp: self.ready_for.get(tp)
        self.earliest: dict[TP, int] = {}
        self.at_broker: dict[TP, int | None] = {}
        self.seeks: list[tuple[TP, int]] = []
        self.holes: list[tuple[TP, int, int]] = []
        self.rewinds: list[tuple[TP, int, int]] = []
        self.on_hole = lambda *hole: self.holes.append(hole)
        self.on_rewind = lambda *rewind: self.rewinds.append(rewind)

    def __del__(self) -> None:
        """Nothing was opened."""

    async def _seek(self, partition: TP, offset: int) -> None:
        self.seeks.append((partition, offset))

    async def seek_to_committed(self) -> Mapping[TP, int]:
        return dict(self.at_broker)  # type: ignore[arg-type]

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        return {tp: self.earliest.get(tp, 0) for tp in partitions}

    def assignment(self) -> set[TP]:
        return {TP0, OTHER}

    def deliver(self, first: int, last: int, generation: int = 1) -> ConsumerMessage:
        """Hand out a batch of the records from `first` to `last`."""
        records: list[Any] = [SimpleNamespace(offset=n, timestamp=0, timestamp_type=0) for n in range(first, last + 1)]
        message = self._batch_message(TP0, records, generation)
        self._unacked_messages.add(message)
        return message


def test_a_commit_never_passes_a_batch_under_way() -> None:
    consumer = Consumer()
    first, second, third = consumer.deliver(0, 9), consumer.deliver(10, 19), consumer.deliver(20, 29)
    consumer.ack(second)
    assert consumer._new_offset(TP0) is None
    consumer.ack(first)
    assert consumer._new_offset(TP0) == 20
    assert consumer._new_offset(TP0) is None
    consumer.ack(third)
    assert consumer._new_offset(TP0) == 30


def test_acknowledged_batches_of_another_partition_do_not_count() -> None:
    consumer = Consumer()
    held = consumer.deliver(0, 9)
    consumer._acked[OTHER].append(99)
    assert consumer._new_offset(TP0) is None
    assert held.offset == 9
    assert consumer._new_offset(OTHER) == 100


def test_an_acknowledgement_of_an_earlier_generation_counts_for_nothing() -> None:
    consumer = Consumer()
    old = consumer.deliver(0, 99)
    consumer.app.consumer_generation_id = 2
    assert not generation_is_current(consumer.app, old)
    assert consumer.ack(old) is False
    assert consumer._new_offset(TP0) is None
    assert old not in consumer._unacked_messages
    present = consumer.deliver(0, 9, generation=2)
    consumer.ack(present)
    assert consumer._new_offset(TP0) == 10


def test_a_batch_that_is_acknowledged_twice_counts_once() -> None:
    consumer = Consumer()
    message = consumer.deliver(0, 9)
    assert consumer.ack(message) is True
    assert consumer.ack(message) is False
    assert consumer._new_offset(TP0) == 10
    assert consumer._new_offset(TP0) is None


async def test_offsets_without_a_gap_are_taken_as_they_come() -> None:
    consumer = Consumer()
    consumer._expected[TP0] = 10
    assert await consumer._contiguous(TP0, 10)
    assert await consumer._contiguous(TP0, 3), "read again after a seek back: repeats are harmless"
    assert consumer.seeks == consumer.holes == []


async def test_a_jump_is_read_again_once_then_believed_and_reported() -> None:
    consumer = Consumer()
    consumer._expected[TP0] = 10
    assert not await consumer._contiguous(TP0, 15)
    assert consumer.seeks == [(TP0, 10)]
    assert consumer.holes == []
    assert await consumer._contiguous(TP0, 15)
    assert consumer.holes == [(TP0, 10, 15)]


async def test_a_jump_whose_rereading_finds_the_records_was_no_hole() -> None:
    consumer = Consumer()
    consumer._expected[TP0] = 10
    assert not await consumer._contiguous(TP0, 15)
    assert await consumer._contiguous(TP0, 10)
    consumer._expected[TP0] = 15
    assert not await consumer._contiguous(TP0, 20), "the next jump is read again too"
    assert consumer.holes == []


async def test_a_jump_after_a_new_assignment_is_read_again_although_one_before_it_was() -> None:
    """Else what was fetched before the rebalance is believed at once, and the records between are never read."""
    consumer = Consumer()
    consumer._expected[TP0] = 10
    assert not await consumer._contiguous(TP0, 15)
    consumer.at_broker = {TP0: 40}
    await consumer.perform_seek()
    consumer.seeks.clear()
    assert not await consumer._contiguous(TP0, 60)
    assert consumer.seeks == [(TP0, 40)]


async def test_what_was_fetched_for_a_later_place_is_no_hole_although_it_comes_after_the_rereading() -> None:
    """The answer to the seek may be dropped (paused, revoked) and a later fetch come instead: only the same jump is believed."""
    consumer = Consumer()
    consumer._expected[TP0] = 10
    assert not await consumer._contiguous(TP0, 15)
    assert not await consumer._contiguous(TP0, 30), "another jump than the one that was read again"
    assert consumer.holes == []


@pytest.mark.parametrize(
    ("committed", "ready_for", "earliest", "start"),
    [
        (100, 40, 0, 40),
        (100, -1, 0, 0),
        (100, -1, 25, 25),
        (100, 10, 25, 25),
        (100, 100, 0, None),
        (100, 250, 0, None),
        (100, None, 0, None),
    ],
)
async def test_seeking_goes_back_to_where_the_recovered_table_is(
    committed: int, ready_for: int | None, earliest: int, start: int | None
) -> None:
    consumer = Consumer()
    consumer.at_broker = {TP0: committed}
    consumer.ready_for = {TP0: ready_for}
    consumer.earliest = {TP0: earliest}
    consumer._expected[TP0] = 7
    await consumer.perform_seek()
    if start is None:
        assert consumer.seeks == consumer.rewinds == []
        assert consumer._expected[TP0] == committed
    else:
        assert consumer.seeks == [(TP0, start)]
        assert consumer.rewinds == [(TP0, committed, start)]
        assert consumer._expected[TP0] == start


async def test_partitions_of_other_topics_are_left_alone_and_those_without_a_commit_begin_where_the_log_does() -> None:
    consumer = Consumer()
    consumer.at_broker = {TP0: None, OTHER: 50}
    consumer.ready_for = {TP0: 5, OTHER: 5}
    await consumer.perform_seek()
    assert consumer.seeks == [(TP0, 0)]
    assert consumer.rewinds == []
    assert consumer._expected == {TP0: 0}


async def test_what_is_read_again_after_a_rewind_never_takes_the_commit_back() -> None:
    consumer = Consumer()
    consumer.at_broker = {TP0: 100}
    consumer.ready_for = {TP0: 40}
    await consumer.perform_seek()
    consumer.ack(consumer.deliver(40, 59))
    offset = consumer._new_offset(TP0)
    assert offset is None or not consumer._should_commit(TP0, offset)
    consumer.ack(consumer.deliver(60, 119))
    assert consumer._new_offset(TP0) == 120


def records(first: int, last: int) -> list[Any]:
    return [SimpleNamespace(offset=n, timestamp=0, timestamp_type=0) for n in range(first, last + 1)]


def test_the_plain_path_hands_out_one_record_a_message_in_order_and_the_batches_all_at_once() -> None:
    consumer = Consumer()
    consumer.flow_active = True
    (whole,) = consumer._messages(TP0, records(0, 4), consumer._turn, 1)
    assert (whole.offset, [record.offset for record in whole.value]) == (4, [0, 1, 2, 3, 4])
    consumer.records_per_message = 1
    plain = list(consumer._messages(TP0, records(5, 9), consumer._turn, 1))
    assert [(message.offset, len(message.value)) for message in plain] == [(n, 1) for n in range(5, 10)]
    assert consumer._expected[TP0] == 10


def test_after_a_rebalance_the_plain_path_hands_out_no_more_of_what_was_fetched_before() -> None:
    consumer = Consumer()
    consumer.flow_active, consumer.records_per_message = True, 1
    messages = consumer._messages(TP0, records(0, 4), consumer._turn, 1)
    assert next(messages).offset == 0
    consumer._next_turn()
    assert list(messages) == []
    assert consumer._expected[TP0] == 1
