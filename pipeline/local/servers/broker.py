"""A real Apache Kafka of one node, for people who have no broker at hand and for the tests."""

import subprocess
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Final

import msgspec
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from pipeline.local.errors import LocalPlatformError
from pipeline.local.ports import HOST, free_ports, is_listening
from pipeline.local.servers.jars import cache_folder, java, kafka_class_path
from pipeline.local.servers.server import Server

HEAP: Final = "-Xmx512m"
FORMAT_TIMEOUT_S: Final = 60
METADATA_TIMEOUT_S: Final = 1.0
JVM_OPTIONS: Final = (
    "-Xms128m",
    HEAP,
    "-XX:+UseSerialGC",  # two cores and half a gigabyte: the collector with the least overhead
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


class Ports(msgspec.Struct, frozen=True):
    """Ports of one broker; they stay the same over restarts."""

    client: int
    controller: int


def server_properties(ports: Ports, data: Path) -> str:
    """Broker and controller in one node, KRaft, loopback only.

    One node can replicate nothing, so every internal topic has replication factor 1. Topics are never made by accident.
    A group's first member doesn't wait for others; the cleaner's buffer fits the heap.
    """
    settings = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.bootstrap.servers": f"{HOST}:{ports.controller}",
        "listeners": f"PLAINTEXT://{HOST}:{ports.client},CONTROLLER://{HOST}:{ports.controller}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{ports.client},CONTROLLER://{HOST}:{ports.controller}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": str(data),
        "auto.create.topics.enable": "false",
        "default.replication.factor": "1",
        "min.insync.replicas": "1",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "1",
        "group.initial.rebalance.delay.ms": "0",
        # A killed broker may come back only when its session is over: 9 s by default.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
        "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
        "num.network.threads": "2",
        "num.io.threads": "4",
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


class Broker(Server):
    """One broker."""

    name = "Kafka"
    log_name = "broker.log"
    start_timeout_s = 90
    stop_timeout_s = 20

    def __init__(self, folder: Path, port: int | None = None, cache: Path | None = None) -> None:
        """`port` None means the folder's port of before, else a free one; `cache` holds the jars (see `jars.py`)."""
        super().__init__(folder)
        self._cache = cache or cache_folder()
        self._ports = self._settle_ports(port)

    @property
    def port(self) -> int:
        """Port for clients."""
        return self._ports.client

    @property
    def bootstrap(self) -> str:
        """Bootstrap servers."""
        return f"{HOST}:{self._ports.client}"

    def properties(self, ports: Ports, data: Path) -> str:
        """Its server.properties."""
        return server_properties(ports, data)

    def _settle_ports(self, port: int | None) -> Ports:
        known = self._folder / "ports.json"
        if known.exists():
            before = msgspec.json.decode(known.read_bytes(), type=Ports)
            return Ports(client=port or before.client, controller=before.controller)
        client, controller = free_ports(2)
        return Ports(client=port or client, controller=controller)

    def _command(self) -> list[str]:
        runtime = _runtime(kafka_class_path(self._cache))
        properties = self._folder / "server.properties"
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "ports.json").write_bytes(msgspec.json.encode(self._ports))
        properties.write_text(self.properties(self._ports, self._folder / "data"))
        if not (self._folder / "data" / "meta.properties").exists():
            self._format(runtime, properties)
        return [*runtime, "kafka.Kafka", str(properties)]

    def _format(self, runtime: list[str], properties: Path) -> None:
        cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        identity = f"--cluster-id={cluster_id}"  # in one word: an id may begin with a dash
        command = [*runtime, "kafka.tools.StorageTool", "format", "--standalone", identity, "-c", str(properties)]
        done = subprocess.run(  # noqa: S603 (no shell, our own arguments)
            command, capture_output=True, timeout=FORMAT_TIMEOUT_S, stdin=subprocess.DEVNULL, check=False
        )
        with self.log.open("ab") as log:
            log.write(done.stdout + done.stderr)
        if done.returncode != 0:
            last = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-1:]
            raise LocalPlatformError(f"Kafka's data folder could not be formatted: {last}; see {self.log}")

    def _answers(self) -> bool:
        if not is_listening(self._ports.client):  # librdkafka is noisy about a port that nobody listens on yet
            return False
        try:
            admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
            return bool(admin.list_topics(timeout=METADATA_TIMEOUT_S).brokers)
        except KafkaException:
            return False


def _runtime(class_path: str) -> list[str]:
    return [java(), *JVM_OPTIONS, "-cp", class_path]
