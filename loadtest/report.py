"""What a run found, for machines: `report.json`. The page and the documents' table are made from it."""

from pathlib import Path
from typing import Any

import msgspec

from loadtest.director import Done
from loadtest.judge import Check, LaneFigures, WayFigures
from loadtest.series import Series
from loadtest.shapes import Phase


class Sent(msgspec.Struct, frozen=True):
    """What the senders did and heard, all workers together."""

    messages: int
    answered: int
    refused: int
    slowed: int
    unanswered: int
    slip_p99_ms: float
    codes: dict[str, int]
    workers: int


class LoadReport(msgspec.Struct, frozen=True):
    """One run. Times in seconds count from the shape's begin; the warm-up lies before."""

    commit: str
    machine: dict[str, Any]
    at: str
    shape: str
    says: str
    rate_scale: float
    time_scale: float
    seed: int
    for_s: float
    peak_per_s: float
    phases: tuple[Phase, ...]
    deeds: tuple[Done, ...]
    sent: Sent
    verdicts: dict[str, int]
    ways: tuple[WayFigures, ...]
    lanes: tuple[LaneFigures, ...]
    lost: int
    open: int
    parked: int
    positions: int
    drained_s: float | None
    writes: dict[str, dict[str, int]]
    checks: tuple[Check, ...]
    passed: bool
    series: Series


def write(report: LoadReport, file: Path) -> None:
    """As JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


def read(file: Path) -> LoadReport:
    """What `write` wrote. msgspec.ValidationError where it is something else."""
    return msgspec.json.decode(file.read_bytes(), type=LoadReport)
