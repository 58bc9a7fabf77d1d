"""What a sender may put into its folder to stop it, and does not."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pyrage
import pytest

from pipeline.carriers.folder import FolderCarrier
from pipeline.carriers.protocol import Found, NotAllowed
from pipeline.domain.event import Event
from pipeline.domain.files.life import FileReason, Files, FileState, FileStatus
from pipeline.domain.identifiers import Millis
from pipeline.formats.manifest import sign, write_manifest
from pipeline.sources.errors import Oversize
from pipeline.sources.files.ack import tells
from pipeline.sources.files.crypto import decryptor
from pipeline.sources.protocol import Broken, RawMessage, Receipted, Stored
from tests.support.files_desk import Office, kind, run_once
from tests.support.files_in import KEY, KEY_ID, NAME, census, manifest_of, place, put

RECORD_BYTES = 1_900_000
HL7_NAME = "hl7-20260105.hl7"


class Sink:
    """Takes what fits a record of the log, as the real one."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.broken: list[Broken] = []

    async def accept(self, raw: RawMessage, events: Sequence[Event], answer: bytes, broken: Sequence[Broken] = ()) -> Receipted:
        await asyncio.sleep(0)
        if len(raw.body) > RECORD_BYTES:
            raise Oversize(None, len(raw.body), RECORD_BYTES)
        self.events += events
        self.broken += broken
        return Stored(answer)

    def pressure(self) -> float:
        return 0.0


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


@pytest.mark.parametrize("length", [238, 242, 247, 255])
async def test_a_name_with_no_room_for_an_ending_is_refused_and_holds_nothing_up(office: Office, length: int) -> None:
    office.incoming.mkdir(parents=True, exist_ok=True)
    (office.incoming / ("a" * length)).write_bytes(b"x")
    content = census(10)
    put(office.incoming, content, manifest_of(content, NAME))
    sink = Sink()
    await run_once(office, sink)
    assert len(sink.events) == 10, "what comes behind it is taken"
    assert office.names("incoming") == []
    (refused,) = office.ledger.files.every(FileStatus.REFUSED)
    assert refused.why is FileReason.UNKNOWN_NAME


async def test_the_same_long_name_again_and_again_is_put_away_each_time(office: Office) -> None:
    office.incoming.mkdir(parents=True, exist_ok=True)
    for _ in range(3):
        (office.incoming / ("a" * 255)).write_bytes(b"x")
        await run_once(office, Sink())
    assert office.names("incoming") == []
    assert len(office.names("rejected")) == 3


class LongNames(FolderCarrier):
    """A place that knows names which no folder has, as object storage does."""

    def found(self, room: str, begins: str = "") -> Iterator[Found]:
        yield Found("a" * 300, 1, Millis(1), ("tag", 1))
        yield Found("b" * 300 + ".manifest", 1, Millis(1), ("tag", 1))
        yield from super().found(room, begins)


async def test_a_name_that_can_t_be_opened_holds_nothing_up(office: Office) -> None:
    office.carrier = lambda: LongNames(office.root)
    content = census(10)
    put(office.incoming, content, manifest_of(content, NAME))
    sink = Sink()
    await run_once(office, sink)
    assert len(sink.events) == 10


@pytest.mark.parametrize(
    "content",
    [
        b'{"file_id":"\xff"}',
        b'{"x":' + b"[" * 100_000,
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b',"file_id":"a","outcome":"taken"}',
    ],
    ids=["no-utf8", "deep", "deep-and-whole"],
)
def test_whatever_lies_in_place_of_an_acknowledgement_only_says_that_it_is_none(content: bytes) -> None:
    state = FileState(
        tenant="t",
        partner="p",
        file_id="a",
        name=NAME,
        name_digest="d",
        profile="census-snapshot",
        status=FileStatus.TAKEN,
        since=Millis(1),
        at=Millis(1),
        instance="0",
    )
    assert not tells(content, state)


def batch(*padding: int) -> bytes:
    """Messages with a note of so many letters each."""
    messages = [
        f"MSH|^~\\&|EPIC|MAIN|SURGE|MAIN|20260101000000||ADT^A08|{number}|P|2.5.1\rEVN|A08|20260101000000\r"
        f"PID|1||P{number}^^^MAIN^MR||A^B\rPV1|1|I\rNTE|1||{'x' * length}\r"
        for number, length in enumerate(padding)
    ]
    return "".join(messages).encode()


async def test_a_message_too_long_for_a_record_of_the_log_is_quarantined_and_not_the_file(tmp_path: Path) -> None:
    office = Office(tmp_path, kind("hl7-batch", max_rejected=1.0))
    content = batch(10, 3_000_000, 10)
    put(office.incoming, content, manifest_of(content, HL7_NAME, records=3, schema="hl7-batch/1"))
    sink = Sink()
    await run_once(office, sink)
    ack = office.ack(HL7_NAME)
    assert ack is not None
    assert (ack["outcome"], ack["landed"], ack["rejected"]) == ("taken", 2, 1)
    assert [(each.row, len(each.part) < RECORD_BYTES) for each in sink.broken] == [(2, True)]


async def test_a_file_that_another_process_took_while_we_looked_is_not_called_gone(office: Office) -> None:
    content = census(10)
    put(office.incoming, content, manifest_of(content, NAME))
    sink = Sink()
    await run_once(office, sink)
    (taken,) = office.ledger.files.every(FileStatus.TAKEN)
    # Another machine: it has none of our copies, and read the ledger while the file was still being landed.
    stale = Files([msgspec.structs.replace(taken, status=FileStatus.LANDING, version=1)])
    office.copies = tmp_copies = office.root.parent / "elsewhere"
    tmp_copies.mkdir()
    fresh, looks = office.ledger.files, iter([stale])
    office.ledger.files_of = lambda partner: next(looks, fresh)  # type: ignore[method-assign]
    await run_once(office, sink)
    ack = office.ack(NAME)
    assert ack is not None
    assert ack["outcome"] == "taken"
    assert not office.ledger.files.every(FileStatus.REFUSED)


async def test_a_key_of_ours_that_is_missing_is_told_and_its_files_wait(office: Office, tmp_path: Path) -> None:
    identity = pyrage.x25519.Identity.generate()
    office.decrypt = decryptor([tmp_path / "files.key"])
    content = census(10)
    encrypted = pyrage.encrypt(content, [identity.to_public()])
    put(office.incoming, content, manifest_of(content, NAME), data=encrypted)
    (office.incoming / NAME).rename(office.incoming / f"{NAME}.age")
    for ending in (".manifest", ".manifest.jws"):
        (office.incoming / f"{NAME}{ending}").unlink()
    written = write_manifest(manifest_of(content, f"{NAME}.age"))
    place(office.incoming / f"{NAME}.age.manifest", written)
    place(office.incoming / f"{NAME}.age.manifest.jws", sign(written, KEY, KEY_ID))
    desk = office.desk()
    with pytest.raises(NotAllowed):
        await run_once(office, Sink(), desk)
    (tmp_path / "files.key").write_text(str(identity))
    sink = Sink()
    await run_once(office, sink, desk)
    assert len(sink.events) == 10
