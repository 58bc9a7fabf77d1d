"""kill -9 at random moments, and at the worst ones: what was answered is not lost, and takes effect once."""

import asyncio
import random
import threading
import time
from pathlib import Path

import pytest

from pipeline.domain.event import Event
from pipeline.domain.identifiers import Millis
from pipeline.local.demo.drive import Driver, Sent
from pipeline.local.demo.trace import surge_trace
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from pipeline.topology import LANDING
from tests.hazards.at_ehr import revisions_of
from tests.hazards.faulty import Strike
from tests.hazards.harness import OWNER, SHORT, STATES, Site, site
from tests.hazards.stream import Stream, flowing

KILLS = 4 if SHORT else 10


@pytest.mark.timeout(300)
def test_ten_random_kills_amid_duplicates_and_disorder_lose_and_double_nothing(
    broker: Broker, owner: Ehr, replica: Ehr, tmp_path: Path
) -> None:
    seed = 7
    chance = random.Random(seed)
    with site(tmp_path / "s", broker.bootstrap, {OWNER: owner.base_url, "replica": replica.base_url}) as to:
        names = [to.start("gate"), to.start("writer", OWNER), to.start("writer", "replica")]
        events = Stream(seed, beds=20, changes=4 * KILLS).events(to)
        with flowing(to, events, rate_per_s=len(events) / (KILLS * 2.5)), to.supervised(*names):
            for _ in range(KILLS):
                time.sleep(chance.uniform(1.0, 3.0))
                victim = chance.choice(names)
                with to.hands:
                    to.kill(victim)
                    if chance.random() < 0.3:
                        to.wipe(victim)
        with to.supervised(*names):
            books = to.settle()
        assert sum(topic.positions for topic in books.topics) == len(events), f"seed {seed}"


@pytest.mark.timeout(200)
def test_an_outcome_that_died_with_its_writer_is_found_by_reading_and_written_once(
    broker: Broker, owner: Ehr, tmp_path: Path
) -> None:
    with site(tmp_path / "s", broker.bootstrap, {OWNER: owner.base_url}) as to:
        to.start("gate")
        name = to.start("writer", OWNER, with_faults=True)
        to.publish(to.bed("ICU/1/A", STATES[0]))
        to.wait_confirmed(to.wait_head("ICU/1/A"))
        for step in (1, 2):
            to.arm(name, Strike("sent", "kill"))
            event = to.bed("ICU/1/A", STATES[step])
            to.publish(event)
            to.wait_struck(name)
            assert to.exit_code(name) == -9
            head = to.wait_head("ICU/1/A", event.event_id)
            assert revisions_of(to.versions("ICU/1/A"))[-1] == head.revision, "the EHR has it"
            assert not to.is_confirmed(head), "and nobody knows"
            if step == 2:
                to.wipe(name)
            to.start("writer", OWNER, with_faults=True)
            to.wait_confirmed(head)
        to.settle()
        marks = revisions_of(to.versions("ICU/1/A"))
        assert len(to.versions("ICU/1/A")) == len(marks) == 3, "each revision was written once"


@pytest.mark.timeout(240)
def test_what_http_and_mllp_answered_yes_to_survives_their_kills(broker: Broker, owner: Ehr, tmp_path: Path) -> None:
    with site(tmp_path / "s", broker.bootstrap, {OWNER: owner.base_url}) as to:
        names = [to.start("http"), to.start("mllp")]
        sent = _played_amid_kills(to, names)
        assert sent.yes
        assert not sent.refused, sent.refused[:3]
        landed = _identities(to)
        lost = [identity for identity in sent.yes if identity not in landed]
        assert not lost, f"{len(lost)} of {len(sent.yes)} answered messages are not in the log"
        to.start_all(("gate",), ("writer", OWNER))
        to.settle()


def _played_amid_kills(to: Site, names: list[str]) -> Sent:
    duration_s = 12.0 if SHORT else 20.0
    steps = surge_trace(3, Millis(time.time_ns() // 1_000_000), duration_s=duration_s, max_rate=40, max_entities=150)
    driver = Driver(to.stack.http_url, to.stack.token, to.stack.mllp_port)
    thread = threading.Thread(target=lambda: asyncio.run(driver.play(steps)), daemon=True)
    thread.start()
    chance, round_ = random.Random(5), 0
    with to.supervised(*names):
        while thread.is_alive():
            thread.join(chance.uniform(2.0, 4.0))
            if thread.is_alive() and round_ < 6:
                to.kill(names[round_ % 2])
                round_ += 1
    assert round_ >= 2
    return driver.sent


def _identities(to: Site) -> set[str | None]:
    """Control ids and idempotency keys of all events in landing."""
    return {
        identity
        for topic in LANDING.values()
        for _, record in to.records(topic)
        if isinstance(record, Event)
        for identity in (record.control_id, record.idempotency_key)
    }
