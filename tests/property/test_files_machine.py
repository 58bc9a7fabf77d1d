"""Kill -9 between any two effects of a file's life: every file ends as it should, no row is lost, none counts twice."""

import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pipeline.domain.event import Event
from pipeline.domain.files.life import FileState, FileStatus
from pipeline.domain.identifiers import Millis
from pipeline.sources.files import landing as files_landing
from pipeline.sources.files.desk import Desk
from pipeline.sources.files.folder import Folder
from pipeline.sources.protocol import Broken, OtherContent, RawMessage, Receipted, Repeated, Stored
from tests.support.files_desk import MemoryLedger, Office
from tests.support.files_in import census, manifest_of, place, put


class Killed(BaseException):
    """The process is gone."""


class Bomb:
    """Kills at the n-th effect, before or behind it."""

    def __init__(self) -> None:
        self.left: int | None = None

    def tick(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed


class Log:
    """The broker: what is there stays there."""

    def __init__(self, bomb: Bomb) -> None:
        self.bomb = bomb
        self.receipts: dict[str, bytes] = {}
        self.events: dict[str, str] = {}
        self.broken: set[tuple[str, int]] = set()
        self.conflicts = 0

    async def accept(self, raw: RawMessage, events: Sequence[Event], answer: bytes, broken: Sequence[Broken] = ()) -> Receipted:
        self.bomb.tick()
        if raw.identity in self.receipts:
            return Repeated(answer) if self.receipts[raw.identity] == raw.body else OtherContent()
        for event in events:
            known = self.events.setdefault(event.event_id, event.content_hash)
            self.conflicts += known != event.content_hash
        self.broken |= {(each.file, each.row) for each in broken}
        self.bomb.tick()
        self.receipts[raw.identity] = raw.body
        self.bomb.tick()
        return Stored(answer)

    def pressure(self) -> float:
        return 0.0


class FragileLedger(MemoryLedger):
    def __init__(self, bomb: Bomb) -> None:
        super().__init__()
        self.bomb = bomb

    async def keep(self, state: FileState) -> bool:
        self.bomb.tick()
        await super().keep(state)
        self.bomb.tick()
        return True

    async def drop(self, state: FileState) -> bool:
        self.bomb.tick()
        return True


def fragile(folder: Folder, bomb: Bomb) -> Folder:
    """A folder that may be left between any two of its changes."""
    for name in ("copy", "acknowledge", "put_away", "drop"):
        setattr(folder, name, _between(getattr(folder, name), bomb))
    folder._carrier.move = _between(folder._carrier.move, bomb)  # type: ignore[method-assign]
    return folder


def _between(work: Callable[..., Any], bomb: Bomb) -> Callable[..., Any]:
    def run(*given: Any) -> Any:
        bomb.tick()
        found = work(*given)
        bomb.tick()
        return found

    return run


@dataclass(frozen=True)
class Sent:
    """One file: how many rows, which of them broken, and in what way the whole is wrong."""

    rows: int
    broken: frozenset[int]
    way: str


WAYS = ("true", "true", "true", "no manifest", "no signature", "no data", "wrong count", "wrong sum", "partial", "unknown source",
        "same content", "sent twice", "other content", "late", "early", "unknown name", "unreadable")  # fmt: skip

SENT = st.builds(Sent, st.integers(1, 20), st.frozensets(st.integers(0, 19), max_size=2), st.sampled_from(WAYS))


class World:
    """A sender's folder, the broker and our ledger, through any number of kills."""

    def __init__(self, root: Path) -> None:
        self.bomb = Bomb()
        self.log = Log(self.bomb)
        self.office = Office(root)
        self.office.ledger = FragileLedger(self.bomb)
        self.office.now = Millis(time.time_ns() // 1_000_000 + 60_000)
        self.expected: dict[str, tuple[str, int, int]] = {}

    def send(self, number: int, sent: Sent) -> None:
        office, name = self.office, f"census-20260105-{number}.csv"
        content = census(sent.rows, first=number * 1_000, broken=frozenset(number * 1_000 + row for row in sent.broken))
        bad = len([row for row in sent.broken if row < sent.rows])
        late = {"not_before": Millis(1), "not_after": Millis(2)}
        early = {"not_before": Millis(1 << 45), "not_after": Millis((1 << 45) + 1)}
        wide = {"not_before": Millis(1), "not_after": Millis(1 << 45)}
        taken = ("held", 0, 0) if bad > sent.rows * 0.1 else ("taken", sent.rows - bad, bad)
        manifest = manifest_of(content, name, **wide)
        match sent.way:
            case "true" | "same content" | "sent twice" | "other content":
                put(office.incoming, content, manifest)
                self.expected[name] = taken
            case "no manifest":
                place(office.incoming / name, content)
            case "no signature":
                put(office.incoming, content, manifest)
                (office.incoming / f"{name}.manifest.jws").unlink()
            case "no data":
                put(office.incoming, content, manifest)
                (office.incoming / name).unlink()
            case "early":
                put(office.incoming, content, manifest_of(content, name, **early))
            case "late":
                put(office.incoming, content, manifest_of(content, name, **late))
                self.expected[name] = taken
            case "unknown name":
                place(office.incoming / f"x{name}", content)
            case "partial":
                put(office.incoming, content, manifest, data=content[:-3])
            case _:
                says: dict[str, dict[str, Any]] = {
                    "wrong count": {"records": sent.rows + 1},
                    "wrong sum": {"sha256": "0" * 64},
                    "unknown source": {"source_system": "x"},
                    "unreadable": {},
                }
                said = says[sent.way]
                content = b"no header\n" if sent.way == "unreadable" else content
                put(office.incoming, content, manifest_of(content, name, **{**wide, **said}))
                self.expected[name] = ("refused", 0, 0)

    def send_again(self, number: int, sent: Sent) -> None:
        """What a sender does once it was told."""
        name = f"census-20260105-{number}.csv"
        if self.expected.get(name, ("",))[0] != "taken":
            return
        wide = {"not_before": Millis(1), "not_after": Millis(1 << 45)}
        content = census(sent.rows, first=number * 1_000, broken=frozenset(number * 1_000 + row for row in sent.broken))
        match sent.way:
            case "sent twice":
                put(self.office.incoming, content, manifest_of(content, name, **wide))
            case "same content":
                other = f"census-20260106-{number}.csv"
                put(self.office.incoming, content, manifest_of(content, other, **wide))
                self.expected[other] = ("repeated", 0, 0)
            case "other content":
                content = census(3, first=number * 1_000 + 500)
                put(self.office.incoming, content, manifest_of(content, name, **wide))
                self.expected[name] = ("refused", 0, 0)

    def live(self, kills: list[int]) -> None:
        """Start again and again, each time killed at an effect, and in the end not."""
        for left in [*kills, None]:
            self.bomb.left = left
            asyncio.run(self._life())

    async def _life(self) -> None:
        desk: Desk = self.office.desk()
        fragile(desk._folder, self.bomb)
        assert desk.locked()
        stop = asyncio.Event()
        try:
            await desk.begin(self.log, stop)
            await desk.round(self.log, stop)
            await desk.round(self.log, stop)
        except Killed:
            pass
        finally:
            self.bomb.left = None
            desk.unlock()


@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.lists(SENT, min_size=1, max_size=4), st.lists(st.integers(0, 60), max_size=6), st.lists(st.integers(0, 25), max_size=3))
def test_every_file_ends_right_whenever_it_is_killed_and_the_books_balance(
    sent: list[Sent], kills: list[int], later_kills: list[int]
) -> None:
    chunk, files_landing.PROGRESS_CHUNKS = _small_chunks(), 1  # type: ignore[misc]
    try:
        with tempfile.TemporaryDirectory() as root:
            _judge(World(Path(root)), sent, kills, later_kills)
    finally:
        chunk()
        files_landing.PROGRESS_CHUNKS = 10  # type: ignore[misc]


def _small_chunks() -> Callable[[], None]:
    from pipeline.formats.files import rows

    before = rows.CHUNK_ROWS
    rows.CHUNK_ROWS = 4  # type: ignore[misc]

    def undo() -> None:
        rows.CHUNK_ROWS = before  # type: ignore[misc]

    return undo


def _judge(world: World, sent: list[Sent], kills: list[int], later_kills: list[int]) -> None:
    for number, each in enumerate(sent, start=1):
        world.send(number, each)
    world.live(kills)
    first = dict(world.expected)
    _told_right(world, first)
    for number, each in enumerate(sent, start=1):
        world.send_again(number, each)
    world.live(later_kills)
    _told_right(world, world.expected)

    taken = world.office.ledger.files.every(FileStatus.TAKEN)
    landed = {name: told for name, told in first.items() if told[0] == "taken"}
    assert {state.name for state in taken} == set(landed)
    assert sum(state.landed for state in taken) == len(world.log.events) == sum(rows for _, rows, _ in landed.values())
    assert sum(state.rejected for state in taken) == len(world.log.broken) == sum(bad for _, _, bad in landed.values())
    assert all(state.rows_done == state.records == state.landed + state.rejected for state in taken)
    assert world.log.conflicts == 0
    assert world.office.ledger.files.every(FileStatus.LANDING) == ()
    left = {name.removesuffix(".jws").removesuffix(".manifest") for name in world.office.names("incoming")}
    assert not {name for name in left if world.expected.get(name, ("held",))[0] != "held" and name in world.expected}
    assert list(world.office.copies.iterdir()) == []


def _told_right(world: World, expected: dict[str, tuple[str, int, int]]) -> None:
    for name, (outcome, landed, bad) in expected.items():
        told = world.office.ack(name)
        assert told is not None, "every file that is done with is acknowledged"
        assert told["outcome"] == outcome
        if outcome == "taken":
            assert (told["landed"], told["rejected"], len(told["rejects"])) == (landed, bad, bad)
