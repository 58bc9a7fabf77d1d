"""One run of a worker for `surgeline bench gate`: a real broker, landing topics that are full already, one worker process.

The worker serves before anything is measured. Then it is held, the topics are loaded, and it is let go: so it finds
everything there, and what it costs to start is not in the figure. The end is when its last commit covers everything.
"""

import re
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaError, Producer

from pipeline import topology
from pipeline.domain.identifiers import Millis
from pipeline.domain.judging.policy import Policy
from pipeline.domain.records import Accepted, Decision
from pipeline.formats.avro import Codec
from pipeline.kafka.client import LOG, Message
from pipeline.kafka.epochs import read_epochs
from pipeline.local.bench.gate.load import Landed, Landing
from pipeline.local.bench.gate.report import Kill, Options, Run, Twin
from pipeline.local.bench.gate.streams import STREAMS, Streams, compared, expected, landed, told
from pipeline.local.bench.gate.worker import COMMIT_INTERVAL_S, Held, Ours, Peer, Worker
from pipeline.local.bench.processor import look
from pipeline.local.errors import LocalPlatformError
from pipeline.local.ports import HOST
from pipeline.local.servers.broker import Broker
from pipeline.local.stack import Stack
from pipeline.ops.topics import KafkaTopics, decoded
from pipeline.roles.process import codec_of, now_ms
from pipeline.settings.sections.kafka import KafkaSettings

SESSION_S: Final = 45.0
"""A held worker keeps its partitions; both are static members, so that a start after a kill need not wait for it."""

THROUGH_S: Final = 170.0
FLUSH_S: Final = 30.0
QUEUED: Final = 200_000
POLL_S: Final = 0.4
KILL_AT: Final = 1 / 3
"""Share of the records that are through when the worker is killed."""

SETTINGS: Final = {"worker": {"session_timeout_s": SESSION_S, "commit_interval_s": COMMIT_INTERVAL_S}}

_CYCLES: Final = re.compile(r"^surgeline_batch_records_(sum|count)\{[^}]*\} ([0-9.e+]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Made:
    """What a run sent: before the measurement, and in it."""

    before: Sequence[Landed]
    records: Sequence[Landed]


class Bench:
    """Topics of their own for one worker; `with` stops it."""

    def __init__(self, worker: str, number: str, broker: Broker, folder: Path, policy: Policy, options: Options) -> None:
        self.stack = Stack(folder / f"{worker}-{number}", broker.bootstrap, (), f"{worker}{number}.", SETTINGS)
        self._options, self._policy, self._name = options, policy, worker
        self._worker: Worker | None = None

    def __enter__(self) -> "Bench":
        self.stack.write_settings()
        self.stack.complete("topics", "apply")
        self._kafka = self.stack.settings.kafka
        self.codec = codec_of(self.stack.settings)
        self._topics = KafkaTopics(self._kafka)
        self.landing = Landing(self._options.entities, self.codec, self._options.seed)
        self._worker = self._make()
        return self

    def __exit__(self, *_: object) -> None:
        if self._worker is not None:
            self._worker.stop()

    @property
    def worker(self) -> Worker:
        """The worker, within `with`."""
        assert self._worker is not None
        return self._worker

    def _make(self) -> Worker:
        if self._name == Ours.name:
            return Ours(self.stack)
        if self._name == STREAMS:
            return Streams(self.stack, self._policy, self._epochs())
        at_broker = {topology.topic(name, self._kafka.topic_prefix): epoch for name, epoch in self._epochs().items()}
        return Peer(self._name, self.stack, self._policy, at_broker)

    def _epochs(self) -> dict[str, int]:
        """Epoch of each landing topic that is used, by its name on the map."""
        known = read_epochs(self._kafka, self.codec)
        return {name: known[topology.topic(name, self._kafka.topic_prefix)].epoch for name in self.landing.topics}

    def twin(self) -> Twin:
        """Whether a port of the decision said in this run what the decision says."""
        ours = expected(landed(self._topics), self._epochs(), self.codec, self._policy)
        return compared(self._name, ours, told(self._topics, self.codec), self.codec)

    def run(self) -> tuple[Run, Made]:
        """Measure once."""
        before = self._warmed()
        records = self.landing.more(self._options.records, now_ms())
        cycles = self._cycles()
        with Held(self.worker):
            load_landing(self._kafka, records)
            cpu_s, _ = look(self.worker.pid)
            began = time.monotonic()
        self._wait_outputs(len(before) + len(records))
        wall_s = time.monotonic() - began
        self._wait_through()
        after_s, memory = look(self.worker.pid)
        done, seen = self._cycles()
        cycle = (done - cycles[0]) / max(1.0, seen - cycles[1])
        us = (after_s - cpu_s) / len(records) * 1e6
        made = Run(worker=self._name, records=len(records), us=us, wall_s=wall_s, memory=memory, cycle=cycle)
        return made, Made(before, records)

    def killed(self) -> Kill:
        """kill -9 in mid-stream, a start, and what the topics say of each landing position."""
        before = self._warmed()
        records = self.landing.more(self._options.kill_records, now_ms())
        with Held(self.worker):
            load_landing(self._kafka, records)
        self._wait_outputs(len(before) + int(len(records) * KILL_AT))
        self.worker.kill()
        self.worker.start()
        self._wait_through()
        return self._verdicts({(r.topic, r.partition, r.offset) for r in (*before, *records)}, len(records))

    def _warmed(self) -> Sequence[Landed]:
        now = now_ms()
        before = [*self.landing.first(now), *self.landing.more(self._options.warm_up, Millis(now + 1))]
        load_landing(self._kafka, before)
        self.worker.start()
        self._wait_through()
        return before

    def _wait_outputs(self, count: int) -> None:
        self._wait(lambda: self._outputs() >= count, f"{count} verdicts")

    def _outputs(self) -> int:
        return sum(sum(self._topics.end(name).values()) for name in (topology.ACCEPTED, topology.DECISIONS))

    def _wait_through(self) -> None:
        self._wait(self._through, "commits up to the end")

    def _through(self) -> bool:
        return through(self._topics, self.worker.group, self.landing.ends)

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + THROUGH_S
        while not condition():
            self.worker.all_run()
            if time.monotonic() > deadline:
                raise LocalPlatformError(f"{self._name}: {what} did not come within {THROUGH_S:g} s")
            time.sleep(POLL_S)

    def _cycles(self) -> tuple[float, float]:
        """Records and cycles of ours until now; of a peer, none."""
        port = next(iter(self.stack.health_ports.values()), None)
        if port is None:
            return 0.0, 0.0
        with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=SESSION_S) as answer:
            found = dict(_CYCLES.findall(answer.read().decode()))
        return float(found.get("sum", 0.0)), float(found.get("count", 0.0))

    def _verdicts(self, sent: set[tuple[str, int, int]], count: int) -> Kill:
        seen: dict[tuple[str, int, int], bytes] = {}
        repeated = different = 0
        for topic in (topology.ACCEPTED, topology.DECISIONS):
            for message in self._topics.read(topic, self._topics.begin(topic), self._topics.end(topic)):
                place, value = place_of(self.codec, message), message.value or b""
                before = seen.setdefault(place, value)
                if before is not value:
                    repeated += 1
                    different += before != value
        return Kill(worker=self._name, records=count, lost=len(sent - seen.keys()), repeated=repeated, different=different)


def load_landing(kafka: KafkaSettings, records: Sequence[Landed]) -> None:
    """Publish, each where it was told to lie; LocalPlatformError where one is not acknowledged."""
    tuning = {"linger.ms": 5, "compression.type": "lz4", "queue.buffering.max.messages": QUEUED, "client.id": "bench"}
    producer = Producer({**kafka.producer_config(), **tuning, "delivery.report.only.error": True}, logger=LOG)
    failed: list[KafkaError] = []

    def delivered(error: KafkaError | None, _: object) -> None:
        if error is not None:
            failed.append(error)

    names = {name: topology.topic(name, kafka.topic_prefix) for name in {record.topic for record in records}}
    for record in records:
        while True:
            try:
                producer.produce(names[record.topic], record.value, record.key, record.partition, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(POLL_S)
    if producer.flush(FLUSH_S) or failed:
        raise LocalPlatformError("the landing topics could not be loaded")


def through(topics: KafkaTopics, group: str, ends: Mapping[tuple[str, int], int]) -> bool:
    """Whether a group has committed everything up to these ends."""
    committed = topics.committed(group)
    return all(committed.get(place, 0) >= end for place, end in ends.items())


def place_of(codec: Codec, message: Message) -> tuple[str, int, int]:
    """Landing position that an accepted record or a decision is about."""
    match decoded(codec, message):
        case Accepted() as accepted:
            return topology.LANDING[accepted.entity_type], accepted.partition, accepted.offset
        case Decision() as decision:
            return decision.topic, decision.partition, decision.offset
        case _:
            raise LocalPlatformError(f"{message.topic} holds what is no verdict")
