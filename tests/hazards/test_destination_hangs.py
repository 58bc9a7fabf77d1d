"""A destination that hangs holds up its own entities and nothing else: not the offsets, not the group, not the others."""

import time
from pathlib import Path

import pytest

from pipeline.domain.writing.pending import PENDING_VERSION, Pending, decode_pending
from pipeline.kafka.reader import read_topic
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from pipeline.local.servers.faults import Fault, FaultKind
from pipeline.ops.topics import KafkaTopics
from pipeline.topology import LANE_TOPICS, writer_app, writer_changelog
from tests.hazards.at_ehr import proxied
from tests.hazards.harness import OWNER, SHORT, STATES, Site, site, until

PUTS = ("PUT",)


def hang(seconds: float, times: int | None = None) -> Fault:
    return Fault(kind=FaultKind.LATENCY, methods=PUTS, amount=seconds, times=times)


def pendings(to: Site) -> dict[bytes, Pending]:
    """What the writer's changelog says of each entity."""
    last = {m.key: m.value for m in read_topic(to.kafka, writer_changelog(OWNER)) if m.key and m.value}
    return {key: decode_pending(value) for key, value in last.items() if value[0] == PENDING_VERSION}


def check_committed_is_pending(to: Site) -> None:
    """Whatever the writer has committed of its lanes is in pending, or was closed."""
    committed, known = KafkaTopics(to.kafka).committed(writer_app(OWNER)), pendings(to)
    for topic in LANE_TOPICS.values():
        for message in read_topic(to.kafka, topic):
            if message.offset < committed.get((topic, message.partition), 0):
                assert message.key in known, "committed, and pending knows nothing of it"


@pytest.mark.timeout(240)
def test_a_write_that_hangs_as_its_writer_dies_is_written_by_the_next_and_its_offset_hides_nothing(
    broker: Broker, owner: Ehr, tmp_path: Path
) -> None:
    with (
        proxied(owner, tmp_path / "p") as proxy,
        site(
            tmp_path / "s",
            broker.bootstrap,
            {OWNER: proxy.url},
            writers={OWNER: {"attempt_timeout_s": 100, "concurrency": 4}},
        ) as to,
    ):
        to.start("gate")
        name = to.start("writer", OWNER)
        to.publish(*(to.bed(f"ICU/{n}/A", STATES[0]) for n in range(8)))
        until(lambda: len([o for o in to.outcomes() if o.kind.value == "CONFIRMED"]) == 8, "eight beds at the EHR")
        proxy.set(hang(600, times=1))
        slow = to.bed("ICU/0/A", STATES[1])
        to.publish(slow)
        until(lambda: proxy.struck() == 1, "a write that hangs")
        to.publish(*(to.bed(f"ICU/{n}/A", STATES[2]) for n in range(1, 8)))
        for other in [to.wait_head(f"ICU/{n}/A", previous=1) for n in range(1, 8)]:
            to.wait_confirmed(other)
        to.kill(name)
        held = to.wait_head("ICU/0/A", slow.event_id)
        assert pendings(to)[to.key("ICU/0/A")].newest_revision == held.revision
        assert not to.is_confirmed(held)
        check_committed_is_pending(to)
        proxy.set()
        to.wipe(name)
        to.start("writer", OWNER)
        to.settle(ehrs={OWNER: owner.base_url})


@pytest.mark.long
@pytest.mark.timeout(290)
def test_a_rebalance_while_the_destination_hangs_ends_and_loses_nothing(broker: Broker, owner: Ehr, tmp_path: Path) -> None:
    with (
        proxied(owner, tmp_path / "p") as proxy,
        site(tmp_path / "s", broker.bootstrap, {OWNER: proxy.url}, writers={OWNER: {"attempt_timeout_s": 20}}) as to,
    ):
        to.start_all(("gate",), ("writer", OWNER))
        beds = [f"W/{n}/A" for n in range(16)]
        to.publish(*(to.bed(bed, STATES[0]) for bed in beds))
        until(lambda: len([o for o in to.outcomes() if o.kind.value == "CONFIRMED"]) == len(beds), "all beds at the EHR")
        proxy.set(hang(15, times=6))
        to.publish(*(to.bed(bed, STATES[1]) for bed in beds))
        until(lambda: proxy.struck() > 0, "a write that hangs")
        began = time.monotonic()
        to.start("writer", OWNER, instance="b")
        until(lambda: shares(to) == 8 and all(to.share(i) for i in ("0", "b")), "partitions shared by two writers")
        assert time.monotonic() - began < 120
        to.publish(*(to.bed(bed, STATES[2]) for bed in beds))
        began = time.monotonic()
        if SHORT:
            to.stop(f"writer-{OWNER}-b")
        else:
            to.kill(f"writer-{OWNER}-b")
        until(lambda: len(to.share("0")) == 8, "one writer with all partitions")
        assert time.monotonic() - began < 120
        proxy.set()
        to.publish(*(to.bed(bed, STATES[3]) for bed in beds))
        to.settle(ehrs={OWNER: owner.base_url})


def shares(to: Site) -> int:
    return len({*to.share("0"), *to.share("b")})
