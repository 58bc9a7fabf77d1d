"""Replay: which entities are sent again, and what is left out of it and why. Pure; nothing here carries a value.

A replay orders each entity once, at the head that was seen: a head that moved meanwhile needs it no more. So it can be
broken off and begun again.
"""

import enum
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import NO_REVISION, EntityKey, Millis, Revision, derive_event_id
from pipeline.domain.records import Accepted, Control, ControlKind, Outcome, OutcomeKind, Reason

DEFAULT_LIMIT: Final = 10_000
MAX_LIMIT: Final = 1_000_000
"""Most records that one replay sends; each is held in memory, with its bytes where it was quarantined."""

DEFAULT_RATE_PER_S: Final = 50.0
MAX_RATE_PER_S: Final = 2_000.0
NEVER: Final = Millis(0)
MAX_AGO_MS: Final = 90 * 86_400_000
"""How long the history is kept: a time rule reaches no further back."""

_AGO: Final = re.compile(r"(\d{1,6})(ms|s|m|h|d)", re.ASCII)
_UNIT_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class What(enum.StrEnum):
    """What is replayed."""

    PARKED = "parked"
    QUARANTINED = "quarantined"
    RANGE = "range"


class LeftOut(enum.StrEnum):
    """Why something that was meant needs no replay, or does not get one this time."""

    WAITS = "a newer change of it waits and is written by itself"
    DESTINATION_GONE = "the settings name this destination no more"
    SENT_SINCE = "it was sent again since"
    JUDGED_SINCE = "its event has been judged since"
    AT_GATE = "it was put back already and waits for the gate"
    SAME_RECORD = "the same record is in quarantine more than once"
    BEYOND_LIMIT = "beyond --limit: left for another run"


def millis_ago(text: str) -> int | None:
    """Milliseconds of a time rule: 90s, 30m, 2h, 7d; None where it is none, is zero or reaches beyond the history."""
    match = _AGO.fullmatch(text)
    length_ms = int(match[1]) * _UNIT_MS[match[2]] if match else 0
    return length_ms if 0 < length_ms <= MAX_AGO_MS else None


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time: from `since` to before `until`; None for no bound."""

    since: Millis | None = None
    until: Millis | None = None

    def holds(self, at: Millis) -> bool:
        """Whether a time lies in it."""
        return (self.since is None or at >= self.since) and (self.until is None or at < self.until)


@dataclass(frozen=True, slots=True)
class Selection:
    """What an operator means; None does not narrow. `subject` is the digest of an entity that logs, audit and status show."""

    window: Window = Window()
    entity_type: EntityType | None = None
    subject: str | None = None
    source_system: str | None = None
    feed: str | None = None
    cause: Reason | None = None
    destination: str | None = None
    limit: int = DEFAULT_LIMIT
    tenant: str | None = None

    def means_source(self, source_system: str, feed: str) -> bool:
        """Whether what came by this source and feed is meant."""
        return self.source_system in (None, source_system) and self.feed in (None, feed)

    def means_entity(self, key: bytes, subject_of: Callable[[bytes], str]) -> bool:
        """Whether the entity of a key is meant, by type, organisation and digest."""
        entity = EntityKey.decode(key)
        return (
            self.means_type(entity.entity_type)
            and self.tenant in (None, entity.tenant)
            and (self.subject is None or self.subject == subject_of(key))
        )

    def means_type(self, entity_type: str) -> bool:
        """Whether entities of this type are meant."""
        return self.entity_type is None or self.entity_type.value == entity_type


@dataclass(frozen=True, slots=True, order=True)
class Group:
    """A line of the plan: the destination, topic or source; the entity type; the reason. No value of any entity."""

    place: str
    entity_type: str
    cause: str


@dataclass(frozen=True, slots=True, order=True)
class Refusal:
    """What can't be replayed: where it lies, why, and what to do instead."""

    place: str
    cause: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Entity:
    """An entity to be sent again: its key and the newest revision that is known of it."""

    key: bytes
    seen: Revision

    def __repr__(self) -> str:
        return f"Entity(<redacted>, seen={self.seen})"


@dataclass(slots=True)
class Tally:
    """Counts of a plan, by what an operator may see. An entity that is parked at two destinations is in two groups."""

    groups: Counter[Group] = field(default_factory=Counter)
    left_out: Counter[LeftOut] = field(default_factory=Counter)
    refused: Counter[Refusal] = field(default_factory=Counter)


def reassertion(entity: Entity, actor: str, reason: str, at: Millis) -> Control:
    """The order to send an entity's current state again, unless its head has moved. The same order has the same id."""
    key = EntityKey.decode(entity.key)
    return Control(
        kind=ControlKind.REASSERT,
        event_id=derive_event_id(key.tenant, "surgeline-replay", (str(entity.seen), str(at)), key, 0),
        actor=actor,
        reason=reason,
        at=at,
        seen_revision=entity.seen,
    )


# -- parked


@dataclass(slots=True)
class _Standing:
    """How far one entity has come at one destination: what was confirmed, and the last word on what is newer."""

    confirmed: Revision = NO_REVISION
    ended: Revision = NO_REVISION
    kind: OutcomeKind = OutcomeKind.FAILED
    reason: Reason = Reason.NONE
    at: Millis = NEVER

    @property
    def is_parked(self) -> bool:
        return self.kind is OutcomeKind.PARKED and self.ended > self.confirmed

    def add(self, outcome: Outcome) -> None:
        if outcome.kind is OutcomeKind.CONFIRMED:
            self.confirmed = max(self.confirmed, outcome.revision)
        elif outcome.kind is not OutcomeKind.FAILED and outcome.revision >= self.ended:
            self.ended, self.kind = outcome.revision, outcome.kind
            self.reason, self.at = outcome.reason, outcome.at


@dataclass(slots=True)
class _History:
    """Newest revision of an entity, and by whom what is not confirmed everywhere was said."""

    newest: Revision = NO_REVISION
    said: dict[Revision, tuple[str, str]] = field(default_factory=dict)


class ParkedEntities:
    """Finds what is parked: give it all outcomes, each entity's in their order, then the history of those it `wants`."""

    def __init__(self) -> None:
        self._standings: dict[bytes, dict[str, _Standing]] = {}
        self._histories: dict[bytes, _History] = {}

    def add_outcome(self, outcome: Outcome) -> None:
        """One outcome; those of one entity in the order of their topic."""
        standings = self._standings.setdefault(outcome.key.encode(), {})
        standings.setdefault(outcome.destination, _Standing()).add(outcome)

    def wants(self, key: bytes) -> bool:
        """Whether the history of this entity matters: it is parked somewhere, as far as the outcomes tell."""
        return any(standing.is_parked for standing in self._standings.get(key, {}).values())

    def add_accepted(self, accepted: Accepted) -> None:
        """One accepted revision, in any order."""
        key = accepted.key.encode()
        if not self.wants(key):
            return
        history = self._histories.setdefault(key, _History())
        history.newest = max(history.newest, accepted.revision)
        if accepted.revision > min(s.confirmed for s in self._standings[key].values() if s.is_parked):
            history.said[accepted.revision] = accepted.source_system, accepted.feed

    def choose(
        self, selection: Selection, configured: Collection[str], subject_of: Callable[[bytes], str]
    ) -> tuple[list[Entity], Tally]:
        """Each parked entity that is meant, once, and the counts; the longest parked first."""
        tally = Tally()
        chosen: list[Entity] = []
        for key in sorted(filter(self.wants, self._standings), key=lambda key: (self._parked_at(key), key)):
            if not selection.means_entity(key, subject_of):
                continue
            groups = self._groups(key, selection, configured, tally)
            if not groups:
                continue
            if len(chosen) >= selection.limit:
                tally.left_out[LeftOut.BEYOND_LIMIT] += 1
                continue
            tally.groups.update(groups)
            chosen.append(Entity(key, self._newest(key)))
        return chosen, tally

    def _groups(self, key: bytes, selection: Selection, configured: Collection[str], tally: Tally) -> list[Group]:
        """Where the entity is parked as it is meant; what is not the newest any more is counted as left out."""
        groups = []
        for destination, standing in sorted(self._standings[key].items()):
            meant = (
                standing.is_parked
                and selection.destination in (None, destination)
                and selection.cause in (None, standing.reason)
                and selection.window.holds(standing.at)
                and self._came_by(key, standing, selection)
            )
            if not meant:
                continue
            if destination not in configured:
                tally.left_out[LeftOut.DESTINATION_GONE] += 1
            elif self._newest(key) > standing.ended:
                tally.left_out[LeftOut.WAITS] += 1
            else:
                groups.append(Group(destination, EntityKey.decode(key).entity_type, standing.reason.value))
        return groups

    def _came_by(self, key: bytes, standing: _Standing, selection: Selection) -> bool:
        """Whether any change that the destination does not show was said by the source that is meant.

        A reassertion is nobody's word: an entity that was parked again after one is still its source's.
        """
        if selection.source_system is None and selection.feed is None:
            return True
        said = self._histories.get(key, _History()).said
        return any(revision > standing.confirmed and selection.means_source(*by) for revision, by in said.items())

    def _newest(self, key: bytes) -> Revision:
        """The newest revision; where the history does not go back so far, the newest that was parked."""
        ended = max(s.ended for s in self._standings[key].values() if s.is_parked)
        return max(ended, self._histories.get(key, _History()).newest)

    def _parked_at(self, key: bytes) -> Millis:
        return min(s.at for s in self._standings[key].values() if s.is_parked)


# -- a range of the history


@dataclass(slots=True)
class _Touched:
    newest: Revision = NO_REVISION
    newest_at: Millis = NEVER
    groups: set[Group] = field(default_factory=set)


class ChangedEntities:
    """Finds what changed in a window: give it the history from the window's start to its end of today, and the outcomes.

    With a destination or a cause, what a destination was told in the window counts as well: a system that was restored
    from a backup lacks what it confirmed after the backup, whenever that was accepted.
    """

    def __init__(self, selection: Selection, begun: Millis | None = None) -> None:
        """`begun`: when a replay of the same window began that was broken off; what was accepted since is not sent again."""
        self._selection = selection
        self._begun = begun
        self._touched: dict[bytes, _Touched] = {}
        self._told: dict[bytes, set[Group]] = {}
        self._sources: set[bytes] = set()

    @property
    def by_outcome(self) -> bool:
        """Whether outcomes say what is meant, beside the history."""
        return self._selection.destination is not None or self._selection.cause is not None

    def add_outcome(self, outcome: Outcome) -> None:
        """One outcome, in any order."""
        wanted = self._selection
        if (
            self.by_outcome
            and (outcome.kind is OutcomeKind.CONFIRMED or wanted.cause is not None)
            and wanted.destination in (None, outcome.destination)
            and wanted.cause in (None, outcome.reason)
            and wanted.means_type(outcome.entity_type.value)
            and wanted.window.holds(outcome.at)
        ):
            cause = outcome.reason.value if wanted.cause is not None else outcome.kind.value
            group = Group(outcome.destination, outcome.entity_type.value, cause)
            key = outcome.key.encode()
            self._told.setdefault(key, set()).add(group)
            # Where the history does not go back so far, the outcome is all that names the entity and a revision of it.
            touched = self._touched.setdefault(key, _Touched())
            touched.newest = max(touched.newest, outcome.revision)

    def add_accepted(self, accepted: Accepted) -> None:
        """One accepted revision, in any order."""
        selection = self._selection
        if not selection.means_type(accepted.entity_type.value):
            return
        key = accepted.key.encode()
        touched = self._touched.setdefault(key, _Touched())
        if accepted.revision >= touched.newest:
            touched.newest, touched.newest_at = accepted.revision, accepted.accepted_at
        meant = selection.means_source(accepted.source_system, accepted.feed)
        if meant:
            self._sources.add(key)
        if meant and selection.cause is None and selection.window.holds(accepted.accepted_at):
            touched.groups.add(Group(accepted.source_system, accepted.entity_type.value, "ACCEPTED"))

    def choose(self, expected: Collection[EntityType], subject_of: Callable[[bytes], str]) -> tuple[list[Entity], Tally]:
        """Each entity that is meant, once, at its newest revision, and the counts. `expected`: types that are sent anywhere."""
        tally = Tally()
        chosen: list[Entity] = []
        types = {entity_type.value for entity_type in expected}
        for key in sorted(self._touched, key=lambda key: (self._touched[key].newest, key)):
            groups = self._groups(key)
            if not groups or EntityKey.decode(key).entity_type not in types:
                continue
            if not self._selection.means_entity(key, subject_of):
                continue
            if self._begun is not None and self._touched[key].newest_at >= self._begun:
                tally.left_out[LeftOut.SENT_SINCE] += 1
            elif len(chosen) >= self._selection.limit:
                tally.left_out[LeftOut.BEYOND_LIMIT] += 1
            else:
                tally.groups.update(groups)
                chosen.append(Entity(key, self._touched[key].newest))
        return chosen, tally

    def _groups(self, key: bytes) -> Iterable[Group]:
        narrowed = self._selection.source_system is not None or self._selection.feed is not None
        told = self._told.get(key, set()) if key in self._sources or not narrowed else set()
        return told | self._touched[key].groups
