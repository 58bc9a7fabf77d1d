"""MLLP from the sender's side: one connection, a window of messages on it, each answered by the MSA-2 that names it.

What the peer may do wrong, and what becomes of it:

* an answer that names no message that waits (late, repeated, of somebody else): counted and dropped, never matched to another;
* an answer that is no HL7 v2, has no MSA or is too long, and bytes outside of frames: whom it is for can't be told, so the
  connection is given up, and all that wait on it are unanswered;
* no answer in time, the end of the connection in the midst of one: unanswered; the connection is given up, so that what
  comes later can't be taken for the answer to a repeat.

An unanswered message may have been taken: whoever sends it again does so under the same control id. Nothing is sent but
messages; there are no probes and no keepalive on an idle connection.
"""

import asyncio
import contextlib
import enum
import re
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pipeline.formats.hl7v2.ack import Code
from pipeline.formats.hl7v2.er7 import Message, parse
from pipeline.formats.hl7v2.framing import Block, Deframer, Garbage, TooLong, frame

MAX_ANSWER_BYTES: Final = 256 * 1024
MAX_GARBAGE_BYTES: Final = 4 * 1024
READ_BYTES: Final = 64 * 1024
REMEMBERED: Final = 1_000
"""Control ids that are known to have been answered: their next answer is late and not unknown."""

MAX_ERRORS: Final = 5
"""ERR segments of an answer that are told."""

CLOSE_S: Final = 2.0
"""Time for a connection to end in order."""

COMMIT_TAKEN: Final = b"\x06"
COMMIT_NOT_TAKEN: Final = b"\x15"
"""Transport acknowledgements of MLLP release 2. The first says nothing about a message; after the second it was not stored."""

_ERROR: Final = re.compile(r"[A-Za-z0-9_.-]{1,20}")


class News(enum.StrEnum):
    """What happens on the connection, for metrics; bounded."""

    CONNECTED = "connected"
    NOT_CONNECTED = "not_connected"
    ENDED = "ended"
    LATE = "late"
    UNKNOWN = "unknown"
    UNREADABLE = "unreadable"
    NO_ANSWER = "no_answer"


Observe = Callable[[News], None]


def unheard(_: News) -> None:
    """Nobody is told."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The peer's answer. `errors` are codes of ERR-3, or of ERR-1.4 before 2.5; `text` may hold anything, even a name."""

    code: Code
    errors: tuple[str, ...] = ()
    text: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class NotSent:
    """No byte of the message reached the peer. `timed_out`: there was no connection in time; else it was refused or failed."""

    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Unanswered:
    """It was sent, wholly or in part, and no answer came: it may have been taken."""

    timed_out: bool = False


Answer = Acknowledged | NotSent | Unanswered


@dataclass(frozen=True, slots=True)
class Bounds:
    """Times in seconds."""

    connect_s: float
    answer_s: float


@dataclass(frozen=True, slots=True)
class Address:
    """Where the peer listens; `tls` gives the context for the next connection, None for none."""

    host: str
    port: int
    tls: Callable[[], ssl.SSLContext] | None = None


@dataclass(slots=True)
class _Waiting:
    """A message under way. `until_applied`: a commit acknowledgement that takes it is not the last word."""

    answer: "asyncio.Future[Answer]"
    until_applied: bool


class _Connection:
    """One connection; ends by itself where the peer ends it or does something that can't be read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, observe: Observe) -> None:
        self._reader, self._writer, self._observe = reader, writer, observe
        self._deframer = Deframer(MAX_ANSWER_BYTES, MAX_GARBAGE_BYTES)
        self._waiting: dict[str, _Waiting] = {}
        self._answered: deque[str] = deque(maxlen=REMEMBERED)
        self.ended = False
        self._listening = asyncio.create_task(self._listen())

    async def exchange(self, control_id: str, data: bytes, until_applied: bool, within_s: float) -> Answer:
        """Send, and wait for the answer that names the message; a second one of the same control id has to wait its turn."""
        if control_id in self._waiting:
            raise ValueError("a message of this control id is under way")
        waiting = _Waiting(asyncio.get_running_loop().create_future(), until_applied)
        self._waiting[control_id] = waiting
        try:
            async with asyncio.timeout(within_s):
                self._writer.write(frame(data))
                await self._writer.drain()
                return await waiting.answer
        except TimeoutError:
            self._observe(News.NO_ANSWER)
            self.cut()
            return Unanswered(timed_out=True)
        except OSError:
            self.cut()
            return Unanswered()
        finally:
            self._waiting.pop(control_id, None)
            self._answered.append(control_id)

    async def _listen(self) -> None:
        try:
            while data := await self._reader.read(READ_BYTES):
                self._deframer.feed(data)
                while (found := self._deframer.next()) is not None:
                    if not self._take(found):
                        self._observe(News.UNREADABLE)
                        return
        except OSError:
            return
        finally:
            self.cut()

    def _take(self, found: Block | TooLong | Garbage) -> bool:
        """Whether the connection can go on."""
        if not isinstance(found, Block):
            return False
        if found.body == COMMIT_TAKEN:
            return True
        message = parse(found.body) if found.body != COMMIT_NOT_TAKEN else None
        told = acknowledged_of(message) if isinstance(message, Message) else None
        if told is None:
            return False
        control_id, answer = told
        waiting = self._waiting.get(control_id)
        if waiting is None or waiting.answer.done():
            self._observe(News.LATE if control_id in self._answered or waiting is not None else News.UNKNOWN)
        elif not (waiting.until_applied and answer.code is Code.CA):
            waiting.answer.set_result(answer)
        return True

    def cut(self) -> None:
        """Give the connection up at once; whatever waits is unanswered. Safe to repeat."""
        if self.ended:
            return
        self.ended = True
        self._observe(News.ENDED)
        self._writer.transport.abort()
        for waiting in self._waiting.values():
            if not waiting.answer.done():
                waiting.answer.set_result(Unanswered())
        if asyncio.current_task() is not self._listening:
            self._listening.cancel()

    async def close(self) -> None:
        """End it in order, at most CLOSE_S long."""
        if not self.ended:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    self._writer.close()
                    await self._writer.wait_closed()
        self.cut()
        with contextlib.suppress(asyncio.CancelledError):
            await self._listening


class MllpClient:
    """Sends messages to one peer over one connection, which is made when it is needed and again after it ended.

    `send` may be called for several messages at once: how many is the caller's window, and no two of one control id.
    """

    def __init__(self, address: Address, bounds: Bounds, observe: Observe = unheard) -> None:
        self._address, self._bounds, self._observe = address, bounds, observe
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[_Connection | NotSent] | None = None
        self._closed = False

    async def send(
        self, control_id: str, data: bytes, *, until_applied: bool = False, may_go: Callable[[], bool] | None = None
    ) -> Answer:
        """Send one message once. `may_go` is asked once there is a connection, just before the first byte."""
        connection = await self._connected()
        if isinstance(connection, NotSent):
            return connection
        if may_go is not None and not may_go():
            return NotSent()
        return await connection.exchange(control_id, data, until_applied, self._bounds.answer_s)

    async def _connected(self) -> _Connection | NotSent:
        """The connection; those that want one at the same time share one attempt at it."""
        if self._closed:
            return NotSent()
        if self._connection is not None and not self._connection.ended:
            return self._connection
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(self._tried)
        return await asyncio.shield(self._connecting)

    def _tried(self, _: "asyncio.Task[_Connection | NotSent]") -> None:
        self._connecting = None

    async def _connect(self) -> _Connection | NotSent:
        address = self._address
        tls = address.tls() if address.tls is not None else None
        try:
            async with asyncio.timeout(self._bounds.connect_s):
                reader, writer = await asyncio.open_connection(
                    address.host, address.port, ssl=tls, server_hostname=address.host if tls is not None else None
                )
        except TimeoutError:
            self._observe(News.NOT_CONNECTED)
            return NotSent(timed_out=True)
        except (OSError, ssl.CertificateError, UnicodeError):  # the last: a name that no host can have
            self._observe(News.NOT_CONNECTED)
            return NotSent()
        self._observe(News.CONNECTED)
        self._connection = _Connection(reader, writer, self._observe)
        return self._connection

    def cut(self) -> None:
        """Give the connection up at once; what waits on it is unanswered."""
        if self._connection is not None:
            self._connection.cut()

    async def close(self) -> None:
        """End the connection; nothing is sent any more. Safe to repeat."""
        self._closed = True
        if self._connecting is not None:
            await asyncio.shield(self._connecting)
        if self._connection is not None:
            await self._connection.close()
            self._connection = None


def acknowledged_of(message: Message) -> tuple[str, Acknowledged] | None:
    """MSA-2 and what is said of that message; None where it is no acknowledgement."""
    msa = message.segment("MSA")
    code = (msa.value(1) or "").strip().upper() if msa is not None else ""
    if msa is None or code not in set(Code):
        return None
    errors, texts = [], []
    for err in message.segments("ERR")[:MAX_ERRORS]:
        said = err.value(3, 1) or err.value(1, 4) or err.value(5, 1)
        if said and _ERROR.fullmatch(said):
            errors.append(said)
        texts += [text for n in (7, 8) if (text := err.value(n))]
    text = "; ".join([*([msa.value(3) or ""] if msa.value(3) else []), *texts])
    return (msa.value(2) or "").strip(), Acknowledged(Code(code), tuple(errors), text)
