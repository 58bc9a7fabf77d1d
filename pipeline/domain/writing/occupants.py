"""Who lies in which bed at one destination, as far as it was told: a bed is vacated there before it is occupied.

A stay and the one before it in the same bed lie in different partitions, perhaps at different workers. So this is learnt
from the history that everybody can read: accepted stays say where somebody is by now, confirmed outcomes say what the
destination shows. What the history no longer reaches back to is in the heads, and in what the writers know of each. Pure;
records of different topics and partitions may come in any order, and each may come twice.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from pipeline.domain.event import Encounter, EncounterStatus, EntityType, PatientClass, Place, Reference
from pipeline.domain.head import Head
from pipeline.domain.identifiers import NO_REVISION, EntityKey, Revision
from pipeline.domain.records import Accepted, Outcome, OutcomeKind, Reason
from pipeline.domain.writing.pending import Pending
from pipeline.domain.writing.rollout import Facts, Stated, facts_of, status_of, where_of

REVISIONS_KEPT: Final = 32
"""Newest revisions of a stay whose bed is kept, for confirmations to come; of an older one the bed is unknown."""

NOWHERE_KEPT: Final = 20_000
"""Stays that lie nowhere and of which something may be missing still, the latest spoken of: some 10 MB."""

CHAIN: Final = 64
"""Beds, each wanted by somebody in one before it, among which a ring of moves is looked for."""

_GONE: Final = frozenset(
    {EncounterStatus.PLANNED, EncounterStatus.FINISHED, EncounterStatus.CANCELLED, EncounterStatus.ENTERED_IN_ERROR}
)

_NOT_DONE: Final = frozenset(
    {
        Reason.REFUSED_INVALID,
        Reason.REFUSED_FORBIDDEN,
        Reason.REFUSED_GONE,
        Reason.REFUSED_MISSING,
        Reason.REFUSED_OTHER,
        Reason.MULTIPLE_MATCHES,
        Reason.FORK,
    }
)
"""Of a stay that was given up for one of these, the destination has said that it did not take it. It was read before, so that
what is older had not come there either."""

_ABSENT: Final = frozenset({Reason.REFUSED_GONE, Reason.REFUSED_MISSING})
"""Of these it has said besides that it has no such stay any more: then it shows nothing of what was confirmed before."""

Bed = tuple[str, ...]
"""Tenant, facility, building, floor, point of care, room and bed."""


class Told(NamedTuple):
    """What a destination's writers know of a stay: the newest revision confirmed, only compared, refused, and refused because
    the destination has no such stay."""

    confirmed: Revision
    shadowed: Revision
    refused: Revision
    absent: Revision = NO_REVISION


def told_of(pending: Pending) -> Told:
    """Of the writers' own record of an entity."""
    refused = pending.parked if pending.parked_reason in _NOT_DONE else NO_REVISION
    absent = pending.parked if pending.parked_reason in _ABSENT else NO_REVISION
    return Told(pending.confirmed, pending.shadowed, refused, absent)


def bed_of(accepted: Accepted) -> Bed | None:
    """The bed that the stay occupies in this state; None where it occupies none, or isn't a stay."""
    return _bed_in(accepted.tenant, accepted)


def _bed_in(tenant: str, stated: Stated) -> Bed | None:
    stay = stated.state
    if not isinstance(stay, Encounter) or _is_gone(stay):
        return None
    return _bed(tenant, stated.facility, stay.location)


def _beds_before(tenant: str, head: Head) -> frozenset[Bed]:
    """The beds that the stay was in before it came to this state, by the state's own word: where it ended, and came from."""
    stay = head.state
    if not isinstance(stay, Encounter):
        return frozenset()
    places = (stay.location if _is_gone(stay) else None, stay.prior_location)
    return frozenset(bed for place in places if (bed := _bed(tenant, head.facility, place)) is not None)


def _is_gone(stay: Encounter) -> bool:
    """One that was merged into another has left its bed to that one."""
    merged = isinstance(stay.merged_into, Reference)
    return merged or stay.status in _GONE or stay.patient_class is PatientClass.PREADMIT


def _bed(tenant: str, facility: str, place: object) -> Bed | None:
    if not isinstance(place, Place) or not place.bed:
        return None
    outside = (place.building, place.floor, place.point_of_care, place.room, place.bed)
    return (tenant, place.facility or facility, *(name or "" for name in outside))


@dataclass(slots=True)
class _Stay:
    """`beds` by revision, newest last; `confirmed` is the newest revision that the destination showed, `shadowed` the newest
    that was only compared with it, `refused` the newest that it would not have, `absent` the newest at which it had no such stay;
    `facts` are the newest's. `before` is where it may have been when `confirmed` was, if no record of that is left."""

    beds: dict[Revision, Bed | None] = field(default_factory=dict)
    confirmed: Revision = NO_REVISION
    shadowed: Revision = NO_REVISION
    refused: Revision = NO_REVISION
    absent: Revision = NO_REVISION
    facts: Facts | None = None
    before: frozenset[Bed] = frozenset()

    @property
    def newest(self) -> Bed | None:
        return self.beds[max(self.beds)] if self.beds else None

    @property
    def shown(self) -> frozenset[Bed]:
        """Where the destination may show it: as confirmed last, or as any revision since then that may have been sent.

        A write is done before its outcome is on the log, and one that was lost or whose process was killed has none.
        """
        unknown_since = max(self.confirmed, self.shadowed, self.refused)
        unknown = frozenset(bed for revision, bed in self.beds.items() if bed is not None and revision > unknown_since)
        return unknown | self._confirmed_in

    @property
    def _confirmed_in(self) -> frozenset[Bed]:
        if self.absent > self.confirmed:
            return frozenset()
        bed = self.beds.get(self.confirmed)
        return self.before if bed is None else self.before | {bed}

    @property
    def is_somewhere(self) -> bool:
        """Whether anything but a revision that perhaps was sent says so."""
        return bool(self._confirmed_in) or self.newest is not None

    def confirm(self, revision: Revision) -> None:
        """The destination shows this revision, unless it showed a later one."""
        if revision > self.confirmed:
            self.confirmed, self.before = revision, frozenset()

    @property
    def is_over(self) -> bool:
        """Whether nothing needs to be known of it but up to which revision that is so: nowhere, and nothing on its way."""
        told = max(self.confirmed, self.shadowed)
        return not self.is_somewhere and told >= max(self.beds, default=Revision(self.shadowed + 1))

    def prune(self) -> None:
        for revision in sorted(self.beds)[:-1]:
            if revision < self.confirmed or (len(self.beds) > REVISIONS_KEPT and revision != self.confirmed):
                del self.beds[revision]


@dataclass(frozen=True, slots=True)
class Before:
    """What has to come before a stay is written: stays that are to leave its bed, and those that claim it as well."""

    leaving: frozenset[bytes]
    claiming: frozenset[bytes]


FREE: Final = Before(frozenset(), frozenset())


class Occupants:
    """Of one destination. For any thread, as far as `lock` keeps them apart."""

    def __init__(
        self,
        destination: str,
        lets_write: Callable[[Facts], bool] = lambda facts: False,
        lock: AbstractContextManager[Any] | None = None,
    ) -> None:
        """`lets_write`: whether the flags let a stay be written that was only compared before."""
        self._destination = destination
        self._lets_write = lets_write
        self._stays: dict[bytes, _Stay] = {}
        self._shown: dict[Bed, set[bytes]] = {}
        self._newest: dict[Bed, set[bytes]] = {}
        self._double: set[Bed] = set()
        self._nowhere: OrderedDict[bytes, None] = OrderedDict()
        self._left: OrderedDict[bytes, Revision] = OrderedDict()
        self._lock = lock or nullcontext()
        self.told: Callable[[bytes], None] = lambda key: None
        """Called with a stay of which the destination shows another revision, on the thread that says so."""

    def __len__(self) -> int:
        return len(self._stays)

    @property
    def double_occupied(self) -> int:
        """Beds that more than one stay claims by now: a disagreement of the sources, which nobody here may settle."""
        with self._lock:
            return len(self._double)

    def on_accepted(self, accepted: Accepted) -> None:
        """From `events.accepted`."""
        if accepted.entity_type is not EntityType.ENCOUNTER:
            return
        key = accepted.key.encode()
        bed, facts = bed_of(accepted), facts_of(accepted)
        with self._lock, self._changing(key) as stay:
            if accepted.revision < stay.confirmed:
                return  # told again, perhaps of somebody who has left since
            stay.beds[accepted.revision] = bed
            if accepted.revision == max(stay.beds):
                stay.facts = facts

    def on_outcome(self, outcome: Outcome) -> None:
        """From `outcomes`: only what this destination shows counts."""
        if outcome.entity_type is not EntityType.ENCOUNTER or outcome.destination != self._destination:
            return
        if outcome.kind is OutcomeKind.FAILED or (outcome.kind is OutcomeKind.PARKED and outcome.reason not in _NOT_DONE):
            return
        key = outcome.key.encode()
        with self._lock, self._changing(key) as stay:
            match outcome.kind:
                case OutcomeKind.CONFIRMED:
                    stay.confirm(outcome.revision)
                case OutcomeKind.SHADOWED:
                    stay.shadowed = max(stay.shadowed, outcome.revision)
                case _:
                    stay.refused = max(stay.refused, outcome.revision)
                    if outcome.reason in _ABSENT:
                        stay.absent = max(stay.absent, outcome.revision)
        self.told(key)

    def on_head(self, key: bytes, head: Head, told: Told) -> None:
        """From the gate's table, each partition in its order, with what the writers of this destination know of the stay.

        A stay of which they know nothing isn't to be given: nobody has begun to write it. Where the record of what was
        confirmed is compacted away, as after a backlog of more than a day, the state itself says where the stay came from.
        """
        tenant, newest = EntityKey.decode(key).tenant, head.revision
        with self._lock, self._changing(key) as stay:
            stay.confirm(told.confirmed)
            stay.shadowed = max(stay.shadowed, told.shadowed)
            stay.refused = max(stay.refused, told.refused)
            stay.absent = max(stay.absent, told.absent)
            if not newest or newest < stay.confirmed:
                return
            if NO_REVISION < stay.confirmed < newest and stay.confirmed not in stay.beds:
                stay.before = _beds_before(tenant, head)
            stay.beds[newest] = _bed_in(tenant, head)
            if newest == max(stay.beds):
                stay.facts = Facts(tenant, EntityType.ENCOUNTER, *where_of(head), status_of(head))

    def before(self, key: bytes, accepted: Accepted) -> Before:
        """What the stay waits for. In a ring of stays that wait for each other, the one with the least key goes first."""
        bed = bed_of(accepted)
        if bed is None:
            return FREE
        with self._lock:
            others = self._shown.get(bed, set()) - {key}
            claiming = frozenset(other for other in others if self._stays[other].newest == bed)
            leaving = frozenset(other for other in others - claiming if not self._is_left_there(self._stays[other]))
            if leaving and key == min(self._ring(key, bed), default=None):
                leaving = frozenset()
        return Before(leaving, claiming)

    def _is_left_there(self, stay: _Stay) -> bool:
        """Whether its departure is only compared: the destination keeps it as it is, and nobody can wait for it."""
        is_compared = bool(stay.beds) and stay.shadowed >= max(stay.beds)
        return is_compared and not (stay.facts is not None and self._lets_write(stay.facts))

    def _ring(self, key: bytes, bed: Bed) -> set[bytes]:
        """Stays that can't go before `key` has left its bed, while it waits for theirs: all rings that it is in, as one.

        From bed to bed, each looked at once: in a place without walls many lie, under one name, and paths are countless.
        """
        stay = self._stays.get(key)
        homes = stay.shown - {bed} if stay is not None else frozenset()
        if not homes:
            return set()
        moves = self._moves(bed, key)
        before: dict[Bed, set[Bed]] = {}
        for _, left, wanted in moves:
            before.setdefault(wanted, set()).add(left)
        ring, ahead = set(homes), list(homes)
        while ahead:
            found = before.get(ahead.pop(), set()) - ring
            ring |= found
            ahead += found
        return {key, *(who for who, left, wanted in moves if left in ring and wanted in ring)} if bed in ring else set()

    def _moves(self, bed: Bed, but: bytes) -> list[tuple[bytes, Bed, Bed]]:
        """Who is to move from where to where, of those in `bed`, in the beds that they want, and so on, CHAIN beds at most."""
        moves: list[tuple[bytes, Bed, Bed]] = []
        seen, ahead = {bed}, [bed]
        while ahead:
            left = ahead.pop()
            for other in self._shown.get(left, ()):
                wanted = self._stays[other].newest
                if other == but or wanted is None or wanted == left or self._is_left_there(self._stays[other]):
                    continue
                moves.append((other, left, wanted))
                if wanted not in seen and len(seen) < CHAIN:
                    seen.add(wanted)
                    ahead.append(wanted)
        return moves

    @contextmanager
    def _changing(self, key: bytes) -> Iterator[_Stay]:
        """Take a stay out of the indexes, let it change, and put it back; forget one that is nowhere and waits for nothing."""
        stay = self._stays.setdefault(key, _Stay(confirmed=self._left.pop(key, NO_REVISION)))
        self._index(key, stay, put=False)
        yield stay
        stay.prune()
        self._nowhere.pop(key, None)
        if stay.is_over:
            del self._stays[key]
            _remember(self._left, key, stay.confirmed)
            return
        self._index(key, stay, put=True)
        if not stay.is_somewhere:
            # What makes it whole may be on its way, or never come, as for a repeat of what was forgotten; none can tell.
            oldest = _remember(self._nowhere, key, None)
            if oldest is not None:
                self._index(oldest, self._stays[oldest], put=False)
                del self._stays[oldest]

    def _index(self, key: bytes, stay: _Stay, put: bool) -> None:
        newest = () if stay.newest is None else (stay.newest,)
        for beds, where in ((self._shown, stay.shown), (self._newest, newest)):
            for bed in where:
                keys = beds.setdefault(bed, set())
                (keys.add if put else keys.discard)(key)
                if not keys:
                    del beds[bed]
        if stay.newest is not None:
            claimed = len(self._newest.get(stay.newest, ())) > 1
            (self._double.add if claimed else self._double.discard)(stay.newest)


def _remember(kept: OrderedDict[bytes, Any], key: bytes, value: object) -> bytes | None:
    """Put last; the first one's key where it has to go for it."""
    kept[key] = value
    kept.move_to_end(key)
    return kept.popitem(last=False)[0] if len(kept) > NOWHERE_KEPT else None
