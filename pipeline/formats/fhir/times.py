"""Milliseconds to FHIR dateTime and back."""

import datetime
from typing import Final

from pipeline.formats.fhir.owned import Json

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def same_moment(value: Json) -> Json:
    """A dateTime as milliseconds, so that another server's spelling of the same moment is equal; anything else as it is."""
    if not isinstance(value, str) or "T" not in value:
        return value
    try:
        moment = datetime.datetime.fromisoformat(value)
    except ValueError:
        return value
    return value if moment.tzinfo is None else (moment - _EPOCH) // datetime.timedelta(milliseconds=1)
