"""What a destination that is told of each change was last told about each entity: the values of its writer's table.

The table is no queue: what is still to be told is on `events.accepted` behind the committed offset. It keeps a repeat of the
history, after a crash or a rebalance, from being told again; and it knows what was given up, which stays to be seen.
"""

from typing import Final

import msgspec

from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import NO_REVISION, Millis, Revision
from pipeline.domain.records import Accepted, Lane, Outcome, OutcomeKind, Reason, Stuck
from pipeline.stream.worker.store import join_positions

TOLD_MARK: Final = 0xE1
"""First byte of an entry; the times and positions beside them are MessagePack maps."""

SINCE_KEY: Final = b"\x00since"
"""Time from which on `outcomes` may hold what the table does not know yet."""


class Told(msgspec.Struct, frozen=True, array_like=True):
    """State of one entity. `revision` is the last that came to its end here, told or not; `parked` the last given up, kept until
    a later one was told, with its reason; `since` is its receipt."""

    revision: Revision
    parked: Revision = NO_REVISION
    reason: Reason = Reason.NONE
    entity_type: EntityType = EntityType.BED
    lane: Lane = Lane.BULK
    attempts: int = 0
    since: Millis = Millis(0)

    @property
    def is_parked(self) -> bool:
        """Whether the last that was to be told was given up."""
        return self.parked != NO_REVISION

    def stuck(self, key: bytes) -> Stuck:
        """As it is shown; the subject is the entity key, to be digested."""
        return Stuck(
            subject=key.decode(errors="replace"),
            entity_type=self.entity_type,
            lane=self.lane,
            reason=self.reason,
            attempts=self.attempts,
            since=self.since,
            revision=self.parked,
        )


NOTHING: Final = Told(NO_REVISION)

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Told)
_PREFIX: Final = bytes([TOLD_MARK])


def encode_told(told: Told) -> bytes:
    """Table value."""
    return _PREFIX + _ENCODER.encode(told)


def decode_told(data: bytes) -> Told | None:
    """Inverse of `encode_told`; None for a value of the table's own."""
    return _DECODER.decode(memoryview(data)[1:]) if data[:1] == _PREFIX else None


def join_values(one: bytes, other: bytes) -> bytes:
    """The later of two records of one key, for recovery."""
    if one[0] == other[0] == TOLD_MARK:
        return max(one, other, key=lambda data: (decode_told(data) or NOTHING).revision)
    return join_positions(one, other)


def after(known: Told, outcome: Outcome) -> Told:
    """State after an outcome of ours; the same if it is not about a later revision."""
    if outcome.revision <= known.revision or outcome.kind is OutcomeKind.FAILED:
        return known
    if outcome.kind is OutcomeKind.PARKED:
        return Told(
            outcome.revision,
            outcome.revision,
            outcome.reason,
            outcome.entity_type,
            outcome.lane,
            outcome.attempts,
            outcome.received_at,
        )
    if outcome.kind is OutcomeKind.CONFIRMED or not known.is_parked:
        return Told(outcome.revision, entity_type=outcome.entity_type, lane=outcome.lane)
    return msgspec.structs.replace(known, revision=outcome.revision)


def passed_over(known: Told, accepted: Accepted) -> Told:
    """State after a revision of which the destination is not told at all."""
    return msgspec.structs.replace(known, revision=accepted.revision) if accepted.revision > known.revision else known
