"""Access rules are the map's: what a role consumes it may read, what it produces it may write, and nothing else."""

import json

import pytest
from typer.testing import CliRunner

from pipeline import topology
from pipeline.cli import app
from pipeline.kafka.access import Access, access_of, commands

DESTINATIONS = ("ehr", "board")
ALL = list(access_of("north.", DESTINATIONS))


def allowed(role: str, operation: str, resource: str = "topic") -> set[str]:
    return {
        name
        for each in ALL
        if (each.role, each.resource) == (role, resource) and operation in each.operations
        for name in each.names
    }


@pytest.mark.parametrize("stage", [each for each in topology.STAGES if each.name != "writer"], ids=lambda each: each.name)
def test_a_role_may_read_what_it_consumes_and_write_what_it_produces(stage: topology.Stage) -> None:
    def named(names: tuple[str, ...]) -> set[str]:
        return {f"north.{name.replace(topology.DESTINATION, each)}" for name in names for each in DESTINATIONS}

    assert allowed(stage.name, "Read") == named(stage.consumes)
    assert allowed(stage.name, "Write") == named(stage.produces)
    assert not allowed(stage.name, "Read") & named(stage.measures)
    assert allowed(stage.name, "Describe") >= named((*stage.consumes, *stage.produces, *stage.measures))
    assert allowed(stage.name, "Read", "group") == named(stage.groups)
    assert allowed(stage.name, "Describe", "group") == named((*stage.progress, topology.READER_GROUP))


def test_a_writer_is_a_role_for_each_destination_and_has_nothing_of_another_s() -> None:
    own, other = "north.surgeline-writer-ehr-pending-changelog", "north.surgeline-writer-board-pending-changelog"
    assert own in allowed("writer-ehr", "Read") & allowed("writer-ehr", "Write")
    assert other not in allowed("writer-ehr", "Read") | allowed("writer-ehr", "Write")
    assert allowed("writer-ehr", "Read", "group") == {"north.surgeline-writer-ehr"}
    assert not [each for each in ALL if each.role == "writer"]


def test_only_the_operator_makes_topics_and_nobody_deletes() -> None:
    assert {each.role for each in ALL if {"Create", "AlterConfigs"} & set(each.operations)} == {"operator"}
    assert {operation for each in ALL for operation in each.operations} == {
        "Read", "Write", "Create", "AlterConfigs", "Describe", "DescribeConfigs",
    }  # fmt: skip


def test_a_rule_is_a_line_for_kafka_acls() -> None:
    rule = Access("gate", "topic", ("Describe", "DescribeConfigs"), ("audit", "lag"))
    assert list(commands([rule], "User:north-{role}", "kafka:9092")) == [
        (
            "kafka-acls.sh --bootstrap-server kafka:9092 --add --allow-principal 'User:north-gate' "
            "--operation Describe --operation DescribeConfigs --topic audit --topic lag"
        )
    ]


def test_one_login_for_all_roles_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURGELINE_DEMO", "true")
    told = CliRunner().invoke(app, ["topics", "access", "--principal", "User:surgeline"])
    assert told.exit_code == 2
    assert "{role}" in told.output


def test_rules_come_as_json_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURGELINE_DEMO", "true")
    told = CliRunner().invoke(app, ["topics", "access", "--json"])
    assert told.exit_code == 0
    assert {each["role"] for each in json.loads(told.stdout)} >= {"gate", "http", "operator"}
