"""A profile's file, and what is wrong with it: at which line, and what to do. Pure."""

import difflib
import re
from collections.abc import Iterator
from typing import Final

import msgspec
import yaml

from pipeline.formats.hl7v2.profile import BedStatement, Profile, Unit


class InvalidProfile(msgspec.ValidationError):
    """The file can't be used; the text says where and what to do."""


_UNKNOWN: Final = re.compile(r"Object contains unknown field `([^`]+)`")
_INVALID: Final = re.compile(r"Invalid enum value '([^']*)'")
_AT: Final = re.compile(r" - at `\$([^`]*)`$")
_OF_CHECK: Final = re.compile(r"([a-z_0-9]+): ")
_STEP: Final = re.compile(r"\.([A-Za-z_0-9]+)|\[(\d+)\]")
_NAMES: Final = sorted({*Profile.__struct_fields__, *BedStatement.__struct_fields__, *Unit.__struct_fields__})


def profile_of(text: bytes | str) -> Profile:
    """The profile that a YAML file holds. Raises InvalidProfile, with the line, where it is wrong."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        raise InvalidProfile(f"line {mark.line + 1 if mark else '?'}: not YAML; check indentation and quotes") from None
    if not isinstance(root, yaml.MappingNode):
        raise InvalidProfile("line 1: no settings; write `name: value`, beginning with version")
    nodes = list(_nodes(root))
    _refuse_twice(nodes)
    try:
        return msgspec.yaml.decode(text, type=Profile)
    except msgspec.ValidationError as error:
        raise InvalidProfile(_told(str(error), root, nodes)) from None


def _nodes(root: yaml.Node) -> Iterator[yaml.Node]:
    """Each node once, keys too, in the order of the file; an alias, even to itself, ends there."""
    seen: set[int] = set()
    left = [root]
    while left:
        node = left.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        match node:
            case yaml.MappingNode(value=pairs):
                left += [part for pair in reversed(pairs) for part in reversed(pair)]
            case yaml.SequenceNode(value=items):
                left += reversed(items)


def _refuse_twice(nodes: list[yaml.Node]) -> None:
    """A name that is there twice: the second would win without a word."""
    for node in nodes:
        names = [key for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
        for number, key in enumerate(names):
            if key.value in [earlier.value for earlier in names[:number]]:
                raise InvalidProfile(f"line {_line(key)}: `{key.value}` is there twice; keep one of them")


def _told(problem: str, root: yaml.Node, nodes: list[yaml.Node]) -> str:
    at = _AT.search(problem)
    path, said = (at[1], problem[: at.start()]) if at else ("", problem)
    if unknown := _UNKNOWN.match(said):
        near = difflib.get_close_matches(unknown[1], _NAMES, n=1)
        hint = f"did you mean `{near[0]}`?" if near else "correct its spelling or take it out"
        return f"line {_line_of(unknown[1], nodes)}: there is no setting `{unknown[1]}`; {hint}"
    if check := _OF_CHECK.match(said):
        return f"line {_line_of(check[1], nodes)}: {said}"
    if invalid := _INVALID.match(said):
        return f"line {_line_of(invalid[1], nodes)}: {path.lstrip('.')}: {said}; see docs/schemas/hl7-profile.schema.json"
    return f"line {_line(_at(root, path))}: {path.lstrip('.') or 'the file'}: {said}"


def _at(node: yaml.Node, path: str) -> yaml.Node:
    """The node at a path, as far as it goes: msgspec writes `[...]` for any key of a mapping."""
    for name, number in _STEP.findall(path):
        if isinstance(node, yaml.MappingNode):
            node = next((value for key, value in node.value if key.value == name), node)
        elif isinstance(node, yaml.SequenceNode) and number:
            node = node.value[int(number)]
    return node


def _line_of(text: str, nodes: list[yaml.Node]) -> int:
    return next((_line(node) for node in nodes if isinstance(node, yaml.ScalarNode) and node.value == text), 1)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
