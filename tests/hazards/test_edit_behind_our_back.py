"""Reconciliation with a real broker and a real EHR: what somebody else changed there is found, put right, and stays equal."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

from pipeline.domain.reconcile.record import Reconciliation, Remedy, Rule, Scope, Stage
from pipeline.kafka.holdings import Holdings
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from pipeline.ops.topics import KafkaTopics
from tests.hazards.at_ehr import ask, locations
from tests.hazards.harness import OWNER, STATES, Site, site, until
from tests.support.stacks import surgeline

pytestmark = [pytest.mark.timeout(300)]

BEDS: Final = ("SECRET-1", "SECRET-2", "SECRET-3")
JSON: Final = {"Content-Type": "application/fhir+json"}
SETTINGS: Final = {"reconcile": {"every_s": 86_400, "page_count": 50}}


def ended(to: Site, cause_is_order: bool) -> Reconciliation:
    """The newest run of that kind, once it has ended."""
    found: list[Reconciliation] = []

    def has_ended() -> bool:
        runs = [record for _, record in to.records("reconciliations") if isinstance(record, Reconciliation)]
        found[:] = [run for run in runs if run.stage is Stage.DONE and (run.order is not None) is cause_is_order]
        return bool(found)

    until(has_ended, "a run ends")
    return found[-1]


def is_settled(to: Site) -> bool:
    """Whether the writer's own table says of each head that it is confirmed; it learns so a moment after the outcome."""
    holdings = Holdings(KafkaTopics(to.kafka), (OWNER,))
    holdings.refresh()
    told = holdings.told[OWNER]
    return all(key in told and told[key].confirmed == held.revision for key, held in holdings.held.items())


def changed_by_another(to: Site, bed: str) -> None:
    (body,) = locations(to.ehr_url, to.tenant, bed)
    kept = [each for each in body["extension"] if not each["url"].endswith("/bed-environment")]
    edited: dict[str, Any] = {**body, "extension": kept}
    ask(f"{to.ehr_url}/Location/{body['id']}", "PUT", json.dumps(edited).encode(), JSON)


def test_an_edit_behind_our_back_is_found_and_put_right(broker: Broker, owner: Ehr, tmp_path: Path) -> None:
    with site(tmp_path / "s", broker.bootstrap, {OWNER: owner.base_url}, **SETTINGS) as to:
        to.start_all(("gate",), ("writer", OWNER))
        to.publish(*(sent := [to.bed(bed, STATES[0]) for bed in BEDS]))
        for event in sent:
            to.wait_confirmed(to.wait_head(event.entity_id, event.event_id))
        until(lambda: is_settled(to), "the writer knows that all is confirmed")
        changed_by_another(to, BEDS[1])
        to.start("reconcile")
        first = ended(to, cause_is_order=False)
        assert (first.scope, first.entities, first.equal, first.unread) == (Scope.FULL, 3, 2, 0)
        assert [(each.rule, each.remedy, each.count) for each in first.findings] == [(Rule.OURS_TO_WRITE, Remedy.REASSERT, 1)]
        assert (first.repaired, first.drifts[0].fields) == (1, ("environment",))
        to.wait_confirmed(to.wait_head(BEDS[1], previous=1))
        until(lambda: is_settled(to), "the writer knows that the repair is confirmed")
        done = surgeline(to.stack, "reconcile", "run", "--reason", "look again")
        assert done.returncode == 0, done.stderr
        again = ended(to, cause_is_order=True)
        assert (again.scope, again.findings, again.balances) == (Scope.INCREMENTAL, (), True)
        assert again.equal == again.entities > 0
        shown = surgeline(to.stack, "reconcile", "show", first.run)
        assert "OURS_TO_WRITE" in shown.stdout
        assert "SECRET" not in shown.stdout
        to.settle()
