"""A batch in one frame: whole or not at all, each message stored and answered for itself, in their order."""

import asyncio
from typing import TypeAlias

from pipeline.formats.hl7v2.batch import Batches, read
from pipeline.formats.hl7v2.framing import frame
from tests.unit.sources.test_mllp import BOUND_S, Peer, message, parsed, running, said

HEAD = b"BHS|^~\\&|EHR|MAIN|||20260105||||B1\r"
Answers: TypeAlias = list[tuple[str | None, str | None, str | None]]


def batch_of(*messages: bytes, count: int | None = None) -> bytes:
    return HEAD + b"".join(messages) + f"BTS|{len(messages) if count is None else count}\r".encode()


async def answers_to(peer: Peer) -> Answers:
    """What the batch that comes back says of each message."""
    data = await peer.answer_bytes()
    assert data.splitlines()[0].endswith(b"|B1")
    told = read(data)
    assert isinstance(told, Batches)
    return [said(parsed(one)) for one in told.messages]


async def test_each_message_of_a_batch_is_stored_and_answered_for_itself() -> None:
    first, refused, last = message("C1"), message("C2", "ADT^A99"), message("C3", visit="V3")
    async with running() as run:
        peer = await run.connect()
        await peer.send(frame(batch_of(first, refused, last)))
        assert await answers_to(peer) == [("AA", "C1", None), ("AR", "C2", "201"), ("AA", "C3", None)]
        assert [raw.body for raw, _ in run.sink.accepted] == [first, refused, last]


async def test_a_batch_that_is_repeated_gets_the_same_answers_and_stores_nothing_twice() -> None:
    data = batch_of(message("C1"), message("C2", visit="V2"))
    async with running() as run:
        peer = await run.connect()
        told = []
        for _ in range(2):
            await peer.send(frame(data))
            told.append(await peer.answer_bytes())
        assert told[0] == told[1]
        assert len(run.sink.accepted) == 2


async def test_nothing_of_a_batch_that_is_not_whole_is_used_and_its_bytes_are_kept() -> None:
    data = batch_of(message("C1"), count=2)
    async with running() as run:
        peer = await run.connect()
        await peer.send(frame(data))
        assert said(await peer.answer())[0] == "AR"
        ((raw, events),) = run.sink.accepted
        assert (raw.body, events) == (data, ())
        assert run.notes.reasons == ["BAD_VALUE"]


async def test_behind_a_message_that_was_not_stored_none_is_so_that_the_order_holds_when_it_is_sent_again() -> None:
    async with running() as run:
        run.sink.available = False
        peer = await run.connect()
        await peer.send(frame(batch_of(message("C1"), message("C2", visit="V2"), message("C3", visit="V3"))))
        assert [code for code, _, _ in await answers_to(peer)] == ["AE", "AE", "AE"]
        assert run.notes.reasons == ["UNAVAILABLE"]


async def test_a_stop_ends_a_batch_after_the_message_in_hand_and_asks_for_the_rest_again() -> None:
    async with running() as run:
        peer, idle = await run.connect(), await run.connect()
        await idle.send(frame(message("C0", visit="V0")))
        await idle.answer()
        run.sink.entered.clear()
        run.sink.gate.clear()
        await peer.send(frame(batch_of(message("C1"), message("C2", visit="V2"))))
        await asyncio.wait_for(run.sink.entered.wait(), BOUND_S)
        run.stop.set()
        assert await idle.closed()
        run.sink.gate.set()
        assert await answers_to(peer) == [("AA", "C1", None), ("AE", "C2", "207")]
        assert len(run.sink.accepted) == 2
