"""Topic declarations: `topics/*.yaml`, one file per topic, read into values and checked against the map."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from pipeline import topology
from pipeline.settings.sections.kafka import KafkaSettings

Cleanup = Literal["delete", "compact", "compact,delete"]

UNLIMITED: Final = -1
"""Retention without an end."""

CHANGELOG_COMPACTION_LAG_MS: Final = 24 * 60 * 60 * 1000
"""Least `min.compaction.lag.ms` of a changelog: a zombie's late record must not make the newer one disappear."""


class TopicSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One topic as it must be at the broker, without the prefix; replication comes from the settings."""

    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9.-]*(<destination>)?[A-Za-z0-9._-]*$", max_length=180)]
    description: str
    owner: str
    key: str
    schema: tuple[str, ...]
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    partitions: Annotated[int, Meta(ge=1, le=1024)]
    retention_ms: Annotated[int, Meta(ge=UNLIMITED)]
    cleanup_policy: Cleanup
    max_message_bytes: Annotated[int, Meta(ge=1_000, le=16 * 1024 * 1024)]
    holds_patient_data: bool
    message_timestamp_type: Literal["LogAppendTime", "CreateTime"] = "LogAppendTime"
    min_compaction_lag_ms: Annotated[int, Meta(ge=0)] = 0

    @property
    def compacted(self) -> bool:
        """Whether only the last record of a key is sure to stay."""
        return "compact" in self.cleanup_policy

    def config(self, kafka: KafkaSettings) -> dict[str, str]:
        """Kafka's configuration of the topic."""
        return {
            "cleanup.policy": self.cleanup_policy,
            "max.message.bytes": str(self.max_message_bytes),
            "message.timestamp.type": self.message_timestamp_type,
            "min.compaction.lag.ms": str(self.min_compaction_lag_ms),
            "min.insync.replicas": str(kafka.min_insync_replicas),
            "retention.ms": str(self.retention_ms),
            "unclean.leader.election.enable": "false",
        }


class SpecError(Exception):
    """A declaration can't be read, or there is none."""


def load_templates(folder: Path) -> tuple[TopicSpec, ...]:
    """Each declaration as it is written, by name; SpecError names the file at fault."""
    specs = [_read(file) for file in sorted(folder.glob("*.yaml"))]
    if not specs:
        raise SpecError(f"no topic is declared in {folder}")
    return tuple(sorted(specs, key=lambda spec: spec.name))


def load_specs(folder: Path, destinations: Iterable[str]) -> tuple[TopicSpec, ...]:
    """Each topic that must exist, with one changelog per destination; SpecError names the file at fault."""
    names = tuple(destinations)
    return tuple(spec for template in load_templates(folder) for spec in _expand(template, names))


def _read(file: Path) -> TopicSpec:
    try:
        return msgspec.yaml.decode(file.read_bytes(), type=TopicSpec)
    except (OSError, msgspec.DecodeError) as error:
        raise SpecError(f"{file.name}: {error}") from None


def _expand(template: TopicSpec, destinations: Sequence[str]) -> Iterable[TopicSpec]:
    if topology.DESTINATION not in template.name:
        return (template,)
    return (
        msgspec.structs.replace(template, name=template.name.replace(topology.DESTINATION, destination))
        for destination in destinations
    )


def differences_from_map(templates: Sequence[TopicSpec]) -> list[str]:
    """Where the declarations and the map disagree, in sentences; empty where they agree."""
    declared = {spec.name: spec for spec in templates}
    found = [f"{name}: on the map, not declared" for name in topology.every_topic() if name not in declared]
    for name, spec in declared.items():
        for what, said, mapped in (
            ("producers", spec.producers, topology.producers_of(name)),
            ("consumers", spec.consumers, topology.consumers_of(name)),
        ):
            if set(said) != set(mapped):
                found.append(f"{name}: {what} declared {sorted(said)}, on the map {sorted(mapped)}")
    return found
