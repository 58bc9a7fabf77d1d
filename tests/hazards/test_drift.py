"""Drift behind our back: all of it is found, named once and repaired where the rule allows, and live changes go on meanwhile."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from pipeline.domain.event import EventType
from pipeline.domain.reconcile.record import Reconciliation, ReconciliationOrder, Remedy, Rule, Scope, Stage
from pipeline.domain.records import Audit, Control
from pipeline.formats.fhir.revision import read_mark
from pipeline.kafka.holdings import Holdings
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.standin_child import StandInChild
from pipeline.ops.topics import KafkaTopics
from tests.hazards.at_ehr import ask
from tests.hazards.harness import OWNER, SHORT, STATES, Site, site, until
from tests.support.stacks import surgeline

ENTITIES: Final = 60 if SHORT else 20_000
DRIFTED: Final = 24 if SHORT else 1_000
LIVE: Final = 3 if SHORT else 50
WAIT_S: Final = 240.0 if SHORT else 1_200.0
PACE: Final = {"rate_per_s": 5_000, "concurrency": 32}
SETTINGS: Final = {
    "writers": {OWNER: PACE},
    "reconcile": {"repairs_per_s": 200, "every_s": 86_400, "requests_at_once": 8, "page_count": 500},
}


def bed_of(number: int) -> str:
    return f"4W/{number}/A"


def shown(url: str) -> dict[str, dict[str, Any]]:
    """What the EHR has of our beds, by id, read by pages."""
    found: dict[str, dict[str, Any]] = {}
    following: str | None = f"{url}/Location?_count=1000"
    while following is not None:
        bundle = ask(following)
        found |= {each["resource"]["id"]: each["resource"] for each in bundle["entry"] if read_mark(each["resource"]) is not None}
        following = next((link["url"] for link in bundle.get("link", ())), None)
    return found


def runs(to: Site) -> list[Reconciliation]:
    newest: dict[str, Reconciliation] = {}
    for _, record in to.records("reconciliations"):
        if isinstance(record, Reconciliation):
            newest[record.run] = record
    return list(newest.values())


def ordered(to: Site, *arguments: str) -> str:
    """An operator's order."""
    done = surgeline(to.stack, "reconcile", "run", "--reason", "a test", *arguments)
    assert done.returncode == 0, done.stderr
    told = [record for _, record in to.records("reconciliations") if isinstance(record, ReconciliationOrder)]
    return max((record.at, record.order) for record in told)[1]


def ended(to: Site, order: str | None) -> Reconciliation:
    """The run of an order, or the first that began by itself, once it has ended."""
    found: list[Reconciliation] = []

    def has_ended() -> bool:
        found[:] = [each for each in runs(to) if each.order == order and each.stage in (Stage.DONE, Stage.PARTIAL)]
        return bool(found)

    until(has_ended, "the run ends", WAIT_S)
    assert all(each.balances for each in found)
    return found[0]


def wait_shown(to: Site, url: str, count: int) -> None:
    """Until the EHR shows the head of each bed."""

    def is_shown() -> bool:
        heads = Counter(head.revision for head in to.heads().values())
        marks = Counter(mark.revision for body in shown(url).values() if (mark := read_mark(body)) is not None)
        return sum(heads.values()) == count and not heads - marks

    until(is_shown, "the EHR shows every head", WAIT_S)


def written(to: Site, url: str, numbers: Sequence[int], turn: int) -> None:
    """A change of each, through landing, until the EHR shows it."""
    for start in range(0, len(numbers), 1_000):
        to.publish(*(to.bed(bed_of(number), STATES[turn]) for number in numbers[start : start + 1_000]))
    wait_shown(to, url, ENTITIES)


@pytest.mark.timeout(1_800)
def test_drift_behind_our_back_is_found_named_and_repaired_and_nothing_else_is_touched(broker: Broker, tmp_path: Path) -> None:
    with (
        StandInChild(tmp_path, "queue", 20_000, 100_000) as ehr,
        site(tmp_path / "s", broker.bootstrap, {OWNER: ehr.base_url}, **SETTINGS) as to,
    ):
        to.start_all(("gate",), ("writer", OWNER))
        written(to, ehr.base_url, range(ENTITIES), 0)
        quarter = DRIFTED // 4
        edits, deletes, restores = (range(part * quarter, (part + 1) * quarter) for part in range(3))
        old = by_bed(to, ehr.base_url, restores)
        written(to, ehr.base_url, restores, 1)
        until(lambda: is_settled(to), "the writer knows that every bed is confirmed", WAIT_S)

        now = by_bed(to, ehr.base_url, range(DRIFTED))
        ehr.seed([edited(now[number]) for number in edits])
        ehr.forget([f"Location/{now[number]['id']}" for number in deletes])
        ehr.seed([old[number] for number in restores])
        ehr.seed([{**now[0], "id": f"extra-{number}", "identifier": strange(now[0], number)} for number in range(quarter)])
        live = range(DRIFTED, DRIFTED + LIVE)
        to.start("reconcile")
        to.publish(*(to.bed(bed_of(number), STATES[2]) for number in live))
        run = ended(to, None)
        assert (run.stage, run.scope, run.left, run.unread) == (Stage.DONE, Scope.FULL, 0, 0)
        counted = {(each.rule, each.remedy): each.count for each in run.findings}
        assert counted == {
            (Rule.OURS_TO_WRITE, Remedy.REASSERT): quarter,
            (Rule.GONE, Remedy.REASSERT): quarter,
            (Rule.OLDER_REVISION, Remedy.REASSERT): quarter,
            (Rule.NEVER_DELETE, Remedy.REPORT): quarter,
        }
        assert (run.drifted, run.extra, run.repaired) == (3 * quarter, quarter, 3 * quarter)
        assert len(orders(to)) == 3 * quarter
        assert len({entry.subject for entry in audited(to, "reconcile.reassert")}) == 3 * quarter

        until(lambda: reasserted(to) == 3 * quarter, "the gate takes every repair", WAIT_S)
        wait_shown(to, ehr.base_url, ENTITIES)
        until(lambda: is_settled(to), "live changes and repairs are confirmed", WAIT_S)
        again = ended(to, ordered(to, "--full", "--dry-run"))
        assert ({each.rule for each in again.findings}, again.repaired) == ({Rule.NEVER_DELETE}, 0)
        assert (again.dry_run, again.equal, len(orders(to))) == (True, ENTITIES, 3 * quarter)
        told = surgeline(to.stack, "reconcile", "show", run.run, "--json")
        assert json.loads(told.stdout)["drifted"] == 3 * quarter
        assert "4W" not in told.stdout
        logged = "".join(path.read_text() for path in to.stack.folder.glob("reconcile-*.log"))
        assert "drift.found" in logged
        assert "4W" not in logged


def by_bed(to: Site, url: str, numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Resources by the number of their bed."""
    values = {f"GENERAL/{bed_of(number)}": number for number in numbers}
    found: dict[int, dict[str, Any]] = {}
    for body in shown(url).values():
        for identifier in body["identifier"]:
            if identifier["value"] in values:
                found[values[identifier["value"]]] = body
    assert len(found) == len(numbers)
    return found


def edited(body: dict[str, Any]) -> dict[str, Any]:
    """Somebody else's word on whether the bed is clean, which is ours to write there."""
    kept = [each for each in body["extension"] if not each["url"].endswith("/bed-environment")]
    assert len(kept) < len(body["extension"])
    return {**body, "extension": kept}


def strange(body: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Our own kind of name, of a bed that nobody knows."""
    return [{**body["identifier"][0], "value": f"GENERAL/ghost/{number}"}]


def orders(to: Site) -> list[Control]:
    return [record for _, record in to.records("landing.bed") if isinstance(record, Control) and record.actor == "reconcile"]


def reasserted(to: Site) -> int:
    return sum(record.event_type is EventType.REASSERT for record in to.accepted())


def audited(to: Site, action: str) -> list[Audit]:
    return [record for _, record in to.records("audit") if isinstance(record, Audit) and record.action == action]


def is_settled(to: Site) -> bool:
    """Whether the writer's own table says of each head that it is confirmed; it learns so a moment after the outcome."""
    holdings = Holdings(KafkaTopics(to.kafka), (OWNER,))
    holdings.refresh()
    told = holdings.told[OWNER]
    return len(holdings.held) == ENTITIES and all(
        key in told and told[key].confirmed == held.revision for key, held in holdings.held.items()
    )
