"""A sender's place: what lies there, our copy of what is in hand, and what it is told. Whatever carries it.

A file is copied into a folder of ours before it is believed: what is landed later are the very bytes that were checked,
whatever its sender does with it meanwhile. Of two processes that watch one place, one holds it at a time.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from pipeline.carriers.protocol import ALWAYS, MAX_NAME_BYTES, READ_BYTES, Carrier, Found, NotPlain, Readable, Stamp, checked
from pipeline.domain.files.life import FileReason, Flaw, Part
from pipeline.domain.identifiers import Millis
from pipeline.formats.manifest import MANIFEST_SUFFIX, MAX_MANIFEST_BYTES, MAX_SIGNATURE_BYTES, SIGNATURE_SUFFIX

INCOMING: Final = "incoming"
TAKEN: Final = "taken"
REJECTED: Final = "rejected"
ACKS: Final = "acks"
ENCRYPTED: Final = ".age"
"""Ending of a file that is encrypted (age-encryption.org/v1)."""

TEMPORARY: Final = (".tmp", ".part", ".partial", ".filepart", ".crdownload", ".swp", ".lock", "~")
"""Endings that programs give to what they are still writing; so do names that begin with a dot or ~."""
PUT_AWAY: Final = ("", SIGNATURE_SUFFIX, MANIFEST_SUFFIX)
"""In this order a file is put away: of what is left when we die amid it the manifest still tells which file it was."""
MAX_NAMES: Final = 10_000
"""Most names that are looked at in one round; the others wait for the next, as the first are put away."""
MAX_ACK_BYTES: Final = 1 << 20
MAX_SAME_NAMES: Final = 10_000
"""Most files of one name in `taken` or `rejected`; then the oldest of the plain name is replaced."""

ENDING_BYTES: Final = len(SIGNATURE_SUFFIX) + len(f".{MAX_SAME_NAMES}")
"""What is put behind a name when its file is put away."""

Decrypt = Callable[[Readable, "Measured"], None]
"""Reads an encrypted file and writes its plain content; raises `Undecipherable`."""


class Undecipherable(Exception):
    """A file that is not encrypted for us, or not whole."""


@dataclass(slots=True)
class Arrival:
    """What lies in `incoming` under one name."""

    name: str
    data: Part | None = None
    manifest: bytes | None = None
    manifest_since: Millis | None = None
    signature: bytes | None = None
    signature_since: Millis | None = None
    watched_since: Millis = ALWAYS
    stamps: dict[str, Stamp] = field(default_factory=dict)
    """Of each part what changes with its content."""

    def __repr__(self) -> str:
        return "Arrival(<redacted>)"


@dataclass(slots=True)
class Measured:
    """Writes to a copy, and knows its length and digest. Raises `TooLong` beyond `max_bytes`."""

    out: IO[bytes]
    max_bytes: int
    size: int = 0
    sha256: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def write(self, data: bytes) -> int:
        """Append."""
        self.size += len(data)
        if self.size > self.max_bytes:
            raise TooLong
        self.sha256.update(data)
        return self.out.write(data)

    def flush(self) -> None:
        """Hand on what is buffered."""
        self.out.flush()


class TooLong(Exception):
    """More content than a file may have."""


@dataclass(frozen=True, slots=True)
class Copied:
    """Our copy of a file's plain content."""

    path: Path
    size: int
    sha256: str


class Folder:
    """One sender's place, and ours for copies. Every method may block, and raises what `Carrier` raises."""

    def __init__(self, carrier: Carrier, copies: Path) -> None:
        self._carrier = carrier
        self._copies = copies

    # -- one at a time

    def lock(self) -> bool:
        """Whether this process serves the place from now on; a process that dies lets go of it."""
        if not self._carrier.hold():
            return False
        self._copies.mkdir(mode=0o700, parents=True, exist_ok=True)
        return True

    def unlock(self) -> None:
        """Let another process serve it."""
        self._carrier.let_go()

    # -- what came

    def arrivals(self) -> list[Arrival]:
        """What lies in `incoming`, by name, the oldest names first where names tell a date."""
        found: dict[str, Arrival] = {}
        for entry in self._carrier.found(INCOMING):
            if is_temporary(entry.name) or not is_name(entry.name):
                continue
            base, kind = _base_of(entry.name)
            if base in found or len(found) < MAX_NAMES:
                self._note(entry, kind, found.setdefault(base, Arrival(base)))
        return [found[name] for name in sorted(found)]

    def _note(self, entry: Found, kind: str, arrival: Arrival) -> None:
        try:
            if kind == MANIFEST_SUFFIX:
                arrival.manifest, arrival.manifest_since = self._read(INCOMING, entry.name, MAX_MANIFEST_BYTES), entry.since
            elif kind == SIGNATURE_SUFFIX:
                arrival.signature, arrival.signature_since = self._read(INCOMING, entry.name, MAX_SIGNATURE_BYTES), entry.since
            else:
                arrival.data = Part(entry.size, entry.since, entry.is_plain)
        except FileNotFoundError:
            return
        arrival.stamps[kind] = entry.stamp
        arrival.watched_since = max(arrival.watched_since, entry.watched_since)

    def _read(self, room: str, name: str, limit: int) -> bytes:
        """The start of a small file, one byte more than `limit` where it has more; empty of what is no file."""
        try:
            with self._carrier.open(room, name) as file:
                return _at_most(file, limit + 1)
        except NotPlain:
            return b""

    # -- our copy

    def copy(self, name: str, copy_name: str, max_bytes: int, decrypt: Decrypt | None) -> Copied | Flaw:
        """Copy a file's plain content; FileNotFoundError where it was taken away."""
        path = self.copy_path(copy_name)
        partial = path.with_suffix(".part")
        try:
            with self._carrier.open(INCOMING, name) as source, partial.open("wb") as out:
                os.chmod(partial, 0o600)
                measured = Measured(out, max_bytes)
                if decrypt is not None:
                    decrypt(source, measured)
                else:
                    while data := source.read(READ_BYTES):
                        measured.write(data)
        except TooLong:
            partial.unlink()
            return Flaw(FileReason.TOO_LARGE, "bytes", "the content is no larger than was agreed", "send several files")
        except Undecipherable:
            partial.unlink()
            return Flaw(FileReason.UNREADABLE, "", "the file is encrypted with age for our key", "encrypt it for our present key")
        except NotPlain:
            return Flaw(FileReason.NOT_A_FILE, "", "a file is a regular file with one name", "send the file itself")
        partial.rename(path)
        return Copied(path, measured.size, measured.sha256.hexdigest())

    def copy_path(self, copy_name: str) -> Path:
        """Where our copy of a file is, if there is one."""
        return self._copies / copy_name

    def kept(self, copy_name: str) -> Copied | None:
        """The copy that a process before us made; None where there is none."""
        path = self.copy_path(copy_name)
        try:
            with path.open("rb") as kept:
                digest = hashlib.file_digest(kept, "sha256").hexdigest()
                return Copied(path, kept.tell(), digest)
        except FileNotFoundError:
            return None

    def drop(self, copy_name: str) -> None:
        """Remove our copy."""
        self.copy_path(copy_name).unlink(missing_ok=True)

    def drop_others(self, copy_names: Sequence[str]) -> None:
        """Remove each copy but these."""
        for path in self._copies.iterdir():
            if path.name not in copy_names:
                path.unlink(missing_ok=True)

    # -- what goes out

    def acknowledge(self, name: str, content: bytes) -> None:
        """Write an acknowledgement, whole or not at all."""
        self._carrier.put(ACKS, name, content)

    def acknowledged(self, name: str) -> bytes:
        """The acknowledgement that lies there; empty where there is none."""
        try:
            return self._read(ACKS, name, MAX_ACK_BYTES)
        except FileNotFoundError:
            return b""

    def put_away(self, arrival: Arrival, to: str) -> None:
        """Move a file, its manifest and its signature out of `incoming`, if they are still what they were on arrival.

        What its sender put in their place meanwhile stays, to be judged by itself. What is not there any more is no fault.
        """
        name, carrier = arrival.name, self._carrier
        if any(carrier.stamp(INCOMING, name + kind) not in (None, stamp) for kind, stamp in arrival.stamps.items()):
            return
        free = self._free_name(to, name)
        for kind in PUT_AWAY:
            if kind in arrival.stamps:
                carrier.move(INCOMING, name + kind, to, free + kind, arrival.stamps[kind])

    def _free_name(self, room: str, name: str) -> str:
        """A name that is free there, for the file and what belongs to it; another one where that leaves no room for endings."""
        written = name.encode("utf-8", "surrogateescape")
        if len(written) > MAX_NAME_BYTES - ENDING_BYTES:
            name = f"long-{hashlib.blake2b(written, digest_size=16).hexdigest()}"
        if self._carrier.stamp(room, name) is None and self._carrier.stamp(room, name + MANIFEST_SUFFIX) is None:
            return name
        taken = {entry.name for entry in self._carrier.found(room, name)}
        for number in range(1, MAX_SAME_NAMES):
            free = f"{name}.{number}"
            if free not in taken and free + MANIFEST_SUFFIX not in taken:
                return free
        return name


def is_temporary(name: str) -> bool:
    """Whether a name says that its file is still being written, or is a program's own."""
    return name.startswith((".", "~")) or name.lower().endswith(TEMPORARY)


def is_name(name: str) -> bool:
    """Whether a file of this name can be opened and moved. Object storage knows longer names; none that was agreed is one."""
    try:
        checked(name)
    except ValueError:
        return False
    return True


def _at_most(file: Readable, limit: int) -> bytes:
    """As much as there is, at most `limit` bytes: one reading may give less."""
    found = b""
    while len(found) < limit and (data := file.read(limit - len(found))):
        found += data
    return found


def _base_of(name: str) -> tuple[str, str]:
    for suffix in (SIGNATURE_SUFFIX, MANIFEST_SUFFIX):
        if name.endswith(suffix) and len(name) > len(suffix):
            return name.removesuffix(suffix), suffix
    return name, ""
