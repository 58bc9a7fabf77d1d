"""Files of rows as spreadsheets and programs write them: each row is read, or broken with line, column, rule and remedy."""

import io
import time
import tracemalloc
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from pipeline.domain.event import AllocationStatus, Bed, BedOccupancy, Environment, Event, EventType, Occupancy, Reference
from pipeline.domain.identifiers import Millis
from pipeline.formats.boards.entry import read_paper
from pipeline.formats.files import document
from pipeline.formats.files.profile import FileProfile, bears, profile_of
from pipeline.formats.files.reading import Made, Tally, format_of, make, tally
from pipeline.formats.files.rows import CHUNK_ROWS, MAX_RECORD_BYTES, Bad, Chunk, Format, Origin, Unreadable, chunks
from pipeline.formats.files.table import BadProfile
from pipeline.formats.json_events import event_to_json
from pipeline.formats.rfc3339 import millis_of
from pipeline.roles.ways_in.intake import hl7_profile
from tests.support.files_desk import ehr
from tests.support.files_in import HEADER, NOW, census

FOLDER: Final = files("pipeline") / "profiles"
ORIGIN: Final = Origin("north", "ehr-main", "ab" * 32, NOW, Millis(NOW + 5_000))
CENSUS: Final = "census-snapshot"


def profile(name: str) -> FileProfile:
    return profile_of((FOLDER / "files" / f"{name}.yaml").read_bytes())


def form(name: str = CENSUS, **said: Any) -> Format:
    return format_of(msgspec.structs.replace(profile(name), **said), "MAIN", hl7_profile, ehr)


def read(data: bytes, reader: Format | None = None, origin: Origin = ORIGIN) -> Made:
    reader = reader or form()
    whole = Made([], [], 0)
    for chunk in chunks(reader, io.BytesIO(data)):
        made = make(reader, chunk.entries, origin)
        whole.events += made.events
        whole.rejects += made.rejects
        whole.landed += made.landed
    counted = tally(reader, io.BytesIO(data), origin)
    assert counted == Tally(whole.landed + len(whole.rejects), len(whole.rejects)), "what is counted is what is landed"
    return whole


def bed(event: Event) -> Bed:
    assert isinstance(event.payload, Bed)
    return event.payload


# -- CSV as spreadsheets write it


def test_a_row_says_what_the_profile_says_and_carries_the_file_s_time() -> None:
    made = read(HEADER + b"MAIN,ICU,1,A,Y,V1\r\n")
    (event,) = made.events
    assert event.key.encode() == b"north|bed|MAIN|ICU/1/A"
    assert bed(event).occupancy == BedOccupancy(Occupancy.OCCUPIED, Reference("MAIN", "V1"))
    assert (event.event_type, event.recorded_at, event.source_system) == (EventType.SNAPSHOT, NOW, "ehr-main")
    assert (event.received_at, event.feed, event.facility) == (ORIGIN.received_at, "census", "MAIN")
    assert event.audit_context == f"file {ORIGIN.sha256[:32]}/1"


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + census(3),
        census(3).replace(b"\r\n", b"\n"),
        census(3).removesuffix(b"\r\n"),
        census(3) + b"\r\n\r\n,,,,,\r\n",
        census(3).replace(b"ICU", b'"ICU"'),
        census(3).replace(b"Unit", b" UNIT "),
        census(3).replace(b",ICU,", b", ICU ,"),
    ],
    ids=["byte order mark", "line feeds", "no last line end", "blank lines", "quotes", "header in capitals", "blanks"],
)
def test_the_same_table_is_the_same_events_however_a_spreadsheet_writes_it(data: bytes) -> None:
    plain, other = read(census(3)).events, read(data).events
    assert [(event.event_id, event.content_hash) for event in other] == [(event.event_id, event.content_hash) for event in plain]


def test_a_cell_may_hold_delimiters_quotes_and_line_ends() -> None:
    made = read(HEADER + b'MAIN,ICU,"1,""x""\n2",A,Y,\r\n' + b"MAIN,ICU,2,A,N,\r\n")
    assert [reject.entry.line for reject in made.rejects] == [2], "a line end within a name is no name"
    assert made.rejects[0].entry.raw == b'MAIN,ICU,"1,""x""\n2",A,Y,\r\n'
    assert made.events[0].audit_context == f"file {ORIGIN.sha256[:32]}/2"
    comma = read(HEADER + b'MAIN,ICU,"1,""x""",A,Y,\r\n')
    assert comma.events[0].entity_id == 'ICU/1,"x"/A'


def test_a_decimal_comma_local_times_and_local_words_are_read_by_the_profile() -> None:
    text = (
        "Facility;Unit;Room;Bed;Cleaning;Service;Service reason;Blocked until;Allocation;Allocated until;Staffed\r\n"
        "MAIN;MED;1;A;sauber;gesperrt;Wasser;05.07.2026 14:30;reserviert;2026-07-05T15:00:00Z;JA\r\n"
        "MAIN;MED;2;A;;offen;;;;;nein\r\n"
    )
    first, second = (bed(event) for event in read(text.encode(), form("bed-extract")).events)
    assert isinstance(first.service, msgspec.Struct)
    assert first.service.until == millis_of("2026-07-05T12:30:00Z"), "Berlin's summer time"
    assert first.allocation is not None
    assert first.allocation.status is AllocationStatus.RESERVED  # type: ignore[union-attr]
    assert (first.environment, first.staffed) == (Environment.CLEAN, True)
    assert (second.environment, second.allocation, second.staffed) == (msgspec.UNSET, msgspec.UNSET, False)


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("2,5", 2.5),
        ("12", 12.0),
        ("1.234,5", 1234.5),
        ("1.234", 1234.0),
        ("2.5", None),
        ("1,2,3", None),
        ("-1", None),
        ("1e3", None),
    ],
)
def test_with_a_decimal_comma_a_point_is_never_taken_for_one(cell: str, value: float | None) -> None:
    roster = profile("staffing-roster")
    comma = msgspec.structs.replace(roster.csv, decimal=",", delimiter=";")
    header = "Facility;Unit;Shift;Role;Shift start;Shift end;Required;Actual"
    text = f"{header}\r\nMAIN;ICU;D;RN;2026-01-05T07:00:00Z;1/5/2026 19:00;{cell};\r\n"
    made = read(text.encode(), form("staffing-roster", csv=comma))
    assert [event.payload.required for event in made.events] == ([value] if value is not None else [])  # type: ignore[union-attr]
    assert [reject.bad.field for reject in made.rejects] == ([] if value is not None else ["Required"])


def test_windows_text_is_read_by_its_encoding_and_refused_under_another() -> None:
    data = HEADER + "MAIN,Süd,1,A,Y,\r\n".encode("windows-1252") + b"MAIN,ICU,1,A,Y,\r\n"
    made = read(data)
    assert ([reject.entry.number for reject in made.rejects], len(made.events)) == ([1], 1)
    assert "encoding" in made.rejects[0].bad.rule
    windows = msgspec.structs.replace(profile(CENSUS).csv, encoding="windows-1252")
    assert read(data, form(csv=windows)).events[0].entity_id == "Süd/1/A"


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (b"MAIN,ICU,1,A,Q,\r\n", "Occupied"),
        (b"MAIN,ICU,1,A,,\r\n", "Occupied"),
        (b"MAIN,,1,A,Y,\r\n", "Unit"),
        (b"MAIN,ICU,1,,Y,\r\n", "Bed"),
        (b"MAIN,ICU,1,A,Y\r\n", None),
        (b"MAIN,ICU,1,A,Y,,,x\r\n", None),
        (b"MAIN,ICU,1,A,Y," + b"9" * 200 + b"\r\n", "Visit"),
        (b"MAIN,ICU,1,A,Y,a\x00b\r\n", "Visit"),
        (b"MA\x07IN,ICU,1,A,Y,\r\n", "Facility"),
        (b'MAIN,ICU,1,A"x"y,Y,\r\n', None),
        (b'MAIN,"ICU"x,1,A,Y,\r\n', None),
        (b"MAIN,ICU,1,A,Y," + b"x" * MAX_RECORD_BYTES + b"\r\n", None),
    ],
)
def test_a_broken_row_names_line_column_rule_and_remedy_and_the_rest_goes_on(row: bytes, field: str | None) -> None:
    made = read(census(2) + row + census(2, first=8).removeprefix(HEADER))
    if row.count(b'"x"'):
        assert len(made.events) + len(made.rejects) == 5
        return
    assert len(made.events) == 4
    (reject,) = made.rejects
    assert (reject.entry.number, reject.entry.line, reject.bad.field) == (3, 4, field)
    assert reject.entry.raw == row[:MAX_RECORD_BYTES]
    assert reject.bad.rule
    assert reject.bad.remedy
    assert "999" not in repr(reject) + repr(reject.bad)


@pytest.mark.parametrize("quote", [b'MAIN,"ICU,1,A,Y,\r\n', b'"\r\n', b'MAIN,ICU,1,A,Y,"V1\r\n'])
@pytest.mark.parametrize("behind", [0, 3, 200])
def test_a_quote_that_is_never_closed_breaks_its_own_row_and_no_other(quote: bytes, behind: int) -> None:
    made = read(census(2) + quote + census(behind, first=8).removeprefix(HEADER))
    assert [reject.entry.number for reject in made.rejects] == [3]
    assert [reject.entry.raw for reject in made.rejects] == [quote]
    assert len(made.events) == 2 + behind


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"", ""),
        (b"\r\n\r\n", ""),
        (b"neither this nor that\r\n", "column 1"),
        (HEADER.replace(b"Occupied", b"Occupeid") + b"a,b,c,d,e,f\r\n", "column 5"),
        (HEADER.replace(b",Occupied", b""), "Occupied"),
        (HEADER.replace(b"Occupied", b"Bed"), "Bed"),
        (b"\xff\xfe" + HEADER.decode().encode("utf-16-le"), ""),
        (b'"' + HEADER, ""),
        (HEADER.replace(b",", b";"), "column 1"),
    ],
)
def test_a_header_that_is_not_the_profile_s_makes_the_whole_file_unreadable(data: bytes, field: str) -> None:
    with pytest.raises(Unreadable) as caught:
        list(form().entries(io.BytesIO(data)))
    assert caught.value.flaw.field == field
    assert "Occupeid" not in repr(caught.value.flaw)


def test_a_row_that_says_nothing_is_broken_and_a_code_that_says_nothing_is_not() -> None:
    text = "Facility;Unit;Room;Bed;Cleaning;Service\r\nMAIN;MED;1;A;;\r\n"
    assert [reject.bad.field for reject in read(text.encode(), form("bed-extract")).rejects] == [None]


# -- identity, chunks, bounds


def test_ids_follow_from_source_content_row_and_moment_alone() -> None:
    first, again = read(census(3)).events, read(census(3), origin=msgspec_replace(ORIGIN, received_at=Millis(NOW + 9))).events
    assert [(e.event_id, e.content_hash) for e in first] == [(e.event_id, e.content_hash) for e in again]
    for said in ({"sha256": "cd" * 32}, {"created_at": Millis(NOW + 1)}):
        other = read(census(3), origin=msgspec_replace(ORIGIN, **said)).events
        assert not {e.event_id for e in first} & {e.event_id for e in other}


def test_a_row_with_a_time_of_its_own_is_the_same_whenever_its_file_was_made() -> None:
    later = msgspec_replace(ORIGIN, created_at=Millis(NOW + 900_000))
    for data, name in ((canonical(), "canonical-events"), (batch(MESSAGE % (1, 1)), "hl7-batch")):
        ids = [[event.event_id for event in read(data, form(name), origin).events] for origin in (ORIGIN, later)]
        assert ids[0] == ids[1] != []
    paper = b"Time,Facility,Unit,Room,Bed,Cleaning\r\n2026-01-05T06:00:00Z,MAIN,ICU,1,A,dirty\r\n"
    entered = [read_paper(profile("downtime-entry"), "MAIN", paper, origin).events for origin in (ORIGIN, later)]
    assert [event.event_id for event in entered[0]] == [event.event_id for event in entered[1]] != []


def msgspec_replace(origin: Origin, **said: Any) -> Origin:
    return Origin(**{**{name: getattr(origin, name) for name in Origin.__slots__}, **said})  # type: ignore[attr-defined]


def test_a_chunk_is_a_file_of_its_own_and_makes_the_same_events() -> None:
    data = b"\xef\xbb\xbf" + census(CHUNK_ROWS * 2 + 7)
    reader = form()
    parts = list(chunks(reader, io.BytesIO(data)))
    assert [(part.first, part.last) for part in parts] == [(1, 500), (501, 1000), (1001, 1007)]
    assert b"".join([parts[0].body, *(part.body.removeprefix(b"\xef\xbb\xbf" + HEADER) for part in parts[1:])]) == data
    again = list(reader.entries(io.BytesIO(parts[1].body)))
    assert [entry.said for entry in again] == [entry.said for entry in parts[1].entries]


def test_a_small_file_is_landed_as_the_bytes_that_came() -> None:
    for data in (census(3), b"\xef\xbb\xbf" + census(1), census(2).removesuffix(b"\r\n")):
        (chunk,) = chunks(form(), io.BytesIO(data))
        assert chunk.body == data


def test_landing_goes_on_behind_the_rows_that_are_durable() -> None:
    data = census(1_200)
    rest: list[Chunk] = list(chunks(form(), io.BytesIO(data), 700))
    assert [(part.first, part.last) for part in rest] == [(701, 1_200)]


class Endless(io.RawIOBase):
    """A census without an end to its rows, that is nowhere held."""

    def __init__(self, rows: int) -> None:
        self._lines = (f"MAIN,ICU,{n},A,Y,V{n}\r\n".encode() for n in range(rows))
        self._left = HEADER

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while len(self._left) < len(buffer) and (line := next(self._lines, b"")):
            self._left += line
        part, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def test_a_hundred_thousand_rows_are_read_in_flat_memory() -> None:
    """Traced over a fifth of them: what a row left behind would be seen in these as well, and tracing is slow."""
    reader = form()
    assert tally(reader, io.BufferedReader(Endless(100_000)), ORIGIN) == Tally(100_000, 0)
    tracemalloc.start()
    try:
        tally(reader, io.BufferedReader(Endless(20_000)), ORIGIN)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 500_000, "less than thirty bytes a row"


def test_a_line_without_an_end_is_one_broken_row_in_flat_memory() -> None:
    tracemalloc.start()
    try:
        made = tally(form(), io.BytesIO(HEADER + b"x" * 20_000_000 + b"\r\nMAIN,ICU,1,A,Y,\r\n"), ORIGIN)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert made == Tally(2, 1)
    assert peak < 45_000_000, "the file itself and little more"


ROWS_PER_CPU_S: Final = 50_000


def test_fifty_thousand_rows_are_parsed_and_checked_in_a_second_of_one_processor() -> None:
    rows = 20_000
    data, reader, best = census(rows), form(), 0.0
    for _ in range(5):
        begun = time.process_time()
        assert tally(reader, io.BytesIO(data), ORIGIN) == Tally(rows, 0)
        best = max(best, rows / (time.process_time() - begun))
        if best >= ROWS_PER_CPU_S:
            return
    pytest.fail(f"{best:.0f} rows a second of processor time")


# -- canonical events and HL7 v2


def canonical(**said: Any) -> bytes:
    (event,) = read(census(1)).events
    plain = {
        k: v for k, v in event_to_json(event).items() if k not in ("event_id", "received_at", "content_hash", "audit_context")
    }
    return msgspec.json.encode({**plain, **said}) + b"\n"


def test_canonical_events_come_one_a_line_under_the_rules_of_the_http_way_in() -> None:
    data = (
        b"\xef\xbb\xbf" + canonical() + b"\n" + canonical(entity_id="ICU/2/A") + b"{\n" + canonical(event_id="x") + b"[" * 5_000
    )
    made = read(data, form("canonical-events"))
    assert [event.entity_id for event in made.events] == ["ICU/1/A", "ICU/2/A"]
    assert [(reject.entry.number, reject.entry.line) for reject in made.rejects] == [(3, 4), (4, 5), (5, 6)]
    assert made.rejects[1].bad.field == "/event_id"
    assert made.events[0].idempotency_key is None
    assert len({event.event_id for event in made.events}) == 2


def test_a_line_with_a_member_twice_is_broken_and_names_it() -> None:
    twice = b'{"entity_id":"Zzyzx",' + canonical().removeprefix(b"{")
    strange = b'{"Zzyzx":1,"Zzyzx":2,' + canonical().removeprefix(b"{")
    made = read(twice + canonical() + strange, form("canonical-events"))
    assert [(reject.entry.number, reject.bad.field) for reject in made.rejects] == [(1, "/entity_id"), (3, None)]
    assert [event.entity_id for event in made.events] == ["ICU/1/A"]
    assert all(reject.bad.rule and reject.bad.remedy for reject in made.rejects)
    assert "Zzyzx" not in repr([reject.bad for reject in made.rejects])


def test_a_line_may_speak_for_the_manifest_s_source_and_tenant_only() -> None:
    data = canonical(source_system="capacity-main") + canonical(tenant="south")
    assert [reject.bad.field for reject in read(data, form("canonical-events")).rejects] == ["/source_system", "/tenant"]


MESSAGE: Final = (
    b"MSH|^~\\&|EHR|MAIN|||20260105101500||ADT^A01|C%d|P|2.5.1\rEVN||20260105101000\r"
    b"PID|||4711^^^MAIN^MR||DOE^JANE\rPV1||I|ICU^1^A^MAIN" + b"|" * 16 + b"V%d\r"
)


def batch(*messages: bytes, count: int | None = None) -> bytes:
    said = len(messages) if count is None else count
    return b"FHS|^~\\&\rBHS|^~\\&\r" + b"".join(messages) + b"BTS|%d\rFTS|1\r" % said


def test_a_batch_of_hl7_keeps_each_message_s_own_identity() -> None:
    one, two = MESSAGE % (1, 1), MESSAGE % (2, 2)
    made = read(batch(one, b"MSH|^~\\&|EHR|MAIN|||20260105101500||ADT^A01||P|2.5.1\r", two), form("hl7-batch"))
    assert [reject.entry.number for reject in made.rejects] == [2]
    alone = read(one, form("hl7-batch"), origin=msgspec_replace(ORIGIN, sha256="cd" * 32))
    assert {event.event_id for event in alone.events} < {event.event_id for event in made.events}


def test_a_batch_with_a_wrong_count_is_unreadable() -> None:
    with pytest.raises(Unreadable):
        list(form("hl7-batch").entries(io.BytesIO(batch(MESSAGE % (1, 1), count=2))))


# -- profiles


@pytest.mark.parametrize("name", sorted(each.name.removesuffix(".yaml") for each in (FOLDER / "files").iterdir()))
def test_each_shipped_profile_is_one(name: str) -> None:
    assert form(name)
    assert profile(name).schema.startswith(name)


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("census-20260105.csv", True),
        ("census-2026-01-05T06-00.csv", True),
        ("census-20260105-2.csv", True),
        ("census-JANE-DOE.csv", False),
        ("census-20260105.csv.exe", False),
        ("../census-20260105.csv", False),
        ("census-20260105.csv\n", False),
        ("census-٢٠٢٦٠١٠٥.csv", False),
    ],
)
def test_a_name_has_room_for_a_date_and_a_number_and_for_nobody_s_name(name: str, fits: bool) -> None:
    assert bears(profile(CENSUS), name) is fits


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("census-{date}.csv", "{who}.csv"),
        ("census-{date}.csv", "census .*"),
        ("census-{date}.csv", "../x-{date}.csv"),
        ("census-{date}.csv", "x-{date}.age"),
        ("schema: census-snapshot/1", "schema: Census"),
        ("time_zone: UTC", "time_zone: Mars"),
        ("id_columns: [Unit, Room, Bed]", "id_columns: [Unit, Nobody]"),
        ("event_type: SNAPSHOT", "event_type: OVERRIDE"),
        ("feed: census", "fed: census"),
        ("entity: bed\n", ""),
        ("{column: Bed, required: true", "{column: unit, required: true"),
    ],
)
def test_a_profile_with_a_mistake_is_refused(old: str, new: str) -> None:
    text = (FOLDER / "files" / f"{CENSUS}.yaml").read_text()
    assert old in text
    with pytest.raises(msgspec.ValidationError):
        profile_of(text.replace(old, new, 1))


@pytest.mark.parametrize("field", ["occupanzy.status", "occupancy", "occupancy.nobody", "staffed.status"])
def test_a_profile_that_names_a_field_which_the_entity_has_not_is_refused(field: str) -> None:
    text = (FOLDER / "files" / f"{CENSUS}.yaml").read_text().replace("occupancy.status", field)
    with pytest.raises(BadProfile):
        format_of(profile_of(text), "MAIN", hl7_profile, ehr)


def test_nothing_of_a_row_is_shown_by_what_holds_it() -> None:
    made = read(census(2, canary="Zzyzx") + b"Zzyzx,Zzyzx\r\n")
    reader = form()
    entries = list(reader.entries(io.BytesIO(census(1, canary="Zzyzx"))))
    shown = repr(made) + repr(entries) + repr([entry.said for entry in entries]) + repr(made.rejects) + repr(Bad(None, "", ""))
    assert "Zzyzx" not in shown


def test_the_page_on_files_is_current() -> None:
    page = Path(__file__).resolve().parents[3] / "docs/mapping/files.md"
    assert page.read_text() == document.render(document.shipped()), (
        "write: python -m pipeline.formats.files.document > docs/mapping/files.md"
    )
