"""What the servers that we start on this machine have in common."""

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from pipeline.local.child import Child
from pipeline.local.errors import LocalPlatformError
from pipeline.local.ports import refuse_taken


class Server(ABC):
    """One server with its data in `folder`: stopped or killed and started again it keeps its data and its port.

    It never outlives this process. Synchronous: from a coroutine, call it by `asyncio.to_thread`.
    """

    name: ClassVar[str]
    log_name: ClassVar[str]
    start_timeout_s: ClassVar[float]
    stop_timeout_s: ClassVar[float]

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._child: Child | None = None

    @property
    @abstractmethod
    def port(self) -> int:
        """Port that it serves."""

    @property
    def pid(self) -> int:
        """Process id; LocalPlatformError if it isn't running."""
        if self._child is None:
            raise LocalPlatformError(f"{self.name} is not running")
        return self._child.pid

    @property
    def log(self) -> Path:
        """The server's log."""
        return self._folder / self.log_name

    def start(self, timeout_s: float | None = None) -> None:
        """Start and wait until it answers. The bound is for the start, not for what a first start fetches and compiles."""
        if self._child is None or not self._child.running:
            refuse_taken(self.port, self.name)
            self._child = Child(self.name, self._command(), self._folder, self.log)
            self._child.start()
        self._child.wait_until(self._answers, self.start_timeout_s if timeout_s is None else timeout_s)

    def stop(self) -> None:
        """Stop in good order, and kill it if that takes too long."""
        if self._child is not None:
            self._child.stop(self.stop_timeout_s)

    def kill(self) -> None:
        """SIGKILL, as a power cut would, except that the operating system keeps what was written."""
        if self._child is not None:
            self._child.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @abstractmethod
    def _command(self) -> list[str]:
        """How it is started; asked at each start, and writes what the start needs."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether it serves."""
