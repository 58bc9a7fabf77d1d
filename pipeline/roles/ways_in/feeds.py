"""`surgeline feeds`: two feeds of one source side by side, and which of them is live."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from pipeline import topology
from pipeline.domain.event import EntityType, Event
from pipeline.domain.identifiers import Millis
from pipeline.domain.judging.policy import Live, Policy, decode_policy, with_live
from pipeline.domain.subscriptions.feeds import Comparison, FeedComparison
from pipeline.formats.avro import Codec
from pipeline.kafka.client import Message
from pipeline.kafka.producer import OutRecord
from pipeline.ops.topics import KafkaTopics, Topics, decoded
from pipeline.roles.operator_log import publish_at_once
from pipeline.roles.policies import apply_policy, load_policy
from pipeline.settings.model import Settings
from pipeline.stream.judging.gate import policies_of

ASKED: Final = 0
"""The partition that is asked which policy is in force: each has the same, but for the moment in which one is applied."""


def in_force(topics: Topics, fallback: Policy) -> Policy:
    """The policy that was put into force last, from one partition of the gate's table; without one, `fallback`.

    KafkaUnavailable. The table is a changelog that is compacted: policies stay as long as it does.
    """
    begin, end = topics.begin(topology.GATE_CHANGELOG), topics.end(topology.GATE_CHANGELOG)
    start = dict(end) | {ASKED: begin[ASKED]}
    newest = (0, "")
    for message in topics.read(topology.GATE_CHANGELOG, start, end):
        newest = max([newest, *policies_of(message.key, message.value, topology.LANDING[EntityType.BED])])
    return decode_policy(newest[1]) if newest[1] else fallback


PUT_AT_ONCE: Final = 5_000
"""Events that are put into landing again in one go."""


class History(Topics, Protocol):
    """Topics that can be read from a time on."""

    def since(self, topic: str, since_ms: int) -> Mapping[int, int]:
        """Offset of the first record that is not older than a time, per partition; the end where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Switched:
    """The feed that was live, None where all were; the policy in force now; and how many events were put into landing again."""

    before: str | None
    policy: Policy
    again: int


def go_live(settings: Settings, codec: Codec, live: Live, actor: str, reason: str, now: Millis, since: Millis) -> Switched:
    """Make a feed the live one of its source. KafkaUnavailable: repeating it is right.

    It takes effect in each partition at the position of its record. A change that this feed told before it and the former
    one tells after it, or never, would be applied from neither: so what this feed said from `since` on is put into landing
    again. Field by field the newest stays, and what was applied once is found by its id. Going back is the same with the
    former feed.
    """
    policy = in_force(KafkaTopics(settings.kafka), load_policy())
    before = policy.live_feed(live.source_system, live.facility or "")
    changed = with_live(policy, live)
    detail = {"source_system": live.source_system, "facility": live.facility or "*", "feed": live.feed, "before": before or "all"}
    detail |= {"again_since": str(since)}
    apply_policy(settings, codec, changed, actor, reason, now, action="feed.live", detail=detail)
    if before is None:
        return Switched(before, changed, 0)  # all feeds were applied: nothing was passed over
    again = told_since(KafkaTopics(settings.kafka), codec, changed, live, since)
    for start in range(0, len(again), PUT_AT_ONCE):
        publish_at_once(settings, again[start : start + PUT_AT_ONCE])
    return Switched(before, changed, len(again))


def told_since(topics: History, codec: Codec, policy: Policy, live: Live, since: Millis) -> list[OutRecord]:
    """What a feed said since a time where `policy` has it live, as it lies in landing, in its order. KafkaUnavailable."""

    def is_meant(event: Event) -> bool:
        here = live.facility is None or event.facility == live.facility
        spoke = (event.source_system, event.feed) == (live.source_system, live.feed)
        return here and spoke and policy.live_feed(event.source_system, event.facility) == live.feed

    return [
        OutRecord(topic, message.key, message.value, message.partition)
        for topic, message, event in _events(topics, codec, since)
        if is_meant(event)
    ]


def compare(
    topics: KafkaTopics, codec: Codec, source_system: str, feeds: tuple[str, str], since: Millis, now: Millis
) -> Comparison:
    """What both feeds of a source said since a time, from landing. KafkaUnavailable."""
    comparison = FeedComparison(*feeds)
    for _, _, event in _events(topics, codec, since):
        if event.source_system == source_system:
            comparison.add(event)
    return comparison.result(now)


def _events(topics: History, codec: Codec, since: Millis) -> Iterator[tuple[str, Message, Event]]:
    for topic in topology.LANDING.values():
        end = topics.end(topic)
        start = topics.since(topic, since)
        for message in topics.read(topic, start, end):
            record = decoded(codec, message)
            if isinstance(record, Event):
                yield topic, message, record
