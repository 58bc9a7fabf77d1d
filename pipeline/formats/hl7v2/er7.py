"""ER7, the vertical-bar encoding of HL7 v2 (chapter 2.5 and 2.7): a positional parser that splits lazily, and a builder.

Positions count from 1 as the standard does; 0 stands for the first. Text is unescaped on reading and escaped on building.
A value that is absent or empty reads as None; the explicit null reads as `NULL`.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

from pipeline.formats.hl7v2 import charsets
from pipeline.formats.hl7v2.delimiters import STANDARD, Delimiters
from pipeline.formats.hl7v2.escapes import escape, unescape

NULL: Final = '""'
"""The sender deletes the value (chapter 2.5.3)."""

MAX_BYTES: Final = 1 << 20
"""Default bound of a message; a profile may set its own."""

MAX_LINES: Final = 20_000
"""Most ends of lines of a message, however short they are: a location master of a thousand beds with twenty segments each. A line
of three bytes is an object of many times its size."""

MAX_BEFORE: Final = 100
"""Most segments before the first of those that a message is divided by; each part is read with them all. The standard has few."""

_SEGMENT_NAME: Final = re.compile(r"[A-Z][A-Z0-9]{2}")
_TWICE_ESCAPED: Final = "^~\\\\&"
"""MSH-2 of senders whose template engine doubled the backslash; seen in three real messages. They mean `^~\\&`."""


class Malformed:
    """These bytes can't be read as one message. `where` is a position, never content."""

    __slots__ = ("reason", "where")

    EMPTY: Final = "EMPTY"
    OVERSIZE: Final = "OVERSIZE"
    NO_HEADER: Final = "NO_HEADER"
    TRUNCATED: Final = "TRUNCATED"
    BAD_DELIMITERS: Final = "BAD_DELIMITERS"
    UNDECODABLE: Final = "UNDECODABLE"
    BATCH: Final = "BATCH"
    TOO_MANY_LINES: Final = "TOO_MANY_LINES"
    SEVERAL_MESSAGES: Final = "SEVERAL_MESSAGES"

    def __init__(self, reason: str, where: str) -> None:
        self.reason = reason
        self.where = where

    def __repr__(self) -> str:
        return f"Malformed({self.reason}, {self.where})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Malformed) and (self.reason, self.where) == (other.reason, other.where)

    def __hash__(self) -> int:
        return hash((self.reason, self.where))


Components = tuple[tuple[str, ...], ...]
Repetitions = tuple[Components, ...]


class Verbatim(str):
    """A field in its escaped form, with the delimiters of the message that is built."""

    __slots__ = ()


FieldContent = str | Repetitions
"""A field for the builder: one value, `Verbatim` text, or repetitions of components of subcomponents."""


class Segment:
    """One line of a message."""

    __slots__ = ("_codec", "_delimiters", "_fields", "name")

    def __init__(self, line: str, delimiters: Delimiters, codec: str) -> None:
        fields = line.split(delimiters.field)
        if fields[0] in ("MSH", "FHS", "BHS"):
            fields.insert(1, delimiters.field)
        self.name = fields[0]
        self._fields = fields
        self._delimiters = delimiters
        self._codec = codec

    def __len__(self) -> int:
        """Number of the last field."""
        return len(self._fields) - 1

    def raw(self, n: int) -> str:
        """Field `n` as it was sent, all repetitions, still escaped; empty where absent."""
        return self._fields[n] if n < len(self._fields) else ""

    def repetitions(self, n: int) -> list[str]:
        """Raw text of each repetition of field `n`; none where the field is empty."""
        text = self.raw(n)
        if not text:
            return []
        return [text] if self._is_delimiters(n) else text.split(self._delimiters.repetition)

    def value(self, n: int, component: int = 0, subcomponent: int = 0, repetition: int = 0) -> str | None:
        """One value, unescaped; a composite read as a simple value gives its first part (chapter 2, version compatibility)."""
        fields = self._fields
        text = fields[n] if n < len(fields) else ""
        if not text:
            return None
        if n <= 2 and self._is_delimiters(n):
            return text
        d = self._delimiters
        if repetition or d.repetition in text:
            text = _part(text, d.repetition, repetition)
        return self.part(text, component, subcomponent)

    def part(self, repetition: str, component: int, subcomponent: int = 0) -> str | None:
        """One value out of the raw text of a repetition."""
        d, text = self._delimiters, repetition
        if component > 1 or d.component in text:
            text = _part(text, d.component, max(component, 1) - 1)
        if subcomponent > 1 or d.subcomponent in text:
            text = _part(text, d.subcomponent, max(subcomponent, 1) - 1)
        if not text:
            return None
        return unescape(text, d, self._codec) if d.escape in text else text

    def components(self, repetition: str) -> list[str | None]:
        """Each component's first value out of the raw text of a repetition; the first component is at 0."""
        d = self._delimiters
        parts = repetition.split(d.component)
        if d.subcomponent in repetition:
            parts = [part.split(d.subcomponent, 1)[0] for part in parts]
        if d.escape in repetition:
            parts = [unescape(part, d, self._codec) for part in parts]
        return [part or None for part in parts]

    def tree(self) -> tuple[FieldContent, ...]:
        """All fields from the first on, wholly split and unescaped; MSH begins with MSH-3."""
        start = 3 if self.name in ("MSH", "FHS", "BHS") else 1
        return tuple(self._split(self.raw(n)) for n in range(start, len(self._fields)))

    def _split(self, text: str) -> Repetitions:
        d = self._delimiters
        if d.escape not in text:  # most fields are one value, or none
            if d.component not in text and d.repetition not in text and d.subcomponent not in text:
                return (((text,),),)
            return tuple(
                tuple(tuple(component.split(d.subcomponent)) for component in repetition.split(d.component))
                for repetition in text.split(d.repetition)
            )
        return tuple(
            tuple(
                tuple(unescape(sub, d, self._codec) for sub in component.split(d.subcomponent))
                for component in repetition.split(d.component)
            )
            for repetition in text.split(d.repetition)
        )

    def _is_delimiters(self, n: int) -> bool:
        return n <= 2 and self.name in ("MSH", "FHS", "BHS")

    def __repr__(self) -> str:
        return "Segment(<redacted>)"


def _part(text: str, separator: str, index: int) -> str:
    if separator not in text:
        return "" if index else text
    parts = text.split(separator, index + 1)
    return parts[index] if index < len(parts) else ""


class Message:
    """One message; segments are split when they are first asked for. Never changes."""

    __slots__ = ("_lines", "_names", "_segments", "charset", "delimiters")

    def __init__(self, lines: list[str], delimiters: Delimiters, charset: str) -> None:
        self._lines = lines
        self._names = tuple([line.partition(delimiters.field)[0] for line in lines])
        self._segments: dict[int, Segment] = {}
        self.delimiters = delimiters
        self.charset = charset

    def __repr__(self) -> str:
        return "Message(<redacted>)"

    def names(self) -> list[str]:
        """Names of the segments in order, Z-segments too."""
        return list(self._names)

    def segment(self, name: str, occurrence: int = 0) -> Segment | None:
        """The segment of this name, the first by default."""
        names, index = self._names, -1
        if name not in names:
            return None
        for _ in range(occurrence + 1):
            if name not in names[index + 1 :]:
                return None
            index = names.index(name, index + 1)
        return self._at(index)

    def segments(self, name: str) -> list[Segment]:
        """All segments of this name in order."""
        return [self._at(index) for index, found in enumerate(self._names) if found == name]

    def __iter__(self) -> Iterator[Segment]:
        return (self._at(index) for index in range(len(self._lines)))

    def each(self, name: str, most: int) -> list["Message"] | None:
        """The message once for each segment of this name: what stands before the first, then that one up to the next.

        None, before any is made, where there are more than `most`, or more than MAX_BEFORE segments stand before the first: what
        stands there is in each of the messages, so that both bound what they hold together.
        """
        starts = [index for index, found in enumerate(self._names) if found == name]
        if len(starts) > most or (starts and starts[0] > MAX_BEFORE):
            return None
        before = self._lines[: starts[0]] if starts else []
        ends = (*starts[1:], len(self._lines))
        parts = (self._lines[start:end] for start, end in zip(starts, ends, strict=False))
        return [Message(before + part, self.delimiters, self.charset) for part in parts]

    def count(self, name: str) -> int:
        """How many segments have this name."""
        return self._names.count(name)

    def field(
        self, segment: str, n: int, repetition: int = 0, component: int = 0, subcomponent: int = 0, occurrence: int = 0
    ) -> str | None:
        """One value by its position; None where absent or empty, `NULL` where the sender deletes it.

        Fields, components and subcomponents count from 1 (0 means the first), repetitions and occurrences from 0.
        """
        found = self.segment(segment, occurrence)
        return found.value(n, component, subcomponent, repetition) if found else None

    def bad_segment(self) -> int:
        """Number of the first segment, from 1, whose name no segment can have; 0 for none."""
        for index, name in enumerate(self._names, 1):
            if not _SEGMENT_NAME.fullmatch(name):
                return index
        return 0

    def encode(self) -> bytes:
        """The message in its own delimiters and character set, each segment ended by CR."""
        return build([(segment.name, segment.tree()) for segment in self], self.delimiters, self.charset)

    def _at(self, index: int) -> Segment:
        found = self._segments.get(index)
        if found is None:
            found = self._segments[index] = Segment(self._lines[index], self.delimiters, self.charset)
        return found


def parse(
    data: bytes, *, max_bytes: int = MAX_BYTES, fallback: tuple[str, ...] = charsets.DEFAULT_FALLBACK
) -> Message | Malformed:
    """Read one message. Segments may end in CR, LF or CRLF; a byte order mark and blank lines are skipped.

    Only what makes the header unreadable is Malformed; whether the content makes sense is the mapping's to say.
    """
    if len(data) > max_bytes:
        return Malformed(Malformed.OVERSIZE, f"more than {max_bytes} bytes")
    body, marked = charsets.without_mark(data)
    header = body[:_HEADER_BYTES].decode("latin-1").lstrip()
    delimiters = _delimiters_of(header)
    if isinstance(delimiters, Malformed):
        return delimiters
    decoded = charsets.decode(body, marked, _declared(header, delimiters), fallback)
    if decoded is None:
        return Malformed(Malformed.UNDECODABLE, "MSH-18")
    lines = _lines(decoded[0], delimiters)
    if isinstance(lines, Malformed):
        return lines
    if sum(line.startswith("MSH" + delimiters.field) for line in lines) > 1:
        return Malformed(Malformed.SEVERAL_MESSAGES, "a second MSH")
    return Message(lines, delimiters, decoded[1])


_HEADER_BYTES: Final = 4096
"""How far into a message its MSH is looked at before the character set is known."""


def _delimiters_of(header: str) -> Delimiters | Malformed:
    if not header:
        return Malformed(Malformed.EMPTY, "no content")
    if header.startswith(("FHS", "BHS")):
        return Malformed(Malformed.BATCH, header[:3])
    if not header.startswith("MSH"):
        return Malformed(Malformed.NO_HEADER, "MSH")
    if len(header) < 9:
        return Malformed(Malformed.TRUNCATED, "MSH-2")
    field = header[3]
    return _checked(field, header[4 : header.find(field, 4)] if field in header[4:] else "")


@lru_cache(maxsize=64)
def _checked(field: str, encoding: str) -> Delimiters | Malformed:
    if encoding == _TWICE_ESCAPED:
        encoding = STANDARD.encoding
    if not 4 <= len(encoding) <= 5:
        return Malformed(Malformed.BAD_DELIMITERS, "MSH-2")
    marks = field + encoding
    if len(set(marks)) != len(marks) or any(c.isalnum() or c.isspace() or c == '"' or not c.isprintable() for c in marks):
        return Malformed(Malformed.BAD_DELIMITERS, "MSH-1, MSH-2")
    found = Delimiters(field, *encoding)
    return STANDARD if found == STANDARD else found


def _declared(header: str, delimiters: Delimiters) -> tuple[str, ...]:
    """Each repetition of MSH-18."""
    line = header.split("\r", 1)[0].split("\n", 1)[0]
    fields = charsets.without_shifted(line).split(delimiters.field, 18)
    return tuple(fields[17].split(delimiters.repetition)) if len(fields) > 17 else ()


def _lines(text: str, delimiters: Delimiters) -> list[str] | Malformed:
    if "\n" in text:
        text = text.replace("\r\n", "\r")
        if "\r" not in text:
            text = text.replace("\n", "\r")
        elif "\n" in text:
            text = _segment_start(delimiters.field).sub("\r", text)
    if text.count("\r") > MAX_LINES:
        return Malformed(Malformed.TOO_MANY_LINES, f"more than {MAX_LINES} lines")
    lines = [line for line in text.split("\r") if line and not line.isspace()]
    lines[0] = lines[0].lstrip()
    return lines


@lru_cache(maxsize=64)
def _segment_start(field: str) -> re.Pattern[str]:
    """In a message with CR ends, an LF is text unless a segment begins behind it (senders that mix both exist)."""
    return re.compile(rf"\n(?=[A-Z][A-Z0-9]{{2}}{re.escape(field)}|\s|\Z)")


def build(
    segments: Sequence[tuple[str, Sequence[FieldContent]]], delimiters: Delimiters = STANDARD, charset: str = "utf-8"
) -> bytes:
    """Bytes of a message; MSH is given from MSH-3 on. Empty ends of segments are cut; each segment ends in CR.

    A character that the set doesn't have becomes `?`: an answer must be sent even if a name can't be spelled in it.
    """
    return "".join(_line(name, fields, delimiters) for name, fields in segments).encode(charset, "replace")


def _line(name: str, fields: Sequence[FieldContent], d: Delimiters) -> str:
    start = name + d.field + d.encoding if name in ("MSH", "FHS", "BHS") else name
    return d.field.join([start, *(_field(field, d) for field in fields)]).rstrip(d.field) + "\r"


def _field(content: FieldContent, d: Delimiters) -> str:
    if isinstance(content, str):
        return content if isinstance(content, Verbatim) else escape(content, d)
    return d.repetition.join(_repetition(repetition, d) for repetition in content)


def _repetition(components: Components, d: Delimiters) -> str:
    joined = (d.subcomponent.join(escape(sub, d) for sub in subs).rstrip(d.subcomponent) for subs in components)
    return d.component.join(joined).rstrip(d.component)
