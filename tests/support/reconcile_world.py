"""A pipeline's changelogs and a FHIR server's resources that agree, for drift to be planted in: all in memory."""

import asyncio
import random
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, Final

import msgspec

from pipeline.destinations.fhir.build import Builder
from pipeline.destinations.fhir.profile import load_profile
from pipeline.destinations.fhir.survey import Unread
from pipeline.destinations.protocol import Absent, PendingWrite, Request
from pipeline.domain.event import (
    Bed,
    BedOccupancy,
    Encounter,
    EncounterStatus,
    EntityType,
    Environment,
    EventType,
    Occupancy,
    Payload,
    Reference,
)
from pipeline.domain.head import Clock, Head, encode_head, state_hash_of
from pipeline.domain.identifiers import NO_REVISION, EntityKey, EventId, Millis, partition_of, revision_of
from pipeline.domain.reconcile.compare import Repairs
from pipeline.domain.records import Accepted, Lane, Reason
from pipeline.domain.ring import EMPTY_RING
from pipeline.domain.writing.pending import EMPTY, Pending, encode_pending
from pipeline.formats.fhir.naming import RESOURCE_TYPE, Ident
from pipeline.formats.fhir.owned import Body
from pipeline.formats.fhir.resource import carries
from pipeline.kafka.holdings import Holdings
from pipeline.local.bench.memory_logs import MemoryLogs
from pipeline.roles.reconcile.run import Meant, Ports, Repair, Run
from pipeline.roles.reconcile.view import View
from pipeline.topology import ENTITY_PARTITIONS, GATE_CHANGELOG, writer_changelog

DESTINATION: Final = "ehr"
KEY: Final = b"a key for tests, of 32 bytes...."
NOW: Final = Millis(1_789_434_000_000)
LONG_AGO: Final = Millis(NOW - 86_400_000)
TYPES: Final = (EntityType.BED, EntityType.ENCOUNTER)
STATUSES: Final = (EncounterStatus.PLANNED, EncounterStatus.IN_PROGRESS, EncounterStatus.FINISHED)


def key_of(number: int) -> EntityKey:
    """One of the entities: a bed, then a stay, in turns."""
    entity_type = TYPES[number % len(TYPES)]
    name = f"4 West/{number}/A" if entity_type is EntityType.BED else f"V{number}"
    return EntityKey("default", entity_type.value, "MAIN", name)


def state_of(number: int, turn: int) -> Payload:
    """Its state after so many changes; the next differs."""
    if TYPES[number % len(TYPES)] is EntityType.ENCOUNTER:
        return Encounter(status=STATUSES[turn % len(STATUSES)], patient=Reference("MRN", f"P{number}"))
    environment = tuple(Environment)[turn % 3]
    return Bed(environment=environment, occupancy=BedOccupancy(Occupancy.VACANT, None), staffed=turn % 2 == 0)


def accepted_of(number: int, turn: int, offset: int, at: Millis = LONG_AGO) -> Accepted:
    """What the gate made of its change."""
    key, state = key_of(number), state_of(number, turn)
    return Accepted(
        event_id=EventId(f"{number:016x}{turn:016x}"),
        tenant=key.tenant,
        facility="MAIN",
        entity_type=EntityType(key.entity_type),
        namespace=key.namespace,
        entity_id=key.id,
        event_type=EventType.UPDATE,
        source_system="CAPACITY",
        feed="f",
        epoch=1,
        partition=partition_of(key.encode(), ENTITY_PARTITIONS),
        offset=offset,
        revision=revision_of(1, offset),
        previous_revision=NO_REVISION,
        lane=Lane.ROUTINE,
        changed=state.__struct_fields__,
        state=state,
        state_hash=state_hash_of(state),
        content_hash="0" * 16,
        recorded_at=at,
        received_at=at,
        accepted_at=at,
        policy_version="1",
    )


def head_of(accepted: Accepted) -> Head:
    """The gate's head after it."""
    clock = Clock("CAPACITY", "f", 0, accepted.recorded_at, None)
    return Head(
        epoch=1,
        position=accepted.offset,
        revision=accepted.revision,
        state_hash=accepted.state_hash,
        facility=accepted.facility,
        state=accepted.state,
        clocks=dict.fromkeys(accepted.changed, clock),
        ring=EMPTY_RING,
        event_id=accepted.event_id,
        content_hash=accepted.content_hash,
        recorded_at=accepted.recorded_at,
        received_at=accepted.received_at,
    )


def pending_of(accepted: Accepted, confirmed: bool = True) -> Pending:
    """The writer's record: confirmed, or still to be written."""
    revision = accepted.revision
    return msgspec.structs.replace(
        EMPTY,
        generation=accepted.offset * 2 + confirmed,
        partition=accepted.partition,
        newest_revision=revision,
        newest_hash=accepted.state_hash,
        confirmed=revision if confirmed else NO_REVISION,
        parked_reason=Reason.NONE,
    )


def body_of(builder: Builder, accepted: Accepted, remote_id: str, at: Millis = LONG_AGO) -> Body:
    """The resource as our writer makes it."""
    request = builder.build(PendingWrite(accepted, None, None, 1, NOW), Absent())
    assert isinstance(request, Request)
    made = request.body["entry"][-1]["resource"] if "entry" in request.body else request.body
    moment = f"2026-09-{1 + at % 28:02d}T00:00:00.000Z"
    return {**made, "id": remote_id, "meta": {"versionId": "1", "lastUpdated": moment}}


class Server:
    """Resources by `Type/id`; pages may shift, and some of them be lost, doubled or not answered."""

    def __init__(self, draw: random.Random) -> None:
        self.resources: dict[str, Body] = {}
        self.draw = draw
        self.shifts = 0.0
        self.breaks_off: set[str] = set()
        self.fails_to_find = False
        self.between_pages: list[Any] = []
        self.asked: list[int] = []

    async def pages(self, entity_type: EntityType, since: Millis | None) -> AsyncIterator[tuple[Body, ...] | Unread]:
        """Pages of five, in an order of their own."""
        kind = RESOURCE_TYPE[entity_type]
        bodies = [body for name, body in sorted(self.resources.items()) if name.startswith(f"{kind}/")]
        self.draw.shuffle(bodies)
        bodies = [body for body in bodies for _ in range(self._times())]
        for start in range(0, len(bodies), 5):
            yield tuple(bodies[start : start + 5])
            while self.between_pages:
                self.between_pages.pop()()
            if kind in self.breaks_off:
                yield Unread(Reason.UNAVAILABLE)
                return

    async def find(self, entity_type: EntityType, idents: Sequence[Ident], tenant: str) -> list[Body] | Unread:
        """By identifier."""
        self.asked.append(len(idents))
        await asyncio.sleep(0)
        if self.fails_to_find:
            return Unread(Reason.TIMEOUT)
        return [body for body in self.resources.values() if any(carries(body, ident) for ident in idents)]

    async def read(self, entity_type: EntityType, remote_id: str, tenants: Collection[str]) -> Body | Unread | None:
        """By id."""
        kind = RESOURCE_TYPE[entity_type]
        return self.resources.get(f"{kind}/{remote_id}")

    def _times(self) -> int:
        drawn = self.draw.random()
        return 0 if drawn < self.shifts / 2 else 2 if drawn < self.shifts else 1


class World:
    """So many entities, each confirmed and shown."""

    def __init__(self, count: int, seed: int = 0, adopts: Mapping[EntityType, frozenset[str]] | None = None) -> None:
        self.draw = random.Random(seed)
        self.builder = Builder(load_profile("sekmet-replica"), KEY)
        self.logs, self.server = MemoryLogs(), Server(self.draw)
        self.holdings = Holdings(self.logs, (DESTINATION,))
        self.view = View(self.builder, adopts or {})
        self.repairs = Repairs(3, 86_400_000)
        self.ordered: list[Repair] = []
        self.may = True
        self.now = NOW
        self._offset = 0
        self.newest: dict[int, Accepted] = {}
        for number in range(count):
            self.change(number)
            self.confirm(number)

    def change(self, number: int, at: Millis = LONG_AGO) -> Accepted:
        """A new revision, accepted and not yet told to the writer."""
        self._offset += 1
        before = self.newest.get(number)
        turn = int(before.event_id[16:], 16) + 1 if before else 0
        accepted = accepted_of(number, turn, self._offset, at)
        self.newest[number] = accepted
        self.logs.add(GATE_CHANGELOG, accepted.key.encode(), encode_head(head_of(accepted)), at)
        return accepted

    def tell(self, number: int, **changes: Any) -> None:
        """The writer hears of its newest revision."""
        pending = msgspec.structs.replace(pending_of(self.newest[number], confirmed=False), **changes)
        self.logs.add(writer_changelog(DESTINATION), self.newest[number].key.encode(), encode_pending(pending))

    def confirm(self, number: int) -> None:
        """The writer has written it."""
        accepted = self.newest[number]
        body = body_of(self.builder, accepted, str(number))
        self.server.resources[self.name(number)] = body
        self.logs.add(writer_changelog(DESTINATION), accepted.key.encode(), encode_pending(pending_of(accepted)))

    def name(self, number: int) -> str:
        """`Type/id` of its resource."""
        return f"{'Location' if key_of(number).entity_type == 'bed' else 'Encounter'}/{number}"

    def run(self, meant: Meant | None = None) -> Run:
        """A whole run, with repairs that are taken down."""

        async def order(repairs: Sequence[Repair]) -> int:
            self.ordered.extend(repairs)
            return len(repairs)

        async def may_go() -> bool:
            return self.may

        ports = Ports(self.server, lambda key: key.decode(), order, may_go, lambda: self.now)
        run = Run(ports, self.holdings, self.view, DESTINATION, self.repairs, meant or Meant())
        asyncio.run(run.carry_out())
        return run
