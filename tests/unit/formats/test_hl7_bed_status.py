"""A20: what each code of table 0116 states of a bed, and what it does not."""

import pytest
from msgspec import UNSET, structs

from pipeline.domain.event import Bed, BedOccupancy, Environment, EventType, Occupancy, Service, ServiceStatus
from pipeline.formats.hl7v2.verdict import Reason
from tests.support.hl7_samples import CAPACITY, DEFAULT, a20, beds, events_of, rejected, segment


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("C", Bed(service=Service(ServiceStatus.CLOSED))),
        ("H", Bed(environment=Environment.DIRTY)),
        ("O", Bed(occupancy=BedOccupancy(Occupancy.OCCUPIED))),
        ("U", Bed(occupancy=BedOccupancy(Occupancy.VACANT))),
        ("K", Bed(environment=Environment.CONTAMINATED)),
        ("I", Bed(isolation=True)),
        ("u^Unoccupied^HL70116", Bed(occupancy=BedOccupancy(Occupancy.VACANT))),
    ],
)
def test_a_code_states_its_own_dimension_and_nothing_else(code: str, expected: Bed) -> None:
    assert beds(a20(code)) == {"ICU/1/A": expected}


def test_unoccupied_from_a_sender_without_another_word_ends_what_its_other_codes_began() -> None:
    bed = beds(a20("U"), CAPACITY)["ICU/1/A"]
    assert (bed.occupancy, bed.environment, bed.service, bed.isolation) == (
        BedOccupancy(Occupancy.VACANT),
        Environment.CLEAN,
        Service(ServiceStatus.OPEN),
        False,
    )
    assert beds(a20("H"), CAPACITY) == beds(a20("H"))


def test_a_bed_status_is_one_event_about_the_bed_alone() -> None:
    (event,) = events_of(a20("H"))
    assert (event.entity_type.value, event.namespace, event.entity_id) == ("bed", "MAIN", "ICU/1/A")
    assert (event.event_type, event.facility) == (EventType.BED_STATUS, "MAIN")
    assert isinstance(event.payload, Bed)
    assert event.payload.place is UNSET


def test_a_bed_without_a_facility_is_in_the_profiles() -> None:
    (event,) = events_of(a20("H", "ICU^1^A"), structs.replace(DEFAULT, facility="EAST"))
    assert (event.namespace, event.facility) == ("EAST", "EAST")


@pytest.mark.parametrize(
    ("code", "bed", "field", "reason"),
    [
        ("", "ICU^1^A", "NPU-2", Reason.MISSING_FIELD),
        ("X", "ICU^1^A", "NPU-2", Reason.UNKNOWN_CODE),
        ('""', "ICU^1^A", "NPU-2", Reason.UNKNOWN_CODE),
        ("H", "", "NPU-1", Reason.MISSING_FIELD),
        ("H", "ICU^1", "NPU-1", Reason.MISSING_FIELD),
    ],
)
def test_a_status_or_bed_that_is_none_is_rejected_at_its_field(code: str, bed: str, field: str, reason: Reason) -> None:
    found = rejected(a20(code, bed))
    assert (found.field, found.reason) == (field, reason)


def test_a_code_without_a_meaning_in_the_profile_is_rejected() -> None:
    assert rejected(a20("I"), structs.replace(DEFAULT, bed_status={})).reason is Reason.UNKNOWN_CODE


def test_each_of_several_beds_gets_its_event_and_none_is_lost() -> None:
    data = a20("H") + segment("NPU", {1: "ICU^1^B^MAIN", 2: "C"}).encode()
    assert set(beds(data)) == {"ICU/1/A", "ICU/1/B"}
    assert len({event.event_id for event in events_of(data)}) == 2


def test_a_bed_status_without_a_bed_segment_is_rejected() -> None:
    found = rejected(b"\r".join(a20("H").split(b"\r")[:2]))
    assert (found.reason, found.field) == (Reason.SEGMENT_SEQUENCE, "NPU")
