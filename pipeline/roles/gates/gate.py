"""`surgeline run gate`."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from pipeline import topology
from pipeline.roles.gates.counts import Counts
from pipeline.roles.gates.tables import START, table_hooks
from pipeline.roles.policies import load_policy
from pipeline.roles.process import Process, or_die
from pipeline.stream.judging.gate import Destinations, GateWork, join_values
from pipeline.stream.worker.app import AppSpec, Still, Worker
from pipeline.stream.worker.batch import Cycle
from pipeline.stream.worker.outputs import Outputs

PRODUCER_TUNING: Final[dict[str, str | int | float | bool]] = {
    "compression.type": "lz4",
    "queue.buffering.max.messages": 200_000,
}


class GateRole:
    """The gate in one process."""

    def __init__(self, process: Process) -> None:
        settings = process.settings
        self._process = process
        landing = {process.topic(name): entity_type for entity_type, name in topology.LANDING.items()}
        counts = Counts()
        work = GateWork(
            process.codec,
            Destinations(
                accepted=process.topic(topology.ACCEPTED),
                decisions=process.topic(topology.DECISIONS),
                quarantine=process.topic(topology.QUARANTINE),
                lanes={lane.value: process.topic(name) for lane, name in topology.LANE_TOPICS.items()},
                landing=landing,
                epochs=process.epochs(),
            ),
            load_policy(),
            process.seal,
            settings.gate.max_record_bytes,
            counts.observe,
            counts.tell,
        )
        spec = AppSpec(
            app_id=process.topic(topology.GATE_APP),
            instance=settings.gate.instance,
            data_dir=settings.gate.data_dir,
            topics=tuple(landing),
            table=topology.HEADS_TABLE,
            latest_of=join_values,
            partitions=topology.ENTITY_PARTITIONS,
            cycle=Cycle(messages=1, records=1) if settings.gate.one_by_one else Cycle(within_s=settings.gate.within_s),
            fetch_max_records=settings.gate.fetch_max_records,
            buffer_max_messages=settings.gate.buffer_max_messages,
            records_per_message=1 if settings.gate.one_by_one else None,
        )
        outputs = Outputs(settings.kafka.producer_config() | PRODUCER_TUNING)
        hooks = table_hooks(process, topology.HEADS_TABLE, self._recovered, lambda _: None)
        self._worker = Worker(spec, settings.kafka, settings.worker, work, outputs, hooks)

    def checks(self) -> Mapping[str, Callable[[], bool]]:
        """Ready once the heads are recovered and partitions are served."""
        return {"heads": lambda: self._worker.ready}

    def status(self) -> Any:
        """Partitions that this gate serves."""
        return {"partitions": sorted(self._worker.assigned), "ready": self._worker.ready}

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`."""
        self._process.watchdog.begin(START, self._process.settings.worker.start_timeout_s)
        running = asyncio.create_task(or_die(self._worker.run()))
        await stop.wait()
        await self._worker.stop()
        running.cancel()

    async def _recovered(self, _partitions: frozenset[int], _still: Still) -> None:
        """Nothing more to do: heads are read from the store as they are needed."""
