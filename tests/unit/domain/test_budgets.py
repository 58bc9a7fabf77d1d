"""Error budgets on a manual clock: what burns opens one incident, what is calm ends it, and nothing flaps."""

import dataclasses
from typing import Final

import msgspec
import pytest
import yaml

from pipeline.domain.accounts.budget_book import BudgetBook
from pipeline.domain.accounts.budgets import (
    LOSS,
    MAX_TELLINGS,
    BudgetsFile,
    Incident,
    IncidentKind,
    Tally,
    Telling,
    Watch,
    after_attempt,
    budgets_from,
    judge,
)
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import EventId, Millis, Revision
from pipeline.domain.judging.policy import BadPolicy
from pipeline.domain.reconcile.record import Cause, Reconciliation, Scope, Stage
from pipeline.domain.records import LagReport, Lane, Outcome, OutcomeKind, Reason, Stuck
from pipeline.roles.policies import load_budgets

POLICY: Final = load_budgets()
DAY_MS: Final = 86_400_000
T0: Final = Millis(1_700_000_000_000)
DOCUMENT: Final = msgspec.to_builtins(POLICY)


def outcome(at: Millis, lag_ms: int, *, lane: Lane = Lane.CRITICAL, entity: str = "1", revision: int = 1) -> Outcome:
    return Outcome(
        destination="ehr",
        tenant="north",
        entity_type=EntityType.ENCOUNTER,
        namespace="MAIN",
        entity_id=entity,
        kind=OutcomeKind.CONFIRMED,
        reason=Reason.NONE,
        revision=Revision(revision),
        after=Revision(0),
        partition=0,
        event_id=EventId("0" * 32),
        content_hash="",
        state_hash="",
        lane=lane,
        open_since=Millis(at - lag_ms),
        received_at=Millis(at - lag_ms),
        recorded_at=Millis(at - lag_ms),
        at=at,
        writer="ehr/0",
    )


def lag(at: Millis, *stuck: Stuck) -> LagReport:
    return LagReport(
        destination="ehr",
        instance="0",
        partitions=(),
        window_start=at,
        window_end=at,
        mode="outage",
        pending={},
        in_flight=0,
        parked=0,
        stuck=stuck,
    )


def stuck(entity: str, since: Millis, lane: Lane = Lane.CRITICAL) -> Stuck:
    return Stuck(
        subject=entity,
        entity_type=EntityType.ENCOUNTER,
        lane=lane,
        reason=Reason.CONNECTION,
        attempts=1,
        since=since,
        revision=Revision(1),
    )


class World:
    """A book and a watch, fed with one change after the other."""

    def __init__(self, policy: BudgetsFile = POLICY) -> None:
        self.policy, self.now, self.offset = policy, T0, 0
        self.book = BudgetBook(policy, lambda each: each.entity_id)
        self.watch = Watch("ehr")
        self.told: list[Incident] = []

    def pass_s(self, seconds: int, per_minute: int = 60, late_of: int = 0) -> None:
        """Time goes by: so many confirmations a minute, every `late_of`th of them late (0: none)."""
        for _ in range(seconds // 60):
            for number in range(per_minute):
                is_late = bool(late_of) and number % late_of == 0
                self.book.on_outcome(outcome(self.now, 60_000 if is_late else 100), self.offset)
                self.offset += 1
            self.now = Millis(self.now + 60_000)
            self.look()

    def look(self) -> None:
        self.told += self.watch.judge(self.policy, self.book.verdicts(self.now).get("ehr", []), self.now)

    @property
    def story(self) -> list[tuple[IncidentKind, str]]:
        return [(each.kind, "begin" if each.closed_at is None else "end") for each in self.told]


def test_a_quiet_time_opens_nothing() -> None:
    world = World()
    world.pass_s(6 * 3_600, per_minute=2)
    assert world.told == []


def test_a_burning_budget_opens_one_incident_and_its_end_is_told_once() -> None:
    world = World()
    world.pass_s(7_200)
    world.pass_s(1_800, late_of=10)
    assert (IncidentKind.BURNING_FAST, "begin") in world.story
    before = len(world.told)
    world.pass_s(1_800, late_of=10)
    assert [kind for kind, _ in world.story[before:]] in ([], [IncidentKind.BURNING_SLOWLY], [IncidentKind.EXHAUSTED])
    world.pass_s(7_200, per_minute=20)
    assert world.story.count((IncidentKind.BURNING_FAST, "begin")) == 1
    assert world.story.count((IncidentKind.BURNING_FAST, "end")) == 1


def test_what_burns_around_the_bound_does_not_flap() -> None:
    world = World()
    world.pass_s(3_600)
    for _ in range(60):
        world.pass_s(300, late_of=60)  # 1.7 % late: above 14.4 × 0.1 %
        world.pass_s(300, late_of=0)
    assert world.story.count((IncidentKind.BURNING_FAST, "begin")) == 1


def test_few_changes_say_nothing() -> None:
    world = World()
    for _ in range(POLICY.at_least - 1):
        world.book.on_outcome(outcome(world.now, 60_000), world.offset)
        world.offset += 1
        world.now = Millis(world.now + 60_000)
        world.look()
    assert world.told == []


def test_an_outage_uses_up_the_budget_while_it_lasts_and_what_was_late_is_counted_once() -> None:
    book = BudgetBook(POLICY, lambda each: each.entity_id)
    late = [stuck(str(number), T0) for number in range(30)]
    for seconds in (3, 60, 120, 180):
        book.on_lag(lag(Millis(T0 + seconds * 1000), *late))
    after = Millis(T0 + 180_000)
    (verdict,) = book.verdicts(after)["ehr"]
    assert (verdict.count.total, verdict.count.bad) == (30, 30)
    assert IncidentKind.BURNING_FAST in verdict.burns
    for number in range(30):
        book.on_outcome(outcome(Millis(T0 + 200_000), 200_000, entity=str(number)), number)
    (verdict,) = book.verdicts(Millis(T0 + 200_000))["ehr"]
    assert (verdict.count.total, verdict.count.bad) == (30, 30)
    book.on_outcome(outcome(Millis(T0 + 300_000), 50_000, entity="1", revision=2), 30)
    (verdict,) = book.verdicts(Millis(T0 + 300_000))["ehr"]
    assert (verdict.count.total, verdict.count.bad) == (31, 31), "a later change of the same entity counts anew"


def test_a_restart_forgets_nothing_counts_nothing_twice_and_opens_nothing_again() -> None:
    world = World()
    world.pass_s(7_200)
    world.pass_s(1_800, late_of=10)
    (opened,) = [each for each in world.told if each.kind is IncidentKind.BURNING_FAST]
    states = list(world.book.changed(world.now))
    assert list(world.book.changed(world.now)) == []
    world.book.unsaved(states)
    assert list(world.book.changed(world.now)) == states
    again = World()
    again.now = world.now
    for state in states:
        again.book.take_up(state)
    for incident in world.told:
        again.watch.take_up(incident)
    again.book.on_outcome(outcome(T0, 100), 0)
    assert again.book.verdicts(world.now) == world.book.verdicts(world.now)
    again.look()
    assert [each for each in again.told if each.kind is IncidentKind.BURNING_FAST] == []
    again.offset = world.offset
    again.pass_s(7_200, per_minute=20)
    ended = [each for each in again.told if each.kind is IncidentKind.BURNING_FAST]
    assert [(each.incident_id, each.closed_at is not None) for each in ended] == [(opened.incident_id, True)]


def test_an_exhausted_budget_is_an_incident_until_it_is_back() -> None:
    world = World()
    world.pass_s(3_600, late_of=20)
    assert world.story.count((IncidentKind.EXHAUSTED, "begin")) == 1
    world.pass_s(3 * 3_600, per_minute=1)
    assert (IncidentKind.EXHAUSTED, "end") not in world.story
    later = Millis(world.now + 31 * DAY_MS)
    verdicts = world.book.verdicts(later)["ehr"]
    assert world.watch.judge(POLICY, verdicts, later) == []
    ended = world.watch.judge(POLICY, verdicts, Millis(later + POLICY.calm_s * 1000))
    assert [each.kind for each in ended if each.closed_at] == [*(each.kind for each in ended)]
    assert IncidentKind.EXHAUSTED in {each.kind for each in ended}


def test_reconciliation_is_ordered_at_most_so_often_and_only_where_there_is_one() -> None:
    world = World()
    world.pass_s(1_200, late_of=10)
    assert len(world.told) >= 2, "one incident after the other begins"
    assert [each.reconciled for each in world.told].count(True) == 1
    other = World()
    other.watch = Watch("ehr", can_reconcile=False)
    other.pass_s(1_200, late_of=10)
    assert [each.reconciled for each in other.told].count(True) == 0


def run_of(at: Millis, *, entities: int, repaired: int, stage: Stage = Stage.DONE, dry_run: bool = False) -> Reconciliation:
    return Reconciliation(
        run="1",
        destination="ehr",
        instance="0",
        scope=Scope.FULL,
        cause=Cause.NIGHTLY,
        dry_run=dry_run,
        stage=stage,
        begun_at=at,
        ended_at=at,
        entities=entities,
        equal=entities - repaired,
        drifted=repaired,
        repaired=repaired,
        changed_until=at,
    )


def test_what_had_to_be_repaired_uses_up_the_budget_of_loss() -> None:
    book = BudgetBook(POLICY, lambda each: each.entity_id)
    book.on_run(run_of(T0, entities=100_000, repaired=0, stage=Stage.RUNNING), 0)
    book.on_run(run_of(T0, entities=100_000, repaired=5), 1)
    book.on_run(run_of(T0, entities=100_000, repaired=5), 1)
    book.on_run(run_of(T0, entities=100_000, repaired=900, dry_run=True), 2)
    (verdict,) = book.verdicts(Millis(T0 + 1))["ehr"]
    assert (verdict.objective, verdict.count.total, verdict.count.bad) == (LOSS, 100_000, 5)
    assert verdict.used == pytest.approx(0.5)
    book.on_run(run_of(T0, entities=1_000, repaired=1_000), 3)
    (verdict,) = book.verdicts(Millis(T0 + 1))["ehr"]
    assert {IncidentKind.BURNING_FAST, IncidentKind.EXHAUSTED} <= verdict.burns


def test_telling_is_tried_a_bounded_number_of_times_ever_more_rarely() -> None:
    telling, waits = Telling(), []
    while not telling.done:
        telling = after_attempt(telling, False, T0)
        waits.append(telling.next_at - T0)
    assert telling.attempts == MAX_TELLINGS
    assert waits == sorted(waits)
    assert waits[0] == 2_000
    assert after_attempt(Telling(), True, T0).done


def test_counts_come_back_as_they_were() -> None:
    tally = Tally()
    tally.add(T0, 10, 3)
    again = Tally.decode(tally.encode())
    assert dataclasses.astuple(again.within(Millis(T0 + 1), 3600)) == (10, 3)
    again.forget(Millis(T0 + 40 * DAY_MS), 30)
    assert again.encode() == Tally().encode()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"delay": DOCUMENT["delay"][:3]}, "bulk is there 0 times"),
        ({"burn": [DOCUMENT["burn"][0] | {"short_s": 3600}]}, "short_s: not shorter"),
        ({"burn": [DOCUMENT["burn"][0] | {"kind": "EXHAUSTED"}]}, "EXHAUSTED follows"),
        ({"period_days": 31}, "period_days"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_policy_that_can_t_be_meant_is_refused(change: dict[str, object], problem: str) -> None:
    document = yaml.safe_load(yaml.safe_dump(DOCUMENT | change))
    with pytest.raises(BadPolicy) as caught:
        budgets_from(document)
    assert problem in " ".join(caught.value.problems)


def test_the_verdict_of_an_empty_tally_is_calm() -> None:
    verdict = judge(POLICY, "critical", Tally(), T0)
    assert (verdict.used, verdict.burns, verdict.smoulders) == (0.0, frozenset(), frozenset())
