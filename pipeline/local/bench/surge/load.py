"""What `surgeline bench surge` sends: pure, and the same for the same seed.

Four fifths of the entities are beds, the others stays. What is critical goes round in turn, so that each critical change is a
write of its own: beds that are blocked, and stays that move to or from intensive care, each into the bed that has been free
for longest. The rest strikes at random: promises, housekeeping and visit details, and changes of the location master.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from pipeline.domain.event import (
    Allocation,
    AllocationStatus,
    Bed,
    Encounter,
    EncounterStatus,
    EntityType,
    Environment,
    Event,
    EventType,
    PatientClass,
    Payload,
    Place,
    Service,
    ServiceStatus,
    sealed,
)
from pipeline.domain.identifiers import EntityKey, Millis, derive_event_id
from pipeline.domain.records import LANES, Lane

TENANT: Final = "demo"
FACILITY: Final = "GENERAL"
CAPACITY, EHR = "capacity", "EPICADT"
FEED: Final = "bench"

STAY_SHARE: Final = 5
"""One entity of so many is a stay."""

FREE_SHARE: Final = 5
"""Beds that are free in a kind of unit: one for so many stays."""

SERVICES: Final = (ServiceStatus.BLOCKED, ServiceStatus.CLOSED)
PROMISES: Final = (AllocationStatus.RESERVED, AllocationStatus.NONE)
HOUSEKEEPING: Final = (Environment.CLEANING, Environment.DIRTY)
"""Never clean: a bed that becomes ready may be critical, and what is critical is counted."""

UNITS: Final = ("ICU", "MED")


@dataclass(frozen=True, slots=True)
class Mix:
    """Events in a second, by the lane that they take."""

    critical: float
    urgent: float
    routine: float
    bulk: float

    @classmethod
    def of(cls, per_s: float, critical_per_s: float) -> "Mix":
        """Of what is not critical a tenth is urgent and three tenths are routine."""
        rest = per_s - critical_per_s
        return cls(critical_per_s, 0.1 * rest, 0.3 * rest, 0.6 * rest)

    @property
    def per_s(self) -> float:
        """All together."""
        return self.critical + self.urgent + self.routine + self.bulk

    def doubled(self) -> "Mix":
        """Twice as much of everything that is not critical."""
        return Mix(self.critical, 2 * self.urgent, 2 * self.routine, 2 * self.bulk)


@dataclass(slots=True)
class Load:
    """Makes events; call it in the order in which they are sent."""

    entities: int
    seed: int = 1
    made: int = 0
    _counts: dict[str, int] = field(default_factory=dict)
    _recorded_ms: dict[tuple[EntityType, int], int] = field(default_factory=dict)
    _credit: dict[Lane, float] = field(default_factory=dict)
    _chance: random.Random = field(init=False)
    _beds: int = field(init=False)
    _stays: int = field(init=False)
    _at: list[str] = field(init=False)
    _free: dict[str, deque[str]] = field(init=False)

    def __post_init__(self) -> None:
        self._chance = random.Random(f"surge {self.seed}")
        self._stays = self.entities // STAY_SHARE
        self._beds = self.entities - self._stays
        self._at = [f"{UNITS[stay % 2]}/{stay}" for stay in range(self._stays)]
        spare = max(1, self._stays // FREE_SHARE)
        self._free = {unit: deque(f"{unit}/{self._stays + bed}" for bed in range(spare)) for unit in UNITS}

    def every(self, now: Callable[[], Millis]) -> Iterator[Event]:
        """Each entity once, with its whole state."""
        for bed in range(self._beds):
            yield self._bed(bed, now(), _first_bed(), EventType.SNAPSHOT)
        for stay in range(self._stays):
            state = Encounter(
                patient_class=PatientClass.INPATIENT,
                status=EncounterStatus.IN_PROGRESS,
                location=_place(self._at[stay]),
                service="MED",
            )
            yield self._stay(stay, now(), state, EventType.SNAPSHOT)

    def due(self, mix: Mix, span_s: float, now: Millis) -> list[Event]:
        """What happens within `span_s`; fractions of an event are carried over."""
        makes: list[Callable[[Millis], Event]] = []
        for lane in LANES:
            credit = self._credit.get(lane, 0.0) + getattr(mix, lane.value) * span_s
            self._credit[lane] = credit - int(credit)
            make = {Lane.CRITICAL: self._critical, Lane.URGENT: self._urgent, Lane.ROUTINE: self._routine}.get(lane, self._bulk)
            makes += [make] * int(credit)
        self._chance.shuffle(makes)
        return [make(now) for make in makes]

    def _critical(self, now: Millis) -> Event:
        turn = self._next("critical")
        if self._stays and turn % STAY_SHARE == 0:
            return self._move(turn // STAY_SHARE % self._stays, now)
        bed = (turn - turn // STAY_SHARE) % self._beds
        status = SERVICES[self._next(f"service {bed}") % 2]
        return self._bed(bed, now, Bed(service=Service(status, reason="EQUIPMENT")))

    def _move(self, stay: int, now: Millis) -> Event:
        before = self._at[stay]
        unit = UNITS[1 - UNITS.index(before.partition("/")[0])]
        after = self._free[unit].popleft()
        self._free[before.partition("/")[0]].append(before)
        self._at[stay] = after
        state = Encounter(location=_place(after), prior_location=_place(before))
        return self._stay(stay, now, state, EventType.TRANSFER)

    def _urgent(self, now: Millis) -> Event:
        bed = self._chance.randrange(self._beds)
        status = PROMISES[self._next(f"promise {bed}") % 2]
        return self._bed(bed, now, Bed(allocation=Allocation(status)))

    def _routine(self, now: Millis) -> Event:
        entity = self._chance.randrange(self.entities)
        turn = self._next(f"routine {entity}")
        if entity >= self._beds:
            return self._stay(entity - self._beds, now, Encounter(service=("SURG", "MED")[turn % 2]), EventType.DEMOGRAPHICS)
        return self._bed(entity, now, Bed(environment=HOUSEKEEPING[turn % 2]))

    def _bulk(self, now: Millis) -> Event:
        bed = self._chance.randrange(self._beds)
        return self._bed(bed, now, Bed(telemetry=self._next(f"bulk {bed}") % 2 == 0))

    def _next(self, name: str) -> int:
        count = self._counts.get(name, 0)
        self._counts[name] = count + 1
        return count

    def _bed(self, bed: int, now: Millis, payload: Bed, event_type: EventType = EventType.UPDATE) -> Event:
        return self._event(EntityType.BED, bed, f"MED/{bed}/A", now, payload, event_type, CAPACITY)

    def _stay(self, stay: int, now: Millis, payload: Encounter, event_type: EventType) -> Event:
        return self._event(EntityType.ENCOUNTER, stay, f"V{stay}", now, payload, event_type, EHR)

    def _event(
        self, entity_type: EntityType, number: int, name: str, now: Millis, payload: Payload, event_type: EventType, source: str
    ) -> Event:
        key = EntityKey(TENANT, entity_type.value, FACILITY, name)
        # Of two changes recorded in one millisecond the second would not be the newer one.
        recorded_ms = max(now, self._recorded_ms.get((entity_type, number), 0) + 1)
        self._recorded_ms[entity_type, number] = recorded_ms
        self.made += 1
        return sealed(
            Event(
                event_id=derive_event_id(TENANT, source, (FEED, str(self.seed), str(self.made)), key, 0),
                tenant=TENANT,
                facility=FACILITY,
                source_system=source,
                feed=FEED,
                entity_type=entity_type,
                namespace=FACILITY,
                entity_id=name,
                event_type=event_type,
                recorded_at=Millis(recorded_ms),
                received_at=now,
                payload=payload,
            )
        )


def _first_bed() -> Bed:
    return Bed(
        environment=Environment.DIRTY,
        allocation=Allocation(AllocationStatus.NONE),
        service=Service(ServiceStatus.OPEN),
        staffed=True,
        licensed=True,
        telemetry=False,
        level_of_care="MED",
    )


def _place(name: str) -> Place:
    unit, _, number = name.partition("/")
    return Place(facility=FACILITY, point_of_care=unit, room=number, bed="A")
