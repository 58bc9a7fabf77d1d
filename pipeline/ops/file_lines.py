"""Managed files in the status: of each partner what waits, what is held, and what was refused lately."""

from collections.abc import Iterable
from typing import Final

import msgspec

from pipeline.domain.files.record import FileState, FileStatus
from pipeline.domain.identifiers import Millis
from pipeline.kafka.client import Message
from pipeline.ops.topics import Decoder, Topics, decoded, tail
from pipeline.topology import FILES

TAIL_FILES: Final = 20_000
"""Records looked at from the end of the ledger."""
LATELY_MS: Final = 24 * 3_600_000


class FileLine(msgspec.Struct, frozen=True, order=True):
    """One partner: how many of its files stand where. Times are None for never."""

    partner: str
    awaited: int
    """Something of them is missing for longer than it should be."""
    held: int
    landing: int
    refused_lately: int
    """Refused within the last day."""
    oldest_since: Millis | None
    """Since when the oldest that is awaited or held waits."""
    last_taken_at: Millis | None


def read_file_lines(topics: Topics, decoder: Decoder, now: Millis) -> tuple[FileLine, ...]:
    """Read the end of the ledger; KafkaUnavailable where it can't be read."""
    return file_lines(newest_states(tail(topics, FILES, TAIL_FILES), decoder), now)


def newest_states(messages: Iterable[Message], decoder: Decoder) -> list[FileState]:
    """The newest record of each file; none of those that the ledger forgot."""
    newest: dict[bytes, FileState] = {}
    for message in messages:
        key = message.key or b""
        record = decoded(decoder, message) if message.value is not None else None
        if message.value is None:
            newest.pop(key, None)
        elif isinstance(record, FileState) and (key not in newest or record.version >= newest[key].version):
            newest[key] = record
    return list(newest.values())


def file_lines(states: Iterable[FileState], now: Millis) -> tuple[FileLine, ...]:
    """A line for each partner, by name."""
    of: dict[str, list[FileState]] = {}
    for state in states:
        of.setdefault(state.partner, []).append(state)
    return tuple(_line(partner, of[partner], now) for partner in sorted(of))


def _line(partner: str, states: list[FileState], now: Millis) -> FileLine:
    def at(*statuses: FileStatus) -> list[FileState]:
        return [state for state in states if state.status in statuses]

    waiting = [state.since for state in at(FileStatus.AWAITED, FileStatus.HELD)]
    taken = [state.at for state in at(FileStatus.TAKEN)]
    return FileLine(
        partner=partner,
        awaited=len(at(FileStatus.AWAITED)),
        held=len(at(FileStatus.HELD)),
        landing=len(at(FileStatus.LANDING)),
        refused_lately=sum(now - state.at <= LATELY_MS for state in at(FileStatus.REFUSED)),
        oldest_since=Millis(min(waiting)) if waiting else None,
        last_taken_at=Millis(max(taken)) if taken else None,
    )
