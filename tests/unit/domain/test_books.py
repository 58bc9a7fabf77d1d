"""The books: every position and every delivery under exactly one head, and each planted fault named by its position."""

from typing import Any

import msgspec
import pytest

from pipeline.domain.accounts.books import Books, Ledger, PartitionCut, of_types
from pipeline.domain.accounts.deliveries import Trouble, rising
from pipeline.domain.event import Bed, EntityType, Environment, EventType
from pipeline.domain.identifiers import EventId, Millis, Revision, revision_of
from pipeline.domain.records import Accepted, Decision, DecisionKind, Lane, Outcome, OutcomeKind, Reason

EHR = "ehr"
CUT = PartitionCut("landing.bed", 1, 3, 0, 6)
NONE = Revision(0)


def rev(offset: int, epoch: int = 1) -> Revision:
    return revision_of(epoch, offset)


def accepted(offset: int, previous: int | None, bed: str = "ICU-12", **changes: Any) -> Accepted:
    record = Accepted(
        event_id=EventId(f"{offset:032x}"),
        tenant="acme",
        facility="main",
        entity_type=EntityType.BED,
        namespace="capacity",
        entity_id=bed,
        event_type=EventType.BED_STATUS,
        source_system="capacity",
        feed="http",
        epoch=1,
        partition=3,
        offset=offset,
        revision=rev(offset),
        previous_revision=NONE if previous is None else rev(previous),
        lane=Lane.CRITICAL,
        changed=("environment",),
        state=Bed(environment=Environment.CLEAN),
        state_hash=f"{offset:016x}",
        content_hash=f"{offset:016x}",
        recorded_at=Millis(500 + offset),
        received_at=Millis(1_000 + offset),
        accepted_at=Millis(1_001 + offset),
        policy_version="1",
    )
    return msgspec.structs.replace(record, **changes)


def decision(offset: int, kind: DecisionKind = DecisionKind.DUPLICATE, **changes: Any) -> Decision:
    record = Decision(
        topic="landing.bed",
        epoch=1,
        partition=3,
        offset=offset,
        kind=kind,
        reason=Reason.REPEATED_ID,
        revision=NONE,
        decided_at=Millis(1_001),
        policy_version="1",
    )
    return msgspec.structs.replace(record, **changes)


def outcome(
    offset: int, after: int | None, kind: OutcomeKind = OutcomeKind.CONFIRMED, bed: str = "ICU-12", **changes: Any
) -> Outcome:
    record = Outcome(
        destination=EHR,
        tenant="acme",
        entity_type=EntityType.BED,
        namespace="capacity",
        entity_id=bed,
        kind=kind,
        reason=Reason.NONE,
        revision=rev(offset),
        after=NONE if after is None else rev(after),
        partition=3,
        event_id=EventId(f"{offset:032x}"),
        content_hash=f"{offset:016x}",
        state_hash=f"{offset:016x}",
        lane=Lane.CRITICAL,
        open_since=Millis(1_000),
        received_at=Millis(1_000 + offset),
        recorded_at=Millis(500 + offset),
        at=Millis(2_000 + offset),
        writer="writer-ehr/0",
    )
    return msgspec.structs.replace(record, **changes)


def books(
    *records: Accepted | Decision | Outcome, cut: PartitionCut = CUT, types: tuple[EntityType, ...] = (EntityType.BED,)
) -> Books:
    ledger = Ledger([cut], {EHR: of_types(types)}, lambda key: "digest")
    for record in records:
        match record:
            case Accepted():
                ledger.accepted(record)
            case Decision():
                ledger.decision(record)
            case Outcome():
                ledger.outcome(record)
    return ledger.close()


DAY = (
    accepted(0, None),
    decision(1),
    accepted(2, 0),
    accepted(3, 2),
    decision(4, DecisionKind.STALE),
    accepted(5, None, bed="ICU-13"),
)
ENDS = (outcome(0, None), outcome(3, 0), outcome(5, None, bed="ICU-13"))


def troubles(result: Books) -> list[tuple[Trouble, int]]:
    return [(problem.trouble, problem.offset) for problem in result.problems]


def test_each_position_and_each_delivery_has_exactly_one_place() -> None:
    result = books(*DAY, *ENDS)
    assert result.balanced
    assert result.complete
    topic, ehr = result.topics[0], result.destinations[0]
    assert (topic.positions, topic.accepted, topic.decided["DUPLICATE"], topic.decided["STALE"]) == (6, 4, 1, 1)
    assert (ehr.expected, ehr.confirmed, ehr.superseded, ehr.open) == (4, 3, 1, 0)
    assert (ehr.entities, ehr.current, ehr.last_confirmed_at) == (2, 2, 2_005)


def test_the_lag_of_a_superseded_change_ends_when_its_successor_is_confirmed() -> None:
    lag = books(*DAY, *ENDS).destinations[0].lags[0]
    assert (lag.lane, lag.count, lag.max_ms, lag.recorded_max_ms) == (Lane.CRITICAL, 4, 1_001.0, 1_501.0)


def test_a_position_without_a_verdict_is_named() -> None:
    result = books(*DAY[:1], *DAY[2:], *ENDS)
    assert not result.balanced
    assert troubles(result) == [(Trouble.MISSING, 1)]


def test_a_position_that_the_gate_has_not_committed_waits_and_is_not_lost() -> None:
    result = books(*DAY[:5], *ENDS[:2], cut=msgspec.structs.replace(CUT, committed=5))
    assert (result.balanced, result.complete, result.waiting) == (True, False, 1)


def test_a_log_that_starts_beyond_the_committed_offset_is_proven_loss() -> None:
    result = books(*DAY[3:], *ENDS[2:], cut=msgspec.structs.replace(CUT, first=3, committed=2))
    assert (Trouble.LOG_TRIMMED, 2) in troubles(result)


def test_the_same_verdict_again_is_a_repeat_and_another_one_a_fork() -> None:
    result = books(*DAY, DAY[0], DAY[1], *ENDS)
    assert (result.balanced, result.repeats) == (True, 2)
    assert troubles(books(*DAY, decision(0), *ENDS)) == [(Trouble.VERDICT_FORK, 0)]
    assert troubles(books(*DAY, accepted(0, None, state_hash="f" * 16), *ENDS)) == [(Trouble.VERDICT_FORK, 0)]


def test_a_revision_that_nothing_explains_is_unaccounted_and_the_sum_says_so() -> None:
    result = books(*DAY, outcome(0, None), outcome(3, 2), ENDS[2])
    assert troubles(result) == [(Trouble.UNACCOUNTED, 2)]
    assert not result.destinations[0].adds_up


def test_a_revision_is_open_until_it_or_a_later_one_is_confirmed() -> None:
    result = books(*DAY, outcome(0, None), ENDS[2])
    ehr = result.destinations[0]
    assert (result.balanced, result.complete, ehr.open, ehr.current) == (True, False, 2, 1)
    assert [(item.offset, item.lane, item.since) for item in ehr.open_items] == [
        (2, Lane.CRITICAL, 1_002),
        (3, Lane.CRITICAL, 1_003),
    ]
    assert ehr.oldest_open_since == 1_002


def test_a_failed_attempt_leaves_a_revision_open() -> None:
    ehr = books(*DAY, ENDS[0], outcome(3, 0, OutcomeKind.FAILED), ENDS[2]).destinations[0]
    assert (ehr.open, ehr.failed_attempts) == (2, 1)


def test_parked_is_visible_with_its_reason_until_something_newer_is_confirmed() -> None:
    parked = outcome(2, 0, OutcomeKind.PARKED, reason=Reason.REFUSED_INVALID)
    ehr = books(*DAY, ENDS[0], parked, ENDS[2]).destinations[0]
    assert (ehr.parked, ehr.parked_by_reason, ehr.open) == (1, {"REFUSED_INVALID": 1}, 1)
    ehr = books(*DAY, ENDS[0], parked, *ENDS[1:]).destinations[0]
    assert (ehr.parked, ehr.superseded, ehr.open) == (0, 1, 0)


def test_what_was_replaced_by_a_parked_revision_is_parked_with_it() -> None:
    ehr = books(*DAY, ENDS[0], outcome(3, 0, OutcomeKind.PARKED, reason=Reason.REFUSED_GONE), ENDS[2]).destinations[0]
    assert (ehr.parked, ehr.open, ehr.current) == (2, 0, 1)


def test_a_comparison_closes_its_range_and_counts_as_shadowed() -> None:
    shadow = outcome(3, 0, OutcomeKind.SHADOWED, reason=Reason.SHADOW)
    result = books(*DAY, ENDS[0], shadow, ENDS[2])
    assert (result.complete, result.destinations[0].shadowed, result.destinations[0].current) == (True, 2, 1)


def test_the_later_word_counts_where_a_flag_was_flipped_in_between() -> None:
    shadow, parked = outcome(3, 0, OutcomeKind.SHADOWED), outcome(3, 0, OutcomeKind.PARKED, reason=Reason.REFUSED_GONE)
    for ends, counts in (((shadow, parked), (0, 2)), ((parked, shadow), (2, 0)), ((shadow, outcome(3, 0)), (0, 0))):
        ehr = books(*DAY, ENDS[0], *ends, ENDS[2]).destinations[0]
        assert (ehr.shadowed, ehr.parked, ehr.open, ehr.unaccounted) == (*counts, 0, 0)


def test_what_was_only_compared_and_then_written_is_confirmed_and_current() -> None:
    shadow = outcome(3, 0, OutcomeKind.SHADOWED)
    ehr = books(*DAY, ENDS[0], shadow, outcome(3, 0), ENDS[2]).destinations[0]
    assert (ehr.shadowed, ehr.superseded, ehr.current) == (0, 1, 2)


def test_a_destination_gets_only_what_its_profile_maps() -> None:
    result = books(*DAY, types=(EntityType.PATIENT,))
    assert (result.complete, result.destinations[0].expected) == (True, 0)


def test_a_destination_that_was_taken_back_is_named() -> None:
    late = outcome(0, None, at=Millis(9_000))
    assert troubles(books(*DAY, *ENDS, late)) == [(Trouble.REGRESSION, 0)]
    assert troubles(books(*DAY, outcome(3, 2), outcome(2, 0), *ENDS[::2])) == [(Trouble.REGRESSION, 2), (Trouble.REGRESSION, 0)]


def test_an_outcome_published_again_after_a_crash_is_a_repeat() -> None:
    result = books(*DAY, *ENDS, ENDS[0], ENDS[1])
    assert (result.complete, result.destinations[0].repeats) == (True, 2)


def test_one_revision_with_two_states_is_a_fork() -> None:
    assert troubles(books(*DAY, *ENDS, outcome(3, 0, state_hash="f" * 16))) == [(Trouble.STATE_FORK, 3)]
    assert troubles(books(*DAY, ENDS[0], outcome(3, 0, state_hash="f" * 16), ENDS[2])) == [(Trouble.STATE_FORK, 3)]


def test_a_confirmation_that_does_not_know_the_state_contradicts_nothing() -> None:
    """What an earlier process wrote and a later one found at a destination that carries no state hash."""
    result = books(*DAY, outcome(0, None, state_hash="", event_id=EventId("")), *ENDS)
    assert (result.complete, result.destinations[0].repeats) == (True, 1)


def test_one_event_accepted_at_two_positions_is_a_double_effect() -> None:
    twice = accepted(3, 2, event_id=EventId(f"{0:032x}"))
    assert troubles(books(*DAY[:3], twice, *DAY[4:], *ENDS)) == [(Trouble.DOUBLE, 3)]


def test_an_accepted_record_that_skips_its_predecessor_is_named() -> None:
    assert troubles(books(*DAY[:3], accepted(3, 0), *DAY[4:], *ENDS)) == [(Trouble.BROKEN_CHAIN, 3)]


def test_an_outcome_of_a_revision_that_nobody_accepted_is_named_unless_it_lies_beyond_the_cut() -> None:
    assert troubles(books(*DAY, *ENDS, outcome(4, 3))) == [(Trouble.UNKNOWN_REVISION, 4)]
    assert books(*DAY, *ENDS, accepted(8, 3), outcome(8, 3)).complete


def test_a_revision_is_superseded_by_one_beyond_the_cut() -> None:
    ehr = books(*DAY, ENDS[0], ENDS[2], outcome(8, 0)).destinations[0]
    assert (ehr.confirmed, ehr.superseded, ehr.open, ehr.current) == (2, 2, 0, 2)


def test_records_of_an_earlier_life_of_the_topic_are_delivered_but_are_no_positions() -> None:
    cut = PartitionCut("landing.bed", 2, 3, 0, 1)
    newer = accepted(0, None, epoch=2, revision=rev(0, 2), previous_revision=rev(5), state_hash="a" * 16)
    end = outcome(0, None, revision=rev(0, 2), state_hash="a" * 16)
    result = books(accepted(5, None, event_id=EventId("e" * 32)), newer, end, cut=cut)
    assert (result.complete, result.topics[0].positions, result.destinations[0].expected) == (True, 1, 2)


def test_books_name_no_entity_and_are_json() -> None:
    text = msgspec.json.encode(books(*DAY[:2]))
    assert b"ICU-1" not in text
    assert msgspec.json.decode(text, type=Books).problem_counts == {"MISSING": 4}


def test_problems_are_bounded_and_all_counted() -> None:
    ledger = Ledger([msgspec.structs.replace(CUT, end=5_000)], {}, lambda key: "digest", problem_limit=10)
    result = ledger.close()
    assert (len(result.problems), result.problem_counts) == (10, {"MISSING": 5_000})


@pytest.mark.parametrize(
    ("history", "wrong"),
    [
        ([1, 2, 5], []),
        ([0, 1, 0, 2], []),
        ([1, 2, 2, 3], [(Trouble.DOUBLE, 2)]),
        ([1, 5, 3], [(Trouble.REGRESSION, 3)]),
    ],
)
def test_a_destinations_own_history_shows_each_revision_once_and_rising(
    history: list[int], wrong: list[tuple[Trouble, int]]
) -> None:
    assert rising(history) == wrong


def test_books_can_be_closed_again_after_more_was_read() -> None:
    ledger = Ledger([CUT], {EHR: of_types([EntityType.BED])}, lambda key: "digest")
    for record in DAY:
        ledger.accepted(record) if isinstance(record, Accepted) else ledger.decision(record)
    first = ledger.close()
    assert (first.open, ledger.close()) == (4, first)
    for end in ENDS:
        ledger.outcome(end)
    assert ledger.close() == books(*DAY, *ENDS)


# -- destinations that are told of each change


def of_each(rows: list[Accepted], ends: list[Outcome]) -> Books:
    ledger = Ledger([CUT], {EHR: of_types([EntityType.BED])}, lambda key: "digest", told_of_each=[EHR])
    for row in rows:
        ledger.accepted(row)
    for end in ends:
        ledger.outcome(end)
    return ledger.close()


def test_a_destination_told_of_each_change_has_an_end_for_each_and_none_is_superseded() -> None:
    rows = [accepted(0, None), accepted(1, 0), accepted(2, 1), accepted(3, 2)]
    ends = [outcome(0, None), outcome(1, 0, OutcomeKind.PARKED), outcome(2, 1), outcome(2, 1)]
    told = of_each(rows, ends).destinations[0]
    assert (told.confirmed, told.parked, told.open, told.superseded, told.unaccounted) == (2, 1, 1, 0, 0)
    assert told.repeats == 1
    assert told.adds_up


def test_a_change_that_was_passed_over_there_is_named_though_a_later_one_closes_its_range() -> None:
    books = of_each([accepted(0, None), accepted(1, 0), accepted(2, 1)], [outcome(0, None), outcome(2, None)])
    assert [(problem.trouble, problem.offset) for problem in books.problems if problem.destination] == [(Trouble.UNACCOUNTED, 1)]
    assert not books.balanced
