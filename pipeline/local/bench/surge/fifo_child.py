"""The FIFO writer and its stand-in as processes beside the writer that is judged."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from pipeline.local.bench.surge.fifo import FifoReport
from pipeline.local.bench.surge.lab import EHR, HEALTHY, Lab
from pipeline.local.child import Child
from pipeline.local.errors import LocalPlatformError
from pipeline.local.servers.standin import Behaviour
from pipeline.local.servers.standin_child import StandInChild

READY_TIMEOUT_S: Final = 180.0
STOP_S: Final = 30.0
MODULE: Final = "pipeline.local.bench.surge.fifo"

Step = Callable[[str], AbstractAsyncContextManager[None]]


@dataclass(slots=True)
class Beside:
    """Both, or neither."""

    standin: StandInChild | None = None
    child: Child | None = None
    file: Path | None = None

    def behave(self, behaviour: Behaviour) -> None:
        """Of its stand-in, from now on."""
        if self.standin is not None:
            self.standin.behave(behaviour)

    def report(self) -> FifoReport | None:
        """Ends it; None where there is none. LocalPlatformError where it had ended by itself."""
        if self.child is None or self.file is None:
            return None
        self.child.stop(STOP_S)
        if not self.file.exists():
            raise LocalPlatformError(f"{self.child.name} ended without a report. {self.child.log_tail()}")
        return msgspec.json.decode(self.file.read_bytes(), type=FifoReport)


@contextlib.asynccontextmanager
async def fifo_beside(lab: Lab, folder: Path, wanted: bool, step: Step) -> AsyncIterator[Beside]:
    """Start both and wait until every entity is written at its stand-in as well; nothing where it isn't `wanted`."""
    if not wanted:
        yield Beside()
        return
    standin, ready, report = StandInChild(folder), folder / "fifo.ready", folder / "fifo.json"
    command = [sys.executable, "-m", MODULE, "--config", str(lab.stack.settings_file), "--destination", EHR]
    command += ["--base-url", standin.base_url, "--report", str(report), "--ready", str(ready)]
    child = Child("the FIFO writer", command, folder, folder / "fifo.log")
    try:
        async with step("the FIFO writer's own warm-up"):
            await asyncio.to_thread(standin.__enter__)
            await asyncio.to_thread(standin.behave, HEALTHY)
            await asyncio.to_thread(child.start)
            await asyncio.to_thread(child.wait_until, ready.exists, READY_TIMEOUT_S)
        lab.watched["fifo"] = lambda: child.pid
        yield Beside(standin, child, report)
    finally:
        lab.watched.pop("fifo", None)
        await asyncio.to_thread(child.kill)
        await asyncio.to_thread(standin.__exit__)
