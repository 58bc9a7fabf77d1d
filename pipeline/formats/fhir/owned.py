"""The paths of a resource that are ours to write; everything else stays as it was read, byte by byte.

Lists are addressed by what identifies an element (system, url, reference), never by position: other elements keep their
order and content. Setting and clearing are idempotent.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

Json = Any
"""A JSON value; numbers with a fraction are Decimal, so that 1.10 stays 1.10."""

Body = dict[str, Any]
"""A JSON object."""


class Misshapen(ValueError):
    """A resource, or a state to be written into one, has no valid FHIR form. Carries the place, never a value."""


@dataclass(frozen=True, slots=True)
class Member:
    """The first element of a list whose members, named by dotted paths, have these values.

    A name that ends in `[]` is a list within the element: it is enough that one element of it matches.
    """

    match: tuple[tuple[str, str], ...]

    def skeleton(self) -> Body:
        """The least element that matches."""
        element: Body = {}
        for dotted, value in self.match:
            node = element
            *parents, leaf = dotted.split(".")
            for name in parents:
                listed = name.endswith("[]")
                inner = node.setdefault(name.removesuffix("[]"), [{}] if listed else {})
                node = inner[0] if listed else inner
            node[leaf] = value
        return element

    def matches(self, element: Json) -> bool:
        """Whether `element` is the one."""
        return all(_matches(element, dotted, value) for dotted, value in self.match)

    def __repr__(self) -> str:
        return f"Member({', '.join(name for name, _ in self.match)})"


Path = tuple[str | Member, ...]


@dataclass(frozen=True, slots=True)
class Owned:
    """One path of ours, the field of the state that it belongs to, and its value; None clears it.

    May hold patient data: its representation shows the field alone.
    """

    field: str
    path: Path
    value: Json

    def __repr__(self) -> str:
        return f"Owned({self.field})"


_MISSING: Final = object()


def _matches(node: Json, dotted: str, value: str) -> bool:
    outer, listed, inner = dotted.partition("[].")
    found = dotted_value(node, outer)
    if not listed:
        return bool(found == value)
    return isinstance(found, list) and any(_matches(element, inner, value) for element in found)


def apply_owned(current: Body, desired: Iterable[Owned]) -> Body:
    """`current` with each path of `desired` set or cleared; `current` itself isn't touched.

    A container that is left empty by clearing goes too, because FHIR forbids empty ones.
    """
    body = current
    for owned in desired:
        body = _set_in_object(body, owned.path, owned.value)
    return body


def value_at(body: Body, path: Path) -> Json:
    """The value at `path`, None where there is none."""
    node: Json = body
    for step in path:
        if isinstance(step, Member):
            node = next((element for element in node if step.matches(element)), None) if isinstance(node, list) else None
        else:
            node = node.get(step) if isinstance(node, dict) else None
        if node is None:
            return None
    return node


def dotted_value(node: Json, dotted: str) -> Json:
    """The value at `a.b.c`, through objects only; None where there is none."""
    if "." not in dotted:
        return node.get(dotted) if isinstance(node, dict) else None
    for name in dotted.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node


def elements(body: Mapping[str, Json], name: str) -> list[Body]:
    """The objects in a list of the resource; empty where there is none."""
    value = body.get(name)
    return [element for element in value if isinstance(element, dict)] if isinstance(value, list) else []


def _set_in_object(node: Json, path: Path, value: Json) -> Body:
    name, rest = path[0], path[1:]
    if not isinstance(node, dict) or not isinstance(name, str):
        raise Misshapen(f"{_shown(path)} is not an object")
    if not rest:
        return _with(node, name, value)
    child = node.get(name, _MISSING)
    if child is _MISSING:
        if value is None:
            return node
        child = [] if isinstance(rest[0], Member) else {}
    changed = _set_in_list(child, rest, value) if isinstance(rest[0], Member) else _set_in_object(child, rest, value)
    return node if changed is child else _with(node, name, changed or None)


def _set_in_list(node: Json, path: Path, value: Json) -> list[Json]:
    member, rest = path[0], path[1:]
    if not isinstance(node, list) or not isinstance(member, Member):
        raise Misshapen(f"{_shown(path)} is not a list")
    index = next((i for i, element in enumerate(node) if member.matches(element)), None)
    if index is None:
        if value is None:
            return node
        added = _set_in_object(member.skeleton(), rest, value) if rest else value
        return [*node, added]
    found = node[index]
    changed = _set_in_object(found, rest, value) if rest else value
    if changed is found or changed == found:
        return node
    gone = not changed or (value is None and changed == member.skeleton())
    return [*node[:index], *([] if gone else [changed]), *node[index + 1 :]]


def _with(node: Body, name: str, value: Json) -> Body:
    if value is None:
        return {key: kept for key, kept in node.items() if key != name} if name in node else node
    return node if name in node and node[name] == value and type(node[name]) is type(value) else {**node, name: value}


def _shown(path: Path) -> str:
    return ".".join(step if isinstance(step, str) else "[]" for step in path)
