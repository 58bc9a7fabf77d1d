"""One broker and two EHRs for all hazards; each test has a pipeline of its own, under its own topic prefix."""

from collections.abc import Iterator

import pytest

from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from tests.hazards.harness import SHORT


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In short mode the long ones are left out, and said so."""
    for item in items:
        item.add_marker(pytest.mark.integration)
        if SHORT and item.get_closest_marker("long") is not None:
            item.add_marker(pytest.mark.skip(reason="a long one, left out by SURGELINE_HAZARDS=short; run `make hazards`"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: left out when SURGELINE_HAZARDS=short")


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that tests may kill; whoever does starts it again."""
    with Broker(tmp_path_factory.mktemp("broker")) as started:
        yield started


@pytest.fixture(scope="session")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ehr]:
    """The EHR of record."""
    with Ehr(tmp_path_factory.mktemp("ehr-owner")) as started:
        yield started


@pytest.fixture(scope="session")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ehr]:
    """A system that is fed the whole."""
    with Ehr(tmp_path_factory.mktemp("ehr-replica")) as started:
        yield started
