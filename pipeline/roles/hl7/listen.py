"""`surgeline hl7 listen`: an MLLP listener for trying a sender. It answers what it is told to, and keeps nothing by itself."""

import asyncio
import re
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pipeline.formats.hl7v2 import ack
from pipeline.formats.hl7v2.er7 import Malformed, Message, parse
from pipeline.formats.hl7v2.framing import Block, Deframer, Garbage, TooLong, frame
from pipeline.formats.hl7v2.header import type_of
from pipeline.formats.hl7v2.mapping import rejected_of
from pipeline.formats.hl7v2.verdict import Reason, Rejected
from pipeline.roles.hl7.send import shown
from pipeline.roles.process import Refused

MAX_FRAME_BYTES: Final = 4 << 20
MAX_GARBAGE_BYTES: Final = 64 << 10
MAX_CONNECTIONS: Final = 64
READ_BYTES: Final = 64 << 10
MAX_SEGMENTS_SHOWN: Final = 12

Answer = Literal["AA", "AE", "AR"]
ANSWERS: Final[dict[str, Answer]] = {"AA": "AA", "AE": "AE", "AR": "AR"}
"""What can be answered, by the word for it."""

ORDERED: Final = Rejected(Reason.UNSUPPORTED_MESSAGE, "MSH-9", "refused by order of whoever listens", "ask them")

_NAME: Final = re.compile(r"[A-Z0-9]{3}")


@dataclass(frozen=True, slots=True)
class Heard:
    """One message that came, as it is shown: nothing of its content but what names it."""

    number: int
    control_id: str
    name: str
    size: int
    segments: str
    code: str


@dataclass(frozen=True, slots=True)
class Ear:
    """How to listen. `count` and `for_s` end it: 0 for no end."""

    host: str
    port: int
    answer: Answer = "AA"
    save: Path | None = None
    count: int = 0
    for_s: float = 0.0
    delay_s: float = 0.0
    tls: ssl.SSLContext | None = None


class Listening:
    """Answers each message; tells of it once it is answered."""

    def __init__(self, ear: Ear, tell: Callable[[Heard], None]) -> None:
        if ear.save is not None:
            try:
                ear.save.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise Refused([f"{ear.save}: {error.strerror or 'can not be made'}"]) from None
        self._ear, self._tell = ear, tell
        self._enough = asyncio.Event()
        self._count = self._connections = 0
        self.port = 0

    async def run(self, listening: Callable[[int], None]) -> int:
        """Serve until the count or the time is reached; how many messages came. Refused where the port is taken."""
        try:
            server = await asyncio.start_server(self._serve, self._ear.host, self._ear.port, ssl=self._ear.tls)
        except OSError as error:
            raise Refused([f"{self._ear.host}:{self._ear.port}: {error.strerror or 'can not listen there'}"]) from None
        self.port = server.sockets[0].getsockname()[1]
        listening(self.port)
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._enough.wait(), self._ear.for_s or None)
        finally:
            server.close()
        return self._count

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._connections += 1
        deframer = Deframer(MAX_FRAME_BYTES, MAX_GARBAGE_BYTES)
        try:
            while not self._enough.is_set() and (data := await reader.read(READ_BYTES)):
                deframer.feed(data)
                while not self._enough.is_set() and (found := deframer.next()) is not None:
                    if isinstance(found, (TooLong, Garbage)):
                        return
                    await self._answer(found, writer)
        except OSError:
            return
        finally:
            self._connections -= 1
            writer.close()

    async def _answer(self, block: Block, writer: asyncio.StreamWriter) -> None:
        self._count += 1
        number, message = self._count, parse(block.body, max_bytes=MAX_FRAME_BYTES)
        if self._ear.delay_s:
            await asyncio.sleep(self._ear.delay_s)
        answer = ack.refused(None, rejected_of(message)) if isinstance(message, Malformed) else self._said(message)
        heard = _heard(number, block.body, message, ack.code_of(answer))
        if self._ear.save is not None:
            await asyncio.to_thread(_save, self._ear.save, heard, block.body)
        for part in ack.each(answer):
            writer.write(frame(part))
        await writer.drain()
        self._tell(heard)
        if self._ear.count and number >= self._ear.count:
            self._enough.set()

    def _said(self, message: Message) -> bytes:
        match self._ear.answer:
            case "AA":
                return ack.accepted(message)
            case "AE":
                return ack.try_again(message)
            case "AR":
                return ack.refused(message, ORDERED)


def _heard(number: int, body: bytes, message: Message | Malformed, code: str) -> Heard:
    if isinstance(message, Malformed):
        return Heard(number, "", "no message", len(body), message.reason, code)
    names = message.names()
    known = [name if _NAME.fullmatch(name) else "???" for name in names[:MAX_SEGMENTS_SHOWN]]
    more = f" and {len(names) - MAX_SEGMENTS_SHOWN} more" if len(names) > MAX_SEGMENTS_SHOWN else ""
    control_id = shown((message.field("MSH", 10) or "").strip())
    return Heard(number, control_id, "^".join(_part(part) for part in type_of(message)), len(body), " ".join(known) + more, code)


def _part(text: str) -> str:
    return text if _NAME.fullmatch(text) else "???"


def _save(folder: Path, heard: Heard, body: bytes) -> None:
    """Named by when it came and what it is, by nothing that it says; only its owner may read it."""
    kind = re.sub(r"[^A-Z0-9]+", "-", heard.name).strip("-")
    path = folder / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{heard.number:06d}-{kind or 'unknown'}.hl7"
    path.touch(mode=0o600)
    path.write_bytes(body)
