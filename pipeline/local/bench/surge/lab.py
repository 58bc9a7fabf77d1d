"""What the parts of `surgeline bench surge` run on: broker, gate, writer and stand-in, a sender with its own log, a sampler.

All but the EHR is real. Events go straight to the landing topics, as a way in publishes them: on two cores a way in would
take what the gate and the writer need at a thousand events a second.
"""

import asyncio
import contextlib
import os
import re
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pipeline.domain.event import Event
from pipeline.domain.identifiers import Millis
from pipeline.formats.avro import Codec
from pipeline.kafka.client import KafkaUnavailable
from pipeline.kafka.producer import OutRecord, Publisher, PublishFailed
from pipeline.local.bench.processor import busy_s, look
from pipeline.local.bench.surge.load import Load, Mix
from pipeline.local.bench.surge.report import MACHINE
from pipeline.local.errors import LocalPlatformError
from pipeline.local.ports import HOST
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.standin import Behaviour
from pipeline.local.servers.standin_child import StandInChild
from pipeline.local.stack import Stack, Target
from pipeline.ops.books import take_cut
from pipeline.ops.topics import KafkaTopics
from pipeline.roles.process import codec_of, now_ms
from pipeline.topology import LANDING

EHR: Final = "ehr"
PROFILE: Final = "sekmet-replica"
GATE, WRITER = "gate-0", "writer-ehr-0"

TICK_S: Final = 0.02
WARM_UP_PER_S: Final = 1_000.0
PUBLISH_TRIES: Final = 20
"""Times that one tick's events are published; each try lasts as long as the producer's own delivery timeout."""

RETRY_S: Final = 0.5
SAMPLE_S: Final = 1.0
SCRAPE_S: Final = 2.0
CALM_SAMPLES: Final = 3
"""The writer's figures are renewed every 2 s: nothing waits where so many samples in a row say so."""

HEALTHY: Final = Behaviour(singles_per_s=100_000.0, resources_per_s=100_000.0, latency_s=0.005)
BURST_S: Final = 0.05

_METRIC: Final = re.compile(r"^(surgeline_writer_[a-z_]+)\{[^}]*\} ([0-9.e+-]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Sample:
    """One look. Memory in bytes and processor seconds by process; writer figures are None while it does not answer."""

    at: Millis
    memory: dict[str, int]
    cpu_s: dict[str, float]
    pending: int | None = None
    in_flight: int = 0
    concurrency: int = 0
    rate_per_s: float = 0.0
    breaker_open: bool = False


@dataclass(slots=True)
class Sender:
    """Publishes events to landing at their times. `yes` is the sender's log: the ids of events that the broker has."""

    load: Load
    publisher: Publisher
    codec: Codec
    yes: set[str] = field(default_factory=set)
    sent: int = 0
    retries: int = 0
    given_up: int = 0
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    async def warm_up(self) -> None:
        """Each entity once."""
        began, batch = time.monotonic(), []
        for number, event in enumerate(self.load.every(now_ms), 1):
            batch.append(event)
            if number % max(1, int(WARM_UP_PER_S * TICK_S)) == 0:
                self._begin(batch)
                batch = []
                await asyncio.sleep(max(0.0, began + number / WARM_UP_PER_S - time.monotonic()))
        self._begin(batch)
        await self.settled()

    async def play(self, mix: Mix, span_s: float) -> None:
        """Send `mix` for `span_s`; returns when the last is sent, acknowledged or not."""
        began = at = time.monotonic()
        while at < began + span_s:
            await asyncio.sleep(max(0.0, at + TICK_S - time.monotonic()))
            now = min(time.monotonic(), began + span_s)
            self._begin(self.load.due(mix, now - at, now_ms()))
            at = now

    async def settled(self) -> None:
        """Until each was acknowledged or given up."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _begin(self, events: Sequence[Event]) -> None:
        if events:
            self.sent += len(events)
            task = asyncio.get_running_loop().create_task(self._publish(events))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _publish(self, events: Sequence[Event]) -> None:
        records = [OutRecord(LANDING[event.entity_type], event.key.encode(), self.codec.encode(event)) for event in events]
        for _ in range(PUBLISH_TRIES):
            try:
                await self.publisher.publish(records)
            except PublishFailed:
                self.retries += 1
                await asyncio.sleep(RETRY_S)
                continue
            self.yes.update(event.event_id for event in events)
            return
        self.given_up += len(events)


@dataclass(slots=True)
class Lab:
    """One part's pipeline. `standin` is the EHR of the writer that is judged."""

    stack: Stack
    broker: Broker
    standin: StandInChild
    sender: Sender
    samples: list[Sample] = field(default_factory=list)
    watched: dict[str, Callable[[], int]] = field(default_factory=dict)
    """Process ids by name; LocalPlatformError while a process is away."""
    restarts: int = 0
    is_supervised: bool = False
    is_struck: bool = False
    """A process is away on purpose at this moment."""

    @property
    def memory(self) -> dict[str, int]:
        """Of each process, in bytes."""
        return {name: memory for name, (_, memory) in self._looks().items()}

    def _looks(self) -> dict[str, tuple[float, int]]:
        looks = {}
        for name, pid in self.watched.items():
            with contextlib.suppress(LocalPlatformError, OSError):
                looks[name] = look(pid())
        return looks

    async def sample(self) -> None:
        """Look every SAMPLE_S, until cancelled."""
        while True:
            began = time.monotonic()
            figures = await asyncio.to_thread(self._scrape)
            looks = self._looks()
            self.samples.append(
                Sample(
                    now_ms(),
                    {name: memory for name, (_, memory) in looks.items()},
                    {name: cpu_s for name, (cpu_s, _) in looks.items()} | {MACHINE: busy_s()},
                    **figures,
                )
            )
            await asyncio.sleep(max(0.0, began + SAMPLE_S - time.monotonic()))

    def _scrape(self) -> dict[str, Any]:
        try:
            url = f"http://{HOST}:{self.stack.health_ports[WRITER]}/metrics"
            with urllib.request.urlopen(url, timeout=SCRAPE_S) as answer:
                text = answer.read().decode()
        except OSError:
            return {}
        sums: dict[str, float] = {}
        for name, value in _METRIC.findall(text):
            sums[name] = sums.get(name, 0.0) + float(value)
        return {
            "pending": int(sums.get("surgeline_writer_pending_entities", 0)),
            "in_flight": int(sums.get("surgeline_writer_in_flight_writes", 0)),
            "concurrency": int(sums.get("surgeline_writer_concurrency_writes", 0)),
            "rate_per_s": sums.get("surgeline_writer_rate_requests_per_second", 0.0),
            "breaker_open": sums.get("surgeline_writer_breaker_open", 0.0) > 0,
        }

    def broker_again(self) -> None:
        """kill -9 of the broker, and the same again."""
        self.broker.kill()
        self.broker.start()

    async def drained(self, bound_s: float) -> bool:
        """Until the gate has judged everything and the writer has nothing left; False where that takes too long."""
        deadline = time.monotonic() + bound_s
        await self.sender.settled()
        while not await asyncio.to_thread(self._gate_is_through):
            self._all_run()
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(SAMPLE_S / 2)
        seen = len(self.samples)
        while time.monotonic() < deadline:
            self._all_run()
            last = self.samples[max(seen, len(self.samples) - CALM_SAMPLES) :]
            if len(last) >= CALM_SAMPLES and all(each.pending == 0 and each.in_flight == 0 for each in last):
                return True
            await asyncio.sleep(SAMPLE_S / 4)
        return False

    async def supervise(self) -> None:
        """Start a role again that has ended by itself, as an orchestrator does, until cancelled: without a broker for long a
        role ends, since what it can't publish must not be taken for done."""
        self.is_supervised = True
        while True:
            await asyncio.sleep(SAMPLE_S)
            for child in self.stack.roles.values():
                if not child.running and not self.is_struck:
                    await asyncio.to_thread(child.start)
                    self.restarts += 1

    def _all_run(self) -> None:
        """LocalPlatformError where a role has ended by itself and nobody starts it again."""
        for name, child in self.stack.roles.items():
            if not child.running and not self.is_supervised:
                raise LocalPlatformError(f"{name} ended. {child.log_tail()}")

    def _gate_is_through(self) -> bool:
        try:
            cut = take_cut(KafkaTopics(self.stack.settings.kafka), self.sender.codec)
        except KafkaUnavailable:
            return False
        return all((part.committed or 0) >= part.end for part in cut)


@contextlib.asynccontextmanager
async def laboratory(folder: Path, load: Load, writer: dict[str, Any]) -> Any:
    """Everything that a part needs, in an empty `folder`; `writer` are settings of the writer."""
    async with contextlib.AsyncExitStack() as parts:
        broker = Broker(folder / "kafka")
        parts.push_async_callback(asyncio.to_thread, broker.stop)
        await asyncio.to_thread(broker.start)
        standin = StandInChild(folder)
        parts.push_async_callback(asyncio.to_thread, standin.__exit__)
        await asyncio.to_thread(standin.__enter__)
        await asyncio.to_thread(standin.behave, HEALTHY)
        target = Target(EHR, "replica", PROFILE, standin.base_url)
        stack = Stack(folder / "surgeline", broker.bootstrap, (target,), overrides={"writers": {EHR: writer}})
        parts.push_async_callback(asyncio.to_thread, stack.stop)
        await asyncio.to_thread(_begin, stack)
        publisher = Publisher(stack.settings.kafka, "bench")
        parts.push_async_callback(publisher.close, 10.0)
        sender = Sender(load, publisher, codec_of(stack.settings))
        lab = Lab(stack, broker, standin, sender)
        lab.watched = {
            "gate": lambda: stack.roles[GATE].pid,
            "writer": lambda: stack.roles[WRITER].pid,
            "broker": lambda: broker.pid,
            "stand-in": lambda: standin.pid,
            "sender": os.getpid,
        }
        sampling = asyncio.create_task(lab.sample())
        try:
            yield lab
        finally:
            sampling.cancel()


def _begin(stack: Stack) -> None:
    stack.write_settings()
    for arguments in (("topics", "apply"), ("policy", "apply", "--reason", "bench")):
        stack.complete(*arguments)
    names = (stack.start("gate"), stack.start("writer", EHR))
    stack.wait_ready(*names)
