"""Lines of a file, and records of CSV as spreadsheets write them (RFC 4180), each with its exact bytes. Pure, flat memory.

A quote that is never closed would swallow the rest of the file. A record has at most MAX_RECORD_LINES lines and
MAX_RECORD_BYTES bytes; where it has more, or ends within its quotes, its first line alone is broken and reading goes on
with the line behind it.
"""

import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Final

from pipeline.formats.files.rows import MAX_RECORD_BYTES, Bad

MAX_RECORD_LINES: Final = 64
MAX_COLUMNS: Final = 512
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
"""Of UTF-8, as spreadsheets put it before the header."""

TOO_LONG: Final = Bad(None, f"a record has at most {MAX_RECORD_BYTES} bytes and {MAX_RECORD_LINES} lines", "shorten it")
NOT_TEXT: Final = Bad(None, "the text is in the encoding that was agreed", "write the file in the profile's encoding")
NOT_CSV: Final = Bad(None, "quotes stand around a whole cell, and are doubled within it (RFC 4180)", "write it as CSV")
TOO_MANY_COLUMNS: Final = Bad(None, f"a record has at most {MAX_COLUMNS} columns", "check the delimiter")

csv.field_size_limit(max(csv.field_size_limit(), MAX_RECORD_BYTES))


@dataclass(slots=True)
class Line:
    """One line with its end, as it stands in the file. `is_whole` is false of the start of one that is too long."""

    number: int
    raw: bytes
    is_whole: bool = True


class Lines:
    """The lines of a file, of which some may be put back. Of a line that is too long only the start is kept."""

    def __init__(self, data: IO[bytes]) -> None:
        self._data = data
        self._number = 0
        self._back: deque[Line] = deque()

    def __iter__(self) -> Iterator[Line]:
        return self

    def __next__(self) -> Line:
        if self._back:
            return self._back.popleft()
        raw = self._data.readline(MAX_RECORD_BYTES + 1)
        if not raw:
            raise StopIteration
        self._number += 1
        if len(raw) <= MAX_RECORD_BYTES:
            return Line(self._number, raw)
        rest = raw
        while rest and not rest.endswith(b"\n"):
            rest = self._data.readline(MAX_RECORD_BYTES)
        return Line(self._number, raw[:MAX_RECORD_BYTES], is_whole=False)

    def put_back(self, lines: "list[Line]") -> None:
        """They come next, in this order."""
        self._back.extendleft(reversed(lines))


@dataclass(slots=True)
class CsvRecord:
    """A record: the line on which it begins, its exact bytes (with blank lines before it), its cells or why there are none."""

    line: int
    raw: bytes
    cells: list[str] | Bad


class _TooLong(Exception):
    """The record in hand has more lines or bytes than one may have."""


class CsvRecords:
    """Records of a CSV file. Blank lines, and lines with nothing but delimiters, are none."""

    def __init__(self, lines: Lines, delimiter: str, encoding: str) -> None:
        self._lines = lines
        self._delimiter = delimiter
        self._encoding = encoding
        self._taken: list[Line] = []
        self._taken_bytes = 0
        self._blank = b""
        self._reader = self._fresh()

    def __iter__(self) -> Iterator[CsvRecord]:
        return self

    def __next__(self) -> CsvRecord:
        while True:
            self._taken, self._taken_bytes = [], 0
            try:
                cells: list[str] | Bad = next(self._reader)
            except StopIteration:
                if not self._taken:
                    raise
                cells = NOT_CSV
            except _TooLong:
                cells = TOO_LONG
            except UnicodeDecodeError:
                cells = NOT_TEXT
            except csv.Error:
                cells = NOT_CSV
            if isinstance(cells, Bad):
                self._resume_behind_first()
            taken = self._taken
            raw = taken[0].raw if len(taken) == 1 else b"".join(line.raw for line in taken)
            if not isinstance(cells, Bad) and not any(cells):
                self._blank = (self._blank + raw)[:MAX_RECORD_BYTES]
                continue
            if not isinstance(cells, Bad) and len(cells) > MAX_COLUMNS:
                cells = TOO_MANY_COLUMNS
            raw, self._blank = self._blank + raw, b""
            return CsvRecord(taken[0].number, raw, cells)

    def _fresh(self) -> "Iterator[list[str]]":
        return csv.reader(self._texts(), delimiter=self._delimiter, strict=True)

    def _texts(self) -> Iterator[str]:
        """Text of each line that the reader asks for; what it took for one record stays in `_taken`."""
        encoding, lines = self._encoding, self._lines
        while True:
            line = next(lines, None)
            if line is None:
                return
            self._taken.append(line)
            self._taken_bytes += len(line.raw)
            if not line.is_whole or len(self._taken) > MAX_RECORD_LINES or self._taken_bytes > MAX_RECORD_BYTES:
                raise _TooLong
            raw = line.raw
            yield (raw.removeprefix(BYTE_ORDER_MARK) if line.number == 1 else raw).decode(encoding)

    def _resume_behind_first(self) -> None:
        self._lines.put_back(self._taken[1:])
        del self._taken[1:]
        self._reader = self._fresh()
