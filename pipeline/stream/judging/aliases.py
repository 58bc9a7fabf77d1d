"""What a partition knows of merged identities: whom a reference means at a position, and whose references must be looked at.

Kept as policies are: per landing topic, each with the position from which it holds, so that a redelivered record is
judged as it was the first time.
"""

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Final

import msgspec

from pipeline.domain.event import EntityType, Reference
from pipeline.domain.head import decode_head
from pipeline.domain.identifiers import EntityKey, Revision, revision_of
from pipeline.domain.judging.merges import ALIAS_KEY, key_of
from pipeline.domain.judging.referring import ALIAS_HOPS, Resolve, as_it_stands, references_of
from pipeline.domain.judging.verdicts import Position
from pipeline.domain.records import Control
from pipeline.stream.worker.batch import PartitionBatch

ALIAS_MARK: Final = b"\xf2"
"""First byte of an alias's value, apart from heads, policies and positions."""

ANY_KEY: Final = b"\x00aliased|"
"""Beginning of the key that says that a topic's partition knows of any alias; without one nothing needs to be looked up."""

EVER: Final = 1 << 62
"""After every position."""

ALIAS_HISTORY: Final = 4
"""Meanings that a partition remembers of one identity."""


class Meant(msgspec.Struct, frozen=True, array_like=True):
    """Whom an identity means from a position on; None for itself again. `revision` is its own: the higher one counts."""

    since: int
    revision: Revision
    survivor: Reference | None


_HISTORY: Final = msgspec.msgpack.Decoder(tuple[Meant, ...])


def last_alias(data: bytes) -> tuple[int, int]:
    """How late an alias's value is: of two changelog records of one key the greater one is kept."""
    history = _HISTORY.decode(memoryview(data)[1:])
    return max((each.since for each in history), default=0), len(history)


def alias_of(key: bytes | None) -> EntityKey | None:
    """The identity that an alias's record is about; ValueError where its key is broken, None where it is no alias."""
    return EntityKey.decode(key[len(ALIAS_KEY) :]) if key is not None and key.startswith(ALIAS_KEY) else None


class Aliases:
    """Those of one partition, for one batch."""

    def __init__(self, batch: PartitionBatch) -> None:
        self._batch = batch
        self._known: dict[bytes, tuple[Meant, ...]] = {}
        self._any: dict[str, bool] = {}
        self._noted: defaultdict[tuple[str, str], dict[tuple[EntityType, Reference], Control]] = defaultdict(dict)
        self._anew: dict[tuple[str, str], Control] = {}

    def put(self, at: Position, topic: str, entity: EntityKey, order: Control) -> None:
        """An alias holds from this position on; told again, or after a later one, it changes nothing."""
        key, since = _place(topic, entity.encode()), revision_of(at.epoch, at.offset)
        known = self._of(key)
        link = order.trail[0]
        if known:
            self._anew[topic, entity.tenant] = order  # who came to it by way of a circle means somebody else by now
        else:
            retired = EntityType(entity.entity_type), Reference(entity.namespace, entity.id)
            self._noted[topic, entity.tenant][retired] = order
        if any(each.since == since for each in known):
            return
        new = Meant(since, order.loser_revision, None if order.undone else link.survivor)
        history = tuple(sorted((*known, new), key=lambda each: each.since))[-ALIAS_HISTORY:]
        self._known[key] = history
        self._any[topic] = True
        self._batch.puts[key] = ALIAS_MARK + msgspec.msgpack.encode(history)
        self._batch.puts[ANY_KEY + topic.encode()] = ALIAS_MARK + msgspec.msgpack.encode(())

    def resolver(self, at: Position, topic: str, tenant: str) -> Resolve:
        """Whom references mean at a position."""
        if not self.has_any(topic):
            return as_it_stands
        return partial(self._meant, topic, tenant, revision_of(at.epoch, at.offset))

    def _meant(self, topic: str, tenant: str, position: int, entity_type: EntityType, reference: Reference) -> Reference:
        """From survivor to survivor; of a circle, which is about to be taken back, everyone means itself."""
        meant, passed = reference, {reference}
        for _ in range(ALIAS_HOPS):
            history = self._of(_place(topic, key_of(tenant, entity_type, meant)))
            in_force = [each for each in history if each.since < position]
            found = max(in_force, key=lambda each: each.revision).survivor if in_force else None
            if found is None:
                return meant
            if found in passed:
                return reference
            meant = found
            passed.add(found)
        return reference

    def referrers(self, landing: dict[str, EntityType]) -> Iterator[tuple[str, bytes, Control]]:
        """Topic and key of each entity whose head names an identity that an alias of this batch retires, with that alias.

        One look at all heads of a type, however many aliases the batch has. What the batch itself has changed counts.
        """
        for topic, tenant in {**self._noted, **self._anew}:
            entity_type, retired, anew = landing[topic], self._noted.get((topic, tenant), {}), self._anew.get((topic, tenant))
            ids = [reference.id.encode() for _, reference in retired]
            for key, value in self._heads(tenant, entity_type):
                if anew is None and not any(part in value for part in ids):
                    continue
                named = references_of(decode_head(value).state, entity_type).values()
                order = next((retired[each] for each in named if each in retired), None)
                if order is None and any(self._meant(topic, tenant, EVER, *each) != each[1] for each in named):
                    order = anew
                if order is not None:
                    yield topic, key, order

    def _heads(self, tenant: str, entity_type: EntityType) -> Iterator[tuple[bytes, bytes]]:
        prefix = EntityKey(tenant, entity_type.value, "x", "x").encode()[: -len("x|x")]
        changed = {key: value for key, value in self._batch.puts.items() if key.startswith(prefix)}
        yield from changed.items()
        for key, value in self._batch.db.items(from_key=prefix):
            if not isinstance(key, bytes) or not key.startswith(prefix):
                return
            if key not in changed:
                yield key, value

    def has_any(self, topic: str) -> bool:
        """Whether a landing topic's partition knows of any alias; where it does not, all is meant as it stands."""
        if topic not in self._any:
            self._any[topic] = self._batch.db.get(ANY_KEY + topic.encode()) is not None
        return self._any[topic]

    def _of(self, key: bytes) -> tuple[Meant, ...]:
        if key not in self._known:
            data = self._batch.db.get(key)
            self._known[key] = _HISTORY.decode(memoryview(data)[1:]) if data is not None else ()
        return self._known[key]


def _place(topic: str, entity: bytes) -> bytes:
    return ALIAS_KEY + topic.encode() + b"|" + entity
