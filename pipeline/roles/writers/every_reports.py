"""What the writer of a destination that is told of each change tells of itself: metrics, lag windows, what waits or is stuck."""

from collections.abc import Callable

import msgspec

from pipeline import topology
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Accepted, LagReport
from pipeline.kafka.producer import Publisher
from pipeline.ops import log_catalogue as lines
from pipeline.ops import metrics
from pipeline.ops.logs import emit
from pipeline.roles.writers.reports import WriterReports
from pipeline.stream.every.delivery import EveryDelivery


class EveryReports(WriterReports):
    """Observer of the delivery of each change."""

    def confirmed(self, accepted: Accepted, at: Millis) -> None:
        """A change is told: its lag ends."""
        self._lag_ended(accepted.lane, accepted.entity_type, max(0, at - accepted.received_at))
        self._shows(accepted, at)

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

    async def run(
        self,
        publisher: Publisher,
        delivery: EveryDelivery,
        partitions: Callable[[], list[int]],
        unread: Callable[[], int],
        window: int,
    ) -> None:
        """Publish a report per window, until cancelled."""
        await self._each_window(publisher, lambda now: self._report(delivery, partitions(), unread(), window, now))

    def _report(self, delivery: EveryDelivery, partitions: list[int], unread: int, window: int, now: Millis) -> LagReport:
        parked, stuck = delivery.stuck()
        metrics.WRITER_CONCURRENCY.of(self._destination).set(window)
        metrics.WRITER_RATE.of(self._destination).set(delivery.per_s())
        metrics.WRITER_UNREAD.of(self._destination).set(unread)
        return msgspec.structs.replace(
            self._window(now, delivery.backlog.counts(), parked, stuck, delivery.scheduler.in_flight),
            partitions=tuple(partitions),
            oldest_open_since=delivery.backlog.oldest_since(),
            concurrency=window,
            unread=unread,
        )
