"""What `surgeline bench mllp` sends, what it counts as acknowledged, and when a goal is reached."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from pipeline.domain.identifiers import Millis
from pipeline.formats.hl7v2.framing import END, START, frame
from pipeline.formats.hl7v2.mapping import map_bytes
from pipeline.formats.hl7v2.verdict import Mapped
from pipeline.local.bench.mllp.load import MESSAGE_BYTES, Load, Messages, acknowledgement
from pipeline.local.bench.mllp.report import OURS, Kill, MllpReport, Options, Run, markdown
from pipeline.local.errors import LocalPlatformError
from pipeline.roles.ways_in.intake import hl7_profile

DOCS: Final = Path(__file__).resolve().parents[3] / "docs"
MESSAGES: Final = Messages("r0-n", "20260105101500")
RUN: Final = Run(
    engine=OURS,
    per_s=1_000.0,
    p50_ms=1.0,
    p99_ms=2.0,
    engine_us=300.0,
    store_us=100.0,
    one_per_s=100.0,
    one_p50_ms=9.0,
    rate_p50_ms=10.0,
    rate_p99_ms=20.0,
    rate_unanswered=0,
    not_yes=0,
    others=0.0,
)


def answer_to(body: bytes, code: str = "AA") -> bytes:
    """As short as an acknowledgement can be."""
    return frame(b"MSH|^~\\&|||||||ACK|1|P|2.5.1\rMSA|" + code.encode() + b"|" + body.split(b"|")[9] + b"\r")


@asynccontextmanager
async def engine(answer: Callable[[bytes], bytes]) -> AsyncIterator[int]:
    """A port where each message gets an answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                block = await reader.readuntil(END)
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()
                return
            writer.write(answer(block.lstrip(START)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


def test_each_message_is_a_transfer_of_one_kilobyte_and_the_same_again_for_the_same_number() -> None:
    profile = hl7_profile("default")
    for number in (0, 7, 4_999, 123_456):
        body = MESSAGES.body(number)
        assert (len(body), body) == (MESSAGE_BYTES, MESSAGES.body(number))
        message, verdict = map_bytes(body, profile, "demo", Millis(1_790_000_000_000))
        assert isinstance(verdict, Mapped)
        assert message is not None
        assert message.field("MSH", 10) == MESSAGES.control_id(number)
        assert {event.entity_type.value for event in verdict.events} >= {"patient", "encounter"}


async def test_a_yes_counts_for_the_message_that_it_names_and_anything_else_does_not() -> None:
    def sometimes(body: bytes) -> bytes:
        number = int(body.split(b"|")[9].rpartition(b"-")[2])
        if number % 3 == 0:
            return answer_to(body, "AE")
        return answer_to(MESSAGES.body(number + 1)) + answer_to(body) if number % 3 == 1 else answer_to(body)

    async with engine(sometimes) as port:
        load = Load(port, 3, MESSAGES)
        await load.connect()
        log = await load.as_fast_as_answered(0.2)
        await load.close()
    assert log.yes
    assert not [number for number in log.yes if number % 3 == 0]
    assert log.codes["AA"] == len(log.yes)
    assert log.codes["AE"] > 0
    assert log.astray > 0


async def test_at_a_rate_the_time_of_a_message_begins_when_it_was_due() -> None:
    """One connection that takes 50 ms a message, asked for a hundred a second: what waits is late, and is told so."""

    async with engine(answer_to) as port:
        load = Load(port, 1, MESSAGES)
        await load.connect()
        quick = await load.at_rate(100.0, 0.3)
        await load.close()
    assert (len(quick.seconds), len(quick.yes)) == (30, 30)

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while block := await reader.readuntil(END):
                await asyncio.sleep(0.05)
                writer.write(answer_to(block.lstrip(START)))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(slow, "127.0.0.1", 0)
    load = Load(server.sockets[0].getsockname()[1], 1, MESSAGES)
    await load.connect()
    late = await load.at_rate(100.0, 0.2)
    await load.close()
    server.close()
    assert len(late.seconds) == 20
    assert late.percentile_ms(0.99) >= 700, "the last was due at 190 ms and answered at a second"


async def test_an_engine_that_goes_away_in_a_load_is_no_figure() -> None:
    async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(END)
        writer.close()

    server = await asyncio.start_server(hangs_up, "127.0.0.1", 0)
    load = Load(server.sockets[0].getsockname()[1], 2, MESSAGES)
    await load.connect()
    with pytest.raises(LocalPlatformError):
        await load.as_fast_as_answered(0.1)
    await load.until_lost()
    await load.close()
    server.close()


def test_an_answer_without_an_msa_says_nothing() -> None:
    assert acknowledgement(b"MSH|^~\\&|x\r") == ("", b"")
    assert acknowledgement(b"MSH|^~\\&|x\rMSA|AA|C1\r") == ("AA", b"C1")


def report(*runs: Run, kills: tuple[Kill, ...] = ()) -> MllpReport:
    return MllpReport(
        commits=("0" * 40,),
        machine={"cores": 2, "python": "3.11"},
        options=Options(),
        durability={},
        runs=runs,
        kills=kills,
    )


@pytest.mark.parametrize(
    ("changes", "peer_per_s", "lost", "reached"),
    [
        ({}, 333.0, 0, True),
        ({}, 334.0, 0, False),
        ({}, None, 0, True),
        ({"rate_p99_ms": 50.0}, 100.0, 0, False),
        ({"not_yes": 1}, 100.0, 0, False),
        ({"rate_unanswered": 1}, 100.0, 0, False),
        ({}, 100.0, 1, False),
    ],
)
def test_a_goal_is_three_times_the_peer_in_good_time_with_nothing_lost(
    changes: dict[str, Any], peer_per_s: float | None, lost: int, reached: bool
) -> None:
    runs = [msgspec.structs.replace(RUN, **changes)]
    if peer_per_s is not None:
        runs.append(msgspec.structs.replace(RUN, engine="messagefoundry", per_s=peer_per_s))
    kills = (Kill(engine=OURS, acknowledged=10, lost=lost), Kill(engine="messagefoundry", acknowledged=10, lost=5))
    assert report(*runs, kills=kills).reached is reached


def test_the_documented_tables_are_those_of_the_committed_report() -> None:
    found = msgspec.json.decode((DOCS / "reports" / "bench-mllp.json").read_bytes(), type=MllpReport)
    assert markdown(found) in (DOCS / "performance.md").read_text(encoding="utf-8")
