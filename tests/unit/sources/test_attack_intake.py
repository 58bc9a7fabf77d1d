"""Attacks on the ways in: a message too large for a record, and a projection that stops being fed."""

import asyncio
import threading
from collections.abc import Sequence
from importlib.resources import files
from types import SimpleNamespace
from typing import cast

import pytest

from pipeline.domain.event import Bed, Event, Service, ServiceStatus
from pipeline.domain.identifiers import Millis
from pipeline.formats.hl7v2.er7 import Message, parse
from pipeline.formats.hl7v2.framing import END, frame
from pipeline.formats.hl7v2.profile_file import profile_of
from pipeline.kafka.client import KafkaUnavailable
from pipeline.kafka.projections import ProducerFailed, ProjectionEnded, outlived
from pipeline.kafka.reader import Follower
from pipeline.sources.errors import Oversize
from pipeline.sources.mllp.source import MllpSource
from pipeline.sources.protocol import RawMessage, Receipted, Stored
from pipeline.sources.timers import Ends
from tests.support.fhir_lab import accepted

BOUND_S = 10.0
NOW = Millis(1_770_000_000_000)


def message(control_id: str) -> bytes:
    return (
        f"MSH|^~\\&|EHR|MAIN|||20260105101500||ADT^A01|{control_id}|P|2.5.1\rEVN||20260105101000\r"
        f"PID|||4711^^^MAIN^MR\rPV1||I|ICU^1^A^MAIN{'|' * 16}V1\r"
    ).encode()


class NarrowSink:
    """Finds the first message too large."""

    def __init__(self) -> None:
        self.calls = 0

    async def accept(self, raw: RawMessage, events: Sequence[Event], answer: bytes) -> Receipted:
        self.calls += 1
        if self.calls == 1:
            raise Oversize(0, 2_000_000, 900_000)
        return Stored(answer)

    def pressure(self) -> float:
        return 0.0


async def test_a_message_whose_records_are_too_large_is_refused_for_good_and_harms_no_other() -> None:
    profile = profile_of((files("pipeline") / "profiles" / "hl7" / "default.yaml").read_bytes())
    source = MllpSource(host="127.0.0.1", port=0, tenant="t1", profile=profile, clock=lambda: NOW)
    stop = asyncio.Event()
    role = asyncio.create_task(source.run(NarrowSink(), stop))
    async with asyncio.timeout(BOUND_S):
        await source.listening.wait()
        reader, writer = await asyncio.open_connection("127.0.0.1", source.port)
        codes = []
        for control_id in ("C1", "C2"):
            writer.write(frame(message(control_id)))
            answer = parse((await reader.readuntil(END))[1 : -len(END)])
            assert isinstance(answer, Message)
            codes.append((answer.field("MSA", 1), answer.field("MSA", 2)))
        writer.close()
        stop.set()
        await role
    assert codes == [("AR", "C1"), ("AA", "C2")]


@pytest.mark.parametrize("failure", [None, KafkaUnavailable("away")])
async def test_a_projection_that_is_fed_no_more_is_noticed(failure: BaseException | None) -> None:
    """Else a way in would answer 503, and timers would end nothing, until somebody looks."""
    follower = cast(Follower, SimpleNamespace(ended=threading.Event(), failure=failure))
    producer = SimpleNamespace(failed=False)
    watching = asyncio.create_task(outlived(producer, follower))
    await asyncio.sleep(0)
    assert not watching.done()
    follower.ended.set()
    with pytest.raises(ProjectionEnded if failure is None else KafkaUnavailable):
        await asyncio.wait_for(watching, BOUND_S)


async def test_a_producer_that_will_never_publish_again_is_noticed() -> None:
    producer = SimpleNamespace(failed=False)
    watching = asyncio.create_task(outlived(producer))
    await asyncio.sleep(0)
    assert not watching.done()
    producer.failed = True
    with pytest.raises(ProducerFailed):
        await asyncio.wait_for(watching, BOUND_S)


def test_an_older_state_that_a_zombie_repeats_does_not_hide_the_end_of_the_newer() -> None:
    ends = Ends()
    for offset, until in ((1, NOW), (2, NOW + 60_000), (1, NOW)):
        ends.on_accepted(accepted(Bed(service=Service(ServiceStatus.BLOCKED, "CLEANING", Millis(until))), "B1", offset))
    assert ends.due(NOW) == []
    assert [order.until for _, order in ends.due(Millis(NOW + 60_000))] == [NOW + 60_000]
