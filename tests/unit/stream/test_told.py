"""What agents say of what they met: records out of place, forks, foreign writers, outputs that are not durable."""

from collections import Counter, defaultdict
from types import SimpleNamespace
from typing import Any, Final, cast

import msgspec
import pytest

from pipeline.destinations.protocol import Destination
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Lane, Quarantined, Reason
from pipeline.formats.avro import Codec
from pipeline.ops import log_catalogue as lines
from pipeline.ops.log_catalogue import LogEvent
from pipeline.ops.metrics import REGISTRY
from pipeline.roles.policies import policy_records
from pipeline.stream.judging import foreign as foreign_module
from pipeline.stream.judging import gate as gate_module
from pipeline.stream.judging.gate import POLICY_KEY, Destinations, GateWork
from pipeline.stream.worker import outputs as outputs_module
from pipeline.stream.worker.batch import PartitionBatch
from pipeline.stream.worker.outputs import EXIT_NOT_DURABLE, Outputs
from pipeline.stream.worker.store import POSITIONS_KEY, BatchStore
from pipeline.stream.writing import agent as writer_module
from pipeline.stream.writing.agent import WriterWork
from pipeline.stream.writing.delivery import Delivery
from tests.support.policies import shipped_policy
from tests.unit.stream.test_attack_records import BED, KEY, Changes, Sent

CODEC: Final = Codec.shipped()
PREFIX: Final = "mercy."

Said = list[tuple[LogEvent, dict[str, Any]]]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    kept: Said = []
    for module in (foreign_module, gate_module, outputs_module, writer_module):
        monkeypatch.setattr(module, "emit", lambda line, **fields: kept.append((line, fields)))
    return kept


def record(key: bytes, value: bytes, offset: int = 9) -> Any:
    topic = f"{PREFIX}lane.routine"
    return SimpleNamespace(topic=topic, partition=0, offset=offset, key=key, value=value, timestamp=1_800_000_000_000)


def folded(*records: Any) -> list[Quarantined]:
    """What a writer of a cluster with a prefix keeps aside."""
    empty: Any = SimpleNamespace(get=lambda keys: [None] * len(keys))
    destination = cast(Destination, SimpleNamespace(name="ehr", expects=lambda _: True))
    quarantine, sent = f"{PREFIX}quarantine", Sent()
    work = WriterWork(
        CODEC,
        destination,
        cast(Delivery, Changes()),
        dict.fromkeys(Lane, 60.0),
        f"{PREFIX}outcomes",
        quarantine,
        lambda data, _: data,
        PREFIX,
    )
    work.judge(PartitionBatch(0, empty, list(records)), cast(Outputs, sent))
    assert all(topic == quarantine and b"mercy" not in (key or b"") for topic, key, _ in sent.records)
    return [cast(Quarantined, CODEC.decode(value)) for _, _, value in sent.records]


def test_a_record_kept_aside_names_its_topic_as_the_map_does(said: Said) -> None:
    (kept,) = folded(record(KEY, b"no Avro"))
    assert kept.topic == "lane.routine"
    ((line, fields),) = said
    assert line is lines.WRITER_QUARANTINED
    assert (fields["topic"], fields["offset"], fields["reason"]) == ("lane.routine", 9, kept.reason.value)


def test_two_states_of_one_revision_are_an_error_in_the_log_and_counted(said: Said) -> None:
    before = REGISTRY.get_sample_value("surgeline_forks_total", {"found": "state"}) or 0
    other = msgspec.structs.replace(BED, state_hash="f" * len(BED.state_hash or "f"))
    (kept,) = folded(record(KEY, CODEC.encode(BED)), record(KEY, CODEC.encode(other), 10))
    assert kept.reason is Reason.FORK
    assert [line for line, _ in said] == [lines.WRITE_FORK, lines.WRITER_QUARANTINED]
    assert said[0][1]["revision"] == BED.revision
    assert all(set(fields) <= line.fields for line, fields in said)
    assert REGISTRY.get_sample_value("surgeline_forks_total", {"found": "state"}) == before + 1


def test_a_changelog_record_that_comes_after_a_later_one_is_noticed_and_one_in_order_is_not() -> None:
    store: Any = SimpleNamespace(latest_of=max, regressed=defaultdict(set), late=Counter())
    empty: Any = SimpleNamespace(get=lambda keys: [None] * len(keys))

    def message(key: bytes, value: bytes) -> Any:
        return SimpleNamespace(key=key, value=value)

    joined = BatchStore._joined(store, 0, empty, [message(b"a", b"1"), message(b"a", b"2"), message(b"b", b"1")])
    assert (joined, store.late[0]) == ({b"a": b"2", b"b": b"1"}, 0)
    BatchStore._joined(store, 0, empty, [message(b"a", b"2"), message(b"a", b"1"), message(b"b", b"3")])
    assert (store.late[0], store.regressed[0]) == (1, {b"a"})
    BatchStore._joined(store, 1, empty, [message(POSITIONS_KEY, b"2"), message(POSITIONS_KEY, b"1")])
    assert store.late[1] == 0


def test_a_policy_is_told_of_where_it_takes_effect_and_not_again_when_its_record_is_redelivered(said: Said) -> None:
    policy, store = shipped_policy(), dict[bytes, bytes]()
    topics = Destinations(
        "accepted", "decisions", "quarantine", {}, {"mercy.landing.bed": EntityType.BED}, {"mercy.landing.bed": 1}
    )
    gate = GateWork(CODEC, topics, policy, lambda data, _: data, 900_000, lambda _: None)
    value = policy_records(policy, CODEC, "operator:rosa", "a test", Millis(1))[0].value
    order = SimpleNamespace(
        topic="mercy.landing.bed", partition=0, offset=7, key=POLICY_KEY, value=value, timestamp=1_800_000_000_000
    )

    def get(key: Any) -> Any:
        return [store.get(each) for each in key] if isinstance(key, list) else store.get(key)

    for _ in range(2):
        db: Any = SimpleNamespace(get=get)
        batch = PartitionBatch(0, db, [order])
        gate.judge(batch, cast(Outputs, Sent()))
        store.update(batch.puts)
    assert said == [
        (lines.POLICY_APPLIED, {"version": policy.version, "topic": "landing.bed", "partition": 0, "offset": 7}),
    ]


def test_outputs_that_nobody_acknowledges_are_logged_before_the_process_ends(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended(Exception):
        pass

    def die(code: int) -> None:
        assert code == EXIT_NOT_DURABLE
        raise Ended

    monkeypatch.setattr(outputs_module, "die", die)
    monkeypatch.setattr(outputs_module, "FLUSH_S", 0.1)
    outputs = Outputs({"bootstrap.servers": "127.0.0.1:1", "log_level": 0})
    outputs.send("lane.routine", 0, b"k", b"v")
    with pytest.raises(Ended):
        outputs.flush()
    assert said == [(lines.PUBLISH_FAILED, {"reason": "TIMED_OUT", "count": 1})]
    outputs._producer.purge()


def test_a_changelog_that_nobody_acknowledges_ends_the_process_as_well(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended(Exception):
        pass

    def die(_: int) -> None:
        raise Ended

    monkeypatch.setattr(outputs_module, "die", die)
    monkeypatch.setattr(outputs_module, "FLUSH_S", 0.1)
    outputs = Outputs({"bootstrap.servers": "127.0.0.1:1", "log_level": 0})
    outputs.log("heads-changelog", 0, b"k", b"v")
    outputs.flush()
    with pytest.raises(Ended):
        outputs.flush_log()
    assert said == [(lines.PUBLISH_FAILED, {"reason": "TIMED_OUT", "count": 1})]
    outputs._log.purge()


def test_a_failed_output_is_told_although_no_success_is(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended(Exception):
        pass

    def die(_: int) -> None:
        raise Ended

    monkeypatch.setattr(outputs_module, "die", die)
    impatient = {"bootstrap.servers": "127.0.0.1:1", "log_level": 0, "delivery.timeout.ms": 200, "linger.ms": 0}
    outputs = Outputs(impatient)
    outputs.send("lane.routine", 0, b"k", b"v")
    with pytest.raises(Ended):
        outputs.flush()
    assert said == [(lines.PUBLISH_FAILED, {"reason": "TIMED_OUT", "count": 1})]
