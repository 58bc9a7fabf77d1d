"""A folder of this machine, or one that is mounted: the place of a partner whose server of files writes there.

Every step opens its way from the root by descriptors and follows no link. `hold` is `flock`: it dies with the process, and
needs no lease and no clock. `Found.since` is the time of change (ctime), which no sender can set.
"""

import contextlib
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, ClassVar, Final

from pipeline.carriers.protocol import READ_BYTES, Found, NotPlain, Stamp, checked, temporary_of
from pipeline.domain.identifiers import Millis

LOCK: Final = ".surgeline.lock"


class FolderCarrier:
    """See `Carrier`."""

    scheme: ClassVar[str] = ""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock: int | None = None

    def hold(self) -> bool:
        """See `Carrier`."""
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
        return True

    def let_go(self) -> None:
        """See `Carrier`."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def found(self, room: str, begins: str = "") -> Iterator[Found]:
        """See `Carrier`."""
        with self._within(room) as at, os.scandir(at) as entries:
            for entry in entries:
                if entry.name.startswith(begins):
                    with contextlib.suppress(FileNotFoundError):
                        yield _found(entry.name, os.stat(entry.name, dir_fd=at, follow_symlinks=False))

    def stamp(self, room: str, name: str) -> Stamp | None:
        """See `Carrier`: inode, length, time of change of the content."""
        with self._within(room) as at:
            return _stamp_at(at, checked(name))

    @contextlib.contextmanager
    def open(self, room: str, name: str) -> Iterator[IO[bytes]]:
        """See `Carrier`. NONBLOCK: opening a pipe would wait for its other end."""
        with self._within(room) as at:
            try:
                opened = os.open(checked(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
            except FileNotFoundError:
                raise
            except OSError:
                raise NotPlain from None
            with os.fdopen(opened, "rb") as file:
                seen = os.fstat(file.fileno())
                if not stat.S_ISREG(seen.st_mode) or seen.st_nlink != 1:
                    raise NotPlain
                yield file

    def put(self, room: str, name: str, content: bytes | Path) -> None:
        """See `Carrier`."""
        temporary = temporary_of(checked(name))
        with self._within(room) as at:
            out = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640, dir_fd=at)
            with os.fdopen(out, "wb") as file:
                if isinstance(content, bytes):
                    file.write(content)
                else:
                    with content.open("rb") as source:
                        shutil.copyfileobj(source, file, READ_BYTES)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, name, src_dir_fd=at, dst_dir_fd=at)
            with contextlib.suppress(OSError):  # file systems of other machines know no fsync of a folder
                os.fsync(at)

    def move(self, room: str, name: str, to_room: str, to_name: str, stamp: Stamp) -> bool:
        """See `Carrier`. What came in its place in the moment between looking and moving goes back."""
        checked(name), checked(to_name)
        with self._within(room) as at, self._within(to_room) as to:
            if _stamp_at(at, name) != stamp:
                return False
            with contextlib.suppress(FileNotFoundError):
                os.rename(name, to_name, src_dir_fd=at, dst_dir_fd=to)
                if _stamp_at(to, to_name) == stamp:
                    return True
                if _stamp_at(at, name) is None:
                    os.rename(to_name, name, src_dir_fd=to, dst_dir_fd=at)
        return False

    def remove(self, room: str, name: str) -> None:
        """See `Carrier`."""
        with self._within(room) as at, contextlib.suppress(FileNotFoundError):
            os.unlink(checked(name), dir_fd=at)

    def link(self, room: str, name: str, lifetime_s: float) -> str | None:
        """See `Carrier`: a folder gives none."""
        return None

    @contextlib.contextmanager
    def _within(self, *inner: str) -> Iterator[int]:
        """The place or a room of it, made if it isn't there; OSError where a link stands in its place."""
        at = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in inner:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(checked(name), 0o770, dir_fd=at)
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
                os.close(at)
                at = below
            yield at
        finally:
            os.close(at)


def _found(name: str, seen: os.stat_result) -> Found:
    since = Millis(seen.st_ctime_ns // 1_000_000)
    return Found(name, seen.st_size, since, _stamp(seen), stat.S_ISREG(seen.st_mode) and seen.st_nlink == 1)


def _stamp(seen: os.stat_result) -> Stamp:
    return seen.st_ino, seen.st_size, seen.st_mtime_ns


def _stamp_at(folder: int, name: str) -> Stamp | None:
    try:
        return _stamp(os.stat(name, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return None
