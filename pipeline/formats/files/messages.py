"""HL7 v2 batch files (chapter 2.10.3): counted and checked as a whole, then each message by itself. Pure.

A message keeps the identity that its sender gave it: one that came by MLLP as well makes the same events.
"""

from collections.abc import Iterator
from typing import IO, Final

from pipeline.domain.event import Event
from pipeline.domain.identifiers import Millis
from pipeline.formats.files.profile import HL7_MAX_BYTES
from pipeline.formats.files.rows import MAX_RECORD_BYTES, Bad, Entry, Origin, Unreadable
from pipeline.formats.hl7v2.mapping import map_bytes, messages_of
from pipeline.formats.hl7v2.profile import Profile
from pipeline.formats.hl7v2.verdict import Ignored, Mapped, Rejected

MAX_MESSAGE_BYTES: Final = 1_500_000
"""Greatest message of a batch: with what is said of it, it fits a record of the log. Of a greater one only the start is kept."""
TOO_LONG: Final = Bad(None, f"a message of a batch has at most {MAX_MESSAGE_BYTES} bytes", "leave out what it encloses")


class MessageBatch:
    """Reads the HL7 v2 files of one profile."""

    def __init__(self, profile: Profile) -> None:
        """`profile`: the sender's HL7 profile; source system and feed of the events are its."""
        self._profile = profile

    def head(self) -> bytes:
        """There is none."""
        return b""

    def entries(self, data: IO[bytes]) -> Iterator[Entry]:
        """See `Format`: in memory as a whole, as its counts stand at its end."""
        whole = data.read(HL7_MAX_BYTES + 1)
        if len(whole) > HL7_MAX_BYTES:
            raise Unreadable("", f"a batch of messages has at most {HL7_MAX_BYTES} bytes", "send several files")
        messages = messages_of(whole)
        if isinstance(messages, Rejected):
            raise Unreadable(messages.field or "", messages.detail, messages.remedy)
        for number, message in enumerate(messages, start=1):
            said = self._said(message)
            yield Entry(number, number, message[:MAX_RECORD_BYTES] if said is TOO_LONG else message, said)

    def check(self, entry: Entry, origin: Origin) -> Bad | None:
        """See `Format`."""
        return entry.said if isinstance(entry.said, Bad) else None

    def events(self, entry: Entry, origin: Origin) -> tuple[Event, ...] | Bad:
        """See `Format`."""
        if entry.said is TOO_LONG:
            return TOO_LONG
        _, verdict = map_bytes(entry.raw, self._profile, origin.tenant, Millis(origin.received_at))
        match verdict:
            case Mapped(events):
                return events
            case Ignored():
                return ()
            case Rejected():
                return _bad(verdict)

    def _said(self, message: bytes) -> object:
        if len(message) > MAX_MESSAGE_BYTES:
            return TOO_LONG
        _, verdict = map_bytes(message, self._profile, "", Millis(0))
        return _bad(verdict) if isinstance(verdict, Rejected) else None


def _bad(rejected: Rejected) -> Bad:
    return Bad(rejected.field, f"{rejected.reason.value}: {rejected.detail}", rejected.remedy)
