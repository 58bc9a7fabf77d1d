"""A sink in memory with the contract of the real one, and an application over it."""

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import httpx
from fastapi import FastAPI

from pipeline.domain.event import EntityType, Event
from pipeline.domain.identifiers import Millis
from pipeline.formats.json_events import Client
from pipeline.settings.sections.ways_in import HttpClient, HttpSettings
from pipeline.sources.http.api import Api, NoObserver, create_app
from pipeline.sources.http.intake import Credential, Intake, Limits
from pipeline.sources.http.source import HttpSource
from pipeline.sources.http.tracker import Tracker
from pipeline.sources.protocol import Broken, OtherContent, RawMessage, Receipted, Repeated, Stored, Unavailable

TOKEN = "a-token-of-north"
OTHER_TOKEN = "a-token-of-south"
NOW = Millis(1_790_000_000_000)


class MemorySink:
    """Keeps what it takes; `gate` holds every call back until it is set, `refuse` makes it unavailable."""

    def __init__(self) -> None:
        self.raws: list[RawMessage] = []
        self.events: list[Event] = []
        self.answers: dict[str, tuple[str, bytes]] = {}
        self.refuse = False
        self.raises: Exception | None = None
        self.full = 0.0
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0

    async def accept(self, raw: RawMessage, events: Sequence[Event], answer: bytes, broken: Sequence[Broken] = ()) -> Receipted:
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        if self.raises is not None:
            raise self.raises
        if self.refuse:
            return Unavailable(2.5)
        digest = hashlib.sha256(raw.body).hexdigest()
        known = self.answers.get(raw.identity)
        if known is not None:
            return Repeated(known[1]) if known[0] == digest else OtherContent()
        self.raws.append(raw)
        self.events.extend(events)
        self.answers[raw.identity] = (digest, answer)
        return Stored(answer)

    def pressure(self) -> float:
        return self.full


def settings(**changes: object) -> HttpSettings:
    clients = (
        HttpClient(name="board", tenant="north", token_sha256=_digest(TOKEN), source_systems=("capacity",)),
        HttpClient(name="board", tenant="south", token_sha256=_digest(OTHER_TOKEN), source_systems=("capacity",)),
    )
    return HttpSettings(clients=clients, **changes)  # type: ignore[arg-type]


def application(
    sink: MemorySink, tracker: Tracker | None = None, *, source_systems: frozenset[str] | None = None, **changes: object
) -> tuple[FastAPI, Intake]:
    """ASGI application over `sink`; `changes` are settings, `source_systems` replaces what the clients may speak for."""
    chosen, tracker = settings(**changes), tracker or new_tracker()
    if source_systems is None:
        return HttpSource(chosen, tracker, clock=lambda: NOW).application(sink)
    credential = Credential(Client("board", "north", source_systems), bytes.fromhex(_digest(TOKEN)))
    limits = Limits(chosen.max_body_bytes, chosen.max_batch_items, chosen.max_requests, chosen.max_bytes_in_flight)
    intake = Intake(sink, [credential], limits, tracker, lambda: NOW)
    return create_app(Api(intake, tracker, lambda: True, NoObserver()), chosen.max_batch_items), intake


def new_tracker() -> Tracker:
    return Tracker({"ehr": frozenset(EntityType)})


def client_of(app: FastAPI) -> AbstractAsyncContextManager[httpx.AsyncClient]:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")


def headers(key: str = "k-1", token: str = TOKEN, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "Idempotency-Key": key, "Content-Type": "application/json", **more}


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
