"""The gate's twin on Kafka Streams, for `surgeline bench gate --peer streams`, and whether it says what the gate says.

The twin is a port to Java (`loadtest/peers/streams`) of the decision for what the bench sends; it reads the same schemas and the
same policy and writes the same bytes. So a difference is one of bytes: what it said of a landing position is held beside what
the pure decision says of it. Needs the packages of surgeline[demo] (a Java), and fetches its jars at the first run.
"""

import json
import struct
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from pipeline import topology
from pipeline.domain.event import EntityType, Event
from pipeline.domain.head import decode_head, encode_head
from pipeline.domain.identifiers import Millis
from pipeline.domain.judging.gate import Accept, Position, Redelivered, decide
from pipeline.domain.judging.policy import Policy, encode_policy
from pipeline.domain.records import Accepted, Control, Decision
from pipeline.formats.avro import Codec
from pipeline.formats.avro.shipped import newest, shipped_schemas
from pipeline.local.bench.gate.load import Landed
from pipeline.local.bench.gate.report import Twin
from pipeline.local.bench.gate.worker import COMMIT_INTERVAL_S, PEER_GROUP, PEERS, Program
from pipeline.local.child import Child
from pipeline.local.errors import LocalPlatformError
from pipeline.local.servers.jars import KAFKA_VERSION, Jars, cache_folder, class_path, compiled, java
from pipeline.local.stack import Stack
from pipeline.ops.topics import Topics
from pipeline.roles.gates.gate import PRODUCER_TUNING
from pipeline.settings.sections.kafka import KafkaSettings
from pipeline.stream.worker.outputs import LINGER_MS

STREAMS: Final = "streams"
WARM_UP: Final = 100_000
"""Records before the measurement: Java's compiler is through with the code by then."""

ALONE_TIMEOUT_S: Final = 120.0
SESSION_S: Final = 45.0
"""A held worker keeps its partitions."""

BATCH_BYTES: Final = 131_072
CACHE_BYTES: Final = 64 << 20
"""Of the twin: a producer's batch (librdkafka's may be greater still), and what it holds of its store between two commits, so
that the changelog gets one record of an entity for a commit, as that of the other workers."""

JARS: Final = Jars(
    f"kafka-streams-{KAFKA_VERSION}",
    f"org.apache.kafka:kafka-streams:{KAFKA_VERSION}"
    "+com.fasterxml.jackson.core:jackson-databind:2.19.0"
    "+org.slf4j:slf4j-simple:2.0.17",
    "95 MB",
    "27384a4d43530c43f8e831ac7d214eda85c594834e5fc83d812fcc036ca346dd",
)
JVM_OPTIONS: Final = (
    "-Xms512m",
    "-Xmx512m",
    "-XX:+UseSerialGC",  # the least processor time of Java's collectors on a heap of this size
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "--enable-native-access=ALL-UNNAMED",  # of RocksDB
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)
_SOURCE: Final = PEERS / STREAMS
_KINDS: Final = {topology.LANDING[kind]: kind for kind in (EntityType.BED, EntityType.ENCOUNTER)}

Place = tuple[str, int, int]
"""Landing topic on the map, partition, offset."""


class Said(NamedTuple):
    """A verdict as it is on the wire, and the lane that it took; None where it was not accepted."""

    value: bytes
    lane: str | None


class Streams(Program):
    """The twin's process."""

    def __init__(self, stack: Stack, policy: Policy, epochs: Mapping[str, int]) -> None:
        """`epochs` by the landing topic's name on the map. Fetches and compiles what it needs where that was not done yet."""
        folder = stack.folder / STREAMS
        folder.mkdir(parents=True, exist_ok=True)
        job = folder / "job.json"
        job.write_bytes(msgspec.json.encode(_judging(stack.settings.kafka, policy, epochs) | _serving(stack, folder)))
        super().__init__(STREAMS, Child(STREAMS, _command("Gate", folder, job), folder, folder / "peer.log"))


class Alone(NamedTuple):
    """The twin's decision by itself: µs of processor time a record after `before` records, and what it said of each."""

    us: float
    head_bytes: float
    said: dict[Place, Said]


def twin_alone(before: Sequence[Landed], records: Sequence[Landed], kafka: KafkaSettings, policy: Policy, folder: Path) -> Alone:
    """Judge records in the twin, without a broker. LocalPlatformError where there is no Java, or it could not judge one."""
    folder.mkdir(parents=True, exist_ok=True)
    job, sent, told = folder / "job.json", folder / "records", folder / "verdicts"
    job.write_bytes(msgspec.json.encode(_judging(kafka, policy, dict.fromkeys(_KINDS, 1))))
    every = [*before, *records]
    with sent.open("wb") as file:
        file.write(struct.pack(">ii", len(every), len(before)))
        for record in every:
            topic = topology.topic(record.topic, kafka.topic_prefix).encode()
            place = struct.pack(">iqq", record.partition, record.offset, record.timestamp)
            parts = (record.key, record.value)
            file.write(struct.pack(">H", len(topic)) + topic + place)
            file.writelines(struct.pack(">i", len(part)) + part for part in parts)
    figures = json.loads(_ran(_command("Alone", folder, job, sent, told)))
    places = [(record.topic, record.partition, record.offset) for record in every]
    return Alone(figures["us"], figures["head_bytes"], _verdicts(told.read_bytes(), places))


def _verdicts(data: bytes, places: Iterable[Place]) -> dict[Place, Said]:
    said: dict[Place, Said] = {}
    at = 0
    for place in places:
        (length,) = struct.unpack_from(">i", data, at)
        at += 4
        if length:
            value, at = data[at : at + length], at + length
            (named,) = struct.unpack_from(">H", data, at)
            lane, at = data[at + 2 : at + 2 + named].decode(), at + 2 + named
            said[place] = Said(value, lane or None)
    return said


def expected(records: Iterable[Landed], epochs: Mapping[str, int], codec: Codec, policy: Policy) -> dict[Place, Said]:
    """What the pure decision says of each record; `epochs` by the topic's name on the map."""
    heads: dict[bytes, bytes] = {}
    said: dict[Place, Said] = {}
    for record in records:
        content = codec.decode(record.value)
        assert isinstance(content, Event | Control)
        at = Position(_KINDS[record.topic], epochs[record.topic], record.partition, record.offset, Millis(record.timestamp))
        known = heads.get(record.key)
        verdict = decide(decode_head(known) if known is not None else None, at, record.key, content, policy)
        if isinstance(verdict, Redelivered):
            continue
        if verdict.head is not None:
            heads[record.key] = encode_head(verdict.head)
        outcome = verdict.accepted if isinstance(verdict, Accept) else verdict.decision
        lane = outcome.lane.value if isinstance(outcome, Accepted) else None
        said[record.topic, record.partition, record.offset] = Said(codec.encode(outcome), lane)
    return said


def landed(topics: Topics) -> Iterable[Landed]:
    """The records of the landing topics as the broker has them, with its times."""
    for topic in _KINDS:
        for each in topics.read(topic, topics.begin(topic), topics.end(topic)):
            yield Landed(topic, each.key or b"", each.value or b"", each.partition, each.offset, each.timestamp_ms)


def told(topics: Topics, codec: Codec) -> dict[Place, Said]:
    """What a worker has said of each landing position, by the output topics."""
    lanes: dict[bytes | None, str] = {}
    for lane, topic in topology.LANE_TOPICS.items():
        for each in topics.read(topic, topics.begin(topic), topics.end(topic)):
            lanes[each.value] = lane.value
    said: dict[Place, Said] = {}
    for topic in (topology.ACCEPTED, topology.DECISIONS):
        for each in topics.read(topic, topics.begin(topic), topics.end(topic)):
            value = each.value or b""
            said[_place(codec.decode(value))] = Said(value, lanes.get(value))
    return said


def _place(record: object) -> Place:
    match record:
        case Accepted():
            return topology.LANDING[record.entity_type], record.partition, record.offset
        case Decision():
            return record.topic, record.partition, record.offset
        case _:
            raise LocalPlatformError("the twin's topics hold what is no verdict")


def compared(worker: str, ours: Mapping[Place, Said], theirs: Mapping[Place, Said], codec: Codec) -> Twin:
    """Positions of which the two say something else, each counted at the first thing in which they differ."""
    counts = dict.fromkeys(("missing", "verdict", "revision", "changed", "lane", "other"), 0)
    for place in ours.keys() | theirs.keys():
        one, other = ours.get(place), theirs.get(place)
        if one is None or other is None:
            counts["missing"] += 1
        elif one != other:
            counts[_difference(one, other, codec)] += 1
    return Twin(worker=worker, positions=len(ours), **counts)


def _difference(one: Said, other: Said, codec: Codec) -> str:
    a, b = codec.decode(one.value), codec.decode(other.value)
    if isinstance(a, Accepted) and isinstance(b, Accepted):
        if a.revision != b.revision or a.previous_revision != b.previous_revision:
            return "revision"
        if a.changed != b.changed:
            return "changed"
        return "lane" if (one.lane, a.lane) != (other.lane, b.lane) else "other"
    if isinstance(a, Decision) and isinstance(b, Decision) and (a.kind, a.reason) == (b.kind, b.reason):
        return "revision" if a.revision != b.revision else "other"
    return "verdict"


def _command(program: str, folder: Path, *arguments: Path) -> list[str]:
    """How one of the twin's programs is started; fetches and compiles what it needs."""
    if not _SOURCE.is_dir():
        raise LocalPlatformError(f"there is no {_SOURCE}: a peer is measured from a checkout")
    libraries = class_path(JARS, cache_folder())
    own = compiled(_SOURCE, libraries, cache_folder())
    temporary = f"-Djava.io.tmpdir={folder}"  # RocksDB unpacks its library there, and leaves it after a kill
    return [java(), *JVM_OPTIONS, temporary, "-cp", f"{own}:{libraries}", program, *map(str, arguments)]


def _ran(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(  # noqa: S603 (no shell, our own arguments)
            command, capture_output=True, text=True, timeout=ALONE_TIMEOUT_S, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        raise LocalPlatformError(f"the twin did not judge within {ALONE_TIMEOUT_S:g} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith(("Exception", "Caused", "\tat"))]
        raise LocalPlatformError(f"the twin could not judge: {' '.join(lines[:3])}")
    return done.stdout


def _judging(kafka: KafkaSettings, policy: Policy, epochs: Mapping[str, int]) -> dict[str, Any]:
    """What the twin's decision is made from."""
    schemas = newest(shipped_schemas())

    def schema(name: str) -> dict[str, Any]:
        return {"id": schemas[name].id, "schema": json.loads(schemas[name].text)}

    written = {f"{name}_{part}": value for name in ("accepted", "decision") for part, value in schema(name).items()}
    return written | {
        "event_schemas": [schema(f"event.{kind.value}") | {"type": kind.value} for kind in _KINDS.values()],
        "landing": {
            topology.topic(name, kafka.topic_prefix): {"type": kind.value, "epoch": epochs[name], "name": name}
            for name, kind in _KINDS.items()
        },
        "policy": msgspec.json.decode(encode_policy(policy)),
    }


def _serving(stack: Stack, folder: Path) -> dict[str, Any]:
    """Where it writes, and Kafka's options: durability, commits and membership as the other workers have them."""
    kafka = stack.settings.kafka
    lanes = {lane.value: topology.topic(name, kafka.topic_prefix) for lane, name in topology.LANE_TOPICS.items()}
    options: dict[str, str | int] = {
        "application.id": topology.topic(PEER_GROUP, kafka.topic_prefix),
        "bootstrap.servers": kafka.bootstrap_servers,
        "state.dir": str(folder / "state"),
        "num.stream.threads": 1,
        "processing.guarantee": "at_least_once",
        "commit.interval.ms": round(COMMIT_INTERVAL_S * 1000),
        "statestore.cache.max.bytes": CACHE_BYTES,
        "enable.metrics.push": "false",
        "group.instance.id": STREAMS,
        "session.timeout.ms": round(SESSION_S * 1000),
        "producer.acks": "all",
        "producer.enable.idempotence": "true",
        "producer.linger.ms": str(LINGER_MS),
        "producer.compression.type": str(PRODUCER_TUNING["compression.type"]),
        "producer.batch.size": BATCH_BYTES,
    }
    accepted, decisions = (topology.topic(name, kafka.topic_prefix) for name in (topology.ACCEPTED, topology.DECISIONS))
    return {"outputs": {"accepted": accepted, "decisions": decisions, **lanes}, "options": options}
