"""Where outcomes become durable: first the entry in the audit chain, then on `outcomes`, so that no outcome lacks its entry."""

from collections.abc import Callable

from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Outcome
from pipeline.formats.avro import Codec
from pipeline.kafka.producer import OutRecord, Publisher, PublishFailed
from pipeline.ops.audit import AuditChain
from pipeline.stream.worker.outputs import EXIT_NOT_DURABLE, die
from pipeline.topology import OUTCOMES


class OutcomeLedger:
    """One process's ledger. Entries are chained in the order in which they are handed to the producer."""

    def __init__(
        self,
        publisher: Publisher,
        codec: Codec,
        chain: AuditChain,
        subject: Callable[[bytes], str],
    ) -> None:
        self._publisher = publisher
        self._codec = codec
        self._chain = chain
        self._subject = subject

    async def record(self, outcome: Outcome, key: bytes) -> None:
        """Publish the audit entry, then the outcome to its entity's partition. Ends the process if that fails.

        A crash between the two leaves an entry without an outcome: the next attempt reads, and says the same once more.
        """
        entry = self._chain.append(
            at=outcome.at,
            actor=outcome.writer,
            action=f"write.{outcome.kind.value.lower()}",
            subject=self._subject(key),
            destination=outcome.destination,
            revision=outcome.revision,
            event_id=outcome.event_id or None,
            reason=outcome.reason.value,
            detail={"attempts": str(outcome.attempts), "lane": outcome.lane.value},
        )
        record = OutRecord(OUTCOMES, key, self._codec.encode(outcome), outcome.partition)
        await self._publish(entry)
        await self._publish(record)

    async def note(
        self, action: str, subject: str, destination: str, cause: str, figures: dict[str, str], at: Millis, actor: str
    ) -> None:
        """An audited event that is no write, e.g. a change of mode."""
        entry = self._chain.append(
            at=at, actor=actor, action=action, subject=subject, destination=destination, reason=cause, detail=figures
        )
        await self._publish(entry)

    async def _publish(self, record: OutRecord) -> None:
        try:
            await self._publisher.publish([record])
        except PublishFailed:
            # A chain with a hole can't be continued, and an outcome that isn't durable must be found by a read.
            die(EXIT_NOT_DURABLE)
