"""Modes at a writer: judged twice a second, each change durable in the audit log before it is in force, then told on `modes`.

What an operator orders lies on `modes` as well, by destination. So it reaches each instance of a writer within a second, and
a writer that starts reads it, and the mode that it was in, before it sends anything.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Container, Mapping, Sequence, Sized
from dataclasses import replace
from typing import Final, Protocol

from pipeline import topology
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Lane, ModeChange, ModeOrder, OutcomeKind, Reason
from pipeline.domain.writing.limits import Breaker
from pipeline.domain.writing.mode_policy import FreezeRule, ModesFile
from pipeline.domain.writing.modes import ESSENTIAL, MAX_FORCE_S, Cause, Entered, Figures, Force, Known, Mode, Modes
from pipeline.kafka.client import Message
from pipeline.kafka.producer import OutRecord, Publisher, PublishFailed
from pipeline.kafka.projections import is_current
from pipeline.kafka.reader import Follower
from pipeline.ops import log_catalogue as lines
from pipeline.ops import metrics
from pipeline.ops.logs import emit
from pipeline.ops.topics import Decoder, decoded
from pipeline.roles.process import Process, now_ms

JUDGE_S: Final = 0.5
"""Time between two looks at the figures that decide the mode."""

START_POLL_S: Final = 0.1

RATE_OVER_S: Final = 10.0
"""Time that rates are taken over."""

NO_ANSWER: Final = frozenset(
    {
        Reason.TIMEOUT,
        Reason.CONNECTION,
        Reason.UNAVAILABLE,
        Reason.AMBIGUOUS,
        Reason.UNAUTHENTICATED,
        Reason.NO_TOKEN,
        Reason.PREREQUISITE,
        Reason.MERGE_OPEN,
        Reason.INTERNAL,
        Reason.ASKED_AGAIN,
        Reason.RESIDENCY,
        Reason.NO_CONSENT,
    }
)
"""Ends of an attempt that don't say that the destination is there."""


class Notes(Protocol):
    """Where a change of mode becomes durable; see `OutcomeLedger.note`."""

    async def note(
        self, action: str, subject: str, destination: str, cause: str, figures: dict[str, str], at: Millis, actor: str
    ) -> None: ...


class Freezing(Protocol):
    """Holds a delivery back; see `pipeline.stream.writing.freezing`."""

    held: bool
    asks_kinds: bool

    async def apply(self, rules: Sequence[FreezeRule]) -> None: ...
    def thaw(self, count: int) -> int: ...


class Waiting(Protocol):
    """How long and how much waits; see `pipeline.domain.writing.scheduler`."""

    @property
    def frozen(self) -> Sized: ...
    def counts(self) -> Mapping[Lane, int]: ...
    def awake_since(self, troubled: Container[bytes]) -> Millis | None: ...
    def turn_since(self, lanes: Sequence[Lane]) -> Millis | None: ...
    def oldest_since(self) -> Millis | None: ...


class Governed(Protocol):
    """A delivery, as its mode is judged from it and holds it."""

    @property
    def freezing(self) -> Freezing: ...
    @property
    def scheduler(self) -> Waiting: ...
    @property
    def breaker(self) -> Breaker: ...
    @property
    def arrived(self) -> int: ...
    @property
    def troubled(self) -> Container[bytes]: ...


class Told:
    """What lies on `modes` about one destination, as far as it was read; fed by the thread that follows the topic."""

    def __init__(self, decoder: Decoder, destination: str, instance: str) -> None:
        self._decoder = decoder
        self._destination = destination
        self._instance = instance
        self.order: Force | None = None
        """What an operator ordered last; None where it was released."""
        self.known: Known | None = None
        """The mode that this instance told last."""

    def apply(self, message: Message) -> None:
        """A record of the topic."""
        match decoded(self._decoder, message) if message.value is not None else None:
            case ModeOrder() as order if order.destination == self._destination:
                self.order = force_of(order)
            case ModeChange() as change if (change.destination, change.instance) == (self._destination, self._instance):
                self.known = _known_of(change)
            case _:
                return


def force_of(order: ModeOrder) -> Force | None:
    """What is forced; None where it was released, or where this build doesn't know the mode."""
    if order.mode is None or order.mode not in set(Mode):
        return None
    until = min(order.until, order.at + int(MAX_FORCE_S * 1000))
    return Force(Mode(order.mode), order.actor, order.reason, order.at, Millis(until))


def _known_of(change: ModeChange) -> Known | None:
    if change.mode not in set(Mode) or change.cause not in set(Cause):
        return None
    return Known(Mode(change.mode), Cause(change.cause), change.at, change.back_at, change.frozen_since)


class ModeKeeper:
    """The mode of one destination at one instance."""

    def __init__(self, process: Process, destination: str, instance: str, policy: ModesFile, notes: Notes) -> None:
        self._process = process
        self._destination = destination
        self._instance = instance
        self._policy = policy
        self._notes = notes
        self._told = Told(process.codec, destination, instance)
        self.follower: Final = Follower(process.settings.kafka, (topology.MODES,), self._told.apply)
        self._modes = Modes(policy)
        self._rates = deque[tuple[Millis, int, int]](maxlen=int(RATE_OVER_S / JUDGE_S) + 1)
        self._confirmed = 0
        self._answers = False
        self._open_since: Millis | None = None
        self._untold: ModeChange | None = None
        self._show()

    @property
    def mode(self) -> Mode:
        """The mode in force."""
        return self._modes.mode

    def attempted(self, kind: OutcomeKind, reason: Reason) -> None:
        """An attempt ended."""
        self._answers = self._answers or reason not in NO_ANSWER
        self._confirmed += kind is OutcomeKind.CONFIRMED

    def hold(self, delivery: Governed) -> None:
        """Before the delivery runs: it sends nothing before the mode is known, and an operator's orders."""
        delivery.freezing.held = True
        delivery.freezing.asks_kinds = any(
            rule.event_types
            for rules in (self._policy.slow.freezes, self._policy.severe.freezes, self._policy.outage.freezes)
            for rule in rules
        )
        self.follower.start()

    async def run(self, publisher: Publisher, delivery: Governed, is_ready: Callable[[], bool]) -> None:
        """Take up the mode that was told last, then judge and tell, until cancelled.

        `is_ready`: whether all that is pending is known; while it is being read back, few waits look like drained.
        """
        while not is_current(self.follower):
            await asyncio.sleep(START_POLL_S)
        self._modes = Modes(self._policy, self._told.known)
        self._show()
        await delivery.freezing.apply(self._modes.freezes)
        while True:
            if is_ready():
                await self._judge(publisher, delivery, now_ms())
            await asyncio.sleep(JUDGE_S)

    async def close(self) -> None:
        """End the thread."""
        await asyncio.to_thread(self.follower.stop)

    # -- judging

    async def _judge(self, publisher: Publisher, delivery: Governed, now: Millis) -> None:
        figures = self._figures(delivery, now)
        self._tell_breaker(figures.breaker_open, now)
        entered = self._modes.judge(figures, now, self._told.order)
        # What is to be held is held at once; all else only once it is durable.
        delivery.freezing.held = delivery.freezing.held or self._modes.holds
        if entered is not None:
            await self._enter(entered, replace(figures, pending=delivery.scheduler.counts()), now)
            self._show()
            await delivery.freezing.apply(self._modes.freezes)
        delivery.freezing.held = self._modes.holds
        count = self._modes.thaws(now)
        if count:
            delivery.freezing.thaw(count)
        await self._publish(publisher)

    def _figures(self, delivery: Governed, now: Millis) -> Figures:
        """Pending by lane is left out: it is counted where there is a change to tell."""
        scheduler = delivery.scheduler
        self._rates.append((now, delivery.arrived, self._confirmed))
        began, arrived, confirmed = self._rates[0]
        passed_s = max(JUDGE_S, (now - began) / 1000)
        figures = Figures(
            breaker_open=delivery.breaker.is_open,
            pending={},
            oldest_wait_s=_wait_s(scheduler.awake_since(delivery.troubled), now),
            turn_wait_s=_wait_s(scheduler.turn_since(ESSENTIAL), now),
            answers=self._answers,
            frozen=len(scheduler.frozen),
            arriving_per_s=(delivery.arrived - arrived) / passed_s,
            confirmed_per_s=(self._confirmed - confirmed) / passed_s,
        )
        metrics.WRITER_BREAKER_OPEN.of(self._destination).set(float(figures.breaker_open))
        metrics.WRITER_OLDEST.of(self._destination).set(_wait_s(scheduler.oldest_since(), now))
        metrics.WRITER_TURN_WAIT.of(self._destination).set(figures.turn_wait_s)
        metrics.WRITER_ARRIVING.of(self._destination).set(figures.arriving_per_s)
        return figures

    def _tell_breaker(self, is_open: bool, now: Millis) -> None:
        if is_open and self._open_since is None:
            self._open_since = now
            emit(lines.BREAKER_OPENED, destination=self._destination)
        elif not is_open and self._open_since is not None:
            emit(lines.BREAKER_CLOSED, destination=self._destination, duration_ms=float(now - self._open_since))
            self._open_since = None

    # -- telling

    async def _enter(self, entered: Entered, figures: Figures, now: Millis) -> None:
        order = self._told.order if entered.cause in (Cause.FORCED, Cause.EXPIRED) else None
        emit(
            lines.MODE_CHANGED,
            destination=self._destination,
            mode=entered.mode.value,
            previous_mode=entered.previous.value,
            cause=entered.cause.value,
        )
        told = figures.told
        shown = {name: f"{value:g}" for name, value in told.items()} | {"previous": entered.previous.value}
        if order is not None:
            shown |= {"ordered_by": order.by, "ordered_because": order.reason}
        await self._notes.note(
            f"mode.{entered.mode.value}", self._destination, self._destination, entered.cause.value, shown, now, self._instance
        )
        self._untold = ModeChange(
            destination=self._destination,
            instance=self._instance,
            mode=entered.mode.value,
            previous=entered.previous.value,
            at=now,
            cause=entered.cause.value,
            figures=told,
            back_at=self._modes.back_at,
            frozen_since=self._modes.frozen_since,
        )

    async def _publish(self, publisher: Publisher) -> None:
        """What can't be published now is at the next look; a newer change takes its place."""
        if self._untold is None:
            return
        key = f"{self._destination}|{self._instance}".encode()
        record = OutRecord(topology.MODES, key, self._process.codec.encode(self._untold))
        with contextlib.suppress(PublishFailed):  # the publisher has told of it
            await publisher.publish([record])
            self._untold = None

    def _show(self) -> None:
        for known in Mode:
            metrics.WRITER_MODE.of(self._destination, known.value).set(float(known is self._modes.mode))
        metrics.WRITER_FORCED.of(self._destination).set(float(self._modes.is_forced))


def _wait_s(since: Millis | None, now: Millis) -> float:
    return max(0.0, (now - since) / 1000) if since is not None else 0.0
