"""What a sender is told of its file: NAME.ack.json, a pure function of what was decided and of the file. No value of a row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Final

import msgspec

from pipeline.domain.files.life import FileReason, FileState, FileStatus
from pipeline.formats.files.corrections import guarded
from pipeline.formats.files.rows import Format, Origin, Unreadable

MAX_REJECTS_TOLD: Final = 1_000
"""Most broken rows that an acknowledgement names; it says how many more there are."""
ACK_SUFFIX: Final = ".ack.json"


@dataclass(frozen=True, slots=True)
class ToldReject:
    """One broken row. `column`, `rule` and `remedy` are words of ours and of the profile."""

    row: int
    line: int
    column: str
    rule: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Told:
    """The broken rows that are named, and how many are not."""

    rejects: tuple[ToldReject, ...] = ()
    more: int = 0


def told_of(reader: Format, data: IO[bytes], origin: Origin) -> Told:
    """The broken rows of a file; none where it can't be read at all."""
    found: list[ToldReject] = []
    more = 0
    try:
        for entry in reader.entries(data):
            bad = reader.check(entry, origin)
            if bad is None:
                continue
            if len(found) < MAX_REJECTS_TOLD:
                found.append(ToldReject(entry.number, entry.line, guarded(bad.field or ""), bad.rule, bad.remedy))
            else:
                more += 1
    except Unreadable:
        return Told()
    return Told(tuple(found), more)


def acknowledgement(state: FileState, told: Told = Told()) -> bytes:
    """The content of NAME.ack.json."""
    said = {
        "acknowledgement_version": 1,
        "file": state.name,
        "file_id": state.file_id,
        "sha256": state.sha256,
        "outcome": state.status.value.lower(),
        "reason": None if state.why is FileReason.NONE else state.why.value,
        "means": state.status.doc if state.why is FileReason.NONE else state.why.doc,
        "late": state.late,
        "field": guarded(state.field) or None,
        "rule": state.rule or None,
        "remedy": state.remedy or None,
        "records": state.records,
        "landed": state.landed,
        "rejected": state.rejected,
        "same_as": state.same_as or None,
        "rejects": told.rejects,
        "rejects_not_named": told.more,
    }
    return msgspec.json.format(msgspec.json.encode(said), indent=2) + b"\n"


def names_rows(state: FileState) -> bool:
    """Whether the acknowledgement of this file names broken rows, for which the file itself is needed."""
    return state.status is FileStatus.HELD or (state.status is FileStatus.TAKEN and state.rejected > 0)


class _Said(msgspec.Struct):
    file_id: str
    outcome: str


def tells(content: bytes, state: FileState) -> bool:
    """Whether an acknowledgement says what became of this file."""
    try:
        said = msgspec.json.decode(content, type=_Said)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # its folder may be open to its sender
        return False
    return said.file_id == state.file_id and said.outcome == state.status.value.lower()


def ack_name(state: FileState) -> str:
    """File name of an acknowledgement; a name that fits no profile is not repeated."""
    return (state.name or f"unknown-{state.name_digest}") + ACK_SUFFIX


def summary(rows: Sequence[int], landed: int, rejected: int) -> bytes:
    """What the receipt of some rows says: how many made events, and how many are in quarantine."""
    return msgspec.json.encode({"rows": [rows[0], rows[-1]], "landed": landed, "rejected": rejected})
