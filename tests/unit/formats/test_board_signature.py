"""A board's signature: it holds for these bytes under this name by this key, and for nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import OctKey, OKPKey

from pipeline.domain.identifiers import Millis
from pipeline.formats.boards.signature import TYPE, BoardFlaw, Signed, read_signature, sign_board

KEY = OKPKey.generate_key("Ed25519")
PUBLIC = OKPKey.import_key(KEY.as_pem(private=False))
KEYS = {"old": OKPKey.import_key(OKPKey.generate_key("Ed25519").as_pem(private=False)), "k": PUBLIC}
NAME, CONTENT, MADE = "ICU-20260105T061500Z.html.age", b"sealed" * 20, Millis(1_767_593_700_000)
SIGNATURE = sign_board(NAME, CONTENT, MADE, None, KEY, "k")


def test_it_says_who_wrote_it_when_and_as_of_when() -> None:
    assert read_signature(NAME, CONTENT, SIGNATURE, KEYS) == Signed("k", MADE, None)
    told = sign_board(NAME, CONTENT, MADE, Millis(MADE - 1_000), KEY, "k")
    assert read_signature(NAME, CONTENT, told, KEYS) == Signed("k", MADE, Millis(MADE - 1_000))


def test_another_name_other_bytes_and_another_key_are_told_apart() -> None:
    assert read_signature(f"x{NAME}", CONTENT, SIGNATURE, KEYS) is BoardFlaw.OTHER_NAME
    assert read_signature(NAME, CONTENT + b"x", SIGNATURE, KEYS) is BoardFlaw.CHANGED
    assert read_signature(NAME, CONTENT, SIGNATURE, {"old": KEYS["old"]}) is BoardFlaw.FORGED
    assert read_signature(NAME, CONTENT, SIGNATURE, {"other": PUBLIC}) is BoardFlaw.FORGED, "the id is signed too"
    assert read_signature(NAME, CONTENT, SIGNATURE, {}) is BoardFlaw.FORGED


@given(st.integers(0, len(SIGNATURE) - 2), st.integers(1, 255))
def test_a_changed_byte_of_the_signature_proves_nothing(at: int, by: int) -> None:
    changed = bytearray(SIGNATURE)
    changed[at] ^= by
    found = read_signature(NAME, CONTENT, bytes(changed), KEYS)
    # Bits that base64 does not use, and white space around it, change nothing that was said.
    assert found is BoardFlaw.FORGED or found == Signed("k", MADE, None)


@given(st.binary(max_size=300))
def test_no_bytes_are_a_signature_by_chance(data: bytes) -> None:
    assert read_signature(NAME, CONTENT, data, KEYS) is BoardFlaw.FORGED


@pytest.mark.parametrize("header", [{"alg": "Ed25519", "kid": "k"}, {"alg": "Ed25519", "kid": "k", "typ": "other"}])
def test_a_signature_of_the_same_key_for_something_else_is_none(header: dict[str, str]) -> None:
    for payload in (b"{}", jws.extract_compact(SIGNATURE.strip()).payload):
        other = jws.serialize_compact(header, payload, KEY, algorithms=["Ed25519"])
        assert read_signature(NAME, CONTENT, other.encode(), KEYS) is BoardFlaw.FORGED


def test_the_header_chooses_no_algorithm() -> None:
    header = {"alg": "HS256", "kid": "k", "typ": TYPE}
    secret = OctKey.import_key(str(PUBLIC.as_dict()["x"]))
    forged = jws.serialize_compact(header, jws.extract_compact(SIGNATURE.strip()).payload, secret)
    assert read_signature(NAME, CONTENT, forged.encode(), KEYS) is BoardFlaw.FORGED
