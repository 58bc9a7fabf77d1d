"""Whatever a server does to its notifications, and whatever becomes of the receiver: in the end every newest version landed."""

import asyncio
import random
from datetime import datetime
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web

from pipeline.sources.fhir import feed as fhir_feed
from pipeline.sources.fhir import keeper as fhir_keeper
from pipeline.sources.fhir import reading as fhir_reading
from pipeline.sources.fhir.resource import Content
from tests.support.fhir_in import Receiver, until
from tests.support.fhir_in_server import WAIT_S, Clock, PlayedServer, bed

pytestmark = pytest.mark.timeout(240)

BEDS: Final = "ABCDEF"
STEPS: Final = 60


class Play:
    """One run: what happens is drawn from a seed."""

    def __init__(self, seed: int, server: PlayedServer, folder: Path, content: Content) -> None:
        self.chance = random.Random(seed)
        self.server = server
        self.receiver = Receiver(server, folder, content=content)
        self._folder = folder
        self._delayed: list[int] = []

    async def step(self) -> None:
        """One of all that may happen."""
        happens = self.chance.choices(
            (
                self.change,
                self.deliver_late,
                self.repeat,
                self.kill,
                self.reset_counter,
                self.lose_broker,
                self.harm,
                self.hide,
                self.wait,
            ),
            (40, 15, 8, 4, 3, 5, 4, 5, 16),
        )[0]
        await happens()

    async def change(self) -> None:
        """A clinician's change, whose notification comes, comes late, or is lost."""
        self.server.clock.ahead_ms += self.chance.randint(1, 500)
        self.server.put(bed(self.chance.choice(BEDS), self.chance.choice("KUHI")))
        fate = self.chance.random()
        if fate < 0.6:
            await self._tell(self.server.count)
        elif fate < 0.8:
            self._delayed.append(self.server.count)

    async def deliver_late(self) -> None:
        self.chance.shuffle(self._delayed)
        for number in self._delayed:
            await self._tell(number)
        self._delayed.clear()

    async def repeat(self) -> None:
        if self.server.log:
            await self._tell(self.chance.choice(self.server.log)[0])

    async def kill(self) -> None:
        """kill -9 of the receiver; some changes happen while it is away."""
        before = self.receiver
        await before.kill()
        for _ in range(self.chance.randint(0, 2)):
            await self.change()
        again = Receiver(
            self.server, self._folder, content=before.content, port=before.port, sink=before.sink, cursor=before.cursor
        )
        self.receiver = await again.start()

    async def reset_counter(self) -> None:
        """The server lost its memory: numbers begin anew, and what waited to be told is gone."""
        self.server.count = 0
        self.server.log.clear()
        self._delayed.clear()

    async def lose_broker(self) -> None:
        self.receiver.sink.away = True
        await self.change()
        self.receiver.sink.away = False

    async def harm(self) -> None:
        """The subscription is in error, off or deleted."""
        for own in list(self.server.subscriptions):
            kind = self.chance.choice(("error", "off", "deleted"))
            if kind == "deleted":
                del self.server.subscriptions[own]
            else:
                self.server.subscriptions[own] = {**self.server.subscriptions[own], "status": kind}

    async def hide(self) -> None:
        """The server can't be read for a moment."""
        self.server.fault = lambda request: web.Response(status=503)
        await self.change()
        self.server.fault = lambda request: None

    async def wait(self) -> None:
        self.server.clock.ahead_ms += self.chance.randint(1, 20_000)
        await asyncio.sleep(0.02)
        if self.chance.random() < 0.5 and self._is_told():
            await self.server.beat()

    async def _tell(self, number: int) -> None:
        if self._is_told() and any(entry[0] == number for entry in self.server.log):
            await self.server.tell(number)

    def _is_told(self) -> bool:
        return [each["status"] for each in self.server.subscriptions.values()].count("active") == 1

    def newest_landed(self) -> bool:
        """Whether the newest version of each bed is on landing. Time passes quickly, and the server beats."""
        self.server.clock.ahead_ms += 300
        landed = {(event.entity_id.rpartition("/")[2], event.recorded_at) for event in self.receiver.sink.events}
        newest = {(own["id"], _millis(own["meta"]["lastUpdated"])) for own in self.server.resources.values()}
        state = self.receiver.state
        return newest <= landed and state.missing == 0 and state.status.value == "active"


def _millis(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


@pytest.mark.parametrize("content", ["full-resource", "id-only"])
@pytest.mark.parametrize("seed", range(6))
async def test_every_newest_version_lands_and_nothing_stays_open(
    seed: int, content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fhir_feed, "TICK_S", 0.01)
    monkeypatch.setattr(fhir_keeper, "IDLE_S", 0.01)
    monkeypatch.setattr(fhir_keeper, "LAND_PAUSE_S", 0.01)
    monkeypatch.setattr(fhir_reading, "PAGE_PAUSE_S", 0.01)
    async with PlayedServer(Clock()).serve() as server:
        play = Play(seed, server, tmp_path, content)
        await play.receiver.start()
        await play.receiver.active()
        for _ in range(STEPS):
            await play.step()
        await until(play.newest_landed, lambda: f"seed {seed}: {play.receiver.shown()}", WAIT_S * 2)
        assert not play.receiver.observed.faults
        await play.receiver.kill()
