"""Files that a partner encrypts to a key of ours: age (age-encryption.org/v1), X25519."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeVar

import pyrage

from pipeline.carriers.protocol import NotAllowed, Readable
from pipeline.sources.files.folder import Decrypt, Measured, Undecipherable

T = TypeVar("T")
_IDENTITY: Final = "AGE-SECRET-KEY-"
MAX_HEADER_BYTES: Final = 128 * 1024
"""What is read before the first content comes: a header of hundreds of recipients, and one piece of 64 KiB. Its library reads a
header again from its start with each 8 KiB that come, so one without an end would never come to one."""


def decryptor(key_files: Iterable[Path]) -> Decrypt:
    """Decrypts with any of the keys in these files, which are read each time: a key can be replaced while we run.

    Old keys are kept beside the new one until no partner encrypts to them any more.
    """
    paths = tuple(key_files)

    def decrypt(source: Readable, out: Measured) -> None:
        try:
            identities = [identity for path in paths for identity in identities_of(path.read_text())]
        except (OSError, ValueError):
            # Not the sender's fault: its file waits, and an operator is told.
            raise NotAllowed("KEY_UNREADABLE") from None
        if not identities:
            raise Undecipherable
        ends = _Ends(source, out)
        try:
            pyrage.decrypt_io(ends, ends, identities)
        except Exception:  # noqa: BLE001 - its library has several, and wraps those of what it reads and writes; none may be shown
            if ends.fault is not None:
                raise ends.fault from None
            raise Undecipherable from None

    return decrypt


class _Ends:
    """Both ends of a decryption, and what went wrong at either: a connection that was lost is no fault of the file."""

    def __init__(self, source: Readable, out: Measured) -> None:
        self._source = source
        self._out = out
        self._header_bytes: int | None = 0
        self.fault: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        return self._noted(lambda: self._read(size))

    def _read(self, size: int) -> bytes:
        if self._header_bytes is not None and self._header_bytes > MAX_HEADER_BYTES:
            raise Undecipherable
        data = self._source.read(size)
        if self._header_bytes is not None:
            self._header_bytes += len(data)
        return data

    def write(self, data: bytes) -> int:
        self._header_bytes = None
        return self._noted(lambda: self._out.write(data))

    def flush(self) -> None:
        self._noted(self._out.flush)

    def _noted(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except Exception as fault:
            self.fault = fault
            raise


def identities_of(text: str) -> list[pyrage.x25519.Identity]:
    """The identities of a key file, as age-keygen writes it; ValueError where a line is none."""
    lines = [line.strip() for line in text.splitlines()]
    try:
        return [pyrage.x25519.Identity.from_str(line) for line in lines if line.startswith(_IDENTITY)]
    except pyrage.IdentityError:
        raise ValueError("not an age identity") from None
