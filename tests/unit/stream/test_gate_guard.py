"""A guard of what a decision costs: beside fastavro, which reads and writes the same records in the same run.

Processor time against processor time, turn by turn, the best of several turns: a busy machine slows both.
"""

import io
import json
import time
from collections.abc import Callable

from fastavro import parse_schema, schemaless_reader, schemaless_writer

from pipeline.domain.event import Event
from pipeline.domain.head import Head, decode_head, encode_head
from pipeline.domain.identifiers import Millis
from pipeline.domain.judging.gate import Accept, Position, decide
from pipeline.formats.avro import Codec
from pipeline.formats.avro.codec import HEADER_BYTES
from pipeline.formats.avro.shipped import newest, shipped_schemas
from pipeline.local.bench.gate.load import Landed, Landing
from pipeline.roles.policies import load_policy
from pipeline.topology import LANDING

ENTITIES, RECORDS, TURNS = 50, 400, 7
BOUND = 1.2
"""Times what fastavro needs to read the event and to write the accepted record: 0.5 times when this was written."""

CODEC = Codec.shipped()
POLICY = load_policy()
TYPES = {name: kind for kind, name in LANDING.items()}


def test_a_decision_costs_no_more_than_fastavro_needs_to_read_and_write_its_records() -> None:
    landing = Landing(ENTITIES, CODEC)
    heads: dict[bytes, bytes] = {}
    judge(landing.first(Millis(1_800_000_000_000)), heads)
    cases = [case(record, heads) for record in landing.more(RECORDS, Millis(1_800_000_000_001))]
    schemas = {name: parse_schema(json.loads(schema.text)) for name, schema in newest(shipped_schemas()).items()}
    told = [
        schemaless_reader(io.BytesIO(encoded[HEADER_BYTES:]), schemas["accepted"], None) for _, _, encoded in cases if encoded
    ]

    def ours() -> None:
        for record, head, _ in cases:
            judge([record], {record.key: head} if head is not None else {})

    def peers() -> None:
        for record, _, _ in cases:
            name = f"event.{TYPES[record.topic].value}"
            schemaless_reader(io.BytesIO(record.value[HEADER_BYTES:]), schemas[name], None)
        for record_of in told:
            schemaless_writer(io.BytesIO(), schemas["accepted"], record_of)

    best = [min(turn) for turn in zip(*((cost(ours), cost(peers)) for _ in range(TURNS)), strict=True)]
    assert best[0] <= BOUND * best[1], f"{best[0] / best[1]:.2f} times fastavro"


def case(record: Landed, heads: dict[bytes, bytes]) -> tuple[Landed, bytes | None, bytes]:
    """A record, the head that it meets, and the accepted record that it makes; empty where it is suppressed."""
    before = heads.get(record.key)
    return record, before, judge([record], heads)


def judge(records: list[Landed], heads: dict[bytes, bytes]) -> bytes:
    """Read, decide and write; what the last record made."""
    encoded = b""
    for record in records:
        event = CODEC.decode(record.value)
        assert isinstance(event, Event)
        known = heads.get(record.key)
        head: Head | None = decode_head(known) if known is not None else None
        at = Position(TYPES[record.topic], 1, record.partition, record.offset, Millis(record.timestamp))
        verdict = decide(head, at, record.key, event, POLICY)
        assert not isinstance(verdict, Event)
        encoded = CODEC.encode(verdict.accepted) if isinstance(verdict, Accept) else b""
        new = getattr(verdict, "head", None)
        if new is not None:
            heads[record.key] = encode_head(new)
    return encoded


def cost(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began
