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
    logger: str
    file: str


FIELD_HELP: Final[dict[str, str]] = {
    "role": "role of the process: gate, writer, http, mllp, fhir, files, timers, auditor, budgets …",
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
    "logger": "name of a library's logger",
    "file": "id of a managed file, as `surgeline files` shows it; never its name",
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
TOPIC_MISSING: Final = _line(
    "error", "topic.missing", "topic cause", "A topic isn't there, or isn't as declared: run `surgeline topics`."
)
REGISTRY_AWAY: Final = _line(
    "warning",
    "registry.away",
    "",
    "The schema registry does not answer. Work goes on with the ids kept beside the table, else the shipped ones.",
)
REGISTRY_LACKS: Final = _line(
    "warning",
    "registry.lacks",
    "count status",
    "Subjects that the schema registry does not have or refuses, and the HTTP status of the first: their shipped ids are used.",
)
LOOP_STALLED: Final = _line("warning", "loop.stalled", "duration_ms", "The event loop stood still.")

# Ways in.
INTAKE_REFUSED: Final = _line(
    "warning", "intake.refused", "source reason status", "A message was refused; the sender was told why."
)
INTAKE_UNAVAILABLE: Final = _line(
    "warning",
    "intake.unavailable",
    "source reason status",
    "A message could not be taken now; the sender was asked to try again.",
)
FILE_WAITS: Final = _line(
    "warning", "file.waits", "source reason", "Rows of a file can't be taken now; it is gone on with later."
)
INTAKE_FAULT: Final = _line(
    "error", "intake.fault", "source exception where", "A fault of ours met a request; its sender was asked to send it again."
)
CONNECTION_OPENED: Final = _line("info", "connection.opened", "source count", "A sender connected.")
CONNECTION_CLOSED: Final = _line("info", "connection.closed", "source count", "A sender's connection ended.")
CONNECTION_REFUSED: Final = _line("warning", "connection.refused", "source reason", "A sender was not let in.")
FEED_ASKED: Final = _line("info", "feed.asked", "source cause reason", "A FHIR server did what was asked of it for a feed.")
FEED_NOT_ASKED: Final = _line(
    "warning",
    "feed.not_asked",
    "source cause reason",
    "A FHIR server did not do what was asked of it for a feed; it is asked again later, or done in another way.",
)
FEED_REJECTED: Final = _line(
    "warning", "feed.rejected", "source cause", "A resource breaks a rule: it is kept in `quarantine`, with rule and remedy."
)

FILE_TAKEN: Final = _line("info", "file.taken", "source file count", "Every row of a managed file (count) is durable.")
FILE_SETTLED: Final = _line(
    "warning",
    "file.settled",
    "source file cause reason",
    "A managed file waits too long, is held or refused, or came under two names; its sender is told. See `surgeline files`.",
)

# Boards and files that go out.
BOARDS_WRITTEN: Final = _line("info", "boards.written", "source count", "A workstation (source) has new downtime boards.")
BOARDS_NOT_WRITTEN: Final = _line(
    "warning", "boards.not_written", "source reason", "A workstation's place can't be written; it is tried again soon."
)
BOARDS_UNSIGNED: Final = _line(
    "warning", "boards.unsigned", "", "downtime.key_file is not set: no board says who wrote it. Said once at start."
)

FILE_OUT: Final = _line("info", "file_out", "destination file cause count", "A file for a partner was made, sent or taken.")
FILE_OUT_LATE: Final = _line(
    "warning",
    "file_out.late",
    "destination file cause reason",
    "A file for a partner is not acknowledged in time, refused or lost. See `surgeline report sent`.",
)
FILE_OUT_FAILED: Final = _line(
    "warning", "file_out.failed", "destination reason", "A partner's files can't be made or put there now; it is tried again."
)

# Kafka.
PARTITIONS_ASSIGNED: Final = _line("info", "partitions.assigned", "topic count", "Partitions came to this process.")
PARTITIONS_REVOKED: Final = _line("info", "partitions.revoked", "topic count", "Partitions left this process.")
TABLE_RECOVERED: Final = _line("info", "table.recovered", "topic count duration_ms", "A table was read back from its changelog.")
FOREIGN_WRITER: Final = _line(
    "error",
    "changelog.foreign_writer",
    "topic partition offset count",
    "Another process wrote this table's changelog: found while recovering (its late records don't count) or before an exit.",
)
POSITION_SOUGHT_BACK: Final = _line(
    "warning",
    "position.sought_back",
    "topic partition offset",
    "The table is behind the committed offset; reading goes back to it.",
)
PUBLISH_FAILED: Final = _line("error", "publish.failed", "topic reason count", "Records were not acknowledged in time.")
LOG_TRUNCATED: Final = _line(
    "error", "log.truncated", "topic partition offset", "A log starts beyond the wanted offset: records are lost."
)

# Gate.
GATE_QUARANTINED: Final = _line(
    "warning",
    "gate.quarantined",
    "topic partition offset reason",
    "A record can't be judged: it is kept in `quarantine`, with rule and remedy.",
)
GATE_CONFLICT: Final = _line("warning", "gate.conflict", "topic partition offset", "One event id came with other content.")
SEQUENCE_RESET: Final = _line(
    "warning", "gate.sequence_reset", "source topic partition offset", "A source's sequence fell while its time rose."
)
POLICY_APPLIED: Final = _line("info", "policy.applied", "version topic partition offset", "A policy takes effect.")

# Writers.
WRITE_FAILED: Final = _line(
    "warning",
    "write.failed",
    "destination entity_type lane revision subject reason",
    "One attempt failed; it is tried again.",
)
WRITE_PARKED: Final = _line(
    "error",
    "write.parked",
    "destination entity_type lane revision subject reason",
    "A write was given up; see `surgeline status`.",
)
WRITE_FORK: Final = _line(
    "error",
    "write.fork",
    "destination entity_type topic partition offset revision",
    "One revision has two states; the later one is kept in `quarantine`.",
)
HISTORY_GAP: Final = _line(
    "warning",
    "history.gap",
    "destination entity_type topic partition offset revision",
    "The history lacks the revision before this one: the destination was told of the later one.",
)
WRITER_QUARANTINED: Final = _line(
    "warning",
    "writer.quarantined",
    "destination topic partition offset reason",
    "A lane or `outcomes` holds a record that no stage of ours wrote there: it is kept in `quarantine`.",
)
MODE_CHANGED: Final = _line("warning", "mode.changed", "destination mode previous_mode cause", "A destination entered a mode.")
FLAGS_IN_FORCE: Final = _line(
    "info",
    "flags.in_force",
    "destination version count",
    "Flags are in force (version: digest of the file); count: entities that were only compared and are written now.",
)
FLAGS_REFUSED: Final = _line(
    "error",
    "flags.refused",
    "destination cause count",
    "The flags file has problems: the last good one stays in force. See `surgeline shadow check`.",
)
CREDENTIALS_GOOD: Final = _line(
    "info", "credentials.good", "destination cause", "A token was issued, or a file of ours that was replaced is in use."
)
CREDENTIALS_BAD: Final = _line(
    "warning",
    "credentials.bad",
    "destination cause",
    "A server or its token endpoint refuses us or is away, or a file of ours can't be used; what was good stays in use.",
)
BREAKER_OPENED: Final = _line("warning", "breaker.opened", "destination", "The destination is left alone for a while.")
BREAKER_CLOSED: Final = _line("info", "breaker.closed", "destination duration_ms", "The destination answers again.")

# Error budgets.
INCIDENT_OPENED: Final = _line(
    "error", "incident.opened", "destination cause", "An error budget is exhausted or burns: see `surgeline budgets show`."
)
INCIDENT_CLOSED: Final = _line("info", "incident.closed", "destination cause duration_ms", "An incident has ended.")
INCIDENT_UNTOLD: Final = _line(
    "warning", "incident.untold", "destination cause reason count", "The webhook did not take a message about an incident."
)

# Reconciliation.
RECONCILIATION_BEGUN: Final = _line("info", "reconciliation.begun", "destination cause mode", "A comparison begins; mode: scope.")
RECONCILIATION_ENDED: Final = _line(
    "info",
    "reconciliation.ended",
    "destination cause mode reason count duration_ms",
    "A comparison of so many entities ended; reason: what broke it off or left something unread.",
)
EXPORT_REFUSED: Final = _line(
    "warning",
    "reconciliation.export_refused",
    "destination reason",
    "The profile says that the server has $export, and it gave none: it was read by pages.",
)
DRIFT_FOUND: Final = _line(
    "warning", "drift.found", "destination entity_type cause reason count", "Drift by its rule; see `surgeline reconcile show`."
)
DRIFT_ESCALATED: Final = _line(
    "error",
    "drift.escalated",
    "destination entity_type subject cause",
    "An entity was repaired as often as is allowed and drifted again: another system undoes it.",
)

# Audit, books, libraries.
CHECKPOINT_SIGNED: Final = _line(
    "info", "checkpoint.signed", "count", "The heads of all audit chains (count) were joined by a signed checkpoint."
)
CHECKPOINT_BAD: Final = _line(
    "error", "checkpoint.bad", "count", "Checkpoints prove nothing, by their signature: see `surgeline audit verify`."
)
AUDIT_BROKEN: Final = _line(
    "error",
    "audit.broken",
    "topic partition offset cause",
    "An entry of the audit log does not follow from the one before: see `surgeline audit verify`.",
)
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
