"""Lags from the two topics: in whatever order they are read, each change ends once, with the confirmation that closed it."""

import random
from typing import Any

import msgspec
import pytest

from loadtest.tracker import Closed, Tracker
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Millis, Revision
from pipeline.domain.records import Accepted, Lane, Outcome, OutcomeKind
from tests.support.load_records import ACCEPTED, OUTCOME


def accepted(revision: int, **changes: Any) -> Accepted:
    return msgspec.structs.replace(ACCEPTED, revision=Revision(revision), **changes)


def outcome(revision: int, **changes: Any) -> Outcome:
    return msgspec.structs.replace(OUTCOME, revision=Revision(revision), **changes)


@pytest.fixture
def tracker() -> Tracker:
    return Tracker({"ehr": {EntityType.BED}, "staffing-only": {EntityType.STAFFING}})


def take(tracker: Tracker, *records: Accepted | Outcome) -> list[Closed]:
    return [
        closed
        for record in records
        for closed in (tracker.take_accepted(record) if isinstance(record, Accepted) else tracker.take_outcome(record))
    ]


def test_a_lag_runs_from_receipt_to_confirmation(tracker: Tracker) -> None:
    (closed,) = take(tracker, accepted(1), outcome(1))
    assert (closed.lag_ms, closed.lane, closed.superseded, tracker.waiting) == (250, Lane.CRITICAL, False, 0)


def test_a_confirmation_closes_what_it_superseded_in_the_lane_of_each(tracker: Tracker) -> None:
    older, newer = take(tracker, accepted(1), accepted(2, lane=Lane.ROUTINE, received_at=Millis(200)), outcome(2))
    assert (older.lane, older.superseded, older.lag_ms) == (Lane.CRITICAL, True, 250)
    assert (newer.lane, newer.superseded, newer.lag_ms) == (Lane.ROUTINE, False, 150)


def test_a_confirmation_that_is_read_before_its_change_still_closes_it(tracker: Tracker) -> None:
    (closed,) = take(tracker, outcome(1), accepted(1))
    assert closed.lag_ms == 250
    assert tracker.waiting == 0


def test_a_change_read_late_ends_with_the_first_confirmation_that_held_it(tracker: Tracker) -> None:
    closed = take(tracker, outcome(2, at=Millis(300)), outcome(5, at=Millis(900)), accepted(2), accepted(4))
    assert [each.at for each in closed] == [300, 900]


def test_a_repeat_of_a_record_counts_once(tracker: Tracker) -> None:
    assert len(take(tracker, accepted(1), accepted(1), outcome(1), outcome(1), accepted(1))) == 1
    assert (tracker.accepted, tracker.waiting) == (1, 0)


def test_a_failed_attempt_ends_nothing_and_is_counted(tracker: Tracker) -> None:
    assert take(tracker, accepted(1), outcome(1, kind=OutcomeKind.FAILED)) == []
    assert tracker.waiting == 1
    assert tracker.attempts["ehr", OutcomeKind.FAILED] == 1


def test_what_is_parked_waits_no_more_and_has_no_lag_until_a_newer_state_is_confirmed(tracker: Tracker) -> None:
    assert take(tracker, accepted(1), outcome(1, kind=OutcomeKind.PARKED)) == []
    assert (tracker.waiting, tracker.parked) == (0, 1)
    assert [closed.superseded for closed in take(tracker, accepted(2), outcome(2))] == [True, False]
    assert tracker.parked == 0


def test_what_is_only_compared_is_no_lag(tracker: Tracker) -> None:
    assert take(tracker, accepted(1), outcome(1, kind=OutcomeKind.SHADOWED)) == []
    assert (tracker.waiting, tracker.shadowed) == (0, 1)


def test_a_destination_waits_only_for_what_it_is_told_of(tracker: Tracker) -> None:
    take(tracker, accepted(1, entity_type=EntityType.DIVERSION))
    assert tracker.waiting == 0


def test_what_another_destination_confirms_closes_nothing_here(tracker: Tracker) -> None:
    assert take(tracker, accepted(1), outcome(1, destination="elsewhere")) == []
    assert tracker.waiting == 1


@pytest.mark.parametrize("seed", range(20))
def test_the_order_of_reading_changes_no_figure(tracker: Tracker, seed: int) -> None:
    changes = [accepted(revision, received_at=Millis(revision * 10)) for revision in range(1, 9)]
    ends = [outcome(3, at=Millis(100)), outcome(6, at=Millis(200)), outcome(8, at=Millis(300))]
    mixed: list[Accepted | Outcome] = []
    chance, left, right = random.Random(seed), list(changes), list(ends)
    while left or right:  # each topic keeps its own order
        mixed.append((left if left and (not right or chance.random() < 0.5) else right).pop(0))
    at_ends = sorted((closed.at, closed.received_at) for closed in take(tracker, *mixed))
    assert at_ends == [(100 if r <= 3 else 200 if r <= 6 else 300, r * 10) for r in range(1, 9)]
