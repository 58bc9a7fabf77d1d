"""DTM, PL, CX, XPN."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from pipeline.domain.event import Name, Place
from pipeline.formats.hl7v2.datatypes import UNREADABLE, bed_id, date, dtm, identifiers_of, name_of, offset_of, place_of, zone
from pipeline.formats.hl7v2.delimiters import STANDARD
from pipeline.formats.hl7v2.er7 import Segment

SAO_PAULO = zone("America/Sao_Paulo")


def ms(*parts: int, hours: float = 0) -> int:
    return int(datetime(*parts, tzinfo=timezone(timedelta(hours=hours))).timestamp() * 1000)  # type: ignore[misc,arg-type]


def line(field: str) -> Segment:
    return Segment(f"XXX|{field}", STANDARD, "utf-8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026", ms(2026, 1, 1)),
        ("202602", ms(2026, 2, 1)),
        ("20260203", ms(2026, 2, 3)),
        ("2026020304", ms(2026, 2, 3, 4)),
        ("202602030405", ms(2026, 2, 3, 4, 5)),
        ("20260203040506", ms(2026, 2, 3, 4, 5, 6)),
        ("20260203040506.7", ms(2026, 2, 3, 4, 5, 6) + 700),
        ("20260203040506.7899", ms(2026, 2, 3, 4, 5, 6) + 789),
        ("20260203040506+0215", ms(2026, 2, 3, 4, 5, 6, hours=2.25)),
        ("20260203040506.4-0530", ms(2026, 2, 3, 4, 5, 6, hours=-5.5) + 400),
        ("20260203+0100", ms(2026, 2, 3, hours=1)),
        (" 20260203 ", ms(2026, 2, 3)),
    ],
)
def test_a_time_of_any_precision_is_milliseconds_of_the_epoch(text: str, expected: int) -> None:
    assert dtm(text, UTC) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "202",
        "20261301",
        "20260230",
        "2026010125",
        "201610015080000",
        "200701110500<cr>",
        "00000101",
        "20260101+9900",
        "２０２６",
    ],
)
def test_what_is_no_time_is_not_taken_for_one(text: str) -> None:
    assert dtm(text, UTC) is UNREADABLE


def test_a_bare_date_is_too_coarse_to_order_by() -> None:
    assert dtm("20260203", UTC, to_the_minute=True) is UNREADABLE
    assert dtm("202602030405", UTC, to_the_minute=True) == ms(2026, 2, 3, 4, 5)


def test_a_time_without_offset_is_local_to_the_zone_of_the_profile() -> None:
    assert dtm("20180101120000", SAO_PAULO) == ms(2018, 1, 1, 14)
    assert dtm("20180701120000", SAO_PAULO) == ms(2018, 7, 1, 15)
    assert dtm("20180701120000+0000", SAO_PAULO) == ms(2018, 7, 1, 12)


def test_the_hour_that_comes_twice_is_taken_as_the_first_on_every_reading() -> None:
    assert dtm("20261025023000", zone("Europe/Berlin")) == ms(2026, 10, 25, 0, 30)


def test_the_offset_of_msh_7_is_found() -> None:
    assert offset_of("20260101+0215") == timezone(timedelta(hours=2, minutes=15))
    assert offset_of("20260101") is None
    assert offset_of("20260101+2400") is None
    assert offset_of(None) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1975", "1975"),
        ("197503", "1975-03"),
        ("19750315", "1975-03-15"),
        ("197503151200", "1975-03-15"),
        ("19750231", UNREADABLE),
    ],
)
def test_a_birth_date_keeps_its_precision(text: str, expected: object) -> None:
    assert date(text) == expected


def test_a_place_is_read_by_its_components() -> None:
    place = place_of(line("ICU&x^201^A^HOSP^S^T^TOWER^LVL2^ignored"), 1)
    assert place == Place("HOSP", "TOWER", "LVL2", "ICU", "201", "A")
    assert place_of(line("^^"), 1) is None
    assert place_of(line(""), 1) is None


def test_a_bed_is_named_by_unit_room_and_bed_and_two_beds_never_share_a_name() -> None:
    assert bed_id(Place(point_of_care="ICU", room="201", bed="A")) == "ICU/201/A"
    assert bed_id(Place(point_of_care="ICU", room="201")) is None
    assert bed_id(Place(room="163", bed="01")) == "/163/01"
    assert bed_id(Place(point_of_care="a/b", room="c", bed="d")) != bed_id(Place(point_of_care="a", room="b/c", bed="d"))
    assert bed_id(Place(point_of_care="a/b", room="c", bed="d")) != bed_id(Place(point_of_care="a%2Fb", room="c", bed="d"))


def test_identifiers_have_authority_and_type() -> None:
    found = identifiers_of(line("1^^^A&1.2&ISO^MR~2^^^&1.3&ISO~^^^X^MR~3"), 1)
    assert [(i.value, i.authority, i.type) for i in found] == [("1", "A", "MR"), ("2", "1.3", None), ("3", None, None)]


def test_the_legal_name_is_preferred_to_the_first() -> None:
    assert name_of(line("NICK^N~DOE&van^JANE^Q^^^^L"), 1) == Name("DOE", "JANE Q")
    assert name_of(line("NICK^N~DOE^JANE"), 1) == Name("NICK", "N")
    assert name_of(line("^^"), 1) is None
