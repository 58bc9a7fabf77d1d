"""The twin on Kafka Streams says what the gate says: a peer that decided less would be the faster for it.

Its decision alone, without a broker, over the bench's load and over what the bench doesn't send: events that come late, twice,
with other content, from whom nobody named, by a sequence that falls, with fields that are cleared.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from pipeline import topology
from pipeline.domain.event import (
    Bed,
    Encounter,
    EncounterStatus,
    Environment,
    Event,
    EventType,
    PatientClass,
    Place,
    SequenceBasis,
    Service,
    ServiceStatus,
    sealed,
)
from pipeline.domain.identifiers import EventId, Millis, partition_of
from pipeline.domain.records import Accepted, Decision, DecisionKind, Lane
from pipeline.formats.avro import Codec
from pipeline.local.bench.gate.load import Landed, Landing
from pipeline.local.bench.gate.streams import STREAMS, Alone, compared, expected, twin_alone
from pipeline.local.errors import LocalPlatformError
from pipeline.roles.policies import load_policy
from pipeline.settings.sections.kafka import KafkaSettings
from tests.foreign.clients import NO_CLIENT, REQUIRED

NOW: Final = Millis(1_800_000_000_000)
CODEC: Final = Codec.shipped()
POLICY: Final = load_policy()
KAFKA: Final = KafkaSettings(bootstrap_servers="127.0.0.1:1", topic_prefix="twin.")
EPOCHS: Final = {topology.LANDING[kind]: 1 for kind in topology.LANDING}
SOURCES: Final = ("capacity", "EPICADT", "environmental", "operator", "location-master-2", "nobody")
SEEDS: Final = (1, 2)


def judged(before: list[Landed], records: list[Landed], folder: Path) -> Alone:
    try:
        return twin_alone(before, records, KAFKA, POLICY, folder)
    except LocalPlatformError as missing:
        if REQUIRED or "could not judge" in str(missing):
            raise
        pytest.skip(f"{NO_CLIENT}: {missing}")


def test_over_the_load_of_the_bench_no_verdict_differs(tmp_path: Path) -> None:
    landing = Landing(500, CODEC)
    before, records = landing.first(NOW), landing.more(10_000, Millis(NOW + 1))
    twin = compared(STREAMS, expected([*before, *records], EPOCHS, CODEC, POLICY), judged(before, records, tmp_path).said, CODEC)
    assert (twin.positions, twin.differences) == (10_500, 0), twin


@pytest.mark.parametrize("seed", SEEDS)
def test_over_events_that_come_late_or_twice_or_from_strangers_no_verdict_differs(seed: int, tmp_path: Path) -> None:
    records = list(hostile(random.Random(f"twin {seed}"), 5_000))
    ours = expected(records, EPOCHS, CODEC, POLICY)
    made = [CODEC.decode(said.value) for said in ours.values()]
    kinds = {record.kind for record in made if isinstance(record, Decision)}
    assert kinds >= {
        DecisionKind.DUPLICATE,
        DecisionKind.CONFLICT,
        DecisionKind.STALE,
        DecisionKind.NO_OP,
        DecisionKind.NOT_OWNER,
    }
    accepted = [record for record in made if isinstance(record, Accepted)]
    assert {record.lane for record in accepted} == set(Lane)
    assert any(record.sequence_reset for record in accepted)
    assert any(record.dropped for record in accepted)
    twin = compared(STREAMS, ours, judged([], records, tmp_path).said, CODEC)
    assert (twin.positions, twin.differences) == (len(records), 0), f"seed {seed}: {twin}"


def hostile(chance: random.Random, count: int) -> Iterator[Landed]:
    """Records about few entities, so that much is said of each."""
    offsets: dict[tuple[str, int], int] = {}
    sent: list[Event] = []
    for number in range(count):
        event = _again(chance, sent) if sent and chance.random() < 0.15 else _event(chance, number)
        sent.append(event)
        topic, key = topology.LANDING[event.entity_type], event.key.encode()
        partition = partition_of(key, topology.ENTITY_PARTITIONS)
        offset = offsets.get((topic, partition), 0)
        offsets[topic, partition] = offset + chance.choice((1, 1, 1, 5))  # a log has holes
        yield Landed(topic, key, CODEC.encode(event), partition, offset, NOW + number)


def _again(chance: random.Random, sent: list[Event]) -> Event:
    """An event of a while ago: as it was, or with other content."""
    event = sent[-chance.randrange(1, min(len(sent), 200) + 1)]
    return event if chance.random() < 0.7 else sealed(msgspec.structs.replace(event, priority="other"))


def _event(chance: random.Random, number: int) -> Event:
    bed = chance.random() < 0.6
    payload = _some(chance, _BED if bed else _STAY)
    sequenced = chance.random() < 0.5
    return sealed(
        Event(
            event_id=EventId(f"{number:032x}"),
            tenant="demo",
            facility=chance.choice(("GENERAL", "NORD")),
            source_system=chance.choice(SOURCES),
            feed=chance.choice(("one", "one", "two")),
            entity_type=next(kind for kind in topology.LANDING if kind.value == ("bed" if bed else "encounter")),
            namespace="GENERAL",
            entity_id=f"Bett \u00e4 {chance.randrange(12)}" if bed else f"V{chance.randrange(6)}",
            event_type=chance.choice((EventType.UPDATE, EventType.SNAPSHOT, EventType.TRANSFER, EventType.DISCHARGE)),
            sequence=chance.randrange(number // 4 + 3) if sequenced else None,
            sequence_basis=SequenceBasis.SOURCE if sequenced else SequenceBasis.RECORDED_TIME,
            occurred_at=Millis(NOW - 5) if chance.random() < 0.3 else None,
            recorded_at=Millis(NOW + number - chance.choice((0, 0, 3, 40))),
            received_at=Millis(NOW + number - chance.choice((0, 3))),
            location=_place(chance) if chance.random() < 0.5 else None,
            trace_id="4bf92f3577b34da6a3ce929d0e0e4736" if chance.random() < 0.2 else None,
            payload=(Bed if bed else Encounter)(**payload),
        )
    )


def _place(chance: random.Random) -> Place:
    return Place(facility="GENERAL", point_of_care=chance.choice((None, "ICU", "ED", "MED", 'W\u00fc "1\\')), bed="A")


_Makes = dict[str, Callable[[random.Random], Any]]

_BED: Final[_Makes] = {
    "environment": lambda chance: chance.choice(tuple(Environment)),
    "service": lambda chance: Service(chance.choice(tuple(ServiceStatus)), chance.choice((None, "BROKEN")), Millis(NOW + 9)),
    "staffed": lambda chance: chance.random() < 0.5,
    "isolation": lambda chance: chance.random() < 0.5,
    "place": _place,
    "level_of_care": lambda chance: chance.choice(("MED", "ICU")),
    "telemetry": lambda chance: chance.random() < 0.5,
}
_STAY: Final[_Makes] = {
    "patient_class": lambda chance: chance.choice(tuple(PatientClass)),
    "status": lambda chance: chance.choice(tuple(EncounterStatus)),
    "location": _place,
    "prior_location": _place,
    "service": lambda chance: chance.choice(("MED", "SURG", "x" * 40)),
    "expected_discharge_at": lambda chance: Millis(NOW + chance.randrange(1_000)),
}


def _some(chance: random.Random, makes: _Makes) -> dict[str, Any]:
    """One field most often, several at times; a field is cleared now and then."""
    names = chance.sample(sorted(makes), chance.choice((1, 1, 2, 4)))
    return {name: None if chance.random() < 0.1 else makes[name](chance) for name in names}
