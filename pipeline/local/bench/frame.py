"""What every bench has: its folder, its file of results, its exit codes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from rich.console import Console
from rich.text import Text

from pipeline.kafka.client import KafkaUnavailable
from pipeline.local.errors import LocalPlatformError

NOT_RUN: Final = 2
INTERRUPTED: Final = 130

LEFT_BY_US: Final = "kafka"
"""The broker's folder, with which every bench begins: what has it may be emptied."""

Report = TypeVar("Report")


def ended(run: Callable[[], Report], console: Console) -> Report | int:
    """What `run` gives; else the exit code, with the reason told."""
    try:
        return run()
    except (LocalPlatformError, KafkaUnavailable) as error:
        console.print(Text(f"The bench could not be run: {error}", style="bold red"))
        return NOT_RUN
    except KeyboardInterrupt:
        return INTERRUPTED


def emptied(folder: Path) -> None:
    """Make the folder, or empty it; LocalPlatformError where it holds what no bench left there."""
    if folder.exists() and any(folder.iterdir()) and not (folder / LEFT_BY_US).is_dir():
        raise LocalPlatformError(f"{folder} is not empty, and nothing says that a bench left it so; name another by --folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def read_report(file: Path | None, kind: type[Report]) -> Report | None:
    """An earlier report; None where there is none, or one of another kind or shape, which is replaced."""
    if file is None or not file.exists():
        return None
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except msgspec.DecodeError:
        return None


def write_report(file: Path | None, report: Any) -> None:
    """As JSON for people, where a file is named."""
    if file is not None:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
