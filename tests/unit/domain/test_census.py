"""Who lies where and which bed is what: the projection that boards, extracts and reports are made of."""

import random
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.event import (
    Bed,
    BedOccupancy,
    Diversion,
    DiversionState,
    DiversionStatus,
    Encounter,
    EncounterStatus,
    Environment,
    Name,
    Occupancy,
    Patient,
    PatientClass,
    Payload,
    Place,
    Reference,
    Service,
    ServiceStatus,
    Staffing,
)
from pipeline.domain.head import Head
from pipeline.domain.identifiers import EntityKey, EventId, Millis, Revision
from pipeline.domain.ring import EMPTY_RING
from pipeline.domain.ward.census import Census, Unit, natural
from pipeline.domain.ward.lines import BedWord, Disagreement, UnitBoard, bed_word

ICU: Final = Unit("t", "MAIN", "ICU")
MED: Final = Unit("t", "MAIN", "MED")
NOW: Final = Millis(1_767_000_000_000)
VISIT: Final = Reference("EHR", "V1")


def head(state: Payload, position: int = 1, facility: str = "MAIN") -> Head:
    nobody, heard = EventId("0" * 32), Millis(NOW + position)
    return Head(1, position, Revision(position), "", facility, state, {}, EMPTY_RING, nobody, "", NOW, heard)


def key(kind: str, name: str) -> EntityKey:
    return EntityKey("t", kind, "MAIN" if kind == "bed" else "EHR", name)


def census(*told: tuple[EntityKey, Head]) -> Census:
    made = Census()
    for each, state in told:
        made.on_head(each, state)
    return made


def bed(name: str, position: int = 1, **fields: Any) -> tuple[EntityKey, Head]:
    return key("bed", name), head(Bed(**fields), position)


def stay(visit: str, unit: str, room: str, name: str | None, position: int = 1, **fields: Any) -> tuple[EntityKey, Head]:
    status = fields.pop("status", EncounterStatus.IN_PROGRESS)
    place = Place(point_of_care=unit, room=room, bed=name)
    said = Encounter(location=place, status=status, patient=Reference("EHR", f"P-{visit}"), **fields)
    return key("encounter", visit), head(said, position)


def patient(number: str, family: str, **fields: Any) -> tuple[EntityKey, Head]:
    return key("patient", number), head(Patient(name=Name(family, "A"), **fields))


def board(made: Census, unit: Unit = ICU) -> UnitBoard:
    return made.boards([unit], NOW)[unit]


OCCUPIED: Final = BedOccupancy(Occupancy.OCCUPIED, VISIT)
VACANT: Final = BedOccupancy(Occupancy.VACANT, VISIT)


def test_a_patient_is_shown_in_the_bed_that_the_stay_names_with_name_and_number() -> None:
    made = census(bed("ICU/4/A", occupancy=OCCUPIED), stay("V1", "ICU", "4", "A"), patient("P-V1", "Green"))
    (line,) = board(made).beds
    assert (line.room, line.bed, line.word) == ("4", "A", BedWord.OCCUPIED)
    assert [(each.person.name, each.person.number) for each in line.stays] == [("Green, A", "P-V1")]
    assert line.disagreements == ()


def test_a_patient_whose_name_is_not_known_here_is_still_shown_by_number() -> None:
    (line,) = board(census(bed("ICU/4/A", occupancy=OCCUPIED), stay("V1", "ICU", "4", "A"))).beds
    assert (line.stays[0].person.name, line.stays[0].person.number) == ("", "P-V1")


def test_a_merged_patient_is_shown_under_the_identity_that_survives() -> None:
    made = census(
        bed("ICU/4/A", occupancy=OCCUPIED),
        stay("V1", "ICU", "4", "A"),
        patient("P-V1", "Old", merged_into=Reference("EHR", "P9")),
        patient("P9", "Kept"),
    )
    assert board(made).beds[0].stays[0].person.name == "Kept, A"


def test_patients_merged_in_a_circle_are_shown_by_number_and_hold_nothing_up() -> None:
    made = census(
        stay("V1", "ICU", "4", "A"),
        patient("P-V1", "One", merged_into=Reference("EHR", "P2")),
        patient("P2", "Two", merged_into=Reference("EHR", "P-V1")),
    )
    assert board(made).elsewhere[0].person.number == "P-V1"


def test_somebody_without_a_bed_of_the_list_is_not_left_out() -> None:
    made = census(bed("ICU/4/A"), stay("V1", "ICU", "HALL", None), stay("V2", "ICU", "9", "Z"))
    assert [each.visit for each in board(made).elsewhere] == ["V2", "V1"]
    assert board(made).patients == 2


@pytest.mark.parametrize("status", [EncounterStatus.FINISHED, EncounterStatus.CANCELLED, EncounterStatus.PLANNED])
def test_who_has_left_or_not_come_is_nowhere(status: EncounterStatus) -> None:
    assert board(census(bed("ICU/4/A"), stay("V1", "ICU", "4", "A", status=status))).patients == 0


def test_who_is_only_preadmitted_is_nowhere_and_who_is_expected_is_announced() -> None:
    made = census(stay("V1", "ICU", "4", "A", patient_class=PatientClass.PREADMIT))
    assert board(made).patients == 0
    made = census(stay("V2", "MED", "1", "A", pending_location=Place(point_of_care="ICU", room="4", bed="A")))
    assert [(each.coming_from, each.going_to) for each in board(made).arriving] == [("MED / 1 / A", "ICU / 4 / A")]
    assert board(made, MED).patients == 1


def test_two_stays_in_one_bed_are_both_shown_and_named_a_disagreement() -> None:
    made = census(bed("ICU/4/A", occupancy=OCCUPIED), stay("V1", "ICU", "4", "A"), stay("V2", "ICU", "4", "A"))
    (line,) = board(made).beds
    assert (len(line.stays), line.disagreements) == (2, (Disagreement.SEVERAL,))


def test_a_bed_that_is_reported_empty_while_a_stay_is_there_shows_the_patient_and_says_so() -> None:
    (line,) = board(census(bed("ICU/4/A", occupancy=VACANT), stay("V1", "ICU", "4", "A"))).beds
    assert (line.word, line.disagreements) == (BedWord.OCCUPIED, (Disagreement.SAID_EMPTY,))


def test_an_occupied_bed_of_nobody_known_is_not_shown_as_free() -> None:
    (line,) = board(census(bed("ICU/4/A", occupancy=OCCUPIED))).beds
    assert (line.word, line.disagreements) == (BedWord.OCCUPIED, (Disagreement.NOBODY_KNOWN,))
    moved = census(bed("ICU/4/A", occupancy=OCCUPIED), stay("V1", "MED", "1", "A"))
    assert board(moved).beds[0].disagreements == (Disagreement.ELSEWHERE,)


def test_the_place_of_the_location_master_counts_before_the_id() -> None:
    place = Place(point_of_care="ICU", room="7", bed="B")
    made = census(bed("old-id", place=place), bed("ICU%2FX/1/A"), bed("nobody-knows-where"))
    assert [(line.room, line.bed) for line in board(made).beds] == [("7", "B")]
    assert Unit("t", "MAIN", "ICU/X") in made.units()
    assert made.unplaced() == 1


def test_tenants_and_sites_with_units_of_one_name_are_apart() -> None:
    other = EntityKey("t2", "bed", "MAIN", "ICU/1/A")
    made = census(bed("ICU/4/A"), (other, head(Bed())), (key("bed", "ICU/5/A"), head(Bed(), facility="EAST")))
    assert len(board(made).beds) == len(board(made, Unit("t2", "MAIN", "ICU")).beds) == 1
    assert len(board(made, Unit("t", "EAST", "ICU")).beds) == 1


def test_beds_stand_in_the_order_in_which_people_count() -> None:
    made = census(*(bed(f"ICU/{room}/A") for room in ("10", "9", "1B", "2", "1A")))
    assert [line.room for line in board(made).beds] == ["1A", "1B", "2", "9", "10"]
    assert natural("٣") == [(1, 0, "٣")]


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (Bed(), BedWord.UNKNOWN),
        (Bed(occupancy=VACANT), BedWord.EMPTY),
        (Bed(occupancy=VACANT, environment=Environment.CLEAN), BedWord.READY),
        (Bed(occupancy=VACANT, environment=Environment.CLEAN, staffed=False), BedWord.UNSTAFFED),
        (Bed(occupancy=VACANT, environment=Environment.DIRTY, staffed=False), BedWord.DIRTY),
        (Bed(occupancy=OCCUPIED, environment=Environment.DIRTY), BedWord.OCCUPIED),
        (Bed(occupancy=VACANT, service=Service(ServiceStatus.BLOCKED)), BedWord.BLOCKED),
        (Bed(occupancy=OCCUPIED, service=Service(ServiceStatus.CLOSED)), BedWord.CLOSED),
        (Bed(environment=Environment.CLEAN), BedWord.UNKNOWN),
    ],
)
def test_one_word_tells_the_strongest_fact(state: Bed, word: BedWord) -> None:
    assert bed_word(state) is word


def test_staff_of_the_shift_that_is_on_and_diversion_of_the_site_are_shown() -> None:
    shift = {"unit": "ICU", "role": "RN", "required": 4.0, "actual": 3.0}
    on = Staffing(shift_start=Millis(NOW - 1), shift_end=Millis(NOW + 1), **shift)
    over = Staffing(shift_start=Millis(NOW - 2), shift_end=NOW, **shift)
    closed = Diversion(category="ED", state=DiversionState(DiversionStatus.CLOSED, until=NOW))
    none = Diversion(category="ICU", state=DiversionState(DiversionStatus.NORMAL))
    made = census(
        bed("ICU/1/A"),
        (key("staffing", "a"), head(on)),
        (key("staffing", "b"), head(over)),
        (key("diversion", "ED"), head(closed)),
        (key("diversion", "ICU"), head(none)),
    )
    assert [(line.role, line.actual) for line in board(made).staff] == [("RN", 3.0)]
    assert [line.category for line in board(made).diversions] == ["ED"]


def test_a_unit_of_which_nothing_is_known_has_an_empty_board() -> None:
    empty = board(Census())
    assert (empty.beds, empty.patients, empty.heard_at) == ((), 0, None)


def test_no_line_shows_a_value_in_its_representation() -> None:
    made = census(bed("ICU/4/A", occupancy=OCCUPIED), stay("V1", "ICU", "4", "A"), patient("P-V1", "Zzyzx"))
    shown = board(made)
    assert "Zzyzx" not in f"{shown!r} {shown.beds!r} {shown.beds[0].stays!r} {shown.beds[0].stays[0].person!r}"


@given(st.integers(0, 2**32 - 1))
def test_heads_that_come_in_any_order_and_twice_make_the_same_board(seed: int) -> None:
    chance = random.Random(seed)
    told = [
        bed("ICU/1/A", 1, occupancy=OCCUPIED),
        bed("ICU/1/A", 2, occupancy=VACANT, environment=Environment.DIRTY),
        bed("ICU/1/A", 3, occupancy=VACANT, environment=Environment.CLEAN),
        stay("V1", "ICU", "1", "A", 1),
        stay("V1", "MED", "2", "A", 2),
        stay("V1", "MED", "2", "A", 3, status=EncounterStatus.FINISHED),
        stay("V2", "ICU", "1", "A", 1),
    ]
    wanted = census(*told)
    mixed = told + chance.choices(told, k=5)
    chance.shuffle(mixed)
    found = census(*mixed)
    for unit in (ICU, MED):
        assert board(found, unit) == board(wanted, unit)
    assert board(found).beds[0].disagreements == (Disagreement.SAID_EMPTY,)


def test_an_entity_that_is_gone_from_the_table_is_gone_from_the_board() -> None:
    made = census(bed("ICU/4/A"))
    made.forget(key("bed", "ICU/4/A"))
    made.forget(EntityKey("t", "nobody", "x", "y"))
    assert board(made).beds == ()
    assert len(made) == 0
