"""Escape sequences of ER7 (chapter 2.7): delimiters, hexadecimal data, and formatting commands."""

import binascii
import re
from functools import lru_cache
from typing import Final

from pipeline.formats.hl7v2.delimiters import Delimiters

_LINES: Final = re.compile(r"[0-9]{1,2}")
_NEW_LINES: Final = frozenset({".br", ".sp", ".ce"})
_DROPPED: Final = re.compile(r"H|N|\.(?:in|ti)[+-]?\d*|\.fi|\.nf|\.sk\s*\d*")
"""Highlighting and page layout: they style text and hold none, except that a skip is a blank."""


def unescape(text: str, marks: Delimiters, codec: str = "utf-8") -> str:
    """The text that was meant. An unknown or unfinished sequence stays as it is: nothing of a message gets lost."""
    if not text or marks.escape not in text:
        return text
    return _sequence(marks.escape).sub(lambda match: _meaning(match, marks, codec), text)


@lru_cache(maxsize=64)
def _sequence(mark: str) -> re.Pattern[str]:
    quoted = re.escape(mark)
    return re.compile(f"{quoted}([^{quoted}]*){quoted}")


def _meaning(match: re.Match[str], marks: Delimiters, codec: str) -> str:
    code = match.group(1)
    plain = _delimiter(code, marks)
    if plain is not None:
        return plain
    if code in _NEW_LINES:
        return "\n"
    if code.startswith(".sp"):
        return "\n" * int(code[3:]) if _LINES.fullmatch(code[3:]) else match.group()
    if code.startswith("X"):
        return _hexadecimal(code[1:], codec) or match.group()
    if _DROPPED.fullmatch(code):
        return " " if code.startswith(".sk") else ""
    return match.group()


def _delimiter(code: str, marks: Delimiters) -> str | None:
    match code:
        case "F":
            return marks.field
        case "S":
            return marks.component
        case "R":
            return marks.repetition
        case "E":
            return marks.escape
        case "T":
            return marks.subcomponent
        case "P":
            return marks.truncation or None
        case _:
            return None


def _hexadecimal(digits: str, codec: str) -> str | None:
    try:
        data = binascii.unhexlify(digits)
    except (binascii.Error, ValueError):
        return None
    try:
        return data.decode(codec)
    except UnicodeError:
        return data.decode("latin-1")


def escape(text: str, marks: Delimiters) -> str:
    """Text that `unescape` reads back: delimiters by letter, line ends and other controls in hexadecimal."""
    if not text or not _needed(marks).search(text):
        return text
    return "".join(_escaped(character, marks) for character in text)


@lru_cache(maxsize=64)
def _needed(marks: Delimiters) -> re.Pattern[str]:
    used = marks.field + marks.component + marks.repetition + marks.escape + marks.subcomponent + marks.truncation
    return re.compile(f"[{re.escape(used)}\x00-\x1f]")


def _escaped(character: str, marks: Delimiters) -> str:
    mark = marks.escape
    for letter, delimiter in (
        ("F", marks.field),
        ("S", marks.component),
        ("R", marks.repetition),
        ("E", marks.escape),
        ("T", marks.subcomponent),
        ("P", marks.truncation),
    ):
        if character == delimiter:
            return f"{mark}{letter}{mark}"
    return f"{mark}X{ord(character):02X}{mark}" if character < " " else character
