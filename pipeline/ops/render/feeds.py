"""A comparison of two feeds, for people."""

from collections.abc import Callable

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.domain.subscriptions.feeds import WINDOW_MS, Comparison, FieldFigures


def feeds_table(comparison: Comparison, name_of: Callable[[str], str]) -> RenderableType:
    """A row per field, and the entities for which the feeds end apart; `name_of` makes of a key what may be shown."""
    first, second = escape(comparison.first), escape(comparison.second)
    table = Table(title=f"{first} ({comparison.events[0]} events) and {second} ({comparison.events[1]} events)")
    for name in ("entity", "field"):
        table.add_column(name)
    names = ("agree", "both", f"only {first}", f"only {second}", "waiting", "apart now", "delay p50", "delay p99")
    for name in names:
        table.add_column(name, justify="right")
    for each in comparison.fields:
        table.add_row(*_row(each))
    notes = [
        Text(f"Delay is of {comparison.second} behind {comparison.first}. A change is waiting for {WINDOW_MS // 60_000} min.")
    ]
    if comparison.different:
        notes.append(Text("Apart now: " + ", ".join(map(name_of, comparison.different)), style="yellow"))
    return Group(table, *notes)


def _row(each: FieldFigures) -> tuple[str, ...]:
    agreement = each.agreement
    return (
        each.entity_type.value,
        each.field,
        "-" if agreement is None else f"{agreement:.1%}",
        str(each.agreed),
        str(each.only_first),
        str(each.only_second),
        str(each.waiting),
        str(each.different_now),
        _delay(each.delay_p50_ms),
        _delay(each.delay_p99_ms),
    )


def _delay(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds / 1000:+.2f} s"
