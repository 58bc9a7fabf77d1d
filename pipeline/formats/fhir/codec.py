"""JSON bytes to objects and back without losing a digit: a decimal's precision is part of its value in FHIR."""

from decimal import Decimal
from typing import Final

import msgspec

from pipeline.formats.fhir.owned import Body, Json

MAX_BODY_BYTES: Final = 4 * 1024 * 1024
"""Largest answer of a server that is read."""

_DECODER: Final = msgspec.json.Decoder(float_hook=Decimal)
_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")
_CANONICAL: Final = msgspec.json.Encoder(decimal_format="number", order="deterministic")


def decode(data: bytes) -> Body | None:
    """The object in `data`; None where it holds no JSON object."""
    try:
        value = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, ArithmeticError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def encode(body: Json) -> bytes:
    """JSON, members in their order."""
    return _ENCODER.encode(body)


def canonical(value: Json) -> bytes:
    """JSON with members sorted: equal values have equal bytes."""
    return _CANONICAL.encode(value)
