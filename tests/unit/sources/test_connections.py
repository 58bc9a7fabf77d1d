"""Ways in under connections that are many, idle, slow, or never read."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from pipeline.local.ports import HOST
from pipeline.sources import connections
from pipeline.sources.connections import peers_of
from pipeline.sources.fhir.receiver import FhirSource, Listener, Silent
from pipeline.sources.http import source as http
from pipeline.sources.http.api import NoObserver
from pipeline.sources.http.openapi import EXAMPLE
from pipeline.sources.http.source import HttpSource
from tests.support.http_fakes import MemorySink, headers, new_tracker, settings

BUSY_S = 60.0
CEILING = 40


class Watching(NoObserver):
    def __init__(self) -> None:
        self.ended = 0

    def cut_off(self, connections: int) -> None:
        self.ended += connections


@asynccontextmanager
async def serving(sink: MemorySink, **changes: object) -> AsyncIterator[tuple[HttpSource, Watching]]:
    stop, watching = asyncio.Event(), Watching()
    source = HttpSource(settings(port=0, **changes), new_tracker(), observer=watching)
    running = asyncio.create_task(source.run(sink, stop))
    await asyncio.wait_for(source.listening.wait(), BUSY_S)
    try:
        yield source, watching
    finally:
        stop.set()
        began = time.monotonic()
        await asyncio.wait_for(running, BUSY_S)
        assert time.monotonic() - began < http.DRAIN_S / 2, "nothing of what was left open kept it"


async def answered(port: int, key: str) -> int:
    """Status of one event of a sender at another address, on a connection of its own."""
    transport = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
    async with httpx.AsyncClient(base_url=f"http://{HOST}:{port}", transport=transport, timeout=BUSY_S) as client:
        return (await client.post("/v1/events", json=EXAMPLE, headers=headers(key))).status_code


def idle(port: int, count: int) -> list[socket.socket]:
    return [socket.create_connection((HOST, port), timeout=BUSY_S) for _ in range(count)]


async def test_an_address_that_opens_all_connections_and_sends_nothing_keeps_nobody_else_out() -> None:
    async with serving(MemorySink(), max_connections=CEILING) as (source, watching):
        held = await asyncio.to_thread(idle, source.port, CEILING * 3)
        began = time.monotonic()
        assert await answered(source.port, "k-1") == 202
        assert time.monotonic() - began < http.HEADER_TIMEOUT_MS / 1000 / 2, "not only when the idle ones are given up"
        assert watching.ended >= CEILING // 2
        assert len(peers_of(source.port)) <= CEILING
        for each in held:
            each.close()


async def test_who_never_reads_answers_is_cut_off_and_its_room_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "UNREAD_S", 2)
    monkeypatch.setattr(connections, "CROWDED", 2.0)  # the kernel alone
    async with serving(MemorySink(), max_connections=4) as (source, _):
        deaf = await asyncio.to_thread(idle, source.port, 4)
        for each in deaf:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await asyncio.to_thread(flooded, each)
        assert await answered(source.port, "k-1") == 202
        for each in deaf:
            each.close()


def flooded(deaf: socket.socket) -> None:
    """Ask for what is long until nothing more is taken."""
    deaf.settimeout(0.5)
    try:
        for _ in range(20_000):
            deaf.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 10)
    except OSError:
        return


async def test_it_ends_in_time_though_connections_stay_open_half_a_request_is_there_and_answers_are_unread() -> None:
    async with serving(MemorySink(), max_connections=CEILING) as (source, _):
        held = await asyncio.to_thread(idle, source.port, 6)
        held[0].sendall(b"POST /v1/events HT")
        await asyncio.to_thread(flooded, held[1])
        head = "".join(f"{name}: {value}\r\n" for name, value in headers("half").items())
        held[2].sendall(f"POST /v1/events HTTP/1.1\r\nHost: x\r\n{head}Content-Length: 500\r\n\r\n{{".encode())
        await asyncio.sleep(0.1)
    for each in held:
        each.close()


async def test_the_fhir_way_in_refuses_connections_beyond_its_ceiling_and_serves_another_address() -> None:
    stop, cut = asyncio.Event(), Cut()
    source = FhirSource(Listener(HOST, 0, 1_000_000, 8, 5.0, max_connections=CEILING), {}, cut)
    running = asyncio.create_task(source.run(MemorySink(), stop))
    await asyncio.wait_for(source.listening.wait(), BUSY_S)
    held = await asyncio.to_thread(idle, source.port, CEILING * 3)
    async with asyncio.timeout(BUSY_S):
        while await status_of_nobody(source.port) != 404:
            await asyncio.sleep(0.05)
    assert cut.ended >= CEILING
    assert source.connections <= CEILING
    stop.set()
    began = time.monotonic()
    await asyncio.wait_for(running, BUSY_S)
    assert time.monotonic() - began < http.DRAIN_S / 2
    for each in held:
        each.close()


class Cut(Silent):
    def __init__(self) -> None:
        self.ended = 0

    def cut_off(self, connections: int) -> None:
        self.ended += connections


async def status_of_nobody(port: int) -> int:
    """Status for a feed that there is not, asked from another address; 0 where the connection is not taken."""
    transport = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
    async with httpx.AsyncClient(base_url=f"http://{HOST}:{port}", transport=transport, timeout=BUSY_S) as client:
        try:
            return (await client.post("/fhir/nobody", content=b"{}")).status_code
        except httpx.TransportError:
            return 0
