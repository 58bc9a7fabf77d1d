"""What a mode freezes before a delivery: a kind freezes only what it is sure of, and nothing forgotten comes back."""

import msgspec

from pipeline.domain.event import EventType
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import LANES, Accepted, Lane
from pipeline.domain.writing.mode_policy import FreezeRule
from pipeline.domain.writing.pending import Pending, on_accepted
from pipeline.domain.writing.scheduler import Entry, LaneScheduler
from pipeline.stream.writing import freezing
from pipeline.stream.writing.freezing import Freezing
from tests.support.changes import change, decoded, encoded, key_of

REST = FreezeRule("tried here", tuple(lane for lane in LANES if lane is not Lane.CRITICAL))
SNAPSHOTS = FreezeRule("tried here", (Lane.ROUTINE,), event_types=(EventType.SNAPSHOT,))


class Waiting:
    """A scheduler with what is frozen before it, and the pending of each entity."""

    def __init__(self) -> None:
        self.scheduler = LaneScheduler()
        self.freezing = Freezing(self.scheduler, decoded)
        self.freezing.asks_kinds = True
        self.pendings: dict[bytes, Pending] = {}

    def accept(self, offset: int, kind: EventType, **more: object) -> None:
        accepted: Accepted = msgspec.structs.replace(change(offset, **more), event_type=kind)  # type: ignore[arg-type]
        key = key_of(accepted.entity_id)
        pending = on_accepted(self.pendings.get(key), accepted, encoded(accepted), 60)
        assert pending is not None
        assert pending.lane is not None
        self.pendings[key] = pending
        self.freezing.put(Entry(key, pending.lane, pending.since, pending.not_before), pending)

    @property
    def frozen(self) -> int:
        return len(self.scheduler.frozen)


async def test_what_waits_already_and_what_comes_later_freezes_and_thaws_in_steps() -> None:
    freezing.AT_ONCE, before = 3, freezing.AT_ONCE  # type: ignore[misc]
    try:
        waiting = Waiting()
        for number in range(10):
            waiting.accept(number + 1, EventType.UPDATE, bed=str(number))
        await waiting.freezing.apply((REST,))
        waiting.accept(20, EventType.UPDATE, bed="late")
        assert (waiting.frozen, waiting.scheduler.take(Millis(5_000))) == (11, None)
        waiting.accept(21, EventType.UPDATE, bed="late", lane=Lane.CRITICAL)
        taken = waiting.scheduler.take(Millis(5_000))
        assert taken is not None
        assert taken.key == key_of("late")
        await waiting.freezing.apply(())
        assert waiting.frozen == 0
        assert len([entry for _ in range(20) if (entry := waiting.scheduler.take(Millis(5_000))) is not None]) == 10
    finally:
        freezing.AT_ONCE = before  # type: ignore[misc]


async def test_a_rule_by_kind_lets_an_entity_go_as_soon_as_a_change_of_another_kind_comes() -> None:
    waiting = Waiting()
    await waiting.freezing.apply((SNAPSHOTS,))
    waiting.accept(1, EventType.SNAPSHOT)
    assert waiting.frozen == 1
    waiting.accept(2, EventType.UPDATE, previous=1, received_at=1_000)
    assert waiting.frozen == 0
    waiting.accept(3, EventType.SNAPSHOT, previous=2, received_at=1_000)
    assert waiting.frozen == 0


async def test_an_entity_that_is_written_meanwhile_leaves_nothing_behind() -> None:
    waiting = Waiting()
    await waiting.freezing.apply((REST, SNAPSHOTS))
    waiting.accept(1, EventType.SNAPSHOT)
    waiting.freezing.discard(key_of("A"))
    assert (waiting.frozen, waiting.freezing.thaw(5), len(waiting.scheduler)) == (0, 0, 0)
    assert waiting.freezing._kinds == {}


async def test_no_kind_is_looked_up_where_no_rule_asks_for_it() -> None:
    waiting = Waiting()
    waiting.freezing.asks_kinds = False
    await waiting.freezing.apply((REST,))
    waiting.accept(1, EventType.SNAPSHOT)
    assert (waiting.frozen, waiting.freezing._kinds) == (1, {})
