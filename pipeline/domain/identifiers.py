"""Identifiers: entity keys, derived event ids, revisions, and the partition of a key."""

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NewType

import msgspec

Millis = NewType("Millis", int)
"""Milliseconds since 1970-01-01T00:00:00Z."""

CLOCKS_MS: Final = 600_000
"""Clocks of two processes, or of one and a broker, may differ by so much: a read from a time on begins earlier by it."""

EventId = NewType("EventId", str)
"""32 lower-case hexadecimal digits: the first 16 bytes of a SHA-256."""

Revision = NewType("Revision", int)
"""Topic epoch and landing offset of an accepted record in one number, so that later is greater. 0 means none."""

NO_REVISION: Final = Revision(0)
OFFSET_BITS: Final = 44
OFFSET_MASK: Final = (1 << OFFSET_BITS) - 1
MAX_EPOCH: Final = 511
"""Keeps a revision below 2**53, so that a JSON reader in any language holds it exactly."""

SEPARATOR: Final = "|"
PARTS: Final = 4
"""Of an encoded entity key."""


def revision_of(epoch: int, offset: int) -> Revision:
    """Revision of the record at `offset` of a landing topic whose epoch is `epoch` (1 to 511)."""
    if not 1 <= epoch <= MAX_EPOCH or not 0 <= offset <= OFFSET_MASK:
        raise ValueError(f"epoch {epoch} or offset {offset} out of range")
    return Revision((epoch << OFFSET_BITS) | offset)


def epoch_and_offset(revision: Revision) -> tuple[int, int]:
    """Inverse of `revision_of`."""
    return revision >> OFFSET_BITS, revision & OFFSET_MASK


def show_revision(revision: Revision) -> str:
    """Text for people: `epoch.offset`, or `-` for none."""
    epoch, offset = epoch_and_offset(revision)
    return f"{epoch}.{offset}" if revision else "-"


class EntityKey(msgspec.Struct, frozen=True, order=True):
    """What an event is about: `<tenant>|<type>|<namespace>|<id>` in UTF-8 is its Kafka key.

    The namespace is the assigning authority, because "ICU-12" exists at two sites. `\\` escapes `|` and itself.
    """

    tenant: str
    entity_type: str
    namespace: str
    id: str

    def encode(self) -> bytes:
        """Kafka key."""
        plain = f"{self.tenant}|{self.entity_type}|{self.namespace}|{self.id}"
        if plain.count(SEPARATOR) == PARTS - 1 and "\\" not in plain:  # nothing to escape
            return plain.encode()
        return SEPARATOR.join(_escape(part) for part in (self.tenant, self.entity_type, self.namespace, self.id)).encode()

    @staticmethod
    def decode(key: bytes) -> "EntityKey":
        """Inverse of `encode`; ValueError where the key isn't one of ours."""
        parts = _split(key.decode("utf-8"))
        if len(parts) != PARTS or not all(parts):
            raise ValueError("an entity key has four parts, none of them empty: tenant|type|namespace|id")
        return EntityKey(*parts)


_TENANT: Final = re.compile(rb"((?:[^|\\]|\\.)*)\|", re.DOTALL)


def tenant_of(key: bytes) -> bytes:
    """Tenant of an encoded entity key, escaped as it stands there; empty where the key isn't one of ours."""
    found = _TENANT.match(key)
    return found[1] if found else b""


def _escape(part: str) -> str:
    return part.replace("\\", "\\\\").replace(SEPARATOR, "\\" + SEPARATOR) if ("\\" in part or SEPARATOR in part) else part


def _split(text: str) -> list[str]:
    if "\\" not in text:
        return text.split(SEPARATOR)
    parts, current, escaped = [], [], False
    for character in text:
        if escaped:
            current.append(character)
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == SEPARATOR:
            parts.append("".join(current))
            current = []
        else:
            current.append(character)
    parts.append("".join(current))
    return parts


def derive_event_id(tenant: str, source: str, message_identity: Sequence[str], key: EntityKey, ordinal: int) -> EventId:
    """The same message always makes the same ids.

    `message_identity` is what names the message at its source: an idempotency key with the client and item for HTTP;
    MSH-3, 4, 7 and 10 for HL7 v2; server, type, id and versionId for FHIR; source, content digest and row for a file.
    `ordinal` tells apart the events that one message makes. Each part is prefixed by its length: no two lists collide.
    """
    digest = hashlib.sha256(_message_prefix(tenant, source, tuple(message_identity)))
    digest.update(_prefixed(key.encode()) + _prefixed(str(ordinal).encode()))
    return EventId(digest.hexdigest()[:32])


@lru_cache(maxsize=2)
def _message_prefix(tenant: str, source: str, message_identity: tuple[str, ...]) -> bytes:
    """What the ids of all events of one message begin with; they are derived one after the other."""
    return b"".join([_prefixed(part.encode()) for part in (tenant, source, *message_identity)])


def _prefixed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def murmur2(data: bytes) -> int:
    """Kafka's 32-bit murmur2 (org.apache.kafka.common.utils.Utils.murmur2), as an unsigned number."""
    length, m, h = len(data), 0x5BD1E995, 0x9747B28C ^ len(data)
    for i in range(0, length - length % 4, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & 0xFFFFFFFF
        h = (h * m & 0xFFFFFFFF) ^ ((k ^ k >> 24) * m & 0xFFFFFFFF)
    tail = data[length - length % 4 :]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * m & 0xFFFFFFFF
    h = (h ^ h >> 13) * m & 0xFFFFFFFF
    return h ^ h >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """Partition that every producer uses for `key`: Kafka's default (and librdkafka's `murmur2_random`) for a keyed record."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions
