"""Character sets of HL7 v2 messages: a byte order mark, then MSH-18 (table 0211), then the profile's list."""

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


def codec_of(declared: str) -> str | None:
    """Python's name of the character set that MSH-18 declares; None where it is empty or not one we know."""
    return _TABLE_0211.get(declared.strip().upper())


def without_mark(data: bytes) -> tuple[bytes, str | None]:
    """The bytes after a byte order mark, and the codec that it stands for. UTF-16 can't travel in MLLP: it holds CR and FS."""
    return (data[len(_MARK) :], "utf-8") if data.startswith(_MARK) else (data, None)


def decode(data: bytes, marked: str | None, declared: str, fallback: tuple[str, ...]) -> tuple[str, str] | None:
    """Text and the codec that read it; None where none of them can.

    A mark beats MSH-18, because it is about these bytes. MSH-18 beats the fallback unless the bytes disprove it.
    """
    named = marked or codec_of(declared)
    for codec in (named, *fallback) if named else fallback:
        try:
            return data.decode(codec), codec
        except (UnicodeError, LookupError):
            continue
    return None
