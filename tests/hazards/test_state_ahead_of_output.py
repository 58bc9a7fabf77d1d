"""Killed between any two steps of a batch, with the disk kept or lost: everything in comes out, once by effect."""

from pathlib import Path

import pytest

from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from tests.hazards.faulty import Point, Strike
from tests.hazards.harness import OWNER, SHORT, STATES, Site, site

POINTS: tuple[Point, ...] = ("outputs", "changelog", "store")
BEDS = 12


def changes(to: Site, step: int) -> None:
    to.publish(*(to.bed(f"K/{bed}/A", STATES[step % 4], staffed=bool(step % 3)) for bed in range(BEDS)))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("role", [("gate",), ("writer", OWNER)], ids=["gate", "writer"])
def test_a_kill_between_outputs_changelog_store_and_ack_loses_nothing_with_disk_kept_and_wiped(
    broker: Broker, owner: Ehr, tmp_path: Path, role: tuple[str, ...]
) -> None:
    with site(tmp_path / "s", broker.bootstrap, {OWNER: owner.base_url}) as to:
        other = ("writer", OWNER) if role == ("gate",) else ("gate",)
        to.start(*other)
        step = 0
        for point in POINTS:
            # In short, one of the two for each: the role that is tried second takes the other.
            for wiped in ((POINTS.index(point) % 2 == 0) == (role == ("gate",)),) if SHORT else (False, True):
                name = to.start(*role, with_faults=True)
                changes(to, step := step + 1)
                to.arm(name, Strike(point, "kill", nth=2 if point == "changelog" else 1))  # the store is written per partition
                changes(to, step := step + 1)
                to.wait_struck(name)
                assert to.exit_code(name) == -9
                if wiped:
                    to.wipe(name)
        to.start(*role)
        books = to.settle()
        assert books.topics
        assert sum(topic.positions for topic in books.topics) == step * BEDS
