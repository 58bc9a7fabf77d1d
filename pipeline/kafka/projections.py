"""Threads that keep the projections of the ways in up to date: receipts, and what became of an event."""

import asyncio
from typing import Final, Protocol

from pipeline.domain.identifiers import Millis
from pipeline.domain.judging.merges import is_copy
from pipeline.domain.records import Accepted, Decision, Outcome, Receipt
from pipeline.formats.avro import Record, Undecodable
from pipeline.kafka.client import LOG, Message
from pipeline.kafka.reader import Follower
from pipeline.kafka.receipts import MAX_RECEIPT_AGE_MS, Receipts
from pipeline.settings.sections.kafka import KafkaSettings
from pipeline.topology import ACCEPTED, DECISIONS, OUTCOMES, RECEIPTS

TRACKED_AGE_MS: Final = 24 * 3600 * 1000
"""How far back what became of an event is read at start."""

ENDED_POLL_S: Final = 0.5
"""How late the end of a projection may be seen."""


class Decoder(Protocol):
    """What a projection needs of the codec."""

    def decode(self, data: bytes | None, /) -> Record:
        """Record of a Kafka value; `Undecodable` otherwise."""
        ...


class Tracking(Protocol):
    """What is fed with the history of events (`pipeline.sources.http.tracker.Tracker`)."""

    def on_accepted(self, accepted: Accepted, /) -> None:
        """From `events.accepted`."""
        ...

    def on_decision(self, decision: Decision, record_key: bytes | None, /) -> None:
        """From `decisions`."""
        ...

    def on_outcome(self, outcome: Outcome, /) -> None:
        """From `outcomes`."""
        ...


def follow_receipts(kafka: KafkaSettings, decoder: Decoder, receipts: Receipts, now: Millis) -> Follower:
    """Fills `receipts` from `intake.receipts`, as far back as an answer is kept, then follows it.

    Give `lambda: is_current(follower)` to the sink as `ready`.
    """

    def apply(message: Message) -> None:
        identity = message.key.decode("utf-8", "replace") if message.key is not None else None
        if message.value is None:
            if identity is not None:
                receipts.forget(identity)
        elif identity is None or receipts.get(identity) is None:  # what this process wrote, it knows: nothing to be read
            record = decoded(decoder, message)
            if isinstance(record, Receipt):
                receipts.put(record)

    return Follower(kafka, (RECEIPTS,), apply, since_ms=max(0, now - MAX_RECEIPT_AGE_MS)).start()


def follow_history(kafka: KafkaSettings, decoder: Decoder, tracker: Tracking, now: Millis) -> Follower:
    """Fills `tracker` from the last `TRACKED_AGE_MS` of `events.accepted`, `decisions` and `outcomes`, then follows them."""

    def apply(message: Message) -> None:
        match decoded(decoder, message):
            case Accepted() as accepted:
                tracker.on_accepted(accepted)
            case Decision() as decision:
                tracker.on_decision(decision, message.key)
            case Outcome() as outcome if not is_copy(outcome, message.key):
                tracker.on_outcome(outcome)
            case _:
                return

    return Follower(kafka, (ACCEPTED, DECISIONS, OUTCOMES), apply, since_ms=max(0, now - TRACKED_AGE_MS)).start()


def is_current(follower: Follower) -> bool:
    """Whether a projection holds what was there at its start, and is still being fed."""
    return follower.caught_up.is_set() and not follower.ended.is_set()


class ProjectionEnded(RuntimeError):
    """A projection that must be fed as long as the process lives is fed no more."""


class ProducerFailed(RuntimeError):
    """A producer that will never publish again."""


class Producing(Protocol):
    """What is asked of a producer (`pipeline.kafka.producer.Publisher`)."""

    @property
    def failed(self) -> bool:
        """Whether it is beyond repair."""
        ...


async def outlived(producer: Producing, *followers: Follower) -> None:
    """Never returns while producer and followers live. Raises what ended one, of which only the type may be shown."""
    while not producer.failed:
        for follower in followers:
            if follower.ended.is_set():
                raise follower.failure or ProjectionEnded
        await asyncio.sleep(ENDED_POLL_S)
    raise ProducerFailed


def decoded(decoder: Decoder, message: Message) -> Record | None:
    """The record; None, with a line in the log, where this build can't read it (it is shown by nobody, and lost to nobody)."""
    try:
        return decoder.decode(message.value)
    except Undecodable as error:
        LOG.warning("unreadable record", extra={"where": repr(message), "reason": error.reason.value})
        return None
