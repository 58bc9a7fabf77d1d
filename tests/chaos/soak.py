"""`python -m tests.chaos.soak --minutes N --rate N [--json FILE]`: nothing is killed, events go on coming, and everything that
should stand still is looked at. Exit code: 0 all held, 1 not, 2 could not be run.

A real broker, way in, gate and writer, and a stand-in for the EHR that answers in 5 ms.
"""

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.domain.records import Accepted, Decision, Outcome, OutcomeKind
from pipeline.local.bench.e2e.bench import DRAIN_S, SHARES, WRITER, open_http
from pipeline.local.bench.e2e.send import HttpSender
from pipeline.local.bench.surge.lab import EHR, HEALTHY, Lab, laboratory
from pipeline.local.bench.surge.load import Load, Mix
from pipeline.local.errors import LocalPlatformError
from pipeline.local.provenance import commit, machine
from pipeline.ops.topics import KafkaTopics, decoded
from pipeline.roles.accounts.books import close_books
from pipeline.roles.process import now_ms
from pipeline.topology import ACCEPTED, DECISIONS, OUTCOMES
from tests.chaos.ending import carried_out
from tests.chaos.report import Check, books_check
from tests.chaos.soak_checks import Lags, Look, Minute, checks_of, none_lost

LOOK_EVERY_S: Final = 5.0
TELL_EVERY: Final = 12
ENTITIES: Final = 5_000
TABLES: Final = {"gate": "gate", "writer": EHR}
"""Processes that keep a table, and its folder."""
ROLES: Final = ("gate", "writer", "way in")


class SoakReport(msgspec.Struct, frozen=True):
    """One run."""

    commit: str
    machine: dict[str, Any]
    minutes: float
    rate: float
    entities: int
    sent: int
    yes: int
    retries: int
    verdicts: dict[str, int]
    cpu: dict[str, float]
    checks: tuple[Check, ...]
    lags: tuple[Minute, ...]
    looks: tuple[Look, ...]
    """One a minute; the checks are of all."""
    passed: bool


async def soak(folder: Path, minutes: float, rate: float, console: Console) -> SoakReport:
    """Run it; LocalPlatformError if the parts could not be started, or one of them ended."""
    load = Load(ENTITIES)
    async with laboratory(folder, load, WRITER) as lab:
        await asyncio.to_thread(open_http, lab)
        await asyncio.to_thread(lab.standin.behave, HEALTHY)
        async with HttpSender(load, lab.stack.http_url, lab.stack.token) as sender:
            await sender.warm_up()
            await _drained(lab)
            console.print(f"{rate:g} events/s for {minutes:g} minutes over {ENTITIES:,} entities", soft_wrap=True)
            began_ms, looks = now_ms(), list[Look]()
            async with _looking(lab, looks, console):
                await sender.play(Mix(*(share * rate for share in SHARES)), minutes * 60)
            await sender.settled()
            await _drained(lab)
            ended_ms = now_ms()
        lags, verdicts = await asyncio.to_thread(_read, lab, began_ms)
        books, asked = await asyncio.to_thread(close_books, lab.stack.settings, gate_s=DRAIN_S, open_s=DRAIN_S)
        counts = await asyncio.to_thread(lab.standin.counts)
        first, last = lab.samples[0], lab.samples[-1]
    span_s = max(1.0, (last.at - first.at) / 1000)
    checks = (
        none_lost(sender.yes, verdicts),
        Check("everything is answered", sender.refused == 0, f"{sender.sent:,} sent, {sender.retries} sent again"),
        books_check(books, asked),
        *checks_of(looks, lags.minutes(), TABLES),
    )
    console.print(f"{counts['writes']:,} versions at the EHR; {(ended_ms - began_ms) / 1000:,.0f} s in all", soft_wrap=True)
    return SoakReport(
        commit=commit("pipeline"),
        machine=machine(),
        minutes=minutes,
        rate=rate,
        entities=ENTITIES,
        sent=sender.sent,
        yes=sender.yes,
        retries=sender.retries,
        verdicts=verdicts,
        cpu={name: round((last.cpu_s[name] - first.cpu_s.get(name, 0.0)) / span_s, 2) for name in last.cpu_s},
        checks=checks,
        lags=lags.minutes(),
        looks=tuple(looks[::TELL_EVERY]),
        passed=all(check.held for check in checks),
    )


async def _drained(lab: Lab) -> None:
    if not await lab.drained(DRAIN_S):
        raise LocalPlatformError(f"what was sent was not confirmed within {DRAIN_S:g} s after the load")


@contextlib.asynccontextmanager
async def _looking(lab: Lab, looks: list[Look], console: Console) -> AsyncIterator[None]:
    async def look_on() -> None:
        began = asyncio.get_running_loop().time()
        while True:
            looks.append(await asyncio.to_thread(_look, lab, asyncio.get_running_loop().time() - began))
            if len(looks) % TELL_EVERY == 0:
                last = looks[-1]
                told = ", ".join(f"{name} {last.memory.get(name, 0) / 1e6:,.0f} MB" for name in ROLES)
                console.print(f"  second {last.at_s:,.0f}: {told}", highlight=False, soft_wrap=True)
            await asyncio.sleep(LOOK_EVERY_S)

    looking = asyncio.create_task(look_on())
    try:
        yield
    finally:
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking


def _look(lab: Lab, at_s: float) -> Look:
    files = {}
    for name in ROLES:
        with contextlib.suppress(OSError):
            files[name] = len(os.listdir(f"/proc/{lab.watched[name]()}/fd"))
    memory = {name: size for name, size in lab.memory.items() if name in ROLES}
    data = lab.stack.folder / "data"
    disk = {name: _bytes_under(data / part) for name, part in TABLES.items()}
    return Look(at_s, memory, files, {**disk, "broker": _bytes_under(lab.stack.folder.parent / "kafka")})


def _bytes_under(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.lstat().st_blocks * 512
    return total


def _read(lab: Lab, began_ms: int) -> tuple[Lags, dict[str, int]]:
    """One pass over the topics, of which nothing is kept but counts."""
    topics, lags, verdicts = KafkaTopics(lab.stack.settings.kafka), Lags(began_ms), dict[str, int]()
    for topic in (ACCEPTED, DECISIONS, OUTCOMES):
        for message in topics.read(topic, topics.begin(topic), topics.end(topic)):
            match decoded(lab.sender.codec, message):
                case Accepted():
                    verdicts[ACCEPTED] = verdicts.get(ACCEPTED, 0) + 1
                case Decision() as decision:
                    verdicts[decision.kind.value] = verdicts.get(decision.kind.value, 0) + 1
                case Outcome() as outcome if outcome.kind is OutcomeKind.CONFIRMED:
                    lags.add(outcome.at, outcome.lane.value, outcome.at - outcome.received_at)
                case _:
                    continue
    return lags, verdicts


def tell(report: SoakReport, console: Console) -> None:
    """The verdict, with what was seen."""
    table = Table(title=f"Soak: {report.rate:g} events/s for {report.minutes:g} minutes", title_justify="left")
    for column in ("", "promise", "seen"):
        table.add_column(column, overflow="fold")
    for check in report.checks:
        table.add_row(Text("✔", "green") if check.held else Text("✘", "bold red"), check.name, check.seen)
    console.print(table)
    for check in report.checks:
        for problem in check.problems:
            console.print(Text(f"  {problem}", "red"))
    verdict = "everything stood still" if report.passed else "NOT EVERYTHING HELD"
    console.print(Text(f"{verdict} (make soak MINUTES={report.minutes:g} RATE={report.rate:g})", "bold"))


def main() -> int:
    """Parse, run, tell."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long the load lasts (default: %(default)g)")
    parser.add_argument("--rate", type=float, default=500.0, help="events in a second (default: %(default)g)")
    parser.add_argument("--json", type=Path, help="write the report here")
    given = parser.parse_args()
    return carried_out("soak", lambda folder, console: soak(folder, given.minutes, given.rate, console), tell, given.json)


if __name__ == "__main__":
    sys.exit(main())
