"""`surgeline mode show`: the mode of each destination, since when, why, with the figures, what it freezes, and who forces it."""

import msgspec
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.ops.render.status import frozen_words, mode_words, order_words
from pipeline.ops.status import DestinationStatus, Status


def modes_json(status: Status) -> bytes:
    """For `--json`: an object per destination."""
    return msgspec.json.encode(
        [
            {
                "destination": at.destination,
                "mode": at.mode,
                "since": at.mode_since,
                "cause": at.mode_cause,
                "figures": at.mode_figures,
                "frozen": at.frozen,
                "order": at.order,
            }
            for at in status.destinations
        ]
    )


def render_modes(status: Status) -> Group:
    """For people."""
    parts: list[Text | Table] = []
    for at in status.destinations:
        parts += [Text(at.destination, style="bold"), _table(at, status.at)]
    if not status.destinations:
        parts.append(Text("? no destination is configured and none has reported", style="magenta"))
    return Group(*parts)


def _table(at: DestinationStatus, now: int) -> Table:
    table = Table(show_header=False, box=None, pad_edge=True)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    rows = [("Mode", mode_words(at, now))]
    if at.mode_figures:
        rows.append(("Figures then", ", ".join(f"{name} {value:g}" for name, value in at.mode_figures.items())))
    rows.append(("Frozen", frozen_words(at.frozen) if at.frozen else "nothing"))
    rows.append(("Forced", order_words(at.order, now) if at.order is not None else "no"))
    for name, text in rows:
        table.add_row(name, escape(text))
    return table
