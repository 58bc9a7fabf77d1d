"""The sink of every way in: raw bytes first, then all events, then the receipt; "yes" only after the last acknowledgement."""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec

from pipeline.domain.event import Event, Provenance
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Quarantined, Raw, Receipt
from pipeline.kafka import groups
from pipeline.kafka.crypto import RawCipher
from pipeline.kafka.producer import OutRecord, Position, PublishFailed
from pipeline.kafka.receipts import Receipts
from pipeline.sources.errors import Oversize
from pipeline.sources.protocol import Broken, OtherContent, RawMessage, Receipted, Repeated, Stored, Unavailable
from pipeline.topology import LANDING, QUARANTINE, RAW, RECEIPTS

MAX_IN_FLIGHT: Final = 4096
"""Most messages under way at once; beyond it the pressure is 1."""
ACCEPT_TIMEOUT_S: Final = 10.0
"""Longest time to get everything acknowledged; after it nothing is promised."""
SAME_IDENTITY_WAIT_S: Final = 10.0
"""Longest wait for an equal message that is under way."""
RETRY_AFTER_S: Final = 2.0
"""What a sender is asked to wait after a failure or under full pressure."""
MAX_RECORD_BYTES: Final = 1_900_000
"""Greatest raw or receipt record."""
MAX_EVENT_BYTES: Final = 900_000
"""Greatest landing record; the gate quarantines a greater one."""

ROOMY: Final = 16
"""An event is not measured beforehand where the whole message is so many times smaller than an event may be: it repeats little
of it, and what is added is bounded."""

_FARTHEST: Final = (2**31 - 1, 2**63 - 1)
"""Partition and offset whose encoding is the longest: an event that fits with them fits wherever its raw bytes go."""


class Publishing(groups.Publishing, Protocol):
    """What the sink needs of a producer."""

    def pressure(self) -> float:
        """How full the producer is, 0 to 1."""
        ...


class Encoder(Protocol):
    """What the sink needs of the codec."""

    def encode(self, record: Event | Raw | Receipt | Quarantined, /) -> bytes:
        """Avro with the schema's id."""
        ...


class KafkaSink:
    """Takes messages in durably (`pipeline.sources.protocol.Sink`).

    Order: `raw.<channel>`, then landing and `quarantine`, then `intake.receipts`, each acknowledged before the next begins;
    messages that come together go together (`groups.Groups`). A
    crash or a cancellation in between leaves records whose ids a repeat derives again, so the gate sees duplicates and no promise
    was given. Equal messages that come at the same time wait for each other: one set of events.
    Until the receipts have been read to their end it answers `Unavailable`: an older answer could not be found yet.
    """

    def __init__(
        self,
        publisher: Publishing,
        encoder: Encoder,
        cipher: RawCipher,
        receipts: Receipts,
        *,
        ready: Callable[[], bool],
        clock: Callable[[], Millis],
        max_event_bytes: int = MAX_EVENT_BYTES,
        max_record_bytes: int = MAX_RECORD_BYTES,
        max_in_flight: int = MAX_IN_FLIGHT,
        accept_timeout_s: float = ACCEPT_TIMEOUT_S,
        same_identity_wait_s: float = SAME_IDENTITY_WAIT_S,
        is_quick: Callable[[], bool] = lambda: True,
    ) -> None:
        """`ready`: whether `receipts` holds the topic's content; `clock`: the receipts' time; `is_quick`: see `groups`."""
        self._publisher = publisher
        self._groups = groups.Groups(publisher, is_quick=is_quick)
        self._encoder = encoder
        self._cipher = cipher
        self._receipts = receipts
        self._ready = ready
        self._clock = clock
        self._max_event_bytes = max_event_bytes
        self._max_record_bytes = max_record_bytes
        self._max_in_flight = max_in_flight
        self._accept_timeout_s = accept_timeout_s
        self._same_identity_wait_s = same_identity_wait_s
        self._running: dict[str, asyncio.Future[None]] = {}
        self._in_flight = 0

    def ready(self) -> bool:
        """Whether earlier answers are known, so that messages can be taken."""
        return self._ready()

    def pressure(self) -> float:
        """How full the way to the broker is, 0 to 1."""
        return min(1.0, max(self._publisher.pressure(), self._in_flight / self._max_in_flight))

    async def accept(self, raw: RawMessage, events: Sequence[Event], answer: bytes, broken: Sequence[Broken] = ()) -> Receipted:
        """See `Sink.accept`. Raises `Oversize` before anything is published; returns within the two named waits."""
        if not self._ready():
            return Unavailable(RETRY_AFTER_S)
        body_digest = hashlib.sha256(raw.body).hexdigest()
        known = self._known(raw.identity, body_digest)
        if known is not None:
            return known
        if self.pressure() >= 1.0:
            return Unavailable(RETRY_AFTER_S)
        self._in_flight += 1
        try:
            if raw.identity in self._running:
                await self._turn(raw.identity)
                if (known := self._known(raw.identity, body_digest)) is not None:
                    return known
            return await self._alone(raw, events, answer, body_digest, broken)
        except (PublishFailed, TimeoutError):
            return Unavailable(RETRY_AFTER_S)
        finally:
            self._in_flight -= 1

    def _known(self, identity: str, body_digest: str) -> Repeated | OtherContent | None:
        answered = self._receipts.get(identity)
        if answered is None:
            return None
        return Repeated(answered.answer) if answered.body_digest == body_digest else OtherContent()

    async def _turn(self, identity: str) -> None:
        """Wait until no equal message is under way; TimeoutError if the one before takes too long."""
        async with asyncio.timeout(self._same_identity_wait_s):
            while (before := self._running.get(identity)) is not None:
                await asyncio.wait({before})

    async def _alone(
        self, raw: RawMessage, events: Sequence[Event], answer: bytes, body_digest: str, broken: Sequence[Broken]
    ) -> Stored:
        """Store a message while equal ones wait; nothing is awaited between the look that none is under way and this."""
        mine = self._running[raw.identity] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._accept_timeout_s):
                return await self._store(raw, events, answer, body_digest, broken)
        finally:
            del self._running[raw.identity]
            mine.set_result(None)

    async def _store(
        self, raw: RawMessage, events: Sequence[Event], answer: bytes, body_digest: str, broken: Sequence[Broken]
    ) -> Stored:
        raw_topic = RAW[raw.channel]
        key = raw.identity.encode()
        receipt = Receipt(identity=raw.identity, body_digest=body_digest, answer=answer, at=self._clock())
        raw_value = self._fitting(self._encoder.encode(self._sealed(raw)))
        receipt_value = self._fitting(self._encoder.encode(receipt))
        for item, event in enumerate(events if len(raw.body) * ROOMY > self._max_event_bytes else ()):
            self._check_event(item, event, Provenance(raw_topic, *_FARTHEST))

        def landing(position: Position) -> list[OutRecord]:
            provenance = Provenance(raw_topic, position.partition, position.offset)
            made = [self._landing(event, provenance) for event in events]
            made += [self._quarantined(part, position, place) for place, part in enumerate(broken)]
            return made

        stages = groups.Stages(OutRecord(raw_topic, key, raw_value), landing, OutRecord(RECEIPTS, key, receipt_value))
        await self._groups.carry(stages)
        self._receipts.put(receipt)
        return Stored(answer)

    def _sealed(self, raw: RawMessage) -> Raw:
        return Raw(
            identity=raw.identity,
            key_id=self._cipher.key_id,
            content_type=raw.content_type,
            ciphertext=self._cipher.seal(raw.identity, raw.body),
            received_at=raw.received_at,
        )

    def _fitting(self, value: bytes) -> bytes:
        if len(value) > self._max_record_bytes:
            raise Oversize(None, len(value), self._max_record_bytes)
        return value

    def _check_event(self, item: int, event: Event, farthest: Provenance) -> None:
        size = len(self._encoder.encode(msgspec.structs.replace(event, provenance=farthest)))
        if size > self._max_event_bytes:
            raise Oversize(item, size, self._max_event_bytes)

    def _quarantined(self, broken: Broken, position: Position, place: int) -> OutRecord:
        """Named by the raw record and the part's place in it, so that a repeat is seen to be one."""
        context = f"{position.topic}/{position.partition}/{position.offset}/{place}"
        value = self._encoder.encode(
            Quarantined(
                topic=position.topic,
                partition=position.partition,
                offset=position.offset,
                reason=broken.reason,
                field=broken.field,
                rule=broken.rule,
                remedy=broken.remedy,
                record=self._cipher.seal_named(context, broken.part),
                file=broken.file,
                row=broken.row,
                line=broken.line,
                at=self._clock(),
            )
        )
        return OutRecord(QUARANTINE, context.replace("/", "|").encode(), value)

    def _landing(self, event: Event, provenance: Provenance) -> OutRecord:
        value = self._encoder.encode(msgspec.structs.replace(event, provenance=provenance))
        return OutRecord(LANDING[event.entity_type], event.key.encode(), value)
