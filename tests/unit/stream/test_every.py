"""Delivery of each change: order per entity, nothing acknowledged before it ended, nothing held through a rebalance."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, Final

import msgspec
import pytest

from pipeline.destinations.protocol import Ambiguous, Confirmed, Refused, Retry, always
from pipeline.domain.event import Bed, BedOccupancy, EntityType, EventType, Occupancy
from pipeline.domain.identifiers import NO_REVISION, EntityKey, EventId, Millis, Revision, revision_of
from pipeline.domain.records import Accepted, Lane, Outcome, OutcomeKind, Reason
from pipeline.domain.writing.limits import ConsecutiveBreaker
from pipeline.formats.hl7v2.out_messages import Letter, control_id_of
from pipeline.stream.every import delivery as every_delivery
from pipeline.stream.every.delivery import MAX_HELD, EveryDelivery
from pipeline.stream.every.kept import NO_GENERATION, decode_mark
from pipeline.stream.every.ports import Bounds, Room
from pipeline.stream.every.told import SINCE_KEY, Told, decode_told, encode_told, join_values

pytestmark = pytest.mark.timeout(120)

BOUND_S: Final = 30.0
GENERATION: Final = 5
END: Final = Confirmed("id", None, NO_REVISION)
Answer = Confirmed | Refused | Retry | Ambiguous


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The delivery looks often; its clock goes on by how often it is asked."""
    monkeypatch.setattr(every_delivery, "IDLE_WAIT_S", 0.01)


def accepted(entity: str, offset: int, previous: int = 0, **more: Any) -> Accepted:
    fields: dict[str, Any] = {
        "event_id": EventId(f"{offset:032x}"),
        "tenant": "demo",
        "facility": "GEN",
        "entity_type": EntityType.BED,
        "namespace": "GEN",
        "entity_id": entity,
        "event_type": EventType.BED_STATUS,
        "source_system": "capacity",
        "feed": "f",
        "epoch": 1,
        "partition": 0,
        "offset": offset,
        "revision": revision_of(1, offset),
        "previous_revision": revision_of(1, previous) if previous else NO_REVISION,
        "lane": Lane.URGENT,
        "changed": ("occupancy",),
        "state": Bed(occupancy=BedOccupancy(Occupancy.VACANT)),
        "state_hash": "s" * 16,
        "content_hash": "c" * 16,
        "recorded_at": Millis(1_000),
        "received_at": Millis(1_000 + offset),
        "accepted_at": Millis(1_000 + offset),
        "policy_version": "1",
    }
    return Accepted(**(fields | more))


def key_of(change: Accepted) -> bytes:
    return EntityKey(change.tenant, change.entity_type.value, change.namespace, change.entity_id).encode()


class Poll:
    """As Faust's event; notes whether it was acknowledged, and as of which generation."""

    def __init__(self, partition: int = 0, generation: int = GENERATION) -> None:
        self.app = SimpleNamespace(consumer_generation_id=GENERATION)
        self.message = SimpleNamespace(partition=partition, generation_id=generation)
        self.acked = False

    def ack(self) -> bool:
        self.acked = self.message.generation_id == self.app.consumer_generation_id
        return self.acked


class Receiver:
    """A destination that answers by a script; `told` is what reached it, in order."""

    delivery = "every"
    role = "replica"
    name = "adt"
    entity_types = frozenset({EntityType.BED})

    def __init__(self, window: int = 1) -> None:
        self.window = window
        self.told: list[Accepted] = []
        self.ids: list[str] = []
        self.under_way: list[bytes] = []
        self.most_under_way = self.cuts = 0
        self.answer: Callable[[Accepted], Answer] = lambda _: END
        self.held: Callable[[Accepted], Reason | None] = lambda _: None
        self.slow: Callable[[Accepted], asyncio.Event | None] = lambda _: None
        self.untold: Callable[[Accepted], bool] = lambda _: False

    def expects(self, change: Accepted) -> bool:
        return not self.untold(change)

    def build(self, change: Accepted) -> Letter | Refused:
        reason = self.held(change)
        if reason is not None:
            return Refused(reason)
        return Letter(control_id_of(self.name, change, 20), "ADT^A20", msgspec.json.encode(change))

    async def send(self, letter: Letter, may_go: Callable[[], bool] = always) -> Answer:
        change = msgspec.json.decode(letter.data, type=Accepted)
        if not may_go():
            return Retry(Reason.NONE)
        self.told.append(change)
        self.ids.append(letter.control_id)
        assert key_of(change) not in self.under_way, "two of one entity under way"
        self.under_way.append(key_of(change))
        self.most_under_way = max(self.most_under_way, len(self.under_way))
        try:
            await asyncio.sleep(0)
            if (until := self.slow(change)) is not None:
                await until.wait()
            return self.answer(change)
        finally:
            self.under_way.remove(key_of(change))

    def cut(self) -> None:
        self.cuts += 1

    async def close(self) -> None:
        return

    def offsets(self, entity: str) -> list[int]:
        return [change.offset for change in self.told if change.entity_id == entity]


class Notes:
    def __init__(self) -> None:
        self.gaps: list[Revision] = []
        self.faults: list[str] = []

    def attempted(self, change: Accepted, kind: OutcomeKind, reason: Reason) -> None:
        return

    def confirmed(self, change: Accepted, at: Millis) -> None:
        return

    def failed_inside(self, error: BaseException) -> None:
        self.faults.append(type(error).__name__)

    def gap(self, change: Accepted) -> None:
        self.gaps.append(change.revision)


class Lab:
    def __init__(self, receiver: Receiver, max_attempts: int = 4) -> None:
        self.receiver, self.notes = receiver, Notes()
        self.outcomes: list[Outcome] = []
        self.table: dict[bytes, bytes] = {}
        self.polls: list[Poll] = []
        self.ours = True
        self.now, self.tick_ms, self.was_set_back_ms = Millis(10_000_000), 7, 0
        self.delivery = EveryDelivery(
            destination=receiver,  # type: ignore[arg-type]
            room=Room(self._told, lambda _: self.ours, self._keep),
            ledger=self,
            breaker=ConsecutiveBreaker(threshold=4, open_ms=10, max_open_ms=20),
            bounds=Bounds(100_000.0, max_attempts),
            observer=self.notes,
            clock=self._clock,
            draw=lambda: 0.0,
            writer="adt/0",
            steady=lambda: Millis(self._clock() + self.was_set_back_ms),
        )
        self.delivery.assigned(0, {}, {})

    def _clock(self) -> Millis:
        self.now = Millis(self.now + self.tick_ms)
        return self.now

    def set_back(self, by_ms: int) -> None:
        self.now, self.was_set_back_ms = Millis(self.now - by_ms), self.was_set_back_ms + by_ms

    def _told(self, partition: int, key: bytes) -> Told | None:
        return decode_told(self.table[key]) if key in self.table else None

    async def _keep(self, puts: Mapping[int, Mapping[bytes, bytes]]) -> None:
        for values in puts.values():
            self.table |= values

    async def record(self, outcome: Outcome, key: bytes) -> None:
        await asyncio.sleep(0)
        self.outcomes.append(outcome)

    async def bring(self, *changes: Accepted, partition: int = 0) -> Poll:
        poll = Poll(partition)
        self.polls.append(poll)
        await self.delivery.take(poll, [(key_of(change), change) for change in changes])  # type: ignore[arg-type]
        return poll

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(BOUND_S):
            while not condition():
                await asyncio.sleep(0.002)

    def ends(self) -> list[tuple[str, int, str]]:
        return [(o.entity_id, o.revision & 0xFFFF, o.kind.value) for o in self.outcomes if o.kind is not OutcomeKind.FAILED]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.delivery.run())
        try:
            yield
        finally:
            await self.delivery.stop(BOUND_S)
            await asyncio.wait_for(task, BOUND_S)


async def test_changes_go_out_in_the_order_of_the_history_and_each_has_its_outcome() -> None:
    lab = Lab(Receiver())
    async with lab.running():
        await lab.bring(accepted("A", 1), accepted("B", 2), accepted("A", 3, 1), accepted("C", 4))
        await lab.until(lambda: len(lab.outcomes) == 4)
    assert [c.offset for c in lab.receiver.told if c.offset != 3] == [1, 2, 4]
    assert lab.receiver.offsets("A") == [1, 3]
    assert lab.receiver.most_under_way == 1
    assert {o.remote_id for o in lab.outcomes} == set(lab.receiver.ids)
    assert all(o.kind is OutcomeKind.CONFIRMED and o.after == c.previous_revision for o, c in _pairs(lab))


def _pairs(lab: Lab) -> list[tuple[Outcome, Accepted]]:
    by_revision = {change.revision: change for change in lab.receiver.told}
    return [(outcome, by_revision[outcome.revision]) for outcome in lab.outcomes]


async def test_a_poll_is_acknowledged_when_all_of_it_has_ended_and_the_table_has_it_and_never_before_an_earlier_one() -> None:
    lab = Lab(Receiver(window=8))
    gate = asyncio.Event()
    lab.receiver.slow = lambda change: gate if change.offset == 1 else None
    async with lab.running():
        first, second = await lab.bring(accepted("A", 1), accepted("B", 2)), await lab.bring(accepted("C", 3))
        await lab.until(lambda: len(lab.outcomes) == 2)
        await lab.delivery.keep()
        assert (first.acked, second.acked) == (False, False)
        gate.set()
        await lab.until(lambda: len(lab.outcomes) == 3)
        await lab.delivery.keep()
        assert (first.acked, second.acked) == (True, True)
    told = decode_told(lab.table[key_of(accepted("A", 1))])
    assert told is not None
    assert told.revision == revision_of(1, 1)
    assert decode_mark(lab.table[SINCE_KEY]) < lab.now


async def test_a_poll_of_which_nothing_is_told_is_acknowledged_too() -> None:
    lab = Lab(Receiver())
    lab.receiver.untold = lambda change: change.entity_id == "A"
    async with lab.running():
        empty, passed = await lab.bring(), await lab.bring(accepted("A", 1))
        await lab.until(lambda: len(lab.delivery.backlog) == 0)
        await lab.delivery.keep()
    assert empty.acked
    assert passed.acked
    assert (lab.outcomes, lab.receiver.told) == ([], [])


async def test_two_of_one_entity_are_never_under_way_and_others_use_the_window() -> None:
    lab = Lab(Receiver(window=4))
    random.seed(7)
    changes, before = [], dict.fromkeys("ABCDEF", 0)
    for offset in range(1, 120):
        entity = random.choice("ABCDEF")
        changes.append(accepted(entity, offset, before[entity]))
        before[entity] = offset
    async with lab.running():
        for start in range(0, len(changes), 10):
            await lab.bring(*changes[start : start + 10])
        await lab.until(lambda: len(lab.outcomes) == len(changes))
    for entity in "ABCDEF":
        assert lab.receiver.offsets(entity) == [c.offset for c in changes if c.entity_id == entity]
    assert 2 <= lab.receiver.most_under_way <= 4
    assert lab.notes.gaps == []


async def test_an_ae_is_tried_again_under_the_same_id_while_others_go_on_and_its_entity_waits() -> None:
    lab = Lab(Receiver())
    answers: list[Answer] = [Retry(Reason.ASKED_AGAIN), Retry(Reason.ASKED_AGAIN)]
    lab.receiver.answer = lambda change: answers.pop() if change.offset == 1 and answers else END
    async with lab.running():
        await lab.bring(accepted("A", 1), accepted("A", 2, 1), accepted("B", 3))
        await lab.until(lambda: len(lab.ends()) == 3)
    assert lab.receiver.offsets("A") == [1, 1, 1, 2]
    assert len({lab.receiver.ids[i] for i, c in enumerate(lab.receiver.told) if c.offset == 1}) == 1
    assert lab.ends()[0] == ("B", 3, "CONFIRMED")
    failed = [o for o in lab.outcomes if o.kind is OutcomeKind.FAILED]
    assert [(o.reason, o.attempts, o.retry_at is not None) for o in failed] == [
        (Reason.ASKED_AGAIN, 1, True),
        (Reason.ASKED_AGAIN, 2, True),
    ]


async def test_what_alone_is_answered_ae_for_ever_is_parked_and_the_next_of_its_entity_goes() -> None:
    lab = Lab(Receiver(), max_attempts=3)
    lab.receiver.answer = lambda change: Retry(Reason.ASKED_AGAIN) if change.offset == 1 else END
    async with lab.running():
        await lab.bring(accepted("A", 1), accepted("A", 2, 1))
        await lab.until(lambda: len(lab.ends()) == 2)
    assert lab.ends() == [("A", 1, "PARKED"), ("A", 2, "CONFIRMED")]
    assert lab.outcomes[-2].reason is Reason.ASKED_AGAIN
    assert lab.receiver.offsets("A") == [1, 1, 1, 2]


async def test_a_receiver_that_answers_ae_to_all_is_an_outage_and_nothing_is_parked() -> None:
    lab = Lab(Receiver(), max_attempts=2)
    away = True
    lab.receiver.answer = lambda _: Retry(Reason.ASKED_AGAIN) if away else END
    async with lab.running():
        await lab.bring(*(accepted(f"E{n}", n) for n in range(1, 9)))
        await lab.until(lambda: len(lab.receiver.told) >= 24)
        assert lab.delivery.breaker.is_open
        away = False
        await lab.until(lambda: len(lab.ends()) == 8)
    assert {kind for _, _, kind in lab.ends()} == {"CONFIRMED"}


@pytest.mark.parametrize(
    "gone", [Retry(Reason.CONNECTION), Retry(Reason.TIMEOUT), Ambiguous()], ids=["refused", "slow", "no answer"]
)
async def test_an_outage_however_long_parks_nothing_and_what_waited_goes_in_order(gone: Answer) -> None:
    lab = Lab(Receiver(), max_attempts=2)
    away = True
    lab.receiver.answer = lambda _: gone if away else END
    async with lab.running():
        poll = await lab.bring(accepted("A", 1), accepted("A", 2, 1))
        await lab.until(lambda: len(lab.receiver.told) >= 6)
        await lab.delivery.keep()
        assert not poll.acked
        assert lab.ends() == []
        away = False
        await lab.until(lambda: len(lab.ends()) == 2)
    assert lab.ends() == [("A", 1, "CONFIRMED"), ("A", 2, "CONFIRMED")]
    assert lab.receiver.offsets("A")[-2:] == [1, 2]


@pytest.mark.parametrize("refusal", [Retry(Reason.ASKED_AGAIN), Retry(Reason.CONNECTION)], ids=["put off", "away"])
async def test_a_clock_that_is_set_back_holds_nothing_up(refusal: Retry) -> None:
    lab = Lab(Receiver(), max_attempts=50)
    away = True
    lab.receiver.answer = lambda _: refusal if away else END
    async with lab.running():
        await lab.bring(accepted("A", 1))
        await lab.until(lambda: len(lab.outcomes) >= 5)
        lab.set_back(3_600_000)
        away = False
        await lab.bring(accepted("B", 2))
        await lab.until(lambda: len(lab.ends()) == 2)


async def test_a_message_at_which_the_receiver_breaks_each_time_is_parked_once_others_were_taken() -> None:
    lab = Lab(Receiver(), max_attempts=3)
    lab.receiver.answer = lambda change: Ambiguous() if change.offset == 1 else END
    async with lab.running():
        await lab.bring(accepted("A", 1))
        for offset in range(2, 400):
            if lab.ends()[-1:] == [("A", 1, "PARKED")] or ("A", 1, "PARKED") in lab.ends():
                break
            await lab.bring(accepted(f"E{offset}", offset))
            await asyncio.sleep(0.02)
        await lab.until(lambda: ("A", 1, "PARKED") in lab.ends())
    assert next(o for o in lab.outcomes if o.kind is OutcomeKind.PARKED).reason is Reason.AMBIGUOUS


async def test_an_ar_is_parked_at_once_with_its_reason_and_stays_to_be_seen_until_a_later_change_is_told() -> None:
    lab = Lab(Receiver())
    lab.receiver.answer = lambda change: Refused(Reason.REFUSED_INVALID) if change.offset == 1 else END
    async with lab.running():
        await lab.bring(accepted("A", 1))
        await lab.until(lambda: len(lab.outcomes) == 1)
        parked, stuck = lab.delivery.stuck()
        assert (parked, stuck[0].reason, stuck[0].revision) == (1, Reason.REFUSED_INVALID, revision_of(1, 1))
        await lab.delivery.keep()
        again = decode_told(lab.table[key_of(accepted("A", 1))])
        assert again is not None
        assert again.is_parked, "it is seen after a restart as well"
        await lab.bring(accepted("A", 2, 1))
        await lab.until(lambda: len(lab.outcomes) == 2)
        assert lab.delivery.stuck()[0] == 0
    assert lab.ends() == [("A", 1, "PARKED"), ("A", 2, "CONFIRMED")]


async def test_a_state_that_can_not_go_out_is_parked_with_its_reason_and_never_sent() -> None:
    lab = Lab(Receiver())
    lab.receiver.held = lambda change: Reason.RESERVATION_UNTELLABLE if change.offset == 1 else None
    async with lab.running():
        await lab.bring(accepted("A", 1), accepted("B", 2))
        await lab.until(lambda: len(lab.outcomes) == 2)
    assert lab.receiver.offsets("A") == []
    assert next(o for o in lab.outcomes if o.entity_id == "A").reason is Reason.RESERVATION_UNTELLABLE


async def test_a_history_that_is_read_again_is_not_told_again() -> None:
    lab = Lab(Receiver())
    changes = [accepted("A", 1), accepted("A", 2, 1), accepted("B", 3)]
    async with lab.running():
        await lab.bring(*changes)
        await lab.until(lambda: len(lab.outcomes) == 3)
        await lab.bring(*changes)
        await lab.delivery.keep()
        poll = await lab.bring(*changes, accepted("A", 4, 2))
        await lab.until(lambda: len(lab.outcomes) == 4)
        await lab.until(lambda: len(lab.delivery.backlog) == 0)
        await lab.delivery.keep()
        assert poll.acked
    assert lab.receiver.offsets("A") == [1, 2, 4]
    assert lab.receiver.offsets("B") == [3]


async def test_after_a_crash_what_has_an_outcome_is_passed_over_and_what_has_none_goes_again_as_the_same_message() -> None:
    lab = Lab(Receiver())
    changes = [accepted("A", 1), accepted("A", 2, 1), accepted("A", 3, 2)]
    ended = {key_of(changes[0]): Told(revision_of(1, 1))}
    lab.delivery.assigned(0, {}, ended)
    async with lab.running():
        await lab.bring(*changes)
        await lab.until(lambda: len(lab.outcomes) == 2)
        await lab.delivery.keep()
    assert lab.receiver.offsets("A") == [2, 3]
    assert lab.receiver.ids == [control_id_of("adt", change, 20) for change in changes[1:]]
    assert decode_told(lab.table[key_of(changes[0])]) is not None


async def test_nothing_is_held_through_a_rebalance_and_nothing_of_it_is_acknowledged() -> None:
    lab = Lab(Receiver())
    lab.receiver.answer = lambda _: Retry(Reason.CONNECTION)
    async with lab.running():
        poll = await lab.bring(accepted("A", 1), accepted("B", 2))
        await lab.until(lambda: len(lab.receiver.told) >= 2)
        await lab.delivery.let_go()
        sent = len(lab.receiver.told)
        lab.delivery.revoked((0,))
        assert len(lab.delivery.backlog) == 0
        assert not poll.acked
        assert poll.message.generation_id == NO_GENERATION
        await asyncio.sleep(0.05)
        assert len(lab.receiver.told) == sent
        lab.receiver.answer = lambda _: END
        lab.delivery.assigned(0, {}, {})
        await lab.bring(accepted("A", 1), accepted("B", 2))
        await lab.until(lambda: len(lab.ends()) == 2)


async def test_a_message_under_way_when_its_partition_goes_is_waited_for_and_its_outcome_told() -> None:
    lab = Lab(Receiver())
    gate = asyncio.Event()
    lab.receiver.slow = lambda _: gate
    async with lab.running():
        await lab.bring(accepted("A", 1), accepted("A", 2, 1))
        await lab.until(lambda: len(lab.receiver.told) == 1)
        letting = asyncio.create_task(lab.delivery.let_go())
        await asyncio.sleep(0.05)
        assert not letting.done()
        gate.set()
        await asyncio.wait_for(letting, BOUND_S)
        lab.delivery.revoked((0,))
    assert lab.ends() == [("A", 1, "CONFIRMED")]
    assert lab.receiver.offsets("A") == [1]


async def test_a_poll_of_an_earlier_assignment_is_given_back() -> None:
    lab = Lab(Receiver())
    old = Poll(generation=GENERATION - 1)
    async with lab.running():
        await lab.delivery.take(old, [(key_of(accepted("A", 1)), accepted("A", 1))])  # type: ignore[arg-type]
    assert not old.acked
    assert lab.receiver.told == []


async def test_what_is_not_ours_any_more_is_not_sent() -> None:
    lab = Lab(Receiver())
    lab.ours = False
    async with lab.running():
        await lab.bring(accepted("A", 1))
        await asyncio.sleep(0.1)
        assert lab.receiver.told == []
        lab.ours = True
        await lab.until(lambda: len(lab.outcomes) == 1)


async def test_while_the_destination_is_away_no_more_is_taken_in_than_may_be_in_hand() -> None:
    lab = Lab(Receiver())
    lab.delivery.freezing.held = True
    async with lab.running():
        await lab.bring(*(accepted(f"E{n}", n) for n in range(1, MAX_HELD + 2)))
        waiting = asyncio.create_task(lab.bring(accepted("A", MAX_HELD + 9)))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert lab.receiver.told == []
        lab.delivery.freezing.held = False
        await asyncio.wait_for(waiting, BOUND_S)
        await lab.until(lambda: len(lab.receiver.told) > 10)


async def test_what_the_flags_only_compare_is_never_sent_and_has_its_outcome() -> None:
    lab = Lab(Receiver())

    class Shadow:
        since = Millis(0)

        def may_write(self, change: Accepted) -> bool:
            return change.entity_id != "A"

    lab.delivery._rollout = Shadow()
    async with lab.running():
        await lab.bring(accepted("A", 1), accepted("B", 2))
        await lab.until(lambda: len(lab.outcomes) == 2)
    assert sorted(lab.ends()) == [("A", 1, "SHADOWED"), ("B", 2, "CONFIRMED")]
    assert lab.receiver.offsets("A") == []


async def test_a_revision_that_the_history_lacks_is_told_of_and_holds_nothing_up() -> None:
    lab = Lab(Receiver())
    async with lab.running():
        await lab.bring(accepted("A", 1), accepted("A", 5, 3))
        await lab.until(lambda: len(lab.outcomes) == 2)
    assert lab.notes.gaps == [revision_of(1, 5)]


async def test_a_fault_of_ours_in_one_change_is_bounded_and_the_others_go_on() -> None:
    lab = Lab(Receiver(), max_attempts=2)

    def broken(change: Accepted) -> Reason | None:
        if change.offset == 1:
            raise ValueError("Zzyzxqv")
        return None

    lab.receiver.held = broken
    async with lab.running():
        await lab.bring(accepted("A", 1), accepted("B", 2), accepted("A", 3, 1))
        await lab.until(lambda: len(lab.ends()) == 3)
    assert ("A", 1, "PARKED") in lab.ends()
    assert ("A", 3, "CONFIRMED") in lab.ends()
    assert lab.notes.faults == ["ValueError"] * 2


def test_of_two_records_of_an_entity_recovery_keeps_the_later() -> None:
    early, late = encode_told(Told(revision_of(1, 3))), encode_told(Told(revision_of(1, 9), revision_of(1, 9), Reason.UNTELLABLE))
    assert join_values(early, late) == join_values(late, early) == late
