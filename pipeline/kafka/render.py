"""The topics for readers: `docs/topics.md`, and an AsyncAPI 3.0 document for tools. Both are made from the declarations."""

import json
import sys
from collections.abc import Sequence
from typing import Any, Final

from pipeline import __version__, topology
from pipeline.kafka.specs import UNLIMITED, TopicSpec, load_templates
from pipeline.resources import topics_dir

DAY_MS: Final = 86_400_000
MARKDOWN_HEAD: Final = """# Topics

Made from `topics/*.yaml`: `python -m pipeline.kafka.render > docs/topics.md` (a test says when it is old; with `asyncapi`
behind it, it prints an AsyncAPI 3.0 document). Each name stands without the prefix that `kafka.topic_prefix` puts before
it. Replication and `min.insync.replicas` come from the settings. `surgeline topics plan` shows what differs at the broker,
`surgeline topics apply` changes it, and every role checks its topics before it starts.

An entity has one partition number, from landing to outcome: `murmur2` of its key over 8 partitions.
"""


def render_topics_markdown(templates: Sequence[TopicSpec]) -> str:
    """The page for people: stages first, then all topics at a glance, then each with its description."""
    specs = _in_order(templates)
    parts = [MARKDOWN_HEAD, _stages(), _overview(specs), "## Each topic\n"]
    return "\n".join([*parts, *(_section(spec) for spec in specs)])


def _in_order(templates: Sequence[TopicSpec]) -> list[TopicSpec]:
    """In the order of an event's way, as the map names them."""
    order = {name: rank for rank, name in enumerate(topology.every_topic())}
    return sorted(templates, key=lambda spec: (order.get(spec.name, len(order)), spec.name))


def _stages() -> str:
    rows = [
        "## Stages\n",
        "A stage reads what it consumes; of what it measures it asks only where it begins and ends. It is a member of its",
        "groups, and asks what those in brackets committed. `surgeline topics access` prints the same as rules for the broker.\n",
        "| stage | what it does | command | consumes | measures | produces | groups |",
        "|---|---|---|---|---|---|---|",
    ]
    for stage in topology.STAGES:
        groups = ", ".join([*(f"`{name}`" for name in stage.groups), *(f"(`{name}`)" for name in stage.progress)]) or "–"
        topics = " | ".join(map(_names, (stage.consumes, stage.measures, stage.produces)))
        rows.append(f"| {stage.name} | {stage.does} | `{stage.command}` | {topics} | {groups} |")
    return "\n".join(rows) + "\n"


def _names(topics: Sequence[str]) -> str:
    """Names of topics, with a family of which all are meant in short."""
    rest, shown = list(topics), []
    for family, members in (("landing.*", topology.LANDING), ("lane.*", topology.LANE_TOPICS), ("raw.*", topology.RAW)):
        if set(members.values()) <= set(rest):
            shown.append(f"`{family}`")
            rest = [name for name in rest if name not in members.values()]
    return ", ".join([*shown, *(f"`{name}`" for name in rest)]) or "–"


def _overview(specs: Sequence[TopicSpec]) -> str:
    rows = ["## At a glance\n", "| topic | partitions | kept | cleanup | patient data |", "|---|---|---|---|---|"]
    for spec in specs:
        patient = "yes" if spec.holds_patient_data else "no"
        rows.append(f"| `{spec.name}` | {spec.partitions} | {_kept(spec)} | {spec.cleanup_policy} | {patient} |")
    return "\n".join(rows) + "\n"


def _kept(spec: TopicSpec) -> str:
    """How long records stay."""
    if spec.retention_ms == UNLIMITED:
        return "newest per key" if spec.compacted else "for ever"
    days = f"{spec.retention_ms // DAY_MS} days"
    return f"newest per key, {days}" if spec.compacted else days


def _section(spec: TopicSpec) -> str:
    lines = [
        f"### `{spec.name}`\n",
        f"{spec.description}\n",
        f"- owner: {spec.owner}",
        f"- key: {spec.key.replace('|', chr(92) + '|')}",
        f"- schema: {', '.join(f'`{name}`' for name in spec.schema)}",
        f"- produced by: {', '.join(spec.producers)}",
        f"- consumed by: {', '.join(spec.consumers)}",
        f"- greatest record: {spec.max_message_bytes} bytes; timestamps: {spec.message_timestamp_type}",
    ]
    if spec.min_compaction_lag_ms:
        lines.append(f"- never compacted before {spec.min_compaction_lag_ms // 3_600_000} hours")
    return "\n".join(lines) + "\n"


def render_asyncapi(templates: Sequence[TopicSpec]) -> dict[str, Any]:
    """AsyncAPI 3.0 document: a channel per topic, an operation per stage and topic, a message per schema."""
    specs = _in_order(templates)
    declared = {spec.name for spec in specs}
    schemas = sorted({name for spec in specs for name in spec.schema})
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "surgeline",
            "version": __version__,
            "description": "Topics of the pipeline that keeps capacity systems and the EHR consistent; names without the prefix.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/vnd.apache.avro",
        "channels": {_id(spec.name): _channel(spec) for spec in specs},
        "operations": {
            f"{stage.name}-{action}-{_id(name)}": _operation(stage, action, name)
            for stage in topology.STAGES
            for action, names in (("receive", stage.consumes), ("send", stage.produces))
            for name in names
            if name in declared
        },
        "components": {"messages": {_id(name): _message(name) for name in schemas}},
    }


def _id(name: str) -> str:
    """Name without what a reference can't hold."""
    return name.replace(topology.DESTINATION, "DESTINATION").replace(".", "-")


def _channel(spec: TopicSpec) -> dict[str, Any]:
    channel: dict[str, Any] = {
        "address": spec.name.replace(topology.DESTINATION, "{destination}"),
        "description": spec.description,
        "messages": {_id(name): {"$ref": f"#/components/messages/{_id(name)}"} for name in spec.schema},
        "tags": [{"name": f"owner:{spec.owner}"}, {"name": "patient-data" if spec.holds_patient_data else "no-patient-data"}],
        "bindings": {
            "kafka": {
                "partitions": spec.partitions,
                "topicConfiguration": {
                    "cleanup.policy": spec.cleanup_policy.split(","),
                    "retention.ms": spec.retention_ms,
                    "max.message.bytes": spec.max_message_bytes,
                },
                "bindingVersion": "0.5.0",
            }
        },
    }
    if topology.DESTINATION in spec.name:
        channel["parameters"] = {"destination": {"description": "name of the destination, one of `writers` in the settings"}}
    return channel


def _operation(stage: topology.Stage, action: str, name: str) -> dict[str, Any]:
    return {"action": action, "channel": {"$ref": f"#/channels/{_id(name)}"}, "summary": f"{stage.name}: {stage.does}"}


def _message(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "contentType": "application/vnd.apache.avro",
        "bindings": {"kafka": {"key": {"type": "string"}, "schemaIdLocation": "payload", "bindingVersion": "0.5.0"}},
    }


def main(arguments: Sequence[str]) -> None:
    """Print the page, or with `asyncapi` the document."""
    templates = load_templates(topics_dir())
    if "asyncapi" in arguments:
        sys.stdout.write(json.dumps(render_asyncapi(templates), indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(render_topics_markdown(templates))


if __name__ == "__main__":
    main(sys.argv[1:])
