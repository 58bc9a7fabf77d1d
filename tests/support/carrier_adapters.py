"""Each kind of place, set up for tests: what a partner does there, and carriers that look at it."""

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

import obstore
import pytest
from obstore.store import MemoryStore, S3Store

from pipeline.carriers.folder import FolderCarrier
from pipeline.carriers.objects import Bucket, ObjectCarrier
from pipeline.carriers.protocol import Carrier
from pipeline.carriers.sftp import SftpCarrier
from pipeline.local.servers.jars import cache_folder
from tests.conftest import NO_OBJECT_STORE
from tests.support.sftp_server import SftpServer
from tests.support.sshd import Sshd

START_S: Final = 60.0
PREFIX: Final = "partners/north"


class Place(Protocol):
    """One place. `carrier` gives a carrier of its own each time, as another process would have.

    `owner` is INSTANCE/PROCESS/MORE where a process of an instance is meant.
    """

    def carrier(self, owner: str | None = None) -> Carrier: ...

    def send(self, room: str, name: str, content: bytes) -> None:
        """A partner writes a file."""
        ...


class FolderPlace:
    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(exist_ok=True)

    def carrier(self, owner: str | None = None) -> Carrier:
        return FolderCarrier(self.root)

    def send(self, room: str, name: str, content: bytes) -> None:
        (self.root / room).mkdir(exist_ok=True)
        (self.root / room / name).write_bytes(content)


class SftpPlace(FolderPlace):
    def __init__(self, server: SftpServer) -> None:
        super().__init__(server.root / "place")
        self.server = server

    def carrier(self, owner: str | None = None) -> Carrier:
        return SftpCarrier(self.server.address(), owner or secrets.token_hex(4))


class SshdPlace(FolderPlace):
    def __init__(self, server: Sshd) -> None:
        super().__init__(server.root / "place")
        self.server = server

    def carrier(self, owner: str | None = None) -> Carrier:
        return self.server.carrier(self.root, owner)


class MemoryPlace:
    """Object storage without a server: what the carrier makes of the library's answers, but no signed links."""

    def __init__(self) -> None:
        self.store = MemoryStore()

    def carrier(self, owner: str | None = None) -> Carrier:
        store = self.store

        class InMemory(ObjectCarrier):
            def store(self) -> S3Store:
                return store  # type: ignore[return-value]

            def link(self, room: str, name: str, lifetime_s: float) -> None:
                """Memory signs nothing."""

        return InMemory(bucket_of("http://localhost"), owner or secrets.token_hex(4))

    def send(self, room: str, name: str, content: bytes) -> None:
        obstore.put(self.store, f"{PREFIX}/{room}/{name}", content)


class ObjectPlace:
    """A prefix of a bucket at a real server."""

    def __init__(self, endpoint: str, prefix: str) -> None:
        self.bucket = bucket_of(endpoint, prefix)

    def carrier(self, owner: str | None = None) -> ObjectCarrier:
        return ObjectCarrier(self.bucket, owner or secrets.token_hex(4))

    def send(self, room: str, name: str, content: bytes) -> None:
        obstore.put(ObjectCarrier(self.bucket, "partner").store(), f"{self.bucket.prefix}/{room}/{name}", content)


def bucket_of(endpoint: str, prefix: str = PREFIX) -> Bucket:
    return Bucket("surgeline", prefix, "us-east-1", endpoint, "north", lambda: "not-a-secret-1234")


@contextmanager
def object_server(folder: Path) -> Iterator[str]:
    """versitygw on a folder, with one bucket; its address. Skipped, loudly, where it is not installed."""
    program = shutil.which("versitygw") or str(cache_folder() / "bin" / "versitygw")
    if not os.access(program, os.X_OK):
        pytest.skip(NO_OBJECT_STORE)
    (folder / "surgeline").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    keys = {"ROOT_ACCESS_KEY": "north", "ROOT_SECRET_KEY": "not-a-secret-1234"}
    # Tags of objects lie beside them: not every file system has room for them at the files themselves.
    tags = folder.with_name(f"tags-{folder.name}")
    tags.mkdir()
    command = [program, "--port", f"127.0.0.1:{port}", "--quiet", "posix", "--sidecar", str(tags), str(folder)]
    with subprocess.Popen(command, env={**os.environ, **keys}, stdout=subprocess.DEVNULL) as server:
        try:
            _wait_for(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _wait_for(port: int) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("the object store did not start")


@contextmanager
def place_of(kind: str, folder: Path) -> Iterator[Place]:
    """A place of one kind, empty."""
    match kind:
        case "folder":
            yield FolderPlace(folder / "place")
        case "sftp":
            (folder / "server").mkdir()
            with SftpServer(folder / "server") as server:
                yield SftpPlace(server)
        case "sshd":
            with Sshd(folder) as sshd:
                yield SshdPlace(sshd)
        case "memory":
            yield MemoryPlace()
        case "s3":
            with object_server(folder / "objects") as endpoint:
                yield ObjectPlace(endpoint, PREFIX)
        case _:
            raise AssertionError(f"no adapter for {kind}")


KINDS: Final = {"folder": ("folder",), "sftp": ("sftp", "sshd"), "objects": ("memory", "s3")}
"""The adapters of each module of carriers."""
