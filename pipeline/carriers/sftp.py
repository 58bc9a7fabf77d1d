"""A partner's folder at an SFTP server (SSH File Transfer Protocol, draft-ietf-secsh-filexfer-02, as OpenSSH speaks it).

Times: version 3 of the protocol has one time of change, which a sender may set as it likes (`put -p`). So waits count from
when we first saw a file as it is now, and whether it came in time is judged by the earlier of that and the server's time,
with the server's clock measured by the time that it gives to a file of ours. It has no locks: a lease stands in for one.
"""

import contextlib
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import ClassVar, Final, Self, cast

import asyncssh

from pipeline.carriers.lease import Lease
from pipeline.carriers.protocol import READ_BYTES, BadPlace, Found, NotPlain, Stamp, Unreachable, checked, temporary_of
from pipeline.carriers.sftp_session import GONE, STEP_S, SftpAddress, SftpSession, renamed, written
from pipeline.domain.identifiers import Millis
from pipeline.settings.sections.files import FilePlace, SftpAccess

LOCK: Final = ".surgeline.lock"
LIST_S: Final = 300.0
"""Longest time to list a room."""
MIN_BYTES_PER_S: Final = 128 * 1024
"""A file that is written more slowly is given up."""
MAX_LOCK_BYTES: Final = 4096


class SftpCarrier:
    """See `Carrier`."""

    scheme: ClassVar[str] = "sftp"

    def __init__(self, address: SftpAddress, owner: str, clock: Callable[[], Millis] | None = None) -> None:
        self._clock = clock or _now
        self._session = SftpSession(address, self._clock)
        self._folder = address.folder
        self._watched: dict[str, dict[str, Found]] = {}
        self._lock = _LockFile(self._session)
        self._lease = Lease(self._lock, owner)

    @classmethod
    def of(cls, place: FilePlace, owner: str) -> Self:
        """The carrier of a place; `BadPlace` where a key can't be read."""
        access, url = place.sftp, place.address
        assert access is not None
        assert url is not None
        _check_keys(access)
        until = access.valid_until
        address = SftpAddress(
            host=url.hostname or "",
            port=url.port or 22,
            user=url.username or "",
            folder=url.path.rstrip("/"),
            host_keys=access.host_keys,
            key=access.key_file.read_bytes,
            valid_until=None if until is None else Millis(round(until.timestamp() * 1000)),
        )
        return cls(address, owner)

    def hold(self) -> bool:
        """See `Carrier`."""
        return self._lease.hold()

    def let_go(self) -> None:
        """See `Carrier`."""
        self._lease.let_go()
        self._session.close()

    def found(self, room: str, begins: str = "") -> Iterator[Found]:
        """See `Carrier`."""
        listed = self._session.run(lambda sftp: self._listed(sftp, room), LIST_S)
        before, now = self._watched.get(room, {}), self._clock()
        self._watched[room] = {name: self._found(name, attrs, before.get(name), now) for name, attrs in listed}
        yield from [each for name, each in self._watched[room].items() if name.startswith(begins)]

    async def _listed(self, sftp: asyncssh.SFTPClient, room: str) -> list[tuple[str, asyncssh.SFTPAttrs]]:
        listed = [(_text(each.filename), each.attrs) async for each in sftp.scandir(await self._room(sftp, room))]
        return [(name, attrs) for name, attrs in listed if name not in (".", "..") and "/" not in name]

    def _found(self, name: str, attrs: asyncssh.SFTPAttrs, before: Found | None, now: Millis) -> Found:
        stamp = _stamp(attrs)
        if before is not None and before.stamp == stamp:
            return before
        since = Millis(min(now, max(0, (attrs.mtime or 0) * 1000 - self._lock.ahead_ms)))
        return Found(name, attrs.size or 0, since, stamp, _is_plain(attrs), now)

    def stamp(self, room: str, name: str) -> Stamp | None:
        """See `Carrier`: length and time of change, in seconds; the protocol has no more."""
        return self._session.run(lambda sftp: self._stamp_at(sftp, room, checked(name)))

    async def _stamp_at(self, sftp: asyncssh.SFTPClient, room: str, name: str) -> Stamp | None:
        path = f"{await self._room(sftp, room)}/{name}"
        try:
            return _stamp(await sftp.lstat(path))
        except GONE:
            return None

    @contextlib.contextmanager
    def open(self, room: str, name: str) -> Iterator["_Reader"]:
        """See `Carrier`."""
        reader = _Reader(self._session, self._session.run(lambda sftp: self._opened(sftp, room, checked(name))))
        try:
            yield reader
        finally:
            reader.close()

    async def _opened(self, sftp: asyncssh.SFTPClient, room: str, name: str) -> asyncssh.SFTPClientFile:
        path = f"{await self._room(sftp, room)}/{name}"
        if not _is_plain(await sftp.lstat(path)):
            raise NotPlain
        return await sftp.open(path, "rb", encoding=None)

    def put(self, room: str, name: str, content: bytes | Path) -> None:
        """See `Carrier`."""
        if isinstance(content, bytes):
            self._session.run(lambda sftp: self._put(sftp, room, name, [content]))
            return
        with content.open("rb") as source:
            pieces = iter(lambda: source.read(READ_BYTES), b"")
            seconds = STEP_S + content.stat().st_size / MIN_BYTES_PER_S
            self._session.run(lambda sftp: self._put(sftp, room, name, pieces), seconds)

    async def _put(self, sftp: asyncssh.SFTPClient, room: str, name: str, pieces: Iterable[bytes]) -> None:
        at = await self._room(sftp, room)
        temporary = f"{at}/{temporary_of(checked(name))}"
        await written(sftp, temporary, pieces)
        await renamed(sftp, temporary, f"{at}/{name}")

    def move(self, room: str, name: str, to_room: str, to_name: str, stamp: Stamp) -> bool:
        """See `Carrier`. What came in its place in the moment between looking and moving goes back."""
        return self._session.run(lambda sftp: self._moved(sftp, (room, checked(name)), (to_room, checked(to_name)), stamp))

    async def _moved(self, sftp: asyncssh.SFTPClient, at: tuple[str, str], to: tuple[str, str], stamp: Stamp) -> bool:
        source, target = f"{await self._room(sftp, at[0])}/{at[1]}", f"{await self._room(sftp, to[0])}/{to[1]}"
        if await self._stamp_at(sftp, *at) != stamp:
            return False
        with contextlib.suppress(*GONE):
            await sftp.rename(source, target)
            if await self._stamp_at(sftp, *to) == stamp:
                return True
            if await self._stamp_at(sftp, *at) is None:
                await sftp.rename(target, source)
        return False

    def remove(self, room: str, name: str) -> None:
        """See `Carrier`."""
        self._session.run(lambda sftp: self._removed(sftp, room, checked(name)))

    async def _removed(self, sftp: asyncssh.SFTPClient, room: str, name: str) -> None:
        path = f"{await self._room(sftp, room)}/{name}"
        with contextlib.suppress(*GONE):
            await sftp.remove(path)

    def link(self, room: str, name: str, lifetime_s: float) -> str | None:
        """See `Carrier`: the protocol has none."""
        return None

    async def _room(self, sftp: asyncssh.SFTPClient, room: str) -> str:
        """Path of a room, made if it isn't there; `Unreachable` where something else stands in its place."""
        path = f"{self._folder}/{checked(room)}"
        if room not in self._session.rooms:
            with contextlib.suppress(asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists, asyncssh.SFTPPermissionDenied):
                await sftp.mkdir(path)
            if not stat.S_ISDIR((await sftp.lstat(path)).permissions or 0):
                raise Unreachable("NO_FOLDER")
            self._session.rooms.add(room)
        return path


class _Reader:
    """See `Readable`."""

    def __init__(self, session: SftpSession, file: asyncssh.SFTPClientFile) -> None:
        self._session = session
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """See `Readable`."""
        return cast("bytes", self._session.run(lambda _: self._file.read(size if size >= 0 else READ_BYTES)))

    def close(self) -> None:
        """Close it; where the connection was lost it is."""
        with contextlib.suppress(Unreachable):
            self._session.run(lambda _: self._file.close())


class _LockFile:
    """See `Cell`: a file in the place itself, beside its rooms. It also tells what time it is there."""

    def __init__(self, session: SftpSession) -> None:
        self._session = session
        self._path = f"{session.address.folder}/{LOCK}"
        self.ahead_ms = 0
        """By how much the server's clock is ahead of ours, to a second."""

    def read(self) -> bytes | None:
        """See `Cell`."""
        return self._session.run(self._read)

    async def _read(self, sftp: asyncssh.SFTPClient) -> bytes | None:
        try:
            async with sftp.open(self._path, "rb", encoding=None) as file:
                return cast("bytes", await file.read(MAX_LOCK_BYTES))
        except GONE:
            return None

    def create(self, content: bytes) -> bool:
        """See `Cell`."""
        return self._session.run(lambda sftp: self._create(sftp, content))

    async def _create(self, sftp: asyncssh.SFTPClient, content: bytes) -> bool:
        try:
            async with sftp.open(self._path, "xb", encoding=None) as file:
                await file.write(content)
        except (asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists):
            return False
        await self._look_at_the_clock(sftp)
        return True

    def replace(self, content: bytes, before: bytes) -> bool:
        """See `Cell`. Between looking and renaming another may be as quick: who lost finds out by its next beat."""
        return self._session.run(lambda sftp: self._replace(sftp, content, before))

    async def _replace(self, sftp: asyncssh.SFTPClient, content: bytes, before: bytes) -> bool:
        if await self._read(sftp) != before:
            return False
        temporary = f"{self._session.address.folder}/{temporary_of(content.decode())}"
        await written(sftp, temporary, [content])
        await renamed(sftp, temporary, self._path)
        await self._look_at_the_clock(sftp)
        return await self._read(sftp) == content

    def remove(self, before: bytes) -> None:
        """See `Cell`."""
        self._session.run(lambda sftp: self._remove(sftp, before))

    async def _remove(self, sftp: asyncssh.SFTPClient, before: bytes) -> None:
        if await self._read(sftp) == before:
            await sftp.remove(self._path)

    async def _look_at_the_clock(self, sftp: asyncssh.SFTPClient) -> None:
        at = (await sftp.lstat(self._path)).mtime
        if at is not None:
            self.ahead_ms = at * 1000 - self._session.clock()


def _check_keys(access: SftpAccess) -> None:
    for number, each in enumerate(access.host_keys):
        try:
            asyncssh.import_public_key(each)
        except asyncssh.KeyImportError:
            raise BadPlace(f"sftp.host_keys.{number}: not a public key") from None
    try:
        asyncssh.import_private_key(access.key_file.read_bytes())
    except (OSError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError):
        raise BadPlace("sftp.key_file: it holds no private key without a pass phrase") from None


def _stamp(attrs: asyncssh.SFTPAttrs) -> Stamp:
    return attrs.size or 0, attrs.mtime or 0


def _is_plain(attrs: asyncssh.SFTPAttrs) -> bool:
    return stat.S_ISREG(attrs.permissions or 0)


def _text(name: str | bytes) -> str:
    return name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")


def _now() -> Millis:
    return Millis(time.time_ns() // 1_000_000)
