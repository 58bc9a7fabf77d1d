"""NDJSON: canonical events, one JSON object a line, under the same names and rules as the HTTP way in takes them. Pure."""

from collections.abc import Iterator
from typing import IO, Final

import msgspec

from pipeline.domain.event import Event, sealed
from pipeline.domain.identifiers import Millis, derive_event_id
from pipeline.formats.files.profile import FileProfile
from pipeline.formats.files.records import BYTE_ORDER_MARK, TOO_LONG, Lines
from pipeline.formats.files.rows import Bad, Entry, Origin
from pipeline.formats.json_density import is_too_dense
from pipeline.formats.json_events import Client, Invalid, parse_event
from pipeline.formats.json_members import decode

NOT_JSON: Final = Bad(None, "a line is one JSON object (RFC 8259) in UTF-8", "write one event a line")
TOO_DENSE: Final = Bad(None, "an object has no more members than an event would", "write one event a line")


class EventLines:
    """Reads the NDJSON files of one profile."""

    def __init__(self, profile: FileProfile) -> None:
        self._profile = profile

    def head(self) -> bytes:
        """There is none."""
        return b""

    def entries(self, data: IO[bytes]) -> Iterator[Entry]:
        """See `Format`. Blank lines are no records. A line is checked as an event once its source is known."""
        number = 0
        for line in Lines(data):
            text = line.raw.removeprefix(BYTE_ORDER_MARK) if line.number == 1 else line.raw
            if not text.strip():
                continue
            number += 1
            yield Entry(number, line.number, line.raw, _object(text) if line.is_whole else TOO_LONG)

    def check(self, entry: Entry, origin: Origin) -> Bad | None:
        """See `Format`."""
        made = self.events(entry, origin)
        return made if isinstance(made, Bad) else None

    def events(self, entry: Entry, origin: Origin) -> tuple[Event, ...] | Bad:
        """See `Format`. Times are the event's own; it may speak for the manifest's source system only."""
        if isinstance(entry.said, Bad):
            return entry.said
        client = Client(self._profile.feed, origin.tenant, frozenset({origin.source_system}))
        parsed = parse_event(
            entry.said,
            client=client,
            idempotency_key=origin.context(entry.number),
            item=0,
            received_at=Millis(origin.received_at),
        )
        if isinstance(parsed, Invalid):
            return Bad(parsed.field or None, parsed.rule.doc, parsed.remedy)
        identity = origin.identity(entry.number, is_dated=False)
        event_id = derive_event_id(origin.tenant, origin.source_system, identity, parsed.key, 0)
        context = origin.context(entry.number)
        return (sealed(msgspec.structs.replace(parsed, event_id=event_id, idempotency_key=None, audit_context=context)),)


def _object(text: bytes) -> object:
    if is_too_dense(text):
        return TOO_DENSE
    try:
        return decode(text)
    except (ValueError, RecursionError):
        return NOT_JSON
