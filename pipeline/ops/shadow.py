"""`surgeline shadow`: what the writes that were only compared would have changed, from `outcomes`; and the flags in a file."""

from collections.abc import Iterable, Mapping

import msgspec
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Millis
from pipeline.domain.judging.merges import is_copy
from pipeline.domain.records import Outcome
from pipeline.domain.writing.rollout import Rule, Scope
from pipeline.domain.writing.shadow_report import ShadowCounts, ShadowReport, ShadowTally
from pipeline.ops.topics import Decoder, Topics, decoded
from pipeline.ops.words import age_of
from pipeline.topology import OUTCOMES


def read_shadows(topics: Topics, decoder: Decoder, destination: str | None = None) -> ShadowReport:
    """Read `outcomes` from its beginning to its present end. KafkaUnavailable; reads no group and commits nothing."""
    tally = ShadowTally()
    for message in topics.read(OUTCOMES, topics.begin(OUTCOMES), topics.end(OUTCOMES)):
        record = decoded(decoder, message)
        if isinstance(record, Outcome) and destination in (None, record.destination) and not is_copy(record, message.key):
            tally.outcome(record)
    return tally.report()


def shadows_json(report: ShadowReport) -> bytes:
    """For `--json`."""
    return msgspec.json.encode(report)


def render_shadows(report: ShadowReport, now: Millis) -> Group:
    """For people: what would be done by entity type, then by field."""
    if not report.rows:
        return Group(Text("nothing was ever only compared: every write goes out", style="bold green"))
    title = f"◌ {report.entities} entities were only compared; nothing of them was sent"
    table = _table("Would have", "destination", "what", "entities", "create", "update", "no field", "held", "untold", "newest")
    fields = _table("Fields that would have changed", "destination", "what", "field", "entities")
    for row in report.rows:
        table.add_row(*_cells(row, now))
        for name, count in row.fields.items():
            fields.add_row(escape(row.destination), row.entity_type.value, name, str(count))
    return Group(Text(title, style="bold blue"), table, fields)


def _cells(row: ShadowCounts, now: Millis) -> Iterable[str]:
    yield from (escape(row.destination), row.entity_type.value, str(row.entities))
    yield from (str(row.create), str(row.update), str(row.mark), _reasons(row.held), _reasons(row.untold))
    yield age_of(now, row.newest_at) if row.newest_at is not None else ""


def _reasons(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counts.items()) or "0"


def render_rules(rules: Mapping[str, Mapping[EntityType, Rule]], tenant: str) -> Table:
    """What a flags file says for one tenant."""
    table = _table(f"Tenant {escape(tenant)}", "destination", "what", "is written")
    for destination, by_type in rules.items():
        for entity_type, rule in by_type.items():
            table.add_row(escape(destination), entity_type.value, escape(rule.shown))
    return table


def scopes(tenant: str, types: Iterable[EntityType]) -> list[Scope]:
    """What a writer is told of from its start: each type that its destination's profile maps."""
    return [Scope(tenant, entity_type) for entity_type in sorted(types)]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
