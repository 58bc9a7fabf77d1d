"""`surgeline replay` on a real broker, with gate, writer and EHR: what it orders comes through, once, and the books balance."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pytest

from pipeline.domain.event import Event
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Accepted, Audit, Control, OutcomeKind, Quarantined, Reason
from pipeline.formats.rfc3339 import rfc3339_of
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from tests.hazards.harness import ANSWER_S, CODEC, OWNER, STATES, Site, now_ms, site, until
from tests.support.between import Between
from tests.support.stacks import surgeline

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

BEDS: Final = ("SECRET-1", "SECRET-2", "SECRET-3")
SKEW_MS: Final = 300_000
"""How far ahead the shipped policy lets a source's clock be."""

AHEAD_MS: Final = 20_000
REASON: Final = ("--yes", "--reason", "mended")


def told(to: Site, *arguments: str, code: int) -> dict[str, Any]:
    """What a replay prints, which names no entity."""
    done = surgeline(to.stack, "replay", *arguments, "--json")
    assert done.returncode == code, done.stderr
    assert "SECRET" not in done.stdout + done.stderr
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


def counts(lines: Iterable[dict[str, Any]], name: str) -> dict[str, int]:
    return {line[name]: line["count"] for line in lines}


def orders(to: Site) -> list[Control]:
    return [record for _, record in to.records("landing.bed") if isinstance(record, Control)]


def audited(to: Site) -> list[Audit]:
    return [r for _, r in to.records("audit") if isinstance(r, Audit) and r.action.startswith("replay.")]


def confirmed(to: Site, events: Iterable[Event]) -> list[Accepted]:
    """The events' revisions, once each is confirmed."""
    to.publish(*(sent := list(events)))
    heads = [to.wait_head(event.entity_id, event.event_id) for event in sent]
    for head in heads:
        to.wait_confirmed(head)
    return heads


async def test_beds_parked_by_a_refusing_ehr_come_through_once_it_is_mended_though_the_replay_was_broken_off(
    broker: Broker, ehr_owner: Ehr, tmp_path: Path
) -> None:
    async with Between(ehr_owner.base_url) as between:
        await asyncio.to_thread(parked_and_replayed, broker, between, tmp_path)


def parked_and_replayed(broker: Broker, between: Between, folder: Path) -> None:
    with site(folder / "s", broker.bootstrap, {OWNER: between.url}) as to:
        to.start_all(("gate",), ("writer", OWNER))
        confirmed(to, [to.bed(bed, STATES[0]) for bed in BEDS])
        between.mood = "refuse"
        to.publish(*(to.bed(bed, STATES[2]) for bed in BEDS))
        until(lambda: sum(o.kind is OutcomeKind.PARKED for o in to.outcomes()) == len(BEDS), "each bed is parked")
        between.mood = "pass"

        plan = told(to, "parked", code=0)
        assert (plan["planned"], plan["ordered"]) == (len(BEDS), None)
        assert plan["groups"] == [{"place": OWNER, "entity_type": "bed", "cause": "REFUSED_INVALID", "count": len(BEDS)}]
        assert told(to, "parked", "--cause", "REFUSED_GONE", code=0)["planned"] == 0
        assert surgeline(to.stack, "replay", "parked", "--yes").returncode == 2, "a reason is wanted"
        assert orders(to) == []
        assert audited(to) == []

        broken_off(to)
        assert 1 <= len(orders(to)) < len(BEDS)
        until(lambda: told(to, "parked", code=0)["planned"] == len(BEDS) - len(orders(to)), "the first ones came through")
        rest = told(to, "parked", *REASON, code=0)
        assert rest["ordered"] == rest["planned"]
        assert sorted(order.seen_revision for order in orders(to)) == sorted(parked_revisions(to))
        books = to.settle()
        assert sum(each.parked for each in books.destinations) == 0
        assert told(to, "parked", *REASON, code=0)["ordered"] is None, "nothing is left, and nothing is ordered"
        assert [(e.action, e.reason) for e in audited(to)] == [
            (f"replay.parked.{stage}", "mended") for stage in ("begun", "ended", "begun", "ended")
        ]
        assert [e.detail["ordered"] for e in audited(to)][3] == str(rest["ordered"])


def parked_revisions(to: Site) -> list[int]:
    return [outcome.revision for outcome in to.outcomes() if outcome.kind is OutcomeKind.PARKED]


def broken_off(to: Site) -> None:
    """A slow replay, interrupted behind its first order."""
    program = str(Path(sys.executable).with_name("surgeline"))
    known = {**os.environ, "SURGELINE_CONFIG": str(to.stack.settings_file), "COLUMNS": "200"}
    command = [program, "replay", "parked", *REASON, "--rate", "0.1"]
    with subprocess.Popen(command, env=known, stdout=subprocess.PIPE, text=True) as running:
        until(lambda: bool(orders(to)), "the first order")
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=ANSWER_S)
    assert running.returncode == 1
    assert "Broken off: 1 of 3 are ordered." in out


def test_a_future_record_is_judged_anew_after_its_time_and_what_can_not_be_says_why(
    broker: Broker, ehr_owner: Ehr, tmp_path: Path
) -> None:
    with site(tmp_path / "s", broker.bootstrap, {OWNER: ehr_owner.base_url}) as to:
        to.start_all(("gate",), ("writer", OWNER))
        confirmed(to, [to.bed("SECRET-1", STATES[0])])
        due = Millis(now_ms() + SKEW_MS + AHEAD_MS)
        early = to.bed("SECRET-1", STATES[2], at=due)
        to.publish(early, early)
        misplaced = to.bed("SECRET-2", STATES[0])
        to.append([("landing.bed", to.key("SECRET-3"), b"nothing"), ("landing.bed", None, b"nobody's")])
        to.append([("landing.bed", to.key("SECRET-3"), CODEC.encode(misplaced))])
        until(lambda: len([r for _, r in to.records("quarantine") if isinstance(r, Quarantined)]) == 5, "five are quarantined")

        plan = told(to, "quarantined", code=1)
        assert plan["planned"] == 0
        refused = {"FUTURE_TIME": 2, "UNDECODABLE": 1, "NULL_KEY": 1, "KEY_MISMATCH": 1}
        if now_ms() < due - SKEW_MS:
            assert counts(plan["refused"], "cause") == refused
        until(lambda: now_ms() > due - SKEW_MS, "its time")
        plan = told(to, "quarantined", "--source", "capacity", *REASON, code=0)
        assert (plan["planned"], plan["ordered"]) == (1, 1)
        assert counts(plan["left_out"], "why") == {"SAME_RECORD": 1}
        to.wait_confirmed(to.wait_head("SECRET-1", early.event_id))

        again = told(to, "quarantined", *REASON, code=1)
        assert (again["planned"], again["ordered"]) == (0, None)
        assert counts(again["left_out"], "why") == {"SAME_RECORD": 1, "JUDGED_SINCE": 1}
        assert counts(again["refused"], "cause") == {cause: n for cause, n in refused.items() if cause != "FUTURE_TIME"}
        to.settle()
        assert [d.reason for d in to.decisions()].count(Reason.FUTURE_TIME) == 2


def test_a_range_puts_back_what_an_ehr_restored_from_a_backup_has_lost(broker: Broker, tmp_path: Path) -> None:
    folder, backup = tmp_path / "ehr", tmp_path / "backup"
    with Ehr(folder) as ehr, site(tmp_path / "s", broker.bootstrap, {OWNER: ehr.base_url}) as to:
        to.start_all(("gate",), ("writer", OWNER))
        confirmed(to, [to.bed(bed, STATES[0]) for bed in BEDS])
        ehr.stop()
        shutil.copytree(folder / "data", backup)
        ehr.start()
        taken_at = now_ms()
        heads = confirmed(to, [to.bed(bed, STATES[2]) for bed in (*BEDS[:2], "SECRET-NEW")])
        ehr.stop()
        shutil.rmtree(folder / "data")
        shutil.copytree(backup, folder / "data")
        ehr.start()

        assert surgeline(to.stack, "books").returncode == 1, "the EHR shows something else than was confirmed"
        since = ("--from", rfc3339_of(taken_at))
        assert surgeline(to.stack, "replay", "range").returncode == 2, "a range begins somewhere"
        plan = told(to, "range", *since, "--destination", OWNER, code=0)
        assert plan["planned"] == len(heads)
        done = told(to, "range", *since, "--destination", OWNER, *REASON, code=0)
        assert done["ordered"] == len(heads)
        for head in heads:
            to.wait_confirmed(to.wait_head(head.entity_id, previous=2 if head.entity_id in BEDS else 1))
        rest = told(to, "range", *since, "--begun", done["to"], code=0)
        assert (rest["planned"], counts(rest["left_out"], "why")) == (0, {"SENT_SINCE": len(heads)})
        to.settle()
