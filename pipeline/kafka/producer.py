"""The one way to Kafka for asyncio callers: an idempotent producer whose `publish` returns when all is acknowledged."""

import asyncio
import contextlib
import enum
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from pipeline import topology
from pipeline.kafka.client import LOG
from pipeline.kafka.window import Window
from pipeline.settings.sections.base import ClientConfig
from pipeline.settings.sections.kafka import KafkaSettings

MAX_RECORDS: Final = 50_000
MAX_BYTES: Final = 64 * 1024 * 1024
RECORD_OVERHEAD_BYTES: Final = 100
"""What a record costs beside its key and value."""

LINGER_MS: Final = 2
POLL_S: Final = 0.05
MAX_REQUEST_BYTES: Final = 4 * 1024 * 1024
"""Greatest record that the client hands on; each topic's own limit is lower."""


class PublishError(enum.StrEnum):
    """Why records weren't published; bounded, because it is a metric label."""

    TIMED_OUT = "TIMED_OUT"
    QUEUE_FULL = "QUEUE_FULL"
    TOO_LARGE = "TOO_LARGE"
    UNKNOWN_TOPIC = "UNKNOWN_TOPIC"
    FORBIDDEN = "FORBIDDEN"
    BROKER = "BROKER"
    FATAL = "FATAL"
    CLOSED = "CLOSED"


class PublishFailed(Exception):
    """At least one record of the batch isn't acknowledged; others may be. To publish the whole batch again is safe."""

    def __init__(self, reason: PublishError) -> None:
        super().__init__(reason.value)
        self.reason: Final = reason


@dataclass(frozen=True, slots=True)
class OutRecord:
    """A record to publish. `topic` is its name on the map, without the prefix; without a partition the key decides."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    headers: tuple[tuple[str, bytes], ...] = ()

    def __repr__(self) -> str:
        return f"OutRecord({self.topic}, {self.partition}, <redacted>)"

    @property
    def cost_bytes(self) -> int:
        """What it takes of the publisher's bound."""
        return RECORD_OVERHEAD_BYTES + len(self.key or b"") + len(self.value or b"")


@dataclass(frozen=True, slots=True)
class Position:
    """Where an acknowledged record lies; `topic` has no prefix, the time is the broker's where the topic is set so."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


class _Batch:
    """Records published together. `delivered` runs on the poll thread, everything else on the loop's: hence the lock."""

    __slots__ = ("_lock", "cost_bytes", "done", "future", "names", "positions", "reason", "records", "remaining")

    def __init__(
        self,
        records: Sequence[OutRecord],
        future: "asyncio.Future[Sequence[Position]]",
        done: "deque[_Batch]",
        names: Mapping[str, str],
    ) -> None:
        """`names`: the topics' names at the broker."""
        self.records: Final = records
        self.names: Final = names
        self.future: Final = future
        self.done: Final = done
        self.cost_bytes: Final = sum(record.cost_bytes for record in records)
        self.remaining = len(records)
        self.positions: list[Position | None] = [None] * len(records)
        self.reason: PublishError | None = None
        self._lock: Final = threading.Lock()

    def delivered(self, index: int, error: KafkaError | None, message: Message) -> None:
        """Delivery report of one record."""
        if error is not None:
            self.reason = self.reason or reason_of(error)
        else:
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            assert offset is not None
            self.positions[index] = Position(self.records[index].topic, partition, offset, message.timestamp()[1])
        self._resolve(1)

    def reject(self, reason: PublishError, count: int) -> None:
        """The last `count` records never reached the client's queue."""
        self.reason = self.reason or reason
        self._resolve(count)

    def _resolve(self, count: int) -> None:
        with self._lock:
            self.remaining -= count
            if self.remaining == 0:
                self.done.append(self)


class Publisher:
    """One idempotent producer for one event loop.

    Per partition, records are appended in the order of the calls. Bounded by records and bytes in flight: a call beyond
    the bound waits its turn, at most the delivery timeout. After PublishFailed(FATAL) the process should end.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        client_id: str = "surgeline",
        max_records: int = MAX_RECORDS,
        max_bytes: int = MAX_BYTES,
        linger_ms: int = LINGER_MS,
    ) -> None:
        self._prefix: Final = settings.topic_prefix
        self._wait_s: Final = settings.delivery_timeout_s
        self._max_records: Final = max_records
        self._max_bytes: Final = max_bytes
        self._records = 0
        self._bytes = 0
        self._begun: OrderedDict[_Batch, float] = OrderedDict()  # under way, with the monotonic time of their hand-over
        self._window = Window(max_bytes, time.monotonic())
        self._waiting: deque[tuple[_Batch, asyncio.Future[None]]] = deque()
        self._done: deque[_Batch] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._refusal: PublishError | None = None
        self._stop = threading.Event()
        self._flush_s = 0.0
        config = _config(settings, client_id, max_records, max_bytes) | {"linger.ms": linger_ms}
        self._producer: Final = Producer({**config, "error_cb": self._on_error}, logger=LOG)
        self._thread: Final = threading.Thread(target=self._poll, name="surgeline-publisher", daemon=True)
        self._thread.start()

    async def publish(self, records: Sequence[OutRecord]) -> Sequence[Position]:
        """Return the position of each record, in order, once all are acknowledged by all in-sync replicas.

        PublishFailed if any isn't, once each record's fate is known; ValueError for a name with the prefix. A cancelled
        call leaves its records on their way.
        """
        if not records:
            return ()
        self._loop = asyncio.get_running_loop()
        names = {name: topology.topic(name, self._prefix) for name in {record.topic for record in records}}
        batch = _Batch(tuple(records), self._loop.create_future(), self._done, names)
        await self._admit(batch)
        return await batch.future

    def pressure(self) -> float:
        """How full the way to the broker is, 0 to 1; 1 while calls wait for room, or more is on its way than comes through in
        good time (see `Window`).
        """
        if self._waiting:
            return 1.0
        now, full = time.monotonic(), min(1.0, self._records / self._max_records)
        oldest_s = 0.0
        with contextlib.suppress(
            StopIteration, RuntimeError, KeyError
        ):  # nothing is on its way; or another thread asks amid a change
            oldest_s = now - self._begun[next(iter(self._begun))]
        return max(full, self._window.pressure(self._bytes, oldest_s, now))

    @property
    def failed(self) -> bool:
        """Whether the producer is beyond repair."""
        return self._refusal is PublishError.FATAL

    async def close(self, timeout_s: float) -> None:
        """Take no more, deliver what was taken within `timeout_s`, and fail the rest with CLOSED. Safe to repeat."""
        self._refusal = self._refusal or PublishError.CLOSED
        while self._waiting:
            _, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(PublishFailed(self._refusal))
        self._flush_s = timeout_s
        self._stop.set()
        await asyncio.to_thread(self._thread.join)

    async def _admit(self, batch: _Batch) -> None:
        """Hand the batch over as soon as it fits, in the order of the calls."""
        if self._refusal is not None:
            raise PublishFailed(self._refusal)
        if len(batch.records) > self._max_records or batch.cost_bytes > self._max_bytes:
            raise PublishFailed(PublishError.TOO_LARGE)
        if not self._waiting and self._fits(batch):
            self._hand_over(batch)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((batch, turn))
        try:
            await asyncio.wait_for(turn, self._wait_s)
        except TimeoutError:
            raise PublishFailed(PublishError.QUEUE_FULL) from None
        finally:
            self._wake()

    def _fits(self, batch: _Batch) -> bool:
        return self._records + len(batch.records) <= self._max_records and self._bytes + batch.cost_bytes <= self._max_bytes

    def _release(self, batch: _Batch) -> None:
        self._records -= len(batch.records)
        self._bytes -= batch.cost_bytes
        waited_s = time.monotonic() - self._begun.pop(batch)
        self._window.acknowledged(0 if batch.reason else batch.cost_bytes, waited_s)

    def _wake(self) -> None:
        """Hand over what has its turn, before any later call can; whoever stopped waiting is passed over."""
        while self._waiting:
            batch, turn = self._waiting[0]
            if not turn.done():
                if not self._fits(batch):
                    return
                self._hand_over(batch)
                turn.set_result(None)
            self._waiting.popleft()

    def _hand_over(self, batch: _Batch) -> None:
        """Queue each record at the client; what it doesn't take fails with the batch."""
        produce, total, names = self._producer.produce, len(batch.records), batch.names
        self._records += total
        self._bytes += batch.cost_bytes
        self._begun[batch] = time.monotonic()
        for index, record in enumerate(batch.records):
            try:
                produce(
                    names[record.topic],
                    value=record.value,
                    key=record.key,
                    partition=-1 if record.partition is None else record.partition,
                    headers=list(record.headers),
                    on_delivery=partial(batch.delivered, index),
                )
            except BufferError:
                return batch.reject(PublishError.QUEUE_FULL, total - index)
            except KafkaException as error:
                return batch.reject(reason_of(error.args[0]), total - index)
        return None

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._refusal = PublishError.FATAL

    def _poll(self) -> None:
        """Serve delivery reports; one wake-up of the loop for all that one poll brought."""
        while not self._stop.is_set():
            self._producer.poll(POLL_S)
            self._hand_back()
        self._producer.flush(self._flush_s)
        self._producer.purge()
        self._producer.flush(POLL_S)
        self._hand_back()

    def _hand_back(self) -> None:
        if not self._done or self._loop is None:
            return
        finished = []
        while self._done:
            finished.append(self._done.popleft())
        try:
            self._loop.call_soon_threadsafe(self._finish, finished)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    def _finish(self, batches: Sequence[_Batch]) -> None:
        for batch in batches:
            self._release(batch)
            if batch.future.done():
                continue
            if batch.reason is not None:
                batch.future.set_exception(PublishFailed(batch.reason))
            else:
                batch.future.set_result([position for position in batch.positions if position is not None])
        self._wake()


def _config(settings: KafkaSettings, client_id: str, max_records: int, max_bytes: int) -> ClientConfig:
    return settings.producer_config() | {
        "client.id": client_id,
        "compression.type": "lz4",
        "linger.ms": LINGER_MS,
        "message.max.bytes": MAX_REQUEST_BYTES,
        "queue.buffering.max.messages": max_records * 2,
        "queue.buffering.max.kbytes": max_bytes * 2 // 1024,
    }


_REASONS: Final = {
    KafkaError._MSG_TIMED_OUT: PublishError.TIMED_OUT,
    KafkaError._TIMED_OUT: PublishError.TIMED_OUT,
    KafkaError.REQUEST_TIMED_OUT: PublishError.TIMED_OUT,
    KafkaError._QUEUE_FULL: PublishError.QUEUE_FULL,
    KafkaError.MSG_SIZE_TOO_LARGE: PublishError.TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE: PublishError.TOO_LARGE,
    KafkaError._UNKNOWN_TOPIC: PublishError.UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION: PublishError.UNKNOWN_TOPIC,
    KafkaError.UNKNOWN_TOPIC_OR_PART: PublishError.UNKNOWN_TOPIC,
    KafkaError.TOPIC_AUTHORIZATION_FAILED: PublishError.FORBIDDEN,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: PublishError.FORBIDDEN,
    KafkaError._PURGE_QUEUE: PublishError.CLOSED,
    KafkaError._PURGE_INFLIGHT: PublishError.CLOSED,
    KafkaError._FATAL: PublishError.FATAL,
}


def reason_of(error: KafkaError) -> PublishError:
    """Bounded reason of a broker's or client's error."""
    return PublishError.FATAL if error.fatal() else _REASONS.get(error.code(), PublishError.BROKER)
