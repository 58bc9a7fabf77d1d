"""From one worker to two and back to one while the EHR hangs: the group comes to rest, and everybody else's beds go on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupState
from confluent_kafka.admin import AdminClient

from pipeline.domain.event import Event
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from pipeline.local.servers.faults import Fault, FaultKind
from pipeline.ops.topics import GROUP_TIMEOUT_S
from pipeline.topology import ENTITY_PARTITIONS, GATE_APP, writer_app
from tests.hazards.at_ehr import proxied
from tests.hazards.harness import OWNER, STATES, Site, site, until

STABLE_S = 120.0
LOOKS = 3
"""A group is at rest if this many looks in a row show it so."""

BEDS = tuple(f"S/{n}/A" for n in range(16))
HANG = Fault(kind=FaultKind.LATENCY, methods=("PUT",), amount=600, times=3)


def shares(to: Site, app: str) -> dict[str, set[int]] | None:
    """Partitions by instance, while the group is stable."""
    name = to.kafka.topic_prefix + app
    admin = AdminClient(dict[str, Any](to.kafka.client_config()))  # kept until the answer is there, which it hands over
    group = admin.describe_consumer_groups([name], request_timeout=GROUP_TIMEOUT_S)[name].result(2 * GROUP_TIMEOUT_S)
    if group.state is not ConsumerGroupState.STABLE:
        return None
    return {
        (member.group_instance_id or "").rpartition("-")[2]: {at.partition for at in member.assignment.topic_partitions}
        for member in group.members
    }


def at_rest(to: Site, app: str, *instances: str) -> Callable[[], bool]:
    """Whether these alone share all partitions, each at least one, no two the same; several looks in a row."""
    looks: list[bool] = []

    def look() -> bool:
        found = shares(to, app) or {}
        disjoint = sum(map(len, found.values())) == ENTITY_PARTITIONS == len(set().union(*found.values()))
        looks.append(set(found) == set(instances) and all(found.values()) and disjoint)
        return len(looks) >= LOOKS and all(looks[-LOOKS:])

    return look


def wait_at_rest(to: Site, *instances: str) -> None:
    for app in (GATE_APP, writer_app(OWNER)):
        until(at_rest(to, app, *instances), f"{app} at rest with {len(instances)}", STABLE_S)


def wait_all_confirmed(to: Site, events: list[Event]) -> None:
    wanted = {event.event_id for event in events}
    until(lambda: wanted <= {o.event_id for o in to.outcomes() if o.kind.value == "CONFIRMED"}, "all of them at the EHR")


@pytest.mark.long
@pytest.mark.timeout(290)
def test_one_to_two_to_one_workers_while_the_ehr_hangs_come_to_rest_and_the_others_beds_go_on(
    broker: Broker, owner: Ehr, tmp_path: Path
) -> None:
    with (
        proxied(owner, tmp_path / "p") as proxy,
        site(tmp_path / "s", broker.bootstrap, {OWNER: proxy.url}, writers={OWNER: {"attempt_timeout_s": 100}}) as to,
    ):
        to.start_all(("gate",), ("writer", OWNER))
        first = [to.bed(bed, STATES[0]) for bed in BEDS]
        to.publish(*first)
        wait_all_confirmed(to, first)
        proxy.set(HANG)
        to.publish(*(to.bed(bed, STATES[1]) for bed in BEDS[:3]))
        until(lambda: proxy.struck() == 3, "three writes that hang")

        to.start("gate", instance="b", wait=False)
        to.start("writer", OWNER, instance="b", wait=False)
        wait_at_rest(to, "0", "b")
        others = [to.bed(bed, STATES[1]) for bed in BEDS[3:]]
        to.publish(*others)
        wait_all_confirmed(to, others)

        to.kill("gate-0")
        to.stop(f"writer-{OWNER}-0")  # it held the writes that hang
        wait_at_rest(to, "b")
        last = [to.bed(bed, STATES[2]) for bed in BEDS]
        to.publish(*last)
        wait_all_confirmed(to, last)
        to.settle(ehrs={OWNER: owner.base_url})
