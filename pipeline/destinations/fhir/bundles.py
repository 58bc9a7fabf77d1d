"""Throughput: exchanges that are under way at once travel together, as one FHIR *batch* of independent entries.

Whoever asks gets an answer of their own, as if they had been alone. What can't be told of one entry is told to it alone:
it is sent again by itself (`Alone`), or, where nobody knows whether it was done, it has no answer and is read back.
Nothing here confirms, refuses or repeats a write: an entry that is refused in company is asked once more without it,
because a server may refuse all for one, or answer in another order than it was asked.

The rules of a batch: R4, 3.1.0.11 (http.html#transaction): one entry's failure is no other's, answers come in the order
of the entries, and nobody may rely on the order in which entries are done.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from pipeline.destinations.fhir.entries import ALONE, Entry, Part, parts_of
from pipeline.destinations.fhir_http import Answer, Exchange, NoAnswer, NotSent
from pipeline.destinations.protocol import always
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Reason
from pipeline.domain.writing.limits import Hold
from pipeline.formats.fhir.outcome import Meaning, classify
from pipeline.formats.fhir.profile import BundleProfile

GATHER_S: Final = 0.005
"""Longest wait for company while no bundle is under way."""

BUNDLES_AT_ONCE: Final = 2
"""While the server works on one bundle the next is on its way to it; the one after that fills."""

LEAST_BYTES: Final = 16_384
"""However often a server calls a bundle too large, this much is tried again."""

USELESS_BUNDLES: Final = 3
"""Bundles in a row of which the server accepted no part, after which it is sent none for WITHOUT_S."""

WITHOUT_S: Final = 600.0

MAX_SUSPECTS: Final = 4_096
"""Resources that go alone because a bundle with them in it failed as a whole; the one suspected longest is forgotten."""

_UNSUPPORTED: Final = frozenset({403, 404, 405, 501})
_BUSY: Final = frozenset({401, 408, 425, 429, 503})
"""Said of the sender or the moment; whatever else is said of a whole bundle may be for one entry of it."""

_TOO_LARGE: Final = 413
PAIR: Final = 2
"""A bundle of so few that is refused says nothing of bundles: taken apart each is alone."""

_HEAD: Final = b'{"resourceType":"Bundle","type":"batch","entry":['


Post = Callable[[bytes, float, Callable[[], bool]], Awaitable[Exchange]]
"""Posts a batch with at most so many seconds, if it may still go."""


@dataclass(slots=True)
class _Waiting:
    entry: Entry
    ends_at: Millis
    done: "asyncio.Future[Part]" = field(repr=False)
    may_go: Callable[[], bool] = field(default=always, repr=False)
    went: bool = False

    def tell(self, part: Part) -> None:
        if not self.done.done():
            self.done.set_result(part)


class Bundles:
    """Gathers entries and carries them. One loop's thread."""

    def __init__(self, profile: BundleProfile, exchange: Post, clock: Callable[[], Millis]) -> None:
        self._profile = profile
        self._exchange = exchange
        self._clock = clock
        self._most_bytes = profile.bytes
        self._queue: deque[_Waiting] = deque()
        self._queued_bytes = 0
        self._ripe = False
        self._timer: asyncio.TimerHandle | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self._useless = 0
        self._without_until = Millis(0)
        self._hold = Hold()
        self._suspects: OrderedDict[str, None] = OrderedDict()

    async def carry(self, entry: Entry, within_s: float, may_go: Callable[[], bool] = always) -> Part:
        """The answer to `entry` within `within_s`, or what is known without one. Cancelled before it went, it never goes.

        `may_go` is asked just before it would go: not sent, with reason NONE, where it says no.
        """
        if (pause_ms := self._hold.wait_ms(self._clock())) > 0:
            return NotSent(Reason.RATE_LIMITED, pause_ms / 1000)
        if len(entry.data) > self._most_bytes or self._clock() < self._without_until:
            return ALONE
        if entry.about in self._suspects and not entry.safe:
            return ALONE
        ends_at = Millis(self._clock() + int(within_s * 1000))
        waiting = _Waiting(entry, ends_at, asyncio.get_running_loop().create_future(), may_go)
        self._queue.append(waiting)
        self._queued_bytes += len(entry.data)
        self._go_if_ready()
        try:
            async with asyncio.timeout(within_s):
                return await waiting.done
        except TimeoutError:
            return NoAnswer(Reason.TIMEOUT) if waiting.went else NotSent(Reason.TIMEOUT)

    def acquit(self, entry: Entry) -> None:
        """It was answered when it went alone, and may go in company again."""
        self._suspects.pop(entry.about, None)

    async def close(self) -> None:
        """End what is under way; nothing is known of it. What waits was not sent."""
        if self._timer is not None:
            self._timer.cancel()
        for waiting in self._queue:
            waiting.tell(NotSent(Reason.CONNECTION))
        self._queue.clear()
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    # -- gathering

    def _go_if_ready(self) -> None:
        full = len(self._queue) >= self._profile.entries or self._queued_bytes >= self._most_bytes
        if self._queue and (full or self._ripe) and len(self._under_way) < BUNDLES_AT_ONCE:
            self._go()
        elif self._queue and self._timer is None and not self._ripe:
            self._timer = asyncio.get_running_loop().call_later(GATHER_S, self._ripened)

    def _ripened(self) -> None:
        self._timer, self._ripe = None, True
        self._go_if_ready()

    def _go(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._ripe = None, False
        chosen = self._chosen()
        if len(chosen) == 1:
            chosen.pop().tell(ALONE)
        if chosen:
            task = asyncio.get_running_loop().create_task(self._travel(chosen))
            self._under_way.add(task)
            task.add_done_callback(self._arrived)
        self._go_if_ready()

    def _arrived(self, task: "asyncio.Task[None]") -> None:
        self._under_way.discard(task)
        self._go_if_ready()

    def _chosen(self) -> list[_Waiting]:
        """What goes next, in the order in which it came; of one resource only one entry, whoever gave up is left out."""
        chosen: dict[str, _Waiting] = {}
        kept: list[_Waiting] = []
        size = 0
        while self._queue and len(chosen) < self._profile.entries:
            waiting = self._queue.popleft()
            self._queued_bytes -= len(waiting.entry.data)
            if not self._still_wanted(waiting):
                continue
            if waiting.entry.about in chosen:
                kept.append(waiting)
                continue
            size += len(waiting.entry.data)
            if chosen and size > self._most_bytes:
                kept.append(waiting)
                break
            chosen[waiting.entry.about] = waiting
        for waiting in reversed(kept):
            self._queue.appendleft(waiting)
            self._queued_bytes += len(waiting.entry.data)
        return list(chosen.values())

    def _still_wanted(self, waiting: _Waiting) -> bool:
        if self._clock() >= waiting.ends_at:
            waiting.tell(NotSent(Reason.TIMEOUT))
        elif not waiting.may_go():
            waiting.tell(NotSent(Reason.NONE))
        return not waiting.done.done()

    # -- carrying

    async def _travel(self, chosen: list[_Waiting]) -> None:
        """One bundle, and its halves where the server does not accept it; everybody in it has been told at the end."""
        try:
            if await self._carried(chosen):
                self._useless = 0
            elif len(chosen) > PAIR:
                self._found_useless()
        except Exception as error:  # noqa: BLE001 - told to everybody who waits, or they would wait for nothing
            for waiting in chosen:
                if not waiting.done.done():
                    waiting.done.set_exception(error)
        finally:
            for waiting in chosen:
                waiting.tell(NoAnswer(Reason.CONNECTION))  # cut off: nobody knows

    def _found_useless(self) -> None:
        self._useless += 1
        if self._useless >= USELESS_BUNDLES:
            self._useless = 0
            self._without_until = Millis(self._clock() + int(WITHOUT_S * 1000))

    async def _carried(self, chosen: list[_Waiting]) -> bool:
        """Whether the server answered this bundle, or a part of it, entry by entry, or can't be blamed for not doing so."""
        chosen = [waiting for waiting in chosen if self._still_wanted(waiting)]
        if len(chosen) < 2:
            for waiting in chosen:
                waiting.tell(ALONE)
            return False
        if (pause_ms := self._hold.wait_ms(self._clock())) > 0:
            self._tell_all(chosen, NotSent(Reason.RATE_LIMITED, pause_ms / 1000))
            return True
        data = _HEAD + b",".join(waiting.entry.data for waiting in chosen) + b"]}"
        for waiting in chosen:
            waiting.went = True
        within_s = max(waiting.ends_at for waiting in chosen) - self._clock()
        exchange = await self._exchange(data, within_s / 1000, lambda: all(waiting.may_go() for waiting in chosen))
        if not isinstance(exchange, Answer):
            self._tell_all(chosen, exchange)
            return True
        return await self._read(chosen, exchange, len(data))

    async def _read(self, chosen: list[_Waiting], answer: Answer, size: int) -> bool:
        failure = classify(answer.status, answer.body)
        if failure is None:
            self._tell_each(chosen, answer)
            return True
        if failure.meaning in (Meaning.RETRY, Meaning.UNKNOWN):
            self._hold.ask(self._clock(), answer.retry_after_s)
            self._tell_all(chosen, answer)
            self._tell_those_who_wait(answer)
            return True
        if answer.status in _UNSUPPORTED:
            for waiting in chosen:
                waiting.tell(ALONE)
            return False
        if answer.status == _TOO_LARGE:
            self._most_bytes = max(LEAST_BYTES, min(self._most_bytes, size // 2))
        middle = len(chosen) // 2
        first = await self._carried(chosen[:middle])
        return await self._carried(chosen[middle:]) or first

    def _tell_all(self, chosen: list[_Waiting], exchange: Exchange) -> None:
        """One answer, or the lack of one, for everybody. Where the bundle may be why it failed they go alone next time."""
        if isinstance(exchange, NoAnswer) or (isinstance(exchange, Answer) and exchange.status not in _BUSY):
            self._suspect(chosen)
        lost = isinstance(exchange, NoAnswer) and exchange.reason is not Reason.TIMEOUT
        cut = exchange == NoAnswer(Reason.CONNECTION) and all(waiting.entry.safe for waiting in chosen)
        for number, waiting in enumerate(chosen):
            # Of reads alone one is told: whoever keeps what was read before has to know that the server may have been away.
            waiting.tell(ALONE if lost and waiting.entry.safe and not (cut and number == 0) else exchange)

    def _suspect(self, chosen: list[_Waiting]) -> None:
        for waiting in chosen:
            if not waiting.entry.safe:
                self._suspects[waiting.entry.about] = None
        while len(self._suspects) > MAX_SUSPECTS:
            self._suspects.popitem(last=False)

    def _tell_those_who_wait(self, answer: Answer) -> None:
        """The server asked for a pause: what has gathered meanwhile would be sent before its end."""
        if answer.retry_after_s <= 0:
            return
        while self._queue:
            self._queue.popleft().tell(NotSent(Reason.RATE_LIMITED, answer.retry_after_s))
        self._queued_bytes = 0

    def _tell_each(self, chosen: list[_Waiting], answer: Answer) -> None:
        for waiting, part in zip(chosen, parts_of([each.entry for each in chosen], answer.body), strict=True):
            if part is not None:
                waiting.tell(part)
            elif waiting.entry.safe:
                waiting.tell(ALONE)
            else:
                self._suspect([waiting])
                waiting.tell(NoAnswer(Reason.ERROR_IN_BODY))
