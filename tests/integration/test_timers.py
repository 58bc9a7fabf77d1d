"""What is valid until a time ends by itself: through landing, the gate and the writer, to the EHR."""

import asyncio
import time
from typing import Final

import pytest

from pipeline.destinations.protocol import Current, PendingWrite
from pipeline.domain.event import Bed, EventType, ServiceStatus
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Accepted, Control, ControlKind, Decision, DecisionKind, Outcome, OutcomeKind
from pipeline.formats.rfc3339 import rfc3339_of
from pipeline.local.stack import Stack, wait_for
from pipeline.roles.writers.destinations import destination_of
from tests.support.stacks import ANSWER_S, post, records

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]

TO: Final = "ehr"
BLOCKED_FOR_MS: Final = 3_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def block(bed: str, until: int) -> dict[str, object]:
    return {
        "facility": "GENERAL",
        "source_system": "capacity",
        "entity_type": "bed",
        "namespace": "GENERAL",
        "entity_id": bed,
        "event_type": "BED_STATUS",
        "recorded_at": rfc3339_of(Millis(now_ms())),
        "payload": {"service": {"status": "BLOCKED", "reason": "CLEANING", "until": rfc3339_of(Millis(until))}},
    }


def accepted_of(stack: Stack, bed: str) -> list[Accepted]:
    return [each for each in records(stack, "events.accepted") if isinstance(each, Accepted) and each.entity_id == bed]


def confirmed(stack: Stack, record: Accepted) -> bool:
    return any(
        isinstance(each, Outcome) and each.kind is OutcomeKind.CONFIRMED and each.revision == record.revision
        for each in records(stack, "outcomes")
    )


async def shown(stack: Stack, record: Accepted) -> Current:
    settings = stack.settings
    destination = destination_of(TO, settings.writers[TO], settings.digest_key())
    try:
        found = await destination.read(PendingWrite(record, None, None, 1, Millis(now_ms() + 10_000)))
    finally:
        await destination.close()
    assert isinstance(found, Current), type(found)
    return found


def test_a_block_ends_at_its_time_once_with_two_timers_and_the_ehr_shows_the_bed_open(pipeline: Stack) -> None:
    second = pipeline.start("timers", instance="1")
    pipeline.wait_ready(second)
    until = now_ms() + BLOCKED_FOR_MS
    assert post(pipeline, block("T-1", until), "t-1")[0] == 202
    assert post(pipeline, block("T-2", until + 3_600_000), "t-2")[0] == 202
    wait_for(lambda: accepted_of(pipeline, "T-1")[1:], ANSWER_S, "the block has ended", poll_s=0.5)
    blocked, opened = accepted_of(pipeline, "T-1")
    wait_for(lambda: confirmed(pipeline, opened), ANSWER_S, "the open bed is confirmed", poll_s=0.5)

    assert isinstance(opened.state, Bed)
    assert opened.state.service
    assert opened.state.service.status is ServiceStatus.OPEN
    assert opened.state.service.until is None
    assert opened.event_type is EventType.EXPIRED
    assert opened.previous_revision == blocked.revision
    assert opened.accepted_at >= until, "an end is never early"
    assert asyncio.run(shown(pipeline, opened)).revision == opened.revision

    orders = [each for each in records(pipeline, "landing.bed") if isinstance(each, Control) and each.kind is ControlKind.EXPIRE]
    assert {order.event_id for order in orders} == {opened.event_id}, "both timers give the order the same id"
    wait_for(lambda: len(repeats_of(pipeline, opened)) >= len(orders) - 1, ANSWER_S, "every order has its verdict", poll_s=0.5)
    assert [each.kind for each in repeats_of(pipeline, opened)] == [DecisionKind.STALE] * (len(orders) - 1)
    assert len(accepted_of(pipeline, "T-2")) == 1
    pipeline.stop(second)


def repeats_of(stack: Stack, opened: Accepted) -> list[Decision]:
    """What became of further orders of the same id."""
    return [each for each in records(stack, "decisions") if isinstance(each, Decision) and each.event_id == opened.event_id]
