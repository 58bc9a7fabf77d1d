"""MLLP in: nothing is answered yes before it is durable, and no peer can do harm beyond its own connection."""

import asyncio
import contextlib
import datetime
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec.structs import replace

from pipeline.domain.event import Event
from pipeline.domain.identifiers import Millis
from pipeline.formats.hl7v2.er7 import Message, parse
from pipeline.formats.hl7v2.framing import END, START, frame
from pipeline.formats.hl7v2.profile_file import profile_of
from pipeline.sources.connections import peers_of
from pipeline.sources.mllp.source import MllpLimits, MllpSource, server_context
from pipeline.sources.protocol import Broken, OtherContent, RawMessage, Receipted, Repeated, Stored, Unavailable

PROFILE = profile_of((Path(__file__).resolve().parents[3] / "pipeline/profiles/hl7/default.yaml").read_bytes())
BOUND_S = 5.0
LIMITS = MllpLimits(
    idle_timeout_s=BOUND_S, frame_timeout_s=BOUND_S, ack_timeout_s=BOUND_S, drain_timeout_s=2.0, pressure_poll_s=0.005
)


def message(control_id: str = "C1", kind: str = "ADT^A01", visit: str = "V1") -> bytes:
    return (
        f"MSH|^~\\&|EHR|MAIN|||20260105101500||{kind}|{control_id}|P|2.5.1\rEVN||20260105101000\r"
        f"PID|||4711^^^MAIN^MR||CANARY^JANE\rPV1||I|ICU^1^A^MAIN{'|' * 16}{visit}\r"
    ).encode()


class MemorySink:
    """Keeps what is accepted, as the broker would, and answers as the sink's contract says."""

    def __init__(self) -> None:
        self.accepted: list[tuple[RawMessage, tuple[Event, ...]]] = []
        self.receipts: dict[str, tuple[bytes, bytes]] = {}
        self.available = True
        self.level = 0.0
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()
        self.fault: Exception | None = None

    async def accept(self, raw: RawMessage, events: Sequence[Event], answer: bytes, broken: Sequence[Broken] = ()) -> Receipted:
        self.entered.set()
        await self.gate.wait()
        if self.fault:
            raise self.fault
        if not self.available:
            return Unavailable(1.0)
        if raw.identity in self.receipts:
            body, first = self.receipts[raw.identity]
            return Repeated(first) if body == raw.body else OtherContent()
        self.receipts[raw.identity] = (raw.body, answer)
        self.accepted.append((raw, tuple(events)))
        return Stored(answer)

    def pressure(self) -> float:
        return self.level


class Notes:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.messages = 0
        self.connections: list[int] = []
        self.codes: list[str] = []
        self.reasons: list[str] = []
        self.long_held: list[int] = []

    def message_in(self) -> None:
        self.messages += 1

    def connected(self, connections: int) -> None:
        self.connections.append(connections)

    def disconnected(self, connections: int) -> None:
        self.connections.append(connections)

    def answered(self, code: str, seconds: float) -> None:
        assert seconds >= 0
        self.codes.append(code)

    def rejected(self, reason: str) -> None:
        self.reasons.append(reason)

    def long_frames(self, held: int) -> None:
        self.long_held.append(held)


class Running:
    """A source that listens, with what it talks to."""

    def __init__(self, limits: MllpLimits, tls: ssl.SSLContext | None, max_bytes: int) -> None:
        self.sink, self.notes, self.stop = MemorySink(), Notes(), asyncio.Event()
        self.source = MllpSource(
            host="127.0.0.1",
            port=0,
            tenant="t1",
            profile=replace(PROFILE, max_message_bytes=max_bytes),
            tls=tls,
            limits=limits,
            observer=self.notes,
            clock=lambda: Millis(1_770_000_000_000),
        )
        self.task = asyncio.create_task(self.source.run(self.sink, self.stop))

    async def connect(self, tls: ssl.SSLContext | None = None, address: str | None = None) -> "Peer":
        await asyncio.wait_for(self.source.listening.wait(), BOUND_S)
        name = "localhost" if tls else None
        own = (address, 0) if address else None
        return Peer(*await asyncio.open_connection("127.0.0.1", self.source.port, ssl=tls, server_hostname=name, local_addr=own))


class Peer:
    """A sender."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> Message:
        return parsed(await self.answer_bytes())

    async def answer_bytes(self) -> bytes:
        data = await asyncio.wait_for(self.reader.readuntil(END), BOUND_S)
        assert data.startswith(START)
        return data[1 : -len(END)]

    async def closed(self) -> bool:
        """Whether the other side closes without another answer."""
        try:
            return await asyncio.wait_for(self.reader.read(), BOUND_S) == b""
        except ConnectionError:
            return True


def parsed(data: bytes) -> Message:
    found = parse(data)
    assert isinstance(found, Message)
    return found


def said(answer: Message) -> tuple[str | None, str | None, str | None]:
    """Code, control id and error."""
    return answer.field("MSA", 1), answer.field("MSA", 2), answer.field("ERR", 3)


async def until(condition: Callable[[], bool], bound_s: float = BOUND_S) -> None:
    """Wait for a condition, within a bound."""
    async with asyncio.timeout(bound_s):
        while not condition():
            await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def running(
    limits: MllpLimits = LIMITS, tls: ssl.SSLContext | None = None, max_bytes: int = 1 << 20
) -> AsyncIterator[Running]:
    found = Running(limits, tls, max_bytes)
    try:
        yield found
    finally:
        found.stop.set()
        found.sink.gate.set()
        with contextlib.suppress(ZeroDivisionError):
            await asyncio.wait_for(found.task, BOUND_S)


async def test_yes_is_said_after_the_sink_has_stored_and_not_before() -> None:
    async with running() as run:
        peer = await run.connect()
        run.sink.gate.clear()
        await peer.send(frame(message()))
        await asyncio.wait_for(run.sink.entered.wait(), BOUND_S)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(peer.reader.read(1), 0.05)
        run.sink.gate.set()
        assert said(await peer.answer()) == ("AA", "C1", None)
        raw, events = run.sink.accepted[0]
        assert (raw.channel, raw.body, len(raw.identity)) == ("mllp", message(), 64)
        assert [event.entity_id for event in events] == ["4711", "V1", "ICU/1/A"]
        assert {event.received_at for event in events} == {raw.received_at}


async def test_a_repeat_gets_the_first_answer_byte_for_byte() -> None:
    async with running() as run:
        peer = await run.connect()
        await peer.send(frame(message()) * 2)
        assert await peer.answer_bytes() == await peer.answer_bytes()
        assert len(run.sink.accepted) == 1


async def test_another_message_under_a_known_identity_is_refused_as_a_conflict() -> None:
    async with running() as run:
        peer = await run.connect()
        await peer.send(frame(message()) + frame(message(visit="V2")))
        assert said(await peer.answer())[0] == "AA"
        assert said(await peer.answer()) == ("AR", "C1", "205")


async def test_a_message_that_could_not_be_stored_is_to_be_sent_again() -> None:
    async with running() as run:
        peer = await run.connect()
        run.sink.available = False
        await peer.send(frame(message()))
        assert said(await peer.answer()) == ("AE", "C1", "207")
        run.sink.available = True
        await peer.send(frame(message()))
        assert said(await peer.answer()) == ("AA", "C1", None)


async def test_a_broker_that_does_not_answer_in_time_makes_ae() -> None:
    async with running(MllpLimits(ack_timeout_s=0.05)) as run:
        peer = await run.connect()
        run.sink.gate.clear()
        await peer.send(frame(message()))
        assert said(await peer.answer()) == ("AE", "C1", "207")
        assert run.notes.reasons == ["UNAVAILABLE"]


async def test_what_is_ignored_or_rejected_is_kept_before_it_is_answered() -> None:
    async with running() as run:
        peer = await run.connect()
        for body, expected in (
            (message("1", "ORU^R01"), ("AA", "1", None)),
            (message("2", "ADT^A99"), ("AR", "2", "201")),
            (message("3", "XXX^Y01"), ("AR", "3", "200")),
            (message("4", visit=""), ("AR", "4", "101")),
            (message("5").replace(b"4711^^^MAIN^MR", b"1~2"), ("AR", "5", "204")),
            (message("6") + message("7"), ("AR", "6", "100")),
            (b"not a message", ("AR", None, "100")),
        ):
            await peer.send(frame(body))
            assert said(await peer.answer()) == expected
        assert [raw.body[:3] for raw, _ in run.sink.accepted] == [b"MSH"] * 6 + [b"not"]
        assert all(events == () for _, events in run.sink.accepted)
        assert len({raw.identity for raw, _ in run.sink.accepted}) == 7


async def test_a_frame_may_arrive_byte_by_byte() -> None:
    async with running() as run:
        peer = await run.connect()
        for byte in frame(message()):
            await peer.send(bytes([byte]))
            await asyncio.sleep(0)
        assert said(await peer.answer())[0] == "AA"


async def test_several_messages_in_one_read_are_answered_in_their_order() -> None:
    async with running() as run:
        peer = await run.connect()
        await peer.send(b"".join(frame(message(f"C{n}")) for n in range(20)))
        assert [said(await peer.answer())[1] for _ in range(20)] == [f"C{n}" for n in range(20)]


async def test_the_next_message_waits_until_the_previous_one_is_answered() -> None:
    async with running() as run:
        peer = await run.connect()
        run.sink.gate.clear()
        await peer.send(frame(message("C1")) + frame(message("C2")))
        await asyncio.wait_for(run.sink.entered.wait(), BOUND_S)
        assert run.notes.messages == 1
        run.sink.gate.set()
        await peer.answer()
        await peer.answer()
        assert [raw.body for raw, _ in run.sink.accepted] == [message("C1"), message("C2")]


async def test_garbage_outside_a_frame_is_skipped_up_to_a_bound() -> None:
    async with running(MllpLimits(max_garbage_bytes=100)) as run:
        peer = await run.connect()
        await peer.send(b"noise\r\n" + frame(message()) + b"\r\n")
        assert said(await peer.answer())[0] == "AA"
        await peer.send(b"x" * 101)
        assert await peer.closed()
        assert run.notes.reasons == ["GARBAGE"]


async def test_a_sender_that_begins_again_within_a_frame_is_understood() -> None:
    async with running() as run:
        peer = await run.connect()
        await peer.send(START + message("OLD")[:40] + frame(message("NEW")))
        assert said(await peer.answer())[1] == "NEW"


async def test_a_message_over_the_limit_is_refused_and_the_connection_closed() -> None:
    async with running(max_bytes=2000) as run:
        peer = await run.connect()
        await peer.send(START + message() + b"NTE|" + b"x" * 3000)
        assert said(await peer.answer()) == ("AR", "C1", "104")
        assert await peer.closed()
        assert run.sink.accepted == []


async def test_the_refusal_of_a_message_over_the_limit_reaches_a_peer_that_is_still_sending() -> None:
    async with running(max_bytes=2000) as run:
        peer = await run.connect()
        sending = asyncio.create_task(peer.send(START + message() + b"NTE|" + b"x" * 8_000_000 + END))
        assert said(await peer.answer()) == ("AR", "C1", "104")
        await asyncio.wait_for(sending, BOUND_S)
        peer.writer.close()


async def test_a_rejected_message_may_be_sent_again_corrected_under_its_control_id() -> None:
    async with running() as run:
        peer = await run.connect()
        await peer.send(frame(message(visit="")) * 2 + frame(message(visit="V1")) + frame(message(visit="V2")))
        refused = await peer.answer_bytes()
        assert said(parsed(refused)) == ("AR", "C1", "101")
        assert await peer.answer_bytes() == refused
        assert said(await peer.answer())[0] == "AA"
        assert said(await peer.answer()) == ("AR", "C1", "205")


async def test_a_silent_peer_and_an_endless_frame_are_cut_off() -> None:
    async with running(MllpLimits(idle_timeout_s=0.05, frame_timeout_s=0.05)) as run:
        silent, endless = await run.connect(), await run.connect()
        await endless.send(START + message()[:20])
        assert await silent.closed()
        assert await endless.closed()
        assert run.notes.reasons == ["PEER_TIMEOUT"] * 2
        assert run.sink.accepted == []


async def test_dripping_bytes_do_not_prolong_the_deadline_of_a_frame() -> None:
    async with running(MllpLimits(idle_timeout_s=BOUND_S, frame_timeout_s=0.2)) as run:
        peer = await run.connect()
        await peer.send(START)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(BOUND_S):
                while not peer.reader.at_eof() and not run.notes.reasons:
                    await peer.send(b"x")
                    await asyncio.sleep(0.02)
        assert run.notes.reasons == ["PEER_TIMEOUT"]


async def test_a_peer_that_has_closed_its_half_still_gets_its_answers() -> None:
    async with running() as run:
        peer = await run.connect()
        await peer.send(frame(message("C1")) + frame(message("C2")) + START + b"MSH|half")
        peer.writer.write_eof()
        assert [said(await peer.answer())[1] for _ in range(2)] == ["C1", "C2"]
        assert await peer.closed()
        assert len(run.sink.accepted) == 2


async def test_a_peer_that_goes_away_before_its_answer_harms_nobody_else() -> None:
    async with running() as run:
        gone, other = await run.connect(), await run.connect()
        run.sink.gate.clear()
        await gone.send(frame(message("C1")))
        await asyncio.wait_for(run.sink.entered.wait(), BOUND_S)
        gone.writer.transport.abort()
        run.sink.gate.set()
        await other.send(frame(message("C2")))
        assert said(await other.answer())[1] == "C2"
        again = await run.connect()
        await again.send(frame(message("C1")))
        assert said(await again.answer())[0] == "AA"


async def test_a_sender_that_takes_every_connection_it_gets_leaves_room_for_others() -> None:
    async with running(MllpLimits(max_connections=10)) as run:
        held = [await run.connect() for _ in range(12)]
        await until(lambda: len(run.notes.reasons) == 7)
        for number, address in enumerate(("127.0.0.2", "127.0.0.3")):
            other = await run.connect(address=address)
            await other.send(frame(message(f"C{number}")))
            assert said(await other.answer())[0] == "AA"
        assert run.notes.reasons == ["TOO_MANY_CONNECTIONS"] * (len(held) - 5)


async def test_more_long_messages_than_there_are_places_wait_unread_and_short_ones_do_not_wait_for_them() -> None:
    async with running(MllpLimits(max_long_frames=1), max_bytes=1_000_000) as run:
        padding = b"NTE|1|" + b"x" * 400_000 + b"\r"
        dripping, waiting, short = await run.connect(), await run.connect(), await run.connect()
        first, second = frame(message("L1") + padding), frame(message("L2") + padding)
        await dripping.send(first[:-2])
        await until(lambda: run.notes.long_held == [1])
        waiting.writer.write(second)
        await short.send(frame(message("S1")))
        assert said(await short.answer())[:2] == ("AA", "S1")
        assert max(run.notes.long_held) == 1
        await dripping.send(first[-2:])
        assert said(await dripping.answer())[:2] == ("AA", "L1")
        assert said(await waiting.answer())[:2] == ("AA", "L2")
        await until(lambda: run.notes.long_held[-1] == 0)
        assert max(run.notes.long_held) == 1


async def test_a_long_message_that_gets_no_place_is_given_up_and_was_never_answered() -> None:
    async with running(MllpLimits(max_long_frames=1, long_frame_wait_s=0.2), max_bytes=1_000_000) as run:
        long = frame(message("L1") + b"NTE|1|" + b"x" * 400_000 + b"\r")
        dripping, waiting = await run.connect(), await run.connect()
        await dripping.send(long[:-2])
        await until(lambda: run.notes.long_held == [1])
        waiting.writer.write(long)
        assert await waiting.closed()
        assert run.notes.reasons == ["PEER_TIMEOUT"]


async def test_a_sender_that_never_reads_its_answers_is_cut_off_and_its_messages_are_kept() -> None:
    async with running(MllpLimits(write_timeout_s=0.3)) as run:
        await asyncio.wait_for(run.source.listening.wait(), BOUND_S)
        own = socket.socket()
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        own.connect(("127.0.0.1", run.source.port))
        deaf = Peer(*await asyncio.open_connection(sock=own, limit=1024))
        await deaf.send(frame(message("C-first")))
        await until(lambda: len(run.notes.codes) == 1)
        (taken,) = run.source._connections.values()
        taken.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with contextlib.suppress(ConnectionError):
            for number in range(20_000):
                deaf.writer.write(frame(message(f"C{number}")))
                await asyncio.wait_for(deaf.writer.drain(), BOUND_S)
                if run.notes.reasons:
                    break
        await until(lambda: bool(run.notes.reasons))  # the kernel may have taken all that was sent
        assert run.notes.reasons == ["PEER_TIMEOUT"]
        other = await run.connect()
        await other.send(frame(message("C-other")))
        assert said(await other.answer())[0] == "AA"


async def test_a_stop_does_not_wait_for_a_sender_that_waits_for_a_place() -> None:
    async with running(MllpLimits(max_long_frames=1), max_bytes=1_000_000) as run:
        long = frame(message("L1") + b"NTE|1|" + b"x" * 400_000 + b"\r")
        dripping, waiting = await run.connect(), await run.connect()
        await dripping.send(long[:-2])
        await until(lambda: run.notes.long_held == [1])
        waiting.writer.write(long)
        run.stop.set()
        await asyncio.wait_for(run.task, MllpLimits().drain_timeout_s / 2)


async def test_connections_beyond_the_bound_are_refused_and_places_become_free() -> None:
    async with running(MllpLimits(max_connections=4)) as run:
        first, second = await run.connect(), await run.connect()
        await first.send(frame(message("C1")))
        await second.send(frame(message("C2")))
        await first.answer()
        await second.answer()
        third = await run.connect()
        assert await third.closed()
        assert run.notes.reasons == ["TOO_MANY_CONNECTIONS"]
        first.writer.close()
        for _ in range(100):
            fourth = await run.connect()
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await fourth.send(frame(message("C4")))
                assert said(await fourth.answer())[0] == "AA"
                return
        pytest.fail("no place became free")


async def test_nothing_is_read_while_the_way_to_the_broker_is_full() -> None:
    async with running() as run:
        run.sink.level = 1.0
        peer = await run.connect()
        await peer.send(frame(message()))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(peer.reader.read(1), 0.05)
        assert run.notes.messages == 0
        run.sink.level = 0.0
        assert said(await peer.answer())[0] == "AA"


async def test_stopping_finishes_the_message_in_hand_and_takes_no_other() -> None:
    async with running() as run:
        busy, idle = await run.connect(), await run.connect()
        await idle.send(frame(message("C0")))
        await idle.answer()
        run.sink.entered.clear()
        run.sink.gate.clear()
        await busy.send(frame(message("C1")) + frame(message("C2")))
        await asyncio.wait_for(run.sink.entered.wait(), BOUND_S)
        run.stop.set()
        assert await idle.closed()
        run.sink.gate.set()
        assert said(await busy.answer())[1] == "C1"
        assert await busy.closed()
        await asyncio.wait_for(run.task, BOUND_S)
        with pytest.raises(ConnectionRefusedError):
            await run.connect()


async def test_stopping_is_bounded_even_if_the_broker_never_answers() -> None:
    async with running(MllpLimits(drain_timeout_s=0.05)) as run:
        peer = await run.connect()
        run.sink.gate.clear()
        await peer.send(frame(message()))
        await asyncio.wait_for(run.sink.entered.wait(), BOUND_S)
        run.stop.set()
        await asyncio.wait_for(run.task, BOUND_S)
        assert await peer.closed()
        assert run.sink.accepted == []


async def test_a_fault_of_the_program_ends_the_role_and_answers_nothing() -> None:
    async with running() as run:
        run.sink.fault = ZeroDivisionError()
        peer = await run.connect()
        await peer.send(frame(message()))
        assert await peer.closed()
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(asyncio.shield(run.task), BOUND_S)


async def test_observers_hear_codes_and_reasons_only(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as run:
        peer = await run.connect()
        await peer.send(frame(message("C1")) + frame(message("C2", "ADT^A99")))
        await peer.answer()
        await peer.answer()
        await until(lambda: len(run.notes.codes) == 2)
        assert (run.notes.messages, run.notes.codes, run.notes.reasons) == (2, ["AA", "AR"], ["UNSUPPORTED_EVENT"])
        assert "CANARY" not in caplog.text + repr(run.sink.accepted)


def certificate(folder: Path, name: str, signer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None) -> Path:
    """A certificate and its key in one file; self-signed without a signer."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer[0].subject if signer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(signer[1] if signer else key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    pem = serialization.Encoding.PEM
    path.write_bytes(
        built.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


def client_context(server: Path, own: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(server))
    if own:
        context.load_cert_chain(own)
    return context


async def test_handshakes_that_are_begun_and_never_ended_keep_nobody_out(tmp_path: Path) -> None:
    server, known = (certificate(tmp_path, name, None) for name in ("server", "known"))
    limits = MllpLimits(max_connections=10, handshake_timeout_s=BOUND_S)
    async with running(limits, tls=server_context(server, server, known)) as run:
        await asyncio.wait_for(run.source.listening.wait(), BOUND_S)
        held = [socket.create_connection(("127.0.0.1", run.source.port)) for _ in range(60)]
        peer = await run.connect(client_context(server, known), address="127.0.0.2")
        await peer.send(frame(message()))
        assert said(await peer.answer())[0] == "AA"
        await until(lambda: len(run.notes.reasons) >= 60 - 2 * limits.max_connections)
        await until(lambda: len(peers_of(run.source.port)) <= 2 * limits.max_connections)
        for each in held:
            each.close()


async def test_only_peers_with_a_certificate_of_the_named_authority_get_in(tmp_path: Path) -> None:
    server, known, stranger = (certificate(tmp_path, name, None) for name in ("server", "known", "stranger"))
    async with running(tls=server_context(server, server, known)) as run:
        peer = await run.connect(client_context(server, known))
        await peer.send(frame(message()))
        assert said(await peer.answer())[0] == "AA"
        for other in (None, stranger):
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                refused = await run.connect(client_context(server, other))
                await refused.send(frame(message("C2")))
                assert await refused.closed()
        assert len(run.sink.accepted) == 1
