"""Rejected rows as a person corrects them in a spreadsheet: written safely, and read back as the rows that they were."""

import io
from importlib.resources import files
from typing import Final

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.formats.files import corrections
from pipeline.formats.files.corrections import GUARDED, OURS, Broken, guarded, unguarded
from pipeline.formats.files.profile import FileProfile, profile_of
from pipeline.formats.files.records import CsvRecords, Lines
from pipeline.formats.files.rows import Bad
from tests.support.files_in import HEADER

FOLDER: Final = files("pipeline") / "profiles" / "files"


def profile(name: str = "census-snapshot") -> FileProfile:
    return profile_of((FOLDER / f"{name}.yaml").read_bytes())


def cells(data: bytes, delimiter: str = ",") -> list[list[str] | Bad]:
    return [record.cells for record in CsvRecords(Lines(io.BytesIO(data)), delimiter, "utf-8")]


def test_a_row_comes_back_under_its_number_with_the_files_header() -> None:
    broken = Broken(7, 8, "Occupied", "a rule", "a remedy", HEADER, b"MAIN,ICU,7,A,Q,V7\r\n")
    written = corrections.write(profile(), [broken])
    assert cells(written)[1][:5] == ["7", "8", "Occupied", "a rule", "a remedy"]  # type: ignore[index]
    (row,) = corrections.read(profile(), written.replace(b",Q,", b",Y,"))
    assert (row.row, cells(row.content)) == (7, [HEADER.decode().strip().split(","), ["MAIN", "ICU", "7", "A", "Y", "V7"]])


def test_a_formula_in_a_row_is_none_in_the_table_and_itself_again_when_it_is_read() -> None:
    row = b'MAIN,"=HYPERLINK(""http://x"";1)",+1,-2,@x,\'y\r\n'
    written = corrections.write(profile(), [Broken(1, 2, "=x", "r", "m", HEADER, row)])
    table = cells(written)[1]
    assert not isinstance(table, Bad)
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in table)
    (again,) = corrections.read(profile(), written)
    assert cells(again.content)[1] == cells(row)[0]


def test_a_formula_in_the_files_header_is_none_in_the_table_either() -> None:
    formula = "=cmd|'/c x'!A0"
    head = HEADER.rstrip(b"\r\n") + f',"{formula}"\r\n'.encode()
    written = corrections.write(profile(), [Broken(1, 2, "Occupied", "r", "m", head, b"MAIN,ICU,7,A,Q,V7,x\r\n")])
    assert cells(written)[0][-1] == f"'{formula}"  # type: ignore[index]
    (again,) = corrections.read(profile(), written)
    assert cells(again.content)[0] == cells(head)[0]


@given(st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=20))
def test_what_is_guarded_is_the_same_again(cell: str) -> None:
    assert unguarded(guarded(cell)) == cell
    assert not guarded(cell).startswith(tuple(set(GUARDED) - {"'"}))


@given(st.text(alphabet="=+-@＝;,\t'\" a1", max_size=12))
@example('x;"=1"')
@example(";;\t'=")
def test_no_part_of_a_cell_is_a_formula_to_a_spreadsheet_that_separates_otherwise(cell: str) -> None:
    assert unguarded(guarded(cell)) == cell
    for separator in ";,\t":
        parts = guarded(cell).split(separator)[1:]
        assert not [part for part in parts if part.lstrip(' "\t').startswith(tuple("=+-@＝＋－＠"))]


def test_a_row_that_is_no_row_is_shown_in_one_cell() -> None:
    written = corrections.write(profile(), [Broken(3, 4, "", "r", "m", HEADER, b'MAIN,"ICU\r\n')])
    assert cells(written)[1][5].startswith('MAIN,"ICU')  # type: ignore[union-attr,index]


@pytest.mark.parametrize("data", [b"", b"a,b\n1,2\n", ",".join(OURS).encode() + b",Unit\nx,,,,,ICU\n", b"\xff\xfe"])
def test_a_file_that_is_not_ours_is_refused_without_its_values(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"row|columns") as caught:
        corrections.read(profile(), data)
    assert "ICU" not in str(caught.value)


def test_json_rows_come_back_as_they_are() -> None:
    events = profile("canonical-events")
    record = b'{"entity_id": "x"}\n'
    written = corrections.write(events, [Broken(2, 3, "/payload", "r", "m", b"", record)])
    assert msgspec.json.decode(written)["rule"] == "r"
    assert [(row.row, row.content) for row in corrections.read(events, written)] == [(2, record)]
    with pytest.raises(ValueError, match="object"):
        corrections.read(events, b"{}\n")
