"""What is compared when, from what lies on the topics alone."""

from typing import Final

import msgspec

from pipeline.domain.identifiers import Millis
from pipeline.domain.reconcile.record import Cause, Reconciliation, ReconciliationOrder, Scope, Stage
from pipeline.domain.reconcile.schedule import DAY_MS, RETRY_MS, Due, Schedule, Times

EVERY_MS: Final = 900_000
NIGHT_MS: Final = 2 * 3_600_000
NOON: Final = Millis(100 * DAY_MS + DAY_MS // 2)


def schedule() -> Schedule:
    return Schedule(Times(EVERY_MS, NIGHT_MS), ("ehr",))


def run(
    at: int, scope: Scope = Scope.FULL, stage: Stage = Stage.DONE, order: str | None = None, dry_run: bool = False
) -> Reconciliation:
    return Reconciliation(
        run=f"{at}",
        destination="ehr",
        instance="0",
        scope=scope,
        cause=Cause.SCHEDULE,
        order=order,
        dry_run=dry_run,
        stage=stage,
        begun_at=Millis(at),
        ended_at=None if stage is Stage.RUNNING else Millis(at + 1_000),
        changed_until=Millis(at),
    )


def order(name: str = "o", destination: str = "ehr") -> ReconciliationOrder:
    return ReconciliationOrder(
        order=name, destination=destination, scope=Scope.FULL, dry_run=True, actor="operator:a", reason="r", at=NOON
    )


def due(of: Schedule, at: int) -> tuple[Scope, Cause] | None:
    found = of.due(Millis(at))
    return (found.scope, found.cause) if found is not None else None


def test_what_was_never_compared_is_compared_whole_and_then_what_changed_until_the_night() -> None:
    found = schedule()
    assert due(found, NOON) == (Scope.FULL, Cause.NIGHTLY)
    found.on_run(run(NOON))
    assert due(found, NOON + EVERY_MS - 1) is None
    assert due(found, NOON + EVERY_MS) == (Scope.INCREMENTAL, Cause.SCHEDULE)
    found.on_run(run(NOON + EVERY_MS, Scope.INCREMENTAL))
    assert due(found, NOON + EVERY_MS * 2 - 1) is None
    night = NOON - NOON % DAY_MS + DAY_MS + NIGHT_MS
    assert due(found, night - 1) == (Scope.INCREMENTAL, Cause.SCHEDULE)
    assert due(found, night) == (Scope.FULL, Cause.NIGHTLY)


def test_an_outage_and_a_gap_of_a_feed_begin_a_run_once() -> None:
    found = schedule()
    found.on_run(run(NOON))
    found.on_gap("ehr", Millis(NOON + 10))
    assert due(found, NOON + 20) == (Scope.INCREMENTAL, Cause.FEED_GAP)
    found.on_recovered("ehr", Millis(NOON + 15))
    assert due(found, NOON + 20) == (Scope.FULL, Cause.RECOVERED)
    found.on_run(run(NOON + 20))
    assert due(found, NOON + 30) is None
    found.on_recovered("ehr", Millis(NOON + 15))
    found.on_recovered("another", Millis(NOON + 40))
    assert due(found, NOON + 50) is None


def test_a_run_that_was_broken_off_is_tried_again_soon_and_one_that_left_something_at_the_next_time() -> None:
    found = schedule()
    found.on_run(run(NOON, stage=Stage.BROKEN_OFF))
    assert due(found, NOON + 1_000 + RETRY_MS - 1) is None
    assert due(found, NOON + 1_000 + RETRY_MS) == (Scope.FULL, Cause.NIGHTLY)
    found.on_run(run(NOON + 100_000, stage=Stage.PARTIAL))
    assert due(found, NOON + 101_000 + EVERY_MS - 1) is None
    assert due(found, NOON + 101_000 + EVERY_MS) == (Scope.FULL, Cause.NIGHTLY)


def test_a_dry_run_is_no_comparison_that_others_can_build_on() -> None:
    found = schedule()
    found.on_run(run(NOON, dry_run=True))
    assert due(found, NOON + 10) == (Scope.FULL, Cause.NIGHTLY)


def test_an_order_is_carried_out_once_even_by_a_process_that_reads_it_later_and_again_if_it_was_broken_off() -> None:
    found = schedule()
    found.on_run(run(NOON))
    found.on_order(order())
    found.on_order(order("elsewhere", "another"))
    assert found.due(Millis(NOON + 10)) == Due("ehr", Scope.FULL, Cause.ORDER, order())
    found.on_run(run(NOON + 10, stage=Stage.RUNNING, order="o", dry_run=True))
    assert [each.run for each in found.running()] == [f"{NOON + 10}"]
    found.on_run(run(NOON + 10, stage=Stage.BROKEN_OFF, order="o", dry_run=True))
    assert found.running() == []
    assert due(found, NOON + 11_010 + RETRY_MS) == (Scope.FULL, Cause.ORDER)
    found.on_run(run(NOON + 200_000, order="o", dry_run=True))
    found.on_order(order())
    assert due(found, NOON + 300_000) is None


def test_a_destination_whose_mode_forbids_it_holds_up_no_other() -> None:
    found = Schedule(Times(EVERY_MS, NIGHT_MS), ("board", "ehr"))
    found.on_order(order())
    assert found.due(NOON, {"ehr"}) == Due("board", Scope.FULL, Cause.NIGHTLY)
    assert found.due(NOON, {"board", "ehr"}) is None
    assert found.due(NOON) == Due("ehr", Scope.FULL, Cause.ORDER, order())


def test_what_is_read_again_later_begins_where_the_last_whole_run_ended() -> None:
    found = schedule()
    found.on_run(run(NOON))
    found.on_run(run(NOON + 500, stage=Stage.PARTIAL))
    assert (found.begun_at("ehr"), found.changed_until("ehr")) == (NOON, NOON)


def test_a_run_of_a_time_to_come_which_a_wrong_clock_began_holds_back_none() -> None:
    found = schedule()
    found.on_run(run(NOON + 400 * DAY_MS))
    assert due(found, NOON) == (Scope.FULL, Cause.NIGHTLY)
    found.on_run(run(NOON))
    assert due(found, NOON + EVERY_MS - 1) is None
    assert due(found, NOON + EVERY_MS) == (Scope.INCREMENTAL, Cause.SCHEDULE)
    assert found.begun_at("ehr") == NOON


def test_a_writer_whose_clock_is_ahead_has_all_compared_once_in_a_while_and_not_without_end() -> None:
    found = schedule()
    found.on_run(run(NOON))
    found.on_recovered("ehr", Millis(NOON + DAY_MS // 4))
    found.on_gap("ehr", Millis(NOON + DAY_MS // 4))
    assert due(found, NOON + 1_000) is None
    assert due(found, NOON + EVERY_MS) == (Scope.FULL, Cause.RECOVERED)
    found.on_run(run(NOON + EVERY_MS))
    assert due(found, NOON + EVERY_MS + 1_000) is None


def test_what_a_destination_dates_in_the_future_does_not_hide_what_changes_until_then() -> None:
    found = schedule()
    found.on_run(msgspec.structs.replace(run(NOON), changed_until=Millis(NOON + 400 * DAY_MS)))
    assert found.changed_until("ehr") == NOON
