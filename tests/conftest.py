"""What every suite shares: Hypothesis profiles, and the test data of independent origin."""

import os
import shutil
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY: Final = Path(__file__).resolve().parents[1]
NO_SHARED_DATA: Final = "SURGELINE_SHARED_DATA is absent"
NO_KUSTOMIZE: Final = "neither kustomize nor kubectl is installed"
NO_OBJECT_STORE: Final = "versitygw is not installed (make objects)"
NO_SSHD: Final = "sshd is not installed (Debian: openssh-server)"

MEMORY: Final = Path("/dev/shm")
MEMORY_FREE_BYTES: Final = 4 << 30
"""A run of all tests leaves some ten megabytes there."""

# RocksDB opens a table with a dozen fsyncs and keeps Python's lock meanwhile. On a busy disk that took four seconds: the watchdog
# ends a process that stood still for half a session, and tests have short ones.
if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > MEMORY_FREE_BYTES:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

# A test's broker lives for minutes: what Java's second compiler makes of it costs twice the processor time, and gives none back.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")

# Every profile prints how to reproduce a failure. Deadlines per example are off: other work shares the machine.
# A test run tries the same examples each time, so that a change is judged by what it changes; HYPOTHESIS_PROFILE=long hunts.
settings.register_profile(
    "ci", max_examples=60, deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("long", settings.get_profile("ci"), max_examples=2000, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def shared_data_folder() -> Path:
    """Folder named by SURGELINE_SHARED_DATA, by default `../shared/data` beside the repository; may not exist."""
    return Path(os.environ.get("SURGELINE_SHARED_DATA") or REPOSITORY.parent / "shared" / "data").absolute()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Data of independent origin; the test is skipped, and the end of the run says so, where it is absent."""
    folder = shared_data_folder()
    if not folder.is_dir():
        pytest.skip(NO_SHARED_DATA)
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say aloud how many tests had no data or no tool, whatever the verbosity."""
    for reason in (NO_SHARED_DATA, NO_KUSTOMIZE, NO_OBJECT_STORE, NO_SSHD):
        skipped = [report for report in terminalreporter.stats.get("skipped", []) if reason in str(report.longrepr)]
        if skipped:
            terminalreporter.section(f"{len(skipped)} TESTS SKIPPED: {reason}", sep="!", red=True)
            for report in skipped:
                terminalreporter.line(report.nodeid)
