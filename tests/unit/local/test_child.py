"""Child processes: told failures, bounded waits, repeatable stops."""

import os
import sys
from pathlib import Path

import pytest

from pipeline.local.child import Child
from pipeline.local.errors import LocalPlatformError

SLEEP = "import time; print('ready', flush=True); time.sleep(600)"
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"


def child(tmp_path: Path, code: str) -> Child:
    return Child("the program", [sys.executable, "-c", code], tmp_path, tmp_path / "child.log")


def said_ready(of: Child) -> bool:
    return of.log.exists() and "ready" in of.log.read_text()


def test_program_that_ends_while_starting_is_told_with_its_last_lines(tmp_path: Path) -> None:
    failing = child(tmp_path, "raise SystemExit('the disk is full')")
    failing.start()
    with pytest.raises(LocalPlatformError, match="the program ended with 1 while it was starting") as failure:
        failing.wait_until(lambda: False, timeout_s=30)
    assert "the disk is full" in str(failure.value)
    assert str(failing.log) in str(failure.value)


def test_wait_is_bounded_and_leaves_nothing_behind(tmp_path: Path) -> None:
    slow = child(tmp_path, SLEEP)
    slow.start()
    with pytest.raises(LocalPlatformError, match=r"was not ready after 0\.2 s"):
        slow.wait_until(lambda: False, timeout_s=0.2)
    assert not slow.running


def test_interrupt_from_the_keyboard_does_not_reach_the_program(tmp_path: Path) -> None:
    program = child(tmp_path, SLEEP)
    program.start()
    assert os.getpgid(program.pid) != os.getpgid(0)
    assert os.getsid(program.pid) == os.getsid(0)
    program.kill()


def test_start_stop_and_kill_may_be_repeated(tmp_path: Path) -> None:
    program = child(tmp_path, SLEEP)
    program.start()
    pid = program.pid
    program.start()
    assert program.pid == pid
    program.stop(timeout_s=10)
    program.stop(timeout_s=10)
    program.kill()
    assert not program.running
    with pytest.raises(LocalPlatformError, match="not running"):
        _ = program.pid
    program.start()
    assert program.running
    program.kill()


def test_program_that_ignores_the_request_to_stop_is_killed(tmp_path: Path) -> None:
    deaf = child(tmp_path, DEAF)
    deaf.start()
    deaf.wait_until(lambda: said_ready(deaf), timeout_s=30)
    deaf.stop(timeout_s=0.2)
    assert not deaf.running
