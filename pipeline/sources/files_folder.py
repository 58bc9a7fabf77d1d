"""The folder of one sender, where files come in and go away. Nothing in it is trusted: links are never followed.

    incoming/   the sender puts NAME, then NAME.manifest, then NAME.manifest.jws, each written aside and renamed
    taken/      what was taken, or had been taken before
    rejected/   what was not
    acks/       NAME.ack.json: what became of NAME

A file is copied to a folder of ours before it is believed: what is landed later are the very bytes that were checked,
whatever its sender does with it meanwhile. Of two processes that watch one folder, one holds its lock at a time.
"""

import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from pipeline.domain.file_life import FileReason, Flaw, Part
from pipeline.domain.identifiers import Millis
from pipeline.formats.manifest import MANIFEST_SUFFIX, MAX_MANIFEST_BYTES, MAX_SIGNATURE_BYTES, SIGNATURE_SUFFIX

INCOMING: Final = "incoming"
TAKEN: Final = "taken"
REJECTED: Final = "rejected"
ACKS: Final = "acks"
LOCK: Final = ".surgeline.lock"
ENCRYPTED: Final = ".age"
"""Ending of a file that is encrypted (age-encryption.org/v1)."""

TEMPORARY: Final = (".tmp", ".part", ".partial", ".filepart", ".crdownload", ".swp", ".lock", "~")
"""Endings that programs give to what they are still writing; so do names that begin with a dot or ~."""
MAX_NAMES: Final = 10_000
"""Most names that are looked at in one round; the others wait for the next, as the first are put away."""
MAX_ACK_BYTES: Final = 1 << 20
COPY_BYTES: Final = 1 << 20
MAX_SAME_NAMES: Final = 10_000
"""Most files of one name in `taken` or `rejected`; then the oldest of the plain name is replaced."""

Decrypt = Callable[[IO[bytes], "Measured"], None]
"""Reads an encrypted file and writes its plain content; raises `Undecipherable`."""


class Undecipherable(Exception):
    """A file that is not encrypted for us, or not whole."""


@dataclass(slots=True)
class Arrival:
    """What lies in `incoming` under one name."""

    name: str
    data: Part | None = None
    manifest: bytes | None = None
    manifest_since: Millis | None = None
    signature: bytes | None = None
    signature_since: Millis | None = None
    stamps: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """Of each part what changes with its content: inode, length, time of change."""

    def __repr__(self) -> str:
        return "Arrival(<redacted>)"


@dataclass(slots=True)
class Measured:
    """Writes to a copy, and knows its length and digest. Raises `TooLong` beyond `max_bytes`."""

    out: IO[bytes]
    max_bytes: int
    size: int = 0
    sha256: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def write(self, data: bytes) -> int:
        """Append."""
        self.size += len(data)
        if self.size > self.max_bytes:
            raise TooLong
        self.sha256.update(data)
        return self.out.write(data)

    def flush(self) -> None:
        """Hand on what is buffered."""
        self.out.flush()


class TooLong(Exception):
    """More content than a file may have."""


@dataclass(frozen=True, slots=True)
class Copied:
    """Our copy of a file's plain content."""

    path: Path
    size: int
    sha256: str


class Folder:
    """One sender's folder, and ours for copies. Every method may block; none follows a link or leaves the two folders."""

    def __init__(self, root: Path, copies: Path) -> None:
        self._root = root
        self._copies = copies
        self._lock: int | None = None

    # -- one at a time

    def lock(self) -> bool:
        """Whether this process serves the folder from now on; a process that dies lets go of it."""
        if self._lock is not None:
            return True
        with self._within() as root:
            lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=root)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return False
        self._lock = lock
        self._copies.mkdir(mode=0o700, parents=True, exist_ok=True)
        return True

    def unlock(self) -> None:
        """Let another process serve it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # -- what came

    def arrivals(self) -> list[Arrival]:
        """What lies in `incoming`, by name, the oldest names first where names tell a date."""
        found: dict[str, Arrival] = {}
        with self._within(INCOMING) as incoming, os.scandir(incoming) as entries:
            for entry in entries:
                if is_temporary(entry.name):
                    continue
                base, kind = _base_of(entry.name)
                if base not in found and len(found) >= MAX_NAMES:
                    continue
                arrival = found.setdefault(base, Arrival(base))
                with contextlib.suppress(FileNotFoundError):
                    self._note(incoming, entry.name, kind, arrival)
        return [found[name] for name in sorted(found)]

    def _note(self, incoming: int, name: str, kind: str, arrival: Arrival) -> None:
        found = os.stat(name, dir_fd=incoming, follow_symlinks=False)
        since = Millis(found.st_ctime_ns // 1_000_000)
        arrival.stamps[kind] = _stamp(found)
        if kind == "":
            arrival.data = Part(found.st_size, since, stat.S_ISREG(found.st_mode) and found.st_nlink == 1)
        elif kind == MANIFEST_SUFFIX:
            arrival.manifest, arrival.manifest_since = _read(incoming, name, MAX_MANIFEST_BYTES), since
        else:
            arrival.signature, arrival.signature_since = _read(incoming, name, MAX_SIGNATURE_BYTES), since

    # -- our copy

    def copy(self, name: str, copy_name: str, max_bytes: int, decrypt: Decrypt | None) -> Copied | Flaw:
        """Copy a file's plain content; FileNotFoundError where it was taken away."""
        path = self.copy_path(copy_name)
        partial = path.with_suffix(".part")
        try:
            with self._within(INCOMING) as incoming, _opened(incoming, name) as source, partial.open("wb") as out:
                os.chmod(partial, 0o600)
                measured = Measured(out, max_bytes)
                if decrypt is not None:
                    decrypt(source, measured)
                else:
                    while data := source.read(COPY_BYTES):
                        measured.write(data)
        except TooLong:
            partial.unlink()
            return Flaw(FileReason.TOO_LARGE, "bytes", "the content is no larger than was agreed", "send several files")
        except Undecipherable:
            partial.unlink()
            return Flaw(FileReason.UNREADABLE, "", "the file is encrypted with age for our key", "encrypt it for our present key")
        except _NotPlain:
            return Flaw(FileReason.NOT_A_FILE, "", "a file is a regular file with one name", "send the file itself")
        partial.rename(path)
        return Copied(path, measured.size, measured.sha256.hexdigest())

    def copy_path(self, copy_name: str) -> Path:
        """Where our copy of a file is, if there is one."""
        return self._copies / copy_name

    def kept(self, copy_name: str) -> Copied | None:
        """The copy that a process before us made; None where there is none."""
        path = self.copy_path(copy_name)
        try:
            with path.open("rb") as kept:
                digest = hashlib.file_digest(kept, "sha256").hexdigest()
                return Copied(path, kept.tell(), digest)
        except FileNotFoundError:
            return None

    def drop(self, copy_name: str) -> None:
        """Remove our copy."""
        self.copy_path(copy_name).unlink(missing_ok=True)

    def drop_others(self, copy_names: Sequence[str]) -> None:
        """Remove each copy but these."""
        for path in self._copies.iterdir():
            if path.name not in copy_names:
                path.unlink(missing_ok=True)

    # -- what goes out

    def acknowledge(self, name: str, content: bytes) -> None:
        """Write an acknowledgement, whole or not at all."""
        with self._within(ACKS) as acks:
            temporary = f".{name}.tmp"
            out = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640, dir_fd=acks)
            with os.fdopen(out, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, name, src_dir_fd=acks, dst_dir_fd=acks)

    def acknowledged(self, name: str) -> bytes:
        """The acknowledgement that lies there; empty where there is none."""
        with self._within(ACKS) as acks, contextlib.suppress(FileNotFoundError):
            return _read(acks, name, MAX_ACK_BYTES)
        return b""

    def put_away(self, arrival: Arrival, to: str) -> None:
        """Move a file, its manifest and its signature out of `incoming`, if they are still what they were on arrival.

        What its sender put in their place meanwhile stays, to be judged by itself. What is not there any more is no fault.
        """
        name = arrival.name
        with self._within(INCOMING) as incoming, self._within(to) as target:
            if any(_stamp_at(incoming, name + kind) not in (None, stamp) for kind, stamp in arrival.stamps.items()):
                return
            free = _free_name(target, name)
            for kind, stamp in arrival.stamps.items():
                with contextlib.suppress(FileNotFoundError):
                    os.rename(name + kind, free + kind, src_dir_fd=incoming, dst_dir_fd=target)
                    if _stamp_at(target, free + kind) != stamp and _stamp_at(incoming, name + kind) is None:
                        os.rename(free + kind, name + kind, src_dir_fd=target, dst_dir_fd=incoming)

    @contextlib.contextmanager
    def _within(self, *inner: str) -> Iterator[int]:
        """A folder of the sender, made if it isn't there; OSError where a link stands in its place."""
        at = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in inner:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o770, dir_fd=at)
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
                os.close(at)
                at = below
            yield at
        finally:
            os.close(at)


def is_temporary(name: str) -> bool:
    """Whether a name says that its file is still being written, or is a program's own."""
    return name.startswith((".", "~")) or name.lower().endswith(TEMPORARY)


class _NotPlain(Exception):
    """A link, folder or device stands where a file should."""


@contextlib.contextmanager
def _opened(folder: int, name: str) -> Iterator[IO[bytes]]:
    """A regular file with one name. NONBLOCK: opening a pipe would wait for its other end."""
    try:
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError:
        raise _NotPlain from None
    with os.fdopen(opened, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise _NotPlain
        yield file


def _read(folder: int, name: str, limit: int) -> bytes:
    """The start of a small file, one byte more than `limit` where it has more; empty of what is no file."""
    try:
        with _opened(folder, name) as file:
            return file.read(limit + 1)
    except _NotPlain:
        return b""


def _stamp(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns


def _stamp_at(folder: int, name: str) -> tuple[int, int, int] | None:
    try:
        return _stamp(os.stat(name, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return None


def _base_of(name: str) -> tuple[str, str]:
    for suffix in (SIGNATURE_SUFFIX, MANIFEST_SUFFIX):
        if name.endswith(suffix) and len(name) > len(suffix):
            return name.removesuffix(suffix), suffix
    return name, ""


def _free_name(folder: int, name: str) -> str:
    """A name that is free there, for the file and what belongs to it."""
    taken = set(os.listdir(folder))
    for number in range(MAX_SAME_NAMES):
        free = name if number == 0 else f"{name}.{number}"
        if free not in taken and free + MANIFEST_SUFFIX not in taken:
            return free
    return name
