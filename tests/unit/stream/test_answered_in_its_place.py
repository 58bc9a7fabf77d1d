"""An EHR that is away behind a proxy which answers everything itself: that is an outage, and an outage gives nothing up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import pytest
from aiohttp import web

from pipeline.destinations.fhir.destination import FhirDestination
from pipeline.destinations.fhir.profile import load_profile
from pipeline.domain.event import Environment
from pipeline.domain.records import OutcomeKind
from tests.support.changes import change
from tests.support.fhir_lab import DIGEST_KEY, FakeFhir
from tests.unit.stream.test_delivery import World

BOUND_S: Final = 30.0
BEDS: Final = ("A", "B", "C", "D")

SAID: Final[dict[str, tuple[int, str, dict[str, str]]]] = {
    "404 with a page": (404, "<html>no such site</html>", {"Content-Type": "text/html"}),
    "404 without a word": (404, "", {}),
    "to a page to sign in at": (302, "", {"Location": "/sign-in"}),
    "200 with a page": (200, "<html>we are back soon</html>", {"Content-Type": "text/html"}),
    "200 with JSON": (200, '{"status": "maintenance"}', {"Content-Type": "application/json"}),
}


class BehindProxy(FakeFhir):
    """`said`: what the proxy answers to everything; None while the EHR is there."""

    def __init__(self) -> None:
        super().__init__()
        self.said: tuple[int, str, dict[str, str]] | None = None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self.said is None:
            return await super()._handle(request)
        await request.read()
        status, text, headers = self.said
        return web.Response(status=status, text=text, headers=headers)


class Ward(World):
    """A delivery to that EHR."""

    def __init__(self, address: str) -> None:
        super().__init__(max_attempts=4, threshold=3)
        self.to = FhirDestination("ehr", address, load_profile("sekmet-replica"), DIGEST_KEY, clock=self.clock)
        self.delivery.room = replace(self.delivery.room, destination=self.to)
        self.offset = 0

    def change_all(self, environment: Environment) -> None:
        for bed in BEDS:
            self.offset += 1
            self.accept(change(self.offset, bed, environment=environment))

    async def tried(self, times: int) -> None:
        """What is due is tried; what is not is waited for."""
        for _ in range(times):
            await self.run()
            if self.delivery._tasks:
                await asyncio.wait(self.delivery._tasks, timeout=BOUND_S)
            self.read_outcomes()
            self.clock.now += 2_000

    def is_told(self) -> bool:
        return not any(pending.is_due for pending in self.table.rows.values())


@asynccontextmanager
async def told_of(ehr: BehindProxy) -> AsyncIterator[Ward]:
    """A ward whose beds were written twice: the bodies of the last writes are kept."""
    async with ehr.serve() as address:
        ward = Ward(address)
        for environment in (Environment.DIRTY, Environment.CLEAN):
            ward.change_all(environment)
            await ward.tried(3)
        assert ward.is_told()
        yield ward
        await ward.to.close()


@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
async def test_what_is_answered_in_an_ehrs_place_is_an_outage_and_parks_nothing(said: tuple[int, str, dict[str, str]]) -> None:
    ehr = BehindProxy()
    async with told_of(ehr) as ward:
        ehr.said = said
        ward.change_all(Environment.DIRTY)
        await ward.tried(8)
        assert ward.breaker.is_open
        assert OutcomeKind.PARKED not in ward.ledger.kinds()
        ehr.said = None
        await ward.tried(12)
        assert not ward.breaker.is_open
        assert ward.is_told()
        assert OutcomeKind.PARKED not in ward.ledger.kinds()
        assert not ward.observer.faults
    assert {body["meta"]["versionId"] for body in ehr.resources.values()} == {"3"}, "one write each, when it was back"
