"""A real broker and two real EHRs, started once, when a test first asks for one."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pytest

from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from pipeline.local.stack import Stack, Target
from tests.support.stacks import ANSWER_S, stack_at, stopped_at_end

LONGEST_FIRST: Final = (
    "test_replay_command.py",
    "test_roles.py",
    "test_canary.py",
    "test_load.py",
    "test_hl7_out.py",
    "test_fhir_in.py",
    "test_fhir_auth.py",
    "test_files_in.py",
    "test_topics.py",
    "test_feeds.py",
    "test_http_in.py",
    "test_access.py",
    "test_secured_broker.py",
    "test_evidence.py",
    "test_local_platform.py",
    "test_downtime.py",
)
"""Files of half a minute and more. A worker takes a file at a time: a long one begun last would leave the others idle."""

BOOTSTRAP: Final = os.environ.get("SURGELINE_TEST_BOOTSTRAP", "")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in the order in which workers take them."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@dataclass(frozen=True, slots=True)
class GivenBroker:
    """Somebody's broker, which is not ours to stop."""

    bootstrap: str


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker | GivenBroker]:
    """The broker that SURGELINE_TEST_BOOTSTRAP names, else one of our own."""
    if BOOTSTRAP:
        yield GivenBroker(BOOTSTRAP)
        return
    with Broker(tmp_path_factory.mktemp("broker")) as started:
        yield started


@pytest.fixture
def own_broker(broker: Broker | GivenBroker) -> Iterator[Broker]:
    """The broker, for tests that kill it; it runs again when the test is over."""
    if not isinstance(broker, Broker):
        pytest.skip("SURGELINE_TEST_BOOTSTRAP names a broker that is not ours to kill")
    yield broker
    broker.start()


@pytest.fixture(scope="session")
def ehr_owner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ehr]:
    """An EHR in the part of the system of record."""
    with Ehr(tmp_path_factory.mktemp("ehr-owner")) as started:
        yield started


@pytest.fixture(scope="session")
def ehr_replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ehr]:
    """An EHR in the part of a system that is fed the whole."""
    with Ehr(tmp_path_factory.mktemp("ehr-replica")) as started:
        yield started


@pytest.fixture(scope="session")
def pipeline_of_all(broker: Broker | GivenBroker, ehr_replica: Ehr, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Every role once, before an EHR that is fed the whole."""
    target = Target("ehr", "replica", "sekmet-replica", ehr_replica.base_url)
    with stopped_at_end(stack_at(tmp_path_factory.mktemp("pipeline"), broker.bootstrap, target)) as stack:
        stack.start_all()
        yield stack


@pytest.fixture
def pipeline(pipeline_of_all: Stack) -> Stack:
    """The pipeline of all roles, each of them ready; what ended since is started again. Tests share its topics."""
    pipeline_of_all.wait_ready(*pipeline_of_all.start_all(), timeout_s=ANSWER_S * 2)
    return pipeline_of_all
