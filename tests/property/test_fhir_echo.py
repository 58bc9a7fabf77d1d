"""What the writer really sends comes back as an echo, write after write; what a clinician changes in between enters, alone."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from pipeline.destinations.fhir.build import Builder
from pipeline.destinations.fhir.profile import load_profile
from pipeline.destinations.protocol import Absent, Request
from pipeline.domain.event import EntityType, Patient, Payload, Sex
from pipeline.domain.identifiers import Millis
from pipeline.formats.fhir.inbound import Ignored, IgnoredBecause, Mapped, Origin, Verdict, events_of
from pipeline.formats.fhir.owned import Body
from pipeline.formats.fhir.profile import Profile
from pipeline.formats.fhir.samples import SAMPLES
from tests.support.examples import examples
from tests.support.fhir_lab import DIGEST_KEY, accepted, pending

OWNER, REPLICA = load_profile("sekmet-owner"), load_profile("sekmet-replica")
CASES = [
    (profile, entity_type)
    for profile in (OWNER, REPLICA, structs.replace(REPLICA, revision="tag"), structs.replace(REPLICA, fhir="R5"))
    for entity_type in profile.resources
    if entity_type in SAMPLES
]


def sent(profile: Profile, entity_type: EntityType, state: Payload, current: Body | None, offset: int) -> Body | None:
    """The resource after the write, at a server that made version `offset` of it; None where nothing was written."""
    builder = Builder(profile, DIGEST_KEY)
    write = pending(accepted(state, "ICU/12/A", offset, entity_type))
    request = builder.build(write, Absent() if current is None else builder.current_of(current, 'W/"1"'))
    if not isinstance(request, Request):
        return None
    entries = request.body.get("entry")
    body: Body = entries[-1]["resource"] if entries else request.body
    meta = {**body.get("meta", {}), "versionId": str(offset), "lastUpdated": f"2026-01-31T08:00:{offset:02}Z"}
    return {**body, "id": "r1", "meta": meta}


def back(profile: Profile, body: Body) -> Verdict:
    return events_of(body, Origin("t1", "MAIN", "ehr", "fhir", profile.fhir), profile, DIGEST_KEY, Millis(1_769_846_500_000))


def part(state: Payload, fields: set[str]) -> Payload:
    return type(state)(**{field: getattr(state, field) for field in fields})


@settings(max_examples=examples(120), deadline=None)
@given(case=st.sampled_from(CASES), data=st.data())
def test_each_write_comes_back_as_an_echo(case: tuple[Profile, EntityType], data: st.DataObject) -> None:
    profile, entity_type = case
    full = SAMPLES[entity_type]
    known: set[str] = set()
    current: Body | None = None
    for offset in (5, 6, 7):
        known |= data.draw(st.sets(st.sampled_from(full.__struct_fields__), min_size=1))
        body = sent(profile, entity_type, part(full, known), current, offset)
        if body is None:
            continue
        current = body
        verdict = back(profile, body)
        assert isinstance(verdict, Ignored)
        assert verdict.reason is IgnoredBecause.ECHO


@settings(max_examples=examples(60), deadline=None)
@given(data=st.data(), edited=st.sampled_from(["male", "other", None]))
def test_an_edit_between_two_writes_enters_alone(data: st.DataObject, edited: str | None) -> None:
    full = SAMPLES[EntityType.PATIENT]
    known = {"sex"} | data.draw(st.sets(st.sampled_from(full.__struct_fields__)))
    body = sent(REPLICA, EntityType.PATIENT, part(full, known), None, 5)
    assert body is not None
    theirs: dict[str, Any] = {name: value for name, value in body.items() if name != "gender"}
    theirs |= {"gender": edited} if edited else {}
    verdict = back(REPLICA, theirs)
    assert isinstance(verdict, Mapped)
    (event,) = verdict.events
    assert event.payload == Patient(sex=Sex(edited.upper()) if edited else None)
