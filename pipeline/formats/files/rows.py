"""What every format of a file has in common: records one after the other, each with its bytes, and what it says. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Final, Protocol

from pipeline.domain.event import Event
from pipeline.domain.files.life import FileReason, Flaw
from pipeline.domain.identifiers import Millis

MAX_RECORD_BYTES: Final = 64 * 1024
"""Greatest record of a file, e.g. a row with the line ends within its quotes."""
CHUNK_ROWS: Final = 500
CHUNK_BYTES: Final = 512 * 1024
"""A file is landed in pieces of so many records, or bytes, at most: each is one raw record with its events."""
CONTEXT: Final = "file"


@dataclass(frozen=True, slots=True)
class Bad:
    """Why a record makes no event. `field` is a column, `rule` and `remedy` hold no value."""

    field: str | None
    rule: str
    remedy: str


@dataclass(slots=True)
class Entry:
    """One record: its number from 1, the line on which it begins, its bytes, and what it says in its format's own terms."""

    number: int
    line: int
    raw: bytes
    said: object

    def __repr__(self) -> str:
        return f"Entry({self.number}, <redacted>)"


@dataclass(frozen=True, slots=True)
class Origin:
    """What all records of one file have in common. `sha256` is of the file's plain content, `created_at` its manifest's."""

    tenant: str
    source_system: str
    sha256: str
    created_at: Millis
    received_at: Millis

    def identity(self, number: int, *, is_dated: bool) -> tuple[str, ...]:
        """What a record is known by: content and number, and, where it `is_dated` by the file, the moment that the file is of."""
        row = (self.sha256, str(number))
        return (*row, str(self.created_at)) if is_dated else row

    def context(self, number: int) -> str:
        """What an event carries to be found by the file and row that it came from."""
        return f"{CONTEXT} {self.sha256[:32]}/{number}"


class Unreadable(Exception):
    """No record can be told from another. `flaw` holds no value of the file."""

    def __init__(self, field: str, rule: str, remedy: str) -> None:
        super().__init__(rule)
        self.flaw = Flaw(FileReason.UNREADABLE, field, rule, remedy)


class Format(Protocol):
    """Reads the files of one profile."""

    def entries(self, data: IO[bytes]) -> Iterator[Entry]:
        """Each record in its order, in flat memory. A broken one is an Entry whose `said` is Bad; raises `Unreadable`."""
        ...

    def head(self) -> bytes:
        """Bytes before the first record, once that was read: with them, any run of records is a file of its own."""
        ...

    def check(self, entry: Entry, origin: Origin) -> Bad | None:
        """Why a record will make no event; None where it will, or where a rule ignores it."""
        ...

    def events(self, entry: Entry, origin: Origin) -> tuple[Event, ...] | Bad:
        """Sealed events of a record; none where a rule ignores it. Ids derive from source, content digest and number,
        and from `created_at` where that is the record's time."""
        ...


@dataclass(slots=True)
class Chunk:
    """Some records of a file, one behind the other, that are landed together."""

    entries: list[Entry]
    head: bytes

    @property
    def first(self) -> int:
        """Number of its first record."""
        return self.entries[0].number

    @property
    def last(self) -> int:
        """Number of its last record."""
        return self.entries[-1].number

    @property
    def body(self) -> bytes:
        """Its bytes as they came, behind the file's head."""
        return b"".join((self.head, *(entry.raw for entry in self.entries)))


def chunks(form: Format, data: IO[bytes], rows_done: int = 0) -> Iterator[Chunk]:
    """The records behind the first `rows_done`, in chunks whose bounds follow from the content and `rows_done` alone."""
    entries: list[Entry] = []
    size = 0
    for entry in form.entries(data):
        if entry.number <= rows_done:
            continue
        if entries and (len(entries) >= CHUNK_ROWS or size + len(entry.raw) > CHUNK_BYTES):
            yield Chunk(entries, form.head())
            entries, size = [], 0
        entries.append(entry)
        size += len(entry.raw)
    if entries:
        yield Chunk(entries, form.head())
