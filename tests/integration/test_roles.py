"""The roles as processes: what they refuse, what they say of themselves, how they end; and the operator's commands."""

import itertools
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from confluent_kafka.admin import AdminClient
from msgspec.structs import replace

import pipeline as package
from pipeline import topology
from pipeline.domain.event import EntityType
from pipeline.domain.records import Accepted
from pipeline.kafka import admin
from pipeline.kafka.reader import end_offsets
from pipeline.local.ports import HOST
from pipeline.local.servers.broker import Broker
from pipeline.local.stack import Stack, Target, wait_for
from pipeline.roles.policies import load_policy
from pipeline.roles.process import EXIT_CONFIG, EXIT_TRY_AGAIN, specs_of
from tests.support.stacks import ANSWER_S, TERM_S, health, post, records, send_hl7, stack_at, surgeline

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]

ROLES: Final = (("gate",), ("writer", "ehr"), ("http",), ("mllp",), ("timers",))
NAMES: Final = tuple("-".join((*role, "0")) for role in ROLES)
NOBODY: Final = Target("ehr", "replica", "sekmet-replica", f"http://{HOST}:1/fhir")
NUMBERS: Final = itertools.count(1)


def bed(number: int, environment: str = "DIRTY") -> dict[str, Any]:
    moment = time.time_ns() // 1_000_000
    return {
        "facility": "GENERAL",
        "source_system": "capacity",
        "entity_type": "bed",
        "namespace": "GENERAL",
        "entity_id": f"R-{number}",
        "event_type": "BED_STATUS",
        "recorded_at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment / 1000)) + f".{moment % 1000:03d}Z",
        "payload": {"environment": environment},
    }


def a20(number: int) -> bytes:
    now = time.strftime("%Y%m%d%H%M%S", time.gmtime())
    return (
        f"MSH|^~\\&|CAP|GENERAL|||{now}+0000||ADT^A20|RC{number}|P|2.5.1\rEVN||{now}+0000\rNPU|RU^{number}^A^GENERAL|H\r"
    ).encode()


# -- refusing to start


@pytest.fixture(scope="module")
def bare(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """Settings for a cluster on which nothing was applied."""
    stack = Stack(tmp_path_factory.mktemp("bare"), broker.bootstrap, (NOBODY,), prefix=f"bare{time.time_ns():x}.")
    stack.write_settings()
    return stack


@pytest.mark.parametrize("role", ROLES, ids="-".join)
def test_a_role_names_every_missing_topic_and_the_command_that_makes_them(bare: Stack, role: tuple[str, ...]) -> None:
    ended = surgeline(bare, "run", *role)
    assert ended.returncode == EXIT_CONFIG
    for spec in specs_of(bare.settings):
        assert f"{bare.prefix}{spec.name}: missing: run `surgeline topics apply`" in ended.stderr


def test_a_role_names_wrong_partitions_a_missing_changelog_and_a_topic_made_anew_at_once(broker: Broker, tmp_path: Path) -> None:
    stack = stack_at(tmp_path, broker.bootstrap, NOBODY)
    specs = {spec.name: spec for spec in specs_of(stack.settings)}
    landing_patient = topology.LANDING[EntityType.PATIENT]
    changelog = next(name for name in specs if name.startswith("surgeline-writer-") and name.endswith("changelog"))
    remake(stack, "landing.bed", lambda: admin.create(stack.settings.kafka, [replace(specs["landing.bed"], partitions=3)]))
    remake(stack, landing_patient, lambda: admin.create(stack.settings.kafka, [specs[landing_patient]]))
    remake(stack, changelog, lambda: None)

    ended = surgeline(stack, "run", "gate")
    checked = surgeline(stack, "topics", "check")
    planned = surgeline(stack, "topics", "plan")
    applied = surgeline(stack, "topics", "apply")
    assert ended.returncode == EXIT_CONFIG
    assert [checked.returncode, planned.returncode, applied.returncode] == [1, 1, 1]
    for said in (ended.stderr, checked.stderr):
        assert f"{stack.prefix}landing.bed: 3 partitions instead of 8" in said
        assert f"{stack.prefix}{changelog}: missing" in said
        assert f"{stack.prefix}{landing_patient}: " in said
    assert "3 partitions instead of 8" in planned.stdout
    assert "3 partitions instead of 8" in applied.stderr

    remake(stack, "landing.bed", lambda: None)
    assert surgeline(stack, "topics", "apply").returncode == 1, "a topic made anew has no epoch until an operator says so"
    assert surgeline(stack, "run", "gate").returncode == EXIT_CONFIG
    assert surgeline(stack, "topics", "apply", "--new-epoch").returncode == 0
    assert surgeline(stack, "topics", "check").returncode == 0


def remake(stack: Stack, topic: str, make: Callable[[], None]) -> None:
    """Delete a topic, wait until it is gone, and make it as told."""
    client = AdminClient({"bootstrap.servers": stack.bootstrap})
    name = f"{stack.prefix}{topic}"
    client.delete_topics([name])[name].result(ANSWER_S)
    wait_for(lambda: name not in client.list_topics(timeout=10).topics, ANSWER_S, "the topic is gone")
    make()


def test_a_writer_for_an_unknown_destination_names_those_that_there_are(pipeline: Stack) -> None:
    ended = surgeline(pipeline, "run", "writer", "nobody")
    assert ended.returncode == EXIT_CONFIG
    assert "writers.nobody" in ended.stderr
    assert "configured: ehr" in ended.stderr


def test_a_broker_that_is_away_is_a_reason_to_try_again(bare: Stack) -> None:
    def away(command: str) -> "subprocess.CompletedProcess[str]":
        return surgeline(bare, *command.split(), environment={"SURGELINE_KAFKA__BOOTSTRAP_SERVERS": f"{HOST}:1"})

    commands = ("run gate", "run writer ehr", "run http", "status", "books", "topics plan", "audit verify")
    with ThreadPoolExecutor(len(commands)) as pool:
        for command, ended in zip(commands, pool.map(away, commands), strict=True):
            assert ended.returncode == EXIT_TRY_AGAIN, command
            assert "kafka.bootstrap_servers" in ended.stderr
            assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("role", ["http", "mllp"])
def test_a_listener_refuses_clear_text_and_the_demos_secrets_off_loopback_with_all_reasons(bare: Stack, role: str) -> None:
    ended = surgeline(bare, "run", role, environment={"SURGELINE_DEMO": "false", f"SURGELINE_{role.upper()}__HOST": "0.0.0.0"})
    assert ended.returncode == EXIT_CONFIG
    wanted = {"http": ("http.tls_cert_file", "the demo's token"), "mllp": ("mllp.tls_cert_file", "mllp.tls_client_ca_file")}
    for reason in (*wanted[role], "digest_key_file", "raw_encryption.key_file"):
        assert reason in ended.stderr


# -- what a role says of itself


@pytest.mark.parametrize("name", NAMES)
def test_every_role_has_health_readiness_status_and_metrics_on_a_port_of_its_own(pipeline: Stack, name: str) -> None:
    assert health(pipeline, name, "/livez") == (200, '{"live":true}')
    status, ready = health(pipeline, name, "/readyz")
    assert status == 200
    assert all(json.loads(ready)["checks"].values())
    assert json.loads(health(pipeline, name, "/status")[1]) is not None or name.startswith("writer")
    assert "surgeline_" in health(pipeline, name, "/metrics")[1]
    assert health(pipeline, name, "/elsewhere")[0] == 404
    assert len(set(pipeline.health_ports.values())) == len(pipeline.health_ports)


# -- ending


class Load:
    """Senders that go on, and their own log of what was answered yes."""

    def __init__(self, stack: Stack) -> None:
        self._stack, self._stop = stack, threading.Event()
        self.yes: set[str] = set()

    def by_http(self) -> None:
        while not self._stop.is_set():
            number = next(NUMBERS)
            status, body = post(self._stack, bed(number), f"load-{number}")
            if status == 202:
                self.yes.add(body["event_id"])
            elif status == 0:
                self._stop.wait(0.1)

    def by_mllp(self) -> None:
        while not self._stop.is_set():
            try:
                answer = send_hl7(self._stack, a20(next(NUMBERS)))
            except OSError:
                answer = b""
            if b"\rMSA|AA|" not in answer:
                self._stop.wait(0.1)

    @contextmanager
    def going(self) -> Iterator[None]:
        with ThreadPoolExecutor(4) as pool:
            runs = [pool.submit(each) for each in (self.by_http, self.by_http, self.by_mllp)]
            try:
                yield
            finally:
                self._stop.set()
                for each in runs:
                    each.result(ANSWER_S * 2)


def test_every_role_ends_in_good_order_within_its_bound_under_load_and_nothing_answered_is_lost(pipeline: Stack) -> None:
    load, took = Load(pipeline), {}
    with load.going():
        wait_for(lambda: len(load.yes) > 30, ANSWER_S, "the senders are heard")
        for name in NAMES:
            began = time.monotonic()
            code = terminated(pipeline, name)
            took[name] = time.monotonic() - began
            assert code == 0, f"{name}: {code}"
        pipeline.wait_ready(*pipeline.start_all(), timeout_s=ANSWER_S * 2)
        heard = len(load.yes)
        wait_for(lambda: len(load.yes) > heard, ANSWER_S, "the senders are heard again")
    assert max(took.values()) < TERM_S, took

    closed = surgeline(pipeline, "books", "--json", "--wait-s", str(ANSWER_S))
    books = json.loads(closed.stdout)["books"]
    assert closed.returncode == 0, books["problem_counts"]
    assert (books["balanced"], books["open"], books["waiting"]) == (True, 0, 0)
    judged = {each.event_id for topic in ("events.accepted", "decisions") for each in records(pipeline, topic)}  # type: ignore[union-attr]
    assert load.yes <= judged


def terminated(stack: Stack, name: str) -> int:
    """Exit code after SIGTERM; the role is killed where it takes longer than its bound."""
    process = stack.roles[name]._process
    assert process is not None
    stack.roles[name].stop(TERM_S + 5)
    return process.wait(1)


def test_a_role_that_is_told_to_end_while_it_starts_ends(pipeline: Stack) -> None:
    pipeline.stop("gate-0")
    pipeline.start("gate")
    wait_for(lambda: health(pipeline, "gate-0", "/livez")[0] == 200, ANSWER_S, "the gate lives")
    began = time.monotonic()
    assert terminated(pipeline, "gate-0") in (0, EXIT_TRY_AGAIN)
    assert time.monotonic() - began < TERM_S + 2


# -- the operator's commands


def test_the_topics_are_as_declared_and_applying_again_changes_nothing(pipeline: Stack) -> None:
    planned, applied, checked = (surgeline(pipeline, "topics", what) for what in ("plan", "apply", "check"))
    assert [planned.returncode, applied.returncode, checked.returncode] == [0, 0, 0]
    assert planned.stdout.strip() == f"{len(specs_of(pipeline.settings))} unchanged"
    assert applied.stdout.startswith("0 created, 0 changed, 0 epochs")


MOVED: Final = {
    "gate-0": (
        "batch_seconds_count",
        "batch_records_count",
        "gate_accepted_total",
        'gate_decisions_total{entity_type="bed",kind="ACCEPTED"',
    ),
    "http-0": ("intake_events_total", "intake_answered_total", "intake_seconds_count"),
    "writer-ehr-0": ("batch_seconds_count", "writer_request_seconds_count", "writer_confirmed_total", "writer_mode{"),
}
"""Series of each role that one write moves."""


def test_one_write_is_seen_in_the_metrics_of_every_role_on_its_way(pipeline: Stack) -> None:
    entity = f"M-{next(NUMBERS)}"
    assert post(pipeline, bed(0, "CLEAN") | {"entity_id": entity}, f"metrics-{time.time_ns()}")[0] == 202
    for role, names in MOVED.items():
        for name in names:
            wait_for(
                lambda role=role, name=name: value_of(pipeline, role, name) > 0, ANSWER_S, f"{role} shows {name}", poll_s=0.5
            )
    assert value_of(pipeline, "http-0", "intake_pressure_ratio", default=-1) >= 0


def value_of(stack: Stack, role: str, series: str, default: float = 0.0) -> float:
    """Sum of the series of a role that begin so."""
    lines = [line for line in health(stack, role, "/metrics")[1].splitlines() if line.startswith(f"surgeline_{series}")]
    return sum(float(line.rpartition(" ")[2]) for line in lines) if lines else default


def test_the_status_answers_the_four_questions_for_people_and_for_programs(pipeline: Stack) -> None:
    assert post(pipeline, bed(0), f"status-{time.time_ns()}")[0] == 202
    wait_for(lambda: verdict(pipeline) == "current", ANSWER_S, "the status is current", poll_s=1)
    told = surgeline(pipeline, "status")
    assert told.returncode == 0
    assert "ehr: CURRENT" in told.stdout
    (destination,) = status_of(pipeline)["destinations"]
    assert destination["last_confirmed_at"] is not None
    assert destination["stuck"] == []
    assert destination["unreported"] == []


def status_of(stack: Stack) -> dict[str, Any]:
    told = surgeline(stack, "status", "--json")
    assert told.returncode == 0
    answer: dict[str, Any] = json.loads(told.stdout)
    return answer


def verdict(stack: Stack) -> str:
    return str(status_of(stack)["destinations"][0]["verdict"])


def test_the_audit_log_is_shown_filtered_and_verified(pipeline: Stack) -> None:
    assert post(pipeline, bed(0, "CLEANING"), f"audit-{time.time_ns()}")[0] == 202
    wait_for(lambda: entries(pipeline, "write.confirmed"), ANSWER_S, "a write is in the audit log", poll_s=1)
    shown = entries(pipeline, "write.confirmed")
    assert {entry["action"] for entry in shown} == {"write.confirmed"}
    assert {entry["destination"] for entry in shown} == {"ehr"}
    assert len(shown) <= 3
    verified = surgeline(pipeline, "audit", "verify", "--json")
    assert verified.returncode == 0
    assert json.loads(verified.stdout)["whole"] is True
    assert surgeline(pipeline, "audit", "show").returncode == 0


def entries(stack: Stack, action: str) -> list[dict[str, Any]]:
    told = surgeline(stack, "audit", "show", "--json", "--action", action, "--limit", "3")
    assert told.returncode == 0
    shown: list[dict[str, Any]] = json.loads(told.stdout)
    return shown


def test_a_policy_takes_effect_for_later_records_and_every_verdict_names_its_policy(pipeline: Stack, tmp_path: Path) -> None:
    shipped = load_policy().version
    assert surgeline(pipeline, "policy", "show").stdout.strip() == shipped
    folder = Path(shutil.copytree(Path(package.__file__).parent / "policies", tmp_path / "policies"))
    lanes = folder / "lanes.yaml"
    lanes.write_text(lanes.read_text().replace("rules:\n", "rules:\n  - {lane: critical, why: a test, entity: bed}\n", 1))
    changed = surgeline(pipeline, "policy", "show", "--folder", str(folder)).stdout.strip()
    assert changed != shipped

    before, after = f"R-before-{next(NUMBERS)}", f"R-after-{next(NUMBERS)}"
    assert post(pipeline, bed(0) | {"entity_id": before}, before)[0] == 202
    wait_for(lambda: accepted_of(pipeline, before), ANSWER_S, "the first record is judged", poll_s=0.5)
    applied = surgeline(pipeline, "policy", "apply", "--folder", str(folder), "--reason", "a test")
    assert applied.returncode == 0
    assert changed in applied.stdout
    told = entries(pipeline, "policy.applied")[-1]
    assert (told["subject"], told["reason"]) == (changed, "a test")
    assert told["actor"] == told["chain"].replace("operator/", "operator:")
    try:
        assert post(pipeline, bed(0) | {"entity_id": after}, after)[0] == 202
        wait_for(lambda: accepted_of(pipeline, after), ANSWER_S, "the second record is judged", poll_s=0.5)
        (first,), (second,) = accepted_of(pipeline, before), accepted_of(pipeline, after)
        assert (first.policy_version, first.lane.value) == (shipped, "routine")
        assert (second.policy_version, second.lane.value) == (changed, "critical")
    finally:
        assert surgeline(pipeline, "policy", "apply", "--reason", "the test is over").returncode == 0


def accepted_of(stack: Stack, entity_id: str) -> list[Accepted]:
    return [each for each in records(stack, "events.accepted") if isinstance(each, Accepted) and each.entity_id == entity_id]


def test_a_policy_that_is_wrong_is_refused_with_every_problem_and_nothing_is_told(pipeline: Stack, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(Path(package.__file__).parent / "policies", tmp_path / "policies"))
    ownership = folder / "ownership.yaml"
    ownership.write_text(ownership.read_text().replace("occupancy: {roles: [ehr]", "occupied: {roles: [nobody]"))
    before = end_offsets(pipeline.settings.kafka, "landing.bed")
    for command in (("show",), ("apply", "--reason", "no")):
        ended = surgeline(pipeline, "policy", *command, "--folder", str(folder))
        assert ended.returncode == 1
        assert ended.stderr.splitlines() == [
            "fields.bed.occupied: there is no such field",
            "fields.bed: nobody may state occupancy",
            "fields.bed.occupied: no system has the role nobody",
        ]
    assert end_offsets(pipeline.settings.kafka, "landing.bed") == before
    ownership.unlink()
    ended = surgeline(pipeline, "policy", "show", "--folder", str(folder))
    assert (ended.returncode, ended.stderr.strip()) == (1, "ownership.yaml: can't be read")


def test_the_settings_in_force_are_shown_without_secrets(pipeline: Stack) -> None:
    shown = surgeline(pipeline, "config", "show")
    assert shown.returncode == 0
    assert json.loads(shown.stdout)["kafka"]["topic_prefix"] == pipeline.prefix
    assert pipeline.token not in shown.stdout
