"""`surgeline run writer DESTINATION`."""

import asyncio
import random
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from pipeline import topology
from pipeline.domain.judging.policy import BadPolicy
from pipeline.domain.records import Accepted, Lane
from pipeline.domain.writing.limits import AdaptiveLimiter, ConsecutiveBreaker
from pipeline.domain.writing.mode_policy import ModesFile
from pipeline.domain.writing.pending import Pending, decode_pending
from pipeline.kafka.projections import outlived
from pipeline.ops.audit import AuditChain
from pipeline.ops.logs import subject
from pipeline.ops.shadow import scopes
from pipeline.ops.topics import KafkaTopics
from pipeline.roles.gates.tables import START, table_hooks
from pipeline.roles.policies import load_modes
from pipeline.roles.process import Process, Refused, now_ms, or_die
from pipeline.roles.publishing import BusyPublisher
from pipeline.roles.writers.borders import Bordered
from pipeline.roles.writers.destinations import destination_of, pace_of
from pipeline.roles.writers.flags import Flags
from pipeline.roles.writers.modes import ModeKeeper
from pipeline.roles.writers.profiles import entity_types_of
from pipeline.roles.writers.reports import Reports
from pipeline.roles.writers.stays import Stays
from pipeline.roles.writers.timed import Timed
from pipeline.settings.rules.evidence import borders_of, place_of
from pipeline.settings.sections.workers import WriterSettings
from pipeline.stream.worker.app import AppSpec, Still, Worker
from pipeline.stream.worker.batch import Cycle
from pipeline.stream.worker.outputs import Outputs
from pipeline.stream.worker.store import RESERVED
from pipeline.stream.writing.agent import WriterWork, join_values
from pipeline.stream.writing.delivery import Delivery
from pipeline.stream.writing.ledger import OutcomeLedger
from pipeline.stream.writing.steady import steady_ms
from pipeline.stream.writing.throttle import Limits

FETCH_MAX_RECORDS: Final = 500
BUFFER_MAX_MESSAGES: Final = 64
WITHIN_S: Final = 0.004
FAUST_KEYS: Final = b"__faust"
LEDGER_LINGER_MS: Final = 5
"""An outcome ends its lag before it is told: what is told goes in company, which costs broker and writer less."""

SWITCH_S: Final = 0.001
"""How soon the batch's thread gets the interpreter from the loop, which is never idle under load. A batch asks some twenty times:
with Python's 5 ms each an accepted change waited 87 ms until it was pending (median at 500 events/s, two cores), with 1 ms 54."""

PRODUCER_TUNING: Final[dict[str, str | int | float | bool]] = {"compression.type": "lz4"}


class WriterRole:
    """The writer of one destination in one process."""

    def __init__(self, process: Process, name: str) -> None:
        settings = process.settings
        if name not in settings.writers:
            known = ", ".join(sorted(settings.writers)) or "none"
            raise Refused([f"writers.{name}: there is no such destination in the settings; configured: {known}"])
        section = settings.writers[name]
        self._process = process
        self._name = name
        timed = Timed(destination_of(name, section, settings.digest_key()))
        self._destination = Bordered(timed, borders_of(settings), place_of(section))
        self._publisher = BusyPublisher(settings.kafka, linger_ms=LEDGER_LINGER_MS)
        chain = AuditChain.continued(
            KafkaTopics(settings.kafka), process.codec, process.codec, f"writer-{name}/{section.instance}"
        )
        digest_key = settings.digest_key()
        ledger = OutcomeLedger(self._publisher, process.codec, chain, lambda key: subject(key, digest_key))
        self._ledger = ledger
        self._flags = Flags(
            settings.flags_file,
            section.data_dir,
            name,
            settings.destinations,
            scopes(settings.tenant_default, entity_types_of(name, section)),
        )
        self._stays = Stays(process, name, self._flags.lets_write)
        self._breaker = ConsecutiveBreaker()
        concurrency, rate_per_s = pace_of(name, section)
        self._limiter = AdaptiveLimiter(concurrency)
        self._keeper = ModeKeeper(process, name, section.instance, _mode_policy(name, section), ledger)
        self._reports = Reports(process, name, section.instance, self._keeper, self._stays.double_occupied)
        self._delivery = Delivery(
            destination=self._destination,
            pendings=self,
            ledger=ledger,
            limiter=self._limiter,
            breaker=self._breaker,
            limits=Limits(section.attempt_timeout_s, section.max_attempts, rate_per_s, section.merge_hold_s),
            decode=self._decode,
            observer=self._reports,
            clock=now_ms,
            draw=random.random,
            writer=f"{name}/{section.instance}",
            order=self._stays.order,
            rollout=self._flags,
            steady=steady_ms,
        )
        self._keeper.hold(self._delivery)
        self._worker = self._new_worker(section)

    def _new_worker(self, section: WriterSettings) -> Worker:
        process, settings = self._process, self._process.settings
        outcomes = process.topic(topology.OUTCOMES)
        work = WriterWork(
            process.codec,
            self._destination,
            self._delivery,
            {lane: getattr(section.deadlines_s, lane.value) for lane in Lane},
            outcomes,
            process.topic(topology.QUARANTINE),
            process.seal,
            process.prefix,
        )
        spec = AppSpec(
            app_id=process.topic(topology.writer_app(self._name)),
            instance=section.instance,
            data_dir=section.data_dir,
            topics=(*map(process.topic, topology.LANE_TOPICS.values()), outcomes),
            table=topology.PENDING_TABLE,
            latest_of=join_values,
            partitions=topology.ENTITY_PARTITIONS,
            cycle=Cycle(within_s=WITHIN_S),
            fetch_max_records=FETCH_MAX_RECORDS,
            buffer_max_messages=BUFFER_MAX_MESSAGES,
        )
        hooks = table_hooks(process, topology.PENDING_TABLE, self._recovered, self._delivery.revoked)
        outputs = Outputs(settings.kafka.producer_config() | PRODUCER_TUNING)
        return Worker(spec, settings.kafka, settings.worker, work, outputs, hooks)

    # -- what the delivery asks

    def get(self, partition: int, key: bytes) -> Pending | None:
        """Pending of an entity, from the table."""
        store = self._worker.table.store
        if not store.is_open(partition):
            return None
        data = store.handle(partition).get(key)
        return decode_pending(data) if data is not None else None

    def is_assigned(self, partition: int) -> bool:
        """Whether the partition is ours at this moment; ends the process if it was away for too long to know."""
        self._process.beat.check()
        return self._worker.ready and partition in self._worker.assigned

    def _decode(self, data: bytes) -> Accepted:
        record = self._process.codec.decode(data)
        if not isinstance(record, Accepted):
            raise TypeError("the pending table holds accepted records")
        return record

    async def _recovered(self, partitions: frozenset[int], still: Still) -> None:
        """Take up what is pending in the partitions that came. What was read before another rebalance is not: what was delivered
        or became due since would be forgotten for it, and who has the partition now writes it too."""
        store = self._worker.table.store
        for partition in sorted(partitions):
            # No database is held on to while something is waited for: after another rebalance it could not be opened again.
            pendings = await asyncio.to_thread(_all_pending, store.handle(partition))
            if not still():
                return
            self._delivery.assigned(partition, pendings)

    # -- the role

    def checks(self) -> Mapping[str, Callable[[], bool]]:
        """Ready once pending is recovered. A destination that is away is no reason to take the writer away as well."""
        return {"pending": lambda: self._worker.ready}

    def status(self) -> Any:
        """The last report."""
        return self._reports.last

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`; then start no more writes, let those under way end, and leave the group."""
        process = self._process
        sys.setswitchinterval(SWITCH_S)
        process.watchdog.begin(START, process.settings.worker.start_timeout_s)
        tasks = [
            asyncio.create_task(or_die(coroutine))
            for coroutine in (
                self._flags.follow(self._ledger, self._delivery.flipped),
                self._worker.run(),
                self._delivery.run(),
                self._keeper.run(self._publisher, self._delivery, lambda: self._worker.ready),
                self._reports.run(self._publisher, self._delivery, lambda: sorted(self._worker.assigned)),
            )
        ]
        tasks.append(self._stays.followed(self._publisher))
        tasks.append(asyncio.create_task(or_die(outlived(self._publisher, self._keeper.follower))))
        await stop.wait()
        await self._delivery.stop(process.settings.worker.drain_s / 2)
        await self._worker.stop()
        for task in tasks:
            task.cancel()
        await self._stays.close()
        await self._keeper.close()
        await self._publisher.close(process.settings.worker.drain_s / 4)
        await self._destination.close()


def _mode_policy(name: str, section: WriterSettings) -> ModesFile:
    try:
        return load_modes(section.modes_file)
    except BadPolicy as bad:
        raise Refused([f"writers.{name}.modes_file: {problem}" for problem in bad.problems]) from None


def _all_pending(db: Any) -> list[tuple[bytes, Pending]]:
    return [
        (key, decode_pending(value))
        for key, value in db.items()
        if not key.startswith(RESERVED) and not key.startswith(FAUST_KEYS)
    ]
