"""What we write comes back by a subscription as an echo and nothing else: no event, whatever the states and their order."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, structs

from pipeline.destinations.fhir.build import Builder
from pipeline.destinations.fhir.profile import load_profile
from pipeline.destinations.protocol import Absent, Request
from pipeline.domain.event import Payload
from pipeline.domain.identifiers import Millis
from pipeline.formats.fhir.codec import decode, encode
from pipeline.formats.fhir.inbound import events_of
from pipeline.formats.fhir.inbound_verdict import Ignored, IgnoredBecause, Origin
from tests.property.test_fhir_owned import ENTITY, KEY, beds, encounters, patients, procedures, resolved, transfers
from tests.support.fhir_checks import check
from tests.support.fhir_lab import accepted, pending

REPLICA = load_profile("sekmet-replica")
histories = st.one_of(*(st.lists(each, min_size=1, max_size=3) for each in (beds, encounters, patients, transfers, procedures)))


def merged(before: Payload, event: Payload) -> Payload:
    """The whole state after an event, as the gate makes it: a field that was stated once is never unstated again."""
    return structs.replace(before, **{name: value for name, value in structs.asdict(event).items() if value is not UNSET})


def stored(builder: Builder, state: Payload, offset: int, current: dict[str, Any] | None) -> dict[str, Any] | None:
    """The resource as the server has it after the write of a state; None where that is refused, or there already."""
    write = pending(accepted(state, "x", offset, ENTITY[type(state)]))
    request = builder.build(write, Absent() if current is None else builder.current_of(current, 'W/"1"'))
    if not isinstance(request, Request):
        return None
    entries = request.body.get("entry")
    body = decode(encode(resolved(entries[-1]["resource"] if entries else request.body)))
    assert body is not None
    meta = {**body.get("meta", {}), "versionId": str(offset), "lastUpdated": "2026-01-01T00:00:00Z"}
    return {**body, "id": "7", "meta": meta}


@pytest.mark.parametrize("version", ["R4", "R5"])
@pytest.mark.parametrize("carrier", ["extension", "tag"])
@given(history=histories)
def test_whatever_we_wrote_comes_back_as_an_echo(carrier: Any, version: Any, history: list[Payload]) -> None:
    profile, origin = structs.replace(REPLICA, revision=carrier, fhir=version), Origin("t1", "MAIN", "ehr", "fhir", version)
    builder = Builder(profile, KEY)
    body: dict[str, Any] | None = None
    for number, state in enumerate(itertools.accumulate(history, merged)):
        body = stored(builder, state, 5 + number, body) or body
        if body is not None:
            check(body, version)
            verdict = events_of(body, origin, profile, KEY, Millis(0))
            assert isinstance(verdict, Ignored), type(verdict)
            assert verdict.reason is IgnoredBecause.ECHO
