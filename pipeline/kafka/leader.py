"""Which of several processes does the work: the one that Kafka gives a partition to, in a group of their own.

Nothing is consumed. A process that dies or is cut off loses the partition after its session's timeout, and another gets it.
"""

import threading
from typing import Final

from confluent_kafka import Consumer, KafkaException, TopicPartition

from pipeline.kafka.client import LOG
from pipeline.settings.sections.kafka import KafkaSettings
from pipeline.topology import topic as at_broker

POLL_S: Final = 0.5


class Leader:
    """Member of a group over a topic of one partition. `start` returns at once."""

    def __init__(self, settings: KafkaSettings, group: str, topic: str, session_timeout_s: float) -> None:
        self.failure: BaseException | None = None
        self.ended: Final = threading.Event()
        self._settings: Final = settings
        self._group: Final = group
        self._topic: Final = topic
        self._session_timeout_s: Final = session_timeout_s
        self._leads: Final = threading.Event()
        self._stop: Final = threading.Event()
        self._thread: Final = threading.Thread(target=self._run, name="surgeline-leader", daemon=True)

    @property
    def leads(self) -> bool:
        """Whether this process has the partition, as far as it knows."""
        return self._leads.is_set() and not self.ended.is_set()

    def start(self) -> "Leader":
        """Join the group."""
        self._thread.start()
        return self

    def stop(self, timeout_s: float = 10.0) -> None:
        """Leave the group, so that another takes over at once. Safe to repeat."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            consumer = Consumer(
                self._settings.client_config()
                | {
                    "group.id": f"{self._settings.topic_prefix}{self._group}",
                    "enable.auto.commit": False,
                    "auto.offset.reset": "latest",
                    "session.timeout.ms": round(self._session_timeout_s * 1000),
                },
                logger=LOG,
            )
            try:
                consumer.subscribe(
                    [at_broker(self._topic, self._settings.topic_prefix)],
                    on_assign=self._assigned,
                    on_revoke=self._revoked,
                    on_lost=self._revoked,
                )
                while not self._stop.is_set():
                    consumer.poll(POLL_S)
            finally:
                consumer.close()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the owner of the thread must learn of it
            self.failure = error
        finally:
            self._leads.clear()
            self.ended.set()

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.assign(partitions)
        if partitions:
            try:
                consumer.pause(partitions)
            except KafkaException:
                LOG.warning("not paused", extra={"reason": "records are read and passed over"})
            self._leads.set()

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._leads.clear()
