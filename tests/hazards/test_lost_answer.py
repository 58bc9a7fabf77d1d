"""A destination that does what it is asked and is cut off before it says so: read back, and nothing is written twice."""

from pathlib import Path

import pytest

from pipeline.domain.records import OutcomeKind
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from pipeline.local.servers.faults import Fault, FaultKind
from tests.hazards.at_ehr import proxied, revisions_of
from tests.hazards.harness import OWNER, STATES, Site, site

BEDS = tuple(f"L/{n}/A" for n in range(4))


def change(to: Site, step: int) -> None:
    """Publish a change of each bed; wait until the EHR is known to show it."""
    events = [to.bed(bed, STATES[step]) for bed in BEDS]
    to.publish(*events)
    for event in events:
        to.wait_confirmed(to.wait_head(event.entity_id, event.event_id))


@pytest.mark.timeout(240)
def test_a_write_whose_answer_is_lost_is_found_by_reading_and_the_history_shows_each_revision_once(
    broker: Broker, owner: Ehr, tmp_path: Path
) -> None:
    with proxied(owner, tmp_path / "p") as proxy, site(tmp_path / "s", broker.bootstrap, {OWNER: proxy.url}) as to:
        to.start("gate", wait=False)
        to.start("writer", OWNER)
        # Searches are POSTs like creates; both are struck.
        proxy.set(Fault(kind=FaultKind.RESET_AFTER_COMMIT, methods=("POST",), probability=0.5, times=2 * len(BEDS)))
        change(to, 0)
        for step, kind in ((1, FaultKind.RESET_AFTER_COMMIT), (2, FaultKind.TRUNCATED)):
            proxy.set(Fault(kind=kind, methods=("PUT",), times=len(BEDS)))
            change(to, step)
            assert proxy.struck() == len(BEDS), "each first write lost its answer"
        proxy.set()
        to.settle(ehrs={OWNER: owner.base_url})
        for bed in BEDS:
            versions = to.versions(bed, owner.base_url)
            assert len(versions) == len(revisions_of(versions)) == 3, "each revision was written once"
        updates = [o for o in to.outcomes() if o.after]
        assert {o.kind for o in updates} == {OutcomeKind.CONFIRMED}, "found within the attempt, not tried again"
