"""Where each stay lies and what one destination was told of it: from the tables' changelogs, then from the history.

The history is read for a day. What was last spoken of before that is in the heads, one record per stay at least, and what
was confirmed is in the changelog of the destination's own writers. Neither is compacted within a day, so the two readings meet.
"""

from collections.abc import Callable
from typing import Final, Protocol

from pipeline.domain.event import EntityType
from pipeline.domain.head import Head, UnknownHeadVersion, decode_head
from pipeline.domain.identifiers import EntityKey, Millis
from pipeline.domain.records import Accepted, Outcome
from pipeline.domain.writing.occupants import Told, told_of
from pipeline.domain.writing.pending import decode_pending
from pipeline.kafka.client import LOG, Message
from pipeline.kafka.projections import TRACKED_AGE_MS, Decoder, decoded
from pipeline.kafka.reader import Follower, read_topic
from pipeline.settings.sections.kafka import KafkaSettings
from pipeline.topology import ACCEPTED, ENTITY_PARTITIONS, GATE_CHANGELOG, OUTCOMES, writer_changelog

_OWN_KEY: Final = b"\x00"
"""First byte of a table's own keys: policies, aliases, positions."""


class Staying(Protocol):
    """What is fed (`pipeline.domain.writing.occupants.Occupants`)."""

    def on_accepted(self, accepted: Accepted, /) -> None:
        """From `events.accepted`."""
        ...

    def on_outcome(self, outcome: Outcome, /) -> None:
        """From `outcomes`."""
        ...

    def on_head(self, key: bytes, head: Head, told: Told, /) -> None:
        """From the heads, with what the destination was told."""
        ...


def follow_stays(
    kafka: KafkaSettings, decoder: Decoder, stays: Staying, destination: str, now: Millis, window_ms: int = TRACKED_AGE_MS
) -> Follower:
    """Fills `stays` with those that the tables know, then from `window_ms` of the history, and follows that."""

    def apply(message: Message) -> None:
        if not _is_stay(message):
            return
        match decoded(decoder, message):
            case Accepted() as accepted:
                stays.on_accepted(accepted)
            case Outcome() as outcome:
                stays.on_outcome(outcome)
            case _:
                return

    def first(is_ending: Callable[[], bool]) -> None:
        for partition in range(ENTITY_PARTITIONS):
            _read_tables(kafka, stays, destination, partition, is_ending)

    return Follower(kafka, (ACCEPTED, OUTCOMES), apply, max(0, now - window_ms), first).start()


def _read_tables(kafka: KafkaSettings, stays: Staying, destination: str, partition: int, is_ending: Callable[[], bool]) -> None:
    """One partition after the other: what is told of each stay is in memory for no longer than its partition takes."""
    known: dict[bytes, Told] = {}
    for message in read_topic(kafka, writer_changelog(destination), only={partition}):
        if is_ending():
            return
        if message.key is not None and message.value and _is_stay(message):
            known[message.key] = _later(known.get(message.key), told_of(decode_pending(message.value)))
    for message in read_topic(kafka, GATE_CHANGELOG, only={partition}):
        if is_ending():
            return
        if message.key is not None and (told := known.get(message.key)) is not None:
            head = _head(message)
            if head is not None:
                stays.on_head(message.key, head, told)


def _later(one: Told | None, other: Told) -> Told:
    """A zombie's late record takes nothing back."""
    return other if one is None else Told(*map(max, one, other))


def _head(message: Message) -> Head | None:
    """The head; None, with a line in the log, where a later version wrote it: then the history has to do for this stay."""
    try:
        return decode_head(message.value or b"")
    except UnknownHeadVersion:
        LOG.warning("unreadable record", extra={"where": repr(message), "reason": "head version"})
        return None


def _is_stay(message: Message) -> bool:
    if message.key is None or message.key.startswith(_OWN_KEY):
        return False
    try:
        return EntityKey.decode(message.key).entity_type == EntityType.ENCOUNTER
    except ValueError:
        return False
