"""Batches: what is whole is read, what is not is refused with the place, and nothing of it is used."""

from pathlib import Path

import hl7
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.formats.hl7v2 import ack
from pipeline.formats.hl7v2.batch import Batches, acknowledgement, file_of, is_batch, read
from pipeline.formats.hl7v2.mapping import map_bytes, map_hl7
from pipeline.formats.hl7v2.verdict import Mapped, Rejected
from tests.support.hl7_samples import DEFAULT, RECEIVED_AT, adt

FHS, BHS = b"FHS|^~\\&|EHR|MAIN|||20260105|||f.hl7|F1\r", b"BHS|^~\\&|EHR|MAIN|||20260105||||B1\r"
A, B = adt("A01"), adt("A03")


@pytest.mark.parametrize(
    ("data", "messages"),
    [
        (FHS + BHS + A + B + b"BTS|2\rFTS|1\r", (A, B)),
        (FHS + BHS + A + b"BTS|1\r" + BHS + B + b"BTS|1\rFTS|2\r", (A, B)),
        (BHS + A + b"BTS|1\r", (A,)),
        (BHS + A + b"BTS", (A,)),
        (FHS + A + B + b"FTS|1\r", (A, B)),
        (FHS + A + B + b"FTS\r", (A, B)),
        (b"\xef\xbb\xbf" + (BHS + A + b"BTS|1\r").replace(b"\r", b"\r\n"), (A.replace(b"\r", b"\r\n"),)),
        ((BHS + A + b"BTS|1\r").replace(b"\r", b"\n"), (A.replace(b"\r", b"\n"),)),
        (BHS.replace(b"|", b"#") + A + b"BTS#1\r", (A,)),
    ],
)  # fmt: skip
def test_what_is_whole_is_read_message_by_message(data: bytes, messages: tuple[bytes, ...]) -> None:
    assert is_batch(data)
    found = read(data)
    assert isinstance(found, Batches), found
    assert found.messages == messages


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (BHS + A + b"BTS|2\r", "BTS-1"),
        (BHS + A + b"BTS|one\r", "BTS-1"),
        (BHS + A, "BTS"),
        (BHS + A + BHS + B + b"BTS|1\r", "BHS"),
        (FHS + BHS + A + b"BTS|1\r", "FTS"),
        (FHS + BHS + A + b"BTS|1\rFTS|2\r", "FTS-1"),
        (FHS + BHS + A + b"FTS|1\r", "BTS"),
        (FHS + A + b"BTS|1\rFTS|1\r", "BTS"),
        (BHS + A + b"BTS|1\rFTS|1\r", "FTS"),
        (FHS + BHS + A + b"BTS|1\r" + FHS, "FHS"),
        (FHS + BHS + A + b"BTS|1\rFTS|1\r" + B, "FTS"),
        (BHS + b"BTS|0\r", "MSH"),
        (FHS + b"FTS|0\r", "MSH"),
        (FHS + b"NTE|1\r" + A + b"FTS|1\r", "FHS"),
        (BHS + A + b"BTS|1\rNTE|1\r", "BTS"),
    ],
)
def test_what_is_not_whole_is_refused_with_the_place(data: bytes, where: str) -> None:
    found = read(data)
    assert isinstance(found, Rejected)
    assert found.field == where
    shown = list(map_hl7(data, profile=DEFAULT, tenant="t1", received_at=RECEIVED_AT, file="b.hl7"))
    assert [item["field"] for item in shown] == [where]


PARTS = st.sampled_from([FHS, BHS, A, b"BTS|1\r", b"BTS\r", b"FTS|1\r", b"FTS\r", b"\r\n", b"x"])


@given(st.lists(PARTS, max_size=8), st.binary())
def test_any_bytes_are_read_or_refused(parts: list[bytes], noise: bytes) -> None:
    for data in (b"".join(parts), noise, BHS + noise):
        assert isinstance(read(data), Batches | Rejected)


@given(st.lists(st.sampled_from([A, B, A.rstrip(b"\r"), A.replace(b"\r", b"\r\n")]), min_size=1, max_size=20))
def test_a_file_that_is_made_is_read_back_message_by_message(messages: list[bytes]) -> None:
    whole = file_of(messages, "F7")
    back = read(whole)
    assert isinstance(back, Batches)
    assert [message.rstrip(b"\r") for message in back.messages] == [message.rstrip(b"\r") for message in messages]
    assert back.control_id == b"F7"
    oracle = hl7.parse_file(file_of([A] * len(messages), "F7").decode())
    assert (str(oracle.header[11]), str(oracle.trailer[1]), str(oracle[0].trailer[1])) == ("F7", "1", str(len(messages)))


@pytest.mark.parametrize("messages", [[], [A + B], [A, b"BTS|1\r"], [A, b"not a message"]])
def test_what_would_not_be_read_back_makes_no_file(messages: list[bytes]) -> None:
    with pytest.raises(ValueError, match="make no batch"):
        file_of(messages, "F7")


def test_a_batch_is_answered_by_a_batch_that_names_it() -> None:
    batches = read(BHS + A + B + b"BTS|2\r")
    assert isinstance(batches, Batches)
    answers = []
    for data in batches.messages:
        message, verdict = map_bytes(data, DEFAULT, "t1", RECEIVED_AT)
        assert message
        assert isinstance(verdict, Mapped)
        answers.append(ack.accepted(message))
    told = read(acknowledgement(batches, answers))
    assert isinstance(told, Batches)
    assert told.messages == tuple(answers)
    by_oracle = hl7.parse_batch(acknowledgement(batches, answers).decode())
    assert (len(by_oracle), str(by_oracle.header[12])) == (2, "B1")


def test_of_the_real_batches_the_whole_ones_are_read(shared_data: Path) -> None:
    """As python-hl7's own tests sort them, except a file without a message: there is nothing to take from it."""
    whole = {path.name for path in (shared_data / "hl7v2").glob("BATCH_*.hl7") if isinstance(read(path.read_bytes()), Batches)}
    assert whole == {"BATCH_005.hl7", "BATCH_007.hl7"}
