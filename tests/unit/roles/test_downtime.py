"""Boards for downtime: encrypted, whole, the newest kept; they grow old in plain sight and nobody's fault stops another's."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import pyrage
import pytest
from joserfc.jwk import OKPKey

from pipeline import topology
from pipeline.carriers.folder import FolderCarrier
from pipeline.destinations.files.boards import Board, BoardShelf, room_of
from pipeline.destinations.files.crypto import BadRecipients, encryptor
from pipeline.domain.event import Bed, BedOccupancy, Environment, Occupancy, Service, ServiceStatus
from pipeline.domain.head import Head, encode_head
from pipeline.domain.identifiers import EntityKey, EventId, Millis, Revision
from pipeline.domain.ring import EMPTY_RING
from pipeline.domain.ward.census import Unit
from pipeline.domain.ward.lines import UnitBoard
from pipeline.formats.boards.page import Stamp, render_html
from pipeline.formats.boards.signature import Signed, read_signature
from pipeline.formats.rfc3339 import MAX_TIME_MS
from pipeline.kafka.client import KafkaUnavailable, Message
from pipeline.roles.downtime import role as downtime
from pipeline.roles.downtime import state as downtime_state
from pipeline.roles.downtime.role import workstations_of
from pipeline.roles.downtime.state import Standing
from pipeline.roles.process import Process, Refused
from pipeline.settings.model import Settings
from pipeline.settings.reading import SettingsError, load
from pipeline.settings.rules.check import check

MADE: Final = Millis(1_767_593_700_000)
"""2026-01-05T06:15:00Z."""
ICU: Final = Unit("default", "MAIN", "ICU")


@pytest.fixture(autouse=True)
def desk_is_mounted(tmp_path: Path) -> None:
    """A place that is not there is not made: it would hide that nothing is mounted."""
    (tmp_path / "desk").mkdir()


@pytest.fixture
def key() -> Any:
    return pyrage.x25519.Identity.generate()


@pytest.fixture
def recipients(key: Any, tmp_path: Path) -> Path:
    path = tmp_path / "desk.recipients"
    path.write_text(f"# the desk\n{key.to_public()}\n")
    return path


def board(minute: int, text: bytes = b"who lies where") -> Board:
    return Board("ICU", Millis(MADE + minute * 60_000), {"html": text, "csv": text})


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# -- the shelf


def test_a_board_lies_there_encrypted_to_the_workstation_and_to_nobody_else(key: Any, recipients: Path, tmp_path: Path) -> None:
    BoardShelf(FolderCarrier(tmp_path / "desk"), encryptor(recipients), 8).put(board(0))
    assert names(tmp_path / "desk") == ["ICU/ICU-20260105T061500Z.csv.age", "ICU/ICU-20260105T061500Z.html.age"]
    for path in (tmp_path / "desk/ICU").iterdir():
        assert b"who lies" not in path.read_bytes()
        assert pyrage.decrypt(path.read_bytes(), [key]) == b"who lies where"
        with pytest.raises(pyrage.DecryptError):
            pyrage.decrypt(path.read_bytes(), [pyrage.x25519.Identity.generate()])


def test_only_the_newest_boards_stay_and_foreign_files_are_left_alone(recipients: Path, tmp_path: Path) -> None:
    shelf = BoardShelf(FolderCarrier(tmp_path / "desk"), encryptor(recipients), 2)
    (tmp_path / "desk/ICU").mkdir()
    for name in ("notes.txt", "ICU-readme.html", "ICU-20250101T000000Z.html.age.bak"):
        (tmp_path / "desk/ICU" / name).write_text("mine")
    for minute in range(4):
        shelf.put(board(minute))
    kept = [name for name in names(tmp_path / "desk") if name.endswith(".html.age")]
    assert kept == ["ICU/ICU-20260105T061700Z.html.age", "ICU/ICU-20260105T061800Z.html.age"]
    assert len(names(tmp_path / "desk")) == 2 * 2 + 3


def test_boards_that_a_demo_left_in_clear_go_once_they_are_encrypted(recipients: Path, tmp_path: Path) -> None:
    carrier = FolderCarrier(tmp_path / "desk")
    BoardShelf(carrier, None, 8).put(board(0))
    assert names(tmp_path / "desk")[0] == "ICU/ICU-20260105T061500Z.csv"
    BoardShelf(carrier, encryptor(recipients), 8).put(board(1))
    assert all(name.endswith(".age") for name in names(tmp_path / "desk"))


def test_each_board_is_signed_before_it_is_there_and_the_signature_goes_with_it(recipients: Path, tmp_path: Path) -> None:
    signer, desk = OKPKey.generate_key("Ed25519"), tmp_path / "desk"
    (tmp_path / "boards.key").write_bytes(signer.as_pem(private=True))
    sign = downtime.signer_of(tmp_path / "boards.key", "boards")
    carrier = FolderCarrier(desk)
    BoardShelf(carrier, encryptor(recipients), 2).put(board(0))
    shelf = BoardShelf(carrier, encryptor(recipients), 2, sign)
    (desk / "ICU/ICU-20250101T000000Z.csv.age.jws").write_text("of a board that is gone")
    for minute in range(1, 4):
        shelf.put(board(minute))
    kept = names(desk)
    assert len(kept) == 2 * 2 * 2
    public = {"boards": OKPKey.import_key(signer.as_pem(private=False))}
    for name in (name for name in kept if name.endswith(".age")):
        path = desk / name
        found = read_signature(path.name, path.read_bytes(), path.with_name(f"{path.name}.jws").read_bytes(), public)
        assert isinstance(found, Signed)


def test_a_key_that_signs_nothing_is_refused_at_start(tmp_path: Path, recipients: Path) -> None:
    wrong = tmp_path / "boards.key"
    for content in (b"", b"no key", OKPKey.generate_key("Ed25519").as_pem(private=False), OKPKey.generate_key("X25519").as_pem()):
        wrong.write_bytes(content)
        with pytest.raises(Refused, match="openssl genpkey"):
            downtime.signer_of(wrong, "boards")
        made = settings(tmp_path, recipients)
        section = made.downtime.model_copy(update={"key_file": wrong})
        found = check(made.model_copy(update={"downtime": section}), "downtime")
        assert "downtime.key_file" in [problem.setting for problem in found]


def test_nothing_is_written_for_nobody(tmp_path: Path) -> None:
    for text in ("", "# nobody\n", "age1nonsense\n", "AGE-SECRET-KEY-1\n"):
        path = tmp_path / "recipients"
        path.write_text(text)
        with pytest.raises(BadRecipients):
            BoardShelf(FolderCarrier(tmp_path / "desk"), encryptor(path), 8).put(board(0))
    with pytest.raises(BadRecipients):
        encryptor(tmp_path / "none")(b"")
    assert names(tmp_path / "desk") == []


@pytest.mark.parametrize("unit", ["../x", "a/b", ".", "..", "4 West", "Über", "%2F", ".hidden"])
def test_a_unit_s_code_can_lead_nowhere_else(unit: str, tmp_path: Path) -> None:
    assert "/" not in room_of(unit)
    assert not room_of(unit).startswith(".")
    content = {"html": b"", "csv": b""}
    BoardShelf(FolderCarrier(tmp_path / "desk"), None, 8).put(Board(unit, MADE, content))
    assert len(names(tmp_path / "desk")) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["desk"]


def test_units_of_different_codes_have_different_folders() -> None:
    assert len({room_of(unit) for unit in ("a/b", "a%2Fb", ".a", "%2Ea", "A B", "A%20B")}) == 6


# -- up to when everything is known


class FakeTopics:
    """Ends and commits that a test sets; `down` answers nothing."""

    def __init__(self) -> None:
        self.landed, self.judged, self.table, self.down = 5, 5, 2, False

    def begin(self, topic: str) -> Mapping[int, int]:
        return {0: 0}

    def end(self, topic: str) -> Mapping[int, int]:
        self._ask()
        return {0: self.table if topic == topology.GATE_CHANGELOG else self.landed}

    def committed(self, group: str) -> Mapping[tuple[str, int], int]:
        self._ask()
        return {(topic, 0): self.judged for topic in topology.LANDING.values()}

    def read(self, topic: str, start: Mapping[int, int], end: Mapping[int, int]) -> Iterator[Message]:
        return iter(())

    def _ask(self) -> None:
        if self.down:
            raise KafkaUnavailable("away")


class FakeFollower:
    """Has read everything; a test hands the records over itself."""

    begun: Final[list[Any]] = []

    def __init__(self, kafka: object, topics: object, callback: object) -> None:
        self.caught_up, self.ended = threading.Event(), threading.Event()
        self.caught_up.set()
        self.begun.append(self)

    def start(self) -> "FakeFollower":
        return self

    def stop(self, timeout_s: float = 0) -> None:
        self.ended.set()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    at = [MADE]
    FakeFollower.begun.clear()
    monkeypatch.setattr(downtime_state, "now_ms", lambda: Millis(at[0]))
    monkeypatch.setattr(downtime_state, "Follower", FakeFollower)
    return at


def record(offset: int, state: Bed | None = None, value: bytes | None = None) -> Message:
    key = EntityKey("default", "bed", "MAIN", "ICU/4/A").encode()
    head = Head(1, offset, Revision(1), "", "MAIN", state or Bed(), {}, EMPTY_RING, EventId("0" * 32), "", MADE, MADE)
    return Message(topology.GATE_CHANGELOG, 0, offset, MADE, key, value if value is not None else encode_head(head))


def standing(topics: FakeTopics) -> Standing:
    return Standing(Settings().kafka, topics)


def test_a_board_is_complete_up_to_the_moment_that_was_asked_about_not_the_moment_of_the_answer(clock: list[int]) -> None:
    topics = FakeTopics()
    known = standing(topics)
    topics.judged = 4
    known.look()
    clock[0] += 60_000
    assert known.as_of is None
    topics.judged, topics.landed = 5, 9
    known.look()
    assert known.as_of is None, "the table is not read yet"
    for offset in range(2):
        known.apply(record(offset))
    clock[0] += 60_000
    known.look()
    assert known.as_of == MADE


def test_a_gate_that_stands_still_makes_boards_old_though_the_broker_answers(clock: list[int]) -> None:
    topics = FakeTopics()
    topics.table = 0
    known = standing(topics)
    known.look()
    assert known.as_of == MADE
    topics.landed = 6
    for _ in range(5):
        clock[0] += 60_000
        known.look()
    assert known.as_of == MADE


def test_a_broker_that_is_away_leaves_the_last_state_and_its_age(clock: list[int]) -> None:
    topics = FakeTopics()
    known = standing(topics)
    known.look()
    for offset in range(2):
        known.apply(record(offset, Bed(occupancy=BedOccupancy(Occupancy.VACANT), environment=Environment.CLEAN)))
    known.look()
    topics.down = True
    for _ in range(3):
        clock[0] += 900_000
        known.look()
    assert known.as_of == MADE
    assert len(known.boards([ICU], Millis(clock[0]))[ICU].beds) == 1


def test_following_begins_again_where_it_ended_and_keeps_what_is_known_meanwhile(clock: list[int]) -> None:
    topics = FakeTopics()
    known = standing(topics)
    known.look()
    for offset in range(2):
        known.apply(record(offset))
    FakeFollower.begun[0].ended.set()
    known.look()
    assert len(FakeFollower.begun) == 2
    assert len(known.boards([ICU], MADE)[ICU].beds) == 1
    clock[0] += 60_000
    known.look()
    assert known.as_of is None, "what was read before the new start does not count"


def test_a_head_of_a_later_version_keeps_a_board_from_looking_complete(clock: list[int]) -> None:
    known = standing(FakeTopics())
    known.look()
    known.apply(record(0, value=b"\xff"))
    known.apply(record(1, value=b"\x01broken"))
    known.look()
    assert known.as_of is None
    assert known.unreadable == 2


def test_the_table_s_own_records_are_passed_over(clock: list[int]) -> None:
    known = standing(FakeTopics())
    for key in (b"\x00policy", b"not a key", None):
        known.apply(Message(topology.GATE_CHANGELOG, 0, 0, MADE, key, b"\x01"))
    assert known.units() == frozenset()


# -- workstations


def settings(tmp_path: Path, recipients: Path | None, **more: Any) -> Settings:
    section = {"folder": str(tmp_path / "desk"), "facility": "MAIN", "units": ["ICU"], "time_zone": "Europe/Berlin"}
    if recipients is not None:
        section["recipients_file"] = str(recipients)
    return Settings.model_validate({"downtime": {"every_s": 900, "workstations": {"desk": section | more}}})


def test_a_workstation_gets_each_round_once_on_the_quarter_hour(recipients: Path, tmp_path: Path, clock: list[int]) -> None:
    (desk,) = workstations_of(settings(tmp_path, recipients))
    known = standing(FakeTopics())
    known.look()
    assert desk.is_due(MADE)
    desk.write(known, MADE)
    assert not desk.is_due(Millis(MADE + 899_000))
    assert desk.is_due(Millis(MADE + 900_000))
    assert len(names(tmp_path / "desk")) == 2


def test_boards_go_on_while_everything_is_down_and_say_so(key: Any, recipients: Path, tmp_path: Path, clock: list[int]) -> None:
    (desk,) = workstations_of(settings(tmp_path, recipients))
    topics = FakeTopics()
    topics.table = 0
    known = standing(topics)
    known.look()
    topics.down = True
    later = Millis(MADE + 2 * 3_600_000)
    clock[0] = later
    known.look()
    desk.write(known, later)
    (page,) = [path for path in (tmp_path / "desk/ICU").iterdir() if "html" in path.name]
    text = pyrage.decrypt(page.read_bytes(), [key]).decode()
    assert "OLD: nothing was heard for 2 h 00 min" in text


def test_a_place_that_can_t_be_written_is_tried_again_soon_and_holds_no_other_up(
    recipients: Path, tmp_path: Path, clock: list[int]
) -> None:
    blocked = tmp_path / "desk"
    blocked.rmdir()
    (desk,) = workstations_of(settings(tmp_path, recipients))
    known = standing(FakeTopics())
    desk.write(known, MADE)
    assert desk.written_at is None
    assert not desk.is_due(Millis(MADE + 1_000))
    assert desk.is_due(Millis(MADE + round(downtime.RETRY_S * 1000)))
    blocked.mkdir()
    desk.write(known, MADE)
    assert desk.written_at == MADE


def test_recipients_that_are_broken_are_told_and_taken_again_once_they_are_right(
    key: Any, recipients: Path, tmp_path: Path, clock: list[int]
) -> None:
    (desk,) = workstations_of(settings(tmp_path, recipients))
    recipients.write_text("oops\n")
    desk.write(standing(FakeTopics()), MADE)
    assert names(tmp_path / "desk") == []
    recipients.write_text(f"{key.to_public()}\n")
    desk.write(standing(FakeTopics()), MADE)
    assert len(names(tmp_path / "desk")) == 2


Told = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    said: Told = []
    monkeypatch.setattr(downtime, "emit", lambda line, **fields: said.append((line.name, fields)))
    return said


def test_a_bed_that_is_blocked_without_end_is_on_its_board(
    recipients: Path, tmp_path: Path, clock: list[int], told: Told
) -> None:
    (desk,) = workstations_of(settings(tmp_path, recipients))
    known = standing(FakeTopics())
    known.apply(record(0, Bed(service=Service(ServiceStatus.BLOCKED, "leak", Millis(MAX_TIME_MS)))))
    desk.write(known, MADE)
    assert len(names(tmp_path / "desk")) == 2
    assert told == [("boards.written", {"source": "desk", "count": 1})]


def test_a_unit_whose_board_can_t_be_made_holds_up_no_other_unit(
    recipients: Path, tmp_path: Path, clock: list[int], told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def render(board: UnitBoard, stamp: Stamp) -> bytes:
        if board.unit == "ICU":
            raise RuntimeError("who lies where")
        return render_html(board, stamp)

    monkeypatch.setattr(downtime, "render_html", render)
    (desk,) = workstations_of(settings(tmp_path, recipients, units=["ICU", "MED"]))
    known, again = standing(FakeTopics()), Millis(MADE + round(downtime.RETRY_S * 1000))
    desk.write(known, MADE)
    assert {name.partition("/")[0] for name in names(tmp_path / "desk")} == {"MED"}
    ((line, fields),) = told
    assert (line, fields["source"], desk.written_at) == ("boards.not_written", "desk", None)
    assert fields["reason"].startswith("FAULT:RuntimeError:pipeline.roles.downtime.role:"), "its type and place, not its text"
    assert (desk.is_due(MADE), desk.is_due(again)) == (False, True)
    monkeypatch.setattr(downtime, "render_html", render_html)
    desk.write(known, again)
    assert len(names(tmp_path / "desk")) == 2 * 2, "the other unit got one board in this round"
    assert (desk.written_at, desk.is_due(again)) == (again, False)


async def test_a_fault_at_one_workstation_ends_neither_the_role_nor_the_boards_of_another(
    recipients: Path, tmp_path: Path, clock: list[int], told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    boards = Standing.boards

    def failing(known: Standing, units: list[Unit], now: Millis) -> dict[Unit, UnitBoard]:
        if units[0].code == "ICU":
            raise ValueError("who lies where")
        return boards(known, units, now)

    topics = FakeTopics()
    topics.table = 0
    monkeypatch.setattr(Standing, "boards", failing)
    monkeypatch.setattr(downtime, "Standing", lambda kafka: standing(topics))
    monkeypatch.setattr(downtime, "TURN_S", 0.01)
    (tmp_path / "other").mkdir()
    section = {"facility": "MAIN", "recipients_file": str(recipients), "time_zone": "UTC"}
    units = {"desk": "ICU", "other": "MED"}
    places = {name: section | {"folder": str(tmp_path / name), "units": [unit]} for name, unit in units.items()}
    process = SimpleNamespace(settings=Settings.model_validate({"downtime": {"workstations": places}}))
    role, stop = downtime.DowntimeRole(cast(Process, process)), asyncio.Event()
    running = asyncio.create_task(role.run(stop))
    async with asyncio.timeout(30):
        while not names(tmp_path / "other"):
            assert not running.done()
            await asyncio.sleep(0.01)
    stop.set()
    await running
    assert names(tmp_path / "desk") == []
    assert [fields["reason"].rpartition(":")[0] for line, fields in told if line == "boards.not_written"] == [
        "FAULT:ValueError:pipeline.roles.downtime.role"
    ]


def test_a_board_in_clear_is_refused_outside_of_a_demo(tmp_path: Path, recipients: Path) -> None:
    found = [problem.setting for problem in check(settings(tmp_path, None), "downtime")]
    assert "downtime.workstations.desk.recipients_file" in found
    demo = settings(tmp_path, None).model_copy(update={"demo": True})
    assert [problem for problem in check(demo, "downtime") if problem.setting.startswith("downtime")] == []


def test_two_workstations_never_share_a_folder(tmp_path: Path, recipients: Path) -> None:
    one = {"folder": str(tmp_path / "desk"), "facility": "MAIN", "units": ["ICU"], "recipients_file": str(recipients)}
    both = {"a": one, "b": one | {"folder": str(tmp_path / "desk/inner")}}
    found = check(Settings.model_validate({"downtime": {"workstations": both}}), "downtime")
    assert "downtime.workstations.b.folder" in [problem.setting for problem in found]


@pytest.mark.parametrize("wrong", [{"time_zone": "Nowhere/Here"}, {"units": []}, {"units": ["a\nb"]}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="validation error"):
        settings(tmp_path, None, **wrong)


def test_the_role_without_a_workstation_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("demo: true\n")
    with pytest.raises(SettingsError, match=r"downtime\.workstations"):
        load(path, role="downtime")


async def test_the_state_is_followed_until_it_is_told_to_stop(clock: list[int]) -> None:
    known, stop = standing(FakeTopics()), asyncio.Event()
    running = asyncio.create_task(known.run(stop))
    async with asyncio.timeout(30):
        while not known.is_whole:
            await asyncio.sleep(0.01)
        stop.set()
        await running


def test_a_board_s_file_is_nobody_else_s_to_read(recipients: Path, tmp_path: Path) -> None:
    BoardShelf(FolderCarrier(tmp_path / "desk"), encryptor(recipients), 8).put(board(0))
    files = list((tmp_path / "desk/ICU").iterdir())
    assert len(files) == 2, "nothing unfinished is left"
    assert [path.stat().st_mode & 0o137 for path in files] == [0, 0], "at most its owner writes and its group reads it"
