"""MLLP in, on sockets that are many or stall: each is answered or ended within its bound, and keeps nobody else waiting."""

import asyncio
import contextlib
import resource
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from pipeline.formats.hl7v2.framing import START, frame
from pipeline.local.ports import HOST, free_port
from pipeline.sources.mllp.source import MllpLimits, MllpSource, server_context
from tests.support.certificates import Authority
from tests.unit.sources.test_mllp import BOUND_S, PROFILE, MemorySink, Peer, message, running, said, until

MANY: Final = 1_000
ADDRESSES: Final = 20
ROOM: Final = MANY + 2 * MANY // ADDRESSES
"""Ceiling under which as many senders get as many connections: nobody may hold more than what is free."""
SHARED: Final = 60
"""Connections to two listeners: that one of them gets none has a chance of one in 2 to the power of 59."""
MANY_S: Final = 60.0
"""Of a thousand connections on a machine that does other work too; a second or two on one that doesn't."""


@pytest.fixture
def files() -> Iterator[None]:
    """Room for both ends of the connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * MANY
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"a process may open {hard} files here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("files")
async def test_a_thousand_connections_are_served_at_once_and_their_messages_are_kept_once_each() -> None:
    async with running(MllpLimits(max_connections=ROOM, idle_timeout_s=MANY_S, frame_timeout_s=MANY_S)) as run:
        peers: list[Peer] = []
        async with asyncio.timeout(MANY_S):
            for number in range(MANY):
                peers.append(await run.connect(address=f"127.0.0.{2 + number % ADDRESSES}"))
            await until(lambda: len(run.notes.connections) == MANY, MANY_S)
            for _ in range(2):  # and all still serve after the first
                for number, peer in enumerate(peers):
                    peer.writer.write(frame(message(f"C{number}")))
                for number, peer in enumerate(peers):
                    assert said(await peer.answer())[:2] == ("AA", f"C{number}")
        assert run.notes.reasons == []
        assert len(run.sink.accepted) == MANY, "a repeat is answered from its receipt"
        for peer in peers:
            peer.writer.close()
        await until(lambda: run.notes.connections[-1] == 0, MANY_S)


async def test_listeners_that_share_a_port_share_its_senders_and_no_other_listener_gets_it() -> None:
    port = free_port()
    stop, sinks = asyncio.Event(), (MemorySink(), MemorySink())
    made = [MllpSource(host=HOST, port=port, tenant="t1", profile=PROFILE, share_port=True) for _ in sinks]
    tasks = [asyncio.create_task(source.run(sink, stop)) for source, sink in zip(made, sinks, strict=True)]
    async with asyncio.timeout(MANY_S):
        await asyncio.gather(*(source.listening.wait() for source in made))
        with pytest.raises(OSError, match="in use"):
            await MllpSource(host=HOST, port=port, tenant="t1", profile=PROFILE).run(MemorySink(), stop)
        for number in range(SHARED):
            peer = Peer(*await asyncio.open_connection(HOST, port))
            await peer.send(frame(message(f"C{number}")))
            assert said(await peer.answer())[:2] == ("AA", f"C{number}")
            peer.writer.close()
        stop.set()
        await asyncio.gather(*tasks)
    taken = [len(sink.accepted) for sink in sinks]
    assert sum(taken) == SHARED
    assert min(taken) > 0, "the kernel gave all connections to one of two"


@pytest.mark.usefixtures("files")
async def test_a_thousand_connections_that_end_in_mid_frame_leave_nothing_behind() -> None:
    async with running(MllpLimits(max_connections=ROOM, idle_timeout_s=MANY_S, frame_timeout_s=MANY_S)) as run:
        peers = [await run.connect(address=f"127.0.0.{2 + number % ADDRESSES}") for number in range(MANY)]
        for peer in peers:
            peer.writer.write(START + message()[:100])
        await until(lambda: len(run.notes.connections) == MANY, MANY_S)
        for number, peer in enumerate(peers):
            if number % 2:
                peer.writer.write_eof()
            else:
                peer.writer.transport.abort()
        await until(lambda: run.notes.connections[-1] == 0, MANY_S)
        assert (run.sink.accepted, run.source._connections, len(run.source._shares)) == ([], {}, 0)


class Secured:
    """A listener behind TLS, and what its clients need."""

    def __init__(self, folder: Path) -> None:
        authority = Authority()
        certificate, key = authority.issue("localhost").put(folder, "server")
        (folder / "ca.pem").write_bytes(authority.certificate)
        self.server = server_context(certificate, key, folder / "ca.pem")
        self.client = ssl.create_default_context(cadata=authority.certificate.decode())
        self.client.load_cert_chain(*authority.issue("client").put(folder, "client"))


async def test_a_handshake_that_stalls_is_ended_in_its_time_whatever_was_sent_of_it(tmp_path: Path) -> None:
    secured = Secured(tmp_path)
    async with running(MllpLimits(handshake_timeout_s=0.3, idle_timeout_s=BOUND_S), tls=secured.server) as run:
        other = await run.connect(secured.client)
        for begun in (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/1.1\r\n\r\n", frame(message())):
            stalled = await asyncio.open_connection("127.0.0.1", run.source.port)
            stalled[1].write(begun)
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(stalled[0].read(), BOUND_S)  # to its end: perhaps an alert, and nothing more
            stalled[1].close()
        await other.send(frame(message("C-other")))
        assert said(await other.answer())[:2] == ("AA", "C-other")
        assert [raw.body for raw, _ in run.sink.accepted] == [message("C-other")], "nothing is taken in clear"


async def test_behind_tls_a_frame_has_its_deadline_and_a_peer_that_hangs_up_harms_nobody(tmp_path: Path) -> None:
    secured = Secured(tmp_path)
    async with running(MllpLimits(frame_timeout_s=0.3, idle_timeout_s=BOUND_S), tls=secured.server) as run:
        stalled, gone, other = [await run.connect(secured.client) for _ in range(3)]
        await stalled.send(START + message()[:50])
        await gone.send(START + message()[:50])
        gone.writer.transport.abort()
        assert await stalled.closed()
        await other.send(frame(message("C-other")))
        assert said(await other.answer())[:2] == ("AA", "C-other")
        assert run.notes.reasons == ["PEER_TIMEOUT"]


async def test_a_reset_between_message_and_answer_costs_the_answer_alone() -> None:
    """The message is kept; sent again on another connection it gets the first answer and is not stored twice."""
    async with running() as run:
        await asyncio.wait_for(run.source.listening.wait(), BOUND_S)
        run.sink.gate.clear()
        own = socket.create_connection(("127.0.0.1", run.source.port))
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # close by RST
        own.sendall(frame(message("C1")))
        await asyncio.wait_for(run.sink.entered.wait(), BOUND_S)
        own.close()
        run.sink.gate.set()
        await until(lambda: run.notes.connections[-1:] == [0])
        again = await run.connect()
        await again.send(frame(message("C1")))
        assert said(await again.answer())[:2] == ("AA", "C1")
        assert len(run.sink.accepted) == 1
