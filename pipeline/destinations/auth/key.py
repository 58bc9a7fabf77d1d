"""The key that signs for us at a token endpoint, and the assertion that it signs (RFC 7523; SMART App Launch 2.2,
client-confidential-asymmetric). Pure."""

import enum
import json
from dataclasses import dataclass
from typing import Any, Final, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

Algorithm = Literal["ES384", "RS384"]

ASSERTION_LIFETIME_S: Final = 150
"""Half of the five minutes that SMART allows, so that a clock may be wrong by as much to either side."""

MIN_RSA_BITS: Final = 2048

_WRONG: Final = (JoseError, UnsupportedAlgorithm, ValueError, TypeError, KeyError, AttributeError)
"""What the libraries raise for a file that holds no key."""


class KeyProblem(enum.Enum):
    """Why a file is no key for us, in words for whoever wrote the settings."""

    NO_KEY = "holds no private key, neither PEM nor JWK"
    ENCRYPTED = "is encrypted with a pass phrase"
    PUBLIC = "holds a public key only"
    OTHER_ALGORITHM = "is not a key for the algorithm (ES384: curve P-384; RS384: RSA)"
    OTHER_USE = "is a JWK for another use, operation or algorithm"
    SHORT = f"holds an RSA key of fewer than {MIN_RSA_BITS} bits"


@dataclass(frozen=True, slots=True, repr=False)
class SigningKey:
    """A private key, checked, with the algorithm it is for and the id that the server knows it by."""

    key: ECKey | RSAKey
    algorithm: Algorithm
    key_id: str


def parse_signing_key(data: bytes, algorithm: Algorithm, key_id: str | None) -> SigningKey | KeyProblem:
    """The key in PEM (PKCS #8, SEC 1 or PKCS #1) or as a JWK (RFC 7517).

    Without a `key_id` it is known by the JWK's own `kid`, else by its thumbprint (RFC 7638).
    """
    text = data.strip()
    parsed = _jwk(text, algorithm) if text.startswith(b"{") else _pem(text)
    if isinstance(parsed, KeyProblem):
        return parsed
    private, own_id = parsed
    match algorithm, private:
        case "ES384", EllipticCurvePrivateKey(curve=SECP384R1()):
            key: ECKey | RSAKey = ECKey.import_key(private)
        case "RS384", RSAPrivateKey(key_size=size):
            if size < MIN_RSA_BITS:
                return KeyProblem.SHORT
            key = RSAKey.import_key(private)
        case _:
            return KeyProblem.OTHER_ALGORITHM
    return SigningKey(key, algorithm, key_id or own_id or key.thumbprint())


def assertion(key: SigningKey, client_id: str, audience: str, now_s: int, jti: str) -> str:
    """A signed assertion that we are `client_id`, for the token endpoint `audience`. `jti` is used once only.

    Only the claims that SMART asks for: a server with a clock behind ours would refuse an `iat` or `nbf`.
    """
    header = {"alg": key.algorithm, "kid": key.key_id, "typ": "JWT"}
    claims = {"iss": client_id, "sub": client_id, "aud": audience, "exp": now_s + ASSERTION_LIFETIME_S, "jti": jti}
    return jws.serialize_compact(header, json.dumps(claims), key.key, algorithms=[key.algorithm])


Private = EllipticCurvePrivateKey | RSAPrivateKey


def _pem(text: bytes) -> tuple[Private, None] | KeyProblem:
    if b"ENCRYPTED" in text:
        return KeyProblem.ENCRYPTED
    if b"PRIVATE KEY" not in text:
        return KeyProblem.PUBLIC if b"PUBLIC KEY" in text else KeyProblem.NO_KEY
    # `openssl ecparam -genkey` writes the curve before the key.
    start = text.rfind(b"-----BEGIN", 0, text.index(b"PRIVATE KEY"))
    try:
        private = load_pem_private_key(text[start:], None)
    except _WRONG:
        return KeyProblem.NO_KEY
    return (private, None) if isinstance(private, Private) else KeyProblem.OTHER_ALGORITHM


def _jwk(text: bytes, algorithm: Algorithm) -> tuple[Private, str | None] | KeyProblem:
    try:
        jwk: dict[str, Any] = json.loads(text)
        kinds: dict[str, type[ECKey] | type[RSAKey]] = {"EC": ECKey, "RSA": RSAKey}
        private = kinds[jwk["kty"]].import_key(jwk).private_key
    except _WRONG:
        return KeyProblem.NO_KEY
    if private is None:
        return KeyProblem.PUBLIC
    if jwk.get("use", "sig") != "sig" or jwk.get("alg", algorithm) != algorithm or "sign" not in jwk.get("key_ops", ("sign",)):
        return KeyProblem.OTHER_USE
    return private, jwk.get("kid")
