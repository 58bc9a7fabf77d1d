"""`surgeline reassert`: have one entity's current state sent out again, e.g. after what stopped its write was mended.

The order carries no value: the gate sends what it holds, and only if nothing newer was accepted since it was looked at.
"""

from dataclasses import dataclass

from pipeline import topology
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import NO_REVISION, EntityKey, Millis, Revision, derive_event_id, partition_of
from pipeline.domain.records import Accepted, Control, ControlKind
from pipeline.formats.avro import Codec
from pipeline.kafka.producer import OutRecord
from pipeline.ops.logs import subject
from pipeline.ops.topics import KafkaTopics, decoded
from pipeline.roles.operator_log import operator_chain, publish_at_once
from pipeline.settings.model import Settings


@dataclass(frozen=True, slots=True)
class Found:
    """Newest accepted revision of an entity, as far as the history is kept."""

    revision: Revision
    revisions: int


def find(settings: Settings, codec: Codec, key: EntityKey) -> Found:
    """Look an entity up in the history; reads its partition of `events.accepted`. KafkaUnavailable."""
    topics = KafkaTopics(settings.kafka)
    begin, end = dict(topics.begin(topology.ACCEPTED)), dict(topics.end(topology.ACCEPTED))
    mine = partition_of(key.encode(), topology.ENTITY_PARTITIONS)
    start = {partition: begin[partition] if partition == mine else end[partition] for partition in end}
    revision, count = NO_REVISION, 0
    for message in topics.read(topology.ACCEPTED, start, end):
        record = decoded(codec, message) if message.key == key.encode() else None
        if isinstance(record, Accepted):
            revision, count = max(revision, record.revision), count + 1
    return Found(revision, count)


def reassert(settings: Settings, codec: Codec, key: EntityKey, seen: Revision, actor: str, reason: str, now: Millis) -> None:
    """Publish the order with its audit entry; returns when both are acknowledged. KafkaUnavailable. Repeating it does no harm."""
    order = Control(
        kind=ControlKind.REASSERT,
        event_id=derive_event_id(key.tenant, "surgeline-reassert", (str(seen), str(now)), key, 0),
        actor=actor,
        reason=reason,
        at=now,
        seen_revision=seen,
    )
    topic = topology.LANDING[EntityType(key.entity_type)]
    entry = operator_chain(settings, codec, actor).append(
        at=now,
        actor=actor,
        action="reassert",
        subject=subject(key.encode(), settings.digest_key()),
        revision=seen,
        event_id=order.event_id,
        reason=reason,
    )
    publish_at_once(settings, [OutRecord(topic, key.encode(), codec.encode(order)), entry])
