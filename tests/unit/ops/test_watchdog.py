"""The watchdog ends a process whose loop stalls, whose start takes too long, or that was stopped and resumed."""

import signal
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.ops.health import Heartbeat
from pipeline.ops.watchdog import JUMPED_CODE, OVERDUE_CODE, STALLED_CODE, Bounds, Cause, Watchdog

STOPPED_S = 3.0
BOUNDS = Bounds(stall_s=5, jump_s=10, tick_s=1)


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Run:
    """A watchdog with clocks moved by hand."""

    def __init__(self) -> None:
        self.boot, self.steady = Clock(), Clock()
        self.heartbeat = Heartbeat(self.steady)
        self.ended: list[Cause] = []
        self.dog = Watchdog(self.heartbeat, BOUNDS, lambda cause, _: self.ended.append(cause), self.boot)

    def tick(self, seconds: float, *, beats: bool = True) -> list[Cause]:
        self.boot.now += seconds
        self.steady.now += seconds
        if beats:
            self.heartbeat.beat()
        self.dog.check()
        return self.ended


def test_a_loop_that_beats_lives() -> None:
    run = Run()
    assert [run.tick(1) for _ in range(100)][-1] == []


def test_a_loop_that_stands_still_ends_the_process() -> None:
    run = Run()
    assert run.tick(4, beats=False) == []
    assert run.tick(2, beats=False) == [Cause.LOOP_STALLED]


def test_before_the_loop_runs_a_stall_is_none_and_a_jump_of_the_clock_is_one() -> None:
    run = Run()
    run.dog.start(loop=False)
    assert run.tick(6, beats=False) == []
    run.dog.watch_loop()
    assert run.tick(4, beats=False) == []
    run.dog.stop()
    run.boot.now += 11
    run.dog.check()
    assert run.ended == [Cause.CLOCK_JUMPED]


def test_a_suspended_machine_is_noticed_though_the_steady_clock_stood_still() -> None:
    run = Run()
    run.boot.now += 11
    assert run.tick(0) == [Cause.CLOCK_JUMPED]


def test_a_start_or_rebalance_that_takes_too_long_ends_the_process() -> None:
    run = Run()
    run.dog.begin("rebalance", 3)
    assert run.tick(2) == []
    run.dog.finish("rebalance")
    run.dog.finish("rebalance")
    assert run.tick(2) == []
    run.dog.begin("start", 3)
    assert run.tick(4) == [Cause.PHASE_OVERDUE]


def test_bounds_that_one_tick_could_break_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Bounds(stall_s=1, jump_s=1, tick_s=1)


PROCESS = """
import asyncio, sys, time
from pipeline.ops.health import Heartbeat
from pipeline.ops.watchdog import Beat, Bounds, Watchdog
heartbeat = Heartbeat()
dog = Watchdog(heartbeat, Bounds(stall_s={stall}, jump_s={jump}, tick_s=0.05)).start()
beat = Beat(heartbeat, dog)
async def main():
    asyncio.get_running_loop().create_task(beat.run())
    {body}
asyncio.run(main())
"""
WORK = """
    with open(sys.argv[1], "w", buffering=1) as done:
        while True:
            beat.check()
            done.write(f"{time.clock_gettime(time.CLOCK_BOOTTIME)}\\n")
            await asyncio.sleep(0.01)
"""


def started(code: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True)


def wait_for_lines(file: Path, count: int) -> list[str]:
    pause = threading.Event()
    for _ in range(600):
        if file.exists() and len(found := file.read_text().splitlines()) >= count:
            return found
        pause.wait(0.05)
    raise AssertionError("the process did not begin to work")


def test_a_process_that_was_stopped_and_resumed_exits_before_its_loop_does_anything(tmp_path: Path) -> None:
    file = tmp_path / "work"
    process = started(PROCESS.format(stall=30, jump=2, body=WORK.strip()), str(file))
    try:
        wait_for_lines(file, 5)
        process.send_signal(signal.SIGSTOP)
        threading.Event().wait(STOPPED_S)
        process.send_signal(signal.SIGCONT)
        assert process.wait(30) == JUMPED_CODE
    finally:
        process.kill()
        process.communicate()
    times = [float(line) for line in file.read_text().splitlines()]
    assert max(later - earlier for earlier, later in pairwise(times)) < STOPPED_S


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("await asyncio.sleep(0.2); time.sleep(60)", STALLED_CODE),
        ("dog.begin('start', 0.3); await asyncio.sleep(60)", OVERDUE_CODE),
    ],
)
def test_a_stalled_or_late_process_exits_with_its_code_and_says_why(body: str, code: int) -> None:
    process = started(PROCESS.format(stall=1, jump=30, body=body))
    try:
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == code
    assert '"event": "role.exits"' in errors
