"""What a writer tells of itself: metrics, lag windows, and what waits, is frozen or stuck."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from pipeline import topology
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import NO_REVISION, Millis, Revision
from pipeline.domain.lag import LagWindows
from pipeline.domain.records import LANES, Accepted, LagReport, Lane, OutcomeKind, Reason, Stuck
from pipeline.domain.writing.pending import Pending
from pipeline.kafka.producer import OutRecord, Publisher, PublishFailed
from pipeline.ops import log_catalogue as lines
from pipeline.ops import metrics
from pipeline.ops.logs import emit, subject, where
from pipeline.roles.process import Process, now_ms
from pipeline.roles.writers.modes import ModeKeeper
from pipeline.stream.writing.delivery import Delivery

WINDOW_S: Final = 2.0
"""Length of a lag window, and the time between two reports."""

NAMED_TYPES: Final = frozenset({EntityType.BED, EntityType.STAFFING, EntityType.DIVERSION})
"""Entity types whose id names no person and may be shown; of the others only a keyed digest is."""


ATTEMPT_LINES: Final = {OutcomeKind.PARKED: lines.WRITE_PARKED, OutcomeKind.FAILED: lines.WRITE_FAILED}
"""Ends of an attempt that somebody may have to look at."""


class WriterReports:
    """What the observers of deliveries have in common. A report that can't be published is left out: the next one holds newer
    figures.
    """

    def __init__(self, process: Process, destination: str, instance: str, keeper: ModeKeeper) -> None:
        self._process, self._destination, self._instance, self._keeper = process, destination, instance, keeper
        self._windows = LagWindows()
        self._window_start = now_ms()
        self._confirmed_at: Millis | None = None
        self._confirmed: Revision = NO_REVISION
        self.last: LagReport | None = None

    def attempted(self, accepted: Accepted, kind: OutcomeKind, reason: Reason) -> None:
        """An attempt ended."""
        self._keeper.attempted(kind, reason)
        metrics.WRITER_ATTEMPTS.of(self._destination, kind.value, reason.value).inc()
        line = ATTEMPT_LINES.get(kind)
        if line is not None:
            emit(
                line,
                destination=self._destination,
                entity_type=accepted.entity_type.value,
                lane=accepted.lane.value,
                revision=accepted.revision,
                reason=reason.value,
                subject=subject(accepted.key.encode(), self._process.settings.digest_key()),
            )

    def failed_inside(self, error: BaseException) -> None:
        """A fault of ours in one write."""
        emit(lines.ROLE_CRASHED, exception=type(error).__name__, where=where(error.__traceback__))

    def _lag_ended(self, lane: Lane, entity_type: EntityType, lag_ms: int) -> None:
        self._windows.add(lane, entity_type, lag_ms)
        metrics.LAG_SECONDS.of(self._destination, lane.value, entity_type.value).observe(lag_ms / 1000)

    def _shows(self, accepted: Accepted, at: Millis) -> None:
        """The destination has this revision, and last of all that it has."""
        lane = accepted.lane.value
        metrics.WRITER_CONFIRMED.of(self._destination, lane, accepted.entity_type.value).inc()
        metrics.LAG_RECORDED_SECONDS.of(self._destination, lane).observe(max(0, at - accepted.recorded_at) / 1000)
        self._confirmed_at, self._confirmed = at, accepted.revision

    async def _each_window(self, publisher: Publisher, report: Callable[[Millis], LagReport]) -> None:
        """Publish a report per window, until cancelled."""
        key = f"{self._destination}|{self._instance}".encode()
        while True:
            await asyncio.sleep(WINDOW_S)
            self.last = report(now_ms())
            with contextlib.suppress(PublishFailed):  # the publisher has told of it
                await publisher.publish([OutRecord(topology.LAG, key, self._process.codec.encode(self.last))])

    def _window(self, now: Millis, counts: Mapping[Lane, int], parked: int, stuck: Iterable[Stuck], in_flight: int) -> LagReport:
        """The window that ends now, with what every delivery knows."""
        for lane, count in counts.items():
            metrics.WRITER_PENDING.of(self._destination, lane.value).set(count)
        metrics.WRITER_PARKED.of(self._destination).set(parked)
        metrics.WRITER_IN_FLIGHT.of(self._destination).set(in_flight)
        began, self._window_start = self._window_start, now
        return LagReport(
            destination=self._destination,
            instance=self._instance,
            partitions=(),
            window_start=began,
            window_end=now,
            mode=self._keeper.mode.value,
            pending={lane.value: count for lane, count in counts.items()},
            in_flight=in_flight,
            parked=parked,
            last_confirmed_at=self._confirmed_at,
            last_confirmed_revision=self._confirmed,
            windows=self._windows.roll(),
            stuck=tuple(self._shown(each) for each in stuck),
        )

    def _shown(self, stuck: Stuck) -> Stuck:
        """With an id that names no person, or a digest in its place."""
        if stuck.entity_type in NAMED_TYPES:
            return stuck
        digest = subject(stuck.subject.encode(), self._process.settings.digest_key())
        return msgspec.structs.replace(stuck, subject=digest)


class Reports(WriterReports):
    """Observer of the delivery of a writer."""

    def __init__(
        self, process: Process, destination: str, instance: str, keeper: ModeKeeper, double_occupied: Callable[[], int]
    ) -> None:
        super().__init__(process, destination, instance, keeper)
        self._double_occupied = double_occupied

    def confirmed(self, accepted: Accepted, pending: Pending, at: Millis) -> None:
        """A revision is confirmed, and with it every older one: their lag ends as well."""
        for due_lane, due in pending.due.items():
            if due.revision <= accepted.revision:
                self._lag_ended(due_lane, accepted.entity_type, max(0, at - due.since))
        self._shows(accepted, at)

    async def run(self, publisher: Publisher, delivery: Delivery, partitions: Callable[[], list[int]]) -> None:
        """Publish a report per window, until cancelled."""
        await self._each_window(publisher, lambda now: self._report(delivery, partitions(), now))

    def _report(self, delivery: Delivery, partitions: list[int], now: Millis) -> LagReport:
        parked, stuck = delivery.stuck()
        frozen = delivery.scheduler.frozen.counts()
        for lane in LANES:
            of_lane = sum(count for (each, _), count in frozen.items() if each is lane)
            metrics.WRITER_FROZEN.of(self._destination, lane.value).set(of_lane)
        metrics.WRITER_SHADOWED.of(self._destination).set(delivery.shadows.count)
        metrics.WRITER_CONCURRENCY.of(self._destination).set(delivery.limiter.allowed)
        metrics.WRITER_RATE.of(self._destination).set(delivery.throttle.per_s())
        metrics.WRITER_PAUSE.of(self._destination).set(delivery.throttle.pause_s())
        scheduler = delivery.scheduler
        return msgspec.structs.replace(
            self._window(now, scheduler.counts(), parked, stuck, scheduler.in_flight),
            partitions=tuple(partitions),
            shadowed=delivery.shadows.count,
            frozen={f"{lane.value} {entity_type.value}": count for (lane, entity_type), count in frozen.items()},
            oldest_open_since=scheduler.oldest_since(),
            concurrency=delivery.limiter.allowed,
            double_occupied=self._double_occupied(),
        )
