"""Who lies where and which bed is what, from the heads of all entities: what the boards, extracts and reports are made of.

A projection: fed in any order, in part twice, it holds the same, because of two heads of an entity the later one counts.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import unquote

from pipeline.domain.event import (
    Bed,
    BedOccupancy,
    Diversion,
    DiversionState,
    DiversionStatus,
    Encounter,
    EncounterStatus,
    EntityType,
    Occupancy,
    Patient,
    PatientClass,
    Payload,
    Place,
    Reference,
    Staffing,
)
from pipeline.domain.head import Head
from pipeline.domain.identifiers import EntityKey, Millis, Revision
from pipeline.domain.ward.lines import (
    BedLine,
    Disagreement,
    DiversionLine,
    Person,
    StaffLine,
    StayLine,
    UnitBoard,
    person_of,
    stay_of,
)

MERGE_HOPS: Final = 8
"""Merged identities that are followed to the one that survives."""

_SHOWN: Final = frozenset({EntityType.BED, EntityType.ENCOUNTER, EntityType.PATIENT, EntityType.STAFFING, EntityType.DIVERSION})
_OVER: Final = frozenset(
    {EncounterStatus.PLANNED, EncounterStatus.FINISHED, EncounterStatus.CANCELLED, EncounterStatus.ENTERED_IN_ERROR}
)
_ENDED: Final = _OVER - {EncounterStatus.PLANNED}
_DIVERTING: Final = (DiversionStatus.ADVISORY, DiversionStatus.CLOSED)


class Unit(NamedTuple):
    """One ward of one site."""

    tenant: str
    facility: str
    code: str


class Spot(NamedTuple):
    """One bed's place as people name it."""

    unit: Unit
    room: str
    bed: str


@dataclass(slots=True, repr=False)
class _Known:
    """The newest head of an entity, without what nobody asks for; `state` is None where it is over."""

    at: Revision
    facility: str
    state: Payload | None
    heard: Millis


class Census:
    """All entities by key. Not for two threads at once: its owner keeps a lock."""

    def __init__(self) -> None:
        self._known: dict[EntityType, dict[EntityKey, _Known]] = {kind: {} for kind in _SHOWN}

    def __len__(self) -> int:
        return sum(len(each) for each in self._known.values())

    def on_head(self, key: EntityKey, head: Head) -> None:
        """From the gate's table. An older head, as a repeat or a zombie's late record brings it, changes nothing."""
        if (kind := _kind_of(key)) is None:
            return
        known = self._known[kind]
        before = known.get(key)
        if before is not None and head.at < before.at:
            return
        state = None if head.retired is not None and kind is not EntityType.PATIENT else _kept(head.state)
        known[key] = _Known(head.at, head.facility, state, head.received_at)

    def forget(self, key: EntityKey) -> None:
        """An entity that is no more in the gate's table."""
        if (kind := _kind_of(key)) is not None:
            self._known[kind].pop(key, None)

    def units(self) -> frozenset[Unit]:
        """Each unit that has a bed, or somebody in it."""
        beds = {spot.unit for spot, _ in self.beds()}
        return frozenset(beds | {unit for unit, _, _, _ in self._stays()})

    def beds(self) -> Iterator[tuple[Spot, Bed]]:
        """Each bed with its place; one whose place nobody has told and whose id names none is in the unit ''."""
        for key, known in self._known[EntityType.BED].items():
            if isinstance(known.state, Bed):
                yield _spot_of(key, known.facility, known.state), known.state

    def unplaced(self) -> int:
        """Beds of which nobody knows the unit: they are on no board."""
        return sum(not spot.unit.code for spot, _ in self.beds())

    def boards(self, units: Iterable[Unit], now: Millis) -> dict[Unit, UnitBoard]:
        """What is known of each of these units at `now`, which only decides about shifts."""
        wanted = frozenset(units)
        beds: dict[Unit, list[tuple[Spot, EntityKey, _Known]]] = {unit: [] for unit in wanted}
        for key, known in self._known[EntityType.BED].items():
            if isinstance(known.state, Bed) and (spot := _spot_of(key, known.facility, known.state)).unit in wanted:
                beds[spot.unit].append((spot, key, known))
        stays: dict[Unit, list[tuple[Place, EntityKey, _Known]]] = {unit: [] for unit in wanted}
        for unit, place, key, known in self._stays():
            if unit in wanted:
                stays[unit].append((place, key, known))
        arriving = self._arriving(wanted)
        return {unit: self._board(unit, beds[unit], stays[unit], arriving.get(unit, []), now) for unit in wanted}

    def _board(
        self,
        unit: Unit,
        beds: list[tuple[Spot, EntityKey, _Known]],
        stays: list[tuple[Place, EntityKey, _Known]],
        arriving: list[StayLine],
        now: Millis,
    ) -> UnitBoard:
        by_place: dict[tuple[str, str], list[EntityKey]] = {}
        for place, key, _ in stays:
            by_place.setdefault((place.room or "", place.bed or ""), []).append(key)
        shown: set[EntityKey] = set()
        lines = []
        for spot, key, known in sorted(beds, key=lambda each: (natural(each[0].room), natural(each[0].bed), each[1])):
            assert isinstance(known.state, Bed)
            keys, said = self._occupants(key, known.state, by_place.get((spot.room, spot.bed), []))
            shown |= set(keys)
            lines.append(BedLine(spot.room, spot.bed, known.state, tuple(map(self._stay, keys)), said))
        rest = [(place, key) for place, key, _ in stays if key not in shown]
        rest.sort(key=lambda each: (natural(each[0].room or ""), natural(each[0].bed or ""), each[1]))
        heard = [known.heard for _, _, known in (*beds, *stays)]
        return UnitBoard(
            facility=unit.facility,
            unit=unit.code,
            beds=tuple(lines),
            elsewhere=tuple(self._stay(key) for _, key in rest),
            arriving=tuple(sorted(arriving, key=lambda each: (each.person.name, each.visit))),
            staff=tuple(self._staff(unit, now)),
            diversions=tuple(self._diversions(unit)),
            heard_at=max(heard, default=None),
        )

    def _occupants(self, key: EntityKey, bed: Bed, by_place: list[EntityKey]) -> tuple[list[EntityKey], tuple[Disagreement, ...]]:
        """Who lies in a bed by the stays' own word, and where the bed's own word is another one."""
        said = bed.occupancy if isinstance(bed.occupancy, BedOccupancy) else None
        keys = sorted(by_place)
        if said is not None and said.status is Occupancy.OCCUPIED and not keys:
            named = _reference(key.tenant, EntityType.ENCOUNTER, said.encounter)
            known = self._known[EntityType.ENCOUNTER].get(named) if named is not None else None
            if named is None or known is None or not isinstance(known.state, Encounter) or not _is_here(known.state):
                return keys, (Disagreement.NOBODY_KNOWN,)
            if isinstance(known.state.location, Place):
                return keys, (Disagreement.ELSEWHERE,)
            keys.append(named)
        found = []
        if len(keys) > 1:
            found.append(Disagreement.SEVERAL)
        if keys and said is not None and said.status is Occupancy.VACANT:
            found.append(Disagreement.SAID_EMPTY)
        return keys, tuple(found)

    def _stays(self) -> Iterator[tuple[Unit, Place, EntityKey, _Known]]:
        """Each stay that lies somewhere by its own word."""
        for key, known in self._known[EntityType.ENCOUNTER].items():
            stay = known.state
            if isinstance(stay, Encounter) and isinstance(stay.location, Place) and _is_here(stay):
                place = stay.location
                if place.point_of_care:
                    yield Unit(key.tenant, place.facility or known.facility, place.point_of_care), place, key, known

    def _arriving(self, wanted: frozenset[Unit]) -> dict[Unit, list[StayLine]]:
        """Stays that are expected in these units and are not there yet."""
        found: dict[Unit, list[StayLine]] = {}
        for key, known in self._known[EntityType.ENCOUNTER].items():
            stay = known.state
            if not isinstance(stay, Encounter) or not isinstance(stay.pending_location, Place) or stay.status in _ENDED:
                continue
            place = stay.pending_location
            unit = Unit(key.tenant, place.facility or known.facility, place.point_of_care or "")
            lies = stay.location.point_of_care if isinstance(stay.location, Place) and _is_here(stay) else None
            if unit in wanted and lies != unit.code:
                found.setdefault(unit, []).append(self._stay(key))
        return found

    def _stay(self, key: EntityKey) -> StayLine:
        known = self._known[EntityType.ENCOUNTER][key]
        assert isinstance(known.state, Encounter)
        return stay_of(key.id, known.state, self._person(key.tenant, known.state.patient))

    def _person(self, tenant: str, who: object) -> Person:
        """Who it is, under the identity that survives where some were merged."""
        number = who.id if isinstance(who, Reference) else ""
        for _ in range(MERGE_HOPS):
            key = _reference(tenant, EntityType.PATIENT, who)
            known = self._known[EntityType.PATIENT].get(key) if key is not None else None
            if known is None or not isinstance(known.state, Patient):
                break
            if not isinstance(known.state.merged_into, Reference):
                assert isinstance(who, Reference)
                return person_of(who.id, known.state)
            who = known.state.merged_into
        return Person(number=number)

    def _staff(self, unit: Unit, now: Millis) -> Iterator[StaffLine]:
        found = []
        for key, known in self._known[EntityType.STAFFING].items():
            said = known.state
            if not isinstance(said, Staffing) or (key.tenant, known.facility, said.unit) != unit:
                continue
            if isinstance(said.shift_start, int) and isinstance(said.shift_end, int):
                if not said.shift_start <= now < said.shift_end:
                    continue
                required = said.required if isinstance(said.required, float | int) else None
                actual = said.actual if isinstance(said.actual, float | int) else None
                found.append(StaffLine(said.role or "", said.shift_start, said.shift_end, required, actual))
        yield from sorted(found, key=lambda line: (line.role, line.start))

    def _diversions(self, unit: Unit) -> Iterator[DiversionLine]:
        found = []
        for key, known in self._known[EntityType.DIVERSION].items():
            said = known.state
            if not isinstance(said, Diversion) or (key.tenant, known.facility) != unit[:2]:
                continue
            if isinstance(said.state, DiversionState) and said.state.status in _DIVERTING:
                found.append(DiversionLine(said.category or key.id, said.state.status, said.state.until))
        yield from sorted(found, key=lambda line: line.category)


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sorts 9 before 10, as people do."""
    return [
        (0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part.casefold())
        for part in _NUMBERS.split(text)
        if part
    ]


_NUMBERS: Final = re.compile(r"([0-9]{1,9})", re.ASCII)


def _kind_of(key: EntityKey) -> EntityType | None:
    try:
        kind = EntityType(key.entity_type)
    except ValueError:
        return None
    return kind if kind in _SHOWN else None


def _kept(state: Payload) -> Payload | None:
    """The state; None of a stay that is over, of which there are many and nobody asks."""
    if isinstance(state, Encounter) and not _is_here(state) and not _is_coming(state):
        return None
    return state


def _is_here(stay: Encounter) -> bool:
    return not (isinstance(stay.merged_into, Reference) or stay.status in _OVER or stay.patient_class is PatientClass.PREADMIT)


def _is_coming(stay: Encounter) -> bool:
    waits = isinstance(stay.pending_location, Place) and stay.status not in _ENDED
    return waits and not isinstance(stay.merged_into, Reference)


def _reference(tenant: str, kind: EntityType, who: object) -> EntityKey | None:
    return EntityKey(tenant, kind.value, who.namespace, who.id) if isinstance(who, Reference) else None


def _spot_of(key: EntityKey, facility: str, bed: Bed) -> Spot:
    """By the location master; where it is silent, by the id, which HL7 v2 and files make of unit, room and bed."""
    place = bed.place if isinstance(bed.place, Place) else Place()
    parts = [unquote(part) for part in key.id.split("/")]
    unit, room, name = parts if len(parts) == 3 else ("", "", key.id)
    if place.point_of_care:
        unit, room, name = place.point_of_care, place.room or room, place.bed or name
    return Spot(Unit(key.tenant, place.facility or facility, unit), room, name)
