"""What a run of `surgeline bench surge` says, from the topics and from the stand-in's own record: pure but for the reading."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from pipeline.domain.accounts.deliveries import rising
from pipeline.domain.identifiers import EntityKey, Millis
from pipeline.domain.lag import Histogram
from pipeline.domain.records import LANES, Accepted, Decision, Lane, Outcome, OutcomeKind
from pipeline.local.servers.standin import STEP_MS, Witness
from pipeline.ops.topics import Decoder, Topics, decoded
from pipeline.topology import ACCEPTED, DECISIONS, OUTCOMES

SECOND_MS: Final = 1_000


class Change(NamedTuple):
    """An accepted revision of an entity."""

    key: bytes
    revision: int
    received_at: int
    lane: Lane


@dataclass(slots=True)
class History:
    """Everything that the gate accepted and the writer confirmed. `judged`: events with a verdict, whichever."""

    changes: list[Change] = field(default_factory=list)
    confirmed: dict[bytes, list[tuple[int, int]]] = field(default_factory=dict)
    """Per entity the confirmed revisions, rising, each with its time."""
    judged: set[str] = field(default_factory=set)
    verdicts: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    """Failed attempts by reason."""

    def accepted(self, record: Accepted) -> None:
        """From `events.accepted`."""
        self._verdict(ACCEPTED, record.event_id)
        key = EntityKey(record.tenant, record.entity_type.value, record.namespace, record.entity_id).encode()
        self.changes.append(Change(key, record.revision, record.received_at, record.lane))

    def decision(self, record: Decision) -> None:
        """From `decisions`."""
        self._verdict(record.kind.value, record.event_id)

    def outcome(self, record: Outcome) -> None:
        """From `outcomes`, in the order of their partition."""
        if record.kind is OutcomeKind.FAILED:
            self.failed[record.reason.value] = self.failed.get(record.reason.value, 0) + 1
        if record.kind is not OutcomeKind.CONFIRMED:
            return
        key = EntityKey(record.tenant, record.entity_type.value, record.namespace, record.entity_id).encode()
        known = self.confirmed.setdefault(key, [])
        if not known or known[-1][0] < record.revision:
            known.append((record.revision, record.at))

    def _verdict(self, name: str, event_id: str | None) -> None:
        self.verdicts[name] = self.verdicts.get(name, 0) + 1
        if event_id is not None:
            self.judged.add(event_id)

    def end_of(self, change: Change) -> tuple[int, int] | None:
        """The confirmation that ends it: its own, or the one of the revision that replaced it. None where it is open."""
        known = self.confirmed.get(change.key, [])
        place = bisect_left(known, (change.revision, 0))
        return known[place] if place < len(known) else None


def read_history(topics: Topics, decoder: Decoder, history: History | None = None) -> History:
    """All of it, as it is now, into `history` or a new one."""
    history = history or History()
    for topic in (ACCEPTED, DECISIONS, OUTCOMES):
        for message in topics.read(topic, topics.begin(topic), topics.end(topic)):
            match decoded(decoder, message):
                case Accepted() as accepted:
                    history.accepted(accepted)
                case Decision() as decision:
                    history.decision(decision)
                case Outcome() as outcome:
                    history.outcome(outcome)
                case _:
                    continue
    return history


class LaneLag(msgspec.Struct, frozen=True):
    """Lag of one lane from receipt to confirmation, ms."""

    lane: str
    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Phase(msgspec.Struct, frozen=True):
    """One load against one behaviour of the stand-in.

    `writes` confirmed a change of this phase themselves; `superseded` changes ended with the revision that replaced them,
    `superseded_lag` after their receipt: each is a write saved. `entities` have a change in it, `left` of them had something
    open when the load ended, and `drained_s` later the last was confirmed.
    """

    name: str
    events_per_s: float
    critical_per_s: float
    span_s: float
    accepted: int
    entities: int
    writes: int
    superseded: int
    open: int
    left: int
    drained_s: float
    lags: tuple[LaneLag, ...]
    superseded_lag: LaneLag

    def lag(self, lane: Lane) -> LaneLag:
        """Of one lane."""
        return next((lag for lag in self.lags if lag.lane == lane.value), LaneLag(lane.value, 0, 0.0, 0.0, 0.0))


class Span(NamedTuple):
    """When a load began and ended, and what it was."""

    name: str
    begin: Millis
    end: Millis
    events_per_s: float
    critical_per_s: float


def phase_of(history: History, span: Span) -> Phase:
    """A phase's figures: of all changes that were received in it."""
    lags = {lane: Histogram() for lane in LANES}
    replaced, writes, still_open = Histogram(), 0, 0
    entities: set[bytes] = set()
    left: set[bytes] = set()
    last = accepted = 0
    for change in history.changes:
        if not span.begin <= change.received_at < span.end:
            continue
        accepted += 1
        entities.add(change.key)
        end = history.end_of(change)
        if end is None or end[1] > span.end:
            left.add(change.key)
        if end is None:
            still_open += 1
            continue
        last = max(last, end[1])
        lags[change.lane].add(end[1] - change.received_at)
        if end[0] == change.revision:
            writes += 1
        else:
            replaced.add(end[1] - change.received_at)
    return Phase(
        name=span.name,
        events_per_s=span.events_per_s,
        critical_per_s=span.critical_per_s,
        span_s=(span.end - span.begin) / SECOND_MS,
        accepted=accepted,
        entities=len(entities),
        writes=writes,
        superseded=replaced.count,
        open=still_open,
        left=len(left),
        drained_s=max(0.0, (last - span.end) / SECOND_MS),
        lags=tuple(_lag(lane.value, lags[lane]) for lane in LANES),
        superseded_lag=_lag("superseded", replaced),
    )


def _lag(name: str, histogram: Histogram) -> LaneLag:
    return LaneLag(name, histogram.count, histogram.p50_ms, histogram.p99_ms, float(histogram.max_ms))


# -- the stand-in's own record


def stale_overwrites(witness: Witness) -> int:
    """Versions that showed an older revision than one before, or one that had been shown already."""
    return sum(len(rising(revision for revision, _ in versions)) for versions in witness.shown.values())


def unmarked(witness: Witness) -> int:
    """Resources of which a version carried no revision: a write of nobody knows whom."""
    return sum(any(revision == 0 for revision, _ in versions) for versions in witness.shown.values())


def taken_since(witness: Witness, since: Millis) -> Millis | None:
    """When it took a request for the first time at or after `since`, to a step; None if it did not."""
    return next((Millis(max(at, since)) for at, taken, _, _ in witness.arrivals if at + STEP_MS > since and taken), None)


def busiest(witness: Witness, begin: Millis, end: Millis) -> int:
    """Most requests, taken or refused, in any second between `begin` and `end`, to a step."""
    steps = {at // STEP_MS: taken + refused for at, taken, refused, _ in witness.arrivals}
    wide, first, last = SECOND_MS // STEP_MS, begin // STEP_MS, end // STEP_MS
    return max((sum(steps.get(at + n, 0) for n in range(wide)) for at in range(first, last - wide + 1)), default=0)


def per_s(witness: Witness, begin: Millis, end: Millis) -> tuple[float, float]:
    """Requests taken and refused in a second, between `begin` and `end`."""
    span_s = max(0.001, (end - begin) / SECOND_MS)
    chosen = [each for each in witness.arrivals if begin <= each[0] < end]
    return sum(each[1] for each in chosen) / span_s, sum(each[2] for each in chosen) / span_s


def growth(memory: Sequence[int]) -> float:
    """From the first to the greatest, as a share of the first; 0.0 for fewer than two looks."""
    return max(memory) / memory[0] - 1 if len(memory) > 1 else 0.0


def lost(sent: Iterable[str], judged: set[str]) -> int:
    """Events of the sender's log that no verdict tells of."""
    return sum(event_id not in judged for event_id in sent)


def cpu_between(samples: Sequence[tuple[int, Mapping[str, float]]], begin: Millis, end: Millis) -> dict[str, float]:
    """Processor seconds in a second, by process; a process that began anew in between is left out."""
    inside = [each for each in samples if begin <= each[0] <= end]
    if len(inside) < 2:
        return {}
    (first_at, first), (last_at, last) = inside[0], inside[-1]
    span_s = (last_at - first_at) / SECOND_MS
    return {name: round((last[name] - first[name]) / span_s, 2) for name in first if name in last and last[name] >= first[name]}
