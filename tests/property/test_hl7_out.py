"""HL7 v2 out, read back by our own way in: what it states is what the state says, for any state."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from pipeline.domain.bed import is_promised, status_code
from pipeline.domain.event import (
    Bed,
    BedOccupancy,
    Encounter,
    EncounterStatus,
    EntityType,
    Environment,
    Event,
    EventType,
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
)
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Accepted
from pipeline.formats.hl7v2.mapping import map_bytes
from pipeline.formats.hl7v2.out_messages import Letter, letter_of
from pipeline.formats.hl7v2.profile import Profile
from pipeline.formats.hl7v2.verdict import Mapped
from tests.support.examples import examples
from tests.unit.formats.test_hl7_out import REPLICA, record

READER = Profile(version="1", source_system="ehr", feed="adt", facility="GEN", time_zone="UTC", patient_id_types=("MR",))
CHARACTERS = st.characters(codec="utf-8", exclude_categories=("Cs", "Zs", "Zl", "Zp"), exclude_characters='"\x85\ufeff')
TEXT = st.text(CHARACTERS, min_size=1, max_size=12).map(str.strip).filter(bool)
PART = st.none() | TEXT
TIME = st.integers(0, 4_000_000_000_000).map(Millis)


def said(values: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """A field of a state: never said, cleared, or a value."""
    return st.just(UNSET) | st.none() | values


REFERENCE = st.builds(Reference, TEXT, TEXT)
PLACE = st.builds(Place, PART, PART, PART, PART, PART, PART).filter(lambda place: place != Place())

STAYS = st.builds(
    Encounter,
    patient=REFERENCE,
    patient_class=st.just(UNSET) | st.sampled_from(PatientClass),
    status=st.just(UNSET) | st.sampled_from(EncounterStatus),
    location=said(PLACE),
    prior_location=said(PLACE),
    temporary_location=said(PLACE),
    pending_location=said(PLACE),
    service=said(TEXT),
    admitted_at=said(TIME),
    admit_decision_at=said(TIME),
    expected_discharge_at=said(TIME),
    discharged_at=said(TIME),
    disposition=said(TEXT),
)
FIELDS = tuple(Encounter.__struct_fields__)
PRESENT = {EncounterStatus.IN_PROGRESS, EncounterStatus.ARRIVED, EncounterStatus.TRIAGED}


def read(accepted: Accepted) -> dict[EntityType, Event] | None:
    """What our own way in makes of the message; None where it is held."""
    made = letter_of(accepted, REPLICA, "adt")
    if not isinstance(made, Letter):
        return None
    _, verdict = map_bytes(made.data, READER, accepted.tenant, Millis(0))
    assert isinstance(verdict, Mapped), (made.name, verdict)
    assert verdict.unread == (), (made.name, verdict.unread)
    found: dict[EntityType, Event] = {}
    for event in verdict.events:
        found.setdefault(event.entity_type, event)
    return found


def states(read_back: Payload, state: Payload, field: str) -> bool:
    """Whether what was read of a field is what the state says; an empty field is never read as a word."""
    value, wanted = getattr(read_back, field), getattr(state, field)
    return value is UNSET or value == wanted or (value is None and wanted is UNSET)


@settings(max_examples=examples(120), deadline=None)
@given(STAYS, st.sampled_from(EventType), st.sets(st.sampled_from(FIELDS)))
def test_a_stay_is_read_back_as_nothing_but_its_state(stay: Encounter, kind: EventType, changed: set[str]) -> None:
    found = read(record(stay, kind, tuple(sorted(changed)), "V1"))
    assert found is not None
    event = found[EntityType.ENCOUNTER]
    assert (event.namespace, event.entity_id) == ("GEN", "V1")
    back = event.payload
    assert isinstance(back, Encounter)
    assert back.patient == stay.patient
    if isinstance(stay.patient_class, PatientClass):
        assert back.patient_class is stay.patient_class
    for field in ("location", "prior_location", "temporary_location", "service", "admitted_at", "disposition"):
        assert states(back, stay, field), field
    for field in ("pending_location", "expected_discharge_at"):
        assert states(back, stay, field) or event.event_type in (EventType.PENDING_ADMIT, EventType.PENDING_DISCHARGE), field
    if isinstance(stay.discharged_at, int):
        assert states(back, stay, "discharged_at")
    if isinstance(stay.status, EncounterStatus) and isinstance(stay.patient_class, PatientClass) and back.status is not UNSET:
        same = back.status is stay.status or (stay.status in PRESENT and back.status in (*PRESENT, EncounterStatus.UNKNOWN))
        assert same, (kind, stay.status, back.status)


@settings(max_examples=examples(80), deadline=None)
@given(
    st.builds(
        Patient,
        name=said(st.builds(Name, TEXT, TEXT | st.none())),
        birth_date=said(st.dates().map(lambda day: f"{day:%Y-%m-%d}".rjust(10, "0"))),
        sex=said(st.sampled_from(Sex)),
        deceased=said(st.booleans()),
        identifiers=st.just(UNSET) | st.lists(st.builds(Identifier, TEXT, TEXT, st.just("SS")), max_size=3).map(tuple),
    ),
    TEXT,
    st.booleans(),
)
def test_a_person_is_read_back_as_the_same(person: Patient, number: str, is_new: bool) -> None:
    found = read(record(person, entity_id=number, previous_revision=0 if is_new else 1))
    assert found is not None
    event = found[EntityType.PATIENT]
    assert event.entity_id == number
    back = event.payload
    assert isinstance(back, Patient)
    for field in ("name", "birth_date", "sex", "deceased"):
        assert getattr(back, field) == getattr(person, field), field
    assert isinstance(back.identifiers, tuple)
    if isinstance(person.identifiers, tuple):
        assert set(person.identifiers) <= set(back.identifiers)


@settings(max_examples=examples(80), deadline=None)
@given(
    st.builds(
        Bed,
        occupancy=st.just(UNSET) | st.sampled_from(Occupancy).map(BedOccupancy),
        environment=st.just(UNSET) | st.sampled_from(Environment),
        service=st.just(UNSET) | st.sampled_from(ServiceStatus).map(Service),
        isolation=st.just(UNSET) | st.booleans(),
    ),
    st.lists(TEXT, min_size=3, max_size=3),
)
def test_a_beds_code_is_read_back_at_its_name_as_a_word_that_holds(bed: Bed, parts: list[str]) -> None:
    name = "/".join(part.replace("%", "%25").replace("/", "%2F") for part in parts)
    found = read(record(bed, EventType.UPDATE, (), name))
    code = status_code(bed)
    assert (found is not None) == (code is not None and not is_promised(bed))
    if found is None:
        return
    event = found[EntityType.BED]
    assert (event.namespace, event.entity_id) == ("GEN", name)
    assert isinstance(event.payload, Bed)
    match code.value if code is not None else "":
        case "C":
            assert event.payload.service == Service(ServiceStatus.CLOSED)
        case "O":
            assert event.payload.occupancy == BedOccupancy(Occupancy.OCCUPIED)
        case "H" | "K":
            assert isinstance(event.payload.environment, Environment)
        case "I":
            assert event.payload.isolation is True
        case _:
            assert event.payload.occupancy == BedOccupancy(Occupancy.VACANT)


@settings(max_examples=examples(80), deadline=None)
@given(
    st.builds(
        Procedure,
        status=st.sampled_from(ProcedureStatus),
        start=TIME.map(lambda at: Millis(at - at % 1000)),
        end=st.just(UNSET),
        place=st.just(UNSET) | PLACE,
        patient=REFERENCE,
        encounter=st.just(UNSET) | REFERENCE,
        service=st.just(UNSET) | TEXT,
        reason=st.just(UNSET) | TEXT,
    ),
    st.booleans(),
    st.integers(1, 86_400),
    TEXT,
)
def test_a_procedure_is_read_back_as_the_same(procedure: Procedure, is_new: bool, lasts_s: int, number: str) -> None:
    assert isinstance(procedure.start, int)
    whole = msgspec.structs.replace(procedure, end=Millis(procedure.start + lasts_s * 1000))
    found = read(record(whole, changed=("start",), entity_id=number, previous_revision=0 if is_new else 1))
    assert found is not None
    event = found[EntityType.PROCEDURE]
    assert event.entity_id == number
    back = event.payload
    assert isinstance(back, Procedure)
    for field in ("start", "end", "place", "patient", "encounter", "service", "reason"):
        assert getattr(back, field) == getattr(whole, field), field
    assert back.status is whole.status or whole.status is ProcedureStatus.UNKNOWN


@pytest.mark.parametrize("kind", EventType)
def test_every_kind_of_event_has_a_trigger_that_our_own_table_reads(kind: EventType) -> None:
    stay = Encounter(patient=Reference("GEN", "P"), patient_class=PatientClass.INPATIENT, status=EncounterStatus.IN_PROGRESS)
    assert read(record(stay, kind, (), "V1")) is not None
