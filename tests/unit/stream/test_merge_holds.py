"""A writer holds the survivor of a merge until what was merged into it is closed at the destination."""

from dataclasses import dataclass
from typing import Any

import msgspec

from pipeline.domain.event import EntityType, Patient, Reference
from pipeline.domain.head import Absorbed, state_hash_of
from pipeline.domain.identifiers import NO_REVISION, EntityKey, Millis, Revision, partition_of, revision_of
from pipeline.domain.judging.merges import ABSORBED_KEPT, blank, is_copy, with_absorbed
from pipeline.domain.judging.restating import awaits_of
from pipeline.domain.judging.verdicts import Position
from pipeline.domain.records import LANES, Accepted, Await, Outcome, OutcomeKind, Quarantined, Reason
from pipeline.domain.writing.pending import (
    EMPTY,
    LOSERS_KEPT,
    Pending,
    decode_pending,
    encode_pending,
    held_for,
    join,
    on_accepted,
    on_loser,
)
from pipeline.formats.avro import Codec
from pipeline.stream.worker.batch import PartitionBatch
from pipeline.stream.writing.agent import WriterWork
from pipeline.stream.writing.delivery import Change
from pipeline.topology import ENTITY_PARTITIONS
from tests.support.changes import change, encoded, key_of, outcome
from tests.unit.stream.test_delivery import World

CODEC = Codec.shipped()
L, S = Reference("N", "L"), Reference("N", "S")
L_KEY, S_KEY = (EntityKey("t", "patient", "N", name).encode() for name in ("L", "S"))
L_AT, S_AT = (partition_of(key, ENTITY_PARTITIONS) for key in (L_KEY, S_KEY))
CLOSED = revision_of(1, 7)


def closing(offset: int = 7) -> Accepted:
    state = Patient(merged_into=S)
    return msgspec.structs.replace(
        change(offset),
        entity_type=EntityType.PATIENT,
        entity_id="L",
        state=state,
        state_hash=state_hash_of(state),
        partition=L_AT,
    )


def ended(kind: OutcomeKind = OutcomeKind.CONFIRMED, offset: int = 7, survivor: Reference | None = S) -> Outcome:
    reason = Reason.NONE if kind is OutcomeKind.CONFIRMED else Reason.REFUSED_GONE
    return msgspec.structs.replace(outcome(closing(offset), kind, reason=reason), survivor=survivor)


@dataclass(frozen=True)
class Record:
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes
    value: bytes


class Database(dict[bytes, bytes]):
    def get(self, key: Any, default: Any = None) -> Any:
        return [self.get(k) for k in key] if isinstance(key, list) else super().get(key, default)


class Sent:
    def __init__(self) -> None:
        self.records: list[tuple[str, int, bytes | None, bytes]] = []

    def send(self, topic: str, partition: int, key: bytes | None, value: bytes) -> None:
        self.records.append((topic, partition, key, value))


class Destination:
    name = "ehr"

    def expects(self, accepted: Accepted) -> bool:
        return True


class Deaf:
    def changed(self, changes: object) -> None:
        """Not of interest."""


def judged(key: bytes, partition: int, record: Outcome) -> tuple[Database, Sent]:
    work = WriterWork(
        CODEC,
        Destination(),  # type: ignore[arg-type]
        Deaf(),  # type: ignore[arg-type]
        dict.fromkeys(LANES, 60.0),
        "outcomes",
        "quarantine",
        lambda data, _: data,
    )
    batch = PartitionBatch(partition, Database(), [Record("outcomes", partition, 0, 1, key, CODEC.encode(record))])  # type: ignore[arg-type]
    sent = Sent()
    work.judge(batch, sent)  # type: ignore[arg-type]
    return Database(batch.puts), sent


def test_the_end_of_a_loser_is_told_to_its_survivors_partition_and_remembered_there() -> None:
    for kind in (OutcomeKind.CONFIRMED, OutcomeKind.PARKED, OutcomeKind.SHADOWED):
        _, sent = judged(L_KEY, L_AT, ended(kind))
        ((topic, partition, key, value),) = sent.records
        assert (topic, partition, key) == ("outcomes", S_AT, S_KEY)
        copied = CODEC.decode(value)
        assert isinstance(copied, Outcome)
        stored, again = judged(S_KEY, S_AT, copied)
        assert not again.records, "a copy is not copied"
        pending = decode_pending(stored[S_KEY])
        assert [(each.key, each.revision) for each in pending.losers] == [(L_KEY, CLOSED)]
        assert not pending.is_due


def test_who_reads_outcomes_in_their_order_knows_a_copy() -> None:
    """Read before the loser's own partition it would be a step back there."""
    assert is_copy(ended(), S_KEY)
    assert not is_copy(ended(), L_KEY)
    assert not is_copy(ended(survivor=None), S_KEY)


def test_an_attempt_that_failed_and_an_outcome_of_nobodys_loser_are_told_to_no_one() -> None:
    assert not judged(L_KEY, L_AT, ended(OutcomeKind.FAILED))[1].records
    assert not judged(L_KEY, L_AT, ended(survivor=None))[1].records


def test_an_outcome_under_a_key_that_is_neither_its_own_nor_its_survivors_is_quarantined() -> None:
    for key, record in ((S_KEY, ended(survivor=None)), (S_KEY, ended(survivor=Reference("N", "X")))):
        _, sent = judged(key, S_AT, record)
        (parked,) = [CODEC.decode(value) for topic, _, _, value in sent.records if topic == "quarantine"]
        assert isinstance(parked, Quarantined)
        assert parked.reason is Reason.KEY_MISMATCH


def test_what_is_held_follows_from_pending_and_the_newest_record_alone() -> None:
    def waits(revision: Revision) -> Accepted:
        record = msgspec.structs.replace(closing(9), entity_id="S", awaits=(Await(L, revision, Millis(1)),))
        return msgspec.structs.replace(record, state=Patient())

    known = on_loser(None, S_AT, L_KEY, CLOSED)
    assert known is not None
    assert decode_pending(encode_pending(known)) == known
    assert held_for(EMPTY, waits(CLOSED))
    assert held_for(known, waits(NO_REVISION)), "nobody has told which revision closes it"
    assert held_for(known, waits(revision_of(1, 8)))
    assert not held_for(known, waits(CLOSED))
    assert on_loser(known, S_AT, L_KEY, CLOSED) is None
    assert not held_for(join(known, EMPTY), waits(CLOSED))
    for number in range(LOSERS_KEPT + 3):
        known = on_loser(known, S_AT, b"%d" % number, CLOSED) or known
    assert len(known.losers) == LOSERS_KEPT


def test_whatever_the_order_in_which_seventeen_are_told_of_none_that_is_awaited_is_forgotten() -> None:
    head, pending = blank(Position(EntityType.PATIENT, 1, 0, 0, Millis(1))), EMPTY
    for number in range(1, ABSORBED_KEPT + 2):
        closed = Absorbed(Reference("N", f"L{number}"), revision_of(1, number), Millis(1), Millis(1))
        head = with_absorbed(head, closed)
    for number in (2, 1, *range(3, ABSORBED_KEPT + 2)):
        key = EntityKey("t", "patient", "N", f"L{number}").encode()
        pending = on_loser(pending, S_AT, key, revision_of(1, number)) or pending
    newest = msgspec.structs.replace(closing(99), entity_id="S", state=Patient(), awaits=awaits_of(head.absorbed))
    assert len(newest.awaits) == ABSORBED_KEPT
    assert held_for(pending, newest) == ()


def test_one_that_the_newest_record_awaits_is_remembered_however_many_are_told_of_after_it() -> None:
    def record(offset: int, *awaits: Await) -> Accepted:
        return msgspec.structs.replace(closing(offset), entity_id="S", state=Patient(), awaits=awaits)

    def told(pending: Pending, many: int) -> Pending:
        for number in range(many):
            pending = on_loser(pending, S_AT, b"%d" % number, revision_of(1, pending.generation)) or pending
        return pending

    def taken(pending: Pending, accepted: Accepted) -> Pending:
        changed = on_accepted(pending, accepted, encoded(accepted), 60)
        assert changed is not None
        return changed

    named = Await(L, NO_REVISION, Millis(1))
    pending = on_loser(EMPTY, S_AT, L_KEY, CLOSED) or EMPTY
    pending = told(taken(pending, record(9, named)), LOSERS_KEPT + 5)
    again = join(decode_pending(encode_pending(pending)), EMPTY)
    for each in (pending, again):
        assert not held_for(each, record(10, msgspec.structs.replace(named, revision=CLOSED)))
        assert len(each.losers) == LOSERS_KEPT + 1
    forgotten = told(taken(pending, record(11)), LOSERS_KEPT)
    assert L_KEY not in {each.key for each in forgotten.losers}
    assert len(forgotten.losers) == LOSERS_KEPT


def survivor(offset: int = 9, revision: Revision = CLOSED, since: int = 1_000_000) -> Accepted:
    return msgspec.structs.replace(change(offset, "S"), awaits=(Await(L, revision, Millis(since)),))


async def test_a_survivor_is_written_after_what_was_merged_into_it_and_not_before() -> None:
    world, key = World(), key_of("S")
    world.accept(survivor())
    await world.run()
    assert world.ehr.read_count == 0
    changed = on_loser(world.table.rows[key], 0, key_of("L"), CLOSED)
    assert changed is not None
    world.table.rows[key] = changed
    world.delivery.changed([Change(0, key, changed, ())])
    await world.run()
    assert world.ehr.history == [("S", revision_of(1, 9))]


async def test_a_loser_of_the_same_worker_goes_in_the_turn_of_its_survivor() -> None:
    world = World(concurrency=1)
    world.accept(survivor())
    world.accept(change(7, "L"))
    await world.run(turns=200)
    assert world.ehr.history == [("L", CLOSED)]


async def test_a_hold_that_lasts_shows_as_stuck_goes_on_and_is_the_same_after_a_restart() -> None:
    world, key = World(max_attempts=3), key_of("S")
    world.accept(survivor())
    await world.live(most=20)
    assert not world.ledger.log, "not stuck yet"
    world.delivery.assigned(0, [(key, world.table.rows[key])])
    await world.live(most=200)
    assert set(world.ledger.reasons()) == {Reason.MERGE_OPEN}
    assert set(world.ledger.kinds()) == {OutcomeKind.FAILED}
    parked, stuck = world.delivery.stuck()
    assert (parked, [each.reason for each in stuck]) == (0, [Reason.MERGE_OPEN])
    assert world.ehr.read_count == 0
