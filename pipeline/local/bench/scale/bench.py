"""`surgeline bench scale`: the gate in one, two, four workers, and how soon it serves again after a kill.

Each count of workers gets topics of its own, full with one record of each entity and as many changes as are asked for. Then
the workers start together. Start to ready: every worker is killed (kill -9) and started again, once with its disk and once
without. What a start with the disk costs of the processor and takes of the time is taken off what the records cost.
The second part is `measure_recovery`: heads of full size, a hundred thousand and a million of them.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from pipeline import topology
from pipeline.local.bench.frame import LEFT_BY_US, emptied, ended, read_report, write_report
from pipeline.local.bench.gate.load import Landing
from pipeline.local.bench.gate.run import SETTINGS, load_landing, through
from pipeline.local.bench.scale.gates import BOUND_S, Gates
from pipeline.local.bench.scale.recovery import DAY_EVENTS_PER_S, Recovery, measure_recovery
from pipeline.local.provenance import commit, machine, shown
from pipeline.local.servers.broker import Broker
from pipeline.local.stack import Stack, wait_for
from pipeline.ops.topics import KafkaTopics
from pipeline.roles.process import codec_of, now_ms

GOAL_READY_S: Final = 15.0
"""From the start of a worker until it serves, with its disk and without, where it has so many heads of one record each:"""
GOAL_HEADS: Final = 100_000
POLL_S: Final = 0.25


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What is run: so many workers in turn, each with `entities` and as many `records` beside the first of each; then the
    recovery of each number of `heads`."""

    workers: tuple[int, ...] = (1, 2, 4)
    entities: int = 100_000
    records: int = 100_000
    heads: tuple[int, ...] = (GOAL_HEADS, 1_000_000)
    seed: int = 1


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """One count of workers.

    `cpu_s` of processor time of all workers for all `records`, and `wall_s` from the first start until all was committed, both
    with their starts, which take `start_cpu_s` and `ready_with_disk_s` by themselves; memory and disk of all workers together,
    in bytes; seconds from the start until each served again.
    """

    workers: int
    entities: int
    records: int
    cpu_s: float
    start_cpu_s: float
    wall_s: float
    memory: int
    disk: int
    ready_with_disk_s: float
    ready_without_disk_s: float
    changelog: int

    @property
    def us(self) -> float:
        """Processor time of a record."""
        return max(0.0, self.cpu_s - self.start_cpu_s) / self.records * 1e6

    @property
    def per_s(self) -> float:
        """Records in a second."""
        return self.records / max(POLL_S, self.wall_s - self.ready_with_disk_s)


class ScaleReport(msgspec.Struct, frozen=True, kw_only=True):
    """All counts of workers and all numbers of heads, in the order in which they were measured."""

    commit: str
    machine: dict[str, str | int]
    scales: tuple[Scale, ...] = ()
    recoveries: tuple[Recovery, ...] = ()
    goal_ready_s: float = GOAL_READY_S

    @property
    def reached(self) -> bool:
        """Whether a worker of up to GOAL_HEADS heads served again in time, with its disk and without; whatever was measured."""
        judged = [each for each in self.recoveries if each.heads <= GOAL_HEADS]
        return all(max(each.ready_with_disk_s, each.ready_without_disk_s) <= self.goal_ready_s for each in judged)


def joined(before: ScaleReport | None, after: ScaleReport) -> ScaleReport:
    """Both, where they are of one commit and machine; else the later."""
    if before is None or (before.commit, before.machine) != (after.commit, after.machine):
        return after
    return msgspec.structs.replace(after, scales=before.scales + after.scales, recoveries=before.recoveries + after.recoveries)


def bench_scale(options: Options, folder: Path, console: Console, json_file: Path | None, check: bool) -> int:
    """Run each part in `folder`, which is emptied. The exit code: 1 where `check` and the goal was not reached, 2 where it
    could not be run. `json_file` keeps what it held before, of the same commit and machine; it is written after each part."""
    before, empty = read_report(json_file, ScaleReport), ScaleReport(commit=commit("pipeline"), machine=machine())

    def run() -> ScaleReport:
        report = empty
        emptied(folder)
        with Broker(folder / LEFT_BY_US) as broker:
            for report in _parts(options, broker, folder, empty, console):
                write_report(json_file, joined(before, report))
        return joined(before, report)

    report = ended(run, console)
    if isinstance(report, int):
        return report
    tell(report, console)
    return 1 if check and not report.reached else 0


def _parts(options: Options, broker: Broker, folder: Path, report: ScaleReport, console: Console) -> Iterator[ScaleReport]:
    """The report after each part."""
    for workers in options.workers:
        scale = _measure(workers, options, broker, folder)
        console.print(f"{workers} worker(s): {scale.us:.1f} µs per record, {scale.per_s:,.0f} records/s")
        report = msgspec.structs.replace(report, scales=(*report.scales, scale))
        yield report
    for heads in options.heads:
        recovery = measure_recovery(heads, broker, folder)
        console.print(f"{heads:,} heads: ready in {recovery.ready_without_disk_s:.1f} s without the disk")
        report = msgspec.structs.replace(report, recoveries=(*report.recoveries, recovery))
        yield report


def _measure(workers: int, options: Options, broker: Broker, folder: Path) -> Scale:
    stack = Stack(folder / f"scale-{workers}", broker.bootstrap, (), f"scale{workers}.", SETTINGS)
    stack.write_settings()
    stack.complete("topics", "apply")
    kafka, codec = stack.settings.kafka, codec_of(stack.settings)
    topics, landing, gates = KafkaTopics(kafka), Landing(options.entities, codec, options.seed), Gates(stack, workers)
    now = now_ms()
    records = [*landing.first(now), *landing.more(options.records, now)]
    load_landing(kafka, records)
    try:
        began = time.monotonic()
        gates.start()
        wait_for(lambda: through(topics, topology.GATE_APP, landing.ends), BOUND_S, "the gate at the end", POLL_S)
        wall_s, looks, disk = time.monotonic() - began, gates.looks(), gates.disk()
        gates.kill()
        kept_s, starts = gates.until_ready_s(), gates.looks()
        gates.kill()
        gates.wipe()
        wiped_s = gates.until_ready_s()
        changelog = sum(topics.end(topology.GATE_CHANGELOG).values())
    finally:
        stack.stop()
    return Scale(
        workers=workers,
        entities=options.entities,
        records=len(records),
        cpu_s=sum(cpu_s for cpu_s, _ in looks),
        start_cpu_s=sum(cpu_s for cpu_s, _ in starts),
        wall_s=wall_s,
        memory=sum(memory for _, memory in looks),
        disk=disk,
        ready_with_disk_s=kept_s,
        ready_without_disk_s=wiped_s,
        changelog=changelog,
    )


COLUMNS: Final = (
    *("workers", "entities", "records", "µs per record", "records/s", "memory of a worker", "disk of all"),
    *("to ready with the disk", "without", "changelog records"),
)
RECOVERY_COLUMNS: Final = (
    *("heads", "bytes of a head", "to ready without the disk", "with it", "recovered records/s", "memory", "disk"),
    "without the disk after a day",
)


def _rows(scales: Sequence[Scale]) -> Iterator[tuple[str, ...]]:
    for each in scales:
        yield (
            str(each.workers),
            f"{each.entities:,}",
            f"{each.records:,}",
            f"{each.us:.1f}",
            f"{each.per_s:,.0f}",
            f"{each.memory / each.workers / 1e6:,.0f} MB",
            f"{each.disk / 1e6:,.0f} MB",
            f"{each.ready_with_disk_s:.1f} s",
            f"{each.ready_without_disk_s:.1f} s",
            f"{each.changelog:,}",
        )


def _recovery_rows(recoveries: Sequence[Recovery]) -> Iterator[tuple[str, ...]]:
    for each in recoveries:
        yield (
            f"{each.heads:,}",
            f"{each.head_bytes:,.0f}",
            f"{each.ready_without_disk_s:.1f} s",
            f"{each.ready_with_disk_s:.1f} s",
            f"{each.per_s:,.0f}",
            f"{each.memory / 1e6:,.0f} MB",
            f"{each.disk / 1e6:,.0f} MB",
            f"{each.day_s / 60:,.1f} min",
        )


def headline(report: ScaleReport) -> str:
    """What was run, and on what."""
    return (
        f"{report.machine['cores']} cores; Python {report.machine['python']}; commit {shown(report.commit)}. "
        f"Goal: {GOAL_HEADS:,} heads are ready within {report.goal_ready_s:g} s, with the disk and without."
    )


def day(report: ScaleReport) -> str:
    """What the last column of the recoveries is of; empty without any."""
    if not report.recoveries:
        return ""
    return f"A day: {DAY_EVENTS_PER_S:g} records/s on average that were not compacted yet, at the rate beside it."


def markdown(report: ScaleReport) -> str:
    """The headline and the tables of the documentation."""
    tables = [_table(COLUMNS, _rows(report.scales))] if report.scales else []
    if report.recoveries:
        tables.append(_table(RECOVERY_COLUMNS, _recovery_rows(report.recoveries)))
    return "\n\n".join(part for part in (headline(report), *tables, day(report)) if part)


def _table(columns: Sequence[str], rows: Iterator[tuple[str, ...]]) -> str:
    lines = (tuple(columns), ("---",) * len(columns), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tell(report: ScaleReport, console: Console) -> None:
    """For the terminal."""
    for columns, rows in ((COLUMNS, _rows(report.scales)), (RECOVERY_COLUMNS, _recovery_rows(report.recoveries))):
        table = Table(*columns, title=headline(report), title_justify="left")
        for row in rows:
            table.add_row(*row)
        if table.row_count:
            console.print(table)
    console.print(day(report))


if __name__ == "__main__":
    sys.stdout.write(markdown(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=ScaleReport)) + "\n")
