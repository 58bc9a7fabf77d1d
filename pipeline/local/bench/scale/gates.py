"""Gates with a disk each, for `surgeline bench scale`."""

import shutil
import time
from pathlib import Path
from typing import Final

from pipeline.local.bench.processor import look
from pipeline.local.stack import Stack

BOUND_S: Final = 600.0
"""Of a start, and of the work after it."""


class Gates:
    """So many of them."""

    def __init__(self, stack: Stack, count: int) -> None:
        self._stack, self._count = stack, count
        self.names: list[str] = []

    def _folder(self, number: int) -> Path:
        return self._stack.folder / "data" / f"gate-{number}"

    def start(self) -> None:
        """All at once."""
        self.names = []
        for number in range(self._count):
            own = {"SURGELINE_GATE__INSTANCE": str(number), "SURGELINE_GATE__DATA_DIR": str(self._folder(number))}
            self.names.append(self._stack.start("gate", instance=str(number), environment=own))

    def kill(self) -> None:
        """kill -9 of each."""
        for name in self.names:
            self._stack.kill(name)

    def wipe(self) -> None:
        """Their disks."""
        for number in range(self._count):
            shutil.rmtree(self._folder(number))

    def looks(self) -> list[tuple[float, int]]:
        """Processor seconds and memory of each."""
        return [look(self._stack.roles[name].pid) for name in self.names]

    def disk(self) -> int:
        """Bytes of all tables."""
        files = (file for number in range(self._count) for file in self._folder(number).rglob("*") if file.is_file())
        return sum(file.stat().st_size for file in files)

    def until_ready_s(self) -> float:
        """Start, and wait until each serves; the seconds."""
        began = time.monotonic()
        self.start()
        self._stack.wait_ready(*self.names, timeout_s=BOUND_S)
        return time.monotonic() - began
