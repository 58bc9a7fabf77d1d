"""HL7 v2 out: an accepted record becomes one message that says its state, and nothing that was not accepted."""

from pathlib import Path
from typing import Any, Final

import hl7
import msgspec
import pytest
from msgspec import UNSET

from pipeline.domain.event import (
    Allocation,
    AllocationStatus,
    Bed,
    BedOccupancy,
    Encounter,
    EncounterStatus,
    EntityType,
    Environment,
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
    Staffing,
)
from pipeline.domain.identifiers import EventId, Millis, revision_of
from pipeline.domain.records import Accepted, Lane, Reason
from pipeline.formats.hl7v2.er7 import Message, parse
from pipeline.formats.hl7v2.mapping import to_events
from pipeline.formats.hl7v2.out_document import render
from pipeline.formats.hl7v2.out_messages import Letter, letter_of, name_of
from pipeline.formats.hl7v2.out_profile import OutProfile, out_profile_of
from pipeline.formats.hl7v2.out_values import Held
from pipeline.formats.hl7v2.profile_file import profile_of
from pipeline.formats.hl7v2.verdict import Mapped

REPOSITORY: Final = Path(__file__).resolve().parents[3]
PROFILES: Final = REPOSITORY / "pipeline/profiles/hl7-out"
REPLICA: Final = out_profile_of((PROFILES / "replica.yaml").read_bytes())
OWNER: Final = out_profile_of((PROFILES / "owner.yaml").read_bytes())
READS: Final = profile_of((PROFILES.parent / "hl7/default.yaml").read_bytes())
AT: Final = Millis(1_790_000_000_123)
WARD: Final = Place(facility="GEN", point_of_care="ICU", room="12", bed="A")
STAY: Final = Encounter(
    patient=Reference("GEN", "P1"),
    patient_class=PatientClass.INPATIENT,
    status=EncounterStatus.IN_PROGRESS,
    location=WARD,
)
TYPES: Final = {
    Bed: EntityType.BED,
    Encounter: EntityType.ENCOUNTER,
    Patient: EntityType.PATIENT,
    Procedure: EntityType.PROCEDURE,
}


def record(
    state: Payload,
    kind: EventType = EventType.UPDATE,
    changed: tuple[str, ...] = (),
    entity_id: str = "ICU/12/A",
    offset: int = 7,
    **more: Any,
) -> Accepted:
    fields: dict[str, Any] = {
        "event_id": EventId("ab" * 16),
        "tenant": "demo",
        "facility": "GEN",
        "entity_type": TYPES.get(type(state), EntityType.STAFFING),
        "namespace": "GEN",
        "entity_id": entity_id,
        "event_type": kind,
        "source_system": "ehr",
        "feed": "adt",
        "epoch": 1,
        "partition": 3,
        "offset": offset,
        "revision": revision_of(1, offset),
        "previous_revision": revision_of(1, 1),
        "lane": Lane.ROUTINE,
        "changed": changed,
        "state": state,
        "state_hash": "s" * 16,
        "content_hash": "c" * 16,
        "recorded_at": AT,
        "received_at": AT,
        "accepted_at": AT,
        "policy_version": "1",
    }
    return Accepted(**(fields | more))


def letter(accepted: Accepted, profile: OutProfile = REPLICA) -> Letter:
    made = letter_of(accepted, profile, "adt")
    assert isinstance(made, Letter), made
    return made


def read(made: Letter) -> Message:
    message = parse(made.data)
    assert isinstance(message, Message), message
    return message


def with_(profile: OutProfile, **changes: Any) -> OutProfile:
    return msgspec.structs.replace(profile, **changes)


# -- which trigger


@pytest.mark.parametrize(
    ("kind", "changes", "changed", "wanted"),
    [
        (EventType.ADMIT, {}, ("status", "location"), "A01"),
        (EventType.TRANSFER, {}, ("location",), "A02"),
        (EventType.DISCHARGE, {"status": EncounterStatus.FINISHED, "discharged_at": AT}, ("status",), "A03"),
        (EventType.DISCHARGE, {}, ("service",), "A08"),
        (EventType.CANCEL_ADMIT, {"status": EncounterStatus.CANCELLED}, ("status",), "A11"),
        (EventType.CANCEL_DISCHARGE, {"discharged_at": None, "disposition": None}, ("status", "discharged_at"), "A13"),
        (EventType.CANCEL_DISCHARGE, {"discharged_at": AT}, (), "A08"),
        (EventType.TRACKING, {"temporary_location": WARD}, ("temporary_location",), "A09"),
        (EventType.TRACKING, {"temporary_location": None}, ("temporary_location",), "A10"),
        (EventType.CANCEL_PENDING, {"pending_location": None}, ("pending_location",), "A26"),
        (EventType.CANCEL_PENDING, {"expected_discharge_at": None}, ("expected_discharge_at",), "A25"),
        (EventType.SWAP, {}, ("location",), "A02"),
        (EventType.DELETION, {"status": EncounterStatus.ENTERED_IN_ERROR}, ("status",), "A23"),
        (EventType.UPDATE, {}, ("location",), "A02"),
        (EventType.UPDATE, {"status": EncounterStatus.FINISHED, "discharged_at": AT}, ("status", "discharged_at"), "A03"),
        (EventType.UPDATE, {"status": EncounterStatus.ONLEAVE}, ("status",), "A21"),
        (EventType.UPDATE, {}, ("status",), "A01"),
        (EventType.UPDATE, {"pending_location": WARD}, ("pending_location",), "A15"),
        (EventType.UPDATE, {"expected_discharge_at": AT}, ("expected_discharge_at",), "A16"),
        (EventType.DEMOGRAPHICS, {}, ("service",), "A08"),
        (EventType.REASSERT, {}, (), "A08"),
    ],
)
def test_the_trigger_says_what_happened_and_never_more_than_the_state(
    kind: EventType, changes: dict[str, Any], changed: tuple[str, ...], wanted: str
) -> None:
    state = msgspec.structs.replace(STAY, **changes)
    assert name_of(record(state, kind, changed, "V1"), REPLICA) == f"ADT^{wanted}"


def test_a_discharge_that_did_not_survive_is_never_sent_as_one() -> None:
    kept = record(STAY, EventType.DISCHARGE, ("service",), "V1")
    message = read(letter(kept))
    assert message.field("MSH", 9, component=2) == "A08"
    assert message.field("PV1", 45) is None


def test_a_trigger_that_the_receiver_lacks_is_replaced_or_not_sent_at_all() -> None:
    moved = record(STAY, EventType.CANCEL_TRANSFER, ("location",), "V1")
    assert name_of(moved, REPLICA) == "ADT^A12"
    without = {**REPLICA.sends, EntityType.ENCOUNTER: ("A02", "A14", "A15")}
    assert name_of(moved, with_(REPLICA, sends=without)) is None
    assert name_of(moved, with_(REPLICA, sends=without, instead={"A12": "A02"})) == "ADT^A02"


def test_what_hl7_has_no_message_for_is_not_told() -> None:
    assert letter_of(record(Staffing(unit="ICU")), REPLICA, "adt") is None
    assert letter_of(record(Bed(place=WARD, telemetry=True)), REPLICA, "adt") is None


# -- beds


@pytest.mark.parametrize(
    ("bed", "code"),
    [
        (Bed(service=Service(ServiceStatus.BLOCKED, "leak")), "C"),
        (Bed(occupancy=BedOccupancy(Occupancy.OCCUPIED), environment=Environment.DIRTY), "O"),
        (Bed(occupancy=BedOccupancy(Occupancy.VACANT), environment=Environment.CLEANING), "H"),
        (Bed(environment=Environment.CONTAMINATED), "K"),
        (Bed(occupancy=BedOccupancy(Occupancy.VACANT), isolation=True), "I"),
        (Bed(occupancy=BedOccupancy(Occupancy.VACANT)), "U"),
    ],
)
def test_a_bed_goes_out_with_its_code_at_its_place(bed: Bed, code: str) -> None:
    message = read(letter(record(bed)))
    assert message.field("MSH", 9, component=2) == "A20"
    assert [message.field("NPU", 1, component=n) for n in (1, 2, 3, 4)] == ["ICU", "12", "A", "GEN"]
    assert message.field("NPU", 2) == code


def test_a_promised_bed_is_held_unless_the_receiver_learns_of_the_promise() -> None:
    promised = Bed(
        occupancy=BedOccupancy(Occupancy.VACANT), allocation=Allocation(AllocationStatus.RESERVED, Reference("GEN", "V1"))
    )
    assert letter_of(record(promised), OWNER, "adt") == Held(Reason.RESERVATION_UNTELLABLE, "NPU-2")
    assert read(letter(record(promised))).field("NPU", 2) == "U"
    nobodys = msgspec.structs.replace(promised, allocation=Allocation(AllocationStatus.RESERVED))
    assert letter_of(record(nobodys), REPLICA, "adt") == Held(Reason.RESERVATION_UNTELLABLE, "NPU-2")


def test_a_bed_of_which_no_code_may_be_claimed_is_held_and_seen() -> None:
    assert letter_of(record(Bed(environment=Environment.CLEAN)), REPLICA, "adt") == Held(Reason.UNTELLABLE, "NPU-2")


def test_a_bed_with_a_name_of_its_own_has_it_in_pl_3_or_the_masters_place() -> None:
    bed = Bed(occupancy=BedOccupancy(Occupancy.VACANT))
    assert read(letter(record(bed, entity_id="R-12"))).field("NPU", 1, component=3) == "R-12"
    known = msgspec.structs.replace(bed, place=Place(point_of_care="ED", room="2", bed="B"))
    message = read(letter(record(known, entity_id="R-12")))
    assert [message.field("NPU", 1, component=n) for n in (1, 2, 3, 4)] == ["ED", "2", "B", "GEN"]
    slashed = read(letter(record(bed, entity_id="A%2FB/1%25/x")))
    assert [slashed.field("NPU", 1, component=n) for n in (1, 2, 3)] == ["A/B", "1%", "x"]


# -- persons and procedures


def test_a_person_is_new_once_and_the_own_identifier_comes_first() -> None:
    someone = Patient(
        identifiers=(Identifier("SSA", "9", "SS"), Identifier("GEN", "P1", "MR")),
        name=Name("O'Brien^", "Anna Maria Jo"),
        birth_date="1970-02-03",
        sex=Sex.FEMALE,
        deceased=False,
    )
    new = read(letter(record(someone, entity_id="P1", previous_revision=0)))
    assert new.field("MSH", 9, component=2) == "A28"
    assert name_of(record(someone, entity_id="P1"), REPLICA) == "ADT^A31"
    assert [new.field("PID", 3, component=n) for n in (1, 4, 5)] == ["P1", "GEN", "MR"]
    assert new.field("PID", 3, repetition=1, component=1) == "9"
    assert [new.field("PID", 5, component=n) for n in (1, 2, 3, 7)] == ["O'Brien^", "Anna", "Maria Jo", "L"]
    assert [new.field("PID", n) for n in (7, 8, 30)] == ["19700203", "F", "N"]


def test_a_merge_names_who_survives_in_pid_and_who_is_no_more_in_mrg() -> None:
    merged = Patient(merged_into=Reference("GEN", "P9"))
    message = read(letter(record(merged, changed=("merged_into",), entity_id="P1")))
    assert message.field("MSH", 9, component=2) == "A40"
    assert (message.field("PID", 3), message.field("MRG", 1)) == ("P9", "P1")


def test_a_merged_stay_goes_out_as_the_merge_that_it_is_and_is_read_back_as_the_same() -> None:
    merged = msgspec.structs.replace(STAY, merged_into=Reference("GEN", "V9"))
    accepted = record(merged, EventType.MERGE, ("merged_into",), "V1")
    sent = letter(accepted)
    message = read(sent)
    assert (sent.name, message.field("MSH", 9, component=3)) == ("ADT^A42", "ADT_A39")
    named = [message.field(*at) for at in (("PID", 3), ("MRG", 1), ("MRG", 5), ("PV1", 19))]
    assert named == ["P1", "P1", "V1", "V9"]
    verdict = to_events(message, READS, "demo", AT)
    assert isinstance(verdict, Mapped), verdict
    lost, kept = (event for event in verdict.events if event.entity_type is EntityType.ENCOUNTER)
    assert (lost.entity_id, lost.payload.merged_into) == ("V1", Reference("GEN", "V9"))  # type: ignore[union-attr]
    assert (kept.entity_id, kept.replaces) == ("V9", Reference("GEN", "V1"))
    later = record(merged, EventType.UPDATE, ("service",), "V1")
    assert name_of(later, REPLICA) == "ADT^A08"
    assert name_of(accepted, with_(REPLICA, sends={EntityType.ENCOUNTER: ("A08",)}, reservation="held")) is None
    assert isinstance(
        letter_of(record(Encounter(merged_into=merged.merged_into), changed=("merged_into",)), REPLICA, "adt"), Held
    )


@pytest.mark.parametrize(
    ("mode", "asked"), [("original", (None, None)), ("enhanced", ("AL", "NE")), ("application", ("AL", "AL"))]
)
def test_the_receiver_is_asked_for_the_answers_that_decide(mode: Any, asked: tuple[str | None, str | None]) -> None:
    message = read(letter(record(STAY, EventType.ADMIT, ("status",), "V1"), with_(REPLICA, acknowledgement=mode)))
    assert (message.field("MSH", 15), message.field("MSH", 16)) == asked


@pytest.mark.parametrize(
    ("status", "changed", "first", "wanted"),
    [
        (ProcedureStatus.BOOKED, (), True, "S12"),
        (ProcedureStatus.BOOKED, ("start",), False, "S13"),
        (ProcedureStatus.STARTED, ("status",), False, "S14"),
        (ProcedureStatus.CANCELLED, ("status",), False, "S15"),
        (ProcedureStatus.DISCONTINUED, ("status",), False, "S16"),
        (ProcedureStatus.DELETED, ("status",), False, "S17"),
        (ProcedureStatus.BLOCKED, ("status",), False, "S23"),
        (ProcedureStatus.NOSHOW, ("status",), False, "S26"),
        (ProcedureStatus.UNKNOWN, (), True, "S14"),
    ],
)
def test_a_procedure_goes_out_by_its_status_and_what_changed(
    status: ProcedureStatus, changed: tuple[str, ...], first: bool, wanted: str
) -> None:
    planned = Procedure(status=status, start=AT, end=Millis(AT + 3_600_000), place=WARD, service="CABG")
    before = 0 if first else revision_of(1, 1)
    message = read(letter(record(planned, changed=changed, entity_id="OR-7", previous_revision=before)))
    assert message.field("MSH", 9, component=2) == wanted
    assert message.field("SCH", 2) == "OR-7"
    assert message.field("SCH", 11, component=4) == message.field("TQ1", 7) == message.field("AIS", 4)
    assert message.field("AIL", 3, component=3) == "A"


# -- the text


def test_each_field_stands_where_another_parser_looks_for_it() -> None:
    state = msgspec.structs.replace(
        STAY, service="CAR", disposition="01", admitted_at=AT, pending_location=Place(point_of_care="W2"), prior_location=WARD
    )
    oracle = hl7.parse(letter(record(state, EventType.TRANSFER, ("location",), "V|1")).data.decode())
    pv1 = oracle.segment("PV1")
    assert str(pv1[2]) == "I"
    assert str(pv1[3]) == "ICU^12^A^GEN"
    assert str(pv1[6]) == "ICU^12^A^GEN"
    assert str(pv1[10]) == "CAR"
    assert str(pv1[19]) == "V\\F\\1^^^GEN^VN"
    assert oracle.unescape(str(pv1[19][0][0])) == "V|1"
    assert str(pv1[36]) == "01"
    assert str(pv1[42]) == "W2"
    assert str(pv1[44]) == "20260921141320.123+0000"
    assert str(oracle.segment("PID")[3]) == "P1^^^GEN^MR"
    assert str(oracle.segment("MSH")[9]) == "ADT^A02^ADT_A02"


def test_what_was_cleared_is_the_explicit_null_and_what_was_never_said_is_empty() -> None:
    message = read(letter(record(msgspec.structs.replace(STAY, service=None), EventType.DEMOGRAPHICS, ("service",), "V1")))
    assert message.field("PV1", 10) == '""'
    assert message.field("PV1", 36) is None


@pytest.mark.parametrize("value", ["\x0b", "\x1c\r", "a\rMSH|", "~^&\\|", "\n", "\\X0D\\", "x\u00e9\u4e2d"])
def test_no_value_breaks_out_of_its_field_or_its_frame(value: str) -> None:
    made = letter(record(msgspec.structs.replace(STAY, service=f"a{value}b"), EventType.DEMOGRAPHICS, (), "V1"))
    assert b"\x0b" not in made.data
    assert b"\x1c" not in made.data
    assert made.data.count(b"\rMSH") == 0
    assert read(made).field("PV1", 10) == f"a{value}b"


def test_a_character_that_the_set_lacks_is_never_replaced_but_held() -> None:
    latin = with_(REPLICA, charset="8859/1")
    spoken = record(msgspec.structs.replace(STAY, service="Ren\u00e9"), EventType.DEMOGRAPHICS, (), "V1")
    assert b"Ren\xe9" in letter(spoken, latin).data
    greek = record(msgspec.structs.replace(STAY, service="\u03b2"), EventType.DEMOGRAPHICS, (), "V1")
    assert letter_of(greek, latin, "adt") == Held(Reason.NOT_IN_CHARSET, "MSH-18")
    assert letter_of(spoken, with_(REPLICA, charset=""), "adt") == Held(Reason.NOT_IN_CHARSET, "MSH-18")


@pytest.mark.parametrize(
    "state",
    [
        msgspec.structs.replace(STAY, patient=UNSET),
        msgspec.structs.replace(STAY, service='""'),
        msgspec.structs.replace(STAY, admitted_at=Millis(10**17)),
    ],
    ids=["nobody", "the null itself", "beyond the calendar"],
)
def test_what_has_no_form_is_held_with_its_reason(state: Encounter) -> None:
    held = letter_of(record(state, EventType.DEMOGRAPHICS, (), "V1"), REPLICA, "adt")
    assert isinstance(held, Held)
    assert held.reason is Reason.UNTELLABLE


def test_times_stand_in_the_receivers_zone() -> None:
    berlin = with_(REPLICA, time_zone="Europe/Berlin")
    winter = record(msgspec.structs.replace(STAY, admitted_at=Millis(1_768_478_400_000)), EventType.DEMOGRAPHICS, (), "V1")
    assert read(letter(winter, berlin)).field("PV1", 44) == "20260115130000+0100"
    assert read(letter(winter, with_(berlin, offsets=False))).field("PV1", 44) == "20260115130000"


# -- the control id


def test_a_repeat_is_the_same_byte_for_byte_and_another_record_has_another_control_id() -> None:
    one = letter(record(STAY, EventType.ADMIT, (), "V1"))
    assert one == letter(record(STAY, EventType.ADMIT, (), "V1"))
    other = letter_of(record(STAY, EventType.ADMIT, (), "V1"), REPLICA, "other")
    assert isinstance(other, Letter)
    others = [
        letter(record(STAY, EventType.ADMIT, (), "V1", offset=8)).control_id,
        letter(record(STAY, EventType.ADMIT, (), "V1", partition=4)).control_id,
        letter(record(STAY, EventType.ADMIT, (), "V1", event_id=EventId("cd" * 16))).control_id,
        other.control_id,
    ]
    assert len({one.control_id, *others}) == 5
    assert len(one.control_id) == 20
    assert one.control_id.isalnum()
    assert read(one).field("MSH", 10) == one.control_id


# -- the page and the profiles


def test_the_page_says_what_the_messages_are_built_by() -> None:
    page = (REPOSITORY / "docs/mapping/hl7-out.md").read_text()
    assert page == render(), "python -m pipeline.formats.hl7v2.out_document > docs/mapping/hl7-out.md"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("role: owner", "never told what it owns"),
        ("charset: KLINGON", "charset"),
        ("time_zone: Nowhere/Else", "time_zone"),
        ("control_id_chars: 40", "control_id_chars"),
        ('version_id: "3.0"', "version_id"),
        ("sends: {staffing: [A20]}", "no message"),
        ("sends: {bed: [A01]}", "not built here"),
        ("sends: {bed: [A20]}", "pending_move"),
        ("instead: {A12: A20}", "instead"),
        ("windows: 2", "windows"),
    ],
)
def test_a_profile_that_can_not_be_meant_is_refused_by_the_name_of_the_setting(change: str, problem: str) -> None:
    name = change.partition(":")[0]
    lines = (PROFILES / "replica.yaml").read_text().splitlines()
    kept, skip = [], False
    for line in lines:
        if line.startswith(f"{name}:"):
            skip = True
        elif skip and line.startswith("  "):
            continue
        else:
            skip = False
            kept.append(line)
    with pytest.raises(msgspec.ValidationError, match=problem):
        out_profile_of("\n".join([*kept, change]))
