"""Owned paths in R5's form: what others put into the lists that R5 made of R4's elements stays, and twice is once."""

from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec import structs

from pipeline.domain.event import Payload
from pipeline.formats.fhir.codec import encode
from pipeline.formats.fhir.naming import Naming
from pipeline.formats.fhir.owned import Body, Misshapen, Owned, apply_owned, value_at
from pipeline.formats.fhir.resources import RESOURCES
from tests.property.test_fhir_owned import ENTITY, REPLICA, encounters, procedures, transfers

NAMING = Naming(structs.replace(REPLICA, fhir="R5"), "t1", "MAIN")
OTHER = {"system": "urn:other", "code": "7"}
changed = encounters | transfers | procedures

foreign_elements = st.fixed_dictionaries(
    {},
    optional={
        "class": st.just([{"coding": [OTHER], "text": "x"}]),
        "serviceType": st.just([{"reference": {"reference": "HealthcareService/7"}}, {"concept": {"coding": [OTHER]}}]),
        "subjectStatus": st.just({"coding": [OTHER], "text": "x"}),
        "actualPeriod": st.just({"extension": [{"url": "urn:other", "valueString": "x"}]}),
        "admission": st.just({"reAdmission": {"text": "x"}, "dischargeDisposition": {"coding": [OTHER]}}),
        "statusReason": st.just({"reference": {"reference": "Observation/7"}, "concept": {"coding": [OTHER]}}),
        "cancellationDate": st.just("2026-01-31"),
        "plannedStartDate": st.just("2026-01-31T08:00:00Z"),
        "participant": st.just([{"actor": {"reference": "Practitioner/7"}, "status": "tentative"}]),
        "virtualService": st.just([{"addressUrl": "urn:x"}]),
    },
)
OURS_IN_TIME = frozenset({"plannedStartDate"})
"""Ours while a stay has not begun."""


def desired_of(state: Payload, body: Body) -> tuple[Owned, ...]:
    resource = RESOURCES[ENTITY[type(state)]]
    try:
        return resource.desired(state, NAMING.entity(resource.entity_type, "MAIN", "x"), NAMING, body)
    except Misshapen:
        assume(False)
        raise


def written(state: Payload, body: Body) -> Body:
    return apply_owned(body, desired_of(state, body))


def base_of(state: Payload, foreign: Body) -> Body:
    return RESOURCES[ENTITY[type(state)]].created(state, NAMING) | foreign


def holds(after: Any, before: Any) -> bool:
    """Whether everything of before is in after: each member of an object, each element of a list in its order."""
    if isinstance(before, dict):
        return isinstance(after, dict) and all(name in after and holds(after[name], value) for name, value in before.items())
    if isinstance(before, list):
        left = iter(after if isinstance(after, list) else ())
        return all(any(holds(element, wanted) for element in left) for wanted in before)
    return bool(after == before)


@given(changed, foreign_elements)
def test_writing_twice_writes_nothing_more_and_what_was_written_is_read(state: Payload, foreign: Body) -> None:
    once = written(state, base_of(state, foreign))
    desired = desired_of(state, once)
    assert encode(apply_owned(once, desired)) == encode(once)
    for path, value in {owned.path: owned.value for owned in desired}.items():
        assert value_at(once, path) == value


@given(changed, changed, foreign_elements)
def test_what_others_put_beside_ours_stays(first: Payload, second: Payload, foreign: Body) -> None:
    assume(type(first) is type(second))
    twice = written(second, written(first, base_of(first, foreign)))
    assert holds(twice, {name: value for name, value in foreign.items() if name not in OURS_IN_TIME})
