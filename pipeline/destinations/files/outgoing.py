"""What one receiver of files gets: each file kept, put there, acknowledged or sent again as it was.

    outgoing/   NAME, then NAME.manifest, then NAME.manifest.jws, each whole or not at all; encrypted, NAME ends in .age
    acks/       NAME.ack.json (NAME without .age), which the receiver writes (docs/operating/files-out.md)

Order of effects: the file is kept on our disk, encrypted as it will be sent; the ledger says that it is made; it is put there;
the ledger says that it was sent. A process that dies between two of them leaves what the next one goes on from. Methods block.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, assert_never

import msgspec
from msgspec.structs import replace

from pipeline.carriers.protocol import Carrier, NotPlain, temporary_of
from pipeline.domain.files import outgoing as life
from pipeline.domain.files.outgoing import Acknowledged, FileOutState, OutStatus, Patience, Unreadable
from pipeline.domain.identifiers import Millis
from pipeline.formats.manifest import MANIFEST_SUFFIX, SIGNATURE_SUFFIX

OUTGOING: Final = "outgoing"
ACKS: Final = "acks"
ACK_SUFFIX: Final = ".ack.json"
ENCRYPTED: Final = ".age"
MAX_ACK_BYTES: Final = 1 << 20
PARTS: Final = ("", MANIFEST_SUFFIX, SIGNATURE_SUFFIX)
"""Endings of what belongs to a file, in the order in which they are put there: the signature last, as it proves the rest."""


class NotKept(Exception):
    """The ledger could not be written: nothing is known to have been decided. Do it again later."""


class Ledger(Protocol):
    """What was decided of each file of one receiver."""

    def files(self) -> list[FileOutState]:
        """Newest record of each file."""
        ...

    def keep(self, state: FileOutState) -> None:
        """Durable when it returns; `NotKept` otherwise."""
        ...


@dataclass(frozen=True, slots=True, repr=False)
class Made:
    """A new file: its first record, and its parts by ending, as they will be sent."""

    state: FileOutState
    parts: dict[str, bytes]


class Spool:
    """A folder of ours with the parts of files that are not acknowledged. A file is there whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, made: Made) -> None:
        """Keep it, through a crash of the machine. The signature goes last: without it the file isn't there."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.drop(made.state.file_id)
        for ending in PARTS:
            path = self._path(made.state.file_id, ending)
            aside = path.with_name(temporary_of(path.name))
            opened = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(opened, "wb") as out:
                out.write(made.parts[ending])
                out.flush()
                os.fsync(out.fileno())
            aside.replace(path)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def has(self, file_id: str) -> bool:
        """Whether it is there, whole."""
        return all(self._path(file_id, ending).is_file() for ending in PARTS)

    def path(self, file_id: str, ending: str) -> Path:
        """A part of it."""
        return self._path(file_id, ending)

    def drop(self, file_id: str) -> None:
        """Let it go, the signature first: what is left in between is no file."""
        for ending in reversed(PARTS):
            self._path(file_id, ending).unlink(missing_ok=True)

    def drop_others(self, file_ids: frozenset[str]) -> None:
        """Let go of all but these: what a process made that died before its ledger said so was never sent."""
        if not self._folder.is_dir():
            return
        for path in list(self._folder.iterdir()):
            if path.name.partition(".")[0] not in file_ids:
                path.unlink(missing_ok=True)

    def _path(self, file_id: str, ending: str) -> Path:
        return self._folder / f"{file_id}.data{ending}"


class OutDesk:
    """One receiver. `Unreachable`, `OSError` and `NotKept` pass through: the same round is safe to be done again."""

    def __init__(
        self, carrier: Carrier, spool: Spool, ledger: Ledger, patience: Patience, clock: Callable[[], Millis], instance: str
    ) -> None:
        self._carrier = carrier
        self._spool = spool
        self._ledger = ledger
        self._patience = patience
        self._clock = clock
        self._instance = instance

    def begin(self) -> None:
        """Before the first round, once the ledger was read to its end."""
        self._spool.drop_others(frozenset(each.file_id for each in self._ledger.files() if each.status not in life.CLOSED))

    def add(self, made: Made) -> None:
        """Take in a new file, unless one of this name was made before: a name is given once."""
        if any(each.file_id == made.state.file_id for each in self._ledger.files()):
            return
        self._spool.put(made)
        self._ledger.keep(replace(made.state, instance=self._instance))

    def round(self) -> list[FileOutState]:
        """Look once after each open file; what changed, in its new state. A file that fails holds up the others until then."""
        changed = []
        for state in sorted(self._ledger.files(), key=lambda each: (each.created_at, each.name)):
            if state.status in life.CLOSED and not self._spool.has(state.file_id):
                continue
            while (after := self._step(state)) is not None:
                changed.append(after)
                state = after
        return changed

    def _step(self, state: FileOutState) -> FileOutState | None:
        """One step; the state after it, None where nothing more is to be done now."""
        ack = None if state.status in life.CLOSED else self._acknowledgement(state.name)
        step = life.next_step(state, ack, self._spool.has(state.file_id), self._clock(), self._patience)
        match step:
            case life.Send(after):
                self._put(state)
                return self._keep(state, after)
            case life.Settle(after):
                return self._keep(state, after)
            case life.Close():
                self._clear(state)
                return None
            case life.Wait():
                return None
            case unknown:
                assert_never(unknown)

    def _keep(self, before: FileOutState, after: FileOutState) -> FileOutState:
        kept = replace(after, version=before.version + 1, instance=self._instance)
        self._ledger.keep(kept)
        return kept

    def _put(self, state: FileOutState) -> None:
        for ending in PARTS:
            self._carrier.put(OUTGOING, f"{sent_name(state)}{ending}", self._spool.path(state.file_id, ending))

    def _clear(self, state: FileOutState) -> None:
        """Take away what was acknowledged or given up; our copy last, since it tells that this is still to be done."""
        if state.status is not OutStatus.LOST:
            for ending in reversed(PARTS):
                self._carrier.remove(OUTGOING, f"{sent_name(state)}{ending}")
        self._spool.drop(state.file_id)

    def _acknowledgement(self, name: str) -> Acknowledged | Unreadable | None:
        try:
            with self._carrier.open(ACKS, f"{name}{ACK_SUFFIX}") as file:
                content = file.read(MAX_ACK_BYTES + 1)
        except FileNotFoundError:
            return None
        except NotPlain:
            return Unreadable()
        return read_acknowledgement(content, name)


def sent_name(state: FileOutState) -> str:
    """Its name where its receiver finds it."""
    return f"{state.name}{ENCRYPTED}" if state.encrypted else state.name


class _Said(msgspec.Struct):
    """What of an acknowledgement counts; a receiver may say more."""

    file: str
    sha256: str
    outcome: str


def read_acknowledgement(content: bytes, name: str) -> Acknowledged | Unreadable:
    """What a receiver says; nothing of it is trusted but three words."""
    if len(content) > MAX_ACK_BYTES:
        return Unreadable()
    try:
        said = msgspec.json.decode(content, type=_Said)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Unreadable()
    return Acknowledged(said.sha256, said.outcome) if said.file == name else Unreadable()
