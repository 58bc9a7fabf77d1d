"""A manifest says what its signer wrote, or breaks a rule that is named without a value of it."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, OKPKey

from pipeline.domain.files.life import FileReason, Flaw, Manifest
from pipeline.formats.manifest import MAX_MANIFEST_BYTES, check_signature, public_key, read_manifest, sign, write_manifest
from tests.support.files_in import KEY, KEY_ID, PUBLIC, census, manifest_of

MANIFEST = manifest_of(census(3))
WRITTEN = write_manifest(MANIFEST)
KEYS = {KEY_ID: PUBLIC}


def changed(**said: Any) -> bytes:
    return json.dumps({**json.loads(WRITTEN), **said}).encode()


def test_what_is_written_is_read_again() -> None:
    assert read_manifest(WRITTEN) == MANIFEST


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"", ""),
        (b"\xff\xfe{", ""),
        (b"[]", ""),
        (changed(created_at="2026-01-05 06:00"), "created_at"),
        (changed(created_at="Zzyzx"), "created_at"),
        (changed(sha256="A" * 64), "sha256"),
        (changed(records=-1), "records"),
        (changed(records="3"), "records"),
        (changed(manifest_version=2), "manifest_version"),
        (changed(key_id="../../etc"), "key_id"),
        (changed(expected={"not_before": "2026-01-06T00:00:00Z", "not_after": "2026-01-05T00:00:00Z"}), "expected"),
        (changed(recrods=3), ""),
        (json.dumps({name: value for name, value in json.loads(WRITTEN).items() if name != "records"}).encode(), "records"),
        (b"{" + b" " * MAX_MANIFEST_BYTES + b"}", ""),
        (b"[" * 15_000, ""),
    ],
)
def test_what_breaks_a_rule_is_refused_with_the_member_and_without_its_value(data: bytes, field: str) -> None:
    flaw = read_manifest(data)
    assert isinstance(flaw, Flaw)
    assert (flaw.why, flaw.field) == (FileReason.BAD_MANIFEST, field)
    assert "Zzyzx" not in repr(flaw)
    assert flaw.remedy


def test_a_manifest_shows_nothing_of_itself() -> None:
    assert "census" not in repr(MANIFEST)
    assert isinstance(MANIFEST, Manifest)


def test_a_true_signature_holds_under_either_name_of_the_algorithm() -> None:
    assert check_signature(WRITTEN, sign(WRITTEN, KEY, KEY_ID), KEY_ID, KEYS) is None
    old = jws.detach_content(jws.serialize_compact({"alg": "EdDSA", "kid": KEY_ID}, WRITTEN, KEY, algorithms=["EdDSA"]))
    assert check_signature(WRITTEN, old.encode(), KEY_ID, KEYS) is None


def test_one_byte_changed_and_the_signature_proves_nothing() -> None:
    signature = sign(WRITTEN, KEY, KEY_ID)
    for place in (0, len(WRITTEN) // 2, len(WRITTEN) - 1):
        other = WRITTEN[:place] + bytes([WRITTEN[place] ^ 1]) + WRITTEN[place + 1 :]
        assert _why(check_signature(other, signature, KEY_ID, KEYS)) is FileReason.BAD_SIGNATURE


def test_a_key_that_we_were_not_given_or_another_s_key_proves_nothing() -> None:
    other = OKPKey.generate_key("Ed25519")
    assert _why(check_signature(WRITTEN, sign(WRITTEN, KEY, "k9"), "k9", KEYS)) is FileReason.UNKNOWN_KEY
    assert _why(check_signature(WRITTEN, sign(WRITTEN, other, KEY_ID), KEY_ID, KEYS)) is FileReason.BAD_SIGNATURE
    assert _why(check_signature(WRITTEN, sign(WRITTEN, KEY, "k2"), KEY_ID, KEYS)) is FileReason.BAD_SIGNATURE


def test_the_header_does_not_choose_the_algorithm() -> None:
    """Signed by a MAC with what is public of the key as its secret, or not at all: the classic ways to forge one."""
    secret = OctKey.import_key(PUBLIC.as_dict(private=False)["x"])
    mac = jws.detach_content(jws.serialize_compact({"alg": "HS256", "kid": KEY_ID}, WRITTEN, secret, algorithms=["HS256"]))
    none = "eyJhbGciOiJub25lIiwia2lkIjoiazEifQ.."
    for forged in (mac, none, "", "a.b.c", "..", "\xff", "eyJhbGciOiJFZDI1NTE5In0.." + "A" * 86):
        assert _why(check_signature(WRITTEN, forged.encode("latin-1"), KEY_ID, KEYS)) is FileReason.BAD_SIGNATURE


def test_only_the_public_half_of_an_ed25519_key_is_taken_for_a_senders_key() -> None:
    assert public_key(PUBLIC.as_pem(private=False)) is not None
    assert public_key(KEY.as_pem(private=True)) is None
    assert public_key(ECKey.generate_key("P-256").as_pem(private=False)) is None
    assert public_key(b"no key") is None


@pytest.mark.skipif(shutil.which("openssl") is None or shutil.which("basenc") is None, reason="no openssl or basenc here")
def test_the_recipe_of_the_page_signs_a_manifest_that_we_take(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs/operating/files.md").read_text()
    recipe = page.partition("```sh\nhead=")[2].partition("```")[0]
    (tmp_path / "partner.pem").write_bytes(KEY.as_pem(private=True))
    (tmp_path / "x.csv.manifest").write_bytes(WRITTEN)
    known = {"PATH": os.environ["PATH"], "NAME": "x.csv", "KEY_ID": KEY_ID}
    subprocess.run(["sh", "-ec", f"head={recipe}"], cwd=tmp_path, env=known, check=True, timeout=60)
    assert check_signature(WRITTEN, (tmp_path / "x.csv.manifest.jws").read_bytes(), KEY_ID, KEYS) is None


def _why(flaw: Flaw | None) -> FileReason | None:
    return flaw.why if flaw is not None else None
