"""The signature of a checkpoint of the audit chains: a detached JWS (RFC 7515, appendix F) by Ed25519 (RFC 8037). Pure."""

from collections.abc import Mapping
from typing import Final

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from joserfc.util import to_bytes, urlsafe_b64decode, urlsafe_b64encode

from pipeline.domain.accounts.checkpoints import Read, SignedCheckpoint, Statement, read_statement
from pipeline.domain.identifiers import Millis
from pipeline.formats.manifest import SIGNING, sign

UNKNOWN_KEY: Final = "no key of its name is known"
BAD_SIGNATURE: Final = "its signature does not hold"


def sign_statement(statement: Statement, key: OKPKey) -> SignedCheckpoint:
    """A statement with the signature over its bytes."""
    said = statement.encode()
    return SignedCheckpoint(
        sequence=statement.sequence,
        at=Millis(statement.at),
        instance=statement.instance,
        key_id=statement.key_id,
        statement=said,
        signature=sign(said, key, statement.key_id).strip(),
    )


def read_checkpoint(record: SignedCheckpoint, keys: Mapping[str, OKPKey]) -> Read:
    """What a checkpoint proves; `keys` are public ones by id, and the algorithm is ours to choose, never the header's."""
    key = keys.get(record.key_id)
    if key is None:
        return read_statement(record, False, UNKNOWN_KEY)
    return read_statement(record, _holds(record, key), BAD_SIGNATURE)


def _holds(record: SignedCheckpoint, key: OKPKey) -> bool:
    try:
        found = jws.deserialize_compact(record.signature, key, algorithms=[SIGNING], payload=record.statement)
        is_named = found.headers() == {"alg": SIGNING, "kid": record.key_id}
    except (JoseError, ValueError, TypeError, AttributeError):
        return False
    return is_named and _is_canonical(record.signature)


def _is_canonical(signature: bytes) -> bool:
    """Whether no other bytes say the same: the last digit of base64 has bits that mean nothing (RFC 4648, section 3.5)."""
    last = signature.rpartition(b".")[2]
    return to_bytes(urlsafe_b64encode(urlsafe_b64decode(last))) == last
