"""What roles are built from: refusals with every reason, sealing that names its key, policies for every partition."""

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline import topology
from pipeline.destinations.fhir.profile import PROFILES
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Millis
from pipeline.domain.judging.policy import BadPolicy
from pipeline.domain.records import Control, ControlKind
from pipeline.formats.avro import Codec
from pipeline.kafka.crypto import RawCipher, Undecryptable
from pipeline.roles import process as process_module
from pipeline.roles.policies import load_policy, policy_records
from pipeline.roles.process import EXIT_CONFIG, EXIT_CRASHED, EXIT_TRY_AGAIN, Process, Refused, or_die, run_role
from pipeline.roles.ways_in.intake import expectations, hl7_profile
from pipeline.roles.writers.destinations import pace_of
from pipeline.roles.writers.profiles import entity_types_of, profile_for
from pipeline.settings.model import Settings
from pipeline.settings.sections.ways_in import RawEncryption
from pipeline.stream.judging.gate import POLICY_KEY

CODEC = Codec.shipped()
KEY = bytes(range(32))
CANARY = "Zzyzxqv"


def settings(**writer: str) -> Settings:
    section = {"profile": "sekmet-replica", "role": "replica", "base_url": "http://127.0.0.1:1/fhir", "data_dir": "/nowhere"}
    return Settings.model_validate(
        {"demo": True, "kafka": {"bootstrap_servers": "127.0.0.1:1"}, "writers": {"ehr": section | writer}}
    )


def test_a_destination_whose_role_is_not_its_profiles_is_refused() -> None:
    section = settings(role="owner").writers["ehr"]
    with pytest.raises(Refused, match=r"writers\.ehr\.role is owner, but the profile sekmet-replica is for an? replica"):
        profile_for("ehr", section)


def test_an_unknown_profile_is_refused_with_its_setting() -> None:
    with pytest.raises(Refused, match=r"writers\.ehr\.profile"):
        profile_for("ehr", settings(profile="nobody").writers["ehr"])


def test_an_outcome_is_due_only_for_what_a_profile_maps() -> None:
    due = expectations(settings())
    assert due == {"ehr": entity_types_of("ehr", settings().writers["ehr"])}
    assert {EntityType.PATIENT, EntityType.ENCOUNTER, EntityType.BED} <= due["ehr"]


@pytest.mark.parametrize(
    ("limits", "concurrency", "rate_per_s"),
    [
        ("{}", 20, 150.0),
        ("{concurrency: 4}", 4, 150.0),
        ("{concurrency: 90, rate_per_s: 900}", 20, 150.0),
        ("{rate_per_s: 7.5}", 20, 7.5),
    ],
)
def test_what_an_ehr_documents_bounds_what_the_settings_ask_for(
    limits: str, concurrency: int, rate_per_s: float, tmp_path: Path
) -> None:
    profile = tmp_path / "slow.yaml"
    profile.write_text((PROFILES / "sekmet-replica.yaml").read_text() + f"limits: {limits}\n")
    section = settings(profile=str(profile), concurrency="20", rate_per_s="150").writers["ehr"]
    assert pace_of("ehr", section) == (concurrency, rate_per_s)


def test_the_settings_of_the_feed_better_the_profile_and_never_loosen_its_bound() -> None:
    shipped = hl7_profile("default")
    assert hl7_profile("default", "EAST").facility == "EAST"
    assert hl7_profile("default", None, 1_000).max_message_bytes == 1_000
    assert hl7_profile("default", None, shipped.max_message_bytes * 2).max_message_bytes == shipped.max_message_bytes


def test_a_policy_is_told_to_every_partition_of_every_landing_topic_once() -> None:
    policy = load_policy()
    told = policy_records(policy, CODEC, "operator:x", "why", Millis(7))
    places = [(record.topic, record.partition) for record in told]
    assert sorted(places, key=str) == sorted(
        ((topic, partition) for topic in topology.LANDING.values() for partition in range(topology.ENTITY_PARTITIONS)), key=str
    )
    for record in told:
        order = CODEC.decode(record.value)
        assert isinstance(order, Control)
        assert (record.key, order.kind, order.policy_version, order.reason) == (
            POLICY_KEY,
            ControlKind.POLICY,
            policy.version,
            "why",
        )


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", ""])
def test_a_policy_file_that_holds_no_settings_is_told_by_its_name(text: str, tmp_path: Path) -> None:
    (tmp_path / "ownership.yaml").write_text(text)
    (tmp_path / "lanes.yaml").write_text("version: 1")
    with pytest.raises(BadPolicy, match=r"ownership\.yaml"):
        load_policy(tmp_path)


def made(**changes: Any) -> Process:
    parts: dict[str, Any] = {
        "settings": settings(),
        "role": "gate",
        "instance": "0",
        "codec": CODEC,
        "heartbeat": None,
        "watchdog": None,
        "beat": None,
    }
    return Process(**(parts | changes))


def with_raw_key(file: Path) -> Settings:
    return settings().model_copy(update={"raw_encryption": RawEncryption(key_id="key-7", key_file=file)})


def test_a_role_that_seals_nothing_needs_no_key_and_one_that_does_fails_at_its_start(tmp_path: Path) -> None:
    process = made(settings=with_raw_key(tmp_path / "absent.key"))
    with pytest.raises(OSError, match="absent"):
        _ = process.seal


def test_what_is_sealed_names_its_key_and_opens_only_at_its_place(tmp_path: Path) -> None:
    (tmp_path / "raw.key").write_text(KEY.hex())
    sealed = made(settings=with_raw_key(tmp_path / "raw.key")).seal(CANARY.encode(), b"landing.bed/3/17")
    length = sealed[0]
    key_id, rest = sealed[1 : 1 + length].decode(), sealed[1 + length :]
    assert key_id == "key-7"
    assert CANARY.encode() not in sealed
    assert RawCipher({"key-7": KEY}, "key-7").open(key_id, "landing.bed/3/17", rest) == CANARY.encode()
    with pytest.raises(Undecryptable):
        RawCipher({"key-7": KEY}, "key-7").open(key_id, "landing.bed/3/18", rest)


def test_a_stop_while_a_role_still_starts_ends_it_also_where_it_is_the_first_process_of_a_container() -> None:
    """As process 1 a role has no default for SIGTERM: without a handler it would start in spite of it, and be killed."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        environment = {"PATH": os.environ["PATH"], "SURGELINE_KAFKA__BOOTSTRAP_SERVERS": address, "SURGELINE_DEMO": "true"}
        command = [str(Path(sys.executable).with_name("surgeline")), "run", "timers"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/") as role:
            assert role.stdout is not None
            assert b"role.started" in role.stdout.readline()
            role.terminate()
            assert role.wait(60) == EXIT_TRY_AGAIN
            assert b"Kafka does not answer" not in role.stdout.read()


def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """`run_role` takes over the logging of its process; here it must not."""
    monkeypatch.setattr(process_module, "configure", lambda *_: None)
    monkeypatch.setattr(process_module, "report_with", lambda _: None)
    monkeypatch.setattr(process_module, "_end_at_sigterm", lambda: None)


def test_a_role_that_refuses_prints_every_problem_and_exits_for_a_person(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> Process:
        raise Refused(["one thing", "another"])

    quiet(monkeypatch)
    monkeypatch.setattr(process_module, "_prepare", refuse)
    assert run_role(settings(), "gate", "0", lambda _: pytest.fail("never built")) == EXIT_CONFIG
    assert capsys.readouterr().err.endswith("surgeline: one thing\nsurgeline: another\n")


def test_a_role_that_crashes_tells_type_and_place_and_nothing_of_what_it_held(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash(*_: object) -> Process:
        raise RuntimeError(CANARY)

    quiet(monkeypatch)
    monkeypatch.delenv(process_module.SHOW_FAULTS, raising=False)
    monkeypatch.setattr(process_module, "_prepare", crash)
    assert run_role(settings(), "gate", "0", lambda _: pytest.fail("never built")) == EXIT_CRASHED
    said = capsys.readouterr()
    assert "RuntimeError" in said.err
    assert CANARY not in said.err + said.out


async def test_a_service_that_ends_by_a_fault_ends_the_process_and_a_cancelled_one_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)

    async def fail() -> None:
        raise RuntimeError(CANARY)

    await or_die(fail())
    assert ended == [EXIT_CRASHED]
    waiting = asyncio.create_task(or_die(asyncio.sleep(60)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended == [EXIT_CRASHED]
