"""SIU: which appointment, when and where, and how it stands; tables 0278 and chapter 10, not the mapping, give the values."""

import pytest
from msgspec import UNSET

from pipeline.domain.event import Place, Procedure, ProcedureStatus, Reference
from pipeline.formats.hl7v2.verdict import Reason
from tests.support.hl7_samples import events_of, rejected, segment

EIGHT = 1767600000000
"""2026-01-05T08:00:00Z."""
HOUR = 3_600_000


def siu(trigger: str, sch: dict[int, str] | None = None, *more: str, pid: str | None = "4711^^^MAIN^MR") -> bytes:
    header = {3: "SCHED", 4: "MAIN", 7: "20260104120000", 9: f"SIU^{trigger}^SIU_S12", 10: "C1", 11: "P", 12: "2.5.1"}
    lines = [segment("MSH", header), segment("SCH", {1: "P9", 2: "F7^SCHED", 6: "PLANNED^planned"} | (sch or {}))]
    if pid:
        lines.append(segment("PID", {3: pid}))
    return "\r".join((*lines, *more, "")).encode()


def said(data: bytes) -> Procedure:
    (event,) = events_of(data)
    assert isinstance(event.payload, Procedure)
    return event.payload


THEATRE = segment("AIL", {1: "1", 3: "OR^3^^MAIN"})
SERVICE = segment("AIS", {1: "1", 3: "80146002^Appendectomy^SCT", 4: "20260105080000", 7: "90", 8: "MIN"})


def test_a_booking_says_what_where_when_and_for_whom() -> None:
    (event,) = events_of(siu("S12", None, segment("PV1", {2: "I", 19: "V1"}), segment("RGS", {1: "1"}), SERVICE, THEATRE))
    assert (event.namespace, event.entity_id, event.source_system) == ("SCHED", "F7", event.source_system)
    assert event.payload == Procedure(
        status=ProcedureStatus.BOOKED,
        start=EIGHT,
        end=EIGHT + HOUR * 3 // 2,
        place=Place("MAIN", None, None, "OR", "3", None),
        patient=Reference("MAIN", "4711"),
        encounter=Reference("MAIN", "V1"),
        service="80146002",
        reason="PLANNED",
    )


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("Pending", "PENDING"), ("WAITLIST", "WAITLIST"), ("Booked", "BOOKED"), ("Started", "STARTED"), ("Complete", "COMPLETE"),
        ("Cancelled", "CANCELLED"), ("DC", "DISCONTINUED"), ("Discontinued", "DISCONTINUED"), ("Deleted", "DELETED"),
        ("Blocked", "BLOCKED"), ("Overbook", "OVERBOOK"), ("Noshow", "NOSHOW"),
    ],
)  # fmt: skip
def test_the_filler_status_is_that_of_table_0278_in_any_case(code: str, status: str) -> None:
    assert said(siu("S14", {25: code})).status == ProcedureStatus(status)


@pytest.mark.parametrize(
    ("trigger", "status"),
    [
        ("S15", "CANCELLED"),
        ("S16", "DISCONTINUED"),
        ("S17", "DELETED"),
        ("S23", "BLOCKED"),
        ("S24", "DELETED"),
        ("S26", "NOSHOW"),
    ],
)
def test_a_trigger_that_ends_an_appointment_is_believed_before_a_status_left_from_earlier(trigger: str, status: str) -> None:
    assert said(siu(trigger, {25: "Booked"})).status == ProcedureStatus(status)


@pytest.mark.parametrize(
    ("trigger", "status"), [("S12", ProcedureStatus.BOOKED), ("S13", ProcedureStatus.BOOKED), ("S14", UNSET), ("S18", UNSET)]
)
def test_without_a_status_only_what_books_is_booked(trigger: str, status: object) -> None:
    assert said(siu(trigger)).status is status
    assert said(siu(trigger, {25: "WHATEVER"})).status is UNSET


def test_times_come_from_the_service_else_the_timing_else_the_schedule() -> None:
    timing = segment("TQ1", {7: "20260105090000", 8: "20260105100000"})
    schedule = {11: "^^^20260105100000^20260105110000"}
    assert said(siu("S12", schedule, timing, SERVICE)).start == EIGHT
    by_timing = said(siu("S12", schedule, timing))
    assert (by_timing.start, by_timing.end) == (EIGHT + HOUR, EIGHT + 2 * HOUR)
    by_schedule = said(siu("S12", schedule))
    assert (by_schedule.start, by_schedule.end) == (EIGHT + 2 * HOUR, EIGHT + 3 * HOUR)
    lasting = said(siu("S12", schedule | {9: "2", 10: "HR"}))
    assert lasting.end == EIGHT + 4 * HOUR


@pytest.mark.parametrize(("amount", "unit"), [("x", "MIN"), ("90", "FORTNIGHT"), ("0", "MIN"), ("99999", "D"), ("90", "")])
def test_a_duration_that_is_none_leaves_the_end_unsaid(amount: str, unit: str) -> None:
    data = siu("S12", {11: "^^^20260105080000", 9: amount, 10: unit})
    assert (said(data).start, said(data).end) == (EIGHT, UNSET)


def test_an_end_before_the_start_is_left_unsaid() -> None:
    assert said(siu("S12", {11: "^^^20260105080000^20260105070000"})).end is UNSET


def test_a_blocked_slot_is_nobodys_and_a_group_no_ones_in_particular() -> None:
    assert said(siu("S23", pid=None)).patient is UNSET
    assert said(siu("S12", None, segment("PID", {3: "4712^^^MAIN^MR"}))).patient is UNSET


def test_an_appointment_or_patient_that_is_not_told_apart_is_refused() -> None:
    assert rejected(siu("S12", {2: ""})).field == "SCH-2"
    assert rejected(siu("S12", None, segment("SCH", {2: "F8"}))).field == "SCH"
    assert rejected(siu("S12", pid="1^^^A^MR~2^^^B^MR")).reason is Reason.AMBIGUOUS_IDENTITY
