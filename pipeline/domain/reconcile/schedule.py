"""When which destination is compared, and why: from the runs, orders and troubles that lie on the topics. Pure.

All of it is read again by a process that starts, so a restart neither forgets a run that is due nor begins one twice.
"""

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Final

from pipeline.domain.identifiers import CLOCKS_MS, Millis
from pipeline.domain.reconcile.record import Cause, Reconciliation, ReconciliationOrder, Scope, Stage

DAY_MS: Final = 86_400_000
MAX_ORDERS: Final = 1_000
"""Orders remembered, the latest."""
RETRY_MS: Final = 60_000
"""A run that was broken off is tried again after this; one that left something unread at the next regular time."""
NEVER: Final = Millis(0)


@dataclass(frozen=True, slots=True)
class Times:
    """`nightly_ms`: time of day, UTC, since midnight."""

    every_ms: int
    nightly_ms: int


@dataclass(frozen=True, slots=True)
class Due:
    """A run that is to begin now."""

    destination: str
    scope: Scope
    cause: Cause
    order: ReconciliationOrder | None = None


@dataclass(slots=True)
class _Known:
    """What lies on the topics about one destination."""

    runs: dict[str, Reconciliation] = field(default_factory=dict)
    full_at: Millis = NEVER
    any_at: Millis = NEVER
    changed_until: Millis = NEVER
    last: Reconciliation | None = None
    recovered_at: Millis = NEVER
    gap_at: Millis = NEVER


class Schedule:
    """What is due. Feed it with records in the order of their topics."""

    def __init__(self, times: Times, destinations: tuple[str, ...]) -> None:
        self.destinations: Final = destinations
        self._times = times
        self._known = {name: _Known() for name in destinations}
        self._orders: dict[str, ReconciliationOrder] = {}
        self._answered: set[str] = set()

    def on_run(self, run: Reconciliation) -> None:
        """A run begins, goes on or ends."""
        known = self._known.get(run.destination)
        if known is None:
            return
        if run.stage is Stage.RUNNING:
            known.runs[run.run] = run
        else:
            known.runs.pop(run.run, None)
        if run.order is not None and run.stage in (Stage.DONE, Stage.PARTIAL):
            self._orders.pop(run.order, None)
            self._answered.add(run.order)
        known.last = run
        if run.stage is Stage.DONE and not run.dry_run:
            # The last one counts, not the latest: a clock may have been wrong.
            known.any_at = run.begun_at
            # Of a destination that dates a change in the future all until then would be passed over.
            known.changed_until = max(known.changed_until, min(run.changed_until, run.begun_at))
            if run.scope is Scope.FULL:
                known.full_at = run.begun_at

    def on_order(self, order: ReconciliationOrder) -> None:
        """An operator orders a run."""
        if order.destination in self._known and order.order not in self._answered:
            self._orders[order.order] = order
            while len(self._orders) > MAX_ORDERS:
                del self._orders[next(iter(self._orders))]

    def on_recovered(self, destination: str, at: Millis) -> None:
        """What had waited for a destination that was away is written."""
        if destination in self._known:
            known = self._known[destination]
            known.recovered_at = max(known.recovered_at, at)

    def on_gap(self, destination: str, at: Millis) -> None:
        """A subscription at its server missed something."""
        if destination in self._known:
            known = self._known[destination]
            known.gap_at = max(known.gap_at, at)

    def running(self) -> list[Reconciliation]:
        """Runs that have begun and not ended."""
        return [run for known in self._known.values() for run in known.runs.values()]

    def changed_until(self, destination: str) -> Millis:
        """Latest change that whole runs have read there, by the destination's clock; 0 for none."""
        return self._known[destination].changed_until

    def begun_at(self, destination: str) -> Millis:
        """When the last whole run began, by our clock; 0 for none."""
        return self._known[destination].any_at

    def due(self, now: Millis, blocked: Container[str] = ()) -> Due | None:
        """The run that is to begin now: orders first, then what was never compared or was away, then what changed.

        None at a destination that is `blocked` by its mode: it holds up no other.
        """
        for order in self._orders.values():
            if order.destination not in blocked and not self._waits(self._known[order.destination], now, order):
                return Due(order.destination, order.scope, Cause.ORDER, order)
        by_urgency = sorted(self._known.items(), key=lambda each: (each[1].any_at, each[0]))
        found = [
            (name, wanted)
            for name, known in by_urgency
            if name not in blocked and not self._waits(known, now, None) and (wanted := self._wanted(known, now)) is not None
        ]
        found.sort(key=lambda each: each[1][0] is not Scope.FULL)
        return Due(found[0][0], *found[0][1]) if found else None

    def _wanted(self, known: _Known, now: Millis) -> tuple[Scope, Cause] | None:
        full_at, any_at = _by_clock(known.full_at, now), _by_clock(known.any_at, now)
        if self._is_behind(full_at, known.recovered_at, now):
            return Scope.FULL, Cause.RECOVERED
        if self._night(now) > full_at:
            return Scope.FULL, Cause.NIGHTLY
        if self._is_behind(any_at, known.gap_at, now):
            return Scope.INCREMENTAL, Cause.FEED_GAP
        if now - any_at >= self._times.every_ms:
            return Scope.INCREMENTAL, Cause.SCHEDULE
        return None

    def _is_behind(self, compared_at: Millis, happened_at: Millis, now: Millis) -> bool:
        """Whether something happened since; by a clock that is ahead of ours it would have, run after run."""
        return happened_at > compared_at and (happened_at <= now or now - compared_at >= self._times.every_ms)

    def _night(self, now: Millis) -> int:
        """The last time at which everything was to be compared."""
        return (now - self._times.nightly_ms) // DAY_MS * DAY_MS + self._times.nightly_ms

    def _waits(self, known: _Known, now: Millis, order: ReconciliationOrder | None) -> bool:
        """Whether the run before did not come to its end only a moment ago."""
        last = known.last
        if last is None or last.stage is Stage.DONE or (order is not None and last.order != order.order):
            return False
        wait_ms = self._times.every_ms if last.stage is Stage.PARTIAL else RETRY_MS
        ended_at = last.ended_at or last.begun_at
        return ended_at - CLOCKS_MS <= now < ended_at + min(wait_ms, self._times.every_ms)


def _by_clock(at: Millis, now: Millis) -> Millis:
    """A time that was written down, unless no clock can be so far ahead: who wrote it had a wrong one."""
    return at if at <= now + CLOCKS_MS else NEVER
