"""What a writer knows of all stays, its own partitions' and the others': in which bed each lies at its destination."""

import asyncio
import threading
from collections.abc import Callable
from typing import Final

from pipeline.domain.event import EntityType
from pipeline.domain.writing.occupants import Occupants
from pipeline.domain.writing.rollout import Facts
from pipeline.domain.writing.turns import AnyOrder, Order, VacateFirst
from pipeline.kafka.projections import is_current, outlived
from pipeline.kafka.stays import follow_stays
from pipeline.ops import metrics
from pipeline.roles.process import Process, now_ms, or_die
from pipeline.roles.publishing import WatchedPublisher
from pipeline.roles.writers.profiles import profile_for

_WHERE: Final = "location"
"""Field of a stay that says in which bed somebody lies."""


class Stays:
    """Follows the history where the destination is told where somebody lies; else there is no order to keep."""

    def __init__(self, process: Process, destination: str, lets_write: Callable[[Facts], bool]) -> None:
        """On the loop's thread. `lets_write`: what the flags say of a stay; asked there."""
        self._destination = destination
        self._occupants = Occupants(destination, lets_write, threading.Lock())
        profile = profile_for(destination, process.settings.writers[destination])
        self._follower = None
        self.order: Order = AnyOrder()
        if EntityType.ENCOUNTER in profile.resources and _WHERE in profile.fields_of(EntityType.ENCOUNTER):
            follower = follow_stays(process.settings.kafka, process.codec, self._occupants, destination, now_ms())
            self._follower = follower
            soon = asyncio.get_running_loop().call_soon_threadsafe
            self.order = VacateFirst(self._occupants, lambda: is_current(follower), soon)

    def double_occupied(self) -> int:
        """Beds that more than one stay claims; shown as a metric as well."""
        count = self._occupants.double_occupied
        metrics.DOUBLE_OCCUPIED.of(self._destination).set(count)
        return count

    def followed(self, publisher: WatchedPublisher) -> "asyncio.Task[None]":
        """Ends the process where the history is followed no more: a stay would wait for ever."""
        followers = (self._follower,) if self._follower else ()
        return asyncio.create_task(or_die(outlived(publisher, *followers)))

    async def close(self) -> None:
        """End the thread."""
        if self._follower is not None:
            await asyncio.to_thread(self._follower.stop)
