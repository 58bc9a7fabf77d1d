"""Files that go out, with a crash at every effect: one content per name, no file lost, each comes to an end.

The desk is the real one; disk, place, ledger and receiver are of the test, and any effect of these may be the last of a process.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.carriers.protocol import Found, Stamp
from pipeline.destinations.files.outgoing import (
    ACK_SUFFIX,
    ACKS,
    OUTGOING,
    PARTS,
    Made,
    NotKept,
    OutDesk,
    Spool,
    read_acknowledgement,
    sent_name,
)
from pipeline.domain.files.outgoing import (
    CLOSED,
    Acknowledged,
    FileOutState,
    OutKind,
    OutReason,
    OutStatus,
    Patience,
    Unreadable,
    file_out_id,
    next_step,
)
from pipeline.domain.identifiers import Millis
from tests.support.examples import examples

PATIENCE: Final = Patience(1_000, 4)
START: Final = Millis(1_767_593_700_000)


class Crash(BaseException):
    """The process died here."""


class World:
    """What outlives a process: its ledger, its disk, the receiver's place; and how many effects it has left."""

    def __init__(self, root: Path) -> None:
        self.ledger: dict[str, FileOutState] = {}
        self.place: dict[str, dict[str, bytes]] = {OUTGOING: {}, ACKS: {}}
        self.disk = root
        self.now = int(START)
        self.left: int | None = None
        self.taken: dict[str, list[str]] = {}
        self.seen: dict[str, set[bytes]] = {}

    def effect(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Crash

    def receiver_looks(self, outcome: str = "taken") -> None:
        """Takes what is there with all its parts, once by name, and acknowledges; what it has taken it acknowledges again."""
        room = self.place[OUTGOING]
        for name in [name for name in room if f"{name}.manifest.jws" in room and f"{name}.manifest" in room]:
            base = name.removesuffix(".age")
            digest = hashlib.sha256(room[name]).hexdigest()
            self.seen.setdefault(base, set()).add(room[name])
            if outcome in ("taken", "refused") and digest not in self.taken.setdefault(base, []):
                self.taken[base].append(digest)
            said = {"file": base, "sha256": digest, "outcome": outcome}
            self.place[ACKS][f"{base}{ACK_SUFFIX}"] = msgspec.json.encode(said)


class Place:
    """The receiver's place."""

    scheme: ClassVar[str] = ""

    def __init__(self, world: World) -> None:
        self._world = world

    def hold(self) -> bool:
        return True

    def let_go(self) -> None:
        return

    def found(self, room: str, begins: str = "") -> Iterator[Found]:
        return iter(())

    def stamp(self, room: str, name: str) -> Stamp | None:
        return None

    @contextmanager
    def open(self, room: str, name: str) -> Iterator[BytesIO]:
        try:
            yield BytesIO(self._world.place[room][name])
        except KeyError:
            raise FileNotFoundError from None

    def put(self, room: str, name: str, content: bytes | Path) -> None:
        self._world.effect()
        self._world.place[room][name] = content if isinstance(content, bytes) else content.read_bytes()

    def move(self, room: str, name: str, to_room: str, to_name: str, stamp: Stamp) -> bool:
        return False

    def remove(self, room: str, name: str) -> None:
        self._world.effect()
        self._world.place[room].pop(name, None)

    def link(self, room: str, name: str, lifetime_s: float) -> str | None:
        return None


class Kept:
    """The ledger. A process may die before a record is there, or before it hears that it is."""

    def __init__(self, world: World) -> None:
        self._world = world

    def files(self) -> list[FileOutState]:
        return list(self._world.ledger.values())

    def keep(self, state: FileOutState) -> None:
        self._world.effect()
        before = self._world.ledger.get(state.file_id)
        assert before is None or before.version < state.version
        assert before is None or (before.sha256, before.name) == (state.sha256, state.name)
        assert before is None or before.status not in CLOSED
        self._world.ledger[state.file_id] = state
        self._world.effect()


class DyingSpool(Spool):
    """The disk."""

    def __init__(self, world: World) -> None:
        super().__init__(world.disk)
        self._world = world

    def put(self, made: Made) -> None:
        self._world.effect()
        super().put(made)
        self._world.effect()

    def drop(self, file_id: str) -> None:
        self._world.effect()
        super().drop(file_id)


def made(slot: int, salt: int) -> Made:
    """A new file; two attempts of one slot have other bytes, as encryption makes them."""
    name = f"capacity-{slot}.csv"
    content = f"{slot} {salt}".encode()
    state = FileOutState(
        tenant="t",
        receiver="r",
        kind=OutKind.CAPACITY,
        file_id=file_out_id("t", "r", name),
        name=name,
        encrypted=True,
        status=OutStatus.MADE,
        slot=slot,
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        records=1,
        key_id="k",
        created_at=Millis(START + slot),
        at=Millis(START + slot),
    )
    return Made(state, {ending: content + ending.encode() if ending else content for ending in PARTS})


def desk(world: World) -> OutDesk:
    found = OutDesk(Place(world), DyingSpool(world), Kept(world), PATIENCE, lambda: Millis(world.now), "0")
    found.begin()
    return found


MOVES: Final = st.lists(
    st.one_of(
        st.tuples(st.just("make"), st.integers(0, 3)),
        st.tuples(st.just("round"), st.integers(0, 12)),
        st.tuples(st.just("wait"), st.integers(1, 5_000)),
        st.tuples(st.just("receiver"), st.sampled_from(["taken", "held", "refused", "nonsense"])),
    ),
    max_size=25,
)


@settings(deadline=None, max_examples=examples(50), suppress_health_check=[HealthCheck.too_slow])
@given(MOVES)
def test_a_crash_at_any_effect_leaves_one_content_per_name_and_a_file_that_ends(moves: list[tuple[str, Any]]) -> None:
    root = Path(tempfile.mkdtemp())
    try:
        world = World(root)
        slots: set[int] = set()
        for salt, (what, how) in enumerate(moves):
            world.left = None
            match what:
                case "make":
                    world.left = salt % 7
                    with crash_allowed():
                        desk(world).add(made(how, salt))
                    slots |= {how}
                case "round":
                    world.left = how
                    with crash_allowed():
                        desk(world).round()
                case "wait":
                    world.now += how
                case _:
                    world.receiver_looks(how)
        _ends(world)
    finally:
        shutil.rmtree(root)


def _ends(world: World) -> None:
    """With no more crashes, and a receiver that takes what is there: every file of the ledger comes to an end, once."""
    world.left = None
    for _ in range(3):
        desk(world).round()
        world.receiver_looks()
        world.now += 1_000_000
    desk(world).round()
    for state in world.ledger.values():
        assert state.status in {OutStatus.TAKEN, OutStatus.REFUSED}, state.status
        assert world.taken[state.name] == [state.sha256], "the receiver got one content under one name"
        assert len(world.seen[state.name]) == 1
    assert world.place[OUTGOING] == {}
    assert list(world.disk.iterdir()) == []


@contextmanager
def crash_allowed() -> Iterator[None]:
    try:
        yield
    except Crash:
        return


def test_a_file_is_sent_again_as_it_was_and_given_up_after_so_many_times(tmp_path: Path) -> None:
    world = World(tmp_path)
    desk(world).add(made(1, 0))
    sent = []
    for _ in range(40):
        sent += [state.sends for state in desk(world).round() if state.sends]
        world.now += 1_000
    (state,) = world.ledger.values()
    assert (state.status, state.why, state.sends) == (OutStatus.OVERDUE, OutReason.NO_ACKNOWLEDGEMENT, 4)
    assert sorted(set(sent)) == [1, 2, 3, 4]
    world.receiver_looks()
    desk(world).round()
    assert next(iter(world.ledger.values())).status is OutStatus.TAKEN, "late is better than never"


def test_a_copy_that_is_lost_is_said_to_be_lost_and_nothing_else_is_sent_under_its_name(tmp_path: Path) -> None:
    world = World(tmp_path)
    desk(world).add(made(1, 0))
    for path in tmp_path.iterdir():
        path.unlink()
    desk(world).round()
    (state,) = world.ledger.values()
    assert (state.status, state.why) == (OutStatus.LOST, OutReason.COPY_LOST)
    desk(world).add(made(1, 7))
    desk(world).round()
    assert world.place[OUTGOING] == {}


def test_an_acknowledgement_of_other_content_settles_nothing_and_is_told(tmp_path: Path) -> None:
    world = World(tmp_path)
    desk(world).add(made(1, 0))
    desk(world).round()
    said = {"file": "capacity-1.csv", "sha256": "0" * 64, "outcome": "taken"}
    world.place[ACKS]["capacity-1.csv.ack.json"] = msgspec.json.encode(said)
    (changed,) = desk(world).round()
    assert (changed.status, changed.why) == (OutStatus.SENT, OutReason.OTHER_CONTENT)
    assert desk(world).round() == [], "told once"


def test_a_refusal_ends_a_file_and_is_told(tmp_path: Path) -> None:
    world = World(tmp_path)
    desk(world).add(made(1, 0))
    desk(world).round()
    world.receiver_looks("refused")
    (changed,) = desk(world).round()
    assert (changed.status, changed.why) == (OutStatus.REFUSED, OutReason.BY_RECEIVER)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b"\xff", b'{"file": "x.csv"}', b'{"file": 1, "sha256": "a", "outcome": "taken"}', b" " * ((1 << 20) + 1)],
)
def test_an_acknowledgement_that_can_t_be_read_is_no_acknowledgement(content: bytes) -> None:
    assert read_acknowledgement(content, "x.csv") == Unreadable()


def test_an_acknowledgement_of_another_file_is_none_of_this_one() -> None:
    said = msgspec.json.encode({"file": "y.csv", "sha256": "a", "outcome": "taken", "more": 1})
    assert read_acknowledgement(said, "x.csv") == Unreadable()
    assert read_acknowledgement(said, "y.csv") == Acknowledged("a", "taken")


def test_what_is_encrypted_is_told_by_its_name() -> None:
    assert sent_name(made(1, 0).state) == "capacity-1.csv.age"


def test_a_step_is_the_same_however_often_it_is_asked(tmp_path: Path) -> None:
    state = made(1, 0).state
    assert next_step(state, None, True, START, PATIENCE) == next_step(state, None, True, START, PATIENCE)


def test_a_ledger_that_can_t_be_written_leaves_the_round_to_be_done_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    desk(world).add(made(1, 0))

    class Away(Kept):
        def keep(self, state: FileOutState) -> None:
            raise NotKept

    with pytest.raises(NotKept):
        OutDesk(Place(world), DyingSpool(world), Away(world), PATIENCE, lambda: Millis(world.now), "0").round()
    _ends(world)
