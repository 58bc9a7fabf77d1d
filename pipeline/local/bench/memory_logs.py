"""Changelogs in memory, for what reads them without a broker: see `pipeline.kafka.holdings.Logs`."""

from collections.abc import Iterator, Mapping

from pipeline.kafka.client import Message


class MemoryLogs:
    """Topics of one partition, made by their first record."""

    def __init__(self) -> None:
        self._records: dict[str, list[Message]] = {}

    def add(self, topic: str, key: bytes, value: bytes, at_ms: int = 0) -> None:
        """Append a record."""
        log = self._records.setdefault(topic, [])
        log.append(Message(topic, 0, len(log), at_ms, key, value, ()))

    def begin(self, topic: str) -> Mapping[int, int]:
        """Offset of the first record."""
        return {0: 0}

    def end(self, topic: str) -> Mapping[int, int]:
        """Offset after the last record."""
        return {0: len(self._records.get(topic, ()))}

    def read(self, topic: str, start: Mapping[int, int], end: Mapping[int, int]) -> Iterator[Message]:
        """Each record from `start` to before `end`."""
        yield from self._records.get(topic, ())[start[0] : end[0]]
