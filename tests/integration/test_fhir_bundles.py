"""Bundles on a real server: each entry on its own, fenced by its version, and every revision once in the history."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace

from pipeline.destinations.fhir.destination import FhirDestination
from pipeline.destinations.fhir.profile import load_profile
from pipeline.destinations.protocol import Absent, Confirmed, Current, PendingWrite, Request, VersionMismatch
from pipeline.domain.event import Bed, BedOccupancy, Environment, Occupancy
from pipeline.formats.fhir.profile import BundleProfile
from pipeline.formats.fhir.revision import read_mark
from pipeline.local.servers.ehr import Ehr
from tests.support.fhir_lab import DIGEST_KEY, accepted, pending

BEDS = 60
STATES = (Environment.DIRTY, Environment.CLEANING, Environment.CLEAN)


@pytest.fixture
async def destination(ehr_replica: Ehr) -> AsyncIterator[FhirDestination]:
    profile = replace(load_profile("sekmet-replica"), bundle=BundleProfile(50))
    made = FhirDestination("ehr", ehr_replica.base_url, profile, DIGEST_KEY)
    yield made
    await made.close()


def write(bed: int, number: int, remote_id: str | None = None) -> PendingWrite:
    state = Bed(occupancy=BedOccupancy(Occupancy.VACANT), environment=STATES[number % 3])
    return pending(accepted(state, f"BUNDLED/{bed}/A", 1_000 * number + bed), remote_id)


async def request_of(destination: FhirDestination, due: PendingWrite) -> Request:
    current = await destination.read(due)
    assert isinstance(current, Current | Absent)
    request = destination.build(due, current)
    assert isinstance(request, Request)
    return request


async def test_many_beds_are_written_in_company_with_each_revision_once_and_a_stale_one_alone_refused(
    ehr_replica: Ehr, destination: FhirDestination
) -> None:
    requests = await asyncio.gather(*(request_of(destination, write(bed, 1)) for bed in range(BEDS)))
    created = await asyncio.gather(*map(destination.send, requests))
    ids = [outcome.remote_id for outcome in created if isinstance(outcome, Confirmed)]
    assert len(set(ids)) == BEDS
    for number in (2, 3):
        requests = await asyncio.gather(*(request_of(destination, write(bed, number, ids[bed])) for bed in range(BEDS)))
        if number == 3:
            await edited(ehr_replica, f"Location/{ids[7]}")
        updated = await asyncio.gather(*map(destination.send, requests))
        stale = [bed for bed, outcome in enumerate(updated) if outcome == VersionMismatch()]
        assert stale == ([7] if number == 3 else [])
        assert all(isinstance(outcome, Confirmed) for bed, outcome in enumerate(updated) if bed not in stale)
    current = await destination.read(write(7, 3, ids[7]))
    assert isinstance(current, Current)
    assert current.body["description"] == "a clinician's word"
    for bed in (0, BEDS - 1):
        expected = [write(bed, number).accepted.revision for number in (1, 2, 3)]
        assert await revisions(ehr_replica, f"Location/{ids[bed]}") == expected


async def edited(ehr: Ehr, path: str) -> None:
    """What a clinician does in between."""
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{ehr.base_url}/{path}") as response:
            body = await response.json(content_type=None)
        async with session.put(f"{ehr.base_url}/{path}", json=body | {"description": "a clinician's word"}) as response:
            assert response.status == 200


async def revisions(ehr: Ehr, path: str) -> list[int]:
    """Ours, in the order of the resource's versions."""
    async with aiohttp.ClientSession() as session, session.get(f"{ehr.base_url}/{path}/_history") as response:
        history: dict[str, Any] = await response.json(content_type=None)
    versions = sorted((entry["resource"] for entry in history["entry"]), key=lambda body: int(body["meta"]["versionId"]))
    marks = [read_mark(body) for body in versions]
    return [mark.revision for mark in marks if mark is not None]
