"""Senders that never tire, each with its own log of what was answered yes; and what a process of ours takes of memory."""

import asyncio
import itertools
import json
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pipeline.local.ports import HOST
from pipeline.local.stack import Stack

NUMBERS: Final = itertools.count(1)
ANSWER_S: Final = 40.0
DEAF_REQUESTS: Final = 5_000
"""Enough to fill what the kernel keeps of answers that nobody reads."""
PAUSE_S: Final = 0.2
"""After a refusal; a real sender would wait for Retry-After, and this one is no kind one."""


def memory_mib(pid: int, what: str = "VmRSS") -> float:
    """Resident memory of a process now, or with VmHWM at its greatest."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def cpu_s(pid: int) -> float:
    """Time that a process has computed, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def bed(number: int) -> dict[str, Any]:
    moment = time.time_ns() // 1_000_000
    return {
        "facility": "GENERAL",
        "source_system": "capacity",
        "entity_type": "bed",
        "namespace": "GENERAL",
        "entity_id": f"P-{number}",
        "event_type": "BED_STATUS",
        "recorded_at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment / 1000)) + f".{moment % 1000:03d}Z",
        "payload": {"environment": "DIRTY"},
    }


@dataclass(slots=True)
class Sender:
    """One kind of sender over several connections. `yes`: entity ids whose message was answered yes."""

    stack: Stack
    connections: int
    padding: int = 0
    token: str = ""
    yes: set[str] = field(default_factory=set)
    said: Counter[str] = field(default_factory=Counter)
    retry_after: set[int] = field(default_factory=set)
    slowest_s: float = 0.0
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Send until stopped."""
        await asyncio.gather(*(self._connection() for _ in range(self.connections)))

    async def _connection(self) -> None:
        while not self.stop.is_set():
            try:
                reader, writer = await asyncio.open_connection(*self.address())
                try:
                    while not self.stop.is_set():
                        async with asyncio.timeout(ANSWER_S):
                            await self._one(reader, writer)
                finally:
                    writer.close()
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                self.said["timeout" if isinstance(error, TimeoutError) else "connection"] += 1
                await asyncio.sleep(PAUSE_S)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(NUMBERS)
        writer.write(self.message(number))
        await writer.drain()
        began = time.monotonic()
        answer = await self.answer(reader)
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)
        self.said[answer] += 1
        if answer in ("202", "204", "AA"):
            self.yes.add(f"P-{number}")
        else:
            await asyncio.sleep(PAUSE_S)

    def address(self) -> tuple[str, int]:
        """Where it sends to."""
        raise NotImplementedError

    def message(self, number: int) -> bytes:
        """One message as it travels."""
        raise NotImplementedError

    async def answer(self, reader: asyncio.StreamReader) -> str:
        """Code of one answer."""
        raise NotImplementedError


class HttpSender(Sender):
    """Events by HTTP."""

    def address(self) -> tuple[str, int]:
        return HOST, self.stack.http_port

    def message(self, number: int) -> bytes:
        body = json.dumps({"events": [bed(number)]}).encode() + b" " * self.padding
        return request("/v1/events:batch", body, self.token or self.stack.token, f"p-{number}")

    async def answer(self, reader: asyncio.StreamReader) -> str:
        return await http_answer(self, reader)


class FhirSender(Sender):
    """Patients by a classic rest-hook."""

    def address(self) -> tuple[str, int]:
        return HOST, self.stack.settings.fhir.port

    def message(self, number: int) -> bytes:
        resource = {
            "resourceType": "Patient",
            "id": f"p{number}",
            "meta": {"versionId": "1", "lastUpdated": "2026-01-05T10:00:00Z"},
            "identifier": [{"system": "https://surgeline.dev/fhir/id/demo/patient", "value": f"GENERAL/P-{number}"}],
            "gender": "female",
        }
        return request("/fhir/flood", json.dumps(resource).encode() + b" " * self.padding, self.token, "")

    async def answer(self, reader: asyncio.StreamReader) -> str:
        return await http_answer(self, reader)


class MllpSender(Sender):
    """A20 messages."""

    def address(self) -> tuple[str, int]:
        return HOST, self.stack.mllp_port

    def message(self, number: int) -> bytes:
        now = time.strftime("%Y%m%d%H%M%S", time.gmtime())
        text = (
            f"MSH|^~\\&|CAP|GENERAL|||{now}+0000||ADT^A20|P{number}|P|2.5.1\rEVN||{now}+0000\rNPU|PU^P-{number}^A^GENERAL|H\r"
            f"NTE|1|{'x' * self.padding}\r"
        )
        return b"\x0b" + text.encode() + b"\x1c\r"

    async def answer(self, reader: asyncio.StreamReader) -> str:
        said = await reader.readuntil(b"\x1c\r")
        return said.partition(b"\rMSA|")[2][:2].decode()


def rude_connections(stack: Stack) -> list[socket.socket]:
    """Connections to each way in that stay open: silent ones, half a message at each, and one that reads no answer."""
    ports = (stack.http_port, stack.mllp_port, stack.settings.fhir.port)
    begun = (request("/v1/events", b"x" * 500, stack.token, "half")[:-200], b"\x0bMSH|^~", b"POST /fhir/flood HTTP/1.1\r\nHo")
    held = []
    for port, half in zip(ports, begun, strict=True):
        held += [socket.create_connection((HOST, port), timeout=ANSWER_S) for _ in range(10)]
        held[-1].sendall(half)
    deaf = held[0]
    deaf.settimeout(PAUSE_S)
    try:
        for _ in range(DEAF_REQUESTS):
            deaf.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 10)
    except OSError:
        return held
    return held


def request(path: str, body: bytes, token: str, key: str) -> bytes:
    """A POST as it travels."""
    named = f"Idempotency-Key: {key}\r\n" if key else ""
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{named}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


async def http_answer(sender: Sender, reader: asyncio.StreamReader) -> str:
    """Status of an answer; its body is read over."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    await reader.readexactly(int(fields.get("content-length", "0")))
    if "retry-after" in fields:
        sender.retry_after.add(int(fields["retry-after"]))
    if fields.get("connection") == "close":
        sender.said[head.split()[1]] += 1
        raise ConnectionResetError
    return head.split()[1]
