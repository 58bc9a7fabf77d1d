"""`surgeline feeds`: two feeds of one source side by side, and which of them is live."""

from collections.abc import Iterator
from typing import Final

from pipeline import topology
from pipeline.domain.event import EntityType, Event
from pipeline.domain.feeds import Comparison, FeedComparison
from pipeline.domain.identifiers import Millis
from pipeline.domain.policy import Live, Policy, decode_policy, with_live
from pipeline.formats.avro import Codec
from pipeline.ops.topics import KafkaTopics, Topics, decoded
from pipeline.roles.policies import apply_policy, load_policy
from pipeline.settings import Settings
from pipeline.stream.gate import policies_of

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


def go_live(settings: Settings, codec: Codec, live: Live, actor: str, reason: str, now: Millis) -> tuple[str | None, Policy]:
    """Make a feed the live one of its source; the feed that was, and the policy that is in force then. KafkaUnavailable.

    It takes effect in each partition at the position of its record, so each event is judged by one of the two, for good.
    Going back is the same with the former feed.
    """
    policy = in_force(KafkaTopics(settings.kafka), load_policy())
    before = policy.live_feed(live.source_system, live.facility or "")
    changed = with_live(policy, live)
    detail = {"source_system": live.source_system, "facility": live.facility or "*", "feed": live.feed, "before": before or "all"}
    apply_policy(settings, codec, changed, actor, reason, now, action="feed.live", detail=detail)
    return before, changed


def compare(
    topics: KafkaTopics, codec: Codec, source_system: str, feeds: tuple[str, str], since: Millis, now: Millis
) -> Comparison:
    """What both feeds of a source said since a time, from landing. KafkaUnavailable."""
    comparison = FeedComparison(*feeds)
    for event in _events(topics, codec, since):
        if event.source_system == source_system:
            comparison.add(event)
    return comparison.result(now)


def _events(topics: KafkaTopics, codec: Codec, since: Millis) -> Iterator[Event]:
    for topic in topology.LANDING.values():
        end = topics.end(topic)
        start = topics.since(topic, since)
        for message in topics.read(topic, start, end):
            record = decoded(codec, message)
            if isinstance(record, Event):
                yield record
