"""What a replay would do, for people and for `--json`: counts only, never a value or an identifier of an entity."""

from typing import Any

import msgspec
from rich.console import Group as Lines
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.domain.reconcile.replay import Selection, Tally, What
from pipeline.formats.rfc3339 import rfc3339_of

_TITLES = {
    What.PARKED: ("Parked", "destination"),
    What.QUARANTINED: ("Quarantined", "topic"),
    What.RANGE: ("Changed", "source or destination"),
}


def render_plan(what: What, selection: Selection, size: int, tally: Tally, unreadable: int) -> RenderableType:
    """Three tables: what is sent again, what is left out, what can't be replayed; the last two only where there is any."""
    parts: list[RenderableType] = [Text(_window_of(selection)), _groups(what, size, tally)]
    if tally.left_out:
        parts.append(_left_out(tally))
    if tally.refused:
        parts.append(_refused(tally))
    if unreadable:
        parts.append(
            Text(f"{unreadable} records of the history can't be read: what they tell of may be missing here.", style="red")
        )
    return Lines(*parts)


def _window_of(selection: Selection) -> str:
    since, until = selection.window.since, selection.window.until
    first = f"from {rfc3339_of(since)}" if since is not None else "from the beginning of what is kept"
    return f"{first} to {rfc3339_of(until) if until is not None else 'now'}"


def _groups(what: What, size: int, tally: Tally) -> Table:
    title, place = _TITLES[what]
    several = tally.groups.total() > size
    caption = "what is in several rows is sent once" if several else None
    table = Table(title=f"{title}: {size} to be sent again", caption=caption)
    for column in (place, "entity type", "reason"):
        table.add_column(column, overflow="fold")
    table.add_column("count", justify="right")
    for group, count in sorted(tally.groups.items()):
        table.add_row(escape(group.place), group.entity_type, group.cause, str(count))
    return table


def _left_out(tally: Tally) -> Table:
    table = Table(title=f"Left out: {tally.left_out.total()}")
    table.add_column("why", overflow="fold")
    table.add_column("count", justify="right")
    for why, count in sorted(tally.left_out.items()):
        table.add_row(why.value, str(count))
    return table


def _refused(tally: Tally) -> Table:
    table = Table(title=f"Can't be replayed: {tally.refused.total()}")
    for column in ("topic", "reason", "what to do"):
        table.add_column(column, overflow="fold")
    table.add_column("count", justify="right")
    for refusal, count in sorted(tally.refused.items()):
        table.add_row(escape(refusal.place), refusal.cause, escape(refusal.remedy), str(count))
    return table


def plan_json(what: What, selection: Selection, size: int, tally: Tally, unreadable: int, ordered: int | None) -> bytes:
    """The same in JSON; `ordered` is None for a dry run."""
    window = {"from": selection.window.since, "to": selection.window.until}
    shown: dict[str, Any] = {
        "what": what.value,
        **{name: rfc3339_of(at) if at is not None else None for name, at in window.items()},
        "planned": size,
        "ordered": ordered,
        "groups": [msgspec.to_builtins(group) | {"count": count} for group, count in sorted(tally.groups.items())],
        "left_out": [{"why": why.name, "count": count} for why, count in sorted(tally.left_out.items())],
        "refused": [msgspec.to_builtins(refusal) | {"count": count} for refusal, count in sorted(tally.refused.items())],
        "unreadable": unreadable,
    }
    return msgspec.json.encode(shown)
