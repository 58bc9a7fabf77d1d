"""A merge is a barrier: 64 senders at once, merges against each other and in circles, and kill -9 amid it; judged at the EHR."""

import itertools
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest
from confluent_kafka import KafkaError, Message, Producer

from pipeline.domain.accounts.deliveries import rising
from pipeline.domain.event import Encounter, EntityType, Event, EventType, Name, Patient, Payload, Reference, sealed
from pipeline.domain.identifiers import EntityKey, Millis, Revision, derive_event_id, partition_of
from pipeline.domain.records import Accepted, Reason
from pipeline.formats.fhir.revision import read_mark
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from pipeline.topology import ENTITY_PARTITIONS, LANDING, topic
from tests.hazards.at_ehr import NAMESPACE, ask
from tests.hazards.harness import ANSWER_S, CODEC, SHORT, Site, now_ms, site

REPLICA: Final = "replica"
SENDERS: Final = 64
"""Sixteen groups of four, each about the same patients: ten merge two, four merge two into each other, two three in a circle."""
ROUNDS: Final = 4 if SHORT else 12
PAUSE_S: Final = 0.25
KILLS: Final = 2 if SHORT else 5
_NUMBERS: Final = itertools.count(1)


@dataclass
class Crowd:
    """Senders with one producer among them; what the broker acknowledges is noted as the harness does."""

    to: Site
    producer: Producer
    failed: list[str] = field(default_factory=list)

    def send(self, *events: Event) -> None:
        for event in events:
            key = event.key.encode()
            self.producer.produce(
                topic(LANDING[event.entity_type], self.to.kafka.topic_prefix),
                CODEC.encode(event),
                key,
                partition_of(key, ENTITY_PARTITIONS),
                on_delivery=self._noting(event, key),
            )

    def _noting(self, event: Event, key: bytes) -> Callable[[KafkaError | None, Message], None]:
        def note(error: KafkaError | None, _: Message) -> None:
            if error is None:
                self.to.acknowledged[event.event_id] = key
            else:
                self.failed.append(event.event_id)

        return note

    def told(self, name: str, payload: Payload, kind: EventType, at: Millis, replaces: str | None = None) -> Event:
        entity_type = EntityType.ENCOUNTER if isinstance(payload, Encounter) else EntityType.PATIENT
        key = EntityKey(self.to.tenant, entity_type.value, NAMESPACE, name)
        return sealed(
            Event(
                event_id=derive_event_id(self.to.tenant, "hazards", (f"merge-{next(_NUMBERS)}",), key, 0),
                tenant=self.to.tenant,
                facility=NAMESPACE,
                source_system="ehr",
                feed="hazards",
                entity_type=entity_type,
                namespace=NAMESPACE,
                entity_id=name,
                event_type=kind,
                recorded_at=at,
                received_at=now_ms(),
                payload=payload,
                replaces=reference(replaces) if replaces is not None else None,
            )
        )

    def update(self, name: str, family: str) -> Event:
        return self.told(name, Patient(name=Name(family)), EventType.UPDATE, now_ms())

    def merge(self, loser: str, survivor: str) -> tuple[Event, Event]:
        at = now_ms()
        lost = self.told(loser, Patient(merged_into=reference(survivor)), EventType.MERGE, at)
        return lost, self.told(survivor, Patient(name=Name("Survivor")), EventType.MERGE, at, loser)


def reference(name: str) -> Reference:
    return Reference(NAMESPACE, name)


def pairs_of(group: int) -> tuple[tuple[str, str], ...]:
    """Who is merged into whom by the senders of a group."""
    a, b, c = (f"G{group}-{name}" for name in "ABC")
    if group < 10:
        return ((a, b),)
    return ((a, b), (b, a)) if group < 14 else ((a, b), (b, c), (c, a))


def life_of(crowd: Crowd, group: int, sender: int) -> Iterator[Sequence[Event]]:
    """What one of a group's four senders says, round by round."""
    merges = pairs_of(group)
    names = sorted({name for pair in merges for name in pair})
    mine = names[sender % len(names)]
    yield [crowd.told(f"V{group}-{sender}", Encounter(patient=reference(mine)), EventType.UPDATE, now_ms())]
    for number in range(ROUNDS):
        if number == ROUNDS // 2 and sender < len(merges):
            loser, survivor = merges[sender]
            first, second = crowd.merge(loser, survivor)
            # One half first, then the other, as a way in does, and what the sender says next comes behind both.
            yield [first, second] if sender % 2 == 0 else [second, first]
        yield [crowd.update(mine, f"{sender}-{number}")]


def send_all(to: Site) -> None:
    """All senders at once, each in its own thread, then a late word on each that is plainly retired; returns when the broker
    has acknowledged everything."""
    crowd = Crowd(to, Producer(dict(to.kafka.producer_config())))
    start = threading.Barrier(SENDERS)

    def run(number: int) -> None:
        life = life_of(crowd, number // 4, number % 4)
        start.wait()
        for events in life:
            crowd.send(*events)
            time.sleep(PAUSE_S)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(SENDERS)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        crowd.producer.poll(0.05)
    for group in range(10):
        crowd.send(crowd.update(f"G{group}-A", "late"))
    assert crowd.producer.flush(ANSWER_S) == 0
    assert not crowd.failed


@pytest.mark.timeout(600)
def test_merges_of_64_senders_are_barriers_and_leave_no_circle(broker: Broker, replica: Ehr, tmp_path: Path) -> None:
    with site(tmp_path / "s", broker.bootstrap, {REPLICA: replica.base_url}) as to:
        gates = [to.start("gate", instance=instance, wait=False) for instance in ("0", "1")]
        names = [*gates, to.start("writer", REPLICA, wait=False)]
        for name in names:
            to.stack.wait_ready(name, timeout_s=ANSWER_S)
        with to.supervised(*names):
            sending = threading.Thread(target=send_all, args=(to,), daemon=True)
            sending.start()
            for number in range(KILLS):
                time.sleep(ROUNDS * PAUSE_S / KILLS)
                to.kill(names[number % len(names)])
            sending.join(10 * ANSWER_S)
            assert not sending.is_alive()
            to.settle()
        heads = {head.entity_id: head for head in to.heads().values()}
        no_circle_is_in_force(heads)
        assert any(decision.reason is Reason.MERGE_CYCLE for decision in to.decisions()), "contradictions are told by name"
        for group in range(10):
            assert merged_into(heads[f"G{group}-A"]) == f"G{group}-B"
            state = heads[f"G{group}-B"].state
            assert isinstance(state, Patient)
            assert state.name == Name("late"), "what came late about the retired one is the survivor's"
        references_name_nobody_who_is_retired(heads)
        judge_by_history(to, replica, heads)


def merged_into(head: Accepted) -> str | None:
    survivor = head.state.merged_into if isinstance(head.state, Patient) else None
    return survivor.id if isinstance(survivor, Reference) else None


def no_circle_is_in_force(heads: dict[str, Accepted]) -> None:
    for name in heads:
        passed, at = {name}, merged_into(heads[name])
        while at is not None:
            assert at not in passed, "a circle"
            passed.add(at)
            at = merged_into(heads[at])


def references_name_nobody_who_is_retired(heads: dict[str, Accepted]) -> None:
    retired = {name for name, head in heads.items() if merged_into(head) is not None}
    stays = [head.state for head in heads.values() if isinstance(head.state, Encounter)]
    assert len(stays) == SENDERS
    for stay in stays:
        assert isinstance(stay.patient, Reference)
        assert stay.patient.id not in retired


# -- the EHR's own word


def judge_by_history(to: Site, ehr: Ehr, heads: dict[str, Accepted]) -> None:
    """Each patient's revisions rise and end at the head's; a survivor's never come before what was merged into it is closed."""
    accepted = {(a.entity_id, a.revision): a for a in to.accepted() if a.entity_type is EntityType.PATIENT}
    shown = {name: versions(to, ehr, name) for name, head in heads.items() if head.entity_type is EntityType.PATIENT}
    held = 0
    for name, found in shown.items():
        revisions = [revision for revision, _, _ in found]
        assert not rising(revisions), name
        assert revisions[-1] == heads[name].revision
        closed = merged_into(heads[name]) is not None
        assert (found[-1][2].get("active") is False) == closed, "the retired one is shown as such, and nobody else"
        for revision, at, _ in found:
            for each in accepted[name, revision].awaits:
                assert each.revision, "written though nobody had told what closes the loser"
                end = next(when for closing, when, _ in shown[each.loser.id] if closing >= each.revision)
                assert end <= at, "a survivor before its loser"
                held += 1
    assert held >= 10


def versions(to: Site, ehr: Ehr, name: str) -> list[tuple[Revision, datetime, dict[str, Any]]]:
    """Revision, time and content of each version of a patient that is ours, oldest first."""
    token = f"https://surgeline.dev/fhir/id/{to.tenant}/patient|{NAMESPACE}/{name}"
    form = urllib.parse.urlencode({"identifier": token}).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    bundle = ask(f"{ehr.base_url}/Patient/_search", "POST", form, headers)
    (found,) = [entry["resource"] for entry in bundle["entry"]]
    history = ask(f"{ehr.base_url}/Patient/{found['id']}/_history?_count=1000")
    bodies = sorted((entry["resource"] for entry in history["entry"]), key=lambda body: int(body["meta"]["versionId"]))
    marked = [(mark.revision, body) for body in bodies if (mark := read_mark(body)) is not None]
    return [(revision, datetime.fromisoformat(body["meta"]["lastUpdated"]), body) for revision, body in marked]
