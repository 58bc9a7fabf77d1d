"""How a long run is begun and ended: a folder of its own, the report told and written, the exit code."""

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
from rich.console import Console

from pipeline.kafka.client import LOG, KafkaUnavailable
from pipeline.local.errors import LocalPlatformError


class _Judged(Protocol):
    @property
    def passed(self) -> bool: ...


R = TypeVar("R", bound=_Judged)


def carried_out(
    name: str,
    run: Callable[[Path, Console], Awaitable[R]],
    tell: Callable[[R, Console], None],
    file: Path | None,
    keep: bool = False,
) -> int:
    """Run it in a folder, tell the report and write it to `file`: 0 all held, 1 not, 2 could not be run, 130 interrupted.

    The folder with data and logs stays where not all held, or where it is to be kept.
    """
    LOG.setLevel(logging.CRITICAL)  # the client tells at length of a broker that is killed on purpose
    console = Console()
    folder = Path(tempfile.mkdtemp(prefix=f"surgeline-{name}-"))

    async def reported() -> R:
        return await run(folder, console)

    try:
        report = asyncio.run(reported())
    except (LocalPlatformError, KafkaUnavailable) as error:
        console.print(f"could not be run: {error}\ndata and logs: {folder}", style="bold red", markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        return 130
    tell(report, console)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    if report.passed and not keep:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        console.print(f"data and logs: {folder}", highlight=False, soft_wrap=True)
    return 0 if report.passed else 1
