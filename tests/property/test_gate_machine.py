"""The gate under all that can happen to it: publish, duplicate, disorder, crash at each step, lost disk, zombie, policy."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.domain.event import Bed, BedOccupancy, EntityType, Environment, Event, EventType, Occupancy, Reference, sealed
from pipeline.domain.head import decode_head
from pipeline.domain.identifiers import EntityKey, EventId, Millis, Revision, derive_event_id
from pipeline.domain.judging.policy import Policy, encode_policy
from pipeline.domain.records import Accepted, Control, ControlKind, Decision, DecisionKind, Quarantined
from pipeline.formats.avro import Codec
from pipeline.stream.judging.gate import POLICY_KEY, Destinations, GateWork, join_values
from pipeline.stream.worker.batch import PartitionBatch
from pipeline.stream.worker.store import POSITIONS_KEY
from tests.support.examples import examples
from tests.support.policies import shipped_policy

CODEC = Codec.shipped()
TOPIC = "landing.bed"
BEDS = ("A", "B")
FIELDS: tuple[dict[str, object], ...] = (
    {"environment": Environment.DIRTY},
    {"environment": Environment.CLEAN},
    {"staffed": True},
    {"staffed": None},
    {"occupancy": BedOccupancy(Occupancy.OCCUPIED, Reference("N", "V1"))},
    {"occupancy": BedOccupancy(Occupancy.VACANT, Reference("N", "V1"))},
    {"occupancy": BedOccupancy(Occupancy.VACANT, Reference("N", "V2"))},
    {"environment": Environment.CLEANING, "surge": True},
)
STEPS = ("some outputs", "outputs", "changelog", "store")
GARBAGE = (b"", b"garbage", None, b"\x00\x00\x00\xff\xffx")
SYSTEMS = ("EPICADT", "capacity", "stranger")


@dataclass(frozen=True)
class Record:
    """A record of the landing log, as the transport hands it over."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


class Database(dict[bytes, bytes]):
    """Stands for one partition's RocksDB."""

    def get(self, key: object, default: object = None) -> object:  # type: ignore[override]
        return [dict.get(self, k) for k in key] if isinstance(key, list) else dict.get(self, key)


class Sent:
    """Stands for the producer: what was sent becomes durable only when the step says so."""

    def __init__(self) -> None:
        self.records: list[tuple[str, bytes]] = []

    def send(self, topic: str, partition: int, key: bytes | None, value: bytes) -> None:
        self.records.append((topic, value))


class Crash(Exception):
    """kill -9."""


def gate_work(policy: Policy) -> GateWork:
    topics = Destinations(
        "events.accepted",
        "decisions",
        "quarantine",
        {lane: f"lane.{lane}" for lane in ("critical", "urgent", "routine", "bulk")},
        {TOPIC: EntityType.BED},
        {TOPIC: 1},
    )
    return GateWork(CODEC, topics, policy, lambda data, _: data, 900_000, lambda _: None)


class GateMachine(RuleBasedStateMachine):
    """A landing log, a gate that may die at any step, and what the outside sees of it."""

    @initialize()
    def start(self) -> None:
        self.policy = shipped_policy()
        self.log: list[Record] = []
        self.committed = 0
        self.store: Database = Database()
        self.changelog: list[tuple[bytes, bytes]] = []
        self.changelog_read = 0
        self.outputs: list[tuple[str, bytes]] = []
        self.published: list[tuple[bytes, bytes]] = []
        self.sent = 0

    # -- the world

    @rule(
        bed=st.sampled_from(BEDS),
        fields=st.sampled_from(FIELDS),
        system=st.sampled_from(SYSTEMS),
        recorded=st.integers(0, 40),
        event_type=st.sampled_from((EventType.UPDATE, EventType.DISCHARGE, EventType.CANCEL_DISCHARGE)),
    )
    def publish(self, bed: str, fields: dict[str, object], system: str, recorded: int, event_type: EventType) -> None:
        self.sent += 1
        key = EntityKey("t", "bed", "N", bed)
        event = Event(
            event_id=derive_event_id("t", system, (str(self.sent),), key, 0),
            tenant="t",
            facility="F",
            source_system=system,
            feed="x",
            entity_type=EntityType.BED,
            namespace="N",
            entity_id=bed,
            event_type=event_type,
            recorded_at=Millis(recorded),
            received_at=Millis(1_000),
            payload=Bed(**fields),
        )
        self._land(key.encode(), CODEC.encode(sealed(event)))

    @precondition(lambda self: self.published)
    @rule(data=st.data())
    def publish_again(self, data: st.DataObject) -> None:
        key, value = data.draw(st.sampled_from(self.published[-8:]))
        self._land(key, value)

    @rule(value=st.sampled_from(GARBAGE), key=st.sampled_from((None, b"x", b"t|bed|N|A")))
    def publish_garbage(self, value: bytes | None, key: bytes | None) -> None:
        self._append(key, value)

    @rule(ignores=st.booleans())
    def change_policy(self, ignores: bool) -> None:
        fields = dict(self.policy.fields[EntityType.BED])
        fields["staffed"] = replace_roles(fields["staffed"], ("capacity", "ehr") if ignores else ("capacity",))
        policy = msgspec.structs.replace(
            self.policy, version=f"v{len(self.log)}", fields={**self.policy.fields, EntityType.BED: fields}
        )
        order = Control(
            kind=ControlKind.POLICY,
            event_id=EventId(f"{len(self.log):032x}"),
            actor="operator",
            at=Millis(0),
            policy=encode_policy(policy),
            policy_version=policy.version,
        )
        self._append(POLICY_KEY, CODEC.encode(order))

    @rule(bed=st.sampled_from(BEDS), stale=st.booleans())
    def reassert(self, bed: str, stale: bool) -> None:
        key = EntityKey("t", "bed", "N", bed).encode()
        head = self.store.get(key)
        seen = decode_head(head).revision if isinstance(head, bytes) and not stale else Revision(0)
        order = Control(
            kind=ControlKind.REASSERT, event_id=EventId(f"{len(self.log):032x}"), actor="repair", at=Millis(0), seen_revision=seen
        )
        self._append(key, CODEC.encode(order))

    def _land(self, key: bytes, value: bytes) -> None:
        self.published.append((key, value))
        self._append(key, value)

    def _append(self, key: bytes | None, value: bytes | None) -> None:
        offset = len(self.log)
        self.log.append(Record(TOPIC, 0, offset, 2_000 + offset, key, value))

    # -- the gate

    @precondition(lambda self: self.committed < len(self.log))
    @rule(most=st.integers(1, 7))
    def work(self, most: int) -> None:
        self._cycle(most, die_after=None)

    @precondition(lambda self: self.committed < len(self.log))
    @rule(most=st.integers(1, 7), die_after=st.sampled_from(STEPS), wipe=st.booleans())
    def die_in_the_middle(self, most: int, die_after: str, wipe: bool) -> None:
        try:
            self._cycle(most, die_after)
        except Crash:
            self._recover(wipe)

    @precondition(lambda self: self.changelog)
    @rule(data=st.data())
    def zombie_writes_an_old_record(self, data: st.DataObject) -> None:
        """A worker stopped past its session writes again; the owner sees the gap, dies, and recovers."""
        self.changelog.append(data.draw(st.sampled_from(self.changelog)))
        self._recover(wipe=data.draw(st.booleans()))

    @rule(wipe=st.booleans())
    def restart(self, wipe: bool) -> None:
        self._recover(wipe)

    def _cycle(self, most: int, die_after: str | None) -> None:
        records = self.log[self.committed : self.committed + most]
        batch = PartitionBatch(0, self.store, list(records))  # type: ignore[arg-type]
        sent = Sent()
        gate_work(self.policy).judge(batch, sent)  # type: ignore[arg-type]
        batch.puts[POSITIONS_KEY] = msgspec.msgpack.encode(batch.positions())
        if die_after == "some outputs":
            self.outputs += sent.records[: len(sent.records) // 2]
            raise Crash
        self.outputs += sent.records
        if die_after == "outputs":
            raise Crash
        self.changelog += list(batch.puts.items())
        if die_after == "changelog":
            raise Crash
        self.store.update(batch.puts)
        self.changelog_read = len(self.changelog)
        if die_after == "store":
            raise Crash
        self.committed += len(records)

    def _recover(self, wipe: bool) -> None:
        if wipe:
            self.store, self.changelog_read = Database(), 0
        for key, value in self.changelog[self.changelog_read :]:
            known = self.store.get(key)
            self.store[key] = join_values(known, value) if isinstance(known, bytes) else value
        self.changelog_read = len(self.changelog)

    # -- what must hold at every moment

    @invariant()
    def what_the_table_holds_is_durable_downstream(self) -> None:
        revisions = {a.revision for a in self._accepted()}
        for key, value in getattr(self, "store", {}).items():
            if not key.startswith(b"\x00"):
                assert decode_head(value).revision in revisions

    @invariant()
    def a_position_is_never_judged_in_two_ways(self) -> None:
        verdicts: dict[int, bytes] = {}
        for topic, value in getattr(self, "outputs", ()):
            if topic in ("events.accepted", "decisions"):
                record = CODEC.decode(value)
                assert isinstance(record, (Accepted, Decision))
                assert verdicts.setdefault(record.offset, value) == value

    @invariant()
    def one_event_is_accepted_at_one_position_only(self) -> None:
        positions: dict[str, set[int]] = {}
        for accepted in self._accepted():
            positions.setdefault(accepted.event_id, set()).add(accepted.offset)
        assert all(len(offsets) == 1 for offsets in positions.values())

    def teardown(self) -> None:
        if not hasattr(self, "log"):
            return
        while self.committed < len(self.log):
            self._cycle(5, None)
        self._every_position_has_its_verdict()
        self._revisions_form_one_chain()
        self._state_is_that_of_a_gate_that_never_died()

    def _every_position_has_its_verdict(self) -> None:
        judged = {r.offset for r in self._accepted()} | {r.offset for r in self._decisions()}
        assert judged == set(range(len(self.log)))
        quarantined = {q.offset for t, v in self.outputs if t == "quarantine" and isinstance(q := CODEC.decode(v), Quarantined)}
        assert quarantined == {d.offset for d in self._decisions() if d.kind is DecisionKind.QUARANTINED}

    def _revisions_form_one_chain(self) -> None:
        for bed in BEDS:
            chain = sorted({a.revision: a for a in self._accepted() if a.entity_id == bed}.items())
            previous = 0
            for revision, accepted in chain:
                assert accepted.previous_revision == previous
                previous = revision

    def _state_is_that_of_a_gate_that_never_died(self) -> None:
        calm = Database()
        for record in self.log:
            batch = PartitionBatch(0, calm, [record])  # type: ignore[arg-type]
            gate_work(self.policy).judge(batch, Sent())  # type: ignore[arg-type]
            calm.update(batch.puts)
        mine = {k: v for k, v in self.store.items() if k != POSITIONS_KEY}
        assert mine == dict(calm)

    def _accepted(self) -> Sequence[Accepted]:
        return [
            r for t, v in getattr(self, "outputs", ()) if t == "events.accepted" and isinstance(r := CODEC.decode(v), Accepted)
        ]

    def _decisions(self) -> Sequence[Decision]:
        return [r for t, v in self.outputs if t == "decisions" and isinstance(r := CODEC.decode(v), Decision)]


def replace_roles(rule_: object, roles: tuple[str, ...]) -> object:
    return msgspec.structs.replace(rule_, roles=roles)  # type: ignore[type-var]


GateMachine.TestCase.settings = settings(max_examples=examples(80), stateful_step_count=40, deadline=None)
TestGateMachine = GateMachine.TestCase
