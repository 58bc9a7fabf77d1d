"""Acknowledgements: whom they are for, what they say, and that a repeat gets the same bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.formats.hl7v2 import ack
from pipeline.formats.hl7v2.er7 import Message, parse
from pipeline.formats.hl7v2.verdict import Reason, Rejected
from tests.support.hl7_samples import adt, read

REJECTED = Rejected(Reason.MISSING_FIELD, "PV1-19", "no visit number", "send the visit number in PV1-19")


def test_sender_and_receiver_change_places_and_msa_names_the_message() -> None:
    answer = read(ack.accepted(read(adt("A01"))))
    assert [answer.field("MSH", n) for n in (3, 4, 5, 6)] == ["US", "HERE", "EHR", "MAIN"]
    assert [answer.field("MSH", 9, component=n) for n in (1, 2, 3)] == ["ACK", "A01", "ACK"]
    assert (answer.field("MSA", 1), answer.field("MSA", 2)) == ("AA", "C1")
    assert answer.names() == ["MSH", "MSA"]


def test_an_answer_is_a_function_of_the_message_alone() -> None:
    message = adt("A01")
    assert ack.accepted(read(message)) == ack.accepted(read(message))
    assert read(ack.accepted(read(message))).field("MSH", 7) == "20260105101500"


def test_answers_to_different_messages_have_control_ids_of_their_own() -> None:
    def control_id(data: bytes) -> str | None:
        return read(data).field("MSH", 10)

    one, other = read(adt("A01")), read(adt("A01", msh={10: "C2"}))
    answers = {control_id(ack.accepted(one)), control_id(ack.accepted(other)), control_id(ack.try_again(one))}
    assert len(answers) == 3
    assert all(answer and len(answer) <= 20 for answer in answers)


def test_a_refusal_names_code_place_and_remedy() -> None:
    answer = read(ack.refused(read(adt("A01")), REJECTED))
    assert answer.field("MSA", 1) == "AR"
    assert [answer.field("ERR", 2, component=n) for n in (1, 2, 3, 4)] == ["PV1", "1", "19", "1"]
    assert [answer.field("ERR", 3, component=n) for n in (1, 2, 3)] == ["101", "Required field missing", "HL70357"]
    assert (answer.field("ERR", 4), answer.field("ERR", 8)) == ("E", "send the visit number in PV1-19")


def test_try_again_is_ae_207_and_a_conflict_is_ar_205() -> None:
    message = read(adt("A01"))
    again, conflict = read(ack.try_again(message)), read(ack.conflict(message))
    assert (again.field("MSA", 1), again.field("ERR", 3)) == ("AE", "207")
    assert (conflict.field("MSA", 1), conflict.field("ERR", 3)) == ("AR", "205")


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_a_code_of_table_0357(reason: Reason) -> None:
    assert reason.code in ack.TEXT_0357
    assert ack.code_of(ack.refused(None, Rejected(reason, "MSH", "d", "r"))) == "AR"


def test_the_senders_delimiters_and_character_set_are_kept() -> None:
    sent = "MSH#!@%*#Sünd#F#R#F#20260101##ADT!A01#7#P#2.5######8859/1\r".encode("latin-1")
    answer = ack.accepted(read(sent))
    assert answer.startswith(b"MSH#!@%*#R#F#S\xfcnd#F#20260101##ACK!A01!ACK#")
    assert b"#8859/1\rMSA#AA#7\r" in answer


def test_what_names_a_message_is_sent_back_as_it_came() -> None:
    assert b"\rMSA|AA|A^B\\T\\C\r" in ack.accepted(read(adt("A01", msh={10: "A^B\\T\\C"})))


def test_an_answer_without_a_readable_header_still_is_a_message() -> None:
    answer = read(ack.refused(None, REJECTED))
    assert (answer.field("MSH", 9), answer.field("MSA", 1), answer.field("MSA", 2)) == ("ACK", "AR", None)


def test_the_header_of_a_message_that_is_too_long_is_enough_for_an_answer() -> None:
    answer = read(ack.too_long(adt("A01")[:100], ("utf-8",)))
    assert (answer.field("MSA", 1), answer.field("MSA", 2), answer.field("ERR", 3)) == ("AR", "C1", "104")
    assert ack.code_of(ack.too_long(b"no header", ("utf-8",))) == "AR"


def test_an_answer_repeats_nothing_of_the_patient() -> None:
    message = read(adt("A01", pid={3: "canary", 5: "canary"}))
    assert b"canary" not in ack.refused(message, REJECTED) + ack.accepted(message)


@pytest.mark.parametrize(
    ("commit", "application", "accepted", "refused"),
    [
        ("", "", ["AA"], ["AR"]),
        ("AL", "NE", ["CA"], ["CR"]),
        ("AL", "", ["CA"], ["CR"]),
        ("AL", "AL", ["CA", "AA"], ["CR"]),
        ("NE", "AL", ["AA"], ["AR"]),
        ("", "AL", ["AA"], ["AR"]),
        ("ER", "AL", ["AA"], ["CR"]),
        ("SU", "ER", ["CA"], ["AR"]),
        ("ER", "SU", ["AA"], ["CR"]),
        ("SU", "SU", ["CA", "AA"], []),
        ("ER", "ER", [], ["CR"]),
        ("NE", "NE", [], []),
        ("XX", "NE", ["CA"], ["CR"]),
    ],
)
def test_in_enhanced_mode_the_sender_hears_what_it_asked_for(
    commit: str, application: str, accepted: list[str], refused: list[str]
) -> None:
    message = read(adt("A01", msh={15: commit, 16: application}))
    assert [read(part).field("MSA", 1) for part in ack.each(ack.accepted(message))] == accepted
    assert [read(part).field("MSA", 1) for part in ack.each(ack.refused(message, REJECTED))] == refused
    assert [read(part).field("MSA", 1) for part in ack.each(ack.accepted(message, "original"))] == ["AA"]


def test_both_answers_name_the_message_and_are_told_apart() -> None:
    parts = ack.each(ack.accepted(read(adt("A01", msh={15: "AL", 16: "AL"}))))
    assert [read(part).field("MSA", 2) for part in parts] == ["C1", "C1"]
    assert len({read(part).field("MSH", 10) for part in parts}) == 2
    assert all(part.endswith(b"\r") for part in parts)


FIELDS = st.lists(st.text(st.sampled_from('A1^~\\&"é '), max_size=6), min_size=16, max_size=16)


@given(
    fields=FIELDS,
    trigger=st.sampled_from(["ADT^A01", "ADT^a1", "SIU^S12^SIU_S12", "", "^^"]),
    charset=st.sampled_from(["", "8859/1"]),
)
def test_the_short_way_to_an_acknowledgement_makes_the_same_bytes_as_the_long_one(
    fields: list[str], trigger: str, charset: str
) -> None:
    fields[6], fields[15] = trigger, charset
    message = parse(("MSH|^~\\&|" + "|".join(fields) + "\rEVN|A01|20260105\r").encode(), fallback=("utf-8",))
    if isinstance(message, Message):
        header = message.segment("MSH")
        assert ack.accepted(message, "original") == ack._built(message, header, ack.Code.AA, None)
