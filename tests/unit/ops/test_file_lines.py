"""Managed files in the status."""

from typing import Any

from pipeline.domain.files.record import FileState, FileStatus
from pipeline.domain.identifiers import Millis
from pipeline.formats.avro import Codec
from pipeline.kafka.client import Message
from pipeline.ops.file_lines import LATELY_MS, FileLine, file_lines, newest_states

CODEC = Codec.shipped()
NOW = Millis(1_767_600_000_000)


def state(file_id: str, status: FileStatus, **said: Any) -> FileState:
    plain: dict[str, Any] = {"tenant": "north", "partner": "epic", "name": "", "name_digest": "d", "profile": "", "since": NOW}
    return FileState(**{**plain, "file_id": file_id, "status": status, "at": NOW, **said})


def test_each_partner_has_what_waits_is_held_and_was_refused_lately() -> None:
    old = Millis(NOW - LATELY_MS - 1)
    found = file_lines(
        [
            state("a", FileStatus.AWAITED, since=Millis(NOW - 5)),
            state("h", FileStatus.HELD, since=Millis(NOW - 9)),
            state("l", FileStatus.LANDING),
            state("r", FileStatus.REFUSED),
            state("o", FileStatus.REFUSED, at=old),
            state("t", FileStatus.TAKEN, at=Millis(NOW - 1)),
            state("x", FileStatus.TAKEN, partner="acme", at=old),
        ],
        NOW,
    )
    assert found == (FileLine("acme", 0, 0, 0, 0, None, old), FileLine("epic", 1, 1, 1, 1, Millis(NOW - 9), Millis(NOW - 1)))


def test_the_newest_record_of_a_file_counts_and_what_the_ledger_forgot_is_not_shown() -> None:
    def record(key: bytes, value: FileState | None, offset: int) -> Message:
        return Message("files", 0, offset, 0, key, None if value is None else CODEC.encode(value))

    messages = [
        record(b"1", state("1", FileStatus.AWAITED), 0),
        record(b"2", state("2", FileStatus.HELD, version=3), 1),
        record(b"2", state("2", FileStatus.AWAITED, version=2), 2),
        record(b"1", None, 3),
    ]
    assert [(each.file_id, each.status) for each in newest_states(messages, CODEC)] == [("2", FileStatus.HELD)]
