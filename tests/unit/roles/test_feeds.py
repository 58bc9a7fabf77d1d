"""Switching the live feed of a source: what the new one told before is not lost with the old one."""

from pipeline.domain.event import Bed, EntityType, Environment, Event, EventType, sealed
from pipeline.domain.identifiers import EventId, Millis
from pipeline.domain.judging.policy import Live, with_live
from pipeline.roles.policies import load_policy
from pipeline.roles.ways_in.feeds import told_since
from tests.unit.roles.test_replay import CODEC, Topics

LANDING = "landing.bed"
V2, FHIR = "adt", "fhir"


def told(feed: str, number: int, facility: str = "MAIN", source: str = "capacity") -> Event:
    return sealed(
        Event(
            event_id=EventId(f"{number:032x}"),
            tenant="t",
            facility=facility,
            source_system=source,
            feed=feed,
            entity_type=EntityType.BED,
            namespace=facility,
            entity_id="B1",
            event_type=EventType.BED_STATUS,
            recorded_at=Millis(number),
            received_at=Millis(number),
            payload=Bed(environment=Environment.DIRTY),
        )
    )


def test_what_the_feed_that_goes_live_told_before_is_put_into_landing_again_as_it_lies_there() -> None:
    topics = Topics()
    own = [told(V2, number) for number in (1, 3)]
    for event in (own[0], told(FHIR, 2), own[1], told(V2, 4, source="other"), told(V2, 5, facility="WEST")):
        topics.put(LANDING, event.key.encode(), event)
    policy = with_live(with_live(load_policy(), Live("capacity", FHIR, "WEST")), Live("capacity", V2))
    again = told_since(topics, CODEC, policy, Live("capacity", V2), Millis(0))
    assert [CODEC.decode(each.value or b"") for each in again] == own
    assert {(each.topic, each.key, each.partition) for each in again} == {(LANDING, own[0].key.encode(), 0)}


def test_a_switch_at_one_facility_puts_nothing_of_another_again() -> None:
    topics = Topics()
    here = told(V2, 1, facility="WEST")
    for event in (told(V2, 2), here):
        topics.put(LANDING, event.key.encode(), event)
    live = Live("capacity", V2, "WEST")
    again = told_since(topics, CODEC, with_live(load_policy(), live), live, Millis(0))
    assert [CODEC.decode(each.value or b"") for each in again] == [here]
