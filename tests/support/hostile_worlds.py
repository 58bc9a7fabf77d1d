"""What changes in a hostile run, and in which order it became true: some beds, or a ward with its people. From a seed."""

import random
from dataclasses import dataclass, field
from typing import Final, Protocol

from msgspec import structs

from pipeline.domain.event import (
    Bed,
    BedOccupancy,
    Encounter,
    EncounterStatus,
    EntityType,
    Environment,
    Identifier,
    Name,
    Occupancy,
    Patient,
    PatientClass,
    Payload,
    Place,
    Procedure,
    ProcedureStatus,
    Reference,
    Service,
    ServiceStatus,
    Sex,
    StageState,
    Transfer,
    TransferKind,
    TransferStage,
)
from pipeline.domain.identifiers import Millis

T0: Final = Millis(1_700_000_000_000)
NAMESPACE: Final = "MAIN"
MOST_STAYS: Final = 24
Fact = tuple[EntityType, str, Payload]
"""Entity type, entity id, and the whole state by now."""


class World(Protocol):
    """What the gate accepts: facts in the order in which they became true."""

    def first(self) -> list[Fact]: ...
    def next(self) -> list[Fact]: ...
    def again(self, entity_type: EntityType, entity_id: str) -> Fact:
        """A newer state of this entity."""
        ...


@dataclass
class Beds:
    """A few beds of one floor, each for itself."""

    run: str
    chance: random.Random
    count: int
    ids: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.ids = [f"{self.run}/{number}/A" for number in range(self.count)]

    def first(self) -> list[Fact]:
        return [(EntityType.BED, bed_id, self._state()) for bed_id in self.ids]

    def next(self) -> list[Fact]:
        chosen = self.chance.choices(self.ids, k=self.chance.randint(1, 3))
        return [(EntityType.BED, bed_id, self._state()) for bed_id in chosen]

    def again(self, entity_type: EntityType, entity_id: str) -> Fact:
        return entity_type, entity_id, self._state()

    def _state(self) -> Bed:
        return bed_state(self.chance, Place(building="B1", floor="3", point_of_care="ICU", room="12"))


def bed_state(chance: random.Random, place: Place) -> Bed:
    """A vacant bed of any other state, in one of two rooms."""
    return Bed(
        occupancy=BedOccupancy(Occupancy.VACANT),
        environment=chance.choice([Environment.CLEAN, Environment.DIRTY, Environment.CLEANING]),
        service=Service(chance.choice([ServiceStatus.OPEN, ServiceStatus.CLOSED])),
        staffed=chance.random() < 0.5,
        place=place if chance.random() < 0.8 else structs.replace(place, room="13"),
    )


@dataclass
class Ward:
    """Beds, people, their stays, transfers and procedures, which refer to each other.

    At no moment do two stays claim one bed: who leaves is told before who comes. Nobody goes back to a bed before theirs, so
    that no ring of moves can arise, which only a bed told twice could open.
    """

    run: str
    chance: random.Random
    beds: int = 5
    people: int = 8
    wave: tuple[int, int] = (3, 9)
    """How much becomes true at once."""
    procedures: int = 6
    stays: dict[str, Encounter] = field(default_factory=dict)
    lies: dict[str, int] = field(default_factory=dict)
    """Bed by stay."""
    stages: dict[str, int] = field(default_factory=dict)

    # -- what becomes true

    def first(self) -> list[Fact]:
        facts = [self._bed(number) for number in range(self.beds)]
        facts += [self._person(number) for number in range(self.people)]
        if not self.stays:
            facts += [fact for bed in range(0, self.beds - 1, 2) for fact in self.admitted(bed)]
        facts += [self._transfer(f"T{number}-{self.run}") for number in range(4)]
        facts += [self._procedure(number) for number in range(self.procedures)]
        return facts + [self._served(stay) for stay in sorted(self.lies)]

    def next(self) -> list[Fact]:
        kinds = [self.turnover, self.turnover, self._details, self._aside]
        return [fact for _ in range(self.chance.randint(*self.wave)) for fact in self.chance.choice(kinds)()]

    def again(self, entity_type: EntityType, entity_id: str) -> Fact:
        number = int(entity_id.partition("-")[0][1:]) if entity_type is not EntityType.BED else 0
        match entity_type:
            case EntityType.ENCOUNTER if entity_id in self.lies:
                return self._departure(entity_id)
            case EntityType.ENCOUNTER:
                return self._served(entity_id)
            case EntityType.BED:
                return entity_type, entity_id, bed_state(self.chance, self._place_of(entity_id))
            case EntityType.PATIENT:
                return self._person(number)
            case EntityType.TRANSFER:
                return self._transfer(entity_id)
            case _:
                return self._procedure(number)

    # -- stays

    def turnover(self) -> list[Fact]:
        """Somebody leaves a bed, and somebody comes into it at once: a new stay, or one from a bed before it."""
        if not self.lies:
            return self.admitted(self.chance.randrange(self.beds))
        leaver = self.chance.choice(sorted(self.lies))
        bed = self.lies[leaver]
        leaves = self._departure(leaver)
        before = [stay for stay, number in sorted(self.lies.items()) if number < bed]
        if before and self.chance.random() < 0.5:
            mover = self.chance.choice(before)
            return [leaves, self.moved(mover, bed)]
        return [leaves, *self.admitted(bed)]

    def _departure(self, stay: str) -> Fact:
        """To a free bed behind this one, if there is one, or home."""
        bed = self.lies[stay]
        free = [number for number in range(bed + 1, self.beds) if number not in self.lies.values()]
        return self.moved(stay, self.chance.choice(free)) if free and self.chance.random() < 0.6 else self.goes_home(stay)

    def moved(self, stay: str, bed: int) -> Fact:
        return self._stay(stay, bed, prior_location=self._place(self.lies[stay]))

    def goes_home(self, stay: str) -> Fact:
        del self.lies[stay]
        over = self.chance.choice((EncounterStatus.FINISHED, EncounterStatus.FINISHED, EncounterStatus.CANCELLED))
        return self._stay(stay, status=over, discharged_at=Millis(T0 + 86_400_000))

    def admitted(self, bed: int) -> list[Fact]:
        number = len(self.stays)
        if number == MOST_STAYS:
            return []
        person = Reference(NAMESPACE, self._person_id(self.chance.randrange(self.people)))
        stay = f"V{number}-{self.run}"
        self.stays[stay] = Encounter(
            patient=person,
            patient_class=PatientClass.INPATIENT,
            status=EncounterStatus.IN_PROGRESS,
            admitted_at=Millis(T0 + number * 60_000),
            episode=Reference(NAMESPACE, f"E-{person.id}") if self.chance.random() < 0.6 else None,
        )
        return [self._stay(stay, bed)]

    def _details(self) -> list[Fact]:
        return [self._served(self.chance.choice(sorted(self.stays)))]

    def _served(self, stay: str) -> Fact:
        return self._stay(stay, service=self.chance.choice(("MED", "SUR", "CAR")))

    def _stay(self, stay: str, bed: int | None = None, **fields: object) -> Fact:
        if bed is not None:
            self.lies[stay] = bed
            fields["location"] = self._place(bed)
        self.stays[stay] = structs.replace(self.stays[stay], **fields)
        return EntityType.ENCOUNTER, stay, self.stays[stay]

    # -- everything else

    def _aside(self) -> list[Fact]:
        draw = self.chance.randrange(4)
        if draw == 0:
            return [self._bed(self.chance.randrange(self.beds))]
        if draw == 1:
            return [self._person(self.chance.randrange(self.people))]
        if draw == 2:
            return [self._transfer(self.chance.choice(sorted(self.stages)))]
        return [self._procedure(self.chance.randrange(self.procedures))]

    def _bed(self, number: int) -> Fact:
        bed_id = f"{self.run}/{number}/A"
        return EntityType.BED, bed_id, bed_state(self.chance, self._place_of(bed_id))

    def _place_of(self, bed_id: str) -> Place:
        unit, _, _ = bed_id.split("/")
        return Place(building="B1", floor="3", point_of_care=unit, room="12")

    def _place(self, number: int) -> Place:
        return Place(point_of_care=self.run, room=str(number), bed="A")

    def _person_id(self, number: int) -> str:
        return f"P{number}-{self.run}"

    def _person(self, number: int) -> Fact:
        state = Patient(
            identifiers=(Identifier(NAMESPACE, f"{self.run}-{number}", "MR"),),
            name=Name("FAMILY", self.chance.choice(("ONE", "TWO", "THREE", "FOUR"))),
            birth_date="1970-01-31",
            sex=self.chance.choice(list(Sex)),
        )
        return EntityType.PATIENT, self._person_id(number), state

    def _transfer(self, transfer: str) -> Fact:
        stages = list(TransferStage)
        at = self.stages[transfer] = self.stages.get(transfer, -1) + 1
        state = Transfer(
            kind=TransferKind.INTERNAL,
            stage=StageState(stages[at % len(stages)], None, Millis(T0 + at * 60_000)),
            patient=Reference(NAMESPACE, self._person_id(self.chance.randrange(self.people))),
            encounter=Reference(NAMESPACE, self.chance.choice(sorted(self.stays))),
            origin=self._place(0),
            destination=self._place(self.chance.randrange(self.beds)),
            requested_at=T0,
        )
        return EntityType.TRANSFER, transfer, state

    def _procedure(self, number: int) -> Fact:
        start = Millis(T0 + self.chance.randrange(100) * 900_000)
        state = Procedure(
            status=self.chance.choice((ProcedureStatus.BOOKED, ProcedureStatus.PENDING, ProcedureStatus.CANCELLED)),
            start=start,
            end=Millis(start + 5_400_000),
            place=self._place(0),
            patient=Reference(NAMESPACE, self._person_id(number % self.people)),
            service="KNEE",
        )
        return EntityType.PROCEDURE, f"S{number}-{self.run}", state
