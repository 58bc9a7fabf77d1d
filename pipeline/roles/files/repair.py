"""`surgeline files replay`, `release` and `link`: corrected rows go through the same gate under the file's own identity."""

import asyncio
import hashlib
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from pipeline import topology
from pipeline.carriers.protocol import MAX_LINK_S
from pipeline.domain.event import Event
from pipeline.domain.files.life import FileReason, FileState, FileStatus
from pipeline.formats.avro import Codec
from pipeline.formats.files.corrections import Corrected
from pipeline.formats.files.rows import Bad, Entry, Format, Unreadable
from pipeline.kafka.client import KafkaUnavailable
from pipeline.kafka.crypto import RawCipher
from pipeline.kafka.producer import OutRecord, Publisher, PublishFailed
from pipeline.kafka.receipts import Receipts
from pipeline.kafka.sink import KafkaSink
from pipeline.roles.operator_log import CLOSE_S, operator_chain
from pipeline.roles.process import now_ms
from pipeline.roles.ways_in.files import file_profile, key_of, kind_of, place_of
from pipeline.settings.model import Settings
from pipeline.sources.errors import Oversize
from pipeline.sources.files.ack import ack_name, summary
from pipeline.sources.files.folder import ACKS
from pipeline.sources.files.landing import CONTENT_TYPES, identity_of
from pipeline.sources.files.partner import origin_of
from pipeline.sources.protocol import RawMessage, Repeated, Stored

NOT_REJECTED: Final = Bad(None, "only a row that was rejected can be corrected", "send what else changed in a new file")
TWICE: Final = Bad(None, "each row is corrected once", "leave one of them")


@dataclass(frozen=True, slots=True)
class Ready:
    """A corrected row that makes events."""

    row: int
    content: bytes
    events: tuple[Event, ...]

    def __repr__(self) -> str:
        return f"Ready({self.row}, <redacted>)"


@dataclass(frozen=True, slots=True)
class Plan:
    """Corrected rows that may be landed, and those that are still broken."""

    ready: tuple[Ready, ...]
    broken: tuple[tuple[int, Bad], ...]


def plan(settings: Settings, state: FileState, corrected: Sequence[Corrected], rejected: Collection[int]) -> Plan:
    """Judge corrected rows as the file's own rows were. `Refused` where partner or profile are gone from the settings."""
    section = settings.files.partners[state.partner]
    reader = kind_of(state.profile, section, settings.digest_key()).reader()
    ready: list[Ready] = []
    broken: list[tuple[int, Bad]] = []
    seen: set[int] = set()
    origin = origin_of(state, now_ms())
    for each in corrected:
        found: tuple[Event, ...] | Bad
        if each.row not in rejected:
            found = NOT_REJECTED
        elif each.row in seen:
            found = TWICE
        else:
            entry = _only_entry(_entries(reader, each.content), each.row)
            found = entry if isinstance(entry, Bad) else reader.events(entry, origin)
        seen.add(each.row)
        if isinstance(found, Bad):
            broken.append((each.row, found))
        else:
            ready.append(Ready(each.row, each.content, found))
    return Plan(tuple(ready), tuple(broken))


def _entries(reader: Format, content: bytes) -> Sequence[Entry]:
    try:
        return list(reader.entries(io.BytesIO(content)))
    except Unreadable as unreadable:
        flaw = unreadable.flaw
        return [Entry(1, 1, content, Bad(flaw.field or None, flaw.rule, flaw.remedy))]


def _only_entry(entries: Sequence[Entry], row: int) -> Entry | Bad:
    """The one record, under its number in the file: its event's id is that of the row that was rejected."""
    if len(entries) != 1:
        return Bad(None, "a corrected row is one record", "correct each row by itself")
    return Entry(row, entries[0].line, entries[0].raw, entries[0].said)


def land(settings: Settings, codec: Codec, state: FileState, rows: Sequence[Ready], actor: str, reason: str) -> FileState:
    """Land corrected rows, then say so in ledger and audit. KafkaUnavailable; to repeat it is safe: the ids are the same."""

    async def run() -> FileState:
        publisher = Publisher(settings.kafka)
        try:
            sink = _sink(settings, codec, publisher)
            for each in rows:
                await _one(sink, state, each)
            corrected = tuple(sorted({*state.corrected, *(each.row for each in rows)}))
            after = replace(state, corrected=corrected, version=state.version + 1, at=now_ms(), instance=actor)
            await _tell(publisher, settings, codec, after, actor, "file.corrected", reason, {"rows": str(len(rows))})
            return after
        except PublishFailed as failed:
            raise KafkaUnavailable(f"not everything was acknowledged: {failed.reason.value}") from None
        finally:
            await publisher.close(CLOSE_S)

    return asyncio.run(run())


def release(settings: Settings, codec: Codec, state: FileState, actor: str, reason: str) -> FileState:
    """Let a held file be landed, its broken rows to quarantine. KafkaUnavailable."""

    async def run() -> FileState:
        publisher = Publisher(settings.kafka)
        try:
            after = replace(state, released_by=actor, version=state.version + 1, at=now_ms(), instance=actor)
            await _tell(publisher, settings, codec, after, actor, "file.released", reason, {})
            return after
        except PublishFailed as failed:
            raise KafkaUnavailable(f"not everything was acknowledged: {failed.reason.value}") from None
        finally:
            await publisher.close(CLOSE_S)

    assert (state.status, state.why) == (FileStatus.HELD, FileReason.TOO_MANY_REJECTS)
    return asyncio.run(run())


def link(settings: Settings, codec: Codec, state: FileState, lifetime_s: float, actor: str, reason: str) -> str | None:
    """An address from which a partner can fetch its acknowledgement for a while; audited before it is given.

    None where the partner's place gives none. `Refused`, `Unreachable`, KafkaUnavailable.
    """

    async def note() -> None:
        publisher = Publisher(settings.kafka)
        try:
            chain = await asyncio.to_thread(operator_chain, settings, codec, actor)
            detail = {"seconds": str(round(min(lifetime_s, MAX_LINK_S)))}
            entry = chain.append(
                at=now_ms(),
                actor=actor,
                action="file.link",
                subject=state.file_id,
                destination=state.partner,
                reason=reason,
                detail=detail,
            )
            await publisher.publish([entry])
        except PublishFailed as failed:
            raise KafkaUnavailable(f"it was not acknowledged: {failed.reason.value}") from None
        finally:
            await publisher.close(CLOSE_S)

    address = place_of(settings, state.partner).link(ACKS, ack_name(state), lifetime_s)
    if address is not None:
        asyncio.run(note())
    return address


async def _tell(
    publisher: Publisher,
    settings: Settings,
    codec: Codec,
    state: FileState,
    actor: str,
    action: str,
    reason: str,
    detail: dict[str, str],
) -> None:
    chain = await asyncio.to_thread(operator_chain, settings, codec, actor)
    entry = chain.append(
        at=now_ms(), actor=actor, action=action, subject=state.file_id, destination=state.partner, reason=reason, detail=detail
    )
    await publisher.publish([entry])
    await publisher.publish([OutRecord(topology.FILES, key_of(state), codec.encode(state))])


def _sink(settings: Settings, codec: Codec, publisher: Publisher) -> KafkaSink:
    key_id, _ = settings.raw_key()
    cipher = RawCipher(settings.raw_keys(), key_id)
    limit = settings.gate.max_record_bytes
    return KafkaSink(publisher, codec, cipher, Receipts(now_ms), ready=lambda: True, clock=now_ms, max_event_bytes=limit)


async def _one(sink: KafkaSink, state: FileState, row: Ready) -> None:
    """Land one row; KafkaUnavailable where it isn't durable."""
    digest = hashlib.sha256(row.content).hexdigest()
    raw = RawMessage(
        "files",
        identity_of(state, row.row, f"corrected {digest}"),
        row.content,
        CONTENT_TYPES[file_profile(state.profile).format],
        now_ms(),
    )
    try:
        receipt = await sink.accept(raw, row.events, summary([row.row], 1, 0))
    except Oversize:
        raise KafkaUnavailable(f"row {row.row} makes too large a record") from None
    if not isinstance(receipt, Stored | Repeated):
        raise KafkaUnavailable("the broker did not take a row in time; run it again")
