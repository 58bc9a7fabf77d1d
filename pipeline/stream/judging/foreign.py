"""Records that no stage of ours wrote where a writer reads them: told, and kept in `quarantine` with their place."""

from collections.abc import Callable
from typing import Any

from pipeline.domain.records import Accepted, Outcome, Quarantined, Reason
from pipeline.ops import log_catalogue as lines
from pipeline.ops.logs import emit
from pipeline.topology import without_prefix


def is_in_its_place(record: Any, content: Accepted | Outcome) -> bool:
    """Whether the record has its entity's key, and lies in the partition that it names."""
    return bool(record.key == content.key.encode() and record.partition == content.partition)


def quarantined_of(
    record: Any, reason: Reason, rule: str, remedy: str, encrypt: Callable[[bytes, bytes], bytes], prefix: str
) -> tuple[bytes, Quarantined]:
    """Key in `quarantine` and content; `prefix` is what the cluster's topic names have before those of the map."""
    topic = without_prefix(record.topic, prefix)
    context = f"{topic}/{record.partition}/{record.offset}".encode()
    quarantined = Quarantined(
        topic=topic,
        partition=record.partition,
        offset=record.offset,
        reason=reason,
        rule=rule,
        remedy=remedy,
        record_key=encrypt(record.key, context) if record.key is not None else None,
        record=encrypt(record.value, context) if record.value is not None else None,
        at=record.timestamp,
    )
    return f"{topic}|{record.partition}|{record.offset}".encode(), quarantined


def tell_quarantined(destination: str, quarantined: Quarantined) -> None:
    """Log where the record came from, and why it was not taken."""
    emit(
        lines.WRITER_QUARANTINED,
        destination=destination,
        topic=quarantined.topic,
        partition=quarantined.partition,
        offset=quarantined.offset,
        reason=quarantined.reason.value,
    )
