"""Reading topics outside of any group: once from start to end, or following. Nothing here commits an offset.

Topics have their names on the map here; the prefix of the settings is put before them and taken off what is read.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final, cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from pipeline.kafka.client import LOG, METADATA_TIMEOUT_S, KafkaUnavailable, Message
from pipeline.settings.sections.base import ClientConfig
from pipeline.settings.sections.kafka import KafkaSettings
from pipeline.topology import READER_GROUP, without_prefix
from pipeline.topology import topic as at_broker

BATCH_RECORDS: Final = 1_000
POLL_S: Final = 0.2
STALL_TIMEOUT_S: Final = 30.0
"""A read that makes no progress for so long has failed."""

FETCH_QUEUE_KIB: Final = 16 * 1024
"""Bound of what a consumer fetches ahead."""

FOLLOW_S: Final = 0.1
FOLLOW_FETCH: Final[ClientConfig] = {"fetch.min.bytes": 64 * 1024, "fetch.wait.max.ms": 100}
"""A follower is told ten times a second what is new. By its own default the client asks again for every record that comes, which
costs the broker more than to produce it did."""

Offsets = dict[int, int]
"""Offset by partition."""

LEADER_POLL_S: Final = 0.1
LEADER_WAIT_S: Final = 60.0
"""How long partitions may be without a leader; a busy broker needs a while for the hundreds that `topics apply` makes at once."""

_LEADERLESS: Final = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_PARTITION,
)

_PASSING: Final = (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError._RESOLVE)
"""Errors that the consumer gets over by itself."""


class LogTruncated(KafkaUnavailable):
    """The log begins after the position that was asked for: records that were there are gone. Who asks anew where it begins may
    read what is left."""

    def __init__(self, topic: str, partition: int, wanted: int, begins: int) -> None:
        super().__init__(f"{topic} partition {partition} begins at {begins}, after {wanted}: older records expired; run it again")
        self.topic: Final = topic
        self.partition: Final = partition
        self.wanted: Final = wanted
        self.begins: Final = begins


def end_offsets(settings: KafkaSettings, topic: str) -> Offsets:
    """Offset after the last record, per partition, at this moment. KafkaUnavailable if there is no such topic."""
    with _consumer(settings) as consumer:
        return {partition: high for partition, (_, high) in _bounds(consumer, at_broker(topic, settings.topic_prefix)).items()}


def begin_offsets(settings: KafkaSettings, topic: str) -> Offsets:
    """Offset of the first record that is still there, per partition. KafkaUnavailable if there is no such topic."""
    with _consumer(settings) as consumer:
        return {partition: low for partition, (low, _) in _bounds(consumer, at_broker(topic, settings.topic_prefix)).items()}


def offsets_since(settings: KafkaSettings, topic: str, since_ms: int) -> Offsets:
    """Offset of the first record that is not older than a time, per partition; the end where there is none. KafkaUnavailable."""
    name = at_broker(topic, settings.topic_prefix)
    with _consumer(settings) as consumer:
        return {at.partition: at.offset for at in _starts(consumer, name, _bounds(consumer, name), since_ms)}


def read_topic(
    settings: KafkaSettings,
    topic: str,
    *,
    start: Mapping[int, int] | None = None,
    end: Mapping[int, int] | None = None,
    only: Collection[int] | None = None,
) -> Iterator[Message]:
    """Each record from `start` to before `end`, in order within each partition; partitions are mixed.

    Of all partitions, or `only` of these. A partition that `start` doesn't name begins where the log does; one that `end`
    doesn't name ends where the log did at the time of the call. Empty partitions, compacted and transactional gaps are passed
    over. LogTruncated if the log begins after `start`, told at the call; KafkaUnavailable if there is no such topic or nothing
    more comes.
    """
    with _consumer(settings) as consumer:
        spans = _spans(_bounds(consumer, at_broker(topic, settings.topic_prefix), only), topic, start or {}, end or {})
    return _records(settings, topic, spans)


def _spans(
    bounds: Mapping[int, tuple[int, int]], topic: str, start: Mapping[int, int], end: Mapping[int, int]
) -> dict[int, tuple[int, int]]:
    """First offset and the one after the last to read, for each partition that has any."""
    spans = {}
    for partition, (low, high) in bounds.items():
        first, stop = start.get(partition, low), min(end.get(partition, high), high)
        if first < low:
            raise LogTruncated(topic, partition, first, low)
        if first < stop and low < high:
            spans[partition] = first, stop
    return spans


def _records(settings: KafkaSettings, topic: str, spans: dict[int, tuple[int, int]]) -> Iterator[Message]:
    left = {partition: stop for partition, (_, stop) in spans.items()}
    if not left:
        return
    with _consumer(settings, {"enable.partition.eof": True}) as consumer:
        name = at_broker(topic, settings.topic_prefix)
        consumer.assign([TopicPartition(name, partition, first) for partition, (first, _) in spans.items()])
        progress = time.monotonic()
        while left:
            for message in consumer.consume(BATCH_RECORDS, POLL_S):
                partition, offset = message.partition() or 0, message.offset() or 0
                if message.error() is None and offset < left.get(partition, 0):
                    yield _message(message, settings.topic_prefix)
                if _reached(message, left):
                    del left[partition]
                progress = time.monotonic()
            if time.monotonic() - progress > STALL_TIMEOUT_S:
                raise KafkaUnavailable(f"no more of {topic} came within {STALL_TIMEOUT_S:.0f} s")


def _reached(message: KafkaMessage, left: Mapping[int, int]) -> bool:
    """Whether the partition's end is reached: by a record at or after the last wanted offset, or by the end of the log."""
    error, stop = message.error(), left.get(message.partition() or 0)
    if error is None:
        return stop is not None and (message.offset() or 0) >= stop - 1
    if error.code() == KafkaError._PARTITION_EOF:
        return stop is not None
    _raise_unless_passing(error)
    return False


class Follower:
    """A thread that hands each record of some topics to `callback`, from a time or the beginning on, without a group.

    In order within a partition. `caught_up` is set once everything that was there at the start has been handed over. An
    exception of the callback, or an error that doesn't pass, ends the thread: `failure` holds it and `ended` is set.
    `first` is done before, on the same thread; it is given a way to ask whether it is to end.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topics: Sequence[str],
        callback: Callable[[Message], None],
        since_ms: int | None = None,
        first: Callable[[Callable[[], bool]], None] = lambda is_ending: None,
    ) -> None:
        self.caught_up: Final = threading.Event()
        self.ended: Final = threading.Event()
        self.failure: BaseException | None = None
        self._settings: Final = settings
        self._topics: Final = tuple(topics)
        self._callback: Final = callback
        self._since_ms: Final = since_ms
        self._first: Final = first
        self._stop: Final = threading.Event()
        self._thread: Final = threading.Thread(target=self._run, name="surgeline-follower", daemon=True)

    def start(self) -> "Follower":
        """Begin; returns at once."""
        self._thread.start()
        return self

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the thread and wait for it. Safe to repeat."""
        self._stop.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._first(self._stop.is_set)
            with _consumer(self._settings, FOLLOW_FETCH | {"enable.partition.eof": True}) as consumer:
                self._follow(consumer, self._assign(consumer))
        except BaseException as error:  # noqa: BLE001 - whatever it is, the owner of the thread must learn of it
            self.failure = error
        finally:
            self.ended.set()

    def _assign(self, consumer: Consumer) -> dict[tuple[str, int], int]:
        """Assign everything; returns the offset to reach before it is caught up, where there is something to reach."""
        goals: dict[tuple[str, int], int] = {}
        positions: list[TopicPartition] = []
        for topic in self._topics:
            name = at_broker(topic, self._settings.topic_prefix)
            bounds = _bounds(consumer, name)
            for position in _starts(consumer, name, bounds, self._since_ms):
                positions.append(position)
                low, high = bounds[position.partition]
                first = low if position.offset == OFFSET_BEGINNING else position.offset
                if first < high:
                    goals[name, position.partition] = high
        consumer.assign(positions)
        return goals

    def _follow(self, consumer: Consumer, goals: dict[tuple[str, int], int]) -> None:
        while not self._stop.is_set():
            if not goals:
                self.caught_up.set()
            for message in consumer.consume(BATCH_RECORDS, FOLLOW_S):
                if self._stop.is_set():
                    return
                where = message.topic() or "", message.partition() or 0
                error = message.error()
                if error is None:
                    self._callback(_message(message, self._settings.topic_prefix))
                    if (message.offset() or 0) >= goals.get(where, 0) - 1:
                        goals.pop(where, None)
                elif error.code() == KafkaError._PARTITION_EOF:
                    goals.pop(where, None)
                else:
                    _raise_unless_passing(error)


def _starts(
    consumer: Consumer, name: str, bounds: Mapping[int, tuple[int, int]], since_ms: int | None
) -> Iterator[TopicPartition]:
    """Where to begin in each partition. A partition with nothing since the time begins at the end seen before asking."""
    if since_ms is None:
        for partition in bounds:
            yield TopicPartition(name, partition, OFFSET_BEGINNING)
        return
    asked = [TopicPartition(name, partition, since_ms) for partition in bounds]
    with _unavailable():
        found = consumer.offsets_for_times(asked, timeout=METADATA_TIMEOUT_S)
    for position in found:
        if position.error is not None:
            raise KafkaUnavailable(position.error.str())
        offset = position.offset if position.offset >= 0 else bounds[position.partition][1]
        yield TopicPartition(name, position.partition, offset)


@contextlib.contextmanager
def _consumer(settings: KafkaSettings, more: ClientConfig | None = None) -> Iterator[Consumer]:
    config: ClientConfig = settings.client_config() | {
        "group.id": at_broker(READER_GROUP, settings.topic_prefix),  # librdkafka wants one; assigned consumers never join it
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "queued.max.messages.kbytes": FETCH_QUEUE_KIB,
    }
    consumer = Consumer(config | (more or {}), logger=LOG)
    try:
        yield consumer
    finally:
        consumer.close()


def _bounds(consumer: Consumer, name: str, only: Collection[int] | None = None) -> dict[int, tuple[int, int]]:
    """First offset and the one after the last, per partition, or `only` of these."""
    with _unavailable():
        metadata = consumer.list_topics(name, timeout=METADATA_TIMEOUT_S).topics[name]
    if metadata.error is not None:
        raise KafkaUnavailable(f"{name}: {metadata.error.str()}")
    deadline = time.monotonic() + LEADER_WAIT_S
    return {
        partition: _bounds_of(consumer, TopicPartition(name, partition), deadline)
        for partition in sorted(metadata.partitions)
        if only is None or partition in only
    }


def _bounds_of(consumer: Consumer, position: TopicPartition, deadline: float) -> tuple[int, int]:
    """Asked again until `deadline` while the partition has no leader, as just after its creation or a broker's restart."""
    while True:
        with _unavailable():
            try:
                found = consumer.get_watermark_offsets(position, timeout=METADATA_TIMEOUT_S)
            except KafkaException as error:
                if error.args[0].code() not in _LEADERLESS or time.monotonic() > deadline:
                    raise
                time.sleep(LEADER_POLL_S)
                continue
        if found is None:
            raise KafkaUnavailable(f"{position.topic}: no answer for partition {position.partition}")
        return found


@contextlib.contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except KafkaException as error:
        raise KafkaUnavailable(error.args[0].str()) from None


def _raise_unless_passing(error: KafkaError) -> None:
    if error.fatal() or not (error.retriable() or error.code() in _PASSING):
        raise KafkaUnavailable(error.str())


def _message(message: KafkaMessage, prefix: str) -> Message:
    headers = cast(list[tuple[str, bytes | None]], message.headers() or [])
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    kept = tuple((name, value or b"") for name, value in headers)
    return Message(without_prefix(topic, prefix), partition, offset, message.timestamp()[1], message.key(), message.value(), kept)
