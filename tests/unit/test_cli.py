"""The `surgeline` command where no broker is asked: mapping, benches, help, and settings that can't be used."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from pipeline import __version__, cli
from pipeline.kafka.client import Message
from pipeline.kafka.reader import LogTruncated
from pipeline.local.bench import rooms as bench
from pipeline.local.bench.rooms import Figures
from pipeline.sources.http.openapi import EXAMPLE, EXAMPLE_DIVERSION
from pipeline.topology import ENTITY_PARTITIONS
from tests.support.hl7_samples import a20, adt

RUNNER = CliRunner()


def surgeline(*arguments: str | Path) -> Result:
    return RUNNER.invoke(cli.app, [str(each) for each in arguments])


def lines_of(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def mapped(folder: Path, name: str, data: bytes, *options: str) -> tuple[int, list[dict[str, Any]]]:
    file = folder / name
    file.write_bytes(data)
    result = surgeline("map", file, *options)
    return result.exit_code, lines_of(result)


# -- map


def test_an_hl7_message_is_mapped_to_one_object_per_event(tmp_path: Path) -> None:
    code, events = mapped(tmp_path, "a.hl7", adt("A01"), "--tenant", "north")
    assert code == 0
    assert [event["entity_type"] for event in events] == ["patient", "encounter", "bed"]
    assert {event["tenant"] for event in events} == {"north"}


def test_hl7_and_json_are_printed_with_the_same_names_and_rfc_3339_times(tmp_path: Path) -> None:
    _, (from_hl7,) = mapped(tmp_path, "a.hl7", a20("H"))
    _, (from_json,) = mapped(tmp_path, "a.json", json.dumps(EXAMPLE).encode())
    assert from_hl7["recorded_at"] == "2026-01-05T10:10:00.000Z"
    assert from_json["recorded_at"] == "2026-01-31T08:00:00.000Z"
    only_one_has = {"occurred_at", "control_id", "location", "user", "reason", "idempotency_key", "sequence"}
    assert from_hl7.keys() - only_one_has == from_json.keys() - only_one_has


def test_a_message_that_a_rule_ignores_says_so_and_is_no_failure(tmp_path: Path) -> None:
    code, (said,) = mapped(tmp_path, "a.hl7", adt("A60"))
    assert code == 0
    assert said.keys() == {"file", "ignored", "detail"}


def test_a_rejected_message_says_why_and_fails_the_command(tmp_path: Path) -> None:
    code, (said,) = mapped(tmp_path, "a.hl7", adt("A99"))
    assert code == 1
    assert said["file"] == str(tmp_path / "a.hl7")
    assert said["rejected"] == "UNSUPPORTED_EVENT"
    assert said["detail"]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([EXAMPLE, EXAMPLE_DIVERSION]),
        json.dumps([EXAMPLE, EXAMPLE_DIVERSION], indent=2),
        f"{json.dumps(EXAMPLE)}\n\n{json.dumps(EXAMPLE_DIVERSION)}\n",
    ],
)
def test_json_comes_as_a_list_or_as_lines(tmp_path: Path, text: str) -> None:
    code, events = mapped(tmp_path, "a.json", text.encode())
    assert code == 0
    assert [event["entity_type"] for event in events] == ["bed", "diversion"]
    assert len({event["event_id"] for event in events}) == 2


def test_one_json_object_is_one_event_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    plain = mapped(tmp_path, "a.json", json.dumps(EXAMPLE).encode())
    marked = mapped(tmp_path, "a.json", b"\xef\xbb\xbf" + json.dumps(EXAMPLE).encode())
    assert plain[0] == marked[0] == 0
    assert plain[1][0]["event_id"] == marked[1][0]["event_id"]


def test_a_json_event_that_breaks_a_rule_names_field_and_remedy_and_the_others_are_mapped(tmp_path: Path) -> None:
    broken = {**EXAMPLE, "recorded_at": "yesterday"}
    code, (good, bad) = mapped(tmp_path, "a.json", json.dumps([EXAMPLE, broken]).encode())
    assert code == 1
    assert good["entity_type"] == "bed"
    assert bad["field"] == "/1/recorded_at"
    assert bad["remedy"]
    assert "yesterday" not in json.dumps(bad)


@pytest.mark.parametrize("data", [b"{", b"[1,", b'{"a": 1}\n{"b"', b'{"a": "\xff"}', b"[" * 100_000])
def test_what_is_no_json_is_one_rejected_object(tmp_path: Path, data: bytes) -> None:
    code, (said,) = mapped(tmp_path, "a.json", data)
    assert (code, said["rejected"]) == (1, "UNDECODABLE")


@pytest.mark.parametrize("data", [b"[1, null]", b'{"facility": "\\ud800"}', b'{"entity_type": ["bed"], "payload": 3}'])
def test_json_that_is_no_event_is_rejected_item_by_item(tmp_path: Path, data: bytes) -> None:
    code, said = mapped(tmp_path, "a.json", data)
    assert code == 1
    assert all("rejected" in each for each in said)


@pytest.mark.parametrize("data", [b"", b"neither HL7 nor JSON", b"\x00\xff"])
def test_bytes_that_are_no_message_are_one_rejected_object(tmp_path: Path, data: bytes) -> None:
    code, (said,) = mapped(tmp_path, "a.hl7", data)
    assert (code, said["rejected"]) == (1, "UNREADABLE")


def test_a_file_that_cannot_be_read_is_rejected_and_the_next_one_is_still_mapped(tmp_path: Path) -> None:
    good = tmp_path / "good.hl7"
    good.write_bytes(a20("H"))
    result = surgeline("map", tmp_path / "absent.hl7", tmp_path, good)
    absent, folder, event = lines_of(result)
    assert result.exit_code == 1
    assert absent["rejected"] == folder["rejected"] == "UNREADABLE"
    assert event["entity_type"] == "bed"


def test_an_unknown_profile_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    result = surgeline("map", "--profile", "nobody", tmp_path / "any.hl7")
    assert result.exit_code == 2
    assert "no HL7 profile nobody; name one of capacity, default" in result.stderr


# -- bench


@pytest.mark.parametrize("name", ["gate", "parse"])
def test_a_bench_writes_its_figures_as_json_and_says_whether_its_goal_is_reached(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "EVENTS", 4_000)
    result = surgeline("bench", name, "--json", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert result.exit_code == 0
    assert figures["items"] > 0
    assert figures["items_per_cpu_s"] == pytest.approx(figures["items"] / figures["cpu_s"])
    assert figures["reached"] == (figures["items_per_cpu_s"] >= figures["goal_items_per_cpu_s"])


@pytest.mark.parametrize(("reached", "options", "code"), [(True, ["--assert"], 0), (False, ["--assert"], 1), (False, [], 0)])
def test_a_bench_fails_only_where_it_asserts_and_misses_its_goal(
    reached: bool, options: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bench.BENCHES, "gate", lambda: Figures(1, 1.0, 1.0, 1.0, 2.0, reached))
    assert surgeline("bench", "gate", *options).exit_code == code


def test_an_unknown_bench_is_told_with_those_that_there_are() -> None:
    result = surgeline("bench", "nothing")
    assert result.exit_code == 2
    result = surgeline("bench", "surge", "--part", "nothing")
    assert result.exit_code == 2
    assert "known: queue, refuse, outage, kills" in result.stderr


# -- help and settings


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Each command with the names that lead to it, groups included."""
    group = group or typer.main.get_command(cli.app)
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


@pytest.mark.parametrize("path", sorted(commands()), ids=" ".join)
def test_every_command_explains_itself_in_a_sentence(path: tuple[str, ...]) -> None:
    result = surgeline(*path, "--help")
    assert result.exit_code == 0
    command: Any = typer.main.get_command(cli.app)
    for name in path:
        command = command.commands[name]
    first = (command.help or "").strip().split("\n\n")[0]
    assert len(first.split()) >= 2
    assert first[-1] in ".?"
    for option in command.params:
        assert getattr(option, "help", None), f"{path}: {option.name} has no help"


def test_the_version_is_the_packages() -> None:
    assert surgeline("--version").stdout.strip() == __version__


def test_settings_that_cannot_be_used_end_with_78_and_every_reason(tmp_path: Path) -> None:
    file = tmp_path / "surgeline.yaml"
    file.write_text("kafka: {bootstrap_servers: kafka.example:9092, replication_factor: 1}\nhttp: {port: 99999}\nfrost: 1\n")
    result = surgeline("status", "--config", file)
    assert result.exit_code == 78
    for setting in ("http.port", "frost"):
        assert setting in result.stderr


def test_settings_are_shown_with_their_secrets_masked(tmp_path: Path) -> None:
    file = tmp_path / "surgeline.yaml"
    file.write_text(
        "demo: true\n"
        "kafka: {bootstrap_servers: '127.0.0.1:9092', sasl_username: someone}\n"
        f"http: {{clients: [{{name: board, tenant: demo, token_sha256: {'ab' * 32}, source_systems: [capacity]}}]}}\n"
    )
    result = surgeline("config", "show", "--config", file)
    shown = json.loads(result.stdout)
    assert result.exit_code == 0
    assert shown["kafka"]["sasl_username"] == "someone"
    assert "ab" * 32 not in result.stdout


def test_a_broker_that_does_not_answer_is_exit_code_75_with_the_setting_to_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.kafka.admin.METADATA_TIMEOUT_S", 0.5)
    file = tmp_path / "surgeline.yaml"
    file.write_text("demo: true\nkafka: {bootstrap_servers: '127.0.0.1:1', replication_factor: 1, min_insync_replicas: 1}\n")
    result = surgeline("topics", "check", "--config", file)
    assert result.exit_code == 75
    assert "kafka.bootstrap_servers" in result.stderr


@pytest.mark.parametrize("command", ["audit verify", "shadow report", "reassert bed MAIN ICU/1/A --reason r"])
def test_records_that_expire_while_they_are_read_are_exit_code_75_and_no_fault_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def expired(_: object, topic: str, **__: object) -> Iterator[Message]:
        raise LogTruncated(topic, 3, 2, 5)

    monkeypatch.setattr("pipeline.ops.topics.begin_offsets", lambda *_: dict.fromkeys(range(ENTITY_PARTITIONS), 2))
    monkeypatch.setattr("pipeline.ops.topics.end_offsets", lambda *_: dict.fromkeys(range(ENTITY_PARTITIONS), 9))
    monkeypatch.setattr("pipeline.ops.topics.read_topic", expired)
    file = tmp_path / "surgeline.yaml"
    file.write_text("demo: true\n")
    result = surgeline(*command.split(), "--config", file)
    assert result.exit_code == 75
    assert "run it again" in result.stderr
    assert "kafka.bootstrap_servers" not in result.stderr
