"""Between recovery and the first record nothing is skipped, however long the seek takes (faust issue 596)."""

from pathlib import Path

import pytest

from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from tests.hazards.faulty import Strike
from tests.hazards.harness import OWNER, site
from tests.hazards.stream import Stream, flowing


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "wiped", [pytest.param(False, id="disk-kept", marks=pytest.mark.long), pytest.param(True, id="disk-wiped")]
)
def test_a_late_seek_after_recovery_leaves_no_gap_and_no_stall(broker: Broker, owner: Ehr, tmp_path: Path, wiped: bool) -> None:
    with site(tmp_path / "s", broker.bootstrap, {OWNER: owner.base_url}) as to:
        roles = (("gate",), ("writer", OWNER))
        names = [to.start(*role, with_faults=True) for role in roles]
        events = Stream(11, beds=12, changes=16).events(to)
        with flowing(to, events, rate_per_s=len(events) / 12):
            for _ in range(2):
                for role, name in zip(roles, names, strict=True):
                    to.kill(name)
                    if wiped:
                        to.wipe(name)
                    to.arm(name, Strike("seek", "wait", seconds=0.5))
                    to.start(*role, with_faults=True)
                    to.wait_struck(name)
        to.settle()
