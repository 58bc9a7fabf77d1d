"""What the clients of this room share: the failure that every one of them can meet, and what is read from a topic."""

import logging
from dataclasses import dataclass
from typing import Final

LOG: Final = logging.getLogger("surgeline.kafka")
"""librdkafka's own log lines: connections and protocol, never records."""

METADATA_TIMEOUT_S: Final = 15.0
"""Time for one question to the cluster."""


class KafkaUnavailable(Exception):
    """The cluster didn't answer in time or refused; trying again later may help. The text holds no record's content."""


@dataclass(frozen=True, slots=True)
class Message:
    """One record of a topic, which has its name on the map, without the prefix. The representation shows only where it lies."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()

    def __repr__(self) -> str:
        return f"Message({self.topic}, {self.partition}, {self.offset}, <redacted>)"
