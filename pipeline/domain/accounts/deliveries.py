"""One half of the books: what became of each accepted revision of an entity at each destination."""

import enum
import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Millis, Revision
from pipeline.domain.lag import Histogram
from pipeline.domain.records import LANES, RANK, Accepted, Lane, Outcome, OutcomeKind, Reason

REASONS: Final = tuple(Reason)
_REASON_INDEX: Final = {reason: index for index, reason in enumerate(REASONS)}


class Trouble(enum.StrEnum):
    """What the books name one by one."""

    MISSING = "MISSING"
    """A landing position below the gate's committed offset has no verdict: lost."""
    LOG_TRIMMED = "LOG_TRIMMED"
    """The landing log starts beyond the gate's committed offset: proven loss."""
    HISTORY_TRIMMED = "HISTORY_TRIMMED"
    """A note, no fault: a log that the books are computed from no longer reaches back to its beginning."""
    VERDICT_FORK = "VERDICT_FORK"
    """A landing position was judged twice, differently."""
    STATE_FORK = "STATE_FORK"
    """One revision with two states: accepted as one, confirmed as another."""
    DOUBLE = "DOUBLE"
    """One event took effect at two positions, or a destination's history shows one revision twice."""
    BROKEN_CHAIN = "BROKEN_CHAIN"
    """An accepted record does not follow the accepted one before it."""
    REGRESSION = "REGRESSION"
    """A destination was taken back to an older revision."""
    UNKNOWN_REVISION = "UNKNOWN_REVISION"
    """An outcome tells of a revision that nobody accepted."""
    UNACCOUNTED = "UNACCOUNTED"
    """Older than what the destination shows, and nothing says what became of it."""
    FOREIGN = "FOREIGN"
    """A record tells of a topic, partition, epoch or destination that these books don't cover."""
    DIFFERENT = "DIFFERENT"
    """The destination shows something else than was last confirmed."""
    UNREADABLE = "UNREADABLE"
    """A record does not decode."""


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is wrong, with the position that names it; never an entity's own id."""

    trouble: Trouble
    topic: str = ""
    partition: int = -1
    epoch: int = 0
    offset: int = -1
    destination: str = ""
    subject: str = ""
    detail: str = ""


class OpenItem(msgspec.Struct, frozen=True):
    """An accepted revision that has no end at its destination yet."""

    topic: str
    partition: int
    epoch: int
    offset: int
    lane: Lane
    since: Millis
    subject: str


class LaneLag(msgspec.Struct, frozen=True):
    """Lag of one lane at one destination, ms: from receipt (the target) and from recording (reported beside it)."""

    lane: Lane
    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    recorded_p50_ms: float
    recorded_p99_ms: float
    recorded_max_ms: float


class DestinationBooks(msgspec.Struct, frozen=True):
    """Each revision that a destination expects, under exactly one of five heads; `expected` is their sum."""

    destination: str
    expected: int
    confirmed: int
    superseded: int
    shadowed: int
    parked: int
    open: int
    unaccounted: int
    parked_by_reason: dict[str, int]
    entities: int
    current: int
    repeats: int
    failed_attempts: int
    last_confirmed_at: Millis | None
    oldest_open_since: Millis | None
    lags: tuple[LaneLag, ...]
    open_items: tuple[OpenItem, ...]

    @property
    def adds_up(self) -> bool:
        """Whether nothing is left over."""
        heads = self.confirmed + self.superseded + self.shadowed + self.parked + self.open
        return self.unaccounted == 0 and heads == self.expected


class Row(NamedTuple):
    """One accepted revision, as small as it goes."""

    revision: int
    previous: int
    received_at: int
    recorded_at: int
    lane: int
    expected: int
    event: int
    state: int


class End(NamedTuple):
    """One outcome that ends something."""

    kind: int
    revision: int
    after: int
    at: int
    state: int
    reason: int


_ROW: Final = len(Row._fields)
_END: Final = len(End._fields)
_KINDS: Final = {OutcomeKind.CONFIRMED: 0, OutcomeKind.SHADOWED: 1, OutcomeKind.PARKED: 2}
_CONFIRMED, _SHADOWED, _PARKED = 0, 1, 2


NOT_KNOWN: Final = 0


def fold(text: str) -> int:
    """64 bits of a digest of `text`, signed; equal texts have equal numbers on every machine. NOT_KNOWN for an empty one."""
    if not text:
        return NOT_KNOWN
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def differ(one: int, other: int) -> bool:
    """Whether two folded state hashes contradict each other: one that isn't known contradicts none."""
    return one != other and NOT_KNOWN not in (one, other)


class EntityBooks:
    """What the topics say of one entity: 64 bytes a revision, 48 an outcome."""

    __slots__ = ("_ends", "_rows", "entity_type", "partition")

    def __init__(self, entity_type: EntityType, partition: int) -> None:
        self.entity_type = entity_type
        self.partition = partition
        self._rows = array("q")
        self._ends: dict[int, array[int]] = {}

    def accept(self, record: Accepted, expected: int) -> None:
        """Add an accepted revision; `expected` is a bit per destination."""
        row = (record.revision, record.previous_revision, record.received_at, record.recorded_at)
        self._rows.extend((*row, RANK[record.lane], expected, fold(record.event_id), fold(record.state_hash)))

    def end(self, destination: int, record: Outcome) -> None:
        """Add an outcome, in the order of its topic."""
        ends = self._ends.setdefault(destination, array("q"))
        kind, reason = _KINDS[record.kind], _REASON_INDEX[record.reason]
        ends.extend((kind, record.revision, record.after, record.at, fold(record.state_hash), reason))

    def rows(self) -> list[Row]:
        """Revisions, rising, each once; two states of one revision both stay."""
        flat = self._rows
        return sorted({Row(*flat[start : start + _ROW]) for start in range(0, len(flat), _ROW)})

    def ends(self, destination: int) -> Iterator[End]:
        """Outcomes at one destination, in the order of their topic."""
        flat = self._ends.get(destination, ())
        return (End(*flat[start : start + _END]) for start in range(0, len(flat), _END))


def _closing(rising_revisions: list[int], ends: Mapping[int, End], revision: int) -> End | None:
    newer = (ends[place] for place in rising_revisions[bisect_right(rising_revisions, revision) :])
    return next((end for end in newer if end.after < revision), None)


class Confirmations:
    """The confirmed revisions of one entity at one destination: rising, with the ranges that they close."""

    def __init__(self) -> None:
        self.revisions: list[int] = []
        self._by_revision: dict[int, End] = {}
        self.repeats = 0

    def add(self, end: End) -> Trouble | None:
        """Add the next one of the topic; what is wrong with it, if anything.

        The same revision and state again is a repeat. So is an earlier confirmation that is published again: it was
        made before the last one. One made later, of an older revision, took the destination back.
        """
        known = self._by_revision.get(end.revision)
        last = self._by_revision[self.revisions[-1]] if self.revisions else None
        if known is not None:
            if differ(known.state, end.state):
                return Trouble.STATE_FORK
            if last is not None and last.revision > end.revision and end.at > last.at:
                return Trouble.REGRESSION
            self.repeats += 1
            self._by_revision[end.revision] = known._replace(after=min(known.after, end.after), state=known.state or end.state)
            return None
        self._by_revision[end.revision] = end
        if last is None or last.revision < end.revision:
            self.revisions.append(end.revision)
            return None
        self.revisions.insert(bisect_right(self.revisions, end.revision), end.revision)
        return Trouble.REGRESSION

    def at(self, revision: int) -> End | None:
        """Confirmation of exactly this revision."""
        return self._by_revision.get(revision)

    def closing(self, revision: int) -> End | None:
        """First confirmation whose range holds `revision`: it supersedes it."""
        return _closing(self.revisions, self._by_revision, revision)

    @property
    def newest(self) -> End | None:
        """What the destination shows, as far as the outcomes know."""
        return self._by_revision[self.revisions[-1]] if self.revisions else None


class Fate(enum.Enum):
    """The head that a revision is booked under."""

    CONFIRMED = 0
    SUPERSEDED = 1
    SHADOWED = 2
    PARKED = 3
    OPEN = 4
    UNACCOUNTED = 5


class Course:
    """All outcomes of one entity at one destination, ready to be asked for the fate of a revision."""

    def __init__(self, ends: Iterable[End]) -> None:
        self.confirmations = Confirmations()
        self.troubles: list[tuple[Trouble, int]] = []
        self._shadowed: dict[int, End] = {}
        self._parked: dict[int, End] = {}
        for end in ends:
            if end.kind != _CONFIRMED:
                mine, other = (self._shadowed, self._parked) if end.kind == _SHADOWED else (self._parked, self._shadowed)
                mine[end.revision] = end
                other.pop(end.revision, None)  # a flag was flipped in between: the later word counts
            elif (trouble := self.confirmations.add(end)) is not None:
                self.troubles.append((trouble, end.revision))
        self._shadows = sorted(self._shadowed)
        self._parkings = sorted(self._parked)

    @property
    def revisions(self) -> set[int]:
        """Every revision that an outcome tells of."""
        return self._shadowed.keys() | self._parked.keys() | set(self.confirmations.revisions)

    def fate(self, revision: int) -> tuple[Fate, End | None]:
        """Where `revision` is booked, and the outcome that says so.

        A comparison closes its range as a confirmation does: what it passed over is shadowed with it. A revision whose
        successor was parked is parked with it: pending keeps the newest only, and its state holds the older ones'.
        """
        if (end := self.confirmations.at(revision)) is not None:
            return Fate.CONFIRMED, end
        if (end := self._shadowed.get(revision)) is not None:
            return Fate.SHADOWED, end
        shadow = _closing(self._shadows, self._shadowed, revision)
        end = self.confirmations.closing(revision)
        if shadow is not None and (end is None or shadow.revision < end.revision):
            return Fate.SHADOWED, shadow
        if end is not None:
            return Fate.SUPERSEDED, end
        newest = self.confirmations.newest
        if revision < max(newest.revision if newest else 0, self._shadows[-1] if self._shadows else 0):
            return Fate.UNACCOUNTED, None
        place = bisect_right(self._parkings, revision - 1)
        if place == len(self._parkings):
            return Fate.OPEN, None
        return Fate.PARKED, self._parked[self._parkings[place]]


class Account:
    """Adds up the fates of all revisions at one destination."""

    def __init__(self, destination: str, item_limit: int) -> None:
        self.destination = destination
        self._item_limit = item_limit
        self._fates = dict.fromkeys(Fate, 0)
        self._parked: dict[str, int] = {}
        self._entities = self._current = self.repeats = self.failed_attempts = 0
        self._last_confirmed_at: int | None = None
        self._lags = [(Histogram(), Histogram()) for _ in LANES]
        self._open: list[OpenItem] = []

    def book(self, row: Row, fate: Fate, end: End | None) -> None:
        """Book one expected revision."""
        self._fates[fate] += 1
        if end is None:
            return
        if fate is Fate.PARKED:
            reason = REASONS[end.reason].value
            self._parked[reason] = self._parked.get(reason, 0) + 1
        elif fate in (Fate.CONFIRMED, Fate.SUPERSEDED):
            received, recorded = self._lags[row.lane]
            received.add(end.at - row.received_at)
            recorded.add(end.at - row.recorded_at)

    def keep_open(self, item: OpenItem) -> None:
        """Remember what waits: of all such, those that wait longest."""
        self._open.append(item)
        if len(self._open) > 2 * self._item_limit:
            self._trim()

    def entity(self, newest: Fate, confirmed_at: int | None) -> None:
        """Count an entity; it is current if its newest revision is confirmed, or a newer one is."""
        self._entities += 1
        self._current += newest in (Fate.CONFIRMED, Fate.SUPERSEDED)
        if confirmed_at is not None:
            self._last_confirmed_at = max(confirmed_at, self._last_confirmed_at or confirmed_at)

    def _trim(self) -> None:
        self._open.sort(key=lambda item: (item.since, item.topic, item.partition, item.offset))
        del self._open[self._item_limit :]

    def close(self) -> DestinationBooks:
        """The destination's books."""
        self._trim()
        fates = self._fates
        return DestinationBooks(
            destination=self.destination,
            expected=sum(fates.values()),
            confirmed=fates[Fate.CONFIRMED],
            superseded=fates[Fate.SUPERSEDED],
            shadowed=fates[Fate.SHADOWED],
            parked=fates[Fate.PARKED],
            open=fates[Fate.OPEN],
            unaccounted=fates[Fate.UNACCOUNTED],
            parked_by_reason=dict(sorted(self._parked.items())),
            entities=self._entities,
            current=self._current,
            repeats=self.repeats,
            failed_attempts=self.failed_attempts,
            last_confirmed_at=None if self._last_confirmed_at is None else Millis(self._last_confirmed_at),
            oldest_open_since=self._open[0].since if self._open else None,
            lags=tuple(self._lane_lag(lane) for lane in LANES if self._lags[RANK[lane]][0].count),
            open_items=tuple(self._open),
        )

    def _lane_lag(self, lane: Lane) -> LaneLag:
        received, recorded = self._lags[RANK[lane]]
        return LaneLag(
            lane=lane,
            count=received.count,
            p50_ms=received.p50_ms,
            p99_ms=received.p99_ms,
            max_ms=float(received.max_ms),
            recorded_p50_ms=recorded.p50_ms,
            recorded_p99_ms=recorded.p99_ms,
            recorded_max_ms=float(recorded.max_ms),
        )


def rising(revisions: Iterable[int]) -> list[tuple[Trouble, Revision]]:
    """What a destination's own history of one entity, oldest first, shows twice (DOUBLE) or out of order (REGRESSION).

    Revisions of 0 (the destination carries none) are passed over.
    """
    seen: set[int] = set()
    newest, wrong = 0, []
    for revision in revisions:
        if revision and revision in seen:
            wrong.append((Trouble.DOUBLE, Revision(revision)))
        elif revision and revision < newest:
            wrong.append((Trouble.REGRESSION, Revision(revision)))
        seen.add(revision)
        newest = max(newest, revision)
    return wrong
