"""Broken rows as a person corrects them: a table for CSV, a JSON object a line for the rest. Pure.

What is written may be opened in a spreadsheet: a cell that one would take for a formula is written with a ' before it,
which is taken off again when the corrected rows are read.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from pipeline.formats.files.profile import FileProfile
from pipeline.formats.files.records import BYTE_ORDER_MARK, CsvRecords, Lines
from pipeline.formats.files.rows import Bad

GUARDED: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")
"""What makes a spreadsheet take a cell for a formula (OWASP, CSV injection), and the sign that is put before it."""
_AFTER_A_SEPARATOR: Final = re.compile(r"""([;,\t][\s"]*)('*[=+\-@＝＋－＠])""")
_GUARDED_AFTER_A_SEPARATOR: Final = re.compile(r"""([;,\t][\s"]*)'('*[=+\-@＝＋－＠])""")
"""A spreadsheet that separates cells by another sign than the file does begins one in the midst of ours, quotes or not."""
OURS: Final = ("row", "line", "column", "rule", "remedy")
"""Columns that are put before those of the file; of these only `row` is read again."""
MAX_CORRECTED: Final = 100_000


@dataclass(frozen=True, slots=True)
class Broken:
    """A broken row to be written: its number and line, why it is broken, the file's header and its bytes."""

    row: int
    line: int
    column: str
    rule: str
    remedy: str
    head: bytes
    record: bytes

    def __repr__(self) -> str:
        return f"Broken({self.row}, <redacted>)"


@dataclass(frozen=True, slots=True)
class Corrected:
    """A corrected row: its number, and a file of one record that says what it says now."""

    row: int
    content: bytes

    def __repr__(self) -> str:
        return f"Corrected({self.row}, <redacted>)"


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    row: int
    record: str
    line: int = 0
    column: str = ""
    rule: str = ""
    remedy: str = ""


def write(profile: FileProfile, broken: Iterable[Broken]) -> bytes:
    """Broken rows as a file to be corrected."""
    rows = list(broken)
    if profile.format != "csv":
        return b"".join(
            msgspec.json.encode(
                _Line(each.row, each.record.decode("utf-8", "replace"), each.line, each.column, each.rule, each.remedy)
            )
            + b"\n"
            for each in rows
        )
    out = io.StringIO()
    writer = csv.writer(out, delimiter=profile.csv.delimiter)
    header = next((cells for each in rows if (cells := _cells(profile, each.head))), [])
    writer.writerow([*OURS, *map(guarded, header)])
    for each in rows:
        ours = [str(each.row), str(each.line), each.column, each.rule, each.remedy]
        writer.writerow([*map(guarded, ours), *map(guarded, _cells(profile, each.record))])
    return BYTE_ORDER_MARK + out.getvalue().encode("utf-8")


def read(profile: FileProfile, data: bytes) -> list[Corrected]:
    """Corrected rows; ValueError, without a value, where the file is not one of ours."""
    if profile.format != "csv":
        return [Corrected(each.row, each.record.encode()) for each in _lines(data)]
    records = CsvRecords(Lines(io.BytesIO(data)), profile.csv.delimiter, "utf-8")
    first = next(records, None)
    if first is None or isinstance(first.cells, Bad) or tuple(first.cells[: len(OURS)]) != OURS:
        raise ValueError(f"the first columns are {', '.join(OURS)}: write it by `surgeline files rejects --save`")
    header = _written(profile, [unguarded(cell) for cell in first.cells[len(OURS) :]])
    found = []
    for record in records:
        if isinstance(record.cells, Bad) or not record.cells[0].strip().isdecimal():
            raise ValueError(f"line {record.line}: a row has its number in the first cell, and quotes around whole cells")
        cells = [unguarded(cell) for cell in record.cells[len(OURS) :]]
        found.append(Corrected(int(record.cells[0]), header + _written(profile, cells)))
        if len(found) > MAX_CORRECTED:
            raise ValueError(f"more than {MAX_CORRECTED} rows")
    return found


def _lines(data: bytes) -> list[_Line]:
    try:
        return [msgspec.json.decode(line, type=_Line) for line in data.splitlines() if line.strip()]
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ValueError("a line is an object with row and record: write it by `surgeline files rejects --save`") from None


def guarded(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula, nor a part of it, whatever it separates cells by."""
    inside = _AFTER_A_SEPARATOR.sub(r"\1'\2", cell)
    return f"'{inside}" if cell.startswith(GUARDED) else inside


def unguarded(cell: str) -> str:
    """Inverse of `guarded`."""
    return _GUARDED_AFTER_A_SEPARATOR.sub(r"\1\2", cell[1:] if cell.startswith("'") else cell)


def _cells(profile: FileProfile, record: bytes) -> Sequence[str]:
    """Cells of one record; where it is none, its text in one cell."""
    found = next(CsvRecords(Lines(io.BytesIO(record)), profile.csv.delimiter, profile.csv.encoding), None)
    if found is None:
        return []
    return [record.decode(profile.csv.encoding, "replace")] if isinstance(found.cells, Bad) else found.cells


def _written(profile: FileProfile, cells: Sequence[str]) -> bytes:
    out = io.StringIO()
    csv.writer(out, delimiter=profile.csv.delimiter).writerow(cells)
    try:
        return out.getvalue().encode(profile.csv.encoding)
    except UnicodeEncodeError:
        raise ValueError(f"a cell holds what {profile.csv.encoding}, the profile's encoding, can't write") from None
