"""A sender's folder with all that serves it, for tests: ledger in memory, and what was told."""

import asyncio
import hashlib
import json
import os
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from pipeline.carriers.folder import FolderCarrier
from pipeline.carriers.protocol import Carrier
from pipeline.destinations.fhir.profile import load_profile
from pipeline.domain.files.life import Files, FileState, FileStatus, Waits
from pipeline.domain.identifiers import Millis
from pipeline.formats.files.profile import profile_of
from pipeline.formats.files.reading import format_of
from pipeline.formats.files.resources import Ehr
from pipeline.roles.ways_in.intake import hl7_profile
from pipeline.sources.files.desk import Desk
from pipeline.sources.files.folder import Folder
from pipeline.sources.files.partner import Kind, Partner
from pipeline.sources.files.watch import FilesSource
from tests.support.files_in import KEY_ID, NOW, PUBLIC

QUICK: Final = Waits(settle_ms=0, partial_ms=600_000)
PROFILES: Final = files("pipeline") / "profiles" / "files"


def ehr(name: str) -> Ehr:
    """A server by the name of its profile."""
    return Ehr(load_profile(name), b"digest key of the tests")


def kind(name: str, **said: Any) -> Kind:
    profile = profile_of((PROFILES / f"{name}.yaml").read_bytes())
    profile = replace(profile, **said)
    return Kind(name, profile, lambda: format_of(profile, "MAIN", hl7_profile, ehr))


class MemoryLedger:
    """A ledger that survives the process that writes it. `refusing`: the broker takes nothing."""

    def __init__(self) -> None:
        self.files = Files()
        self.kept: list[FileState] = []
        self.refusing = False

    def files_of(self, partner: str) -> Files:
        return self.files

    async def keep(self, state: FileState) -> bool:
        if self.refusing:
            return False
        self.kept.append(state)
        self.files.put(state)
        return True

    async def drop(self, state: FileState) -> bool:
        return not self.refusing

    def forget_all(self) -> None:
        """As when the ledger's retention has passed."""
        for state in self.files.every(*FileStatus):
            self.files.forget(state.file_id)


class Observed:
    """What was told."""

    def __init__(self) -> None:
        self.settled_as: list[FileState] = []
        self.again: list[FileState] = []
        self.waited: list[str] = []
        self.faults: list[Exception] = []
        self.landed = 0
        self.rejected = 0

    def settled(self, state: FileState) -> None:
        self.settled_as.append(state)

    def repeated(self, state: FileState) -> None:
        self.again.append(state)

    def waits(self, partner: str, reason: str) -> None:
        self.waited.append(reason)

    def rows(self, partner: str, landed: int, rejected: int) -> None:
        self.landed += landed
        self.rejected += rejected

    def faulted(self, partner: str, fault: Exception) -> None:
        self.faults.append(fault)


def digest(name: str) -> str:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


class Office:
    """A sender's folder, served by a desk with the clock at NOW."""

    def __init__(self, root: Path, *kinds: Kind, waits: Waits = QUICK, copies: str = "copies") -> None:
        self.root = root / "epic"
        self.incoming = self.root / "incoming"
        self.incoming.mkdir(parents=True, exist_ok=True)
        self.copies = root / copies
        self.ledger, self.observed, self.now = MemoryLedger(), Observed(), NOW
        self.keys = {KEY_ID: PUBLIC}
        self.valid_until: dict[str, Millis] = {}
        self.rows_per_s = 1e9
        self.must_encrypt = False
        self._kinds, self._waits = kinds or (kind("census-snapshot"),), waits
        self.decrypt: Any = None
        self.carrier: Callable[[], Carrier] = lambda: FolderCarrier(self.root)
        """What reaches the place; a new one for each process."""

    def desk(self, instance: str = "0") -> Desk:
        partner = Partner(
            name="epic",
            tenant="north",
            sources=frozenset({"ehr-main"}),
            kinds=self._kinds,
            keys=lambda: self.keys,
            decrypt=self.decrypt,
            digest=digest,
            waits=self._waits,
            must_encrypt=self.must_encrypt,
            valid_until=self.valid_until,
        )
        folder = Folder(self.carrier(), self.copies)
        return Desk(partner, folder, self.ledger, self.observed, self.clock, self.rows_per_s, instance)

    def clock(self) -> Millis:
        return self.now

    def source(self, drain_s: float = 5.0) -> FilesSource:
        return FilesSource([self.desk()], self.observed, poll_s=0.02, drain_s=drain_s)

    def ack(self, name: str) -> dict[str, Any] | None:
        """What the sender was told."""
        path = self.root / "acks" / f"{name}.ack.json"
        return json.loads(path.read_bytes()) if path.exists() else None

    def aged(self, *, by_ms: int = 10_000) -> None:
        """All that lies in the folder came so long ago: the clock is put on."""
        newest = max((os.lstat(path).st_ctime_ns // 1_000_000 for path in self.incoming.iterdir()), default=int(self.now))
        self.now = Millis(newest + by_ms)

    def names(self, folder: str) -> list[str]:
        path = self.root / folder
        return sorted(each.name for each in path.iterdir() if not each.name.startswith(".")) if path.exists() else []


async def run_once(office: Office, sink: Any, desk: Desk | None = None) -> Desk:
    """One start and one look."""
    desk = desk or office.desk()
    assert desk.locked()
    stop = asyncio.Event()
    await desk.begin(sink, stop)
    await desk.round(sink, stop)
    desk.unlock()
    return desk
