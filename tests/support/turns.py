"""How often something else has its turn on the event loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """A count that rises."""

    count = 0


@asynccontextmanager
async def turns_beside() -> AsyncIterator[Turns]:
    """Counts the turns of a task beside the one that is within."""
    turns = Turns()

    async def other() -> None:
        while True:
            turns.count += 1
            await asyncio.sleep(0)

    beside = asyncio.ensure_future(other())
    try:
        yield turns
    finally:
        beside.cancel()
