"""A receiver of HL7 v2 for tests: it answers by a script, and notes what it saw."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from pipeline.formats.hl7v2.er7 import Message, parse
from pipeline.formats.hl7v2.framing import Block, Deframer, frame
from pipeline.local.ports import HOST

Say = Callable[["Seen"], "bytes | None"]
"""What is written after a message; None ends the connection without a word."""


@dataclass
class Seen:
    """A message as it came; `number` counts all from 1."""

    number: int
    data: bytes
    message: Message

    @property
    def control_id(self) -> str:
        return self.message.field("MSH", 10) or ""

    @property
    def name(self) -> str:
        return f"{self.message.field('MSH', 9, component=1)}^{self.message.field('MSH', 9, component=2)}"

    @property
    def about(self) -> str:
        """What the message is about: its bed, appointment, visit or patient."""
        m = self.message
        bed = [m.field("NPU", 1, component=n) or "" for n in (4, 1, 2, 3)]
        return "/".join(bed) if any(bed) else m.field("SCH", 2) or m.field("PV1", 19) or m.field("PID", 3) or ""


def ack(code: str, control_id: str, *errors: str) -> bytes:
    """A framed acknowledgement."""
    err = "".join(f"ERR|||{error}|E\r" for error in errors)
    return frame(f"MSH|^~\\&|R||S||2026||ACK|A{control_id}|P|2.5.1\rMSA|{code}|{control_id}\r{err}".encode())


def always(code: str = "AA") -> Say:
    return lambda seen: ack(code, seen.control_id)


def scripted(codes: Sequence[str], then: str = "AA") -> Say:
    """One code after the other, whichever message it is; then always the same."""
    left = list(codes)
    return lambda seen: ack(left.pop(0) if left else then, seen.control_id)


@dataclass
class Receiver:
    """Bind with `listening`. `say` may be changed at any time."""

    say: Say = field(default_factory=always)
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    under_way: int = 0
    most_under_way: int = 0
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def of(self, about: str) -> list[Seen]:
        """Messages about one thing, in order, each control id once."""
        return list({seen.control_id: seen for seen in reversed(self.seen) if seen.about == about}.values())[::-1]

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.add(writer)
        deframer = Deframer(1 << 20, 1 << 16)
        with suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(1 << 16):
                deframer.feed(data)
                blocks = []
                while isinstance(found := deframer.next(), Block):
                    blocks.append(found)
                self.most_under_way = max(self.most_under_way, len(blocks))
                for block in blocks:
                    message = parse(block.body)
                    assert isinstance(message, Message)
                    self.seen.append(Seen(len(self.seen) + 1, block.body, message))
                    said = self.say(self.seen[-1])
                    if said is None:
                        writer.transport.abort()
                        return
                    writer.write(said)
                await writer.drain()
        self.writers.discard(writer)
        writer.close()

    def drop_all(self) -> None:
        """End every connection."""
        for writer in list(self.writers):
            writer.transport.abort()
        self.writers.clear()


@asynccontextmanager
async def listening(receiver: Receiver, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """The receiver at a port of this machine."""
    server = await asyncio.start_server(receiver.handle, HOST, port, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        receiver.drop_all()
