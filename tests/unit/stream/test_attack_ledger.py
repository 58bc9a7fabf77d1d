"""Attacks on the ledger: a crash between its two records, and many outcomes at once."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import pytest

from pipeline.domain.event import Bed, EntityType
from pipeline.domain.identifiers import NO_REVISION, Millis
from pipeline.domain.records import Lane, Outcome, OutcomeKind, Reason
from pipeline.formats.avro import Codec
from pipeline.kafka.producer import OutRecord
from pipeline.ops.audit import AuditChain
from pipeline.stream.writing.ledger import OutcomeLedger
from pipeline.topology import AUDIT, OUTCOMES
from tests.support.fhir_lab import accepted

KEY = b"t1|bed|MAIN|B1"
CODEC = Codec.shipped()


class Killed(Exception):
    """kill -9."""


class Topics:
    """Appends in the order of the calls, acknowledges in any order; may die before a call."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.records: list[OutRecord] = []
        self.calls = 0
        self.dies_at = dies_at
        self.draw = random.Random(7)

    async def publish(self, records: Sequence[OutRecord]) -> None:
        self.calls += 1
        if self.calls == self.dies_at:
            raise Killed
        self.records += records
        for _ in range(self.draw.randrange(4)):
            await asyncio.sleep(0)


def outcome(offset: int) -> Outcome:
    record = accepted(Bed(), "B1", offset)
    return Outcome(
        destination="ehr",
        tenant=record.tenant,
        entity_type=EntityType.BED,
        namespace=record.namespace,
        entity_id=record.entity_id,
        kind=OutcomeKind.CONFIRMED,
        reason=Reason.NONE,
        revision=record.revision,
        after=NO_REVISION,
        partition=0,
        event_id=record.event_id,
        content_hash=record.content_hash,
        state_hash=record.state_hash,
        lane=Lane.ROUTINE,
        attempts=1,
        open_since=Millis(0),
        received_at=Millis(0),
        recorded_at=Millis(0),
        at=Millis(1),
        writer="ehr/0",
    )


def ledger_of(topics: Topics) -> OutcomeLedger:
    chain = AuditChain("writer-ehr/0", CODEC, None, 0)
    return OutcomeLedger(cast(Any, topics), CODEC, chain, lambda _: "digest")


@pytest.mark.parametrize("dies_at", [1, 2, 3, 4])
async def test_no_outcome_is_durable_without_its_audit_entry(dies_at: int) -> None:
    topics = Topics(dies_at)
    ledger = ledger_of(topics)
    with suppress(Killed):
        for offset in (1, 2):
            await ledger.record(outcome(offset), KEY)
    assert topics.calls == dies_at
    entries = [record for record in topics.records if record.topic == AUDIT]
    outcomes = [record for record in topics.records if record.topic == OUTCOMES]
    assert len(entries) >= len(outcomes)


async def test_entries_of_many_outcomes_at_once_lie_in_the_order_of_the_chain() -> None:
    topics = Topics()
    ledger = ledger_of(topics)
    await asyncio.gather(*(ledger.record(outcome(offset), KEY) for offset in range(50)))
    entries: list[Any] = [CODEC.decode(record.value) for record in topics.records if record.topic == AUDIT]
    assert [entry.sequence for entry in entries] == sorted(entry.sequence for entry in entries)
    assert len(entries) == 50
