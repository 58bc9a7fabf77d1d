"""What every place of files offers, whoever uses it: the way in of managed files, and the way out.

A place belongs to one partner. In it are rooms (`incoming`, `acks`, whatever its user needs), flat: a room holds files, and
no room lies in another. All methods block: call them from a thread that may wait (`asyncio.to_thread`), from any, also from
several at once. Each is bounded in time. None follows a link out of its place. What they raise:

- `Unreachable`: the place can't be reached now, or answered what it should not; nothing is known of what the call did. Wait,
  longer each time, and do it again: every method may be repeated.
- `NotAllowed`: the place was reached and does not let us in: a key that is not known there, one that is past its time, a
  server that is not the one that was pinned. Waiting alone will not help; an operator must be told.
- `FileNotFoundError`: there is no such file. `NotPlain`: there is, and it is a link, a folder or a device.

No exception's text holds a name of a file, a credential or what a server said. `OSError` of the folder's own machine (a full
disk, no rights) passes through.
"""

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Protocol

from pipeline.domain.identifiers import Millis

Stamp = tuple[str | int, ...]
"""What changes with a file's content; compared, never read."""

ALWAYS: Final = Millis(0)
MAX_LINK_S: Final = 900.0
"""Longest life of a signed link."""
MAX_NAME_BYTES: Final = 255
READ_BYTES: Final = 1 << 20
"""How much is read or written at once."""


class Unreachable(Exception):
    """The place can't be reached now; try again later. `reason` is bounded: it may be a metric's label."""

    def __init__(self, reason: str = "UNREACHABLE") -> None:
        super().__init__(reason)
        self.reason = reason


class NotAllowed(Unreachable):
    """The place does not let us in, or is not the one that we know."""


class BadPlace(ValueError):
    """A place that can't be used as its settings say; the text names the setting, and no secret."""


class NotPlain(Exception):
    """A link, folder or device stands where a file should."""


class Readable(Protocol):
    """A file that is read from its start to its end."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes, all that are left where it is negative; empty at the end. Raises `Unreachable`."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """A file in a room. Times are in milliseconds of the epoch by *our* clock, whatever the place's clock says."""

    name: str
    size: int
    since: Millis
    """When it came to be what it is, the earliest that can be: to judge whether it came in time."""
    stamp: Stamp
    is_plain: bool = True
    """A regular file with one name: no link, folder or device."""
    watched_since: Millis = ALWAYS
    """Waits count from no earlier than this. 0 where `since` can't be set by who sends; else since when we see it so."""


class Carrier(Protocol):
    """One partner's place."""

    scheme: ClassVar[str]
    """How its address begins: `sftp` of `sftp://…`; empty for a folder's path."""

    def hold(self) -> bool:
        """Take the place, or keep it; False while another process has it. A process that dies lets go of it, by itself.

        To be asked again before each round of work. Two may hold it for a moment where one was cut off from the place:
        whatever is done in it must be harmless when it is done twice.
        """
        ...

    def let_go(self) -> None:
        """Let another process take it, and close what is open; does nothing where it is not held. Raises nothing."""
        ...

    def found(self, room: str, begins: str = "") -> Iterator[Found]:
        """Each name in a room (that begins so), in any order; those of temporary files too. Rooms are made when missing."""
        ...

    def stamp(self, room: str, name: str) -> Stamp | None:
        """What `Found.stamp` would be now; None where there is nothing of this name."""
        ...

    def open(self, room: str, name: str) -> AbstractContextManager[Readable]:
        """A file's content. What is read after it was replaced may be of either content: check its digest."""
        ...

    def put(self, room: str, name: str, content: bytes | Path) -> None:
        """Write a file, whole or not at all: no reader ever sees a part of it. It replaces what has this name.

        Durable at the place when it returns, as far as the place can say. `content`: bytes, or a file of this machine.
        """
        ...

    def move(self, room: str, name: str, to_room: str, to_name: str, stamp: Stamp) -> bool:
        """Move a file to a free name, if it is still what `stamp` says; whether it was moved. False too where it is gone."""
        ...

    def remove(self, room: str, name: str) -> None:
        """Remove a file; nothing happens where there is none."""
        ...

    def link(self, room: str, name: str, lifetime_s: float) -> str | None:
        """A signed address from which whoever has it can fetch the file for so long (at most `MAX_LINK_S`), and do no more.

        None where the place has no such thing. A link is a credential: show it to its receiver, keep it out of logs.
        """
        ...


def checked(name: str) -> str:
    """A name that can't leave its room; ValueError of any other (its text holds no name)."""
    if name in ("", ".", "..") or "/" in name or "\0" in name or len(name.encode("utf-8", "surrogateescape")) > MAX_NAME_BYTES:
        raise ValueError("not the name of a file in a room")
    return name


def temporary_of(name: str) -> str:
    """Name under which a file is written before it is renamed; readers leave names that begin with a dot alone."""
    return f".{hashlib.blake2b(name.encode('utf-8', 'surrogateescape'), digest_size=16).hexdigest()}.tmp"
