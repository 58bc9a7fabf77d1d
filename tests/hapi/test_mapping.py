"""Transfers, procedures and episodes of care at a HAPI FHIR server: the promises of tests/integration/test_fhir_mapping.py."""

import inspect
from collections.abc import AsyncIterator

import pytest

from pipeline.local.servers.hapi import Hapi
from tests.integration import test_fhir_mapping as promises
from tests.integration.test_fhir_mapping import Lab, name

__all__ = ["name"]

for _name, _test in list(vars(promises).items()):
    if _name.startswith("test_") and "lab" in inspect.signature(_test).parameters:
        globals()[_name] = _test


@pytest.fixture
async def lab(hapi: Hapi) -> AsyncIterator[Lab]:
    made = Lab(hapi.base_url, "hapi")
    yield made
    await made.close()


async def test_the_promises_are_here() -> None:
    here = [each for each in globals() if each in vars(promises) and each.startswith("test_")]
    assert len(here) > 10
