"""What a writer tells of itself: metrics, lag windows, modes, and what is stuck."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import msgspec

from pipeline import topology
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import NO_REVISION, EntityKey, Millis, Revision
from pipeline.domain.lag import LagWindows
from pipeline.domain.modes import Entered, Figures, Mode, Modes
from pipeline.domain.pending import Pending
from pipeline.domain.records import Accepted, LagReport, ModeChange, OutcomeKind, Reason, Stuck
from pipeline.kafka.producer import OutRecord, Publisher, PublishFailed
from pipeline.ops import log_catalogue as lines
from pipeline.ops import metrics
from pipeline.ops.logs import emit, subject, where
from pipeline.roles.process import Process, now_ms
from pipeline.stream.delivery import Delivery
from pipeline.stream.ledger import OutcomeLedger

WINDOW_S: Final = 2.0
"""Length of a lag window, and the time between two reports."""

JUDGE_S: Final = 0.5
"""Time between two looks at the figures that decide the mode."""

NAMED_TYPES: Final = frozenset({EntityType.BED, EntityType.STAFFING, EntityType.DIVERSION})
"""Entity types whose id names no person and may be shown; of the others only a keyed digest is."""


_LINES: Final = {OutcomeKind.PARKED: lines.WRITE_PARKED, OutcomeKind.FAILED: lines.WRITE_FAILED}
"""Ends of an attempt that somebody may have to look at."""


class Reports:
    """Observer of one delivery. A report that can't be published is left out: the next one holds newer figures."""

    def __init__(
        self, process: Process, destination: str, instance: str, ledger: OutcomeLedger, double_occupied: Callable[[], int]
    ) -> None:
        self._process = process
        self._destination = destination
        self._instance = instance
        self._ledger = ledger
        self._double_occupied = double_occupied
        self._modes = Modes()
        self._windows = LagWindows()
        self._window_start = now_ms()
        self._confirmed_at: Millis | None = None
        self._confirmed: Revision = NO_REVISION
        self._open_since: Millis | None = None
        self.last: LagReport | None = None
        self._show_mode(self._modes.mode)

    # -- told by the delivery

    def attempted(self, accepted: Accepted, kind: OutcomeKind, reason: Reason) -> None:
        """An attempt ended."""
        metrics.WRITER_ATTEMPTS.of(self._destination, kind.value, reason.value).inc()
        line = _LINES.get(kind)
        if line is not None:
            emit(
                line,
                destination=self._destination,
                entity_type=accepted.entity_type.value,
                lane=accepted.lane.value,
                revision=accepted.revision,
                reason=reason.value,
                subject=subject(_key(accepted), self._process.settings.digest_key()),
            )

    def confirmed(self, accepted: Accepted, pending: Pending, at: Millis) -> None:
        """A revision is confirmed, and with it every older one: their lag ends as well."""
        metrics.WRITER_CONFIRMED.of(self._destination, accepted.lane.value, accepted.entity_type.value).inc()
        lane, entity_type = accepted.lane, accepted.entity_type
        for due_lane, due in pending.due.items():
            if due.revision <= accepted.revision:
                lag_ms = max(0, at - due.since)
                self._windows.add(due_lane, entity_type, lag_ms)
                metrics.LAG_SECONDS.of(self._destination, due_lane.value, entity_type.value).observe(lag_ms / 1000)
        recorded_ms = max(0, at - accepted.recorded_at)
        metrics.LAG_RECORDED_SECONDS.of(self._destination, lane.value).observe(recorded_ms / 1000)
        self._confirmed_at, self._confirmed = at, accepted.revision

    def failed_inside(self, error: BaseException) -> None:
        """A fault of ours in one write."""
        emit(lines.ROLE_CRASHED, exception=type(error).__name__, where=where(error.__traceback__))

    # -- told to others

    async def run(self, publisher: Publisher, delivery: Delivery, partitions: Callable[[], list[int]]) -> None:
        """Judge the mode and publish a report per window, until cancelled."""
        while True:
            await asyncio.sleep(JUDGE_S)
            now = now_ms()
            await self._judge(publisher, delivery, now)
            if now - self._window_start >= WINDOW_S * 1000:
                self.last = self._report(delivery, partitions(), now)
                key = f"{self._destination}|{self._instance}".encode()
                await self._publish(publisher, topology.LAG, key, self.last)

    async def _judge(self, publisher: Publisher, delivery: Delivery, now: Millis) -> None:
        figures = _figures(delivery, now)
        metrics.WRITER_BREAKER_OPEN.of(self._destination).set(float(figures.breaker_open))
        metrics.WRITER_OLDEST.of(self._destination).set(figures.oldest_wait_s)
        self._tell_breaker(figures.breaker_open, now)
        entered = self._modes.judge(figures, now)
        if entered is not None:
            await self._enter(publisher, entered, figures, now)

    def _tell_breaker(self, is_open: bool, now: Millis) -> None:
        if is_open and self._open_since is None:
            self._open_since = now
            emit(lines.BREAKER_OPENED, destination=self._destination)
        elif not is_open and self._open_since is not None:
            emit(lines.BREAKER_CLOSED, destination=self._destination, duration_ms=float(now - self._open_since))
            self._open_since = None

    async def _enter(self, publisher: Publisher, entered: Entered, figures: Figures, now: Millis) -> None:
        emit(
            lines.MODE_CHANGED,
            destination=self._destination,
            mode=entered.mode.value,
            previous_mode=entered.previous.value,
            cause=entered.cause,
        )
        self._show_mode(entered.mode)
        told = {"pending": float(figures.pending), "oldest_wait_s": figures.oldest_wait_s}
        change = ModeChange(
            destination=self._destination,
            instance=self._instance,
            mode=entered.mode.value,
            previous=entered.previous.value,
            at=now,
            cause=entered.cause,
            figures=told,
        )
        await self._publish(publisher, topology.MODES, f"{self._destination}|{self._instance}".encode(), change)
        shown = {name: f"{value:g}" for name, value in told.items()}
        await self._ledger.note(
            f"mode.{entered.mode.value}", self._destination, self._destination, entered.cause, shown, now, self._instance
        )

    def _show_mode(self, mode: Mode) -> None:
        for known in Mode:
            metrics.WRITER_MODE.of(self._destination, known.value).set(float(known is mode))

    def _report(self, delivery: Delivery, partitions: list[int], now: Millis) -> LagReport:
        counts = delivery.scheduler.counts()
        parked, stuck = delivery.stuck()
        oldest = delivery.scheduler.oldest_since()
        for lane, count in counts.items():
            metrics.WRITER_PENDING.of(self._destination, lane.value).set(count)
        metrics.WRITER_PARKED.of(self._destination).set(parked)
        metrics.WRITER_SHADOWED.of(self._destination).set(delivery.shadows.count)
        metrics.WRITER_IN_FLIGHT.of(self._destination).set(delivery.scheduler.in_flight)
        metrics.WRITER_CONCURRENCY.of(self._destination).set(delivery.limiter.allowed)
        metrics.WRITER_RATE.of(self._destination).set(delivery.throttle.per_s())
        metrics.WRITER_PAUSE.of(self._destination).set(delivery.pause_s())
        report = LagReport(
            destination=self._destination,
            instance=self._instance,
            partitions=tuple(partitions),
            window_start=self._window_start,
            window_end=now,
            mode=self._modes.mode.value,
            pending={lane.value: count for lane, count in counts.items()},
            in_flight=delivery.scheduler.in_flight,
            parked=parked,
            shadowed=delivery.shadows.count,
            oldest_open_since=oldest,
            last_confirmed_at=self._confirmed_at,
            last_confirmed_revision=self._confirmed,
            concurrency=delivery.limiter.allowed,
            double_occupied=self._double_occupied(),
            windows=self._windows.roll(),
            stuck=tuple(self._shown(each) for each in stuck),
        )
        self._window_start = now
        return report

    def _shown(self, stuck: Stuck) -> Stuck:
        """With an id that names no person, or a digest in its place."""
        if stuck.entity_type in NAMED_TYPES:
            return stuck
        digest = subject(stuck.subject.encode(), self._process.settings.digest_key())
        return msgspec.structs.replace(stuck, subject=digest)

    async def _publish(self, publisher: Publisher, topic: str, key: bytes, record: LagReport | ModeChange) -> None:
        with contextlib.suppress(PublishFailed):  # the publisher has told of it
            await publisher.publish([OutRecord(topic, key, self._process.codec.encode(record))])


def _figures(delivery: Delivery, now: Millis) -> Figures:
    oldest = delivery.scheduler.oldest_since()
    wait_s = max(0.0, (now - oldest) / 1000) if oldest is not None else 0.0
    return Figures(delivery.breaker.is_open, len(delivery.scheduler), wait_s)


def _key(accepted: Accepted) -> bytes:
    return EntityKey(accepted.tenant, accepted.entity_type.value, accepted.namespace, accepted.entity_id).encode()
