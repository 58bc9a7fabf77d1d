"""Reconciliations for people: the list of runs, and one of them with what it found."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.domain.identifiers import Millis, show_revision
from pipeline.domain.reconcile.record import Reconciliation, Remedy
from pipeline.ops.words import age_of, duration_of

REMEDIES = {
    Remedy.REASSERT: "sent again",
    Remedy.ADOPT: "left to its feed",
    Remedy.REPORT: "reported only",
    Remedy.ESCALATE: "repaired too often: look who undoes it",
}


def render_runs(runs: Sequence[Reconciliation], now: Millis) -> RenderableType:
    """The newest first."""
    if not runs:
        return Text("No run yet. `surgeline run reconcile` compares by itself; `surgeline reconcile run` orders one.")
    table = Table("run", "destination", "scope", "why", "begun", "stage", "entities", "equal", "drifted", "extra", "repaired")
    for run in runs:
        stage = f"{run.stage.value} {run.stopped_by}".strip()
        counts = (run.entities, run.equal, run.drifted, run.extra, run.repaired)
        cells = (run.run, run.destination, run.scope.value, run.cause.value, age_of(now, run.begun_at), stage)
        table.add_row(*cells, *map(str, counts))
    return table


def render_run(run: Reconciliation, now: Millis) -> RenderableType:
    """One run: its sum, its findings counted, then one by one."""
    counts = f"{run.equal} equal, {run.waiting} on their way, {run.parked} parked, {run.shadowed} only compared"
    lines = [
        f"{run.run}: {run.scope.value} at {run.destination}, {run.cause.value}, {run.stage.value} {run.stopped_by}".rstrip(),
        f"{run.entities} entities: {counts}, {run.drifted} drifted, {run.unread} not to be told",
        f"{run.resources} resources read: {run.foreign} of others, {run.extra} with our name and unknown here",
        f"snapshots spoke of {run.snapshots}; {run.repaired} repaired, {run.left} left for the next run"
        + ("; nothing was to be repaired" if run.dry_run else ""),
    ]
    if run.ended_at is not None and not run.balances:
        lines.append("The counts do not balance: the run did not come to its end, or an entity was not compared.")
    found = Table("what", "rule", "remedy", "type", "count", "for at most")
    for each in run.findings:
        cells = (each.kind.value, each.rule.doc, REMEDIES[each.remedy], each.entity_type.value, str(each.count))
        found.add_row(*cells, duration_of(now - each.since))
    single = Table("entity", "type", "what", "rule", "ours", "shown", "fields")
    for one in run.drifts:
        ours, there = (show_revision(each) if each else "none" for each in (one.revision, one.shown))
        single.add_row(one.subject, one.entity_type.value, one.kind.value, one.rule.value, ours, there, ", ".join(one.fields))
    parts: list[RenderableType] = [Text("\n".join(lines))]
    return Group(*parts, *([found] if run.findings else []), *([single] if run.drifts else []))
