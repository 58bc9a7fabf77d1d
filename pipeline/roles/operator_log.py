"""What an operator did, in the audit log: one chain per person, continued by each command."""

import asyncio
from collections.abc import Callable, Sequence

from pipeline.domain.records import TopicEpoch
from pipeline.formats.avro import Codec
from pipeline.kafka.client import KafkaUnavailable
from pipeline.kafka.producer import OutRecord, Publisher, PublishFailed
from pipeline.ops.audit import AuditChain
from pipeline.ops.topics import KafkaTopics
from pipeline.settings.model import Settings
from pipeline.topology import without_prefix

ACTOR = "operator:"
"""Before the person's name in `actor`."""

CLOSE_S = 10.0


def operator_chain(settings: Settings, codec: Codec, actor: str) -> AuditChain:
    """The chain of one person, behind its last entry. KafkaUnavailable. Two commands of one person at once fork it."""
    return AuditChain.continued(KafkaTopics(settings.kafka), codec, codec, f"operator/{actor.removeprefix(ACTOR)}")


def publish_at_once(settings: Settings, records: Sequence[OutRecord]) -> int:
    """Publish what a command says, with its audit entries; how many, once all are acknowledged. KafkaUnavailable."""

    async def publish() -> int:
        publisher = Publisher(settings.kafka)
        try:
            return len(await publisher.publish(records))
        except PublishFailed as failed:
            raise KafkaUnavailable(f"not everything was acknowledged: {failed.reason.value}") from None
        finally:
            await publisher.close(CLOSE_S)

    return asyncio.run(publish())


def epoch_entries(settings: Settings, codec: Codec) -> Callable[[Sequence[TopicEpoch]], list[OutRecord]]:
    """Audit entries of epochs that an operator begins; nothing is read or said where none begins."""

    def entries(begun: Sequence[TopicEpoch]) -> list[OutRecord]:
        if not begun:
            return []
        chain = operator_chain(settings, codec, begun[0].actor)
        prefix = settings.kafka.topic_prefix
        return [
            chain.append(
                at=each.at,
                actor=each.actor,
                action="epoch.new",
                subject=without_prefix(each.topic, prefix),
                reason="made anew on purpose",
                detail={"epoch": str(each.epoch), "topic_id": each.topic_id},
            )
            for each in begun
        ]

    return entries
