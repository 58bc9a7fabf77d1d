"""A sender's folder: what each file becomes, whatever is done to it, and what its sender is told."""

import asyncio
import io
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from joserfc.jwk import OKPKey
from msgspec.structs import replace

from pipeline.domain.event import Bed, EntityType, Environment, Event, sealed
from pipeline.domain.files.life import FileReason, FileStatus
from pipeline.domain.identifiers import Millis
from pipeline.domain.judging.gate import Accept, Position, Suppress, decide
from pipeline.domain.records import DecisionKind
from pipeline.sources.errors import Oversize
from pipeline.sources.files.ack import told_of
from pipeline.sources.protocol import Broken, OtherContent, RawMessage, Receipted, Repeated, Stored, Unavailable
from tests.support.files_desk import Observed, Office, kind, run_once
from tests.support.files_in import HEADER, KEY_ID, NAME, NOW, census, manifest_of, place, put
from tests.support.policies import shipped_policy

SECRET = "Zzyzx-Jane"


class Sink:
    """Keeps what it is given, as the real one: a repeat gets the first answer."""

    def __init__(self) -> None:
        self.receipts: dict[str, tuple[bytes, bytes]] = {}
        self.events: list[Event] = []
        self.broken: list[Broken] = []
        self.raw: list[RawMessage] = []
        self.away = 0
        self.level = 0.0
        self.oversize: set[str] = set()

    async def accept(self, raw: RawMessage, events: Sequence[Event], answer: bytes, broken: Sequence[Broken] = ()) -> Receipted:
        await asyncio.sleep(0)
        if self.away:
            self.away -= 1
            return Unavailable(0.01)
        for item, event in enumerate(events):
            if event.entity_id in self.oversize:
                raise Oversize(item, 10, 5)
        if raw.identity in self.receipts:
            body, first = self.receipts[raw.identity]
            return Repeated(first) if body == raw.body else OtherContent()
        self.receipts[raw.identity] = raw.body, answer
        self.events += events
        self.broken += broken
        self.raw.append(raw)
        return Stored(answer)

    def pressure(self) -> float:
        return self.level


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


@pytest.fixture
def sink() -> Sink:
    return Sink()


def send(office: Office, content: bytes, name: str = NAME, **said: Any) -> None:
    put(office.incoming, content, manifest_of(content, name, **said))


async def told(office: Office, sink: Sink, name: str = NAME) -> tuple[str, str | None]:
    await run_once(office, sink)
    ack = office.ack(name)
    assert ack is not None
    return ack["outcome"], ack["reason"]


# -- taken


async def test_a_true_file_is_taken_row_by_row_and_its_sender_is_told(office: Office, sink: Sink) -> None:
    send(office, census(1_203))
    assert await told(office, sink) == ("taken", None)
    assert len({event.event_id for event in sink.events}) == 1_203
    assert [raw.body.count(b"\n") for raw in sink.raw] == [501, 501, 204]
    assert (office.names("incoming"), office.names("taken")) == ([], [NAME, f"{NAME}.manifest", f"{NAME}.manifest.jws"])
    assert list(office.copies.iterdir()) == [], "no copy is left behind"
    (state,) = office.ledger.files.every(FileStatus.TAKEN)
    assert (state.rows_done, state.landed, state.rejected, state.records) == (1_203, 1_203, 0, 1_203)


async def test_a_broken_row_goes_to_quarantine_with_its_bytes_and_line_and_the_rest_is_landed(office: Office, sink: Sink) -> None:
    send(office, census(1_000, broken=frozenset({7, 900}), canary=SECRET))
    assert await told(office, sink) == ("taken", None)
    assert [(each.row, each.line, each.field) for each in sink.broken] == [(7, 8, "Occupied"), (900, 901, "Occupied")]
    assert sink.broken[0].part == f"MAIN,ICU,7,A,Q,{SECRET}7\r\n".encode()
    assert len(sink.events) == 998
    ack = office.ack(NAME)
    assert ack is not None
    assert (ack["landed"], ack["rejected"]) == (998, 2)
    assert [(each["row"], each["line"], each["column"]) for each in ack["rejects"]] == [
        (7, 8, "Occupied"),
        (900, 901, "Occupied"),
    ]
    assert SECRET not in (office.root / "acks" / f"{NAME}.ack.json").read_text()


async def test_a_row_that_makes_too_large_an_event_is_quarantined_and_not_the_file(office: Office, sink: Sink) -> None:
    sink.oversize.add("ICU/3/A")
    send(office, census(10))
    assert await told(office, sink) == ("taken", None)
    assert [each.row for each in sink.broken] == [3]
    assert len(sink.events) == 9


async def test_nothing_is_acknowledged_while_the_broker_is_away_and_all_is_taken_when_it_is_back(
    office: Office, sink: Sink
) -> None:
    send(office, census(10))
    sink.away = 3
    assert await told(office, sink) == ("taken", None)
    assert office.observed.waited == ["UNAVAILABLE"] * 3


async def test_unread_files_wait_while_the_way_to_the_broker_is_full(office: Office, sink: Sink) -> None:
    send(office, census(10))
    sink.level = 1.0
    working = asyncio.create_task(run_once(office, sink))
    await asyncio.sleep(0.3)
    assert not working.done()
    assert sink.raw == []
    sink.level = 0.0
    await asyncio.wait_for(working, 30)
    assert office.ack(NAME) is not None


async def test_a_ledger_that_can_t_be_written_promises_nothing(office: Office, sink: Sink) -> None:
    send(office, census(10))
    office.ledger.refusing = True
    source, stop = office.source(), asyncio.Event()
    running = asyncio.create_task(source.run(sink, stop))
    async with asyncio.timeout(30):
        while not office.observed.waited:
            await asyncio.sleep(0.01)
    assert (office.ack(NAME), office.names("incoming")[0]) == (None, NAME)
    office.ledger.refusing = False
    async with asyncio.timeout(30):
        while office.ack(NAME) is None:
            await asyncio.sleep(0.01)
    stop.set()
    await running


async def test_rows_are_landed_no_faster_than_is_allowed(office: Office, sink: Sink) -> None:
    """Files are bulk: what they land stands before live events in the same log."""
    office.rows_per_s = 2_000
    send(office, census(1_500))
    begun = asyncio.get_running_loop().time()
    await run_once(office, sink)
    assert asyncio.get_running_loop().time() - begun >= 0.5


# -- not taken, each in its own way


@pytest.mark.parametrize(
    ("said", "content", "reason"),
    [
        ({"records": 9}, census(10), "WRONG_COUNT"),
        ({"sha256": "0" * 64}, census(10), "WRONG_SUM"),
        ({"size": 10}, census(10), "WRONG_SUM"),
        ({"source_system": "someone"}, census(10), "UNKNOWN_SOURCE"),
        ({"schema": "bed-extract/1"}, census(10), "UNKNOWN_SCHEMA"),
        ({"records": 0}, b"neither this nor that", "UNREADABLE"),
        ({"key_id": "k9"}, census(10), "UNKNOWN_KEY"),
    ],
)
async def test_a_file_that_is_not_what_it_says_lands_nothing(
    office: Office, sink: Sink, said: dict[str, Any], content: bytes, reason: str
) -> None:
    send(office, content, **said)
    office.aged()
    office.now = Millis(office.now)
    assert await told(office, sink) == ("refused", reason)
    assert (sink.raw, office.names("incoming")) == ([], [])
    assert NAME in office.names("rejected")


async def test_a_manifest_that_another_key_signed_is_refused_and_speaks_for_no_other_file(office: Office, sink: Sink) -> None:
    content = census(10)
    put(office.incoming, content, manifest_of(content), OKPKey.generate_key("Ed25519"))
    office.aged()
    assert await told(office, sink) == ("refused", "BAD_SIGNATURE")
    (refused,) = office.ledger.files.every(FileStatus.REFUSED)
    assert refused.sha256 == ""


async def test_a_key_that_was_replaced_is_known_without_a_restart(office: Office, sink: Sink) -> None:
    fresh = OKPKey.generate_key("Ed25519")
    office.keys["k2"] = OKPKey.import_key(fresh.as_pem(private=False))
    content = census(10)
    put(office.incoming, content, manifest_of(content, key_id="k2"), fresh)
    assert await told(office, sink) == ("taken", None)


async def test_the_same_file_sent_again_gets_the_same_acknowledgement_and_lands_nothing(office: Office, sink: Sink) -> None:
    send(office, census(100, broken=frozenset({5})))
    await run_once(office, sink)
    first, landed = office.ack(NAME), len(sink.raw)
    send(office, census(100, broken=frozenset({5})))
    await run_once(office, sink)
    assert (office.ack(NAME), len(sink.raw)) == (first, landed)
    assert office.names("incoming") == []
    assert len(office.observed.again) == 1


async def test_the_same_content_under_another_name_is_told_so_and_lands_nothing(office: Office, sink: Sink) -> None:
    send(office, census(10))
    await run_once(office, sink)
    other = "census-20260105-7.csv"
    send(office, census(10), other)
    assert await told(office, sink, other) == ("repeated", "SAME_CONTENT")
    assert len(sink.raw) == 1
    told_of_other = office.ack(other)
    assert told_of_other is not None
    assert told_of_other["same_as"] == office.ledger.files.every(FileStatus.TAKEN)[0].file_id


def beds(cleaning: str) -> bytes:
    """An extract of one bed."""
    return f"Facility;Unit;Room;Bed;Cleaning;Service\r\nMAIN;MED;3;A;{cleaning};\r\n".encode()


def judged(events: Sequence[Event]) -> tuple[Bed, list[DecisionKind]]:
    """The bed as the gate leaves it, and what it said of each event that it did not accept."""
    head, suppressed = None, []
    for offset, event in enumerate(events, start=1):
        at = Position(EntityType.BED, 1, 0, offset, Millis(NOW + 1_000))
        verdict = decide(head, at, event.key.encode(), event, shipped_policy())
        assert isinstance(verdict, Accept | Suppress)
        head = verdict.head
        suppressed += [verdict.decision.kind] if isinstance(verdict, Suppress) else []
    assert head is not None
    assert isinstance(head.state, Bed)
    return head.state, suppressed


QUARTER_MS = 900_000


async def test_a_snapshot_that_finds_a_bed_as_it_was_before_is_taken_and_the_bed_is_so_again(tmp_path: Path, sink: Sink) -> None:
    office = Office(tmp_path, kind("bed-extract"))
    for quarter, cleaning in enumerate(("sauber", "schmutzig", "sauber")):
        name, at = f"beds-20260105T06{quarter * 15:02}.csv", Millis(NOW - QUARTER_MS * (2 - quarter))
        send(office, beds(cleaning), name, schema="bed-extract/1", created_at=at)
        assert await told(office, sink, name) == ("taken", None)
    assert judged(sink.events) == (Bed(environment=Environment.CLEAN), [])
    assert judged([*sink.events, *sink.events]) == (Bed(environment=Environment.CLEAN), [DecisionKind.DUPLICATE] * 3)
    for number, quarter in enumerate((0, 2), start=1):
        name, at = f"beds-20260105-{number}.csv", Millis(NOW - QUARTER_MS * (2 - quarter))
        send(office, beds("sauber"), name, schema="bed-extract/1", created_at=at)
        assert await told(office, sink, name) == ("repeated", "SAME_CONTENT")
    assert len(sink.events) == 3


async def test_a_snapshot_as_before_makes_stale_what_was_said_before_it(tmp_path: Path, sink: Sink) -> None:
    office = Office(tmp_path, kind("bed-extract"))
    for quarter in range(2):
        name, at = f"beds-20260105-{quarter}.csv", Millis(NOW - QUARTER_MS * (1 - quarter))
        send(office, beds("sauber"), name, schema="bed-extract/1", created_at=at)
        assert await told(office, sink, name) == ("taken", None)
    word = replace(sink.events[0], event_id="f" * 32, payload=Bed(environment=Environment.DIRTY), recorded_at=Millis(NOW - 1))
    expected = (Bed(environment=Environment.CLEAN), [DecisionKind.NO_OP, DecisionKind.STALE])
    assert judged([*sink.events, sealed(word)]) == expected


CANONICAL = (
    b'{"facility":"MAIN","source_system":"ehr-main","entity_type":"bed","namespace":"MAIN","entity_id":"ICU/1/A",'
    b'"event_type":"BED_STATUS","recorded_at":"2026-01-05T06:00:00Z","payload":{"environment":"CLEAN"}}\n'
)
HL7 = b"MSH|^~\\&|EHR|MAIN|||20260105060000||ADT^A08|1|P|2.5.1\rEVN|A08|20260105060000\rPID|1||4711^^^MAIN^MR\r"


@pytest.mark.parametrize(
    ("profile", "name", "content"),
    [("canonical-events", "events-20260105-{}.ndjson", CANONICAL), ("hl7-batch", "hl7-20260105-{}.hl7", HL7)],
)
async def test_what_has_times_of_its_own_says_nothing_new_by_another_manifest(
    tmp_path: Path, sink: Sink, profile: str, name: str, content: bytes
) -> None:
    office, schema = Office(tmp_path, kind(profile)), f"{profile}/1"
    send(office, content, name.format(1), records=1, schema=schema, created_at=Millis(NOW - QUARTER_MS))
    assert await told(office, sink, name.format(1)) == ("taken", None)
    send(office, content, name.format(2), records=1, schema=schema)
    assert await told(office, sink, name.format(2)) == ("repeated", "SAME_CONTENT")


async def test_a_name_that_was_taken_stands_for_its_first_moment(office: Office, sink: Sink) -> None:
    send(office, census(10), created_at=Millis(NOW - QUARTER_MS))
    await run_once(office, sink)
    first = office.ack(NAME)
    send(office, census(10))
    await run_once(office, sink)
    assert (office.ack(NAME), len(sink.raw), office.names("incoming")) == (first, 1, [])


async def test_a_file_whose_landing_was_broken_off_is_of_one_moment_when_it_comes_again(office: Office) -> None:
    begun, stop = Millis(NOW - QUARTER_MS), asyncio.Event()
    send(office, census(700), created_at=begun)
    sink = Stopping(stop)
    desk = office.desk()
    assert desk.locked()
    await desk.round(sink, stop)
    desk.unlock()
    for path in (*office.copies.iterdir(), *office.incoming.iterdir()):
        path.unlink()
    assert await told(office, sink) == ("refused", "GONE")
    send(office, census(700))
    assert await told(office, sink) == ("taken", None)
    assert {event.recorded_at for event in sink.events} == {begun}, "the receipts of its first rows keep them from another moment"
    assert len({event.event_id for event in sink.events}) == len(sink.events) == 700


async def test_other_content_under_the_same_name_is_refused(office: Office, sink: Sink) -> None:
    send(office, census(10))
    await run_once(office, sink)
    send(office, census(11))
    assert await told(office, sink) == ("refused", "OTHER_CONTENT")
    assert len(sink.events) == 10


async def test_after_a_refusal_the_right_file_may_come_under_the_same_name(office: Office, sink: Sink) -> None:
    send(office, census(10), records=9)
    assert await told(office, sink) == ("refused", "WRONG_COUNT")
    send(office, census(10))
    assert await told(office, sink) == ("taken", None)
    send(office, census(10), "census-20260106.csv", records=9)
    assert (await told(office, sink, "census-20260106.csv"))[0] == "repeated"
    assert len(office.names("rejected")) == 3


async def test_too_many_broken_rows_hold_the_file_until_it_is_released(office: Office, sink: Sink) -> None:
    from msgspec.structs import replace

    send(office, census(10, broken=frozenset({1, 2})))
    desk = await run_once(office, sink)
    held = office.ack(NAME)
    assert held is not None
    assert (held["outcome"], held["reason"], len(held["rejects"]), sink.raw) == ("held", "TOO_MANY_REJECTS", 2, [])
    await run_once(office, sink, desk)
    (state,) = office.ledger.files.every(FileStatus.HELD)
    office.ledger.files.put(replace(state, released_by="operator:x", version=state.version + 1))
    assert await told(office, sink) == ("taken", None)
    assert (len(sink.events), len(sink.broken)) == (8, 2)


async def test_what_waits_too_long_is_in_the_ledger_until_it_comes(office: Office, sink: Sink) -> None:
    content = census(10)
    place(office.incoming / NAME, content)
    office.aged(by_ms=3_600_000)
    await run_once(office, sink)
    (awaited,) = office.ledger.files.every(FileStatus.AWAITED)
    assert (awaited.why, awaited.name) == (FileReason.NO_MANIFEST, NAME)
    put(office.incoming, content, manifest_of(content, not_after=Millis(office.now + 7_200_000)))
    assert await told(office, sink) == ("taken", None)
    assert office.ledger.files.every(FileStatus.AWAITED) == ()


async def test_new_content_beside_the_manifest_of_what_was_taken_is_refused_and_never_put_away_unread(
    office: Office, sink: Sink
) -> None:
    send(office, census(10))
    await run_once(office, sink)
    put(office.incoming, census(10), manifest_of(census(10)), data=census(10, first=700))
    assert await told(office, sink) == ("refused", "WRONG_SUM")
    assert len(office.names("rejected")) == 3
    assert [state.name for state in office.ledger.files.every(FileStatus.TAKEN)] == [NAME], "what was taken stays taken"
    assert list(office.copies.iterdir()) == []


async def test_what_its_sender_puts_in_its_place_while_it_is_landed_is_judged_by_itself(office: Office) -> None:
    send(office, census(700))

    class Replacing(Sink):
        async def accept(
            self, raw: RawMessage, events: Sequence[Event], answer: bytes, broken: Sequence[Broken] = ()
        ) -> Receipted:
            if not self.raw:
                send(office, census(20, first=5_000))
            return await super().accept(raw, events, answer, broken)

    sink = Replacing()
    await run_once(office, sink)
    assert (office.ack(NAME) or {}).get("outcome") == "taken"
    assert NAME in office.names("incoming"), "nobody has read it yet"
    assert await told(office, sink) == ("refused", "OTHER_CONTENT")
    assert len(sink.events) == 700


# -- a hostile or clumsy sender


async def test_a_link_out_of_the_folder_is_never_followed(office: Office, sink: Sink, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_bytes(census(10))
    put(office.incoming, b"", manifest_of(census(10)))
    (office.incoming / NAME).unlink()
    (office.incoming / NAME).symlink_to(secret)
    assert await told(office, sink) == ("refused", "NOT_A_FILE")
    assert (sink.raw, secret.exists()) == ([], True)
    assert (office.root / "rejected" / NAME).is_symlink()


@pytest.mark.parametrize("what", ["hard link", "folder", "pipe"])
async def test_what_is_no_plain_file_is_put_aside_and_holds_nothing_up(
    office: Office, sink: Sink, tmp_path: Path, what: str
) -> None:
    target = office.incoming / NAME
    if what == "hard link":
        (tmp_path / "secret.csv").write_bytes(census(10))
        os.link(tmp_path / "secret.csv", target)
    elif what == "folder":
        target.mkdir()
    else:
        os.mkfifo(target)
    send(office, census(10), "census-20260106.csv")
    assert await asyncio.wait_for(told(office, sink), 30) == ("refused", "NOT_A_FILE")
    assert office.ack("census-20260106.csv") is not None


async def test_a_manifest_that_is_a_link_or_a_pipe_says_nothing(office: Office, sink: Sink, tmp_path: Path) -> None:
    send(office, census(10))
    (office.incoming / f"{NAME}.manifest").rename(tmp_path / "m")
    (office.incoming / f"{NAME}.manifest").symlink_to(tmp_path / "m")
    os.mkfifo(office.incoming / "census-20260107.csv.manifest")
    office.aged()
    assert await asyncio.wait_for(told(office, sink), 30) == ("refused", "BAD_MANIFEST")


@pytest.mark.parametrize("folder", ["incoming", "acks", "rejected"])
async def test_a_folder_that_was_replaced_by_a_link_stops_the_sender_and_writes_nowhere_else(
    office: Office, sink: Sink, tmp_path: Path, folder: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    send(office, census(10), records=9)
    if folder == "incoming":
        shutil.move(office.incoming, tmp_path / "away")
    (office.root / folder).symlink_to(elsewhere)
    source, stop = office.source(), asyncio.Event()
    running = asyncio.create_task(source.run(sink, stop))
    async with asyncio.timeout(30):
        while not office.observed.faults:
            await asyncio.sleep(0.01)
    stop.set()
    await running
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [f"{SECRET}.csv", f"census-{SECRET}.csv", "=cmd|' C calc'!A0.csv", "..csv", "-rf", "a\nb.csv", "\udcff.csv", "x" * 200],
)
async def test_a_name_that_was_not_agreed_is_refused_and_nowhere_repeated(office: Office, sink: Sink, name: str) -> None:
    send_under = office.incoming / name
    send_under.write_bytes(census(1))
    if name == "..csv":
        await run_once(office, sink)
        assert office.names("acks") == [], "a hidden file is somebody's own"
        return
    await run_once(office, sink)
    (state,) = office.ledger.files.every(FileStatus.REFUSED)
    assert (state.why, state.name) == (FileReason.UNKNOWN_NAME, "")
    assert office.names("acks") == [f"unknown-{state.name_digest}.ack.json"]
    text = (office.root / "acks" / office.names("acks")[0]).read_text()
    assert SECRET not in text
    assert SECRET not in repr(state)
    assert not send_under.exists()


@pytest.mark.parametrize(
    "name", [".census-20260105.csv", "census-20260105.csv.part", "census-20260105.csv.filepart", "~x", "a.TMP"]
)
async def test_what_is_still_being_written_is_left_alone(office: Office, sink: Sink, name: str) -> None:
    (office.incoming / name).write_bytes(b"x")
    await run_once(office, sink)
    assert ((office.incoming / name).exists(), office.ledger.kept) == (True, [])


async def test_a_file_that_is_replaced_while_it_is_read_changes_nothing_of_what_was_checked(office: Office, sink: Sink) -> None:
    content = census(2_000)
    send(office, content)

    class Replacing(Sink):
        async def accept(
            self, raw: RawMessage, events: Sequence[Event], answer: bytes, broken: Sequence[Broken] = ()
        ) -> Receipted:
            with (office.incoming / NAME).open("r+b") as same:
                same.write(b"x" * 100_000)
            return await super().accept(raw, events, answer, broken)

    assert await told(office, replacing := Replacing()) == ("taken", None)
    assert b"".join(raw.body.removeprefix(HEADER) for raw in replacing.raw) == content.removeprefix(HEADER)


async def test_a_file_that_is_taken_away_is_no_fault(office: Office, sink: Sink) -> None:
    send(office, census(10))
    (office.incoming / NAME).unlink()
    await run_once(office, sink)
    assert office.observed.settled_as == []


async def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path, sink: Sink) -> None:
    office = Office(tmp_path, kind("census-snapshot", max_bytes=1_000))
    with (office.incoming / NAME).open("wb") as sparse:
        sparse.truncate(10 << 30)
    content = census(1)
    shutil.move(office.incoming / NAME, tmp_path / "large")
    put(office.incoming, content, manifest_of(content, size=10 << 30))
    shutil.move(tmp_path / "large", office.incoming / NAME)
    assert await told(office, sink) == ("refused", "TOO_LARGE")


# -- several processes, and an end


async def test_of_two_processes_one_serves_a_folder_and_the_other_follows_when_it_is_gone(office: Office) -> None:
    first, second = office.desk("0"), office.desk("1")
    assert first.locked()
    assert not second.locked()
    first.unlock()
    assert second.locked()


async def test_two_processes_without_a_lock_between_them_land_no_row_twice(tmp_path: Path, sink: Sink) -> None:
    """As on a file system that has no locks: the receipts, and after them the ids, make one of the two."""
    office = Office(tmp_path)
    send(office, census(1_700))
    one, two = office.desk("0"), office.desk("1")
    one._folder.lock()
    two._folder._lock = 0
    two._folder._copies = tmp_path / "other"  # type: ignore[misc]
    (tmp_path / "other").mkdir()
    stop = asyncio.Event()
    await asyncio.gather(one.round(sink, stop), two.round(sink, stop), return_exceptions=True)
    two._folder._lock = None
    assert len({event.event_id for event in sink.events}) == len(sink.events) == 1_700


class Stopping(Sink):
    """Asks for an end with the first chunk that it is given."""

    def __init__(self, stop: asyncio.Event) -> None:
        super().__init__()
        self.stop = stop

    async def accept(self, raw: RawMessage, events: Sequence[Event], answer: bytes, broken: Sequence[Broken] = ()) -> Receipted:
        self.stop.set()
        return await super().accept(raw, events, answer, broken)


async def test_asked_to_stop_it_ends_after_the_chunk_in_hand_and_goes_on_at_the_next_start(office: Office) -> None:
    send(office, census(2_000))
    stop = asyncio.Event()
    sink = Stopping(stop)
    desk = office.desk()
    assert desk.locked()
    await desk.round(sink, stop)
    desk.unlock()
    assert (len(sink.raw), office.ack(NAME)) == (1, None)
    (state,) = office.ledger.files.every(FileStatus.LANDING)
    assert state.rows_done == 500
    await run_once(office, sink)
    assert len(sink.raw) == 4
    assert office.ack(NAME) is not None


async def test_a_file_that_its_sender_replaced_while_we_were_down_is_finished_from_our_copy(office: Office) -> None:
    send(office, census(1_200))
    stop = asyncio.Event()
    sink = Stopping(stop)
    desk = office.desk()
    assert desk.locked()
    await desk.round(sink, stop)
    desk.unlock()
    (state,) = office.ledger.files.every(FileStatus.LANDING)
    send(office, census(5, first=9_000))
    await run_once(office, sink)
    assert office.ledger.files.get(state.file_id).status is FileStatus.TAKEN  # type: ignore[union-attr]
    assert len(sink.events) == 1_200
    assert office.ledger.files.every(FileStatus.REFUSED)[0].why is FileReason.OTHER_CONTENT


async def test_a_fault_in_one_sender_s_folder_holds_up_no_other(tmp_path: Path, sink: Sink) -> None:
    from pipeline.sources.files.watch import FilesSource

    good, bad, observed = Office(tmp_path / "a"), Office(tmp_path / "b"), Observed()
    shutil.rmtree(bad.root)
    send(good, census(10))
    source, stop = FilesSource([bad.desk(), good.desk()], observed, poll_s=0.02), asyncio.Event()
    running = asyncio.create_task(source.run(sink, stop))
    async with asyncio.timeout(30):
        while good.ack(NAME) is None or not observed.faults:
            await asyncio.sleep(0.01)
    stop.set()
    await running


@pytest.mark.parametrize("column", ["=1+1", "+1", "-1", "@x", "\tx", "\nx", "＝1", "Unit;=1+1"])
def test_no_spreadsheet_takes_what_we_write_for_a_formula(column: str) -> None:
    """The names of columns are the sender's words."""
    entry = SimpleNamespace(number=1, line=2)
    bad = SimpleNamespace(field=column, rule="a rule", remedy="a remedy")
    reader: Any = SimpleNamespace(entries=lambda data: [entry], check=lambda entry, origin: bad)
    origin: Any = None
    (reject,) = told_of(reader, io.BytesIO(), origin).rejects
    assert reject.column != column
    assert reject.column.replace("'", "") == column


async def test_what_is_signed_with_a_key_past_its_time_is_refused_and_what_came_before_counts(tmp_path: Path) -> None:
    office, other = Office(tmp_path / "a"), Office(tmp_path / "b")
    for each in (office, other):
        put(each.incoming, census(3), manifest_of(census(3)))
        each.aged()
    came = max(os.lstat(path).st_ctime_ns // 1_000_000 for path in office.incoming.iterdir())
    office.valid_until, other.valid_until = {KEY_ID: Millis(came + 5_000)}, {KEY_ID: Millis(came - 60_000)}
    sink = Sink()
    await run_once(office, sink)
    await run_once(other, sink)
    kept, refused = office.ack(NAME), other.ack(NAME)
    assert kept is not None
    assert refused is not None
    assert kept["outcome"] == "taken", "its signature came in time, though we looked later"
    assert (refused["outcome"], refused["reason"], refused["field"]) == ("refused", "KEY_EXPIRED", "key_id")


async def test_resources_of_a_server_are_landed_row_by_row_and_a_broken_one_is_kept_with_its_remedy(
    tmp_path: Path, sink: Sink
) -> None:
    office, name = Office(tmp_path, kind("fhir-resources")), "fhir-20260105.ndjson"
    bed = {"resourceType": "Location", "status": "active", "mode": "instance"}
    bed |= {"identifier": [{"system": "https://surgeline.dev/fhir/id/north/bed", "value": "MAIN/ICU/1/A"}]}
    nobody = {"resourceType": "Patient", "identifier": [], "name": [{"family": SECRET}]}
    content = msgspec.json.encode(bed) + b"\n" + msgspec.json.encode(nobody) + b"\n"
    send(office, content, name, records=2, schema="fhir-resources/1")
    assert (await told(office, sink, name))[0] == "held", "half of it is broken"
    (held,) = office.ledger.files.every(FileStatus.HELD)
    office.ledger.files.put(replace(held, released_by="somebody", version=held.version + 1))
    await run_once(office, sink)
    ack = office.ack(name)
    assert ack is not None
    assert (ack["outcome"], [event.entity_id for event in sink.events]) == ("taken", ["ICU/1/A"])
    (broken,) = sink.broken
    assert (broken.field, broken.row, broken.line) == ("Patient.identifier", 2, 2)
    assert {raw.content_type for raw in sink.raw} == {"application/fhir+ndjson"}
    assert SECRET not in str(ack) + repr(broken)
    send(office, content, "fhir-20260106.ndjson", records=2, schema="fhir-resources/1")
    assert (await told(office, sink, "fhir-20260106.ndjson"))[0] == "repeated"
