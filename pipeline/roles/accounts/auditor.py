"""`surgeline run auditor`: joins the heads of all audit chains by signed checkpoints, and tells what expired by retention.

One process: a second one would fork the checkpoints, and `surgeline audit verify` would name that.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from pipeline import topology
from pipeline.domain.accounts.audit import Fault
from pipeline.domain.accounts.checkpoints import SIGNED, Heads, Read, SignedCheckpoint, following, read_statement
from pipeline.domain.accounts.retention import DAY_MS, Expired, class_of, expired, place
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Audit
from pipeline.formats.avro import Codec
from pipeline.formats.checkpoint import sign_statement
from pipeline.formats.rfc3339 import rfc3339_of
from pipeline.kafka.producer import OutRecord
from pipeline.kafka.projections import outlived
from pipeline.kafka.reader import LogTruncated
from pipeline.kafka.specs import TopicSpec
from pipeline.ops import log_catalogue as lines
from pipeline.ops import metrics
from pipeline.ops.audit import AuditChain
from pipeline.ops.checkpoints import BadAuditKey, newest_good, public_keys, signing_key
from pipeline.ops.logs import emit
from pipeline.ops.topics import KafkaTopics, Topics, decoded
from pipeline.roles.process import Process, Refused, now_ms, or_die, specs_of
from pipeline.roles.publishing import WatchedPublisher
from pipeline.settings.model import Settings

KEY: Final = b"checkpoints"
HARMLESS: Final = (None, Fault.REPEATED)


class Publishes(Protocol):
    """Where checkpoints become durable; see `Publisher`."""

    async def publish(self, records: list[OutRecord], /) -> Any: ...


class Ledger:
    """Follows the audit log from the newest checkpoint on, and writes the next ones. One caller at a time."""

    def __init__(
        self,
        topics: Topics,
        codec: Codec,
        settings: Settings,
        specs: Iterable[TopicSpec],
        publisher: Publishes,
        chain: AuditChain,
        clock: Callable[[], Millis] = now_ms,
    ) -> None:
        """Refused where a key can't be used; KafkaUnavailable where the newest checkpoint can't be read."""
        section, demo = settings.audit, settings.demo
        try:
            self._key = signing_key(section, demo)
            keys = public_keys(section, demo)
        except BadAuditKey as bad:
            raise Refused([str(bad)]) from None
        self._topics, self._codec, self._publisher, self._chain, self._clock = topics, codec, publisher, chain, clock
        self._key_id, self._instance = section.key_id, f"auditor/{section.instance}"
        self._expiring = {spec.name: spec for spec in specs if class_of(spec.name) is not None}
        self.newest, forged = newest_good(topics, codec, keys)
        if forged:
            emit(lines.CHECKPOINT_BAD, count=forged)
            metrics.AUDIT_FAULTS.of(Fault.FORGED.value).inc(forged)
        said = self.newest.statement if self.newest else None
        self._heads = Heads.of(said) if said else Heads()
        self._ends = {int(partition): offset for partition, offset in said.ends.items()} if said else {}
        self._begins: dict[str, int] = dict(said.begins) if said else {}

    async def write(self) -> SignedCheckpoint:
        """Take in what was written since, tell what expired, and sign. KafkaUnavailable, PublishFailed: again later."""
        begins, gone = await asyncio.to_thread(self._look)
        if gone:
            await self._publisher.publish([self._entry_of(each) for each in gone])
            self._begins = begins
            await asyncio.to_thread(self._follow)
        now = self._clock()
        statement = following(
            self.newest,
            at=now,
            instance=self._instance,
            key_id=self._key_id,
            heads=self._heads.newest.values(),
            ends=self._ends,
            begins=begins,
        )
        record = sign_statement(statement, self._key)
        await self._publisher.publish([OutRecord(topology.CHECKPOINTS, KEY, self._codec.encode(record), 0)])
        self.newest, self._begins = read_statement(record, True, ""), begins
        await self._publisher.publish([self._told(self.newest, now)])
        metrics.AUDIT_CHECKPOINT_AT.of().set(now / 1000)
        emit(lines.CHECKPOINT_SIGNED, count=len(statement.heads))
        return record

    def _look(self) -> tuple[dict[str, int], list[Expired]]:
        """Follow the audit log to its end, and see where the topics that expire begin by now."""
        self._follow()
        begins = {
            place(topic, partition): offset
            for topic in sorted(self._expiring)
            for partition, offset in self._topics.begin(topic).items()
        }
        return begins, list(expired(self._begins, begins))

    def _follow(self) -> None:
        begin, end = self._topics.begin(topology.AUDIT), self._topics.end(topology.AUDIT)
        start = {partition: max(offset, self._ends.get(partition, offset)) for partition, offset in begin.items()}
        try:
            for message in self._topics.read(topology.AUDIT, start, end):
                self._ends[message.partition] = message.offset + 1
                entry = decoded(self._codec, message)
                fault = self._heads.follow(entry) if isinstance(entry, Audit) else Fault.CHANGED
                if fault not in HARMLESS:
                    metrics.AUDIT_FAULTS.of(fault.value).inc()
                    emit(
                        lines.AUDIT_BROKEN,
                        topic=topology.AUDIT,
                        partition=message.partition,
                        offset=message.offset,
                        cause=fault.value,
                    )
        except LogTruncated:
            return  # it expired while it was read: the next look begins behind that
        self._ends = dict(end)

    def _told(self, newest: Read, at: Millis) -> OutRecord:
        detail = {"sequence": str(newest.sequence), "digest": newest.digest}
        return self._chain.append(
            at=at, actor=self._instance, action=SIGNED, subject=f"checkpoint {newest.sequence}", reason="schedule", detail=detail
        )

    def _entry_of(self, gone: Expired) -> OutRecord:
        spec = self._expiring[gone.topic]
        detail = {
            "topic": gone.topic,
            "partition": str(gone.partition),
            "first": str(gone.first),
            "until": str(gone.until),
            "records": str(max(0, gone.until - gone.first)),
            "retention_days": f"{spec.retention_ms / DAY_MS:g}",
        }
        left = self._oldest_left(gone)
        if left is not None:
            detail["oldest_left"] = rfc3339_of(left)
        return self._chain.append(
            at=self._clock(),
            actor=self._instance,
            action="retention.topic_anew" if gone.anew else "retention.expired",
            subject=place(gone.topic, gone.partition),
            reason="the topic was made anew" if gone.anew else f"class {class_of(gone.topic)}",
            detail=detail,
        )

    def _oldest_left(self, gone: Expired) -> Millis | None:
        """Landing time of the first record that is left; None where there is none."""
        end = self._topics.end(gone.topic).get(gone.partition, 0)
        ends = dict.fromkeys(self._topics.end(gone.topic), 0) | {gone.partition: min(end, gone.until + 1)}
        try:
            for message in self._topics.read(gone.topic, {gone.partition: gone.until}, ends):
                return Millis(message.timestamp_ms)
        except LogTruncated:
            pass
        return None


class AuditorRole:
    """Writes a checkpoint at the start, then by schedule, and one more at the end."""

    def __init__(self, process: Process) -> None:
        settings = process.settings
        topics = KafkaTopics(settings.kafka)
        chain = AuditChain.continued(topics, process.codec, process.codec, f"auditor/{settings.audit.instance}")
        self._process = process
        self._publisher = WatchedPublisher(settings.kafka)
        self._ledger = Ledger(topics, process.codec, settings, specs_of(settings), self._publisher, chain)
        self._began = False

    def checks(self) -> Mapping[str, Callable[[], bool]]:
        """Ready once all chains were read and joined by a checkpoint."""
        return {"checkpoint": lambda: self._began}

    def status(self) -> Any:
        """The newest checkpoint."""
        newest = self._ledger.newest
        return {"checkpoint": newest.sequence, "at": newest.at} if newest else None

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`."""
        watching = asyncio.create_task(or_die(outlived(self._publisher)))
        while True:
            await self._ledger.write()
            self._began = True
            try:
                await asyncio.wait_for(stop.wait(), self._process.settings.audit.checkpoint_s)
                break
            except TimeoutError:
                continue
        await self._ledger.write()
        watching.cancel()
        await self._publisher.close(self._process.settings.worker.drain_s / 4)
