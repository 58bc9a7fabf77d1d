"""Counts what reaches each destination in time, late or not at all, from `outcomes`, `lag` and `reconciliations`. Pure.

A change that is confirmed late is late once, though it was seen to be late while it still waited: an outage uses up the budget
while it lasts, not only once it is over.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from pipeline.domain.accounts.budgets import LOSS, BudgetsFile, BudgetState, Tally, Verdict, judge
from pipeline.domain.identifiers import Millis
from pipeline.domain.reconcile.record import Reconciliation, Stage
from pipeline.domain.records import LagReport, Lane, Outcome, OutcomeKind

MAX_LATE: Final = 2_000
"""Changes of one lane and destination that are known to be late while they still wait; of more only the first are counted."""

RUNS: Final = "reconciliations"
"""Stands for the partition in how far `reconciliations` was read; the others are partitions of `outcomes`."""

SubjectOf = Callable[[Outcome], str]
"""The name under which `lag` lists the outcome's entity among what is stuck."""


class _Objective:
    def __init__(self, state: BudgetState | None = None) -> None:
        self.tally = Tally.decode(state.counts) if state else Tally()
        self.read = dict(state.read) if state else {}
        self.late = dict(state.late) if state else {}
        self.changed = False

    def is_new(self, partition: str, offset: int) -> bool:
        """Whether a record was not counted yet; it is from now on."""
        if offset < self.read.get(partition, 0):
            return False
        self.read[partition] = offset + 1
        return True


class BudgetBook:
    """Tallies of every objective at every destination. Records of one partition come in order; a repeat is not counted twice."""

    def __init__(self, policy: BudgetsFile, subject_of: SubjectOf) -> None:
        self._policy = policy
        self._subject_of = subject_of
        self._of: dict[tuple[str, str], _Objective] = {}

    def take_up(self, state: BudgetState) -> None:
        """What an earlier process counted."""
        self._of[state.destination, state.objective] = _Objective(state)

    def on_outcome(self, outcome: Outcome, offset: int) -> None:
        """Count a confirmation with the oldest change that it closes."""
        if outcome.kind is not OutcomeKind.CONFIRMED:
            return
        found = self._objective(outcome.destination, outcome.lane.value)
        if not found.is_new(str(outcome.partition), offset):
            return
        found.changed = True
        bound_ms = self._policy.delay_of(outcome.lane).within_s * 1000
        late = outcome.at - outcome.open_since > bound_ms
        subject = self._subject_of(outcome)
        known = [
            each
            for lane in Lane
            if (each := self._of.get((outcome.destination, lane.value))) is not None and subject in each.late
        ]
        for each in known:
            del each.late[subject]
            each.changed = True
        if not (late and found in known):
            found.tally.add(outcome.at, 1, int(late))

    def on_lag(self, report: LagReport) -> None:
        """Count what is stuck and over its lane's bound, once for as long as it stays so."""
        for stuck in report.stuck:
            if report.window_end - stuck.since <= self._policy.delay_of(stuck.lane).within_s * 1000:
                continue
            found = self._objective(report.destination, stuck.lane.value)
            if stuck.subject not in found.late and len(found.late) < MAX_LATE:
                found.late[stuck.subject] = stuck.since
                found.tally.add(report.window_end, 1, 1)
                found.changed = True

    def on_run(self, run: Reconciliation, offset: int) -> None:
        """Count what a reconciliation compared and what of it needed a repair."""
        if run.stage is Stage.RUNNING or run.ended_at is None:
            return
        found = self._objective(run.destination, LOSS)
        if not found.is_new(RUNS, offset):
            return
        found.changed = True
        repaired = run.repaired + run.left
        if not run.dry_run:
            found.tally.add(run.ended_at, max(run.entities - run.unread, repaired), repaired)

    def verdicts(self, now: Millis) -> dict[str, list[Verdict]]:
        """How each objective stands, by destination."""
        found: dict[str, list[Verdict]] = {}
        for (destination, objective), each in sorted(self._of.items()):
            found.setdefault(destination, []).append(judge(self._policy, objective, each.tally, now))
        return found

    def changed(self, now: Millis) -> Iterator[BudgetState]:
        """States that changed since they were given out last, to be made durable."""
        for (destination, objective), each in self._of.items():
            if each.changed:
                each.changed = False
                each.tally.forget(now, self._policy.period_days)
                yield BudgetState(
                    destination=destination,
                    objective=objective,
                    counts=each.tally.encode(),
                    read=dict(each.read),
                    late={subject: int(since) for subject, since in each.late.items()},
                    at=now,
                )

    def unsaved(self, states: Iterable[BudgetState]) -> None:
        """States that were given out and did not become durable: they are given out again."""
        for state in states:
            self._of[state.destination, state.objective].changed = True

    def _objective(self, destination: str, objective: str) -> _Objective:
        return self._of.setdefault((destination, objective), _Objective())
