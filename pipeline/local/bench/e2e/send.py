"""The sender of `surgeline bench e2e`: events by HTTP in batches, as a capacity system sends them, each at its time."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import aiohttp
import msgspec

from pipeline.domain.event import Event
from pipeline.formats.json_events import event_to_json
from pipeline.local.bench.surge.load import Load, Mix
from pipeline.roles.process import now_ms

BATCH: Final = 20
ACCEPTED_STATUS: Final = 202
AT_ONCE: Final = 64
"""Most requests under way; a batch beyond waits, and its time runs."""

TRIES: Final = 20
RETRY_S: Final = 0.25
ANSWER_S: Final = 30.0
WARM_UP_PER_S: Final = 500.0
NOT_SENT: Final = frozenset({"event_id", "received_at", "content_hash"})
"""Members that the way in sets."""


@dataclass(slots=True)
class HttpSender:
    """Sends a load. `yes` counts the events that were answered 202, `retries` the requests that were sent again."""

    load: Load
    url: str
    token: str
    yes: int = 0
    sent: int = 0
    retries: int = 0
    refused: int = 0
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)
    _session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "HttpSender":
        connector = aiohttp.TCPConnector(limit=AT_ONCE)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=ANSWER_S))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        for task in self._tasks:
            task.cancel()
        await self._session.close()

    async def warm_up(self) -> None:
        """Each entity once."""
        events, began = self.load.every(now_ms), time.monotonic()
        for number in itertools.count(1):
            batch = list(itertools.islice(events, BATCH))
            if not batch:
                break
            self._begin(batch)
            await _until(began + number * BATCH / WARM_UP_PER_S)
        await self.settled()

    async def play(self, mix: Mix, span_s: float) -> None:
        """A batch whenever one is full at the load's rate; an event happens at the moment at which its batch is sent."""
        step_s, began = BATCH / mix.per_s, time.monotonic()
        for number in range(1, int(span_s / step_s) + 1):
            await _until(began + number * step_s)
            self._begin(self.load.due(mix, step_s, now_ms()))

    async def settled(self) -> None:
        """Until each was answered or given up."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _begin(self, events: Sequence[Event]) -> None:
        if events:
            self.sent += len(events)
            task = asyncio.get_running_loop().create_task(self._post(events, f"bench-{next(self._numbers)}"))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _post(self, events: Sequence[Event], key: str) -> None:
        assert self._session is not None
        said = [{name: value for name, value in event_to_json(event).items() if name not in NOT_SENT} for event in events]
        body = msgspec.json.encode({"events": said})
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json", "Idempotency-Key": key}
        for _ in range(TRIES):
            try:
                async with self._session.post(f"{self.url}/v1/events:batch", data=body, headers=headers) as answer:
                    await answer.read()
                    status = answer.status
            except (aiohttp.ClientError, OSError, TimeoutError):
                status = 0
            if status == ACCEPTED_STATUS:
                self.yes += len(events)
                return
            self.retries += 1
            await asyncio.sleep(RETRY_S)
        self.refused += len(events)


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))
