"""`surgeline run timers`."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline import topology
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import EntityKey
from pipeline.domain.records import Accepted, Control
from pipeline.kafka.client import Message
from pipeline.kafka.producer import OutRecord
from pipeline.kafka.projections import is_current, outlived
from pipeline.kafka.reader import Follower
from pipeline.ops.topics import decoded
from pipeline.roles.process import Process, now_ms, or_die
from pipeline.roles.publishing import WatchedPublisher
from pipeline.sources.timers import Ends, Timers


class TimersRole:
    """Reads the history from its beginning, then follows it."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._ends = Ends()
        self._publisher = WatchedPublisher(process.settings.kafka)
        self._follower = Follower(process.settings.kafka, (topology.ACCEPTED,), self._apply).start()
        self._timers = Timers(self._ends, self._publish, self._ready, now_ms)

    def checks(self) -> Mapping[str, Callable[[], bool]]:
        """Ready once all states are known."""
        return {"history": self._ready}

    def status(self) -> Any:
        """Ends that lie ahead."""
        return {"ends": len(self._ends)}

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`."""
        watching = asyncio.create_task(or_die(outlived(self._publisher, self._follower)))
        await self._timers.run(stop)
        watching.cancel()
        await asyncio.to_thread(self._follower.stop)
        await self._publisher.close(self._process.settings.worker.drain_s / 4)

    def _ready(self) -> bool:
        return is_current(self._follower)

    def _apply(self, message: Message) -> None:
        record = decoded(self._process.codec, message)
        if isinstance(record, Accepted):
            self._ends.on_accepted(record)

    async def _publish(self, orders: Sequence[tuple[EntityKey, Control]]) -> None:
        await self._publisher.publish(
            [
                OutRecord(
                    topology.LANDING[EntityType(key.entity_type)],
                    key.encode(),
                    self._process.codec.encode(order),
                )
                for key, order in orders
            ]
        )
