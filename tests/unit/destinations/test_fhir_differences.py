"""What a write would change is told by names of fields, and never by a value."""

import msgspec
import pytest

from pipeline.destinations.fhir.build import Builder
from pipeline.destinations.fhir.profile import load_profile
from pipeline.destinations.protocol import Absent, Current, PendingWrite, Request
from pipeline.domain.event import Bed, BedOccupancy, Environment, Occupancy, Service, ServiceStatus
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Accepted
from tests.support.changes import change

BUILDER = Builder(load_profile("sekmet-owner"), b"a key for tests, of 32 bytes.....")
DIRTY = Bed(occupancy=BedOccupancy(Occupancy.VACANT), environment=Environment.DIRTY, staffed=True)
CLEAN = msgspec.structs.replace(DIRTY, environment=Environment.CLEAN)


def of(bed: Bed, offset: int = 3) -> Accepted:
    return msgspec.structs.replace(change(offset), state=bed)


def shown(bed: Bed) -> Current:
    """The resource after a write of this state, as a read shows it."""
    accepted = of(bed)
    built = BUILDER.build(PendingWrite(accepted, None, None, 1, Millis(0)), Absent())
    assert isinstance(built, Request)
    body = {**built.body["entry"][-1]["resource"], "id": "r"}
    return BUILDER.current_of(body, 'W/"1"')


def test_of_what_is_not_there_all_that_has_a_value_would_be_set() -> None:
    fields = BUILDER.differences(of(DIRTY), Absent())
    assert {"environment", "operational_status", "staffed"} <= set(fields)
    assert not {"service", "surge", "negative_pressure"} & set(fields)
    assert list(fields) == sorted(fields)


@pytest.mark.parametrize(
    ("after", "fields"),
    [
        (DIRTY, ()),
        (CLEAN, ("environment", "operational_status")),
        (msgspec.structs.replace(DIRTY, staffed=False), ("staffed",)),
        (msgspec.structs.replace(DIRTY, service=Service(ServiceStatus.BLOCKED, "W")), ("operational_status", "service")),
        (msgspec.structs.replace(DIRTY, staffed=None), ("staffed",)),
    ],
)
def test_of_what_is_there_only_what_differs_would_be_changed(after: Bed, fields: tuple[str, ...]) -> None:
    assert BUILDER.differences(of(after, 7), shown(DIRTY)) == fields


def test_what_the_ehr_owns_is_no_difference() -> None:
    current = shown(DIRTY)
    current.body["name"], current.body["description"] = "Bed by the window", "note"
    assert BUILDER.differences(of(DIRTY, 7), current) == ()


def test_an_edit_of_ours_at_the_ehr_is_a_difference_though_it_carries_our_revision() -> None:
    current = shown(DIRTY)
    edited = {**current.body, "operationalStatus": {**current.body["operationalStatus"], "code": "O"}}
    assert BUILDER.differences(of(DIRTY), BUILDER.current_of(edited, 'W/"2"')) == ("operational_status",)


def test_no_value_is_told() -> None:
    blocked = msgspec.structs.replace(DIRTY, service=Service(ServiceStatus.BLOCKED, "burst pipe"))
    told = BUILDER.differences(of(blocked), Absent())
    assert "service" in told
    assert "burst" not in "".join(told)
