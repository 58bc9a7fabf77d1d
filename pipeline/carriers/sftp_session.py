"""A connection to an SFTP server, made when it is needed and again when it was lost.

We come with a key and nothing else: no password, no agent, no question answered. The server shows a key that the settings
name, or we don't speak to it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import asyncssh

from pipeline.carriers.bridge import Bridge
from pipeline.carriers.protocol import NotAllowed, Unreachable
from pipeline.domain.identifiers import Millis

T = TypeVar("T")

CONNECT_S: Final = 20.0
"""Longest time until a server has let us in."""
STEP_S: Final = 60.0
"""Longest time of one call, or of one piece of a file."""
KEEPALIVE_S: Final = 15.0
KEEPALIVES: Final = 3
"""A server that leaves so many of them unanswered is gone."""
GONE: Final = (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath)
"""What a server says of a file that is not there."""

Work = Callable[[asyncssh.SFTPClient], Coroutine[Any, Any, T]]


@dataclass(frozen=True, slots=True, repr=False)
class SftpAddress:
    """Where the folder is, and what opens it. `key` is asked at each connection: it can be replaced while we run."""

    host: str
    port: int
    user: str
    folder: str
    host_keys: tuple[str, ...]
    key: Callable[[], bytes]
    valid_until: Millis | None = None


class SftpSession:
    """Runs what is to be done at the server, for callers that block."""

    def __init__(self, address: SftpAddress, clock: Callable[[], Millis]) -> None:
        logging.getLogger("asyncssh").setLevel(logging.CRITICAL)  # it names files
        self.address: Final = address
        self.clock: Final = clock
        self._bridge = Bridge("sftp")
        self._connecting: asyncio.Lock | None = None
        self._connection: asyncssh.SSHClientConnection | None = None
        self._client: asyncssh.SFTPClient | None = None
        self.rooms: Final[set[str]] = set()
        """Rooms that were found to be folders, over this connection."""

    def run(self, work: Work[T], timeout_s: float = STEP_S) -> T:
        """What `work` gives; raises as `Carrier` says."""
        return self._bridge.run(self._told(work, timeout_s), timeout_s + 2 * CONNECT_S)

    def close(self) -> None:
        """End the connection; the next call makes another."""
        with contextlib.suppress(Unreachable):
            self._bridge.run(self._closed(), CONNECT_S)

    async def _told(self, work: Work[T], timeout_s: float) -> T:
        """What work gives, or what it means that it failed; a connection that may be broken is not used again."""
        try:
            client = await self._connected()
            async with asyncio.timeout(timeout_s):
                return await work(client)
        except (*GONE, FileNotFoundError):
            raise FileNotFoundError from None
        except asyncssh.SFTPPermissionDenied:
            raise NotAllowed("NO_RIGHTS") from None
        except (asyncssh.Error, OSError, TimeoutError) as fault:
            await self._closed()
            raise _meaning(fault) from None

    async def _connected(self) -> asyncssh.SFTPClient:
        self._connecting = self._connecting or asyncio.Lock()
        async with self._connecting:
            if self._client is None:
                async with asyncio.timeout(CONNECT_S):
                    self._connection = await self._connect()
                    self._client = await self._connection.start_sftp_client(path_errors="surrogateescape")
            return self._client

    async def _connect(self) -> asyncssh.SSHClientConnection:
        address = self.address
        if address.valid_until is not None and self.clock() > address.valid_until:
            raise NotAllowed("KEY_EXPIRED")
        try:
            key = asyncssh.import_private_key(await asyncio.to_thread(address.key))
        except (OSError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError):
            raise NotAllowed("KEY_UNREADABLE") from None
        known = [asyncssh.import_public_key(each) for each in address.host_keys]
        return await asyncssh.connect(
            address.host,
            address.port,
            username=address.user,
            client_keys=[key],
            known_hosts=(known, [], []),
            config=None,
            agent_path=None,
            preferred_auth=["publickey"],
            password_auth=False,
            kbdint_auth=False,
            gss_auth=False,
            host_based_auth=False,
            disable_trivial_auth=True,
            connect_timeout=CONNECT_S,
            login_timeout=CONNECT_S,
            keepalive_interval=KEEPALIVE_S,
            keepalive_count_max=KEEPALIVES,
        )

    async def _closed(self) -> None:
        connection, self._connection, self._client = self._connection, None, None
        self.rooms.clear()
        if connection is not None:
            connection.abort()


async def written(sftp: asyncssh.SFTPClient, path: str, pieces: Iterable[bytes]) -> None:
    """Write a new file, made so that no link in its place is followed; durable where the server can say so."""
    with contextlib.suppress(*GONE):
        await sftp.remove(path)
    async with sftp.open(path, "xb", encoding=None) as out:
        for piece in pieces:
            await out.write(piece)
        with contextlib.suppress(asyncssh.SFTPOpUnsupported):
            await out.fsync()


async def renamed(sftp: asyncssh.SFTPClient, source: str, target: str) -> None:
    """Put a file in the place of another; at a server that can't do both at once the other is removed first."""
    try:
        await sftp.posix_rename(source, target)
    except asyncssh.SFTPOpUnsupported:
        with contextlib.suppress(*GONE):
            await sftp.remove(target)
        await sftp.rename(source, target)


def _meaning(fault: BaseException) -> Unreachable:
    """What a failure means, without its text."""
    match fault:
        case asyncssh.HostKeyNotVerifiable():
            return NotAllowed("HOST_KEY")
        case asyncssh.PermissionDenied():
            return NotAllowed("KEY_REFUSED")
        case TimeoutError():
            return Unreachable("TIMEOUT")
        case _:
            return Unreachable()
