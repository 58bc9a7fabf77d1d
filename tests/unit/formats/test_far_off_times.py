"""Times at the ends of the calendar: what a way in takes every way out can write, in whatever zone it was told."""

import csv
import io
from typing import Final

import msgspec
import pytest
from msgspec import UNSET

from pipeline.domain.event import Bed, EncounterStatus, EntityType, Service, ServiceStatus
from pipeline.domain.head import Head
from pipeline.domain.identifiers import EntityKey, EventId, Millis, Revision
from pipeline.domain.ward.census import Census, Unit
from pipeline.formats.files.cells import converter_of
from pipeline.formats.files.profile import Column
from pipeline.formats.hl7v2.datatypes import UNREADABLE, dtm, zone
from pipeline.formats.json_shapes import Refused, Time
from pipeline.formats.reports.extract import CAPACITY_HEADER, capacity_csv
from pipeline.formats.rfc3339 import MAX_TIME_MS, MIN_TIME_MS, in_calendar, rfc3339_of
from pipeline.roles.ways_in.files import file_profile
from tests.support.hl7_samples import adt, encounter, segment

NOW: Final = Millis(1_767_593_700_000)
YEAR_10000: Final = Millis(253_402_318_799_000)
"""9999-12-31T23:59:59 in New York."""
EAST, WEST, UNIVERSAL = "Europe/Berlin", "America/New_York", "UTC"


@pytest.mark.parametrize(
    ("text", "place", "is_told"),
    [
        ("99991231235959", EAST, True),
        ("99991231235959", UNIVERSAL, True),
        ("99991231235959", WEST, False),
        ("99991231235959-0500", EAST, False),
        ("00010101000000", WEST, True),
        ("00010101000000", UNIVERSAL, True),
        ("00010101000000", EAST, False),
        ("00010101000000+0100", WEST, False),
    ],
)
def test_a_time_of_hl7_v2_is_read_where_it_is_within_the_calendar_of_utc(text: str, place: str, is_told: bool) -> None:
    found = dtm(text, zone(place))
    assert (found is not UNREADABLE) == is_told
    assert found is UNREADABLE or in_calendar(found) == found


@pytest.mark.parametrize("text", ["99991231235959-0500", "00010101000000+0100"])
def test_a_stay_without_end_says_nothing_of_it_and_can_still_be_discharged(text: str) -> None:
    stay = encounter(adt("A01", pv1={44: text}, more=(segment("PV2", {9: text}),)))
    assert (stay.expected_discharge_at, stay.admitted_at) == (UNSET, UNSET)
    discharged = encounter(adt("A03", pv1={44: text, 45: "20260105100000"}))
    assert discharged.status is EncounterStatus.FINISHED
    assert isinstance(discharged.discharged_at, int)


@pytest.mark.parametrize(
    ("cell", "place", "is_told"),
    [
        ("31.12.9999 23:59", EAST, True),
        ("31.12.9999 23:59", WEST, False),
        ("9999-12-31T23:59:59Z", WEST, True),
        ("9999-12-31T23:59:59-05:00", EAST, False),
        ("9999-12-31T23:59:59", WEST, False),
        ("01.01.0001 00:00", WEST, True),
        ("01.01.0001 00:00", EAST, False),
        ("0001-01-01T00:00:00+01:00", WEST, False),
    ],
)
def test_a_time_of_a_file_is_read_where_it_is_within_the_calendar_of_utc(cell: str, place: str, is_told: bool) -> None:
    read = converter_of(Column(column="Until"), Time(), msgspec.structs.replace(file_profile("bed-extract"), time_zone=place))
    if is_told:
        found = read(cell)
        assert isinstance(found, int)
        assert in_calendar(found) == found
    else:
        with pytest.raises(Refused) as refused:
            read(cell)
        assert "years 1 to 9999" in refused.value.remedy


@pytest.mark.parametrize(
    ("millis", "text"),
    [
        (MIN_TIME_MS, "0001-01-01T00:00:00.000Z"),
        (MIN_TIME_MS - 1, "0001-01-01T00:00:00.000Z"),
        (MAX_TIME_MS, "9999-12-31T23:59:59.999Z"),
        (YEAR_10000, "9999-12-31T23:59:59.999Z"),
        (-(2**63), "0001-01-01T00:00:00.000Z"),
        (2**63 - 1, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_a_time_that_can_t_be_written_is_said_as_the_first_or_last_that_can(millis: int, text: str) -> None:
    assert rfc3339_of(Millis(millis)) == text


@pytest.mark.parametrize("until", [MIN_TIME_MS, MAX_TIME_MS, YEAR_10000])
def test_a_capacity_extract_is_made_whatever_end_a_bed_s_block_has(until: int) -> None:
    census, unit = Census(), Unit("t", "MAIN", "ICU")
    state = Bed(service=Service(ServiceStatus.BLOCKED, "leak", Millis(until)))
    head = Head(1, 1, Revision(1), "", "MAIN", state, {}, (), EventId("0" * 32), "", NOW, NOW)
    census.on_head(EntityKey("t", EntityType.BED, "MAIN", "ICU/4/A"), head)
    data, count = capacity_csv(census.boards([unit], NOW).values(), NOW)
    (row,) = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
    assert tuple(row) == CAPACITY_HEADER
    assert (count, row["Blocked until"]) == (1, rfc3339_of(Millis(until)))
