"""Every line that the pipeline may log: its name, level, fields, and what it tells an operator.

A line holds codes, positions, counts and durations; never a payload, a name, an entity's own id, the text of an
exception or a URL. `docs/operating/logs.md` is rendered from here.
"""

from dataclasses import dataclass
from typing import Final, Literal, TypedDict

Level = Literal["debug", "info", "warning", "error"]


class Fields(TypedDict, total=False):
    """All fields that any line may have; `FIELD_HELP` says what each is."""

    role: str
    instance: str
    source: str
    entity_type: str
    reason: str
    topic: str
    partition: int
    offset: int
    revision: int
    lane: str
    destination: str
    status: int
    count: int
    duration_ms: float
    subject: str
    port: int
    version: str
    mode: str
    previous_mode: str
    cause: str
    exception: str
    where: str
    attempt: int
    logger: str
    check: str


FIELD_HELP: Final[dict[str, str]] = {
    "role": "role of the process: gate, writer, http, mllp, timers",
    "instance": "stable name of the instance",
    "source": "way in or source system, from a declared list",
    "entity_type": "what it is about: bed, encounter …",
    "reason": "one of `Reason`, or of another bounded list",
    "topic": "topic, without the prefix",
    "partition": "partition",
    "offset": "offset",
    "revision": "revision as a number",
    "lane": "lane",
    "destination": "destination",
    "status": "status code of a protocol, or the exit code of a process",
    "count": "how many",
    "duration_ms": "how long, ms",
    "subject": "keyed digest of an entity key, 16 hexadecimal digits",
    "port": "port that a server listens at",
    "version": "version of a policy, profile, schema or of the program",
    "mode": "mode of a destination",
    "previous_mode": "mode before",
    "cause": "rule that caused it, a code",
    "exception": "type of an exception, never its text",
    "where": "module and line in our code",
    "attempt": "which attempt, from 1",
    "logger": "name of a library's logger",
    "check": "name of a readiness check",
}


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One line of the catalogue; compare by identity."""

    name: str
    level: Level
    fields: frozenset[str]
    doc: str


CATALOGUE: Final[dict[str, LogEvent]] = {}
"""By name, in the order below."""


def _line(level: Level, name: str, fields: str, doc: str) -> LogEvent:
    wanted = frozenset(fields.split())
    if name in CATALOGUE or not wanted <= FIELD_HELP.keys():
        raise ValueError(f"line {name} is there twice or has an unknown field")
    CATALOGUE[name] = LogEvent(name, level, wanted, doc)
    return CATALOGUE[name]


# Processes.
ROLE_STARTED: Final = _line("info", "role.started", "version", "The process runs and has read its settings.")
ROLE_READY: Final = _line("info", "role.ready", "duration_ms", "All readiness checks hold for the first time.")
ROLE_STOPPING: Final = _line("info", "role.stopping", "cause", "The process was asked to stop and finishes what it began.")
ROLE_STOPPED: Final = _line("info", "role.stopped", "duration_ms status", "The process has finished in order.")
ROLE_CRASHED: Final = _line("error", "role.crashed", "exception where", "A fault ends the process; it must be started again.")
ROLE_EXITS: Final = _line("error", "role.exits", "cause status duration_ms", "The watchdog or a guard ends the process at once.")
SERVER_LISTENING: Final = _line("info", "server.listening", "source port", "A server of ours listens.")
CHECK_FAILED: Final = _line("warning", "check.failed", "check cause", "A readiness check does not hold.")
TOPIC_MISSING: Final = _line(
    "error", "topic.missing", "topic cause", "A topic isn't there, or isn't as declared: run `surgeline topics`."
)
EPOCH_UNKNOWN: Final = _line(
    "error", "epoch.unknown", "topic", "The topic was made again; an operator must say which epoch it is."
)
LOOP_STALLED: Final = _line("warning", "loop.stalled", "duration_ms", "The event loop stood still.")

# Ways in.
INTAKE_TAKEN: Final = _line("debug", "intake.taken", "source count status duration_ms", "A message was taken in durably.")
INTAKE_REPEATED: Final = _line("debug", "intake.repeated", "source status", "A message was known and got its first answer again.")
INTAKE_REFUSED: Final = _line(
    "warning", "intake.refused", "source reason status", "A message was refused; the sender was told why."
)
INTAKE_UNAVAILABLE: Final = _line(
    "warning",
    "intake.unavailable",
    "source reason status",
    "A message could not be taken now; the sender was asked to try again.",
)
INTAKE_FAULT: Final = _line(
    "error", "intake.fault", "source exception where", "A fault of ours met a request; its sender was asked to send it again."
)
CONNECTION_OPENED: Final = _line("info", "connection.opened", "source count", "A sender connected.")
CONNECTION_CLOSED: Final = _line("info", "connection.closed", "source count reason", "A sender's connection ended.")
CONNECTION_REFUSED: Final = _line("warning", "connection.refused", "source reason", "A sender was not let in.")

# Kafka.
PARTITIONS_ASSIGNED: Final = _line("info", "partitions.assigned", "topic count", "Partitions came to this process.")
PARTITIONS_REVOKED: Final = _line("info", "partitions.revoked", "topic count", "Partitions left this process.")
TABLE_RECOVERED: Final = _line(
    "info", "table.recovered", "topic partition count duration_ms", "A table was read back from its changelog."
)
FOREIGN_WRITER: Final = _line(
    "error",
    "changelog.foreign_writer",
    "topic partition offset count",
    "Another process wrote this table's changelog; its heads are put again.",
)
POSITION_SOUGHT_BACK: Final = _line(
    "warning",
    "position.sought_back",
    "topic partition offset",
    "The table is behind the committed offset; reading goes back to it.",
)
PUBLISH_FAILED: Final = _line("error", "publish.failed", "topic partition reason count", "Records were not acknowledged in time.")
KAFKA_UNAVAILABLE: Final = _line("warning", "kafka.unavailable", "reason duration_ms", "The brokers don't answer.")
LOG_TRUNCATED: Final = _line(
    "error", "log.truncated", "topic partition offset", "A log starts beyond the wanted offset: records are lost."
)

# Gate.
GATE_CYCLE: Final = _line("debug", "gate.cycle", "count duration_ms", "One cycle of judging, publishing and storing.")
GATE_QUARANTINED: Final = _line(
    "warning",
    "gate.quarantined",
    "topic partition offset reason",
    "A record can't be judged: it is kept in `quarantine`, with rule and remedy.",
)
GATE_CONFLICT: Final = _line(
    "warning", "gate.conflict", "topic partition offset source subject", "One event id came with other content."
)
GATE_FORK: Final = _line("error", "gate.fork", "topic partition offset revision subject", "One position has two verdicts.")
SEQUENCE_RESET: Final = _line(
    "warning", "gate.sequence_reset", "source topic partition offset subject", "A source's sequence fell while its time rose."
)
POLICY_APPLIED: Final = _line("info", "policy.applied", "version topic partition offset", "A policy takes effect.")
MERGE_HELD: Final = _line(
    "warning", "merge.held", "topic partition subject duration_ms", "The survivor of a merge still waits for the loser."
)
TIMER_FIRED: Final = _line("debug", "timer.fired", "entity_type topic subject count", "A value came to its end.")

# Writers.
WRITE_CONFIRMED: Final = _line(
    "debug",
    "write.confirmed",
    "destination entity_type lane revision subject attempt duration_ms",
    "The destination shows the revision.",
)
WRITE_FAILED: Final = _line(
    "warning",
    "write.failed",
    "destination entity_type lane revision subject reason attempt status",
    "One attempt failed; it is tried again.",
)
WRITE_AMBIGUOUS: Final = _line(
    "warning",
    "write.ambiguous",
    "destination entity_type lane revision subject attempt",
    "No answer came; it is read back before the next attempt.",
)
WRITE_PARKED: Final = _line(
    "error",
    "write.parked",
    "destination entity_type lane revision subject reason attempt status",
    "A write was given up; see `surgeline status`.",
)
WRITE_FORK: Final = _line("error", "write.fork", "destination entity_type revision subject", "One revision has two states.")
WRITE_STUCK: Final = _line(
    "warning",
    "write.stuck",
    "destination entity_type lane revision subject reason duration_ms",
    "A change waits longer than its lane allows.",
)
MODE_CHANGED: Final = _line(
    "warning", "mode.changed", "destination mode previous_mode cause count", "A destination entered a mode."
)
BREAKER_OPENED: Final = _line(
    "warning", "breaker.opened", "destination reason count", "The destination is left alone for a while."
)
BREAKER_CLOSED: Final = _line("info", "breaker.closed", "destination duration_ms", "The destination answers again.")
CONCURRENCY_CHANGED: Final = _line("debug", "concurrency.changed", "destination count cause", "More or fewer writes at once.")

# Audit, books, libraries.
AUDIT_CONTINUED: Final = _line(
    "info", "audit.continued", "topic partition count", "The audit chain goes on behind its last entry."
)
BOOKS_CLOSED: Final = _line("info", "books.closed", "count status duration_ms", "The books were added up.")
LIBRARY: Final = _line(
    "info",
    "library",
    "logger exception cause where",
    "A library logged a line; its text is left out unless it is known to be harmless.",
)
