"""The history as the agent reads it: what is no accepted change in its own place is kept in quarantine and holds nothing up."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Final, cast

import msgspec

from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Quarantined, Reason
from pipeline.formats.avro import Codec
from pipeline.kafka.producer import OutRecord, Publisher
from pipeline.stream.every.agent import Intake
from pipeline.topology import ACCEPTED, QUARANTINE
from tests.unit.stream.test_every import accepted, key_of

CODEC: Final = Codec.shipped()


class Kept:
    def __init__(self) -> None:
        self.records: list[OutRecord] = []

    async def publish(self, records: Sequence[OutRecord]) -> Sequence[Any]:
        self.records += records
        return ()


def record(offset: int, key: bytes | None, value: bytes | None, partition: int = 0) -> Any:
    return SimpleNamespace(
        topic=f"p.{ACCEPTED}", partition=partition, offset=offset, key=key, value=value, timestamp=Millis(1_790_000_000_000)
    )


def intake(kept: Kept) -> Intake:
    return Intake(CODEC, "adt", [EntityType.BED], cast(Publisher, kept), lambda data, _: b"sealed", "p.")


async def test_changes_that_the_destination_may_be_told_of_come_in_order_and_others_are_passed_over() -> None:
    kept = Kept()
    one, two = accepted("A", 1), accepted("B", 2)
    other = msgspec.structs.replace(accepted("A", 3), entity_type=EntityType.STAFFING)
    found = await intake(kept).changes([record(n, key_of(each), CODEC.encode(each)) for n, each in enumerate((one, other, two))])
    assert [(key, change.offset) for key, change in found] == [(key_of(one), 1), (key_of(two), 2)]
    assert kept.records == []


async def test_a_foreign_record_is_kept_encrypted_with_its_place_and_reason_and_the_next_one_goes_on() -> None:
    kept = Kept()
    good = accepted("A", 1)
    foreign = [
        record(0, b"x", b"\x00\x00\x00\x00\x63junk"),
        record(1, b"another|key|of|one", CODEC.encode(good)),
        record(2, key_of(good), CODEC.encode(good), partition=5),
        record(3, key_of(good), None),
    ]
    found = await intake(kept).changes([*foreign, record(4, key_of(good), CODEC.encode(good))])
    assert [change.offset for _, change in found] == [1]
    assert {each.topic for each in kept.records} == {QUARANTINE}
    told = [CODEC.decode(each.value) for each in kept.records if each.value is not None]
    assert [each.offset for each in told if isinstance(each, Quarantined)] == [0, 1, 2, 3]
    reasons = [each.reason for each in told if isinstance(each, Quarantined)]
    assert reasons[1:3] == [Reason.KEY_MISMATCH] * 2
    assert all(each.record in (b"sealed", None) for each in told if isinstance(each, Quarantined))
