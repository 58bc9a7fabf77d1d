"""One registry for the suite. Where it can't be had the tests are skipped, loudly."""

from collections.abc import Iterator
from typing import Final

import pytest

from pipeline.local.errors import LocalPlatformError
from pipeline.local.servers.broker import Broker
from tests.registry.apicurio import Apicurio

TIMEOUT_S: Final = 900
"""Of the test that starts the registry: it is fetched within it, on a first run."""
NO_REGISTRY: Final = "the schema registry can not be had"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.integration)
        item.add_marker(pytest.mark.timeout(TIMEOUT_S))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if NO_REGISTRY in str(report.longrepr)]
    if skipped:
        terminalreporter.section(f"{len(skipped)} TESTS SKIPPED: {NO_REGISTRY}", sep="!", red=True)
        terminalreporter.line(str(skipped[0].longrepr[-1]))


@pytest.fixture(scope="session")
def apicurio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apicurio]:
    """The registry. Whoever kills it starts it again."""
    try:
        registry = Apicurio(tmp_path_factory.mktemp("registry"))
    except LocalPlatformError as error:
        pytest.skip(f"{NO_REGISTRY}: {error}")
    with registry:
        yield registry


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker of its own."""
    with Broker(tmp_path_factory.mktemp("broker")) as started:
        yield started
