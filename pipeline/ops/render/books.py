"""The books as tables for people, and as JSON. Verdicts are words and signs, not colours alone."""

from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.domain.accounts.books import Books
from pipeline.domain.accounts.deliveries import DestinationBooks, OpenItem, Problem
from pipeline.ops.books import Asked
from pipeline.ops.words import duration_of


def books_json(books: Books, asked: Iterable[Asked] = ()) -> bytes:
    """For `--json`: `{"books": …, "asked": […]}`."""
    return msgspec.json.encode({"books": books, "asked": list(asked)})


def render_books(books: Books, asked: Iterable[Asked] = (), now_ms: int | None = None) -> Group:
    """Verdict, landing, destinations, lag, what is open, and every named problem."""
    parts: list[Text | Table] = [_verdict(books), _topics(books), _destinations(books), _lags(books)]
    waiting = [(books_of, item) for books_of in books.destinations for item in books_of.open_items]
    if waiting:
        parts.append(_open(waiting, now_ms))
    looks = list(asked)
    if looks:
        parts.append(_asked(looks))
    problems = [*books.problems, *(problem for look in looks for problem in look.problems)]
    if problems:
        parts.append(_problems(problems, sum(books.problem_counts.values()) + sum(look.different for look in looks)))
    parts += [Text(f"• {note.topic}[{note.partition}] begins at {note.offset}: nothing before is proven") for note in books.notes]
    return Group(*parts)


def _verdict(books: Books) -> Text:
    if not books.balanced:
        return Text(f"✘ THE BOOKS DO NOT BALANCE: {sum(books.problem_counts.values())} problems", style="bold red")
    if not books.complete:
        return Text(f"… balanced so far; {books.open} open, {books.waiting} not judged yet", style="bold yellow")
    return Text("✔ the books balance and nothing is open", style="bold green")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    return table


def _topics(books: Books) -> Table:
    kinds = sorted({kind for topic in books.topics for kind, count in topic.decided.items() if count})
    table = _table("Landing", "topic", "positions", "accepted", *(kind.lower() for kind in kinds), "missing", "waiting")
    for topic in books.topics:
        decided = (str(topic.decided.get(kind, 0)) for kind in kinds)
        table.add_row(topic.topic, str(topic.positions), str(topic.accepted), *decided, str(topic.missing), str(topic.waiting))
    return table


def _destinations(books: Books) -> Table:
    columns = ("expected", "confirmed", "superseded", "shadowed", "parked", "open", "unaccounted", "entities", "current")
    table = _table("Destinations", "destination", *columns)
    for at in books.destinations:
        table.add_row(escape(at.destination), *(str(getattr(at, column)) for column in columns))
        for reason, count in at.parked_by_reason.items():
            table.add_row(f"  parked: {reason}", "", "", "", "", str(count), "", "", "", "")
    return table


def _lags(books: Books) -> Table:
    table = _table(
        "Lag from receipt (and from recording)", "destination", "lane", "changes", "p50", "p99", "max", "(p50)", "(p99)", "(max)"
    )
    for at in books.destinations:
        for lag in at.lags:
            received = (lag.p50_ms, lag.p99_ms, lag.max_ms)
            recorded = (lag.recorded_p50_ms, lag.recorded_p99_ms, lag.recorded_max_ms)
            shown = (duration_of(value) for value in (*received, *recorded))
            table.add_row(escape(at.destination), lag.lane.value, str(lag.count), *shown)
    return table


def _open(waiting: list[tuple[DestinationBooks, OpenItem]], now_ms: int | None) -> Table:
    table = _table("Open, longest first", "destination", "lane", "position", "subject", "since")
    for at, item in waiting:
        since = datetime.fromtimestamp(item.since / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        age = f" ({duration_of(now_ms - item.since)})" if now_ms is not None else ""
        position = f"{item.topic}[{item.partition}] {item.epoch}.{item.offset}"
        table.add_row(escape(at.destination), item.lane.value, escape(position), item.subject, since + age)
    return table


def _asked(looks: list[Asked]) -> Table:
    columns = ("entities", "same", "moved_on", "different", "unanswered")
    table = _table("What the destinations show", "destination", *(column.replace("_", " ") for column in columns))
    for look in looks:
        table.add_row(escape(look.destination), *(str(getattr(look, column)) for column in columns))
    return table


def _problems(problems: list[Problem], total: int) -> Table:
    table = _table(f"Problems: {len(problems)} of {total}", "problem", "position", "destination", "subject", "detail")
    for problem in problems:
        position = f"{problem.topic}[{problem.partition}] {problem.epoch}.{problem.offset}"
        table.add_row(
            f"✘ {problem.trouble.value}", escape(position), escape(problem.destination), problem.subject, escape(problem.detail)
        )
    return table
