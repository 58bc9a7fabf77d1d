"""Ends a process that can't be trusted any more: its loop stalls, a phase takes too long, or its clock has jumped.

Guaranteed: the watchdog notices within one tick of running again, and ends the process with `os._exit`, which no handler,
`finally` or buffered write survives. The loop's own `Beat` checks the clock as well, at the start of each turn that it
takes part in, so whatever the loop awaits behind `Beat.check` does not run first. Not guaranteed: after SIGCONT the
kernel chooses which thread runs first, so a callback that was already running, or ready, may go on for up to one tick,
and a record already handed to librdkafka may leave. Kafka's fencing does not stop it either; only the destination's
own version check does.
"""

import asyncio
import enum
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipeline.ops import log_catalogue as lines
from pipeline.ops.health import Heartbeat
from pipeline.ops.logs import emit
from pipeline.ops.metrics import LOOP_STALL_SECONDS

STALLED_CODE: Final = 82
OVERDUE_CODE: Final = 83
JUMPED_CODE: Final = 84
BEAT_S: Final = 0.25
NOTICED_STALL_S: Final = 1.0
LOG_WITHIN_S: Final = 0.2


class Cause(enum.StrEnum):
    """Why a process was ended."""

    LOOP_STALLED = "loop_stalled"
    PHASE_OVERDUE = "phase_overdue"
    CLOCK_JUMPED = "clock_jumped"


CODES: Final = {Cause.LOOP_STALLED: STALLED_CODE, Cause.PHASE_OVERDUE: OVERDUE_CODE, Cause.CLOCK_JUMPED: JUMPED_CODE}


def boot_clock() -> float:
    """Seconds, counting those for which the machine was suspended; where the system has no such clock, without them."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


@dataclass(frozen=True, slots=True)
class Bounds:
    """All bounds, in seconds. `jump_s` is half of the Kafka session: longer away, and others may own our partitions."""

    stall_s: float
    jump_s: float
    tick_s: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.tick_s < min(self.stall_s, self.jump_s):
            raise ValueError("a tick is shorter than every bound")


@dataclass(frozen=True, slots=True)
class _Phase:
    name: str
    until: float


class Watchdog:
    """A daemon thread. `end` is called once with cause and seconds; the default never returns."""

    def __init__(
        self,
        heartbeat: Heartbeat,
        bounds: Bounds,
        end: Callable[[Cause, float], None] | None = None,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self._heartbeat = heartbeat
        self._bounds = bounds
        self._end = end or exit_now
        self._clock = clock
        self._last = clock()
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="surgeline-watchdog", daemon=True)
        self._watches_loop = True

    def start(self, *, loop: bool = True) -> "Watchdog":
        """Begin to watch; call before anything is read that another instance may change. Without `loop` only clock and phases."""
        self._last = self._clock()
        self._watches_loop = loop
        self._heartbeat.beat()
        self._thread.start()
        return self

    def watch_loop(self) -> None:
        """The loop runs from now on: it must not stall."""
        self._heartbeat.beat()
        self._watches_loop = True

    def stop(self) -> None:
        """Watch no longer: for an orderly end, which has a bound of its own."""
        self._stop.set()

    def begin(self, phase: str, within_s: float) -> None:
        """A start-up, a rebalance or a recovery begins; it must `finish` in time."""
        with self._lock:
            self._phases[phase] = _Phase(phase, self._clock() + within_s)

    def renew(self, phase: str, within_s: float) -> None:
        """The phase gets on, and has its time anew from now; one that is not under way does not begin by this."""
        with self._lock:
            if phase in self._phases:
                self._phases[phase] = _Phase(phase, self._clock() + within_s)

    def finish(self, phase: str) -> None:
        """The phase is over; harmless if it never began."""
        with self._lock:
            self._phases.pop(phase, None)

    def check_clock(self) -> None:
        """End the process if it was away for longer than `jump_s`. Called by the watchdog's thread and by the loop's beat."""
        with self._lock:
            now = self._clock()
            away, self._last = now - self._last, now
        if away > self._bounds.jump_s:
            self._end(Cause.CLOCK_JUMPED, away)

    def check(self) -> None:
        """One tick: clock, loop, phases, in this order."""
        self.check_clock()
        if self._watches_loop and (age_s := self._heartbeat.age_s) > self._bounds.stall_s:
            self._end(Cause.LOOP_STALLED, age_s)
        now = self._clock()
        with self._lock:
            overdue = [phase for phase in self._phases.values() if now > phase.until]
        if overdue:
            self._end(Cause.PHASE_OVERDUE, now - overdue[0].until)

    def _run(self) -> None:
        while not self._stop.wait(self._bounds.tick_s):
            self.check()


def exit_now(cause: Cause, seconds: float) -> None:
    """Leave at once, with the code of the cause, and log why if that takes no longer than LOG_WITHIN_S.

    After a jump of the clock nothing is logged: each moment is one in which a process without its partitions may act.
    """
    if cause is not Cause.CLOCK_JUMPED:
        fields = {"cause": cause.value, "status": CODES[cause], "duration_ms": seconds * 1000}
        writer = threading.Thread(target=emit, args=(lines.ROLE_EXITS,), kwargs=fields, daemon=True)
        writer.start()
        writer.join(LOG_WITHIN_S)
    os._exit(CODES[cause])


class Beat:
    """The loop's side: beats while the loop runs, and looks at the clock before anything is done after a pause."""

    def __init__(self, heartbeat: Heartbeat, watchdog: Watchdog, clock: Callable[[], float] = time.monotonic) -> None:
        self._heartbeat = heartbeat
        self._watchdog = watchdog
        self._clock = clock

    def check(self) -> None:
        """Call before an effect that only the owner of a partition may have: a write, an acknowledgement."""
        self._watchdog.check_clock()

    async def run(self) -> None:
        """Beat until cancelled; notes by how much each beat came late."""
        while True:
            before = self._clock()
            await asyncio.sleep(BEAT_S)
            self._watchdog.check_clock()
            self._heartbeat.beat()
            late_s = max(0.0, self._clock() - before - BEAT_S)
            LOOP_STALL_SECONDS.of().observe(late_s)
            if late_s > NOTICED_STALL_S:
                emit(lines.LOOP_STALLED, duration_ms=late_s * 1000)
