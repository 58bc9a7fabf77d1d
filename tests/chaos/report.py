"""What a run found: for the terminal, and as JSON."""

from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.domain.accounts.books import Books
from pipeline.ops.books import Asked


class Check(msgspec.Struct, frozen=True):
    """One promise, whether it held, and what was seen."""

    name: str
    held: bool
    seen: str
    problems: tuple[str, ...] = ()


class LagFigures(msgspec.Struct, frozen=True):
    """Lag of one lane at one destination, ms, from receipt to confirmation."""

    destination: str
    lane: str
    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Report(msgspec.Struct, frozen=True):
    """One run."""

    commit: str
    machine: dict[str, Any]
    seed: int
    kills: int
    events: int
    seconds: dict[str, float]
    load: dict[str, int]
    deeds: dict[str, Any]
    verdicts: dict[str, int]
    checks: tuple[Check, ...]
    lags: tuple[LagFigures, ...]
    passed: bool
    kills_per_role: int = 0
    broker_kills: int = 0
    minutes: float = 0.0
    """Longest time that the whole was allowed to take."""


def lags_of(books: Books) -> tuple[LagFigures, ...]:
    """Per destination and lane."""
    return tuple(
        LagFigures(d.destination, lag.lane.value, lag.count, round(lag.p50_ms), round(lag.p99_ms), round(lag.max_ms))
        for d in books.destinations
        for lag in d.lags
        if lag.count
    )


def books_check(books: Books, asked: list[Asked]) -> Check:
    """Balanced, nothing open, and each destination shows what was confirmed last."""
    positions = sum(topic.positions for topic in books.topics)
    parked = sum(d.parked for d in books.destinations)
    wrong = [f"{p.trouble.value} {p.topic}/{p.partition}@{p.offset} {p.destination} {p.detail}" for p in books.problems]
    wrong += [f"{look.destination}: {p.trouble.value} {p.detail}" for look in asked for p in look.problems]
    wrong += [f"{look.destination}: {look.unanswered} entities unanswered" for look in asked if look.unanswered]
    wrong += [
        f"{d.destination}: open {item.topic}/{item.partition}@{item.offset}"
        for d in books.destinations
        for item in d.open_items[:5]
    ]
    held = books.complete and not any(look.different or look.unanswered for look in asked)
    same = sum(look.same for look in asked)
    seen = f"{positions} positions, open {books.open}, waiting {books.waiting}, parked {parked}; {same} entities as confirmed"
    return Check("the books balance with nothing open", held, seen, tuple(wrong[:20]))


def tell(report: Report, console: Console) -> None:
    """The verdict, with what was wrong."""
    table = Table(title=f"Chaos: seed {report.seed}, {_kills(report)}, {report.events} events", title_justify="left")
    for column in ("", "promise", "seen"):
        table.add_column(column, overflow="fold")
    for check in report.checks:
        table.add_row(Text("✔", "green") if check.held else Text("✘", "bold red"), check.name, check.seen)
    console.print(table)
    lags = Table(title="Lag from receipt to confirmation, ms", title_justify="left")
    for column in ("destination", "lane", "changes", "p50", "p99", "max"):
        lags.add_column(column, justify="left" if column in ("destination", "lane") else "right")
    for lag in report.lags:
        figures = (lag.count, lag.p50_ms, lag.p99_ms, lag.max_ms)
        lags.add_row(lag.destination, lag.lane, *(f"{figure:.0f}" for figure in figures))
    console.print(lags)
    for check in report.checks:
        for problem in check.problems:
            console.print(Text(f"  {problem}", "red"))
    verdict = "every promise held" if report.passed else "NOT EVERY PROMISE HELD"
    more = "".join(
        f" {name}={value}" for name, value in (("PER_ROLE", report.kills_per_role), ("BROKER", report.broker_kills)) if value
    )
    again = f"make chaos SEED={report.seed} KILLS={report.kills} EVENTS={report.events}{more}"
    console.print(Text(f"{verdict} ({again})", "bold green" if report.passed else "bold red"))


def _kills(report: Report) -> str:
    kills = [f"{report.kills} kills"] if report.kills or not report.kills_per_role else []
    kills += [f"{report.kills_per_role} kills per role"] if report.kills_per_role else []
    return ", ".join([*kills, *([f"{report.broker_kills} of the broker"] if report.broker_kills else [])])
