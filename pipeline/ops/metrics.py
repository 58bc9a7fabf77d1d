"""Every metric: one typed catalogue, from which both the objects and `docs/operating/metrics.md` are made.

Labels have bounded values: a value outside of its list is counted as `other`, never as a new series. No label holds an
entity, a person, a host or a path.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pipeline.destinations.auth.credentials import News
from pipeline.destinations.hl7v2.mllp_client import News as LineNews
from pipeline.domain.accounts.audit import Fault
from pipeline.domain.accounts.budgets import LOSS, IncidentKind
from pipeline.domain.event import EntityType
from pipeline.domain.files.life import FileReason, FileStatus
from pipeline.domain.files.outgoing import OutStatus
from pipeline.domain.reconcile.record import Drift, Rule, Scope
from pipeline.domain.records import DecisionKind, Lane, OutcomeKind, Reason
from pipeline.domain.writing.modes import Mode
from pipeline.topology import HEADS_TABLE, PENDING_TABLE

OTHER: Final = "other"
LAG_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
TIME_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
COUNT_BUCKETS: Final = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000)
DESTINATION_LIMIT: Final = 60

Kind = Literal["counter", "gauge", "histogram"]
Collector = TypeVar("Collector", Counter, Gauge, Histogram)


@dataclass(frozen=True, slots=True)
class Label:
    """A label with all its values; None: names from the settings, at most DESTINATION_LIMIT of them."""

    name: str
    values: frozenset[str] | None

    @property
    def shown(self) -> str:
        """For the documentation."""
        if self.values is None:
            return "names from the settings"
        return ", ".join(sorted(self.values)) if len(self.values) <= 16 else f"{len(self.values)} declared values"


def _label(name: str, values: Iterable[str]) -> Label:
    return Label(name, frozenset(values))


LANE: Final = _label("lane", (lane.value for lane in Lane))
ENTITY_TYPE: Final = _label("entity_type", (entity_type.value for entity_type in EntityType))
REASON: Final = _label("reason", (reason.value for reason in Reason))
ACCEPTED: Final = "ACCEPTED"
VERDICT: Final = _label("kind", (ACCEPTED, *(kind.value for kind in DecisionKind)))
OUTCOME: Final = _label("outcome", (kind.value for kind in OutcomeKind))
MODE: Final = _label("mode", (mode.value for mode in Mode))
SOURCE: Final = _label("source", ("http", "mllp", "fhir", "files"))
CODE: Final = _label(
    "code",
    (
        "200",
        "202",
        "204",
        "400",
        "207",
        "401",
        "403",
        "404",
        "405",
        "408",
        "413",
        "415",
        "422",
        "429",
        "500",
        "503",
        "AA",
        "AE",
        "AR",
        "CA",
        "CE",
        "CR",
        "NE",
    ),
)
CAUSE: Final = _label("cause", ("line", "field", "value"))
CHANGE: Final = _label("change", ("assigned", "revoked"))
FAILURE: Final = _label(
    "reason", ("TIMED_OUT", "QUEUE_FULL", "TOO_LARGE", "UNKNOWN_TOPIC", "FORBIDDEN", "BROKER", "FATAL", "CLOSED")
)
FOUND: Final = _label("found", ("state", "changelog"))
TABLE: Final = _label("table", (HEADS_TABLE, PENDING_TABLE))
ASKED: Final = _label("operation", ("read", "send", "read_back"))
LINE: Final = _label("news", (news.value for news in LineNews))
NEWS: Final = _label("news", (news.value for news in News))
DESTINATION: Final = Label("destination", None)
FEED: Final = Label("feed", None)
WAY: Final = _label("way", ("notified", "read", "fetched", "reread"))
FOUND_TO_BE: Final = _label("result", ("mapped", "ignored", "rejected", "gone"))
SERVER_ASKED: Final = _label("what", ("check", "status", "create", "restore", "fetch", "reread"))
SERVER_DID: Final = _label("result", ("done", "failed", "absent", "unsupported"))

PARTNER: Final = Label("partner", None)
KEY_OF: Final = Label("key", None)
WORKSTATION: Final = Label("workstation", None)
FILE_STATUS: Final = _label("status", (status.value for status in FileStatus))
FILE_REASON: Final = _label("reason", (reason.value for reason in FileReason))
OUT_STATUS: Final = _label("status", (status.value for status in OutStatus))
ROW_RESULT: Final = _label("result", ("landed", "rejected"))

FAULT: Final = _label("fault", (fault.value for fault in Fault))
OBJECTIVE: Final = _label("objective", (LOSS, *(lane.value for lane in Lane)))
WINDOW: Final = _label("window_s", ("300", "1800", "3600", "7200", "21600", "86400", "259200"))
INCIDENT: Final = _label("kind", (kind.value for kind in IncidentKind))
TOLD: Final = _label("result", ("taken", "refused", "no_answer", "given_up"))

STOOD: Final = _label("stood", ("equal", "waiting", "parked", "shadowed", "drifted", "unread"))
DRIFT: Final = _label("kind", (kind.value for kind in Drift))
DRIFT_RULE: Final = _label("rule", (rule.value for rule in Rule))
DRIFT_SCOPE: Final = _label("scope", (scope.value for scope in Scope))

REGISTRY: Final = CollectorRegistry(auto_describe=True)
"""Ours; Faust's sensor and the process's own metrics are added to it by whoever runs them."""


@dataclass(frozen=True, slots=True)
class Declared:
    """One metric as the documentation shows it."""

    name: str
    kind: Kind
    help: str
    labels: tuple[Label, ...]


CATALOGUE: Final[dict[str, Declared]] = {}
"""By name, in the order below."""


class Metric(Generic[Collector]):
    """A metric whose label values are checked against their lists."""

    __slots__ = ("_collector", "_free", "_labels", "_series")

    def __init__(self, collector: Collector, labels: tuple[Label, ...]) -> None:
        self._collector: Collector = collector
        self._labels = labels
        self._free: set[str] = set()
        self._series: dict[tuple[str, ...], Collector] = {}
        """Only of values within their lists, and so no more than there are series."""

    def of(self, *values: str) -> Collector:
        """The series of these label values, in the order of the catalogue. Thread-safe."""
        series = self._series.get(values)
        if series is not None:
            return series
        if len(values) != len(self._labels):
            raise TypeError("one value per label")
        if not values:
            return self._collector
        labels = tuple(self._bounded(label, value) for label, value in zip(self._labels, values, strict=True))
        series = self._collector.labels(*labels)
        if labels == values:
            self._series[labels] = series
        return series

    def _bounded(self, label: Label, value: str) -> str:
        text = value.value if isinstance(value, enum.Enum) else value
        if label.values is not None:
            return text if text in label.values else OTHER
        if text not in self._free and len(self._free) >= DESTINATION_LIMIT:
            return OTHER
        self._free.add(text)
        return text


def _declare(name: str, kind: Kind, help_text: str, labels: tuple[Label, ...]) -> list[str]:
    if name in CATALOGUE:
        raise ValueError(f"metric {name} is there twice")
    CATALOGUE[name] = Declared(name, kind, help_text, labels)
    return [label.name for label in labels]


def _counter(name: str, help_text: str, *labels: Label) -> Metric[Counter]:
    return Metric(Counter(name, help_text, _declare(name, "counter", help_text, labels), registry=REGISTRY), labels)


def _gauge(name: str, help_text: str, *labels: Label) -> Metric[Gauge]:
    return Metric(Gauge(name, help_text, _declare(name, "gauge", help_text, labels), registry=REGISTRY), labels)


def _histogram(name: str, help_text: str, buckets: tuple[float, ...], *labels: Label) -> Metric[Histogram]:
    names = _declare(name, "histogram", help_text, labels)
    return Metric(Histogram(name, help_text, names, registry=REGISTRY, buckets=buckets), labels)


# Ways in.
INTAKE_ANSWERED: Final = _counter("surgeline_intake_answered_total", "messages answered, by answer", SOURCE, CODE)
INTAKE_EVENTS: Final = _counter("surgeline_intake_events_total", "events published to landing", SOURCE, ENTITY_TYPE)
INTAKE_SECONDS: Final = _histogram(
    "surgeline_intake_seconds", "from the message's last byte to the answer", TIME_BUCKETS_S, SOURCE
)
INTAKE_CONNECTIONS: Final = _gauge("surgeline_intake_connections", "connections of senders", SOURCE)
INTAKE_BYTES: Final = _gauge("surgeline_intake_held_bytes", "bytes of messages that are held until they are answered", SOURCE)
INTAKE_LONG_FRAMES: Final = _gauge("surgeline_intake_long_frames", "messages above 64 KiB that are held (MLLP)", SOURCE)
INTAKE_CUT_OFF: Final = _counter(
    "surgeline_intake_connections_cut_off_total", "connections refused or ended: too many, or too many of one sender", SOURCE
)
INTAKE_PRESSURE: Final = _gauge("surgeline_intake_pressure_ratio", "how full the way to the broker is, 0 to 1", SOURCE)

# FHIR subscriptions.
FEED_RESOURCES: Final = _counter(
    "surgeline_feed_resources_total", "resources of a FHIR server, by the way that they came", FEED, WAY, FOUND_TO_BE
)
FEED_ASKED: Final = _counter(
    "surgeline_feed_asked_total",
    "what was asked of a FHIR server for a feed, and what became of it",
    FEED,
    SERVER_ASKED,
    SERVER_DID,
)
FEED_ACTIVE: Final = _gauge("surgeline_feed_subscription_active", "1 while the server says that it notifies", FEED)
FEED_POLLING: Final = _gauge("surgeline_feed_polling", "1 while there is no working subscription and changes are polled", FEED)
FEED_MISSING: Final = _gauge("surgeline_feed_missing_events", "events of which the number was not heard", FEED)
FEED_OPEN_SECONDS: Final = _gauge(
    "surgeline_feed_open_seconds", "for how long something is known to be missing and not read again; 0 for nothing", FEED
)
FEED_HEARD_SECONDS: Final = _gauge(
    "surgeline_feed_heard_seconds", "time since the server was last heard, heartbeats included; -1 for never", FEED
)

# Managed files.
FILES_SETTLED: Final = _counter(
    "surgeline_files_settled_total", "what became of managed files", PARTNER, FILE_STATUS, FILE_REASON
)
FILES_REPEATED: Final = _counter(
    "surgeline_files_repeated_total", "files that came again as they were, and were acknowledged again", PARTNER
)
FILES_ROWS: Final = _counter("surgeline_files_rows_total", "rows of managed files that are durable", PARTNER, ROW_RESULT)
FILES_WAITING: Final = _gauge("surgeline_files_waiting", "files that stand at AWAITED, HELD or LANDING", PARTNER, FILE_STATUS)
FILES_TAKEN_SECONDS: Final = _gauge(
    "surgeline_files_taken_seconds", "time since a file of the partner was last taken; -1 for never", PARTNER
)
FILES_KEY_SECONDS: Final = _gauge(
    "surgeline_files_key_valid_seconds",
    "time until a partner's key or our credential for its place is refused; negative once it is",
    PARTNER,
    KEY_OF,
)
FILES_SERVED: Final = _gauge("surgeline_files_folder_served", "1 while this process looks at the partner's folder", PARTNER)

# Files that go out.
FILES_OUT: Final = _gauge("surgeline_files_out", "files for a partner, by where they stand", PARTNER, OUT_STATUS)
FILES_OUT_SERVED: Final = _gauge("surgeline_files_out_served", "1 while this process serves a partner's place", PARTNER)
FILES_OUT_FAILED: Final = _counter(
    "surgeline_files_out_failed_total", "rounds in which a partner's files could not be made or put there", PARTNER
)

# Boards for downtime.
BOARD_AGE_SECONDS: Final = _gauge(
    "surgeline_board_age_seconds", "age of what boards show: since then something may be missing on them; -1 for not known"
)
BOARDS_WRITTEN_SECONDS: Final = _gauge(
    "surgeline_boards_written_seconds", "time since a workstation last got boards; -1 for never", WORKSTATION
)
BOARDS_FAILED: Final = _counter("surgeline_boards_failed_total", "boards that could not be put where they belong", WORKSTATION)

# Gate.
GATE_DECISIONS: Final = _counter("surgeline_gate_decisions_total", "landing positions judged", VERDICT, REASON, ENTITY_TYPE)
GATE_ACCEPTED: Final = _counter("surgeline_gate_accepted_total", "accepted changes, by lane", LANE, ENTITY_TYPE)
GATE_REDELIVERED: Final = _counter("surgeline_gate_redelivered_total", "positions skipped because they are durable downstream")
GATE_SEQUENCE_RESETS: Final = _counter("surgeline_gate_sequence_resets_total", "a source's sequence fell while its time rose")

# Gate and writers.
BATCH_SECONDS: Final = _histogram(
    "surgeline_batch_seconds", "one cycle of an agent: judge, publish, store; heads: gate, pending: writer", TIME_BUCKETS_S, TABLE
)
BATCH_RECORDS: Final = _histogram("surgeline_batch_records", "records in one cycle of an agent", COUNT_BUCKETS, TABLE)
FORKS: Final = _counter(
    "surgeline_forks_total", "one revision with two states, or records that another process wrote to our changelog", FOUND
)

# Writers.
WRITER_ATTEMPTS: Final = _counter(
    "surgeline_writer_attempts_total", "attempts to write, by how they ended", DESTINATION, OUTCOME, REASON
)
WRITER_CONFIRMED: Final = _counter("surgeline_writer_confirmed_total", "revisions confirmed", DESTINATION, LANE, ENTITY_TYPE)
WRITER_PARKED: Final = _gauge("surgeline_writer_parked_entities", "entities given up until something newer comes", DESTINATION)
DOUBLE_OCCUPIED: Final = _gauge("surgeline_double_occupied_beds", "beds that more than one stay claims", DESTINATION)
WRITER_SHADOWED: Final = _gauge(
    "surgeline_writer_shadowed_entities", "entities whose newest state was only compared", DESTINATION
)
FLAGS_BROKEN: Final = _gauge(
    "surgeline_flags_broken", "1 while the flags file can't be put into force and an older one holds", DESTINATION
)
FLAGS_FLIPPED: Final = _counter("surgeline_flags_flipped_total", "rules of the flags that were replaced by others", DESTINATION)
WRITER_PENDING: Final = _gauge("surgeline_writer_pending_entities", "entities that wait", DESTINATION, LANE)
WRITER_IN_FLIGHT: Final = _gauge("surgeline_writer_in_flight_writes", "writes under way", DESTINATION)
WRITER_CONCURRENCY: Final = _gauge("surgeline_writer_concurrency_writes", "writes allowed at once", DESTINATION)
WRITER_RATE: Final = _gauge(
    "surgeline_writer_rate_requests_per_second", "reads and writes allowed in a second, as learnt by now", DESTINATION
)
WRITER_PAUSE: Final = _gauge(
    "surgeline_writer_pause_seconds", "what is left of a pause that the destination asked for; nothing is sent in it", DESTINATION
)
WRITER_OLDEST: Final = _gauge("surgeline_writer_oldest_open_seconds", "age of the oldest change that waits", DESTINATION)
WRITER_TURN_WAIT: Final = _gauge(
    "surgeline_writer_turn_wait_seconds",
    "longest wait of a critical or urgent change for nothing but its turn; decides about severe",
    DESTINATION,
)
WRITER_ARRIVING: Final = _gauge(
    "surgeline_writer_arriving_entities_per_second", "entities with something new to write, in the last 10 s", DESTINATION
)
WRITER_FROZEN: Final = _gauge("surgeline_writer_frozen_entities", "entities that the mode freezes", DESTINATION, LANE)
WRITER_FORCED: Final = _gauge("surgeline_writer_mode_forced", "1 while an operator's order makes the mode", DESTINATION)
WRITER_REQUEST_SECONDS: Final = _histogram(
    "surgeline_writer_request_seconds",
    "one question or write, until its answer or its deadline",
    TIME_BUCKETS_S,
    DESTINATION,
    ASKED,
)
WRITER_BREAKER_OPEN: Final = _gauge("surgeline_writer_breaker_open", "1 while the destination is left alone", DESTINATION)
CREDENTIALS: Final = _counter(
    "surgeline_credentials_total", "what happened to our tokens, keys and certificates at a server", DESTINATION, NEWS
)
WRITER_UNREAD: Final = _gauge(
    "surgeline_writer_unread_records", "records of the history that a destination told of each has still to read", DESTINATION
)
HISTORY_GAPS: Final = _counter(
    "surgeline_history_gaps_total", "changes whose revision before was not in the history that was read", DESTINATION
)
LINE_NEWS: Final = _counter(
    "surgeline_mllp_connection_total",
    "what happened on the connection to a receiver of HL7 v2, answers to nothing that waits included",
    DESTINATION,
    LINE,
)
CERTIFICATE_ENDS: Final = _gauge(
    "surgeline_certificate_end_seconds", "when our certificate for a server ends, seconds of the epoch", DESTINATION
)
WRITER_MODE: Final = _gauge("surgeline_writer_mode", "1 for the mode that the destination is in, else 0", DESTINATION, MODE)
LAG_SECONDS: Final = _histogram(
    "surgeline_lag_seconds",
    "from receipt to confirmation, superseded changes included",
    LAG_BUCKETS_S,
    DESTINATION,
    LANE,
    ENTITY_TYPE,
)
LAG_RECORDED_SECONDS: Final = _histogram(
    "surgeline_lag_recorded_seconds", "from the source's recording to confirmation", LAG_BUCKETS_S, DESTINATION, LANE
)

# Error budgets.
BUDGET_USED: Final = _gauge(
    "surgeline_budget_used_ratio", "part of the period's error budget that is used; 1 and more: exhausted", DESTINATION, OBJECTIVE
)
BURN_RATE: Final = _gauge(
    "surgeline_budget_burn_ratio", "how many times as fast as lasts for the period a budget burns", DESTINATION, OBJECTIVE, WINDOW
)
INCIDENTS_OPEN: Final = _gauge("surgeline_incident_open", "1 while an incident is open", DESTINATION, INCIDENT)
INCIDENTS_TOLD: Final = _counter("surgeline_incident_told_total", "attempts to tell of an incident's begin or end", TOLD)

# Reconciliation.
RECONCILED: Final = _gauge(
    "surgeline_reconciled_entities", "entities of the last comparison that came to its end, by how they stood", DESTINATION, STOOD
)
DRIFT_FOUND: Final = _gauge("surgeline_drift_found", "findings of the last comparison that came to its end", DESTINATION, DRIFT)
DRIFT_REPAIRED: Final = _counter(
    "surgeline_drift_repaired_total", "entities whose state was ordered to be sent again", DESTINATION, DRIFT_RULE
)
DRIFT_ESCALATED: Final = _counter(
    "surgeline_drift_escalated_total", "findings that are repaired no more because it was done too often", DESTINATION
)
RECONCILED_AT: Final = _gauge(
    "surgeline_reconciled_at_seconds", "when the last whole comparison began, seconds of the epoch", DESTINATION, DRIFT_SCOPE
)
RECONCILE_LEADS: Final = _gauge("surgeline_reconcile_leads", "1 while this process is the one that compares")

# The process.
AUDIT_FAULTS: Final = _counter(
    "surgeline_audit_faults_total", "entries of the audit log, and checkpoints, that don't follow from what was before", FAULT
)
AUDIT_CHECKPOINT_AT: Final = _gauge(
    "surgeline_audit_checkpoint_at_seconds", "when the newest checkpoint was signed, seconds of the epoch"
)
AUDIT_ENTRIES: Final = _counter("surgeline_audit_entries_total", "entries appended to the audit chain")
PUBLISH_FAILURES: Final = _counter("surgeline_publish_failures_total", "batches that the broker did not acknowledge", FAILURE)
PARTITIONS_CHANGED: Final = _counter("surgeline_partitions_changed_total", "partitions that came or went", CHANGE)
LOOP_STALL_SECONDS: Final = _histogram("surgeline_loop_stall_seconds", "how late the event loop's heartbeat came", TIME_BUCKETS_S)
LOGS_REFUSED: Final = _counter("surgeline_logs_refused_total", "log lines, fields or values outside of the catalogue", CAUSE)


def exposition() -> bytes:
    """All metrics in Prometheus' text format."""
    return generate_latest(REGISTRY)
