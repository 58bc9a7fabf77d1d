"""The audit chain of a running process, and the reading of all chains (`surgeline audit show | verify`)."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec
from rich.table import Table

from pipeline.domain.accounts.audit import Checkpoint, Finding, heads, next_entry, verify
from pipeline.domain.accounts.checkpoints import Read, heads_of, verify_checkpoints
from pipeline.domain.identifiers import EventId, Millis, Revision, partition_of, show_revision
from pipeline.domain.records import Audit
from pipeline.kafka.producer import OutRecord
from pipeline.ops.log_catalogue import AUDIT_CONTINUED
from pipeline.ops.logs import emit
from pipeline.ops.metrics import AUDIT_ENTRIES
from pipeline.ops.topics import Decoder, Topics, decoded
from pipeline.topology import AUDIT

FIRST_WINDOW: Final = 1_000
"""Records from the end that a starting process looks at first; each further look goes ten times as far back."""

SHOW_LIMIT: Final = 10_000
"""Most entries that one `show` gives back: the newest of those that match."""


class Encoder(Protocol):
    """What a chain needs of the codec."""

    def encode(self, record: Audit, /) -> bytes:
        """Kafka value of an entry."""
        ...


def last_entry(topics: Topics, decoder: Decoder, chain: str) -> tuple[Audit | None, int]:
    """The chain's entry with the highest sequence, the first of these where it forked, and the chain's partition.

    None means that the chain has not begun. Reads backwards from the end, so that a long log does not delay a start.
    """
    begin, end = topics.begin(AUDIT), topics.end(AUDIT)
    partition = partition_of(chain.encode(), len(end))
    low, stop, window = begin.get(partition, 0), end.get(partition, 0), FIRST_WINDOW
    while stop > low:
        start = max(low, stop - window)
        newest: Audit | None = None
        bounds = {other: end[other] for other in end} | {partition: start}
        for message in topics.read(AUDIT, bounds, dict(end) | {partition: stop}):
            entry = decoded(decoder, message) if message.key == chain.encode() else None
            if isinstance(entry, Audit) and (newest is None or entry.sequence > newest.sequence):
                newest = entry
        if newest is not None:
            return newest, partition
        stop, window = start, window * 10
    return None, partition


class AuditChain:
    """Appends to the chain of one process. Nothing else may write a chain of this name while this one lives.

    The order of `append` must be the order of publishing: hand the record to the one producer of this process, together
    with the outcome that it tells of and before the next `append` is published. A record that was made and never
    acknowledged breaks the chain if others follow it, so a failed publish ends the process; the next one goes on behind
    what the topic holds. Safe from several threads, as far as they keep that order.
    """

    def __init__(self, chain: str, encoder: Encoder, last: Audit | None, partition: int) -> None:
        self.chain: Final = chain
        self._key = chain.encode()
        self._encoder = encoder
        self._last = last
        self._partition = partition
        self._lock = threading.Lock()

    @classmethod
    def continued(cls, topics: Topics, decoder: Decoder, encoder: Encoder, chain: str) -> "AuditChain":
        """The chain, behind its last entry on the topic. KafkaUnavailable where that can't be read: start later then."""
        last, partition = last_entry(topics, decoder, chain)
        emit(AUDIT_CONTINUED, topic=AUDIT, partition=partition, count=last.sequence if last else 0)
        return cls(chain, encoder, last, partition)

    def append(
        self,
        *,
        at: Millis,
        actor: str,
        action: str,
        subject: str,
        destination: str | None = None,
        revision: Revision | None = None,
        event_id: EventId | None = None,
        reason: str = "",
        detail: Mapping[str, str] | None = None,
    ) -> OutRecord:
        """The next entry, ready to be published; `subject` is a keyed digest or a name that is no patient data."""
        with self._lock:
            entry = next_entry(
                self._last,
                chain=self.chain,
                at=at,
                actor=actor,
                action=action,
                subject=subject,
                destination=destination,
                revision=revision,
                event_id=event_id,
                reason=reason,
                detail=detail,
            )
            record = OutRecord(AUDIT, self._key, self._encoder.encode(entry), self._partition)
            self._last = entry
        AUDIT_ENTRIES.of().inc()
        return record

    @property
    def head(self) -> Checkpoint | None:
        """The newest entry that was made, for a signed checkpoint; None before the first."""
        last = self._last
        return Checkpoint(last.chain, last.sequence, last.hash) if last else None


def read_entries(topics: Topics, decoder: Decoder) -> Iterator[Audit]:
    """All entries of all chains, each chain in the topic's order; what does not decode is passed over and shows as missing."""
    begin, end = topics.begin(AUDIT), topics.end(AUDIT)
    for message in topics.read(AUDIT, begin, end):
        entry = decoded(decoder, message)
        if isinstance(entry, Audit):
            yield entry


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """What `show` picks; None picks all. `action` and `chain` also pick what begins with them. Times: from, until (exclusive)."""

    chain: str | None = None
    action: str | None = None
    destination: str | None = None
    subject: str | None = None
    since: Millis | None = None
    until: Millis | None = None

    def picks(self, entry: Audit) -> bool:
        """Whether an entry is wanted."""
        return (
            (self.chain is None or entry.chain.startswith(self.chain))
            and (self.action is None or entry.action.startswith(self.action))
            and (self.destination is None or entry.destination == self.destination)
            and (self.subject is None or entry.subject == self.subject)
            and (self.since is None or entry.at >= self.since)
            and (self.until is None or entry.at < self.until)
        )


def show(entries: Iterable[Audit], wanted: AuditFilter, limit: int = 100) -> list[Audit]:
    """The newest `limit` (at most SHOW_LIMIT) entries that are wanted, oldest first."""
    picked: list[Audit] = []
    limit = min(limit, SHOW_LIMIT)
    for entry in entries:
        if wanted.picks(entry):
            picked.append(entry)
            if len(picked) > 2 * limit:
                picked = sorted(picked, key=_age)[-limit:]
    return sorted(picked, key=_age)[-limit:] if limit > 0 else []


def _age(entry: Audit) -> tuple[int, str, int]:
    return entry.at, entry.chain, entry.sequence


class Verified(msgspec.Struct, frozen=True):
    """What `verify` found: per chain how far it goes, and every fault. `whole` forgives repeats only.

    `sealed`: what the good checkpoints vouch for, the newest of each chain. What was written since the newest of them, at
    `sealed_at`, could be cut off unseen.
    """

    whole: bool
    entries: int
    heads: tuple[Checkpoint, ...]
    findings: tuple[Finding, ...]
    checkpoints: int = 0
    sealed: tuple[Checkpoint, ...] = ()
    sealed_at: int | None = None


def verify_all(
    entries: Iterable[Audit], checkpoints: Sequence[Read] = (), kept: Sequence[Read] = (), late: Sequence[Read] = ()
) -> Verified:
    """Verify every chain, and the checkpoints that join them.

    `kept`: checkpoints that were kept in another place. `late`: those that were signed while the entries were read; they speak
    of entries that may not be among these.
    """
    every = list(entries)
    marks = heads_of((*checkpoints, *kept))
    findings = tuple(sorted((*verify(every, marks), *verify_checkpoints((*checkpoints, *late), every, kept))))
    newest = tuple(head for _, head in sorted(heads(every).items()))
    sealed = {mark.chain: mark for mark in marks}
    return Verified(
        whole=all(finding.harmless for finding in findings),
        entries=len(every),
        heads=newest,
        findings=findings,
        checkpoints=len(checkpoints) + len(late),
        sealed=tuple(sealed.values()),
        sealed_at=max((each.at for each in (*checkpoints, *kept) if each.statement), default=None),
    )


def render_entries(entries: Iterable[Audit]) -> Table:
    """A table for people."""
    table = Table(title="Audit", caption="subject: keyed digest of the entity key")
    for column in ("time (UTC)", "chain", "no.", "actor", "action", "subject", "destination", "revision", "reason", "figures"):
        table.add_column(column, overflow="fold")
    for entry in entries:
        figures = " ".join(f"{name}={value}" for name, value in sorted(entry.detail.items()))
        revision = show_revision(entry.revision) if entry.revision else ""
        who = (entry.chain, str(entry.sequence), entry.actor, entry.action, entry.subject, entry.destination or "")
        table.add_row(_time(entry.at), *who, revision, entry.reason, figures)
    return table


def render_verified(verified: Verified) -> Table:
    """A table for people: each chain, then each fault; the verdict is in the title."""
    verdict = "✔ every chain is whole" if verified.whole else "✘ NOT WHOLE"
    table = Table(title=f"Audit chains: {verdict} ({verified.entries} entries)")
    for column in ("chain", "entry", "finding", "detail"):
        table.add_column(column, overflow="fold")
    sealed = {head.chain: head.sequence for head in verified.sealed}
    for head in verified.heads:
        table.add_row(head.chain, f"1-{head.sequence}", "head", f"{head.hash[:16]}, sealed to {sealed.get(head.chain, 0)}")
    for finding in verified.findings:
        numbers = str(finding.sequence) if finding.sequence == finding.last else f"{finding.sequence}-{finding.last}"
        sign = "•" if finding.harmless else "✘"
        table.add_row(finding.chain, numbers, f"{sign} {finding.fault.value}", finding.detail)
    at = "none: what was cut off at the end of a chain can't be seen" if verified.sealed_at is None else _time(verified.sealed_at)
    table.caption = f"{verified.checkpoints} signed checkpoints, the newest {at}"
    return table


def as_json(value: Verified | list[Audit]) -> bytes:
    """For `--json`."""
    return msgspec.json.encode(value)


def _time(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
