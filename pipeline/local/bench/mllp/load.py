"""The sender of `surgeline bench mllp`: ADT of 1 KB over many connections, each with one message in flight, and a log of what
was acknowledged. One load sends as fast as answers come; the other at a rate, and its times begin when a message was due."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Final, cast

from pipeline.formats.hl7v2.framing import END, START, frame
from pipeline.local.errors import LocalPlatformError
from pipeline.local.ports import HOST

APPLICATION: Final = "BENCH"
FACILITY: Final = "GENERAL"
PATIENTS: Final = 5_000
MESSAGE_BYTES: Final = 1_024
CONNECT_S: Final = 20.0
DRAIN_S: Final = 30.0
"""Longest wait for the answers that are due when a load is over."""
TICK_S: Final = 0.002

_ADT: Final = "\r".join(
    (
        f"MSH|^~\\&|{APPLICATION}|{FACILITY}|SURGELINE|{FACILITY}|{{at}}+0000||ADT^A02^ADT_A02|{{id}}|P|2.5.1",
        "EVN|A02|{at}+0000|||OP1^OPERATOR^ONE",
        "PID|1||P{n}^^^GENERAL^MR||TESTER^NUMBER^{n}||19700101|F|||1 BENCH STREET^^SPRINGFIELD^IL^62701^US||5550100",
        "PV1|1|I|MED^{room}^A^GENERAL||MED^3^B^GENERAL||A1^DOC^ATT^^^DR|B2^DOC^REF||MED||||7|A0||A1^DOC^ATT|IP|V{n}^^^GENERAL^VN"
        + "|" * 25
        + "20260101080000+0000",
        "NK1|1|TESTER^NEXT^OF|SPO^SPOUSE^HL70063|1 BENCH STREET^^SPRINGFIELD^IL^62701^US|5550101",
        "NTE|1||",
    )
)


@dataclass(frozen=True, slots=True)
class Messages:
    """The messages of one run: the same number makes the same bytes again."""

    run: str
    """At most eight characters; no two runs on one pipeline have the same."""
    at: str
    """MSH-7 and EVN-2, UTC, to the second."""

    def control_id(self, number: int) -> str:
        """MSH-10."""
        return f"{self.run}-{number:08d}"

    def body(self, number: int) -> bytes:
        """One transfer of one of PATIENTS patients, of MESSAGE_BYTES."""
        n = number % PATIENTS
        values = {"at": self.at, "id": self.control_id(number), "n": n, "room": number % 97}
        text = _ADT.format(**values)
        return (text + "x" * (MESSAGE_BYTES - len(text) - 1) + "\r").encode()


@dataclass(slots=True)
class Log:
    """What the sender knows: who was answered yes, every answer's code, and seconds from sent (or due) to answered."""

    yes: set[int] = field(default_factory=set)
    codes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    astray: int = 0
    """Answers to something else than what was asked."""
    began: float = 0.0
    ended: float = 0.0
    """When the last answer came."""

    def percentile_ms(self, share: float) -> float:
        """Nearest rank; 0 without an answer."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000 if ordered else 0.0

    @property
    def per_s(self) -> float:
        """Messages acknowledged in a second."""
        return len(self.yes) / max(1e-9, self.ended - self.began)


class Line(asyncio.Protocol):
    """One connection with one message in flight."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self.number = -1
        """Message that was sent last; none was below 0."""
        self.since = 0.0
        """When it was sent, or due."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its type

    def send(self, number: int, body: bytes, since: float) -> None:
        """The message before was answered."""
        assert self._transport is not None
        self.number, self.since = number, since
        self._transport.write(frame(body))

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self._buffer += data
        while (end := self._buffer.find(END)) >= 0:
            answer, self._buffer = self._buffer[:end].lstrip(START), self._buffer[end + len(END) :]
            self._load.answered(self, answer)

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio."""
        self._load.lost(self)

    def close(self) -> None:
        """Safe to repeat."""
        if self._transport is not None:
            self._transport.close()


class Load:
    """Connections to one port, and the loads over them. For one event loop."""

    def __init__(self, port: int, connections: int, messages: Messages) -> None:
        self._port, self._connections, self._messages = port, connections, messages
        self._numbers: Iterator[int] = count()
        self._lines: list[Line] = []
        self._log = Log()
        self._idle: deque[Line] = deque()
        self._until = 0.0
        self._is_closed_loop = False
        self._lost = 0

    async def connect(self) -> None:
        """All connections. LocalPlatformError where the other end takes fewer."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S):
                for _ in range(self._connections):
                    _, line = await loop.create_connection(lambda: Line(self), HOST, self._port)
                    self._lines.append(line)
        except OSError:
            raise LocalPlatformError(f"{len(self._lines)} of {self._connections} connections were taken") from None
        self._idle.extend(self._lines)

    async def close(self) -> None:
        """End the connections."""
        for line in self._lines:
            line.close()
        self._lines.clear()
        self._idle.clear()

    async def as_fast_as_answered(self, seconds: float, connections: int | None = None) -> Log:
        """The next message goes out when the one before is answered, on each connection, or on so many of them."""
        self._log = Log(began=time.monotonic())
        self._until, self._is_closed_loop = self._log.began + seconds, True
        for line in tuple(self._idle)[:connections]:
            self._next(line)
        await asyncio.sleep(seconds)
        await self._drained()
        return self._log

    async def at_rate(self, per_s: float, seconds: float) -> Log:
        """Messages are due at even times, whether or not a connection is idle then; what waits is answered late."""
        self._log = log = Log(began=time.monotonic())
        self._is_closed_loop = False
        total, begun = int(per_s * seconds), 0
        deadline = log.began + seconds + DRAIN_S
        while (begun < total or len(self._idle) < len(self._lines)) and time.monotonic() < deadline:
            due = min(total, int((time.monotonic() - log.began) * per_s))
            while begun < due and self._idle:
                self._send(self._idle.popleft(), log.began + begun / per_s)
                begun += 1
            await asyncio.sleep(TICK_S)
        return log

    async def until_lost(self) -> None:
        """Until every connection has ended, for who kills the other end. LocalPlatformError where one does not."""
        deadline = time.monotonic() + DRAIN_S
        while self._lost < len(self._lines):
            if time.monotonic() > deadline:
                raise LocalPlatformError(f"{len(self._lines) - self._lost} connections outlived the other end")
            await asyncio.sleep(TICK_S)

    def begin(self) -> Log:
        """As fast as answered, without an end; for who ends it otherwise."""
        self._log = Log(began=time.monotonic())
        self._until, self._is_closed_loop = float("inf"), True
        for line in tuple(self._idle):
            self._next(line)
        return self._log

    async def _drained(self) -> None:
        deadline = time.monotonic() + DRAIN_S
        while len(self._idle) < len(self._lines):
            if time.monotonic() > deadline or self._lost:
                raise LocalPlatformError(f"{len(self._lines) - len(self._idle)} messages were not answered")
            await asyncio.sleep(TICK_S)

    def _next(self, line: Line) -> None:
        self._idle.remove(line)
        self._send(line, time.monotonic())

    def _send(self, line: Line, since: float) -> None:
        number = next(self._numbers)
        line.send(number, self._messages.body(number), since)

    def answered(self, line: Line, answer: bytes) -> None:
        """A line has heard."""
        now = time.monotonic()
        code, control_id = acknowledgement(answer)
        if control_id != self._messages.control_id(line.number).encode():
            self._log.astray += 1
            return
        self._log.codes[code] += 1
        if code in ("AA", "CA"):
            self._log.yes.add(line.number)
        self._log.seconds.append(now - line.since)
        self._log.ended = now
        if self._is_closed_loop and now < self._until:
            self._send(line, now)
        else:
            self._idle.append(line)

    def lost(self, line: Line) -> None:
        """A line was cut."""
        self._lost += 1


def acknowledgement(answer: bytes) -> tuple[str, bytes]:
    """MSA-1 and MSA-2; empty where there is no MSA."""
    at = answer.find(b"\rMSA|")
    fields: Sequence[bytes] = answer[at + 1 :].split(b"\r", 1)[0].split(b"|") if at >= 0 else ()
    return (fields[1].decode("ascii", "replace"), fields[2]) if len(fields) > 2 else ("", b"")
