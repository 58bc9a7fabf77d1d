"""Enhanced mode on a connection: each answer in its frame, no answer where none is wanted, and then nothing is lost either."""

import asyncio

from pipeline.formats.hl7v2.framing import frame
from tests.unit.sources.test_mllp import BOUND_S, message, running, said, until


def asking(control_id: str, commit: str, application: str, visit: str = "V1") -> bytes:
    return message(control_id, visit=visit).replace(b"|2.5.1\r", f"|2.5.1|||{commit}|{application}\r".encode(), 1)


async def test_commit_and_application_are_answered_one_after_the_other() -> None:
    async with running() as run:
        peer = await run.connect()
        await peer.send(frame(asking("C1", "AL", "AL")))
        assert [said(await peer.answer())[:2] for _ in range(2)] == [("CA", "C1"), ("AA", "C1")]
        await peer.send(frame(asking("C1", "AL", "AL")))
        assert [said(await peer.answer())[:2] for _ in range(2)] == [("CA", "C1"), ("AA", "C1")]
        assert len(run.sink.accepted) == 1


async def test_what_cannot_be_stored_is_asked_for_again_at_the_commit() -> None:
    async with running() as run:
        run.sink.available = False
        peer = await run.connect()
        await peer.send(frame(asking("C1", "AL", "AL")))
        assert said(await peer.answer()) == ("CE", "C1", "207")


async def test_who_wants_no_answer_gets_none_and_its_message_is_stored() -> None:
    async with running() as run:
        peer = await run.connect()
        await peer.send(frame(asking("C1", "NE", "NE")) + frame(message("C2", visit="V2")))
        assert said(await peer.answer())[:2] == ("AA", "C2")
        assert len(run.sink.accepted) == 2
        assert run.notes.codes == ["NE", "AA"]


async def test_the_message_of_who_is_not_told_of_a_failure_waits_for_the_broker_before_the_next_one_is_read() -> None:
    async with running() as run:
        run.sink.available = False
        peer = await run.connect()
        await peer.send(frame(asking("C1", "NE", "NE")) + frame(message("C2", visit="V2")))
        await until(lambda: run.notes.reasons.count("UNAVAILABLE") >= 2)
        run.sink.available = True
        assert said(await peer.answer())[:2] == ("AA", "C2")
        assert [raw.body.split(b"|")[9] for raw, _ in run.sink.accepted] == [b"C1", b"C2"]


async def test_a_stop_does_not_wait_for_what_cannot_be_stored() -> None:
    async with running() as run:
        run.sink.available = False
        peer = await run.connect()
        await peer.send(frame(asking("C1", "NE", "NE")))
        await until(lambda: "UNAVAILABLE" in run.notes.reasons)
        run.stop.set()
        assert await peer.closed()
        await asyncio.wait_for(run.task, BOUND_S)
