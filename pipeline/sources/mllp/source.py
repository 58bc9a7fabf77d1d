"""HL7 v2 over MLLP: framing, one message at a time per connection, and an answer only when the message is durable.

An AA says that the raw bytes and every event are acknowledged by the broker. AE asks to send again, AR never to. The next
message of a connection is read after the previous one was answered, so order is kept and back-pressure is TCP's.
"""

import asyncio
import contextlib
import hashlib
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, assert_never

from pipeline.domain.identifiers import Millis
from pipeline.formats.hl7v2 import ack
from pipeline.formats.hl7v2.framing import Block, Deframer, Garbage, TooLong, frame
from pipeline.formats.hl7v2.profile import Profile
from pipeline.formats.hl7v2.verdict import Reason
from pipeline.sources.connections import Doorkeeper
from pipeline.sources.mllp.answers import Answers
from pipeline.sources.mllp.observer import Observer, Silent
from pipeline.sources.mllp.patience import Patience
from pipeline.sources.protocol import Sink
from pipeline.sources.shares import Shares

READ_BYTES: Final = 64 * 1024
LONG_FRAME_BYTES: Final = 64 * 1024
"""A message above this needs one of `max_long_frames` places before more of it is read."""
UNREAD_BYTES: Final = 8 * 1024
"""So much of its answers may a peer leave unread before the next message waits for it; less than makes a transport pause."""
HANDSHAKES_PER_CONNECTION: Final = 2
"""Most sockets, those in the midst of a TLS handshake included, for each connection that is allowed; looked at now and then."""


@dataclass(frozen=True, slots=True)
class MllpLimits:
    """Bounds of the listener. The size of a message is the profile's."""

    max_connections: int = 200
    max_long_frames: int = 16
    max_garbage_bytes: int = 64 * 1024
    idle_timeout_s: float = 3600.0
    frame_timeout_s: float = 30.0
    long_frame_wait_s: float = 60.0
    ack_timeout_s: float = 20.0
    write_timeout_s: float = 20.0
    drain_timeout_s: float = 10.0
    handshake_timeout_s: float = 10.0
    linger_s: float = 2.0
    pressure_high: float = 0.9
    pressure_poll_s: float = 0.05


def server_context(certificate: Path, key: Path, client_authority: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or later; with `client_authority`, only peers whose certificate it signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    if client_authority:
        context.load_verify_locations(client_authority)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def wall_clock() -> Millis:
    """Now."""
    return Millis(time.time_ns() // 1_000_000)


@dataclass(eq=False, slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    deframer: Deframer
    peer: str
    patience: Patience
    busy: bool = False
    is_long: bool = False


class MllpSource:
    """Listens on one port for the senders of one profile."""

    name: ClassVar[str] = "mllp"

    def __init__(
        self,
        *,
        host: str,
        port: int,
        tenant: str,
        profile: Profile,
        share_port: bool = False,
        tls: ssl.SSLContext | None = None,
        limits: MllpLimits | None = None,
        observer: Observer | None = None,
        clock: Callable[[], Millis] = wall_clock,
    ) -> None:
        self._host = host
        self._port = port
        self._profile = profile
        self._share_port = share_port
        self._tls = tls
        self._limits = limits or MllpLimits()
        self._observer: Observer = observer or Silent()
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._shares: Shares[str] = Shares(self._limits.max_connections)
        self._long_frames = asyncio.Semaphore(self._limits.max_long_frames)
        self._long_held = 0
        self._stopping = asyncio.Event()
        self._answers = Answers(profile, tenant, self._limits.ack_timeout_s, self._observer, clock, self._stopping)
        self._wake = asyncio.Event()
        self._failure: BaseException | None = None
        self.listening = asyncio.Event()
        """Set once connections are taken."""
        self.port = port
        """The port listened on; differs from the one asked for only where that is 0."""

    async def run(self, sink: Sink, stop: asyncio.Event) -> None:
        """Serve until `stop`; then finish the messages in hand, within the drain bound, and close.

        A fault of the program ends the service and is raised here: its message got no answer, so it will be sent again.
        """
        server = await asyncio.start_server(
            lambda reader, writer: self._connected(sink, reader, writer),
            self._host,
            self._port,
            reuse_port=self._share_port,
            ssl=self._tls,
            ssl_handshake_timeout=self._limits.handshake_timeout_s if self._tls else None,
            limit=READ_BYTES,
        )
        self.port = server.sockets[0].getsockname()[1]
        most = HANDSHAKES_PER_CONNECTION * self._limits.max_connections
        door = asyncio.create_task(Doorkeeper(self.port, most, self._cut_off).run(), name="mllp-door")
        self.listening.set()
        try:
            await _first(stop.wait(), self._wake.wait(), asyncio.shield(door))
            if door.done():
                self._failure = door.exception()
        finally:
            self._stopping.set()
            door.cancel()
            server.close()
            await self._drain()
        if self._failure:
            raise self._failure

    def _cut_off(self, count: int) -> None:
        """What is no connection of ours yet: TLS handshakes that were begun, and may never be ended."""
        for _ in range(count):
            self._observer.rejected("TOO_MANY_CONNECTIONS")

    async def _drain(self) -> None:
        for task, connection in self._connections.items():
            if not connection.busy:
                task.cancel()
        if not self._connections:
            return
        _, late = await asyncio.wait(set(self._connections), timeout=self._limits.drain_timeout_s)
        for task in late:
            self._connections[task].writer.transport.abort()
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _connected(self, sink: Sink, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = _peer_of(writer)
        if self._stopping.is_set() or self._shares.denied(peer, 1):
            self._observer.rejected("TOO_MANY_CONNECTIONS")
            writer.transport.abort()
            return
        self._shares.take(peer, 1)
        raw_socket = writer.get_extra_info("socket")
        if raw_socket is not None:
            raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        deframer = Deframer(self._profile.max_message_bytes, self._limits.max_garbage_bytes)
        connection = _Connection(reader, writer, deframer, peer, Patience(reader))
        task = asyncio.get_running_loop().create_task(self._guarded(sink, connection))
        self._connections[task] = connection
        self._observer.connected(len(self._connections))
        task.add_done_callback(self._disconnected)

    def _disconnected(self, task: asyncio.Task[None]) -> None:
        connection = self._connections.pop(task)
        self._shares.give(connection.peer, 1)
        self._observer.disconnected(len(self._connections))

    async def _guarded(self, sink: Sink, connection: _Connection) -> None:
        """One connection; what a peer can do ends it, a fault of the program ends the service."""
        try:
            await self._serve(sink, connection)
        except (ConnectionError, ssl.SSLError):
            pass
        except TimeoutError:
            self._observer.rejected("PEER_TIMEOUT")
        except Exception as fault:  # noqa: BLE001 - raised again by run(), which ends the role
            self._failure = self._failure or fault
            self._wake.set()
        finally:
            self._short_again(connection)
            connection.patience.close()
            connection.writer.close()
            await self._closed(connection.writer)

    async def _closed(self, writer: asyncio.StreamWriter) -> None:
        """Let the last answer leave, for a bounded time."""
        try:
            async with asyncio.timeout(self._limits.write_timeout_s):
                await writer.wait_closed()
        except (TimeoutError, OSError):
            writer.transport.abort()

    async def _serve(self, sink: Sink, connection: _Connection) -> None:
        while not self._stopping.is_set():
            if sink.pressure() >= self._limits.pressure_high:
                await self._relief(sink)
            block = await self._next(connection)
            if block is None or self._stopping.is_set():
                return
            connection.busy = True
            match block:
                case Block(body):
                    self._observer.message_in()
                    begun = asyncio.get_running_loop().time()
                    answer = await self._answers.to(sink, body)
                    if answer is None:
                        return
                    await self._send(connection, answer, begun)
                case TooLong(head):
                    await self._too_long(connection, head)
                    return
                case Garbage():
                    self._observer.rejected("GARBAGE")
                    return
                case _:
                    assert_never(block)
            self._short_again(connection)
            connection.busy = False

    async def _relief(self, sink: Sink) -> None:
        """Read nothing while the way to the broker is full; the peer feels it through TCP."""
        while sink.pressure() >= self._limits.pressure_high and not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.pressure_poll_s):
                    await self._stopping.wait()

    async def _next(self, connection: _Connection) -> Block | TooLong | Garbage | None:
        """The next frame; None at the end of the stream. A frame that never ends was never answered: it is sent again.

        A frame has one deadline from its first byte on, however slowly its bytes drip.
        """
        loop = asyncio.get_running_loop()
        begun: float | None = None
        while (block := connection.deframer.next()) is None:
            if connection.deframer.inside and begun is None:
                begun = loop.time()
            until = loop.time() + self._limits.idle_timeout_s if begun is None else begun + self._limits.frame_timeout_s
            connection.patience.begin(until)
            data = await connection.reader.read(READ_BYTES)
            connection.patience.end()
            if not data:
                return None
            connection.deframer.feed(data)
            if connection.deframer.held_bytes > LONG_FRAME_BYTES and not connection.is_long:
                began_wait = loop.time()
                await self._place_for_long(connection)
                begun = None if begun is None else begun + loop.time() - began_wait
        return block

    async def _place_for_long(self, connection: _Connection) -> None:
        """Wait for a place before more of a long message is read: meanwhile its sender feels it through TCP."""
        async with asyncio.timeout(self._limits.long_frame_wait_s):
            await self._long_frames.acquire()
        connection.is_long = True
        self._long_held += 1
        self._observer.long_frames(self._long_held)

    def _short_again(self, connection: _Connection) -> None:
        if connection.is_long:
            connection.is_long = False
            self._long_frames.release()
            self._long_held -= 1
            self._observer.long_frames(self._long_held)

    async def _too_long(self, connection: _Connection, head: bytes) -> None:
        """AR, then close: what follows of the frame can't be told from the next one. Too large to be kept.

        For a bounded time the rest is read and dropped: closing over unread bytes would reset the answer away.
        """
        self._observer.rejected(Reason.TOO_LONG.value)
        begun = asyncio.get_running_loop().time()
        await self._send(connection, ack.too_long(head, self._profile.charset_fallback), begun)
        if connection.writer.can_write_eof():
            connection.writer.write_eof()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.linger_s):
                while await connection.reader.read(READ_BYTES):
                    pass

    async def _send(self, connection: _Connection, answer: bytes, begun: float) -> None:
        for part in ack.each(answer):
            connection.writer.write(frame(part))
        if connection.writer.transport.get_write_buffer_size() > UNREAD_BYTES:
            async with asyncio.timeout(self._limits.write_timeout_s):
                await connection.writer.drain()
        self._observer.answered(ack.code_of(answer), asyncio.get_running_loop().time() - begun)


def _peer_of(writer: asyncio.StreamWriter) -> str:
    """Who has a connection: the peer's certificate where it has one, else its address. Never shown."""
    tls = writer.get_extra_info("ssl_object")
    certificate = tls.getpeercert(binary_form=True) if tls is not None else None
    if certificate:
        return hashlib.sha256(certificate).hexdigest()
    name = writer.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) else ""


async def _first(*waits: Awaitable[object]) -> None:
    """Return when one of them is done; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
