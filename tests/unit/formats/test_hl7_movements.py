"""ZBE of IHE PAM: what is past moves nobody, an update or a cancel names its movement, and Z99 means what ZBE-6 says."""

import pytest
from msgspec import UNSET, structs

from pipeline.domain.event import BedOccupancy, EncounterStatus, EventType, Occupancy, Place, Reference, SequenceBasis
from pipeline.formats.hl7v2.movement import CANCELS
from pipeline.formats.hl7v2.origins import explain
from pipeline.formats.hl7v2.triggers import RULES, Visit
from pipeline.formats.hl7v2.verdict import Ignored, Reason
from tests.support.hl7_samples import DEFAULT, adt, beds, encounter, events_of, rejected, segment, verdict_on

VISIT = Reference("MAIN", "V1")
TAKEN, LEFT = BedOccupancy(Occupancy.OCCUPIED, VISIT), BedOccupancy(Occupancy.VACANT, VISIT)
AT_1010 = 1767607800000
"""EVN-2 of the samples, in UTC."""
FROM = {6: "MED^2^B^MAIN"}


def zbe(action: str, flag: str = "N", *, name: str = "77^HIS", start: str = "20260105093000", original: str = "") -> str:
    """The segment after ITI-31: id, start, end, action, past, first trigger, responsible ward."""
    return segment("ZBE", {1: name, 2: start, 4: action, 5: flag, 6: original, 7: "CARDIO^^^^^HIS"})


def with_zbe(trigger: str, *zbes: str, pv1: dict[int, str] | None = None, evn: dict[int, str] | None = None) -> bytes:
    return adt(trigger, pv1=pv1, evn=evn, more=zbes)


def action_of(trigger: str) -> str:
    return "CANCEL" if trigger in CANCELS else "INSERT"


@pytest.mark.parametrize(
    "trigger", sorted(rule.trigger for rule in RULES if rule.visit is Visit.REQUIRED and rule.trigger != "A17")
)
@pytest.mark.parametrize("action", ["INSERT", "UPDATE", "CANCEL"])
def test_a_past_movement_moves_nobody_now(trigger: str, action: str) -> None:
    if (trigger in CANCELS) != (action == "CANCEL"):
        assert rejected(with_zbe(trigger, zbe(action, "Y"))).field == "ZBE-4"
        return
    data = with_zbe(trigger, zbe(action, "Y"), pv1={2: "I", 44: "20260101", 45: "20260104", **FROM})
    assert beds(data) == {}
    stay = encounter(data)
    stated = {field for field in stay.__struct_fields__ if getattr(stay, field) is not UNSET}
    assert stated == {"patient", "admitted_at"}
    assert {event.event_type for event in events_of(data)} == {EventType.DEMOGRAPHICS}


@pytest.mark.parametrize("trigger", sorted(rule.trigger for rule in RULES if rule.trigger != "A17"))
def test_a_movement_that_is_not_past_is_what_its_trigger_says(trigger: str) -> None:
    pv1 = {2: "I", **FROM}
    with_it = events_of(with_zbe(trigger, zbe(action_of(trigger)), pv1=pv1, evn={6: "20260105100000"}))
    without = events_of(adt(trigger, pv1=pv1, evn={6: "20260105100000"}))
    if trigger != "A16":
        assert [event.payload for event in with_it] == [event.payload for event in without]
    assert {event.audit_context for event in with_it} == {"77"}


@pytest.mark.parametrize("original", ["A01", "A02", "A03", "A04", "A06", "A14", "A16", "A21"])
def test_an_update_of_the_movement_in_force_says_what_its_first_trigger_does(original: str) -> None:
    pv1 = {2: "I", **FROM}
    updated = events_of(with_zbe("Z99", zbe("UPDATE", original=original), pv1=pv1, evn={6: "20260105100000"}))
    first = events_of(with_zbe(original, zbe("INSERT"), pv1=pv1, evn={6: "20260105100000"}))
    assert [(e.entity_id, e.event_type, e.payload) for e in updated] == [(e.entity_id, e.event_type, e.payload) for e in first]


def test_an_update_of_a_past_transfer_leaves_the_patient_where_she_is() -> None:
    data = with_zbe("Z99", zbe("UPDATE", "Y", original="A02"), pv1=FROM)
    assert beds(data) == {}
    assert encounter(data).location is UNSET


def test_a_cancel_of_the_movement_in_force_is_a_move_to_the_messages_own_place() -> None:
    data = with_zbe("A12", zbe("CANCEL"), pv1={3: "MED^2^B^MAIN", 6: "ICU^1^A^MAIN"})
    assert {name: bed.occupancy for name, bed in beds(data).items()} == {"MED/2/B": TAKEN, "ICU/1/A": LEFT}
    assert encounter(data).location == Place("MAIN", None, None, "MED", "2", "B")


@pytest.mark.parametrize(
    ("trigger", "segments", "field", "reason"),
    [
        ("A02", (zbe("INSERT"), zbe("INSERT")), "ZBE", Reason.SEGMENT_SEQUENCE),
        ("A02", (zbe("MOVE"),), "ZBE-4", Reason.UNKNOWN_CODE),
        ("A02", (zbe(""),), "ZBE-4", Reason.MISSING_FIELD),
        ("A02", (zbe("CANCEL"),), "ZBE-4", Reason.BAD_VALUE),
        ("A12", (zbe("INSERT"),), "ZBE-4", Reason.BAD_VALUE),
        ("A12", (zbe("UPDATE"),), "ZBE-4", Reason.BAD_VALUE),
        ("A02", (zbe("INSERT", "X"),), "ZBE-5", Reason.UNKNOWN_CODE),
        ("A02", (zbe("UPDATE", ""),), "ZBE-5", Reason.MISSING_FIELD),
        ("A12", (zbe("CANCEL", ""),), "ZBE-5", Reason.MISSING_FIELD),
        ("A12", (zbe("CANCEL", name=""),), "ZBE-1", Reason.AMBIGUOUS_IDENTITY),
        ("Z99", (zbe("UPDATE", name="", original="A02"),), "ZBE-1", Reason.AMBIGUOUS_IDENTITY),
        ("Z99", (zbe("UPDATE"),), "ZBE-6", Reason.MISSING_FIELD),
        ("Z99", (zbe("UPDATE", original="A12"),), "ZBE-6", Reason.UNKNOWN_CODE),
        ("Z99", (zbe("UPDATE", original="A99"),), "ZBE-6", Reason.UNKNOWN_CODE),
        ("Z99", (zbe("INSERT", original="A02"),), "ZBE-4", Reason.UNKNOWN_CODE),
        ("Z99", (), "ZBE", Reason.SEGMENT_SEQUENCE),
    ],
)
def test_what_does_not_tell_which_movement_or_whether_it_is_past_is_refused(
    trigger: str, segments: tuple[str, ...], field: str, reason: Reason
) -> None:
    found = rejected(with_zbe(trigger, *segments))
    assert (found.field, found.reason) == (field, reason)


def test_an_insert_without_the_flag_is_of_now() -> None:
    assert beds(with_zbe("A01", zbe("insert", "", name="")))["ICU/1/A"].occupancy == TAKEN


def test_the_movements_start_tells_when_it_happened_and_never_orders() -> None:
    (person, *_) = events_of(with_zbe("A02", zbe("INSERT")))
    assert (person.occurred_at, person.recorded_at) == (AT_1010 - 2_400_000, AT_1010)
    assert events_of(with_zbe("A02", zbe("INSERT"), evn={6: "20260105100000"}))[0].occurred_at == AT_1010 - 600_000
    assert encounter(with_zbe("A03", zbe("INSERT"))).discharged_at == AT_1010 - 2_400_000


@pytest.mark.parametrize("trigger", ["A14", "A15", "A16"])
def test_the_start_of_a_planned_movement_never_passes_for_what_happened(trigger: str) -> None:
    data = with_zbe(trigger, zbe("INSERT", start="20260107120000"))
    assert events_of(data)[0].occurred_at is None
    updated = with_zbe("Z99", zbe("UPDATE", start="20260107120000", original=trigger))
    assert events_of(updated)[0].occurred_at is None
    if trigger == "A14":
        assert encounter(data).admit_decision_at == AT_1010
    if trigger == "A16":
        planned = encounter(data).expected_discharge_at
        assert planned == encounter(updated).expected_discharge_at == AT_1010 + (2 * 24 * 60 + 110) * 60_000


def test_a_sender_whose_zbe_is_something_else_is_taken_at_its_triggers() -> None:
    other = structs.replace(DEFAULT, movements="ignored")
    data = with_zbe("A02", zbe("whatever", "Y"))
    assert beds(data, other) == beds(adt("A02"))
    assert events_of(data, other)[0].audit_context is None
    assert rejected(with_zbe("Z99", zbe("UPDATE", original="A02")), other).reason is Reason.UNSUPPORTED_EVENT


def test_an_update_of_what_the_profile_ignores_is_ignored() -> None:
    verdict = verdict_on(with_zbe("Z99", zbe("UPDATE", original="a54")))
    assert isinstance(verdict, Ignored)
    assert "ADT^A54" in verdict.detail


def test_movement_numbers_order_inserts_only_where_the_profile_says_so() -> None:
    counted = structs.replace(DEFAULT, sequence="ZBE-1")
    assert events_of(with_zbe("A02", zbe("INSERT")))[0].sequence is None
    event = events_of(with_zbe("A02", zbe("INSERT")), counted)[0]
    assert (event.sequence, event.sequence_basis) == (77, SequenceBasis.SOURCE)
    for data in (
        with_zbe("A12", zbe("CANCEL")),
        with_zbe("Z99", zbe("UPDATE", original="A02")),
        with_zbe("A02", zbe("INSERT", name="M-77")),
        with_zbe("A02", zbe("INSERT", name="9" * 30)),
        adt("A02", msh={13: "5"}),
    ):
        event = events_of(data, counted)[0]
        assert (event.sequence, event.sequence_basis) == (None, SequenceBasis.RECORDED_TIME)


def test_the_halves_of_a_swap_have_a_movement_each() -> None:
    def half(person: str, visit: str, to: str, of: str, flag: str) -> tuple[str, ...]:
        pid, pv1 = segment("PID", {3: f"{person}^^^MAIN^MR"}), segment("PV1", {2: "I", 3: to, 6: of, 19: visit})
        return pid, pv1, zbe("INSERT", flag)

    a, b = "ICU^1^A^MAIN", "MED^2^B^MAIN"
    for flag, found in (("N", {"ICU/1/A", "MED/2/B"}), ("Y", set())):
        lines = (*half("4711", "V1", a, b, flag), *half("4712", "V2", b, a, flag))
        data = b"\r".join((*adt("A17").split(b"\r")[:2], *(line.encode() for line in lines), b""))
        assert set(beds(data)) == found


def test_explain_says_that_a_movement_is_past_and_where_a_z_field_was_read() -> None:
    assert explain(with_zbe("A02", zbe("INSERT", "Y")), DEFAULT).rule == "a past movement: transfer"
    reading = structs.replace(DEFAULT, z_fields={"service": "ZBE-7.1"})
    found = explain(with_zbe("Z99", zbe("UPDATE", original="A02"), pv1={10: "CAR"}), reading)
    assert found.rule == "update of a movement: transfer"
    (service,) = (told for _, fields in found.events for told in fields if told.field == "service")
    assert (service.value, service.origin) == ("CARDIO", "ZBE-7.1 by the profile, else PV1-10")


def test_a_planned_stay_that_is_cancelled_by_its_movement_is_cancelled() -> None:
    assert encounter(with_zbe("A38", zbe("CANCEL"))).status is EncounterStatus.CANCELLED
