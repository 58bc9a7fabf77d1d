"""Moving a source from one feed to another while both run: compared, switched, and switched back, by command."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from pipeline.domain.event import Bed, EntityType, Environment, Event, EventType, sealed
from pipeline.domain.identifiers import EventId, Millis, partition_of
from pipeline.domain.records import Accepted, Decision, Reason
from pipeline.kafka.producer import OutRecord
from pipeline.local.stack import Stack, wait_for
from pipeline.roles.operator_log import publish_at_once
from pipeline.topology import ENTITY_PARTITIONS
from tests.support.stacks import ANSWER_S, CODEC, records, stack_at, stopped_at_end, surgeline

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]

V2, FHIR = "adt", "fhir"
SOURCE: Final = "capacity"
STATES: Final = (Environment.DIRTY, Environment.CLEANING, Environment.CLEAN)


@pytest.fixture
def gate(broker: object, tmp_path: Path) -> Iterator[Stack]:
    """Topics and a gate; nobody writes to any EHR."""
    with stopped_at_end(stack_at(tmp_path, broker.bootstrap)) as stack:  # type: ignore[attr-defined]
        stack.wait_ready(stack.start("gate"), timeout_s=2 * ANSWER_S)
        yield stack


def tell(stack: Stack, feed: str, number: int, state: Environment, delay_ms: int = 0) -> EventId:
    """Land what a feed says of a bed; its id."""
    at = Millis(time.time_ns() // 1_000_000)
    event = sealed(
        Event(
            event_id=EventId(f"{feed == V2:d}{number:031x}"),
            tenant="default",
            facility="GENERAL",
            source_system=SOURCE,
            feed=feed,
            entity_type=EntityType.BED,
            namespace="GENERAL",
            entity_id="F-1",
            event_type=EventType.BED_STATUS,
            recorded_at=at,
            received_at=Millis(at + delay_ms),
            payload=Bed(environment=state),
        )
    )
    key = event.key.encode()
    record = OutRecord("landing.bed", key, CODEC.encode(event), partition_of(key, ENTITY_PARTITIONS))
    publish_at_once(stack.settings, [record])
    return event.event_id


def applied(stack: Stack) -> list[str]:
    return [each.feed for each in records(stack, "events.accepted") if isinstance(each, Accepted)]


def judged(stack: Stack, event: EventId) -> Reason | None:
    """Why an event was not applied; None while it is not judged."""
    found = [each.reason for each in records(stack, "decisions") if isinstance(each, Decision) and each.event_id == event]
    return found[-1] if found else None


def go_live(stack: Stack, feed: str) -> str:
    done = surgeline(stack, "feeds", "live", SOURCE, feed, "--reason", "the migration", "--yes")
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_ignored(stack: Stack, event: EventId) -> None:
    wait_for(lambda: judged(stack, event) is not None, ANSWER_S, "the event is judged", poll_s=0.2)
    assert judged(stack, event) is Reason.FEED_NOT_LIVE


def test_two_feeds_are_compared_one_is_live_and_the_way_back_is_one_command(gate: Stack) -> None:
    asked = surgeline(gate, "feeds", "live", SOURCE, FHIR, "--reason", "the migration")
    assert (asked.returncode, "Would make fhir" in asked.stdout) == (0, True)

    assert "all feeds were applied" in go_live(gate, V2)
    for number, state in enumerate(STATES):
        tell(gate, V2, number, state)
        last = tell(gate, FHIR, number, state, delay_ms=400)
    wait_ignored(gate, last)
    wait_for(lambda: len(applied(gate)) == len(STATES), ANSWER_S, "all are applied", poll_s=0.2)
    assert set(applied(gate)) == {V2}

    compared = surgeline(gate, "feeds", "compare", SOURCE, V2, FHIR, "--json")
    assert compared.returncode == 0, compared.stderr
    (figures,) = json.loads(compared.stdout)["fields"]
    assert (figures["field"], figures["agreed"], figures["different_now"]) == ("environment", 3, 0)
    assert figures["delay_p50_ms"] >= 400
    table = surgeline(gate, "feeds", "compare", SOURCE, V2, FHIR)
    assert "100.0%" in table.stdout

    assert f"surgeline feeds live {SOURCE} {V2}" in go_live(gate, FHIR)
    tell(gate, FHIR, 11, Environment.DIRTY)
    wait_for(lambda: applied(gate)[-1:] == [FHIR], ANSWER_S, "the new feed is applied", poll_s=0.2)
    wait_ignored(gate, tell(gate, V2, 12, Environment.CLEANING))

    assert f"surgeline feeds live {SOURCE} {FHIR}" in go_live(gate, V2)
    wait_for(lambda: applied(gate)[-1:] == [V2], ANSWER_S, "what it alone told meanwhile is applied", poll_s=0.2)
    tell(gate, V2, 13, Environment.CLEAN)
    wait_for(lambda: applied(gate)[-2:] == [V2, V2], ANSWER_S, "the former feed is applied again", poll_s=0.2)

    shown = surgeline(gate, "audit", "show", "--action", "feed.live", "--json")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("feed.live") == 3
    assert surgeline(gate, "audit", "verify").returncode == 0
