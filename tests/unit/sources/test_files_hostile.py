"""What a sender may put into its folder to stop it, and does not."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.carriers.folder import FolderCarrier
from pipeline.carriers.protocol import Found
from pipeline.domain.event import Event
from pipeline.domain.files.life import FileReason, FileState, FileStatus
from pipeline.domain.identifiers import Millis
from pipeline.sources.errors import Oversize
from pipeline.sources.files.ack import tells
from pipeline.sources.protocol import Broken, RawMessage, Receipted, Stored
from tests.support.files_desk import Office, run_once
from tests.support.files_in import NAME, census, manifest_of, put

RECORD_BYTES = 1_900_000


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
