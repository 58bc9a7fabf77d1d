"""The books: over a closed cut of landing positions nothing is left over, and what is wrong is named.

positions = accepted + each kind of decision, and each accepted revision x expected destination is exactly one of
confirmed, superseded, shadowed, parked, open. The books prove everything from landing on; that what was answered "yes"
is on landing is proven by the sender's own log.
"""

from array import array
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from pipeline.domain.accounts.deliveries import (
    Account,
    Course,
    DestinationBooks,
    EntityBooks,
    Fate,
    OpenItem,
    Problem,
    Row,
    Trouble,
    differ,
    fold,
)
from pipeline.domain.accounts.each_course import EachCourse
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Millis, Revision, epoch_and_offset
from pipeline.domain.records import LANES, Accepted, Decision, DecisionKind, Outcome, OutcomeKind

PROBLEM_LIMIT: Final = 200
"""Problems of one kind that are named; all are counted."""

OPEN_LIMIT: Final = 50
"""Open revisions that are named per destination, longest waiting first; all are counted."""

DESTINATION_LIMIT: Final = 60
"""One bit each in a revision's row."""

ACCEPTED: Final = "ACCEPTED"
_KIND_NAMES: Final = ("", ACCEPTED, *(kind.value for kind in DecisionKind))
_KIND_INDEX: Final = {name: index for index, name in enumerate(_KIND_NAMES)}

Expects = Callable[[Accepted], bool]
"""Whether a destination's profile maps the record: only then is an outcome due."""


def of_types(types: Collection[EntityType]) -> Expects:
    """Expects exactly these entity types."""
    return lambda record: record.entity_type in types


def landing_topic(entity_type: EntityType) -> str:
    """Landing topic of an entity type, without the prefix."""
    return f"landing.{entity_type.value}"


class PartitionCut(msgspec.Struct, frozen=True):
    """The closed range of landing offsets [first, end) that the books are about.

    `committed` is the gate's offset: below it everything must have a verdict. None: everything in the range must.
    """

    topic: str
    epoch: int
    partition: int
    first: int
    end: int
    committed: int | None = None


class TopicBooks(msgspec.Struct, frozen=True):
    """Positions of one landing topic by verdict; with `missing` and `waiting` they add up to `positions`."""

    topic: str
    positions: int
    accepted: int
    decided: dict[str, int]
    missing: int
    waiting: int


class Books(msgspec.Struct, frozen=True):
    """The result. `balanced`: nothing is lost, doubled, taken back or unexplained. `complete`: and nothing waits."""

    balanced: bool
    complete: bool
    open: int
    waiting: int
    topics: tuple[TopicBooks, ...]
    destinations: tuple[DestinationBooks, ...]
    repeats: int
    beyond_cut: int
    before_cut: int
    unexpected: int
    problem_counts: dict[str, int]
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]


class _Positions:
    """Verdicts of one landing partition: nine bytes a position."""

    __slots__ = ("cut", "marks", "ways")

    def __init__(self, cut: PartitionCut) -> None:
        self.cut = cut
        size = max(0, cut.end - cut.first)
        self.marks = bytearray(size)
        self.ways = array("q", bytes(8 * size))


class _Problems:
    """Counts all, names the first of each kind."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.counts: dict[Trouble, int] = {}
        self.named: list[Problem] = []

    def add(self, problem: Problem) -> None:
        count = self.counts.get(problem.trouble, 0)
        self.counts[problem.trouble] = count + 1
        if count < self._limit:
            self.named.append(problem)

    def copy(self) -> "_Problems":
        other = _Problems(self._limit)
        other.counts, other.named = dict(self.counts), list(self.named)
        return other


@dataclass(slots=True)
class _Sum:
    """What one adding up gathers."""

    problems: _Problems
    accounts: list[Account]
    unexpected: int = 0


class Ledger:
    """Takes the records of the topics in, in any mixture; each topic's partition in its own order.

    `expects` says per destination which accepted records are due there; `subject` names an entity in a problem by a
    keyed digest; at `told_of_each` every change has an end of its own. Repeated records change nothing. Memory: 9 bytes a
    position, 64 a revision, 48 an outcome and some hundred an entity.
    """

    def __init__(
        self,
        cut: Iterable[PartitionCut],
        expects: Mapping[str, Expects],
        subject: Callable[[bytes], str],
        problem_limit: int = PROBLEM_LIMIT,
        told_of_each: Collection[str] = (),
    ) -> None:
        if len(expects) > DESTINATION_LIMIT:
            raise ValueError(f"more than {DESTINATION_LIMIT} destinations")
        self._partitions = {(part.topic, part.partition): _Positions(part) for part in cut}
        self._expects = tuple(expects.values())
        self._destinations = {name: index for index, name in enumerate(expects)}
        self._told_of_each = frozenset(told_of_each)
        self._failed = [0] * len(expects)
        self._subject = subject
        self._entities: dict[bytes, EntityBooks] = {}
        self._problems = _Problems(problem_limit)
        self._repeats = self._beyond = self._before = 0
        self._history_whole = True
        self._notes: list[Problem] = []
        for part in self._partitions.values():
            self._check_start(part.cut)

    # What comes in.

    def accepted(self, record: Accepted) -> None:
        """A record of `events.accepted`."""
        topic = landing_topic(record.entity_type)
        # Its order in the chain and its lane belong to the verdict: a gate that starts from another head shows in them.
        said = f"{record.event_id}|{record.content_hash}|{record.state_hash}|{record.previous_revision}|{record.lane}"
        if not self._judge(topic, record.epoch, record.partition, record.offset, _KIND_INDEX[ACCEPTED], fold(said)):
            return
        expected = sum(1 << index for index, expects in enumerate(self._expects) if expects(record))
        self._entity(record.key.encode(), record.entity_type, record.partition).accept(record, expected)

    def decision(self, record: Decision) -> None:
        """A record of `decisions`."""
        said = f"{record.reason}|{record.event_id}|{record.content_hash}"
        self._judge(record.topic, record.epoch, record.partition, record.offset, _KIND_INDEX[record.kind.value], fold(said))

    def outcome(self, record: Outcome) -> None:
        """A record of `outcomes`."""
        index = self._destinations.get(record.destination)
        if index is None:
            self._problems.add(Problem(Trouble.FOREIGN, "outcomes", record.partition, destination=record.destination))
        elif record.kind is OutcomeKind.FAILED:
            self._failed[index] += 1
        else:
            self._entity(record.key.encode(), record.entity_type, record.partition).end(index, record)

    def unreadable(self, topic: str, partition: int, offset: int) -> None:
        """A record that does not decode."""
        self._problems.add(Problem(Trouble.UNREADABLE, topic, partition, 0, offset))

    def history_trimmed(self, topic: str, partition: int, first: int) -> None:
        """`topic` starts at `first`: retention took what went before. A note, no fault; the first revisions left prove less."""
        self._history_whole = False
        self._notes.append(Problem(Trouble.HISTORY_TRIMMED, topic, partition, 0, first, detail="the log starts here"))

    def different(self, problem: Problem) -> None:
        """Something that a look at the destination itself has found."""
        self._problems.add(problem)

    # Positions.

    def _check_start(self, cut: PartitionCut) -> None:
        if cut.committed is not None and cut.first > cut.committed:
            detail = f"offsets {cut.committed} to {cut.first - 1} left the log unjudged"
            self._problems.add(Problem(Trouble.LOG_TRIMMED, cut.topic, cut.partition, cut.epoch, cut.committed, detail=detail))

    def _judge(self, topic: str, epoch: int, partition: int, offset: int, kind: int, way: int) -> bool:
        """Note a verdict; whether the record counts further (it lies within or before the cut, and is no repeat)."""
        part = self._partitions.get((topic, partition))
        if part is None or (epoch == part.cut.epoch and offset < 0):
            self._problems.add(Problem(Trouble.FOREIGN, topic, partition, epoch, offset))
            return False
        if epoch > part.cut.epoch or (epoch == part.cut.epoch and offset >= part.cut.end):
            self._beyond += 1
            return False
        if epoch < part.cut.epoch or offset < part.cut.first:
            self._before += 1
            return True
        place = offset - part.cut.first
        if not part.marks[place]:
            part.marks[place], part.ways[place] = kind, way
            return True
        if part.marks[place] == kind and part.ways[place] == way:
            self._repeats += 1
            return False
        detail = f"{_KIND_NAMES[part.marks[place]]} first, {_KIND_NAMES[kind]} later"
        self._problems.add(Problem(Trouble.VERDICT_FORK, topic, partition, epoch, offset, detail=detail))
        return False

    def _entity(self, key: bytes, entity_type: EntityType, partition: int) -> EntityBooks:
        entity = self._entities.get(key)
        if entity is None:
            entity = self._entities[key] = EntityBooks(entity_type, partition)
        return entity

    # The sum.

    def close(self) -> Books:
        """Add up what was fed so far. More may be fed afterwards, and the books closed again."""
        total = _Sum(self._problems.copy(), [Account(name, OPEN_LIMIT) for name in self._destinations])
        for account, failed in zip(total.accounts, self._failed, strict=True):
            account.failed_attempts = failed
        topics = self._topics(total)
        for key, entity in self._entities.items():
            rows = entity.rows()
            self._check_rows(total, key, rows)
            for index in range(len(total.accounts)):
                self._deliver(total, key, entity, rows, index)
        destinations = tuple(account.close() for account in total.accounts)
        still_open, waiting = sum(books.open for books in destinations), sum(books.waiting for books in topics)
        balanced = not total.problems.counts and all(books.adds_up for books in destinations)
        return Books(
            balanced=balanced,
            complete=balanced and not still_open and not waiting,
            open=still_open,
            waiting=waiting,
            topics=topics,
            destinations=destinations,
            repeats=self._repeats,
            beyond_cut=self._beyond,
            before_cut=self._before,
            unexpected=total.unexpected,
            problem_counts={trouble.value: count for trouble, count in sorted(total.problems.counts.items())},
            problems=tuple(total.problems.named),
            notes=tuple(self._notes),
        )

    def last_confirmed(self, destination: str) -> Iterable[tuple[bytes, EntityType, int, int]]:
        """Per entity key: its type, and what `destination` should show: last confirmed revision, `fold` of its state hash."""
        index = self._destinations[destination]
        for key, entity in self._entities.items():
            newest = Course(entity.ends(index)).confirmations.newest
            if newest is not None:
                yield key, entity.entity_type, newest.revision, newest.state

    def named(self, trouble: Trouble, key: bytes, revision: int, destination: str = "", detail: str = "") -> Problem:
        """A problem of one revision of an entity, without the entity's id."""
        entity = self._entities[key]
        epoch, offset = epoch_and_offset(Revision(revision))
        topic, subject = landing_topic(entity.entity_type), self._subject(key)
        return Problem(trouble, topic, entity.partition, epoch, offset, destination, subject, detail)

    def _topics(self, total: _Sum) -> tuple[TopicBooks, ...]:
        totals: dict[str, list[int]] = {}
        for (topic, _), part in sorted(self._partitions.items()):
            sums = totals.setdefault(topic, [0] * (len(_KIND_NAMES) + 1))
            for kind in range(1, len(_KIND_NAMES)):
                sums[kind] += part.marks.count(kind)
            missing = part.marks.count(0)
            waiting = self._name_missing(total, part, missing) if missing else 0
            sums[0] += missing - waiting
            sums[-1] += waiting
        decided = range(2, len(_KIND_NAMES))
        return tuple(
            TopicBooks(topic, sum(sums), sums[1], {_KIND_NAMES[kind]: sums[kind] for kind in decided}, sums[0], sums[-1])
            for topic, sums in totals.items()
        )

    def _name_missing(self, total: _Sum, part: _Positions, missing: int) -> int:
        """Name those that are lost; how many only wait for the gate."""
        cut, waiting, place = part.cut, 0, -1
        for _ in range(missing):
            place = part.marks.index(0, place + 1)
            if cut.committed is not None and cut.first + place >= cut.committed:
                waiting += 1
            else:
                total.problems.add(Problem(Trouble.MISSING, cut.topic, cut.partition, cut.epoch, cut.first + place))
        return waiting

    def _check_rows(self, total: _Sum, key: bytes, rows: list[Row]) -> None:
        """One history: each revision once, each following the one before, no event twice."""
        events: set[int] = set()
        before: Row | None = None
        for row in rows:
            if before is not None and before.revision == row.revision:
                if before.state != row.state:
                    total.problems.add(self.named(Trouble.STATE_FORK, key, row.revision, detail="accepted with two states"))
                continue
            follows = row.previous == (before.revision if before is not None else 0)
            if not follows and (before is not None or self._history_whole):
                total.problems.add(self.named(Trouble.BROKEN_CHAIN, key, row.revision))
            if row.event in events:
                total.problems.add(self.named(Trouble.DOUBLE, key, row.revision, detail="its event was accepted before"))
            events.add(row.event)
            before = row

    def _deliver(self, total: _Sum, key: bytes, entity: EntityBooks, rows: list[Row], index: int) -> None:
        account = total.accounts[index]
        name = account.destination
        course = (EachCourse if name in self._told_of_each else Course)(entity.ends(index))
        account.repeats += course.confirmations.repeats
        for trouble, revision in course.troubles:
            total.problems.add(self.named(trouble, key, revision, name))
        self._check_known(total, key, entity, {row.revision for row in rows}, course, name)
        newest: Fate | None = None
        last = -1
        for row in rows:
            if row.revision == last:
                continue
            last = row.revision
            fate, end = course.fate(row.revision)
            if not row.expected >> index & 1:
                total.unexpected += fate is not Fate.OPEN and end is not None and end.revision == row.revision
                continue
            newest = fate
            account.book(row, fate, end)
            if fate is Fate.UNACCOUNTED:
                total.problems.add(self.named(Trouble.UNACCOUNTED, key, row.revision, name))
            elif fate is Fate.OPEN:
                account.keep_open(self._open_item(key, entity, row))
            elif fate is Fate.CONFIRMED and end is not None and differ(end.state, row.state):
                total.problems.add(
                    self.named(Trouble.STATE_FORK, key, row.revision, name, "confirmed with another state than accepted")
                )
        if newest is not None:
            confirmed = course.confirmations.newest
            account.entity(newest, confirmed.at if confirmed is not None else None)

    def _check_known(
        self, total: _Sum, key: bytes, entity: EntityBooks, known: set[int], course: Course, destination: str
    ) -> None:
        if not self._history_whole:
            return
        part = self._partitions.get((landing_topic(entity.entity_type), entity.partition))
        for revision in sorted(course.revisions - known):
            if part is None or epoch_and_offset(Revision(revision)) < (part.cut.epoch, part.cut.end):
                total.problems.add(self.named(Trouble.UNKNOWN_REVISION, key, revision, destination))

    def _open_item(self, key: bytes, entity: EntityBooks, row: Row) -> OpenItem:
        epoch, offset = epoch_and_offset(Revision(row.revision))
        topic, lane = landing_topic(entity.entity_type), LANES[row.lane]
        return OpenItem(topic, entity.partition, epoch, offset, lane, Millis(row.received_at), self._subject(key))
