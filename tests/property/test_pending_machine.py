"""A writer's pending under everything that can happen to it: four lanes in any interleaving, crash at each step, lost disk,
zombie, a destination that confirms, refuses, fails or gives no answer, outcomes that come late and again, flags that are
flipped between written and only compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.domain.event import Environment
from pipeline.domain.identifiers import NO_REVISION, Millis, Revision
from pipeline.domain.records import LANES, RANK, Accepted, Lane, Outcome, OutcomeKind, Quarantined, Reason
from pipeline.domain.writing.pending import Pending, decode_pending
from pipeline.formats.avro import Codec
from pipeline.stream.worker.batch import PartitionBatch
from pipeline.stream.worker.store import POSITIONS_KEY
from pipeline.stream.writing.agent import WriterWork, join_values
from pipeline.stream.writing.delivery import Change
from tests.support.changes import DESTINATION, change, key_of, outcome
from tests.support.examples import examples

CODEC = Codec.shipped()
OUTCOMES = "outcomes"
TOPICS = (*(f"lane.{lane.value}" for lane in LANES), OUTCOMES)
BEDS = ("A", "B", "C")
ANSWERS = ("taken", "refused", "failed", "taken, no answer", "taken, then died")
ENVIRONMENTS = (Environment.DIRTY, Environment.CLEAN, Environment.CLEANING)


@dataclass(frozen=True)
class Record:
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes
    value: bytes


class Database(dict[bytes, bytes]):
    """Stands for one partition's RocksDB."""

    def get(self, key: object, default: object = None) -> object:  # type: ignore[override]
        return [dict.get(self, k) for k in key] if isinstance(key, list) else dict.get(self, key)


class Sent:
    """Stands for the producer; the writer's agent itself sends nothing but quarantined records."""

    def __init__(self) -> None:
        self.records: list[tuple[str, bytes]] = []

    def send(self, topic: str, partition: int, key: bytes | None, value: bytes) -> None:
        self.records.append((topic, value))


class Expecting:
    """A destination as the agent knows it."""

    name = DESTINATION

    def expects(self, accepted: Accepted) -> bool:
        return True


class Deaf:
    """A delivery that is told nothing: the machine writes by itself."""

    def changed(self, changes: Sequence[Change]) -> None:
        """Not of interest."""


class Crash(Exception):
    """kill -9."""


class PendingMachine(RuleBasedStateMachine):
    """Lane logs and an outcomes' log, a writer that may die at any step, and the destination."""

    @initialize()
    def start(self) -> None:
        self.accepted: list[Accepted] = []
        self.logs: dict[str, list[Record]] = {topic: [] for topic in TOPICS}
        self.committed = dict.fromkeys(TOPICS, 0)
        self.store = Database()
        self.changelog: list[tuple[bytes, bytes]] = []
        self.changelog_read = 0
        self.outcomes: list[Outcome] = []
        self.shown: dict[str, Accepted] = {}
        self.history: list[tuple[str, Revision]] = []
        self.awaiting: dict[str, int] = {}
        self.quarantined: list[bytes] = []
        self.zombie: Database | None = None
        self.zombie_at: dict[str, int] = {}
        self.now = 10_000
        self.full = True

    # -- the gate

    @rule(bed=st.sampled_from(BEDS), lane=st.sampled_from(LANES), environment=st.sampled_from(ENVIRONMENTS))
    def accept(self, bed: str, lane: Lane, environment: Environment) -> None:
        offset = len(self.accepted)
        self.now += 1
        accepted = change(offset, bed, lane=lane, received_at=self.now, environment=environment)
        self.accepted.append(accepted)
        self._append(f"lane.{lane.value}", key_of(bed), accepted)

    @precondition(lambda self: self.accepted)
    @rule(data=st.data())
    def the_gate_repeats_an_output(self, data: st.DataObject) -> None:
        accepted = data.draw(st.sampled_from(self.accepted))
        self._append(f"lane.{accepted.lane.value}", key_of(accepted.entity_id), accepted)

    @precondition(lambda self: self.outcomes)
    @rule(data=st.data())
    def an_outcome_comes_late_and_again(self, data: st.DataObject) -> None:
        repeated = data.draw(st.sampled_from(self.outcomes))
        self._append(OUTCOMES, key_of(repeated.entity_id), repeated)

    def _append(self, topic: str, key: bytes, record: Accepted | Outcome) -> None:
        log = self.logs[topic]
        log.append(Record(topic, 0, len(log), self.now, key, CODEC.encode(record)))

    # -- the agent

    @rule(topic=st.sampled_from(TOPICS), most=st.integers(1, 5))
    def fold(self, topic: str, most: int) -> None:
        self._cycle(topic, most, None)

    @rule(
        topic=st.sampled_from(TOPICS),
        most=st.integers(1, 5),
        die_after=st.sampled_from(("fold", "some changelog", "changelog", "store")),
        wipe=st.booleans(),
    )
    def die_in_the_middle(self, topic: str, most: int, die_after: str, wipe: bool) -> None:
        try:
            self._cycle(topic, most, die_after)
        except Crash:
            self._recover(wipe)

    @precondition(lambda self: self.changelog)
    @rule(data=st.data(), wipe=st.booleans())
    def zombie_writes_an_old_record(self, data: st.DataObject, wipe: bool) -> None:
        self.changelog.append(data.draw(st.sampled_from(self.changelog)))
        self._recover(wipe)

    @rule()
    def a_worker_is_stopped_and_another_takes_over(self) -> None:
        """What the stopped one holds grows old; it doesn't know."""
        self.zombie, self.zombie_at = Database(self.store), dict(self.committed)

    @precondition(lambda self: self.zombie is not None)
    @rule(topic=st.sampled_from(TOPICS), most=st.integers(1, 9), wipe=st.booleans())
    def zombie_goes_on_from_its_old_state(self, topic: str, most: int, wipe: bool) -> None:
        """It folds what it still holds in its buffers, on state that others have changed since."""
        assert self.zombie is not None
        records = self.logs[topic][self.zombie_at[topic] : self.zombie_at[topic] + most]
        puts = self._folded(self.zombie, records)
        self.changelog += puts
        self.zombie.update(puts)
        self.zombie_at[topic] += len(records)
        self._recover(wipe)

    @rule(wipe=st.booleans())
    def restart(self, wipe: bool) -> None:
        self._recover(wipe)

    def _cycle(self, topic: str, most: int, die_after: str | None) -> None:
        records = self.logs[topic][self.committed[topic] : self.committed[topic] + most]
        if not records:
            return
        puts = self._folded(self.store, records)
        if die_after == "fold":
            raise Crash
        if die_after == "some changelog":
            self.changelog += puts[: len(puts) // 2]
            raise Crash
        self.changelog += puts
        if die_after == "changelog":
            raise Crash
        self.store.update(puts)
        self.changelog_read = len(self.changelog)
        if die_after == "store":
            raise Crash
        self.committed[topic] += len(records)
        self._free_what_was_read(records)

    def _folded(self, store: Database, records: Sequence[Record]) -> list[tuple[bytes, bytes]]:
        work = WriterWork(
            CODEC,
            Expecting(),  # type: ignore[arg-type]
            Deaf(),  # type: ignore[arg-type]
            dict.fromkeys(LANES, 60.0),
            OUTCOMES,
            "quarantine",
            lambda data, _: data,
        )
        batch, sent = PartitionBatch(0, store, list(records)), Sent()  # type: ignore[arg-type]
        work.judge(batch, sent)  # type: ignore[arg-type]
        self.quarantined += [value for _, value in sent.records]
        batch.puts[POSITIONS_KEY] = msgspec.msgpack.encode(batch.positions())
        return list(batch.puts.items())

    def _free_what_was_read(self, records: Sequence[Record]) -> None:
        for record in records:
            content = CODEC.decode(record.value)
            if isinstance(content, Outcome) and self.awaiting.get(content.entity_id) == record.offset:
                del self.awaiting[content.entity_id]

    def _recover(self, wipe: bool) -> None:
        if wipe:
            self.store, self.changelog_read = Database(), 0
        for key, value in self.changelog[self.changelog_read :]:
            known = self.store.get(key)
            self.store[key] = join_values(known, value) if isinstance(known, bytes) else value
        self.changelog_read = len(self.changelog)
        positions = self._positions()
        self.committed = {topic: min(self.committed[topic], positions.get(topic, 0)) for topic in TOPICS}
        self.awaiting.clear()

    def _positions(self) -> dict[str, int]:
        data = self.store.get(POSITIONS_KEY)
        return msgspec.msgpack.decode(data, type=dict[str, int]) if isinstance(data, bytes) else {}

    # -- the delivery

    @rule()
    def a_flag_is_flipped(self) -> None:
        self.full = not self.full

    def _waits(self, pending: Pending | None) -> bool:
        """As `Shadows.entry` says, by pending and flags alone."""
        return pending is not None and (pending.is_due or (pending.is_shadowed and self.full))

    @rule(bed=st.sampled_from(BEDS), answer=st.sampled_from(ANSWERS))
    def write(self, bed: str, answer: str) -> None:
        pending = self._pending(bed)
        if pending is None or not self._waits(pending) or bed in self.awaiting:
            return
        assert pending.newest is not None
        newest = CODEC.decode(pending.newest)
        assert isinstance(newest, Accepted)
        after, shown = pending.confirmed, self.shown.get(bed)
        if shown is not None and pending.confirmed < shown.revision < newest.revision:
            self._say(outcome(shown, OutcomeKind.CONFIRMED, after=after, reason=Reason.ALREADY_THERE), awaited=False)
            after = shown.revision
        self._attempt(newest, after, pending.attempts + 1, answer)

    def _attempt(self, newest: Accepted, after: Revision, attempts: int, answer: str) -> None:
        shown = self.shown.get(newest.entity_id)
        if shown is not None and shown.revision == newest.revision:
            self._say(outcome(newest, OutcomeKind.CONFIRMED, after=after, attempts=attempts))
        elif shown is not None and shown.revision > newest.revision and self.full:
            self._say(outcome(newest, OutcomeKind.FAILED, after=after, reason=Reason.NEWER_AT_DESTINATION, attempts=attempts))
        elif not self.full:
            self._say(outcome(newest, OutcomeKind.SHADOWED, after=after, reason=Reason.SHADOW, attempts=attempts))
        elif answer == "refused":
            self._say(outcome(newest, OutcomeKind.PARKED, after=after, reason=Reason.REFUSED_INVALID, attempts=attempts))
        elif answer == "failed":
            self._say(outcome(newest, OutcomeKind.FAILED, after=after, reason=Reason.UNAVAILABLE, attempts=attempts))
        else:
            self.shown[newest.entity_id] = newest
            self.history.append((newest.entity_id, newest.revision))
            if answer == "taken":
                self._say(outcome(newest, OutcomeKind.CONFIRMED, after=after, attempts=attempts))
            elif answer == "taken, no answer":
                self._say(outcome(newest, OutcomeKind.FAILED, after=after, reason=Reason.AMBIGUOUS, attempts=attempts))
            else:
                self._recover(wipe=False)

    def _say(self, said: Outcome, *, awaited: bool = True) -> None:
        said = msgspec.structs.replace(said, at=Millis(self.now))
        if awaited:
            self.awaiting[said.entity_id] = len(self.logs[OUTCOMES])
        self.outcomes.append(said)
        self._append(OUTCOMES, key_of(said.entity_id), said)

    def _pending(self, bed: str) -> Pending | None:
        data = self.store.get(key_of(bed))
        return decode_pending(data) if isinstance(data, bytes) else None

    # -- what must hold at every moment

    @invariant()
    def whatever_is_due_has_a_lane_to_wait_in(self) -> None:
        for bed in BEDS if hasattr(self, "store") else ():
            pending = self._pending(bed)
            assert pending is None or not pending.is_due or pending.lane is not None

    @invariant()
    def nothing_that_was_taken_in_and_is_open_is_forgotten(self) -> None:
        positions = self._positions() if hasattr(self, "store") else {}
        for bed in BEDS if positions else ():
            pending = self._pending(bed)
            confirmed = pending.confirmed if pending is not None else NO_REVISION
            shadowed = pending.shadowed if pending is not None else NO_REVISION
            open_lanes: dict[Lane, Revision] = {}
            newest = NO_REVISION
            for lane in LANES:
                for record in self.logs[f"lane.{lane.value}"][: positions.get(f"lane.{lane.value}", 0)]:
                    accepted = CODEC.decode(record.value)
                    assert isinstance(accepted, Accepted)
                    if accepted.entity_id == bed and accepted.revision > confirmed:
                        newest = max(newest, accepted.revision)
                    if accepted.entity_id == bed and accepted.revision > max(confirmed, shadowed):
                        open_lanes[lane] = max(accepted.revision, open_lanes.get(lane, NO_REVISION))
            if newest:
                assert pending is not None
                assert pending.newest is not None, "what was only compared is kept as well"
                assert pending.newest_revision >= newest
            if open_lanes:
                assert pending is not None
                assert pending.lane is not None
                assert RANK[pending.lane] <= min(RANK[lane] for lane in open_lanes)

    @invariant()
    def revisions_at_the_destination_rise_strictly(self) -> None:
        for bed in BEDS if hasattr(self, "store") else ():
            revisions = [revision for each, revision in self.history if each == bed]
            assert all(one < other for one, other in pairwise(revisions))

    @invariant()
    def nothing_is_confirmed_that_the_destination_never_showed(self) -> None:
        for bed in BEDS if hasattr(self, "store") else ():
            pending = self._pending(bed)
            written = [revision for each, revision in self.history if each == bed]
            assert pending is None or pending.confirmed <= max(written, default=NO_REVISION)

    # -- what must hold in the end

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        self._drain()
        if not self.full:
            self._all_is_shown_or_compared()
            self.full = True
            self._drain()
        for bed in BEDS:
            revisions = [a.revision for a in self.accepted if a.entity_id == bed]
            if revisions:
                self._newest_is_confirmed_or_parked(bed, max(revisions))
                self._each_has_one_end(bed, revisions)
        assert not [q for q in self.quarantined if isinstance(CODEC.decode(q), Quarantined)]

    def _drain(self) -> None:
        for _ in range(6 * len(self.accepted) + 50):
            for topic in TOPICS:
                while self.committed[topic] < len(self.logs[topic]):
                    self._cycle(topic, 5, None)
            due = [bed for bed in BEDS if self._waits(self._pending(bed))]
            if not due:
                return
            for bed in due:
                self.write(bed, "taken")
        raise AssertionError("something stays due for ever")

    def _all_is_shown_or_compared(self) -> None:
        """In shadow nothing stays open, and nothing is taken for confirmed that was only compared."""
        for bed in BEDS:
            revisions = [a.revision for a in self.accepted if a.entity_id == bed]
            pending = self._pending(bed)
            if revisions and pending is not None:
                assert max(pending.confirmed, pending.parked, pending.shadowed) == max(revisions)
                assert pending.confirmed == (self.shown[bed].revision if bed in self.shown else NO_REVISION)

    def _newest_is_confirmed_or_parked(self, bed: str, newest: Revision) -> None:
        pending = self._pending(bed)
        assert pending is not None
        shown = self.shown.get(bed)
        if pending.confirmed == newest:
            assert shown is not None
            assert shown.revision == newest
            assert pending.due == {}
            assert not pending.is_parked
        else:
            assert pending.parked == newest
            assert pending.is_parked

    def _each_has_one_end(self, bed: str, revisions: Sequence[Revision]) -> None:
        """Confirmed, else superseded by a range, else given up with the parked one.

        A range may span a revision that has a confirmation of its own: after a restart the writer says `after` as far as it
        has read the outcomes. So a confirmation of its own comes first, as in the books.
        """
        mine = [o for o in self.outcomes if o.entity_id == bed]
        ranges = {(o.after, o.revision) for o in mine if o.kind is OutcomeKind.CONFIRMED}
        confirmed = {by for _, by in ranges}
        parked = max((o.revision for o in mine if o.kind is OutcomeKind.PARKED), default=NO_REVISION)
        last = max(confirmed, default=NO_REVISION)
        for revision in revisions:
            superseded = revision not in confirmed and any(after < revision < by for after, by in ranges)
            given_up = last < revision <= parked
            assert [revision in confirmed, superseded, given_up].count(True) == 1


PendingMachine.TestCase.settings = settings(max_examples=examples(80), stateful_step_count=50, deadline=None)
TestPendingMachine = PendingMachine.TestCase
