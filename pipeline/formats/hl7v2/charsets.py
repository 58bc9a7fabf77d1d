"""Character sets of HL7 v2 messages: a byte order mark, then MSH-18 (table 0211), then the profile's list.

A message may be in several sets: the first repetition of MSH-18 names the one it begins in (empty: ASCII), the others those that
it shifts to by the escape sequences of ISO 2022. Japanese senders write `~ISO IR87`. In the midst of such a shift a byte that
looks like a delimiter is half a character, so that the message must not be split as anything else.
"""

import codecs
import re
from functools import lru_cache
from typing import Final

DEFAULT_FALLBACK: Final = ("utf-8", "iso-8859-1")
"""Tried in this order where MSH-18 is empty, unknown, or wrong about the bytes; the last one takes any byte."""

_MARK: Final = b"\xef\xbb\xbf"

_TABLE_0211: Final = {
    "ASCII": "ascii",
    "UNICODE UTF-8": "utf-8",
    "UTF-8": "utf-8",
    "UTF8": "utf-8",
    "GB 18030-2000": "gb18030",
    "KS X 1001": "euc_kr",
    "BIG-5": "big5",
    "ISO IR14": "iso2022_jp",
    "ISO IR87": "iso2022_jp",
    "ISO IR159": "iso2022_jp_1",
    "CP1252": "cp1252",
    "WINDOWS-1252": "cp1252",
    **{f"8859/{part}": f"iso8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14, 15, 16)},
    **{f"ISO-8859-{part}": f"iso8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14, 15, 16)},
}


_SHIFTING: Final = "iso2022"
"""Begins the names of the codecs that know the escape sequences of ISO 2022."""

_SHIFT: Final = re.compile(rb"\x1b(?:\$|\(I)")
"""ISO 2022 from here on: two bytes a character, or katakana of one byte. No other codec reads either."""

_SHIFTED: Final = re.compile(r"\x1b(?:\$|\(I)[^\x1b]*")
"""From such a shift to the next escape character, which shifts back."""


def codec_of(declared: str) -> str | None:
    """Python's name of the character set that one repetition of MSH-18 declares; None where it is empty or not one we know."""
    return _TABLE_0211.get(declared.strip().upper())


@lru_cache(maxsize=64)
def codecs_of(declared: tuple[str, ...]) -> tuple[str, ...]:
    """Codecs of all repetitions of MSH-18 that we know, in the order in which they are tried.

    Those of ISO 2022 come first, because they hold ASCII too; of several the one with the longest name: iso2022_jp_1 reads all
    that iso2022_jp does. The others follow as they are declared.
    """
    known = [codec for each in declared if (codec := codec_of(each)) is not None]
    return tuple(sorted(known, key=lambda codec: -len(codec) if _is_shifting(codec) else 0))


def without_mark(data: bytes) -> tuple[bytes, str | None]:
    """The bytes after a byte order mark, and the codec that it stands for. UTF-16 can't travel in MLLP: it holds CR and FS."""
    return (data[len(_MARK) :], "utf-8") if data.startswith(_MARK) else (data, None)


def decode(data: bytes, marked: str | None, declared: tuple[str, ...], fallback: tuple[str, ...]) -> tuple[str, str] | None:
    """Text and the codec that read it; None where none of them can.

    A mark beats MSH-18 (`declared`, each repetition), because it is about these bytes. MSH-18 beats the fallback unless the bytes
    disprove it. Bytes that shift by ISO 2022 are read by a codec that does so too, or not at all: others take its two-byte
    characters for ASCII.
    """
    named = (marked,) if marked else codecs_of(declared)
    shifts = b"\x1b" in data and _SHIFT.search(data) is not None
    for codec in (*named, *fallback):
        if shifts and not _is_shifting(codec):
            continue
        try:
            return data.decode(codec), codec
        except (UnicodeError, LookupError):
            continue
    return None


def without_shifted(header: str) -> str:
    """A header, each byte a character, without what it shifts to: its fields can be told before its set is known."""
    return _SHIFTED.sub("", header) if "\x1b" in header else header


@lru_cache(maxsize=64)
def _is_shifting(codec: str) -> bool:
    """Whether a codec, by any of its names, knows the escape sequences of ISO 2022; one that nobody knows does not."""
    try:
        return codecs.lookup(codec).name.startswith(_SHIFTING)
    except LookupError:
        return False
