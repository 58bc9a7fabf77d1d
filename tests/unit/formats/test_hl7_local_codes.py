"""A sender's own codes, sites, units, authorities and Z-segments, by its profile; and what a profile tolerates of it."""

from typing import Any

import pytest
from msgspec import UNSET, structs

from pipeline.domain.event import Bed, Environment, Name, PatientClass, Place, Procedure, ProcedureStatus, Reference, Sex
from pipeline.formats.hl7v2.leniency import HARMLESS, Leniency
from pipeline.formats.hl7v2.mapping import map_bytes
from pipeline.formats.hl7v2.origins import explain
from pipeline.formats.hl7v2.profile import BedStatement, Profile, Unit
from pipeline.formats.hl7v2.verdict import Mapped, Reason, Rejected
from tests.support.hl7_samples import DEFAULT, RECEIVED_AT, a20, adt, beds, encounter, events_of, patient, rejected, segment


def having(**settings: Any) -> Profile:
    """The default profile with other settings."""
    return structs.replace(DEFAULT, **settings)


# -- codes


def test_the_senders_own_codes_come_before_the_standards() -> None:
    own = having(patient_classes={"STAT": PatientClass.INPATIENT, "O": PatientClass.INPATIENT}, sexes={"W": Sex.FEMALE})
    assert encounter(adt("A01", pv1={2: "STAT"}), own).patient_class is PatientClass.INPATIENT
    assert encounter(adt("A01", pv1={2: "O"}), own).patient_class is PatientClass.INPATIENT
    assert encounter(adt("A01", pv1={2: "e"}), own).patient_class is PatientClass.EMERGENCY
    assert patient(adt("A01", pid={8: "W"}), own).sex is Sex.FEMALE
    assert patient(adt("A01", pid={8: "m"}), own).sex is Sex.MALE
    assert patient(adt("A01", pid={8: "W"})).sex is UNSET


def test_an_admission_type_goes_along_as_priority_by_table_0007() -> None:
    assert events_of(adt("A01", pv1={4: "e"}))[1].priority == "E"
    assert events_of(adt("A01", pv1={4: "PLANNED"}), having(admission_types={"PLANNED": "C"}))[1].priority == "C"
    verdict = map_bytes(adt("A01", pv1={4: "PLANNED"}), DEFAULT, "t1", RECEIVED_AT)[1]
    assert isinstance(verdict, Mapped)
    assert verdict.unread == ("PV1-4",)
    assert verdict.events[1].priority is None


def test_a_disposition_and_an_appointments_status_have_our_words() -> None:
    assert encounter(adt("A03", pv1={36: "HEIM"}), having(dispositions={"HEIM": "01"})).disposition == "01"
    assert encounter(adt("A03", pv1={36: "HEIM"})).disposition == "HEIM"
    head = adt("A01", msh={9: "SIU^S14"}).split(b"\r")[0].decode()
    data = "\r".join((head, segment("SCH", {2: "P1", 25: "FIX"}))).encode()
    (event,) = events_of(data, having(appointment_statuses={"FIX": ProcedureStatus.BOOKED}))
    assert isinstance(event.payload, Procedure)
    assert event.payload.status is ProcedureStatus.BOOKED


def test_an_own_bed_code_says_what_table_0116_cannot() -> None:
    cleaning = having(own_bed_status={"cleaning": BedStatement(environment=Environment.CLEANING)})
    assert beds(a20("cleaning"), cleaning)["ICU/1/A"] == Bed(environment=Environment.CLEANING)
    assert beds(a20("H"), cleaning) == beds(a20("H"))
    assert rejected(a20("CLEANING"), cleaning).reason is Reason.UNKNOWN_CODE


# -- places


def test_units_and_facilities_are_called_what_they_are_called_here() -> None:
    named = having(
        facilities={"001": "NORTH"},
        units={"4W": Unit(point_of_care="MED4", building="B"), "NORTH/ICU": Unit(point_of_care="ICN")},
    )
    moved = events_of(adt("A02", pv1={3: "4W^1^A^001", 6: "ICU^9^Z^001"}), named)
    assert [(e.namespace, e.entity_id, e.facility) for e in moved[2:]] == [
        ("NORTH", "ICN/9/Z", "NORTH"),
        ("NORTH", "MED4/1/A", "NORTH"),
    ]
    assert encounter(adt("A02", pv1={3: "4W^1^A^001"}), named).location == Place("NORTH", "B", None, "MED4", "1", "A")
    assert list(beds(adt("A01", pv1={3: "ICU^9^Z^002"}), named)) == ["ICU/9/Z"]
    assert list(beds(a20("H", "4W^1^A"), named)) == ["MED4/1/A"]


def test_a_unit_may_lie_at_another_site_than_its_messages() -> None:
    (_, _, bed) = events_of(adt("A01", pv1={3: "4W^1^A"}), having(units={"4W": Unit(facility="SOUTH")}))
    assert (bed.namespace, bed.entity_id, bed.facility) == ("SOUTH", "4W/1/A", "SOUTH")


@pytest.mark.parametrize(("field", "msh", "evn"), [("MSH-4", {4: "002"}, {}), ("EVN-7", {}, {7: "002"})])
def test_one_feed_of_several_sites_keeps_their_beds_and_visits_apart(
    field: str, msh: dict[int, str], evn: dict[int, str]
) -> None:
    sited = having(site_field=field, facilities={"002": "SOUTH", "MAIN": "MAIN"})
    plain = {"pid": {3: "4711^^^^MR"}, "pv1": {3: "ICU^1^A"}}
    south = events_of(adt("A01", msh=msh, evn=evn, **plain), sited)  # type: ignore[arg-type]
    assert {(e.namespace, e.facility) for e in south} == {("SOUTH", "SOUTH")}
    assert {e.namespace for e in events_of(adt("A01", **plain), sited)} == {"MAIN"}  # type: ignore[arg-type]


def test_a_site_that_the_profile_does_not_know_is_never_guessed() -> None:
    sited = having(site_field="MSH-4", facilities={"002": "SOUTH"})
    found = rejected(adt("A01", msh={4: "003"}), sited)
    assert (found.reason, found.field) == (Reason.UNKNOWN_CODE, "MSH-4")
    assert events_of(adt("A01", msh={4: ""}), sited)[1].facility == "MAIN"


def test_two_names_of_one_authority_are_one_identity() -> None:
    named = having(authorities={"1.2.3": "MAIN", "HIS1": "MAIN"})
    for ids in ("4711^^^&1.2.3&ISO^MR", "4711^^^HIS1^MR", "4711^^^MAIN^MR", "4711^^^HIS1^MR~4711^^^&1.2.3&ISO^MR"):
        assert encounter(adt("A01", pid={3: ids}), named).patient == Reference("MAIN", "4711")
    assert events_of(adt("A01", pv1={19: "V1^^^HIS1"}), named)[1].namespace == "MAIN"


# -- Z-segments


ZPV = segment("ZPV", {1: "20260106120000", 2: "CAR^Cardiology", 3: "MED^2^B^MAIN", 4: "x"})


def test_a_z_segment_is_the_source_of_the_fields_that_the_profile_names() -> None:
    reading = having(
        z_fields={"discharge_ordered_at": "ZPV-1", "service": "ZPV-2.2", "pending_location": "ZPV-3", "admitted_at": "ZPV-4"}
    )
    data = adt("A15", pv1={10: "MED", 44: "20260101"}, more=(ZPV,))
    stay = encounter(data, reading)
    assert (stay.service, stay.pending_location) == ("Cardiology", Place("MAIN", None, None, "MED", "2", "B"))
    assert stay.discharge_ordered_at == 1767700800000
    assert stay.admitted_at == encounter(data).admitted_at
    verdict = map_bytes(data, reading, "t1", RECEIVED_AT)[1]
    assert isinstance(verdict, Mapped)
    assert verdict.unread == ("ZPV-4",)


def test_without_a_value_there_the_standards_position_counts() -> None:
    reading = having(z_fields={"service": "ZPV-9", "expected_discharge_at": "ZXX-1"})
    data = adt("A01", pv1={10: "MED"}, more=("PV2|||||||||20260103", ZPV))
    assert encounter(data, reading) == encounter(data)


def test_a_z_segment_states_no_place_that_its_trigger_does_not_and_undoes_no_clearing() -> None:
    reading = having(z_fields={"pending_location": "ZPV-3", "temporary_location": "ZPV-3"})
    assert encounter(adt("A08", more=(ZPV,)), reading).pending_location is UNSET
    assert encounter(adt("A26", more=(ZPV,)), reading).pending_location is None
    assert encounter(adt("A16", more=(ZPV,)), reading).temporary_location is UNSET
    past = adt("A02", more=(ZPV, "ZBE|1|20260101||UPDATE|Y"))
    assert encounter(past, reading).pending_location is UNSET


# -- leniency


TOLERATED = {
    Leniency.LF_ENDINGS: adt("A01").replace(b"\r", b"\n"),
    Leniency.MISSING_EVN: b"\r".join(line for line in adt("A01").split(b"\r") if not line.startswith(b"EVN")),
    Leniency.OTHER_CHARSET: adt("A01", msh={18: "ASCII"}, pid={5: "M\u00dcLLER"}),
    Leniency.OVER_LONG_FIELD: adt("A01", pv1={10: "x" * 251}),
    Leniency.STRAY_LINE: adt("A01", more=("NTE|1||text that was", "broken over two lines")),
    Leniency.TWICE_ESCAPED: adt("A01").replace(b"^~\\&", b"^~\\\\&"),
    Leniency.TYPE_IN_AUTHORITY: adt("A01", pid={3: "4711^^^MR~99^^^EHRID"}),
    Leniency.UNKNOWN_SEGMENT: adt("A01", more=("XPD|1",)),
    Leniency.UNREADABLE_FIELD: adt("A01", pv1={44: "yesterday"}),
}


@pytest.mark.parametrize("leniency", list(Leniency))
def test_each_departure_is_taken_only_where_the_profile_tolerates_it_by_name(leniency: Leniency) -> None:
    everything = tuple(Leniency)
    verdict = map_bytes(TOLERATED[leniency], having(tolerates=everything), "t1", RECEIVED_AT)[1]
    assert isinstance(verdict, Mapped)
    assert {event.entity_id for event in verdict.events} == {"4711", "V1", "ICU/1/A"}
    without = map_bytes(
        TOLERATED[leniency], having(tolerates=tuple(name for name in everything if name is not leniency)), "t1", RECEIVED_AT
    )[1]
    assert isinstance(without, Rejected)
    assert leniency.value in without.remedy or leniency is Leniency.TYPE_IN_AUTHORITY


@pytest.mark.parametrize("leniency", [name for name in Leniency if name is not Leniency.TYPE_IN_AUTHORITY])
def test_explain_names_what_a_sender_needs_to_be_tolerated(leniency: Leniency) -> None:
    told = explain(TOLERATED[leniency], having(tolerates=tuple(Leniency))).departures
    assert told == (leniency.value,)
    assert explain(adt("A01"), DEFAULT).departures == ()


def test_a_message_that_keeps_to_the_standard_needs_no_leniency() -> None:
    strict = having(tolerates=())
    data = adt("A01", msh={18: "UNICODE UTF-8"}, pid={5: "M\u00dcLLER"}, more=("PD1|1", "ZPD|x", "NTE|1||a\\.br\\b"))
    assert events_of(data, strict) == events_of(data)
    assert set(HARMLESS) == set(DEFAULT.tolerates)


@pytest.mark.parametrize("declared", ["ISO IR87", "~ISO IR87", "ASCII~ISO IR87", "UNICODE UTF-8~ISO IR87"])
def test_a_message_in_one_of_the_sets_that_it_declares_needs_no_leniency(declared: str) -> None:
    name = "\x1b$B0|\x1b(B"
    stated = {7: "19800102", 8: "F", 18: "ACC1"}
    data = adt("A01", msh={18: declared}, pid={5: f"{name}^x", **stated})
    said = patient(data, having(tolerates=()))
    assert said.name == Name(family=name.encode().decode("iso2022_jp"), given="x")
    assert (said.birth_date, said.sex) == ("1980-01-02", Sex.FEMALE)
    assert events_of(data, having(tolerates=())) == events_of(adt("A01", msh={18: "ISO IR87"}, pid={5: f"{name}^x", **stated}))
    by_account = having(visit_number_fields=("PID-18",))
    assert [event.entity_id for event in events_of(data, by_account)][1] == "ACC1"
    assert explain(data, DEFAULT).departures == ()


def test_a_message_in_a_set_that_it_does_not_declare_is_refused_by_name() -> None:
    message, verdict = map_bytes(adt("A01", pid={5: "\x1b$B0|\x1b(B"}), DEFAULT, "t1", RECEIVED_AT)
    assert message is None
    assert isinstance(verdict, Rejected)
    assert (verdict.reason, verdict.field, verdict.detail) == (Reason.UNREADABLE, "MSH-18", "UNDECODABLE")


def test_what_is_ignored_by_rule_is_ignored_however_it_is_written() -> None:
    strict = having(tolerates=())
    verdict = map_bytes(adt("A01", msh={9: "ORU^R01"}).replace(b"\r", b"\n"), strict, "t1", RECEIVED_AT)[1]
    assert type(verdict).__name__ == "Ignored"


def test_a_type_in_the_place_of_the_authority_still_names_one_patient_or_none() -> None:
    lenient = having(tolerates=tuple(Leniency))
    assert encounter(adt("A01", pid={3: "4711^^^MR~99^^^EHRID"}), lenient).patient == Reference("MAIN", "4711")
    assert rejected(adt("A01", pid={3: "4711^^^MR~4712^^^MR"}), lenient).reason is Reason.AMBIGUOUS_IDENTITY
