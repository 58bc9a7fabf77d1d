"""What sources' snapshots say beside what we hold: the third of the three that are compared."""

from typing import Final

from msgspec import UNSET

from pipeline import topology
from pipeline.domain.event import Event, EventType
from pipeline.domain.head import Head
from pipeline.domain.identifiers import Millis
from pipeline.domain.reconcile.compare import Finding, Held, Word, judge_snapshot
from pipeline.formats.avro import Codec
from pipeline.ops.topics import KafkaTopics, decoded
from pipeline.roles.reconcile.run import Run

MAX_SNAPSHOTS: Final = 200_000
"""Entities whose newest snapshot is held at once, some kilobyte each; more are left out and told by the count."""


def compare_snapshots(run: Run, topics: KafkaTopics, codec: Codec, since: Millis, until: Millis) -> None:
    """Count each entity of which a snapshot spoke that landed between two times, and add what differs. KafkaUnavailable."""
    newest = _newest(topics, codec, since, until)
    heads = {key: head for key, head in run.holdings.heads(newest) if head.revision}
    now = run.ports.clock()
    for key, event in newest.items():
        head = heads.get(key)
        if head is not None and head.retired is not None:
            continue  # what was said of it is its survivor's
        run.snapshots += 1
        verdict = judge_snapshot(_held(head), _words(head, event), event.recorded_at, now)
        if isinstance(verdict, Finding):
            run.tally.add(run.ports.subject(key), event.entity_type, verdict)


def _newest(topics: KafkaTopics, codec: Codec, since: Millis, until: Millis) -> dict[bytes, Event]:
    """The newest snapshot of each entity, by when its source recorded it."""
    newest: dict[bytes, Event] = {}
    for topic in topology.LANDING.values():
        end = topics.end(topic)
        for message in topics.read(topic, topics.since(topic, since), end):
            event = decoded(codec, message)
            if not isinstance(event, Event) or event.event_type is not EventType.SNAPSHOT or event.received_at > until:
                continue
            key = event.key.encode()
            known = newest.get(key)
            if known is None and len(newest) >= MAX_SNAPSHOTS:
                continue
            if known is None or event.recorded_at >= known.recorded_at:
                newest[key] = event
    return newest


def _held(head: Head | None) -> Held | None:
    return Held(head.revision, head.state_hash, head.received_at) if head is not None else None


def _words(head: Head | None, event: Event) -> dict[str, Word]:
    if head is None or type(head.state) is not type(event.payload):
        return {}
    words = {}
    for name in event.payload.__struct_fields__:
        value = getattr(event.payload, name)
        if value is not UNSET:
            clock = head.clocks.get(name)
            words[name] = Word(getattr(head.state, name) == value, clock.recorded if clock is not None else None)
    return words
