"""MFN M05: what the location master says of beds (chapter 8, tables 0180 and 0324), and that rooms have no state here."""

import pytest
from msgspec import UNSET

from pipeline.domain.event import Bed, Event, Place, Service, ServiceStatus
from pipeline.formats.hl7v2.mfn import MAX_LOCATIONS
from pipeline.formats.hl7v2.verdict import Ignored
from tests.support.hl7_samples import events_of, rejected, segment, verdict_on

BED = "ICU^1^A^MAIN"


def record(
    action: str = "MUP", place: str = BED, mfe: dict[int, str] | None = None, *characteristics: tuple[str, str]
) -> tuple[str, ...]:
    return (
        segment("MFE", {1: action, 4: place, 5: "PL"} | (mfe or {})),
        segment("LOC", {1: place, 3: "B"}),
        *(segment("LCH", {1: place, 4: code, 5: value}) for code, value in characteristics),
    )


def mfn(*records: tuple[str, ...]) -> bytes:
    header = {3: "MASTER", 4: "MAIN", 7: "20260105101500", 9: "MFN^M05^MFN_M05", 10: "C1", 11: "P", 12: "2.5.1"}
    lines = (segment("MSH", header), segment("MFI", {1: "LOC", 3: "UPD"}), *(line for lines in records for line in lines))
    return "\r".join((*lines, "")).encode()


def bed(data: bytes) -> Bed:
    (event,) = events_of(data)
    assert isinstance(event.payload, Bed)
    return event.payload


def test_a_bed_is_told_with_its_place_and_what_it_is_good_for() -> None:
    data = mfn(record("MAD", BED, None, ("LIC", "Y"), ("STF^staffed", "N"), ("OVR", "Y"), ("LCR", "ICU^intensive care")))
    (event,) = events_of(data)
    assert (event.namespace, event.entity_id) == ("MAIN", "ICU/1/A")
    assert event.payload == Bed(
        place=Place("MAIN", None, None, "ICU", "1", "A"), licensed=True, staffed=False, surge=True, level_of_care="ICU"
    )


@pytest.mark.parametrize(
    ("action", "service"),
    [
        ("MAD", UNSET),
        ("MUP", UNSET),
        ("MDC", Service(ServiceStatus.CLOSED)),
        ("MDL", Service(ServiceStatus.CLOSED)),
        ("MAC", Service(ServiceStatus.OPEN)),
    ],
)
def test_only_what_ends_or_resumes_a_bed_speaks_of_its_service(action: str, service: object) -> None:
    assert bed(mfn(record(action))).service == service


def test_each_record_is_an_event_of_its_own_and_rooms_make_none() -> None:
    events: tuple[Event, ...] = events_of(mfn(record(), record(place="ICU^1^^MAIN"), record(place="ICU^2^A^MAIN")))
    assert [event.entity_id for event in events] == ["ICU/1/A", "ICU/2/A"]
    assert len({event.event_id for event in events}) == 2
    assert isinstance(verdict_on(mfn(record(place="ICU^^^MAIN"))), Ignored)


def test_a_characteristic_that_beds_do_not_have_is_left_unsaid() -> None:
    assert bed(mfn(record("MUP", BED, None, ("SMK", "Y"), ("LIC", "maybe")))) == Bed(
        place=Place("MAIN", None, None, "ICU", "1", "A")
    )


def test_a_master_of_as_many_beds_as_may_be_is_told_bed_by_bed() -> None:
    events = events_of(mfn(*(record(place=f"ICU^{number}^A^MAIN") for number in range(MAX_LOCATIONS))))
    assert len({event.entity_id for event in events}) == MAX_LOCATIONS


def test_a_record_that_is_unclear_or_not_yet_in_force_is_refused() -> None:
    assert rejected(mfn()).field == "MFE"
    assert rejected(mfn(record("XXX"))).field == "MFE-1"
    assert rejected(mfn(record("MDC", BED, {3: "20260201"}))).field == "MFE-3"
    assert rejected(mfn(record(place=""))).field == "LOC-1"
