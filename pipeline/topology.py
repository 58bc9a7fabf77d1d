"""The map: each stage with the topics that it consumes and produces. `topics/`, docs and start-up are checked against it.

Names are without the prefix; `topic` puts it before them. Everything about one entity has one partition number, from
landing to outcome.
"""

from dataclasses import dataclass
from typing import Final

from pipeline.domain.event import EntityType
from pipeline.domain.records import Lane

LANDING: Final[dict[EntityType, str]] = {entity_type: f"landing.{entity_type.value}" for entity_type in EntityType}
LANE_TOPICS: Final[dict[Lane, str]] = {lane: f"lane.{lane.value}" for lane in Lane}
RAW: Final[dict[str, str]] = {channel: f"raw.{channel}" for channel in ("http", "mllp", "fhir", "files")}

ACCEPTED: Final = "events.accepted"
DECISIONS: Final = "decisions"
OUTCOMES: Final = "outcomes"
AUDIT: Final = "audit"
QUARANTINE: Final = "quarantine"
RECEIPTS: Final = "intake.receipts"
SUBSCRIPTIONS: Final = "intake.subscriptions"
FILES: Final = "files"
FILES_OUT: Final = "files.out"
RECONCILIATIONS: Final = "reconciliations"
CHECKPOINTS: Final = "checkpoints"
BUDGETS: Final = "budgets"
LAG: Final = "lag"
MODES: Final = "modes"
EPOCHS: Final = "epochs"

GATE_APP: Final = "surgeline-gate"
RECONCILE_GROUP: Final = "surgeline-reconcile"
READER_GROUP: Final = "surgeline-reader"
"""Of whoever reads a topic by itself: nobody joins it, but the client asks for its coordinator."""
WRITER_APP_START: Final = "surgeline-writer-"
HEADS_TABLE: Final = "heads"
PENDING_TABLE: Final = "pending"

DESTINATION: Final = "<destination>"
"""Stands for a destination's name in the declaration of a topic that exists once for each."""

ENTITY_PARTITIONS: Final = 8
"""Partitions of each topic whose partition is the entity's."""


def changelog(app: str, table: str) -> str:
    """Changelog topic of a Faust app's table, as Faust names it."""
    return f"{app}-{table}-changelog"


def writer_app(destination: str) -> str:
    """Faust app of a destination's writer; also its consumer group."""
    return f"{WRITER_APP_START}{destination}"


GATE_CHANGELOG: Final = changelog(GATE_APP, HEADS_TABLE)
WRITER_CHANGELOG_TEMPLATE: Final = changelog(writer_app(DESTINATION), PENDING_TABLE)


def writer_changelog(destination: str) -> str:
    """Changelog of a writer's pending table."""
    return changelog(writer_app(destination), PENDING_TABLE)


def topic(name: str, prefix: str) -> str:
    """Name at the broker of what `name` is on the map. ValueError where the prefix stands before it already."""
    if prefix and name.startswith(prefix):
        raise ValueError(f"{name} has the prefix already: only names on the map are given to the kafka room")
    return f"{prefix}{name}"


def without_prefix(name: str, prefix: str) -> str:
    """Inverse of `topic`: the name on the map."""
    return name.removeprefix(prefix)


_LANDING: Final = tuple(LANDING.values())
_LANES: Final = tuple(LANE_TOPICS.values())


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the pipeline that reads or writes topics, and `command`, which runs it.

    Of topics that it `measures` it asks where they begin and end, and reads nothing. It is a member of its `groups`; of those
    whose `progress` it asks it reads what they committed. Who has a chain of the audit log consumes it too: a start reads where
    the chain ended.
    """

    name: str
    does: str
    command: str
    consumes: tuple[str, ...]
    produces: tuple[str, ...]
    measures: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    progress: tuple[str, ...] = ()
    applies: bool = False
    """Whether it creates topics and changes their settings."""


STAGES: Final[tuple[Stage, ...]] = (
    Stage(
        name="http",
        does="takes events by HTTP, and says what became of each",
        consumes=(RECEIPTS, ACCEPTED, DECISIONS, OUTCOMES, EPOCHS),
        produces=(*_LANDING, RAW["http"], RECEIPTS),
        command="surgeline run http",
    ),
    Stage(
        name="mllp",
        does="takes HL7 v2 messages by MLLP",
        consumes=(RECEIPTS, EPOCHS),
        produces=(*_LANDING, RAW["mllp"], RECEIPTS),
        command="surgeline run mllp",
    ),
    Stage(
        name="fhir",
        does="subscribes at FHIR servers, takes their notifications, and reads again what they missed",
        consumes=(RECEIPTS, SUBSCRIPTIONS, AUDIT, EPOCHS),
        produces=(*_LANDING, RAW["fhir"], QUARANTINE, RECEIPTS, SUBSCRIPTIONS, AUDIT),
        command="surgeline run fhir",
    ),
    Stage(
        name="files",
        does="takes managed files, row by row, each file only when its manifest is there and true",
        consumes=(RECEIPTS, FILES, AUDIT, EPOCHS),
        produces=(*_LANDING, RAW["files"], QUARANTINE, RECEIPTS, FILES, AUDIT),
        command="surgeline run files",
    ),
    Stage(
        name="timers",
        does="orders the end of what is valid until a time",
        consumes=(ACCEPTED, EPOCHS),
        produces=(LANDING[EntityType.BED], LANDING[EntityType.DIVERSION]),
        command="surgeline run timers",
    ),
    Stage(
        name="files-out",
        does="makes the files that partners get, and waits until each is acknowledged",
        consumes=(GATE_CHANGELOG, AUDIT, FILES_OUT, EPOCHS),
        produces=(FILES_OUT, AUDIT),
        measures=_LANDING,
        progress=(GATE_APP,),
        command="surgeline run files-out",
    ),
    Stage(
        name="downtime",
        does="writes bed boards for the workstations that work when nothing else does",
        consumes=(GATE_CHANGELOG, EPOCHS),
        produces=(),
        measures=_LANDING,
        progress=(GATE_APP,),
        command="surgeline run downtime",
    ),
    Stage(
        name="gate",
        does="judges each landing record once and hands accepted changes on by lane",
        consumes=(*_LANDING, GATE_CHANGELOG, EPOCHS),
        produces=(*_LANES, ACCEPTED, DECISIONS, QUARANTINE, GATE_CHANGELOG, *_LANDING),
        groups=(GATE_APP,),
        command="surgeline run gate",
    ),
    Stage(
        name="writer",
        does="brings the newest state of each entity to one destination, or, by HL7 v2, each change in order",
        consumes=(*_LANES, OUTCOMES, ACCEPTED, MODES, WRITER_CHANGELOG_TEMPLATE, GATE_CHANGELOG, AUDIT, EPOCHS),
        produces=(OUTCOMES, AUDIT, QUARANTINE, LAG, MODES, WRITER_CHANGELOG_TEMPLATE),
        groups=(writer_app(DESTINATION),),
        command="surgeline run writer DESTINATION",
    ),
    Stage(
        name="reconcile",
        does="compares what we hold with what each FHIR server shows, and has drift repaired",
        consumes=(
            *_LANDING,
            RECONCILIATIONS,
            MODES,
            LAG,
            SUBSCRIPTIONS,
            GATE_CHANGELOG,
            WRITER_CHANGELOG_TEMPLATE,
            AUDIT,
            EPOCHS,
        ),
        produces=(*_LANDING, RECONCILIATIONS, AUDIT),
        groups=(RECONCILE_GROUP,),
        command="surgeline run reconcile",
    ),
    Stage(
        name="auditor",
        does="joins the heads of all audit chains by signed checkpoints, and tells what expired",
        consumes=(AUDIT, CHECKPOINTS, EPOCHS),
        produces=(CHECKPOINTS, AUDIT),
        measures=(QUARANTINE, *RAW.values()),
        command="surgeline run auditor",
    ),
    Stage(
        name="budgets",
        does="counts what came late or had to be repaired, and opens an incident where that uses up an error budget",
        consumes=(OUTCOMES, LAG, RECONCILIATIONS, BUDGETS, AUDIT, EPOCHS),
        produces=(BUDGETS, RECONCILIATIONS, AUDIT),
        command="surgeline run budgets",
    ),
    Stage(
        name="status",
        does="answers how current each destination is, what waits and what is stuck",
        consumes=(ACCEPTED, LAG, MODES, SUBSCRIPTIONS, FILES),
        produces=(),
        command="surgeline status",
    ),
    Stage(
        name="books",
        does="proves that nothing was dropped between landing and the destinations",
        consumes=(ACCEPTED, DECISIONS, OUTCOMES, EPOCHS),
        produces=(),
        measures=_LANDING,
        progress=(GATE_APP,),
        command="surgeline books",
    ),
    Stage(
        name="operator",
        does="carries out operators' commands: policies, feeds, overrides, replays, modes, files, topics, reading quarantine "
        "and audit",
        consumes=(
            *_LANDING,
            ACCEPTED,
            DECISIONS,
            OUTCOMES,
            QUARANTINE,
            FILES,
            FILES_OUT,
            RECONCILIATIONS,
            AUDIT,
            CHECKPOINTS,
            BUDGETS,
            EPOCHS,
            GATE_CHANGELOG,
            *RAW.values(),
        ),
        produces=(*_LANDING, RAW["files"], RECEIPTS, FILES, RECONCILIATIONS, MODES, AUDIT, EPOCHS),
        progress=(GATE_APP,),
        applies=True,
        command="surgeline",
    ),
)


def producers_of(name: str) -> tuple[str, ...]:
    """Stages that produce to a topic."""
    return tuple(stage.name for stage in STAGES if name in stage.produces)


def consumers_of(name: str) -> tuple[str, ...]:
    """Stages that consume a topic."""
    return tuple(stage.name for stage in STAGES if name in stage.consumes)


def every_topic() -> tuple[str, ...]:
    """Each topic that some stage names, the template of the writers' changelogs once; in the order of the way of an event."""
    names = [name for stage in STAGES for name in (*stage.consumes, *stage.produces, *stage.measures)]
    return tuple(dict.fromkeys(names))
