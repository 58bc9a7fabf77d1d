"""MRG: who is retired, who survives, and what is refused because nobody could tell."""

from pathlib import Path

import pytest
from msgspec import UNSET, structs

from pipeline.domain.event import Encounter, Event, EventType, Patient, Reference
from pipeline.formats.hl7v2.mapping import map_bytes
from pipeline.formats.hl7v2.merge import MAX_GROUPS, MERGES
from pipeline.formats.hl7v2.origins import explain
from pipeline.formats.hl7v2.profile import Profile
from pipeline.formats.hl7v2.verdict import Ignored, Mapped, Reason, Rejected, Verdict
from tests.support import hl7_samples
from tests.support.hl7_samples import DEFAULT, RECEIVED_AT, adt

PLAIN = structs.replace(DEFAULT, patient_id_types=("MR",), patient_id_sole_untyped=False, visit_number_fields=("PV1-19",))
ACCOUNTS = structs.replace(PLAIN, visit_number_fields=("PID-18",))
LOSER, SURVIVOR = Reference("MAIN", "0815"), Reference("MAIN", "4711")
PATIENTS = sorted(trigger for trigger, rule in MERGES.items() if rule.patients and rule.event_type is EventType.MERGE)


def events_of(data: bytes, profile: Profile = PLAIN) -> tuple[Event, ...]:
    return hl7_samples.events_of(data, profile)


def rejected(data: bytes) -> Rejected:
    return hl7_samples.rejected(data, PLAIN)


def verdict_on(data: bytes, profile: Profile = PLAIN) -> Verdict:
    return hl7_samples.verdict_on(data, profile)


def said(event: Event) -> tuple[EventType, str, str, object, Reference | None]:
    return event.event_type, event.namespace, event.entity_id, getattr(event.payload, "merged_into", UNSET), event.replaces


@pytest.mark.parametrize("trigger", PATIENTS)
def test_a_merge_of_patients_is_one_event_to_each_and_the_loser_is_told_first(trigger: str) -> None:
    lost, kept = events_of(adt(trigger, more=("MRG|0815^^^MAIN^MR",)))[:2]
    assert said(lost) == (EventType.MERGE, "MAIN", "0815", SURVIVOR, None)
    assert said(kept) == (EventType.MERGE, "MAIN", "4711", UNSET, LOSER)
    assert isinstance(kept.payload, Patient)
    assert kept.payload.name is not UNSET
    assert lost.recorded_at == kept.recorded_at, "else one of the two could be older than what is known, and the other not"


def test_a_merge_of_visits_joins_visits_and_moves_nobody() -> None:
    person, lost, kept = events_of(adt("A42", more=("MRG|4711^^^MAIN^MR||||V0",)))
    assert said(person)[:3] == (EventType.DEMOGRAPHICS, "MAIN", "4711")
    assert lost.payload == Encounter(merged_into=Reference("MAIN", "V1"))
    assert isinstance(kept.payload, Encounter)
    assert (kept.entity_id, kept.replaces) == ("V1", Reference("MAIN", "V0"))
    assert (kept.payload.location, kept.payload.status) == (UNSET, UNSET)


def test_an_account_is_a_visit_only_where_the_profile_says_so() -> None:
    data = adt("A41", pid={18: "ACC1"}, more=("MRG|||ACC0",))
    assert isinstance(verdict_on(data), Ignored)
    _, lost, kept = events_of(data, ACCOUNTS)
    assert (lost.namespace, lost.entity_id, kept.entity_id) == ("MAIN:AN", "ACC0", "ACC1")
    assert isinstance(verdict_on(adt("A42", more=("MRG|||||V0",)), ACCOUNTS), Ignored)
    both = adt("A36", pid={18: "ACC1"}, more=("MRG|0815^^^MAIN^MR||ACC0",))
    assert [event.entity_id for event in events_of(both)] == ["0815", "4711"]
    assert [event.entity_id for event in events_of(both, ACCOUNTS)] == ["0815", "4711", "ACC0", "ACC1"]


def test_a_change_of_number_retires_the_old_one_and_says_that_it_is_the_same() -> None:
    assert {event.event_type for event in events_of(adt("A47", more=("MRG|0815^^^MAIN^MR",)))} == {EventType.RENAME}
    person, lost, kept = events_of(adt("A50", more=("MRG|4711^^^MAIN^MR||||V0",)))
    assert person.event_type is EventType.DEMOGRAPHICS
    assert (lost.event_type, kept.event_type) == (EventType.RENAME, EventType.RENAME)


def test_a_change_of_an_identifier_that_names_no_patient_is_an_update() -> None:
    (person,) = events_of(adt("A47", more=("MRG|E4433^^^EPIC^MRN",)))
    assert (person.event_type, person.entity_id, person.replaces) == (EventType.DEMOGRAPHICS, "4711", None)


def test_a_visit_that_moves_to_another_patient_has_another_patient_and_nobody_is_retired() -> None:
    person, stay = events_of(adt("A45", more=("MRG|0815^^^MAIN^MR||||V1",)))
    assert stay.payload == Encounter(patient=SURVIVOR)
    assert (person.replaces, stay.replaces) == (None, None)
    assert rejected(adt("A45", more=("MRG|0815^^^MAIN^MR||||V2",))).field == "MRG-5"
    (person,) = events_of(adt("A43", more=("MRG|0815^^^MAIN^MR",)))
    assert (person.event_type, person.entity_id) == (EventType.DEMOGRAPHICS, "4711")


def test_a_message_of_several_merges_makes_events_of_its_own_for_each() -> None:
    more = ("MRG|0815^^^MAIN^MR", "PID|||4712^^^MAIN^MR", "MRG|0816^^^MAIN^MR")
    events = events_of(adt("A40", more=more))
    assert [event.entity_id for event in events] == ["0815", "4711", "0816", "4712"]
    assert len({event.event_id for event in events}) == 4


def test_who_merges_whom_is_never_guessed() -> None:
    assert rejected(adt("A40")).reason is Reason.SEGMENT_SEQUENCE
    assert rejected(adt("A40", more=("MRG|4711^^^MAIN^MR",))).reason is Reason.AMBIGUOUS_IDENTITY
    assert rejected(adt("A40", more=("MRG|A^^^MAIN^MR~B^^^MAIN^MR",))).field == "MRG-1"
    assert rejected(adt("A40", more=("MRG|E4433^^^EPIC^MRN",))).field == "MRG-1"
    assert rejected(adt("A40", more=("MRG|",))).reason is Reason.MISSING_FIELD
    assert rejected(adt("A42", more=("MRG|4711^^^MAIN^MR||||V1",))).field == "MRG-5"
    assert rejected(adt("A42", more=("MRG|4711^^^MAIN^MR",))).field == "MRG-5"
    too_many = tuple(f"MRG|{number}^^^MAIN^MR" for number in range(MAX_GROUPS + 1))
    assert rejected(adt("A40", more=too_many)).reason is Reason.SEGMENT_SEQUENCE


def test_explain_shows_who_is_retired_and_where_it_was_read() -> None:
    found = explain(adt("A40", more=("MRG|0815^^^MAIN^MR",)), PLAIN)
    assert found.rule == "merge of patients"
    (_, lost), (_, kept) = found.events
    assert "MRG-1" in next(each.origin for each in lost if each.field == "merged_into")
    assert "MRG-1" in next(each.origin for each in kept if each.field == "replaces")


def test_the_samples_of_merges_are_mapped_under_a_profile_that_fits_them(shared_data: Path) -> None:
    untyped = structs.replace(PLAIN, patient_id_sole_untyped=True)
    sentara = structs.replace(PLAIN, patient_id_authorities=("ST01B",))
    for name, profile, pair in (
        ("ADT_A40_003", untyped, ("MR2", "MR1")),
        ("ADT_A40_005", untyped, ("MR2", "MR1")),
        ("ADT_A18_002", sentara, ("000010765", "000010014")),
        ("ADT_A47_003", PLAIN, ("MR102", "MR101")),
    ):
        _, verdict = map_bytes((shared_data / "hl7v2" / f"{name}.hl7").read_bytes(), profile, "t1", RECEIVED_AT)
        assert isinstance(verdict, Mapped), (name, verdict)
        assert tuple(event.entity_id for event in verdict.events) == pair, name


@pytest.mark.parametrize("more", [(), ("MRG|0816^^^MAIN^MR",), ("PID|||4712^^^MAIN^MR", "MRG|0816^^^MAIN^MR")])
def test_who_is_retired_before_anybody_survives_is_refused(more: tuple[str, ...]) -> None:
    head, evn, pid, *_ = adt("A40").decode().split("\r")
    found = rejected("\r".join((head, evn, "MRG|0815^^^MAIN^MR", pid, *more)).encode())
    assert (found.reason, found.field) == (Reason.SEGMENT_SEQUENCE, "MRG")
