"""What a way in and the sink promise each other."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from pipeline.domain.event import Event
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Reason


@dataclass(frozen=True, slots=True)
class RawMessage:
    """Original bytes of one message, exactly as they came.

    `identity` is what names the message at its source, as one digest (64 hexadecimal digits); it is the key of the
    receipt and of the raw record. `channel` is http, mllp, fhir or files and names the raw topic.
    """

    channel: str
    identity: str
    body: bytes
    content_type: str
    received_at: Millis

    def __repr__(self) -> str:
        return f"RawMessage({self.channel}, <redacted>)"


@dataclass(frozen=True, slots=True)
class Broken:
    """A part of a message that makes no event, though the message is taken: it goes to `quarantine`, encrypted.

    `field`, `rule` and `remedy` hold no value of the part.
    """

    reason: Reason
    field: str | None
    rule: str
    remedy: str
    part: bytes
    file: str = ""
    row: int = 0
    line: int = 0
    """Of a record of a file: digest of the file's content, the record's number, and the line on which it begins."""

    def __repr__(self) -> str:
        return f"Broken({self.reason.value}, <redacted>)"


@dataclass(frozen=True, slots=True)
class Stored:
    """All is durable: the raw bytes, every event, and the receipt with `answer`."""

    answer: bytes


@dataclass(frozen=True, slots=True)
class Repeated:
    """The same message was answered before; give `answer` again. Nothing was published."""

    answer: bytes


@dataclass(frozen=True, slots=True)
class OtherContent:
    """A message of this identity was answered before and had another body. Nothing was published."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The broker didn't take it in time; nothing may be promised. The sender should try again after `retry_after_s`."""

    retry_after_s: float


Receipted = Stored | Repeated | OtherContent | Unavailable


class Sink(Protocol):
    """Takes a message in durably."""

    async def accept(self, raw: RawMessage, events: Sequence[Event], answer: bytes, broken: Sequence[Broken] = ()) -> Receipted:
        """Return only after the broker has acknowledged the raw record, then each event and broken part, then the receipt.

        Calling again after any failure or crash is safe: ids are derived, so the gate sees duplicates.
        `answer` is what the sender will be told; it must be a pure function of the message.
        """
        ...

    def pressure(self) -> float:
        """How full the way to the broker is, 0 to 1; at 1 `accept` answers `Unavailable` at once."""
        ...


class Source(Protocol):
    """A way in. One file in this folder each; the conformance suite finds them by itself."""

    name: ClassVar[str]

    async def run(self, sink: Sink, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then finish what was begun and return within the drain bound."""
        ...
