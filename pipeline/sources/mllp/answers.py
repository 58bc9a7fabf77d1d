"""What is answered to a message or a batch, once it is durable: every event of it at the broker, and its bytes."""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable
from typing import Final, assert_never

from pipeline.domain.event import Event
from pipeline.domain.identifiers import Millis
from pipeline.formats.hl7v2 import ack, batch
from pipeline.formats.hl7v2.er7 import Message
from pipeline.formats.hl7v2.header import identity_digest, identity_of
from pipeline.formats.hl7v2.mapping import map_bytes
from pipeline.formats.hl7v2.profile import Acknowledgement, Profile
from pipeline.formats.hl7v2.verdict import Ignored, Mapped, Reason, Rejected, Verdict
from pipeline.sources.errors import Oversize
from pipeline.sources.mllp.observer import Observer
from pipeline.sources.protocol import OtherContent, RawMessage, Receipted, Repeated, Sink, Stored, Unavailable

CONTENT_TYPE: Final = "x-application/hl7-v2+er7"
UNTOLD_RETRY_S: Final = 0.5
"""Time between two attempts to store what a sender that wants no answer would never send again."""


class Answers:
    """The answers to the senders of one profile."""

    def __init__(
        self,
        profile: Profile,
        tenant: str,
        ack_timeout_s: float,
        observer: Observer,
        clock: Callable[[], Millis],
        stopping: asyncio.Event,
    ) -> None:
        self._profile = profile
        self._tenant = tenant
        self._ack_timeout_s = ack_timeout_s
        self._observer = observer
        self._clock = clock
        self._stopping = stopping

    async def to(self, sink: Sink, body: bytes) -> bytes | None:
        """The answer to a message, empty where its sender wants none, or to a batch the batch of its messages' answers.

        Once a message of a batch could not be stored none behind it is: the sender repeats them all, in their order. A stop
        ends it likewise after the message in hand. None: it could not be stored and its sender can't be told; all that is
        left is to end the connection.
        """
        whole = batch.read(body) if batch.is_batch(body) else None
        if not isinstance(whole, batch.Batches):
            return await self._to_one(sink, body, whole)
        answers: list[bytes] = []
        is_stored = True
        for data in whole.messages:
            is_stored = is_stored and not (answers and self._stopping.is_set())
            answer = await self._stored(sink, data) if is_stored else None
            is_stored = answer is not None
            answers.append(self._try_again(data, "original") if answer is None else answer)
        return batch.acknowledgement(whole, [part for answer in answers for part in ack.each(answer)])

    async def _to_one(self, sink: Sink, body: bytes, refused: Rejected | None) -> bytes | None:
        """Who is not told of a failure never sends again: such a message is stored before anything else is read."""
        while (answer := await self._stored(sink, body, refused)) is None:
            if try_again := self._try_again(body, self._profile.acknowledgement):
                return try_again
            if self._stopping.is_set():
                return None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(UNTOLD_RETRY_S):
                    await self._stopping.wait()
        return answer

    def _try_again(self, body: bytes, mode: Acknowledgement) -> bytes:
        return ack.try_again(ack.header_only(body, self._profile.charset_fallback), mode)

    async def _stored(self, sink: Sink, body: bytes, refused: Rejected | None = None) -> bytes | None:
        """The answer to what is durable; None where it could not be stored."""
        received_at = self._clock()
        message: Message | None = None
        verdict: Verdict | None = refused
        if verdict is None:
            message, verdict = map_bytes(body, self._profile, self._tenant, received_at)
        named = message or ack.header_only(body, self._profile.charset_fallback)
        events, answer = self._said(named, verdict)
        raw = RawMessage("mllp", self._identity(message, verdict, body), body, CONTENT_TYPE, received_at)
        receipt: Receipted
        try:
            async with asyncio.timeout(self._ack_timeout_s):
                receipt = await sink.accept(raw, events, answer)
        except TimeoutError:
            receipt = Unavailable(self._ack_timeout_s)
        except Oversize:
            self._observer.rejected(Reason.TOO_LONG.value)
            return ack.too_large(named, self._profile.acknowledgement)
        return self._receipted(named, receipt)

    def _said(self, message: Message | None, verdict: Verdict) -> tuple[tuple[Event, ...], bytes]:
        """Events to store and the answer once they are. A rejected message is stored too: its bytes may be replayed."""
        match verdict:
            case Mapped(events):
                return events, ack.accepted(_read(message), self._profile.acknowledgement)
            case Ignored():
                return (), ack.accepted(_read(message), self._profile.acknowledgement)
            case Rejected(reason):
                self._observer.rejected(reason.value)
                return (), ack.refused(message, verdict, self._profile.acknowledgement)
            case _:
                assert_never(verdict)

    def _receipted(self, message: Message | None, receipt: Receipted) -> bytes | None:
        match receipt:
            case Stored(answer) | Repeated(answer):
                return answer
            case OtherContent():
                self._observer.rejected(Reason.OTHER_CONTENT.value)
                return ack.conflict(message, self._profile.acknowledgement)
            case Unavailable():
                self._observer.rejected(Reason.UNAVAILABLE.value)
                return None
            case _:
                assert_never(receipt)

    def _identity(self, message: Message | None, verdict: Verdict, body: bytes) -> str:
        """Key of the receipt. A rejected message is named by its bytes: it promised and published nothing, so the sender may
        send a corrected one under the same control id, or the same one once the profile has been corrected.
        """
        if message is None or isinstance(verdict, Rejected):
            identity: tuple[str, ...] = ("rejected", hashlib.sha256(body).hexdigest())
        else:
            identity = identity_of(message, body)
        return identity_digest(self._tenant, self._profile.source_system, identity)


def _read(message: Message | None) -> Message:
    """A message that was mapped or ignored has been read."""
    assert message is not None
    return message
