"""A table that lost its changelog is made again from the first record on, and says the same as before."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka.admin import AdminClient

from pipeline.domain.head import HEAD_VERSION, Head, decode_head
from pipeline.domain.records import DecisionKind
from pipeline.kafka.reader import read_topic
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from pipeline.ops.topics import KafkaTopics
from pipeline.roles.policies import FILES
from pipeline.stream.worker.outputs import EXIT_NOT_DURABLE
from pipeline.topology import GATE_APP, GATE_CHANGELOG, writer_app, writer_changelog
from tests.hazards.at_ehr import revisions_of
from tests.hazards.harness import OWNER, STATES, Site, site, until
from tests.hazards.stream import Stream

BEDS = 8
SHIPPED = Path(__file__).parents[2] / "pipeline" / "policies"


def lose(to: Site, changelog: str) -> None:
    """Delete a changelog, and make it anew as an operator would: empty."""
    name = to.kafka.topic_prefix + changelog
    admin = AdminClient(dict[str, Any](to.kafka.client_config()))
    admin.delete_topics([name])[name].result()
    until(lambda: name not in admin.list_topics(timeout=15).topics, "the changelog is gone")
    to.stack.complete("topics", "apply")


def heads(to: Site) -> dict[bytes, Head]:
    """What the gate's changelog says of each entity."""
    values = {m.key: m.value for m in read_topic(to.kafka, GATE_CHANGELOG) if m.key and m.value and m.value[0] == HEAD_VERSION}
    return {key: decode_head(value) for key, value in values.items()}


def verdicts(to: Site) -> dict[tuple[int, int], set[str]]:
    """All that was ever said of each landing position."""
    found: dict[tuple[int, int], set[str]] = {}
    for accepted in to.accepted():
        found.setdefault((accepted.partition, accepted.offset), set()).add(f"ACCEPTED {accepted.state_hash}")
    for decision in to.decisions():
        found.setdefault((decision.partition, decision.offset), set()).add(f"{decision.kind} {decision.topic}")
    return found


def without_environment(folder: Path) -> Path:
    """A policy by which the capacity platform may no longer say how clean a bed is."""
    folder.mkdir()
    for name in FILES:
        document = yaml.safe_load((SHIPPED / name).read_text())
        if "fields" in document:
            document["fields"]["bed"]["environment"]["roles"] = ["environmental"]
        (folder / name).write_text(yaml.safe_dump(document, sort_keys=False))
    return folder


def is_committed(to: Site, app: str) -> bool:
    """Whether the group has committed something that a rewind goes back behind."""
    return any(offset > 0 for offset in KafkaTopics(to.kafka).committed(app).values())


def restart_without(to: Site, changelog: str, *role: str) -> None:
    """A disk that is ahead of its changelog is refused; without it the role starts from nothing."""
    name = "-".join((*role, "0"))
    to.stop(name)  # a kill would leave less on the disk than the changelog had: the rest was still in memory
    lose(to, changelog)
    to.start(*role, wait=False)
    assert to.exit_code(name) == EXIT_NOT_DURABLE, "a disk that the changelog knows nothing of was served"
    to.wipe(name)
    to.start(*role)
    log = to.stack.folder / f"{name}.log"
    until(lambda: "position.sought_back" in log.read_text(), "the reading goes back behind what was committed")


@pytest.mark.timeout(290)
def test_a_table_that_lost_its_changelog_is_rebuilt_from_the_first_record_with_the_same_state_and_revisions(
    broker: Broker, owner: Ehr, tmp_path: Path
) -> None:
    with site(tmp_path / "s", broker.bootstrap, {OWNER: owner.base_url}) as to:
        to.start_all(("gate",), ("writer", OWNER))
        events = Stream(17, beds=BEDS, changes=6).events(to)
        to.publish(*events[: len(events) // 2])
        to.stack.complete("policy", "apply", "--reason", "hazards", "--folder", str(without_environment(tmp_path / "policy")))
        to.publish(*events[len(events) // 2 :])
        to.settle()
        until(lambda: is_committed(to, GATE_APP) and is_committed(to, writer_app(OWNER)), "a commit of both roles")
        before, said = heads(to), verdicts(to)
        assert any(d.kind is DecisionKind.NOT_OWNER for d in to.decisions()), "the policy took effect"

        restart_without(to, GATE_CHANGELOG, "gate")
        until(lambda: heads(to) == before, "the same heads as before")
        assert verdicts(to) == said, "a position got another verdict when it was judged again"

        written = {bed: revisions_of(to.versions(bed)) for bed in (f"B/{n}/A" for n in range(BEDS))}
        restart_without(to, writer_changelog(OWNER), "writer", OWNER)
        to.publish(*(to.bed(bed, STATES[0], staffed=True) for bed in written))
        to.settle()
        for bed, revisions in written.items():
            versions = to.versions(bed)
            assert revisions_of(versions)[:-1] == revisions
            assert len(versions) == len(revisions) + 1, "what the EHR had was written again"
