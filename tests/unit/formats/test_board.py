"""A downtime board: it says how old it is, needs nothing but itself, and trusts no text that it shows."""

import csv
import html.parser
import io
from typing import Final

import msgspec
import pytest

from pipeline.domain.event import (
    Allocation,
    AllocationStatus,
    Bed,
    BedOccupancy,
    Diversion,
    DiversionState,
    DiversionStatus,
    Encounter,
    EncounterStatus,
    EntityType,
    Environment,
    Name,
    Occupancy,
    Patient,
    Payload,
    Place,
    Reference,
    Service,
    ServiceStatus,
    Sex,
    Staffing,
)
from pipeline.domain.head import Head
from pipeline.domain.identifiers import EntityKey, EventId, Millis, Revision
from pipeline.domain.ward.census import Census, Unit
from pipeline.domain.ward.lines import BedWord, UnitBoard
from pipeline.formats.boards.csv import HEADER, render_csv
from pipeline.formats.boards.page import COUNTS, SIGNS, Stamp, age_words, render_html
from pipeline.formats.rfc3339 import MAX_TIME_MS, MIN_TIME_MS, rfc3339_of

ICU: Final = Unit("t", "MAIN", "ICU")
MADE: Final = Millis(1_767_593_700_000)
"""2026-01-05T06:15:00Z."""
MINUTE: Final = 60_000
EVERY: Final = 15 * MINUTE


def fed(*told: tuple[str, str, Payload]) -> UnitBoard:
    census = Census()
    for kind, name, state in told:
        head = Head(1, 1, Revision(1), "", "MAIN", state, {}, (), EventId("0" * 32), "", MADE, MADE)
        census.on_head(EntityKey("t", kind, "EHR", name), head)
    return census.boards([ICU], MADE)[ICU]


def stamp(age_min: int | None = 1, zone: str = "Europe/Berlin") -> Stamp:
    as_of = None if age_min is None else Millis(MADE - age_min * MINUTE)
    return Stamp(MADE, as_of, EVERY, zone)


def ward(name: str = "Green", given: str = "Ada", service: str = "MED") -> UnitBoard:
    visit = Reference("EHR", "V1")
    return fed(
        (EntityType.BED, "ICU/4/A", Bed(occupancy=BedOccupancy(Occupancy.OCCUPIED, visit), isolation=True)),
        (EntityType.BED, "ICU/4/B", Bed(occupancy=BedOccupancy(Occupancy.VACANT), environment=Environment.CLEAN)),
        (EntityType.BED, "ICU/5/A", Bed(service=Service(ServiceStatus.BLOCKED, "leak", Millis(MADE + EVERY)))),
        (
            EntityType.ENCOUNTER,
            "V1",
            Encounter(
                location=Place(point_of_care="ICU", room="4", bed="A"),
                status=EncounterStatus.IN_PROGRESS,
                patient=Reference("EHR", "P1"),
                service=service,
                admitted_at=Millis(MADE - 3_000 * MINUTE),
            ),
        ),
        (EntityType.PATIENT, "P1", Patient(name=Name(name, given), birth_date="1950-01-02", sex=Sex.FEMALE)),
    )


class Page(html.parser.HTMLParser):
    """Text, tags and attributes of a page."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(content.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def test_the_page_says_first_up_to_when_it_is_complete_and_when_the_next_is_due() -> None:
    words = Page(render_html(ward(), stamp(3))).words
    assert words.index("07:12") < words.index("Green")
    assert "Mon 5 Jan 2026 · CET" in words
    assert "Complete up to then; 3 min old" in words
    assert "the next is due 07:30" in words
    assert "OLD" not in words


@pytest.mark.parametrize(("minutes", "age"), [(16, "16 min"), (125, "2 h 05 min"), (4_000, "2 days 18 h")])
def test_a_page_that_misses_more_than_one_round_warns_and_says_for_how_long(minutes: int, age: str) -> None:
    page = Page(render_html(ward(), stamp(minutes)))
    assert f"OLD: nothing was heard for {age}" in page.words
    assert ("class", "old") in page.attributes


def test_a_page_of_which_it_is_not_known_how_old_it_is_never_looks_new() -> None:
    page = Page(render_html(ward(), stamp(None)))
    assert "It is not known up to when this page is complete" in page.words
    assert ("class", "fresh") not in page.attributes
    assert "as of not known" in page.words


def test_the_page_needs_nothing_but_itself() -> None:
    page = Page(render_html(ward(), stamp()))
    assert page.open == []
    assert not {"script", "img", "link", "iframe", "object", "form", "a", "base"} & set(page.tags)
    assert not {name for name, _ in page.attributes} & {"src", "href", "style", "onclick", "onload"}
    assert "url(" not in render_html(ward(), stamp()).decode()
    assert any("default-src 'none'" in (value or "") for _, value in page.attributes)


HOSTILE: Final = "<script>alert(1)</script><img src=x onerror=1>\"'&"


def test_no_text_of_a_source_becomes_markup() -> None:
    place = Place(point_of_care="ICU", room=HOSTILE, bed=HOSTILE)
    board = fed(
        (EntityType.BED, "x", Bed(place=place, service=Service(ServiceStatus.BLOCKED, HOSTILE), level_of_care=HOSTILE)),
        (
            EntityType.ENCOUNTER,
            HOSTILE,
            Encounter(location=place, status=EncounterStatus.ARRIVED, service=HOSTILE, patient=Reference("EHR", HOSTILE)),
        ),
        (EntityType.PATIENT, HOSTILE, Patient(name=Name(HOSTILE, HOSTILE), birth_date=HOSTILE)),
        (EntityType.DIVERSION, "d", Diversion(category=HOSTILE, state=DiversionState(DiversionStatus.CLOSED))),
    )
    page = Page(render_html(board, stamp()))
    assert not {"script", "img"} & set(page.tags)
    assert page.words.count("<script>alert(1)</script>") >= 6
    assert page.open == []


def test_every_bed_is_told_by_a_word_and_a_sign_not_by_colour() -> None:
    words = Page(render_html(ward(), stamp())).words
    for sign in ("● Occupied", "○ Ready", "✕ Blocked", "leak until 5 Jan 07:30", "isolation"):
        assert sign in words
    assert set(SIGNS) == set(BedWord)


def test_the_counts_add_up_to_the_beds() -> None:
    board = ward()
    counted = [word for _, words in COUNTS for word in words]
    assert sorted(counted) == sorted(BedWord)
    assert sum(board.count(*words) for _, words in COUNTS) == len(board.beds) == 3


def test_the_name_of_somebody_unknown_is_said_to_be_unknown() -> None:
    words = Page(render_html(ward("", ""), stamp())).words
    assert "name not known" in words
    assert "P1" in words


def test_a_unit_without_beds_says_so() -> None:
    assert "No bed of this unit is known." in Page(render_html(fed(), stamp())).words


def test_a_promise_shows_with_its_end() -> None:
    promised = Bed(allocation=Allocation(AllocationStatus.RESERVED, until=Millis(MADE)), occupancy=BedOccupancy(Occupancy.VACANT))
    assert "reserved until 5 Jan 07:15" in Page(render_html(fed((EntityType.BED, "ICU/1/A", promised)), stamp())).words


def test_a_night_on_which_clocks_go_back_shows_which_hour_it_is() -> None:
    twice = [Millis(1_792_886_400_000 + add) for add in (0, 3_600_000)]  # 2026-10-25 02:00 in Berlin, once and again
    pages = [Page(render_html(fed(), Stamp(at, at, EVERY, "Europe/Berlin"))).words for at in twice]
    assert ["02:00" in page for page in pages] == [True, True]
    assert ["· CEST" in page for page in pages] == [True, False]


def everywhere(at: int) -> UnitBoard:
    """A unit that shows this time in each place where it shows any."""
    time, place = Millis(at), Place(point_of_care="ICU", room="4", bed="A")
    stay = Encounter(
        location=place,
        pending_location=Place(point_of_care="MED"),
        status=EncounterStatus.IN_PROGRESS,
        admitted_at=time,
        admit_decision_at=time,
        expected_discharge_at=time,
        discharge_ordered_at=time,
    )
    promise = Allocation(AllocationStatus.RESERVED, until=time)
    block = Service(ServiceStatus.BLOCKED, "leak", time)
    closed = DiversionState(DiversionStatus.CLOSED, until=time)
    shift = (time, Millis(MADE + 1)) if at < MADE else (Millis(MADE - 1), time)
    return fed(
        (EntityType.BED, "ICU/4/A", Bed(service=block)),
        (EntityType.BED, "ICU/4/B", Bed(occupancy=BedOccupancy(Occupancy.VACANT), allocation=promise)),
        (EntityType.ENCOUNTER, "V1", stay),
        (EntityType.ENCOUNTER, "V2", msgspec.structs.replace(stay, location=Place(point_of_care="ICU"))),
        (EntityType.STAFFING, "S1", Staffing(unit="ICU", role="RN", shift_start=shift[0], shift_end=shift[1])),
        (EntityType.DIVERSION, "d", Diversion(category="ED", state=closed)),
    )


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "UTC", "Pacific/Kiritimati"])
@pytest.mark.parametrize(
    ("at", "block", "time"),
    [
        (MIN_TIME_MS, "leak until no date set", "no date set"),
        (MAX_TIME_MS, "leak until further notice", "no date set"),
        (253_402_318_799_000, "leak until further notice", "no date set"),
    ],
)
def test_a_time_that_a_zone_s_calendar_has_not_is_told_in_words(zone: str, at: int, block: str, time: str) -> None:
    page = Page(render_html(everywhere(at), stamp(zone=zone)))
    for said in (block, f"exp. {time}", f"order {time}", f"bed requested {time}", "reserved until"):
        assert said in page.words
    rows = rows_of(render_csv(everywhere(at), stamp(zone=zone)))
    (first,) = (row for row in rows if row["Bed"] == "A")
    assert block in first["Notes"]
    assert first["Admitted"] == first["Expected discharge"] == rfc3339_of(Millis(at))


@pytest.mark.parametrize(
    ("at", "told"),
    [
        (MADE + 30 * 86_400_000, "until 4 Feb 07:15"),
        (MADE + 365 * 86_400_000, "until 5 Jan 2027 07:15"),
        (32_503_679_999_000, "until 1 Jan 3000 00:59"),
        (0, "until 1 Jan 1970 01:00"),
    ],
)
def test_a_time_far_off_is_told_with_its_year(at: int, told: str) -> None:
    block = Service(ServiceStatus.BLOCKED, "leak", Millis(at))
    assert told in Page(render_html(fed((EntityType.BED, "ICU/1/A", Bed(service=block))), stamp())).words


def test_the_same_state_makes_the_same_bytes() -> None:
    assert render_html(ward(), stamp()) == render_html(ward(), stamp())


def rows_of(content: bytes) -> list[dict[str, str]]:
    assert content.startswith(b"\xef\xbb\xbf")
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))


def test_the_csv_holds_each_bed_and_each_patient_without_one() -> None:
    rows = rows_of(render_csv(ward(), stamp()))
    assert [(row["Room"], row["Bed"], row["State"], row["Patient"]) for row in rows] == [
        ("4", "A", "Occupied", "Green, Ada"),
        ("4", "B", "Ready", ""),
        ("5", "A", "Blocked", ""),
    ]
    assert tuple(rows[0]) == HEADER
    assert {row["As of"] for row in rows} == {"2026-01-05T06:14:00.000Z"}
    assert rows_of(render_csv(ward(), stamp(None)))[0]["As of"] == "not known"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "'"])
def test_no_cell_of_the_csv_is_a_formula(start: str) -> None:
    attack = f"{start}HYPERLINK(1)"
    content = render_csv(ward(attack, attack, attack), stamp())
    cells = [cell for row in csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")) for cell in row]
    assert any("HYPERLINK" in cell for cell in cells)
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


@pytest.mark.parametrize(
    ("age", "words"),
    [(-5, "less than a minute"), (59_999, "less than a minute"), (3_600_000, "1 h 00 min"), (172_800_000, "2 days 0 h")],
)
def test_ages_are_said_as_people_say_them(age: int, words: str) -> None:
    assert age_words(age) == words
