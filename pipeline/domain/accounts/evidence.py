"""The evidence on one entity, event or file as a line of time: said by whom, judged how, brought where, put right by whom. Pure.

A line names fields and rules; values of an entity only where they were asked for.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from pipeline.domain.event import Described, EntityType, Event, Payload, Reference
from pipeline.domain.files.record import FileReason, FileState
from pipeline.domain.identifiers import EntityKey, EventId, Revision, show_revision
from pipeline.domain.judging.merges import key_of
from pipeline.domain.records import Accepted, Audit, Control, Decision, Outcome, OutcomeKind, Quarantined, Reason

MAX_LINES: Final = 20_000
"""Lines of one answer; of more the newest are left out, and that is said."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for: exactly one of key, digest, event and file; `row` narrows a file to one of its records."""

    key: EntityKey | None = None
    digest: str | None = None
    event_id: str | None = None
    file_id: str | None = None
    row: int | None = None
    values: bool = False

    def __repr__(self) -> str:
        return f"Question({self.of}, <redacted>)"

    @property
    def of(self) -> str:
        """What kind of thing it is."""
        named = {"entity": self.key, "subject": self.digest, "event": self.event_id, "file": self.file_id}
        return next(name for name, value in named.items() if value is not None)

    def subject(self, digest_of: Callable[[bytes], str]) -> str:
        """How the audit log names it: an entity by its keyed digest."""
        return digest_of(self.key.encode()) if self.key is not None else self.digest or self.event_id or self.file_id or ""


class Stage(Described):
    """What kind of thing happened."""

    FILE = "FILE", "a managed file came to stand somewhere"
    SENT = "SENT", "a source said something, and it was durable here"
    ORDERED = "ORDERED", "the pipeline or an operator ordered something of an entity's gate"
    JUDGED = "JUDGED", "the gate judged it"
    KEPT_APART = "KEPT_APART", "it could not be judged or written as it was, and lies in quarantine"
    RECEIVED = "RECEIVED", "a destination took it, or was found to have it"
    NOT_RECEIVED = "NOT_RECEIVED", "a destination did not take it"
    DONE_BY_HAND = "DONE_BY_HAND", "somebody or some role did something about it, by the audit log"


RANK: Final = {stage: rank for rank, stage in enumerate(Stage)}


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened. `at`: ms since the epoch; `where`: topic/partition/offset of the record that proves it."""

    at: int
    stage: Stage
    what: str
    who: str = ""
    why: str = ""
    destination: str | None = None
    event_id: str | None = None
    revision: str | None = None
    fields: tuple[str, ...] = ()
    values: dict[str, Any] | None = None
    detail: dict[str, str] = {}
    where: str = ""

    def __repr__(self) -> str:
        return f"Line({self.stage.value}, {self.where}, <redacted>)"


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known of what was asked for. `left_out`: lines beyond MAX_LINES; `unreadable`: records not decoded."""

    of: str
    subject: str
    lines: tuple[Line, ...]
    left_out: int = 0
    unreadable: int = 0

    def __repr__(self) -> str:
        return f"Evidence({self.of}, {len(self.lines)} lines, <redacted>)"


def told(of: str, subject: str, lines: Iterable[Line], unreadable: int = 0) -> Evidence:
    """In the order in which it happened, each line once."""
    ordered = sorted(lines, key=lambda line: (line.at, RANK[line.stage], line.where))
    kept = ordered[:MAX_LINES]
    return Evidence(of=of, subject=subject, lines=tuple(kept), left_out=len(ordered) - len(kept), unreadable=unreadable)


Kept = Callable[[str, int, int], bool]
"""Whether a record is still there: topic, partition, offset."""


def line_of_event(event: Event, where: str, is_kept: Kept, values: bool) -> Line:
    """What a source said, and whether its original bytes are still there."""
    detail = {"feed": event.feed, "recorded_at": str(event.recorded_at)}
    for name in ("occurred_at", "sequence", "priority", "reason", "audit_context", "control_id", "idempotency_key"):
        value = getattr(event, name)
        if value is not None:
            detail[name] = str(value)
    raw = event.provenance
    if raw is not None:
        detail["original"] = f"{raw.topic}/{raw.partition}/{raw.offset}"
        detail["original_kept"] = "yes" if is_kept(raw.topic, raw.partition, raw.offset) else "expired"
    stated = tuple(name for name in event.payload.__struct_fields__ if getattr(event.payload, name) is not msgspec.UNSET)
    return Line(
        at=event.received_at,
        stage=Stage.SENT,
        what=event.event_type.value,
        who=" ".join(each for each in (event.source_system, event.user) if each),
        event_id=event.event_id,
        fields=stated,
        values=values_of(event.payload, stated) if values else None,
        detail=detail,
        where=where,
    )


def line_of_control(control: Control, where: str) -> Line:
    """An order to an entity's gate: who gave it and why."""
    detail = {"field": control.field} if control.field else {}
    return Line(
        at=control.at,
        stage=Stage.ORDERED,
        what=control.kind.value,
        who=control.actor,
        why=control.reason,
        event_id=control.event_id,
        revision=_shown(control.seen_revision),
        detail=detail,
        where=where,
    )


def line_of_accepted(accepted: Accepted, where: str, values: bool) -> Line:
    """What the gate made of it: the revision, and what of the event did not survive."""
    detail = {"lane": accepted.lane.value, "policy": accepted.policy_version, "state_hash": accepted.state_hash}
    detail["landed_at"] = f"{accepted.epoch}/{accepted.partition}/{accepted.offset}"
    if accepted.dropped:
        detail["dropped"] = ", ".join(f"{each.field} {each.reason.value}" for each in accepted.dropped)
    return Line(
        at=accepted.accepted_at,
        stage=Stage.JUDGED,
        what="ACCEPTED",
        who="gate",
        why=f"{accepted.event_type.value} of {accepted.source_system}",
        event_id=accepted.event_id,
        revision=_shown(accepted.revision),
        fields=accepted.changed,
        values=values_of(accepted.state, accepted.changed) if values else None,
        detail=detail,
        where=where,
    )


def line_of_decision(decision: Decision, where: str) -> Line:
    """Why the gate did not accept it."""
    detail = {"policy": decision.policy_version, "landed_at": f"{decision.topic}/{decision.partition}/{decision.offset}"}
    if decision.detail:
        detail["rule"] = decision.detail
    if decision.dropped:
        detail["dropped"] = ", ".join(f"{each.field} {each.reason.value}" for each in decision.dropped)
    return Line(
        at=decision.decided_at,
        stage=Stage.JUDGED,
        what=decision.kind.value,
        who="gate",
        why=decision.reason.value,
        event_id=decision.event_id,
        revision=_shown(decision.revision),
        detail=detail,
        where=where,
    )


def merges_of(record: Accepted | Outcome | Control, of: EntityKey, digest_of: Callable[[bytes], str]) -> dict[str, str]:
    """Digests of the identities that a record ties this one to by a merge. Their own lines are not told with it: whoever goes
    on to them asks anew, with a reason of its own."""
    me = Reference(of.namespace, of.id)
    into: Iterable[Reference] = ()
    lost: Iterable[Reference] = ()
    match record:
        case Accepted():
            lost = [each.loser for each in record.awaits]
        case Outcome():
            into = [record.survivor] if record.survivor is not None else ()
        case Control():
            into = [each.survivor for each in record.trail if each.loser == me]
            lost = [each.loser for each in record.trail if each.survivor == me]

    def named(references: Iterable[Reference]) -> str:
        digests = (digest_of(key_of(of.tenant, EntityType(of.entity_type), each)) for each in references if each != me)
        return ", ".join(dict.fromkeys(digests))

    return {name: told for name, told in (("merged_into", named(into)), ("merged_from", named(lost))) if told}


TAKEN: Final = frozenset({OutcomeKind.CONFIRMED})


def line_of_outcome(outcome: Outcome, where: str) -> Line:
    """What became of a revision at a destination, and how long that took."""
    detail = {
        "attempts": str(outcome.attempts),
        "lane": outcome.lane.value,
        "lag_ms": str(outcome.at - outcome.received_at),
    }
    if outcome.kind is OutcomeKind.CONFIRMED and outcome.after:
        detail["closes_all_after"] = show_revision(outcome.after)
    return Line(
        at=outcome.at,
        stage=Stage.RECEIVED if outcome.kind in TAKEN else Stage.NOT_RECEIVED,
        what=outcome.kind.value,
        who=outcome.writer,
        why="" if outcome.reason is Reason.NONE else outcome.reason.value,
        destination=outcome.destination,
        event_id=outcome.event_id,
        revision=_shown(outcome.revision),
        fields=outcome.fields,
        detail=detail,
        where=where,
    )


def line_of_quarantined(record: Quarantined, where: str) -> Line:
    """The rule that it broke, and what to do."""
    detail = {"rule": record.rule, "remedy": record.remedy, "came_by": f"{record.topic}/{record.partition}/{record.offset}"}
    if record.row:
        detail |= {"file": record.file, "row": str(record.row), "line": str(record.line)}
    what = f"QUARANTINED {record.field}" if record.field else "QUARANTINED"
    return Line(
        at=record.at,
        stage=Stage.KEPT_APART,
        what=what,
        why=record.reason.value,
        event_id=record.event_id,
        detail=detail,
        where=where,
    )


def line_of_audit(entry: Audit, where: str) -> Line:
    """Who did something about it, and why. The chain and number prove it."""
    return Line(
        at=entry.at,
        stage=Stage.DONE_BY_HAND,
        what=entry.action,
        who=entry.actor,
        why=entry.reason,
        destination=entry.destination,
        event_id=entry.event_id,
        revision=_shown(entry.revision) if entry.revision else None,
        detail=dict(entry.detail) | {"entry": f"{entry.chain} {entry.sequence}"},
        where=where,
    )


def line_of_file(state: FileState, where: str) -> Line:
    """Where a file came to stand."""
    told_of = ("source_system", "schema", "key_id", "sha256", "rule", "remedy", "same_as", "released_by")
    detail = {name: value for name in told_of if (value := getattr(state, name))}
    for name in ("records", "rows_done", "landed", "rejected"):
        detail[name] = str(getattr(state, name))
    if state.corrected:
        detail["corrected"] = str(len(state.corrected))
    return Line(
        at=state.at,
        stage=Stage.FILE,
        what=state.status.value,
        who=state.partner,
        why="" if state.why is FileReason.NONE else state.why.value,
        detail=detail,
        where=where,
    )


def values_of(state: Payload, names: Iterable[str]) -> dict[str, Any]:
    """Values of fields, for whoever asked for them."""
    known = frozenset(state.__struct_fields__)
    return {name: msgspec.to_builtins(getattr(state, name)) for name in names if name in known}


def _shown(revision: Revision) -> str | None:
    return show_revision(revision) if revision else None


def ids_of(lines: Iterable[Line]) -> frozenset[EventId]:
    """Events that lines tell of."""
    return frozenset(EventId(line.event_id) for line in lines if line.event_id)


def counted(lines: Iterable[Line]) -> Mapping[str, int]:
    """How many lines of each stage."""
    counts = dict.fromkeys((stage.value for stage in Stage), 0)
    for line in lines:
        counts[line.stage.value] += 1
    return {name: count for name, count in counts.items() if count}
