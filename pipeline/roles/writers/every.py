"""`surgeline run writer DESTINATION` of a receiver of HL7 v2, which is told of every change in order."""

import asyncio
import dataclasses
import random
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from pipeline import topology
from pipeline.domain.identifiers import Millis
from pipeline.domain.judging.policy import BadPolicy
from pipeline.domain.records import Outcome
from pipeline.domain.writing.limits import ConsecutiveBreaker
from pipeline.domain.writing.mode_policy import ModesFile
from pipeline.kafka.projections import outlived
from pipeline.kafka.reader import end_offsets, offsets_since, read_topic
from pipeline.ops.audit import AuditChain
from pipeline.ops.logs import subject
from pipeline.ops.shadow import scopes
from pipeline.ops.topics import KafkaTopics, decoded
from pipeline.roles.gates.tables import START, table_hooks
from pipeline.roles.policies import load_modes
from pipeline.roles.process import Process, Refused, now_ms, or_die
from pipeline.roles.publishing import WatchedPublisher
from pipeline.roles.writers.borders import BorderedEvery
from pipeline.roles.writers.every_reports import EveryReports
from pipeline.roles.writers.flags import Flags
from pipeline.roles.writers.modes import ModeKeeper
from pipeline.roles.writers.profiles import out_profile_for
from pipeline.roles.writers.receivers import receiver_of
from pipeline.settings.rules.evidence import borders_of, place_of
from pipeline.settings.sections.workers import Hl7OutSettings
from pipeline.stream.every.agent import EveryRunner, Intake
from pipeline.stream.every.delivery import EveryDelivery
from pipeline.stream.every.kept import decode_mark
from pipeline.stream.every.ports import Bounds, Room
from pipeline.stream.every.told import NOTHING, SINCE_KEY, Told, after, decode_told, join_values
from pipeline.stream.worker.app import AppSpec, Still, Worker
from pipeline.stream.worker.batch import BatchRunner, Cycle
from pipeline.stream.worker.outputs import Outputs
from pipeline.stream.worker.transport import BatchConsumer
from pipeline.stream.writing.ledger import OutcomeLedger
from pipeline.stream.writing.steady import steady_ms

FETCH_MAX_RECORDS: Final = 100
"""Records of one poll: they are acknowledged together, and read again together after a crash."""

BUFFER_MAX_MESSAGES: Final = 16
PRODUCER_TUNING: Final[dict[str, str | int | float | bool]] = {"compression.type": "lz4"}

FIRST_LOOK_MS: Final = 3_600_000
"""How far back outcomes are looked at where the table has no mark: it was lost, or is new and there are none."""


class EveryRole:
    """The writer of one receiver in one process."""

    def __init__(self, process: Process, name: str) -> None:
        settings = process.settings
        section = settings.hl7_out[name]
        self._process, self._name, self._section = process, name, section
        self._profile = out_profile_for(name, section)
        self._destination = BorderedEvery(receiver_of(name, section), borders_of(settings), place_of(section))
        self._publisher = WatchedPublisher(settings.kafka)
        writer = f"{name}/{section.instance}"
        chain = AuditChain.continued(KafkaTopics(settings.kafka), process.codec, process.codec, f"writer-{writer}")
        digest_key = settings.digest_key()
        self._ledger = OutcomeLedger(self._publisher, process.codec, chain, lambda key: subject(key, digest_key))
        types = self._destination.entity_types
        told = scopes(settings.tenant_default, types)
        self._flags = Flags(settings.flags_file, section.data_dir, name, settings.destinations, told)
        self._keeper = ModeKeeper(process, name, section.instance, _mode_policy(name, section), self._ledger)
        self._reports = EveryReports(process, name, section.instance, self._keeper)
        self._runner: EveryRunner | None = None
        self._delivery = EveryDelivery(
            destination=self._destination,
            room=Room(self._told, self._is_assigned, self._keep),
            ledger=self._ledger,
            breaker=ConsecutiveBreaker(),
            bounds=Bounds(section.rate_per_s, self._profile.max_attempts),
            observer=self._reports,
            clock=now_ms,
            draw=random.random,
            writer=writer,
            rollout=self._flags,
            steady=steady_ms,
        )
        self._keeper.hold(self._delivery)
        self._worker = self._new_worker(section)

    def _new_worker(self, section: Hl7OutSettings) -> Worker:
        process, settings = self._process, self._process.settings
        spec = AppSpec(
            app_id=process.topic(topology.writer_app(self._name)),
            instance=section.instance,
            data_dir=section.data_dir,
            topics=(process.topic(topology.ACCEPTED),),
            table=topology.PENDING_TABLE,
            latest_of=join_values,
            partitions=topology.ENTITY_PARTITIONS,
            cycle=Cycle(),
            fetch_max_records=FETCH_MAX_RECORDS,
            buffer_max_messages=BUFFER_MAX_MESSAGES,
            holds=True,
            records_per_message=FETCH_MAX_RECORDS,
        )
        hooks = table_hooks(process, topology.PENDING_TABLE, self._recovered, self._delivery.revoked)
        hooks = dataclasses.replace(hooks, leaving=self._delivery.let_go)
        outputs = Outputs(settings.kafka.producer_config() | PRODUCER_TUNING)
        intake = Intake(process.codec, self._name, self._destination.entity_types, self._publisher, process.seal, process.prefix)

        def runner(app: Any, table: Any) -> BatchRunner:
            self._runner = EveryRunner(app, table, intake, self._delivery, outputs)
            return self._runner

        return Worker(spec, settings.kafka, settings.worker, runner, outputs, hooks)

    # -- what the delivery asks

    def _told(self, partition: int, key: bytes) -> Told | None:
        store = self._worker.table.store
        data = store.handle(partition).get(key) if store.is_open(partition) else None
        return decode_told(data) if data is not None else None

    def _is_assigned(self, partition: int) -> bool:
        """Whether the partition is ours at this moment; ends the process if it was away for too long to know."""
        self._process.beat.check()
        return self._worker.ready and partition in self._worker.assigned

    async def _keep(self, puts: Mapping[int, Mapping[bytes, bytes]]) -> None:
        assert self._runner is not None
        await self._runner.keep(puts)

    async def _recovered(self, partitions: frozenset[int], still: Still) -> None:
        """Take up what was given up, and what came to its end since the table was written last."""
        store = self._worker.table.store
        kept: dict[int, tuple[dict[bytes, Told], Millis]] = {}
        for partition in sorted(partitions):
            # No database is held on to while something is waited for: after another rebalance it could not be opened again.
            if still():
                kept[partition] = await asyncio.to_thread(_read_table, store.handle(partition))
        ended = await asyncio.to_thread(self._ended_since, {partition: mark for partition, (_, mark) in kept.items()})
        if not still():
            return  # they are being taken away again: the next recovery looks anew
        for partition, (parked, _) in kept.items():
            found: dict[bytes, Told] = {}
            for key, outcome in ended.get(partition, ()):
                before = found.get(key) or self._told(partition, key) or NOTHING
                if (now_told := after(before, outcome)) is not before:
                    found[key] = now_told
            self._delivery.assigned(partition, parked, found)
        await self._delivery.keep()

    def _ended_since(self, marks: Mapping[int, Millis]) -> dict[int, list[tuple[bytes, Outcome]]]:
        """Outcomes of ours that the table may not hold, by partition, in order. Blocks; KafkaUnavailable."""
        if not marks:
            return {}
        kafka, found = self._process.settings.kafka, dict[int, list[tuple[bytes, Outcome]]]()
        since = offsets_since(kafka, topology.OUTCOMES, min(marks.values()))
        ends = {partition: end if partition in marks else 0 for partition, end in end_offsets(kafka, topology.OUTCOMES).items()}
        for message in read_topic(kafka, topology.OUTCOMES, start=since, end=ends):
            record = decoded(self._process.codec, message) if message.value is not None else None
            if isinstance(record, Outcome) and record.destination == self._name and message.key is not None:
                found.setdefault(message.partition, []).append((message.key, record))
        return found

    def _partitions(self) -> list[int]:
        return sorted(self._worker.assigned)

    def _unread(self) -> int:
        """Records of the history that have not been read, in the partitions that are ours."""
        consumer, behind = self._worker.app.consumer, 0
        assert isinstance(consumer, BatchConsumer)
        for tp in consumer.assignment() if self._worker.ready else ():
            end, at = consumer.highwater(tp), consumer.next_offset(tp)
            if consumer.batched(tp.topic) and at is not None:
                behind += max(0, end - at)
        return behind

    # -- the role

    def checks(self) -> Mapping[str, Callable[[], bool]]:
        """Ready once the table is recovered. A receiver that is away is no reason to take the writer away as well."""
        return {"pending": lambda: self._worker.ready}

    def status(self) -> Any:
        """The last report."""
        return self._reports.last

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`; then start nothing more, let what is under way end, and leave the group."""
        process, delivery = self._process, self._delivery
        process.watchdog.begin(START, process.settings.worker.start_timeout_s)
        tasks = [
            asyncio.create_task(or_die(coroutine))
            for coroutine in (
                self._flags.follow(self._ledger, _nothing_due),
                self._worker.run(),
                delivery.run(),
                delivery.run_keeper(),
                self._keeper.run(self._publisher, delivery, lambda: self._worker.ready),
                self._reports.run(self._publisher, delivery, self._partitions, self._unread, self._profile.window),
                outlived(self._publisher, self._keeper.follower),
            )
        ]
        await stop.wait()
        await delivery.stop(process.settings.worker.drain_s / 2)
        await self._worker.stop()
        for task in tasks:
            task.cancel()
        await self._keeper.close()
        await self._publisher.close(process.settings.worker.drain_s / 4)
        await self._destination.close()


async def _nothing_due() -> int:
    """What the flags only let be compared is not sent later: its time in the order has gone. A reassert tells the state."""
    return 0


def _mode_policy(name: str, section: Hl7OutSettings) -> ModesFile:
    """The policy without what it freezes: a destination that is told of each change in order has no lane to hold back."""
    try:
        policy = load_modes(section.modes_file)
    except BadPolicy as bad:
        raise Refused([f"hl7_out.{name}.modes_file: {problem}" for problem in bad.problems]) from None
    bare = {part: msgspec.structs.replace(getattr(policy, part), freezes=()) for part in ("slow", "severe", "outage")}
    return msgspec.structs.replace(policy, **bare)


def _read_table(db: Any) -> tuple[dict[bytes, Told], Millis]:
    """What was given up, and from when on outcomes are to be looked at."""
    parked: dict[bytes, Told] = {}
    for key, value in db.items():
        told = decode_told(value) if isinstance(value, bytes) else None
        if told is not None and told.is_parked:
            parked[key] = told
    mark = db.get(SINCE_KEY)
    return parked, decode_mark(mark) if mark is not None else Millis(max(0, now_ms() - FIRST_LOOK_MS))
