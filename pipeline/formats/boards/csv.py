"""A unit's board as CSV, for who has no browser or wants to count: a bed or a patient without one a line. Pure."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Final

from pipeline.domain.ward.lines import StayLine, UnitBoard
from pipeline.formats.boards.page import Clock, Stamp, bed_notes, state_notes, stay_notes
from pipeline.formats.files.corrections import guarded
from pipeline.formats.files.records import BYTE_ORDER_MARK
from pipeline.formats.rfc3339 import rfc3339_of

HEADER: Final = (
    "Facility",
    "Unit",
    "Room",
    "Bed",
    "State",
    "Disagreements",
    "Patient",
    "Born",
    "Sex",
    "Number",
    "Visit",
    "Admitted",
    "Expected discharge",
    "Discharge order",
    "Notes",
    "As of",
    "Written",
)
NO_BED: Final = "in no bed of the list"
EXPECTED: Final = "expected"


def written(header: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    """CSV as spreadsheets take it, RFC 4180 in UTF-8 with a byte order mark; no cell can be taken for a formula."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(header)
    for row in rows:
        writer.writerow([guarded(cell) for cell in row])
    return BYTE_ORDER_MARK + out.getvalue().encode("utf-8")


def render_csv(board: UnitBoard, stamp: Stamp) -> bytes:
    """The board. It holds patient data: whoever writes it encrypts it."""
    clock = Clock(stamp.zone, stamp.made_at)
    ends = (rfc3339_of(stamp.as_of) if stamp.as_of is not None else "not known", rfc3339_of(stamp.made_at))
    rows = []
    for line in board.beds:
        said = ", ".join(each.value for each in line.disagreements)
        first = (board.facility, board.unit, line.room, line.bed, line.word.value, said)
        notes = [*state_notes(line.state, clock), *bed_notes(line.state)]
        rows += [(*first, *_stay(stay, clock, notes), *ends) for stay in line.stays or (None,)]
    for state, stays in ((NO_BED, board.elsewhere), (EXPECTED, board.arriving)):
        for each in stays:
            place = (each.room, each.bed) if state == NO_BED else ("", each.going_to)
            rows.append((board.facility, board.unit, *place, state, "", *_stay(each, clock, []), *ends))
    return written(HEADER, rows)


def _stay(stay: StayLine | None, clock: Clock, notes: Sequence[str]) -> tuple[str, ...]:
    if stay is None:
        return ("",) * 8 + ("; ".join(notes),)
    times = (stay.admitted_at, stay.expected_discharge_at, stay.discharge_ordered_at)
    person = stay.person
    said = "; ".join([*notes, *stay_notes(stay, clock)])
    who = (person.name, person.birth_date, person.sex, person.number, stay.visit)
    return (*who, *(rfc3339_of(at) if at is not None else "" for at in times), said)
