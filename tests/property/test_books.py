"""Whatever is repeated, mixed across topics or cut short by a crash: the books account for each position exactly once.

A small model of the pipeline writes the three topics of one landing partition, with duplicates, no-ops, parked writes
and restarts that publish their last records again. Then one fault is planted, and it alone is named.
"""

import random
from dataclasses import dataclass, field

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.accounts.books import Books, Ledger, PartitionCut, of_types
from pipeline.domain.accounts.deliveries import Trouble
from pipeline.domain.event import Bed, EntityType, EventType
from pipeline.domain.identifiers import NO_REVISION, EventId, Millis, Revision, epoch_and_offset, revision_of
from pipeline.domain.records import Accepted, Decision, DecisionKind, Lane, Outcome, OutcomeKind, Reason

Record = Accepted | Decision | Outcome
EHR = "ehr"
VERDICTS = (None, None, None, DecisionKind.DUPLICATE, DecisionKind.STALE, DecisionKind.NO_OP, DecisionKind.CONTROL)


@dataclass
class Run:
    """The three topics as the model wrote them, and what it knows about each bed."""

    positions: int = 0
    accepted: list[Accepted] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    newest: dict[str, Accepted] = field(default_factory=dict)
    confirmed: dict[str, Revision] = field(default_factory=dict)
    parked: dict[str, Revision] = field(default_factory=dict)

    def judge(self, bed: str, kind: DecisionKind | None, lane: Lane) -> None:
        offset = self.positions
        self.positions += 1
        if kind is not None:
            self.decisions.append(
                Decision(
                    topic="landing.bed", epoch=1, partition=0, offset=offset, kind=kind, reason=Reason.NONE,
                    revision=NO_REVISION, decided_at=Millis(offset), policy_version="1",
                )
            )  # fmt: skip
            return
        before = self.newest.get(bed)
        record = Accepted(
            event_id=EventId(f"{offset:032x}"), tenant="acme", facility="main", entity_type=EntityType.BED,
            namespace="capacity", entity_id=bed, event_type=EventType.UPDATE, source_system="capacity", feed="http",
            epoch=1, partition=0, offset=offset, revision=revision_of(1, offset),
            previous_revision=before.revision if before else NO_REVISION, lane=lane, changed=(), state=Bed(),
            state_hash=f"{offset:016x}", content_hash=f"{offset:016x}", recorded_at=Millis(offset),
            received_at=Millis(offset), accepted_at=Millis(offset), policy_version="1",
        )  # fmt: skip
        self.newest[bed] = record
        self.accepted.append(record)

    def write(self, bed: str, kind: OutcomeKind) -> None:
        record = self.newest.get(bed)
        after = self.confirmed.get(bed, NO_REVISION)
        if record is None or record.revision <= after:
            return
        self.outcomes.append(
            Outcome(
                destination=EHR, tenant="acme", entity_type=EntityType.BED, namespace="capacity", entity_id=bed,
                kind=kind, reason=Reason.NONE, revision=record.revision, after=after, partition=0,
                event_id=record.event_id, content_hash=record.content_hash, state_hash=record.state_hash,
                lane=record.lane, open_since=Millis(0), received_at=record.received_at,
                recorded_at=record.recorded_at, at=Millis(1_000 + len(self.outcomes)), writer="writer-ehr/0",
            )
        )  # fmt: skip
        if kind is OutcomeKind.CONFIRMED:
            self.confirmed[bed] = record.revision
        elif kind is OutcomeKind.PARKED:
            self.parked[bed] = record.revision

    def crash(self, gate_back: int, writer_back: int) -> None:
        """A restart that publishes its last records once more."""
        self.accepted += self.accepted[len(self.accepted) - gate_back :] if gate_back <= len(self.accepted) else []
        self.decisions += self.decisions[len(self.decisions) - gate_back :] if gate_back <= len(self.decisions) else []
        self.outcomes += self.outcomes[len(self.outcomes) - writer_back :] if writer_back <= len(self.outcomes) else []


WRITTEN = (OutcomeKind.CONFIRMED, OutcomeKind.CONFIRMED, OutcomeKind.PARKED, OutcomeKind.FAILED)


@st.composite
def runs(draw: st.DrawFn, ends: tuple[OutcomeKind, ...] = WRITTEN) -> Run:
    run = Run()
    for step in draw(st.lists(st.integers(0, 9), min_size=5, max_size=60)):
        bed = draw(st.sampled_from(("a", "b", "c")))
        if step < 5:
            run.judge(bed, draw(st.sampled_from(VERDICTS)), draw(st.sampled_from(tuple(Lane))))
        elif step < 9:
            run.write(bed, draw(st.sampled_from(ends)))
        else:
            run.crash(draw(st.integers(0, 4)), draw(st.integers(0, 4)))
    bed = draw(st.sampled_from(("a", "b", "c")))
    for kind, writes in ((None, True), (None, False), (None, True)):
        run.judge(bed, kind, Lane.CRITICAL)
        if writes:
            run.write(bed, OutcomeKind.CONFIRMED)
    return run


def feed(run: Run, order: random.Random, accepted: list[Accepted], decisions: list[Decision], outcomes: list[Outcome]) -> Books:
    """Each topic in its order, mixed across topics."""
    ledger = Ledger([PartitionCut("landing.bed", 1, 0, 0, run.positions)], {EHR: of_types([EntityType.BED])}, lambda key: "x")
    topics: list[list[Record]] = [list(accepted), list(decisions), list(outcomes)]
    while live := [topic for topic in topics if topic]:
        record = order.choice(live).pop(0)
        match record:
            case Accepted():
                ledger.accepted(record)
            case Decision():
                ledger.decision(record)
            case Outcome():
                ledger.outcome(record)
    return ledger.close()


def named(books: Books) -> set[tuple[Trouble, int]]:
    return {(problem.trouble, problem.offset) for problem in books.problems}


@given(runs(), st.randoms())
def test_books_account_for_each_position_and_each_revision_exactly_once(run: Run, order: random.Random) -> None:
    books = feed(run, order, run.accepted, run.decisions, run.outcomes)
    assert books.balanced, books.problems
    topic, ehr = books.topics[0], books.destinations[0]
    assert topic.positions == run.positions == topic.accepted + sum(topic.decided.values())
    assert books.repeats == len(run.accepted) + len(run.decisions) - run.positions
    assert ehr.expected == topic.accepted == ehr.confirmed + ehr.superseded + ehr.parked + ehr.open
    last = {bed: run.confirmed.get(bed, 0) for bed in run.newest}
    rows = {(record.entity_id, record.revision) for record in run.accepted}
    assert ehr.confirmed + ehr.superseded == sum(revision <= last[bed] for bed, revision in rows)
    given_up = {bed: max(run.parked.get(bed, 0), last[bed]) for bed in last}
    assert ehr.parked == sum(last[bed] < revision <= given_up[bed] for bed, revision in rows)
    assert ehr.current == sum(record.revision == last[bed] for bed, record in run.newest.items())


@given(runs(tuple(OutcomeKind)), st.randoms())
def test_books_balance_whatever_flags_were_flipped_in_between(run: Run, order: random.Random) -> None:
    """Compared, then written; written, then only compared; given up after a comparison: one end each, nothing unaccounted."""
    books = feed(run, order, run.accepted, run.decisions, run.outcomes)
    assert books.balanced, books.problems
    ehr = books.destinations[0]
    assert ehr.expected == ehr.confirmed + ehr.superseded + ehr.shadowed + ehr.parked + ehr.open
    last = {bed: run.confirmed.get(bed, 0) for bed in run.newest}
    confirmed = {o.revision for o in run.outcomes if o.kind is OutcomeKind.CONFIRMED}
    assert ehr.confirmed == len(confirmed)
    assert ehr.current == sum(record.revision == last[bed] for bed, record in run.newest.items())


@given(runs(), st.randoms(), st.data())
def test_a_planted_loss_is_named(run: Run, order: random.Random, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, run.positions - 1))
    accepted = [record for record in run.accepted if record.offset != lost]
    decisions = [record for record in run.decisions if record.offset != lost]
    books = feed(run, order, accepted, decisions, run.outcomes)
    assert not books.balanced
    assert (Trouble.MISSING, lost) in named(books)
    assert books.problem_counts["MISSING"] == 1


@given(runs(), st.randoms(), st.data())
def test_a_planted_double_is_named(run: Run, order: random.Random, data: st.DataObject) -> None:
    """An event that takes effect again at a second position, and a position that is judged once more, differently."""
    victim = data.draw(st.sampled_from(run.accepted))
    newest = run.newest[victim.entity_id]
    again = msgspec.structs.replace(
        victim, offset=run.positions, revision=revision_of(1, run.positions), previous_revision=newest.revision
    )
    run.positions += 1
    books = feed(run, order, [*run.accepted, again], run.decisions, run.outcomes)
    assert named(books) == {(Trouble.DOUBLE, again.offset)}
    other = msgspec.structs.replace(victim, state_hash="f" * 16)
    forked = feed(run, order, [*run.accepted, again, other], run.decisions, run.outcomes)
    assert (Trouble.VERDICT_FORK, victim.offset) in named(forked)


@given(runs(), st.randoms(), st.data())
def test_a_planted_regression_is_named(run: Run, order: random.Random, data: st.DataObject) -> None:
    """The destination is taken back to a revision that it has left behind."""
    newest = {record.entity_id: record.revision for record in run.outcomes if record.kind is OutcomeKind.CONFIRMED}
    left = [record for record in run.accepted if record.revision < newest.get(record.entity_id, 0)]
    victim = data.draw(st.sampled_from(left))
    back = msgspec.structs.replace(
        next(record for record in run.outcomes if record.entity_id == victim.entity_id and record.kind is OutcomeKind.CONFIRMED),
        revision=victim.revision,
        state_hash=victim.state_hash,
        after=NO_REVISION,
        at=Millis(1_000_000),
    )
    books = feed(run, order, run.accepted, run.decisions, [*run.outcomes, back])
    assert named(books) == {(Trouble.REGRESSION, epoch_and_offset(victim.revision)[1])}


@given(runs(), st.randoms(), st.data())
def test_a_planted_gap_in_the_outcomes_is_named(run: Run, order: random.Random, data: st.DataObject) -> None:
    """A confirmation that closes less than what went before it leaves a revision unaccounted for."""
    wide = [
        (place, outcome)
        for place, outcome in enumerate(run.outcomes)
        if outcome.kind is OutcomeKind.CONFIRMED
        and run.outcomes.count(outcome) == 1
        and any(
            record.entity_id == outcome.entity_id and outcome.after < record.revision < outcome.revision
            for record in run.accepted
        )
    ]
    place, outcome = data.draw(st.sampled_from(wide))
    lost = {r.offset for r in run.accepted if r.entity_id == outcome.entity_id and outcome.after < r.revision < outcome.revision}
    narrow = msgspec.structs.replace(outcome, after=Revision(outcome.revision - 1))
    outcomes = [*run.outcomes[:place], narrow, *run.outcomes[place + 1 :]]
    books = feed(run, order, run.accepted, run.decisions, outcomes)
    assert named(books) == {(Trouble.UNACCOUNTED, offset) for offset in lost}
