"""A recovery that gets on is left alone, however long it takes; one that stands still is ended."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipeline.ops.health import Heartbeat
from pipeline.ops.watchdog import Bounds, Cause, Watchdog
from pipeline.roles.gates.tables import START, table_hooks
from pipeline.roles.process import Process
from pipeline.stream.worker.progress import RECOVERY_STALL_S, Pace, Progress

START_TIMEOUT_S = 120.0


def test_a_slow_recovery_that_gets_on_is_left_alone() -> None:
    progress = Progress()
    paces = [progress.look(100 - step, step * (RECOVERY_STALL_S - 1)) for step in range(100)]
    assert paces == [Pace.IDLE] + [Pace.GETS_ON] * 99


def test_a_recovery_that_stands_still_is_ended_and_one_that_is_over_is_not() -> None:
    progress = Progress()
    assert progress.look(7, 0.0) is Pace.IDLE
    assert progress.look(7, RECOVERY_STALL_S - 0.1) is Pace.STANDS
    assert progress.look(7, RECOVERY_STALL_S) is Pace.STALLED
    assert progress.look(0, 2 * RECOVERY_STALL_S) is Pace.IDLE
    assert progress.look(0, 9 * RECOVERY_STALL_S) is Pace.IDLE


def test_a_recovery_that_begins_anew_has_not_got_on_by_that() -> None:
    progress = Progress()
    assert [progress.look(remaining, 0.0) for remaining in (7, 9, 0, 9)] == [Pace.IDLE] * 4


@pytest.mark.parametrize("phase", [START, "rebalance"])
def test_a_recovery_that_reads_on_for_longer_than_a_start_may_take_is_not_ended_and_one_that_stops_reading_is(phase: str) -> None:
    now = [1_000.0]
    ended: list[Cause] = []
    dog = Watchdog(Heartbeat(lambda: now[0]), Bounds(1e6, 1e6, 1), lambda cause, _: ended.append(cause), lambda: now[0])
    settings = SimpleNamespace(worker=SimpleNamespace(start_timeout_s=START_TIMEOUT_S))
    process = cast(Process, SimpleNamespace(watchdog=dog, settings=settings, prefix=""))
    nothing: Any = None
    hooks = table_hooks(process, "heads", nothing, lambda _: None)
    dog.begin(phase, START_TIMEOUT_S)
    for _ in range(10):
        now[0] += START_TIMEOUT_S - 1
        hooks.gets_on()
        dog.check()
    assert ended == []
    now[0] += START_TIMEOUT_S + 1
    dog.check()
    assert ended == [Cause.PHASE_OVERDUE]


def test_what_gets_on_without_having_begun_is_not_awaited() -> None:
    now = [0.0]
    ended: list[Cause] = []
    dog = Watchdog(Heartbeat(lambda: now[0]), Bounds(1e6, 1e6, 1), lambda cause, _: ended.append(cause), lambda: now[0])
    dog.renew(START, 1.0)
    now[0] = 1_000.0
    dog.check()
    assert ended == []


def test_a_rebalance_of_one_that_had_nothing_must_end_too() -> None:
    now = [1_000.0]
    ended: list[Cause] = []
    dog = Watchdog(Heartbeat(lambda: now[0]), Bounds(1e6, 1e6, 1), lambda cause, _: ended.append(cause), lambda: now[0])
    settings = SimpleNamespace(worker=SimpleNamespace(start_timeout_s=START_TIMEOUT_S))
    process = cast(Process, SimpleNamespace(watchdog=dog, settings=settings, prefix=""))
    nothing: Any = None
    hooks = table_hooks(process, "heads", nothing, lambda _: None)
    hooks.revoked(frozenset())
    hooks.started()
    now[0] += START_TIMEOUT_S + 1
    dog.check()
    assert ended == [], "it came to its end"
    hooks.revoked(frozenset())
    now[0] += START_TIMEOUT_S + 1
    dog.check()
    assert ended == [Cause.PHASE_OVERDUE]
