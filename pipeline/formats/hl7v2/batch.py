"""Batches (chapter 2.10.3): files and batches of messages, their counts checked before any message is used. Pure.

`[FHS] { [BHS] { MSH … } [BTS] } [FTS]`: header and trailer of a file or a batch come together or not at all, because a
trailer that is missing is how one knows that the end is. BTS-1 counts messages, FTS-1 batches; where they say nothing,
nothing is checked against them.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from pipeline.formats.hl7v2.delimiters import STANDARD
from pipeline.formats.hl7v2.verdict import Reason, Rejected

MAX_MESSAGES: Final = 100_000
"""Most messages of one file."""

_MARK: Final = b"\xef\xbb\xbf"
_BLANK: Final = b" \t\r\n"
_PART: Final = re.compile(rb"(?:\A|(?<=[\r\n]))(FHS|BHS|MSH|BTS|FTS)(?=[^A-Za-z0-9\r\n]|[\r\n]|\Z)")
_END: Final = re.compile(rb"[\r\n]")
_MAX_COUNT_DIGITS: Final = 9


@dataclass(frozen=True, slots=True)
class Batches:
    """The messages of a file in their order, each with its own bytes, and the id of the batch or file (BHS-11, FHS-11)."""

    messages: tuple[bytes, ...]
    control_id: bytes = b""

    def __repr__(self) -> str:
        return f"Batches({len(self.messages)} messages)"


@dataclass(slots=True)
class _Reader:
    messages: list[bytes] = field(default_factory=list)
    batches: int = 0
    in_file: bool = False
    ended: bool = False
    in_batch: bool = False
    since_header: int = 0
    """Messages of the batch that is open, with a header or without."""

    control_id: bytes = b""

    def take(self, name: bytes, data: bytes) -> Rejected | None:
        if self.ended:
            return _wrong("FTS", "something follows the end of the file", "send one file, with FTS at its end")
        match name:
            case b"FHS":
                if self.in_file or self.batches or self.messages:
                    return _wrong("FHS", "a second start of a file", "send one FHS, at the start of the file")
                self.in_file, self.control_id = True, _field(data, 11)
            case b"BHS":
                if self.in_batch:
                    return _wrong("BHS", "the batch before it has no end", "end each batch with BTS")
                self._close()
                self.in_batch, self.control_id = True, self.control_id or _field(data, 11)
            case b"MSH":
                self.messages.append(data)
                self.since_header += 1
                if len(self.messages) > MAX_MESSAGES:
                    return Rejected(Reason.TOO_LONG, "FHS", f"more than {MAX_MESSAGES} messages", "send several files")
            case b"BTS":
                return self._end_of_batch(data)
            case _:
                return self._end_of_file(data)
        return None

    def _close(self) -> None:
        """A batch without a header ends where the next begins."""
        if self.since_header or self.in_batch:
            self.batches += 1
        self.in_batch, self.since_header = False, 0

    def _end_of_batch(self, data: bytes) -> Rejected | None:
        if not self.in_batch:
            return _wrong("BTS", "the end of a batch that has no start", "start each batch with BHS")
        if (wrong := _miscounted("BTS-1", _field(data, 1), self.since_header)) is not None:
            return wrong
        self._close()
        return None

    def _end_of_file(self, data: bytes) -> Rejected | None:
        if not self.in_file:
            return _wrong("FTS", "the end of a file that has no start", "start the file with FHS")
        if self.in_batch:
            return _wrong("BTS", "the last batch has no end", "end each batch with BTS")
        self._close()
        self.ended = True
        return _miscounted("FTS-1", _field(data, 1), self.batches)

    def finish(self) -> Batches | Rejected:
        if self.in_batch:
            return _wrong("BTS", "the batch is cut off", "send the whole batch, with BTS at its end")
        if self.in_file and not self.ended:
            return _wrong("FTS", "the file is cut off", "send the whole file, with FTS at its end")
        if not self.messages:
            return Rejected(Reason.MISSING_FIELD, "MSH", "a batch without a message", "send the messages between the headers")
        return Batches(tuple(self.messages), self.control_id)


def is_batch(data: bytes) -> bool:
    """Whether the bytes begin as a file or a batch of messages."""
    return data.lstrip(_MARK + _BLANK).startswith((b"FHS", b"BHS"))


def read(data: bytes) -> Batches | Rejected:
    """The messages of a file or a batch, if it is whole: else none of them is used."""
    reader = _Reader()
    for name, part, stray in _parts(data.removeprefix(_MARK)):
        wrong = _wrong(name.decode(), "something stands between the messages", "send nothing else in a batch") if stray else None
        if (wrong := wrong or reader.take(name, part)) is not None:
            return wrong
    return reader.finish()


def file_of(messages: Sequence[bytes], control_id: str) -> bytes:
    """A file of one batch of `messages` in their order, with its counts (BTS-1, FTS-1); `control_id` goes into FHS-11 and BHS-11.

    Inverse of `read`. ValueError for no message, more than MAX_MESSAGES, or one that would not be read back as itself.
    """
    encoding = STANDARD.field + STANDARD.encoding
    header = f"{encoding}{'|' * 9}{control_id}\r"
    ended = (message if message.endswith(b"\r") else message + b"\r" for message in messages)
    whole = f"FHS{header}BHS{header}".encode() + b"".join(ended) + f"BTS|{len(messages)}\rFTS|1\r".encode()
    back = read(whole)
    if isinstance(back, Rejected) or len(back.messages) != len(messages):
        raise ValueError(f"these messages make no batch: {back.detail if isinstance(back, Rejected) else 'one holds several'}")
    return whole


def acknowledgement(batches: Batches, answers: Sequence[bytes]) -> bytes:
    """A batch of the answers to each message in their order; BHS-12 names the batch that is answered."""
    encoding = STANDARD.field + STANDARD.encoding
    header = b"BHS" + encoding.encode() + b"|" * 10 + batches.control_id
    ended = (answer if answer.endswith(b"\r") else answer + b"\r" for answer in answers)
    return header + b"\r" + b"".join(ended) + f"BTS|{len(answers)}\r".encode()


def _parts(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Headers and trailers as a line each, messages whole; and whether something stands there that is neither."""
    found = list(_PART.finditer(data))
    starts = [part.start() for part in found]
    before = data[: starts[0]] if starts else b""
    for part, end in zip(found, [*starts[1:], len(data)], strict=False):
        whole = data[part.start() : end]
        line, rest = (whole, b"") if part[1] == b"MSH" else (*_END.split(whole, maxsplit=1), b"")[:2]
        yield part[1], line, bool((before + rest).strip(_BLANK))
        before = b""


def _field(line: bytes, n: int) -> bytes:
    """Field `n` of a header or trailer; the delimiter is the one that stands behind its name, and is field 1 of a header."""
    parts = line.split(line[3:4]) if len(line) > 3 else []
    index = n - 1 if line.startswith((b"FHS", b"BHS")) else n
    return parts[index].strip() if index < len(parts) else b""


def _miscounted(where: str, said: bytes, counted: int) -> Rejected | None:
    if not said:
        return None
    if not said.isdigit() or len(said) > _MAX_COUNT_DIGITS:
        return Rejected(Reason.BAD_VALUE, where, "the count is no number", "send the count, or leave it empty")
    if int(said) != counted:
        return Rejected(Reason.BAD_VALUE, where, f"not the number that was sent, which is {counted}", "send it again whole")
    return None


def _wrong(where: str, detail: str, remedy: str) -> Rejected:
    return Rejected(Reason.SEGMENT_SEQUENCE, where, detail, remedy)
