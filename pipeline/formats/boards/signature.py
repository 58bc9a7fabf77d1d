"""The signature beside a board: who wrote it, what it was called, and when. Pure.

Beside `NAME` stands `NAME.jws`, a JWS in compact form (RFC 7515) by Ed25519 (RFC 8037), of type `surgeline-board`, over a
JSON object: the board's name, the SHA-256 of its bytes as they lie there, when it was written and as of when it is complete.
So neither its bytes, nor its name, nor the time and unit in it can be another's.
"""

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from joserfc.util import to_bytes

from pipeline.domain.identifiers import Millis
from pipeline.formats.rfc3339 import millis_of, rfc3339_of

SIGNING: Final = "Ed25519"
TYPE: Final = "surgeline-board"
MAX_SIGNATURE_BYTES: Final = 4 * 1024


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is signed."""

    file: str
    sha256: str
    made_at: str
    as_of: str | None


class BoardFlaw(enum.Enum):
    """Why a board is not shown to be whom it says it is from."""

    FORGED = "its signature is by none of these keys"
    OTHER_NAME = "it was signed under another name"
    CHANGED = "it was changed after it was signed"


@dataclass(frozen=True, slots=True)
class Signed:
    """Who wrote a board and when, and as of when it is complete; None where that was not known."""

    key_id: str
    made_at: Millis
    as_of: Millis | None


def sign_board(name: str, content: bytes, made_at: Millis, as_of: Millis | None, key: OKPKey, key_id: str) -> bytes:
    """The signature of a board that will lie there as `name`, with these bytes."""
    told = Statement(name, hashlib.sha256(content).hexdigest(), rfc3339_of(made_at), None if as_of is None else rfc3339_of(as_of))
    header = {"alg": SIGNING, "kid": key_id, "typ": TYPE}
    return to_bytes(jws.serialize_compact(header, msgspec.json.encode(told), key, algorithms=[SIGNING])) + b"\n"


def read_signature(name: str, content: bytes, signature: bytes, keys: Mapping[str, OKPKey]) -> Signed | BoardFlaw:
    """Who signed a board that lies there as `name`, with these bytes. `keys`: public keys by the id that they sign under."""
    for key_id, key in keys.items():
        try:
            found = jws.deserialize_compact(signature.strip(), key, algorithms=[SIGNING])
            header = found.headers()
            told = msgspec.json.decode(found.payload, type=Statement)
        except (JoseError, msgspec.MsgspecError, ValueError, TypeError, AttributeError):
            continue
        if header.get("kid") == key_id and header.get("typ") == TYPE:
            return _judged(name, content, told, key_id)
    return BoardFlaw.FORGED


def _judged(name: str, content: bytes, told: Statement, key_id: str) -> Signed | BoardFlaw:
    made_at = millis_of(told.made_at)
    if made_at is None:
        return BoardFlaw.FORGED
    if told.file != name:
        return BoardFlaw.OTHER_NAME
    if told.sha256 != hashlib.sha256(content).hexdigest():
        return BoardFlaw.CHANGED
    return Signed(key_id, made_at, None if told.as_of is None else millis_of(told.as_of))
