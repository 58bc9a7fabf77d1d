"""Authorisation at an EHR with a token server of its own: by the destination that the settings make, and by a whole writer."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from pipeline.destinations.auth.files import LOOK_EVERY_S
from pipeline.destinations.auth.key import Private
from pipeline.destinations.fhir.destination import FhirDestination
from pipeline.destinations.protocol import Absent, Confirmed, Current, Outcome, Request, Retry
from pipeline.domain.event import Bed, BedOccupancy, Environment, Occupancy
from pipeline.domain.records import Accepted, OutcomeKind, Reason
from pipeline.domain.records import Outcome as Recorded
from pipeline.local.servers.broker import Broker
from pipeline.local.stack import Target, wait_for
from pipeline.ops import metrics
from pipeline.roles.writers.destinations import destination_of
from pipeline.settings.sections.workers import WriterSettings
from tests.integration.conftest import GivenBroker
from tests.support.fhir_lab import DIGEST_KEY, accepted, pending
from tests.support.guarded_ehr import RIGHTS, STATIC, GuardedEhr
from tests.support.stacks import ANSWER_S, post, records, stack_at, stopped_at_end
from tests.support.token_server import CLIENT, ec_key, jwk, pem, rsa_key, write

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]

SHORT_S: Final = 4
PAUSE_S: Final = 0.02
"""Between two writes: fifty a second find each end of a token, and leave the processors to others."""
BED: Final = Bed(occupancy=BedOccupancy(Occupancy.VACANT), environment=Environment.CLEAN)


def section(folder: Path, ehr: GuardedEhr, **access: Any) -> WriterSettings:
    return WriterSettings(profile="sekmet-replica", role="replica", base_url=ehr.base_url, data_dir=folder / "data", **access)


def smart(key_file: Path, algorithm: str = "ES384", **more: Any) -> dict[str, Any]:
    return {"client_id": f"{CLIENT}-{algorithm}", "key_file": str(key_file), "algorithm": algorithm, "scope": RIGHTS, **more}


@contextlib.asynccontextmanager
async def destination_for(name: str, made: WriterSettings) -> AsyncIterator[FhirDestination]:
    destination = destination_of(name, made, DIGEST_KEY)
    try:
        yield destination
    finally:
        await destination.close()


async def bring(destination: FhirDestination, record: Accepted) -> Outcome:
    """One write with the read before it; a read that fails is the outcome."""
    write_due = pending(record)
    current = await destination.read(write_due)
    if not isinstance(current, Current | Absent):
        return current
    request = destination.build(write_due, current)
    assert isinstance(request, Request)
    return await destination.send(request)


def told(name: str, news: str) -> float:
    """How often the metric counted it."""
    value: float = metrics.CREDENTIALS.of(name, news)._value.get()
    return value


async def in_thread(call: Callable[[], None]) -> None:
    await asyncio.to_thread(call)


@pytest.fixture(scope="module")
def keys() -> dict[str, Private]:
    return {"ES384": ec_key(), "RS384": rsa_key()}


@pytest.fixture(scope="module")
def guarded(keys: dict[str, Private], tmp_path_factory: pytest.TempPathFactory) -> Any:
    with GuardedEhr(tmp_path_factory.mktemp("ehr-guarded"), keys) as ehr:
        yield ehr


async def test_the_ehr_lets_nobody_in_without_a_token(guarded: GuardedEhr, tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{guarded.base_url}/Location") as answer:
        assert answer.status == 401
    async with destination_for("open", section(tmp_path, guarded)) as destination:
        assert await bring(destination, accepted(BED, "nobody", 5)) == Retry(Reason.UNAUTHENTICATED)


@pytest.mark.parametrize("algorithm", ["ES384", "RS384"])
@pytest.mark.parametrize("form", ["pem", "jwk"])
@pytest.mark.parametrize("discovered", [True, False])
async def test_a_bed_is_made_and_changed_with_tokens_for_our_key(
    guarded: GuardedEhr, keys: dict[str, Private], tmp_path: Path, algorithm: str, form: str, discovered: bool
) -> None:
    key = keys[algorithm]
    name = f"{algorithm}-{form}-{discovered}"
    key_file = write(tmp_path / "smart.key", pem(key) if form == "pem" else json.dumps(jwk(key, kid="k1")))
    grant = smart(key_file, algorithm, **({} if discovered else {"token_url": guarded.token_url}))
    async with destination_for(name, section(tmp_path, guarded, smart=grant)) as destination:
        made = await bring(destination, accepted(BED, name, 5))
        changed = await bring(destination, accepted(Bed(occupancy=BedOccupancy(Occupancy.OCCUPIED)), name, 6))
    assert isinstance(made, Confirmed)
    assert isinstance(changed, Confirmed)
    assert (made.remote_id, made.revision < changed.revision) == (changed.remote_id, True)
    assert told(name, "issued") == 1


async def test_many_writes_at_once_share_one_token(guarded: GuardedEhr, keys: dict[str, Private], tmp_path: Path) -> None:
    grant = smart(write(tmp_path / "smart.key", pem(keys["ES384"])))
    async with destination_for("many", section(tmp_path, guarded, smart=grant)) as destination:
        outcomes = await asyncio.gather(*(bring(destination, accepted(BED, f"many-{n}", 5 + n)) for n in range(20)))
    assert {type(outcome) for outcome in outcomes} == {Confirmed}
    assert told("many", "issued") == 1


async def test_tokens_that_end_are_renewed_without_a_write_noticing(keys: dict[str, Private], tmp_path: Path) -> None:
    grant = smart(write(tmp_path / "smart.key", pem(keys["ES384"])))
    ehr = GuardedEhr(tmp_path / "ehr", keys, SHORT_S)
    await in_thread(ehr.start)
    try:
        async with destination_for("short", section(tmp_path, ehr, smart=grant)) as destination:
            ends_at, number = time.monotonic() + 3 * SHORT_S, 5
            while time.monotonic() < ends_at:
                assert isinstance(await bring(destination, accepted(BED, "short", number)), Confirmed)
                number += 1
                await asyncio.sleep(PAUSE_S)
    finally:
        await in_thread(ehr.stop)
    assert told("short", "issued") >= 3
    assert told("short", "unauthenticated") == 0


async def test_a_token_that_the_ehr_has_forgotten_costs_one_more_request_and_no_failure(
    keys: dict[str, Private], tmp_path: Path
) -> None:
    """Its tokens are signed with a secret among its data; with other data it knows none of those that it issued."""
    grant = smart(write(tmp_path / "smart.key", pem(keys["ES384"])))
    ehr = GuardedEhr(tmp_path / "ehr", keys)
    await in_thread(ehr.start)
    try:
        async with destination_for("forgotten", section(tmp_path, ehr, smart=grant)) as destination:
            assert isinstance(await bring(destination, accepted(BED, "a", 5)), Confirmed)
            await in_thread(ehr.stop)
            (tmp_path / "ehr" / "data").rename(tmp_path / "ehr" / "data-of-before")
            await in_thread(ehr.start)
            outcomes = await asyncio.gather(*(bring(destination, accepted(BED, f"b-{n}", 6 + n)) for n in range(8)))
    finally:
        await in_thread(ehr.stop)
    assert {type(outcome) for outcome in outcomes} == {Confirmed}
    assert (told("forgotten", "unauthenticated"), told("forgotten", "issued")) == (1, 2)


async def test_keys_are_rotated_at_both_ends_without_a_restart_of_ours(keys: dict[str, Private], tmp_path: Path) -> None:
    old, new = keys["ES384"], ec_key()
    key_file = write(tmp_path / "smart.key", pem(old))
    ehr = GuardedEhr(tmp_path / "ehr", {"ES384": old}, SHORT_S)
    await in_thread(ehr.start)
    try:
        async with destination_for("rotated", section(tmp_path, ehr, smart=smart(key_file))) as destination:
            assert isinstance(await bring(destination, accepted(BED, "a", 5)), Confirmed)
            ehr.keys = {"ES384": new}
            await in_thread(ehr.stop)
            await in_thread(ehr.start)
            await asyncio.sleep(SHORT_S)  # until the token of the old key has ended
            missing = await bring(destination, accepted(BED, "a", 6))
            assert isinstance(missing, Retry)
            assert missing.reason is Reason.NO_TOKEN
            write(key_file, pem(new))
            await asyncio.sleep(LOOK_EVERY_S)  # until the file is looked at again
            assert isinstance(await bring(destination, accepted(BED, "a", 6)), Confirmed)
    finally:
        await in_thread(ehr.stop)
    assert told("rotated", "client_refused") >= 1
    assert told("rotated", "key_rotated") == 1


async def test_a_bearer_token_is_rotated_without_a_restart_of_ours(keys: dict[str, Private], tmp_path: Path) -> None:
    token_file = write(tmp_path / "ehr.token", STATIC + "\n")
    ehr = GuardedEhr(tmp_path / "ehr", keys)
    await in_thread(ehr.start)
    try:
        async with destination_for("static", section(tmp_path, ehr, token_file=str(token_file))) as destination:
            assert isinstance(await bring(destination, accepted(BED, "a", 5)), Confirmed)
            ehr.bearer_tokens = ["another-bearer-token"]
            await in_thread(ehr.stop)
            await in_thread(ehr.start)
            assert await bring(destination, accepted(BED, "a", 6)) == Retry(Reason.UNAUTHENTICATED)
            write(token_file, "another-bearer-token")
            assert isinstance(await bring(destination, accepted(BED, "a", 6)), Confirmed)  # the 401 has us look at once
    finally:
        await in_thread(ehr.stop)


def test_a_writer_whose_key_the_ehr_does_not_know_parks_nothing_and_goes_on_once_the_right_key_is_there(
    broker: Broker | GivenBroker, guarded: GuardedEhr, keys: dict[str, Private], tmp_path: Path
) -> None:
    key_file = write(tmp_path / "smart.key", pem(ec_key()))
    access = {"writers": {"ehr": {"smart": smart(key_file), "max_attempts": 2}}}
    target = Target("ehr", "replica", "sekmet-replica", guarded.base_url)
    with stopped_at_end(stack_at(tmp_path / "stack", broker.bootstrap, target, overrides=access)) as stack:
        names = (stack.start("gate"), stack.start("writer", "ehr"), stack.start("http"))
        stack.wait_ready(*names, timeout_s=ANSWER_S * 2)
        for number in range(4):
            status, _ = post(stack, bed(f"K-{number}"), f"k-{number}")
            assert status == 202

        def outcomes() -> list[Recorded]:
            return [each for each in records(stack, "outcomes") if isinstance(each, Recorded)]

        wait_for(lambda: len(outcomes()) >= 10, ANSWER_S, "attempts without a token", poll_s=0.5)
        assert {(each.kind, each.reason) for each in outcomes()} == {(OutcomeKind.FAILED, Reason.NO_TOKEN)}
        write(key_file, pem(keys["ES384"]))
        wait_for(
            lambda: sum(each.kind is OutcomeKind.CONFIRMED for each in outcomes()) == 4, ANSWER_S * 2, "confirmed", poll_s=0.5
        )
        assert OutcomeKind.PARKED not in {each.kind for each in outcomes()}
        log = (stack.folder / f"{names[1]}.log").read_text()
    assert "client_refused" in log
    assert "key_rotated" in log
    assert "client_assertion" not in log
    assert "verification failed" not in log, "the token endpoint's own words"


def bed(entity_id: str) -> dict[str, object]:
    return {
        "facility": "GENERAL",
        "source_system": "capacity",
        "entity_type": "bed",
        "namespace": "GENERAL",
        "entity_id": entity_id,
        "event_type": "BED_STATUS",
        "recorded_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "payload": {"service": {"status": "OPEN"}},
    }
