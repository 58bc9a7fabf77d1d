"""`python -m tests.chaos.soak_page REPORT.json PAGE.html`: what an hour looked like."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from loadtest.charts import Time, clock, lines, table
from loadtest.document import NOTHING, beside, document, figure, heading, held, lag, section
from pipeline.domain.records import Lane
from tests.chaos.soak import SoakReport
from tests.chaos.soak_checks import Look

STEP_S: Final = 60.0
MEGA: Final = 1e6
SAYS: Final = (
    "A real broker, way in, gate and writer, and an EHR that answers in 5 ms. Nothing is killed: what should stand still is "
    "looked at."
)

Columns = Mapping[str, Sequence[float | None]]


def render(report: SoakReport) -> str:
    """The page."""
    steps = max([1, *(int(look.at_s // STEP_S) + 1 for look in report.looks)])
    time = Time(0.0, STEP_S, steps)
    memory, files, disk = (_by_minute(report.looks, kind, steps) for kind in ("memory", "files", "disk"))
    sections = (
        section("Promises", _checks(report)),
        section("Lag of confirmed writes", _over_time("Lag by lane, p99", time, _lags(report, steps), lag, log=True)),
        section("Memory", _over_time("Memory of each process, MB", time, _in_mega(memory), figure)),
        section("Open descriptors", _over_time("Open descriptors of each process", time, files, figure)),
        section("Disk", _over_time("Disk of the tables and of the broker's log, MB", time, _in_mega(disk), figure)),
        section("Processors", _processors(report)),
    )
    return document(f"Soak: {report.rate:g} events/s", _head(report), sections)


def _head(report: SoakReport) -> str:
    failed = sum(not check.held for check in report.checks)
    verdict = "✔ Everything stood still" if report.passed else f"✘ {failed} of {len(report.checks)} promises not held"
    facts = (
        (
            "Load",
            f"{report.sent:,} events of {report.entities:,} entities in {report.minutes:g} minutes, {report.retries} sent again",
        ),
        (
            "Verdicts",
            ", ".join(
                f"{name.removeprefix('events.').lower().replace('_', ' ')} {count:,}" for name, count in report.verdicts.items()
            ),
        ),
        ("Commit", report.commit),
        ("Machine", ", ".join(f"{name} {value}" for name, value in report.machine.items())),
    )
    return heading(f"{report.rate:g} events a second for {report.minutes:g} minutes", SAYS, verdict, report.passed, facts)


def _checks(report: SoakReport) -> str:
    rows = [(check.name, held(check.held), check.seen) for check in report.checks]
    return table("Each promise", ("promise", "verdict", "seen"), rows, text_columns=3)


def _processors(report: SoakReport) -> str:
    rows = [(name, f"{used:.2f}") for name, used in sorted(report.cpu.items(), key=lambda each: -each[1])]
    return table("Processor seconds in a second", ("process", "processor"), rows)


def _over_time(caption: str, time: Time, columns: Columns, say: Callable[[float], str], log: bool = False) -> str:
    chart = lines(caption, time, columns, say, (), log)
    rows = [
        (clock(step * STEP_S), *(NOTHING if value is None else say(value) for value in values))
        for step, values in enumerate(zip(*columns.values(), strict=True))
    ]
    return beside(chart, table(f"{caption}, each minute", ("from", *columns), rows), f"Chart: {caption}")


def _by_minute(looks: Sequence[Look], kind: str, steps: int) -> Columns:
    """The last look of each minute."""
    names = sorted({name for look in looks for name in getattr(look, kind)})
    columns: dict[str, list[float | None]] = {name: [None] * steps for name in names}
    for look in looks:
        for name, value in getattr(look, kind).items():
            columns[name][int(look.at_s // STEP_S)] = float(value)
    return columns


def _lags(report: SoakReport, steps: int) -> Columns:
    there = {each.lane for each in report.lags}
    columns: dict[str, list[float | None]] = {lane.value: [None] * steps for lane in Lane if lane.value in there}
    for each in report.lags:
        if each.number < steps:
            columns[each.lane][each.number] = each.p99_ms
    return columns


def _in_mega(columns: Columns) -> Columns:
    return {name: [None if value is None else round(value / MEGA, 1) for value in values] for name, values in columns.items()}


def main() -> int:
    """Read, render, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak_page", description=__doc__)
    parser.add_argument("report", type=Path, help="what `python -m tests.chaos.soak --json` wrote")
    parser.add_argument("page", type=Path, help="where the page goes")
    given = parser.parse_args()
    given.page.write_text(render(msgspec.json.decode(given.report.read_bytes(), type=SoakReport)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
