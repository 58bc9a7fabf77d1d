"""Cells of a spreadsheet to values of the domain, each by the shape of the field that it states. Pure."""

import datetime
import functools
import re
from collections.abc import Callable, Mapping
from typing import Final
from zoneinfo import ZoneInfo

from pipeline.domain.identifiers import Millis
from pipeline.formats.files.profile import Column, CsvShape, FileProfile
from pipeline.formats.json_shapes import Date, Flag, Integer, Number, Refused, Rule, Shape, Symbol, Text, Time
from pipeline.formats.rfc3339 import in_calendar, millis_of

Converter = Callable[[str], object]
"""From a cell that is not empty, without blanks around it, to a value; raises `Refused`. SAYS_NOTHING: as if it were empty."""

KEPT_CELLS: Final = 4_096
"""Conversions remembered per column: codes and times of a file repeat."""
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MILLISECOND: Final = datetime.timedelta(milliseconds=1)


class SaysNothing(Exception):
    """The sender's code says nothing to us."""


def converter_of(column: Column, shape: Shape, profile: FileProfile) -> Converter:
    """What reads the cells of a column."""
    own = _by_shape(shape, profile)
    if column.values:
        own = _by_code(column.values, own if not isinstance(shape, Symbol | Flag) else None, shape)
    return own if isinstance(shape, Text) else functools.lru_cache(KEPT_CELLS)(own)


def _by_shape(shape: Shape, profile: FileProfile) -> Converter:
    match shape:
        case Time():
            return functools.partial(_time, profile.csv.times, ZoneInfo(profile.time_zone))
        case Number():
            return functools.partial(_number, profile.csv, shape)
        case Integer():
            return functools.partial(_integer, shape)
        case Flag():
            return functools.partial(_flag, _words(profile.csv))
        case Symbol():
            return functools.partial(_symbol, shape)
        case Date():
            return functools.partial(_date, profile.csv.times, shape)
    return shape.read


def _by_code(values: Mapping[str, str | bool | None], other: Converter | None, shape: Shape) -> Converter:
    """The sender's codes; what is none of them is read by itself, but of a closed set it is refused."""
    known = {code.casefold(): None if to is None else shape.read(to) for code, to in values.items()}

    def read(cell: str) -> object:
        code = cell.casefold()
        if code in known:
            if (value := known[code]) is None:
                raise SaysNothing
            return value
        if other is None:
            raise Refused(Rule.NOT_ALLOWED, "send one of the codes that the profile names, or add this one to it")
        return other(cell)

    return read


def _words(csv: CsvShape) -> dict[str, bool]:
    return {**{word.casefold(): True for word in csv.true_words}, **{word.casefold(): False for word in csv.false_words}}


def _flag(words: Mapping[str, bool], cell: str) -> bool:
    value = words.get(cell.casefold())
    if value is None:
        raise Refused(Rule.NOT_ALLOWED, "write one of " + ", ".join(words))
    return value


def _symbol(shape: Symbol, cell: str) -> object:
    return shape.read(cell.upper())


def _number(csv: CsvShape, shape: Number, cell: str) -> float:
    form = _COMMA if csv.decimal == "," else _POINT
    if form.fullmatch(cell) is None:
        raise Refused(Rule.WRONG_TYPE, f"write a number, with {csv.decimal} before its fraction")
    return shape.read(float(cell.replace(".", "").replace(",", ".") if csv.decimal == "," else cell))


_POINT: Final = re.compile(r"\d{1,15}(\.\d{1,15})?", re.ASCII)
_COMMA: Final = re.compile(r"(\d{1,15}|\d{1,3}(\.\d{3}){1,4})(,\d{1,15})?", re.ASCII)
"""With a decimal comma, a point stands between groups of three digits only: 2.5 is refused, not taken for 25."""


def _integer(shape: Integer, cell: str) -> int:
    if not (cell.isascii() and cell.isdigit() and len(cell) <= 16):
        raise Refused(Rule.WRONG_TYPE, "write a whole number")
    return shape.read(int(cell))


def _time(forms: tuple[str, ...], zone: ZoneInfo, cell: str) -> Millis:
    """The first form that fits. Of an hour that a zone has twice it is the first; one that it skips counts on."""
    for form in forms:
        if (moment := _moment(form, cell)) is None:
            continue
        if isinstance(moment, int):
            return Millis(moment)
        try:
            millis = in_calendar(((moment if moment.tzinfo else moment.replace(tzinfo=zone)) - _EPOCH) // _MILLISECOND)
        except OverflowError:
            continue
        if millis is not None:
            return millis
    raise Refused(Rule.TIME, "write times in one of the forms that the profile names, within the years 1 to 9999 of UTC")


def _moment(form: str, cell: str) -> datetime.datetime | Millis | None:
    try:
        if form != "ISO":
            return datetime.datetime.strptime(cell, form)  # noqa: DTZ007 - the profile's zone is put in behind
        return millis_of(cell) or datetime.datetime.fromisoformat(cell)
    except ValueError:
        return None


def _date(forms: tuple[str, ...], shape: Date, cell: str) -> str:
    for form in forms:
        moment = None if form == "ISO" else _moment(form.split("%H")[0].rstrip(" T"), cell)
        if isinstance(moment, datetime.datetime):
            return shape.read(moment.date().isoformat())
    return shape.read(cell)
