"""A destination whose answers are timed."""

import time
from collections.abc import Awaitable
from typing import TypeVar

from pipeline.destinations.protocol import (
    Absent,
    Current,
    Destination,
    Outcome,
    PendingWrite,
    ReadBack,
    Refused,
    Request,
    Retry,
    Suppressed,
)
from pipeline.domain.records import Accepted
from pipeline.ops import metrics

T = TypeVar("T")


class Timed:
    """Passes everything on; what was given up at its deadline counts with the time until then."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self.name = destination.name
        self.role = destination.role
        self.delivery = destination.delivery

    def expects(self, accepted: Accepted) -> bool:
        """See `Destination`."""
        return self._destination.expects(accepted)

    async def read(self, write: PendingWrite) -> Current | Absent | Refused | Retry:
        """See `Destination`."""
        return await self._within("read", self._destination.read(write))

    def build(self, write: PendingWrite, current: Current | Absent) -> Request | Suppressed | Refused:
        """See `Destination`."""
        return self._destination.build(write, current)

    def differences(self, write: PendingWrite, current: Current | Absent) -> tuple[str, ...]:
        """See `Destination`."""
        return self._destination.differences(write, current)

    async def send(self, request: Request) -> Outcome:
        """See `Destination`."""
        return await self._within("send", self._destination.send(request))

    async def read_back(self, request: Request) -> ReadBack:
        """See `Destination`."""
        return await self._within("read_back", self._destination.read_back(request))

    async def close(self) -> None:
        """See `Destination`."""
        await self._destination.close()

    async def _within(self, operation: str, answer: Awaitable[T]) -> T:
        began_s = time.monotonic()
        try:
            return await answer
        finally:
            metrics.WRITER_REQUEST_SECONDS.of(self.name, operation).observe(time.monotonic() - began_s)
