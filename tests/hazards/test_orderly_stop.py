"""SIGTERM in the middle of an event: the role is gone in time, and the event is finished by whoever comes next."""

import time
from pathlib import Path

import pytest

from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from pipeline.local.servers.faults import Fault, FaultKind
from tests.hazards.at_ehr import proxied
from tests.hazards.faulty import Strike
from tests.hazards.harness import OWNER, STATES, site, until

GRACE_S = 30.0
"""20 s that the role has, and what a busy machine adds."""


@pytest.mark.long
@pytest.mark.timeout(200)
def test_a_writer_that_is_told_to_stop_amid_a_write_leaves_in_time_and_the_write_is_finished(
    broker: Broker, owner: Ehr, tmp_path: Path
) -> None:
    with (
        proxied(owner, tmp_path / "p") as proxy,
        site(tmp_path / "s", broker.bootstrap, {OWNER: proxy.url}, writers={OWNER: {"attempt_timeout_s": 100}}) as to,
    ):
        to.start("gate")
        name = to.start("writer", OWNER)
        to.publish(to.bed("T/1/A", STATES[0]))
        to.wait_confirmed(to.wait_head("T/1/A"))
        proxy.set(Fault(kind=FaultKind.LATENCY, methods=("PUT",), amount=90, times=1))
        to.publish(to.bed("T/1/A", STATES[1]))
        until(lambda: proxy.struck() == 1, "a write that hangs")
        began = time.monotonic()
        to.terminate(name)
        to.exit_code(name)
        assert time.monotonic() - began < GRACE_S
        proxy.set()
        to.start("writer", OWNER)
        to.settle(ehrs={OWNER: owner.base_url})


@pytest.mark.long
@pytest.mark.timeout(200)
def test_a_gate_that_is_told_to_stop_amid_a_batch_leaves_in_time_and_the_batch_is_judged(
    broker: Broker, owner: Ehr, tmp_path: Path
) -> None:
    with site(tmp_path / "s", broker.bootstrap, {OWNER: owner.base_url}) as to:
        to.start("writer", OWNER)
        name = to.start("gate", with_faults=True)
        to.arm(name, Strike("outputs", "wait", seconds=60.0))
        to.publish(*(to.bed(f"T/{n}/A", STATES[0]) for n in range(8)))
        to.wait_struck(name)
        began = time.monotonic()
        to.terminate(name)
        to.exit_code(name)
        assert time.monotonic() - began < GRACE_S
        to.start("gate", with_faults=True)
        to.settle()
