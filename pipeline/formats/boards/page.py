"""A unit's downtime board as one HTML page that needs nothing else: no script, no picture, no network. Pure.

What it says of its own age stands first, because a nurse reads it when nothing else works: a page can't count on its own, so
it names the time up to which everything is known, and the time from which on a newer page should be there.
"""

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final
from zoneinfo import ZoneInfo

from pipeline.domain.bed import is_promised
from pipeline.domain.event import Allocation, Bed, Service
from pipeline.domain.identifiers import Millis
from pipeline.domain.ward.lines import BedLine, BedWord, StayLine, UnitBoard
from pipeline.formats.boards.style import STYLE
from pipeline.formats.rfc3339 import MAX_TIME_MS, MIN_TIME_MS

PAPER_LINES: Final = 8
"""Empty lines of the form on which changes are written by hand."""
STAFF_DIGITS: Final = 1

_YEAR_MS: Final = 365 * 86_400_000
YEARLESS_MS: Final = _YEAR_MS // 2
"""A time that is nearer than this to the writing of the page is told without its year; another would be taken for a near one."""
NO_END_MS: Final = MAX_TIME_MS - _YEAR_MS
"""Later times, those of the year 9999, are what systems say for no end; in some zone they are beyond any calendar."""
NO_BEGINNING_MS: Final = MIN_TIME_MS + _YEAR_MS
"""Earlier times, those of the year 1, are what systems say where nothing was set; in some zone they are before any calendar."""
NO_DATE: Final = "no date set"
"""Told in place of either."""
NO_END: Final = "until further notice"
"""Told of something that lasts for no end."""

SIGNS: Final[dict[BedWord, str]] = {
    BedWord.OCCUPIED: "●",
    BedWord.READY: "○",
    BedWord.EMPTY: "○?",
    BedWord.DIRTY: "◍",
    BedWord.CLEANING: "◐",
    BedWord.CONTAMINATED: "▲",
    BedWord.BLOCKED: "✕",
    BedWord.CLOSED: "✕✕",
    BedWord.UNSTAFFED: "∅",
    BedWord.UNKNOWN: "?",
}
"""A sign beside each word: colour alone tells nothing on paper, or to many people."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """When a board was made, up to when everything is known on it (None: never yet), and how often a new one is due."""

    made_at: Millis
    as_of: Millis | None
    every_ms: int
    zone: str

    @property
    def is_old(self) -> bool:
        """Whether more is missing than is between two boards."""
        return self.as_of is None or self.made_at - self.as_of > self.every_ms

    @property
    def next_at(self) -> Millis:
        """When a newer board is due."""
        return Millis(self.made_at + self.every_ms)


def age_words(age_ms: int) -> str:
    """An age as it is said: `less than a minute`, `12 min`, `2 h 05 min`, `3 days 4 h`."""
    minutes = max(0, age_ms) // 60_000
    if minutes < 1:
        return "less than a minute"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h"


class Clock:
    """Times as they are read on the wall of the unit, when it is `now`."""

    def __init__(self, zone: str, now: Millis) -> None:
        self._zone = ZoneInfo(zone)
        self._now = now

    def time(self, at: Millis) -> str:
        """`06:15`."""
        return f"{self._local(at):%H:%M}"

    def day(self, at: Millis) -> str:
        """`Mon 5 Jan 2026`, in no language's own order of numbers."""
        local = self._local(at)
        return f"{_DAYS[local.weekday()]} {local.day} {_MONTHS[local.month - 1]} {local.year}"

    def both(self, at: Millis | None) -> str:
        """`5 Jan 06:15`, `5 Jan 2031 06:15`; empty for none."""
        if at is None:
            return ""
        if not NO_BEGINNING_MS <= at <= NO_END_MS:
            return NO_DATE
        local = self._local(at)
        year = f" {local.year}" if abs(at - self._now) > YEARLESS_MS else ""
        return f"{local.day} {_MONTHS[local.month - 1]}{year} {local:%H:%M}"

    def until(self, at: Millis | None) -> str:
        """`until 5 Jan 06:15`, `until further notice`; empty for none."""
        if at is None:
            return ""
        return NO_END if at > NO_END_MS else f"until {self.both(at)}"

    def zone(self, at: Millis) -> str:
        """`CET`, or the offset where the zone has no letters."""
        return self._local(at).tzname() or ""

    def _local(self, at: Millis) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(at // 1000, self._zone)


_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def render_html(board: UnitBoard, stamp: Stamp) -> bytes:
    """The page. It holds patient data: whoever writes it encrypts it."""
    clock = Clock(stamp.zone, stamp.made_at)
    title = f"{board.unit} · {board.facility}"
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        '<meta name="referrer" content="no-referrer"><meta name="color-scheme" content="light dark">',
        f"<title>Downtime board {escape(title)}</title><style>{STYLE}</style></head><body>",
        _head(board, stamp, clock),
        f"<main>{_counts(board)}{_beds(board, clock)}{_elsewhere(board, clock)}{_arriving(board, clock)}",
        f"{_staff(board, clock)}{_paper(board)}</main>",
        f"<footer>{escape(title)} · as of {_as_of(stamp, clock)} · written {escape(clock.both(stamp.made_at))} · ",
        "Confidential: patient data. Destroy after use.</footer></body></html>\n",
    ]
    return "".join(parts).encode("utf-8")


def _as_of(stamp: Stamp, clock: Clock) -> str:
    if stamp.as_of is None:
        return "not known"
    return escape(f"{clock.both(stamp.as_of)} {clock.zone(stamp.as_of)}")


def _head(board: UnitBoard, stamp: Stamp, clock: Clock) -> str:
    if stamp.as_of is None:
        big, day, age = "--:--", "", "It is not known up to when this page is complete. Check every bed."
    else:
        big, day = clock.time(stamp.as_of), f"{clock.day(stamp.as_of)} · {clock.zone(stamp.as_of)}"
        old = age_words(stamp.made_at - stamp.as_of)
        age = (
            f"OLD: nothing was heard for {old} before this page was written. Check every bed."
            if stamp.is_old
            else f"Complete up to then; {old} old when it was written."
        )
    kind = "old" if stamp.is_old else "fresh"
    sign = "⚠ " if stamp.is_old else ""
    due = f"Written {clock.time(stamp.made_at)}, the next is due {clock.time(stamp.next_at)}."
    late = "Where your clock shows much more, this page is older than it looks: look for a newer one, or check every bed."
    diverted = "".join(
        f'<p class="old">⚠ {escape(each.category)}: {"ambulances diverted" if each.status == "CLOSED" else "advisory"}'
        f"{escape(f' {clock.until(each.until)}' if each.until is not None else '')}</p>"
        for each in board.diversions
    )
    return (
        f'<header class="{kind}"><div><h1>{escape(board.unit)}</h1><p>{escape(board.facility)} · bed board and census</p></div>'
        f'<div class="asof"><p>as of</p><p class="clock">{escape(big)}</p><p>{escape(day)}</p></div>'
        f'<div class="age"><p class="{kind}">{sign}{escape(age)}</p><p>{escape(due)} {late}</p>{diverted}</div></header>'
    )


COUNTS: Final[tuple[tuple[str, tuple[BedWord, ...]], ...]] = (
    ("Occupied", (BedWord.OCCUPIED,)),
    ("Ready", (BedWord.READY,)),
    ("Dirty or being cleaned", (BedWord.DIRTY, BedWord.CLEANING, BedWord.CONTAMINATED)),
    ("Blocked or closed", (BedWord.BLOCKED, BedWord.CLOSED)),
    ("No staff", (BedWord.UNSTAFFED,)),
    ("Not known", (BedWord.EMPTY, BedWord.UNKNOWN)),
)
"""Counts of a board: with the beds, they add up."""


def _counts(board: UnitBoard) -> str:
    cells = [("Beds", len(board.beds)), ("Patients", board.patients)]
    cells += [(name, board.count(*words)) for name, words in COUNTS]
    cells.append(("Promised", sum(each.is_promised for each in board.beds)))
    cells.append(("Expected", len(board.arriving)))
    return '<dl class="counts">' + "".join(f"<div><dt>{name}</dt><dd>{count}</dd></div>" for name, count in cells) + "</dl>"


def _beds(board: UnitBoard, clock: Clock) -> str:
    rows = "".join(_bed_row(each, clock) for each in board.beds)
    empty = "" if board.beds else '<p class="none">No bed of this unit is known.</p>'
    heads = ("Room", "Bed", "State", "Patient", "Born, sex", "Number, visit", "Admitted", "Leaving", "Notes", "By hand")
    return _table("Beds", heads, rows) + empty if board.beds else f"<h2>Beds</h2>{empty}"


def _bed_row(line: BedLine, clock: Clock) -> str:
    word = line.word
    state = (
        f'<td class="state s-{word.name.lower()}"><b>{SIGNS[word]} {word.value}</b>{_small(state_notes(line.state, clock))}</td>'
    )
    notes = "".join(f'<p class="warn">⚠ {each.value}</p>' for each in line.disagreements)
    notes += _small(bed_notes(line.state))
    stays = line.stays or (None,)
    span = f' rowspan="{len(stays)}"' if len(stays) > 1 else ""
    first = f'<th scope="row"{span}>{escape(line.room)}</th><th scope="row"{span}>{escape(line.bed)}</th>'
    rows = []
    for place, stay in enumerate(stays):
        cells = _stay_cells(stay, clock)
        own = "".join(f"<p>{escape(each)}</p>" for each in (stay_notes(stay, clock) if stay is not None else ()))
        before = (first + (state.replace("<td", f"<td{span}", 1))) if place == 0 else ""
        rows.append(f'<tr>{before}{cells}<td>{notes if place == 0 else ""}{own}</td><td class="hand"></td></tr>')
    return "".join(rows)


def _stay_cells(stay: StayLine | None, clock: Clock) -> str:
    if stay is None:
        return "<td></td>" * 5
    person = stay.person
    name = f"<b>{escape(person.name)}</b>" if person.name else '<i class="warn">name not known</i>'
    born = " ".join(part for part in (person.birth_date, person.sex) if part)
    leaving = (f"<p>order {escape(clock.both(stay.discharge_ordered_at))}</p>" if stay.discharge_ordered_at else "") + (
        f"<p>exp. {escape(clock.both(stay.expected_discharge_at))}</p>" if stay.expected_discharge_at else ""
    )
    number = f"{escape(person.number)}<small>{escape(stay.visit)}</small>"
    admitted = escape(clock.both(stay.admitted_at))
    return f"<td>{name}</td>" + "".join(f'<td class="n">{cell}</td>' for cell in (escape(born), number, admitted, leaving))


def state_notes(bed: Bed, clock: Clock) -> list[str]:
    """Why a bed is out of service, and for whom long it is promised."""
    found = []
    if isinstance(bed.service, Service) and (bed.service.reason or bed.service.until):
        found.append(" ".join(part for part in (bed.service.reason, clock.until(bed.service.until)) if part))
    if is_promised(bed) and isinstance(bed.allocation, Allocation):
        found.append(f"{bed.allocation.status.value.lower()} {clock.until(bed.allocation.until)}".rstrip())
    return found


def bed_notes(bed: Bed) -> list[str]:
    """What a bed is and has, where somebody said so."""
    said = (
        ("isolation", bed.isolation),
        ("negative pressure", bed.negative_pressure),
        ("telemetry", bed.telemetry),
        ("surge bed", bed.surge),
        ("not staffed", bed.staffed is False),
        ("not licensed", bed.licensed is False),
    )
    return [*(name for name, is_so in said if is_so is True), *(part for part in (bed.level_of_care, bed.age_group) if part)]


def stay_notes(stay: StayLine, clock: Clock) -> list[str]:
    """What else a nurse asks of a stay."""
    found = [f"service {stay.service}"] if stay.service else []
    if stay.is_on_leave:
        found.append("on leave")
    if stay.boarding_since is not None:
        found.append(f"bed requested {clock.both(stay.boarding_since)}")
    if stay.going_to:
        found.append(f"going to {stay.going_to}")
    return found


def _elsewhere(board: UnitBoard, clock: Clock) -> str:
    if not board.elsewhere:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(" / ".join(part for part in (each.room, each.bed) if part) or "none")}</th>'
        f'{_stay_cells(each, clock)}<td>{_small(stay_notes(each, clock))}</td><td class="hand"></td></tr>'
        for each in board.elsewhere
    )
    heads = ("Place", "Patient", "Born, sex", "Number, visit", "Admitted", "Leaving", "Notes", "By hand")
    return _table("In the unit, in no bed of this list", heads, rows)


def _arriving(board: UnitBoard, clock: Clock) -> str:
    if not board.arriving:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(each.going_to)}</th>{_stay_cells(each, clock)}<td>{escape(each.coming_from)}</td>'
        f'<td class="hand"></td></tr>'
        for each in board.arriving
    )
    heads = ("To", "Patient", "Born, sex", "Number, visit", "Admitted", "Leaving", "From", "By hand")
    return _table("Expected here", heads, rows)


def _staff(board: UnitBoard, clock: Clock) -> str:
    if not board.staff:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(each.role)}</th><td>{clock.both(each.start)} to {clock.both(each.end)}</td>'
        f"<td>{_number(each.required)}</td><td>{_number(each.actual)}</td></tr>"
        for each in board.staff
    )
    return _table("Staff of this shift", ("Role", "Shift", "Required", "Present"), rows)


def _paper(board: UnitBoard) -> str:
    """The form on which changes are written while nothing works; its columns are those of `surgeline downtime enter`."""
    row = "<tr>" + '<td class="hand"></td>' * len(PAPER_HEADS) + "</tr>"
    note = '<p class="none">Every change with the time at which it happened. Entered later, each counts from its own time.</p>'
    return _table(f"Changes by hand, {board.unit}", PAPER_HEADS, row * PAPER_LINES, "paper") + note


PAPER_HEADS: Final = ("Day and time", "Room", "Bed", "Cleaning", "Service, reason", "Promised", "Patient, from or to", "By")


def _table(name: str, heads: Sequence[str], rows: str, kind: str = "") -> str:
    head = "".join(f'<th scope="col">{each}</th>' for each in heads)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<section class="{kind}"><h2>{escape(name)}</h2>{table}</section>'


def _small(said: Iterable[str]) -> str:
    return "".join(f"<small>{escape(each)}</small>" for each in said)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.{STAFF_DIGITS}f}".removesuffix(".0")
