"""JSON with each member once. An object may name a member twice (RFC 8259, 4); a reader keeps the last, and the others are gone.

msgspec, which reads everything here, does not tell. The standard library's reader gives every object's members as they come, a
name in whatever escapes it is written; to look at them all takes some 5 us of an event of 600 bytes.
"""

import json
from collections.abc import Callable
from typing import Any

import msgspec

Members = list[tuple[str, object]]
"""Of one object, as they come."""


class Doubled:
    """Stands for an object that names a member more than once: nothing of it is to be read. `name` is the first such member."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return "Doubled(<redacted>)"


def decode(body: bytes) -> Any:
    """The JSON value that `body` is, in builtins; `Doubled` in place of each object that names a member more than once.

    ValueError or RecursionError where it is none, or one nested too deep. What such an object holds is not looked into.
    """
    document = msgspec.json.decode(body)
    return _marked(_looked_at(body, _once), document) if _names_twice(body) else document


def _names_twice(body: bytes) -> bool:
    """Whether an object of a body that is JSON names a member more than once."""
    found = False

    def look(members: Members) -> None:
        nonlocal found
        found = found or len(dict(members)) < len(members)

    _looked_at(body, look)
    return found


def _looked_at(body: bytes, look: Callable[[Members], object]) -> object:
    """The value with what `look` makes of each object, and text in place of numbers, however many digits they have."""
    return json.loads(body, object_pairs_hook=look, parse_int=str, parse_float=str)


def _once(members: Members) -> object:
    """An object of these members, if each is there once."""
    made: dict[str, object] = {}
    for name, value in members:
        if name in made:
            return Doubled(name)
        made[name] = value
    return made


def _marked(looked_at: object, document: object) -> object:
    """`document` with the marks of what was looked at, which has the same places in the same order."""
    if isinstance(looked_at, Doubled):
        return looked_at
    left: list[tuple[Any, Any]] = [(looked_at, document)] if isinstance(looked_at, dict | list) else []
    while left:
        seen, kept = left.pop()
        places, values = (kept, seen.values()) if isinstance(seen, dict) else (range(len(kept)), seen)
        for place, value in zip(places, values, strict=True):
            if isinstance(value, Doubled):
                kept[place] = value
            elif isinstance(value, dict | list):
                left.append((value, kept[place]))
    return document
