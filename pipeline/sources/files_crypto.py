"""Files that a partner encrypts to a key of ours: age (age-encryption.org/v1), X25519."""

from collections.abc import Iterable
from pathlib import Path
from typing import IO, Final

import pyrage

from pipeline.sources.files_folder import Decrypt, Measured, TooLong, Undecipherable

_IDENTITY: Final = "AGE-SECRET-KEY-"


def decryptor(key_files: Iterable[Path]) -> Decrypt:
    """Decrypts with any of the keys in these files, which are read each time: a key can be replaced while we run.

    Old keys are kept beside the new one until no partner encrypts to them any more.
    """
    paths = tuple(key_files)

    def decrypt(source: IO[bytes], out: Measured) -> None:
        identities = [identity for path in paths for identity in identities_of(path.read_text())]
        if not identities:
            raise Undecipherable
        try:
            pyrage.decrypt_io(source, out, identities)
        except TooLong:
            raise
        except Exception:  # noqa: BLE001 - its library has several, and wraps those of what it writes to; none may be shown
            if out.size > out.max_bytes:
                raise TooLong from None
            raise Undecipherable from None

    return decrypt


def identities_of(text: str) -> list[pyrage.x25519.Identity]:
    """The identities of a key file, as age-keygen writes it; ValueError where a line is none."""
    lines = [line.strip() for line in text.splitlines()]
    try:
        return [pyrage.x25519.Identity.from_str(line) for line in lines if line.startswith(_IDENTITY)]
    except pyrage.IdentityError:
        raise ValueError("not an age identity") from None
