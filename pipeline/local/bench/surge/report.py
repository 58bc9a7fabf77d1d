"""What `surgeline bench surge` reports: as JSON, for the terminal, and as the tables of the documentation."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.domain.records import Lane
from pipeline.local.bench.surge.fifo import FifoReport
from pipeline.local.bench.surge.figures import Phase
from pipeline.local.provenance import shown


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What is run. Seconds, and events or requests in a second."""

    seconds: float = 60.0
    rate: float = 1_000.0
    entities: int = 5_000
    critical_rate: float = 50.0
    ehr_rate: float = 100.0
    healthy_seconds: float = 30.0
    outage_seconds: float = 600.0
    outage_rate: float = 500.0
    fifo: bool = True
    seed: int = 1


class Check(msgspec.Struct, frozen=True):
    """One promise, whether it held, and what was seen."""

    name: str
    held: bool
    seen: str


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One part. `figures` are what is reported beside the checks, each with its unit in its name; `cpu` is of each phase the
    processor seconds in a second by process, and of the machine as a whole; `concurrency` the writes at once that the writer
    allowed on average."""

    name: str
    phases: tuple[Phase, ...]
    checks: tuple[Check, ...]
    figures: dict[str, float]
    cpu: dict[str, dict[str, float]]
    concurrency: dict[str, float]
    fifo: FifoReport | None = None

    @property
    def reached(self) -> bool:
        """Whether every promise held."""
        return all(check.held for check in self.checks)


class SurgeReport(msgspec.Struct, frozen=True, kw_only=True):
    """All parts that were run, and what they ran on."""

    commit: str
    machine: dict[str, str | int]
    options: Options
    parts: tuple[Part, ...]
    reached: bool


# -- as tables

MACHINE: Final = "machine"
"""In place of a process's name: whatever runs here."""

OURS: Final = ("gate", "writer", "broker")

PHASE_COLUMNS: Final = (
    *("part", "phase", "events/s", "critical p50", "critical p99", "urgent p99", "routine p99", "bulk p99"),
    *("writes", "saved", "superseded p50", "superseded p99", "drained in"),
)
FIFO_COLUMNS: Final = (
    "lane",
    "events",
    "still waiting at the end",
    "p50 of those written",
    "p99 of those written",
    "p99 at least",
)


def phase_rows(report: SurgeReport) -> Iterator[tuple[str, ...]]:
    """One row a phase; lags in ms, the time to drain in seconds after the load's end."""
    for part in report.parts:
        for phase in part.phases:
            saved = phase.superseded / max(1, phase.superseded + phase.writes)
            lags = (phase.lag(lane).p99_ms for lane in (Lane.URGENT, Lane.ROUTINE, Lane.BULK))
            critical, replaced = phase.lag(Lane.CRITICAL), phase.superseded_lag
            yield (
                part.name,
                phase.name,
                f"{phase.events_per_s:,.0f}",
                *(f"{ms:,.0f}" for ms in (critical.p50_ms, critical.p99_ms, *lags)),
                f"{phase.writes:,}",
                f"{saved:.0%}",
                *(f"{ms:,.0f}" for ms in (replaced.p50_ms, replaced.p99_ms)),
                f"{phase.drained_s:.1f} s",
            )


def fifo_rows(report: SurgeReport) -> Iterator[tuple[str, ...]]:
    """What the FIFO writer made of the same load, by lane; ms."""
    for part in report.parts:
        for lane in part.fifo.lanes if part.fifo is not None else ():
            yield (
                lane.lane,
                f"{lane.events:,}",
                f"{lane.waiting:,}",
                *(f"{ms:,.0f}" for ms in (lane.p50_ms, lane.p99_ms, lane.with_waiting_p99_ms)),
            )


def check_rows(report: SurgeReport) -> Iterator[tuple[str, ...]]:
    """Each promise of each part."""
    for part in report.parts:
        for check in part.checks:
            yield part.name, check.name, "yes" if check.held else "**no**", check.seen


def others_in(part: Part) -> float:
    """Processors that others used, most in any phase in which each process of ours was seen from its beginning to its end: on
    a machine that is not quiet the lags say little."""
    whole = [cpu for cpu in part.cpu.values() if cpu.keys() >= {MACHINE, *OURS}]
    others = (cpu[MACHINE] - sum(share for name, share in cpu.items() if name != MACHINE) for cpu in whole)
    return round(max(others, default=0.0), 2)


def headline(report: SurgeReport) -> str:
    """What was run, and on what."""
    options = report.options
    others = max((others_in(part) for part in report.parts), default=0.0)
    machine_is = f"{report.machine['cores']} cores, of which others used up to {others:.1f} meanwhile"
    return (
        f"{options.rate:,.0f} events/s, {options.critical_rate:g} of them critical, for {options.seconds:g} s over "
        f"{options.entities:,} entities; the stand-in takes {options.ehr_rate:g} requests/s. "
        f"Outage: {options.outage_seconds:g} s at {options.outage_rate:,.0f} events/s. {machine_is}; "
        f"Python {report.machine['python']}; commit {shown(report.commit)}. Lags in ms from receipt to confirmation."
    )


def markdown(report: SurgeReport) -> str:
    """The headline and the three tables of the documentation."""
    tables = (
        (("part", "promise", "held", "seen"), check_rows(report)),
        (PHASE_COLUMNS, phase_rows(report)),
        (FIFO_COLUMNS, fifo_rows(report)),
    )
    return "\n\n".join((headline(report), *(_markdown(columns, tuple(rows)) for columns, rows in tables)))


def _markdown(columns: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> str:
    lines = (columns, ("---",) * len(columns), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tell(report: SurgeReport, console: Console) -> None:
    """For the terminal: the promises, the phases, the FIFO writer, and the figures beside them."""
    promises = Table("part", "", "promise", "seen", title="bench surge", title_justify="left")
    for part in report.parts:
        for check in part.checks:
            promises.add_row(part.name, Text("✔", "green") if check.held else Text("✘", "bold red"), check.name, check.seen)
    console.print(promises)
    console.print(_table("Lags in ms from receipt to confirmation", PHASE_COLUMNS, phase_rows(report)))
    rows = tuple(fifo_rows(report))
    if rows:
        console.print(_table("A FIFO writer of the same parts beside it, ms", FIFO_COLUMNS, iter(rows)))
    for part in report.parts:
        for phase, cpu in part.cpu.items():
            told = ", ".join(f"{name} {share:.2f}" for name, share in cpu.items())
            console.print(f"{part.name}, {phase}: writes at once {part.concurrency[phase]:.1f}; processors: {told}")
        for name, value in part.figures.items():
            console.print(f"{part.name}: {name.replace('_', ' ')} {value:,.2f}")


def _table(title: str, columns: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Table:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    return table


if __name__ == "__main__":
    sys.stdout.write(markdown(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=SurgeReport)) + "\n")
