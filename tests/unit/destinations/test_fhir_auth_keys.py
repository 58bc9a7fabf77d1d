"""Keys that sign for us, and the files that hold them."""

import json
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from pipeline.destinations.auth.files import LOOK_EVERY_S, MAX_FILE_BYTES, WatchedFiles
from pipeline.destinations.auth.key import (
    ASSERTION_LIFETIME_S,
    Algorithm,
    KeyProblem,
    Private,
    SigningKey,
    assertion,
    parse_signing_key,
)
from tests.support.token_server import NOW_S, HandClock, ec_key, jwk, pem, rsa_key, write

EC, RSA = ec_key(), rsa_key()
AUDIENCE = "https://ehr.example.org/token"


def parsed(data: bytes, algorithm: Algorithm, key_id: str | None = None) -> SigningKey:
    key = parse_signing_key(data, algorithm, key_id)
    assert isinstance(key, SigningKey), key
    return key


FORMS: list[tuple[Private, Algorithm, bytes]] = [
    (EC, "ES384", pem(EC)),
    (EC, "ES384", pem(EC, PrivateFormat.TraditionalOpenSSL)),
    (EC, "ES384", b"-----BEGIN EC PARAMETERS-----\nBgUrgQQAIg==\n-----END EC PARAMETERS-----\n" + pem(EC)),
    (EC, "ES384", b"\n " + json.dumps(jwk(EC)).encode()),
    (RSA, "RS384", pem(RSA)),
    (RSA, "RS384", pem(RSA, PrivateFormat.TraditionalOpenSSL)),
    (RSA, "RS384", json.dumps(jwk(RSA, use="sig", alg="RS384", key_ops=["sign"])).encode()),
]


@pytest.mark.parametrize(("private", "algorithm", "data"), FORMS)
def test_an_assertion_says_what_smart_asks_for_and_nothing_else(private: Private, algorithm: Algorithm, data: bytes) -> None:
    signed = assertion(parsed(data, algorithm, "k1"), "us", AUDIENCE, NOW_S, "once")
    kind = ECKey if isinstance(private, ec.EllipticCurvePrivateKey) else RSAKey
    token = jwt.decode(signed, kind.import_key(private.public_key()), algorithms=[algorithm])
    assert token.header == {"alg": algorithm, "kid": "k1", "typ": "JWT"}
    assert token.claims == {"iss": "us", "sub": "us", "aud": AUDIENCE, "exp": NOW_S + ASSERTION_LIFETIME_S, "jti": "once"}
    assert ASSERTION_LIFETIME_S <= 300


def test_a_key_is_known_by_the_id_that_we_name_else_by_its_own_else_by_its_thumbprint() -> None:
    named = json.dumps(jwk(EC, kid="its-own")).encode()
    assert parsed(named, "ES384", "ours").key_id == "ours"
    assert parsed(named, "ES384").key_id == "its-own"
    assert parsed(pem(EC), "ES384").key_id == ECKey.import_key(EC).thumbprint()


def encrypted() -> bytes:
    return EC.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pass"))


def legacy_encrypted() -> bytes:
    return EC.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"pass"))


def public() -> bytes:
    return EC.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def edwards() -> bytes:
    return ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    ("data", "algorithm", "problem"),
    [
        (b"", "ES384", KeyProblem.NO_KEY),
        (b"\x00\xff", "ES384", KeyProblem.NO_KEY),
        (b"{", "ES384", KeyProblem.NO_KEY),
        (b"{}", "ES384", KeyProblem.NO_KEY),
        (b'{"kty": []}', "ES384", KeyProblem.NO_KEY),
        (b'{"kty": "EC", "crv": "P-384", "d": 7}', "ES384", KeyProblem.NO_KEY),
        (b'{"kty": "oct", "k": "c2VjcmV0"}', "ES384", KeyProblem.NO_KEY),
        (json.dumps(jwk(EC, d="AAAA")).encode(), "ES384", KeyProblem.NO_KEY),
        (json.dumps(jwk(EC, kty="RSA")).encode(), "RS384", KeyProblem.NO_KEY),
        (json.dumps(jwk(EC, kid=7)).encode(), "ES384", KeyProblem.NO_KEY),
        (pem(EC)[:90], "ES384", KeyProblem.NO_KEY),
        (pem(EC).replace(b"M", b"*"), "ES384", KeyProblem.NO_KEY),
        (encrypted(), "ES384", KeyProblem.ENCRYPTED),
        (legacy_encrypted(), "ES384", KeyProblem.ENCRYPTED),
        (public(), "ES384", KeyProblem.PUBLIC),
        (json.dumps(jwk(EC, private=False)).encode(), "ES384", KeyProblem.PUBLIC),
        (json.dumps(jwk(RSA, private=False)).encode(), "RS384", KeyProblem.PUBLIC),
        (pem(EC), "RS384", KeyProblem.OTHER_ALGORITHM),
        (pem(RSA), "ES384", KeyProblem.OTHER_ALGORITHM),
        (pem(ec.generate_private_key(ec.SECP256R1())), "ES384", KeyProblem.OTHER_ALGORITHM),
        (edwards(), "ES384", KeyProblem.OTHER_ALGORITHM),
        (json.dumps(jwk(EC, use="enc")).encode(), "ES384", KeyProblem.OTHER_USE),
        (json.dumps(jwk(EC, alg="ES256")).encode(), "ES384", KeyProblem.OTHER_USE),
        (json.dumps(jwk(EC, key_ops=["deriveBits"])).encode(), "ES384", KeyProblem.OTHER_USE),
        (pem(rsa_key(1024)), "RS384", KeyProblem.SHORT),
    ],
    ids=map(str, range(25)),  # not by the keys, which are other ones in each process
)
def test_a_file_that_is_no_key_for_us_has_a_reason(data: bytes, algorithm: Algorithm, problem: KeyProblem) -> None:
    assert parse_signing_key(data, algorithm, None) is problem


def test_no_representation_shows_a_key() -> None:
    shown = json.dumps(jwk(EC))
    key = parsed(shown.encode(), "ES384")
    assert jwk(EC)["d"] not in repr(key) + str(key) + repr(key.key)


def test_files_are_told_once_after_each_change_of_content_and_not_when_they_are_touched(tmp_path: Path) -> None:
    clock = HandClock()
    first, second = write(tmp_path / "a", "1"), write(tmp_path / "b", "2")
    files = WatchedFiles((first, second), clock)
    assert files.changed() == (b"1", b"2")
    write(first, "3")
    assert files.changed() is None  # looked just now
    assert files.changed(at_once=True) == (b"3", b"2")
    clock.now_s += LOOK_EVERY_S
    second.touch()
    assert files.changed() is None
    stat = first.stat()
    write(first, "4")
    os.utime(first, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    clock.now_s += LOOK_EVERY_S
    assert files.changed() == (b"4", b"2")


def test_a_file_that_goes_is_told_once_as_nothing_and_so_is_one_that_is_absurdly_large(tmp_path: Path) -> None:
    clock = HandClock()
    path = write(tmp_path / "a", "1")
    files = WatchedFiles((path,), clock)
    assert files.changed() == (b"1",)
    path.unlink()
    assert files.changed(at_once=True) == ()
    assert files.changed(at_once=True) is None
    write(path, b"0" * (MAX_FILE_BYTES + 1))
    assert files.changed(at_once=True) is None
    write(path, "1")
    assert files.changed(at_once=True) == (b"1",)


def test_a_file_behind_a_link_that_is_turned_is_seen_to_change(tmp_path: Path) -> None:
    old, new = write(tmp_path / "old", "1"), write(tmp_path / "new", "2")
    link = tmp_path / "link"
    link.symlink_to(old)
    files = WatchedFiles((link,), HandClock())
    assert files.changed() == (b"1",)
    (tmp_path / "next").symlink_to(new)
    (tmp_path / "next").replace(link)
    assert files.changed(at_once=True) == (b"2",)
