"""JSON whose objects name a member twice: found wherever it stands and however it is written, and nothing else is."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.formats.json_members import Doubled, decode

TEXTS = st.text(st.sampled_from('ab": ,{}[]\\\n\t\u00e9'), max_size=4)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), FLOATS, TEXTS)
Members = list[tuple[str, Any]]


class Written(Members):
    """An object as it is written: members in their order, names perhaps twice."""


TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.lists(st.tuples(TEXTS, inner), max_size=4).map(Written)),
    max_leaves=12,
)
BLANKS = st.sampled_from(["", " ", "\n", "\t", "\r", " \r\n\t"])


def written(tree: Any, blank: str, escaped: bool) -> str:
    """JSON of a tree; `escaped`: every character of a text by its number."""
    if isinstance(tree, Written):
        members = (f"{written(name, blank, escaped)}{blank}:{blank}{written(value, blank, escaped)}" for name, value in tree)
        return "{" + f"{blank},{blank}".join(members) + "}"
    if isinstance(tree, list):
        return "[" + f"{blank},".join(written(each, blank, escaped) for each in tree) + "]"
    if isinstance(tree, str) and escaped:
        return '"' + "".join(f"\\u{ord(character):04x}" for character in tree) + '"'
    return json.dumps(tree, ensure_ascii=False)


def marked(tree: Any) -> Any:
    """What is to be read of a tree."""
    if isinstance(tree, Written):
        names = [name for name, _ in tree]
        if len(set(names)) < len(names):
            return Doubled
        return {name: marked(value) for name, value in tree}
    return [marked(each) for each in tree] if isinstance(tree, list) else tree


def shown(value: Any) -> Any:
    """A value that was read, with the class in place of each mark."""
    if isinstance(value, Doubled):
        return Doubled
    if isinstance(value, dict):
        return {name: shown(each) for name, each in value.items()}
    return [shown(each) for each in value] if isinstance(value, list) else value


@given(TREES, BLANKS, st.booleans())
def test_an_object_is_read_if_and_only_if_it_names_each_member_once(tree: Any, blank: str, escaped: bool) -> None:
    text = written(tree, blank, escaped).encode()
    assert shown(decode(text)) == shown(_as_msgspec(marked(tree)))


def _as_msgspec(value: Any) -> Any:
    """Numbers as msgspec reads them."""
    if isinstance(value, dict):
        return {name: _as_msgspec(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_as_msgspec(each) for each in value]
    return value if value is Doubled else msgspec.json.decode(json.dumps(value))


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"a" :2}',
        b'{"a"\n:1,"\\u0061":2}',
        b'{"a":1,"b":{"c":1},"a":{"d":1}}',
        b'\t{"a":":","a":1}',
    ],
)
def test_a_member_that_stands_twice_is_found_however_it_is_written(body: bytes) -> None:
    found = decode(body)
    assert isinstance(found, Doubled)
    assert found.name == "a"
    assert repr(found) == "Doubled(<redacted>)"


def test_what_stands_beside_a_marked_object_keeps_its_values() -> None:
    found = decode(b'{"x":[1.5,{"a":1,"a":2},12345678901234567890123],"y":{"a":-0.0,"b":"\\u0061:"}}')
    assert shown(found) == {"x": [1.5, Doubled, 12345678901234567890123], "y": {"a": -0.0, "b": "a:"}}


@pytest.mark.parametrize("text", ['{"events":', '"a" :', " :", ":", '\\": ', "\\"])
def test_a_text_that_looks_like_a_member_is_a_text(text: str) -> None:
    said = {"events": [{"reason": text, text: {"a": 1}}]}
    assert decode(json.dumps(said).encode()) == said


@pytest.mark.parametrize("body", [b"", b"{", b'{"a":1,"a":1', b'{"a": "\xff"}', b'{"a":NaN}'])
def test_what_is_no_json_is_none_whatever_it_names_twice(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(body)
