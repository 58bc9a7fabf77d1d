"""Times of the internet (RFC 3339) and milliseconds of the epoch."""

import datetime
import re
from typing import Final

from pipeline.domain.identifiers import Millis

_TIME: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt]([01]\d|2[0-3]):([0-5]\d):([0-5]\d|60)(?:\.(\d{1,12}))?([Zz]|([+-])([01]\d|2[0-3]):([0-5]\d))?",
    re.ASCII,
)
_EPOCH_DAY: Final = datetime.date(1970, 1, 1).toordinal()
_DAY_MS: Final = 86_400_000
MIN_TIME_MS: Final = (datetime.date.min.toordinal() - _EPOCH_DAY) * _DAY_MS
"""The first millisecond of the year 1 in UTC: no earlier time can be written."""
MAX_TIME_MS: Final = (datetime.date.max.toordinal() + 1 - _EPOCH_DAY) * _DAY_MS - 1
"""The last millisecond of the year 9999 in UTC."""


def in_calendar(millis: int) -> Millis | None:
    """The time; None outside of the years 1 to 9999 of UTC. Whoever reads a time asks, so that whoever has to can write it.

    A local time can be outside where its year isn't: 9999-12-31T23:59:59 in New York is of the year 10000.
    """
    return Millis(millis) if MIN_TIME_MS <= millis <= MAX_TIME_MS else None


def millis_of(text: str) -> Millis | None:
    """RFC 3339 (5.6) to milliseconds; None without an offset, or where no such time exists in the years 1 to 9999 of UTC.

    A leap second counts as the first of the next minute; digits beyond milliseconds are cut.
    """
    match = _TIME.fullmatch(text)
    if match is None or match[8] is None:
        return None
    try:
        day = datetime.date(int(match[1]), int(match[2]), int(match[3])).toordinal() - _EPOCH_DAY
    except ValueError:
        return None
    seconds = int(match[4]) * 3600 + int(match[5]) * 60 + int(match[6])
    millis = day * _DAY_MS + seconds * 1000 + int((match[7] or "0")[:3].ljust(3, "0"))
    if match[9]:
        offset = (int(match[10]) * 60 + int(match[11])) * 60_000
        millis += -offset if match[9] == "+" else offset
    return in_calendar(millis)


def rfc3339_of(millis: int) -> str:
    """Milliseconds to RFC 3339 in UTC, always with three digits of a second.

    A time that can't be written is said as the first or last that can: logs hold some from before ways in refused them.
    """
    day, rest = divmod(min(max(millis, MIN_TIME_MS), MAX_TIME_MS), _DAY_MS)
    seconds, thousandths = divmod(rest, 1000)
    date = datetime.date.fromordinal(day + _EPOCH_DAY)
    return f"{date.isoformat()}T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{thousandths:03}Z"


def date_exists(date: str) -> bool:
    """Whether the calendar has this YYYY, YYYY-MM or YYYY-MM-DD."""
    try:
        datetime.date.fromisoformat(date + "-01-01"[len(date) - 4 :])
    except ValueError:
        return False
    return True
