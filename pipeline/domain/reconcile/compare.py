"""Reconciliation: one verdict on each entity from what we hold, what its writer told, and what a system shows. Pure.

What is on its way, parked or only compared is no drift: the writer shows it. An entity that has come to its end is drift only
where the system shows something else than its newest confirmed revision. Who calls this reads the system again before a
finding counts: pages shift while they are read, and an entity may change meanwhile.
"""

import enum
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import NO_REVISION, Millis, Revision
from pipeline.domain.reconcile.record import MAX_DRIFTS, Drift, Drifted, FindingCount, Remedy, Rule

DEFAULT_SETTLE_MS: Final = 900_000
"""A state that its writer has not heard of by then is lost on the way; a lane is never so far behind."""


NEVER: Final = Millis(0)


@dataclass(slots=True)
class Held:
    """What we hold of one entity: its head. `since` is the receipt of its last event, by our clock.

    `moved_at` is when this revision was first seen in the gate's table, which is later where an order made it. `at` is the
    position of the head: of two records of an entity the greater is the later. `head` is the head itself, kept only where a
    destination carries no mark, so that values have to be compared.
    """

    revision: Revision
    state_hash: str
    since: Millis
    facility: str = ""
    at: Revision = NO_REVISION
    head: bytes | None = None
    moved_at: Millis = NEVER

    def __repr__(self) -> str:
        return f"Held(revision={self.revision}, <redacted>)"


@dataclass(slots=True)
class Told:
    """How far one destination's writer has come with it. `deadline` is that of the earliest unconfirmed change, 0 for none.

    Of two records of an entity the one with the greater `generation` is the later.
    """

    newest: Revision = NO_REVISION
    confirmed: Revision = NO_REVISION
    parked: Revision = NO_REVISION
    shadowed: Revision = NO_REVISION
    deadline: Millis = NEVER
    generation: int = 0


UNTOLD: Final = Told()


@dataclass(frozen=True, slots=True)
class Shown:
    """What a system shows of it. `revision` is 0 where it carries none; `changed` are fields that somebody else changed.

    `copies`: resources that carry its identifier. `updated_at` is by the system's own clock.
    """

    revision: Revision
    state_hash: str | None
    changed: tuple[str, ...] = ()
    updated_at: Millis | None = None
    copies: int = 1


class Settled(enum.Enum):
    """No drift, and why."""

    EQUAL = "the newest confirmed revision is shown, unchanged"
    WAITING = "on its way, in time"
    PARKED = "parked: visible at the writer until something newer is confirmed"
    SHADOWED = "only compared: a flag keeps it from being written"


@dataclass(frozen=True, slots=True)
class Finding:
    """Drift. `since`: it can't have been so for longer."""

    kind: Drift
    rule: Rule
    remedy: Remedy
    since: Millis
    revision: Revision
    shown: Revision = NO_REVISION
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rights:
    """What the destination's profile and the policy say of one entity type there.

    `may_create`: whether we make its resources. `adopts`: fields that this system may say by the policy, and has a feed for.
    """

    may_create: bool
    adopts: frozenset[str] = frozenset()


def judge(
    held: Held | None, told: Told, shown: Shown | None, rights: Rights, now: Millis, settle_ms: int = DEFAULT_SETTLE_MS
) -> Settled | Finding:
    """One verdict. `held` None: it carries our name or mark, and there is no head."""
    if held is None:
        since = _moment(shown.updated_at if shown else None, NEVER, now)
        there = shown.revision if shown else NO_REVISION
        return Finding(Drift.EXTRA, Rule.NEVER_DELETE, Remedy.REPORT, since, NO_REVISION, there)
    if shown is not None and shown.copies > 1:
        return _finding(Drift.DOUBLED, Rule.NEVER_DELETE, Remedy.REPORT, held, shown, now)
    if held.revision > told.confirmed:
        return _unconfirmed(held, told, shown, now, settle_ms)
    return _confirmed(held, told, shown, rights, now, settle_ms)


def _unconfirmed(held: Held, told: Told, shown: Shown | None, now: Millis, settle_ms: int) -> Settled | Finding:
    """The writer has more to say; whatever is shown is about to be written over."""
    if told.parked >= held.revision:
        return Settled.PARKED
    if told.shadowed >= held.revision:
        return Settled.SHADOWED
    is_known = told.newest >= held.revision
    until = told.deadline if is_known and told.deadline else max(held.since, held.moved_at) + settle_ms
    if now <= until:
        return Settled.WAITING
    if shown is not None and (shown.revision, shown.state_hash) == (held.revision, held.state_hash) and not shown.changed:
        return Settled.WAITING if is_known else Settled.EQUAL  # it came through; who wrote it has not said so yet
    kind = Drift.MISSING if shown is None and not told.confirmed else Drift.STALE
    if is_known:
        return _finding(kind, Rule.OVERDUE, Remedy.REPORT, held, shown, now)
    return _finding(kind, Rule.NEVER_WRITTEN, Remedy.REASSERT, held, shown, now)


def _confirmed(held: Held, told: Told, shown: Shown | None, rights: Rights, now: Millis, settle_ms: int) -> Settled | Finding:
    if shown is None:
        if rights.may_create:
            return _finding(Drift.DELETED, Rule.GONE, Remedy.REASSERT, held, None, now)
        return _finding(Drift.DELETED, Rule.OWNER_MAKES, Remedy.REPORT, held, None, now)
    if told.confirmed > held.revision or shown.revision > held.revision:
        # What is there is newer than our own head: the table is behind, or another pipeline writes. Nothing goes over it.
        return _finding(Drift.CONFLICTING, Rule.NEWER_REVISION, Remedy.REPORT, held, shown, now)
    again = _remedy_of_a_replaced(held, shown, rights, now, settle_ms)
    if not shown.revision:
        return _finding(Drift.CONFLICTING, Rule.MARK_LOST, again, held, shown, now)
    if shown.revision < held.revision:
        return _finding(Drift.STALE, Rule.OLDER_REVISION, again, held, shown, now)
    if shown.state_hash != held.state_hash:
        return _finding(Drift.CONFLICTING, Rule.FORK, again, held, shown, now)
    if not shown.changed:
        return Settled.EQUAL
    if not rights.adopts.isdisjoint(shown.changed):
        # Writing now could take its word away before the feed has read it; what that makes writes the other fields as well.
        return _finding(Drift.EDITED, Rule.ITS_OWN_WORD, Remedy.ADOPT, held, shown, now)
    return _finding(Drift.EDITED, Rule.OURS_TO_WRITE, Remedy.REASSERT, held, shown, now)


def _remedy_of_a_replaced(held: Held, shown: Shown, rights: Rights, now: Millis, settle_ms: int) -> Remedy:
    """What is shown is not what we wrote last, and which fields differ is not known by that. Where that system may say any of
    them, its feed has `settle_ms` to bring its word before ours is sent again."""
    if not rights.adopts or shown.updated_at is None:
        return Remedy.REASSERT
    since = _moment(shown.updated_at, held.since, now)
    return Remedy.ADOPT if now - since < settle_ms else Remedy.REASSERT


def _finding(kind: Drift, rule: Rule, remedy: Remedy, held: Held, shown: Shown | None, now: Millis) -> Finding:
    since = _moment(shown.updated_at if shown else None, held.since, now)
    if shown is None:
        return Finding(kind, rule, remedy, since, held.revision)
    return Finding(kind, rule, remedy, since, held.revision, shown.revision, shown.changed)


def _moment(told: Millis | None, first: Millis, now: Millis) -> Millis:
    """A time of another clock, within what ours allows: a wrong clock makes nothing older or younger than it can be."""
    return Millis(min(now, max(first, told))) if told is not None else first


# -- what a source's snapshot says


@dataclass(frozen=True, slots=True)
class Word:
    """What a snapshot says of one field, and how it stands to what we hold. `known_since` is None for a field not known."""

    same: bool
    known_since: Millis | None


def judge_snapshot(held: Held | None, words: Mapping[str, Word], recorded_at: Millis, now: Millis) -> Settled | Finding:
    """Whether a source's snapshot and our head agree, by field. A field that is known from something newer is settled by that.

    A snapshot never overrides anything by this: what it should have changed it has changed at the gate, or was not allowed to.
    """
    since = _moment(recorded_at, NEVER, now)
    if held is None or not held.revision:
        return Finding(Drift.MISSING, Rule.UNKNOWN_HERE, Remedy.REPORT, since, NO_REVISION)
    differing = sorted(
        name for name, word in words.items() if not word.same and (word.known_since is None or word.known_since <= recorded_at)
    )
    if not differing:
        return Settled.EQUAL
    fields = tuple(differing)
    return Finding(Drift.CONFLICTING, Rule.SNAPSHOT_DIFFERS, Remedy.REPORT, since, held.revision, NO_REVISION, fields)


# -- repairs that go in circles


class Repairs:
    """How often each entity was repaired in the window: beyond `most` it is not repaired again, but somebody told.

    Two systems that undo each other would else write in turns for ever.
    """

    def __init__(self, most: int, window_ms: int) -> None:
        self._most = most
        self._window_ms = window_ms
        self._times: dict[str, deque[Millis]] = {}

    def note(self, subject: str, at: Millis) -> None:
        """A repair, of this process or of one before. In the order of time; a repeat of the same counts once."""
        times = self._times.setdefault(subject, deque(maxlen=self._most))
        if not times or at > times[-1]:
            times.append(at)

    def may(self, subject: str, now: Millis) -> bool:
        """Whether it may be repaired once more."""
        times = self._times.get(subject)
        if times is None:
            return True
        while times and times[0] <= now - self._window_ms:
            times.popleft()
        if not times:
            del self._times[subject]
        return len(times) < self._most

    def __len__(self) -> int:
        return len(self._times)


# -- the sum


@dataclass(slots=True)
class Tally:
    """The counts of a run, and its findings. Every entity that is to be compared is counted once."""

    settled: Counter[Settled] = field(default_factory=Counter)
    unread: int = 0
    resources: int = 0
    foreign: int = 0
    found: list[tuple[str, EntityType, Finding]] = field(default_factory=list)

    def add(self, subject: str, entity_type: EntityType, verdict: Settled | Finding) -> None:
        """One entity, or one extra resource, by its digest."""
        if isinstance(verdict, Settled):
            self.settled[verdict] += 1
        else:
            self.found.append((subject, entity_type, verdict))

    @property
    def drifted(self) -> int:
        """Entities of ours with a finding at the destination."""
        return sum(finding.kind is not Drift.EXTRA and finding.rule not in OF_SNAPSHOTS for _, _, finding in self.found)

    @property
    def extra(self) -> int:
        """Resources with our name or mark, unknown here."""
        return sum(finding.kind is Drift.EXTRA for _, _, finding in self.found)

    def counts(self) -> tuple[FindingCount, ...]:
        """Findings by kind, rule, remedy and entity type."""
        grouped: dict[tuple[Drift, Rule, Remedy, EntityType], list[Millis]] = {}
        for _, entity_type, each in self.found:
            grouped.setdefault((each.kind, each.rule, each.remedy, entity_type), []).append(each.since)
        return tuple(
            FindingCount(kind=kind, rule=rule, remedy=remedy, entity_type=entity_type, count=len(times), since=min(times))
            for (kind, rule, remedy, entity_type), times in sorted(grouped.items())
        )

    def drifts(self, limit: int = MAX_DRIFTS) -> tuple[Drifted, ...]:
        """Findings one by one: first those that somebody has to look at, of each the oldest first."""
        ordered = sorted(self.found, key=lambda each: (_URGENCY[each[2].remedy], each[2].since, each[0]))
        return tuple(_drifted(*each) for each in ordered[:limit])


OF_SNAPSHOTS: Final = frozenset({Rule.UNKNOWN_HERE, Rule.SNAPSHOT_DIFFERS})
"""Rules of what a source's snapshot says, beside what a destination shows."""

_URGENCY: Final = {Remedy.ESCALATE: 0, Remedy.REPORT: 1, Remedy.ADOPT: 2, Remedy.REASSERT: 3}


def _drifted(subject: str, entity_type: EntityType, finding: Finding) -> Drifted:
    return Drifted(
        subject=subject,
        entity_type=entity_type,
        kind=finding.kind,
        rule=finding.rule,
        remedy=finding.remedy,
        since=finding.since,
        revision=finding.revision,
        shown=finding.shown,
        fields=finding.fields,
    )
