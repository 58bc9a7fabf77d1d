"""The MLLP client: an answer belongs to the message that its MSA-2 names, and to no other."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from pipeline.destinations.auth.tls import TlsFiles
from pipeline.destinations.hl7v2.mllp_client import Acknowledged, Address, Bounds, MllpClient, News, NotSent, Unanswered
from pipeline.formats.hl7v2.ack import Code
from pipeline.local.ports import HOST, free_port
from tests.support.certificates import Authority, server_context
from tests.support.mllp_receiver import Receiver, ack, always, listening

BOUND_S: Final = 20.0
SHORT: Final = Bounds(connect_s=5.0, answer_s=0.3)
LONG: Final = Bounds(connect_s=5.0, answer_s=BOUND_S)

pytestmark = pytest.mark.timeout(60)


def message(control_id: str) -> bytes:
    return f"MSH|^~\\&|S||R||20260101||ADT^A08|{control_id}|P|2.5.1\rPID|||1^^^G^MR\r".encode()


class Told(Counter[News]):
    def __call__(self, news: News) -> None:
        self[news] += 1


def client(receiver: Receiver, bounds: Bounds = LONG, told: Told | None = None) -> MllpClient:
    return MllpClient(Address(HOST, receiver.port), bounds, Told() if told is None else told)


async def send(to: MllpClient, control_id: str) -> object:
    async with asyncio.timeout(BOUND_S):
        return await to.send(control_id, message(control_id))


async def test_one_connection_serves_one_message_after_the_other() -> None:
    async with listening(Receiver()) as receiver:
        to = client(receiver)
        for number in range(5):
            assert await send(to, f"C{number}") == Acknowledged(Code.AA)
        await to.close()
    assert receiver.connections == 1
    assert [seen.data for seen in receiver.seen] == [message(f"C{number}") for number in range(5)]


async def test_answers_out_of_order_each_reach_their_own_message() -> None:
    held: list[bytes] = []

    def say(seen: object) -> bytes:
        held.append(ack({1: "AA", 2: "AE", 3: "AR"}[len(held) + 1], seen.control_id))  # type: ignore[attr-defined]
        return b"".join(reversed(held)) if len(held) == 3 else b""

    async with listening(Receiver(say)) as receiver:
        to = client(receiver)
        answers = await asyncio.gather(*(send(to, name) for name in ("C1", "C2", "C3")))
        await to.close()
    assert [answer.code for answer in answers if isinstance(answer, Acknowledged)] == [Code.AA, Code.AE, Code.AR]


async def test_an_answer_that_nobody_waits_for_is_counted_and_answers_nothing() -> None:
    told = Told()

    def say(seen: object) -> bytes:
        control_id = seen.control_id  # type: ignore[attr-defined]
        return ack("AR", "SOMEBODY") + ack("AA", control_id) + ack("AR", control_id)

    async with listening(Receiver(say)) as receiver:
        to = client(receiver, told=told)
        assert [await send(to, name) for name in ("C1", "C2")] == [Acknowledged(Code.AA)] * 2
        await to.close()
    assert told[News.UNKNOWN] == 2
    assert told[News.LATE] >= 1


async def test_a_late_answer_never_answers_the_next_message() -> None:
    waiting: list[bytes] = []
    told = Told()

    def say(seen: object) -> bytes:
        waiting.append(ack("AA", seen.control_id))  # type: ignore[attr-defined]
        return b"" if len(waiting) == 1 else waiting[0]

    async with listening(Receiver(say)) as receiver:
        to = client(receiver, SHORT, told)
        assert await send(to, "C1") == Unanswered(timed_out=True)
        assert await send(to, "C2") == Unanswered(timed_out=True), "the answer to C1 came here"
        await to.close()
    assert receiver.connections == 2
    assert told[News.NO_ANSWER] == 2


async def test_a_message_that_was_not_answered_goes_again_under_its_control_id_on_a_new_connection() -> None:
    receiver = Receiver(lambda seen: None if seen.number == 1 else ack("AA", seen.control_id))
    async with listening(receiver):
        to = client(receiver)
        assert await send(to, "C1") == Unanswered()
        assert await send(to, "C1") == Acknowledged(Code.AA)
        await to.close()
    assert [seen.control_id for seen in receiver.seen] == ["C1", "C1"]
    assert receiver.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"\x0bno HL7\x1c\r",
        b"\x0bMSH|^~\\&|R||||2026||ACK|1|P|2.5.1\r\x1c\r",
        b"\x0bMSH|^~\\&|R||||2026||ACK|1|P|2.5.1\rMSA|ZZ|C1\r\x1c\r",
        b"\x0b\x15\x1c\r",
        b"HTTP/1.1 400 Bad Request\r\n" * 400,
        b"\x0b" + b"x" * 300_000,
    ],
    ids=["no header", "no MSA", "no code", "not stored", "another protocol", "too long"],
)
async def test_an_answer_that_can_not_be_read_is_no_answer_and_ends_the_connection(answer: bytes) -> None:
    told = Told()
    async with listening(Receiver(lambda _: answer)) as receiver:
        to = client(receiver, told=told)
        assert await send(to, "C1") == Unanswered()
        receiver.say = always()
        assert await send(to, "C2") == Acknowledged(Code.AA)
        await to.close()
    assert told[News.UNREADABLE] == 1
    assert receiver.connections == 2


async def test_half_an_answer_is_no_answer() -> None:
    async with listening(Receiver(lambda seen: ack("AA", seen.control_id)[:-8])) as receiver:
        to = client(receiver, SHORT)
        assert await send(to, "C1") == Unanswered(timed_out=True)
        await to.close()


async def test_all_that_wait_are_unanswered_when_the_connection_ends() -> None:
    receiver = Receiver(lambda seen: b"" if seen.number < 3 else None)
    async with listening(receiver):
        to = client(receiver)
        assert await asyncio.gather(*(send(to, f"C{n}") for n in range(3))) == [Unanswered()] * 3
        await to.close()


async def test_the_transports_own_yes_is_not_taken_for_the_receivers() -> None:
    async with listening(Receiver(lambda seen: b"\x0b\x06\x1c\r" + ack("AE", seen.control_id, "207"))) as receiver:
        to = client(receiver)
        assert await send(to, "C1") == Acknowledged(Code.AE, ("207",))
        await to.close()


async def test_a_commit_is_the_last_word_only_where_nothing_more_was_asked_for() -> None:
    both = Receiver(lambda seen: ack("CA", seen.control_id) + ack("AR", seen.control_id, "204"))
    async with listening(both):
        to = client(both)
        assert await to.send("C1", message("C1"), until_applied=True) == Acknowledged(Code.AR, ("204",))
        assert await to.send("C2", message("C2")) == Acknowledged(Code.CA)
        both.say = always("CR")
        assert await to.send("C3", message("C3"), until_applied=True) == Acknowledged(Code.CR)
        await to.close()


async def test_nobody_there_is_not_sent() -> None:
    told = Told()
    to = MllpClient(Address(HOST, free_port()), LONG, told)
    assert await asyncio.gather(*(send(to, f"C{n}") for n in range(4))) == [NotSent()] * 4
    assert told[News.NOT_CONNECTED] < 4, "those that want a connection at once share one attempt"
    await to.close()


async def test_what_may_not_go_any_more_is_not_sent() -> None:
    async with listening(Receiver()) as receiver:
        to = client(receiver)
        assert await to.send("C1", message("C1"), may_go=lambda: False) == NotSent()
        await to.close()
        assert await to.send("C2", message("C2")) == NotSent(), "closed"
    assert receiver.seen == []


async def test_error_texts_are_kept_apart_from_codes_and_out_of_the_representation() -> None:
    said = b"\x0bMSH|^~\\&|R||||2026||ACK|1|P|2.5.1\rMSA|AR|C1|Zzyzxqv\rERR||PID^1^3|204^x^HL70357|E||||Zzyzxqv\r\x1c\r"
    async with listening(Receiver(lambda _: said)) as receiver:
        to = client(receiver)
        answer = await send(to, "C1")
        await to.close()
    assert isinstance(answer, Acknowledged)
    assert answer.errors == ("204",)
    assert "Zzyzxqv" in answer.text
    assert "Zzyzxqv" not in repr(answer)


async def test_both_sides_prove_who_they_are(tmp_path: Path) -> None:
    authority = Authority()
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    there, here = authority.issue("there").put(tmp_path, "there"), authority.issue("here").put(tmp_path, "here")
    tls = TlsFiles(tmp_path / "ca.pem", *here, lambda _: None)
    strange = TlsFiles(tmp_path / "ca.pem", None, None, lambda _: None)
    async with listening(Receiver(), tls=server_context(*there, clients=authority.certificate)) as receiver:
        known = MllpClient(Address(HOST, receiver.port, tls.context), LONG)
        assert await send(known, "C1") == Acknowledged(Code.AA)
        await known.close()
        unknown = MllpClient(Address(HOST, receiver.port, strange.context), LONG)
        assert await send(unknown, "C2") in (Unanswered(), NotSent())
        await unknown.close()
    assert [seen.control_id for seen in receiver.seen] == ["C1"]
