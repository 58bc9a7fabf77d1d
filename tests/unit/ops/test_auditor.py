"""The auditor joins chains by signed checkpoints over its restarts and tells what expired; `verify` sees what was done since."""

import asyncio
from typing import Any, Final

import msgspec
import pytest
from joserfc.jwk import OKPKey

from pipeline.domain.accounts.audit import Fault
from pipeline.domain.accounts.checkpoints import CHECKPOINTS, SignedCheckpoint
from pipeline.domain.identifiers import Millis
from pipeline.kafka.producer import OutRecord
from pipeline.kafka.reader import LogTruncated
from pipeline.kafka.specs import load_templates
from pipeline.ops.audit import AuditChain, Verified, read_entries, render_verified, verify_all
from pipeline.ops.checkpoints import export, imported, judged, public_keys, read_checkpoints
from pipeline.resources import topics_dir
from pipeline.roles.accounts.auditor import Ledger
from pipeline.roles.process import Refused
from pipeline.settings.model import Settings

SETTINGS: Final = Settings(demo=True)
KEYS: Final = public_keys(SETTINGS.audit, demo=True)
WRITER: Final = "writer-ehr/0"


class Published:
    """Puts what is published into the topics in memory."""

    def __init__(self, topics: Any) -> None:
        self.topics = topics

    async def publish(self, records: list[OutRecord], /) -> None:
        for each in records:
            self.topics.put(each.topic, each.partition, each.key, each.value)


class World:
    def __init__(self, topics: Any) -> None:
        self.topics, self.now = topics, 1_700_000_000_000
        self.writer = AuditChain.continued(topics, topics.codec, topics.codec, WRITER)
        self.ledger = self.started()

    def started(self) -> Ledger:
        chain = AuditChain.continued(self.topics, self.topics.codec, self.topics.codec, "auditor/0")
        specs = load_templates(topics_dir())
        published = Published(self.topics)
        return Ledger(self.topics, self.topics.codec, SETTINGS, specs, published, chain, lambda: Millis(self.now))

    def write(self, entries: int) -> None:
        for number in range(entries):
            made = self.writer.append(at=Millis(number), actor="w", action="write.confirmed", subject="00")
            self.topics.put(made.topic, made.partition, made.key, made.value)

    def sign(self) -> SignedCheckpoint:
        self.now += 1000
        return asyncio.run(self.ledger.write())

    def actions(self) -> list[str]:
        return [entry.action for entry in read_entries(self.topics, self.topics.codec)]

    def verified(self, kept: SignedCheckpoint | None = None) -> Verified:
        signed = judged(list(read_checkpoints(self.topics, self.topics.codec)), KEYS)
        return verify_all(read_entries(self.topics, self.topics.codec), signed, judged([kept] if kept else [], KEYS))

    def found(self, kept: SignedCheckpoint | None = None) -> list[tuple[str, int, Fault]]:
        return [(each.chain, each.sequence, each.fault) for each in self.verified(kept).findings]


@pytest.fixture
def world(topics: Any) -> World:
    return World(topics)


def test_checkpoints_go_on_over_restarts_and_what_is_untouched_is_whole(world: World) -> None:
    for _ in range(3):
        world.write(4)
        world.sign()
        world.ledger = world.started()
    verified = world.verified()
    assert verified.whole
    assert verified.checkpoints == 3
    assert {mark.chain: mark.sequence for mark in verified.sealed}[WRITER] == 12
    assert [each.sequence for each in read_checkpoints(world.topics, world.topics.codec)] == [1, 2, 3]
    assert render_verified(verified).caption is not None


def test_a_restart_reads_only_what_the_newest_checkpoint_does_not_speak_for(world: World) -> None:
    world.write(500)
    world.sign()
    world.ledger = world.started()
    before = world.topics.records_read
    world.write(3)
    world.sign()
    assert world.topics.records_read - before < 20


def test_an_end_that_was_cut_off_is_missing_and_one_that_was_written_anew_is_changed(world: World) -> None:
    world.write(5)
    world.sign()
    log = next(log for (topic, _), log in world.topics.logs.items() if topic == "audit" and log[0][0] == WRITER.encode())
    kept = [each for each in log if each[0] == WRITER.encode()]
    for each in kept[3:]:
        log.remove(each)
    assert (WRITER, 4, Fault.MISSING) in world.found()
    world.writer = AuditChain.continued(world.topics, world.topics.codec, world.topics.codec, WRITER)
    made = world.writer.append(at=Millis(9), actor="somebody", action="write.confirmed", subject="00")
    log.append((made.key, made.value))
    made = world.writer.append(at=Millis(9), actor="somebody", action="write.confirmed", subject="00")
    log.append((made.key, made.value))
    assert (WRITER, 5, Fault.CHANGED) in world.found()


def test_a_forged_checkpoint_is_named_and_the_auditor_goes_on_behind_the_newest_good_one(world: World) -> None:
    world.write(2)
    good = world.sign()
    other = OKPKey.generate_key("Ed25519")
    assert other.is_private
    forged = msgspec.structs.replace(good, sequence=2, signature=b"e30..AAAA")
    world.topics.put("checkpoints", 0, b"checkpoints", forged)
    world.ledger = world.started()
    assert world.ledger.newest is not None
    assert world.ledger.newest.sequence == 1
    world.sign()
    assert (CHECKPOINTS, 2, Fault.FORGED) in world.found()


def test_checkpoints_that_were_cut_off_are_told_of_by_the_audit_log_and_by_one_that_was_kept(world: World) -> None:
    world.write(2)
    world.sign()
    kept = world.sign()
    assert world.found(imported(export(kept))) == []
    world.topics.logs["checkpoints", 0].pop()
    assert (CHECKPOINTS, 2, Fault.MISSING) in world.found()
    world.topics.logs = {place: log for place, log in world.topics.logs.items() if place[0] != "audit"}
    assert (CHECKPOINTS, 2, Fault.MISSING) in world.found(kept)
    assert (WRITER, 1, Fault.MISSING) in world.found(kept)


def test_what_expired_is_told_once_with_topic_partition_and_class(world: World) -> None:
    for _ in range(3):
        world.topics.put("raw.http", 2, b"k", b"v")
    world.sign()
    world.topics.first["raw.http", 2] = 2
    world.sign()
    world.ledger = world.started()
    world.sign()
    entries = [each for each in read_entries(world.topics, world.topics.codec) if each.action == "retention.expired"]
    assert [each.subject for each in entries] == ["raw.http/2"]
    detail = entries[0].detail
    assert (detail["first"], detail["until"], detail["records"], detail["retention_days"]) == ("0", "2", "2", "30")
    assert entries[0].reason == "class raw"
    assert world.verified().whole


def test_a_topic_that_was_made_anew_is_told(world: World) -> None:
    world.topics.first["quarantine", 0] = 7
    world.topics.logs["quarantine", 0] = [(b"k", b"v")] * 8
    world.sign()
    world.topics.first["quarantine", 0] = 0
    world.sign()
    assert "retention.topic_anew" in world.actions()


def test_without_a_key_the_auditor_does_not_start_where_it_is_no_demo(topics: Any) -> None:
    chain = AuditChain.continued(topics, topics.codec, topics.codec, "auditor/0")
    with pytest.raises(Refused, match=r"audit\.key_file"):
        Ledger(topics, topics.codec, Settings(), (), Published(topics), chain)


@pytest.mark.parametrize("taken", [0, 1])
def test_a_crash_between_a_checkpoint_and_the_word_of_it_leaves_the_logs_whole(world: World, taken: int) -> None:
    world.write(3)
    world.sign()
    world.write(2)

    class Crashing(Published):
        def __init__(self, topics: Any) -> None:
            super().__init__(topics)
            self.left = taken

        async def publish(self, records: list[OutRecord], /) -> None:
            if not self.left:
                raise ConnectionError
            self.left -= 1
            await super().publish(records)

    world.ledger._publisher = Crashing(world.topics)
    with pytest.raises(ConnectionError):
        world.sign()
    world.ledger = world.started()
    world.sign()
    verified = world.verified()
    assert verified.whole, verified.findings
    assert verified.checkpoints == 2 + taken


def test_what_expires_while_it_is_read_is_no_fault_of_the_log(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write(6)
    whole, broken = world.topics.read, iter([True])

    def read(topic: str, start: Any, end: Any) -> Any:
        for number, message in enumerate(whole(topic, start, end)):
            if topic == "audit" and number == 4 and next(broken, False):
                raise LogTruncated(topic, 0, 4, 5)
            yield message

    monkeypatch.setattr(world.topics, "read", read)
    told: list[str] = []
    monkeypatch.setattr("pipeline.roles.accounts.auditor.emit", lambda line, **_: told.append(line.name))
    world.sign()
    world.sign()
    assert "audit.broken" not in told
    assert not [each for each in told if "broken" in each]
    assert {mark.chain: mark.sequence for mark in world.verified().sealed}[WRITER] == 6
