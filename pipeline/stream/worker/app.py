"""A Faust app as the recipe wants it: one agent, one table, nothing declared at run time, nothing acknowledged early."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, cast

import faust
from faust.types import TP, AppT
from faust.types.auth import AuthProtocol

from pipeline.settings.sections.kafka import KafkaSettings
from pipeline.settings.sections.workers import WorkerSettings
from pipeline.stream.worker.batch import BatchRunner, Cycle, Work
from pipeline.stream.worker.faults import report
from pipeline.stream.worker.outputs import EXIT_NOT_DURABLE, Outputs, die
from pipeline.stream.worker.progress import Pace, Progress
from pipeline.stream.worker.store import STORE_OPTIONS, BatchTable, Join
from pipeline.stream.worker.transport import BatchConsumer, BatchTransport, FlowControl, RecordBatch

REQUEST_TIMEOUT_S: Final = 90.0
WATCH_S: Final = 1.0
MAX_POLL_INTERVAL_S: Final = 7 * 24 * 3600.0
"""Without a fetch for so long the client leaves its group by itself: so it would while a receiver is away and as much as may wait
does, and where it is a spare that has nothing to fetch. That the loop goes on is the watchdog's to see."""
GC_THRESHOLDS: Final = (10_000, 20, 20)
"""Of Python's collector: a poll alone is thousands of records, which reference counts free, so seven hundred is often."""
FETCH_BYTES: Final = 1 << 20
RECOVERY_BUFFER_POLLS: Final = 2
"""Polls of changelogs that are joined into the store at once. Of 1 Faust thinks that such a table wants its changelog read on
after the recovery."""
STANDBY_BUFFER_POLLS: Final = 1
"""Of a standby each poll at once: what it lacks when it is promoted is the start's."""


@dataclass(frozen=True, slots=True)
class AppSpec:
    """What tells one worker's app from another's."""

    app_id: str
    instance: str
    data_dir: Path
    topics: tuple[str, ...]
    table: str
    latest_of: Join
    partitions: int
    cycle: Cycle
    fetch_max_records: int
    buffer_max_messages: int
    holds: bool = False
    """Its agent keeps records in hand and acknowledges them itself: a rebalance does not wait for them, and what is committed
    says where to begin, not the table."""
    records_per_message: int | None = None


Still = Callable[[], bool]
"""Whether no partition has been asked back since."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """Called on the loop's thread. `recovered` comes after each recovery, before anything is consumed, `started` once it is;
    `gets_on` comes about each second in which a recovery read on.

    `recovered` may be overtaken by another rebalance: after whatever it waits for it asks, and leaves where the answer is no. The
    next recovery has its own.
    """

    recovered: Callable[[frozenset[int], Still], Awaitable[None]]
    revoked: Callable[[frozenset[int]], None]
    started: Callable[[], None]
    on_hole: Callable[[TP, int, int], None]
    on_rewind: Callable[[TP, int, int], None]
    on_stall: Callable[[], None]
    gets_on: Callable[[], None]
    leaving: Callable[[], Awaitable[None]] | None = None
    """Awaited before `revoked`, while the partitions that are asked back are still ours."""


RunnerOf = Callable[[AppT, BatchTable], BatchRunner]
"""Makes the agent's runner, where it is not that of a `Work`."""


class Worker:
    """One Faust app with its agent and table."""

    def __init__(
        self,
        spec: AppSpec,
        kafka: KafkaSettings,
        worker: WorkerSettings,
        work: Work | RunnerOf,
        outputs: Outputs,
        hooks: Hooks,
    ) -> None:
        self.spec = spec
        self.app = _create_app(spec, kafka, worker)
        table = self.app.Table(
            spec.table,
            partitions=spec.partitions,
            key_type=bytes,
            value_type=bytes,
            schema=_undecoded(),
            recovery_buffer_size=RECOVERY_BUFFER_POLLS,
            standby_buffer_size=STANDBY_BUFFER_POLLS,
            options=dict(STORE_OPTIONS),
        )
        assert isinstance(table, BatchTable)
        self.table = table
        self.table.latest_of = spec.latest_of
        made = work(self.app, self.table) if callable(work) else None
        self.runner = made or BatchRunner(self.app, self.table, cast(Work, work), outputs, spec.cycle)
        self.assigned: frozenset[int] = frozenset()
        self.ready = False
        self._is_settled = False
        self._hooks = hooks
        self._set_consumer(hooks)
        source = self.app.topic(*spec.topics, schema=_undecoded())
        self.app.agent(source, name=f"{spec.table}-agent", concurrency=1)(self.runner.run)
        self.table.on_recover(self._recovered)
        self.app.on_partitions_revoked.connect(self._revoked, weak=False)

    def _set_consumer(self, hooks: Hooks) -> None:
        batched = frozenset(self.spec.topics)
        consumer = type(
            "Consumer",
            (BatchConsumer,),
            {
                "recovered_offset": staticmethod(_unsaid if self.spec.holds else self.table.recovered_offset),
                "batched": staticmethod(batched.__contains__),
                "records_per_message": self.spec.records_per_message,
                "on_hole": staticmethod(hooks.on_hole),
                "on_rewind": staticmethod(hooks.on_rewind),
                "on_anew": staticmethod(_made_anew),
                "on_serving": staticmethod(hooks.started),
                "is_recovered": staticmethod(self._is_recovered),
            },
        )
        self.app.consumer_class = consumer

    def _is_present(self) -> bool:
        """Whether no partition has been asked back since the last assignment."""
        return self.app.rebalancing_count == self.app.assigned_in

    def _is_recovered(self) -> bool:
        return self.ready and self._is_present()

    async def _recovered(self) -> None:
        """Faust lets this run on although its partitions were taken away again, and even while the next assignment is recovered
        and served: then it must not say that it is ready."""
        try:
            rebalance = self.app.rebalancing_count

            def still() -> bool:
                return self.app.rebalancing_count == rebalance and self._is_present()

            changelog = self.table.changelog_topic_name
            present = frozenset(tp.partition for tp in self.app.assignor.assigned_actives() if tp.topic == changelog)
            if still():
                await self.runner.on_recovered(sorted(present))
            if still():
                await self._hooks.recovered(present, still)
            if still():
                self._settle()
                self.assigned = present
                self.ready = True
                if not self.app.consumer.assignment():
                    self._hooks.started()
        except BaseException as error:  # noqa: BLE001 - whatever it is, a table that is not recovered must not be served
            report(error)
            die(EXIT_NOT_DURABLE)

    def _settle(self) -> None:
        """Once: what was made until now stays, and Python's collector needs not walk all of it at each of its full rounds."""
        if not self._is_settled:
            gc.collect()
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLDS)
            self._is_settled = True

    async def _revoked(self, _app: Any, /, *revoked: Any, **_kwargs: Any) -> None:
        self.ready = False
        gone = frozenset(tp.partition for tps in revoked for tp in tps)
        if self._hooks.leaving is not None:
            await self._leave(self._hooks.leaving)
        self._hooks.revoked(gone)

    async def _leave(self, leaving: Callable[[], Awaitable[None]]) -> None:
        """Commit what was acknowledged while they were still ours: nobody else would do so before they go."""
        try:
            await leaving()
            await self.app.consumer.commit()
        except BaseException as error:  # noqa: BLE001 - half of what ended would be acknowledged by nobody
            report(error)
            die(EXIT_NOT_DURABLE)

    async def run(self) -> None:
        """Start, and serve until stopped; a crash of any of Faust's services ends the process."""
        watching = asyncio.create_task(self._watch_recovery())
        try:
            await self.app.start()
            await self.app.wait_until_stopped()
        finally:
            watching.cancel()

    async def _watch_recovery(self) -> None:
        """Faust waits for changelog records for ever; a recovery that no longer gets on is told to `on_stall`, and one that does
        to `gets_on`: how long it takes is for the changelog to say, not for a clock."""
        progress, clock = Progress(), asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(WATCH_S)
            recovery = self.app.tables.recovery  # type: ignore[attr-defined]  # the interface leaves it out
            match progress.look(recovery.active_remaining_total() if recovery.in_recovery else 0, clock()):
                case Pace.STALLED:
                    self._hooks.on_stall()
                case Pace.GETS_ON:
                    self._hooks.gets_on()

    async def stop(self) -> None:
        """Finish the batch, commit, and leave the group."""
        await self.app.stop()


def _undecoded() -> RecordBatch:
    return RecordBatch(key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")


def _unsaid(_tp: TP) -> None:
    """The table says nothing of where to begin."""


def _made_anew(_tp: TP, _expected: int, _first: int) -> None:
    """The log holds fewer records than were read: it was made again. A start looks its epoch up, or refuses."""
    die(EXIT_NOT_DURABLE)


class _App(faust.App):
    consumer_class: type[BatchConsumer]
    assigned_in = 0
    """The rebalance that brought the present assignment, by Faust's count of those that began."""

    @cached_property
    def flow_control(self) -> FlowControl:
        return FlowControl(loop=self.loop)

    async def _on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self.assigned_in = self.rebalancing_count
        await super()._on_partitions_assigned(assigned, generation_id)

    def _new_transport(self) -> BatchTransport:
        transport = BatchTransport(self.conf.broker_consumer, self)
        transport.Consumer = self.consumer_class  # type: ignore[misc]  # Faust makes the consumer from this class
        return transport

    async def crash(self, reason: BaseException) -> None:
        """Faust would go on stopping in its own time, with a consumer that still heartbeats."""
        report(reason)
        die(EXIT_NOT_DURABLE)

    def _crash(self, reason: BaseException) -> None:
        """A service of the app's has crashed, for instance the recovery: a start that waits for it would wait for ever."""
        report(reason)
        die(EXIT_NOT_DURABLE)


def _create_app(spec: AppSpec, kafka: KafkaSettings, worker: WorkerSettings) -> _App:
    spec.data_dir.mkdir(parents=True, exist_ok=True)
    return _App(
        spec.app_id,
        broker=kafka.faust_broker_url(),
        broker_credentials=_credentials(kafka),
        canonical_url=f"http://{spec.instance}.{spec.app_id}.invalid",
        consumer_group_instance_id=f"{spec.app_id}-{spec.instance}",
        store="rocksdb://",
        datadir=str(spec.data_dir),
        Table=BatchTable,
        processing_guarantee="at_least_once",
        topic_partitions=spec.partitions,
        topic_replication_factor=kafka.replication_factor,
        topic_allow_declare=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=worker.session_timeout_s,
        broker_heartbeat_interval=worker.heartbeat_s,
        broker_rebalance_timeout=worker.rebalance_timeout_s,
        broker_request_timeout=REQUEST_TIMEOUT_S,
        broker_commit_interval=worker.commit_interval_s,
        broker_commit_every=1_000_000,
        broker_max_poll_records=spec.fetch_max_records,
        broker_max_poll_interval=MAX_POLL_INTERVAL_S,
        consumer_max_fetch_size=FETCH_BYTES,
        stream_buffer_maxsize=spec.buffer_max_messages,
        stream_wait_empty=not spec.holds,
        stream_publish_on_commit=False,
        stream_recovery_delay=0.0,
        producer_acks=-1,
        recovery_consistency_check=True,
        table_standby_replicas=worker.standby_replicas,
        web_enabled=False,
        autodiscover=False,
        origin="pipeline",
    )


def _credentials(kafka: KafkaSettings) -> Any:
    context, sasl = kafka.ssl_context(), kafka.sasl()
    if sasl is not None:
        protocol = AuthProtocol.SASL_SSL if context is not None else AuthProtocol.SASL_PLAINTEXT
        credentials = faust.SASLCredentials(
            username=sasl.username, password=sasl.password, mechanism=sasl.mechanism, ssl_context=context
        )
        credentials.protocol = protocol
        return credentials
    return faust.SSLCredentials(context=context) if context is not None else None
