"""What the writer of a destination that is told of each change tells of itself: metrics, lag windows, what waits or is stuck."""

import asyncio
import contextlib
from collections.abc import Callable

import msgspec

from pipeline import topology
from pipeline.domain.identifiers import NO_REVISION, EntityKey, Millis, Revision
from pipeline.domain.lag import LagWindows
from pipeline.domain.records import Accepted, LagReport, OutcomeKind, Reason, Stuck
from pipeline.kafka.producer import OutRecord, Publisher, PublishFailed
from pipeline.ops import log_catalogue as lines
from pipeline.ops import metrics
from pipeline.ops.logs import emit, subject, where
from pipeline.roles.modes import ModeKeeper
from pipeline.roles.process import Process, now_ms
from pipeline.roles.reports import ATTEMPT_LINES, NAMED_TYPES, WINDOW_S
from pipeline.stream.every import EveryDelivery


class EveryReports:
    """Observer of one delivery. A report that can't be published is left out: the next one holds newer figures."""

    def __init__(self, process: Process, destination: str, instance: str, keeper: ModeKeeper) -> None:
        self._process, self._destination, self._instance, self._keeper = process, destination, instance, keeper
        self._windows = LagWindows()
        self._window_start = now_ms()
        self._confirmed_at: Millis | None = None
        self._confirmed: Revision = NO_REVISION
        self.last: LagReport | None = None

    # -- told by the delivery

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
                subject=subject(_key(accepted), self._process.settings.digest_key()),
            )

    def confirmed(self, accepted: Accepted, at: Millis) -> None:
        """A change is told: its lag ends."""
        lane, entity_type = accepted.lane, accepted.entity_type
        metrics.WRITER_CONFIRMED.of(self._destination, lane.value, entity_type.value).inc()
        lag_ms = max(0, at - accepted.received_at)
        self._windows.add(lane, entity_type, lag_ms)
        metrics.LAG_SECONDS.of(self._destination, lane.value, entity_type.value).observe(lag_ms / 1000)
        metrics.LAG_RECORDED_SECONDS.of(self._destination, lane.value).observe(max(0, at - accepted.recorded_at) / 1000)
        self._confirmed_at, self._confirmed = at, accepted.revision

    def failed_inside(self, error: BaseException) -> None:
        """A fault of ours in one change."""
        emit(lines.ROLE_CRASHED, exception=type(error).__name__, where=where(error.__traceback__))

    def gap(self, accepted: Accepted) -> None:
        """The history of an entity lacks the revision before this one."""
        metrics.HISTORY_GAPS.of(self._destination).inc()
        emit(
            lines.HISTORY_GAP,
            destination=self._destination,
            entity_type=accepted.entity_type.value,
            topic=topology.LANDING[accepted.entity_type],
            partition=accepted.partition,
            offset=accepted.offset,
            revision=accepted.revision,
        )

    # -- told to others

    async def run(
        self,
        publisher: Publisher,
        delivery: EveryDelivery,
        partitions: Callable[[], list[int]],
        unread: Callable[[], int],
        window: int,
    ) -> None:
        """Publish a report per window, until cancelled."""
        key = f"{self._destination}|{self._instance}".encode()
        while True:
            await asyncio.sleep(WINDOW_S)
            self.last = self._report(delivery, partitions(), unread(), window, now_ms())
            with contextlib.suppress(PublishFailed):  # the publisher has told of it
                await publisher.publish([OutRecord(topology.LAG, key, self._process.codec.encode(self.last))])

    def _report(self, delivery: EveryDelivery, partitions: list[int], unread: int, window: int, now: Millis) -> LagReport:
        counts = delivery.backlog.counts()
        parked, stuck = delivery.stuck()
        for lane, count in counts.items():
            metrics.WRITER_PENDING.of(self._destination, lane.value).set(count)
        metrics.WRITER_PARKED.of(self._destination).set(parked)
        metrics.WRITER_IN_FLIGHT.of(self._destination).set(delivery.scheduler.in_flight)
        metrics.WRITER_CONCURRENCY.of(self._destination).set(window)
        metrics.WRITER_RATE.of(self._destination).set(delivery.per_s())
        metrics.WRITER_UNREAD.of(self._destination).set(unread)
        report = LagReport(
            destination=self._destination,
            instance=self._instance,
            partitions=tuple(partitions),
            window_start=self._window_start,
            window_end=now,
            mode=self._keeper.mode.value,
            pending={lane.value: count for lane, count in counts.items()},
            in_flight=delivery.scheduler.in_flight,
            parked=parked,
            oldest_open_since=delivery.backlog.oldest_since(),
            last_confirmed_at=self._confirmed_at,
            last_confirmed_revision=self._confirmed,
            concurrency=window,
            unread=unread,
            windows=self._windows.roll(),
            stuck=tuple(self._shown(each) for each in stuck),
        )
        self._window_start = now
        return report

    def _shown(self, stuck: Stuck) -> Stuck:
        """With an id that names no person, or a digest in its place."""
        if stuck.entity_type in NAMED_TYPES:
            return stuck
        digest = subject(stuck.subject.encode(), self._process.settings.digest_key())
        return msgspec.structs.replace(stuck, subject=digest)


def _key(accepted: Accepted) -> bytes:
    return EntityKey(accepted.tenant, accepted.entity_type.value, accepted.namespace, accepted.entity_id).encode()
