"""What can't be judged is kept with its reason, or ends the process: never skipped, and it hides nothing behind it."""

from pathlib import Path

import msgspec
import pytest

from pipeline.domain.event import sealed
from pipeline.domain.identifiers import EntityKey, EventId, Millis
from pipeline.domain.records import Control, ControlKind, Quarantined, Reason
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from pipeline.ops.topics import KafkaTopics
from pipeline.stream.judging.gate import KEY_BOUND, POLICY_KEY
from pipeline.stream.worker.outputs import EXIT_NOT_DURABLE
from pipeline.topology import ACCEPTED, GATE_APP, LANDING, QUARANTINE
from tests.hazards.faulty import Strike
from tests.hazards.harness import CODEC, OWNER, STATES, Site, now_ms, site, until

BED = LANDING[next(t for t in LANDING if t.value == "bed")]
STAFFING = LANDING[next(t for t in LANDING if t.value == "staffing")]


def poison(to: Site) -> list[tuple[Reason, tuple[str, bytes | None, bytes | None]]]:
    good = to.bed("ICU/1/A", STATES[1])
    key, value = good.key.encode(), CODEC.encode(good)
    nameless = CODEC.encode(msgspec.structs.replace(good, facility=""))
    tomorrow = sealed(msgspec.structs.replace(good, recorded_at=Millis(good.recorded_at + 86_400_000)))
    policy = Control(kind=ControlKind.POLICY, event_id=EventId("0" * 32), actor="hazards", at=now_ms(), policy="{}")
    return [
        (Reason.UNDECODABLE, (BED, key, b"not avro")),
        (Reason.UNDECODABLE, (BED, key, b"")),
        (Reason.UNDECODABLE, (BED, key, value[:-7])),
        (Reason.UNKNOWN_SCHEMA, (BED, key, b"\x00\x7f\xff\xff\xf0" + value[5:])),
        (Reason.OVERSIZE, (BED, key, value + b"\x00" * 950_000)),
        (Reason.NULL_KEY, (BED, None, value)),
        (Reason.NULL_VALUE, (BED, key, None)),
        (Reason.BAD_KEY, (BED, b"ICU-1", value)),
        (Reason.BAD_KEY, (BED, b"\xff\xfe\x00", value)),
        (Reason.BAD_KEY, (BED, b"k" * (KEY_BOUND + 1), value)),
        (Reason.BAD_KEY, (BED, POLICY_KEY, value)),
        (Reason.BAD_KEY, (BED, key, CODEC.encode(policy))),
        (Reason.WRONG_TOPIC, (STAFFING, key, value)),
        (Reason.KEY_MISMATCH, (BED, EntityKey(to.tenant, "bed", "GENERAL", "ICU/2/A").encode(), value)),
        (Reason.MISSING_FIELD, (BED, key, nameless)),
        (Reason.FUTURE_TIME, (BED, key, CODEC.encode(tomorrow))),
    ]


@pytest.mark.timeout(200)
def test_each_kind_of_broken_record_is_quarantined_by_its_reason_and_what_is_behind_it_goes_on(
    broker: Broker, owner: Ehr, tmp_path: Path
) -> None:
    with site(tmp_path / "s", broker.bootstrap, {OWNER: owner.base_url}) as to:
        to.start_all(("gate",), ("writer", OWNER))
        to.publish(to.bed("ICU/1/A", STATES[0]))
        broken = poison(to)
        to.append([record for _, record in broken])
        behind = [to.bed(f"ICU/{n}/A", STATES[2]) for n in range(16)]  # in every partition
        to.publish(*behind)
        to.wait_judged(*(event.event_id for event in behind))
        until(lambda: len(to.records(QUARANTINE)) >= len(broken), "all broken ones are quarantined")
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
        to.start_all(("gate",), ("writer", OWNER))
        key = to.key("ICU/1/A")
        to.append([("lane.urgent", key, b"\x00rubbish"), ("outcomes", key, None), ("lane.bulk", None, b"")])
        to.publish(to.bed("ICU/1/A", STATES[0]))
        head = to.wait_head("ICU/1/A")
        to.wait_confirmed(head)
        mislaid = CODEC.encode(head)
        to.append([("lane.urgent", to.key("ICU/2/A"), mislaid), ("outcomes", key, mislaid), ("lane.urgent", key, mislaid)])
        to.publish(to.bed("ICU/1/A", STATES[1]), to.bed("ICU/2/A", STATES[1]))
        to.wait_confirmed(to.wait_head("ICU/1/A", previous=1))
        to.wait_confirmed(to.wait_head("ICU/2/A"))
        until(lambda: len(to.records(QUARANTINE)) == 5, "five quarantined: the last is a repeat of what is known")
        reasons = sorted(record.reason for _, record in to.records(QUARANTINE) if isinstance(record, Quarantined))
        wanted = [Reason.UNKNOWN_SCHEMA, Reason.NULL_VALUE, Reason.UNDECODABLE, Reason.KEY_MISMATCH, Reason.WRONG_TOPIC]
        assert reasons == sorted(wanted)
        assert all(o.revision >= head.revision for o in to.outcomes() if o.entity_id == "ICU/1/A")


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
