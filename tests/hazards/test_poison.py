"""What can't be judged is kept with its reason, or ends the process: never skipped, and it hides nothing behind it."""

from pathlib import Path

import msgspec
import pytest

from pipeline.domain.identifiers import EntityKey
from pipeline.domain.records import Quarantined, Reason
from pipeline.local.broker import Broker
from pipeline.local.ehr import Ehr
from pipeline.ops.topics import KafkaTopics
from pipeline.stream.outputs import EXIT_NOT_DURABLE
from pipeline.topology import ACCEPTED, GATE_APP, LANDING, QUARANTINE
from tests.hazards.faulty import Strike
from tests.hazards.harness import CODEC, OWNER, STATES, Site, site, until

BED = LANDING[next(t for t in LANDING if t.value == "bed")]
STAFFING = LANDING[next(t for t in LANDING if t.value == "staffing")]


def poison(to: Site) -> list[tuple[Reason, tuple[str, bytes | None, bytes | None]]]:
    good = to.bed("ICU/1/A", STATES[1])
    key, value = good.key.encode(), CODEC.encode(good)
    nameless = CODEC.encode(msgspec.structs.replace(good, facility=""))
    return [
        (Reason.UNDECODABLE, (BED, key, b"\x00not avro")),
        (Reason.UNDECODABLE, (BED, key, b"")),
        (Reason.UNDECODABLE, (BED, key, value[:-7])),
        (Reason.UNKNOWN_SCHEMA, (BED, key, b"\x00\x7f\xff\xff\xf0" + value[5:])),
        (Reason.OVERSIZE, (BED, key, value + b"\x00" * 950_000)),
        (Reason.NULL_KEY, (BED, None, value)),
        (Reason.NULL_VALUE, (BED, key, None)),
        (Reason.BAD_KEY, (BED, b"ICU-1", value)),
        (Reason.WRONG_TOPIC, (STAFFING, key, value)),
        (Reason.KEY_MISMATCH, (BED, EntityKey(to.tenant, "bed", "GENERAL", "ICU/2/A").encode(), value)),
        (Reason.MISSING_FIELD, (BED, key, nameless)),
    ]


@pytest.mark.timeout(200)
def test_each_kind_of_broken_record_is_quarantined_by_its_reason_and_what_is_behind_it_goes_on(
    broker: Broker, owner: Ehr, tmp_path: Path
) -> None:
    with site(tmp_path / "s", broker.bootstrap, {OWNER: owner.base_url}) as to:
        to.start("gate")
        to.start("writer", OWNER)
        to.publish(to.bed("ICU/1/A", STATES[0]))
        broken = poison(to)
        to.append([record for _, record in broken])
        behind = to.bed("ICU/1/A", STATES[2])
        to.publish(behind)
        to.wait_judged(behind.event_id)
        kept = [record for _, record in to.records(QUARANTINE) if isinstance(record, Quarantined)]
        assert sorted(record.reason for record in kept) == sorted(reason for reason, _ in broken)
        assert all(record.rule and record.remedy for record in kept)
        books = to.settle()
        assert sum(topic.decided.get("QUARANTINED", 0) for topic in books.topics) == len(broken)


@pytest.mark.timeout(200)
def test_a_record_of_nobody_in_the_writers_topics_is_parked_and_holds_up_nothing(
    broker: Broker, owner: Ehr, tmp_path: Path
) -> None:
    with site(tmp_path / "s", broker.bootstrap, {OWNER: owner.base_url}) as to:
        to.start("gate")
        to.start("writer", OWNER)
        key = to.key("ICU/1/A")
        to.append([("lane.urgent", key, b"\x00rubbish"), ("outcomes", key, None), ("lane.bulk", None, b"")])
        to.publish(to.bed("ICU/1/A", STATES[0]))
        to.wait_confirmed(to.wait_head("ICU/1/A").revision)
        until(lambda: len(to.records(QUARANTINE)) == 3, "three quarantined")


@pytest.mark.timeout(200)
def test_an_exception_in_the_agent_ends_the_process_before_anything_is_committed(
    broker: Broker, owner: Ehr, tmp_path: Path
) -> None:
    with site(tmp_path / "s", broker.bootstrap, {OWNER: owner.base_url}) as to:
        name = to.start("gate", with_faults=True)
        to.publish(to.bed("ICU/1/A", STATES[0]))
        to.wait_head("ICU/1/A")
        to.arm(name, Strike("judge", "raise"))
        to.publish(*(to.bed(f"ICU/{n}/A", STATES[1]) for n in range(8)))
        to.wait_struck(name)
        assert to.exit_code(name) == EXIT_NOT_DURABLE
        committed = KafkaTopics(to.kafka).committed(GATE_APP)
        judged = {(a.partition, a.offset) for a in to.accepted()}
        for (topic, partition), offset in committed.items():
            if topic == BED:
                assert all((partition, before) in judged for before in range(offset)), "committed and not judged"
        assert len(to.records(ACCEPTED)) < 9
        to.start("gate", with_faults=True)
        to.start("writer", OWNER)
        to.settle()
