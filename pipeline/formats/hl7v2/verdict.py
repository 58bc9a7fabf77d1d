"""What becomes of one HL7 v2 message: mapped, ignored by rule, or rejected with a reason that the sender can act on."""

from dataclasses import dataclass
from typing import Self

from pipeline.domain.event import Described, Event


class Reason(Described):
    """Why a message is rejected; bounded, because it is a metric label. `code` is its ERR-3 in table 0357."""

    code: str

    def __new__(cls, value: str, doc: str, code: str = "207") -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.doc = doc
        member.code = code
        return member

    SEGMENT_SEQUENCE = "SEGMENT_SEQUENCE", "a segment is missing, repeated or unreadable", "100"
    MISSING_FIELD = "MISSING_FIELD", "a field that decides is empty", "101"
    BAD_VALUE = "BAD_VALUE", "a field that decides does not hold its data type", "102"
    UNKNOWN_CODE = "UNKNOWN_CODE", "a code is not in its table", "103"
    TOO_LONG = "TOO_LONG", "the message or a value is longer than the limit", "104"
    UNSUPPORTED_MESSAGE = "UNSUPPORTED_MESSAGE", "nobody said what this message type means here", "200"
    UNSUPPORTED_EVENT = "UNSUPPORTED_EVENT", "this trigger moves capacity and is not mapped yet", "201"
    UNSUPPORTED_PROCESSING = "UNSUPPORTED_PROCESSING", "training or test data on a feed that takes none", "202"
    AMBIGUOUS_IDENTITY = "AMBIGUOUS_IDENTITY", "it can't be told whom or what the message is about", "204"
    OTHER_CONTENT = "OTHER_CONTENT", "a message of this identity was answered before and said something else", "205"
    UNAVAILABLE = "UNAVAILABLE", "it could not be stored in time; send it again", "207"
    UNREADABLE = "UNREADABLE", "the bytes are not one HL7 v2 message", "100"


@dataclass(frozen=True, slots=True)
class Mapped:
    """The events that the message makes, in the order of their ordinals.

    `unread` names optional fields whose value could not be read; the events leave them unsaid. `over_long` names those of them
    that are too long.
    """

    events: tuple[Event, ...]
    unread: tuple[str, ...] = ()
    over_long: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Mapped({len(self.events)} events)"


@dataclass(frozen=True, slots=True)
class Ignored:
    """A message that moves no capacity, by the rule named in `detail`."""

    detail: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message that can't be mapped. No part holds a value of the message: `field` is a position such as PID-3."""

    reason: Reason
    field: str
    detail: str
    remedy: str


Verdict = Mapped | Ignored | Rejected
