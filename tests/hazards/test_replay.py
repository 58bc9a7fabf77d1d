"""A policy holds from its position on; what is delivered again is judged by the policy under which it was judged first."""

from itertools import count
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Producer

from pipeline.domain.event import EntityType, Event, sealed
from pipeline.domain.identifiers import partition_of
from pipeline.domain.judging.policy import Policy, System
from pipeline.domain.records import DecisionKind, Reason
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from pipeline.roles.policies import load_policy, policy_records
from pipeline.topology import ENTITY_PARTITIONS, LANDING
from tests.hazards.faulty import Strike
from tests.hazards.harness import ANSWER_S, CODEC, OWNER, STATES, Site, now_ms, site

STRANGER = "boardwatch"
"""A system that the shipped policy does not name: it may say nothing."""

BEDS = LANDING[EntityType.BED]


def partition(to: Site, bed: str) -> int:
    return partition_of(to.key(bed), ENTITY_PARTITIONS)


def stranger_says(to: Site, bed: str) -> Event:
    return sealed(msgspec.structs.replace(to.bed(bed, STATES[0]), source_system=STRANGER))


def put_into_force(to: Site, policy: Policy, where: int) -> None:
    """Append the policy to one partition of the beds' landing topic."""
    order = next(
        record
        for record in policy_records(policy, CODEC, "hazards", "a test", now_ms())
        if record.topic == BEDS and record.partition == where
    )
    producer = Producer(dict(to.kafka.producer_config()))
    producer.produce(to.kafka.topic_prefix + BEDS, order.value, order.key, where)
    assert producer.flush(ANSWER_S) == 0


@pytest.mark.timeout(240)
def test_a_policy_holds_from_its_position_on_and_a_redelivery_is_judged_by_the_policy_of_then(
    broker: Broker, owner: Ehr, tmp_path: Path
) -> None:
    with site(tmp_path / "s", broker.bootstrap, {OWNER: owner.base_url}) as to:
        where = partition(to, "P/0/A")
        after = next(bed for n in count(1) if partition(to, bed := f"P/{n}/A") == where)
        elsewhere = next(bed for n in count(1) if partition(to, bed := f"P/{n}/A") != where)
        shipped = load_policy()
        wider = msgspec.structs.replace(shipped, version="wider", systems=(*shipped.systems, System(STRANGER, "capacity")))
        # All in one batch: an entity of which nothing is kept, so that only the policies' history can tell.
        before, then, other = stranger_says(to, "P/0/A"), stranger_says(to, after), stranger_says(to, elsewhere)
        to.publish(before)
        put_into_force(to, wider, where)
        to.publish(then)
        for wiped in (False, True):
            gate = "gate-0"
            to.arm(gate, Strike("store", "kill"))  # the table and its changelog know the new policy, nothing is committed
            to.start("gate", with_faults=True, wait=False)
            to.wait_struck(gate)
            assert to.exit_code(gate) == -9
            if wiped:
                to.wipe(gate)
        to.start("gate", wait=False)
        to.start("writer", OWNER)
        to.publish(other)
        to.wait_judged(before.event_id, then.event_id, other.event_id)
        books = to.settle()
        told = [d for d in to.decisions() if d.event_id == before.event_id]
        assert len(told) >= 2, "it was delivered again"
        assert {(d.kind, d.reason, d.policy_version) for d in told} == {
            (DecisionKind.NOT_OWNER, Reason.UNKNOWN_SOURCE, shipped.version)
        }
        assert to.wait_head(after, then.event_id).policy_version == "wider"
        assert [d.policy_version for d in to.decisions() if d.event_id == other.event_id] == [shipped.version]
        assert sum(topic.decided.get("CONTROL", 0) for topic in books.topics) == 1
