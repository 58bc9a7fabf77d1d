"""Encrypted files: for our key, whole, no longer than agreed; a key can be replaced while we run."""

import hashlib
import io
import os
from pathlib import Path

import pyrage
import pytest

from pipeline.sources.files.crypto import MAX_HEADER_BYTES, decryptor, identities_of
from pipeline.sources.files.folder import Measured, TooLong, Undecipherable
from tests.support.files_desk import Office, run_once
from tests.support.files_in import NAME, census, manifest_of, place, put
from tests.unit.sources.test_files import Sink


def key(path: Path) -> pyrage.x25519.Recipient:
    identity = pyrage.x25519.Identity.generate()
    path.write_text(f"# created: today\n# public key: {identity.to_public()}\n{identity}\n")
    return identity.to_public()


def decrypted(data: bytes, *keys: Path, max_bytes: int = 1 << 30) -> Measured:
    out = Measured(io.BytesIO(), max_bytes)
    decryptor(keys)(io.BytesIO(data), out)
    return out


def test_what_is_encrypted_to_any_key_of_ours_is_read_and_measured_in_plain(tmp_path: Path) -> None:
    old, new = key(tmp_path / "old"), key(tmp_path / "new")
    content = os.urandom(300_000)
    for recipients in ([old], [new], [old, new]):
        out = decrypted(pyrage.encrypt(content, recipients), tmp_path / "new", tmp_path / "old")
        assert (out.size, out.sha256.hexdigest()) == (len(content), hashlib.sha256(content).hexdigest())


def test_what_is_for_somebody_else_cut_off_or_changed_is_not_read(tmp_path: Path) -> None:
    mine, other = key(tmp_path / "mine"), key(tmp_path / "other")
    data = pyrage.encrypt(b"x" * 200_000, [mine])
    for bad in (pyrage.encrypt(b"x", [other]), data[:-1], data[:70_000], data[:-5] + b"00000", b"", b"plain,text\r\n"):
        with pytest.raises(Undecipherable):
            decrypted(bad, tmp_path / "mine")
    with pytest.raises(Undecipherable):
        decrypted(data)


def test_a_small_file_with_a_large_content_is_given_up_at_the_limit(tmp_path: Path) -> None:
    data = pyrage.encrypt(b"\x00" * 5_000_000, [key(tmp_path / "mine")])
    with pytest.raises(TooLong):
        decrypted(data, tmp_path / "mine", max_bytes=1_000_000)


def test_a_header_without_an_end_is_given_up_before_it_stops_everything(tmp_path: Path) -> None:
    class Endless(io.BytesIO):
        given = 0

        def read(self, size: int | None = -1) -> bytes:
            begin = b"" if self.given else b"age-encryption.org/v1\n-> X25519 aaaa\n"
            data = begin + (b"A" * 64 + b"\n") * 100
            self.given += len(data)
            return data[: size or 0]

    key(tmp_path / "mine")
    source = Endless()
    with pytest.raises(Undecipherable):
        decryptor([tmp_path / "mine"])(source, Measured(io.BytesIO(), 1 << 30))
    assert source.given < 2 * MAX_HEADER_BYTES


def test_a_file_for_many_recipients_is_read(tmp_path: Path) -> None:
    mine = key(tmp_path / "mine")
    others = [pyrage.x25519.Identity.generate().to_public() for _ in range(200)]
    assert decrypted(pyrage.encrypt(b"x" * 200_000, [*others, mine]), tmp_path / "mine").size == 200_000


def test_a_key_file_is_as_age_keygen_writes_it(tmp_path: Path) -> None:
    key(tmp_path / "mine")
    assert len(identities_of((tmp_path / "mine").read_text())) == 1
    with pytest.raises(ValueError, match="not an age identity"):
        identities_of("AGE-SECRET-KEY-1NOTONE")


async def test_an_encrypted_file_is_taken_and_is_the_same_file_as_its_plain_one(tmp_path: Path) -> None:
    ours = key(tmp_path / "mine")
    office, sink, content = Office(tmp_path), Sink(), census(20)
    office.decrypt = decryptor([tmp_path / "mine"])
    manifest = manifest_of(content, f"{NAME}.age", records=20)
    put(office.incoming, content, manifest, data=pyrage.encrypt(content, [ours]))
    await run_once(office, sink)
    assert (office.ack(NAME) or {}).get("outcome") == "taken"
    assert len(sink.events) == 20
    put(office.incoming, content, manifest_of(content))
    await run_once(office, sink)
    assert (len(sink.raw), len(office.observed.again)) == (1, 1)


async def test_a_file_for_another_key_is_refused_and_a_new_key_is_known_without_a_restart(tmp_path: Path) -> None:
    first = key(tmp_path / "mine")
    office, sink, content = Office(tmp_path), Sink(), census(20)
    office.decrypt = decryptor([tmp_path / "mine"])
    desk = office.desk()
    second = key(tmp_path / "mine")
    manifest = manifest_of(content, f"{NAME}.age", records=20)
    put(office.incoming, content, manifest, data=pyrage.encrypt(content, [first]))
    await run_once(office, sink, desk)
    assert (office.ack(NAME) or {}).get("reason") == "UNREADABLE"
    put(office.incoming, content, manifest, data=pyrage.encrypt(content, [second]))
    await run_once(office, sink, desk)
    assert (office.ack(NAME) or {}).get("outcome") == "taken"
    assert list(office.copies.iterdir()) == []


async def test_a_partner_that_must_encrypt_is_not_heard_in_plain(tmp_path: Path) -> None:
    office, sink = Office(tmp_path), Sink()
    office.must_encrypt = True
    place(office.incoming / NAME, census(1))
    await run_once(office, sink)
    assert [state.why.value for state in office.observed.settled_as] == ["UNKNOWN_NAME"]
