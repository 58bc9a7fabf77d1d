"""`surgeline bench e2e`: from the source by HTTP to the EHR's confirmation, on the real thing, per lane.

A real broker, way in, gate and writer; a stand-in for the EHR that answers in 5 ms. 500 events a second in batches of 20 over
5,000 entities: 5 of a hundred critical, 15 urgent, 50 routine, 30 bulk. The time of an event begins when its batch is sent
and ends when the writer has the confirmation of its revision, or of the one that replaced it.
"""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from pipeline.domain.identifiers import EntityKey
from pipeline.domain.records import Accepted, Lane
from pipeline.local.bench.e2e.send import BATCH, HttpSender
from pipeline.local.bench.e2e.stages import EVERY, StageLag, read_courses, stages_of
from pipeline.local.bench.frame import emptied, ended, write_report
from pipeline.local.bench.surge import figures as of
from pipeline.local.bench.surge.figures import Change, History, LaneLag, Span, read_history
from pipeline.local.bench.surge.lab import EHR as DESTINATION
from pipeline.local.bench.surge.lab import HEALTHY, Lab, laboratory
from pipeline.local.bench.surge.load import CAPACITY, EHR, Load, Mix
from pipeline.local.errors import LocalPlatformError
from pipeline.local.provenance import commit, machine, shown
from pipeline.local.stack import CLIENT
from pipeline.ops.topics import KafkaTopics
from pipeline.roles.process import now_ms
from pipeline.topology import ACCEPTED

GOAL_MS: Final = 250.0
SHARES: Final = (0.05, 0.15, 0.5, 0.3)
"""Of the events, by lane."""

WRITER: Final = {"rate_per_s": 10_000.0}
DRAIN_S: Final = 60.0


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What is run."""

    rate: float = 500.0
    seconds: float = 60.0
    warm_up_s: float = 10.0
    entities: int = 5_000
    seed: int = 1


class E2eReport(msgspec.Struct, frozen=True, kw_only=True):
    """Lags by lane, ms, from the source to the confirmation, of the events of the measured span.

    `sent` events, of which `unanswered` got no yes and `open` are not confirmed at the end; `retries` requests were sent
    again. `cpu` is of each process the processor seconds in a second, `stages` where the time went.
    """

    commit: str
    machine: dict[str, str | int]
    options: Options
    lags: tuple[LaneLag, ...]
    sent: int
    unanswered: int
    retries: int
    open: int
    cpu: dict[str, float]
    goal_critical_p99_ms: float = GOAL_MS
    stages: tuple[StageLag, ...] = ()

    @property
    def critical_p99_ms(self) -> float:
        """Of the critical lane."""
        return next(lag.p99_ms for lag in self.lags if lag.lane == Lane.CRITICAL.value)

    @property
    def reached(self) -> bool:
        """Whether the goal is, with nothing open or unanswered."""
        return self.critical_p99_ms <= self.goal_critical_p99_ms and not self.open and not self.unanswered


def bench_e2e(options: Options, folder: Path, console: Console, json_file: Path | None, check: bool) -> int:
    """Run once in `folder`, which is emptied. The exit code: 1 where `check` and the goal was not reached, 2 where it could
    not be run."""

    def run() -> E2eReport:
        emptied(folder)
        return asyncio.run(_measure(options, folder, console))

    report = ended(run, console)
    if isinstance(report, int):
        return report
    write_report(json_file, report)
    tell(report, console)
    return 1 if check and not report.reached else 0


async def _measure(options: Options, folder: Path, console: Console) -> E2eReport:
    load = Load(options.entities, options.seed)
    mix = Mix(*(share * options.rate for share in SHARES))
    async with laboratory(folder, load, WRITER) as lab:
        await asyncio.to_thread(open_http, lab)
        await asyncio.to_thread(lab.standin.behave, HEALTHY)
        async with HttpSender(load, lab.stack.http_url, lab.stack.token) as sender:
            console.print(f"warm-up: {options.entities:,} entities, then {options.warm_up_s:g} s of the load")
            await sender.warm_up()
            await _drained(lab)
            await sender.play(mix, options.warm_up_s)
            console.print(f"{options.rate:,.0f} events/s for {options.seconds:g} s")
            begin = now_ms()
            await sender.play(mix, options.seconds)
            span = Span("e2e", begin, now_ms(), mix.per_s, mix.critical)
            await sender.settled()
            await _drained(lab)
        history = await asyncio.to_thread(_history, lab)
        phase = of.phase_of(history, span)
        cpu = of.cpu_between([(sample.at, sample.cpu_s) for sample in lab.samples], span.begin, span.end)
        stages = await asyncio.to_thread(_stages, lab, span)
    return E2eReport(
        commit=commit("pipeline"),
        machine=machine(),
        options=options,
        lags=phase.lags,
        sent=sender.sent,
        unanswered=sender.sent - sender.yes,
        retries=sender.retries,
        open=phase.open,
        cpu=cpu,
        stages=stages,
    )


def open_http(lab: Lab) -> None:
    """The way in, for a client that may speak for both systems of the load."""
    stack = lab.stack
    client = {
        "name": CLIENT,
        "tenant": "demo",
        "token_file": str(stack.folder / "client.token"),
        "source_systems": [CAPACITY, EHR],
    }
    stack.overrides = {**stack.overrides, "http": {"clients": [client]}}
    stack.write_settings()
    name = stack.start("http")
    stack.wait_ready(name)
    lab.watched["way in"] = lambda: stack.roles[name].pid


async def _drained(lab: Lab) -> None:
    if not await lab.drained(DRAIN_S):
        raise LocalPlatformError(f"what was sent was not confirmed within {DRAIN_S:g} s after the load")


class _OfSource(History):
    """As told by the source: an event's time begins when it was recorded, which is when its batch was sent."""

    def accepted(self, record: Accepted) -> None:
        """From `events.accepted`."""
        self._verdict(ACCEPTED, record.event_id)
        key = EntityKey(record.tenant, record.entity_type.value, record.namespace, record.entity_id).encode()
        self.changes.append(Change(key, record.revision, record.recorded_at, record.lane))


def _history(lab: Lab) -> History:
    return read_history(KafkaTopics(lab.stack.settings.kafka), lab.sender.codec, _OfSource())


def _stages(lab: Lab, span: Span) -> tuple[StageLag, ...]:
    topics = KafkaTopics(lab.stack.settings.kafka)
    return stages_of(read_courses(topics, lab.sender.codec, DESTINATION, lab.standin.witness()), span.begin, span.end)


COLUMNS: Final = ("lane", "events", "p50", "p99", "max")


def _rows(report: E2eReport) -> Iterator[tuple[str, ...]]:
    for lag in report.lags:
        yield lag.lane, f"{lag.count:,}", *(f"{ms:,.0f}" for ms in (lag.p50_ms, lag.p99_ms, lag.max_ms))


STAGE_COLUMNS: Final = ("from the stage before to", "critical p50", "critical p99", "all p50", "all p99")
CPU_COLUMNS: Final = ("process", "processor", "µs per event")


def _stage_rows(report: E2eReport) -> Iterator[tuple[str, ...]]:
    critical = {each.stage: each for each in report.stages if each.lane == Lane.CRITICAL.value}
    for each in report.stages:
        if each.lane == EVERY and (first := critical.get(each.stage)) is not None:
            yield each.stage, *(f"{ms:,.0f}" for ms in (first.p50_ms, first.p99_ms, each.p50_ms, each.p99_ms))


def _cpu_rows(report: E2eReport) -> Iterator[tuple[str, ...]]:
    for name, share in sorted(report.cpu.items(), key=lambda each: -each[1]):
        yield name, f"{share:.2f}", f"{share / report.options.rate * 1_000_000:,.0f}"


def headline(report: E2eReport) -> str:
    """What was run, and on what."""
    options, cores = report.options, report.machine["cores"]
    others = report.cpu.get("machine", 0.0) - sum(share for name, share in report.cpu.items() if name != "machine")
    return (
        f"{options.rate:,.0f} events/s by HTTP in batches of {BATCH} over {options.entities:,} entities for "
        f"{options.seconds:g} s after a warm-up; {report.sent:,} events sent in all, {report.unanswered} without a yes, "
        f"{report.open} open at the end. {cores} cores, of which others used {max(0.0, others):.1f} meanwhile; "
        f"Python {report.machine['python']}; commit {shown(report.commit)}. "
        f"From the source to the confirmation, ms; goal: critical p99 under {report.goal_critical_p99_ms:g}."
    )


def markdown(report: E2eReport) -> str:
    """The headline and the tables of the documentation."""
    return "\n\n".join((headline(report), *("\n".join(_lines(columns, rows)) for _, columns, rows in _tables(report))))


def _tables(report: E2eReport) -> Iterator[tuple[str, tuple[str, ...], tuple[tuple[str, ...], ...]]]:
    """Title, columns and rows of each; none that has no rows."""
    every = (
        ("bench e2e, ms from the source to the confirmation", COLUMNS, _rows(report)),
        ("where the time goes, ms", STAGE_COLUMNS, _stage_rows(report)),
        ("processor seconds in a second", CPU_COLUMNS, _cpu_rows(report)),
    )
    for title, columns, rows in every:
        if made := tuple(rows):
            yield title, columns, made


def _lines(columns: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> Iterator[str]:
    for line in (columns, ("---",) * len(columns), *rows):
        yield f"| {' | '.join(line)} |"


def tell(report: E2eReport, console: Console) -> None:
    """For the terminal."""
    for title, columns, rows in _tables(report):
        table = Table(*columns, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(headline(report))


if __name__ == "__main__":
    sys.stdout.write(markdown(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=E2eReport)) + "\n")
