"""The publisher of a role: what the broker does not acknowledge is counted and logged, whoever asked for it."""

from collections.abc import Sequence

from pipeline.kafka.loop_publisher import LoopPublisher
from pipeline.kafka.producer import OutRecord, Position, Publisher, PublishFailed
from pipeline.ops import log_catalogue as lines
from pipeline.ops import metrics
from pipeline.ops.logs import emit


class WatchedPublisher(Publisher):
    """A publisher whose failures are seen."""

    async def publish(self, records: Sequence[OutRecord]) -> Sequence[Position]:
        """See `Publisher.publish`; a batch over several topics is named by its first."""
        try:
            return await super().publish(records)
        except PublishFailed as failed:
            metrics.PUBLISH_FAILURES.of(failed.reason.value).inc()
            emit(lines.PUBLISH_FAILED, topic=records[0].topic, reason=failed.reason.value, count=len(records))
            raise


class BusyPublisher(WatchedPublisher, LoopPublisher):
    """Watched, and heard by the loop's own thread: for roles that publish with each thing they do."""
