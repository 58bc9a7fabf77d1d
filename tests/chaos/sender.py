"""Sends the load and keeps the log of what was answered "yes", which is the only witness of what must not be lost."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from pipeline.domain.identifiers import Millis
from pipeline.formats.avro import Codec
from pipeline.formats.hl7v2.mapping import map_bytes
from pipeline.formats.hl7v2.profile import Profile
from pipeline.formats.hl7v2.verdict import Mapped
from pipeline.kafka.producer import OutRecord, Publisher, PublishFailed
from pipeline.local.demo.drive import Driver
from pipeline.local.demo.telling import FACILITY, TENANT
from pipeline.local.demo.trace import Step
from pipeline.local.stack import Stack
from pipeline.roles.process import codec_of, now_ms
from pipeline.roles.ways_in.intake import hl7_profile
from pipeline.topology import LANDING
from tests.chaos.load import Batch, Load, Message, event_of, ids_in

HTTP_AT_ONCE: Final = 6
ANSWER_S: Final = 30.0
RETRY_S: Final = 0.25
GIVE_UP_S: Final = 180.0


@dataclass(slots=True)
class SendersLog:
    """Per event id: what it was said under. `refused` and `disagreeing` are empty where all is well."""

    yes: dict[str, str] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)
    disagreeing: list[str] = field(default_factory=list)
    """Answers that named another event than the message derives."""
    retries: int = 0
    published: int = 0
    """Copies that went straight to landing."""


class Sender:
    """Plays one load against one pipeline."""

    def __init__(self, stack: Stack) -> None:
        self.log = SendersLog()
        self._stack = stack
        self._driver = Driver(stack.http_url, stack.token, stack.mllp_port)
        self._publisher = Publisher(stack.settings.kafka, "chaos")
        self._codec: Codec = codec_of(stack.settings)
        self._profile = hl7_profile("default", FACILITY)
        self._unanswered = 0

    async def play(self, load: Load) -> None:
        """Send everything at its time; returns when each message was answered or given up.

        What was answered by then is in the log as well where it is cancelled.
        """
        began = time.monotonic()
        steps = [Step(m.at_s, "hl7", m.identity, m.body, Millis(m.recorded_ms), m.copy, m.late) for m in load.hl7]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._batches(load.batches, began))
                group.create_task(self._direct(load.direct, began))
                group.create_task(self._driver.play(steps))
        finally:
            self._take_over(load.hl7)
            await self._publisher.close(5.0)

    @property
    def answered(self) -> int:
        """Messages that were answered yes until now."""
        return len(self.log.yes) + len(self._driver.sent.yes)

    def _take_over(self, hl7: tuple[Message, ...]) -> None:
        """Log what the MLLP side heard, by the ids of the events that each message makes."""
        sent = self._driver.sent
        for message in hl7:
            if message.identity in sent.yes:
                for event_id in hl7_event_ids(message.body, self._profile):
                    self.log.yes[event_id] = message.identity
        self.log.answers.update(sent.answers)
        self.log.refused += sent.refused
        self.log.retries += sent.retries

    async def _direct(self, messages: tuple[Message, ...], began: float) -> None:
        for message in messages:
            await _until(began + message.at_s)
            event = event_of(message.body, now_ms())
            record = OutRecord(LANDING[event.entity_type], event.key.encode(), self._codec.encode(event))
            deadline = time.monotonic() + GIVE_UP_S
            while not await self._published(record):
                if time.monotonic() > deadline:
                    self.log.refused.append(f"{message.identity}: straight to landing")
                    break
                self.log.retries += 1
                await asyncio.sleep(RETRY_S)
            self.log.published += 1

    async def _published(self, record: OutRecord) -> bool:
        try:
            await self._publisher.publish([record])
        except PublishFailed:
            return False
        return True

    async def _batches(self, batches: tuple[Batch, ...], began: float) -> None:
        queue: asyncio.Queue[Batch | None] = asyncio.Queue()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_S)) as session, asyncio.TaskGroup() as group:
            for _ in range(HTTP_AT_ONCE):
                group.create_task(self._posts(session, queue))
            for batch in batches:
                await _until(began + batch.at_s)
                queue.put_nowait(batch)
            for _ in range(HTTP_AT_ONCE):
                queue.put_nowait(None)

    async def _posts(self, session: aiohttp.ClientSession, queue: "asyncio.Queue[Batch | None]") -> None:
        while (batch := await queue.get()) is not None:
            deadline = time.monotonic() + GIVE_UP_S
            while not self._heard(batch, *(await self._post(session, batch))):
                if time.monotonic() > deadline:
                    self.log.refused.append(f"{batch.key}: no answer")
                    break
                self.log.retries += 1
                await asyncio.sleep(RETRY_S)

    async def _post(self, session: aiohttp.ClientSession, batch: Batch) -> tuple[int, bytes]:
        headers = {
            "Authorization": f"Bearer {self._stack.token}",
            "Content-Type": "application/json",
            "Idempotency-Key": batch.key,
        }
        try:
            async with session.post(f"{self._stack.http_url}/v1/events:batch", data=batch.body, headers=headers) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError):
            return 0, b""

    def _heard(self, batch: Batch, status: int, answer: bytes) -> bool:
        """Note an answer; whether it is the last one."""
        if status == 202:
            self.log.answers["202"] += 1
            derived = [event_of(item.body, Millis(item.recorded_ms)).event_id for item in batch.items]
            if derived != ids_in(answer):
                self.log.disagreeing.append(batch.key)
            self.log.yes.update((event_id, item.identity) for event_id, item in zip(derived, batch.items, strict=True))
            return True
        if status in (0, 408, 429, 500, 502, 503, 504):
            return False
        self.log.answers[str(status)] += 1
        self.log.refused.append(f"{batch.key}: {status}")
        return True


def hl7_event_ids(body: str, profile: Profile) -> list[str]:
    """Ids of the events that an HL7 message makes."""
    _, verdict = map_bytes(body.encode(), profile, TENANT, Millis(0))
    if not isinstance(verdict, Mapped):
        raise TypeError("the load made a message that the pipeline would not map")
    return [event.event_id for event in verdict.events]


async def _until(moment: float) -> None:
    if (wait_s := moment - time.monotonic()) > 0:
        await asyncio.sleep(wait_s)
