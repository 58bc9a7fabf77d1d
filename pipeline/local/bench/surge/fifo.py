"""A writer of the same parts that takes events first in, first out: what the scheduler and superseding are measured beside.

It writes each accepted event to a stand-in of its own, oldest first whatever its lane, one write per entity at a time: read,
build, send, retries, learnt concurrency and the attempt's deadline are the writer's own code. It keeps its queue and what it
wrote in memory, and publishes nothing: in that it has it easier than the writer.

First it writes the newest state of each entity that the history holds. As a process of its own, ended by SIGTERM:
`python -m pipeline.local.bench.surge.fifo --config FILE --base-url URL --report FILE --ready FILE`.
"""

import argparse
import asyncio
import random
import signal
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from pipeline.destinations.fhir.destination import FhirDestination
from pipeline.destinations.fhir.profile import load_profile
from pipeline.domain.identifiers import EntityKey, Millis
from pipeline.domain.lag import Histogram
from pipeline.domain.records import LANES, Accepted, Lane, Outcome, OutcomeKind, Reason
from pipeline.domain.writing.limits import AdaptiveLimiter, ConsecutiveBreaker
from pipeline.domain.writing.pending import Pending, on_accepted, on_outcome
from pipeline.domain.writing.scheduler import Entry, LaneScheduler
from pipeline.kafka.client import Message
from pipeline.kafka.reader import Follower
from pipeline.roles.process import codec_of, now_ms
from pipeline.roles.writers.destinations import most_at_once
from pipeline.settings.model import Settings
from pipeline.settings.reading import load
from pipeline.stream.writing.delivery import Change, Delivery
from pipeline.stream.writing.throttle import Limits
from pipeline.topology import ACCEPTED

DEADLINE_S: Final = 60.0
MOVE_S: Final = 0.01
"""How often what the follower's thread has read is taken over."""

STOP_S: Final = 2.0


class FifoScheduler(LaneScheduler):
    """First in, first out by the receipt of the event: all in one lane that never ages, and nothing is kept for another."""

    def put(self, entry: Entry) -> None:
        """See `LaneScheduler`."""
        super().put(msgspec.structs.replace(entry, lane=Lane.URGENT))

    def take(self, now: Millis, critical_only: bool = False) -> Entry | None:
        """See `LaneScheduler`; the place that is kept for what is critical is like any other here."""
        return super().take(now)


class LaneOfFifo(msgspec.Struct, frozen=True):
    """Lag of one lane, ms, of what was written; and with what still waits, which will be later than this."""

    lane: str
    events: int
    waiting: int
    p50_ms: float
    p99_ms: float
    with_waiting_p50_ms: float
    with_waiting_p99_ms: float


class FifoReport(msgspec.Struct, frozen=True):
    """What became of the events that were accepted after it was ready."""

    events: int
    written: int
    parked: int
    waiting: int
    oldest_wait_ms: int
    lanes: tuple[LaneOfFifo, ...]


class FifoWriter:
    """Its own table, log and observer, in memory."""

    def __init__(self, settings: Settings, name: str, base_url: str) -> None:
        section = settings.writers[name]
        profile = load_profile(section.profile)
        self._codec = codec_of(settings)
        self._settings = settings
        self._destination = FhirDestination(
            "fifo", base_url, profile, settings.digest_key(), attempt_timeout_s=section.attempt_timeout_s
        )
        self._rows: dict[bytes, Pending] = {}
        self._queues: dict[bytes, deque[tuple[Accepted, bytes]]] = {}
        self._first: dict[bytes, tuple[Accepted, bytes]] = {}
        self._read: deque[bytes] = deque()
        self._lags = {lane: Histogram() for lane in LANES}
        self._from_ms: Millis | None = None
        self._fault: BaseException | None = None
        self._events = self._written = self._parked = 0
        self._delivery = Delivery(
            destination=self._destination,
            pendings=self,
            ledger=self,
            limiter=AdaptiveLimiter(most_at_once(section.concurrency, profile)),
            breaker=ConsecutiveBreaker(),
            limits=Limits(section.attempt_timeout_s, section.max_attempts, section.rate_per_s),
            decode=self._decode,
            observer=self,
            clock=now_ms,
            draw=random.random,
            writer="fifo/0",
            scheduler=FifoScheduler(),
        )

    async def run(self, stop: asyncio.Event, ready: Path) -> FifoReport:
        """Until `stop`; makes the file `ready` when the history is written."""
        follower = Follower(self._settings.kafka, (ACCEPTED,), self._hear).start()
        task = asyncio.create_task(self._delivery.run())
        try:
            await asyncio.to_thread(follower.caught_up.wait)
            self._take_over(self._keep_newest)
            for record, encoded in self._first.values():
                self._enqueue(record, encoded)
            while not stop.is_set():
                if self._fault is not None:
                    raise self._fault
                self._take_over(self._enqueue_new if self._from_ms is not None else self._enqueue)
                if self._from_ms is None and not self._queues:
                    self._from_ms = now_ms()
                    ready.touch()
                await asyncio.sleep(MOVE_S)
        finally:
            await asyncio.to_thread(follower.stop)
            await self._delivery.stop(STOP_S)
            await task
            await self._destination.close()
        return self._report()

    def _hear(self, message: Message) -> None:
        """On the follower's thread."""
        if message.value is not None:
            self._read.append(message.value)

    def _take_over(self, use: Callable[[Accepted, bytes], None]) -> None:
        while self._read:
            encoded = self._read.popleft()
            use(self._decode(encoded), encoded)

    def _keep_newest(self, record: Accepted, encoded: bytes) -> None:
        known = self._first.get(_key(record))
        if known is None or known[0].revision < record.revision:
            self._first[_key(record)] = record, encoded

    def _enqueue_new(self, record: Accepted, encoded: bytes) -> None:
        self._events += 1
        self._enqueue(record, encoded)

    def _enqueue(self, record: Accepted, encoded: bytes) -> None:
        if not self._destination.expects(record):
            return
        queue = self._queues.setdefault(_key(record), deque())
        queue.append((record, encoded))
        if len(queue) == 1:
            self._offer(_key(record))

    def _offer(self, key: bytes) -> None:
        record, encoded = self._queues[key][0]
        pending = on_accepted(self._rows.get(key), record, encoded, DEADLINE_S)
        if pending is not None:
            self._rows[key] = pending
            self._delivery.changed([Change(record.partition, key, pending, ())])

    def _decode(self, data: bytes) -> Accepted:
        record = self._codec.decode(data)
        if not isinstance(record, Accepted):
            raise TypeError("events.accepted holds accepted records")
        return record

    def _report(self) -> FifoReport:
        now = now_ms()
        waiting = [record for queue in self._queues.values() for record, _ in queue]
        return FifoReport(
            events=self._events,
            written=self._written,
            parked=self._parked,
            waiting=len(waiting),
            oldest_wait_ms=max((now - record.received_at for record in waiting), default=0),
            lanes=tuple(self._lane(lane, [now - each.received_at for each in waiting if each.lane is lane]) for lane in LANES),
        )

    def _lane(self, lane: Lane, waiting_ms: list[int]) -> LaneOfFifo:
        written, both = self._lags[lane], Histogram()
        both.merge(written)
        for wait_ms in waiting_ms:
            both.add(wait_ms)
        return LaneOfFifo(lane.value, both.count, len(waiting_ms), written.p50_ms, written.p99_ms, both.p50_ms, both.p99_ms)

    # -- what the delivery asks

    def get(self, partition: int, key: bytes) -> Pending | None:
        """See `Pendings`."""
        return self._rows.get(key)

    def is_assigned(self, partition: int) -> bool:
        """See `Pendings`."""
        return True

    async def record(self, outcome: Outcome, key: bytes) -> None:
        """See `Ledger`; read a turn of the loop later, as the agent does."""
        asyncio.get_running_loop().call_soon(self._close, outcome, key)

    def _close(self, outcome: Outcome, key: bytes) -> None:
        pending = on_outcome(self._rows.get(key), outcome)
        if pending is not None:
            self._rows[key] = pending
        self._delivery.changed([Change(outcome.partition, key, self._rows[key], (outcome,))])
        queue = self._queues[key]
        if outcome.kind is OutcomeKind.FAILED or outcome.revision < queue[0][0].revision:
            return
        record, _ = queue.popleft()
        self._count(record, outcome)
        if queue:
            self._offer(key)
        else:
            del self._queues[key]

    def _count(self, record: Accepted, outcome: Outcome) -> None:
        if self._from_ms is None or record.received_at < self._from_ms:
            return
        if outcome.kind is OutcomeKind.CONFIRMED:
            self._written += 1
            self._lags[record.lane].add(outcome.at - record.received_at)
        else:
            self._parked += 1

    def attempted(self, accepted: Accepted, kind: OutcomeKind, reason: Reason) -> None:
        """See `Observer`."""

    def confirmed(self, accepted: Accepted, pending: Pending, at: Millis) -> None:
        """See `Observer`."""

    def failed_inside(self, error: BaseException) -> None:
        """See `Observer`: a fault ends the process, and the bench with it."""
        self._fault = error


def _key(record: Accepted) -> bytes:
    return EntityKey(record.tenant, record.entity_type.value, record.namespace, record.entity_id).encode()


async def _main(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for wanted in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(wanted, stop.set)
    writer = FifoWriter(load(arguments.config), arguments.destination, arguments.base_url)
    report = await writer.run(stop, arguments.ready)
    arguments.report.write_bytes(msgspec.json.encode(report))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A writer that takes events first in, first out.")
    parser.add_argument("--config", type=Path, required=True, help="settings file")
    parser.add_argument("--destination", required=True, help="the writer of the settings that it is like")
    parser.add_argument("--base-url", required=True, help="FHIR base of its stand-in")
    parser.add_argument("--report", type=Path, required=True, help="where its report goes at the end")
    parser.add_argument("--ready", type=Path, required=True, help="file that it makes when the history is written")
    uvloop.run(_main(parser.parse_args()))
