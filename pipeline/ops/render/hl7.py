"""What `surgeline hl7 explain` shows."""

from collections.abc import Sequence
from typing import Any

import msgspec
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.formats.hl7v2.origins import Explained, Told
from pipeline.formats.hl7v2.verdict import Rejected


def tables_of(found: Explained, values: bool) -> list[RenderableType]:
    """A heading, a table for each event, and what could not be read."""
    if found.rejected is not None:
        return [rejection(found.message, found.rejected)]
    shown: list[RenderableType] = [f"[bold]{escape(found.message)}[/bold]: {escape(found.rule)}"]
    if found.common:
        shown.append(_table("all its events", found.common, values))
    for event, fields in found.events:
        name = f"{event.namespace} {event.entity_id}" if values else ""
        shown.append(_table(f"{event.entity_type.value} {name}, {event.event_type.value}", fields, values))
    if found.unread:
        shown.append(f"not readable, left unsaid: {', '.join(found.unread)}")
    if found.departures:
        shown.append(f"needs a profile that tolerates: {', '.join(found.departures)}")
    return shown


def _table(title: str, fields: Sequence[Told], values: bool) -> Table:
    table = Table(title=Text(title), title_justify="left")
    for column in ("field", *(("value",) if values else ()), "read from"):
        table.add_column(column, overflow="fold")
    for told in fields:
        table.add_row(told.field, *((Text(_text(told.value)),) if values else ()), told.origin)
    return table


def rejection(name: str, why: Rejected) -> str:
    """Why a message or a file was rejected, and what to do."""
    return f"[bold]{escape(name)}[/bold]: rejected, {why.reason.value} at {why.field}: {why.detail}. {why.remedy}"


def as_builtins(found: Explained, values: bool) -> dict[str, Any]:
    """The same, ready for JSON."""
    why = found.rejected
    return {
        "message": found.message,
        "rule": found.rule,
        "rejected": None if why is None else {"reason": why.reason.value, "field": why.field, "remedy": why.remedy},
        "unread": found.unread,
        "departures": found.departures,
        "common": _fields(found.common, values),
        "events": [
            {
                "entity_type": event.entity_type.value,
                "event_type": event.event_type.value,
                "fields": _fields(fields, values),
            }
            for event, fields in found.events
        ],
    }


def _fields(fields: Sequence[Told], values: bool) -> list[dict[str, Any]]:
    return [{"field": told.field, "from": told.origin} | ({"value": told.value} if values else {}) for told in fields]


def _text(value: Any) -> str:
    if value is None:
        return "cleared"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
