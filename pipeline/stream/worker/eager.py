"""Awaiting without giving the loop a turn where nothing is waited for.

Faust gives the loop several turns for each message: three tasks to put it into its queue, a pause before it is taken out.
Where a turn takes milliseconds, because the same loop writes to a destination, a poll of forty messages took a second.
"""

import types
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Waits(NamedTuple):
    """It waits for something: to be awaited like the coroutine that it was made of, of which it is the rest."""

    rest: Coroutine[Any, Any, Any]


class Done(NamedTuple):
    """It has ended without having waited."""

    result: Any


def begun(coroutine: Coroutine[Any, Any, Any]) -> Done | Waits:
    """Run it as far as it goes without waiting. Raises what it raises."""
    try:
        wanted = coroutine.send(None)
    except StopIteration as ended:
        return Done(ended.value)
    return Waits(_rest(coroutine, wanted))


async def _rest(coroutine: Coroutine[Any, Any, Any], wanted: Any) -> Any:
    """A coroutine of its own kind: one made of a generator is not taken for one everywhere."""
    return await _driven(coroutine, wanted, has_pauses=True)


async def without_pause(awaitable: Awaitable[T]) -> T:
    """Await it, but for its bare pauses (`asyncio.sleep(0)`), which are passed over."""
    steps = awaitable.__await__()
    try:
        wanted = next(steps)
    except StopIteration as ended:
        first: T = ended.value
        return first
    result: T = await _driven(steps, wanted, has_pauses=False)
    return result


@types.coroutine
def _driven(steps: Any, wanted: Any, has_pauses: bool) -> Generator[Any, Any, Any]:
    """What is begun and `wanted` something, to its end; whatever is thrown in is for what waits."""
    while True:
        sent, thrown = None, None
        if has_pauses or wanted is not None:
            try:
                sent = yield wanted
            except BaseException as error:  # noqa: BLE001 - a cancellation too is told to what waits, which may clean up
                thrown = error
        try:
            wanted = steps.send(sent) if thrown is None else steps.throw(thrown)
        except StopIteration as ended:
            return ended.value
