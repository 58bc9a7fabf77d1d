"""A broker that goes away: workers recover, or exit within a bound and are started again; nothing is lost."""

import time
from pathlib import Path

import pytest

from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from tests.hazards.harness import OWNER, STATES, site

AWAY_S = 35.0


@pytest.mark.long
@pytest.mark.timeout(290)
def test_a_broker_that_is_killed_and_stays_away_costs_no_event(broker: Broker, owner: Ehr, tmp_path: Path) -> None:
    with site(tmp_path / "s", broker.bootstrap, {OWNER: owner.base_url}) as to:
        names = [to.start("gate"), to.start("writer", OWNER)]
        try:
            to.publish(*(to.bed(f"D/{n}/A", STATES[0]) for n in range(20)))
            with to.supervised(*names):
                broker.kill()
                time.sleep(AWAY_S)
                broker.start()
                to.publish(*(to.bed(f"D/{n}/A", STATES[1]) for n in range(20)))
                to.settle()
        finally:
            broker.start()


@pytest.mark.long
@pytest.mark.timeout(290)
def test_a_broker_that_dies_while_workers_start_delays_them_and_no_more(broker: Broker, owner: Ehr, tmp_path: Path) -> None:
    with site(tmp_path / "s", broker.bootstrap, {OWNER: owner.base_url}) as to:
        to.publish(*(to.bed(f"D/{n}/A", STATES[0]) for n in range(20)))
        names = [to.start("gate", wait=False), to.start("writer", OWNER, wait=False)]
        try:
            with to.supervised(*names):
                time.sleep(1.5)
                broker.kill()
                time.sleep(5.0)
                broker.start()
                to.publish(*(to.bed(f"D/{n}/A", STATES[1]) for n in range(20)))
                to.settle()
        finally:
            broker.start()
