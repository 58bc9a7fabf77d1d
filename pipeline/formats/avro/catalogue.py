"""Which Avro schemas there are: their names, the structs they are made from, and what an old reader sees of a new symbol."""

from dataclasses import dataclass
from typing import Final

from pipeline.domain.accounts.budgets import BudgetState, Incident, IncidentKind
from pipeline.domain.accounts.checkpoints import SignedCheckpoint
from pipeline.domain.event import (
    PAYLOADS,
    AllocationStatus,
    Described,
    DiversionStatus,
    EncounterStatus,
    EntityType,
    Environment,
    Event,
    EventType,
    Occupancy,
    PatientClass,
    Payload,
    ProcedureStatus,
    SequenceBasis,
    ServiceStatus,
    Sex,
    TransferKind,
    TransferStage,
)
from pipeline.domain.files.life import FileReason, FileState, FileStatus
from pipeline.domain.files.outgoing import FileOutState, OutKind, OutReason, OutStatus
from pipeline.domain.reconcile.record import Cause, Drift, Reconciliation, ReconciliationOrder, Remedy, Rule, Scope, Stage
from pipeline.domain.records import (
    Accepted,
    Audit,
    Control,
    ControlKind,
    Decision,
    DecisionKind,
    FeedState,
    LagReport,
    Lane,
    ModeChange,
    ModeOrder,
    Outcome,
    OutcomeKind,
    Quarantined,
    Raw,
    Reason,
    Receipt,
    TopicEpoch,
    Would,
)

NAMESPACE: Final = "surgeline"

CLEARED: Final = "cleared"
"""Field that each payload record has in Avro only: names of the fields that are set to None, as opposed to left UNSET."""

Record = (
    Event
    | Control
    | Accepted
    | Decision
    | Outcome
    | Audit
    | Quarantined
    | LagReport
    | ModeChange
    | ModeOrder
    | Receipt
    | FeedState
    | FileState
    | FileOutState
    | SignedCheckpoint
    | BudgetState
    | Incident
    | Reconciliation
    | ReconciliationOrder
    | TopicEpoch
    | Raw
)
"""What has an Avro schema of its own."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One schema. `payload` is set for an event schema: the envelope with that one payload record.

    `topics` are those that hold it, without the prefix, and are its subjects; those that it `shares` hold another schema as well,
    so that its subject is its record name.
    """

    name: str
    struct: type[Record]
    record_name: str
    topics: tuple[str, ...]
    payload: type[Payload] | None = None
    shares: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        """Avro full name of the record."""
        return f"{NAMESPACE}.{self.record_name}"


def _event(entity_type: EntityType, payload: type[Payload]) -> Entry:
    return Entry(f"event.{entity_type.value}", Event, f"{payload.__name__}Event", (), payload, (_landing(entity_type),))


def _landing(entity_type: EntityType) -> str:
    return f"landing.{entity_type.value}"


LANDING_TOPICS: Final = tuple(map(_landing, PAYLOADS))
LANE_TOPICS: Final = tuple(f"lane.{lane.value}" for lane in Lane)

CATALOGUE: Final[tuple[Entry, ...]] = (
    *(_event(entity_type, payload) for entity_type, payload in PAYLOADS.items()),
    Entry("control", Control, "Control", (), shares=LANDING_TOPICS),
    Entry("accepted", Accepted, "Accepted", ("events.accepted", *LANE_TOPICS)),
    Entry("decision", Decision, "Decision", ("decisions",)),
    Entry("outcome", Outcome, "Outcome", ("outcomes",)),
    Entry("audit", Audit, "Audit", ("audit",)),
    Entry("quarantined", Quarantined, "Quarantined", ("quarantine",)),
    Entry("lag_report", LagReport, "LagReport", ("lag",)),
    Entry("mode_change", ModeChange, "ModeChange", ("modes",)),
    Entry("receipt", Receipt, "Receipt", ("intake.receipts",)),
    Entry("topic_epoch", TopicEpoch, "TopicEpoch", ("epochs",)),
    Entry("raw", Raw, "Raw", ("raw.http", "raw.mllp", "raw.fhir", "raw.files")),
    Entry("feed_state", FeedState, "FeedState", ("intake.subscriptions",)),
    Entry("mode_order", ModeOrder, "ModeOrder", (), shares=("modes",)),
    Entry("file_state", FileState, "FileState", ("files",)),
    Entry("file_out_state", FileOutState, "FileOutState", ("files.out",)),
    Entry("signed_checkpoint", SignedCheckpoint, "SignedCheckpoint", ("checkpoints",)),
    Entry("budget_state", BudgetState, "BudgetState", ("budgets",)),
    Entry("incident", Incident, "Incident", (), shares=("budgets",)),
    Entry("reconciliation", Reconciliation, "Reconciliation", ("reconciliations",)),
    Entry("reconciliation_order", ReconciliationOrder, "ReconciliationOrder", (), shares=("reconciliations",)),
)

BY_NAME: Final = {entry.name: entry for entry in CATALOGUE}
BY_FULL_NAME: Final = {entry.full_name: entry for entry in CATALOGUE}

ENUM_DEFAULTS: Final[dict[type[Described], Described]] = {
    # A reader older than a symbol sees the symbol named here instead. UNKNOWN where the enum has it; else the symbol
    # that does least harm when it is wrong.
    EntityType: EntityType.STAFFING,  # names no patient and decides about no bed
    EventType: EventType.UPDATE,  # says nothing but that fields have new values, which is true of every event
    SequenceBasis: SequenceBasis.RECORDED_TIME,  # never trusts a sequence that it does not understand
    Occupancy: Occupancy.UNKNOWN,
    Environment: Environment.UNKNOWN,
    AllocationStatus: AllocationStatus.RESERVED,  # the bed is not given away, and nobody is said to be on the way
    ServiceStatus: ServiceStatus.BLOCKED,  # no patient is put into it, and it is not written off
    DiversionStatus: DiversionStatus.ADVISORY,  # turns no ambulance away and does not promise that all is well
    TransferStage: TransferStage.UNKNOWN,
    TransferKind: TransferKind.INCOMING,  # does not claim that one of our own beds becomes free
    ProcedureStatus: ProcedureStatus.UNKNOWN,
    EncounterStatus: EncounterStatus.UNKNOWN,
    PatientClass: PatientClass.UNKNOWN,
    Sex: Sex.UNKNOWN,
    Lane: Lane.URGENT,  # is never frozen, and does not overtake what is critical
    DecisionKind: DecisionKind.QUARANTINED,  # somebody looks at it
    Reason: Reason.INTERNAL,  # somebody looks at it; no rule acts on it
    OutcomeKind: OutcomeKind.FAILED,  # closes nothing: the change stays open
    Would: Would.HOLD,  # claims no change at the destination
    OutKind: OutKind.CAPACITY,  # says least
    OutStatus: OutStatus.SENT,  # promises nothing, and is asked after
    OutReason: OutReason.NONE,
    FileStatus: FileStatus.AWAITED,  # promises nothing, and somebody looks at it
    FileReason: FileReason.NONE,
    IncidentKind: IncidentKind.BURNING_SLOWLY,  # wakes nobody, and somebody looks at it
    Drift: Drift.CONFLICTING,  # says that something differs, and somebody looks at it
    Rule: Rule.NEVER_DELETE,  # lets nothing be written
    Remedy: Remedy.REPORT,
    Stage: Stage.PARTIAL,  # claims no end
    Scope: Scope.INCREMENTAL,  # claims no more than the least
    Cause: Cause.SCHEDULE,
    ControlKind: ControlKind.REASSERT,  # changes nothing: the current state is sent out again
}
