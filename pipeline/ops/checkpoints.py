"""The signed checkpoints of the audit chains, as they lie on the topic `checkpoints`, and the keys that they are signed with."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from pipeline.domain.accounts.checkpoints import Read, SignedCheckpoint
from pipeline.formats.checkpoint import read_checkpoint
from pipeline.formats.manifest import public_key
from pipeline.ops.topics import Decoder, Topics, decoded
from pipeline.settings.sections.accounts import AuditSettings
from pipeline.settings.sections.base import DEMO_KEY
from pipeline.topology import CHECKPOINTS

WINDOW: Final = 100
"""Checkpoints from the end that a starting auditor looks at first; each further look goes ten times as far back."""


class BadAuditKey(Exception):
    """A key for checkpoints can't be used; the text names setting and remedy."""


def signing_key(section: AuditSettings, demo: bool) -> OKPKey:
    """The private key that checkpoints are signed with; the demo's own where a demo names none. BadAuditKey."""
    if section.key_file is None:
        if not demo:
            raise BadAuditKey("audit.key_file: missing. Write: openssl genpkey -algorithm ed25519 -out audit.key")
        return OKPKey.import_key(_demo_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    try:
        key = OKPKey.import_key(section.key_file.read_bytes())
    except (OSError, JoseError, ValueError, TypeError, AttributeError):
        key = None
    if key is None or not key.is_private or key.curve_name != "Ed25519":
        raise BadAuditKey("audit.key_file: no Ed25519 private key. Write: openssl genpkey -algorithm ed25519 -out audit.key")
    return key


def public_keys(section: AuditSettings, demo: bool) -> dict[str, OKPKey]:
    """Public keys by id that checkpoints may have been signed with. BadAuditKey."""
    keys: dict[str, OKPKey] = {}
    for each in section.keys:
        key = _read_public(each.public_file)
        if key is None:
            raise BadAuditKey(
                f"audit.keys: {each.key_id} is no Ed25519 public key. Write: openssl pkey -in audit.key -pubout -out audit.pub"
            )
        keys[each.key_id] = key
    if demo and section.key_file is None:
        pem = _demo_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        keys.setdefault(section.key_id, OKPKey.import_key(pem))
    return keys


def _demo_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(DEMO_KEY)


def _read_public(path: Path) -> OKPKey | None:
    try:
        return public_key(path.read_bytes())
    except OSError:
        return None


def read_checkpoints(topics: Topics, decoder: Decoder) -> Iterator[SignedCheckpoint]:
    """All checkpoints in the topic's order. KafkaUnavailable."""
    for message in topics.read(CHECKPOINTS, topics.begin(CHECKPOINTS), topics.end(CHECKPOINTS)):
        record = decoded(decoder, message)
        if isinstance(record, SignedCheckpoint):
            yield record


def newest_good(topics: Topics, decoder: Decoder, keys: Mapping[str, OKPKey]) -> tuple[Read | None, int]:
    """The newest checkpoint that proves something, and how many behind it prove nothing. Reads backwards from the end."""
    begin, end = topics.begin(CHECKPOINTS).get(0, 0), topics.end(CHECKPOINTS).get(0, 0)
    stop, window, bad = end, WINDOW, 0
    while stop > begin:
        start = max(begin, stop - window)
        found: list[Read] = []
        for message in topics.read(CHECKPOINTS, {0: start}, {0: stop}):
            record = decoded(decoder, message)
            if isinstance(record, SignedCheckpoint):
                found.append(read_checkpoint(record, keys))
        good = max((place for place, each in enumerate(found) if each.statement), default=None)
        if good is not None:
            return found[good], bad + len(found) - 1 - good
        bad, stop, window = bad + len(found), start, window * 10
    return None, bad


def export(record: SignedCheckpoint) -> bytes:
    """A checkpoint as a file, to be kept where nobody of this cluster can write: JSON, bytes as base64."""
    return msgspec.json.format(msgspec.json.encode(record)) + b"\n"


def imported(data: bytes) -> SignedCheckpoint:
    """Inverse of `export`; msgspec.DecodeError."""
    return msgspec.json.decode(data, type=SignedCheckpoint)


def judged(records: Sequence[SignedCheckpoint], keys: Mapping[str, OKPKey]) -> list[Read]:
    """What each proves."""
    return [read_checkpoint(record, keys) for record in records]
