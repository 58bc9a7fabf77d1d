"""The plain path of the gate on a real broker: the same topics as by batches, but for the time at which a record landed."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline import topology
from pipeline.domain.records import Accepted, Decision
from pipeline.local.bench.gate.load import Landed, Landing
from pipeline.local.bench.gate.run import load_landing, through
from pipeline.local.stack import Stack, wait_for
from pipeline.ops.topics import KafkaTopics, decoded
from pipeline.roles.process import now_ms
from pipeline.stream.worker.store import RESERVED
from tests.support.stacks import ANSWER_S, CODEC, stack_at, stopped_at_end

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]

OUTPUTS = (topology.ACCEPTED, topology.DECISIONS, *topology.LANE_TOPICS.values())
ENTITIES, RECORDS = 30, 300


def test_one_record_at_a_time_writes_what_batches_write(broker: Any, tmp_path: Path) -> None:
    landing, now = Landing(ENTITIES, CODEC), now_ms()
    records = [*landing.first(now), *landing.more(RECORDS, now)]
    written = []
    for one_by_one in (False, True):
        folder = tmp_path / str(one_by_one)
        with stopped_at_end(stack_at(folder, broker.bootstrap, overrides={"gate": {"one_by_one": one_by_one}})) as stack:
            written.append(judged(stack, landing, records))
    batches, plain = written
    assert sum(len(told) for (topic, _, _), told in plain.items() if topic in OUTPUTS[:2]) == len(records)
    assert plain == batches


def judged(stack: Stack, landing: Landing, records: list[Landed]) -> dict[tuple[str, int, bytes | None], list[Any]]:
    """What a gate writes for the records, in the order of each entity; of its table, the last value of each key.

    In which order the records of two landing topics are taken is nobody's promise.
    """
    load_landing(stack.settings.kafka, records)
    stack.start("gate")
    topics = KafkaTopics(stack.settings.kafka)
    wait_for(lambda: through(topics, topology.GATE_APP, landing.ends), 2 * ANSWER_S, "the gate at the end")
    found: dict[tuple[str, int, bytes | None], list[Any]] = {}
    for topic in OUTPUTS:
        for message in topics.read(topic, topics.begin(topic), topics.end(topic)):
            found.setdefault((topic, message.partition, message.key), []).append(timeless(decoded(CODEC, message)))
    last: dict[tuple[int, bytes | None], bytes | None] = {}
    for message in topics.read(topology.GATE_CHANGELOG, {}, topics.end(topology.GATE_CHANGELOG)):
        last[message.partition, message.key] = message.value
    heads = {place: value for place, value in last.items() if place[1] and not place[1].startswith(RESERVED)}
    found |= {("heads", partition, key): [value] for (partition, key), value in heads.items()}
    return found


def timeless(record: Any) -> Any:
    """Without the time at which it landed, which the broker of each run says anew."""
    match record:
        case Accepted():
            return msgspec.structs.replace(record, accepted_at=0)
        case Decision():
            return msgspec.structs.replace(record, decided_at=0)
    raise AssertionError(type(record).__name__)
