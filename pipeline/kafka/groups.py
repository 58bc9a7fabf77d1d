"""Group commit: messages that come together go to the broker together, stage by stage, so that one request carries many of them.

What a broker spends on a record is nearly all spent on the request that brings it, and a request brings the records of one
partition. Messages that follow one another each for itself make a request for nearly every record; those of a group make one
for each partition that the group touches. (Group commit: DeWitt et al., "Implementation Techniques for Main Memory Database
Systems", 1984.)
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from pipeline.kafka.producer import OutRecord, Position, PublishFailed

MAX_GROUPS: Final = 2
"""Under way at once: while the broker writes one, the next is made. With more of them each is smaller."""
MAX_MESSAGES: Final = 512
"""Most messages of one group."""
MAX_BYTES: Final = 128 * 1024
"""A group takes no further message once its raw bytes are so many: a hundred messages of the usual size. Large ones gain nothing
by company, and a group that a slow broker does not take in time is sent twice."""
PATIENCE_S: Final = 5.0
"""Longest time for a group: half of what a sender waits. After it each message goes on by itself: one partition that is away
holds up only who needs it."""
SLOW_S: Final = 0.5
"""A stage that takes longer says that the broker is slow: what waits for the next group no longer does."""
ALONE_S: Final = 10.0
"""How long no groups are made after that. What waits for a group is on nobody's account, and a slow broker must not be overfilled
(see `window`); each message by itself is on its way, and counted, at once."""


class Publishing(Protocol):
    """What is needed of a producer."""

    async def publish(self, records: Sequence[OutRecord]) -> Sequence[Position]:
        """Return where each record lies, after all were acknowledged; `PublishFailed` otherwise."""
        ...


@dataclass(slots=True, eq=False)
class Stages:
    """Records of one message: each stage is acknowledged before the next begins. `landing` is made of where `raw` lies."""

    raw: OutRecord
    landing: Callable[[Position], list[OutRecord]]
    receipt: OutRecord
    at: Position | None = None
    """Where `raw` lies, once it is acknowledged."""


@dataclass(frozen=True, slots=True, eq=False)
class _Passenger:
    stages: Stages
    arrived: "asyncio.Future[bool]"
    """True: all is acknowledged. False: it has to go by itself."""


class Groups:
    """Publishes the stages of messages, of those that come together in groups. For one event loop.

    What a message is promised does not depend on its company: if a group fails or takes too long, each of its messages goes on
    by itself, and has its own end. What it sends once more has the same ids, so that the gate sees duplicates. A group that is
    slow holds up nobody behind it.
    """

    def __init__(
        self,
        publisher: Publishing,
        *,
        max_groups: int = MAX_GROUPS,
        max_messages: int = MAX_MESSAGES,
        slow_s: float = SLOW_S,
        patience_s: float = PATIENCE_S,
        is_quick: Callable[[], bool] = lambda: True,
    ) -> None:
        """`is_quick` says whether groups may be made: whether the broker takes at once what it is given."""
        self._publisher = publisher
        self._max_groups = max_groups
        self._max_messages = max_messages
        self._slow_s = slow_s
        self._patience_s = patience_s
        self._is_quick = is_quick
        self._waiting: deque[_Passenger] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._is_departing = False
        self._slow: set[object] = set()
        """Stages under way that have taken longer than `slow_s`."""
        self._alone_until = float("-inf")

    async def carry(self, stages: Stages) -> None:
        """Return once all stages are acknowledged; PublishFailed otherwise. A cancelled call may leave records on their way."""
        loop = asyncio.get_running_loop()
        if not self._slow and loop.time() >= self._alone_until and self._is_quick():
            passenger = _Passenger(stages, loop.create_future())
            self._waiting.append(passenger)
            self._call()
            if await passenger.arrived:
                return
        await self._through([stages])

    def _call(self) -> None:
        """The next group leaves behind whatever else the loop has to do now, so that what comes together leaves together."""
        if self._waiting and not self._is_departing and len(self._under_way) < self._max_groups:
            self._is_departing = True
            asyncio.get_running_loop().call_soon(self._depart)

    def _depart(self) -> None:
        self._is_departing = False
        group: list[_Passenger] = []
        size = 0
        while self._waiting and len(group) < self._max_messages and size < MAX_BYTES:
            passenger = self._waiting.popleft()
            if not passenger.arrived.done():
                group.append(passenger)
                size += passenger.stages.raw.cost_bytes
        if group:
            task = asyncio.get_running_loop().create_task(self._run(group))
            self._under_way.add(task)
            task.add_done_callback(self._ended)
        self._call()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._under_way.discard(task)
        self._call()

    async def _run(self, group: Sequence[_Passenger]) -> None:
        """One group from its first stage to its last; its failure is told to each of its messages."""
        try:
            async with asyncio.timeout(self._patience_s):
                await self._through([passenger.stages for passenger in group])
        except TimeoutError:
            _tell(group, False)
        except PublishFailed as failed:
            _tell(group, failed if len(group) == 1 else False)
        except Exception as fault:  # noqa: BLE001 - raised again by `carry`, in each message's own task
            _tell(group, fault)
        else:
            _tell(group, True)

    async def _through(self, messages: Sequence[Stages]) -> None:
        """All stages. What is at the broker already is not sent once more as `raw`."""
        unsent = [stages for stages in messages if stages.at is None]
        positions = await self._publish([stages.raw for stages in unsent])
        for stages, at in zip(unsent, positions, strict=True):
            stages.at = at
        await self._publish([record for stages in messages if stages.at for record in stages.landing(stages.at)])
        await self._publish([stages.receipt for stages in messages])

    async def _publish(self, records: Sequence[OutRecord]) -> Sequence[Position]:
        if not records:
            return ()
        loop = asyncio.get_running_loop()
        stage = object()
        slow = loop.call_later(self._slow_s, self._part, stage)
        try:
            return await self._publisher.publish(records)
        finally:
            slow.cancel()
            if stage in self._slow:
                self._slow.discard(stage)
                self._alone_until = loop.time() + ALONE_S

    def _part(self, stage: object) -> None:
        """A stage is slow: until a while after its end each message goes by itself, those that wait for a group at once."""
        self._slow.add(stage)
        waiting, self._waiting = self._waiting, deque()
        _tell(waiting, False)


def _tell(group: Iterable[_Passenger], what: bool | Exception) -> None:
    for passenger in group:
        if passenger.arrived.done():
            continue
        if isinstance(what, Exception):
            passenger.arrived.set_exception(what)
        else:
            passenger.arrived.set_result(what)
