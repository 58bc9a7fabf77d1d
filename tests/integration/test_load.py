"""A load on the whole pipeline, sent, measured and judged by Locust as a user runs it: in one process, and by two workers."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from loadtest.report import LoadReport, read
from loadtest.target import HttpTarget, MllpTarget, Target, write
from pipeline.local.ports import HOST, free_port
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from pipeline.local.stack import Stack
from pipeline.local.stack import Target as EhrTarget
from tests.support.stacks import ANSWER_S, stack_at, stopped_at_end

pytestmark = pytest.mark.integration

REPOSITORY: Final = Path(__file__).resolve().parents[2]
ENDS_S: Final = 240.0
LIMITS: Final = """
version: 1
all:
  {lost: 0, refused: 0, left: 0, open: 0, parked: 0, slip_p99_ms: 60000, drained_s: 120,
   lanes: {critical: {p99_ms: 120000, at_least: 1}}, answered_p99_ms: {HTTP: 60000, MLLP: 60000}}
"""


@pytest.fixture(scope="module")
def pipeline(broker: Broker, ehr_replica: Ehr, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One of its own: the books that a load is judged by are those of all that its topics ever held."""
    target = EhrTarget("ehr", "replica", "sekmet-replica", ehr_replica.base_url)
    with stopped_at_end(stack_at(tmp_path_factory.mktemp("load"), broker.bootstrap, target)) as stack:
        stack.wait_ready(*stack.start_all(), timeout_s=ANSWER_S * 2)
        yield stack


def locust(folder: Path, stack: Stack, *arguments: str) -> list[str]:
    """The command, with a target and thresholds in `folder`."""
    (folder / "token").write_text(stack.token)
    write(
        Target(str(stack.settings_file), HttpTarget(stack.http_url, "token"), MllpTarget(HOST, stack.mllp_port)),
        folder / "target.yaml",
    )
    (folder / "thresholds.yaml").write_text(LIMITS)
    files = ["--target", str(folder / "target.yaml"), "--thresholds", str(folder / "thresholds.yaml"), "--report", str(folder)]
    return [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary", *files, *arguments]


def run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=ENDS_S, check=False)


def report_of(done: "subprocess.CompletedProcess[str]", folder: Path) -> LoadReport:
    """The report of a run that held; the log names thresholds and figures only."""
    assert done.returncode == 0, done.stderr[-4_000:]
    return read(folder / "report.json")


def patients_in(text: str) -> list[str]:
    """Names that the simulated house gives its patients."""
    return [word for word in ("Madeup", "Person", "PID|") if word in text]


def test_a_load_is_sent_confirmed_and_judged_and_its_files_name_no_patient(pipeline: Stack, tmp_path: Path) -> None:
    out = ["--html", str(tmp_path / "locust.html"), "--csv", str(tmp_path / "locust")]
    done = run(locust(tmp_path, pipeline, "--shape", "retry-storm", "--time", "0.03", "--seed", "71", *out))
    report = report_of(done, tmp_path)
    assert report.sent.answered == report.sent.messages > 0
    assert report.verdicts["ACCEPTED"] > 0
    assert sum(way.answered for way in report.ways) == report.sent.messages
    assert any(lane.lane == "critical" and lane.changes and lane.seen_p99_ms is not None for lane in report.lanes)
    written = [file.read_text(errors="replace") for file in tmp_path.iterdir() if file.name != "token"]
    assert [patients_in(text) for text in (*written, done.stdout, done.stderr)] == [[]] * (len(written) + 2)
    assert pipeline.token not in "".join((*written, done.stdout, done.stderr))


def test_two_workers_send_one_load_and_trouble_that_could_not_be_made_fails_it(pipeline: Stack, tmp_path: Path) -> None:
    port = str(free_port())
    shape = ["--shape", "slow-ehr", "--rate", "0.5", "--time", "0.03", "--seed", "72"]
    lead = locust(tmp_path, pipeline, *shape, "--master", "--master-bind-port", port, "--expect-workers", "2")
    follow = locust(tmp_path, pipeline, "--worker", "--master-host", HOST, "--master-port", port)
    environment = dict(os.environ)
    workers = [
        subprocess.Popen(follow, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(2)
    ]
    try:
        done = run(lead)
    finally:
        for worker in workers:
            worker.terminate()
            worker.wait(30)
    assert done.returncode == 1, done.stderr[-4_000:]
    report = read(tmp_path / "report.json")
    assert [check.name for check in report.checks if not check.held] == ["the trouble was made"]
    assert report.sent.workers == 2
    assert report.sent.answered == report.sent.messages > 0
    assert report.verdicts.keys().isdisjoint({"CONFLICT", "QUARANTINED"})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--shape", "mass-casualty", "--rate", "100"], "lower the rate or the time"),
        (["--rate", "0"], "above zero"),
    ],
)
def test_a_load_that_could_not_be_sent_ends_before_it_begins(
    pipeline: Stack, tmp_path: Path, arguments: list[str], says: str
) -> None:
    done = run(locust(tmp_path, pipeline, *arguments))
    assert done.returncode == 2
    assert says in done.stderr
