"""The rows of a file that was found true, landed in chunks: each is durable before the next begins."""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, Protocol, assert_never

from msgspec.structs import replace

from pipeline.domain.event import Event
from pipeline.domain.files.life import FileState
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Reason
from pipeline.formats.files.rows import Bad, Chunk, Entry, Format, Origin, chunks
from pipeline.sources.errors import Oversize
from pipeline.sources.files.ack import summary
from pipeline.sources.files.partner import origin_of
from pipeline.sources.protocol import Broken, OtherContent, RawMessage, Receipted, Repeated, Sink, Stored, Unavailable

CONTENT_TYPES: Final = {
    "csv": "text/csv",
    "ndjson": "application/x-ndjson",
    "hl7v2": "x-application/hl7-v2+er7",
    "fhir": "application/fhir+ndjson",
}
PROGRESS_CHUNKS: Final = 10
"""The ledger learns how far a file is after so many chunks; after a crash those since are landed again, as repeats."""
PRESSURE_HIGH: Final = 0.9
"""Files are the first that wait when the way to the broker is full."""
PRESSURE_POLL_S: Final = 0.1
TOO_LARGE: Final = Bad(None, "what a record makes fits a record of the log", "make the record smaller at its source")


class Ended(Enum):
    """How landing a file ended."""

    WHOLE = "every row is durable"
    STOPPED = "asked to stop; the rest is landed after the next start"
    OTHER = "other content was landed under this name"


class Progress(Protocol):
    """What landing tells while it goes on."""

    async def landed(self, state: FileState, rows: int, rejected: int) -> None:
        """Some rows are durable; `state` says how far it is."""
        ...

    def waits(self, partner: str, reason: str) -> None:
        """The broker can't take rows now, or the way to it is full."""
        ...


@dataclass(slots=True)
class Piece:
    """What a chunk makes: events with the place of the record that each comes from, and what is broken."""

    events: list[Event]
    of: list[int]
    broken: list[tuple[Entry, Bad]]
    landed: int
    entries: Sequence[Entry]


class Landing:
    """Lands one file's rows."""

    def __init__(
        self,
        reader: Format,
        path: Path,
        content_type: str,
        rows_per_s: float,
        clock: Callable[[], Millis],
        stopping: asyncio.Event,
    ) -> None:
        self._reader = reader
        self._path = path
        self._content_type = content_type
        self._rows_per_s = rows_per_s
        self._clock = clock
        self._stopping = stopping

    async def run(self, sink: Sink, state: FileState, progress: Progress) -> tuple[Ended, FileState]:
        """Land what is behind `state.rows_done`; how it ended, and how far it is.

        Once asked to stop it finishes the chunk in hand, and with it the file where that was the last.
        """
        with self._path.open("rb") as data:
            parts = chunks(self._reader, data, state.rows_done)
            chunk = await asyncio.to_thread(_next, parts)
            done = 0
            while chunk is not None:
                following = asyncio.ensure_future(asyncio.to_thread(_next, parts))
                try:
                    ended = await self._one(sink, state, chunk, progress)
                finally:
                    behind = await following
                if isinstance(ended, Ended):
                    return ended, state
                state, done = _further(state, chunk, ended), done + 1
                await progress.landed(state, ended.landed, len(ended.broken))
                if behind is not None and self._stopping.is_set():
                    return Ended.STOPPED, state
                await self._pause(len(chunk.entries) / self._rows_per_s if behind is not None else 0)
                chunk = behind
        return Ended.WHOLE, state

    async def _one(self, sink: Sink, state: FileState, chunk: Chunk, progress: Progress) -> Piece | Ended:
        """Land one chunk, as often as it takes; STOPPED where it isn't durable and we are asked to stop."""
        now = self._clock()
        origin = origin_of(state, now)
        piece = await asyncio.to_thread(_piece, self._reader, chunk.entries, origin)
        raw = RawMessage("files", identity_of(state, chunk.first), chunk.body, self._content_type, now)
        while True:
            while sink.pressure() >= PRESSURE_HIGH:
                progress.waits(state.partner, "PRESSURE")
                if self._stopping.is_set():
                    return Ended.STOPPED
                await self._pause(PRESSURE_POLL_S)
            receipt = await self._offer(sink, raw, piece, state)
            match receipt:
                case Stored() | Repeated():
                    return piece
                case OtherContent():
                    return Ended.OTHER
                case Unavailable(after_s):
                    progress.waits(state.partner, "UNAVAILABLE")
                    if self._stopping.is_set():
                        return Ended.STOPPED
                    await self._pause(after_s)
                case unknown:
                    assert_never(unknown)

    async def _offer(self, sink: Sink, raw: RawMessage, piece: Piece, state: FileState) -> Receipted:
        """Give it to the sink; a record whose event is too large goes to quarantine with all that it makes."""
        while True:
            rows = [entry.number for entry, _ in piece.broken]
            broken = [broken_of(entry, bad, state.sha256) for entry, bad in piece.broken]
            answer = summary([*piece.of, *rows] or [0], piece.landed, len(broken))
            try:
                return (
                    await sink.accept(raw, piece.events, answer, broken)
                    if broken
                    else await sink.accept(raw, piece.events, answer)
                )
            except Oversize as large:
                if large.item is None:
                    raise
                _set_aside(piece, piece.of[large.item])

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)


def identity_of(state: FileState, first_row: int, more: str = "") -> str:
    """Key of a chunk's receipt: its file by name, not by content, so that other content under the same name is seen."""
    digest = hashlib.sha256()
    for part in ("file", state.tenant, state.partner, state.name_digest, str(first_row), more):
        data = part.encode()
        digest.update(len(data).to_bytes(4, "big") + data)
    return digest.hexdigest()


def broken_of(entry: Entry, bad: Bad, sha256: str) -> Broken:
    """A broken record, for quarantine."""
    return Broken(Reason.BAD_ROW, bad.field, bad.rule, bad.remedy, entry.raw, sha256, entry.number, entry.line)


def _further(state: FileState, chunk: Chunk, piece: Piece) -> FileState:
    return replace(state, rows_done=chunk.last, landed=state.landed + piece.landed, rejected=state.rejected + len(piece.broken))


def _next(parts: Iterator[Chunk]) -> Chunk | None:
    return next(parts, None)


def _piece(reader: Format, entries: Sequence[Entry], origin: Origin) -> Piece:
    piece = Piece([], [], [], 0, entries)
    for entry in entries:
        found = reader.events(entry, origin)
        if isinstance(found, Bad):
            piece.broken.append((entry, found))
        else:
            piece.events += found
            piece.of += [entry.number] * len(found)
            piece.landed += 1
    return piece


def _set_aside(piece: Piece, number: int) -> None:
    """A record that makes an event which is too large: none of its events is landed."""
    kept = [(event, row) for event, row in zip(piece.events, piece.of, strict=True) if row != number]
    piece.events, piece.of = [event for event, _ in kept], [row for _, row in kept]
    piece.broken += [(entry, TOO_LARGE) for entry in piece.entries if entry.number == number]
    piece.landed -= 1
