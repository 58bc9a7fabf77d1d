"""Fixtures of the tests with a played server."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pipeline.sources.fhir import feed as fhir_feed
from pipeline.sources.fhir import keeper as fhir_keeper
from pipeline.sources.fhir import reading as fhir_reading
from pipeline.sources.fhir.resource import Version
from tests.support.fhir_in import Receiver
from tests.support.fhir_in_server import Clock, PlayedServer

Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper looks often; what it waits for by the clock, the tests move."""
    monkeypatch.setattr(fhir_feed, "TICK_S", 0.02)
    monkeypatch.setattr(fhir_keeper, "IDLE_S", 0.02)
    monkeypatch.setattr(fhir_keeper, "LAND_PAUSE_S", 0.02)
    monkeypatch.setattr(fhir_reading, "PAGE_PAUSE_S", 0.02)


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """A played server with a receiver that is active."""
    async with AsyncExitStack() as stack:

        async def made(version: Version = "R4", **options: Any) -> tuple[PlayedServer, Receiver]:
            server = await stack.enter_async_context(PlayedServer(Clock(), version).serve())
            receiver = await Receiver(server, tmp_path, **options).start()
            stack.push_async_callback(receiver.kill)
            await receiver.active()
            return server, receiver

        yield made
