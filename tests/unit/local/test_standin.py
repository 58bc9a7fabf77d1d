"""A stand-in that takes so much and no more, and what the bench makes of it."""

import time
from pathlib import Path
from typing import Final

import msgspec
import pytest

from pipeline.formats.fhir.profile import BundleProfile
from pipeline.local.bench import ehr as bench
from pipeline.local.bench.ehr import EhrFigures, table_of
from pipeline.local.servers.standin import Bucket, Store

DOCS: Final = Path(__file__).resolve().parents[3] / "docs"
BODY: Final = {"resourceType": "Location", "identifier": [{"system": "urn:s", "value": "a|b"}]}


async def test_what_is_over_the_cap_waits_in_turn() -> None:
    bucket, began_s = Bucket(200.0, "queue"), time.monotonic()
    for _ in range(40):
        assert await bucket.take(1)
    assert time.monotonic() - began_s >= 0.19


async def test_what_is_over_the_cap_is_refused_and_costs_nothing() -> None:
    bucket = Bucket(0.001, "refuse")
    assert not await bucket.take(1)
    assert not await bucket.take(50)


def test_versions_fence_writes_and_identifiers_fence_creates() -> None:
    store = Store()
    assert store.create("Location", BODY, "identifier=urn:s|a%5C|b") == (201, "Location/1")
    assert store.create("Location", BODY, "identifier=urn:s|a%5C|b") == (200, "Location/1")
    assert store.put("Location/1", BODY, 'W/"7"', None) == (412, 1)
    assert store.put("Location/1", BODY, None, "*") == (412, 1)
    assert store.put("Location/1", BODY, 'W/"1"', None) == (200, 2)
    assert store.counts.mismatches == 2


@pytest.mark.parametrize("bundle", [None, BundleProfile(20)])
def test_the_bench_writes_every_bed_twice_with_one_read_each(bundle: BundleProfile | None) -> None:
    case = bench._case("some", 300, bundle, "queue", 0.2)
    assert (case.reads, case.writes, case.refused) == (20, 40, 0)
    assert (case.requests < 30) == (bundle is not None)


def test_the_figures_in_the_documentation_are_those_of_the_report() -> None:
    report = msgspec.json.decode((DOCS / "reports" / "bench-ehr.json").read_bytes())
    figures = msgspec.convert(report["figures"], EhrFigures)
    assert table_of(figures) in (DOCS / "operating" / "ehr-limits.md").read_text()
    assert figures.reached
