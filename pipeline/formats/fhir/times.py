"""Milliseconds to FHIR dateTime and back."""

import datetime
from typing import Final

from pipeline.formats.fhir.owned import Json, Misshapen

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def date_time(millis: int) -> str:
    """FHIR dateTime in UTC with milliseconds; Misshapen outside the years 1 to 9999."""
    try:
        moment = _EPOCH + datetime.timedelta(milliseconds=millis)
    except OverflowError as error:
        raise Misshapen("a time outside the years 1 to 9999") from error
    return moment.strftime("%Y-%m-%dT%H:%M:%S.").rjust(20, "0") + f"{moment.microsecond // 1000:03d}Z"


def same_moment(value: Json) -> Json:
    """A dateTime as milliseconds, so that another server's spelling of the same moment is equal; anything else as it is."""
    if not isinstance(value, str) or "T" not in value:
        return value
    try:
        moment = datetime.datetime.fromisoformat(value)
    except ValueError:
        return value
    return value if moment.tzinfo is None else (moment - _EPOCH) // datetime.timedelta(milliseconds=1)
