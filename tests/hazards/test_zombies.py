"""A process that was stopped past its session and resumed does no harm that lasts."""

import signal
from pathlib import Path

import pytest

from pipeline.domain.head import HEAD_VERSION, decode_head
from pipeline.domain.identifiers import partition_of
from pipeline.kafka.reader import read_topic
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from pipeline.ops.watchdog import JUMPED_CODE
from pipeline.stream.worker.outputs import EXIT_FOREIGN_WRITER
from pipeline.topology import ENTITY_PARTITIONS, GATE_CHANGELOG
from tests.hazards.faulty import Strike
from tests.hazards.harness import OWNER, STATES, Site, site, until

BEDS = tuple(f"Z/{n}/A" for n in range(10))


def positions_of_heads(to: Site) -> list[tuple[bytes, int]]:
    """Each head record of the gate's changelog, in order within a partition."""
    return [
        (m.key, decode_head(m.value).at)
        for m in read_topic(to.kafka, GATE_CHANGELOG)
        if m.key and m.value and m.value[0] == HEAD_VERSION
    ]


def is_regressed(to: Site) -> bool:
    """Whether the last head record of some key is not its latest."""
    last: dict[bytes, int] = {}
    best: dict[bytes, int] = {}
    for key, at in positions_of_heads(to):
        last[key], best[key] = at, max(at, best.get(key, 0))
    return last != best


def one_in_each_partition(to: Site) -> list[str]:
    """Beds that no other part of the test speaks of."""
    found = {partition_of(to.key(f"Y/{n}/A"), ENTITY_PARTITIONS): f"Y/{n}/A" for n in range(200)}
    assert len(found) == ENTITY_PARTITIONS
    return list(found.values())


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "unfenced", [pytest.param(False, id="watchdog", marks=pytest.mark.long), pytest.param(True, id="fence-alone")]
)
def test_a_zombie_writer_never_takes_the_ehr_back(broker: Broker, owner: Ehr, tmp_path: Path, unfenced: bool) -> None:
    with site(tmp_path / "s", broker.bootstrap, {OWNER: owner.base_url}) as to:
        to.start("gate")
        zombie = to.start("writer", OWNER, with_faults=True, unfenced=unfenced)
        to.publish(*(to.bed(bed, STATES[0]) for bed in BEDS))
        until(lambda: len([o for o in to.outcomes() if o.kind.value == "CONFIRMED"]) == len(BEDS), "all beds at the EHR")
        to.arm(zombie, Strike("send", "stop"))  # it has read, and is about to send
        to.publish(*(to.bed(bed, STATES[1]) for bed in BEDS))
        to.wait_struck(zombie)
        heir = to.start("writer", OWNER, instance="b", wait=False)
        until(lambda: len(to.share("b")) == 8, "the other writer has all partitions")
        to.publish(*(to.bed(bed, STATES[2]) for bed in BEDS))
        for head in [to.wait_head(bed, previous=2) for bed in BEDS]:
            to.wait_confirmed(head)
        to.signal(zombie, signal.SIGCONT)
        if not unfenced:
            assert to.exit_code(zombie) == JUMPED_CODE
        with to.supervised(heir):  # it ends, to recover, where it sees that the zombie wrote to its changelog
            to.publish(*(to.bed(bed, STATES[3]) for bed in BEDS))
            to.settle()


@pytest.mark.timeout(290)
def test_old_heads_that_a_zombie_gate_writes_are_noticed_and_put_right(broker: Broker, owner: Ehr, tmp_path: Path) -> None:
    with site(tmp_path / "s", broker.bootstrap, {OWNER: owner.base_url}) as to:
        to.start("writer", OWNER)
        zombie = to.start("gate", with_faults=True, unfenced=True)
        to.publish(*(to.bed(bed, STATES[0]) for bed in BEDS))
        for bed in BEDS:
            to.wait_head(bed)
        to.arm(zombie, Strike("outputs", "stop"))  # its next step is to write its heads
        to.publish(*(to.bed(bed, STATES[1]) for bed in BEDS))
        to.wait_struck(zombie)
        heir = to.start("gate", instance="b", wait=False)
        until(lambda: to.is_ready(heir), "the other gate is ready")
        last = [to.bed(bed, STATES[2]) for bed in BEDS]
        to.publish(*last)
        to.wait_judged(*(event.event_id for event in last))
        to.signal(zombie, signal.SIGCONT)
        assert to.exit_code(zombie) == EXIT_FOREIGN_WRITER, "it saw that another had written, after it had written"
        assert is_regressed(to), "the zombie's old heads are the last records of their keys"
        with to.supervised(heir):
            to.publish(*(to.bed(bed, STATES[0]) for bed in one_in_each_partition(to)))
            until(lambda: (heir, EXIT_FOREIGN_WRITER) in to.exits, "the foreign writer is noticed")
            until(lambda: not is_regressed(to), "the heads are put again")
        to.kill(heir)
        to.wipe(heir)
        to.start("gate", instance="b")
        to.publish(*last)  # known to the heads, if these are the latest
        books = to.settle()
        assert sum(topic.decided.get("DUPLICATE", 0) for topic in books.topics) == len(last)


@pytest.mark.long
@pytest.mark.timeout(200)
def test_a_stopped_gate_ends_when_it_resumes_and_loses_nothing(broker: Broker, owner: Ehr, tmp_path: Path) -> None:
    with site(tmp_path / "s", broker.bootstrap, {OWNER: owner.base_url}) as to:
        to.start("writer", OWNER)
        zombie = to.start("gate")
        to.publish(*(to.bed(bed, STATES[0]) for bed in BEDS))
        to.signal(zombie, signal.SIGSTOP)
        to.publish(*(to.bed(bed, STATES[1]) for bed in BEDS))
        to.start("gate", instance="b", wait=False)
        events = [to.bed(bed, STATES[2]) for bed in BEDS]
        to.publish(*events)
        to.wait_judged(*(event.event_id for event in events))
        to.signal(zombie, signal.SIGCONT)
        assert to.exit_code(zombie) == JUMPED_CODE
        to.settle()
