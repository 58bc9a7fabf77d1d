"""A child process that never outlives this one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from pipeline.local.errors import LocalPlatformError

POLL_S: Final = 0.05
LOG_TAIL_LINES: Final = 20
LOG_TAIL_BYTES: Final = 16_384
TETHER: Final = str(Path(__file__).with_name("tether.py"))

# The kernel ties a child to the *thread* that started it. This one lives as long as the process does, so that callers
# may start children from short-lived threads.
_spawner: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")


class Child:
    """One program with its log file. Not thread-safe: one owner starts and stops it."""

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """`command[0]` is an absolute path; `environment` None means ours. Nothing is started yet."""
        self.name, self.log = name, log
        self._command, self._folder, self._environment = list(command), folder, environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id; LocalPlatformError if it isn't running."""
        if self._process is None or self._process.poll() is not None:
            raise LocalPlatformError(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the program; its output is appended to the log. Does nothing if it runs already."""
        if not self.running:
            self._process = _spawner.submit(self._spawn).result()

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._folder.mkdir(parents=True, exist_ok=True)
        tethered = [sys.executable, "-I", "-S", TETHER, str(os.getpid()), *self._command]
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 (no shell; every caller is in this room or a test)
                tethered,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                process_group=0,  # Ctrl-C reaches us alone: we stop the parts in their order
            )

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Wait until `ready()` holds; LocalPlatformError with the log's last lines if the program ends or time is up.

        Where time is up the program is killed: nobody is left to stop it.
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.running:
                code = self._process.returncode if self._process is not None else None
                raise LocalPlatformError(f"{self.name} ended with {code} while it was starting. {self.log_tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise LocalPlatformError(f"{self.name} was not ready after {timeout_s:g} s. {self.log_tail()}")
            time.sleep(POLL_S)

    def stop(self, timeout_s: float) -> None:
        """Ask it to end (SIGTERM), and kill it if it has not ended after `timeout_s`. Safe to repeat."""
        self._end(signal.SIGTERM, timeout_s)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Safe to repeat."""
        self._end(signal.SIGKILL, timeout_s=10)

    def _end(self, how: signal.Signals, timeout_s: float) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(how)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def log_tail(self) -> str:
        """Where the log is and its last lines."""
        if not self.log.exists():
            return f"Its log {self.log} was not written."
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        told = [line for line in lines if not line.startswith("\tat ")]  # Java's stack frames would fill it
        return "\n".join((f"The last lines of its log {self.log}:", *told[-LOG_TAIL_LINES:]))
