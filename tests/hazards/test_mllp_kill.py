"""kill -9 of the MLLP listeners amid a stream: what the sender's own log has as acknowledged is there, byte for byte."""

import asyncio
import socket
import time
from pathlib import Path
from typing import Final

import pytest

from pipeline.domain.records import Raw
from pipeline.formats.avro import Codec
from pipeline.formats.hl7v2.framing import END, START, frame
from pipeline.kafka.reader import read_topic
from pipeline.local.bench.mllp.engines import Ours
from pipeline.local.bench.mllp.load import Load, Log, Messages
from pipeline.local.ports import HOST
from pipeline.local.servers.broker import Broker
from tests.hazards.harness import ANSWER_S, SHORT, until

pytestmark = pytest.mark.timeout(420)

ROUNDS: Final = 1 if SHORT else 5
CONNECTIONS: Final = 20
ANSWERED: Final = 150
"""Acknowledged in a round before the listeners are killed."""
REPEATED: Final = 5


def test_what_was_acknowledged_before_kill_9_is_on_raw_byte_for_byte_and_its_events_are_on_landing(
    broker: Broker, tmp_path: Path
) -> None:
    engine = Ours(tmp_path / "s", broker, "mllp-kill.")
    try:
        for round_ in range(ROUNDS):
            messages = Messages(f"k{round_}", time.strftime("%Y%m%d%H%M%S", time.gmtime()))
            engine.start()
            log = asyncio.run(killed_amid_a_stream(engine, messages))
            assert set(log.codes) <= {"AA", "AE"}
            assert len(log.yes) >= ANSWERED
            assert engine.missing(messages, sorted(log.yes)) == []
        engine.start()
        before = raw_records(engine)
        again = [answer_to(engine.port, messages.body(number)) for number in sorted(log.yes)[:REPEATED]]
        assert all(b"\rMSA|AA|" in answer for answer in again)
        assert raw_records(engine) == before, "a message that had its answer before the kill was taken in once more"
    finally:
        engine.stop()


async def killed_amid_a_stream(engine: Ours, messages: Messages) -> Log:
    """The sender's log at the kill. Messages that were under way have no answer, and may be there or not."""
    load = Load(engine.port, CONNECTIONS, messages)
    await load.connect()
    log = load.begin()
    async with asyncio.timeout(ANSWER_S):
        while len(log.yes) < ANSWERED:
            await asyncio.sleep(0.005)
    await asyncio.to_thread(engine.kill)
    await load.until_lost()
    return log


def raw_records(engine: Ours) -> int:
    codec = Codec.shipped()
    return sum(
        isinstance(codec.decode(message.value), Raw)
        for message in read_topic(engine.kafka, "raw.mllp")
        if message.value is not None
    )


def answer_to(port: int, message: bytes) -> bytes:
    """The answer; AE is asked again: a listener that has just begun may not know the broker's leaders yet."""
    said: list[bytes] = []

    def asked() -> bool:
        with socket.create_connection((HOST, port), timeout=ANSWER_S) as connection:
            connection.sendall(frame(message))
            data = b""
            while not data.endswith(END):
                data += connection.recv(1 << 16)
        said.append(data.strip(START + END))
        return b"\rMSA|AE|" not in said[-1]

    until(asked, "an answer that is final")
    return said[-1]
