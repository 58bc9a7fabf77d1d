"""What a FHIR destination promises, held to a HAPI FHIR server: a stale version is 409 there, and no change is no version.

The promises are those of tests/integration/test_fhir_destination.py that take a `lab`; here that is this server's.
"""

import asyncio
import inspect
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Final

import pytest
from msgspec import structs

from pipeline.destinations.fhir.destination import FhirDestination
from pipeline.destinations.fhir.profile import load_profile
from pipeline.destinations.protocol import Absent, Ambiguous, Confirmed, Current, Request, Retry, Suppressed, VersionMismatch
from pipeline.domain.event import EntityType, Name, Patient, Sex
from pipeline.domain.records import Accepted, Reason
from pipeline.formats.fhir.profile import Profile
from pipeline.formats.fhir.revision import read_mark
from pipeline.local.servers.delay import FaultProxy
from pipeline.local.servers.faults import Fault, FaultKind
from pipeline.local.servers.hapi import Hapi
from tests.integration import test_fhir_destination as promises
from tests.integration.test_fhir_destination import FREE, TAKEN, Lab, bed_id, confirm, lab_at, request_for
from tests.support.fhir_lab import DIGEST_KEY, accepted, pending

__all__ = ["bed_id"]

for _name, _test in list(vars(promises).items()):
    if _name.startswith("test_") and "lab" in inspect.signature(_test).parameters:
        globals()[_name] = _test


@pytest.fixture
async def lab(hapi: Hapi) -> AsyncIterator[Lab]:
    async with lab_at(hapi.base_url, None, "hapi") as made:
        yield made


async def test_the_promises_are_here() -> None:
    here = [name for name in globals() if name in vars(promises) and name.startswith("test_")]
    assert len(here) > 15


async def test_a_stale_version_is_refused_with_409_and_of_twenty_writers_one_wins(lab: Lab, bed_id: str) -> None:
    done = await confirm(lab.replica, accepted(FREE, bed_id, 5))
    requests = [await request_for(lab.replica, pending(accepted(TAKEN, bed_id, 6 + n), done.remote_id)) for n in range(20)]
    outcomes = await asyncio.gather(*(lab.replica.send(request) for request in requests))
    assert sum(isinstance(outcome, Confirmed) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, VersionMismatch) for outcome in outcomes) == 19
    async with lab.session.put(
        f"{lab.base_url}/Location/{done.remote_id}",
        json=await lab.get(f"Location/{done.remote_id}"),
        headers={"If-Match": 'W/"1"'},
    ) as answer:
        assert answer.status == 409


async def test_a_put_that_changes_nothing_makes_no_version(lab: Lab, bed_id: str) -> None:
    done = await confirm(lab.replica, accepted(FREE, bed_id, 5))
    body = await lab.get(f"Location/{done.remote_id}")
    for _ in range(3):
        await lab.edit(f"Location/{done.remote_id}", lambda body: None)
    assert (await lab.get(f"Location/{done.remote_id}"))["meta"]["versionId"] == body["meta"]["versionId"]
    again = await confirm(lab.replica, accepted(FREE, bed_id, 6), done.remote_id)
    assert again.etag == f'W/"{int(body["meta"]["versionId"]) + 1}"'  # a new revision is a new version, whatever else is equal


async def test_a_put_under_an_id_of_ours_is_no_fence_there(lab: Lab, bed_id: str) -> None:
    """Why the profile has no such creates: whoever changes it must see this fail first."""
    record = accepted(FREE, bed_id, 5)
    profile = load_profile("hapi-replica")
    resources = {kind: structs.replace(resource, create="put-client-id") for kind, resource in profile.resources.items()}
    unfenced: Profile = structs.replace(profile, resources=resources)
    destination = FhirDestination("unfenced", lab.base_url, unfenced, DIGEST_KEY)
    flat = structs.replace(record, state=TAKEN)
    late = await request_for(destination, pending(structs.replace(flat, state_hash="f" * 16)))
    await confirm(destination, flat)
    async with lab.session.put(
        f"{lab.base_url}/{late.target}", json=late.body, headers={"If-None-Match": "*", "Content-Type": "application/fhir+json"}
    ) as answer:
        assert answer.status == 200  # what another server refuses with 412 was overwritten
    await destination.close()


async def test_a_bed_that_was_just_made_is_found_though_searches_are_kept_for_a_minute(lab: Lab, bed_id: str) -> None:
    record = accepted(FREE, bed_id, 5)
    assert await lab.replica.read(pending(record)) == Absent()
    done = await confirm(lab.replica, record)
    found = await lab.replica.read(pending(record))
    assert isinstance(found, Current)
    assert found.remote_id == done.remote_id


@pytest.mark.parametrize("kind", [FaultKind.RESET_AFTER_COMMIT, FaultKind.TRUNCATED])
async def test_a_write_without_an_answer_is_read_back_as_confirmed(lab: Lab, bed_id: str, kind: FaultKind) -> None:
    done = await confirm(lab.replica, accepted(FREE, bed_id, 5))
    record = accepted(TAKEN, bed_id, 6)
    async with FaultProxy(lab.base_url) as proxy:
        through = FhirDestination("through", proxy.url, load_profile("hapi-replica"), DIGEST_KEY)
        request = await request_for(through, pending(record, done.remote_id))
        # A whole body, or there is nothing to cut off.
        proxy.faults.set(Fault(kind=kind, methods=("PUT",), times=1))
        request = _asking_for_the_resource(request)
        assert await through.send(request) == Ambiguous()
        told = await through.read_back(request)
        assert isinstance(told, Confirmed)
        assert told.revision == record.revision
        await through.close()
    assert len(await _versions(lab, done.remote_id)) == 2


def _asking_for_the_resource(request: Request) -> Request:
    return replace(request, headers=(*request.headers, ("Prefer", "return=representation")))


@pytest.mark.parametrize("form", ["seconds", "date"])
@pytest.mark.parametrize("kind", [FaultKind.TOO_MANY_REQUESTS, FaultKind.UNAVAILABLE])
async def test_a_pause_that_is_asked_for_is_a_floor_in_either_form(lab: Lab, bed_id: str, kind: FaultKind, form: Any) -> None:
    record = accepted(FREE, bed_id, 5)
    async with FaultProxy(lab.base_url) as proxy:
        through = FhirDestination("through", proxy.url, load_profile("hapi-replica"), DIGEST_KEY)
        request = await request_for(through, pending(record))
        proxy.faults.set(Fault(kind=kind, retry_after_s=120, retry_after_as=form))
        told = await through.send(request)
        assert isinstance(told, Retry)
        assert told.reason is (Reason.RATE_LIMITED if kind is FaultKind.TOO_MANY_REQUESTS else Reason.UNAVAILABLE)
        assert 115 <= told.after_s <= 121
        await through.close()
    assert not await lab.matching(record)


async def test_what_was_answered_survives_a_kill(hapi: Hapi, lab: Lab, bed_id: str) -> None:
    record = accepted(TAKEN, bed_id, 6)
    done = await confirm(lab.replica, accepted(FREE, bed_id, 5))
    await confirm(lab.replica, record, done.remote_id)
    await asyncio.to_thread(hapi.kill)
    told = await lab.replica.read(pending(record, done.remote_id))
    assert told == Retry(Reason.CONNECTION)
    await asyncio.to_thread(hapi.start)
    found = await lab.replica.read(pending(record, done.remote_id))
    assert isinstance(found, Current)
    assert found.revision == record.revision


PROFILES: Final = {"R4B": "hapi-replica", "R5": "hapi-replica-r5"}
PERSON: Final = Patient(name=Name("FAMILY", "GIVEN"), birth_date="1970-01-31", sex=Sex.FEMALE)


async def test_a_server_of_a_later_version_takes_beds_and_people_by_the_same_rules(later: Hapi, bed_id: str) -> None:
    with urllib.request.urlopen(f"{later.base_url}/metadata", timeout=60) as answer:
        assert (b'"4.3.0"' if later.version == "R4B" else b'"5.0.0"') in answer.read()
    async with lab_at(later.base_url, None, "hapi") as lab:
        lab.replica = FhirDestination("replica", later.base_url, load_profile(PROFILES[later.version]), DIGEST_KEY)
        renamed = structs.replace(PERSON, name=Name("FAMILY", "OTHER"))
        for kind, states in ((EntityType.BED, (FREE, TAKEN)), (EntityType.PATIENT, (PERSON, renamed))):
            first, stale, second, third = (accepted(states[n > 5], bed_id, n, kind) for n in (5, 6, 7, 8))
            done = await confirm(lab.replica, first)
            await _is_shown(lab, first, done.remote_id)
            path = f"{lab.replica.builder.subject(first).resource.resource_type}/{done.remote_id}"
            await _a_clinician_is_faster(lab, stale, path)
            await confirm(lab.replica, second, done.remote_id)
            await _an_answer_is_lost(lab, third, done.remote_id)
            await _a_create_without_an_answer_is_made_once(lab, accepted(states[0], f"{bed_id}-next", 9, kind))
            await _twenty_creates_make_one(lab, accepted(states[0], f"{bed_id}-raced", 10, kind))
            bodies = [entry["resource"] for entry in (await lab.get(f"{path}/_history"))["entry"]]
            ours = {mark.revision for body in bodies if (mark := read_mark(body)) is not None}
            assert ours == {record.revision for record in (first, second, third)}
            await _is_shown(lab, third, done.remote_id)
            assert {"system": "urn:theirs", "value": "7"} in (await lab.get(path))["identifier"]


async def _is_shown(lab: Lab, record: Accepted, remote_id: str) -> None:
    """A second look at the same revision finds nothing to write."""
    current = await lab.replica.read(pending(record, remote_id))
    assert isinstance(current, Current)
    assert lab.replica.build(pending(record, remote_id), current) == Suppressed(Reason.ALREADY_THERE, record.revision)


async def _a_clinician_is_faster(lab: Lab, record: Accepted, path: str) -> None:
    stale = await request_for(lab.replica, pending(record, path.rpartition("/")[2]))
    await lab.edit(path, lambda body: body["identifier"].append({"system": "urn:theirs", "value": "7"}))
    assert isinstance(await lab.replica.send(stale), VersionMismatch)


async def _an_answer_is_lost(lab: Lab, record: Accepted, remote_id: str) -> None:
    async with FaultProxy(lab.base_url) as proxy:
        through = FhirDestination("through", proxy.url, lab.replica.builder.profile, DIGEST_KEY)
        request = await request_for(through, pending(record, remote_id))
        proxy.faults.set(Fault(kind=FaultKind.RESET_AFTER_COMMIT, methods=("PUT",), times=1))
        assert await through.send(request) == Ambiguous()
        told = await through.read_back(request)
        assert isinstance(told, Confirmed)
        assert told.revision == record.revision
        assert isinstance(await through.send(request), VersionMismatch), "what was done can't be done again"
        await through.close()


async def _a_create_without_an_answer_is_made_once(lab: Lab, record: Accepted) -> None:
    async with FaultProxy(lab.base_url) as proxy:
        through = FhirDestination("through", proxy.url, lab.replica.builder.profile, DIGEST_KEY)
        request = await request_for(through, pending(record))
        proxy.faults.set(Fault(kind=FaultKind.RESET_AFTER_COMMIT, methods=("POST",), times=1))
        assert await through.send(request) == Ambiguous()
        assert isinstance(await through.read_back(request), Confirmed)
        assert isinstance(await through.send(request), VersionMismatch)
        await through.close()
    assert len(await lab.matching(record)) == 1


async def _twenty_creates_make_one(lab: Lab, record: Accepted) -> None:
    requests = [await request_for(lab.replica, pending(record)) for _ in range(20)]
    outcomes = await asyncio.gather(*(lab.replica.send(request) for request in requests))
    assert [type(outcome) for outcome in outcomes].count(Confirmed) == 1
    assert len(await lab.matching(record)) == 1


async def _versions(lab: Lab, remote_id: str) -> list[dict[str, Any]]:
    bundle = await lab.get(f"Location/{remote_id}/_history")
    return [entry["resource"] for entry in bundle["entry"]]
