"""MSH and EVN: which message it is, what it is about, and when it was recorded."""

import hashlib
from dataclasses import dataclass
from typing import Final

from pipeline.domain.event import SequenceBasis
from pipeline.domain.identifiers import Millis
from pipeline.formats.hl7v2 import movement
from pipeline.formats.hl7v2.datatypes import UNREADABLE, dtm, text_of
from pipeline.formats.hl7v2.er7 import Message
from pipeline.formats.hl7v2.profile import TABLE_0007
from pipeline.formats.hl7v2.reading import Reading, or_none
from pipeline.formats.hl7v2.verdict import Reason, Rejected

MAX_SEQUENCE: Final = (1 << 63) - 1
_TABLE_0007: Final = {code: code for code in TABLE_0007}


@dataclass(frozen=True, slots=True)
class Header:
    """What every event of the message has in common."""

    recorded_at: Millis
    occurred_at: Millis | None
    sequence: int | None
    sequence_basis: SequenceBasis
    control_id: str | None
    user: str | None
    reason: str | None
    movement: str | None
    admission_type: str | None

    def __repr__(self) -> str:
        return "Header(<redacted>)"


def type_of(message: Message) -> tuple[str, str]:
    """Message type and trigger in upper case, empty where absent. Before 2.3 the trigger stood in EVN-1 only.

    MSH-9 decides: EVN-1 is kept by the standard for old receivers, and senders fill it with templates.
    """
    kind = (text_of(message.field("MSH", 9, component=1)) or "").upper()
    trigger = text_of(message.field("MSH", 9, component=2)) or text_of(message.field("EVN", 1)) or ""
    return kind, trigger.upper()


def identity_of(message: Message, data: bytes) -> tuple[str, ...]:
    """What names the message at its source: MSH-3, 4, 7 and 10.

    Without MSH-10 it is the digest of the bytes. Without MSH-7 as well: control ids start again every day or hour, and
    two messages must never pass for one.
    """
    header = message.segment("MSH")
    if header is None or not header.raw(10) or not header.raw(7):
        return ("sha256", hashlib.sha256(data).hexdigest())
    return (header.raw(3), header.raw(4), header.raw(7), header.raw(10))


def identity_digest(tenant: str, source_system: str, identity: tuple[str, ...]) -> str:
    """The identity as one digest of 64 hexadecimal digits, apart for each tenant and source."""
    digest = hashlib.sha256()
    for part in ("hl7v2", tenant, source_system, *identity):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(4, "big"))
        digest.update(data)
    return digest.hexdigest()


def header_of(reading: Reading, trigger: str) -> Header | Rejected:
    """Common part of the events; rejected where no time orders them."""
    recorded_at = _recorded_at(reading)
    if isinstance(recorded_at, Rejected):
        return recorded_at
    event = reading.message.segment("EVN")
    said = reading.time(event, 6)
    occurred_at = said if isinstance(said, int) else movement.happened_at(reading, trigger)
    sequence = _sequence(reading)
    return Header(
        recorded_at=recorded_at,
        occurred_at=occurred_at,
        sequence=sequence,
        sequence_basis=SequenceBasis.RECORDED_TIME if sequence is None else SequenceBasis.SOURCE,
        control_id=or_none(reading.text(reading.message.segment("MSH"), 10)),
        user=or_none(reading.text(event, 5)),
        reason=or_none(reading.text(event, 4)),
        movement=movement.name_of(reading),
        admission_type=or_none(reading.code(reading.message.segment("PV1"), 4, reading.profile.admission_types, _TABLE_0007)),
    )


def _recorded_at(reading: Reading) -> Millis | Rejected:
    """EVN-2, else MSH-7, each only if it is precise to the minute: a bare date would be older than all that day."""
    named = False
    for segment, n in (("EVN", 2), ("MSH", 7)):
        value = text_of(reading.message.field(segment, n))
        if value is None:
            continue
        named = True
        moment = dtm(value, reading.zone, to_the_minute=True)
        if moment is not UNREADABLE:
            return moment
        reading.not_read(f"{segment}-{n}")
    if named:
        return Rejected(Reason.BAD_VALUE, "EVN-2", "neither EVN-2 nor MSH-7 is a time to the minute", _TIME_REMEDY)
    return Rejected(Reason.MISSING_FIELD, "EVN-2", "neither EVN-2 nor MSH-7 is valued", _TIME_REMEDY)


_TIME_REMEDY: Final = "send EVN-2 (recorded date and time) or MSH-7 as YYYYMMDDHHMM[SS[.SSSS]][+ZZZZ]"


def _sequence(reading: Reading) -> int | None:
    """The number that the profile trusts. Of MSH-13, 0 and -1 steer the sequence protocol and order nothing."""
    if reading.profile.sequence == "ZBE-1":
        return movement.inserted(reading)
    if reading.profile.sequence == "none":
        return None
    text = or_none(reading.text(reading.message.segment("MSH"), 13))
    if text is None:
        return None
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0
    if 0 < number <= MAX_SEQUENCE:
        return number
    if text not in ("0", "-1"):
        reading.not_read("MSH-13")
    return None
