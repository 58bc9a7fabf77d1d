"""The engines of `surgeline bench mllp`: our way in on a real broker, and MessageFoundry, which keeps messages in SQLite.

Each can be killed and started again on what it kept, and says then which messages it has.
"""

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import ClassVar, Final, Protocol

from pipeline.domain.event import Event
from pipeline.domain.records import Raw
from pipeline.formats.avro import Codec
from pipeline.formats.hl7v2.er7 import Malformed, parse
from pipeline.formats.hl7v2.header import identity_digest, identity_of
from pipeline.kafka.crypto import RawCipher
from pipeline.kafka.reader import read_topic
from pipeline.local.bench.gate.worker import python_of
from pipeline.local.bench.mllp.load import Messages
from pipeline.local.bench.processor import look
from pipeline.local.child import Child
from pipeline.local.errors import LocalPlatformError
from pipeline.local.ports import free_ports, is_listening
from pipeline.local.servers.broker import Broker
from pipeline.local.stack import Stack
from pipeline.roles.ways_in.intake import hl7_profile
from pipeline.settings.sections.kafka import KafkaSettings

PEER: Final = "messagefoundry"
PEER_START_S: Final = 60.0
APPLY_TRIES: Final = 3
MOST_PROCESSES: Final = 4
TENANT: Final = "demo"
PROFILE: Final = "default"

_PEER_CONFIG: Final = """# Messages are kept and go nowhere: the least that the engine can do after its acknowledgement.
from messagefoundry import MLLP, inbound, router

inbound("IB_BENCH", MLLP(port={port}), router="bench")


@router("bench")
def route(message):
    return []
"""


class Engine(Protocol):
    """Receives over MLLP and acknowledges what it has stored. Synchronous."""

    name: ClassVar[str]
    durability: ClassVar[str]
    """What stands behind an acknowledgement, in words."""
    port: int

    def start(self) -> None:
        """Until it listens, on what it kept."""
        ...

    def stop(self) -> None:
        """In good order."""
        ...

    def kill(self) -> None:
        """kill -9 of the engine; of ours the broker lives on."""
        ...

    def cpu_s(self) -> float:
        """Processor seconds of the engine, all its processes, so far."""
        ...

    def store_cpu_s(self) -> float:
        """Processor seconds of what stores for it apart from it, so far; 0 where it stores by itself."""
        ...

    def missing(self, messages: Messages, numbers: Iterable[int]) -> list[int]:
        """Which of the messages it does not have byte for byte, with all that is to come of them."""
        ...


class Ours:
    """`surgeline run mllp` as the shipped settings have it, in a process for each core, which share the port."""

    name: ClassVar[str] = "surgeline"
    durability: ClassVar[str] = "Kafka's acknowledgement (acks=all) of the raw message, every event of it and its receipt"

    def __init__(self, folder: Path, broker: Broker, prefix: str) -> None:
        """Topics under `prefix` are made."""
        self._stack = Stack(folder, broker.bootstrap, (), prefix=prefix)
        self._broker = broker
        self._roles: list[str] = []
        self.port = self._stack.mllp_port
        self._stack.write_settings()
        self._make_topics()

    def _make_topics(self) -> None:
        """A broker that has just begun may not lead all partitions yet."""
        for tries_left in reversed(range(APPLY_TRIES)):
            try:
                self._stack.complete("topics", "apply")
            except LocalPlatformError:
                if not tries_left:
                    raise
            else:
                return

    def start(self) -> None:
        """See `Engine`."""
        shared = {"SURGELINE_MLLP__SHARE_PORT": "true"}
        self._roles = [self._stack.start("mllp", instance=str(n), environment=shared) for n in range(processes())]
        self._stack.wait_ready(*self._roles)

    def stop(self) -> None:
        """See `Engine`."""
        self._stack.stop()

    def kill(self) -> None:
        """See `Engine`."""
        for role in self._roles:
            self._stack.kill(role)

    def cpu_s(self) -> float:
        """See `Engine`."""
        return sum(tree_cpu_s(self._stack.roles[role].pid) for role in self._roles)

    def store_cpu_s(self) -> float:
        """See `Engine`."""
        return tree_cpu_s(self._broker.pid)

    @property
    def kafka(self) -> KafkaSettings:
        """Where what it acknowledged is."""
        return self._stack.settings.kafka

    def missing(self, messages: Messages, numbers: Iterable[int]) -> list[int]:
        """See `Engine`: what is not on `raw.mllp`, or whose patient or stay is not on landing."""
        settings = self._stack.settings
        codec, cipher = Codec.shipped(), RawCipher(settings.raw_keys(), settings.raw_key()[0])
        raw: dict[str, bytes] = {}
        landed: dict[str, set[str]] = {}
        for topic in ("raw.mllp", "landing.patient", "landing.encounter"):
            for message in read_topic(settings.kafka, topic):
                record = codec.decode(message.value) if message.value is not None else None
                if isinstance(record, Raw):
                    raw[record.identity] = cipher.open(record.key_id, record.identity, record.ciphertext)
                elif isinstance(record, Event) and record.control_id:
                    landed.setdefault(record.control_id, set()).add(topic)

        def has(number: int) -> bool:
            body = messages.body(number)
            is_whole = raw.get(_identity(body)) == body
            return is_whole and len(landed.get(messages.control_id(number), ())) == 2

        return [number for number in numbers if not has(number)]


class MessageFoundry:
    """The peer with its defaults: SQLite with a write-ahead log, synchronous=NORMAL."""

    name: ClassVar[str] = PEER
    durability: ClassVar[str] = "its commit to SQLite (write-ahead log, synchronous=NORMAL: no fsync) of the raw message"

    def __init__(self, folder: Path) -> None:
        """Its environment is made where it is missing; LocalPlatformError where it can't be."""
        self.port, self._api_port = free_ports(2)
        self._folder = folder.absolute()
        (self._folder / "config").mkdir(parents=True)
        (self._folder / "config" / "bench.py").write_text(_PEER_CONFIG.format(port=self.port))
        serve = ["-m", "messagefoundry", "serve", "--config", "config", "--env", "dev", "--db", "store.db"]
        command = [str(python_of(PEER)), *serve, "--port", str(self._api_port), "--log-level", "WARNING"]
        self._child = Child(PEER, command, self._folder, self._folder / "engine.log")

    def start(self) -> None:
        """See `Engine`."""
        self._child.start()
        self._child.wait_until(lambda: is_listening(self.port) and is_listening(self._api_port), PEER_START_S)

    def stop(self) -> None:
        """See `Engine`."""
        self._child.stop(PEER_START_S)

    def kill(self) -> None:
        """See `Engine`."""
        self._child.kill()

    def cpu_s(self) -> float:
        """See `Engine`."""
        return tree_cpu_s(self._child.pid)

    def store_cpu_s(self) -> float:
        """See `Engine`."""
        return 0.0

    def missing(self, messages: Messages, numbers: Iterable[int]) -> list[int]:
        """See `Engine`: what is not in its table of messages."""
        with closing(sqlite3.connect(f"file:{self._folder / 'store.db'}?mode=ro", uri=True)) as store:
            kept = dict(store.execute("SELECT control_id, raw FROM messages"))
        return [number for number in numbers if kept.get(messages.control_id(number)) != messages.body(number).decode()]


def processes() -> int:
    """Processes of ours: one a core, at most MOST_PROCESSES. (The peer's SQLite store has one writer and one process.)"""
    return min(MOST_PROCESSES, os.cpu_count() or 1)


def tree_cpu_s(pid: int) -> float:
    """Processor seconds of a process and of those that it started and that still run."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it ended meanwhile
        children.setdefault(parent, []).append(int(stat.parent.name))
    waiting, total = [pid], 0.0
    while waiting:
        each = waiting.pop()
        waiting += children.get(each, ())
        total += look(each)[0]
    return total


def _identity(body: bytes) -> str:
    message = parse(body)
    if isinstance(message, Malformed):
        raise LocalPlatformError("the bench's own message can't be read")
    return identity_digest(TENANT, hl7_profile(PROFILE).source_system, identity_of(message, body))
