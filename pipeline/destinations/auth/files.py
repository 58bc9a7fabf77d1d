"""Files that are replaced while we run."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

LOOK_EVERY_S: Final = 1.0
"""A file is read again at most so often; a refused credential looks at once."""

MAX_FILE_BYTES: Final = 1_000_000

_UNREADABLE: Final = b"unreadable"


class WatchedFiles:
    """Contents of some files, told once after each change of any of them.

    Compared by content: neither a rotation that keeps size and time is missed, nor does a touched file count as one. Only
    a digest is kept. `monotonic` counts seconds.
    """

    def __init__(self, paths: Sequence[Path], monotonic: Callable[[], float]) -> None:
        self._paths = tuple(paths)
        self._monotonic = monotonic
        self._looked_at = float("-inf")
        self._seen = b""

    def changed(self, at_once: bool = False) -> tuple[bytes, ...] | None:
        """New contents, in the order of the paths; empty where one can't be read (any more); None without a change."""
        now = self._monotonic()
        if not at_once and now - self._looked_at < LOOK_EVERY_S:
            return None
        self._looked_at = now
        contents = read_all(self._paths)
        digest = digest_of(contents)
        if digest == self._seen:
            return None
        self._seen = digest
        return contents

    def is_still(self, contents: Sequence[bytes]) -> bool:
        """Whether the files hold this now; if not, they are told again at the next look."""
        still = read_all(self._paths) == tuple(contents)
        if not still:
            self._seen, self._looked_at = b"", float("-inf")
        return still


def read_all(paths: Sequence[Path]) -> tuple[bytes, ...]:
    """Contents of all, or nothing where one can't be read or is absurdly large."""
    contents = []
    for path in paths:
        try:
            with path.open("rb") as file:
                contents.append(file.read(MAX_FILE_BYTES + 1))
        except OSError:
            return ()
    return tuple(contents) if all(len(content) <= MAX_FILE_BYTES for content in contents) else ()


def digest_of(contents: Sequence[bytes]) -> bytes:
    """Tells contents apart without keeping them."""
    if not contents:
        return _UNREADABLE
    parts = hashlib.sha256()
    for content in contents:
        parts.update(hashlib.sha256(content).digest())
    return parts.digest()
