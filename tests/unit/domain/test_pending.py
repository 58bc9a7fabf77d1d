"""What is still to be told, and what was last told."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.destinations.fhir_http import MAX_RETRY_AFTER_S
from pipeline.domain.event import Environment
from pipeline.domain.identifiers import NO_REVISION, Millis, Revision, revision_of
from pipeline.domain.records import LANES, Accepted, Lane, OutcomeKind, Reason
from pipeline.domain.writing.limits import MAX_DELAY_S
from pipeline.domain.writing.pending import (
    MAX_PUT_OFF_MS,
    Fork,
    Pending,
    UnknownPendingVersion,
    decode_pending,
    encode_pending,
    join,
    on_accepted,
    on_outcome,
)
from tests.support.changes import change, encoded, outcome


def after(*steps: Accepted, pending: Pending | None = None, deadline_s: float = 60) -> Pending:
    """Pending once these were accepted, in order of delivery."""
    for accepted in steps:
        pending = on_accepted(pending, accepted, encoded(accepted), deadline_s) or pending
    assert pending is not None
    return pending


def told(pending: Pending, *steps: object) -> Pending:
    for step in steps:
        pending = on_outcome(pending, step) or pending  # type: ignore[arg-type]
    return pending


def test_newest_revision_replaces_the_older_one_and_both_stay_open() -> None:
    pending = after(change(3, received_at=100), change(7, received_at=200))
    assert pending.newest == encoded(change(7, received_at=200))
    assert pending.since == 100
    assert pending.is_due


def test_an_older_revision_from_a_slower_lane_never_replaces_a_newer_one() -> None:
    pending = after(change(7, lane=Lane.CRITICAL), change(3, lane=Lane.BULK))
    assert pending.newest_revision == revision_of(1, 7)
    assert set(pending.due) == {Lane.CRITICAL, Lane.BULK}


def test_a_critical_change_followed_by_a_routine_one_stays_critical() -> None:
    assert after(change(3, lane=Lane.CRITICAL), change(7)).lane is Lane.CRITICAL
    assert after(change(7), change(3, lane=Lane.CRITICAL)).lane is Lane.CRITICAL


def test_repeats_change_nothing() -> None:
    pending = after(change(3), change(7))
    for repeat in (change(3), change(7)):
        assert on_accepted(pending, repeat, encoded(repeat), 60) is None


def test_one_revision_with_two_states_is_a_fork() -> None:
    pending = after(change(3))
    other = change(3, environment=Environment.CLEAN)
    with pytest.raises(Fork):
        on_accepted(pending, other, encoded(other), 60)


def test_what_was_confirmed_is_not_due_again_when_it_is_delivered_again() -> None:
    pending = told(after(change(3), change(7)), outcome(change(7), OutcomeKind.CONFIRMED))
    assert not pending.is_due
    for repeat in (change(3), change(7)):
        assert on_accepted(pending, repeat, encoded(repeat), 60) is None


def test_an_outcome_touches_only_revisions_up_to_its_own() -> None:
    pending = told(after(change(3, lane=Lane.CRITICAL), change(7)), outcome(change(3), OutcomeKind.CONFIRMED))
    assert pending.is_due
    assert pending.lane is Lane.ROUTINE
    assert pending.confirmed == revision_of(1, 3)


def test_a_confirmation_that_comes_before_its_revision_is_delivered_closes_it() -> None:
    pending = on_outcome(None, outcome(change(7), OutcomeKind.CONFIRMED))
    assert pending is not None
    assert on_accepted(pending, change(7), encoded(change(7)), 60) is None
    assert after(change(9), pending=pending).is_due


def test_late_and_repeated_outcomes_change_nothing() -> None:
    pending = told(after(change(3), change(7)), outcome(change(7), OutcomeKind.CONFIRMED))
    for kind in (OutcomeKind.CONFIRMED, OutcomeKind.PARKED, OutcomeKind.FAILED, OutcomeKind.SHADOWED):
        assert on_outcome(pending, outcome(change(3), kind)) is None
        assert on_outcome(pending, outcome(change(7), kind)) is None


def test_parked_stays_visible_until_something_higher_is_confirmed() -> None:
    pending = told(after(change(3)), outcome(change(3), OutcomeKind.PARKED, reason=Reason.REFUSED_INVALID, attempts=9))
    assert (pending.is_due, pending.is_parked, pending.parked_reason) == (False, True, Reason.REFUSED_INVALID)
    pending = after(change(5), pending=pending)
    assert (pending.is_due, pending.is_parked, pending.attempts) == (True, True, 0)
    pending = told(pending, outcome(change(5), OutcomeKind.CONFIRMED))
    assert (pending.is_parked, pending.parked_reason) == (False, Reason.NONE)


def test_what_an_older_revision_used_up_is_not_held_against_a_newer_one() -> None:
    """The older one was under way when the newer came; its parking made the newer one's first failure its last."""
    pending = told(after(change(3), change(7)), outcome(change(3), OutcomeKind.PARKED, attempts=9))
    assert pending.attempts == 0
    assert pending.is_due
    assert pending.is_parked


def test_a_failure_of_an_older_revision_says_nothing_of_a_newer_one() -> None:
    assert on_outcome(after(change(3), change(7)), outcome(change(3), OutcomeKind.FAILED, attempts=4, retry_at=9_999)) is None


def test_a_newer_revision_keeps_the_pause_that_the_destination_asked_for() -> None:
    pending = told(after(change(3)), outcome(change(3), OutcomeKind.FAILED, attempts=2, retry_at=9_000))
    pending = after(change(7), pending=pending)
    assert (pending.attempts, pending.not_before) == (0, 9_000)


def test_what_was_put_off_by_a_clock_that_was_ahead_waits_for_nothing_nor_does_what_came_since() -> None:
    pending = told(after(change(3)), outcome(change(3), OutcomeKind.FAILED, retry_at=9_000_250, at=9_000_000))
    for each in (pending, after(change(7, lane=Lane.CRITICAL), pending=pending)):
        assert each.waits_until(Millis(9_000_100)) == 9_000_250
        assert each.waits_until(Millis(5_000_000)) == 0


def test_nothing_is_put_off_for_longer_than_a_destination_may_ask_for() -> None:
    pending = told(after(change(3)), outcome(change(3), OutcomeKind.FAILED, retry_at=10**12, at=1_000))
    assert pending.waits_until(Millis(5_000)) == 5_000 + MAX_PUT_OFF_MS
    assert max(MAX_RETRY_AFTER_S, MAX_DELAY_S) * 1000 <= MAX_PUT_OFF_MS


def test_an_entity_that_changes_faster_than_it_is_written_does_not_grow_old_for_ever() -> None:
    pending = after(change(0, received_at=1_000))
    for offset in range(1, 50):
        pending = after(change(offset, received_at=1_000 + 100 * offset), pending=pending)
        pending = told(pending, outcome(change(offset - 1, received_at=900 + 100 * offset), OutcomeKind.CONFIRMED))
        assert pending.since >= 900 + 100 * offset
        assert pending.deadline == pending.since + 60_000


def test_a_failure_knows_its_partition_even_where_nothing_else_is_known() -> None:
    pending = on_outcome(None, outcome(change(3, partition=5), OutcomeKind.FAILED))
    assert pending is not None
    assert pending.partition == 5


def test_a_reassert_after_parking_is_due() -> None:
    pending = told(after(change(3)), outcome(change(3), OutcomeKind.PARKED))
    assert after(change(4, lane=Lane.BULK), pending=pending).is_due


def test_encoding_is_exact_and_a_later_version_is_refused() -> None:
    pending = told(after(change(3), change(7, lane=Lane.CRITICAL)), outcome(change(3), OutcomeKind.CONFIRMED, etag="W/1"))
    assert decode_pending(encode_pending(pending)) == pending
    for data in (b"", b"\x02" + encode_pending(pending)[1:]):
        with pytest.raises(UnknownPendingVersion):
            decode_pending(data)


def test_no_value_shows_in_its_representation() -> None:
    assert "DIRTY" not in repr(after(change(3)))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("accept", *OutcomeKind)),
        st.integers(0, 9),
        st.sampled_from(LANES),
    ),
    max_size=14,
)


def folded(steps: list[tuple[str, int, Lane]]) -> Pending:
    pending = after(change(0))
    for kind, offset, lane in steps:
        if kind == "accept":
            pending = after(change(offset, lane=lane, received_at=1_000 + offset), pending=pending)
        else:
            pending = told(pending, outcome(change(offset), OutcomeKind(kind), attempts=3, remote_id="r", etag=f"{offset}"))
    return pending


@given(STEPS)
def test_whatever_is_due_has_a_lane(steps: list[tuple[str, int, Lane]]) -> None:
    pending = folded(steps)
    assert not pending.is_due or pending.lane is not None
    assert all(due.revision > pending.confirmed for due in pending.due.values())


@given(STEPS, STEPS, STEPS)
def test_join_forgets_nothing_that_is_open_in_either(
    common: list[tuple[str, int, Lane]], one: list[tuple[str, int, Lane]], other: list[tuple[str, int, Lane]]
) -> None:
    a, b = folded(common + one), folded(common + other)
    for joined in (join(a, b), join(b, a)):
        assert joined.confirmed == max(a.confirmed, b.confirmed)
        assert joined.generation == max(a.generation, b.generation)
        assert joined.newest_revision == max(a.newest_revision, b.newest_revision)
        for known in (a, b):
            for lane, due in known.due.items():
                if due.revision > joined.confirmed:
                    assert joined.due[lane].revision >= due.revision
                    assert joined.due[lane].since <= due.since
                    assert joined.due[lane].deadline <= due.deadline
            if known.newest is not None and known.newest_revision > joined.confirmed:
                assert joined.newest is not None
                assert joined.is_due or joined.is_parked or joined.is_shadowed
            if known.parked > joined.confirmed:
                assert joined.parked >= known.parked
        assert not joined.is_due or joined.lane is not None
        assert join(joined, a) == joined or joined.generation == a.generation


@given(STEPS, STEPS)
def test_join_is_the_same_either_way_up_to_equal_generations(
    one: list[tuple[str, int, Lane]], other: list[tuple[str, int, Lane]]
) -> None:
    a, b = folded(one), folded(other)
    if a.generation != b.generation:
        ab, ba = join(a, b), join(b, a)
        plain = {"remote_id": None, "etag": None, "attempts": 0, "not_before": Millis(0), "last_reason": Reason.NONE}
        assert msgspec.structs.replace(ab, **plain) == msgspec.structs.replace(ba, **plain)


@given(STEPS)
def test_join_with_itself_or_its_own_past_changes_nothing_that_is_open(steps: list[tuple[str, int, Lane]]) -> None:
    now = folded(steps)
    for length in range(len(steps)):
        past = folded(steps[:length])
        joined = join(past, now)
        assert joined.confirmed == now.confirmed
        assert joined.newest == now.newest
        assert set(now.due) <= set(joined.due)
    assert join(now, now) == now


def test_what_was_only_compared_waits_for_nothing_and_is_kept_to_be_written_later() -> None:
    pending = told(
        after(change(3, lane=Lane.CRITICAL), change(7)),
        outcome(change(7), OutcomeKind.SHADOWED, reason=Reason.SHADOW, remote_id="r"),
    )
    assert (pending.is_due, pending.is_shadowed, pending.is_parked) == (False, True, False)
    assert (pending.newest, pending.due, pending.confirmed) == (encoded(change(7)), {}, NO_REVISION)
    assert pending.remote_id == "r"


def test_a_newer_revision_is_due_after_one_that_was_only_compared_and_waits_since_its_own_receipt() -> None:
    pending = told(after(change(3, received_at=100)), outcome(change(3, received_at=100), OutcomeKind.SHADOWED))
    pending = after(change(7, received_at=900), pending=pending)
    assert (pending.is_due, pending.is_shadowed, pending.since) == (True, False, 900)


def test_comparing_an_older_revision_leaves_the_newest_due() -> None:
    pending = told(after(change(3), change(7)), outcome(change(3), OutcomeKind.SHADOWED))
    assert (pending.is_due, pending.is_shadowed, pending.shadowed) == (True, False, revision_of(1, 3))


def test_a_comparison_that_is_read_before_its_revision_closes_it_and_keeps_it() -> None:
    pending = told(after(change(3)), outcome(change(7), OutcomeKind.SHADOWED))
    assert pending.is_shadowed
    pending = after(change(7), pending=pending)
    assert (pending.is_due, pending.is_shadowed, pending.newest) == (False, True, encoded(change(7)))


def test_a_confirmation_ends_the_comparison() -> None:
    pending = told(after(change(3)), outcome(change(3), OutcomeKind.SHADOWED), outcome(change(3), OutcomeKind.CONFIRMED))
    assert (pending.is_shadowed, pending.shadowed, pending.newest) == (False, NO_REVISION, None)
    assert on_outcome(pending, outcome(change(3), OutcomeKind.SHADOWED)) is None


def test_what_is_given_up_after_a_comparison_shows_as_stuck_since_then() -> None:
    pending = told(
        after(change(3, received_at=100)),
        outcome(change(3), OutcomeKind.SHADOWED),
        outcome(change(3), OutcomeKind.PARKED, reason=Reason.REFUSED_INVALID, at=9_000),
    )
    assert (pending.is_parked, pending.is_shadowed, pending.since) == (True, False, 9_000)


def test_a_comparison_leaves_what_was_given_up_before_visible() -> None:
    pending = told(after(change(3)), outcome(change(3), OutcomeKind.PARKED))
    pending = told(after(change(7), pending=pending), outcome(change(7), OutcomeKind.SHADOWED))
    assert (pending.is_parked, pending.is_shadowed) == (True, True)


def test_pending_written_before_comparisons_were_known_is_read() -> None:
    pending = after(change(3))
    raw = encode_pending(pending)
    fields = msgspec.msgpack.decode(raw[1:])
    assert decode_pending(raw[:1] + msgspec.msgpack.encode(fields[:-1])) == pending


def test_a_revision_of_a_later_epoch_is_later() -> None:
    pending = after(change(900, epoch=1), change(0, epoch=2))
    assert pending.newest_revision == revision_of(2, 0)
    assert Revision(NO_REVISION) < pending.newest_revision
