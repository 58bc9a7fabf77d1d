"""Senders go on while the pipeline is stopped in good order or its broker dies: what was answered "yes" is judged."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from pipeline.domain.event import Event
from pipeline.domain.records import Raw
from pipeline.local.demo.drive import Driver, Sent
from pipeline.local.demo.telling import TENANT
from pipeline.local.demo.trace import Step, surge_trace
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from pipeline.local.stack import CLIENT, SOURCES
from pipeline.roles.process import EXIT_TRY_AGAIN
from pipeline.topology import LANDING, RAW
from tests.hazards.harness import ANSWER_S, OWNER, SHORT, Site, now_ms, site, until

OURS = "hazards-ways-in"
"""Tenant of this site: the EHR is shared."""

ROLES = {"http-0": ("http",), "mllp-0": ("mllp",), "gate-0": ("gate",), f"writer-{OWNER}-0": ("writer", OWNER)}
GRACE_S = 30.0
"""20 s that a role has to leave, and what a busy machine adds."""

START_BOUND_S = 90.0
"""In which a worker must have given up on a broker that is away: two questions of 15 s to it, and a busy machine."""

GIVE_UP_S = 2 * START_BOUND_S + ANSWER_S
"""No sender gives up while the broker is away, however long the late workers take to notice."""

AWAY_S = 8.0 if SHORT else 35.0
SURGE_S = 3.0
MOST_SURGES = 100
RATE = 20


@pytest.fixture(scope="module")
def to(broker: Broker, owner: Ehr, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One pipeline with its ways in, all roles started."""
    folder = tmp_path_factory.mktemp("ways-in") / "s"
    client = {"name": CLIENT, "tenant": OURS, "token_file": str(folder / "client.token"), "source_systems": list(SOURCES)}
    tenants = {"http": {"clients": [client]}, "mllp": {"tenant": OURS}}
    with site(folder, broker.bootstrap, {OWNER: owner.base_url}, **tenants) as made:
        for role in ROLES.values():
            made.start(*role, wait=False)
        made.stack.wait_ready(timeout_s=ANSWER_S)
        yield made


@contextmanager
def sending(to: Site, seed: int) -> Iterator[Sent]:
    """Surges over HTTP and MLLP in the background, one after another until the block's end; then all is answered."""
    driver = Driver(to.stack.http_url, to.stack.token, to.stack.mllp_port, give_up_s=GIVE_UP_S)
    enough = threading.Event()
    failure: list[BaseException] = []

    def play() -> None:
        try:
            for round_ in range(MOST_SURGES):
                if not enough.is_set():
                    asyncio.run(driver.play(surge(seed + round_)))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=play, daemon=True)
    thread.start()
    try:
        yield driver.sent
    finally:
        enough.set()
        thread.join(ANSWER_S)
    assert not thread.is_alive(), "the senders still wait for answers"
    assert not failure, [type(error).__name__ for error in failure]


def surge(seed: int) -> list[Step]:
    """Steps of a short surge from now on, of this tenant."""
    steps = surge_trace(seed, now_ms(), duration_s=SURGE_S, max_rate=RATE, max_entities=130)
    return [replace(step, body=step.body.replace(f'"tenant":"{TENANT}"', f'"tenant":"{OURS}"')) for step in steps]


def await_answers(sent: Sent, more: int) -> None:
    """Until so many more messages were answered yes."""
    before = len(sent.yes)
    until(lambda: len(sent.yes) >= before + more, f"{more} more answers")


def check_yes(to: Site, sent: Sent) -> None:
    """Each message that was answered yes has landed; what landed has a verdict, as the books then prove."""
    assert sent.yes
    assert not sent.refused, f"{len(sent.refused)} messages were refused or never answered"
    events = [record for topic in LANDING.values() for _, record in to.records(topic) if isinstance(record, Event)]
    landed = {identity for event in events for identity in (event.control_id, event.idempotency_key)}
    raw = [record.identity for _, record in to.records(RAW["mllp"]) if isinstance(record, Raw)]
    landed |= {identity.rpartition("|")[2] for identity in raw}  # a message that makes no event
    lost = set(sent.yes) - landed
    assert not lost, f"{len(lost)} of {len(sent.yes)} answered messages are not in the log"
    to.acknowledged |= {event.event_id: event.key.encode() for event in events}
    to.settle()


@pytest.mark.timeout(420)
def test_each_role_leaves_within_its_grace_at_sigterm_amid_a_stream_and_nothing_is_lost_or_doubled(to: Site) -> None:
    left: dict[str, tuple[int | None, float]] = {}
    with sending(to, seed=21) as sent:
        for name, role in ROLES.items():
            await_answers(sent, more=4)
            began = time.monotonic()
            to.terminate(name)
            left[name] = to.exit_code(name), time.monotonic() - began
            to.start(*role, wait=name.startswith(("http", "mllp")))
    assert all(took_s < GRACE_S for _, took_s in left.values()), left
    assert all(code in (0, EXIT_TRY_AGAIN) for code, _ in left.values()), left
    check_yes(to, sent)


@pytest.mark.timeout(420)
def test_a_broker_killed_under_load_costs_no_answered_event_and_who_starts_meanwhile_gives_up_in_time(
    to: Site, broker: Broker
) -> None:
    try:
        with to.supervised(*ROLES):
            with sending(to, seed=22) as sent:
                await_answers(sent, more=10)
                broker.kill()
                killed = time.monotonic()
                late = [to.start(*role, instance="late", wait=False) for role in (("gate",), ("writer", OWNER))]
                assert [to.exit_code(name, START_BOUND_S) for name in late] == [EXIT_TRY_AGAIN, EXIT_TRY_AGAIN]
                time.sleep(max(0.0, AWAY_S - (time.monotonic() - killed)))
                broker.start()
            check_yes(to, sent)
    finally:
        broker.start()
