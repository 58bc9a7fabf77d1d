"""Messages that are divided into parts: one with too many of them is refused before any part is made, whoever sends it."""

from collections.abc import Callable
from typing import Final

import pytest

from pipeline.formats.hl7v2.er7 import MAX_LINES, Message
from pipeline.formats.hl7v2.mapping import map_bytes
from pipeline.formats.hl7v2.merge import MAX_GROUPS
from pipeline.formats.hl7v2.mfn import MAX_LOCATIONS
from pipeline.formats.hl7v2.verdict import Reason, Rejected
from tests.support.hl7_samples import DEFAULT, RECEIVED_AT, adt, rejected

LINES: Final = ("NTE|1",) * 4_000
MRG: Final = "MRG|0815^^^MAIN^MR"


def mfn(*, more: tuple[str, ...]) -> bytes:
    """A location master of these segments."""
    header = "MSH|^~\\&|MASTER|MAIN|||20260105101500||MFN^M05^MFN_M05|C1|P|2.5.1"
    return "\r".join((header, "MFI|LOC||UPD", *more, "")).encode()


def of(trigger: str) -> Callable[..., bytes]:
    """What makes an ADT of a trigger."""
    return lambda *, more: adt(trigger, more=more)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each message, or part of one, that is made."""
    seen: list[str] = []
    make = Message.__init__

    def counted(self: Message, lines: list[str], *said: object) -> None:
        seen.append("a message")
        make(self, lines, *said)  # type: ignore[arg-type]

    monkeypatch.setattr(Message, "__init__", counted)
    return seen


@pytest.mark.parametrize(
    ("write", "more", "field"),
    [
        (mfn, LINES + ("MFE",) * 2_000, "MFE"),
        (mfn, LINES + ("MFE",) * MAX_LOCATIONS, "MFE"),
        (mfn, ("MFE",) * (MAX_LOCATIONS + 1), "MFE"),
        (of("A17"), LINES + ("PID",) * 2_000, "PID"),
        (of("A40"), LINES + ("PID",) * 2_000 + (MRG,), "MRG"),
        (of("A40"), LINES + (MRG,) * 2_000, "MRG"),
        (of("A40"), ("PID", MRG) * (MAX_GROUPS + 1), "MRG"),
    ],
)
def test_a_message_of_too_many_parts_is_refused_before_one_of_them_is_made(
    made: list[str], write: Callable[..., bytes], more: tuple[str, ...], field: str
) -> None:
    found = rejected(write(more=more))
    assert (found.reason, found.field) == (Reason.SEGMENT_SEQUENCE, field)
    assert made == ["a message"]


def test_a_merge_far_behind_its_patient_costs_one_part_and_is_refused(made: list[str]) -> None:
    found = rejected(adt("A40", more=(*LINES, *(MRG,) * MAX_GROUPS)))
    assert (found.reason, found.field, len(made)) == (Reason.SEGMENT_SEQUENCE, "MRG", 2)


def test_a_message_of_too_many_lines_is_too_long_however_few_its_bytes() -> None:
    message, verdict = map_bytes(adt("A01", more=("A",) * MAX_LINES), DEFAULT, "t1", RECEIVED_AT)
    assert message is None
    assert isinstance(verdict, Rejected)
    assert (verdict.reason, verdict.detail) == (Reason.TOO_LONG, "TOO_MANY_LINES")
