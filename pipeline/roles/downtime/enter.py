"""`surgeline downtime enter`: changes that were written on paper, landed with their own times."""

import asyncio
import hashlib
from typing import Final

import msgspec

from pipeline.formats.avro import Codec
from pipeline.formats.boards.entry import Paper, read_paper
from pipeline.formats.files.rows import Origin
from pipeline.kafka.client import KafkaUnavailable
from pipeline.kafka.crypto import RawCipher
from pipeline.kafka.producer import Publisher, PublishFailed
from pipeline.kafka.receipts import Receipts
from pipeline.kafka.sink import KafkaSink
from pipeline.roles.operator_log import CLOSE_S, operator_chain
from pipeline.roles.process import now_ms
from pipeline.roles.ways_in.files import file_profile
from pipeline.settings.model import Settings
from pipeline.sources.errors import Oversize
from pipeline.sources.files.landing import CONTENT_TYPES
from pipeline.sources.protocol import RawMessage, Repeated, Stored

PROFILE: Final = "downtime-entry"
SOURCE: Final = "operator-downtime"
"""Who says what stands on the paper; what it may say is a matter of the ownership policy."""
MAX_BYTES: Final = 1_000_000
"""Greatest file of paper entries: they were written by hand."""


def read(settings: Settings, content: bytes, facility: str, tenant: str | None, zone: str, source: str) -> Paper:
    """Judge each row; `Unreadable` where it is no such file."""
    profile = msgspec.structs.replace(file_profile(PROFILE), time_zone=zone)
    now = now_ms()
    origin = Origin(tenant or settings.tenant_default, source, hashlib.sha256(content).hexdigest(), now, now)
    return read_paper(profile, facility, content, origin)


def land(settings: Settings, codec: Codec, content: bytes, paper: Paper, actor: str, reason: str) -> None:
    """Land all rows that are right, then say so in the audit log. KafkaUnavailable; to repeat it is safe: ids are the same."""

    async def run() -> None:
        publisher = Publisher(settings.kafka)
        try:
            await _accept(_sink(settings, codec, publisher), content, paper)
            chain = await asyncio.to_thread(operator_chain, settings, codec, actor)
            detail = {"rows": str(paper.rows), "events": str(len(paper.events)), "broken": str(len(paper.broken))}
            digest = hashlib.sha256(content).hexdigest()
            entry = chain.append(
                at=now_ms(), actor=actor, action="downtime.entered", subject=digest[:32], reason=reason, detail=detail
            )
            await publisher.publish([entry])
        except PublishFailed as failed:
            raise KafkaUnavailable(f"not everything was acknowledged: {failed.reason.value}") from None
        finally:
            await publisher.close(CLOSE_S)

    asyncio.run(run())


def _sink(settings: Settings, codec: Codec, publisher: Publisher) -> KafkaSink:
    key_id, _ = settings.raw_key()
    cipher = RawCipher(settings.raw_keys(), key_id)
    limit = settings.gate.max_record_bytes
    return KafkaSink(publisher, codec, cipher, Receipts(now_ms), ready=lambda: True, clock=now_ms, max_event_bytes=limit)


async def _accept(sink: KafkaSink, content: bytes, paper: Paper) -> None:
    """The whole paper is one message: its bytes are kept, and each event names them."""
    digest = hashlib.sha256(content).hexdigest()
    answer = msgspec.json.encode({"rows": paper.rows, "landed": len(paper.events), "broken": len(paper.broken)})
    raw = RawMessage("files", f"downtime {digest}", content, CONTENT_TYPES["csv"], now_ms())
    try:
        receipt = await sink.accept(raw, paper.events, answer)
    except Oversize:
        raise KafkaUnavailable("a row makes too large a record") from None
    if not isinstance(receipt, Stored | Repeated):
        raise KafkaUnavailable("the broker did not take it in time; run it again")
