"""Follows accepted changes and outcomes while a load runs. Never blocks: it shares its thread with every sender."""

import time
from collections.abc import Iterator
from typing import Final

from confluent_kafka import Consumer, TopicPartition

from loadtest.tracker import Closed, Tracker
from pipeline.domain.records import Accepted, Outcome
from pipeline.formats.avro import Undecodable
from pipeline.kafka.client import LOG
from pipeline.kafka.reader import end_offsets
from pipeline.roles.process import codec_of
from pipeline.roles.writers.profiles import entity_types_of
from pipeline.settings.model import Settings
from pipeline.topology import ACCEPTED, DECISIONS, OUTCOMES, topic

AT_ONCE: Final = 200
"""Records handled before others get their turn."""

FETCH_QUEUE_KIB: Final = 16 * 1024
FETCH_WAIT_MS: Final = 10


class Observer:
    """One consumer without a group, from the ends of the topics on."""

    def __init__(self, settings: Settings) -> None:
        self.tracker = Tracker({name: entity_types_of(name, section) for name, section in settings.writers.items()})
        self.last_news_s = time.monotonic()
        self.watching = False
        self._settings = settings
        self._codec = codec_of(settings)
        self._consumer: Consumer | None = None

    def look(self) -> Iterator[tuple[Closed, int]]:
        """What has closed since the last look, and when it was seen (ms of the wall clock)."""
        consumer = self._consumer or self._open()
        for _ in range(AT_ONCE):
            message = consumer.poll(0)
            if message is None:
                return
            if message.error() is not None:  # the consumer gets over it by itself
                continue
            self.last_news_s = time.monotonic()
            seen_ms = time.time_ns() // 1_000_000
            for closed in self._take(message.value()):
                yield closed, seen_ms

    def quiet_for_s(self) -> float:
        """Since the last record."""
        return time.monotonic() - self.last_news_s

    def _take(self, value: bytes | None) -> list[Closed]:
        try:
            record = self._codec.decode(value)
        except Undecodable:
            return []
        if isinstance(record, Accepted):
            return self.tracker.take_accepted(record)
        return self.tracker.take_outcome(record) if isinstance(record, Outcome) else []

    def _open(self) -> Consumer:
        kafka = self._settings.kafka
        consumer = Consumer(
            kafka.client_config()
            | {
                "group.id": f"{kafka.topic_prefix}surgeline-reader",  # wanted by librdkafka; never joined
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "fetch.wait.max.ms": FETCH_WAIT_MS,
                "queued.max.messages.kbytes": FETCH_QUEUE_KIB,
            },
            logger=LOG,
        )
        consumer.assign(
            [
                TopicPartition(topic(name, kafka.topic_prefix), partition, offset)
                for name in (ACCEPTED, DECISIONS, OUTCOMES)
                for partition, offset in end_offsets(kafka, name).items()
            ]
        )
        self._consumer, self.watching = consumer, True
        return consumer
