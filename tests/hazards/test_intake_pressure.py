"""Ways in under a flood while a real broker stands still: bounded memory, senders that are told, and no yes that is not kept."""

import asyncio
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from pipeline.cli.roles import run as run_commands
from pipeline.domain.event import Event
from pipeline.kafka.reader import end_offsets
from pipeline.local.ports import HOST, free_port, free_ports
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from pipeline.local.stack import Stack, Target
from pipeline.roles.process import SERVING, specs_of
from tests.support.downtime import sections
from tests.support.files_in import KEY, one_partner
from tests.support.pressure import FhirSender, HttpSender, MllpSender, Sender, memory_mib, rude_connections
from tests.support.slow_link import BrokerBehindLine, SlowLink
from tests.support.stacks import ANSWER_S, TERM_S, health, records, stack_at, stopped_at_end, surgeline

pytestmark = pytest.mark.timeout(280)

SECRET: Final = "a-hook-secret-for-the-flood-of-24-bytes"
OTHER_TOKEN: Final = "a-token-of-the-ward"
PAUSED_S: Final = 20.0
AWAY_S: Final = 60.0
MEMORY_MIB: Final[Mapping[str, int]] = {"http-0": 448, "mllp-0": 384, "fhir-0": 384}
"""Ceilings of docs/operating/intake-pressure.md, with few earlier answers and little history to keep."""
FAIR_S: Final = 8.0
"""Longest answer to a sender that behaves, beside a flood and on a busy machine."""


def overrides(folder: Path, ehr: str) -> dict[str, Any]:
    """A second HTTP client, and a feed that is notified and has no server to ask."""
    files = {"hook.token": SECRET, "ward.token": OTHER_TOKEN, "client.token": "surgeline-demo-token"}
    for name, secret in files.items():
        path = folder / name
        path.touch(mode=0o600)
        path.write_text(secret)
    port = free_port()
    flood = {
        "base_url": ehr,
        "server": "ehr-main",
        "tenant": "demo",
        "facility": "GENERAL",
        "profile": "sekmet-replica",
        "channel": "classic",
        "criteria": "Patient?active=true",
        "searches": ["Patient"],
        "content": "full-resource",
        "endpoint": f"http://{HOST}:{port}/fhir/flood",
        "hook_token_file": str(folder / "hook.token"),
        "heartbeat_s": None,
    }
    clients = [
        {"name": name, "tenant": "demo", "token_file": str(folder / f"{name}.token"), "source_systems": ["capacity"]}
        for name in ("client", "ward")
    ]
    return {"http": {"clients": clients}, "fhir": {"port": port, "feeds": {"flood": flood}}}


@pytest.fixture
def flooded(broker: Broker, tmp_path: Path) -> Iterator[Stack]:
    """The ways in alone: what they answered yes to is on landing, whoever judges it."""
    target = Target("ehr", "replica", "sekmet-replica", f"http://{HOST}:1/fhir")
    made = overrides(tmp_path, f"http://{HOST}:1/fhir")
    with stopped_at_end(stack_at(tmp_path, broker.bootstrap, target, overrides=made)) as stack:
        stack.wait_ready(*(stack.start(role) for role in ("http", "mllp", "fhir")))
        yield stack


@asynccontextmanager
async def sending(*senders: Sender) -> AsyncIterator[None]:
    running = asyncio.gather(*(sender.run() for sender in senders))
    try:
        yield
    finally:
        for sender in senders:
            sender.stop.set()
        await asyncio.wait_for(running, ANSWER_S * 2)


async def until_heard(*senders: Sender) -> None:
    """Until each was answered yes once more."""
    before = [len(sender.yes) for sender in senders]
    async with asyncio.timeout(ANSWER_S * 2):
        while any(len(sender.yes) == count for sender, count in zip(senders, before, strict=True)):
            await asyncio.sleep(0.1)


def stand_still(broker: Broker) -> None:
    """Connections stay and nothing is answered: the longest wait for whoever asks."""
    os.kill(broker.pid, signal.SIGSTOP)


def go_on(broker: Broker) -> None:
    os.kill(broker.pid, signal.SIGCONT)


@pytest.mark.parametrize(
    ("takes", "gives", "for_s"),
    [
        pytest.param(stand_still, go_on, PAUSED_S, id="stands-still-20-s"),
        pytest.param(Broker.kill, Broker.start, AWAY_S, id="is-away-a-minute", marks=pytest.mark.long),
    ],
)
async def test_a_broker_that_is_not_there_amid_a_flood_costs_no_yes_and_no_more_memory_than_stated(
    flooded: Stack,
    broker: Broker,
    takes: Callable[[Broker], None],
    gives: Callable[[Broker], None],
    for_s: float,
) -> None:
    flood = HttpSender(flooded, connections=80, padding=300_000)
    ward = HttpSender(flooded, connections=2, token=OTHER_TOKEN)
    engine = MllpSender(flooded, connections=40, padding=200_000)
    notifier = FhirSender(flooded, connections=40, padding=300_000, token=SECRET)
    senders = (flood, ward, engine, notifier)
    async with sending(*senders):
        await until_heard(*senders)
        begun = Counter(ward.said)  # until the window is learnt, a flood that begins at a stroke may fill it
        await asyncio.sleep(3)
        fair = (ward.said - begun, ward.slowest_s)
        takes(broker)
        try:
            await asyncio.sleep(for_s)
            live = [(await asyncio.to_thread(health, flooded, name, "/livez"))[0] for name in MEMORY_MIB]
        finally:
            await asyncio.to_thread(gives, broker)
        await until_heard(*senders)
    peak = {name: memory_mib(flooded.roles[name].pid, "VmHWM") for name in MEMORY_MIB}
    summary = {type(sender).__name__: dict(sender.said) for sender in senders}
    assert live == [200, 200, 200], "a role that waits for the broker lives"
    assert set(fair[0]) <= {"202"}, "a sender that behaves is not turned away for the flood of another"
    assert fair[1] < FAIR_S
    for sender in (flood, notifier):
        assert sender.said["429"] + sender.said["503"] > 0, "a flood is told to slow down"
        assert min(sender.retry_after) >= 1
    assert all(peak[name] < most for name, most in MEMORY_MIB.items()), (peak, summary)

    landed = await asyncio.to_thread(ids_on_landing, flooded)
    assert flood.yes | ward.yes | engine.yes <= landed["landing.bed"]
    assert notifier.yes <= landed["landing.patient"]


def ids_on_landing(stack: Stack) -> dict[str, set[str]]:
    """Parts of the entity ids on two topics: a bed that HL7 names is `unit/room/bed`, its room here the sender's number."""
    return {
        topic: {part for each in records(stack, topic) if isinstance(each, Event) for part in each.entity_id.split("/")}
        for topic in ("landing.bed", "landing.patient")
    }


# -- a broker that is slow

LINE_BYTES_PER_S: Final = 120_000.0
"""Seven messages a second of those that are sent here, some twenty records; more than a minute of them are on offer."""
SLOW_FOR_S: Final = 36.0
GOODPUT: Final = 0.25
"""Of what the line carries meanwhile, how much must at least be of messages that were answered yes."""
BODY_BYTES: Final = 16_000


@pytest.fixture
def slowed(tmp_path: Path) -> Iterator[tuple[Stack, SlowLink]]:
    """The ways in before a broker of their own, behind a line that is not slow yet."""
    line_port, slow_port = free_ports(2)
    target = Target("ehr", "replica", "sekmet-replica", f"http://{HOST}:1/fhir")
    made = overrides(tmp_path, f"http://{HOST}:1/fhir")
    broker = BrokerBehindLine(tmp_path / "broker", line_port, slow_port)
    with SlowLink(line_port, slow_port) as line, broker:
        stack = stack_at(tmp_path, broker.behind_line, target, overrides=made)
        with stopped_at_end(stack):
            stack.wait_ready(*(stack.start(role) for role in ("http", "mllp", "fhir")))
            yield stack, line


async def test_a_broker_that_takes_twenty_records_a_second_is_used_and_the_rest_is_told_to_wait(
    slowed: tuple[Stack, SlowLink],
) -> None:
    """What is taken in must be what can be kept: a queue in which everything grows old before its turn comes keeps nothing."""
    stack, line = slowed
    flood = HttpSender(stack, connections=60, padding=BODY_BYTES)
    ward = HttpSender(stack, connections=2, token=OTHER_TOKEN)
    engine = MllpSender(stack, connections=40, padding=BODY_BYTES)
    notifier = FhirSender(stack, connections=30, padding=BODY_BYTES, token=SECRET)
    senders = (flood, ward, engine, notifier)
    async with sending(*senders):
        await until_heard(*senders)
        line.bytes_per_s = LINE_BYTES_PER_S
        await asyncio.sleep(SLOW_FOR_S / 3)  # what was on its way when the line became slow
        before, carried = sum(len(sender.yes) for sender in senders), line.carried
        await asyncio.sleep(SLOW_FOR_S * 2 / 3)
        taken, carried = sum(len(sender.yes) for sender in senders) - before, line.carried - carried
        heard = {type(sender).__name__ + sender.token[:3]: len(sender.yes) for sender in senders}
        line.bytes_per_s = None
        await until_heard(*senders)
    peak = {name: memory_mib(stack.roles[name].pid, "VmHWM") for name in MEMORY_MIB}
    said = {type(sender).__name__ + sender.token[:3]: dict(sender.said) for sender in senders}
    assert taken * BODY_BYTES >= GOODPUT * carried, (taken, carried, heard, said)
    assert flood.said["429"] + flood.said["503"] > 0, "a flood is told to slow down"
    assert all(peak[name] < most for name, most in MEMORY_MIB.items()), (peak, said)

    landed = await asyncio.to_thread(ids_on_landing, stack)
    assert flood.yes | ward.yes | engine.yes <= landed["landing.bed"]
    assert notifier.yes <= landed["landing.patient"]


# -- the end


ROLES: Final = tuple(command.name or "" for command in run_commands.registered_commands)
"""Every role that there is, from the command line itself: a new one is ended here without a word more."""
ARGUMENTS: Final[Mapping[str, tuple[str, ...]]] = {"writer": ("ehr",)}
WAYS_IN: Final = ("http", "mllp", "fhir", "files")
QUIET_S: Final = 3.0
UNREADY_S: Final = 1.0
"""How long after the signal a role may still say that it is ready: what a probe under way and a busy machine take."""


@pytest.fixture
def whole(broker: Broker, replica: Ehr, tmp_path: Path) -> Iterator[Stack]:
    """Every role once."""
    target = Target("ehr", "replica", "sekmet-replica", replica.base_url)
    made = {**overrides(tmp_path, f"http://{HOST}:1/fhir"), "files": one_partner(tmp_path), **sections(tmp_path, KEY)}
    with stopped_at_end(stack_at(tmp_path, broker.bootstrap, target, overrides=made)) as stack:
        start_every_role(stack)
        yield stack


def start_every_role(stack: Stack) -> dict[str, str]:
    """Names of the processes by role; each is ready."""
    names = {role: stack.start(role, *ARGUMENTS.get(role, ())) for role in ROLES}
    stack.wait_ready(*names.values(), timeout_s=ANSWER_S * 2)
    return names


class Ending:
    """One role that is told to end, and what its readiness says meanwhile."""

    def __init__(self, stack: Stack, name: str) -> None:
        self._stack, self._name = stack, name
        self.said: list[tuple[float, int, bool]] = []
        """Seconds after the signal at which it was asked, status, and whether it said that it serves no more."""

    def terminate(self) -> tuple[int, float]:
        """Exit code, and seconds after SIGTERM."""
        process = self._stack.roles[self._name]._process
        assert process is not None
        watching = threading.Thread(target=self._watch, daemon=True)
        self._began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        watching.start()
        code = process.wait(TERM_S + 5)
        took = time.monotonic() - self._began
        watching.join(ANSWER_S)
        return code, took

    def _watch(self) -> None:
        status = 1
        while status:
            asked = time.monotonic() - self._began
            status, text = health(self._stack, self._name, "/readyz")
            self.said.append((asked, status, bool(status) and json.loads(text)["checks"].get(SERVING) is False))


@pytest.mark.timeout(420)
async def test_every_role_that_there_is_ends_in_time_under_load_unready_first_and_nothing_is_lost_or_written_after_it(
    whole: Stack,
) -> None:
    names = {role: "-".join((role, *ARGUMENTS.get(role, ()), "0")) for role in ROLES}
    http = HttpSender(whole, connections=6)
    engine = MllpSender(whole, connections=6)
    notifier = FhirSender(whole, connections=4, token=SECRET)
    ended: dict[str, tuple[int, float]] = {}
    unready = 0
    async with sending(http, engine, notifier):
        await until_heard(http, engine, notifier)
        held = await asyncio.to_thread(rude_connections, whole)
        await asyncio.sleep(3)
        for role in sorted(ROLES, key=lambda role: role in WAYS_IN):
            ending = Ending(whole, names[role])
            ended[role] = await asyncio.to_thread(ending.terminate)
            assert not [each for each in ending.said if each[0] > UNREADY_S and each[1] == 200], role
            unready += any(serves_no_more for _, _, serves_no_more in ending.said)
    for connection in held:
        connection.close()
    assert {role: code for role, (code, _) in ended.items()} == dict.fromkeys(ROLES, 0)
    assert max(took for _, took in ended.values()) < TERM_S, ended
    assert unready, "no role was seen to be unready before it was gone"

    topics = [spec.name for spec in specs_of(whole.settings)]
    ends = await asyncio.to_thread(all_ends, whole, topics)
    await asyncio.sleep(QUIET_S)
    assert await asyncio.to_thread(all_ends, whole, topics) == ends, "somebody wrote after the end"

    await asyncio.to_thread(start_every_role, whole)
    closed = await asyncio.to_thread(surgeline, whole, "books", "--json", "--wait-s", str(ANSWER_S * 2), timeout_s=ANSWER_S * 3)
    books = json.loads(closed.stdout)["books"]
    assert closed.returncode == 0, books["problem_counts"]
    assert (books["balanced"], books["open"], books["waiting"]) == (True, 0, 0)
    landed = await asyncio.to_thread(ids_on_landing, whole)
    assert http.yes | engine.yes <= landed["landing.bed"]
    assert notifier.yes <= landed["landing.patient"]


def all_ends(stack: Stack, topics: list[str]) -> dict[str, Mapping[int, int]]:
    return {topic: end_offsets(stack.settings.kafka, topic) for topic in topics}
