"""Which entity is written next: pure, on a clock that callers hand in.

What a mode freezes waits without competing (`pipeline.domain.writing.frozen`); all that is said here is of the others.

Strict lanes, across tenants. Within a lane the tenants take turns, one write each, and within a tenant the oldest goes first:
a tenant with 100,000 changes of a lane delays another's only by its own turns. The oldest of the critical and urgent lanes is who
has waited there longest: an entity with a bulk change of ten minutes does not overtake who has been critical for longer. One
write per entity at a time. Ageing keeps the lower lanes alive: an entity that has waited longer than its lane's bound gets a
share of the turns, which the tenants take in turn as well; the rest stay with the lanes in their order, so that a backlog of old
bulk changes after an outage does not hold up what is urgent now.

The bound: once an entity has aged, and k aged entities of its tenant are older, and n other tenants have aged ones, it is
taken within (k + 1) * (n + 1) * AGED_SHARE * (CRITICAL_SHARE + 1) turns, whatever else arrives.
"""

import heapq
from collections import Counter, OrderedDict
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Final

import msgspec

from pipeline.domain.identifiers import Millis, tenant_of
from pipeline.domain.records import LANES, RANK, Lane
from pipeline.domain.writing.ages import STALE_SHARE, STALE_SPARE, Ages, first_of
from pipeline.domain.writing.frozen import Freezes, Frozen

AGEING_S: Final = {Lane.ROUTINE: 60.0, Lane.BULK: 180.0}
"""After this wait an entity of the lane has aged. Nothing ever ages into critical, and urgent has its turns anyway."""

CRITICAL_SHARE: Final = 8
"""At most this many critical writes in a row while something urgent or aged waits; then one of those goes."""

AGED_SHARE: Final = 4
"""Of this many turns that are not critical, one goes to what has aged."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An entity that waits. Its tenant is the one of its key. `lane_since`: since when in this lane, if later than `since`."""

    key: bytes
    lane: Lane
    since: Millis
    not_before: Millis
    lane_since: Millis = Millis(0)

    @property
    def queued_since(self) -> Millis:
        """What it has waited in its lane is what counts there; but where an entity ages, all that it has waited."""
        return self.since if self.lane in AGEING_S else self.lane_since or self.since


Place = tuple[int, int, Entry]
"""Place in an order: time, serial, entry. It is dead once it isn't the one that its entity is known by."""

Heap = list[Place]

_NEVER: Final = 1 << 62

SET_BACK_MS: Final = 1_000
"""A clock that is set back by less makes waits longer by as much; by more, and nothing waits on that was put off by it."""


class LaneScheduler:
    """A heap per lane and tenant, with lazy deletion: logarithmic in the number of entities that wait.

    A turn of what has aged is linear in the number of tenants; all else doesn't grow with it.
    """

    def __init__(self) -> None:
        self.frozen = Frozen()
        self._entries: dict[bytes, Place] = {}
        self._counts: Counter[Lane] = Counter()
        self._awake = Ages(self._is_awake_since)
        self._in_flight: set[bytes] = set()
        self._ready: dict[Lane, OrderedDict[bytes, Heap]] = {lane: OrderedDict() for lane in LANES}
        self._ageing: OrderedDict[bytes, None] = OrderedDict()
        self._ages_at = _NEVER
        self._delayed: Heap = []
        self._looked_at = Millis(0)
        """The time by which something was taken last."""
        self._places = 0
        self._serial = 0
        self._critical_in_a_row = 0
        self._since_aged = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def in_flight(self) -> int:
        """Writes under way."""
        return len(self._in_flight)

    @property
    def is_spent(self) -> bool:
        """Whether so many critical writes went in a row that the next turn is another's, if one has a claim to it."""
        return self._critical_in_a_row >= CRITICAL_SHARE

    def counts(self) -> dict[Lane, int]:
        """Entities that wait, by lane."""
        return {lane: self._counts[lane] for lane in LANES}

    def oldest(self, count: int) -> list[Entry]:
        """The `count` entities that have waited longest, longest first."""
        return [self._entries[key][2] for key in first_of(heapq.merge(self._awake, self.frozen.ages), count)]

    def oldest_since(self) -> Millis | None:
        """Receipt of the oldest change that waits or is under way; None if nothing does."""
        return min((since for since in (self._awake.first(), self.frozen.ages.first()) if since is not None), default=None)

    def put(self, entry: Entry) -> None:
        """Add an entity or replace what is known of it; one under way stays under way."""
        known = self._entries.get(entry.key)
        if known is not None and known[2] == entry:
            return
        was_awake_since = known[2].since if known is not None and entry.key not in self.frozen else None
        self._know(entry)
        if self.frozen.look(entry):
            return
        if was_awake_since != entry.since:
            self._awake.add(entry.since, entry.key, len(self._entries))
        if entry.key not in self._in_flight:
            self._push(entry.key)

    def postpone(self, key: bytes, until: Millis) -> None:
        """What is known of an entity stays, but it isn't taken before `until`."""
        known = self._entries.get(key)
        if known is not None and known[2].not_before < until:
            self.put(msgspec.structs.replace(known[2], not_before=until))

    def promote(self, keys: Iterable[bytes], lane: Lane) -> None:
        """What is known of these entities stays, but they are taken no later than in `lane`, until they are put again."""
        for key in keys:
            known = self._entries.get(key)
            if known is not None and RANK[lane] < RANK[known[2].lane]:
                self.put(msgspec.structs.replace(known[2], lane=lane))

    def hasten(self, keys: Iterable[bytes]) -> None:
        """These entities were postponed for what has come by now: they are taken as soon as it is their turn."""
        for key in keys:
            known = self._entries.get(key)
            if known is not None and known[2].not_before:
                self.put(msgspec.structs.replace(known[2], not_before=Millis(0)))

    def discard(self, key: bytes) -> None:
        """Forget an entity: nothing of it is open, or its partition went elsewhere."""
        known = self._entries.pop(key, None)
        if known is not None:
            self._counts[known[2].lane] -= 1
        self.frozen.forget(key)

    def take(self, now: Millis, critical_only: bool = False) -> Entry | None:
        """The entity to write now, of any lane or of the critical one; it is under way until `release`."""
        self._wake(now)
        entry = self._next_critical() if critical_only else self._next(now)
        if entry is not None:
            self._in_flight.add(entry.key)
        return entry

    def release(self, key: bytes) -> None:
        """The write of an entity has ended; it competes again if something of it is still open."""
        if key not in self._in_flight:
            return
        self._in_flight.discard(key)
        if key in self._entries and key not in self.frozen:
            self._push(key)

    def wait_ms(self, now: Millis) -> int | None:
        """Until the next delayed entity is due; None if none is delayed."""
        return max(0, self._delayed[0][0] - now) if self._delayed else None

    # -- what a mode freezes: it waits without a place

    def freeze(self, rule: Freezes | None) -> list[bytes]:
        """Another rule, for what is put from now on; the keys of all that wait, for `reconsider` in small parts."""
        self.frozen.judge_by(rule)
        return list(self._entries)

    def reconsider(self, keys: Iterable[bytes]) -> None:
        """Freeze or thaw these as the rule in force says."""
        for key in keys:
            known = self._entries.get(key)
            if known is None:
                continue
            was_frozen = key in self.frozen
            if self.frozen.look(known[2]):
                self._know(known[2])
            elif was_frozen:
                self._awake.add(known[2].since, key, len(self._entries))
                if key not in self._in_flight:
                    self._push(key)

    def sweep(self) -> Iterator[None]:
        """Drop the places of what was frozen, a heap at each step: else they would hold up the turn that comes upon them."""
        for heap in list(self._heaps()):
            before = len(heap)
            heap[:] = filter(self._is_live, heap)
            heapq.heapify(heap)
            self._places -= before - len(heap)
            yield

    def thaw(self, count: int) -> int:
        """Let the `count` frozen ones that have waited longest compete again; how many there were."""
        keys = self.frozen.oldest(count)
        self.frozen.let_go(keys)
        self.reconsider(keys)
        return len(keys)

    def turn_since(self, lanes: Iterable[Lane]) -> Millis | None:
        """Since when something has waited in these lanes for nothing but its turn; None if nothing does.

        What came up from a lower lane counts from then on: its older changes were in no hurry. In a lane that ages it is linear
        in what waits there, where the first of it is such a one; else as fast as taking it.
        """
        tops = [(lane, tenant, self._top(lane, tenant)) for lane in lanes for tenant in tuple(self._ready[lane])]
        return min((self._longest(lane, tenant, top[2]) for lane, tenant, top in tops if top is not None), default=None)

    def _longest(self, lane: Lane, tenant: bytes, top: Entry) -> Millis:
        """`top` is the first of its order: in a lane that ages the one with the oldest change of any lane."""
        if lane not in AGEING_S or not top.lane_since:
            return top.queued_since
        places = (place[2] for place in self._ready[lane][tenant] if self._is_live(place))
        return min(entry.lane_since or entry.since for entry in places)

    def awake_since(self, but: Container[bytes] = ()) -> Millis | None:
        """As `oldest_since`, of what is neither frozen nor among `but`; linear only where many of those have waited longest."""
        return self._awake.first(but)

    def _is_awake_since(self, since: Millis, key: bytes) -> bool:
        known = self._entries.get(key)
        return known is not None and known[2].since == since and key not in self.frozen

    # -- whose turn it is

    def _next(self, now: Millis) -> Entry | None:
        """By the lanes in their order, but for the turns of what has aged, and of all others after many critical ones."""
        is_spent = self.is_spent
        entry = None if is_spent else self._next_critical()
        if entry is None and self._since_aged >= AGED_SHARE - 1:
            entry = self._next_aged(now)
        if entry is None and is_spent:
            entry = self._next_of((Lane.URGENT,)) or self._next_aged(now) or self._next_critical()
        return entry or self._next_of((Lane.URGENT, Lane.ROUTINE, Lane.BULK))

    def _next_critical(self) -> Entry | None:
        entry = self._pop(Lane.CRITICAL)
        if entry is not None:
            self._critical_in_a_row += 1
        return entry

    def _next_of(self, lanes: Sequence[Lane]) -> Entry | None:
        for lane in lanes:
            entry = self._pop(lane)
            if entry is not None:
                self._critical_in_a_row = 0
                self._since_aged += 1
                return entry
        return None

    def _next_aged(self, now: Millis) -> Entry | None:
        """The oldest that has aged of the tenant whose turn it is; nothing is looked at before anything can have aged."""
        if now < self._ages_at:
            return None
        self._ages_at = _NEVER
        for tenant in list(self._ageing):
            tops = [(self._ages(top), top) for lane in AGEING_S if (top := self._top(lane, tenant)) is not None]
            if not tops:
                del self._ageing[tenant]
                continue
            self._ages_at = min(self._ages_at, *(at for at, _ in tops))
            aged = min((top for at, top in tops if at <= now), default=None)
            if aged is not None:
                self._ageing.move_to_end(tenant)
                self._critical_in_a_row = self._since_aged = 0
                return self._popped(self._ready[aged[2].lane][tenant])
        return None

    def _pop(self, lane: Lane) -> Entry | None:
        """The oldest entity of a lane of the tenant whose turn it is there."""
        ring = self._ready[lane]
        while ring:
            tenant = next(iter(ring))
            if self._top(lane, tenant) is not None:
                ring.move_to_end(tenant)
                return self._popped(ring[tenant])
        return None

    # -- the heaps

    def _know(self, entry: Entry) -> None:
        """What is known of an entity; a place that it had is dead."""
        before = self._entries.get(entry.key)
        if before is not None:
            self._counts[before[2].lane] -= 1
        self._counts[entry.lane] += 1
        self._serial += 1
        self._entries[entry.key] = (entry.not_before or entry.queued_since, self._serial, entry)

    def _push(self, key: bytes) -> None:
        """Give what is known of an entity its place: among the delayed, or in its lane."""
        if self._places > STALE_SPARE + STALE_SHARE * len(self._entries):
            self._clean()
        place = self._entries[key]
        at, _, entry = place
        if entry.not_before and at == entry.not_before:
            self._places += 1
            heapq.heappush(self._delayed, place)
        else:
            self._line_up(place)

    def _line_up(self, place: Place) -> None:
        entry = place[2]
        self._places += 1
        tenant = tenant_of(entry.key)
        heapq.heappush(self._ready[entry.lane].setdefault(tenant, []), place)
        if entry.lane in AGEING_S:
            self._ageing.setdefault(tenant)
            self._ages_at = min(self._ages_at, self._ages(place))

    def _wake(self, now: Millis) -> None:
        """What was delayed and is due by now goes to its lane, as old as it is."""
        if now < self._looked_at - SET_BACK_MS:
            self.hasten(tuple(self._entries))
        self._looked_at = now
        while self._delayed and self._delayed[0][0] <= now:
            place = self._delayed[0]
            entry = self._popped(self._delayed)
            if self._is_live(place):
                woken = self._entries[entry.key] = (entry.queued_since, place[1], entry)
                self._line_up(woken)

    def _top(self, lane: Lane, tenant: bytes) -> Place | None:
        """First live place of a tenant in a lane; the tenant leaves the lane where it has none."""
        heap = self._ready[lane].get(tenant)
        if heap is None:
            return None
        while heap:
            if self._is_live(heap[0]):
                return heap[0]
            self._popped(heap)
        del self._ready[lane][tenant]
        return None

    def _popped(self, heap: Heap) -> Entry:
        self._places -= 1
        return heapq.heappop(heap)[2]

    def _clean(self) -> None:
        """Drop all dead places."""
        for heap in self._heaps():
            heap[:] = filter(self._is_live, heap)
            heapq.heapify(heap)
        self._places = sum(map(len, self._heaps()))

    def _heaps(self) -> Iterator[Heap]:
        yield self._delayed
        for ring in self._ready.values():
            yield from ring.values()

    def _is_live(self, place: Place) -> bool:
        return self._entries.get(place[2].key) is place

    def _ages(self, place: Place) -> int:
        """When what is in this place has aged."""
        return place[0] + int(AGEING_S[place[2].lane] * 1000) + 1
