"""`surgeline books` and `surgeline status`: what the topics and the destinations themselves say."""

import asyncio
from typing import Final

from pipeline.destinations.protocol import Absent, Current, Destination, PendingWrite, Refused
from pipeline.domain.accounts.books import Books
from pipeline.domain.event import PAYLOADS, EntityType, EventType
from pipeline.domain.identifiers import NO_REVISION, EntityKey, EventId, Millis
from pipeline.domain.records import Accepted, Lane, Reason
from pipeline.formats.avro import Codec
from pipeline.ops.books import Asked, BooksReader, Shown, Waiting, ask_destination
from pipeline.ops.logs import subject
from pipeline.ops.status import Status, read_status
from pipeline.ops.topics import KafkaTopics
from pipeline.roles.process import codec_of, now_ms
from pipeline.roles.writers.borders import Bordered
from pipeline.roles.writers.destinations import destination_of
from pipeline.roles.writers.profiles import expected_at
from pipeline.settings.model import Settings
from pipeline.settings.rules.evidence import borders_of, place_of

ASK_TIMEOUT_S: Final = 10.0
ASK_TRIES: Final = 3


class Unanswered(Exception):
    """A destination did not say what it shows."""


def close_books(settings: Settings, *, gate_s: float = 30.0, open_s: float = 0.0, ask: bool = True) -> tuple[Books, list[Asked]]:
    """The books over everything that landed until now, and what each destination shows. KafkaUnavailable."""
    reader = books_reader(settings, codec_of(settings))
    books = reader.run(Waiting(gate_s=gate_s, open_s=open_s))
    return books, asyncio.run(_ask_all(settings, reader)) if ask else []


def books_reader(settings: Settings, codec: Codec) -> BooksReader:
    """A reader over the configured destinations."""
    expects = expected_at(settings)
    digest_key = settings.digest_key()
    topics = KafkaTopics(settings.kafka)
    told_of_each = frozenset(settings.hl7_out)
    return BooksReader(topics, codec, expects, lambda key: subject(key, digest_key), settings.kafka.topic_prefix, told_of_each)


async def _ask_all(settings: Settings, reader: BooksReader) -> list[Asked]:
    asked = []
    for name, section in settings.writers.items():
        known = destination_of(name, section, settings.digest_key())
        destination = Bordered(known, borders_of(settings), place_of(section))
        try:
            asked.append(await ask_destination(reader.ledger, name, _Asker(destination).show))
        finally:
            await destination.close()
    return asked


class _Asker:
    def __init__(self, destination: Destination) -> None:
        self._destination = destination

    async def show(self, key: EntityKey, entity_type: EntityType) -> Shown | None:
        """What the destination shows of an entity."""
        for _ in range(ASK_TRIES):
            deadline = Millis(now_ms() + int(ASK_TIMEOUT_S * 1000))
            match await self._destination.read(PendingWrite(_named(key, entity_type), None, None, 1, deadline)):
                case Current(revision=revision, state_hash=state_hash):
                    return Shown(revision, state_hash)
                case Absent() | Refused(reason=Reason.RESIDENCY | Reason.NO_CONSENT):
                    return None  # of what may not go there not even a question goes
                case _:
                    continue
        raise Unanswered


def _named(key: EntityKey, entity_type: EntityType) -> Accepted:
    """A record that says no more than which entity is meant."""
    return Accepted(
        event_id=EventId(""),
        tenant=key.tenant,
        facility="",
        entity_type=entity_type,
        namespace=key.namespace,
        entity_id=key.id,
        event_type=EventType.UPDATE,
        source_system="",
        feed="",
        epoch=1,
        partition=0,
        offset=0,
        revision=NO_REVISION,
        previous_revision=NO_REVISION,
        lane=Lane.BULK,
        changed=(),
        state=PAYLOADS[entity_type](),
        state_hash="",
        content_hash="",
        recorded_at=Millis(0),
        received_at=Millis(0),
        accepted_at=Millis(0),
        policy_version="",
    )


def current_status(settings: Settings) -> Status:
    """The answers to the four questions. KafkaUnavailable."""
    return read_status(KafkaTopics(settings.kafka), codec_of(settings), settings.destinations, now_ms)
