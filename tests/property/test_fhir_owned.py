"""Owned paths: whatever we write, everything else of a resource stays byte by byte, and doing it twice does nothing more."""

import copy
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec import UNSET, structs

from pipeline.destinations.fhir.build import Builder
from pipeline.destinations.fhir.profile import load_profile
from pipeline.destinations.protocol import Request
from pipeline.domain.event import (
    Allocation,
    AllocationStatus,
    Bed,
    BedOccupancy,
    Encounter,
    EncounterStatus,
    EntityType,
    Environment,
    Identifier,
    Name,
    Occupancy,
    Patient,
    PatientClass,
    Payload,
    Place,
    Procedure,
    ProcedureStatus,
    Reference,
    Service,
    ServiceStatus,
    Sex,
    StageState,
    Transfer,
    TransferKind,
    TransferStage,
)
from pipeline.domain.identifiers import Millis, Revision
from pipeline.formats.fhir.codec import decode, encode
from pipeline.formats.fhir.naming import Naming
from pipeline.formats.fhir.owned import Misshapen, Owned, apply_owned, value_at
from pipeline.formats.fhir.profile import OWNER_FIELDS, ResourceProfile
from pipeline.formats.fhir.resources import RESOURCES
from pipeline.formats.fhir.revision import changed_fields_at_ehr, mark_extension, mark_of, read_mark
from pipeline.formats.fhir.terms import OURS
from tests.support.fhir_checks import check
from tests.support.fhir_lab import accepted, pending

KEY = b"a key for tests, of 32 bytes....."
REPLICA = load_profile("sekmet-replica")
NAMING = Naming(REPLICA, "t1", "MAIN")
ENTITY = {
    Bed: EntityType.BED,
    Encounter: EntityType.ENCOUNTER,
    Patient: EntityType.PATIENT,
    Transfer: EntityType.TRANSFER,
    Procedure: EntityType.PROCEDURE,
}

words = st.text("ABCdé1/%|, ", min_size=1, max_size=6).filter(lambda text: bool(text.strip()))
times = st.integers(0, 4_102_444_800_000).map(Millis)
references = st.builds(Reference, namespace=words, id=words)
places = st.builds(
    Place,
    **{
        name: st.none() | st.sampled_from(["A", "B/1"])
        for name in ("facility", "building", "floor", "point_of_care", "room", "bed")
    },
)
flags = st.booleans()


def stated(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.just(UNSET) | st.none() | values


beds = st.builds(
    Bed,
    occupancy=stated(st.builds(BedOccupancy, status=st.sampled_from(Occupancy), encounter=st.none() | references)),
    environment=stated(st.sampled_from(Environment)),
    allocation=stated(
        st.builds(Allocation, status=st.sampled_from(AllocationStatus), encounter=st.none() | references, until=st.none() | times)
    ),
    service=stated(st.builds(Service, status=st.sampled_from(ServiceStatus), reason=st.none() | words, until=st.none() | times)),
    staffed=stated(flags),
    isolation=stated(flags),
    place=stated(places),
    level_of_care=stated(words),
)
encounters = st.builds(
    Encounter,
    patient=stated(references),
    patient_class=stated(st.sampled_from(PatientClass)),
    status=stated(st.sampled_from(EncounterStatus)),
    location=stated(places),
    prior_location=stated(places),
    temporary_location=stated(places),
    pending_location=stated(places),
    service=stated(words),
    admitted_at=stated(times),
    discharged_at=stated(times),
    expected_discharge_at=stated(times),
    disposition=stated(words),
    episode=stated(references),
)
patients = st.builds(
    Patient,
    identifiers=stated(st.lists(st.builds(Identifier, system=words, value=words, type=st.none() | words), max_size=3).map(tuple)),
    name=stated(st.builds(Name, family=st.none() | words, given=st.none() | words)),
    birth_date=stated(st.sampled_from(["1970", "1980-02", "1990-03-04"])),
    sex=stated(st.sampled_from(Sex)),
    deceased=stated(flags),
    merged_into=stated(references),
)
transfers = st.builds(
    Transfer,
    kind=stated(st.sampled_from(TransferKind)),
    stage=stated(st.builds(StageState, stage=st.sampled_from(TransferStage), reason=st.none() | words, at=st.none() | times)),
    patient=stated(references),
    encounter=stated(references),
    origin=stated(places),
    destination=stated(places),
    service=stated(words),
    requested_at=stated(times),
)
ANY_TIME = frozenset({"PENDING", "WAITLIST", "BOOKED", "CANCELLED", "DISCONTINUED", "DELETED", "BLOCKED", "OVERBOOK", "UNKNOWN"})
procedures = st.builds(
    Procedure,
    status=stated(st.sampled_from([status for status in ProcedureStatus if status in ANY_TIME])),
    start=stated(times),
    end=stated(times),
    place=stated(places),
    patient=stated(references),
    encounter=stated(references),
    service=stated(words),
    reason=stated(words),
) | st.builds(
    Procedure,
    status=st.sampled_from(ProcedureStatus),
    start=st.just(Millis(1_700_000_000_000)),
    end=st.integers(1_700_000_000_000, 1_700_100_000_000).map(Millis),
    patient=stated(references),
    reason=stated(words),
)
states: st.SearchStrategy[Payload] = beds | encounters | patients | transfers | procedures

# What others put into the same lists and beside them; none of it matches an address of ours.
foreign_elements = st.fixed_dictionaries(
    {},
    optional={
        "identifier": st.lists(st.builds(lambda value: {"system": "urn:other", "value": value}, words), min_size=1, max_size=3),
        "extension": st.lists(
            st.builds(lambda n: {"url": f"urn:other:{n}", "valueDecimal": n}, st.integers(0, 9)), min_size=1, max_size=3
        ),
        "alias": st.lists(words, min_size=1, max_size=2),
        "telecom": st.just([{"system": "phone", "value": "1"}]),
        "text": st.just({"status": "generated", "div": "<div/>"}),
        "location": st.just([{"location": {"reference": "Location/7"}, "status": "active", "period": {"start": "2020"}}]),
        "name": st.just([{"use": "nickname", "given": ["N"]}]),
        "link": st.just([{"type": "seealso", "other": {"reference": "Patient/7"}}]),
        "participant": st.just(
            [
                {"actor": {"reference": "Practitioner/7"}, "status": "tentative"},
                {"type": [{"text": "anaesthesia"}], "status": "declined"},
            ]
        ),
        "serviceType": st.just([{"coding": [{"system": "urn:other", "code": "7"}], "text": "x"}]),
        "supportingInformation": st.just([{"reference": "Observation/7"}]),
        "episodeOfCare": st.just([{"reference": "EpisodeOfCare/7"}]),
        "input": st.just([{"type": {"text": "x"}, "valueDecimal": 1}]),
        "note": st.just([{"text": "x"}]),
        "meta": st.just({"tag": [{"system": "urn:other", "code": "x"}]}),
    },
)


def desired_of(state: Payload, body: dict[str, Any]) -> tuple[Owned, ...]:
    resource = RESOURCES[ENTITY[type(state)]]
    try:
        return resource.desired(state, NAMING.entity(resource.entity_type, "MAIN", "x"), NAMING, body)
    except Misshapen:  # a state that has no valid form is refused, see test_fhir_resources
        assume(False)
        raise


def shown_of(state: Payload, body: dict[str, Any]) -> dict[str, Any]:
    resource = RESOURCES[ENTITY[type(state)]]
    return resource.shown(body, NAMING.entity(resource.entity_type, "MAIN", "x"), NAMING)


OBJECTS = {Bed: ("name", "location", "serviceType"), Encounter: ("serviceType",), Transfer: ("location",)}
"""Elements that have another shape in this resource than the foreign ones here."""


def base_of(state: Payload, foreign: dict[str, Any]) -> dict[str, Any]:
    body = RESOURCES[ENTITY[type(state)]].created(state, NAMING)
    mine = OBJECTS.get(type(state), ())
    return body | {name: value for name, value in foreign.items() if name not in mine}


@given(states, foreign_elements)
def test_writing_twice_writes_nothing_more(state: Payload, foreign: dict[str, Any]) -> None:
    body = base_of(state, foreign)
    once = apply_owned(body, desired_of(state, body))
    assert encode(apply_owned(once, desired_of(state, once))) == encode(once)


@given(states, states, foreign_elements)
def test_what_is_not_ours_is_the_same_bytes_before_and_after(first: Payload, second: Payload, foreign: dict[str, Any]) -> None:
    if type(first) is not type(second):
        return
    body = base_of(first, foreign)
    untouched, before = copy.deepcopy(body), encode(body)
    once = apply_owned(body, desired_of(first, body))
    twice = apply_owned(once, desired_of(second, once))
    assert encode(body) == before
    for name, value in untouched.items():
        if name in foreign and isinstance(value, list):
            kept = [element for element in twice[name] if element in value]
            assert encode(kept) == encode(value)
        elif name in foreign:
            assert encode(twice[name]) == encode(value)


@given(states, foreign_elements)
def test_what_was_written_is_what_is_read(state: Payload, foreign: dict[str, Any]) -> None:
    body = base_of(state, foreign)
    desired = desired_of(state, body)
    after = apply_owned(body, desired)
    last = {(owned.path): owned.value for owned in desired}
    for path, value in last.items():
        assert value_at(after, path) == value


@given(beds, foreign_elements)
def test_a_field_left_unset_touches_nothing_and_none_clears(state: Bed, foreign: dict[str, Any]) -> None:
    body = base_of(state, foreign)
    written = apply_owned(body, desired_of(state, body))
    assert (
        apply_owned(written, [owned for owned in desired_of(Bed(), written) if owned.field not in ("identifier", "kind")])
        == written
    )
    nothing = Bed(**dict.fromkeys(structs.asdict(state)))
    cleared = apply_owned(written, desired_of(nothing, written))
    assert [
        name
        for name in shown_of(state, cleared)
        if name not in ("identifier", "kind") and any_value(shown_of(state, cleared)[name])
    ] == []


def any_value(shown: Any) -> bool:
    return any(part is not None for part in shown) if isinstance(shown, list) else shown is not None


@given(states, foreign_elements, st.integers(0, 2**44 - 1))
def test_our_own_write_read_back_is_no_change_at_the_ehr(state: Payload, foreign: dict[str, Any], offset: int) -> None:
    body = base_of(state, foreign)
    after = apply_owned(body, desired_of(state, body))
    mark = mark_of(Revision(1 << 44 | offset), "0123456789abcdef", shown_of(state, after), KEY)
    carried = decode(encode({**after, "extension": [*after.get("extension", []), mark_extension(mark)]}))
    assert carried is not None
    assert read_mark(carried) == mark
    assert changed_fields_at_ehr(carried, shown_of(state, carried), KEY) == ()


def test_an_edit_of_one_field_is_told_by_name() -> None:
    state = Bed(environment=Environment.CLEAN, staffed=True)
    after = apply_owned({"resourceType": "Location"}, desired_of(state, {}))
    mark = mark_of(Revision(1 << 44), "0123456789abcdef", shown_of(state, after), KEY)
    edited = apply_owned(after, desired_of(Bed(environment=Environment.DIRTY), after))
    edited = {**edited, "extension": [*edited["extension"], mark_extension(mark)]}
    assert changed_fields_at_ehr(edited, shown_of(state, edited), KEY) == ("environment", "operational_status")


def test_a_resource_without_a_mark_is_unknown_and_not_unchanged() -> None:
    assert changed_fields_at_ehr({"resourceType": "Location"}, {}, KEY) is None


@pytest.mark.parametrize(
    ("number", "written"),
    [("1.10", "1.10"), ("100.0", "100.0"), ("12345678901234567890.5", "12345678901234567890.5"), ("1e400", "1E+400")],
)
def test_a_decimal_keeps_its_digits(number: str, written: str) -> None:
    body = decode(f'{{"a":{number}}}'.encode())
    assert body is not None
    assert encode(body).decode() == f'{{"a":{written}}}'


@given(st.one_of(*(st.lists(each, min_size=1, max_size=3) for each in (beds, encounters, patients, transfers, procedures))))
def test_whatever_is_written_after_whatever_is_valid_r4(history: list[Payload]) -> None:
    body = base_of(history[0], {})
    for state in history:
        body = apply_owned(body, desired_of(state, body))
        check(body)


OWNER = load_profile("sekmet-owner")
STAYS = ResourceProfile(system="urn:stays", fields=("pending_location",))
OWNER_WITH_STAYS = structs.replace(
    OWNER, resources={**OWNER.resources, EntityType.ENCOUNTER: STAYS}, references={}, reservation="pending-location"
)


def resolved(node: Any) -> Any:
    """As a server stores it: with ids in place of the URNs of a transaction."""
    if isinstance(node, dict):
        return {name: resolved(value) for name, value in node.items()}
    if isinstance(node, list):
        return [resolved(value) for value in node]
    return "Location/7" if isinstance(node, str) and node.startswith("urn:uuid:") else node


@given(beds | encounters | transfers, beds | encounters | transfers, foreign_elements)
def test_an_owner_keeps_every_element_that_is_not_ours_to_write(theirs: Payload, ours: Payload, foreign: dict[str, Any]) -> None:
    """What the EHR of record says of an entity is written by a replica's map; then our state comes, by the owner's profile."""
    assume(type(theirs) is type(ours))
    body = base_of(theirs, foreign) | {"id": "7"}
    body = resolved(apply_owned(body, desired_of(theirs, body)))
    builder = Builder(OWNER_WITH_STAYS, KEY)
    write = pending(accepted(ours, "x", 5, ENTITY[type(ours)]))
    request = builder.build(write, builder.current_of(body, 'W/"1"'))
    if not isinstance(request, Request):
        return
    after = request.body
    allowed = {owned.path[0] for owned in desired_of(ours, body) if owned.field in OWNER_FIELDS[ENTITY[type(ours)]]}
    assert {name for name in {**body, **after} if body.get(name) != after.get(name)} <= allowed | {"extension"}
    lost = [element for element in body.get("extension", []) if element not in after["extension"]]
    assert all(str(element["url"]).startswith(OURS) for element in lost)
    if isinstance(ours, Encounter):
        kept = [item for item in body.get("location", []) if item["status"] != "reserved"]
        assert [item for item in after.get("location", []) if item["status"] != "reserved"] == kept
