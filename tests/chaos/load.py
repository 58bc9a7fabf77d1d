"""The load of one run, pure and the same for the same seed: what is sent, when, and what must be known in the end.

Mostly events by HTTP in batches, the rest HL7 v2. Some are sent again: within a later batch, by repeating a batch, by
another producer straight to landing, or as the same HL7 message. Some come late, after what was recorded after them.
"""

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import msgspec

from pipeline.domain.event import EntityType, Event
from pipeline.domain.identifiers import Millis
from pipeline.formats.json_events import Client, parse_event
from pipeline.local.demo.surge import (
    ROLES,
    SHIFTS,
    UNITS,
    Adt,
    BedFact,
    BedPlace,
    BoardFact,
    DiversionFact,
    Fact,
    StaffFact,
    beds_of,
)
from pipeline.local.demo.telling import TENANT, Teller
from pipeline.local.stack import CLIENT, SOURCES

BEDS: Final = 80
HL7_SHARE: Final = 0.12
VISITS_AT_ONCE: Final = 40
COPY_SHARE: Final = 0.15
DIRECT_SHARE: Final = 0.25
"""Of the copies of HTTP events: published to landing by another producer."""
BATCH_COPY_SHARE: Final = 0.04
"""Of the batches: sent again as they are."""
LATE_SHARE: Final = 0.05
COPY_AFTER_S: Final = (0.1, 5.0)
LATE_BY_S: Final = (0.5, 4.0)
BATCH_ITEMS: Final = 20

Kind = Literal["http", "hl7", "direct"]
Path = tuple[EntityType, str, str]
"""Entity type, entity id, field."""

_SENDER: Final = Client(CLIENT, TENANT, frozenset(SOURCES))
_JUDGED: Final = {
    EntityType.BED: ("environment", "allocation", "service", "staffed", "licensed", "level_of_care"),
    EntityType.STAFFING: ("required", "actual"),
    EntityType.DIVERSION: ("state",),
}
"""Fields that only the HTTP events state, so that the newest recorded one must be known in the end."""


@dataclass(frozen=True, slots=True, repr=False)
class Message:
    """One message to send `at_s` seconds after the start; `body` is an event's JSON or an HL7 message."""

    at_s: float
    kind: Kind
    identity: str
    body: str
    recorded_ms: int
    copy: bool = False
    late: bool = False

    def __repr__(self) -> str:
        return f"Message({self.at_s:.2f}, {self.kind}, {self.identity}, <redacted>)"


@dataclass(frozen=True, slots=True, repr=False)
class Batch:
    """One request; a copy has the key and the body of one before."""

    at_s: float
    key: str
    items: tuple[Message, ...]
    copy: bool = False

    @property
    def body(self) -> bytes:
        """The request's body."""
        return b'{"events":[' + b",".join(item.body.encode() for item in self.items) + b"]}"


@dataclass(frozen=True, slots=True)
class Load:
    """Everything that is sent, each list in its order."""

    batches: tuple[Batch, ...]
    hl7: tuple[Message, ...]
    direct: tuple[Message, ...]
    distinct: int
    copies: int
    late: int
    span_s: float
    known_in_the_end: dict[Path, Any] = field(repr=False)
    """Value of the newest statement of each field that HTTP alone states."""


def make_load(seed: int, base_ms: Millis, events: int, rate_per_s: float) -> Load:
    """`events` distinct messages at `rate_per_s`, and their copies beside them."""
    chance = random.Random(f"load {seed}")
    span_s = events / rate_per_s
    first = list(_first(chance, seed, base_ms, events, rate_per_s))
    known = _known(message for message in first if message.kind == "http")
    sent = [replace(m, at_s=m.at_s + chance.uniform(*LATE_BY_S), late=True) if chance.random() < LATE_SHARE else m for m in first]
    late = sum(message.late for message in sent)
    batch_copies = int(events * BATCH_COPY_SHARE * (1 - HL7_SHARE))
    copied = chance.sample(sent, max(0, int(events * COPY_SHARE) - batch_copies))
    sent += [_copy(chance, message) for message in copied]
    sent.sort(key=lambda message: message.at_s)
    batches = _batches(chance, seed, base_ms, [m for m in sent if m.kind == "http"])
    copies = len(copied) + sum(len(batch.items) for batch in batches if batch.copy)
    return Load(
        tuple(batches),
        tuple(m for m in sent if m.kind == "hl7"),
        tuple(m for m in sent if m.kind == "direct"),
        len(first),
        copies,
        late,
        span_s,
        known,
    )


def event_of(body: str, received_at: Millis) -> Event:
    """The event that the HTTP way in makes of an item."""
    event = parse_event(msgspec.json.decode(body), client=_SENDER, idempotency_key="", item=0, received_at=received_at)
    if not isinstance(event, Event):
        raise TypeError("the load made an event that the pipeline would refuse")
    return event


def _copy(chance: random.Random, message: Message) -> Message:
    direct = message.kind == "http" and chance.random() < DIRECT_SHARE
    at_s = message.at_s + chance.uniform(*COPY_AFTER_S)
    return replace(message, at_s=at_s, kind="direct" if direct else message.kind, copy=True, late=False)


def _batches(chance: random.Random, seed: int, base_ms: int, messages: Iterable[Message]) -> list[Batch]:
    """Twenty to a request, in the order of sending. No request holds one event twice: that would be refused."""
    batches: list[Batch] = []
    now: dict[str, Message] = {}
    waiting: list[Message] = []

    def close(at_s: float) -> None:
        batch = Batch(at_s, f"chaos-{seed}-{base_ms}-{len(batches)}", tuple(now.values()))
        batches.append(batch)
        now.clear()
        if chance.random() < BATCH_COPY_SHARE:
            batches.append(replace(batch, at_s=at_s + chance.uniform(*COPY_AFTER_S), copy=True))

    at_s = 0.0
    for message in messages:
        at_s = message.at_s
        if message.identity in now:
            waiting.append(message)
            continue
        now[message.identity] = message
        if len(now) == BATCH_ITEMS:
            close(at_s)
            again, waiting = waiting, []
            now.update((late.identity, late) for late in again)
    if now:
        close(at_s)
    for message in waiting:
        now[message.identity] = message
        close(at_s)
    return sorted(batches, key=lambda batch: batch.at_s)


def _first(chance: random.Random, seed: int, base_ms: Millis, events: int, rate_per_s: float) -> Iterator[Message]:
    """The distinct messages in true order; recorded times rise strictly."""
    teller, house, recorded_ms = Teller(seed, base_ms), _House(chance, beds_of(BEDS)), base_ms - 1
    for serial in range(1, events + 1):
        at_s = serial / rate_per_s
        recorded_ms = max(recorded_ms + 1, base_ms + int(at_s * 1000))
        told = teller.tell(house.next(), serial, recorded_ms)
        yield Message(at_s, told.kind, told.identity, told.body, recorded_ms)


def _known(messages: Iterable[Message]) -> dict[Path, Any]:
    known: dict[Path, Any] = {}
    for message in messages:  # recorded times rise
        event = event_of(message.body, Millis(message.recorded_ms))
        for name in _JUDGED.get(event.entity_type, ()):
            value = getattr(event.payload, name)
            if value is not msgspec.UNSET:
                known[event.entity_type, event.entity_id, name] = value
    return known


@dataclass(slots=True)
class _Visit:
    number: int
    bed: BedPlace
    inpatient: bool


@dataclass(slots=True)
class _House:
    """Beds, visits and staff at random: what matters is that the same few entities change again and again."""

    chance: random.Random
    beds: tuple[BedPlace, ...]
    visits: list[_Visit] = field(default_factory=list)
    admitted: int = 0
    told: int = 0

    def next(self) -> Fact:
        """What happens next."""
        self.told += 1
        if self.told <= len(self.beds):
            return BoardFact(self.beds[self.told - 1])
        return self._adt() if self.chance.random() < HL7_SHARE else self._capacity()

    def _capacity(self) -> Fact:
        draw, bed = self.chance.random(), self.chance.choice(self.beds)
        if draw < 0.55:
            return BedFact(bed, "environment", self.chance.choice(("DIRTY", "CLEANING", "CLEAN")))
        if draw < 0.7:
            promised = self.visits and self.chance.random() < 0.6
            holder = self.chance.choice(self.visits).number if promised else None
            return BedFact(bed, "allocation", "ASSIGNED" if promised else "NONE", holder=holder)
        if draw < 0.8:
            blocked = self.chance.random() < 0.5
            return BedFact(bed, "service", "BLOCKED" if blocked else "OPEN", reason="EQUIPMENT" if blocked else None)
        if draw < 0.97:
            unit, (shift, _) = self.chance.choice(UNITS)[0], self.chance.choice(SHIFTS)
            required = float(self.chance.randrange(1, 9))
            return StaffFact(unit, shift, self.chance.choice(ROLES), required, max(0.0, required - self.chance.choice((0, 0, 1))))
        return DiversionFact(self.chance.choice(("CLOSED", "NORMAL")))

    def _adt(self) -> Fact:
        free = [bed for bed in self.beds if all(visit.bed != bed for visit in self.visits)]
        if len(self.visits) < VISITS_AT_ONCE or not self.visits:
            self.admitted += 1
            visit = _Visit(self.admitted, self.chance.choice(free), inpatient=True)
            self.visits.append(visit)
            return Adt("A01", visit.number, True, visit.bed, None, 0.0)
        visit, draw = self.chance.choice(self.visits), self.chance.random()
        if draw < 0.05:
            self.visits.remove(visit)
            return Adt("A03", visit.number, True, visit.bed, None, 0.0)
        if draw < 0.35:
            before, visit.bed = visit.bed, self.chance.choice(free)
            return Adt("A02", visit.number, True, visit.bed, before, 0.0)
        return Adt("A08", visit.number, True, visit.bed, None, 0.0, details=self.chance.randrange(1, 1000))


def ids_in(answer: bytes) -> list[str]:
    """Event ids of a batch's answer, in the order of its items."""
    return [str(item.get("event_id")) for item in json.loads(answer)["items"]]
