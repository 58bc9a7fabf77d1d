"""Merges under all that can happen to them: logs of eight partitions, gates that get ahead of each other, die at each step,
lose their disk; merges that contradict each other, form circles and chains, come twice, and name who is not known."""

from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pipeline.domain.event import Encounter, EntityType, Event, EventType, Name, Patient, Payload, Reference, sealed
from pipeline.domain.head import Head, decode_head
from pipeline.domain.identifiers import EntityKey, EventId, Millis, Revision, derive_event_id, partition_of
from pipeline.domain.judging.merges import key_of, target_of
from pipeline.domain.records import Accepted, Control, ControlKind, Decision, DecisionKind, OutcomeKind
from pipeline.domain.writing.pending import Pending, held_for, on_accepted, on_loser, on_outcome
from pipeline.formats.avro import Codec
from pipeline.stream.judging.gate import Destinations, GateWork, join_values
from pipeline.stream.worker.batch import PartitionBatch
from pipeline.stream.worker.store import POSITIONS_KEY
from pipeline.topology import ENTITY_PARTITIONS
from tests.support.changes import outcome
from tests.support.examples import examples
from tests.support.policies import shipped_policy

CODEC = Codec.shipped()
TOPICS = {"landing.patient": EntityType.PATIENT, "landing.encounter": EntityType.ENCOUNTER}
LANDING = {
    **TOPICS,
    "landing.bed": EntityType.BED,
    "landing.transfer": EntityType.TRANSFER,
    "landing.procedure": EntityType.PROCEDURE,
}
PATIENTS = ("A", "B", "C", "D")
VISITS = ("V", "W")
STEPS = ("some outputs", "outputs", "changelog", "store")
MOST_RECORDS = 5_000
NAMES = ("One", "Two", "Three")


@dataclass(frozen=True)
class Record:
    """A record of a landing log, as the transport hands it over."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes
    value: bytes


class Database(dict[bytes, bytes]):
    """Stands for one partition's RocksDB."""

    def get(self, key: Any, default: Any = None) -> Any:
        return [self.get(k) for k in key] if isinstance(key, list) else super().get(key, default)

    def items(self, from_key: bytes = b"") -> Any:
        return [(key, self[key]) for key in sorted(self) if key >= from_key]


@dataclass
class Worker:
    """One partition's gate."""

    store: Database = field(default_factory=Database)
    changelog: list[tuple[bytes, bytes]] = field(default_factory=list)
    read: int = 0
    committed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LANDING, 0))


class Sent:
    """Stands for the producer: what was sent becomes durable only when the step says so."""

    def __init__(self) -> None:
        self.records: list[tuple[str, int, bytes, bytes]] = []

    def send(self, topic: str, partition: int, key: bytes, value: bytes) -> None:
        self.records.append((topic, partition, key, value))


class Crash(Exception):
    """kill -9."""


def gate_work() -> GateWork:
    lanes = {lane: f"lane.{lane}" for lane in ("critical", "urgent", "routine", "bulk")}
    epochs = dict.fromkeys(LANDING, 1)
    topics = Destinations("events.accepted", "decisions", "quarantine", lanes, LANDING, epochs)
    return GateWork(CODEC, topics, shipped_policy(), lambda data, _: data, 900_000, lambda _: None)


class MergeMachine(RuleBasedStateMachine):
    """Sources that publish, and gates that judge in whatever order."""

    @initialize()
    def start(self) -> None:
        self.logs: dict[tuple[str, int], list[Record]] = {(t, p): [] for t in LANDING for p in range(ENTITY_PARTITIONS)}
        self.workers = [Worker() for _ in range(ENTITY_PARTITIONS)]
        self.outputs: list[tuple[str, bytes]] = []
        self.on_the_way: list[Event] = []
        self.published: list[Event] = []
        self.sent = self.looked_at = 0
        self.verdicts: dict[tuple[str, int, int], bytes] = {}

    # -- the world

    @rule(patient=st.sampled_from(PATIENTS), name=st.sampled_from(NAMES), recorded=st.integers(0, 30))
    def tell_of_a_patient(self, patient: str, name: str, recorded: int) -> None:
        self._publish(self._event(EntityType.PATIENT, patient, Patient(name=Name(name)), recorded))

    @rule(visit=st.sampled_from(VISITS), patient=st.sampled_from(PATIENTS), recorded=st.integers(0, 30))
    def tell_of_a_visit(self, visit: str, patient: str, recorded: int) -> None:
        self._publish(self._event(EntityType.ENCOUNTER, visit, Encounter(patient=Reference("N", patient)), recorded))

    @rule(pair=st.permutations(PATIENTS), recorded=st.integers(0, 30), kind=st.sampled_from((EventType.MERGE, EventType.RENAME)))
    def merge(self, pair: list[str], recorded: int, kind: EventType) -> None:
        """Its two events land in any order, with anything in between."""
        loser, survivor = pair[:2]
        self.sent += 1
        closing = self._event(EntityType.PATIENT, loser, Patient(merged_into=Reference("N", survivor)), recorded, kind)
        told = Patient(name=Name("Survivor"))
        taking = self._event(EntityType.PATIENT, survivor, told, recorded, kind, Reference("N", loser))
        self.on_the_way += [closing, taking]

    @rule(data=st.data())
    def land_what_is_on_the_way(self, data: st.DataObject) -> None:
        if self.on_the_way:
            place = data.draw(st.integers(0, len(self.on_the_way) - 1))
            self._publish(self.on_the_way.pop(place))

    @rule(data=st.data())
    def publish_again(self, data: st.DataObject) -> None:
        if self.published:
            self._land(data.draw(st.sampled_from(self.published[-8:])))

    @rule(patient=st.sampled_from(PATIENTS))
    def reassert(self, patient: str) -> None:
        key = EntityKey("t", "patient", "N", patient).encode()
        self.sent += 1
        head = self._heads().get(key)
        if head is not None:
            event_id = EventId(f"{self.sent:032x}")
            seen = head.revision
            order = Control(kind=ControlKind.REASSERT, event_id=event_id, actor="repair", at=Millis(0), seen_revision=seen)
            self._append("landing.patient", partition_of(key, ENTITY_PARTITIONS), key, CODEC.encode(order))

    def _event(
        self,
        entity_type: EntityType,
        name: str,
        payload: Payload,
        recorded: int,
        kind: EventType = EventType.UPDATE,
        replaces: Reference | None = None,
    ) -> Event:
        self.sent += 1
        key = EntityKey("t", entity_type.value, "N", name)
        return sealed(
            Event(
                event_id=derive_event_id("t", "EPICADT", (str(self.sent),), key, 0),
                tenant="t",
                facility="F",
                source_system="EPICADT",
                feed="x",
                entity_type=entity_type,
                namespace="N",
                entity_id=name,
                event_type=kind,
                recorded_at=Millis(recorded),
                received_at=Millis(1_000),
                payload=payload,
                replaces=replaces,
            )
        )

    def _publish(self, event: Event) -> None:
        self.published.append(event)
        self._land(event)

    def _land(self, event: Event) -> None:
        key = event.key.encode()
        self._append(f"landing.{event.entity_type.value}", partition_of(key, ENTITY_PARTITIONS), key, CODEC.encode(event))

    def _append(self, topic: str, partition: int, key: bytes, value: bytes) -> None:
        log = self.logs[topic, partition]
        log.append(Record(topic, partition, len(log), 2_000 + len(log), key, value))
        assert len(log) < MOST_RECORDS, "records go round for ever"

    # -- the gates

    @rule(data=st.data(), most=st.integers(1, 7))
    def work(self, data: st.DataObject, most: int) -> None:
        self._somewhere(data, most, None)

    @rule(data=st.data(), most=st.integers(1, 7), die_after=st.sampled_from(STEPS), wipe=st.booleans())
    def die_in_the_middle(self, data: st.DataObject, most: int, die_after: str, wipe: bool) -> None:
        partition = self._somewhere(data, most, die_after)
        if partition is not None:
            self._recover(self.workers[partition], wipe)

    def _somewhere(self, data: st.DataObject, most: int, die_after: str | None) -> int | None:
        """A gate of one partition works, if there is work: on any of its topics, so that these get ahead of each other."""
        waiting = [place for place, log in self.logs.items() if self.workers[place[1]].committed[place[0]] < len(log)]
        if not waiting:
            return None
        topic, partition = data.draw(st.sampled_from(waiting))
        try:
            self._cycle(topic, partition, most, die_after)
        except Crash:
            return partition
        return None

    def _cycle(self, topic: str, partition: int, most: int, die_after: str | None) -> None:
        worker = self.workers[partition]
        start = worker.committed[topic]
        records = self.logs[topic, partition][start : start + most]
        batch = PartitionBatch(partition, worker.store, list(records))  # type: ignore[arg-type]
        sent = Sent()
        gate_work().judge(batch, sent)  # type: ignore[arg-type]
        batch.puts[POSITIONS_KEY] = msgspec.msgpack.encode(batch.positions())
        if die_after == "some outputs":
            self._make_durable(sent.records[: len(sent.records) // 2])
            raise Crash
        self._make_durable(sent.records)
        if die_after == "outputs":
            raise Crash
        worker.changelog += list(batch.puts.items())
        if die_after == "changelog":
            raise Crash
        worker.store.update(batch.puts)
        worker.read = len(worker.changelog)
        if die_after == "store":
            raise Crash
        worker.committed[topic] += len(records)

    def _make_durable(self, records: list[tuple[str, int, bytes, bytes]]) -> None:
        for topic, partition, key, value in records:
            if topic in LANDING:
                self._append(topic, partition, key, value)
            else:
                self.outputs.append((topic, value))

    def _recover(self, worker: Worker, wipe: bool) -> None:
        if wipe:
            worker.store, worker.read = Database(), 0
        for key, value in worker.changelog[worker.read :]:
            known = worker.store.get(key)
            worker.store[key] = join_values(known, value) if known is not None else value
        worker.read = len(worker.changelog)

    # -- what must hold at every moment

    @invariant()
    def a_position_is_never_judged_in_two_ways(self) -> None:
        new = self.outputs[self.looked_at :] if hasattr(self, "outputs") else []
        for topic, value in new:
            if topic in ("events.accepted", "decisions"):
                record = CODEC.decode(value)
                assert isinstance(record, (Accepted, Decision))
                place = record.topic if isinstance(record, Decision) else f"landing.{record.entity_type.value}"
                assert self.verdicts.setdefault((place, record.partition, record.offset), value) == value
        if new:
            self.looked_at += len(new)

    # -- what must hold in the end

    def teardown(self) -> None:
        if not hasattr(self, "logs"):
            return
        while self.on_the_way:
            self._publish(self.on_the_way.pop())
        self._come_to_rest()
        self._every_position_has_its_verdict()
        self._nothing_is_lost_or_takes_effect_twice()
        self._no_circle_is_left_and_nobody_is_waited_for_in_vain()
        self._no_reference_names_a_retired_identity()
        self._a_writer_tells_a_destination_of_all_of_it_and_of_losers_first()

    def _come_to_rest(self) -> None:
        while True:
            waiting = [place for place, log in self.logs.items() if self.workers[place[1]].committed[place[0]] < len(log)]
            if not waiting:
                return
            for topic, partition in waiting:
                self._cycle(topic, partition, 5, None)

    def _every_position_has_its_verdict(self) -> None:
        judged = {("landing." + a.entity_type.value, a.partition, a.offset) for a in self._accepted()}
        judged |= {(d.topic, d.partition, d.offset) for d in self._decisions()}
        assert judged == {(topic, partition, place) for (topic, partition), log in self.logs.items() for place in range(len(log))}

    def _nothing_is_lost_or_takes_effect_twice(self) -> None:
        effects: dict[str, set[tuple[str, int, int]]] = {}
        for accepted in self._accepted():
            effects.setdefault(accepted.event_id, set()).add((accepted.entity_id, accepted.partition, accepted.offset))
        twice = {event_id: places for event_id, places in effects.items() if len(places) > 1}
        assert not twice, sorted((event_id[:4], sorted(places)) for event_id, places in twice.items())
        ended = {d.event_id for d in self._decisions() if d.kind is not DecisionKind.CONTROL}
        assert {event.event_id for event in self.published} <= {*effects, *ended}

    def _no_circle_is_left_and_nobody_is_waited_for_in_vain(self) -> None:
        heads = self._heads()
        newest = {(a.entity_type, a.entity_id): a for a in sorted(self._accepted(), key=lambda a: a.revision)}
        for key, head in heads.items():
            entity = EntityKey.decode(key)
            passed = {entity.id}
            while head.retired is not None:
                assert head.retired.survivor.id not in passed, "a circle of merges is in force"
                passed.add(head.retired.survivor.id)
                survivor = heads.get(EntityKey("t", "patient", "N", head.retired.survivor.id).encode())
                assert survivor is not None
                head = survivor
        for accepted in newest.values():
            for each in accepted.awaits:
                loser = heads[EntityKey("t", "patient", "N", each.loser.id).encode()]
                assert each.revision, "held for a release that never comes"
                assert loser.retired is not None
                assert loser.retired.survivor.id == accepted.entity_id
                assert loser.revision >= each.revision
                assert loser.retired.revision >= each.revision or loser.revision >= each.revision
        self._no_two_wait_for_each_other(newest)

    def _no_two_wait_for_each_other(self, newest: dict[tuple[EntityType, str], Accepted]) -> None:
        waits = {name: {each.loser.id for each in accepted.awaits} for (_, name), accepted in newest.items()}
        while free := {name for name, others in waits.items() if not others & waits.keys()}:
            waits = {name: others for name, others in waits.items() if name not in free}
        assert not waits, "survivors that wait for each other"

    def _no_reference_names_a_retired_identity(self) -> None:
        heads = self._heads()
        retired = {EntityKey.decode(key).id for key, head in heads.items() if head.retired is not None}
        for head in heads.values():
            if isinstance(head.state, Encounter) and isinstance(head.state.patient, Reference):
                assert head.state.patient.id not in retired

    def _a_writer_tells_a_destination_of_all_of_it_and_of_losers_first(self) -> None:
        """Lanes and the copies of outcomes come in any order relative to each other; whoever is held is not written."""
        chance = Random(len(self.outputs))
        lanes = {partition: [a for a in self._accepted() if a.partition == partition] for partition in range(ENTITY_PARTITIONS)}
        pendings: dict[bytes, Pending] = {}
        copies: list[tuple[bytes, bytes, Revision]] = []
        shown: dict[bytes, list[Revision]] = {}
        while True:
            ready = [key for key, each in pendings.items() if each.is_due and not held_for(each, _decoded(each))]
            steps: list[list[Any]] = [
                *(lane for lane in lanes.values() if lane),
                *([copies] if copies else []),
                *([ready] if ready else []),
            ]
            if not steps:
                break
            step = chance.choice(steps)
            if step is ready:
                key = chance.choice(ready)
                accepted = _decoded(pendings[key])
                for each in accepted.awaits:
                    loser = shown.get(_key_of(accepted, each.loser), [])
                    assert each.revision, "told of nobody's end"
                    assert max(loser, default=0) >= each.revision, "a survivor before its loser"
                shown.setdefault(key, []).append(accepted.revision)
                confirmed = on_outcome(pendings[key], outcome(accepted, OutcomeKind.CONFIRMED))
                pendings[key] = confirmed or pendings[key]
                if (survivor := target_of(accepted.state)) is not None:
                    copies.append((_key_of(accepted, survivor), key, accepted.revision))
            elif step is copies:
                key, loser_key, revision = copies.pop(chance.randrange(len(copies)))
                pendings[key] = on_loser(pendings.get(key), 0, loser_key, revision) or pendings[key]
            else:
                accepted = step.pop(0)
                key = _key_of(accepted, Reference(accepted.namespace, accepted.entity_id))
                changed = on_accepted(pendings.get(key), accepted, CODEC.encode(accepted), 60.0)
                pendings[key] = changed or pendings[key]
        assert not any(each.is_due for each in pendings.values()), "held for ever"
        assert all(revisions == sorted(set(revisions)) for revisions in shown.values())

    def _heads(self) -> dict[bytes, Head]:
        return {
            key: decode_head(value)
            for worker in self.workers
            for key, value in worker.store.items()
            if not key.startswith(b"\x00")
        }

    def _accepted(self) -> list[Accepted]:
        return [r for t, v in self.outputs if t == "events.accepted" and isinstance(r := CODEC.decode(v), Accepted)]

    def _decisions(self) -> list[Decision]:
        return [r for t, v in self.outputs if t == "decisions" and isinstance(r := CODEC.decode(v), Decision)]


def _decoded(pending: Pending) -> Accepted:
    record = CODEC.decode(pending.newest or b"")
    assert isinstance(record, Accepted)
    return record


def _key_of(accepted: Accepted, reference: Reference) -> bytes:
    return key_of(accepted.tenant, accepted.entity_type, reference)


MergeMachine.TestCase.settings = settings(max_examples=examples(100), stateful_step_count=40, deadline=None)
TestMergeMachine = MergeMachine.TestCase
