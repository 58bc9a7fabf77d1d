"""Error budgets and incidents for people, and as JSON."""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from rich.console import Group
from rich.table import Table

from pipeline.domain.accounts.budgets import LOSS, BudgetsFile, BudgetState, Incident, Tally, Verdict, judge
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import LANES, Lane
from pipeline.formats.rfc3339 import rfc3339_of

ENDED_SHOWN: Final = 20
"""Ended incidents that are shown, the newest."""

ORDER: Final = {**{lane.value: rank for rank, lane in enumerate(LANES)}, LOSS: len(LANES)}


def verdicts_of(policy: BudgetsFile, states: Iterable[BudgetState], now: Millis) -> list[tuple[str, Verdict]]:
    """How each objective stands, by destination, strictest lane first."""
    ordered = sorted(states, key=lambda state: (state.destination, ORDER.get(state.objective, len(ORDER))))
    return [(each.destination, judge(policy, each.objective, Tally.decode(each.counts), now)) for each in ordered]


def newest(incidents: Sequence[Incident]) -> list[Incident]:
    """Open ones, then those that ended last."""
    ended = sorted((each for each in incidents if each.closed_at is not None), key=lambda each: -(each.closed_at or 0))
    return [*(each for each in incidents if each.closed_at is None), *ended[:ENDED_SHOWN]]


def render_budgets(policy: BudgetsFile, states: Iterable[BudgetState], incidents: Sequence[Incident], now: Millis) -> Group:
    """Two tables."""
    table = Table(title=f"Error budgets of {policy.period_days} days", caption="burn 1: lasts for just the period", min_width=60)
    for column in ("destination", "objective", "wanted", "changes", "missed", "budget used", "burns (long and short windows)"):
        table.add_column(column, overflow="fold")
    for destination, each in verdicts_of(policy, states, now):
        burns = " ".join(f"{_window(seconds)} {rate:.2g}" for seconds, rate in sorted(each.rates.items()))
        sign = "✘ " if each.used >= 1 else "▲ " if each.burns else ""
        counts = (str(each.count.total), str(each.count.bad), f"{sign}{each.used:.1%}")
        table.add_row(destination, each.objective, _wanted(policy, each.objective), *counts, burns)
    shown = Table(title="Incidents", min_width=60)
    for column in ("incident", "destination", "kind", "opened", "ended", "objectives", "reconciliation", "told"):
        shown.add_column(column, overflow="fold")
    for incident in newest(incidents):
        ended = rfc3339_of(incident.closed_at) if incident.closed_at is not None else "open"
        told = "begin" if incident.start.done else "begin waits"
        if incident.closed_at is not None:
            told = "begin, end" if incident.end.done else "end waits"
        ordered = "ordered" if incident.reconciled else ""
        objectives = ", ".join(incident.objectives)
        named = (incident.incident_id[:12], incident.destination, incident.kind.value, rfc3339_of(incident.opened_at))
        shown.add_row(*named, ended, objectives, ordered, told)
    return Group(table, shown)


def _wanted(policy: BudgetsFile, objective: str) -> str:
    if objective == LOSS:
        return f"{policy.loss_share:.4%} need no repair"
    delay = policy.delay_of(Lane(objective))
    return f"{delay.share:.2%} within {delay.within_s:g} s"


def _window(seconds: int) -> str:
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours // 24}d" if hours >= 24 else f"{hours}h" if hours else f"{minutes}m"


def budgets_json(policy: BudgetsFile, states: Iterable[BudgetState], incidents: Sequence[Incident], now: Millis) -> bytes:
    """For `--json`."""
    said = [
        {
            "destination": destination,
            "objective": each.objective,
            "changes": each.count.total,
            "missed": each.count.bad,
            "used": each.used,
            "burns": {_window(seconds): rate for seconds, rate in each.rates.items()},
        }
        for destination, each in verdicts_of(policy, states, now)
    ]
    return msgspec.json.encode({"budgets": said, "incidents": newest(incidents)})
