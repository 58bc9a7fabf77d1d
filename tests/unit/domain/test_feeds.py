"""Two feeds of one source side by side."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.domain.event import Bed, EntityType, Environment, Event, EventType, sealed
from pipeline.domain.identifiers import EventId, Millis
from pipeline.domain.judging.policy import Live, with_live
from pipeline.domain.subscriptions.feeds import (
    DIFFERENT_KEPT,
    UNMATCHED_KEPT,
    WINDOW_MS,
    Comparison,
    FeedComparison,
    FieldFigures,
)
from tests.support.examples import examples
from tests.support.policies import shipped_policy

V2, FHIR = "adt", "fhir"
NOW = Millis(10 * WINDOW_MS)


def said(feed: str, at: int, bed: str = "A", **fields: Any) -> Event:
    return sealed(
        Event(
            event_id=EventId("0" * 32),
            tenant="t",
            facility="F",
            source_system="ehr",
            feed=feed,
            entity_type=EntityType.BED,
            namespace="N",
            entity_id=bed,
            event_type=EventType.UPDATE,
            recorded_at=Millis(at),
            received_at=Millis(at),
            payload=Bed(**fields),
        )
    )


def compared(*events: Event, now: int = NOW) -> Comparison:
    comparison = FeedComparison(V2, FHIR)
    for event in events:
        comparison.add(event)
    return comparison.result(Millis(now))


def only(comparison: Comparison) -> FieldFigures:
    (figures,) = comparison.fields
    return figures


def test_a_change_that_both_told_agrees_and_has_the_second_ones_delay() -> None:
    figures = only(compared(said(V2, 1_000, staffed=True), said(FHIR, 1_700, staffed=True)))
    assert (figures.agreed, figures.only_first, figures.only_second, figures.delay_p50_ms) == (1, 0, 0, 700.0)
    assert figures.agreement == 1.0


def test_a_second_feed_that_is_earlier_has_a_negative_delay() -> None:
    assert only(compared(said(FHIR, 1_000, staffed=True), said(V2, 1_400, staffed=True))).delay_p99_ms == -400.0


def test_a_change_that_one_told_alone_counts_after_the_window_and_waits_before_it() -> None:
    event = said(V2, 0, staffed=True)
    assert only(compared(event, now=WINDOW_MS)).waiting == 1
    figures = only(compared(event, now=WINDOW_MS + 1))
    assert (figures.only_first, figures.waiting, figures.agreement) == (1, 0, 0.0)


def test_saying_again_what_was_said_last_is_no_change() -> None:
    again = [said(V2, at, staffed=True) for at in range(0, 5_000, 1_000)]
    figures = only(compared(*again, said(FHIR, 6_000, staffed=True)))
    assert (figures.agreed, figures.only_first) == (1, 0)


def test_a_change_back_and_forth_is_matched_in_its_order() -> None:
    states = [Environment.DIRTY, Environment.CLEAN, Environment.DIRTY]
    first = [said(V2, n * 1_000, environment=state) for n, state in enumerate(states)]
    second = [said(FHIR, n * 1_000 + 100, environment=state) for n, state in enumerate(states)]
    figures = only(compared(*first, *second))
    assert (figures.agreed, figures.delay_p50_ms) == (3, 100.0)


def test_feeds_that_end_apart_are_named_by_entity_and_never_by_value() -> None:
    comparison = compared(said(V2, 0, level_of_care="SECRET"), said(FHIR, 0, level_of_care="OTHER"))
    assert only(comparison).different_now == 1
    assert comparison.different == ("t|bed|N|A",)
    assert b"SECRET" not in msgspec.json.encode(comparison)


def test_what_the_other_may_still_tell_is_not_apart() -> None:
    comparison = compared(said(V2, 0, staffed=True), said(FHIR, 0, staffed=True), said(V2, NOW - 1, staffed=False))
    assert (only(comparison).different_now, only(comparison).waiting) == (0, 1)


def test_fields_that_an_event_does_not_speak_of_and_other_feeds_do_not_count() -> None:
    comparison = compared(said("third", 0, staffed=True), said(V2, 0))
    assert (comparison.fields, comparison.events) == ((), (1, 0))


def test_memory_is_bounded_whatever_one_feed_says_alone() -> None:
    alone = [said(V2, n, isolation=bool(n % 2)) for n in range(3 * UNMATCHED_KEPT)]
    figures = only(compared(*alone, now=3 * UNMATCHED_KEPT))
    assert (figures.waiting, figures.only_first) == (UNMATCHED_KEPT, 2 * UNMATCHED_KEPT)
    apart = [said(feed, 0, f"B{n}", staffed=feed == V2) for n in range(2 * DIFFERENT_KEPT) for feed in (V2, FHIR)]
    assert len(compared(*apart).different) == DIFFERENT_KEPT


@settings(max_examples=examples(80), deadline=None)
@given(st.lists(st.tuples(st.sampled_from("AB"), st.sampled_from(list(Environment))), max_size=30), st.integers(0, 5_000))
def test_a_feed_that_says_the_same_later_agrees_in_everything(statements: list[tuple[str, Environment]], delay: int) -> None:
    first = [said(V2, n * 10, bed, environment=state) for n, (bed, state) in enumerate(statements)]
    second = [said(FHIR, n * 10 + delay, bed, environment=state) for n, (bed, state) in enumerate(statements)]
    merged = sorted([*first, *second], key=lambda event: event.received_at)
    comparison = compared(*merged)
    assert all((f.agreement or 1.0, f.different_now, f.waiting) == (1.0, 0, 0) for f in comparison.fields)


def test_the_live_feed_is_the_facilitys_own_else_the_sources() -> None:
    policy = shipped_policy()
    assert policy.live_feed("ehr", "F") is None
    everywhere = with_live(policy, Live("ehr", V2))
    here = with_live(everywhere, Live("ehr", FHIR, "F"))
    assert [here.live_feed("ehr", "F"), here.live_feed("ehr", "G"), here.live_feed("other", "F")] == [FHIR, V2, None]


def test_going_back_gives_the_same_policy_again() -> None:
    before = with_live(shipped_policy(), Live("ehr", V2))
    after = with_live(before, Live("ehr", FHIR))
    assert after.version != before.version
    assert with_live(after, Live("ehr", V2)) == before


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_delays_are_given_by_nearest_rank(share: float) -> None:
    events = [
        said(feed, n * 10_000 + (n if feed == FHIR else 0), f"B{n}", staffed=True) for n in range(1, 101) for feed in (V2, FHIR)
    ]
    figures = only(compared(*events, now=1_000_000))
    assert {0.5: figures.delay_p50_ms, 0.99: figures.delay_p99_ms}[share] == share * 100
