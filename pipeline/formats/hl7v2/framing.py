"""Minimal lower layer protocol (MLLP, release 1): a message between 0B and 1C 0D. Bytes in, frames out; no network."""

from dataclasses import dataclass
from typing import Final

START: Final = b"\x0b"
END: Final = b"\x1c\r"
HEAD_BYTES: Final = 4096
"""How much of a frame that is too long is handed on: its MSH."""


def frame(message: bytes) -> bytes:
    """The message as it travels."""
    return START + message + END


@dataclass(frozen=True, slots=True)
class Block:
    """The content of one whole frame."""

    body: bytes

    def __repr__(self) -> str:
        return "Block(<redacted>)"


@dataclass(frozen=True, slots=True)
class TooLong:
    """A frame beyond the limit; `head` is its beginning, enough to say whom the answer is for."""

    head: bytes

    def __repr__(self) -> str:
        return "TooLong(<redacted>)"


@dataclass(frozen=True, slots=True)
class Garbage:
    """More bytes outside frames than a peer that speaks MLLP would send."""


class Deframer:
    """Cuts a byte stream into frames. Holds at most one frame and one read; bytes outside of frames are skipped."""

    def __init__(self, max_frame_bytes: int, max_garbage_bytes: int) -> None:
        self._buffer = bytearray()
        self._inside = False
        self._searched = 0
        self._max_frame_bytes = max_frame_bytes
        self._max_garbage_bytes = max_garbage_bytes
        self._garbage_bytes = 0

    @property
    def inside(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._inside

    @property
    def held_bytes(self) -> int:
        """Bytes that wait for the rest of their frame."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take what was read."""
        self._buffer += data

    def next(self) -> Block | TooLong | Garbage | None:
        """The next whole frame; None where more bytes are needed."""
        if not self._inside and not self._enter():
            return Garbage() if self._garbage_bytes > self._max_garbage_bytes else None
        end = self._buffer.find(END, self._searched)
        size = end if end >= 0 else len(self._buffer)
        if size > self._max_frame_bytes:
            return TooLong(bytes(self._buffer[:HEAD_BYTES]))
        if end < 0:
            self._searched = max(len(self._buffer) - 1, 0)
            return None
        body = bytes(self._buffer[:end])
        del self._buffer[: end + len(END)]
        self._inside, self._searched, self._garbage_bytes = False, 0, 0
        # A start byte inside a frame: the sender gave the first one up and began again; nobody was promised anything.
        return Block(body[body.rfind(START) + 1 :])

    def _enter(self) -> bool:
        start = self._buffer.find(START)
        skipped = start if start >= 0 else len(self._buffer)
        self._garbage_bytes += len(self._buffer[:skipped].strip(b"\r\n"))
        del self._buffer[: skipped + (start >= 0)]
        self._inside = start >= 0
        return self._inside
