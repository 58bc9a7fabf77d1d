"""The evidence as a line of time for people, and as JSON."""

import json

import msgspec
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipeline.domain.accounts.evidence import Evidence, Line, counted
from pipeline.domain.identifiers import Millis
from pipeline.formats.rfc3339 import rfc3339_of


def render_evidence(evidence: Evidence) -> Group:
    """A table: the oldest first."""
    table = Table(title=f"Evidence: {evidence.of} {evidence.subject}", title_justify="left")
    for column in ("time (UTC)", "", "what", "by", "why", "at", "proof"):
        table.add_column(column, overflow="fold")
    for line in evidence.lines:
        at = rfc3339_of(Millis(line.at)).removesuffix("Z").replace("T", " ")
        columns = (at, line.stage.value, _what(line), line.who, line.why, line.destination or "", line.where)
        table.add_row(*(Text(each) for each in columns))
    counts = ", ".join(f"{count} {name}" for name, count in counted(evidence.lines).items()) or "nothing is known of it"
    notes = [counts]
    if evidence.left_out:
        notes.append(f"{evidence.left_out} later lines are left out: ask for one event or row")
    if evidence.unreadable:
        notes.append(f"{evidence.unreadable} records could not be read: something may be missing")
    return Group(table, Text("; ".join(notes)))


def _what(line: Line) -> str:
    said = [line.what]
    if line.revision:
        said.append(f"revision {line.revision}")
    if line.fields:
        said.append(", ".join(line.fields))
    if line.values:
        said.append(json.dumps(line.values, ensure_ascii=False, sort_keys=True))
    if line.event_id:
        said.append(f"event {line.event_id}")
    said += [f"{name} {value}" for name, value in line.detail.items()]
    return "; ".join(said)


def evidence_json(evidence: Evidence) -> bytes:
    """For `--json`."""
    return msgspec.json.encode(evidence)
