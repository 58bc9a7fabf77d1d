"""What a replay makes of the topics: each quarantined record is put back, sent again, left out or refused by name."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest

from pipeline.domain.event import Bed, EntityType, Environment, Event, EventType, sealed
from pipeline.domain.identifiers import EntityKey, EventId, Millis, Revision, derive_event_id
from pipeline.domain.reconcile.replay import LeftOut, Selection, Window
from pipeline.domain.records import Control, ControlKind, Decision, DecisionKind, OutcomeKind, Quarantined, Reason
from pipeline.formats.avro import Codec, Record
from pipeline.kafka.client import KafkaUnavailable, Message
from pipeline.kafka.crypto import RawCipher, Undecryptable
from pipeline.kafka.producer import OutRecord, PublishError, PublishFailed
from pipeline.kafka.reader import LogTruncated
from pipeline.roles.policies import load_policy
from pipeline.roles.repairs import replay
from pipeline.roles.repairs.quarantine import Opener
from pipeline.roles.repairs.replay import History, Plan, orders, plan_parked, plan_quarantined, plan_range
from tests.support.changes import change, outcome

CODEC = Codec.shipped()
CIPHER = RawCipher({"key-1": bytes(32)}, "key-1")
NOW = Millis(1_800_000_000_000)
KEY = EntityKey("t", "bed", "N", "SECRET").encode()
EVERYTHING = Selection()
GATE = 1_000_000


def subject_of(key: bytes) -> str:
    return f"{sum(key):016x}"


class Topics:
    """Topics in memory; partition 0 unless a key says otherwise."""

    def __init__(self) -> None:
        self.logs: dict[str, list[tuple[bytes | None, bytes | None]]] = {}
        self.offsets: dict[tuple[str, int], int] = {}
        self.expired: set[str] = set()

    def put(self, topic: str, key: bytes | None, record: Record | bytes) -> int:
        log = self.logs.setdefault(topic, [])
        log.append((key, record if isinstance(record, bytes) else CODEC.encode(record)))
        return len(log) - 1

    def begin(self, topic: str) -> Mapping[int, int]:
        return {0: 0}

    def end(self, topic: str) -> Mapping[int, int]:
        return {0: len(self.logs.get(topic, ()))}

    def since(self, topic: str, since_ms: int) -> Mapping[int, int]:
        return {0: 0}

    def read(self, topic: str, start: Mapping[int, int], end: Mapping[int, int]) -> Iterator[Message]:
        if topic in self.expired:
            raise LogTruncated(topic, 0, 0, 1)
        for offset in range(start[0], end[0]):
            yield Message(topic, 0, offset, NOW, *self.logs[topic][offset])

    def committed(self, group: str) -> Mapping[tuple[str, int], int]:
        return self.offsets

    def quarantined(
        self, topic: str, key: bytes | None, value: bytes | None, reason: Reason = Reason.INTERNAL, cipher: RawCipher = CIPHER
    ) -> None:
        offset = len(self.logs.get("quarantine", ()))
        context = f"{topic}/0/{offset}"
        record = Quarantined(
            topic=topic,
            partition=0,
            offset=offset,
            reason=reason,
            rule="a rule",
            remedy="a remedy",
            record_key=None if key is None else cipher.seal_named(context, key),
            record=None if value is None else cipher.seal_named(context, value),
            at=Millis(NOW - 1_000 + offset),
        )
        self.put("quarantine", context.encode(), record)

    def event(self, event: Event, reason: Reason = Reason.INTERNAL) -> None:
        self.quarantined("landing.bed", event.key.encode(), CODEC.encode(event), reason)


@pytest.fixture
def topics() -> Topics:
    """Nothing in them yet."""
    return Topics()


def bed(number: int = 1, bed_id: str = "SECRET", recorded_at: int = NOW - 5_000, **more: Any) -> Event:
    key = EntityKey("t", "bed", "N", bed_id)
    return sealed(
        Event(
            event_id=derive_event_id("t", "x", (str(number),), key, 0),
            tenant="t",
            facility="N",
            source_system=more.pop("source", "capacity"),
            feed="f",
            entity_type=EntityType.BED,
            namespace="N",
            entity_id=bed_id,
            event_type=EventType.UPDATE,
            recorded_at=Millis(recorded_at),
            received_at=NOW,
            payload=Bed(environment=Environment.CLEAN),
            **more,
        )
    )


def planned(topics: Topics, selection: Selection = EVERYTHING) -> Plan:
    opener = Opener(CODEC, CIPHER, load_policy(), GATE, NOW)
    history: History = topics
    return plan_quarantined(history, CODEC, selection, opener, subject_of)


def left_out(plan: Plan) -> dict[LeftOut, int]:
    return dict(plan.tally.left_out)


def refused(plan: Plan) -> list[tuple[str, str]]:
    return [(refusal.place, refusal.cause) for refusal in plan.tally.refused.elements()]


# -- quarantined


def test_what_the_gate_would_judge_now_is_put_back_byte_for_byte_in_the_order_of_its_log(topics: Topics) -> None:
    events = [bed(number) for number in range(3)]
    for event in events:
        topics.event(event)
    plan = planned(topics)
    made = orders(plan, CODEC, "operator:rosa", "mended", NOW)
    assert made == [OutRecord("landing.bed", KEY, CODEC.encode(event)) for event in events]
    assert plan.is_whole
    assert "SECRET" not in repr(plan) + repr(plan.back) + repr(plan.tally)


@pytest.mark.parametrize(
    ("key", "value", "cause"),
    [
        (None, b"x", "INTERNAL"),
        (KEY, None, "INTERNAL"),
        (KEY, b"x", "UNDECODABLE"),
        (KEY, b"\x00\x7f\xff\xff\xffx", "UNKNOWN_SCHEMA"),
        (KEY, bytes(GATE + 1), "OVERSIZE"),
        (b"nobody", CODEC.encode(bed()), "BAD_KEY"),
        (KEY, CODEC.encode(bed(bed_id="OTHER")), "KEY_MISMATCH"),
        (KEY, CODEC.encode(bed(recorded_at=NOW + 3_600_000)), "FUTURE_TIME"),
        (KEY, CODEC.encode(change(1)), "WRONG_TOPIC"),
        (
            b"\x00policy",
            CODEC.encode(Control(kind=ControlKind.POLICY, event_id=EventId("0" * 32), actor="a", at=NOW)),
            "INTERNAL",
        ),
    ],
)
def test_what_would_be_quarantined_again_is_refused_with_what_to_do(
    topics: Topics, key: bytes | None, value: bytes | None, cause: str
) -> None:
    topics.quarantined("landing.bed", key, value)
    plan = planned(topics)
    assert (plan.size, refused(plan), plan.is_whole) == (0, [("landing.bed", cause)], False)
    assert all(refusal.remedy for refusal in plan.tally.refused)


def test_parts_of_messages_outcomes_and_what_another_key_sealed_are_refused_by_name(topics: Topics) -> None:
    topics.quarantined("raw.fhir", None, b"{}", Reason.BAD_RESOURCE)
    topics.quarantined("outcomes", KEY, CODEC.encode(outcome(change(1), OutcomeKind.PARKED)), Reason.KEY_MISMATCH)
    topics.quarantined("landing.bed", KEY, CODEC.encode(bed()), cipher=RawCipher({"lost": bytes(32)}, "lost"))
    topics.quarantined("lane.bulk", KEY, CODEC.encode(change(1)), Reason.KEY_MISMATCH)
    assert sorted(refused(planned(topics))) == [
        ("landing.bed", "NOT_OPENED"),
        ("lane.bulk", "KEY_MISMATCH"),
        ("outcomes", "KEY_MISMATCH"),
        ("raw.fhir", "BAD_RESOURCE"),
    ]


def test_what_was_judged_since_waits_for_the_gate_or_lies_there_twice_is_left_out(topics: Topics) -> None:
    judged, stale, waiting, twice = (bed(number) for number in range(4))
    for event in (judged, stale, waiting, twice, twice):
        topics.event(event)
    topics.put("events.accepted", KEY, msgspec.structs.replace(change(9), event_id=judged.event_id))
    for event, kind in ((stale, DecisionKind.STALE), (twice, DecisionKind.QUARANTINED)):
        decision = Decision(
            topic="landing.bed", epoch=1, partition=0, offset=1, kind=kind, reason=Reason.OLDER_TIME, event_id=event.event_id,
            revision=Revision(0), decided_at=NOW, policy_version="1",
        )  # fmt: skip
        topics.put("decisions", KEY, decision)
    topics.put("landing.bed", KEY, twice.key.encode())
    topics.put("landing.bed", KEY, CODEC.encode(twice))  # judged, and quarantined once more
    topics.offsets["landing.bed", 0] = 2
    topics.put("landing.bed", KEY, CODEC.encode(waiting))
    plan = planned(topics)
    assert [each.event_id for each in plan.back] == [twice.event_id]
    assert left_out(plan) == {LeftOut.JUDGED_SINCE: 2, LeftOut.AT_GATE: 1, LeftOut.SAME_RECORD: 1}


def test_quarantined_is_narrowed_by_source_feed_digest_type_cause_and_time(topics: Topics) -> None:
    topics.event(bed(0), Reason.FUTURE_TIME)
    topics.event(bed(1, "OTHER", source="operator"))
    topics.quarantined("landing.patient", KEY, b"x")

    def ids(**narrowed: Any) -> list[str]:
        return [each.event_id or "" for each in planned(topics, Selection(**narrowed)).back]

    first, second = bed(0).event_id, bed(1, "OTHER").event_id
    assert ids() == [first, second]
    assert ids(source_system="operator") == [second]
    assert ids(feed="g") == []
    assert ids(subject=subject_of(KEY)) == [first]
    assert ids(entity_type=EntityType.PATIENT) == []
    assert ids(cause=Reason.FUTURE_TIME) == [first]
    assert ids(window=Window(Millis(NOW - 999))) == [second]
    assert ids(limit=1) == [first]
    assert left_out(planned(topics, Selection(limit=1))) == {LeftOut.BEYOND_LIMIT: 1}
    assert not planned(topics, Selection(source_system="operator")).tally.refused, "whose it is can't be read"


def test_a_lane_record_that_a_writer_could_not_take_has_its_entity_reasserted_unless_it_moved_on(topics: Topics) -> None:
    fork, moved = change(4, "SECRET"), change(5, "OTHER")
    for record in (fork, fork, moved):
        key = EntityKey("t", "bed", "N", record.entity_id).encode()
        topics.quarantined("lane.bulk", key, CODEC.encode(record), Reason.FORK)
        topics.put("events.accepted", key, record)
    topics.put("events.accepted", EntityKey("t", "bed", "N", "OTHER").encode(), change(6, "OTHER"))
    plan = planned(topics)
    (order,) = orders(plan, CODEC, "operator:rosa", "a fork", NOW)
    control = CODEC.decode(order.value)
    assert isinstance(control, Control)
    assert (order.topic, order.key, control.kind, control.seen_revision) == (
        "landing.bed",
        KEY,
        ControlKind.REASSERT,
        fork.revision,
    )
    assert left_out(plan) == {LeftOut.SAME_RECORD: 1, LeftOut.SENT_SINCE: 1}


def test_what_is_sealed_opens_under_its_own_position_only() -> None:
    sealed_bytes = CIPHER.seal_named("landing.bed/0/1", b"x")
    assert CIPHER.open_named("landing.bed/0/1", sealed_bytes) == b"x"
    for context, data in (
        ("landing.bed/0/2", sealed_bytes),
        ("landing.bed/0/1", sealed_bytes[:-1]),
        ("", b""),
        ("", b"\xff\xff"),
    ):
        with pytest.raises(Undecryptable):
            CIPHER.open_named(context, data)


def test_a_plan_holds_no_more_bytes_than_its_bound(topics: Topics, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        topics.event(bed(number))
    monkeypatch.setattr(replay, "MAX_HELD_BYTES", 1)
    plan = planned(topics)
    assert (plan.size, left_out(plan), plan.is_whole) == (1, {LeftOut.BEYOND_LIMIT: 2}, False)


# -- parked, range


def test_parked_entities_are_ordered_once_each_at_the_head_and_unreadable_history_is_told(topics: Topics) -> None:
    parked, fine = change(1, "SECRET"), change(2, "OTHER")
    for record, kind in ((parked, OutcomeKind.PARKED), (fine, OutcomeKind.CONFIRMED)):
        topics.put("events.accepted", KEY, record)
        topics.put("outcomes", KEY, outcome(record, kind, reason=Reason.REFUSED_INVALID))
    topics.put("outcomes", KEY, b"unreadable")
    plan = plan_parked(topics, CODEC, EVERYTHING, ("ehr",), subject_of)
    (order,) = orders(plan, CODEC, "operator:rosa", "mended", NOW)
    assert (order.topic, order.key) == ("landing.bed", KEY)
    assert b"DIRTY" not in (order.value or b"")
    assert (plan.unreadable, plan.is_whole) == (1, False)


def test_a_range_reads_outcomes_only_where_they_say_what_is_meant(topics: Topics) -> None:
    record = msgspec.structs.replace(change(1, "SECRET"), accepted_at=NOW)
    topics.put("events.accepted", KEY, record)
    topics.put("outcomes", KEY, outcome(record, OutcomeKind.FAILED, reason=Reason.TIMEOUT, at=NOW))
    window = Window(Millis(NOW - 1))
    for selection, size in (
        (Selection(window), 1),
        (Selection(window, cause=Reason.TIMEOUT), 1),
        (Selection(window, feed="y"), 0),
    ):
        assert plan_range(topics, CODEC, selection, [EntityType.BED], subject_of).size == size
    assert plan_range(topics, CODEC, Selection(window), [EntityType.PATIENT], subject_of).size == 0


def test_a_history_that_expires_while_it_is_read_asks_for_another_try(topics: Topics) -> None:
    topics.expired.add("outcomes")
    with pytest.raises(KafkaUnavailable, match="run it again"):
        plan_parked(topics, CODEC, EVERYTHING, (), subject_of)


# -- carrying it out


class Publishing:
    """A publisher that fails behind so many records."""

    taken: list[OutRecord]

    def __init__(self, fails_after: int) -> None:
        self.taken, self.fails_after, self.is_closed = [], fails_after, False

    async def publish(self, records: list[OutRecord]) -> list[OutRecord]:
        if len(self.taken) + len(records) > self.fails_after:
            raise PublishFailed(PublishError.TIMED_OUT)
        self.taken += records
        return records

    async def close(self, timeout_s: float) -> None:
        self.is_closed = True


def test_a_replay_that_kafka_breaks_off_says_how_far_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = Publishing(4)
    monkeypatch.setattr(replay, "Publisher", lambda _: publisher)
    settings: Any = type("S", (), {"kafka": None})
    records, shown = [OutRecord("landing.bed", KEY, bytes([n])) for n in range(6)], list[int]()
    with pytest.raises(KafkaUnavailable, match="4 of 6 are ordered"):
        asyncio.run(replay._publish(settings, records, 2_000.0 / 100, shown.append))
    assert (publisher.taken, shown, publisher.is_closed) == (records[:4], [2, 4], True)
