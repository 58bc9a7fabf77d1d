"""Attacks on the delivery: a slow rate, and a destination that fences nothing."""

import random
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from pipeline.destinations.fhir_build import Builder
from pipeline.destinations.fhir_profile import load_profile
from pipeline.destinations.protocol import Current
from pipeline.domain.identifiers import Millis, Revision
from pipeline.domain.limits import AdaptiveLimiter, ConsecutiveBreaker
from pipeline.stream.delivery import Delivery, Limits, rate_of
from pipeline.stream.outcomes import Job

KEY = b"t1|bed|MAIN|B1"
DIGEST_KEY = b"a key for tests, of 32 bytes....."


@pytest.mark.parametrize("rate_per_s", [0.2, 1.0, 3.0, 10.0, 250.0])
def test_a_rate_is_kept_also_below_one_request_in_a_period(rate_per_s: float) -> None:
    limiter = rate_of(rate_per_s)
    assert limiter.max_rate / limiter.time_period == pytest.approx(rate_per_s)
    assert limiter.max_rate >= 1


def delivery() -> Delivery:
    none = cast(Any, SimpleNamespace(name="ehr"))
    return Delivery(
        destination=none,
        pendings=none,
        ledger=none,
        limiter=AdaptiveLimiter(4),
        breaker=ConsecutiveBreaker(),
        limits=Limits(10.0, 3, 100.0),
        decode=lambda _: cast(Any, None),
        observer=none,
        clock=lambda: Millis(0),
        draw=random.Random(1).random,
        writer="ehr/0",
    )


async def test_a_body_that_no_version_would_discard_is_not_kept() -> None:
    """A write made from it would undo what a clinician changed in the meantime."""
    room = delivery()
    job = cast(Job, SimpleNamespace(key=KEY, partition=0))
    room._remember(job, Current("r1", 'W/"1"', {}, Revision(1), "0" * 16))
    assert room.cached(KEY) is not None
    room._remember(job, Current("r1", None, {}, Revision(2), "0" * 16))
    assert room.cached(KEY) is None


@pytest.mark.parametrize(("fence", "etag"), [("if-match", 'W/"7"'), ("none", None)])
def test_a_destination_without_a_fence_tells_no_version(fence: str, etag: str | None) -> None:
    profile = load_profile("sekmet-replica")
    builder = Builder(replace(profile, fence=fence), DIGEST_KEY)
    assert builder.current_of({"resourceType": "Location", "id": "r1"}, 'W/"7"').etag == etag
