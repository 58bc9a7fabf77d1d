"""Which life of a landing topic this is: Kafka's topic ids and the epochs recorded for them in the compacted topic `epochs`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
from confluent_kafka import KafkaException, Producer, TopicCollection
from confluent_kafka.admin import AdminClient

from pipeline import topology
from pipeline.domain.identifiers import MAX_EPOCH, Millis
from pipeline.domain.records import TopicEpoch
from pipeline.formats import avro
from pipeline.kafka.client import LOG, METADATA_TIMEOUT_S, KafkaUnavailable
from pipeline.kafka.producer import OutRecord
from pipeline.kafka.reader import end_offsets, read_topic
from pipeline.settings.sections.kafka import KafkaSettings


class Codec(Protocol):
    """Bytes to records (`pipeline.formats.avro`)."""

    def decode(self, data: bytes, /) -> msgspec.Struct:
        """The record, or Undecodable."""
        ...


@dataclass(frozen=True, slots=True)
class Life:
    """A landing topic as it is at the broker now."""

    topic: str
    topic_id: str


@dataclass(frozen=True, slots=True)
class UnknownLife:
    """A landing topic of which it isn't known whether its offsets continue those of before."""

    topic: str
    why: str


LANDING: Final = frozenset(topology.LANDING.values())


def read_epochs(settings: KafkaSettings, codec: Codec) -> dict[str, TopicEpoch]:
    """The epoch in force of each landing topic, by the topic's name at the broker. KafkaUnavailable without `epochs`."""
    found: dict[str, TopicEpoch] = {}
    for message in read_topic(settings, topology.EPOCHS):
        if message.value is None:
            continue
        record = codec.decode(message.value)
        if isinstance(record, TopicEpoch) and record.epoch >= (found[record.topic].epoch if record.topic in found else 0):
            found[record.topic] = record
    return found


def lives(admin: AdminClient, names: Iterable[str]) -> list[Life]:
    """Kafka's id of each topic; names are those at the broker."""
    wanted = sorted(names)
    try:
        answers = admin.describe_topics(TopicCollection(wanted), request_timeout=METADATA_TIMEOUT_S)
        return [Life(name, str(answers[name].result().topic_id)) for name in wanted]
    except KafkaException as error:
        raise KafkaUnavailable(error.args[0].str()) from None


def unknown(found: Iterable[Life], recorded: Mapping[str, TopicEpoch]) -> list[UnknownLife]:
    """Topics whose id isn't the one recorded. Pure."""
    strangers = []
    for life in found:
        known = recorded.get(life.topic)
        if known is None:
            strangers.append(UnknownLife(life.topic, "no epoch is recorded for it: run `surgeline topics apply`"))
        elif known.topic_id != life.topic_id:
            strangers.append(UnknownLife(life.topic, f"made anew since epoch {known.epoch} was recorded"))
    return strangers


def assign(
    settings: KafkaSettings,
    found: Iterable[Life],
    recorded: Mapping[str, TopicEpoch],
    actor: str,
    now: Millis,
    *,
    new_epoch: bool,
) -> tuple[list[TopicEpoch], list[UnknownLife]]:
    """Epochs to record, and topics to refuse.

    An empty topic seen for the first time begins epoch 1. Another id than the recorded one, or a topic with records and
    no epoch, could make revisions go back: only with `new_epoch`, which an operator says, it gets the next one.
    """
    record, refuse = [], []
    for life in found:
        known = recorded.get(life.topic)
        if known is not None and known.topic_id == life.topic_id:
            continue
        epoch = known.epoch + 1 if known else 1
        if known is not None and not new_epoch:
            refuse.append(
                UnknownLife(life.topic, f"made anew since epoch {known.epoch} was recorded; say --new-epoch if that was meant")
            )
        elif known is None and not new_epoch and _holds_records(settings, life):
            refuse.append(
                UnknownLife(life.topic, "it holds records, and no epoch is recorded for it; say --new-epoch if it has none")
            )
        elif epoch > MAX_EPOCH:
            refuse.append(UnknownLife(life.topic, f"epoch {MAX_EPOCH} was the last one"))
        else:
            record.append(TopicEpoch(topic=life.topic, topic_id=life.topic_id, epoch=epoch, at=now, actor=actor))
    return record, refuse


def _holds_records(settings: KafkaSettings, life: Life) -> bool:
    return any(end_offsets(settings, topology.without_prefix(life.topic, settings.topic_prefix)).values())


def write(settings: KafkaSettings, records: Iterable[TopicEpoch], also: Iterable[OutRecord] = ()) -> None:
    """Record epochs, and `also` what tells of them; returns when all is acknowledged. Repeating it changes nothing.

    Always with the shipped schema ids: no role starts without its epochs, and a schema registry may be away then.
    """
    failures: list[str] = []
    shipped = avro.Codec.shipped()
    producer = Producer(settings.producer_config(), logger=LOG)
    epochs = (OutRecord(topology.EPOCHS, record.topic.encode(), shipped.encode(record)) for record in records)
    try:
        for each in (*also, *epochs):
            producer.produce(
                topology.topic(each.topic, settings.topic_prefix),
                key=each.key,
                value=each.value,
                partition=-1 if each.partition is None else each.partition,
                on_delivery=lambda error, _: failures.append(error.str()) if error else None,
            )
        left = producer.flush(settings.delivery_timeout_s + METADATA_TIMEOUT_S)
    except KafkaException as error:
        raise KafkaUnavailable(error.args[0].str()) from None
    if failures or left:
        raise KafkaUnavailable(f"epochs not recorded: {failures[0] if failures else 'no answer'}")
