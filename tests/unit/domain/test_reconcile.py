"""One verdict on each entity, and what is settled is no drift."""

from typing import Final

import pytest

from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import NO_REVISION, Millis, Revision
from pipeline.domain.reconcile.compare import (
    UNTOLD,
    Finding,
    Held,
    Repairs,
    Rights,
    Settled,
    Shown,
    Tally,
    Told,
    Word,
    judge,
    judge_snapshot,
)
from pipeline.domain.reconcile.record import Drift, Remedy, Rule

NOW: Final = Millis(10_000_000)
SETTLE_MS: Final = 900_000
OLD, NEWEST, NEXT = Revision(7), Revision(9), Revision(11)
OURS: Final = Rights(may_create=True)
HELD: Final = Held(NEWEST, "h9", Millis(1_000_000))
DONE: Final = Told(newest=NEWEST, confirmed=NEWEST)
SHOWN: Final = Shown(NEWEST, "h9")


def verdict(held: Held | None, told: Told, shown: Shown | None, rights: Rights = OURS, now: Millis = NOW) -> Settled | Finding:
    return judge(held, told, shown, rights, now, SETTLE_MS)


def test_what_was_confirmed_and_is_shown_unchanged_is_equal() -> None:
    assert verdict(HELD, DONE, SHOWN) is Settled.EQUAL


@pytest.mark.parametrize(
    ("shown", "kind", "rule", "remedy"),
    [
        (None, Drift.DELETED, Rule.GONE, Remedy.REASSERT),
        (Shown(OLD, "h7"), Drift.STALE, Rule.OLDER_REVISION, Remedy.REASSERT),
        (Shown(NEXT, "h11"), Drift.CONFLICTING, Rule.NEWER_REVISION, Remedy.REPORT),
        (Shown(NEWEST, "h8"), Drift.CONFLICTING, Rule.FORK, Remedy.REASSERT),
        (Shown(NO_REVISION, None), Drift.CONFLICTING, Rule.MARK_LOST, Remedy.REASSERT),
        (Shown(NEWEST, "h9", ("environment",)), Drift.EDITED, Rule.OURS_TO_WRITE, Remedy.REASSERT),
        (Shown(NEWEST, "h9", copies=2), Drift.DOUBLED, Rule.NEVER_DELETE, Remedy.REPORT),
    ],
)
def test_each_kind_of_drift_is_named_with_the_rule_that_settles_it(
    shown: Shown | None, kind: Drift, rule: Rule, remedy: Remedy
) -> None:
    found = verdict(HELD, DONE, shown)
    assert isinstance(found, Finding)
    assert (found.kind, found.rule, found.remedy) == (kind, rule, remedy)


def test_what_an_owner_makes_itself_and_is_gone_there_is_its_word() -> None:
    found = verdict(HELD, DONE, None, Rights(may_create=False))
    assert isinstance(found, Finding)
    assert (found.rule, found.remedy) == (Rule.OWNER_MAKES, Remedy.REPORT)


def test_an_edit_of_what_that_system_may_say_is_left_to_its_feed_and_never_written_over() -> None:
    rights = Rights(may_create=True, adopts=frozenset({"status"}))
    for changed in (("status",), ("environment", "status")):
        found = verdict(HELD, DONE, Shown(NEWEST, "h9", changed), rights)
        assert isinstance(found, Finding)
        assert found.remedy is Remedy.ADOPT


@pytest.mark.parametrize(("revision", "state"), [(NO_REVISION, None), (OLD, "h7"), (NEWEST, "h8")])
def test_what_was_replaced_there_waits_for_its_feed_where_that_system_may_say_any_of_it(
    revision: Revision, state: str | None
) -> None:
    """Without our mark nobody knows which fields somebody wrote: a clinician's word must not go before it was heard."""
    rights = Rights(may_create=True, adopts=frozenset({"status"}))
    for age, remedy in ((0, Remedy.ADOPT), (SETTLE_MS - 1, Remedy.ADOPT), (SETTLE_MS, Remedy.REASSERT)):
        found = verdict(HELD, DONE, Shown(revision, state, (), Millis(NOW - age)), rights)
        assert isinstance(found, Finding)
        assert found.remedy is remedy
    nobody_listens = verdict(HELD, DONE, Shown(revision, state, (), NOW))
    assert isinstance(nobody_listens, Finding)
    assert nobody_listens.remedy is Remedy.REASSERT


def test_what_is_known_of_nobody_here_is_extra_and_only_reported() -> None:
    found = verdict(None, UNTOLD, Shown(OLD, "h7"))
    assert isinstance(found, Finding)
    assert (found.kind, found.remedy) == (Drift.EXTRA, Remedy.REPORT)


@pytest.mark.parametrize("shown", [None, Shown(OLD, "h7"), Shown(OLD, "h7", ("environment",))])
def test_what_is_on_its_way_in_time_parked_or_only_compared_is_no_drift(shown: Shown | None) -> None:
    deadline = Millis(NOW + 1)
    assert verdict(HELD, Told(newest=NEWEST, confirmed=OLD, deadline=deadline), shown) is Settled.WAITING
    assert verdict(HELD, Told(newest=NEWEST, confirmed=OLD, parked=NEWEST), shown) is Settled.PARKED
    assert verdict(HELD, Told(newest=NEWEST, confirmed=OLD, shadowed=NEWEST), shown) is Settled.SHADOWED
    young = Held(NEWEST, "h9", Millis(NOW - SETTLE_MS))
    assert verdict(young, Told(newest=OLD, confirmed=OLD), shown) is Settled.WAITING


def test_a_state_that_its_writer_never_heard_of_is_sent_again_and_one_that_it_holds_is_not() -> None:
    lost = verdict(HELD, Told(newest=OLD, confirmed=OLD), Shown(OLD, "h7"))
    late = verdict(HELD, Told(newest=NEWEST, confirmed=OLD, deadline=Millis(NOW - 1)), Shown(OLD, "h7"))
    first = verdict(HELD, UNTOLD, None)
    assert isinstance(lost, Finding)
    assert isinstance(late, Finding)
    assert isinstance(first, Finding)
    assert (lost.kind, lost.rule, lost.remedy) == (Drift.STALE, Rule.NEVER_WRITTEN, Remedy.REASSERT)
    assert (late.kind, late.rule, late.remedy) == (Drift.STALE, Rule.OVERDUE, Remedy.REPORT)
    assert (first.kind, first.rule, first.remedy) == (Drift.MISSING, Rule.NEVER_WRITTEN, Remedy.REASSERT)


def test_a_revision_that_an_order_made_of_an_old_event_has_its_own_time_to_reach_the_writer() -> None:
    moved = Held(NEWEST, "h9", Millis(1_000_000), moved_at=Millis(NOW - 1))
    assert verdict(moved, Told(newest=OLD, confirmed=OLD), Shown(OLD, "h7")) is Settled.WAITING


@pytest.mark.parametrize(("clock", "since"), [(5_000_000, 5_000_000), (99_000_000, NOW), (3, 1_000_000)])
def test_a_wrong_clock_of_another_system_makes_nothing_older_or_younger_than_it_can_be(clock: int, since: int) -> None:
    found = verdict(HELD, DONE, Shown(OLD, "h7", updated_at=Millis(clock)))
    assert isinstance(found, Finding)
    assert found.since == since


def test_a_snapshot_is_settled_by_what_is_newer_and_shown_where_nothing_is() -> None:
    at = Millis(2_000_000)
    newer, older = Word(same=False, known_since=Millis(at + 1)), Word(same=False, known_since=Millis(at - 1))
    assert judge_snapshot(HELD, {"environment": newer, "staffed": Word(True, at)}, at, NOW) is Settled.EQUAL
    found = judge_snapshot(HELD, {"environment": older, "service": newer, "surge": Word(False, None)}, at, NOW)
    assert isinstance(found, Finding)
    assert (found.rule, found.remedy, found.fields) == (Rule.SNAPSHOT_DIFFERS, Remedy.REPORT, ("environment", "surge"))
    unknown = judge_snapshot(None, {}, at, NOW)
    assert isinstance(unknown, Finding)
    assert (unknown.kind, unknown.rule) == (Drift.MISSING, Rule.UNKNOWN_HERE)


def test_repairs_that_go_in_circles_end_and_may_begin_again_after_their_window() -> None:
    repairs = Repairs(most=2, window_ms=1_000)
    for at in (100, 100, 200):  # a record that is read twice is one repair
        assert repairs.may("a", Millis(at))
        repairs.note("a", Millis(at))
    assert not repairs.may("a", Millis(300))
    assert repairs.may("b", Millis(300))
    assert repairs.may("a", Millis(1_150))
    assert repairs.may("a", Millis(5_000))
    assert len(repairs) == 0


def test_a_tally_counts_extra_resources_and_snapshots_beside_our_entities() -> None:
    tally = Tally()
    drifted, extra = verdict(HELD, DONE, Shown(OLD, "h7")), verdict(None, UNTOLD, SHOWN)
    snapshot = judge_snapshot(None, {}, Millis(1), NOW)
    for each in (Settled.EQUAL, Settled.PARKED, drifted, drifted, extra, snapshot):
        tally.add("s", EntityType.BED, each)
    assert (tally.settled.total(), tally.drifted, tally.extra) == (2, 2, 1)
    assert sorted(each.count for each in tally.counts()) == [1, 1, 2]
    assert [each.remedy for each in tally.drifts(2)] == [Remedy.REPORT, Remedy.REPORT]
