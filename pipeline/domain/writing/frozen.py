"""Entities that a mode keeps waiting: they stay pending and known, and are not taken until they thaw."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Lane
from pipeline.domain.writing.ages import Ages, first_of


class Waiting(Protocol):
    """An entity that waits (`pipeline.domain.writing.scheduler.Entry`)."""

    @property
    def key(self) -> bytes: ...
    @property
    def lane(self) -> Lane: ...
    @property
    def since(self) -> Millis: ...


Freezes = Callable[[bytes, Lane, EntityType], bool]
"""Whether a mode freezes an entity of this key, by the lane that it waits in and its type."""

_TYPES: Final = {entity_type.value.encode(): entity_type for entity_type in EntityType}
_SECOND: Final = re.compile(rb"(?:[^|\\]|\\.)*\|([a-z]+)\|", re.DOTALL)


def type_of(key: bytes) -> EntityType | None:
    """Entity type that a key names, `tenant|type|namespace|id`; None where it names none."""
    found = _SECOND.match(key)
    return _TYPES.get(found[1]) if found else None


class Frozen:
    """Those of one scheduler. A critical one is never among them, whatever the rule says."""

    def __init__(self) -> None:
        self._rule: Freezes | None = None
        self._frozen: dict[bytes, tuple[Lane, EntityType, Millis]] = {}
        self._thawed: set[bytes] = set()
        self._counts: Counter[tuple[Lane, EntityType]] = Counter()
        self.ages = Ages(self._is_frozen_since)

    def __len__(self) -> int:
        return len(self._frozen)

    def __contains__(self, key: bytes) -> bool:
        return key in self._frozen

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._frozen)

    def counts(self) -> dict[tuple[Lane, EntityType], int]:
        """How many are frozen, by lane and entity type."""
        return {what: count for what, count in self._counts.items() if count}

    def judge_by(self, rule: Freezes | None) -> None:
        """Another rule, None for freezing nothing; it holds for an entity from the next `look` at it."""
        self._rule = rule
        self._thawed.clear()

    def look(self, entry: Waiting) -> bool:
        """Whether it is frozen as it is now, by the rule in force."""
        before = self._drop(entry.key)
        entity_type = type_of(entry.key)
        if self._rule is None or entity_type is None or entry.lane is Lane.CRITICAL or entry.key in self._thawed:
            return False
        if not self._rule(entry.key, entry.lane, entity_type):
            return False
        self._frozen[entry.key] = (entry.lane, entity_type, entry.since)
        self._counts[entry.lane, entity_type] += 1
        if before != entry.since:
            self.ages.add(entry.since, entry.key, len(self._frozen))
        return True

    def oldest(self, count: int) -> list[bytes]:
        """The `count` that have waited longest."""
        return first_of(self.ages, count)

    def let_go(self, keys: Iterable[bytes]) -> None:
        """Not frozen any more by the rule in force, until they are forgotten or the rule changes."""
        self._thawed.update(keys)

    def forget(self, key: bytes) -> None:
        """It waits no more."""
        self._drop(key)
        self._thawed.discard(key)

    def _drop(self, key: bytes) -> Millis | None:
        """Since when it waits, if it was frozen."""
        known = self._frozen.pop(key, None)
        if known is None:
            return None
        self._counts[known[0], known[1]] -= 1
        return known[2]

    def _is_frozen_since(self, since: Millis, key: bytes) -> bool:
        known = self._frozen.get(key)
        return known is not None and known[2] == since
