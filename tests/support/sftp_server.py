"""A real SFTP server in this process: its clock, its faults and its connections are a test's to set."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncssh

from pipeline.carriers.sftp_session import SftpAddress

T = TypeVar("T")
BOUND_S: Final = 60.0
USER: Final = "north"
USER_KEY: Final = asyncssh.generate_private_key("ssh-ed25519")
HOST_KEY: Final = asyncssh.generate_private_key("ssh-ed25519")


class SftpServer:
    """Serves one folder to one user with one key, as root of all that it sees."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = 0
        self.host_key = HOST_KEY
        self.user_key = USER_KEY
        self.ahead_s = 0
        """By how much its clock is ahead."""
        self.posix_rename = True
        self.cut_at: Callable[[str], bool] = lambda _: False
        """Asked before each step, by its name; the connection is cut there where it says so."""
        self.logins = 0
        self.at_end: list[Callable[[], None]] = []
        """Done before the server goes away: clients let go."""
        self.connections: list[asyncssh.SSHServerConnection] = []
        self._loop = asyncio.new_event_loop()
        self._acceptor: asyncssh.SSHAcceptor | None = None
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def __enter__(self) -> "SftpServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut_at = lambda _: False
        for each in self.at_end:
            each()
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def start(self) -> None:
        self._run(self._listen())

    def stop(self) -> None:
        """Away: nobody listens, and who was connected is not any more."""
        self._run(self._close())

    def cut(self) -> None:
        """Every connection is lost."""
        self._run(self._cut())

    def address(self, folder: str = "/place", **said: Any) -> SftpAddress:
        """How a client gets in."""
        plain: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": USER,
            "folder": folder,
            "host_keys": (HOST_KEY.export_public_key().decode().strip(),),
            "key": lambda: USER_KEY.export_private_key(),
        }
        return SftpAddress(**{**plain, **said})

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(BOUND_S)

    async def _listen(self) -> None:
        outer = self

        class Login(asyncssh.SSHServer):
            def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
                outer.connections.append(conn)

            def auth_completed(self) -> None:
                outer.logins += 1

        allowed = asyncssh.import_authorized_keys(self.user_key.export_public_key().decode())
        self._acceptor = await asyncssh.listen(
            "127.0.0.1",
            self.port,
            server_factory=Login,
            server_host_keys=[self.host_key],
            authorized_client_keys=allowed,
            sftp_factory=lambda chan: _Files(chan, self),
            reuse_address=True,
        )
        self.port = self._acceptor.get_port()

    async def _close(self) -> None:
        if self._acceptor is not None:
            self._acceptor.close()
            await self._acceptor.wait_closed()
            self._acceptor = None
        await self._cut()

    async def _cut(self) -> None:
        for each in self.connections:
            each.abort()
        self.connections.clear()


class _Files(asyncssh.SFTPServer):
    """A folder as root, with the faults that a test sets."""

    def __init__(self, chan: Any, server: SftpServer) -> None:
        super().__init__(chan, chroot=os.fsencode(server.root))
        self._server = server

    async def _step(self, name: str) -> None:
        if self._server.cut_at(name):
            await self._server._cut()
            raise asyncssh.SFTPConnectionLost("cut")

    async def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:
        await self._step("open")
        return super().open(path, pflags, attrs)

    async def read(self, file_obj: object, offset: int, size: int) -> bytes:
        await self._step("read")
        return super().read(file_obj, offset, size)  # type: ignore[return-value]

    async def write(self, file_obj: object, offset: int, data: bytes) -> int:
        await self._step("write")
        return super().write(file_obj, offset, data)  # type: ignore[return-value]

    async def rename(self, oldpath: bytes, newpath: bytes) -> None:
        await self._step("rename")
        super().rename(oldpath, newpath)
        await self._step("renamed")

    async def posix_rename(self, oldpath: bytes, newpath: bytes) -> None:
        if not self._server.posix_rename:
            raise asyncssh.SFTPOpUnsupported("no such thing here")
        await self._step("rename")
        super().posix_rename(oldpath, newpath)
        await self._step("renamed")

    def lstat(self, path: bytes) -> Any:
        return self._skewed(super().lstat(path))

    def fstat(self, file_obj: object) -> Any:
        return self._skewed(super().fstat(file_obj))

    async def scandir(self, path: bytes) -> Any:
        await self._step("scandir")
        async for each in super().scandir(path):
            each.attrs = self._skewed(each.attrs)
            yield each

    def _skewed(self, found: Any) -> Any:
        attrs = found if isinstance(found, asyncssh.SFTPAttrs) else asyncssh.SFTPAttrs.from_local(found)
        attrs.mtime = (attrs.mtime or 0) + self._server.ahead_s
        return attrs
