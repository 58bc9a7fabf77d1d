"""What the readers of this room need of Kafka, as a port: the real topics here, a fake one in tests."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException
from confluent_kafka.admin import AdminClient

from pipeline.formats.avro import Record, Undecodable
from pipeline.kafka.client import LOG, KafkaUnavailable, Message
from pipeline.kafka.reader import begin_offsets, end_offsets, offsets_since, read_topic
from pipeline.settings.sections.kafka import KafkaSettings

GROUP_TIMEOUT_S: Final = 15.0


class Decoder(Protocol):
    """What a reader needs of the codec."""

    def decode(self, data: bytes | None, /) -> Record:
        """Record of a Kafka value; `Undecodable` otherwise."""
        ...


class Topics(Protocol):
    """Topics by their names without the prefix. Methods raise KafkaUnavailable; `read` one that is LogTruncated where retention
    has moved beyond `start`."""

    def begin(self, topic: str) -> Mapping[int, int]:
        """Offset of the first record that is still there, per partition."""
        ...

    def end(self, topic: str) -> Mapping[int, int]:
        """Offset after the last record, per partition, at this moment."""
        ...

    def read(self, topic: str, start: Mapping[int, int], end: Mapping[int, int]) -> Iterator[Message]:
        """Each record from `start` to before `end`, in order within each partition."""
        ...

    def committed(self, group: str) -> Mapping[tuple[str, int], int]:
        """Committed offsets of a consumer group, by topic and partition; what was never committed is absent."""
        ...


class KafkaTopics:
    """The real ones."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka

    def begin(self, topic: str) -> Mapping[int, int]:
        """See `Topics`."""
        return begin_offsets(self._kafka, topic)

    def end(self, topic: str) -> Mapping[int, int]:
        """See `Topics`."""
        return end_offsets(self._kafka, topic)

    def read(self, topic: str, start: Mapping[int, int], end: Mapping[int, int]) -> Iterator[Message]:
        """See `Topics`."""
        return read_topic(self._kafka, topic, start=start, end=end)

    def since(self, topic: str, since_ms: int) -> Mapping[int, int]:
        """Offset of the first record that is not older than a time, per partition; the end where there is none."""
        return offsets_since(self._kafka, topic, since_ms)

    def committed(self, group: str) -> Mapping[tuple[str, int], int]:
        """See `Topics`."""
        prefix = self._kafka.topic_prefix
        name = f"{prefix}{group}"
        try:
            admin = AdminClient(dict[str, Any](self._kafka.client_config()), logger=LOG)
            wanted = [ConsumerGroupTopicPartitions(name)]
            answer = admin.list_consumer_group_offsets(wanted, request_timeout=GROUP_TIMEOUT_S)[name].result()
        except KafkaException as error:
            raise KafkaUnavailable(error.args[0].str()) from None
        positions = answer.topic_partitions or []
        return {(at.topic.removeprefix(prefix), at.partition): at.offset for at in positions if at.offset >= 0}


def decoded(decoder: Decoder, message: Message) -> Record | None:
    """The record, or None where it does not decode."""
    try:
        return decoder.decode(message.value)
    except Undecodable:
        return None


def tail(topics: Topics, topic: str, records: int) -> Iterator[Message]:
    """The last `records` of each partition, or fewer."""
    begin, end = topics.begin(topic), topics.end(topic)
    start = {partition: max(begin.get(partition, 0), stop - records) for partition, stop in end.items()}
    return topics.read(topic, start, end)
