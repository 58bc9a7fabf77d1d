"""How the conformance suite drives each way in: how it is started, how a message is sent to it, and what its answers mean."""

import asyncio
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, Protocol

import httpx
import pytest
from msgspec.structs import replace

from pipeline.domain.subscriptions.life import Watch
from pipeline.formats.hl7v2.framing import frame
from pipeline.local.ports import is_listening
from pipeline.roles.ways_in.intake import hl7_profile
from pipeline.sources.fhir import receiver as fhir_module
from pipeline.sources.fhir.feed import Feed, FeedConfig
from pipeline.sources.fhir.keeper import Plan
from pipeline.sources.fhir.receiver import FhirSource, Listener
from pipeline.sources.fhir.resource import Wanted
from pipeline.sources.fhir.secret import HookSecret
from pipeline.sources.fhir.server import FhirServer, Reply
from pipeline.sources.files.watch import FilesSource
from pipeline.sources.http import source as http_module
from pipeline.sources.http.openapi import EXAMPLE
from pipeline.sources.http.source import HttpSource
from pipeline.sources.mllp.source import MllpLimits, MllpSource
from pipeline.sources.protocol import Source
from tests.support import fhir_in, fhir_in_server, files_in
from tests.support.files_desk import Office
from tests.support.http_fakes import headers, new_tracker, settings

CANARY: Final = "Zzyzxqv"
BOUND_S: Final = 20.0
"""A role is gone this long after SIGTERM; nothing in the suite takes longer."""
SHORT_DRAIN_S: Final = 1.0


class Said(Enum):
    """What an answer means to the sender."""

    YES = "durable: never send it again"
    TRY_AGAIN = "not taken: send the same again"
    REFUSED = "never send this again"
    NOTHING = "no answer: send the same again"


@dataclass(frozen=True)
class Answer:
    said: Said
    text: bytes = b""


class Adapter(Protocol):
    """How one source is driven."""

    def source(self) -> Source:
        """A source that listens on a free port of loopback and drains for SHORT_DRAIN_S at most."""
        ...

    def port(self, source: Source) -> int:
        """Where it listens; 0 as long as it does not."""
        ...

    def message(self, number: int, variant: int = 0) -> bytes:
        """A message with CANARY in it. One number is one identity at its source; a variant has another body."""
        ...

    def serves(self, source: Source) -> bool:
        """Whether what is sent now reaches it."""
        ...

    async def send(self, port: int, message: bytes, number: int) -> Answer:
        """Send it and say what was answered; `NOTHING` if the connection ends first."""
        ...


class Listens:
    """Of a source that listens on a port."""

    def port(self, source: Source) -> int:
        raise NotImplementedError

    def serves(self, source: Source) -> bool:
        return bool(port := self.port(source)) and is_listening(port)


class HttpAdapter(Listens):
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http_module, "DRAIN_S", SHORT_DRAIN_S)

    def source(self) -> Source:
        return HttpSource(settings(port=0), new_tracker())

    def port(self, source: Source) -> int:
        assert isinstance(source, HttpSource)
        return source.port

    def message(self, number: int, variant: int = 0) -> bytes:
        return json.dumps({**EXAMPLE, "entity_id": CANARY, "user": f"V{variant}"}).encode()

    async def send(self, port: int, message: bytes, number: int) -> Answer:
        transport = httpx.AsyncHTTPTransport(retries=3)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", transport=transport, timeout=BOUND_S) as client:
            try:
                answer = await client.post("/v1/events", content=message, headers=headers(f"key-{number}"))
            except httpx.TransportError:
                return Answer(Said.NOTHING)
        if answer.status_code in (429, 503) and "retry-after" not in answer.headers:
            pytest.fail("an answer that asks to try again says when")
        said = {202: Said.YES, 422: Said.REFUSED, 429: Said.TRY_AGAIN, 500: Said.TRY_AGAIN, 503: Said.TRY_AGAIN}
        return Answer(said[answer.status_code], answer.content)


class MllpAdapter(Listens):
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._limits = MllpLimits(drain_timeout_s=SHORT_DRAIN_S, ack_timeout_s=BOUND_S * 2)

    def source(self) -> Source:
        profile = replace(hl7_profile("default"), facility="MAIN")
        return MllpSource(host="127.0.0.1", port=0, tenant="north", profile=profile, limits=self._limits)

    def port(self, source: Source) -> int:
        assert isinstance(source, MllpSource)
        return source.port

    def message(self, number: int, variant: int = 0) -> bytes:
        return (
            f"MSH|^~\\&|EHR|MAIN|||20260105101500||ADT^A01|C{number}|P|2.5.1\rEVN||2026010510100{variant}\r"
            f"PID|||4711^^^MAIN^MR||{CANARY}^JANE\rPV1||I|ICU^1^A^MAIN{'|' * 16}V1\r"
        ).encode()

    async def send(self, port: int, message: bytes, number: int) -> Answer:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(frame(message))
            await writer.drain()
            answer = await asyncio.wait_for(reader.readuntil(b"\x1c\r"), BOUND_S)
        except (OSError, asyncio.IncompleteReadError):
            return Answer(Said.NOTHING)
        finally:
            writer.close()
        found = re.search(rb"\rMSA\|(A[AER])[|\r]", answer)
        assert found is not None, "the answer is an acknowledgement"
        said = {b"AA": Said.YES, b"AE": Said.TRY_AGAIN, b"AR": Said.REFUSED}
        return Answer(said[found[1]], answer.split(b"\rMSA")[1])


class FhirAdapter(Listens):
    """A feed whose server is away: its keeper asks in vain, and what arrives is taken all the same."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fhir_module, "DRAIN_S", SHORT_DRAIN_S)
        self._folder = Path(tempfile.mkdtemp())
        (self._folder / "hook.token").write_text(fhir_in_server.SECRET)

    def source(self) -> Source:
        secret = HookSecret(self._folder / "hook.token")
        wanted = Wanted(
            "R4", "backport", fhir_in_server.TOPIC, (), "https://s.example.org/fhir/beds", "full-resource", None, None, "test"
        )
        config = FeedConfig(Plan("beds", wanted, ("Location",)), "north", "ehr-main", Watch())
        feed = Feed(
            config,
            secret,
            FhirServer("https://ehr.example.org/fhir", self._away),
            fhir_in.Mapped(),
            fhir_in.MemoryCursor(),
            None,
            fhir_in.Observed(),
            fhir_in_server.Clock(),
        )
        return FhirSource(Listener("127.0.0.1", 0, 1_000_000, 64, BOUND_S * 2), {"beds": (feed, secret)})

    async def _away(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        return Reply(0)

    def port(self, source: Source) -> int:
        assert isinstance(source, FhirSource)
        return source.port

    def message(self, number: int, variant: int = 0) -> bytes:
        meta = {"versionId": "1", "lastUpdated": "2026-01-05T10:15:00Z"}
        body = {**fhir_in_server.bed(f"B{number}", "KU"[variant]), "meta": meta, "name": CANARY}
        return json.dumps(body).encode()

    async def send(self, port: int, message: bytes, number: int) -> Answer:
        transport = httpx.AsyncHTTPTransport(retries=3)
        secret = {"Authorization": f"Bearer {fhir_in_server.SECRET}"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", transport=transport, timeout=BOUND_S) as client:
            try:
                answer = await client.post("/fhir/beds", content=message, headers=secret)
            except httpx.TransportError:
                return Answer(Said.NOTHING)
        if answer.status_code == 503 and "retry-after" not in answer.headers:
            pytest.fail("an answer that asks to try again says when")
        said = {204: Said.YES, 400: Said.REFUSED, 422: Said.REFUSED, 500: Said.TRY_AGAIN, 503: Said.TRY_AGAIN}
        return Answer(said[answer.status_code], answer.content)


class FilesAdapter:
    """A sender's folder. The ledger forgets what it took, as after its retention: a repeat comes as far as the sink."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._office = Office(Path(tempfile.mkdtemp()))

    def source(self) -> Source:
        return self._office.source(SHORT_DRAIN_S)

    def port(self, source: Source) -> int:
        return 0

    def serves(self, source: Source) -> bool:
        assert isinstance(source, FilesSource)
        return bool(source.serving)

    def message(self, number: int, variant: int = 0) -> bytes:
        return files_in.HEADER + f"MAIN,ICU,{number},A,Y,{CANARY}{variant}\r\n".encode()

    async def send(self, port: int, message: bytes, number: int) -> Answer:
        office, name = self._office, f"census-20260105-{number}.csv"
        office.ledger.forget_all()
        (office.root / "acks" / f"{name}.ack.json").unlink(missing_ok=True)
        untaken = len(office.observed.waited) + len(office.observed.faults)
        files_in.put(office.incoming, message, files_in.manifest_of(message, name, records=max(0, len(message.splitlines()) - 1)))
        try:
            async with asyncio.timeout(BOUND_S):
                while (told := office.ack(name)) is None:
                    if len(office.observed.waited) + len(office.observed.faults) > untaken:
                        return Answer(Said.TRY_AGAIN)
                    await asyncio.sleep(0.01)
        except TimeoutError:
            return Answer(Said.NOTHING)
        return Answer(Said.YES if told["outcome"] == "taken" else Said.REFUSED, json.dumps(told).encode())


ADAPTERS: Final[dict[str, Callable[[pytest.MonkeyPatch], Adapter]]] = {
    "fhir": FhirAdapter,
    "files": FilesAdapter,
    "http": HttpAdapter,
    "mllp": MllpAdapter,
}
