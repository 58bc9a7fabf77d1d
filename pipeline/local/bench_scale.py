"""`surgeline bench scale`: the gate in one, two, four workers, and how soon it serves again after a kill.

Each count of workers gets topics of its own, full with one record of each entity and as many changes as are asked for. Then
the workers start together: so the figure holds their start. What they use of the processor after that is per record.
Start to ready: every worker is killed (kill -9) and started again, once with its disk and once without.
"""

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline import topology
from pipeline.kafka.client import KafkaUnavailable
from pipeline.local.bench_gate import LEFT_BY_US, emptied
from pipeline.local.bench_gate_load import Landing
from pipeline.local.bench_gate_run import SETTINGS, load_landing, look, through
from pipeline.local.broker import Broker
from pipeline.local.errors import LocalPlatformError
from pipeline.local.provenance import commit, machine
from pipeline.local.stack import Stack, wait_for
from pipeline.ops.topics import KafkaTopics
from pipeline.roles.process import codec_of, now_ms

GOAL_READY_S: Final = 15.0
"""From the start of a worker without its disk until it serves, with 100,000 entities of one record each."""

BOUND_S: Final = 600.0
POLL_S: Final = 0.25
NOT_RUN: Final = 2
INTERRUPTED: Final = 130


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What is run: so many workers in turn, each with `entities` and as many `records` beside the first of each."""

    workers: tuple[int, ...] = (1, 2, 4)
    entities: int = 100_000
    records: int = 100_000
    seed: int = 1


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """One count of workers. `us` of processor time per record, their starts included; `wall_s` from the first start until all
    was committed; memory and disk of all workers together, in bytes; seconds from the start until each served again."""

    workers: int
    records: int
    us: float
    wall_s: float
    memory: int
    disk: int
    ready_with_disk_s: float
    ready_without_disk_s: float
    changelog: int


class ScaleReport(msgspec.Struct, frozen=True, kw_only=True):
    """All counts."""

    commit: str
    machine: dict[str, str | int]
    options: Options
    scales: tuple[Scale, ...]
    goal_ready_s: float = GOAL_READY_S

    @property
    def reached(self) -> bool:
        """Whether every worker served again in time, without its disk too."""
        return all(max(each.ready_with_disk_s, each.ready_without_disk_s) <= self.goal_ready_s for each in self.scales)


def bench_scale(options: Options, folder: Path, console: Console, json_file: Path | None, check: bool) -> int:
    """Run each count in `folder`, which is emptied. The exit code: 1 where `check` and the goal was not reached, 2 where it
    could not be run."""
    scales: list[Scale] = []
    try:
        emptied(folder)
        broker = Broker(folder / LEFT_BY_US)
        broker.start()
        try:
            for workers in options.workers:
                scales.append(_measure(workers, options, broker, folder))
                console.print(f"{workers} worker(s): {scales[-1].us:.1f} µs per record")
        finally:
            broker.stop()
    except (LocalPlatformError, KafkaUnavailable) as error:
        console.print(Text(f"The bench could not be run: {error}", style="bold red"))
        return NOT_RUN
    except KeyboardInterrupt:
        return INTERRUPTED
    report = ScaleReport(commit=commit("pipeline"), machine=machine(), options=options, scales=tuple(scales))
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    tell(report, console)
    return 1 if check and not report.reached else 0


class _Gates:
    """So many gates with a disk each."""

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


def _measure(workers: int, options: Options, broker: Broker, folder: Path) -> Scale:
    stack = Stack(folder / f"scale-{workers}", broker.bootstrap, (), f"scale{workers}.", SETTINGS)
    stack.write_settings()
    stack.complete("topics", "apply")
    kafka, codec = stack.settings.kafka, codec_of(stack.settings)
    topics, landing, gates = KafkaTopics(kafka), Landing(options.entities, codec, options.seed), _Gates(stack, workers)
    now = now_ms()
    records = [*landing.first(now), *landing.more(options.records, now)]
    load_landing(kafka, records)
    try:
        began = time.monotonic()
        gates.start()
        wait_for(lambda: through(topics, topology.GATE_APP, landing.ends), BOUND_S, "the gate at the end", POLL_S)
        wall_s, looks, disk = time.monotonic() - began, gates.looks(), gates.disk()
        gates.kill()
        kept_s = gates.until_ready_s()
        gates.kill()
        gates.wipe()
        wiped_s = gates.until_ready_s()
        changelog = sum(topics.end(topology.GATE_CHANGELOG).values())
    finally:
        stack.stop()
    return Scale(
        workers=workers,
        records=len(records),
        us=sum(cpu_s for cpu_s, _ in looks) / len(records) * 1e6,
        wall_s=wall_s,
        memory=sum(memory for _, memory in looks),
        disk=disk,
        ready_with_disk_s=kept_s,
        ready_without_disk_s=wiped_s,
        changelog=changelog,
    )


COLUMNS: Final = (
    *("workers", "records", "µs per record", "events/s, start included", "memory of all", "disk of all"),
    *("to ready with the disk", "without", "changelog records"),
)


def _rows(scales: Sequence[Scale]) -> Iterator[tuple[str, ...]]:
    for each in scales:
        yield (
            str(each.workers),
            f"{each.records:,}",
            f"{each.us:.1f}",
            f"{each.records / each.wall_s:,.0f}",
            f"{each.memory / 1e6:,.0f} MB",
            f"{each.disk / 1e6:,.0f} MB",
            f"{each.ready_with_disk_s:.1f} s",
            f"{each.ready_without_disk_s:.1f} s",
            f"{each.changelog:,}",
        )


def headline(report: ScaleReport) -> str:
    """What was run, and on what."""
    return (
        f"{report.options.entities:,} entities. {report.machine['cores']} cores; Python {report.machine['python']}; "
        f"commit {report.commit[:12]}. Goal: ready within {report.goal_ready_s:g} s, with the disk and without."
    )


def markdown(report: ScaleReport) -> str:
    """The headline and the table of the documentation."""
    lines = (COLUMNS, ("---",) * len(COLUMNS), *_rows(report.scales))
    return "\n\n".join((headline(report), "\n".join(f"| {' | '.join(line)} |" for line in lines)))


def tell(report: ScaleReport, console: Console) -> None:
    """For the terminal."""
    table = Table(*COLUMNS, title=headline(report), title_justify="left")
    for row in _rows(report.scales):
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    sys.stdout.write(markdown(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=ScaleReport)) + "\n")
