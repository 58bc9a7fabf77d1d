"""A hospital in a surge, simulated by the hour: pure, and the same for the same seed.

Patients arrive, wait for beds, move, are recorded wrongly and corrected, and leave; beds are dirty, cleaned, promised
and blocked; a full emergency department diverts ambulances. What happens is a list of facts in true order; how they
are told, by which system and when, is `trace.py`'s.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from pipeline.local.demo.rhythm import ED_HOME_SHARE, ENTRY, HOUR_WEIGHTS, LEFT, STAYS, UnitKind

SPAN_H: Final = 240
STARTS_AT_HOUR: Final = 8
SURGE_FACTOR: Final = 3.0
"""Arrivals at the height of the surge, in the middle of the span, relative to its ends."""
UNITS: Final = (
    ("ED", UnitKind.ED, 2),
    ("ICU", UnitKind.ICU, 5),
    ("PACU", UnitKind.PACU, 1),
    ("MED", UnitKind.WARD, 7),
    ("SURG", UnitKind.WARD, 5),
)
"""Unit code, kind, share of the beds in twentieths."""
SHIFTS: Final = (("DAY", 7), ("NIGHT", 19))
ROLES: Final = ("RN", "MD")
PATIENTS_PER_STAFF: Final = {UnitKind.ED: 4, UnitKind.ICU: 2, UnitKind.PACU: 2, UnitKind.WARD: 6}
MAX_STAY_H: Final = 72.0
"""Longer stays are cut: in a surge who can leave, leaves."""
DIVERT_AT, DIVERT_ENDS_AT = 0.9, 0.7
"""Occupancy of the emergency department."""
BLOCK_EVERY_H: Final = 2.0
WRONG_ADMIT, WRONG_MOVE, WRONG_DISCHARGE = 0.03, 0.04, 0.04
"""Shares that are cancelled (A11, A12, A13)."""
UPDATED_SHARE: Final = 0.4
"""Stays in a unit during which a visit's details change (A08)."""


@dataclass(frozen=True, slots=True, order=True)
class BedPlace:
    """One bed."""

    unit: str
    room: str
    bed: str
    kind: UnitKind

    @property
    def id(self) -> str:
        """`unit/room/bed`."""
        return f"{self.unit}/{self.room}/{self.bed}"


@dataclass(slots=True)
class Visitor:
    """A patient and where they are; `number` names both the person and the visit."""

    number: int
    bed: BedPlace | None = None
    inpatient: bool = False
    present: bool = False
    admitted_h: float = 0.0


@dataclass(frozen=True, slots=True)
class Adt:
    """The EHR records something of a visit."""

    trigger: str
    number: int
    inpatient: bool
    place: BedPlace
    prior: BedPlace | None
    admitted_h: float
    details: int = 0
    """Distinguishes one state of the person's details from another."""


@dataclass(frozen=True, slots=True)
class BedCode:
    """The EHR records a bed's status: a code of HL7 table 0116 (A20)."""

    bed: BedPlace
    code: str


@dataclass(frozen=True, slots=True)
class BedFact:
    """The capacity platform records a field of a bed: environment, allocation (holder: a visit) or service (a reason)."""

    bed: BedPlace
    field: str
    value: str
    holder: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class BoardFact:
    """The capacity platform shows a bed as its board has it before the surge: clean, open and staffed."""

    bed: BedPlace


@dataclass(frozen=True, slots=True)
class StaffFact:
    """The capacity platform records the staff of one unit, shift and role."""

    unit: str
    shift: str
    role: str
    required: float
    actual: float


@dataclass(frozen=True, slots=True)
class DiversionFact:
    """The capacity platform records whether the emergency department diverts ambulances."""

    status: str


Fact = Adt | BedCode | BedFact | BoardFact | StaffFact | DiversionFact


@dataclass(slots=True)
class Surge:
    """One run. `facts` holds (hour of the span, fact) in true order once `run` is done."""

    chance: random.Random
    beds: tuple[BedPlace, ...]
    patients: int
    facts: list[tuple[float, Fact]] = field(default_factory=list)
    _agenda: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _free: set[BedPlace] = field(default_factory=set)
    _waiting: dict[UnitKind, deque[Visitor]] = field(default_factory=lambda: {kind: deque() for kind in UnitKind})
    _now_h: float = 0.0
    _planned: int = 0
    _diverting: bool = False

    def run(self) -> list[tuple[float, Fact]]:
        """Simulate the span."""
        self._free = set(self.beds)
        for bed in self.beds:
            self._tell(BoardFact(bed))
        for number, hour in enumerate(arrival_hours(self.chance, self.patients)):
            self._at(hour, partial(self._arrive, Visitor(number)))
        for hour in range(SPAN_H):
            for shift, starts in SHIFTS:
                if (STARTS_AT_HOUR + hour) % 24 == starts:
                    self._at(hour, partial(self._staff, shift))
        self._staff("DAY")
        self._after(BLOCK_EVERY_H, self._block)
        while self._agenda and self._agenda[0][0] < SPAN_H:
            self._now_h, _, act = heapq.heappop(self._agenda)
            act()
        return self.facts

    def _at(self, hour: float, act: Callable[[], None]) -> None:
        self._planned += 1
        heapq.heappush(self._agenda, (hour, self._planned, act))

    def _after(self, mean_h: float, act: Callable[[], None]) -> None:
        self._at(self._now_h + mean_h * self.chance.uniform(0.5, 1.5), act)

    def _tell(self, fact: Fact) -> None:
        self.facts.append((self._now_h, fact))

    def _tell_adt(self, trigger: str, who: Visitor, place: BedPlace, prior: BedPlace | None = None, details: int = 0) -> None:
        self._tell(Adt(trigger, who.number, who.inpatient, place, prior, who.admitted_h, details))

    # Patients

    def _arrive(self, who: Visitor) -> None:
        self._want(who, UnitKind(_draw(self.chance, ENTRY)))

    def _want(self, who: Visitor, kind: UnitKind) -> None:
        """Give the visitor a bed of that kind, now or when one is ready."""
        bed = min((bed for bed in self._free if bed.kind == kind), default=None)
        if bed is None:
            self._waiting[kind].append(who)
            return
        self._free.remove(bed)
        self._watch_ed()
        if not who.present:
            self._admit(who, bed)
            return
        self._tell(BedFact(bed, "allocation", "ASSIGNED", holder=who.number))
        self._after(1.0, partial(self._move, who, bed))

    def _admit(self, who: Visitor, bed: BedPlace) -> None:
        who.bed, who.present, who.admitted_h = bed, True, self._now_h
        who.inpatient = bed.kind != UnitKind.ED
        self._tell_adt("A01" if who.inpatient else "A04", who, bed)
        if who.inpatient and self.chance.random() < WRONG_ADMIT:
            self._after(0.5, partial(self._unadmit, who, bed))
        else:
            self._stay(who)

    def _unadmit(self, who: Visitor, bed: BedPlace) -> None:
        self._tell_adt("A11", who, bed)
        self._vacate(bed)

    def _move(self, who: Visitor, to: BedPlace) -> None:
        before = _bed_of(who)
        if self.chance.random() < WRONG_MOVE:
            self._tell_adt("A02", who, to, before)
            self._after(0.3, partial(self._unmove, who, before, to))
            return
        self._tell_adt("A02", who, to, before)
        self._tell(BedFact(to, "allocation", "NONE"))
        who.bed = to
        self._vacate(before)
        self._stay(who)

    def _unmove(self, who: Visitor, before: BedPlace, to: BedPlace) -> None:
        self._tell_adt("A12", who, before, to)
        self._after(1.0, partial(self._move, who, to))

    def _stay(self, who: Visitor) -> None:
        rhythm = STAYS[_bed_of(who).kind]
        hours = min(math.exp(self.chance.gauss(rhythm.log_mean, rhythm.log_sd)), MAX_STAY_H)
        if self.chance.random() < UPDATED_SHARE:
            place, details = _bed_of(who), self.chance.randrange(1, 1000)
            self._at(
                self._now_h + hours * self.chance.uniform(0.1, 0.9), lambda: self._tell_adt("A08", who, place, details=details)
            )
        self._at(self._now_h + hours, partial(self._end_stay, who))

    def _end_stay(self, who: Visitor) -> None:
        kind = _bed_of(who).kind
        goes_home = kind == UnitKind.ED and self.chance.random() < ED_HOME_SHARE
        following = LEFT if goes_home else _draw(self.chance, STAYS[kind].leads_to)
        if following == LEFT:
            self._leave(who)
            return
        if not who.inpatient:  # the decision to admit; from now on a boarder
            who.inpatient = True
            self._tell_adt("A01", who, _bed_of(who))
        self._want(who, UnitKind(following))

    def _leave(self, who: Visitor) -> None:
        bed = _bed_of(who)
        self._tell_adt("A03", who, bed)
        if self.chance.random() < WRONG_DISCHARGE:
            self._after(0.3, partial(self._unleave, who))
        else:
            who.present = False
            self._vacate(bed)

    def _unleave(self, who: Visitor) -> None:
        self._tell_adt("A13", who, _bed_of(who))
        self._after(2.0, partial(self._leave, who))

    # Beds

    def _vacate(self, bed: BedPlace) -> None:
        told = self.chance.random()
        if told < 0.25:
            self._tell(BedCode(bed, "K" if told < 0.05 else "H"))
        else:
            self._tell(BedFact(bed, "environment", "DIRTY"))
        self._after(0.7, partial(self._clean, bed))

    def _clean(self, bed: BedPlace) -> None:
        self._tell(BedFact(bed, "environment", "CLEANING"))
        self._after(0.8, partial(self._ready, bed))

    def _ready(self, bed: BedPlace) -> None:
        self._tell(BedFact(bed, "environment", "CLEAN"))
        self._release(bed)

    def _release(self, bed: BedPlace) -> None:
        self._free.add(bed)
        self._watch_ed()
        if self._waiting[bed.kind]:
            self._want(self._waiting[bed.kind].popleft(), bed.kind)

    def _block(self) -> None:
        """Take a free bed out of service for a while, but for the last free one of its kind."""
        candidates = sorted(bed for bed in self._free if sum(other.kind == bed.kind for other in self._free) > 1)
        if candidates:
            bed = self.chance.choice(candidates)
            self._free.remove(bed)
            self._tell(BedFact(bed, "service", "BLOCKED", reason=self.chance.choice(("EQUIPMENT", "STAFFING", "MAINTENANCE"))))
            self._after(8.0, partial(self._unblock, bed))
        self._after(BLOCK_EVERY_H, self._block)

    def _unblock(self, bed: BedPlace) -> None:
        self._tell(BedFact(bed, "service", "OPEN"))
        self._release(bed)

    # The house

    def _watch_ed(self) -> None:
        beds = sum(bed.kind == UnitKind.ED for bed in self.beds)
        occupied = 1 - sum(bed.kind == UnitKind.ED for bed in self._free) / beds
        if not self._diverting and occupied >= DIVERT_AT:
            self._diverting = True
            self._tell(DiversionFact("CLOSED"))
        elif self._diverting and occupied <= DIVERT_ENDS_AT:
            self._diverting = False
            self._tell(DiversionFact("NORMAL"))

    def _staff(self, shift: str) -> None:
        for unit, kind, _ in UNITS:
            taken = sum(bed.unit == unit and bed not in self._free for bed in self.beds)
            for role in ROLES:
                required = float(math.ceil(max(taken, 1) / PATIENTS_PER_STAFF[kind] / (1 if role == "RN" else 3)))
                actual = max(0.0, required - self.chance.choice((0, 0, 0, 0.5, 1)))
                self._tell(StaffFact(unit, shift, role, required, actual))


def beds_of(count: int) -> tuple[BedPlace, ...]:
    """`count` beds (20 and more) over the units by their shares; two to a room on wards, one elsewhere."""
    beds: list[BedPlace] = []
    for unit, kind, twentieths in UNITS:
        for n in range(count * twentieths // 20):
            room, letter = (n // 2 + 1, "AB"[n % 2]) if kind == UnitKind.WARD else (n + 1, "A")
            beds.append(BedPlace(unit, str(room), letter, kind))
    return tuple(beds)


def arrival_hours(chance: random.Random, patients: int) -> list[float]:
    """When patients arrive: by the hour of the day, and thickest in the middle of the span."""
    hours = range(SPAN_H)
    weights = [
        HOUR_WEIGHTS[(STARTS_AT_HOUR + hour) % 24] * (1 + (SURGE_FACTOR - 1) * math.sin(math.pi * hour / SPAN_H))
        for hour in hours
    ]
    return sorted(hour + chance.random() for hour in chance.choices(hours, weights, k=patients))


def _draw(chance: random.Random, shares: Mapping[str, float] | Mapping[UnitKind, float]) -> str:
    return str(chance.choices([str(name) for name in shares], list(shares.values()))[0])


def _bed_of(who: Visitor) -> BedPlace:
    assert who.bed is not None
    return who.bed
