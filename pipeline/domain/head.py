"""The head: the latest state of one entity, and what is needed to judge the next event about it.

Heads are the values of the gate's table. Its changelog is a declared contract: a version byte, then MessagePack of the
fields in the order below.
"""

import hashlib
from typing import Final

import msgspec

from pipeline.domain.event import Payload, Reference
from pipeline.domain.identifiers import OFFSET_BITS, EventId, Millis, Revision

HEAD_VERSION: Final = 1


class Clock(msgspec.Struct, frozen=True, array_like=True):
    """Where a field's value comes from, and when.

    `recorded` is min(recorded_at, received_at): a clock that runs ahead wins nothing. `floor` is when a source's sequence
    last began anew: of what was recorded before, the time decides, because its higher sequence belongs to the old count.
    """

    source: str
    feed: str
    rank: int
    recorded: Millis
    sequence: int | None
    floor: Millis = Millis(0)


class Retired(msgspec.Struct, frozen=True, array_like=True):
    """The merge by which an identity was retired: later events about it go to the survivor."""

    survivor: Reference
    revision: Revision
    recorded: Millis
    event_id: EventId


class Absorbed(msgspec.Struct, frozen=True, array_like=True):
    """An identity that was merged into this one.

    `told` is its own revision as of the last word of its gate, 0 before the first; `since` the landing time of the first
    word of the merge, `recorded` when the source recorded the newest one that names it here. `expected`: a merge is known
    here, and its gate has not told what became of it. One that came by way of another (`direct` is false) is known only
    so that no circle forms, and one whose merge was refused or taken back so that it isn't waited for.
    """

    loser: Reference
    told: Revision
    since: Millis
    recorded: Millis
    direct: bool = True
    expected: bool = False
    refused: bool = False

    @property
    def is_awaited(self) -> bool:
        """Whether it is to be closed at a destination before this identity is written there."""
        return self.direct and not self.refused


class Left(msgspec.Struct, frozen=True, array_like=True):
    """The last departure from a bed that was not its occupant's, as far as was known; it may be, under another number."""

    encounter: Reference
    recorded: Millis


class Head(msgspec.Struct, frozen=True, array_like=True):
    """Latest state of one entity.

    `position` is the landing offset last applied, in `epoch`: everything up to it is durable downstream.
    `revision` is that of the last accepted change; 0 while nothing was accepted. `ring` holds recent events (`ring.py`).
    """

    epoch: int
    position: int
    revision: Revision
    state_hash: str
    facility: str
    state: Payload
    clocks: dict[str, Clock]
    ring: msgspec.Raw
    event_id: EventId
    content_hash: str
    recorded_at: Millis
    received_at: Millis
    retired: Retired | None = None
    absorbed: tuple[Absorbed, ...] = ()
    left: Left | None = None

    def __repr__(self) -> str:
        return f"Head(epoch={self.epoch}, position={self.position}, <redacted>)"

    @property
    def at(self) -> Revision:
        """Epoch and position in one number: of two heads of an entity the greater is the later."""
        return Revision((self.epoch << OFFSET_BITS) | self.position)


class _Place(msgspec.Struct, frozen=True, array_like=True):
    """The beginning of a head: what follows is not read."""

    epoch: int
    position: int


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Head)
_PLACE_DECODER: Final = msgspec.msgpack.Decoder(_Place)
_HASH_ENCODER: Final = msgspec.json.Encoder(order="deterministic")
_PREFIX: Final = bytes([HEAD_VERSION])


class UnknownHeadVersion(ValueError):
    """A head was written by a later version of this code."""


def encode_head(head: Head) -> bytes:
    """Table value of a head."""
    return _PREFIX + _ENCODER.encode(head)


def decode_head(data: bytes) -> Head:
    """Inverse of `encode_head`."""
    return _DECODER.decode(_content(data))


def at_of(data: bytes) -> Revision:
    """`Head.at` of an encoded head, at a quarter of what `decode_head` costs."""
    place = _PLACE_DECODER.decode(_content(data))
    return Revision((place.epoch << OFFSET_BITS) | place.position)


def _content(data: bytes) -> memoryview:
    if data[:1] != _PREFIX:
        raise UnknownHeadVersion(f"head version {data[0] if data else 'none'}, known: {HEAD_VERSION}")
    return memoryview(data)[1:]


def state_hash_of(state: Payload) -> str:
    """16 hexadecimal digits over a state; equal states have equal hashes on every machine."""
    return hashlib.blake2b(_HASH_ENCODER.encode(state), digest_size=8).hexdigest()
