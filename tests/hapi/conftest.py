"""A HAPI FHIR server, started once, when a test first asks for one. Its first start fetches about 300 MB of jars."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from pipeline.local.servers.hapi import FhirVersion, Hapi, tell_standard_error

TIMEOUT_S: Final = 900
"""Of the test that starts the server: jars are fetched within it, on a first run."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.integration)
        item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@contextmanager
def server(folder: Path, version: FhirVersion, capture: Any) -> Iterator[Hapi]:
    """A server, whose start shows on the terminal what it waits for."""

    def tell(line: str) -> None:
        with capture.global_and_fixture_disabled():
            tell_standard_error(f"\n{line}")

    started = Hapi(folder, version=version, tell=tell)
    tell(f"starting HAPI FHIR {version}")
    with started:
        yield started


@pytest.fixture(scope="session")
def hapi(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Hapi]:
    """The R4 server of the suite. Whoever kills it starts it again."""
    with server(tmp_path_factory.mktemp("hapi-r4"), "R4", request.config.pluginmanager.getplugin("capturemanager")) as started:
        yield started


@pytest.fixture(scope="session", params=["R4B", "R5"])
def later(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Hapi]:
    """A server of a later version, started once for all its tests; never two of them at once."""
    folder = tmp_path_factory.mktemp(f"hapi-{request.param.lower()}")
    with server(folder, request.param, request.config.pluginmanager.getplugin("capturemanager")) as started:
        yield started
