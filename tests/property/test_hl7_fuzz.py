"""Damaged, twisted and hostile messages under several profiles: a verdict each time, in time, and nothing of a patient in it.

HYPOTHESIS_PROFILE=long tries thousands of other ones; SURGELINE_FUZZ_S seconds (of processor time) of them, if that is set.
"""

import os
import time
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec import structs

from pipeline.formats.avro import Codec
from pipeline.formats.hl7v2 import ack
from pipeline.formats.hl7v2.leniency import Leniency
from pipeline.formats.hl7v2.mapping import MAPPED, map_bytes, map_hl7
from pipeline.formats.hl7v2.messages import IGNORED
from pipeline.formats.hl7v2.origins import explain
from pipeline.formats.hl7v2.profile import Unit
from pipeline.formats.hl7v2.verdict import Ignored, Mapped, Rejected
from pipeline.ops.render.hl7 import as_builtins
from tests.support.hl7_samples import CAPACITY, DEFAULT, RECEIVED_AT

CANARY: Final = "XCANARY9"
"""Stands for a patient's data in every field; nothing that is said of a message may hold it."""

BOUND_S: Final = 5.0
"""Processor time of one message; it takes well under a millisecond."""

LONG_S: Final = 7_200
"""Bound of the tests that go on for as long as they are asked to."""

CODEC: Final = Codec.shipped()
PROFILES: Final = (
    DEFAULT,
    CAPACITY,
    structs.replace(DEFAULT, tolerates=(), a08_moves=True, sequence="MSH-13"),
    structs.replace(
        DEFAULT,
        tolerates=tuple(Leniency),
        sequence="ZBE-1",
        z_fields={"service": "ZBE-7.1", "discharge_ordered_at": "ZPV-1", "pending_location": "ZPV-3"},
        authorities={"A": "MAIN"},
    ),
    structs.replace(
        DEFAULT,
        movements="ignored",
        site_field="MSH-4",
        facilities={"MAIN": "NORTH", "S": "SOUTH"},
        units={"ICU": Unit(point_of_care="I", facility="SOUTH", floor="2")},
    ),
)

KINDS: Final = sorted(MAPPED | IGNORED.keys() | {"ADT^Z99", "ADT^A99", "ORU^R01", "ADT", "", CANARY, f"ADT^{CANARY}"})
VALUES: Final = st.sampled_from(
    [
        *("", '""', "~", "^", "&", "\\", "\\X41\\", "\\X4\\", "\\H\\", "I", "P", "O", "Y", "N", "H", "K", "MAD", "MDC", "LIC"),
        *("INSERT", "UPDATE", "CANCEL", "A02", "A12", "A16", "1", "77^HIS", "0", "-1", "9" * 25, "S", "MIN"),
        *("20260101", "202601011200", "20260101120000+0100", "99999999999999", "20260101120000.123456-1200", "20260230"),
        *(CANARY, f"{CANARY}^^^A^MR", f"{CANARY}^^^MR", f"{CANARY}^^^A^MR~{CANARY}2^^^B^MR", f"{CANARY}^1^A^MAIN", "ICU^1^A^S"),
        *(CANARY * 40, f"{CANARY}^{CANARY}&{CANARY}", '""^""^""', "^^^^^^^^^^^", "M\u00fcller\u2028", "\x00\x1b$B"),
    ]
)
NAMES: Final = (
    "EVN",
    "PID",
    "PV1",
    "PV2",
    "ZBE",
    "ZPV",
    "MRG",
    "NPU",
    "SCH",
    "AIS",
    "AIL",
    "TQ1",
    "MFE",
    "LOC",
    "LCH",
    "NTE",
    CANARY,
)
USUAL: Final = {
    "EVN": {2: "20260105101000"},
    "PID": {3: f"{CANARY}^^^MAIN^MR"},
    "PV1": {2: "I", 3: "ICU^1^A^MAIN", 6: "MED^2^B", 19: f"{CANARY}V"},
    "ZBE": {1: "77", 2: "20260105090000", 4: "INSERT", 5: "N", 6: "A02"},
    "NPU": {1: "ICU^1^A", 2: "H"},
    "SCH": {2: CANARY},
    "MFE": {1: "MUP", 4: "ICU^1^A"},
}


@st.composite
def segments(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(NAMES))
    fields = dict(USUAL.get(name, {})) if draw(st.booleans()) else {}
    fields |= draw(st.dictionaries(st.one_of(st.integers(1, 10), st.integers(1, 55)), VALUES, max_size=4))
    return name + "|" + "|".join(fields.get(n, "") for n in range(1, max(fields, default=1) + 1))


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    header = {3: "E", 4: draw(st.sampled_from(["MAIN", "S", CANARY])), 7: "20260105101500", 10: "C1", 11: "P"}
    header |= {9: draw(st.sampled_from(KINDS))} | draw(st.dictionaries(st.integers(3, 20), VALUES, max_size=2))
    lines = ["MSH|^~\\&|" + "|".join(header.get(n, "") for n in range(3, max(header) + 1))]
    if draw(st.booleans()):
        lines += [name + "|" + "|".join(USUAL[name].get(n, "") for n in range(1, 60)) for name in ("EVN", "PID", "PV1")]
    lines += draw(st.lists(segments(), max_size=5))
    data = draw(st.sampled_from(["\r", "\n", "\r\n"])).join(lines).encode("utf-8")
    for _ in range(draw(st.integers(0, 2))):
        at, cut = draw(st.integers(0, len(data))), draw(st.sampled_from([0, 0, 1, 3, 20]))
        data = data[:at] + draw(st.binary(max_size=6)) + data[at + cut :]
    return data


@st.composite
def batches(draw: st.DrawFn) -> bytes:
    parts = draw(st.lists(messages(), max_size=3))
    count = draw(st.sampled_from([str(len(parts)), "", "7", CANARY]))
    lines = [b"FHS|^~\\&|" + CANARY.encode(), b"BHS|^~\\&", *parts, f"BTS|{count}".encode(), b"FTS|1"]
    kept = [line for line in lines if draw(st.integers(0, 9)) < 9]
    return b"\r".join(kept)


def judge(data: bytes, number: int) -> None:
    """What every message gets, whatever it is."""
    profile, started = PROFILES[number % len(PROFILES)], time.process_time()
    message, verdict = map_bytes(data, profile, "t", RECEIVED_AT)
    match verdict:
        case Mapped(events, unread):
            assert message is not None
            assert len({event.event_id for event in events}) == len(events) > 0
            for event in events:
                assert CODEC.decode(CODEC.encode(event)) == event
            told = repr(events) + " ".join(unread)
            assert ack.each(ack.accepted(message, profile.acknowledgement)) is not None
        case Ignored(detail):
            told = detail
        case Rejected():
            told = f"{verdict.reason.value} {verdict.field} {verdict.detail} {verdict.remedy}"
            ack.refused(message, verdict, profile.acknowledgement)
    assert CANARY not in told, "what is said of a message holds something of it"
    assert CANARY not in str(as_builtins(explain(data, profile), values=False))
    assert map_bytes(data, profile, "t", RECEIVED_AT)[1] == verdict
    assert time.process_time() - started < BOUND_S


@pytest.mark.timeout(LONG_S)
@given(messages(), st.integers(0, len(PROFILES) - 1))
@settings(max_examples=4 * settings().max_examples)
def test_a_twisted_message_is_mapped_ignored_or_rejected_and_nothing_of_it_is_told(data: bytes, number: int) -> None:
    judge(data, number)


@given(batches(), st.integers(0, len(PROFILES) - 1))
def test_a_twisted_batch_is_read_or_rejected_and_nothing_of_it_is_told(data: bytes, number: int) -> None:
    for shown in map_hl7(data, profile=PROFILES[number], tenant="t", received_at=RECEIVED_AT, file="f"):
        if "rejected" in shown or "ignored" in shown:
            assert CANARY not in str(shown)
        else:
            assert shown["event_id"]


@pytest.mark.timeout(LONG_S)
@pytest.mark.skipif("SURGELINE_FUZZ_S" not in os.environ, reason="SURGELINE_FUZZ_S is not set")
def test_for_as_long_as_asked_no_message_makes_the_mapping_raise_or_hang() -> None:
    ends = time.process_time() + float(os.environ["SURGELINE_FUZZ_S"])
    tried = 0

    @settings(
        max_examples=2_000, derandomize=False, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(messages(), st.integers(0, len(PROFILES) - 1))
    def once(data: bytes, number: int) -> None:
        nonlocal tried
        judge(data, number)
        tried += 1

    while time.process_time() < ends:
        once()
    assert tried > 0
