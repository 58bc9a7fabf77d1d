"""What a replay picks: exactly what is parked, each once; what changed in a window, each once; nothing that needs it no more."""

from collections import Counter
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.accounts.deliveries import Course, EntityBooks, Fate
from pipeline.domain.event import EntityType, EventType
from pipeline.domain.identifiers import Millis, Revision
from pipeline.domain.reconcile.replay import (
    ChangedEntities,
    Entity,
    Group,
    LeftOut,
    ParkedEntities,
    Selection,
    Tally,
    Window,
    millis_ago,
    reassertion,
)
from pipeline.domain.records import Accepted, ControlKind, Outcome, OutcomeKind, Reason
from tests.support.changes import change, key_of, outcome

DESTINATIONS = ("owner", "replica")
BEDS = ("A", "B", "C")
EVERYTHING = Selection()
ENDS = (OutcomeKind.CONFIRMED, OutcomeKind.PARKED, OutcomeKind.SHADOWED, OutcomeKind.FAILED)


def subject_of(key: bytes) -> str:
    return f"{sum(key):016x}"


@dataclass
class Run:
    """A history of a few beds at two destinations, as the gate and the writers tell it."""

    accepted: list[Accepted] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    confirmed: dict[tuple[str, str], int] = field(default_factory=dict)

    def accept(self, bed: str, **more: object) -> Accepted:
        record = msgspec.structs.replace(change(len(self.accepted) + 1, bed), **more)
        self.accepted.append(record)
        return record

    def newest(self, bed: str) -> Accepted | None:
        return next((a for a in reversed(self.accepted) if a.entity_id == bed), None)

    def end(self, bed: str, destination: str, kind: OutcomeKind, reason: Reason = Reason.REFUSED_INVALID) -> None:
        newest = self.newest(bed)
        if newest is None:
            return
        after = self.confirmed.get((bed, destination), 0)
        told = outcome(newest, kind, after=min(after, newest.revision - 1), reason=reason, at=len(self.outcomes))
        self.outcomes.append(msgspec.structs.replace(told, destination=destination))
        if kind is OutcomeKind.CONFIRMED:
            self.confirmed[bed, destination] = newest.revision

    def parked(self, selection: Selection = EVERYTHING) -> tuple[list[Entity], Tally]:
        found = ParkedEntities()
        for told in self.outcomes:
            found.add_outcome(told)
        for record in self.accepted:
            found.add_accepted(record)
        return found.choose(selection, DESTINATIONS, subject_of)

    def changed(self, selection: Selection, begun: int | None = None) -> tuple[list[Entity], Tally]:
        found = ChangedEntities(selection, None if begun is None else Millis(begun))
        for told in self.outcomes:
            found.add_outcome(told)
        for record in self.accepted:
            found.add_accepted(record)
        return found.choose((EntityType.BED,), subject_of)

    def fate(self, bed: str, destination: str) -> Fate:
        """What the books say of the newest revision."""
        newest = self.newest(bed)
        assert newest is not None
        entity = EntityBooks(EntityType.BED, 0)
        for told in self.outcomes:
            if (told.entity_id, told.destination) == (bed, destination) and told.kind is not OutcomeKind.FAILED:
                entity.end(0, told)
        return Course(entity.ends(0)).fate(newest.revision)[0]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("accept"), st.sampled_from(BEDS)),
        st.tuples(st.just("end"), st.sampled_from(BEDS), st.sampled_from(DESTINATIONS), st.sampled_from(ENDS)),
        st.tuples(st.just("again"), st.integers(0, 100)),
    ),
    max_size=60,
)


def run_of(plan: list[tuple[object, ...]]) -> Run:
    run = Run()
    for step in plan:
        match step:
            case ("accept", str(bed)):
                run.accept(bed)
            case ("end", str(bed), str(destination), OutcomeKind() as kind):
                run.end(bed, destination, kind)
            case ("again", int(place)):  # a writer that crashed tells what it told before
                if run.outcomes:
                    run.outcomes.append(run.outcomes[-1 - place % min(3, len(run.outcomes))])
            case _:
                pass
    return run


@given(steps)
def test_exactly_what_the_books_call_parked_is_replayed_each_entity_once_at_its_newest_revision(
    plan: list[tuple[object, ...]],
) -> None:
    run = run_of(plan)
    entities, tally = run.parked()
    beds = {record.entity_id for record in run.accepted}
    booked = {(bed, place) for bed in beds for place in DESTINATIONS if run.fate(bed, place) is Fate.PARKED}
    assert Counter(entity.key for entity in entities) == Counter(key_of(bed) for bed in {bed for bed, _ in booked})
    newest = {key_of(bed): run.newest(bed) for bed in beds}
    assert all(newest[entity.key].revision == entity.seen for entity in entities)  # type: ignore[union-attr]
    assert tally.groups.total() == len(booked)
    assert not tally.refused


@given(steps, st.sampled_from(DESTINATIONS), st.integers(1, 3))
def test_a_destination_and_a_limit_only_ever_leave_entities_out_and_say_how_many(
    plan: list[tuple[object, ...]], destination: str, limit: int
) -> None:
    run = run_of(plan)
    every, _ = run.parked()
    there, _ = run.parked(Selection(destination=destination))
    some, tally = run.parked(Selection(destination=destination, limit=limit))
    assert set(there) <= set(every)
    assert some == there[:limit]
    assert tally.left_out[LeftOut.BEYOND_LIMIT] == len(there) - len(some)


@given(steps)
def test_what_was_ordered_once_is_not_ordered_again_before_it_is_parked_again(plan: list[tuple[object, ...]]) -> None:
    run = run_of(plan)
    entities, _ = run.parked()
    for entity in entities:  # the gate has taken each order
        run.accept(next(bed for bed in BEDS if key_of(bed) == entity.key), event_type=EventType.REASSERT)
    again, tally = run.parked()
    assert again == []
    assert tally.left_out[LeftOut.WAITS] >= len(entities)


def test_a_confirmed_later_revision_excludes_and_an_older_one_does_not() -> None:
    run = Run()
    run.accept("A")
    run.end("A", "owner", OutcomeKind.CONFIRMED)
    run.accept("A")
    run.end("A", "owner", OutcomeKind.PARKED)
    assert [entity.key for entity in run.parked()[0]] == [key_of("A")]
    run.accept("A")
    assert run.parked()[0] == []
    run.end("A", "owner", OutcomeKind.CONFIRMED)
    assert run.parked() == ([], Tally())


def test_parked_is_narrowed_by_reason_time_type_digest_and_by_who_said_what_is_not_confirmed() -> None:
    run = Run()
    for bed, source, reason in (("A", "capacity", Reason.REFUSED_INVALID), ("B", "housekeeping", Reason.REFUSED_FORBIDDEN)):
        run.accept(bed, source_system=source)
        run.end(bed, "owner", OutcomeKind.PARKED, reason)
    run.accept("B", source_system="surgeline", event_type=EventType.REASSERT)
    run.end("B", "owner", OutcomeKind.PARKED, Reason.REFUSED_FORBIDDEN)  # at 2
    run.accept("C")
    run.end("C", "elsewhere", OutcomeKind.PARKED)

    def beds(selection: Selection) -> list[bytes]:
        return [entity.key for entity in run.parked(selection)[0]]

    assert beds(Selection()) == [key_of("A"), key_of("B")]
    assert run.parked()[1].left_out == {LeftOut.DESTINATION_GONE: 1}
    assert beds(Selection(cause=Reason.REFUSED_FORBIDDEN)) == [key_of("B")]
    assert beds(Selection(source_system="housekeeping")) == [key_of("B")]
    assert beds(Selection(source_system="capacity", feed="y")) == []
    assert beds(Selection(window=Window(Millis(1)))) == [key_of("B")]
    assert beds(Selection(window=Window(until=Millis(2)))) == [key_of("A")]
    assert beds(Selection(entity_type=EntityType.PATIENT)) == []
    assert (beds(Selection(tenant="t")), beds(Selection(tenant="u"))) == (beds(Selection()), [])
    assert beds(Selection(subject=subject_of(key_of("A")))) == [key_of("A")]
    assert run.parked()[1].groups[Group("owner", "bed", "REFUSED_FORBIDDEN")] == 1


@given(steps, st.integers(0, 60), st.integers(0, 60))
def test_a_range_holds_each_entity_that_changed_in_it_once_at_its_newest_revision(
    plan: list[tuple[object, ...]], since: int, length: int
) -> None:
    run = run_of(plan)
    run.accepted = [msgspec.structs.replace(record, accepted_at=Millis(record.offset)) for record in run.accepted]
    window = Window(Millis(since), Millis(since + length))
    entities, _ = run.changed(Selection(window=window))
    changed = {record.key.encode() for record in run.accepted if window.holds(record.accepted_at)}
    assert Counter(entity.key for entity in entities) == Counter(changed)
    for entity in entities:
        assert entity.seen == max(record.revision for record in run.accepted if record.key.encode() == entity.key)
    done, tally = run.changed(Selection(window=window), begun=0)
    assert done == []
    assert tally.left_out[LeftOut.SENT_SINCE] == len(changed)


def test_what_a_restored_destination_had_confirmed_after_its_backup_counts_however_old_the_change_is() -> None:
    run = Run()
    run.accept("A", accepted_at=Millis(10))
    run.outcomes += [msgspec.structs.replace(outcome(run.accepted[0], OutcomeKind.CONFIRMED, at=50), destination="owner")]
    window = Window(Millis(40), Millis(60))
    assert run.changed(Selection(window=window))[0] == []
    (entity,) = run.changed(Selection(window=window, destination="owner"))[0]
    assert entity.seen == run.accepted[0].revision
    assert run.changed(Selection(window=window, destination="replica"))[0] == []
    assert run.changed(Selection(window=window, destination="owner", source_system="another"))[0] == []
    run.accepted.clear()  # the history keeps it no more
    assert run.changed(Selection(window=window, destination="owner"))[0] == [entity]


def test_a_range_by_cause_holds_only_what_met_it() -> None:
    run = Run()
    for bed, reason in (("A", Reason.TIMEOUT), ("B", Reason.CONNECTION)):
        run.accept(bed)
        run.end(bed, "owner", OutcomeKind.FAILED, reason)
        run.end(bed, "owner", OutcomeKind.CONFIRMED, Reason.NONE)
    window = Window(Millis(0))
    (entity,), tally = run.changed(Selection(window=window, cause=Reason.TIMEOUT))
    assert entity.key == key_of("A")
    assert tally.groups == {Group("owner", "bed", "TIMEOUT"): 1}


def test_an_order_carries_no_value_and_names_the_head_that_was_seen() -> None:
    order = reassertion(Entity(key_of("ICU-12"), Revision(7)), "operator:rosa", "mended", Millis(5))
    assert (order.kind, order.seen_revision, order.actor, order.reason) == (ControlKind.REASSERT, 7, "operator:rosa", "mended")
    assert order == reassertion(Entity(key_of("ICU-12"), Revision(7)), "operator:rosa", "mended", Millis(5))
    assert "ICU-12" not in repr(msgspec.to_builtins(order))
    assert "ICU-12" not in repr(Entity(key_of("ICU-12"), Revision(7)))


@pytest.mark.parametrize(("text", "length_ms"), [("90s", 90_000), ("30m", 1_800_000), ("2h", 7_200_000), ("7d", 604_800_000)])
def test_a_time_rule_is_a_number_with_its_unit(text: str, length_ms: int) -> None:
    assert millis_ago(text) == length_ms


@pytest.mark.parametrize("text", ["", "2", "h", "0h", "-2h", "2 h", "2h30m", "91d", "1.5h", "٢h", "2H"])
def test_anything_else_is_none(text: str) -> None:
    assert millis_ago(text) is None
