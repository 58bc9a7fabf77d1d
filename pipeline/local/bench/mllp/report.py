"""What `surgeline bench mllp` reports: as JSON, for the terminal, and as the tables of the documentation."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from pipeline.local.provenance import shown

OURS: Final = "surgeline"
RATIO_GOAL: Final = 3.0
"""Acknowledged messages in a second, of the peer's in the same run."""
P99_GOAL_MS: Final = 50.0
"""Of the acknowledgement at the fixed rate."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What is run: seconds of each load, connections, and messages in a second of the load with a fixed rate."""

    seconds: float = 5.0
    connections: int = 50
    rate: float = 300.0


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One engine, once. Times in ms, processor time in µs per acknowledged message under the load without a rate."""

    engine: str
    per_s: float
    p50_ms: float
    p99_ms: float
    engine_us: float
    store_us: float
    one_per_s: float
    """Over one connection."""
    one_p50_ms: float
    rate_p50_ms: float
    rate_p99_ms: float
    rate_unanswered: int
    not_yes: int
    """Answers other than AA, and answers to something else."""
    others: float
    """Processors that others used meanwhile, the sender aside."""


class Kill(msgspec.Struct, frozen=True, kw_only=True):
    """kill -9 in mid-stream: what was acknowledged by then, and what of it the engine does not have when it is back."""

    engine: str
    acknowledged: int
    lost: int


class MllpReport(msgspec.Struct, frozen=True, kw_only=True):
    """All runs, and what they ran on."""

    commits: tuple[str, ...]
    """Of the runs that were joined, in their order."""
    machine: dict[str, str | int]
    options: Options
    durability: dict[str, str]
    runs: tuple[Run, ...]
    kills: tuple[Kill, ...]

    def of(self, engine: str) -> tuple[Run, ...]:
        """Its runs."""
        return tuple(run for run in self.runs if run.engine == engine)

    @property
    def engines(self) -> tuple[str, ...]:
        """In the order of their first runs."""
        return tuple(dict.fromkeys(run.engine for run in self.runs))

    @property
    def ratio(self) -> float | None:
        """Ours to the peer's, medians of messages in a second; None without a peer."""
        peers = [engine for engine in self.engines if engine != OURS]
        return self.figure(OURS, "per_s") / max(1e-9, self.figure(peers[0], "per_s")) if peers else None

    @property
    def reached(self) -> bool:
        """Whether every goal was reached: nothing lost, the ratio where there is a peer, the p99."""
        faultless = all(run.not_yes == 0 and run.rate_unanswered == 0 for run in self.of(OURS))
        kept = all(kill.lost == 0 for kill in self.kills if kill.engine == OURS)
        fast = self.ratio is None or self.ratio >= RATIO_GOAL
        return faultless and kept and fast and self.figure(OURS, "rate_p99_ms") < P99_GOAL_MS

    def figure(self, engine: str, name: str) -> float:
        """Median over the engine's runs; 0 without one."""
        values = [getattr(run, name) for run in self.of(engine)]
        return float(median(values)) if values else 0.0


def joined(before: MllpReport | None, after: MllpReport) -> MllpReport:
    """Both; of what can't be compared only the later."""
    if before is None or (before.machine, before.options) != (after.machine, after.options):
        return after
    return msgspec.structs.replace(
        after,
        commits=tuple(dict.fromkeys(before.commits + after.commits)),
        durability=before.durability | after.durability,
        runs=before.runs + after.runs,
        kills=before.kills + after.kills,
    )


COLUMNS: Final = (
    *("engine", "messages/s", "p50", "p99", "µs of processor per message", "with the broker"),
    *("p50 at the rate", "p99 at the rate", "messages/s, one connection", "p50, one connection"),
    "lost at kill -9",
)


def rows(report: MllpReport) -> Iterator[tuple[str, ...]]:
    """One row an engine: medians, of the messages in a second least and most beside it."""
    for engine in report.engines:
        per_s = [run.per_s for run in report.of(engine)]
        lost = [f"{kill.lost} of {kill.acknowledged:,}" for kill in report.kills if kill.engine == engine]

        def ms(name: str, engine: str = engine) -> str:
            return f"{report.figure(engine, name):,.1f}"

        yield (
            engine,
            f"{report.figure(engine, 'per_s'):,.0f} ({min(per_s):,.0f} to {max(per_s):,.0f})",
            *(ms("p50_ms"), ms("p99_ms")),
            f"{report.figure(engine, 'engine_us'):,.0f}",
            f"{report.figure(engine, 'engine_us') + report.figure(engine, 'store_us'):,.0f}",
            *(ms("rate_p50_ms"), ms("rate_p99_ms")),
            f"{report.figure(engine, 'one_per_s'):,.0f}",
            ms("one_p50_ms"),
            "; ".join(lost) or "not tried",
        )


def headline(report: MllpReport) -> str:
    """What was run, and on what."""
    options = report.options
    others = max((run.others for run in report.runs), default=0.0)
    turns = " and ".join(f"{len(report.of(engine))} of {engine}" for engine in report.engines)
    commits = ", ".join(map(shown, report.commits))
    return (
        f"ADT^A02 of 1 KB over {options.connections} connections with one message in flight on each, and at "
        f"{options.rate:,.0f} messages/s; {options.seconds:g} s each, medians of runs that took turns: {turns}. Times in ms. "
        f"{report.machine['cores']} cores, on which the sender and the broker ran too and others used up to {others:.1f} "
        f"meanwhile; Python {report.machine['python']}; commit {commits}."
    )


def verdict(report: MllpReport) -> str:
    """The goals and what was seen of them."""
    p99 = report.figure(OURS, "rate_p99_ms")
    told = f"p99 of the acknowledgement at the rate: {p99:.1f} ms, goal under {P99_GOAL_MS:g}."
    if report.ratio is None:
        return told
    return f"{report.ratio:.1f} times the peer's messages in a second, goal {RATIO_GOAL:g}; {told}"


def durability(report: MllpReport) -> str:
    """What stands behind an acknowledgement of each."""
    return "\n".join(f"- {engine}: {words}" for engine, words in report.durability.items())


def markdown(report: MllpReport) -> str:
    """For the documentation."""
    lines = (COLUMNS, ("---",) * len(COLUMNS), *rows(report))
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join((headline(report), table, verdict(report), "What an acknowledgement stands for:", durability(report)))


def tell(report: MllpReport, console: Console) -> None:
    """For the terminal."""
    table = Table("", *report.engines, title="bench mllp", title_justify="left")
    columns: Sequence[tuple[str, ...]] = tuple(rows(report))
    for number, name in enumerate(COLUMNS[1:], 1):
        table.add_row(name, *(column[number] for column in columns))
    console.print(table)
    console.print(headline(report), verdict(report), durability(report), sep="\n")


if __name__ == "__main__":
    sys.stdout.write(markdown(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=MllpReport)) + "\n")
