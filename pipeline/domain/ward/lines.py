"""The lines of a unit's board: beds, stays and what they count up to. None of them shows a value in its representation."""

from dataclasses import dataclass
from typing import Final

from pipeline.domain.bed import is_promised, is_ready
from pipeline.domain.event import (
    Bed,
    BedOccupancy,
    Described,
    DiversionStatus,
    Encounter,
    Environment,
    Name,
    Occupancy,
    Patient,
    PatientClass,
    Place,
    Service,
    ServiceStatus,
    Sex,
)
from pipeline.domain.identifiers import Millis


class BedWord(Described):
    """One word for a bed, the strongest fact first; as people on a ward ask for it."""

    CLOSED = "Closed", "out of service"
    BLOCKED = "Blocked", "temporarily out of service"
    OCCUPIED = "Occupied", "a patient is in it"
    CONTAMINATED = "Contaminated", "needs terminal cleaning"
    CLEANING = "Being cleaned", "housekeeping is at work"
    DIRTY = "Dirty", "waits for cleaning"
    UNSTAFFED = "No staff", "could be used if there were staff"
    READY = "Ready", "in service, empty, clean and not known to lack staff"
    EMPTY = "Empty", "nobody is in it; whether it is clean is not known"
    UNKNOWN = "Not known", "whether somebody is in it is not known"


class Disagreement(Described):
    """What two sources say otherwise of one bed. It is shown, never settled here."""

    SEVERAL = "more than one patient", "more than one stay claims the bed"
    SAID_EMPTY = "reported empty", "the bed is reported empty, a stay says that it is there"
    ELSEWHERE = "patient shown elsewhere", "the bed is reported occupied, the stay says that it lies in another one"
    NOBODY_KNOWN = "patient not known", "the bed is reported occupied, no stay says that it is there"


@dataclass(frozen=True, slots=True, repr=False)
class Person:
    """Who somebody is; empty where it isn't known here."""

    name: str = ""
    number: str = ""
    birth_date: str = ""
    sex: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class StayLine:
    """A patient's stay."""

    person: Person
    visit: str
    patient_class: str
    status: str
    service: str
    room: str
    bed: str
    unit: str
    coming_from: str
    going_to: str
    admitted_at: Millis | None
    boarding_since: Millis | None
    expected_discharge_at: Millis | None
    discharge_ordered_at: Millis | None
    is_on_leave: bool


@dataclass(frozen=True, slots=True, repr=False)
class BedLine:
    """A bed with who lies in it."""

    room: str
    bed: str
    state: Bed
    stays: tuple[StayLine, ...]
    disagreements: tuple[Disagreement, ...]

    @property
    def word(self) -> BedWord:
        """What it is now; a stay that says that it is there outweighs a bed that is said to be empty."""
        return BedWord.OCCUPIED if self.stays and not _is_out(self.state) else bed_word(self.state)

    @property
    def is_promised(self) -> bool:
        """Whether it is kept for somebody."""
        return is_promised(self.state)


@dataclass(frozen=True, slots=True)
class StaffLine:
    """Staff of one role in the shift that is on now."""

    role: str
    start: Millis
    end: Millis
    required: float | None
    actual: float | None


@dataclass(frozen=True, slots=True)
class DiversionLine:
    """Ambulances are sent elsewhere, or warned."""

    category: str
    status: DiversionStatus
    until: Millis | None


@dataclass(frozen=True, slots=True, repr=False)
class UnitBoard:
    """All that a unit's board shows. `heard_at`: receipt of the newest word about any of its beds and stays."""

    facility: str
    unit: str
    beds: tuple[BedLine, ...]
    elsewhere: tuple[StayLine, ...]
    arriving: tuple[StayLine, ...]
    staff: tuple[StaffLine, ...]
    diversions: tuple[DiversionLine, ...]
    heard_at: Millis | None

    @property
    def patients(self) -> int:
        """Stays in the unit, in a bed of its list or not."""
        return sum(len(line.stays) for line in self.beds) + len(self.elsewhere)

    def count(self, *words: BedWord) -> int:
        """Beds of these words."""
        return sum(line.word in words for line in self.beds)


def bed_word(bed: Bed) -> BedWord:
    """The one word, of the bed's own facts."""
    if _is_out(bed):
        assert isinstance(bed.service, Service)
        return BedWord.CLOSED if bed.service.status is ServiceStatus.CLOSED else BedWord.BLOCKED
    occupancy = bed.occupancy.status if isinstance(bed.occupancy, BedOccupancy) else Occupancy.UNKNOWN
    if occupancy is Occupancy.OCCUPIED:
        return BedWord.OCCUPIED
    if (soiled := _SOILED.get(bed.environment)) is not None:
        return soiled
    if bed.staffed is False:
        return BedWord.UNSTAFFED
    if is_ready(bed) is True:
        return BedWord.READY
    return BedWord.EMPTY if occupancy is Occupancy.VACANT else BedWord.UNKNOWN


_SOILED: Final[dict[object, BedWord]] = {
    Environment.CONTAMINATED: BedWord.CONTAMINATED,
    Environment.CLEANING: BedWord.CLEANING,
    Environment.DIRTY: BedWord.DIRTY,
}


def _is_out(bed: Bed) -> bool:
    return isinstance(bed.service, Service) and bed.service.status is not ServiceStatus.OPEN


def person_of(number: str, patient: Patient) -> Person:
    """What is shown of a person: the least that tells two apart at the bedside."""
    name = patient.name if isinstance(patient.name, Name) else Name()
    whole = ", ".join(part for part in (name.family, name.given) if part)
    return Person(
        name=whole,
        number=number,
        birth_date=patient.birth_date or "",
        sex="" if not isinstance(patient.sex, Sex) or patient.sex is Sex.UNKNOWN else patient.sex.value[0],
    )


def stay_of(visit: str, stay: Encounter, person: Person) -> StayLine:
    """A stay as a board shows it."""
    place = stay.location if isinstance(stay.location, Place) else Place()
    pending = stay.pending_location if isinstance(stay.pending_location, Place) else Place()
    return StayLine(
        person=person,
        visit=visit,
        patient_class=stay.patient_class.value if isinstance(stay.patient_class, PatientClass) else "",
        status=stay.status.value if stay.status else "",
        service=stay.service or "",
        room=place.room or "",
        bed=place.bed or "",
        unit=place.point_of_care or "",
        coming_from=_label(place),
        going_to=_label(pending),
        admitted_at=stay.admitted_at or None,
        boarding_since=stay.admit_decision_at or None,
        expected_discharge_at=stay.expected_discharge_at or None,
        discharge_ordered_at=stay.discharge_ordered_at or None,
        is_on_leave=stay.status is not None and str(stay.status) == "ONLEAVE",
    )


def _label(place: Place) -> str:
    return " / ".join(part for part in (place.point_of_care, place.room, place.bed) if part)
