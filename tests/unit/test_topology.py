"""The map, the declarations in topics/ and the page made from them say the same."""

from pathlib import Path
from typing import Any, Final

import pytest

from pipeline import topology
from pipeline.domain.event import EntityType
from pipeline.domain.records import Lane
from pipeline.kafka.render import render_asyncapi, render_topics_markdown
from pipeline.kafka.specs import (
    CHANGELOG_COMPACTION_LAG_MS,
    SpecError,
    TopicSpec,
    differences_from_map,
    load_specs,
    load_templates,
)
from pipeline.resources import schemas_dir, topics_dir
from pipeline.settings.sections.base import RAW_BODY_LIMIT_BYTES
from pipeline.settings.sections.kafka import KafkaSettings
from pipeline.settings.sections.ways_in import HttpSettings, MllpSettings

REPOSITORY: Final = Path(__file__).resolve().parents[2]
TEMPLATES: Final = load_templates(topics_dir())
BY_NAME: Final = {spec.name: spec for spec in TEMPLATES}
BINARY: Final = frozenset({"head", "pending"})
"""Changelogs' values, which are no Avro."""
COUNTED: Final = ("decisions", "events.accepted", "outcomes")


def test_declarations_and_map_name_the_same_topics_producers_and_consumers() -> None:
    assert differences_from_map(TEMPLATES) == []


def test_every_topic_of_the_seams_is_declared() -> None:
    expected = {f"landing.{name}" for name in ("bed", "staffing", "diversion", "transfer", "procedure", "encounter", "patient")}
    expected |= {f"lane.{name}" for name in ("critical", "urgent", "routine", "bulk")}
    expected |= {f"raw.{name}" for name in ("http", "mllp", "fhir", "files")}
    expected |= {*COUNTED, "audit", "quarantine", "intake.receipts", "intake.subscriptions", "files", "lag", "modes", "epochs"}
    expected |= {"checkpoints", "budgets"}
    expected |= {"reconciliations", "files.out"}
    expected |= {"surgeline-gate-heads-changelog", "surgeline-writer-<destination>-pending-changelog"}
    assert set(BY_NAME) == expected


def test_a_topic_of_which_a_stage_knows_and_no_declaration_does_is_found() -> None:
    without = [spec for spec in TEMPLATES if spec.name != "audit"]
    assert differences_from_map(without) == ["audit: on the map, not declared"]


def test_every_entity_type_and_every_lane_has_its_topic() -> None:
    assert set(topology.LANDING) == set(EntityType)
    assert set(topology.LANE_TOPICS) == set(Lane)


def test_everything_about_an_entity_has_one_partition_number() -> None:
    along = [*topology.LANDING.values(), *topology.LANE_TOPICS.values(), *COUNTED, "quarantine"]
    along += [topology.GATE_CHANGELOG, topology.WRITER_CHANGELOG_TEMPLATE]
    assert {BY_NAME[name].partitions for name in along} == {topology.ENTITY_PARTITIONS}


def test_what_the_books_count_is_never_compacted_and_outlives_landing() -> None:
    landing = max(BY_NAME[name].retention_ms for name in topology.LANDING.values())
    for name in COUNTED:
        assert BY_NAME[name].cleanup_policy == "delete"
        assert BY_NAME[name].retention_ms > landing


def test_landing_is_stamped_by_the_broker_because_that_is_the_gate_s_clock() -> None:
    stamped = [*topology.LANDING.values(), *topology.LANE_TOPICS.values(), *COUNTED]
    assert {BY_NAME[name].message_timestamp_type for name in stamped} == {"LogAppendTime"}


def test_a_zombie_s_late_record_cannot_make_the_newer_one_disappear_from_a_changelog() -> None:
    for name in (topology.GATE_CHANGELOG, topology.WRITER_CHANGELOG_TEMPLATE):
        assert BY_NAME[name].cleanup_policy == "compact"
        assert BY_NAME[name].min_compaction_lag_ms >= CHANGELOG_COMPACTION_LAG_MS


@pytest.mark.parametrize("name", ["epochs", "modes"])
def test_what_must_be_found_for_ever_is_compacted_and_never_expires(name: str) -> None:
    assert (BY_NAME[name].cleanup_policy, BY_NAME[name].retention_ms) == ("compact", -1)


def test_every_schema_is_in_the_catalogue_except_those_of_changelogs() -> None:
    for spec in TEMPLATES:
        for name in spec.schema:
            assert name in BINARY or (schemas_dir() / name).is_dir(), f"{spec.name}: {name}"


def test_the_greatest_message_that_a_way_in_may_take_fits_its_raw_topic() -> None:
    for model in (HttpSettings.model_fields["max_body_bytes"], MllpSettings.model_fields["max_frame_bytes"]):
        assert any(getattr(part, "le", None) == RAW_BODY_LIMIT_BYTES for part in model.metadata)
    assert all(BY_NAME[name].max_message_bytes > RAW_BODY_LIMIT_BYTES * 1.3 for name in topology.RAW.values())


def test_a_changelog_is_made_for_each_writer() -> None:
    names = {spec.name for spec in load_specs(topics_dir(), ["ehr", "board"])}
    assert {"surgeline-writer-ehr-pending-changelog", "surgeline-writer-board-pending-changelog"} <= names
    assert not [name for name in names if "<" in name]
    assert topology.writer_changelog("ehr") in names


def test_replication_comes_from_the_settings() -> None:
    config = BY_NAME["audit"].config(KafkaSettings(min_insync_replicas=1))
    assert config["min.insync.replicas"] == "1"
    assert config["unclean.leader.election.enable"] == "false"


@pytest.mark.parametrize(
    "text",
    ["name: audit\n", "- a\n", "name: [", "name: audit\nowner: x\nflavour: sweet\n"],
    ids=["short", "list", "broken", "unknown"],
)
def test_a_declaration_that_cannot_be_read_names_its_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "audit.yaml").write_text(text)
    with pytest.raises(SpecError, match=r"^audit\.yaml: "):
        load_templates(tmp_path)


def test_a_folder_without_declarations_is_an_error_and_not_an_empty_cluster(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no topic is declared"):
        load_templates(tmp_path)


def test_prefixes_come_and_go() -> None:
    assert topology.topic("audit", "north.") == "north.audit"
    assert topology.without_prefix("north.audit", "north.") == "audit"
    assert topology.topic("audit", "") == "audit"
    with pytest.raises(ValueError, match="has the prefix already"):
        topology.topic("north.audit", "north.")


def test_the_page_on_topics_is_current() -> None:
    assert (REPOSITORY / "docs/topics.md").read_text() == render_topics_markdown(TEMPLATES), (
        "write: python -m pipeline.kafka.render > docs/topics.md"
    )


def test_the_page_names_every_topic_and_every_stage() -> None:
    page = render_topics_markdown(TEMPLATES)
    assert all(f"### `{name}`" in page for name in BY_NAME)
    assert all(f"| {stage.name} |" in page for stage in topology.STAGES)


def references(value: Any) -> list[str]:
    match value:
        case {"$ref": str() as target}:
            return [target]
        case dict():
            return [found for inner in value.values() for found in references(inner)]
        case list():
            return [found for inner in value for found in references(inner)]
        case _:
            return []


def test_the_asyncapi_document_holds_every_topic_and_each_reference_leads_somewhere() -> None:
    document = render_asyncapi(TEMPLATES)
    assert document["asyncapi"] == "3.0.0"
    assert len(document["channels"]) == len(TEMPLATES)
    assert {operation["action"] for operation in document["operations"].values()} == {"send", "receive"}
    for reference in references(document):
        target: Any = document
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]
    sends = [name for name in document["operations"] if name.startswith("gate-send-")]
    assert len(sends) == len(next(stage for stage in topology.STAGES if stage.name == "gate").produces)


def test_home_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SURGELINE_HOME", str(tmp_path))
    assert topics_dir() == tmp_path / "topics"
    assert schemas_dir() == tmp_path / "avro_schemas"


def test_names_of_topics_are_names_that_kafka_takes() -> None:
    assert all(isinstance(spec, TopicSpec) and len(spec.name) + 60 <= 249 for spec in TEMPLATES)
