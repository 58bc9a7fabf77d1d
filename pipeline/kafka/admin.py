"""Topics at the broker against their declarations: what would change, changing it, and the check that workers start with."""

import enum
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, but not said so in its stubs
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
    TopicMetadata,
)

from pipeline import topology
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import TopicEpoch
from pipeline.kafka import epochs
from pipeline.kafka.client import LOG, METADATA_TIMEOUT_S, KafkaUnavailable
from pipeline.kafka.epochs import Codec, UnknownLife, read_epochs
from pipeline.kafka.producer import OutRecord
from pipeline.kafka.specs import TopicSpec
from pipeline.settings.sections.kafka import KafkaSettings

__all__ = [
    "Applied",
    "ConfigChange",
    "Plan",
    "Problem",
    "ProblemKind",
    "UnknownLife",
    "apply",
    "check",
    "create",
    "plan",
    "read_epochs",
]

VISIBLE_TIMEOUT_S: Final = 15.0
"""Time for a new topic to be known to every broker that is asked."""
VISIBLE_POLL_S: Final = 0.1

MISSING: Final = "missing: run `surgeline topics apply`"

AT_LEAST: Final = frozenset({"max.message.bytes", "min.compaction.lag.ms", "min.insync.replicas"})
"""A worker starts where the broker's value is greater than the declared one."""
EXACTLY: Final = frozenset({"cleanup.policy", "message.timestamp.type"})
"""A worker starts only with the declared value: order, time or completeness hang on it."""


class ProblemKind(enum.StrEnum):
    """What is wrong with a topic; bounded."""

    MISSING = "MISSING"
    PARTITIONS = "PARTITIONS"
    REPLICATION = "REPLICATION"
    CONFIG = "CONFIG"
    UNKNOWN_ID = "UNKNOWN_ID"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a topic, named as at the broker, and what to do."""

    topic: str
    kind: ProblemKind
    detail: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.detail}"


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """One configuration entry of a topic that differs from its declaration."""

    topic: str
    name: str
    before: str | None
    after: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What `apply` would do. Where anything is refused it does nothing."""

    create: tuple[str, ...]
    change: tuple[ConfigChange, ...]
    refuse: tuple[Problem, ...]
    unchanged: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` did. `recorded` holds the epochs that are new; nothing was done if `plan.refuse` isn't empty."""

    plan: Plan
    recorded: tuple[TopicEpoch, ...]
    refused: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _State:
    """The topics of the declarations as they are at the broker, by their name there."""

    wanted: Mapping[str, TopicSpec]
    metadata: Mapping[str, TopicMetadata]
    configs: Mapping[str, Mapping[str, str | None]]


def plan(settings: KafkaSettings, specs: Sequence[TopicSpec]) -> Plan:
    """Compare the declarations with the broker; changes nothing. KafkaUnavailable if it doesn't answer."""
    return _plan(settings, _state(_admin(settings), settings, specs))


def apply(
    settings: KafkaSettings,
    specs: Sequence[TopicSpec],
    codec: Codec,
    actor: str,
    now: Millis,
    *,
    new_epoch: bool = False,
    told: Callable[[Sequence[TopicEpoch]], Sequence[OutRecord]] = lambda _: (),
) -> Applied:
    """Create what is missing, change what differs, then record the ids of the landing topics in `epochs`.

    Repeating it changes nothing; two at once are safe. A wrong partition count refuses all of it. A landing topic with
    another id than the recorded one keeps its old epoch, and workers refuse it, until `new_epoch` gives it the next.
    `told` makes the records that tell of new epochs; they are published together with them.
    """
    admin = _admin(settings)
    planned = _plan(settings, _state(admin, settings, specs))
    if planned.refuse:
        return Applied(planned, (), planned.refuse)
    by_name = _by_name(settings, specs)
    _create(admin, settings, [by_name[name] for name in planned.create])
    _change(admin, planned.change)
    recorded, refused = _record_epochs(admin, settings, by_name, codec, actor, now, new_epoch=new_epoch, told=told)
    return Applied(planned, recorded, refused)


def create(settings: KafkaSettings, specs: Sequence[TopicSpec]) -> None:
    """Create topics as declared, without recording epochs: for tools and tests that need no landing topic's revisions."""
    _create(_admin(settings), settings, specs)


def check(settings: KafkaSettings, specs: Sequence[TopicSpec], codec: Codec) -> list[Problem]:
    """What a worker must not start with: missing topics, wrong partitions, wrong configuration, an unknown topic id."""
    admin = _admin(settings)
    state = _state(admin, settings, specs)
    problems = [Problem(name, ProblemKind.MISSING, MISSING) for name in state.wanted if name not in state.metadata]
    problems += _misfits(settings, state)
    for change in _changes(settings, state):
        if change.name in EXACTLY or (change.name in AT_LEAST and int(change.before or 0) < int(change.after)):
            detail = f"{change.name} is {change.before}, not {change.after}: run `surgeline topics apply`"
            problems.append(Problem(change.topic, ProblemKind.CONFIG, detail))
    return problems + _unknown_ids(admin, settings, state, codec)


def _unknown_ids(admin: AdminClient, settings: KafkaSettings, state: _State, codec: Codec) -> list[Problem]:
    landing = [name for name, spec in state.wanted.items() if spec.name in epochs.LANDING and name in state.metadata]
    epochs_topic = topology.topic(topology.EPOCHS, settings.topic_prefix)
    if not landing:
        return []
    if epochs_topic not in _names(admin):
        return [] if epochs_topic in state.wanted else [Problem(epochs_topic, ProblemKind.MISSING, MISSING)]
    strangers = epochs.unknown(epochs.lives(admin, landing), read_epochs(settings, codec))
    return [Problem(stranger.topic, ProblemKind.UNKNOWN_ID, stranger.why) for stranger in strangers]


def _plan(settings: KafkaSettings, state: _State) -> Plan:
    create = tuple(name for name in state.wanted if name not in state.metadata)
    refuse = tuple(_misfits(settings, state))
    change = tuple(_changes(settings, state))
    touched = {*create, *(problem.topic for problem in refuse), *(item.topic for item in change)}
    return Plan(create, change, refuse, tuple(name for name in state.wanted if name not in touched))


def _misfits(settings: KafkaSettings, state: _State) -> Iterator[Problem]:
    """What no configuration can mend: keys would move to other partitions, or records have too few copies."""
    for name, metadata in state.metadata.items():
        have, want = len(metadata.partitions), state.wanted[name].partitions
        if have != want:
            detail = f"{have} partitions instead of {want}: they never change once there are records; make a new topic"
            yield Problem(name, ProblemKind.PARTITIONS, detail)
        copies = min((len(partition.replicas) for partition in metadata.partitions.values()), default=0)
        if copies < settings.replication_factor:
            detail = f"{copies} replicas instead of {settings.replication_factor}: use kafka-reassign-partitions, or the setting"
            yield Problem(name, ProblemKind.REPLICATION, detail)


def _changes(settings: KafkaSettings, state: _State) -> Iterator[ConfigChange]:
    for name, config in state.configs.items():
        for entry, after in state.wanted[name].config(settings).items():
            if _normal(config.get(entry)) != _normal(after):
                yield ConfigChange(name, entry, config.get(entry), after)


def _normal(value: str | None) -> str | None:
    return None if value is None else ",".join(sorted(part.strip() for part in value.split(",")))


def _by_name(settings: KafkaSettings, specs: Sequence[TopicSpec]) -> dict[str, TopicSpec]:
    return {topology.topic(spec.name, settings.topic_prefix): spec for spec in specs}


def _admin(settings: KafkaSettings) -> AdminClient:
    return AdminClient(dict[str, Any](settings.client_config()), logger=LOG)


def _names(admin: AdminClient) -> Mapping[str, TopicMetadata]:
    try:
        return dict(admin.list_topics(timeout=METADATA_TIMEOUT_S).topics)
    except KafkaException as error:
        raise KafkaUnavailable(error.args[0].str()) from None


def _state(admin: AdminClient, settings: KafkaSettings, specs: Sequence[TopicSpec]) -> _State:
    wanted = _by_name(settings, specs)
    existing = {name: metadata for name, metadata in _names(admin).items() if name in wanted}
    configs: dict[str, Mapping[str, str | None]] = {}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in existing]
    try:
        for resource, answer in (
            admin.describe_configs(resources, request_timeout=METADATA_TIMEOUT_S) if resources else {}
        ).items():
            configs[resource.name] = {name: entry.value for name, entry in answer.result().items()}
    except KafkaException as error:
        raise KafkaUnavailable(error.args[0].str()) from None
    return _State(wanted, existing, configs)


def _create(admin: AdminClient, settings: KafkaSettings, specs: Sequence[TopicSpec]) -> None:
    """Create topics and wait until they are visible; one that somebody else creates at the same moment is fine."""
    if not specs:
        return
    new = [
        NewTopic(
            topology.topic(spec.name, settings.topic_prefix),
            num_partitions=spec.partitions,
            replication_factor=settings.replication_factor,
            config=spec.config(settings),
        )
        for spec in specs
    ]
    for name, answer in admin.create_topics(
        new, operation_timeout=METADATA_TIMEOUT_S, request_timeout=METADATA_TIMEOUT_S
    ).items():
        try:
            answer.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise KafkaUnavailable(f"{name}: {error.args[0].str()}") from None
    _wait_until_visible(admin, {item.topic for item in new})


def _wait_until_visible(admin: AdminClient, wanted: set[str]) -> None:
    deadline = time.monotonic() + VISIBLE_TIMEOUT_S
    while missing := {name for name in wanted if not (found := _names(admin).get(name)) or found.error or not found.partitions}:
        if time.monotonic() > deadline:
            raise KafkaUnavailable(f"{len(missing)} new topics are not visible after {VISIBLE_TIMEOUT_S:.0f} s")
        time.sleep(VISIBLE_POLL_S)


def _change(admin: AdminClient, changes: Sequence[ConfigChange]) -> None:
    entries: dict[str, list[ConfigEntry]] = {}
    for change in changes:
        entry = ConfigEntry(change.name, change.after, incremental_operation=AlterConfigOpType.SET)
        entries.setdefault(change.topic, []).append(entry)
    if not entries:
        return
    resources = [ConfigResource(ResourceType.TOPIC, name, incremental_configs=items) for name, items in entries.items()]
    try:
        for answer in admin.incremental_alter_configs(resources, request_timeout=METADATA_TIMEOUT_S).values():
            answer.result()
    except KafkaException as error:
        raise KafkaUnavailable(error.args[0].str()) from None


def _record_epochs(
    admin: AdminClient,
    settings: KafkaSettings,
    by_name: Mapping[str, TopicSpec],
    codec: Codec,
    actor: str,
    now: Millis,
    *,
    new_epoch: bool,
    told: Callable[[Sequence[TopicEpoch]], Sequence[OutRecord]],
) -> tuple[tuple[TopicEpoch, ...], tuple[Problem, ...]]:
    landing = [name for name, spec in by_name.items() if spec.name in epochs.LANDING]
    if not landing:
        return (), ()
    known = read_epochs(settings, codec)
    record, refuse = epochs.assign(settings, epochs.lives(admin, landing), known, actor, now, new_epoch=new_epoch)
    epochs.write(settings, record, told(record))
    return tuple(record), tuple(Problem(item.topic, ProblemKind.UNKNOWN_ID, item.why) for item in refuse)
