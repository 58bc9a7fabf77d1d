"""A destination goes out, comes back slow and gets well, while its writer is killed in each mode; and what an operator forces."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.domain.event import Event, Service, ServiceStatus
from pipeline.domain.records import Audit, LagReport, Lane, ModeChange, OutcomeKind
from pipeline.domain.writing.modes import Cause, Mode
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.standin import Behaviour
from pipeline.local.servers.standin_child import StandInChild
from pipeline.ops.audit import read_entries, verify_all
from pipeline.ops.topics import KafkaTopics
from pipeline.roles.accounts.books import close_books
from pipeline.topology import LAG, MODES
from tests.hazards.harness import ANSWER_S, CODEC, OWNER, STATES, Site, site, until
from tests.support.stacks import post

QUICK: dict[str, Any] = {
    "version": 1,
    "slow": {"enter_after_s": 2, "leave_below_s": 1, "calm_s": 1, "dwell_s": 1},
    "severe": {
        "enter_after_s": 4,
        "leave_below_s": 2,
        "calm_s": 1,
        "dwell_s": 2,
        "freezes": [{"why": "tried here", "lanes": ["routine", "bulk"]}],
    },
    "outage": {"calm_s": 1},
    "thaw": {"after_s": 900, "per_s": 1},
}
HEALTHY = Behaviour(singles_per_s=400.0, resources_per_s=400.0)
SLOW = Behaviour(singles_per_s=4.0, resources_per_s=4.0)
OUT = Behaviour(out=True)


@contextmanager
def surroundings(broker: Broker, folder: Path, severe_after_s: float = 4) -> Iterator[tuple[Site, StandInChild]]:
    """A site before a stand-in, with a quick policy of modes."""
    policy = folder / "modes.yaml"
    policy.write_text(yaml.safe_dump(QUICK | {"severe": QUICK["severe"] | {"enter_after_s": severe_after_s}}))
    writer = {"modes_file": str(policy), "concurrency": 4, "attempt_timeout_s": 5}
    with (
        StandInChild(folder) as ehr,
        site(folder / "s", broker.bootstrap, {OWNER: ehr.base_url}, writers={OWNER: writer}) as to,
    ):
        ehr.behave(HEALTHY)
        yield to, ehr


def changes(to: Site) -> list[ModeChange]:
    return [record for _, record in to.records(MODES) if isinstance(record, ModeChange)]


def entered(to: Site) -> list[tuple[str, str]]:
    return [(change.mode, change.cause) for change in changes(to)]


def last_report(to: Site, instance: str = "0") -> LagReport | None:
    reports = [r for _, r in to.records(LAG) if isinstance(r, LagReport) and r.instance == instance]
    return reports[-1] if reports else None


def reported_since(to: Site, since_ms: float, instance: str = "0") -> LagReport | None:
    report = last_report(to, instance)
    return report if report is not None and report.window_start > since_ms and report.partitions else None


def routine(to: Site, count: int, name: str, **more: Any) -> list[Event]:
    return [to.bed(f"{name}/{n}/A", STATES[0], **more) for n in range(count)]


def urgent(to: Site, count: int, name: str) -> list[Event]:
    return routine(to, count, name, service=Service(ServiceStatus.OPEN))


def critical(to: Site, name: str) -> list[Event]:
    return routine(to, 1, name, service=Service(ServiceStatus.BLOCKED, "flood"))


def published(to: Site, events: list[Event], lane: Lane) -> list[Event]:
    to.publish(*events)
    to.wait_judged(*(event.event_id for event in events))
    ids = {event.event_id for event in events}
    assert {a.lane for a in to.accepted() if a.event_id in ids} == {lane}
    return events


def confirmed(to: Site) -> set[str]:
    return {o.event_id for o in to.outcomes() if o.kind is OutcomeKind.CONFIRMED}


def are_confirmed(to: Site, events: list[Event]) -> bool:
    return {event.event_id for event in events} <= confirmed(to)


def accepts_by_http(to: Site) -> bool:
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    body = {
        "facility": "GENERAL",
        "source_system": "capacity",
        "entity_type": "bed",
        "namespace": "GENERAL",
        "entity_id": "H-1",
        "event_type": "BED_STATUS",
        "recorded_at": moment,
        "payload": {"environment": "DIRTY"},
    }
    return post(to.stack, body, f"h-{time.time_ns()}")[0] == 202


def mode_entries(to: Site, action: str = "mode.") -> list[Audit]:
    return [entry for entry in read_entries(KafkaTopics(to.kafka), CODEC) if entry.action.startswith(action)]


def check_books(to: Site) -> None:
    books, asked = close_books(to.stack.settings, gate_s=ANSWER_S, open_s=ANSWER_S)
    assert books.balanced, [(p.trouble.value, p.topic, p.partition, p.offset) for p in books.problems][:5]
    assert books.complete, books.open
    assert all((look.different, look.unanswered) == (0, 0) for look in asked)
    assert verify_all(read_entries(KafkaTopics(to.kafka), CODEC)).whole


@pytest.mark.timeout(280)
def test_outage_severe_recovery_normal_with_the_writer_killed_on_the_way_loses_nothing_and_critical_goes_through(
    broker: Broker, tmp_path: Path
) -> None:
    with surroundings(broker, tmp_path) as (to, ehr):
        for role in ("gate", "http"):
            to.start(role, wait=False)
        writer = to.start("writer", OWNER)
        to.stack.wait_ready("http-0", timeout_s=ANSWER_S)

        ehr.behave(OUT)
        all_of_it = published(to, routine(to, 24, "R"), Lane.ROUTINE) + published(to, urgent(to, 40, "U"), Lane.URGENT)
        until(lambda: entered(to)[-1:] == [("outage", "BREAKER_OPEN")], "an outage")
        assert accepts_by_http(to)

        to.kill(writer)
        killed_at = time.time() * 1000
        to.start("writer", OWNER)
        until(lambda: reported_since(to, killed_at) is not None, "a report of the new process")
        assert {r.mode for _, r in to.records(LAG) if isinstance(r, LagReport) and r.window_start > killed_at} == {"outage"}

        ehr.behave(SLOW)
        until(lambda: entered(to)[-1:] == [("severe", "TURNS_WAIT")], "severe")
        assert [mode for mode, _ in entered(to)][-2:] == ["recovery", "severe"]
        first = published(to, critical(to, "C1"), Lane.CRITICAL)
        until(lambda: are_confirmed(to, first), "a critical change in severe")
        assert entered(to)[-1][0] == "severe"
        to.kill(writer)
        killed_at = time.time() * 1000
        to.start("writer", OWNER)
        second = published(to, critical(to, "C2"), Lane.CRITICAL)
        until(lambda: are_confirmed(to, second), "a critical change after the restart")
        until(lambda: reported_since(to, killed_at) is not None, "a report of the new process")
        report = last_report(to)
        assert report is not None
        assert report.mode == "severe"
        assert report.frozen["routine bed"] > 0
        assert entered(to)[-1] == ("severe", "TURNS_WAIT")

        ehr.behave(HEALTHY)
        until(lambda: are_confirmed(to, [*all_of_it, *first, *second]), "everything at the EHR")
        until(lambda: entered(to)[-1][0] == Mode.NORMAL.value, "normal")
        causes = [cause for _, cause in entered(to)]
        assert causes.count(Cause.DRAINED.value) == 1
        check_books(to)

        told = mode_entries(to)
        assert [(entry.action, entry.reason) for entry in told] == [(f"mode.{mode}", cause) for mode, cause in entered(to)]
        severe = next(entry for entry in told if entry.reason == Cause.TURNS_WAIT.value)
        assert float(severe.detail["turn_wait_s"]) > QUICK["severe"]["enter_after_s"]
        assert float(severe.detail["pending_urgent"]) > 0
        assert {"arriving_per_s", "confirmed_per_s", "breaker_open", "oldest_wait_s"} <= set(severe.detail)


@pytest.mark.timeout(280)
def test_a_writer_killed_in_slow_and_in_recovery_comes_back_into_it_and_the_recovery_is_ended_once(
    broker: Broker, tmp_path: Path
) -> None:
    with surroundings(broker, tmp_path, severe_after_s=3_600) as (to, ehr):
        to.start("gate", wait=False)
        writer = to.start("writer", OWNER)

        def killed_in(mode: str) -> None:
            until(lambda: entered(to)[-1:] != [] and entered(to)[-1][0] == mode, mode)
            to.kill(writer)
            killed_at = time.time() * 1000
            to.start("writer", OWNER)
            until(lambda: reported_since(to, killed_at) is not None, "a report of the new process")
            first = next(r for _, r in to.records(LAG) if isinstance(r, LagReport) and r.window_start > killed_at)
            assert first.mode == mode

        ehr.behave(SLOW)
        changed = published(to, routine(to, 40, "S"), Lane.ROUTINE)
        killed_in("slow")
        ehr.behave(OUT)
        until(lambda: entered(to)[-1][0] == "outage", "an outage")
        changed += published(to, urgent(to, 40, "U"), Lane.URGENT)
        ehr.behave(SLOW)
        killed_in("recovery")
        ehr.behave(HEALTHY)
        until(lambda: are_confirmed(to, changed), "everything at the EHR")
        until(lambda: entered(to)[-1][0] == Mode.NORMAL.value, "normal")
        assert [cause for _, cause in entered(to)].count(Cause.DRAINED.value) == 1
        check_books(to)


def shown(to: Site) -> dict[str, Any]:
    told: list[dict[str, Any]] = json.loads(to.stack.complete("mode", "show", OWNER, "--json"))
    return told[0]


@pytest.mark.timeout(280)
def test_a_forced_mode_reaches_each_instance_survives_a_kill_and_ends_by_release_or_by_its_time(
    broker: Broker, tmp_path: Path
) -> None:
    with surroundings(broker, tmp_path) as (to, _):
        to.start("gate", wait=False)
        writers = [to.start("writer", OWNER, instance=str(number), wait=False) for number in range(2)]
        for name in writers:
            to.stack.wait_ready(name, timeout_s=ANSWER_S)
        reason = "ticket 4711, EHR asks for calm"
        to.stack.complete("mode", "force", OWNER, "severe", "--reason", reason)
        until(lambda: entered(to).count(("severe", "FORCED")) == 2, "both instances in severe")
        frozen = published(to, routine(to, 16, "R"), Lane.ROUTINE)
        urgents = published(to, critical(to, "C1") + critical(to, "C2"), Lane.CRITICAL)
        until(lambda: are_confirmed(to, urgents), "critical changes in a forced severe")
        until(lambda: shown(to)["frozen"].get("routine bed") == 16, "all frozen, as status shows them")
        told = shown(to)
        assert (told["mode"], told["cause"], told["order"]["reason"]) == ("severe", "FORCED", reason)

        to.kill(writers[0])
        killed_at = time.time() * 1000
        to.start("writer", OWNER, instance="0")
        until(lambda: reported_since(to, killed_at) is not None, "a report of the new process")
        report = last_report(to)
        assert report is not None
        assert report.mode == "severe"
        assert confirmed(to).isdisjoint(event.event_id for event in frozen)

        to.stack.complete("mode", "release", OWNER, "--reason", "calm enough")
        until(lambda: are_confirmed(to, frozen), "what was frozen")
        assert entered(to).count(("normal", "RELEASED")) == 2

        to.stack.complete("mode", "force", OWNER, "outage", "--yes", "--for", "15s", "--reason", "maintenance")
        until(lambda: entered(to).count(("outage", "FORCED")) == 2, "both in a forced outage")
        held = published(to, critical(to, "C3"), Lane.CRITICAL)
        assert not are_confirmed(to, held)
        until(lambda: any(cause == "EXPIRED" for _, cause in entered(to)), "the end of the order")
        until(lambda: are_confirmed(to, held), "what was held")
        accepted_at = next(a.accepted_at for a in to.accepted() if a.event_id == held[0].event_id)
        confirmed_at = next(o.at for o in to.outcomes() if o.event_id == held[0].event_id and o.kind is OutcomeKind.CONFIRMED)
        ended_at = min(change.at for change in changes(to) if change.cause == "EXPIRED")
        assert accepted_at < ended_at <= confirmed_at + 1_000
        check_books(to)
        orders = [(entry.action, entry.reason) for entry in mode_entries(to) if entry.actor.startswith("operator:")]
        assert orders == [("mode.force", reason), ("mode.release", "calm enough"), ("mode.force", "maintenance")]
