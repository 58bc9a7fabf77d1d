"""The sink's promises: order, one set of events, nothing promised after a failure, nothing published that is too large."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import msgspec
import pytest

from pipeline.domain.event import Bed, EntityType, Event, EventType, Provenance, sealed
from pipeline.domain.identifiers import EventId, Millis
from pipeline.domain.records import Quarantined, Raw, Reason, Receipt
from pipeline.formats.avro import Codec
from pipeline.kafka.crypto import RawCipher, Undecryptable
from pipeline.kafka.producer import OutRecord, Position, PublishError, PublishFailed
from pipeline.kafka.receipts import ENTRY_BYTES, Receipts
from pipeline.kafka.sink import KafkaSink
from pipeline.sources.errors import Oversize
from pipeline.sources.protocol import Broken, OtherContent, RawMessage, Repeated, Stored, Unavailable

KEY = bytes(range(32))
CODEC = Codec.shipped()
IDENTITY = "ab" * 32
NOW = Millis(1_790_000_000_000)


@dataclass
class MemoryPublisher:
    """Acknowledges in order; `before` runs ahead of each call, with its number."""

    records: list[OutRecord] = field(default_factory=list)
    before: Callable[[int], Awaitable[None]] | None = None
    full: float = 0.0
    calls: int = 0

    async def publish(self, records: Sequence[OutRecord]) -> Sequence[Position]:
        self.calls += 1
        if self.before is not None:
            await self.before(self.calls)
        await asyncio.sleep(0)
        first = len(self.records)
        self.records.extend(records)
        return [Position(record.topic, 3, first + place, NOW) for place, record in enumerate(records)]

    def pressure(self) -> float:
        return self.full

    def topics(self) -> list[str]:
        return [record.topic for record in self.records]


def raw(body: bytes = b'{"a": 1}', identity: str = IDENTITY) -> RawMessage:
    return RawMessage("http", identity, body, "application/json", NOW)


def event(entity_id: str = "ICU-12", entity_type: EntityType = EntityType.BED) -> Event:
    return sealed(
        Event(
            event_id=EventId("0" * 32),
            tenant="north",
            facility="GH",
            source_system="BEDBOARD",
            feed="board",
            entity_type=entity_type,
            namespace="GH",
            entity_id=entity_id,
            event_type=EventType.UPDATE,
            recorded_at=NOW,
            received_at=NOW,
            payload=Bed(staffed=True),
        )
    )


def sink(publisher: MemoryPublisher, receipts: Receipts | None = None, ready: bool = True, **bounds: float) -> KafkaSink:
    return KafkaSink(
        publisher,
        CODEC,
        RawCipher({"key-1": KEY}, "key-1"),
        receipts or Receipts(lambda: NOW),
        ready=lambda: ready,
        clock=lambda: NOW,
        **bounds,  # type: ignore[arg-type]
    )


async def test_a_broken_part_is_in_quarantine_encrypted_with_rule_and_remedy_before_the_receipt() -> None:
    publisher = MemoryPublisher()
    broken = Broken(
        Reason.UNDECODABLE, "Encounter.status", "the code is of its value set", "correct it at the source", b"secret part"
    )
    assert await sink(publisher).accept(raw(), [event()], b"answer", [broken]) == Stored(b"answer")
    assert publisher.topics() == ["raw.http", "landing.bed", "quarantine", "intake.receipts"]
    kept = publisher.records[2]
    quarantined = cast(Quarantined, CODEC.decode(kept.value))
    assert (quarantined.topic, quarantined.partition, quarantined.offset) == ("raw.http", 3, 0)
    assert (quarantined.reason, quarantined.field, quarantined.remedy) == (broken.reason, broken.field, broken.remedy)
    assert b"secret part" not in cast(bytes, kept.value)
    sealed_part = cast(bytes, quarantined.record)
    length = sealed_part[0]
    key_id, ciphertext = sealed_part[1 : 1 + length].decode(), sealed_part[1 + length :]
    assert kept.key == b"raw.http|3|0|0"
    assert RawCipher({"key-1": KEY}, "key-1").open(key_id, "raw.http/3/0/0", ciphertext) == b"secret part"


async def test_raw_comes_first_then_every_event_then_the_receipt() -> None:
    publisher = MemoryPublisher()
    assert await sink(publisher).accept(raw(), [event(), event("ICU-13")], b"answer") == Stored(b"answer")
    assert publisher.topics() == ["raw.http", "landing.bed", "landing.bed", "intake.receipts"]
    assert publisher.calls == 3


async def test_raw_bytes_are_encrypted_and_come_back_byte_for_byte() -> None:
    publisher = MemoryPublisher()
    body = b"\x00Canary Zzyzx\xff" * 50
    await sink(publisher).accept(raw(body), [], b"answer")
    kept = CODEC.decode(publisher.records[0].value)
    assert isinstance(kept, Raw)
    assert kept.identity == IDENTITY
    assert publisher.records[0].key == IDENTITY.encode()
    assert b"Zzyzx" not in (publisher.records[0].value or b"")
    cipher = RawCipher({"key-1": KEY}, "key-1")
    assert cipher.open(kept.key_id, kept.identity, kept.ciphertext) == body
    for wrong in (
        (kept.key_id, "cd" * 32, kept.ciphertext),
        ("key-2", IDENTITY, kept.ciphertext),
        (kept.key_id, IDENTITY, b"short"),
    ):
        with pytest.raises(Undecryptable):
            cipher.open(*wrong)


async def test_an_event_carries_where_its_raw_bytes_lie_and_keeps_its_content_hash() -> None:
    publisher = MemoryPublisher()
    made = event()
    await sink(publisher).accept(raw(), [made], b"answer")
    landed = CODEC.decode(publisher.records[1].value)
    assert isinstance(landed, Event)
    assert publisher.records[1].key == made.key.encode()
    assert landed == msgspec.structs.replace(made, provenance=Provenance("raw.http", 3, 0))


async def test_a_repeat_gets_the_first_answer_and_publishes_nothing() -> None:
    publisher = MemoryPublisher()
    taking = sink(publisher)
    await taking.accept(raw(), [event()], b"first")
    count = len(publisher.records)
    assert await taking.accept(raw(), [event()], b"second") == Repeated(b"first")
    assert await taking.accept(raw(b"{}"), [event()], b"second") == OtherContent()
    assert len(publisher.records) == count


async def test_a_repeat_is_known_after_a_restart() -> None:
    publisher = MemoryPublisher()
    await sink(publisher).accept(raw(), [event()], b"first")
    receipts = Receipts(lambda: NOW)
    receipts.put(cast(Receipt, CODEC.decode(publisher.records[-1].value)))
    assert await sink(MemoryPublisher(), receipts).accept(raw(), [event()], b"second") == Repeated(b"first")


async def test_equal_messages_at_once_make_one_set_of_events() -> None:
    publisher = MemoryPublisher()
    taking = sink(publisher)
    results = await asyncio.gather(*(taking.accept(raw(), [event()], b"answer") for _ in range(8)))
    assert results.count(Stored(b"answer")) == 1
    assert results.count(Repeated(b"answer")) == 7
    assert publisher.topics().count("landing.bed") == 1
    assert not taking._running
    assert taking.pressure() == 0.0


async def test_unequal_messages_at_once_do_not_wait_for_each_other() -> None:
    held = asyncio.Event()

    async def hold_first(call: int) -> None:
        if call == 1:
            await held.wait()

    publisher = MemoryPublisher(before=hold_first)
    taking = sink(publisher)
    first = asyncio.create_task(taking.accept(raw(), [], b"1"))
    while not publisher.calls:
        await asyncio.sleep(0)
    assert await taking.accept(raw(identity="cd" * 32), [], b"2") == Stored(b"2")
    held.set()
    assert await first == Stored(b"1")


@pytest.mark.parametrize("call", [1, 2, 3])
async def test_nothing_is_promised_when_a_publish_fails_and_the_repeat_succeeds(call: int) -> None:
    async def fail(number: int) -> None:
        if number == call:
            raise PublishFailed(PublishError.TIMED_OUT)

    publisher = MemoryPublisher(before=fail)
    taking = sink(publisher)
    assert isinstance(await taking.accept(raw(), [event()], b"answer"), Unavailable)
    assert "intake.receipts" not in publisher.topics()
    assert await taking.accept(raw(), [event()], b"answer") == Stored(b"answer")
    landed = {record.value for record in publisher.records if record.topic == "landing.bed"}
    assert len({cast(Event, CODEC.decode(value)).event_id for value in landed}) == 1


@pytest.mark.parametrize("call", [1, 2, 3])
async def test_a_cancellation_leaves_no_lock_and_no_promise(call: int) -> None:
    reached, held = asyncio.Event(), asyncio.Event()

    async def hold(number: int) -> None:
        if number == call:
            reached.set()
            await held.wait()

    publisher = MemoryPublisher(before=hold)
    taking = sink(publisher)
    task = asyncio.create_task(taking.accept(raw(), [event()], b"answer"))
    await reached.wait()
    second = asyncio.create_task(taking.accept(raw(), [event()], b"answer"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await second == Stored(b"answer")
    assert not taking._running


async def test_a_publish_without_an_end_is_given_up_within_the_bound() -> None:
    async def never(_: int) -> None:
        await asyncio.Event().wait()

    taking = sink(MemoryPublisher(before=never), accept_timeout_s=0.02, same_identity_wait_s=0.01)
    both = await asyncio.gather(taking.accept(raw(), [], b"1"), taking.accept(raw(), [], b"1"))
    assert all(isinstance(each, Unavailable) and each.retry_after_s > 0 for each in both)


async def test_full_pressure_and_unread_receipts_refuse_at_once() -> None:
    publisher = MemoryPublisher(full=1.0)
    assert isinstance(await sink(publisher).accept(raw(), [event()], b"a"), Unavailable)
    assert sink(publisher).pressure() == 1.0
    publisher.full = 0.0
    assert isinstance(await sink(publisher, ready=False).accept(raw(), [event()], b"a"), Unavailable)
    assert publisher.calls == 0


async def test_messages_under_way_are_bounded() -> None:
    held = asyncio.Event()

    async def hold(_: int) -> None:
        await held.wait()

    taking = sink(MemoryPublisher(before=hold), max_in_flight=1)
    first = asyncio.create_task(taking.accept(raw(), [], b"1"))
    await asyncio.sleep(0)
    assert isinstance(await taking.accept(raw(identity="cd" * 32), [], b"2"), Unavailable)
    held.set()
    assert await first == Stored(b"1")


async def test_a_repeat_is_answered_under_full_pressure() -> None:
    publisher = MemoryPublisher()
    taking = sink(publisher)
    await taking.accept(raw(), [event()], b"first")
    publisher.full = 1.0
    assert await taking.accept(raw(), [event()], b"x") == Repeated(b"first")


@pytest.mark.parametrize(
    ("body", "events", "answer", "item"),
    [(b"x" * 5000, [], b"a", None), (b"x", [], b"a" * 5000, None), (b"x" * 900, [event(), event("e" * 900)], b"a", 1)],
)
async def test_what_is_too_large_is_found_before_anything_is_published(
    body: bytes, events: list[Event], answer: bytes, item: int | None
) -> None:
    publisher = MemoryPublisher()
    taking = sink(publisher, max_record_bytes=4000, max_event_bytes=800)
    with pytest.raises(Oversize) as caught:
        await taking.accept(raw(body), events, answer)
    assert caught.value.item == item
    assert publisher.calls == 0
    assert not taking._running


def receipt(number: int, at: Millis = NOW, answer: bytes = b"answer") -> Receipt:
    return Receipt(identity=f"{number}", body_digest="d", answer=answer, at=at)


def test_receipts_are_bounded_by_number_bytes_and_age() -> None:
    clock = itertools.count(NOW, 0)
    few = Receipts(lambda: NOW, max_entries=2)
    for number in range(3):
        few.put(receipt(number))
    assert [few.get(str(number)) is not None for number in range(3)] == [False, True, True]
    small = Receipts(lambda: NOW, max_bytes=2 * (ENTRY_BYTES + 6))
    for number in range(3):
        small.put(receipt(number))
    assert len(small) == 2
    now = [Millis(next(clock))]
    aged = Receipts(lambda: now[0], max_age_ms=1000)
    aged.put(receipt(1))
    now[0] = Millis(NOW + 1001)
    assert aged.get("1") is None
    aged.put(receipt(1, at=NOW))
    assert aged.get("1") is None
    aged.put(receipt(1, at=Millis(NOW + 1001), answer=b"new"))
    assert (kept := aged.get("1")) is not None
    assert kept.answer == b"new"


def test_the_first_receipt_stands_until_it_is_deleted() -> None:
    receipts = Receipts(lambda: NOW)
    receipts.put(receipt(1, answer=b"first"))
    receipts.put(receipt(1, answer=b"second"))
    assert (kept := receipts.get("1")) is not None
    assert kept.answer == b"first"
    receipts.forget("1")
    assert receipts.get("1") is None
    assert len(receipts) == 0


def test_a_cipher_needs_whole_keys_and_shows_none() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        RawCipher({"key-1": KEY[:16]}, "key-1")
    with pytest.raises(ValueError, match="no key"):
        RawCipher({"key-1": KEY}, "key-2")
    cipher = RawCipher({"key-1": KEY, "key-0": KEY[::-1]}, "key-1")
    assert KEY.hex() not in repr(cipher)
    assert cipher.seal(IDENTITY, b"x") != cipher.seal(IDENTITY, b"x")
    old = RawCipher({"key-0": KEY[::-1]}, "key-0").seal(IDENTITY, b"x")
    assert cipher.open("key-0", IDENTITY, old) == b"x"
