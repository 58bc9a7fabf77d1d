"""A run says what it could not tell, stops where it is forbidden, and does not fight another system for ever."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from pipeline.domain.event import EntityType
from pipeline.domain.head import encode_head
from pipeline.domain.identifiers import EntityKey, Millis
from pipeline.domain.reconcile.compare import Settled
from pipeline.domain.reconcile.record import Cause, Reconciliation, Remedy, Scope, Stage
from pipeline.domain.records import Audit, Control, ControlKind, Reason
from pipeline.domain.writing.pending import encode_pending
from pipeline.formats.avro import Codec
from pipeline.formats.manifest import check_signature, public_key
from pipeline.kafka.producer import OutRecord
from pipeline.ops.audit import AuditChain
from pipeline.roles.reconcile.orders import Orders, Signer, reassertion, record_of
from pipeline.roles.reconcile.role import figures_of
from pipeline.roles.reconcile.run import Meant, StoppedByMode
from pipeline.topology import AUDIT, GATE_CHANGELOG, LANDING, writer_changelog
from tests.support.reconcile_world import DESTINATION, NOW, World, head_of, pending_of

COUNT: Final = 12


def record(stage: Stage) -> Reconciliation:
    """A full run of the night."""
    return Reconciliation(
        run="1-ehr",
        destination="ehr",
        instance="0",
        scope=Scope.FULL,
        cause=Cause.NIGHTLY,
        stage=stage,
        begun_at=NOW,
        ended_at=Millis(NOW + 1),
        changed_until=Millis(0),
    )


def undone(world: World, number: int) -> None:
    """What we wrote is written and undone by another system."""
    name = world.name(number)
    before = world.server.resources[name]
    world.change(number)
    world.confirm(number)
    world.server.resources[name] = before


def test_an_entity_that_another_system_undoes_again_and_again_is_escalated_and_not_repaired_for_ever() -> None:
    world = World(COUNT)
    for number in range(3):
        world.now = Millis(NOW + number)
        undone(world, 0)
        world.run()
    assert len(world.ordered) == 3
    undone(world, 0)
    (found,) = world.run().tally.found
    assert found[2].remedy is Remedy.ESCALATE
    assert len(world.ordered) == 3


def test_a_server_that_does_not_answer_leaves_entities_unread_and_nothing_is_repaired() -> None:
    world = World(COUNT)
    world.server.breaks_off = {"Location"}
    run = world.run()
    assert run.unread_because is Reason.UNAVAILABLE
    assert (run.tally.unread, run.tally.settled[Settled.EQUAL], run.tally.found) == (1, COUNT - 1, [])
    undone(world, 1)
    world.server.fails_to_find = True
    again = world.run()
    assert (again.tally.unread, again.unread_because, world.ordered) == (2, Reason.TIMEOUT, [])
    assert again.entities == COUNT


def test_a_run_stops_where_the_mode_forbids_it_and_orders_nothing() -> None:
    world = World(COUNT)
    undone(world, 0)
    world.may = False
    with pytest.raises(StoppedByMode):
        world.run()
    assert world.ordered == []


def test_a_dry_run_finds_all_and_orders_nothing_and_what_is_beyond_the_bound_is_left() -> None:
    world = World(COUNT)
    for number in range(4):
        undone(world, number)
    dry = world.run(Meant(dry_run=True))
    assert (len(dry.tally.found), world.ordered, dry.left) == (4, [], 0)
    bounded = world.run(Meant(max_repairs=3))
    assert (len(world.ordered), bounded.left, len(bounded.repaired)) == (3, 1, 3)


def test_names_are_asked_for_several_at_once() -> None:
    world = World(60)
    for number in range(0, 60, 2):
        undone(world, number)
    world.run()
    assert sorted(world.server.asked) == [10, 20]


def test_what_changed_here_and_is_not_there_is_found_though_nothing_else_is_compared() -> None:
    world = World(COUNT)
    undone(world, 0)
    world.change(2, Millis(NOW - 1_000))
    world.confirm(2)
    del world.server.resources[world.name(2)]
    run = world.run(Meant(since=NOW, here_since=Millis(NOW - 2_000)))
    assert {subject for subject, _, _ in run.tally.found} >= {world.newest[2].key.encode().decode()}
    assert run.entities == run.tally.settled.total() + run.tally.drifted


def test_a_zombies_late_record_takes_nothing_back() -> None:
    world = World(1)
    old = world.newest[0]
    world.change(0)
    world.confirm(0)
    key = old.key.encode()
    world.logs.add(GATE_CHANGELOG, key, encode_head(head_of(old)))
    world.logs.add(writer_changelog(DESTINATION), key, encode_pending(pending_of(old)))
    run = world.run()
    assert run.tally.settled[Settled.EQUAL] == 1
    assert world.holdings.held[key].revision == world.newest[0].revision
    assert world.holdings.told[DESTINATION][key].confirmed == world.newest[0].revision


def test_the_same_repair_of_one_run_is_one_order_and_carries_no_value() -> None:
    world = World(2)
    undone(world, 0)
    world.run()
    (repair,) = world.ordered
    first, second = reassertion(repair, "run", NOW), reassertion(repair, "run", Millis(NOW + 5))
    assert first.event_id == second.event_id != reassertion(repair, "another", NOW).event_id
    assert (first.seen_revision, first.seen_etag) == (world.newest[0].revision, 'W/"1"')


def test_a_report_is_signed_and_a_changed_byte_shows(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = public_key(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    assert public is not None
    file = tmp_path / "sign.key"
    file.write_bytes(private)
    run = msgspec.structs.replace(record(Stage.DONE), entities=2, equal=2)
    signed = Signer(file, "k").signed(run)
    assert signed.report is not None
    assert signed.signature is not None
    assert b'"balances": true' in signed.report
    assert check_signature(signed.report, signed.signature.encode(), "k", {"k": public}) is None
    changed = signed.report.replace(b'"equal": 2', b'"equal": 3')
    assert check_signature(changed, signed.signature.encode(), "k", {"k": public}) is not None
    file.write_text("no key")
    with pytest.raises(ValueError, match="Ed25519"):
        Signer(file, "k")


def test_repairs_go_to_their_own_logs_each_with_its_audit_entry_until_they_are_forbidden() -> None:
    world, codec = World(COUNT), Codec.shipped()
    for number in range(6):
        undone(world, number)
    run = world.run()
    sent: list[OutRecord] = []
    allowed = [True, True, False]

    async def publish(records: Sequence[OutRecord]) -> None:
        sent.extend(records)

    async def may_go() -> bool:
        return allowed.pop(0)

    chain = AuditChain("reconcile/0", codec, None, 0)
    orders = Orders(codec, chain, publish, may_go, 20.0, lambda: NOW, record(Stage.RUNNING))
    assert asyncio.run(orders(world.ordered)) == 4
    landed = [(each.topic, each.key, codec.decode(each.value)) for each in sent if each.topic != AUDIT]
    assert [(topic, key) for topic, key, _ in landed] == [
        (LANDING[EntityType(EntityKey.decode(each.key).entity_type)], each.key) for each in world.ordered[:4]
    ]
    assert all(isinstance(each, Control) and each.kind is ControlKind.REASSERT for _, _, each in landed)
    audited = [entry for each in sent if each.topic == AUDIT and isinstance(entry := codec.decode(each.value), Audit)]
    assert [entry.action for entry in audited] == ["reconcile.reassert"] * 4
    assert [entry.event_id for entry in audited] == [getattr(each, "event_id", None) for _, _, each in landed]

    told = figures_of(record(Stage.DONE), run)
    assert codec.decode(record_of(codec, told).value) == told
    assert (told.balances, told.drifted, told.repaired, len(told.drifts)) == (True, 6, 6, 6)
