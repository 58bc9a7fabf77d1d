"""The ring: the latest events that an entity remembers by id, kept as the head's MessagePack has them.

Of a head's sixteen events nearly every verdict asks one thing: is this id among them? So they stay bytes: an array of
entries of one length each, an event's id (16 bytes) and its content (8). To read and write them as objects takes a third of
what a head takes.
"""

from typing import Final

import msgspec

from pipeline.domain.identifiers import EventId

RING_LENGTH: Final = 16
"""Recent events that an entity remembers by id. An older repeat is still stale or a no-op by its times."""

_FIXED: Final = 15
"""Greatest length of an array whose MessagePack header is one byte; the next ones have three."""

_ID_MARK, _CONTENT_MARK = b"\x92\xc4\x10", b"\xc4\x08"
"""An array of two; 16 bytes. And: 8 bytes."""

_ID_BYTES: Final = len(_ID_MARK) + 16
ENTRY_BYTES: Final = _ID_BYTES + len(_CONTENT_MARK) + 8

EMPTY_RING: Final = msgspec.Raw(b"\x90")


def entry_of(event_id: EventId, content_hash: str) -> bytes:
    """Ring entry of an event; 32 and 16 hexadecimal digits, or ValueError."""
    entry = _ID_MARK + bytes.fromhex(event_id) + _CONTENT_MARK + bytes.fromhex(content_hash)
    if len(entry) != ENTRY_BYTES:
        raise ValueError("an event id has 32 hexadecimal digits, a content hash 16")
    return entry


def find(ring: msgspec.Raw, entry: bytes) -> bytes | None:
    """The ring's entry with the id of this one: equal if the content is the same. None where the id isn't remembered."""
    entries = bytes(ring)
    first = len(entries) % ENTRY_BYTES  # the header
    found = entries.find(entry[:_ID_BYTES])
    while found >= 0 and found % ENTRY_BYTES != first:
        found = entries.find(entry[:_ID_BYTES], found + 1)
    return entries[found : found + ENTRY_BYTES] if found >= 0 else None


def with_entry(ring: msgspec.Raw, entry: bytes) -> msgspec.Raw:
    """The ring with one more event; the oldest of too many is forgotten."""
    entries = bytes(ring)
    count = min(len(entries) // ENTRY_BYTES + 1, RING_LENGTH)
    return msgspec.Raw(_HEADERS[count] + entries[len(entries) - (count - 1) * ENTRY_BYTES :] + entry)


_HEADERS: Final = tuple(
    bytes([0x90 | count]) if count <= _FIXED else b"\xdc" + count.to_bytes(2, "big") for count in range(RING_LENGTH + 1)
)
