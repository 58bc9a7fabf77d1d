"""One reconciliation of one destination: read it by pages, compare, look again at what differs, have it repaired.

What differs on a page is no finding yet: pages shift, entities change. Each is asked for once more by its name, and judged
against what we hold after that answer. So a finding was true at one moment at least, and a repair only goes out where the
head is still the one that was judged: the gate sees to that.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, TypeVar

from pipeline.destinations.fhir.survey import NAMES_AT_ONCE, Unread
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import NO_REVISION, EntityKey, Millis
from pipeline.domain.reconcile.compare import NEVER, UNTOLD, Finding, Repairs, Rights, Settled, Shown, Tally, Told, judge
from pipeline.domain.reconcile.record import Remedy
from pipeline.domain.records import Reason
from pipeline.formats.fhir.naming import Ident
from pipeline.formats.fhir.owned import Body
from pipeline.kafka.holdings import Holdings
from pipeline.ops import metrics
from pipeline.roles.reconcile.view import View, etag, updated

CHUNK: Final = NAMES_AT_ONCE * 10
"""Entities looked at again before what we hold is read on and repairs of them go out."""

T = TypeVar("T")


class Surveyed(Protocol):
    """A server that can be read as far as the tenants' borders let it; see `pipeline.roles.writers.borders.BorderedSurvey`."""

    def pages(self, entity_type: EntityType, since: Millis | None) -> AsyncIterator[tuple[Body, ...] | Unread]: ...
    async def find(self, entity_type: EntityType, idents: Sequence[Ident], tenant: str) -> list[Body] | Unread: ...
    async def read(self, entity_type: EntityType, remote_id: str, tenants: Collection[str]) -> Body | Unread | None: ...


@dataclass(frozen=True, slots=True)
class Repair:
    """One entity to be sent again, as it was seen."""

    key: bytes
    subject: str
    finding: Finding
    seen_etag: str | None

    def __repr__(self) -> str:
        return f"Repair({self.subject})"


@dataclass(frozen=True, slots=True)
class Ports:
    """What a run needs of its surroundings. `may_go`: whether the mode lets the server be read; waits a while where it doesn't.

    `order` publishes repairs at their rate and returns how many went out: fewer where it was stopped.
    """

    survey: Surveyed
    subject: Callable[[bytes], str]
    order: Callable[[Sequence[Repair]], Awaitable[int]]
    may_go: Callable[[], Awaitable[bool]]
    clock: Callable[[], Millis]


@dataclass(frozen=True, slots=True)
class Meant:
    """What is compared. `since`: only what changed there since, by its clock, or here since `here_since`; None for everything."""

    since: Millis | None = None
    here_since: Millis = NEVER
    settle_ms: int = 900_000
    dry_run: bool = False
    max_repairs: int = 5_000


class StoppedByMode(Exception):
    """The mode of the destination forbids to go on."""


@dataclass(slots=True)
class Run:
    """State of one run; `tally` and the figures beside it are its result."""

    ports: Ports
    holdings: Holdings
    view: View
    destination: str
    repairs: Repairs
    meant: Meant
    tally: Tally = field(default_factory=Tally)
    entities: int = 0
    repaired: list[str] = field(default_factory=list)
    left: int = 0
    snapshots: int = 0
    noted: Callable[[], Awaitable[None]] | None = None
    """Told when repairs went out, so that a restart knows of them."""
    changed_until: Millis = NEVER
    unread_because: Reason | None = None
    _seen: dict[bytes, tuple[Settled, str]] = field(default_factory=dict)
    _suspects: set[bytes] = field(default_factory=set)
    _extras: dict[tuple[EntityType, str], frozenset[str]] = field(default_factory=dict)
    _unread_types: set[EntityType] = field(default_factory=set)

    async def carry_out(self) -> None:
        """To its end. KafkaUnavailable; StoppedByMode: what is counted until then stands."""
        await self._refresh()
        reading = [asyncio.create_task(self._read(entity_type)) for entity_type in self.view.types]
        try:
            await asyncio.gather(*reading)
        finally:
            for task in reading:
                task.cancel()
        await self._look_for_missing()
        for verdict, _ in self._seen.values():
            self.tally.settled[verdict] += 1
        for entity_type, keys in _by_type(self._suspects):
            for chunk in _chunks(keys, CHUNK):
                await self._look_again(entity_type, chunk)
        await self._look_at_extras()

    # -- reading

    async def _read(self, entity_type: EntityType) -> None:
        async for page in self.ports.survey.pages(entity_type, self.meant.since):
            await self._go_on()
            if isinstance(page, Unread):
                self._unread_types.add(entity_type)
                self.unread_because = page.reason
                return
            now = self.ports.clock()
            for body in page:
                self._compare(entity_type, body, now)
            await asyncio.sleep(0)

    def _compare(self, entity_type: EntityType, body: Body, now: Millis) -> None:
        self.tally.resources += 1
        at = updated(body)
        if at is not None:
            self.changed_until = max(self.changed_until, at)
        key = self.view.key_of(entity_type, body)
        remote_id = str(body.get("id", ""))
        if key is None:
            owners = self.view.owners(entity_type, body)
            if owners:
                self._extras[entity_type, remote_id] = owners
            else:
                self.tally.foreign += 1
            return
        known = self._seen.get(key)
        if key in self._suspects or (known is not None and known[1] != remote_id):
            self._suspects.add(key)
            self._seen.pop(key, None)
            return
        held = self.holdings.held[key]
        verdict = judge(held, self._told(key), self.view.shown(key, held, body), self._rights(key), now, self.meant.settle_ms)
        if isinstance(verdict, Settled):
            self._seen[key] = verdict, remote_id
        else:
            self._suspects.add(key)
            self._seen.pop(key, None)

    async def _look_for_missing(self) -> None:
        """Entities of ours that no page showed: on their way, or looked at again. Nothing is read meanwhile."""
        now, types, every = self.ports.clock(), set(self.view.types), self.meant.since is None
        for number, (key, held) in enumerate(self.holdings.held.items()):
            if number % CHUNK == 0:
                await asyncio.sleep(0)
            entity_type = _type_of(key)
            if entity_type not in types:
                continue
            is_seen = key in self._seen or key in self._suspects
            if not is_seen and not every and max(held.since, held.moved_at) < self.meant.here_since:
                continue
            self.entities += 1
            if is_seen:
                continue
            verdict = judge(held, self._told(key), None, self._rights(key), now, self.meant.settle_ms)
            if isinstance(verdict, Settled):
                self.tally.settled[verdict] += 1
            elif entity_type in self._unread_types:
                self.tally.unread += 1
            else:
                self._suspects.add(key)

    # -- looking again

    async def _look_again(self, entity_type: EntityType, keys: Sequence[bytes]) -> None:
        await self._go_on()
        found: dict[bytes, list[Body] | Unread] = {}
        asked = [(tenant, part) for tenant, own in _by_tenant(keys) for part in _chunks(own, NAMES_AT_ONCE)]
        answers = await asyncio.gather(*(self._found(entity_type, part, tenant) for tenant, part in asked))
        for answer in answers:
            found |= answer
        await self._refresh()
        now, due = self.ports.clock(), []
        for key in keys:
            bodies = found[key]
            if isinstance(bodies, Unread):
                self.tally.unread += 1
                self.unread_because = bodies.reason
                continue
            repair = self._verdict(entity_type, key, bodies, now)
            if repair is not None:
                due.append(repair)
        await self._repair(due)

    async def _found(self, entity_type: EntityType, keys: Sequence[bytes], tenant: str) -> dict[bytes, list[Body] | Unread]:
        idents = [self.view.ident(key, self.holdings.held[key]) for key in keys]
        answer = await self.ports.survey.find(entity_type, idents, tenant)
        if isinstance(answer, Unread):
            return dict.fromkeys(keys, answer)
        found: dict[bytes, list[Body]] = {key: [] for key in keys}
        for body in answer:
            key = self.view.key_of(entity_type, body)
            if key in found and all(body.get("id") != other.get("id") for other in found[key]):
                found[key].append(body)
        return dict(found)

    def _verdict(self, entity_type: EntityType, key: bytes, bodies: Sequence[Body], now: Millis) -> Repair | None:
        """Count what is true of it now; the repair that is due."""
        held, subject = self.holdings.held[key], self.ports.subject(key)
        shown = self.view.shown(key, held, bodies[0], len(bodies)) if bodies else None
        verdict = judge(held, self._told(key), shown, self._rights(key), now, self.meant.settle_ms)
        if isinstance(verdict, Finding) and verdict.remedy is Remedy.REASSERT and not self.repairs.may(subject, now):
            verdict = replace(verdict, remedy=Remedy.ESCALATE)
        self.tally.add(subject, entity_type, verdict)
        if isinstance(verdict, Settled) or verdict.remedy is not Remedy.REASSERT or self.meant.dry_run:
            return None
        return Repair(key, subject, verdict, etag(bodies[0]) if bodies else None)

    async def _look_at_extras(self) -> None:
        """Resources with our name or mark that were of no entity: of an entity by now, gone, or extra."""
        self.view.learn(self.holdings)
        for chunk in _chunks(sorted(self._extras), CHUNK):
            await self._go_on()
            read = self.ports.survey.read
            bodies = await asyncio.gather(*(read(*each, self._extras[each]) for each in chunk))
            now = self.ports.clock()
            for (entity_type, remote_id), body in zip(chunk, bodies, strict=True):
                if isinstance(body, Unread):
                    self.unread_because = body.reason
                elif body is not None and self.view.key_of(entity_type, body) is None and self.view.owners(entity_type, body):
                    verdict = judge(None, UNTOLD, _shown_extra(body), self.view.rights(entity_type), now)
                    self.tally.add(self.ports.subject(f"{entity_type.value}/{remote_id}".encode()), entity_type, verdict)

    # -- repairing

    async def _repair(self, due: Sequence[Repair]) -> None:
        room = max(0, self.meant.max_repairs - len(self.repaired))
        done = await self.ports.order(due[:room]) if due[:room] else 0
        now = self.ports.clock()
        for repair in due[:done]:
            self.repairs.note(repair.subject, now)
            self.repaired.append(repair.subject)
            metrics.DRIFT_REPAIRED.of(self.destination, repair.finding.rule.value).inc()
        self.left += len(due) - done
        if done and self.noted is not None:
            await self.noted()

    async def _refresh(self) -> None:
        await asyncio.to_thread(self.holdings.refresh)
        self.view.learn(self.holdings)

    async def _go_on(self) -> None:
        if not await self.ports.may_go():
            raise StoppedByMode

    def _told(self, key: bytes) -> Told:
        return self.holdings.told[self.destination].get(key, UNTOLD)

    def _rights(self, key: bytes) -> Rights:
        return self.view.rights(_type_of(key))


def _type_of(key: bytes) -> EntityType:
    return EntityType(EntityKey.decode(key).entity_type)


def _by_type(keys: Iterable[bytes]) -> list[tuple[EntityType, list[bytes]]]:
    """The same keys in the same order each time."""
    sorted_out: dict[EntityType, list[bytes]] = {}
    for key in sorted(keys):
        sorted_out.setdefault(_type_of(key), []).append(key)
    return sorted(sorted_out.items())


def _by_tenant(keys: Iterable[bytes]) -> list[tuple[str, list[bytes]]]:
    """The same keys in their order, one tenant after the other."""
    sorted_out: dict[str, list[bytes]] = {}
    for key in keys:
        sorted_out.setdefault(EntityKey.decode(key).tenant, []).append(key)
    return sorted(sorted_out.items())


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _shown_extra(body: Body) -> Shown:
    return Shown(NO_REVISION, None, (), updated(body))
