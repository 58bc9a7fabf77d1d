"""The batch's producer: everything that a batch says is durable when `flush` returns, or the process ends."""

import asyncio
import contextlib
import os
import time
from collections.abc import Mapping
from typing import Final, NoReturn

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from pipeline.kafka.client import LOG
from pipeline.kafka.producer import PublishError, reason_of
from pipeline.ops.log_catalogue import PUBLISH_FAILED, ROLE_EXITS
from pipeline.ops.logs import emit

EXIT_NOT_DURABLE: Final = 70
"""Exit code when an output could not be made durable: nothing was acknowledged, a restart reads it again."""

EXIT_FOREIGN_WRITER: Final = 71
"""Exit code when somebody else wrote to our changelog: a restart recovers and joins."""

FLUSH_S: Final = 45.0

TURN_S: Final = 0.001
"""How long the loop's thread listens at a time for what it waits for."""
MAX_PAUSE_S: Final = 0.016
"""Between two turns others have theirs, TURN_S at first, and at most so long where the broker takes its time."""

LINGER_MS: Final = 100
"""Outputs gather while a batch is judged; a flush waits for none of it (librdkafka ignores the linger while it lasts). With 2 ms,
records went out two or three to a request: 13 µs of processor time an output, with 100 ms 6."""

MAX_RECORD_BYTES: Final = 2 * 1024 * 1024
"""Above the greatest record of any topic that a batch reads, encrypted into quarantine. librdkafka's own bound is below
that of a landing topic: one record between the two would end the process at each start."""


class Outputs:
    """Two idempotent producers; used by one batch at a time.

    One for what goes out: of it only failures are reported, because a report costs as much as to produce the record. One
    for the table's changelog, where each offset counts.
    """

    def __init__(self, config: Mapping[str, str | int | float | bool]) -> None:
        both = {"message.max.bytes": MAX_RECORD_BYTES, "linger.ms": LINGER_MS, **config}
        told = {**both, "on_delivery": self._delivered}
        self._producer = Producer({**told, "delivery.report.only.error": True}, logger=LOG)
        self._log = Producer(told, logger=LOG)
        self._produce, self._produce_log = self._producer.produce, self._log.produce
        self._failed = 0
        self._failure: PublishError | None = None
        self._offsets: dict[tuple[str, int], list[int]] = {}

    def send(self, topic: str, partition: int, key: bytes | None, value: bytes) -> None:
        """Queue one output; waits while the queue is full."""
        try:
            self._produce(topic, value, key, partition)
        except (BufferError, KafkaException) as error:
            self._queue(self._producer, topic, partition, key, value, error)

    def log(self, topic: str, partition: int, key: bytes, value: bytes) -> None:
        """Queue one changelog record; waits while the queue is full."""
        try:
            self._produce_log(topic, value, key, partition)
        except (BufferError, KafkaException) as error:
            self._queue(self._log, topic, partition, key, value, error)

    def _queue(
        self, producer: Producer, topic: str, partition: int, key: bytes | None, value: bytes, error: BufferError | KafkaException
    ) -> None:
        """What the client did not take at once. Ends the process where it never will."""
        while isinstance(error, BufferError):
            producer.poll(0.05)
            try:
                producer.produce(topic, value, key, partition)
                return
            except (BufferError, KafkaException) as again:
                error = again
        self._fail(reason_of(error.args[0]), 1)

    def flush(self) -> None:
        """Wait until all outputs are durable. Ends the process where one is not."""
        self._flush(self._producer)

    def flush_log(self) -> Mapping[tuple[str, int], list[int]]:
        """Wait until the changelog is durable; its offsets by topic and partition, in order. Ends the process otherwise."""
        self._flush(self._log)
        return self._offsets_told()

    async def flushed(self) -> None:
        """`flush` on the loop's thread, where nothing else stands still meanwhile."""
        await self._flushed(self._producer)

    async def flushed_log(self) -> Mapping[tuple[str, int], list[int]]:
        """`flush_log` on the loop's thread."""
        await self._flushed(self._log)
        return self._offsets_told()

    def _flush(self, producer: Producer) -> None:
        self._check(producer.flush(FLUSH_S))

    async def _flushed(self, producer: Producer) -> None:
        until_s, pause_s = time.monotonic() + FLUSH_S, TURN_S
        while (left := producer.flush(TURN_S)) and time.monotonic() < until_s:
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.25, MAX_PAUSE_S)
        self._check(left)

    def _check(self, left: int) -> None:
        if left or self._failed:
            self._fail(self._failure or PublishError.TIMED_OUT, left + self._failed)

    def _offsets_told(self) -> Mapping[tuple[str, int], list[int]]:
        offsets, self._offsets = self._offsets, {}
        return offsets

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failed += 1
            self._failure = self._failure or reason_of(error)
            return
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        if topic is None or partition is None or offset is None:
            self._failed += 1
            return
        self._offsets.setdefault((topic, partition), []).append(offset)

    def _fail(self, reason: PublishError, count: int) -> NoReturn:
        emit(PUBLISH_FAILED, reason=reason.value, count=count)
        die(EXIT_NOT_DURABLE)


def die(code: int) -> NoReturn:
    """End the process at once. Leaving an agent by an exception would acknowledge what was not done."""
    with contextlib.suppress(Exception):  # whatever the log does, the process ends
        cause = "foreign_writer" if code == EXIT_FOREIGN_WRITER else "not_durable"
        emit(ROLE_EXITS, cause=cause, status=code, duration_ms=0.0)
    os._exit(code)
