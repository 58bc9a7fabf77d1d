"""OpenSSH's own server, as partners run it: a program that is not ours, for the places of files by SFTP."""

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Final

import asyncssh
import pytest

from pipeline.carriers.sftp import SftpCarrier
from pipeline.carriers.sftp_session import SftpAddress
from pipeline.local.ports import HOST, free_port
from tests.conftest import NO_SSHD

START_S: Final = 60.0
SEPARATED: Final = Path("/run/sshd")
"""Where it locks itself in before somebody is let in; it wants the folder when it runs as root."""
PLACES: Final = ("/usr/sbin", "/usr/local/sbin", "/usr/libexec", "/opt/homebrew/sbin")


class Sshd:
    """Lets this user in with one key, to nothing but files (`internal-sftp`); its host key is of this test alone."""

    def __init__(self, root: Path, *options: str) -> None:
        """Skipped, loudly, where there is none, unless SURGELINE_FOREIGN=required. `options` are those of `internal-sftp`."""
        self.root = root / "files"
        self.user_key = asyncssh.generate_private_key("ssh-ed25519")
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.port = free_port()
        self._program = _program()
        self._said = root / "said"
        self._config = root / "sshd_config"
        self.root.mkdir()
        _secret(root / "host.key", self.host_key)
        _secret(root / "user.key", self.user_key)
        (root / "authorized").write_bytes(self.user_key.export_public_key())
        self._config.write_text(_CONFIG.format(port=self.port, host=HOST, root=root, options=" ".join(options)))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Sshd":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Until it listens."""
        if os.geteuid() == 0:
            SEPARATED.mkdir(mode=0o755, exist_ok=True)
        with self._said.open("ab") as said:
            command = (self._program, "-D", "-e", "-f", str(self._config))
            self._process = subprocess.Popen(command, stderr=said)
        end = time.monotonic() + START_S
        while time.monotonic() < end and self._process.poll() is None:
            with socket.socket() as tried:
                if tried.connect_ex((HOST, self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError(f"sshd does not listen: {self._said.read_text(errors='replace')}")

    def stop(self) -> None:
        """Away, and with it who was connected: each connection is a process of its own."""
        if self._process is not None:
            for each in _children(self._process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
            self._process.kill()
            self._process.wait()
            self._process = None

    def address(self, folder: Path, **said: Any) -> SftpAddress:
        """How a client gets in."""
        plain: dict[str, Any] = {
            "host": HOST,
            "port": self.port,
            "user": getpass.getuser(),
            "folder": str(folder),
            "host_keys": (self.host_key.export_public_key().decode().strip(),),
            "key": self.user_key.export_private_key,
        }
        return SftpAddress(**{**plain, **said})

    def carrier(self, folder: Path, owner: str | None = None, **said: Any) -> SftpCarrier:
        """A carrier of its own each time, as another process would have."""
        return SftpCarrier(self.address(folder, **said), owner or secrets.token_hex(4))


_CONFIG: Final = """\
Port {port}
ListenAddress {host}
HostKey {root}/host.key
PidFile none
AuthorizedKeysFile {root}/authorized
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
LogLevel ERROR
Subsystem sftp internal-sftp {options}
ForceCommand internal-sftp {options}
"""


def _program() -> str:
    found = shutil.which("sshd") or shutil.which("sshd", path=os.pathsep.join(PLACES))
    if found is None:
        (pytest.fail if os.environ.get("SURGELINE_FOREIGN") == "required" else pytest.skip)(NO_SSHD)
    return found


def _secret(path: Path, key: asyncssh.SSHKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(key.export_private_key())


def _children(pid: int) -> list[int]:
    listed = subprocess.run(("ps", "-A", "-o", "pid=,ppid="), capture_output=True, text=True, check=True).stdout.splitlines()
    return [int(own) for own, parent in (each.split() for each in listed) if parent == str(pid)]
