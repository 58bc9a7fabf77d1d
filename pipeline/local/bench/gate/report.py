"""What `surgeline bench gate --peer` reports: as JSON, for the terminal, and as the tables of the documentation."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from pipeline.local.provenance import shown

TOTAL_GOAL: Final = 1.5
FRAMEWORK_GOAL: Final = 3.0

OURS: Final = "surgeline"
WITH_GOALS: Final = frozenset({"quix"})
"""Peers that the goals are about; beside the others the figures are reported."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What is run. `records` are measured, after `warm_up` records of the same kind and one of each entity."""

    entities: int = 2_000
    warm_up: int = 10_000
    records: int = 60_000
    kill_records: int = 30_000
    seed: int = 1


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One worker, once: `us` of processor time per record of the whole process, `wall_s` until the last output was there.

    `memory` is what it held then, in bytes; `cycle` how many records one cycle of ours had on average.
    """

    worker: str
    records: int
    us: float
    wall_s: float
    memory: int
    cycle: float = 0.0


class Alone(msgspec.Struct, frozen=True, kw_only=True):
    """The decision by itself, µs per record: as the peer calls it, one by one, and as ours does, by cycles.

    `twin_us` where the peer's decision is a port to another language.
    """

    one_by_one_us: float
    by_cycle_us: float
    head_bytes: float
    twin_us: float | None = None


class Kill(msgspec.Struct, frozen=True, kw_only=True):
    """One kill -9 in mid-stream: landing positions without a verdict, verdicts beyond the first of a position, and those of
    them that say something else than the first."""

    worker: str
    records: int
    lost: int
    repeated: int
    different: int


class Twin(msgspec.Struct, frozen=True, kw_only=True):
    """What a port of the decision said, beside the decision: of so many landing positions those that differ, each counted once,
    at the first of these in which it does."""

    worker: str
    positions: int
    missing: int
    verdict: int
    revision: int
    changed: int
    lane: int
    other: int

    @property
    def differences(self) -> int:
        """All of them."""
        return self.missing + self.verdict + self.revision + self.changed + self.lane + self.other


class GateReport(msgspec.Struct, frozen=True, kw_only=True):
    """All runs, in the order in which they were made."""

    commit: str
    machine: dict[str, str | int]
    options: Options
    peer: str
    runs: tuple[Run, ...] = ()
    alone: tuple[Alone, ...] = ()
    kills: tuple[Kill, ...] = ()
    twins: tuple[Twin, ...] = ()

    def us(self, worker: str) -> float:
        """Median over a worker's runs; 0 without any."""
        return _median([run.us for run in self.runs if run.worker == worker])

    def decision_us(self, worker: str) -> float:
        """Median of the decision by itself, as that worker calls it."""
        if worker == OURS:
            return _median([each.by_cycle_us for each in self.alone])
        return _median([each.one_by_one_us if each.twin_us is None else each.twin_us for each in self.alone])

    def framework_us(self, worker: str) -> float:
        """What is left of the total beside the decision."""
        return max(0.0, self.us(worker) - self.decision_us(worker))

    @property
    def total_ratio(self) -> float:
        """How many times the peer's events per processor second."""
        return self.us(self.peer) / self.us(OURS) if self.us(OURS) else 0.0

    @property
    def framework_ratio(self) -> float:
        """The same of the framework alone."""
        ours = self.framework_us(OURS)
        return self.framework_us(self.peer) / ours if ours else 0.0

    @property
    def reached(self) -> bool:
        """Whether the goals are reached, and nothing of ours was lost or told twice in two ways; a twin says the same as we."""
        safe = all(kill.lost == kill.different == 0 for kill in self.kills if kill.worker == OURS)
        fast = self.total_ratio >= TOTAL_GOAL and self.framework_ratio >= FRAMEWORK_GOAL
        return (fast or self.peer not in WITH_GOALS) and safe and not any(twin.differences for twin in self.twins)


def joined(before: GateReport | None, after: GateReport) -> GateReport:
    """Both; of what can't be compared only the later."""
    if before is None or _measured(before) != _measured(after):
        return after
    return msgspec.structs.replace(
        after,
        runs=before.runs + after.runs,
        alone=before.alone + after.alone,
        kills=before.kills + after.kills,
        twins=before.twins + after.twins,
    )


def _measured(report: GateReport) -> tuple[object, ...]:
    return report.commit, report.machine, report.options, report.peer


def _median(values: Sequence[float]) -> float:
    return float(median(values)) if values else 0.0


WORKER_COLUMNS: Final = (
    *("worker", "events per processor second", "µs per event", "of it the decision", "of it the framework"),
    *("µs in the runs", "events/s as it ran", "memory"),
)
KILL_COLUMNS: Final = ("worker", "events", "lost", "told again", "told again otherwise")


def worker_rows(report: GateReport) -> Iterator[tuple[str, ...]]:
    """One row a worker."""
    for worker in dict.fromkeys(run.worker for run in report.runs):
        runs = [run for run in report.runs if run.worker == worker]
        yield (
            worker,
            f"{1e6 / report.us(worker):,.0f}",
            f"{report.us(worker):.1f}",
            f"{report.decision_us(worker):.1f}",
            f"{report.framework_us(worker):.1f}",
            ", ".join(f"{run.us:.1f}" for run in runs),
            f"{_median([run.records / run.wall_s for run in runs]):,.0f}",
            f"{_median([run.memory for run in runs]) / 1e6:,.0f} MB",
        )


def kill_rows(report: GateReport) -> Iterator[tuple[str, ...]]:
    """One row a kill."""
    for kill in report.kills:
        yield kill.worker, f"{kill.records:,}", f"{kill.lost:,}", f"{kill.repeated:,}", f"{kill.different:,}"


def headline(report: GateReport) -> str:
    """What was run, and on what."""
    options = report.options
    heads = _median([each.head_bytes for each in report.alone])
    return (
        f"{options.records:,} records over {options.entities:,} entities after a warm-up of "
        f"{options.entities + options.warm_up:,}; heads of {heads:,.0f} bytes. {report.machine['cores']} cores; "
        f"Python {report.machine['python']}; commit {shown(report.commit)}."
    )


def verdict(report: GateReport) -> str:
    """The two ratios against their goals, and whether a twin is one; empty without a peer."""
    if not report.us(report.peer):
        return ""
    if report.peer not in WITH_GOALS:
        positions = sum(twin.positions for twin in report.twins)
        return (
            f"Per processor second {report.total_ratio:.2f} times the events of {report.peer}, the framework alone "
            f"{report.framework_ratio:.2f} times. Of {positions:,} verdicts of the twin "
            f"{sum(twin.differences for twin in report.twins):,} differ from ours."
        )
    return (
        f"Per processor second {report.total_ratio:.2f} times the events of {report.peer} (goal {TOTAL_GOAL:g}), "
        f"the framework alone {report.framework_ratio:.2f} times (goal {FRAMEWORK_GOAL:g})."
    )


def markdown(report: GateReport) -> str:
    """The headline, the tables and the ratios for the documentation."""
    tables = [_markdown(WORKER_COLUMNS, worker_rows(report))]
    if report.kills:
        tables.append(_markdown(KILL_COLUMNS, kill_rows(report)))
    return "\n\n".join(part for part in (headline(report), *tables, verdict(report)) if part)


def _markdown(columns: Sequence[str], rows: Iterator[tuple[str, ...]]) -> str:
    lines = (tuple(columns), ("---",) * len(columns), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tell(report: GateReport, console: Console) -> None:
    """For the terminal."""
    for title, columns, rows in (
        (headline(report), WORKER_COLUMNS, worker_rows(report)),
        ("kill -9 in mid-stream", KILL_COLUMNS, kill_rows(report)),
    ):
        table = Table(*columns, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
        if table.row_count:
            console.print(table)
    console.print(verdict(report))


if __name__ == "__main__":
    sys.stdout.write(markdown(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=GateReport)) + "\n")
