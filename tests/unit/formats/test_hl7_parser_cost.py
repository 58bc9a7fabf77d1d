"""What the HL7 v2 parser may cost, in processor time beside python-hl7 in the same run: so it holds on any machine."""

import time
from collections.abc import Callable, Sequence
from typing import Final

import hl7

from pipeline.formats.hl7v2.er7 import Message, parse
from pipeline.local.bench.mllp.load import MESSAGE_BYTES, Messages

ROUNDS: Final = 5
MESSAGES: Final = 100
WHOLE_TIMES: Final = 4.0
"""Every field, repetition, component and subcomponent split and unescaped, beside python-hl7, which splits them too. Seven was
seen: 51 us a message, 19,000 a second on one core."""
ASKED_TIMES: Final = 10.0
"""The fields alone that name a message and its stay, as a way in reads them. Twenty-two was seen: 60,000 a second. Ten is the
goal of 15,000 a second where python-hl7 reads 1,500."""
ASKED: Final = (("MSH", 10), ("PID", 3), ("PV1", 2), ("PV1", 3), ("PV1", 19), ("EVN", 2))


def cpu_s(work: Callable[[bytes], object], messages: Sequence[bytes]) -> float:
    """Least processor time of all messages, of several rounds."""

    def once() -> float:
        began = time.process_time()
        for message in messages:
            work(message)
        return time.process_time() - began

    return min(once() for _ in range(ROUNDS))


def test_fifteen_thousand_messages_a_second_are_read_where_python_hl7_reads_fifteen_hundred() -> None:
    messages = [Messages("cost", "20260105101500").body(number) for number in range(MESSAGES)]
    assert {len(message) for message in messages} == {MESSAGE_BYTES}

    def read_whole(data: bytes) -> object:
        message = parse(data)
        assert isinstance(message, Message)
        return [segment.tree() for segment in message]

    def read_what_is_asked(data: bytes) -> object:
        message = parse(data)
        assert isinstance(message, Message)
        return [message.field(*position) for position in ASKED]

    theirs = cpu_s(lambda data: hl7.parse(data.decode()), messages)
    whole, asked = cpu_s(read_whole, messages), cpu_s(read_what_is_asked, messages)
    assert whole * WHOLE_TIMES <= theirs
    assert asked * ASKED_TIMES <= theirs
