"""Topics in memory, which answer as the real ones do."""

from collections.abc import Iterator, Mapping

import pytest

from pipeline.formats.avro import Codec, Record
from pipeline.kafka.client import Message
from pipeline.kafka.reader import LogTruncated


class FakeTopics:
    """Partitions are lists; `first` is what retention has left of each."""

    def __init__(self) -> None:
        self.codec = Codec.shipped()
        self.logs: dict[tuple[str, int], list[tuple[bytes | None, bytes | None]]] = {}
        self.first: dict[tuple[str, int], int] = {}
        self.offsets: dict[tuple[str, int], int] = {}
        self.partitions = 8
        self.records_read = 0

    def put(self, topic: str, partition: int, key: bytes | None, value: Record | bytes | None) -> None:
        data = value if isinstance(value, bytes | None) else self.codec.encode(value)
        self.logs.setdefault((topic, partition), []).append((key, data))

    def begin(self, topic: str) -> Mapping[int, int]:
        return {partition: self.first.get((topic, partition), 0) for partition in range(self.partitions)}

    def end(self, topic: str) -> Mapping[int, int]:
        return {partition: len(self.logs.get((topic, partition), ())) for partition in range(self.partitions)}

    def read(self, topic: str, start: Mapping[int, int], end: Mapping[int, int]) -> Iterator[Message]:
        for partition in range(self.partitions):
            log = self.logs.get((topic, partition), [])
            begins = self.first.get((topic, partition), 0)
            first = start.get(partition, begins)
            if first < begins:
                raise LogTruncated(topic, partition, first, begins)
            for offset in range(first, min(end.get(partition, len(log)), len(log))):
                self.records_read += 1
                yield Message(topic, partition, offset, 0, *log[offset])

    def committed(self, group: str) -> Mapping[tuple[str, int], int]:
        return dict(self.offsets)


@pytest.fixture
def topics() -> FakeTopics:
    """Nothing in them yet."""
    return FakeTopics()
