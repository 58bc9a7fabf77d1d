"""`surgeline replay`: what is parked, what is quarantined, or what changed in a span of time, sent again.

First a plan, from the topics alone; then its orders, with an audit entry before the first and after the last. Breaking it
off at any point is safe: what was ordered is judged by the gate as always, and a second run finds what is left.
"""

import asyncio
import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from pipeline import topology
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import CLOCKS_MS, EntityKey, EventId, Millis, Revision
from pipeline.domain.judging.merges import is_copy
from pipeline.domain.judging.policy import Policy
from pipeline.domain.reconcile.replay import (
    ChangedEntities,
    Entity,
    Group,
    LeftOut,
    ParkedEntities,
    Refusal,
    Selection,
    Tally,
    What,
    reassertion,
)
from pipeline.domain.records import Accepted, Decision, DecisionKind, Outcome, Quarantined
from pipeline.formats.avro import Codec, Record
from pipeline.formats.rfc3339 import rfc3339_of
from pipeline.kafka.client import KafkaUnavailable, Message
from pipeline.kafka.crypto import RawCipher
from pipeline.kafka.producer import OutRecord, Publisher, PublishFailed
from pipeline.ops.topics import Topics, decoded
from pipeline.roles.operator_log import CLOSE_S, operator_chain, publish_at_once
from pipeline.roles.repairs.quarantine import Again, Back, Opener, record_digest
from pipeline.settings.model import Settings

PUBLICATIONS_PER_S: Final = 10
"""A replay publishes in so many portions a second, so that it can be stopped between any two."""

MAX_HELD_BYTES: Final = 256 * 1024 * 1024
"""What a plan holds of quarantined records at most; what is beyond waits for another run, or a narrower span of time."""


class History(Topics, Protocol):
    """Topics that can also be read from a time on."""

    def since(self, topic: str, since_ms: int) -> Mapping[int, int]:
        """Offset of the first record that is not older than a time, per partition."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What a replay would do. `tally` may be shown, the rest holds keys and bytes of entities."""

    what: What
    selection: Selection
    tally: Tally
    entities: tuple[Entity, ...] = ()
    back: tuple[Back, ...] = ()
    unreadable: int = 0
    """Records of the history that do not decode: what they tell of may be missing."""

    def __repr__(self) -> str:
        return f"Plan({self.what.value}, {self.size}, <redacted>)"

    @property
    def size(self) -> int:
        """Records to be sent."""
        return len(self.entities) + len(self.back)

    @property
    def is_whole(self) -> bool:
        """Whether nothing that is meant is left for later or can't be replayed."""
        return not (self.tally.refused or self.unreadable or self.tally.left_out[LeftOut.BEYOND_LIMIT])


class _Reading:
    """Reads the history, and counts what does not decode."""

    def __init__(self, topics: History, codec: Codec) -> None:
        self.topics = topics
        self.unreadable = 0
        self._codec = codec

    def all(self, topic: str, since: Millis | None = None) -> Iterator[tuple[Message, Record]]:
        """Every record of a topic, or those since a time, up to now. KafkaUnavailable."""
        end = self.topics.end(topic)
        start = self.topics.begin(topic) if since is None else self.topics.since(topic, max(0, since - CLOCKS_MS))
        yield from self.between(topic, start, end)

    def between(self, topic: str, start: Mapping[int, int], end: Mapping[int, int]) -> Iterator[tuple[Message, Record]]:
        """Every record between two positions. KafkaUnavailable."""
        for message in self.topics.read(topic, start, end):
            record = decoded(self._codec, message)
            if record is None:
                self.unreadable += 1
            else:
                yield message, record


# -- the plans


def plan_parked(
    topics: History, codec: Codec, selection: Selection, configured: Collection[str], subject_of: Callable[[bytes], str]
) -> Plan:
    """Entities whose newest revision is parked at a configured destination. KafkaUnavailable."""
    reading, parked = _Reading(topics, codec), ParkedEntities()
    for message, record in reading.all(topology.OUTCOMES):
        if isinstance(record, Outcome) and not is_copy(record, message.key):
            parked.add_outcome(record)
    for _, record in reading.all(topology.ACCEPTED):
        if isinstance(record, Accepted):
            parked.add_accepted(record)
    entities, tally = parked.choose(selection, configured, subject_of)
    return Plan(What.PARKED, selection, tally, tuple(entities), unreadable=reading.unreadable)


def plan_range(
    topics: History,
    codec: Codec,
    selection: Selection,
    expected: Collection[EntityType],
    subject_of: Callable[[bytes], str],
    begun: Millis | None = None,
) -> Plan:
    """Entities that changed, or of which a destination was told, in the window. KafkaUnavailable."""
    reading, changed = _Reading(topics, codec), ChangedEntities(selection, begun)
    since = selection.window.since
    if changed.by_outcome:
        for _, record in reading.all(topology.OUTCOMES, since):
            if isinstance(record, Outcome):
                changed.add_outcome(record)
    # What a destination was told in the window may have been accepted long before.
    for _, record in reading.all(topology.ACCEPTED, None if changed.by_outcome else since):
        if isinstance(record, Accepted):
            changed.add_accepted(record)
    entities, tally = changed.choose(expected, subject_of)
    return Plan(What.RANGE, selection, tally, tuple(entities), unreadable=reading.unreadable)


def plan_quarantined(
    topics: History,
    codec: Codec,
    selection: Selection,
    opener: Opener,
    subject_of: Callable[[bytes], str],
) -> Plan:
    """Records of the quarantine that the gate would judge now, and have not been judged since. KafkaUnavailable."""
    reading = _Reading(topics, codec)
    found, tally = _opened(reading, selection, opener, subject_of)
    back = [each for each in found if isinstance(each, Back)]
    again = [each for each in found if isinstance(each, Again)]
    back = _not_yet_back(reading, back, tally)
    entities = _behind_at_writers(reading, again, tally)
    room = max(0, selection.limit - len(back))
    over = max(0, len(back) - selection.limit) + max(0, len(entities) - room)
    if over:
        tally.left_out[LeftOut.BEYOND_LIMIT] += over
    back, entities = back[: selection.limit], entities[:room]
    tally.groups.update(Group(each.topic, each.entity_type, each.cause.value) for each in back)
    tally.groups.update(Group(each.topic, each.entity_type, each.cause.value) for each, _ in entities)
    chosen = tuple(entity for _, entity in entities)
    return Plan(What.QUARANTINED, selection, tally, chosen, tuple(back), reading.unreadable)


def _opened(
    reading: _Reading, selection: Selection, opener: Opener, subject_of: Callable[[bytes], str]
) -> tuple[list[Back | Again], Tally]:
    """What of the quarantine is meant and may be sent, in the order of each log; what can't be is counted."""
    tally, found, known, held = Tally(), [], set[bytes](), 0
    for _, record in reading.all(topology.QUARANTINE):
        if not isinstance(record, Quarantined) or not _is_meant(record, selection):
            continue
        opened = opener.open(record)
        if isinstance(opened, Refusal):
            # Whose it is can't always be read: a replay of one entity or source does not speak of it.
            tally.refused[opened] += not (selection.subject or selection.source_system or selection.feed or selection.tenant)
        elif not _is_meant_of(opened, selection, subject_of):
            continue
        elif isinstance(opened, Back) and opened.digest in known:
            tally.left_out[LeftOut.SAME_RECORD] += 1
        elif held > MAX_HELD_BYTES:
            tally.left_out[LeftOut.BEYOND_LIMIT] += 1
        else:
            held += len(opened.value) if isinstance(opened, Back) else len(opened.key)
            known |= {opened.digest} if isinstance(opened, Back) else set()
            found.append(opened)
    tally.refused = +tally.refused
    return found, tally


def _is_meant(record: Quarantined, selection: Selection) -> bool:
    landing = record.topic.removeprefix("landing.")
    of_type = landing == record.topic or selection.means_type(landing)
    return of_type and selection.cause in (None, record.reason) and selection.window.holds(record.at)


def _is_meant_of(opened: Back | Again, selection: Selection, subject_of: Callable[[bytes], str]) -> bool:
    by = selection.means_source(opened.source_system, opened.feed)
    return by and selection.means_entity(opened.key, subject_of)


def _not_yet_back(reading: _Reading, found: list[Back], tally: Tally) -> list[Back]:
    """Those whose event has no other verdict, and that do not wait for the gate already."""
    if not found:
        return []
    judged = _judged(reading, {each.event_id for each in found if each.event_id}, min(each.at for each in found))
    waiting = _at_gate(reading, found)
    left = []
    for each in found:
        if each.event_id in judged:
            tally.left_out[LeftOut.JUDGED_SINCE] += 1
        elif each.digest in waiting:
            tally.left_out[LeftOut.AT_GATE] += 1
        else:
            left.append(each)
    return left


def _judged(reading: _Reading, wanted: set[EventId], since: Millis) -> set[EventId]:
    """Which of these events have a verdict other than quarantine."""
    ids = set[EventId]()
    for topic in (topology.ACCEPTED, topology.DECISIONS):
        for _, record in reading.all(topic, since):
            match record:
                case Accepted(event_id=event_id) if event_id in wanted:
                    ids.add(event_id)
                case Decision(event_id=event_id, kind=kind) if event_id in wanted and kind is not DecisionKind.QUARANTINED:
                    ids.add(event_id)
                case _:
                    pass
    return ids


def _at_gate(reading: _Reading, found: Sequence[Back]) -> set[bytes]:
    """Digests of the records that have landed and that the gate has not committed yet."""
    committed = reading.topics.committed(topology.GATE_APP)
    waiting = set[bytes]()
    for topic in {each.topic for each in found}:
        begin, end = reading.topics.begin(topic), reading.topics.end(topic)
        start = {partition: max(low, committed.get((topic, partition), low)) for partition, low in begin.items()}
        for message in reading.topics.read(topic, start, end):
            if message.key is not None and message.value is not None:
                waiting.add(record_digest(topic, message.key, message.value))
    return waiting


def _behind_at_writers(reading: _Reading, found: Sequence[Again], tally: Tally) -> list[tuple[Again, Entity]]:
    """Entities whose newest revision is still the one that a writer could not take, each once."""
    if not found:
        return []
    newest = dict[bytes, Revision]()
    for each in found:
        newest[each.key] = max(newest.get(each.key, each.revision), each.revision)
    for message, record in reading.all(topology.ACCEPTED):
        if isinstance(record, Accepted) and message.key in newest:
            newest[message.key] = max(newest[message.key], record.revision)
    chosen: dict[bytes, tuple[Again, Entity]] = {}
    for each in found:
        if newest[each.key] > each.revision:
            tally.left_out[LeftOut.SENT_SINCE] += 1
        elif each.key in chosen:
            tally.left_out[LeftOut.SAME_RECORD] += 1
        else:
            chosen[each.key] = each, Entity(each.key, each.revision)
    return list(chosen.values())


def opener_of(settings: Settings, codec: Codec, policy: Policy, now: Millis) -> Opener:
    """Opens quarantined records with every key that the settings know. OSError or ValueError where a key can't be read."""
    cipher = RawCipher(settings.raw_keys(), settings.raw_key()[0])
    return Opener(codec, cipher, policy, settings.gate.max_record_bytes, now)


# -- carrying it out


@dataclass(frozen=True, slots=True)
class Done:
    """How far a replay came."""

    ordered: int
    planned: int

    @property
    def is_whole(self) -> bool:
        """Whether it was not broken off."""
        return self.ordered == self.planned


def orders(plan: Plan, codec: Codec, actor: str, reason: str, at: Millis) -> list[OutRecord]:
    """The records that carry out a plan; those of one partition in the order in which they first landed."""
    made = [OutRecord(each.topic, each.key, each.value) for each in plan.back]
    for entity in plan.entities:
        topic = topology.LANDING[EntityType(EntityKey.decode(entity.key).entity_type)]
        made.append(OutRecord(topic, entity.key, codec.encode(reassertion(entity, actor, reason, at))))
    return made


def carry_out(
    settings: Settings,
    codec: Codec,
    plan: Plan,
    actor: str,
    reason: str,
    now: Callable[[], Millis],
    rate_per_s: float,
    progress: Callable[[int], None],
) -> Done:
    """Order what is planned, at a rate, until done or told to stop (SIGINT, SIGTERM). KafkaUnavailable names how far it came.

    Its begin is in the audit log before the first order, its end behind the last that was acknowledged.
    """
    begun = now()
    publish_at_once(settings, [_entry(settings, codec, plan, actor, reason, begun, "begun", plan.size)])
    done = asyncio.run(_publish(settings, orders(plan, codec, actor, reason, begun), rate_per_s, progress))
    # Read anew: a command that the same person gave meanwhile has continued the chain.
    publish_at_once(settings, [_entry(settings, codec, plan, actor, reason, now(), "ended", done.ordered)])
    return done


def _entry(
    settings: Settings, codec: Codec, plan: Plan, actor: str, reason: str, at: Millis, stage: str, records: int
) -> OutRecord:
    meant, counted = plan.selection, {"planned": plan.size, "left_out": sum(plan.tally.left_out.values())}
    narrowed = {
        "from": rfc3339_of(meant.window.since) if meant.window.since is not None else None,
        "to": rfc3339_of(meant.window.until) if meant.window.until is not None else None,
        "entity_type": meant.entity_type.value if meant.entity_type else None,
        "entity": meant.subject,
        "tenant": meant.tenant,
        "source_system": meant.source_system,
        "feed": meant.feed,
        "cause": meant.cause.value if meant.cause else None,
        "destination": meant.destination,
    }
    figures = counted | {"refused": plan.tally.refused.total(), "ordered": records if stage == "ended" else 0}
    return operator_chain(settings, codec, actor).append(
        at=at,
        actor=actor,
        action=f"replay.{plan.what.value}.{stage}",
        subject=plan.what.value,
        destination=meant.destination,
        reason=reason,
        detail={name: str(value) for name, value in figures.items()}
        | {name: value for name, value in narrowed.items() if value is not None},
    )


async def _publish(settings: Settings, records: Sequence[OutRecord], rate_per_s: float, progress: Callable[[int], None]) -> Done:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    portion = max(1, int(rate_per_s / PUBLICATIONS_PER_S))
    publisher, ordered = Publisher(settings.kafka), 0
    try:
        while ordered < len(records) and not stop.is_set():
            due = loop.time() + portion / rate_per_s
            ordered += len(await publisher.publish(records[ordered : ordered + portion]))
            progress(ordered)
            if ordered < len(records):
                await _until(stop, due - loop.time())
    except PublishFailed as failed:
        told = f"{ordered} of {len(records)} are ordered, then not everything was acknowledged: {failed.reason.value}"
        raise KafkaUnavailable(f"{told}; run it again for the rest") from None
    finally:
        await publisher.close(CLOSE_S)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    return Done(ordered, len(records))


async def _until(stop: asyncio.Event, wait_s: float) -> None:
    if wait_s <= 0:
        return
    try:
        await asyncio.wait_for(stop.wait(), wait_s)
    except TimeoutError:
        return
