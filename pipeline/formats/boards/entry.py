"""What was written on paper while everything was down, typed in afterwards: a change a line, each with its own time. Pure.

A row is read as any managed file's row is (`profiles/files/downtime-entry.yaml`); only its `recorded_at` is not the file's but
the time that stands on the paper. So the gate judges it as if it had come then: what was said later by anybody stays.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from pipeline.domain.event import Event, sealed
from pipeline.domain.identifiers import Millis
from pipeline.formats.files.cells import converter_of
from pipeline.formats.files.profile import Column, FileProfile
from pipeline.formats.files.records import CsvRecords, Lines
from pipeline.formats.files.rows import Bad, Entry, Origin, Unreadable
from pipeline.formats.files.table import Table
from pipeline.formats.json_shapes import Refused, Time

TIME_COLUMN: Final = "Time"
"""The time on the paper."""
MAX_AGE_MS: Final = 31 * 24 * 3_600_000
"""Paper that is older is more likely a slip of the pen in the date."""
MAX_AHEAD_MS: Final = 60_000
"""A clock on the wall may be ahead of ours by so much."""

NO_TIME: Final = Bad(TIME_COLUMN, "each change has the time that stands on the paper", "write the day and the time of the change")
FUTURE: Final = Bad(TIME_COLUMN, "nothing on paper is of the future", "check the day and the time")
TOO_OLD: Final = Bad(TIME_COLUMN, f"a change is at most {MAX_AGE_MS // 86_400_000} days old", "check the year and the month")


@dataclass(frozen=True, slots=True)
class Paper:
    """What of a typed paper can be landed, and what is broken: row and line, why."""

    rows: int
    events: tuple[Event, ...]
    broken: tuple[tuple[int, int, Bad], ...]

    def __repr__(self) -> str:
        return f"Paper({self.rows}, <redacted>)"


def read_paper(profile: FileProfile, facility: str, data: bytes, origin: Origin) -> Paper:
    """All rows of the file. `origin.created_at` counts for nothing; `received_at` is now. Raises `Unreadable`."""
    table = Table(profile, facility)
    zone_time = converter_of(Column(column=TIME_COLUMN), Time(), profile)
    place = _place_of(data, profile)
    events: list[Event] = []
    broken: list[tuple[int, int, Bad]] = []
    entries = list(table.entries(io.BytesIO(data)))
    for entry in entries:
        at = _time(entry, place, profile, zone_time, Millis(origin.received_at))
        made = at if isinstance(at, Bad) else table.events(entry, origin)
        if isinstance(made, Bad):
            broken.append((entry.number, entry.line, made))
            continue
        assert not isinstance(at, Bad)
        events += [sealed(msgspec.structs.replace(each, recorded_at=at, occurred_at=at)) for each in made]
    return Paper(len(entries), tuple(events), tuple(broken))


def _place_of(data: bytes, profile: FileProfile) -> int:
    """Where the column of times stands."""
    first = next(CsvRecords(Lines(io.BytesIO(data)), profile.csv.delimiter, profile.csv.encoding), None)
    cells: Sequence[str] = () if first is None or isinstance(first.cells, Bad) else first.cells
    for place, cell in enumerate(cells):
        if cell.strip().casefold() == TIME_COLUMN.casefold():
            return place
    raise Unreadable(TIME_COLUMN, "each column of the profile is there", "add it, or check the delimiter and header")


def _time(entry: Entry, place: int, profile: FileProfile, read: object, now: Millis) -> Millis | Bad:
    """The time of a row, as far as it can be one."""
    record = next(CsvRecords(Lines(io.BytesIO(entry.raw)), profile.csv.delimiter, profile.csv.encoding), None)
    if record is None or isinstance(record.cells, Bad):
        return entry.said if isinstance(entry.said, Bad) else NO_TIME
    cell = record.cells[place].strip() if place < len(record.cells) else ""
    if not cell:
        return NO_TIME
    assert callable(read)
    try:
        at = read(cell)
    except Refused as refused:
        return Bad(TIME_COLUMN, refused.rule.doc, refused.remedy)
    assert isinstance(at, int)
    if at > now + MAX_AHEAD_MS:
        return FUTURE
    return TOO_OLD if at < now - MAX_AGE_MS else Millis(at)
