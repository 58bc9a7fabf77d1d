"""Whether readers and writers of two versions of a schema understand each other, as Apache Avro's own checker says."""

import json
from enum import IntEnum
from typing import Any

import avro.schema
from avro.compatibility import ReaderWriterCompatibilityChecker


class Change(IntEnum):
    """How much a new schema differs from the one before, least first; the part of the version that must rise."""

    NONE = 0
    PATCH = 1
    MINOR = 2
    MAJOR = 3


def refusals(reader: str, writer: str) -> tuple[str, ...]:
    """Why what `writer` writes can't be read as `reader`; empty if it can. Both are schema JSON."""
    checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]  # its __init__ has no annotations
    result = checker.get_compatibility(avro.schema.parse(reader), avro.schema.parse(writer))
    return tuple(
        f"{location}: {message}" for location, message in zip(sorted(result.locations), sorted(result.messages), strict=False)
    ) or tuple(str(each) for each in result.incompatibilities)


def fully_compatible(one: str, other: str) -> tuple[str, ...]:
    """Refusals in both directions; empty if each reads what the other writes."""
    return (*refusals(one, other), *refusals(other, one))


def change_of(before: str, after: str) -> Change:
    """PATCH if only documentation differs, MINOR if each still reads the other, else MAJOR."""
    if json.loads(before) == json.loads(after):
        return Change.NONE
    if _without_doc(json.loads(before)) == _without_doc(json.loads(after)):
        return Change.PATCH
    return Change.MAJOR if fully_compatible(before, after) else Change.MINOR


def _without_doc(part: Any) -> Any:
    match part:
        case dict():
            return {name: _without_doc(value) for name, value in part.items() if name != "doc"}
        case list():
            return [_without_doc(value) for value in part]
        case _:
            return part
