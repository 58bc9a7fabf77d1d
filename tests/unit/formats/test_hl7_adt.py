"""ADT A01 to A13: whom a message is about, who lies where afterwards, and what it does not say."""

import msgspec
import pytest
from msgspec import UNSET

from pipeline.domain.event import (
    BedOccupancy,
    EncounterStatus,
    EventType,
    Identifier,
    Name,
    Occupancy,
    PatientClass,
    Place,
    Reference,
    SequenceBasis,
    Sex,
    content_hash_of,
)
from pipeline.domain.identifiers import Millis
from pipeline.formats.hl7v2.mapping import to_events
from pipeline.formats.hl7v2.verdict import Ignored, Mapped, Reason
from tests.support.hl7_samples import (
    DEFAULT,
    RECEIVED_AT,
    adt,
    beds,
    encounter,
    events_of,
    patient,
    read,
    rejected,
    segment,
    verdict_on,
)

VISIT = Reference("MAIN", "V1")
TAKEN = BedOccupancy(Occupancy.OCCUPIED, VISIT)
LEFT = BedOccupancy(Occupancy.VACANT, VISIT)
AT_1010 = 1767607800000
"""EVN-2 of the samples, in UTC."""


def test_an_admit_makes_patient_encounter_and_an_occupied_bed() -> None:
    events = events_of(adt("A01"))
    assert [(e.entity_type.value, e.namespace, e.entity_id) for e in events] == [
        ("patient", "MAIN", "4711"),
        ("encounter", "MAIN", "V1"),
        ("bed", "MAIN", "ICU/1/A"),
    ]
    assert {e.event_type for e in events} == {EventType.ADMIT}
    assert {e.recorded_at for e in events} == {AT_1010}
    assert all(e.location == Place("MAIN", None, None, "ICU", "1", "A") for e in events)
    stay = encounter(adt("A01"))
    assert (stay.status, stay.patient_class, stay.patient) == (
        EncounterStatus.IN_PROGRESS,
        PatientClass.INPATIENT,
        Reference("MAIN", "4711"),
    )
    assert beds(adt("A01"))["ICU/1/A"].occupancy == TAKEN


def test_a_registration_occupies_a_bed_only_if_it_names_one() -> None:
    assert beds(adt("A04"))["ICU/1/A"].occupancy == TAKEN
    assert beds(adt("A04", pv1={3: "ED^^^MAIN"})) == {}
    assert events_of(adt("A04"))[0].event_type is EventType.REGISTER


def test_a_transfer_vacates_the_old_bed_of_this_visit_before_it_takes_the_new_one() -> None:
    events = events_of(adt("A02", pv1={6: "6N^2^B^MAIN"}))
    assert [e.entity_id for e in events] == ["4711", "V1", "6N/2/B", "ICU/1/A"]
    found = beds(adt("A02", pv1={6: "6N^2^B^MAIN"}))
    assert (found["6N/2/B"].occupancy, found["ICU/1/A"].occupancy) == (LEFT, TAKEN)
    assert events[2].location == Place("MAIN", None, None, "6N", "2", "B")
    assert encounter(adt("A02", pv1={6: "6N^2^B^MAIN"})).prior_location == events[2].location


def test_a_transfer_within_the_same_bed_does_not_vacate_it() -> None:
    assert beds(adt("A02", pv1={6: "ICU^1^A^MAIN"}))["ICU/1/A"].occupancy == TAKEN


@pytest.mark.parametrize("trigger", ["A02", "A12"])
@pytest.mark.parametrize("place", ["", '""'])
def test_a_move_to_nowhere_is_rejected(trigger: str, place: str) -> None:
    found = rejected(adt(trigger, pv1={3: place}))
    assert (found.reason, found.field) == (Reason.MISSING_FIELD, "PV1-3")


def test_a_discharge_ends_occupancy_and_the_visit_and_says_nothing_of_cleaning() -> None:
    data = adt("A03", pv1={36: "01", 45: "20260105100000"})
    stay, bed = encounter(data), beds(data)["ICU/1/A"]
    assert (stay.status, stay.discharged_at, stay.disposition) == (EncounterStatus.FINISHED, AT_1010 - 600_000, "01")
    assert stay.location is UNSET
    assert bed.occupancy == LEFT
    assert (bed.environment, bed.allocation, bed.service) == (UNSET, UNSET, UNSET)


@pytest.mark.parametrize(
    ("evn", "pv1", "expected"),
    [({6: "20260105093000"}, {45: "20260105100000"}, -600_000), ({6: "20260105093000"}, {}, -2_400_000), ({}, {}, 0)],
)
def test_the_time_of_discharge_is_pv1_45_else_evn_6_else_evn_2(evn: dict[int, str], pv1: dict[int, str], expected: int) -> None:
    assert encounter(adt("A03", evn=evn, pv1=pv1)).discharged_at == AT_1010 + expected


def test_a_cancelled_admit_cancels_the_visit_and_vacates_its_bed_only_of_this_visit() -> None:
    data = adt("A11", evn={6: "20251001000000"})
    assert encounter(data).status is EncounterStatus.CANCELLED
    assert encounter(data).discharged_at is UNSET
    assert beds(data)["ICU/1/A"].occupancy == LEFT


def test_the_cancelled_events_time_is_never_an_order() -> None:
    first = events_of(adt("A11", evn={6: "20251001000000"}))[0]
    assert (first.recorded_at, first.occurred_at) == (AT_1010, 1759276800000)
    assert (first.sequence, first.sequence_basis) == (None, SequenceBasis.RECORDED_TIME)


def test_a_cancelled_transfer_is_a_new_move_back_to_the_messages_own_location() -> None:
    data = adt("A12", pv1={3: "6N^2^B^MAIN", 6: "ICU^1^A^MAIN"})
    assert {name: bed.occupancy for name, bed in beds(data).items()} == {"6N/2/B": TAKEN, "ICU/1/A": LEFT}
    assert encounter(data).location == Place("MAIN", None, None, "6N", "2", "B")
    assert encounter(data).prior_location is None
    assert events_of(data)[0].event_type is EventType.CANCEL_TRANSFER


def test_a_cancelled_discharge_resumes_the_visit_in_its_own_bed() -> None:
    data = adt("A13", pv1={36: "01", 45: "20260105100000"})
    stay = encounter(data)
    assert (stay.status, stay.discharged_at, stay.disposition) == (EncounterStatus.IN_PROGRESS, None, None)
    assert beds(data)["ICU/1/A"].occupancy == TAKEN


def test_an_update_moves_nobody() -> None:
    data = adt("A08", pv1={3: "6N^2^B^MAIN", 6: "ICU^1^A^MAIN", 10: "CAR", 45: "20260105100000"})
    stay = encounter(data)
    assert beds(data) == {}
    assert (stay.location, stay.prior_location, stay.status, stay.discharged_at) == (UNSET, UNSET, UNSET, UNSET)
    assert stay.service == "CAR"
    assert events_of(data)[0].event_type is EventType.DEMOGRAPHICS


def test_an_update_without_a_visit_still_tells_of_the_patient() -> None:
    assert [e.entity_id for e in events_of(adt("A08", pv1={19: ""}))] == ["4711"]


def test_an_update_moves_where_the_profile_says_so() -> None:
    moves = msgspec.structs.replace(DEFAULT, a08_moves=True)
    data = adt("A08", pv1={6: "6N^2^B^MAIN"})
    assert {name: bed.occupancy for name, bed in beds(data, moves).items()} == {"6N/2/B": LEFT, "ICU/1/A": TAKEN}
    assert encounter(data, moves).location == Place("MAIN", None, None, "ICU", "1", "A")
    assert events_of(data, moves)[0].event_type is EventType.UPDATE


@pytest.mark.parametrize(
    ("sent", "known", "status"),
    [
        ("E", PatientClass.EMERGENCY, EncounterStatus.IN_PROGRESS),
        ("P", PatientClass.PREADMIT, EncounterStatus.PLANNED),
        ("U", PatientClass.UNKNOWN, EncounterStatus.UNKNOWN),
        ("INPATIENT", PatientClass.INPATIENT, EncounterStatus.IN_PROGRESS),
        ("no such", UNSET, EncounterStatus.IN_PROGRESS),
        ("", UNSET, EncounterStatus.IN_PROGRESS),
    ],
)
def test_the_status_follows_the_patient_class(sent: str, known: object, status: EncounterStatus) -> None:
    stay = encounter(adt("A01", pv1={2: sent}))
    assert (stay.patient_class, stay.status) == (known, status)


def test_a_bed_that_may_hold_a_patient_is_taken_whatever_the_class() -> None:
    assert beds(adt("A01", pv1={2: "P"}))["ICU/1/A"].occupancy == TAKEN


def test_a_visit_that_is_over_occupies_nothing() -> None:
    data = adt("A01", pv1={45: "20260105100000"})
    assert encounter(data).status is EncounterStatus.FINISHED
    assert beds(data)["ICU/1/A"].occupancy == LEFT


def test_the_explicit_null_clears_and_empty_says_nothing() -> None:
    cleared = encounter(adt("A01", pv1={10: '""', 11: '""', 42: '""', 44: '""', 45: '""'}))
    assert (cleared.service, cleared.temporary_location, cleared.pending_location, cleared.admitted_at) == (None,) * 4
    assert (cleared.discharged_at, cleared.status) == (None, EncounterStatus.IN_PROGRESS)
    silent = encounter(adt("A01"))
    assert (silent.service, silent.temporary_location, silent.discharged_at) == (UNSET, UNSET, UNSET)
    person = patient(adt("A01", pid={5: '""', 7: '""'}))
    assert (person.name, person.birth_date, person.sex) == (None, None, UNSET)


def test_what_is_said_of_the_person() -> None:
    person = patient(adt("A01", pid={3: "4711^^^MAIN^MR~9^^^USA^SS", 5: "DOE^JANE^Q", 7: "19750315", 8: "F", 30: "N"}))
    assert person.identifiers == (Identifier("MAIN", "4711", "MR"), Identifier("USA", "9", "SS"))
    assert (person.name, person.birth_date, person.sex, person.deceased) == (
        Name("DOE", "JANE Q"),
        "1975-03-15",
        Sex.FEMALE,
        False,
    )


def test_a_time_of_death_says_that_the_person_died_unless_the_indicator_says_otherwise() -> None:
    assert patient(adt("A01", pid={29: "20260105"})).deceased is True
    assert patient(adt("A01", pid={29: "20260105", 30: "N"})).deceased is False
    assert patient(adt("A01", pid={29: "yesterday"})).deceased is UNSET
    assert patient(adt("A01", pid={29: '""'})).deceased is UNSET


def test_an_optional_value_that_cannot_be_read_is_left_unsaid_and_named() -> None:
    verdict = verdict_on(adt("A02", evn={6: "200701110500<cr>"}, pid={7: "yesterday", 8: "woman"}, pv1={45: "<cr>"}))
    assert isinstance(verdict, Mapped)
    assert set(verdict.unread) == {"EVN-6", "PID-7", "PID-8", "PV1-45"}
    stay = encounter(adt("A02", pv1={45: "<cr>"}))
    assert (stay.status, stay.discharged_at) == (EncounterStatus.IN_PROGRESS, UNSET)


def test_an_over_long_value_never_gets_into_an_event() -> None:
    assert encounter(adt("A01", pv1={10: "x" * 251})).service is UNSET
    assert rejected(adt("A01", pv1={19: "x" * 251})).reason is Reason.TOO_LONG
    assert rejected(adt("A01", pid={3: "x" * 251 + "^^^MAIN^MR"})).reason is Reason.TOO_LONG
    assert beds(adt("A01", pv1={3: "ICU^1^" + "x" * 251})) == {}


@pytest.mark.parametrize(
    ("msh", "evn", "field", "reason"),
    [
        ({7: ""}, {2: ""}, "EVN-2", Reason.MISSING_FIELD),
        ({7: "20260105"}, {2: "20260105"}, "EVN-2", Reason.BAD_VALUE),
        ({9: ""}, {}, "MSH-9", Reason.MISSING_FIELD),
    ],
)
def test_without_a_time_or_type_a_message_is_rejected(
    msh: dict[int, str], evn: dict[int, str], field: str, reason: Reason
) -> None:
    found = rejected(adt("A01", msh=msh, evn=evn))
    assert (found.field, found.reason) == (field, reason)


def test_recorded_time_falls_back_to_the_time_of_sending() -> None:
    assert events_of(adt("A01", evn={2: ""}))[0].recorded_at == AT_1010 + 300_000
    assert events_of(adt("A01", evn={2: "20260105"}))[0].recorded_at == AT_1010 + 300_000


def test_the_offset_of_msh_7_holds_for_the_whole_message() -> None:
    assert events_of(adt("A01", msh={7: "20260105101500+0200"}))[0].recorded_at == AT_1010 - 7_200_000


def test_the_trigger_is_msh_9_and_evn_1_only_where_that_is_empty() -> None:
    assert events_of(adt("A02", evn={1: "A01"}))[0].event_type is EventType.TRANSFER
    assert events_of(adt("A02", msh={9: "ADT"}))[0].event_type is EventType.TRANSFER


@pytest.mark.parametrize(
    ("ids", "chosen"),
    [
        ("1^^^A^MR", Reference("A", "1")),
        ("9^^^US^SS~1^^^A^MR", Reference("A", "1")),
        ("2^^^E^MRN~1^^^A^MR", Reference("A", "1")),
        ("1^^^A^MR~1^^^A^MR", Reference("A", "1")),
        ("1^^^^MR", Reference("MAIN", "1")),
        ("1", Reference("MAIN", "1")),
        ("1^^^&1.2.3&ISO^MR", Reference("1.2.3", "1")),
    ],
)
def test_the_patient_is_the_one_identifier_of_the_profiles_type(ids: str, chosen: Reference) -> None:
    assert encounter(adt("A01", pid={3: ids})).patient == chosen


@pytest.mark.parametrize("ids", ["1^^^A^MR~2^^^A^MR", "1^^^A^MR~1^^^B^MR", "1~2", "9^^^US^SS", "1^^^A~9^^^US^SS"])
def test_an_identity_is_never_guessed(ids: str) -> None:
    found = rejected(adt("A01", pid={3: ids}))
    assert (found.reason, found.field) == (Reason.AMBIGUOUS_IDENTITY, "PID-3")


def test_listed_authorities_decide_between_identifiers_of_one_type() -> None:
    listed = msgspec.structs.replace(DEFAULT, patient_id_authorities=("B", "A"))
    assert encounter(adt("A01", pid={3: "1^^^A^MR~2^^^B^MR"}), listed).patient == Reference("B", "2")
    assert encounter(adt("A01", pid={3: "1^^^A~2^^^C"}), listed).patient == Reference("A", "1")
    assert rejected(adt("A01", pid={3: "1^^^C^MR"}), listed).reason is Reason.AMBIGUOUS_IDENTITY


def test_the_visit_is_pv1_19_else_the_account_in_a_namespace_of_its_own() -> None:
    assert events_of(adt("A01", pid={18: "ACC"}))[1].entity_id == "V1"
    account = events_of(adt("A01", pid={18: "V1"}, pv1={19: ""}))[1]
    assert (account.namespace, account.entity_id) == ("MAIN:AN", "V1")
    visits_only = msgspec.structs.replace(DEFAULT, visit_number_fields=("PV1-19",))
    assert rejected(adt("A01", pid={18: "ACC"}, pv1={19: ""}), visits_only).field == "PV1-19"
    assert rejected(adt("A01", pv1={19: "V1~V2"})).reason is Reason.AMBIGUOUS_IDENTITY


@pytest.mark.parametrize("name", ["PID", "PV1"])
def test_two_patients_or_visits_in_one_message_are_rejected(name: str) -> None:
    again = {"PID": segment("PID", {3: "5^^^MAIN^MR"}), "PV1": segment("PV1", {2: "I", 19: "V2"})}[name]
    found = rejected(adt("A01", more=(again,)))
    assert (found.reason, found.field) == (Reason.SEGMENT_SEQUENCE, name)


def test_a_missing_segment_is_named() -> None:
    without_pid = b"\r".join(line for line in adt("A01").split(b"\r") if not line.startswith(b"PID"))
    without_pv1 = b"\r".join(line for line in adt("A01").split(b"\r") if not line.startswith(b"PV1"))
    assert rejected(without_pid).field == "PID"
    assert rejected(without_pv1).field == "PV1"
    assert [e.entity_id for e in events_of(without_pv1.replace(b"A01", b"A08"))] == ["4711"]


def test_a_trigger_that_moves_capacity_and_is_not_mapped_is_refused_not_lost() -> None:
    for trigger in ("A98", "A99"):
        assert rejected(adt(trigger)).reason is Reason.UNSUPPORTED_EVENT
    assert rejected(adt("A01", msh={9: "MFN^M02"})).reason is Reason.UNSUPPORTED_MESSAGE
    assert rejected(adt("A01", msh={9: "ZDT^Z01"})).reason is Reason.UNSUPPORTED_MESSAGE


def test_what_moves_no_capacity_is_ignored_by_name() -> None:
    for kind in ("ADT^A60", "ORU^R01", "VXU^V04", "oru^r01"):
        assert isinstance(verdict_on(adt("A01", msh={9: kind})), Ignored)


def test_test_data_stays_out_of_a_production_feed() -> None:
    production = msgspec.structs.replace(DEFAULT, processing_ids=("P",))
    assert rejected(adt("A01", msh={11: "T"}), production).reason is Reason.UNSUPPORTED_PROCESSING
    assert events_of(adt("A01", msh={11: ""}), production)


def test_the_same_message_makes_the_same_events_whenever_it_comes() -> None:
    data = adt("A02", pv1={6: "6N^2^B^MAIN"})
    later = to_events(read(data), DEFAULT, "t1", Millis(RECEIVED_AT + 5000), data=data)
    assert isinstance(later, Mapped)
    first = events_of(data)
    assert [(e.event_id, e.content_hash) for e in first] == [(e.event_id, e.content_hash) for e in later.events]
    assert len({e.event_id for e in first}) == 4
    assert all(e.content_hash == content_hash_of(e) for e in first)


def test_other_content_under_one_identity_has_the_same_id_and_another_hash() -> None:
    one, other = events_of(adt("A01"))[1], events_of(adt("A01", pv1={10: "CAR"}))[1]
    assert one.event_id == other.event_id
    assert one.content_hash != other.content_hash


@pytest.mark.parametrize("n", [3, 4, 7, 10])
def test_each_part_of_the_messages_identity_counts(n: int) -> None:
    assert events_of(adt("A01"))[0].event_id != events_of(adt("A01", msh={n: "20260105101501"}))[0].event_id


@pytest.mark.parametrize("n", [7, 10])
def test_without_control_id_or_time_the_bytes_name_the_message(n: int) -> None:
    one, other = adt("A01", msh={n: ""}), adt("A01", msh={n: ""}, pv1={10: "CAR"})
    assert events_of(one)[0].event_id == events_of(one)[0].event_id
    assert events_of(one)[0].event_id != events_of(other)[0].event_id


def test_a_sequence_counts_only_where_the_profile_trusts_it() -> None:
    trusting = msgspec.structs.replace(DEFAULT, sequence="MSH-13")
    numbered = adt("A01", msh={13: "17"})
    assert events_of(numbered)[0].sequence is None
    event = events_of(numbered, trusting)[0]
    assert (event.sequence, event.sequence_basis) == (17, SequenceBasis.SOURCE)
    for steering in ("0", "-1", "", "x", "9" * 25):
        event = events_of(adt("A01", msh={13: steering}), trusting)[0]
        assert (event.sequence, event.sequence_basis) == (None, SequenceBasis.RECORDED_TIME)


def test_who_why_and_which_message_go_along() -> None:
    event = events_of(adt("A01", evn={4: "01", 5: "U7^SMITH"}))[0]
    assert (event.user, event.reason, event.control_id, event.source_system, event.feed) == ("U7", "01", "C1", "ehr", "adt")


def test_no_rejection_repeats_what_the_message_said() -> None:
    data = adt("A01", pid={3: "canary1~canary2", 5: "canary3"}, pv1={3: "canary4", 19: "canary5"})
    assert "canary" not in repr(rejected(data))
    assert "canary" not in repr(events_of(adt("A01", pid={5: "canary"})))
