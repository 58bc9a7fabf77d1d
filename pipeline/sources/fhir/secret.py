"""The secret that a server's notifications must bear. Its file is read anew each time: it is rotated without a restart."""

import hashlib
import hmac
from pathlib import Path
from typing import Final

SCHEME: Final = "Bearer "


class HookSecret:
    """The lines of one file: the first is given to the server, each is known. The representation shows none."""

    def __init__(self, file: Path) -> None:
        """Reads the file; OSError where it can't be."""
        self._file = file
        self._lines = _lines(file.read_text())

    def current(self) -> str:
        """What the server is told to send."""
        return self._read()[0]

    def known(self, header: str | None) -> bool:
        """Whether the header Authorization bears one of the secrets. Takes as long for any answer."""
        given = hashlib.sha256((header or "").encode("utf-8", "surrogateescape")).digest()
        found = False
        for line in self._read():
            found |= hmac.compare_digest(given, hashlib.sha256((SCHEME + line).encode()).digest())
        return found

    def _read(self) -> list[str]:
        """The lines; those of before while the file is away or empty, as it is for a moment when it is replaced."""
        try:
            self._lines = _lines(self._file.read_text()) or self._lines
        except (OSError, UnicodeDecodeError):
            return self._lines
        return self._lines

    def __repr__(self) -> str:
        return "HookSecret(<redacted>)"


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
