"""What sequences of messages amount to, through the mapping and the gate: order, cancels, leave, trips, bed codes, time zones."""

from typing import Final

import pytest
from msgspec import UNSET, structs

from pipeline.domain.bed import BedStatusCode, status_code
from pipeline.domain.event import (
    Allocation,
    AllocationStatus,
    Bed,
    BedOccupancy,
    EncounterStatus,
    EntityType,
    Environment,
    Event,
    EventType,
    Occupancy,
    PatientClass,
    Place,
    Reference,
    Service,
    ServiceStatus,
)
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import DecisionKind, Reason
from pipeline.formats.draft import Common, Draft
from tests.support.hl7_samples import CAPACITY, DEFAULT, a20, adt, segment
from tests.support.hl7_world import TENANT, World, at

V1, V2 = Reference("MAIN", "V1"), Reference("MAIN", "V2")
ICU, MED = "ICU^1^A^MAIN", "MED^2^B^MAIN"
IN_ICU, IN_MED = Place("MAIN", None, None, "ICU", "1", "A"), Place("MAIN", None, None, "MED", "2", "B")
HOUR: Final = 3_600_000
DAY: Final = "20260105"


def occupied(visit: Reference) -> BedOccupancy:
    return BedOccupancy(Occupancy.OCCUPIED, visit)


def vacated(visit: Reference) -> BedOccupancy:
    return BedOccupancy(Occupancy.VACANT, visit)


def when(clock: str) -> str:
    return DAY + clock.replace(":", "") + "00"


def message(
    trigger: str,
    recorded: str,
    *,
    happened: str = "",
    visit: str = "V1",
    place: str = ICU,
    more: tuple[str, ...] = (),
    evn: dict[int, str] | None = None,
    **pv1: str,
) -> bytes:
    """A message of a visit, recorded and perhaps happened at a time of the day; `pv1` are its other fields, as f6=..."""
    number = f"C{trigger}{recorded}{visit}{place[:3]}"
    return adt(
        trigger,
        msh={7: when(recorded), 10: number.replace(":", "")},
        evn={2: when(recorded), 6: when(happened) if happened else "", **(evn or {})},
        pid={3: f"{'4711' if visit == 'V1' else '4712'}^^^MAIN^MR"},
        pv1={2: "I", 3: place, 19: visit, **{int(name[1:]): value for name, value in pv1.items()}},
        more=more,
    )


# -- order


@pytest.mark.parametrize("moves", [False, True])
def test_a_transfer_at_14_charted_at_16_counts_although_an_update_of_15_came_before(moves: bool) -> None:
    profile, world = structs.replace(DEFAULT, a08_moves=moves), World()
    world.tell(message("A01", "08:00"), profile)
    world.tell(message("A08", "15:00", f10="CAR"), profile)
    said = world.tell(message("A02", "16:00", happened="14:00", place=MED, f6=ICU), profile)
    assert [one.kind for one in said] == [DecisionKind.NO_OP, None, None, None]
    assert (world.stay().location, world.stay().service) == (IN_MED, "CAR")
    assert (world.bed("MED/2/B").occupancy, world.bed().occupancy) == (occupied(V1), vacated(V1))


def test_a_transfer_that_was_recorded_first_and_comes_last_never_overwrites_the_newer_bed() -> None:
    world = World()
    world.tell(message("A01", "08:00"))
    world.tell(message("A02", "15:00", place="SUR^3^C^MAIN", f6=MED))
    said = world.tell(message("A02", "14:00", place=MED, f6=ICU), lands=at("15:10"))
    assert {one.entity: one.kind for one in said}[EntityType.ENCOUNTER] is DecisionKind.STALE
    assert world.stay().location == Place("MAIN", None, None, "SUR", "3", "C")
    assert world.bed("MED/2/B").occupancy == vacated(V1)


def test_a_sequence_that_the_profile_trusts_beats_a_clock_that_stood_still() -> None:
    profile, world = structs.replace(DEFAULT, sequence="MSH-13"), World()

    def numbered(number: int, place: str) -> bytes:
        return adt("A02", msh={10: f"N{number}", 13: str(number)}, evn={2: when("10:00")}, pv1={3: place})

    world.tell(numbered(8, MED), profile)
    said = world.tell(numbered(7, ICU), profile)
    assert said[1].reason is Reason.OLDER_SEQUENCE
    assert world.stay().location == IN_MED


def test_movements_that_are_numbered_are_ordered_by_their_insertion_and_a_correction_by_its_time() -> None:
    """By ZBE-1: a late insert is stale; an update or a cancel has the number of an earlier movement, and no feed starts anew."""
    profile, world = structs.replace(DEFAULT, sequence="ZBE-1"), World()

    def numbered(trigger: str, recorded: str, number: int, action: str, place: str, *, flag: str = "N", first: str = "") -> bytes:
        moved = segment("ZBE", {1: str(number), 2: when(recorded), 4: action, 5: flag, 6: first})
        return message(trigger, recorded, place=place, more=(moved,))

    world.tell(numbered("A01", "08:00", 7, "INSERT", ICU), profile)
    world.tell(numbered("A02", "09:00", 9, "INSERT", MED), profile)
    late = world.tell(numbered("A02", "09:00", 8, "INSERT", "SUR^3^C^MAIN"), profile)
    assert late[1].reason is Reason.OLDER_SEQUENCE
    assert world.stay().location == IN_MED
    world.tell(numbered("Z99", "10:00", 7, "UPDATE", "ED^1^1^MAIN", flag="Y", first="A01"), profile)
    assert world.stay().location == IN_MED
    world.tell(numbered("A12", "11:00", 9, "CANCEL", ICU), profile)
    assert world.stay().location == IN_ICU
    world.tell(numbered("A02", "12:00", 10, "INSERT", MED), profile)
    assert world.stay().location == IN_MED
    assert not world.resets


# -- cancels


def test_a_cancelled_discharge_with_the_original_time_is_newer_than_the_discharge() -> None:
    world = World()
    world.tell(message("A01", "08:00"))
    world.tell(message("A03", "10:00", happened="09:50", f36="01"))
    assert (world.stay().status, world.stay().discharged_at) == (EncounterStatus.FINISHED, at("09:50"))
    world.tell(message("A13", "11:00", happened="09:50", f36="01"))
    stay = world.stay()
    assert (stay.status, stay.discharged_at, stay.disposition) == (EncounterStatus.IN_PROGRESS, None, None)
    assert world.bed().occupancy == occupied(V1)


def test_a_cancelled_discharge_never_takes_a_bed_that_was_given_away_since() -> None:
    world = World()
    world.tell(message("A01", "08:00"))
    world.tell(message("A03", "10:00"))
    world.tell(message("A01", "10:30", visit="V2"))
    (*_, bed) = world.tell(message("A13", "11:00", happened="10:00"))
    assert (bed.kind, bed.dropped) == (DecisionKind.STALE, {"occupancy": Reason.OCCUPANT_CHANGED})
    assert world.bed().occupancy == occupied(V2)
    assert (world.stay().status, world.stay().location) == (EncounterStatus.IN_PROGRESS, IN_ICU)


def test_a_cancelled_discharge_never_takes_a_bed_that_is_promised_to_another() -> None:
    world = World()
    world.tell(message("A01", "08:00"))
    world.tell(message("A03", "10:00"))
    world.judge(promise(at("10:30"), V2))
    (*_, bed) = world.tell(message("A13", "11:00"))
    assert bed.dropped == {"occupancy": Reason.OCCUPANT_CHANGED}
    assert world.bed().occupancy == vacated(V1)


def promise(recorded: Millis, visit: Reference) -> Event:
    """What the capacity platform says of the bed, by another way in."""
    draft = Draft(0, EventType.UPDATE, "MAIN", "ICU/1/A", IN_ICU, Bed(allocation=Allocation(AllocationStatus.ASSIGNED, visit)))
    common = Common(
        tenant=TENANT,
        facility="MAIN",
        source_system="capacity",
        feed="http",
        identity=("promise",),
        recorded_at=recorded,
        received_at=recorded,
    )
    return draft.event(common)


def test_a_cancelled_discharge_restores_nothing_that_housekeeping_said_meanwhile() -> None:
    world = World()
    world.tell(message("A01", "08:00"))
    world.tell(message("A03", "10:00"))
    world.tell(a20("H").replace(b"20260105101000", when("10:10").encode()), CAPACITY)
    world.tell(message("A13", "11:00"))
    assert (world.bed().occupancy, world.bed().environment) == (occupied(V1), Environment.DIRTY)


def test_a_cancelled_admit_with_a_time_of_last_year_ends_the_stay_it_names_and_no_other() -> None:
    world = World()
    world.tell(message("A01", "08:00"))
    world.tell(message("A01", "09:00", visit="V2"))
    said = world.tell(message("A11", "10:00", evn={6: "20251001000000"}))
    assert said[1].kind is None
    assert world.stay().status is EncounterStatus.CANCELLED
    assert world.bed().occupancy == occupied(V2)


def test_a_cancelled_transfer_is_a_move_back_whoever_lies_there_now() -> None:
    world = World()
    world.tell(message("A01", "08:00"))
    world.tell(message("A02", "09:00", place=MED, f6=ICU))
    world.tell(message("A12", "10:00", happened="09:00", f6=MED))
    assert (world.stay().location, world.bed().occupancy) == (IN_ICU, occupied(V1))
    assert world.bed("MED/2/B").occupancy == vacated(V1)


def test_a_cancelled_transfer_into_a_bed_taken_since_is_a_disagreement_and_moves_nobody_out() -> None:
    world = World()
    world.tell(message("A01", "08:00"))
    world.tell(message("A02", "09:00", place=MED, f6=ICU))
    world.tell(message("A01", "09:30", visit="V2"))
    world.tell(message("A12", "10:00", f6=MED))
    assert world.bed().occupancy == occupied(V2)
    assert world.stay().location == IN_ICU


# -- the bed kept


@pytest.mark.parametrize(
    ("away", "back", "meanwhile"), [("A21", "A22", EncounterStatus.ONLEAVE), ("A53", "A52", EncounterStatus.ONLEAVE)]
)
def test_on_leave_the_bed_is_kept(away: str, back: str, meanwhile: EncounterStatus) -> None:
    world = World()
    world.tell(message("A01", "08:00"))
    world.tell(message(away, "10:00"))
    assert (world.stay().status, world.stay().location, world.bed().occupancy) == (meanwhile, IN_ICU, occupied(V1))
    world.tell(message(back, "12:00"))
    assert (world.stay().status, world.bed().occupancy) == (EncounterStatus.IN_PROGRESS, occupied(V1))


def test_a_trip_keeps_the_home_bed_and_says_where_the_patient_is() -> None:
    world, theatre = World(), Place("MAIN", None, None, "OR", "5", None)
    world.tell(message("A01", "08:00"))
    world.tell(message("A09", "09:00", place="", f6=ICU, f11="OR^5^^MAIN"))
    assert (world.stay().location, world.stay().temporary_location, world.bed().occupancy) == (IN_ICU, theatre, occupied(V1))
    world.tell(message("A10", "11:00", f6="OR^5^^MAIN", f11='""'))
    assert (world.stay().location, world.stay().temporary_location, world.bed().occupancy) == (IN_ICU, None, occupied(V1))


def test_a_discharge_ends_occupancy_and_nothing_else() -> None:
    world = World()
    world.tell(message("A01", "08:00"))
    world.judge(promise(at("08:30"), V2))
    world.tell(a20("I").replace(b"20260105101000", when("09:00").encode()), CAPACITY)
    before = world.bed()
    world.tell(message("A03", "10:00"))
    assert world.bed() == structs.replace(before, occupancy=vacated(V1))
    assert world.bed().environment is UNSET


@pytest.mark.parametrize("known", ["O", "OBSERVATION", "E", "R", "P", "U", ""])
def test_whoever_lies_in_a_bed_occupies_it_whatever_the_class(known: str) -> None:
    world = World()
    world.tell(message("A04", "08:00", f2=known))
    assert world.bed().occupancy == occupied(V1)


def test_an_observation_patient_who_is_admitted_stays_in_her_bed() -> None:
    world = World()
    world.tell(message("A04", "08:00", f2="O"))
    world.tell(message("A06", "12:00", f2="I", f6=ICU))
    assert (world.stay().patient_class, world.bed().occupancy) == (PatientClass.INPATIENT, occupied(V1))


def test_an_update_moves_nobody_even_out_of_the_bed() -> None:
    world = World()
    world.tell(message("A01", "08:00"))
    world.tell(message("A08", "09:00", place=MED, f6=ICU, f45=when("08:30")))
    assert (world.stay().location, world.stay().status, world.bed().occupancy) == (
        IN_ICU,
        EncounterStatus.IN_PROGRESS,
        occupied(V1),
    )


# -- movements of the past (ZBE)


def zbe(action: str, flag: str, original: str = "") -> str:
    return segment("ZBE", {1: "77^HIS", 2: when("08:30"), 4: action, 5: flag, 6: original})


@pytest.mark.parametrize(
    ("trigger", "action", "original"),
    [("A02", "INSERT", ""), ("Z99", "UPDATE", "A02"), ("A12", "CANCEL", ""), ("A03", "INSERT", "")],
)
def test_a_movement_of_the_past_leaves_everybody_where_they_are(trigger: str, action: str, original: str) -> None:
    world = World()
    world.tell(message("A01", "08:00"))
    world.tell(message("A02", "09:00", place=MED, f6=ICU))
    before = world.stay(), world.bed(), world.bed("MED/2/B")
    world.tell(message(trigger, "12:00", place="SUR^3^C^MAIN", f6=MED, f10="OLD", more=(zbe(action, "Y", original),)))
    assert (world.stay(), world.bed(), world.bed("MED/2/B")) == before
    assert world.state(EntityType.BED, "MAIN", "SUR/3/C") is None


def test_an_update_of_the_movement_in_force_corrects_where_the_patient_is() -> None:
    world = World()
    world.tell(message("A01", "08:00", more=(zbe("INSERT", "N"),)))
    world.tell(message("Z99", "09:00", place=MED, f6=ICU, more=(zbe("UPDATE", "N", "A02"),)))
    assert (world.stay().location, world.bed("MED/2/B").occupancy, world.bed().occupancy) == (IN_MED, occupied(V1), vacated(V1))


# -- bed status


TABLE_0116 = {
    "C": (BedStatusCode.CLOSED, "Closed"),
    "H": (BedStatusCode.HOUSEKEEPING, "Housekeeping"),
    "O": (BedStatusCode.OCCUPIED, "Occupied"),
    "U": (BedStatusCode.UNOCCUPIED, "Unoccupied"),
    "K": (BedStatusCode.CONTAMINATED, "Contaminated"),
    "I": (BedStatusCode.ISOLATED, "Isolated"),
}
"""HL7 v2.5.1, chapter 3.4.9.2: user-defined table 0116, bed status."""


def bed_status(code: str, recorded: str, bed: str = "ICU^1^A^MAIN") -> bytes:
    moved = a20(code, bed).replace(b"20260105101000", when(recorded).encode())
    return moved.replace(b"|C20|", f"|C{code}{recorded.replace(':', '')}|".encode())


@pytest.mark.parametrize("code", sorted(TABLE_0116))
def test_each_code_of_table_0116_is_the_code_that_the_bed_then_has(code: str) -> None:
    """An empty bed of the EHR's; O and U are the EHR's own to say, the rest the capacity platform's."""
    world = World()
    world.tell(message("A01", "07:00"))
    world.tell(message("A03", "08:00"))
    world.tell(bed_status(code, "09:00"), DEFAULT if code in "OU" else CAPACITY)
    assert status_code(world.bed()) is TABLE_0116[code][0]


SETS = (
    # of a capacity platform: after these codes, in this order, the bed is called by table 0116 …
    (("H", "U"), BedStatusCode.UNOCCUPIED, Environment.CLEAN, True),
    (("K", "H"), BedStatusCode.HOUSEKEEPING, Environment.DIRTY, None),
    (("C", "U"), BedStatusCode.UNOCCUPIED, Environment.CLEAN, True),
    (("I", "U"), BedStatusCode.UNOCCUPIED, Environment.CLEAN, True),
    (("I", "C"), BedStatusCode.CLOSED, UNSET, None),
    (("H", "C", "U", "H"), BedStatusCode.HOUSEKEEPING, Environment.DIRTY, True),
)


@pytest.mark.parametrize(("codes", "code", "environment", "is_open"), SETS, ids=["".join(found[0]) for found in SETS])
def test_a_set_of_bed_statuses_ends_in_what_the_standards_table_calls_it(
    codes: tuple[str, ...], code: BedStatusCode, environment: object, is_open: bool | None
) -> None:
    world = World()
    world.tell(message("A01", "06:00"))
    world.tell(message("A03", "07:00"))
    for hour, sent in enumerate(codes, 8):
        world.tell(bed_status(sent, f"{hour:02}:00"), CAPACITY)
    bed = world.bed()
    assert (status_code(bed), bed.environment) == (code, environment)
    if is_open:
        assert bed.service == Service(ServiceStatus.OPEN)


def test_a_second_opinion_on_occupancy_never_moves_the_ehrs_patient() -> None:
    world = World()
    world.tell(message("A01", "08:00"))
    (said,) = world.tell(bed_status("U", "09:00"), CAPACITY)
    assert said.dropped == {"occupancy": Reason.FIELD_NOT_OWNED}
    assert world.bed().occupancy == occupied(V1)


# -- time


def test_a_plan_may_lie_in_the_future() -> None:
    world = World()
    world.tell(message("A01", "08:00"))
    planned = world.tell(message("A16", "09:00", evn={3: "20260109120000"}))
    assert planned[1].kind is None
    assert world.stay().expected_discharge_at == at("12:00") + 4 * 24 * HOUR
    pending = world.tell(message("A15", "09:30", evn={3: "20260106120000"}, f42=MED))
    assert pending[1].kind is None
    assert (world.stay().pending_location, world.stay().location) == (IN_MED, IN_ICU)


@pytest.mark.parametrize(("early_s", "kind"), [(299, None), (301, DecisionKind.QUARANTINED)])
def test_what_was_recorded_in_the_future_beyond_the_skew_is_quarantined(early_s: int, kind: DecisionKind | None) -> None:
    world = World()
    said = world.tell(message("A01", "08:00"), lands=Millis(at("08:00") - early_s * 1000))
    assert {one.kind for one in said} == {kind}
    if kind is not None:
        assert {one.reason for one in said} == {Reason.FUTURE_TIME}
        assert world.heads == {}


def test_times_are_the_senders_own() -> None:
    york = structs.replace(DEFAULT, time_zone="America/New_York")
    world = World()
    world.tell(message("A01", "08:00", f44=when("07:30")), york)
    assert world.stay().admitted_at == at("12:30")


def test_in_the_hour_that_comes_twice_an_offset_keeps_the_order() -> None:
    """1 November 2026, New York: 01:50 of the summer is before 01:10 of the winter."""
    york, world = structs.replace(DEFAULT, time_zone="America/New_York"), World()

    def told(number: str, moment: str, offset: str, place: str) -> bytes:
        return adt("A02", msh={7: moment + offset, 10: number}, evn={2: moment}, pv1={3: place})

    world.tell(told("1", "20261101015000", "-0400", MED), york)
    said = world.tell(told("2", "20261101011000", "-0500", ICU), york)
    assert said[1].kind is None
    assert world.stay().location == IN_ICU


def test_in_the_hour_that_comes_twice_without_an_offset_the_first_is_meant() -> None:
    york, world = structs.replace(DEFAULT, time_zone="America/New_York"), World()
    world.tell(adt("A01", msh={7: "20261101013000"}, evn={2: ""}, pv1={44: "20261101013000", 45: ""}), york)
    assert world.stay().admitted_at == Millis(1_793_511_000_000)


def test_in_the_hour_that_never_was_a_time_is_read_as_if_the_clock_had_not_changed() -> None:
    berlin, world = structs.replace(DEFAULT, time_zone="Europe/Berlin"), World()
    world.tell(adt("A01", msh={7: "20260329023000"}, evn={2: ""}, pv1={44: "20260329023000"}), berlin)
    assert world.stay().admitted_at == Millis(1_774_747_800_000)


# -- forms of PL, NPU, PV2


@pytest.mark.parametrize(
    ("sent", "place", "bed"),
    [
        ("ICU^1^A^MAIN", IN_ICU, "ICU/1/A"),
        ("ICU^1^A^MAIN&1.2.3&ISO^^N^B^2^desc", Place("MAIN", "B", "2", "ICU", "1", "A"), "ICU/1/A"),
        ("ICU^1^A^MAIN~MED^2^B^MAIN", IN_ICU, "ICU/1/A"),
        ("ICU^^A^MAIN", Place("MAIN", None, None, "ICU", None, "A"), "ICU//A"),
        ("^^A", Place(bed="A"), "//A"),
        ('ICU^""^A', Place(point_of_care="ICU", bed="A"), "ICU//A"),
        ("I/C%U^1^A", Place(point_of_care="I/C%U", room="1", bed="A"), "I%2FC%25U/1/A"),
        (" ICU ^ 1 ^ A ", Place(point_of_care="ICU", room="1", bed="A"), "ICU/1/A"),
        ("ICU\\T\\2^1^A", Place(point_of_care="ICU&2", room="1", bed="A"), "ICU&2/1/A"),
        ("ICU", Place(point_of_care="ICU"), None),
        ("ICU^1", Place(point_of_care="ICU", room="1"), None),
        ("^^^MAIN", Place("MAIN"), None),
    ],
)
def test_a_place_in_each_of_its_forms(sent: str, place: Place, bed: str | None) -> None:
    world = World()
    world.tell(message("A01", "08:00", place=sent))
    assert world.stay().location == place
    beds = [key for key in world.heads if b"|bed|" in key]
    assert [key.decode() for key in beds] == ([] if bed is None else [f"{TENANT}|bed|MAIN|{bed}"])


@pytest.mark.parametrize("sent", ["", "^^^", '""', "~MED^2^B", '""^""^""'])
def test_a_place_that_says_nothing_takes_no_bed(sent: str) -> None:
    world = World()
    world.tell(message("A01", "08:00", place=sent))
    assert [key for key in world.heads if b"|bed|" in key] == []


def test_a_visit_of_two_forms_of_one_number_is_one_visit() -> None:
    world = World()
    world.tell(message("A01", "08:00", f19="V1^^^MAIN^VN"))
    world.tell(message("A03", "09:00", f19="V1"))
    assert world.stay().status is EncounterStatus.FINISHED


@pytest.mark.parametrize(("sent", "expected"), [("20260107", 1_767_744_000_000), ("202601", None), ("", None), ("soon", None)])
def test_an_expected_discharge_may_be_a_day(sent: str, expected: int | None) -> None:
    world = World()
    world.tell(message("A01", "08:00", more=(segment("PV2", {9: sent}),)))
    found = world.stay().expected_discharge_at
    if sent == "202601":
        assert found == 1_767_225_600_000
    else:
        assert found == (UNSET if expected is None else expected)
