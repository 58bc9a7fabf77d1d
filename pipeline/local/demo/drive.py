"""Sends a trace as its systems would: HL7 v2 over MLLP, events by HTTP, each sender repeating what was not answered.

Keeps the sender's own log of what was answered "yes": the only witness of what must not be lost.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from pipeline.local.demo.trace import Step
from pipeline.local.ports import HOST

START, END = b"\x0b", b"\x1c\r"
MLLP_CONNECTIONS: Final = 4
SUBJECT_FIELD: Final = {"PID": 3, "NPU": 1}
HTTP_AT_ONCE: Final = 16
RETRY_S: Final = 0.25
GIVE_UP_S: Final = 120.0
ANSWER_S: Final = 30.0
NEVER: Final = frozenset({400, 401, 403, 413, 415, 422})
"""HTTP statuses after which the same request is not worth sending again."""


@dataclass(slots=True)
class Sent:
    """The sender's log."""

    yes: dict[str, float] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)
    retries: int = 0

    @property
    def total(self) -> int:
        """Messages that were answered, repeats included."""
        return sum(self.answers.values())


class Driver:
    """Plays a trace against one pipeline. `at` 0 is the moment of `play`."""

    def __init__(self, http_url: str, token: str, mllp_port: int, *, paced: bool = True, give_up_s: float = GIVE_UP_S) -> None:
        self.sent = Sent()
        self._http_url = http_url
        self._token = token
        self._mllp_port = mllp_port
        self._paced = paced
        self._give_up_s = give_up_s

    async def play(self, steps: Sequence[Step], tick: Callable[[], None] = lambda: None) -> None:
        """Send every step at its time; returns when each was answered. A patient's messages keep their connection."""
        began = time.monotonic()
        hl7: list[asyncio.Queue[Step | None]] = [asyncio.Queue() for _ in range(MLLP_CONNECTIONS)]
        http: asyncio.Queue[Step | None] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            for queue in hl7:
                group.create_task(self._mllp(queue))
            for _ in range(HTTP_AT_ONCE):
                group.create_task(self._http(http))
            for step in steps:
                if self._paced and (wait := step.at_s - (time.monotonic() - began)) > 0:
                    await asyncio.sleep(wait)
                tick()
                (http if step.kind == "http" else hl7[_lane(step)]).put_nowait(step)
            for queue in hl7:
                queue.put_nowait(None)
            for _ in range(HTTP_AT_ONCE):
                http.put_nowait(None)

    async def _mllp(self, queue: "asyncio.Queue[Step | None]") -> None:
        """One connection: the next message goes out when the one before is acknowledged."""
        reader: asyncio.StreamReader | None = None
        writer: asyncio.StreamWriter | None = None
        while (step := await queue.get()) is not None:
            deadline = time.monotonic() + self._give_up_s
            while True:
                try:
                    if writer is None or reader is None:
                        reader, writer = await asyncio.open_connection(HOST, self._mllp_port)
                    code = await _exchange(reader, writer, step.body.encode())
                except (OSError, asyncio.IncompleteReadError, TimeoutError):
                    code = ""
                    _close(writer)
                    writer = None
                if self._done(step, code, code in ("AA",), code in ("AR",)):
                    break
                if time.monotonic() > deadline:
                    self.sent.refused.append(f"{step.identity}: no answer")
                    break
                self.sent.retries += 1
                await asyncio.sleep(RETRY_S)
        _close(writer)

    async def _http(self, queue: "asyncio.Queue[Step | None]") -> None:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_S)) as session:
            while (step := await queue.get()) is not None:
                deadline = time.monotonic() + self._give_up_s
                while True:
                    status = await self._post(session, headers, step)
                    if self._done(step, str(status), status == 202, status in NEVER):
                        break
                    if time.monotonic() > deadline:
                        self.sent.refused.append(f"{step.identity}: no answer")
                        break
                    self.sent.retries += 1
                    await asyncio.sleep(RETRY_S)

    async def _post(self, session: aiohttp.ClientSession, headers: dict[str, str], step: Step) -> int:
        try:
            request = session.post(
                f"{self._http_url}/v1/events", data=step.body.encode(), headers={**headers, "Idempotency-Key": step.identity}
            )
            async with request as response:
                await response.read()
                return response.status
        except (aiohttp.ClientError, OSError, TimeoutError):
            return 0

    def _done(self, step: Step, answer: str, yes: bool, never: bool) -> bool:
        if yes:
            self.sent.yes.setdefault(step.identity, time.time())
        elif never:
            self.sent.refused.append(f"{step.identity}: {answer}")
        if yes or never:
            self.sent.answers[answer] += 1
        return yes or never


def _lane(step: Step) -> int:
    """Connection of an HL7 step: by patient, so that one patient's messages keep their order."""
    return sum(subject_of(step).encode()) % MLLP_CONNECTIONS


def subject_of(step: Step) -> str:
    """Whom an HL7 step is about: PID-3 or NPU-1, which stay when a name is corrected."""
    for segment in step.body.split("\r"):
        fields = segment.split("|")
        if fields[0] in SUBJECT_FIELD:
            return fields[SUBJECT_FIELD[fields[0]]]
    return step.identity


def acknowledgement_of(answer: bytes) -> str:
    """MSA-1 of an answer: AA, AE, AR, CA, CE or CR; empty where there is none."""
    acknowledgement = next((s for s in answer.split(b"\r") if s.startswith(b"MSA")), b"MSA|")
    return acknowledgement.split(b"|")[1].decode()


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: bytes) -> str:
    writer.write(START + message + END)
    await writer.drain()
    async with asyncio.timeout(ANSWER_S):
        answer = await reader.readuntil(END)
    return acknowledgement_of(answer)


def _close(writer: asyncio.StreamWriter | None) -> None:
    if writer is not None:
        writer.close()
