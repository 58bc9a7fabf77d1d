"""What a mode freezes waits and is not taken; what is critical never is, and nothing is lost or taken twice by thawing."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import EntityKey, Millis
from pipeline.domain.records import LANES, Lane
from pipeline.domain.writing.frozen import type_of
from pipeline.domain.writing.scheduler import Entry, LaneScheduler


def key(name: str, entity_type: str = "bed") -> bytes:
    return EntityKey("t", entity_type, "n", name).encode()


def entry(name: str, lane: Lane, since: int = 1, entity_type: str = "bed") -> Entry:
    return Entry(key(name, entity_type), lane, Millis(since), Millis(0))


def everything(_key: bytes, _lane: Lane, _type: EntityType) -> bool:
    return True


def bulk(_key: bytes, lane: Lane, _type: EntityType) -> bool:
    return lane is Lane.BULK


def taken(scheduler: LaneScheduler, now: int = 10) -> list[bytes]:
    """Keys in the order in which they are taken; each is released."""
    keys = []
    while (found := scheduler.take(Millis(now))) is not None:
        keys.append(found.key)
        scheduler.discard(found.key)
        scheduler.release(found.key)
    return keys


def frozen_by(scheduler: LaneScheduler, rule: object) -> None:
    scheduler.reconsider(scheduler.freeze(rule))  # type: ignore[arg-type]


def test_the_type_is_read_from_the_key_also_where_a_tenant_has_a_separator_in_its_name() -> None:
    assert type_of(key("a")) is EntityType.BED
    assert type_of(EntityKey("a|bed\\", "patient", "n", "x").encode()) is EntityType.PATIENT
    assert type_of(b"rubbish") is None
    assert type_of(b"t|unheard|n|x") is None


def test_what_is_critical_is_taken_whatever_is_frozen() -> None:
    scheduler = LaneScheduler()
    for lane in LANES:
        scheduler.put(entry(lane.value, lane))
    frozen_by(scheduler, everything)
    assert taken(scheduler) == [key("critical")]
    assert (len(scheduler), len(scheduler.frozen)) == (3, 3)


def test_a_critical_change_thaws_its_entity_at_once_and_once_written_it_is_as_any_other() -> None:
    scheduler = LaneScheduler()
    frozen_by(scheduler, bulk)
    scheduler.put(entry("a", Lane.BULK))
    assert taken(scheduler) == []
    scheduler.put(entry("a", Lane.CRITICAL))
    found = scheduler.take(Millis(10))
    assert found is not None
    scheduler.put(entry("a", Lane.BULK, 5))
    scheduler.release(found.key)
    assert taken(scheduler) == []
    assert scheduler.frozen.counts() == {(Lane.BULK, EntityType.BED): 1}


def test_what_is_under_way_when_it_freezes_ends_and_then_waits() -> None:
    scheduler = LaneScheduler()
    scheduler.put(entry("a", Lane.BULK))
    assert scheduler.take(Millis(10)) is not None
    frozen_by(scheduler, bulk)
    scheduler.release(key("a"))
    assert taken(scheduler) == []
    frozen_by(scheduler, None)
    assert taken(scheduler) == [key("a")]


def test_a_retry_that_falls_due_while_it_is_frozen_is_taken_after_it() -> None:
    scheduler = LaneScheduler()
    scheduler.put(Entry(key("a"), Lane.BULK, Millis(1), Millis(50)))
    frozen_by(scheduler, bulk)
    assert taken(scheduler, 60) == []
    frozen_by(scheduler, None)
    assert taken(scheduler, 60) == [key("a")]


def test_the_oldest_thaw_first_and_stay_thawed_until_they_are_written_or_the_rule_changes() -> None:
    scheduler = LaneScheduler()
    for number in range(5):
        scheduler.put(entry(str(number), Lane.BULK, 10 - number))
    frozen_by(scheduler, bulk)
    assert scheduler.thaw(2) == 2
    scheduler.put(entry("4", Lane.BULK, 7))
    assert sorted(taken(scheduler)) == [key("3"), key("4")]
    scheduler.put(entry("4", Lane.BULK, 8))
    assert taken(scheduler) == []
    assert scheduler.thaw(1) == 1
    frozen_by(scheduler, bulk)
    assert taken(scheduler) == []


def test_waits_are_told_without_what_is_frozen_and_turns_without_what_waits_for_its_own_retry() -> None:
    scheduler = LaneScheduler()
    scheduler.put(entry("old", Lane.BULK, 1))
    scheduler.put(Entry(key("retried"), Lane.URGENT, Millis(2), Millis(99)))
    scheduler.put(entry("turn", Lane.URGENT, 7))
    frozen_by(scheduler, bulk)
    assert scheduler.oldest_since() == 1
    assert scheduler.awake_since() == 2
    assert scheduler.awake_since({key("retried")}) == 7
    assert scheduler.turn_since((Lane.CRITICAL, Lane.URGENT)) == 7
    assert scheduler.turn_since((Lane.BULK,)) is None
    scheduler.put(Entry(key("old"), Lane.CRITICAL, Millis(1), Millis(0), Millis(9)))
    assert scheduler.turn_since((Lane.CRITICAL,)) == 9


def end(scheduler: LaneScheduler, done: bytes, known: set[bytes]) -> None:
    """A write ended; it leaves nothing open where its key is known."""
    if done in known:
        scheduler.discard(done)
        known.discard(done)
    scheduler.release(done)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 5), st.sampled_from(LANES)),
        st.tuples(st.just("rule"), st.sampled_from([None, bulk, everything]), st.booleans()),
        st.tuples(st.just("take"), st.booleans(), st.none()),
        st.tuples(st.just("release"), st.booleans(), st.none()),
        st.tuples(st.just("thaw"), st.integers(0, 3), st.none()),
        st.tuples(st.just("postpone"), st.integers(0, 5), st.integers(0, 40)),
        st.tuples(st.just("discard"), st.integers(0, 5), st.none()),
    ),
    max_size=80,
)


@given(STEPS)
def test_whatever_freezes_and_thaws_nothing_is_lost_nothing_is_taken_twice_and_no_frozen_one_is_taken(steps: list) -> None:  # type: ignore[type-arg]
    scheduler, under_way, known, now = LaneScheduler(), list[bytes](), set[bytes](), 0
    for what, first, second in steps:
        now += 1
        match what:
            case "put":
                scheduler.put(entry(str(first), second, now))
                known.add(key(str(first)))
            case "rule":
                frozen_by(scheduler, first)
                if second:
                    list(scheduler.sweep())
            case "take":
                found = scheduler.take(Millis(now), critical_only=first)
                if found is not None:
                    assert found.key not in under_way
                    assert found.key not in scheduler.frozen
                    under_way.append(found.key)
            case "release" if under_way:
                end(scheduler, under_way.pop(0), known if first else set())
            case "thaw":
                scheduler.thaw(first)
            case "postpone":
                scheduler.postpone(key(str(first)), Millis(now + second))
            case "discard":
                scheduler.discard(key(str(first)))
                known.discard(key(str(first)))
        assert len(scheduler.frozen) == sum(scheduler.frozen.counts().values()) <= len(scheduler)
    for each in under_way:
        scheduler.release(each)
    frozen_by(scheduler, None)
    assert sorted(taken(scheduler, now + 1_000)) == sorted(known)
    assert len(scheduler.frozen) == 0
