"""The mode machine of one destination: bounds, dwell, orders, outages, and what a restart takes up."""

import pytest

from pipeline.domain.identifiers import Millis
from pipeline.domain.writing.modes import Cause, Entered, Figures, Force, Known, Mode, Modes
from pipeline.roles.policies import load_modes

POLICY = load_modes()
SLOW, SEVERE = POLICY.slow, POLICY.severe
NOW_MS = 1_800_000_000_000


def figures(wait_s: float = 0.0, turn_s: float = 0.0, *, is_open: bool = False, answers: bool = True) -> Figures:
    return Figures(is_open, {}, max(wait_s, turn_s), turn_s, answers)


CALM = figures()
WAITS = figures(SLOW.enter_after_s + 0.1)
TURNS_WAIT = figures(turn_s=SEVERE.enter_after_s + 0.1)
OPEN = figures(9.0, 9.0, is_open=True)


class Played:
    """A machine on a clock moved by hand."""

    def __init__(self, known: Known | None = None) -> None:
        self.modes = Modes(POLICY, known)
        self.now = NOW_MS
        self.order: Force | None = None
        self.changes: list[Entered] = []

    def see(self, seen: Figures, for_s: float = 0.5, step_s: float = 0.5) -> Mode:
        for _ in range(max(1, round(for_s / step_s))):
            self.now += int(step_s * 1000)
            change = self.modes.judge(seen, Millis(self.now), self.order)
            if change is not None:
                assert change.mode is self.modes.mode
                self.changes.append(change)
        return self.modes.mode

    def force(self, mode: Mode, for_s: float = 3_600) -> None:
        self.order = Force(mode, "operator:a", "why", Millis(self.now), Millis(self.now + int(for_s * 1000)))

    @property
    def entered(self) -> list[tuple[Mode, Cause]]:
        return [(change.mode, change.cause) for change in self.changes]


def test_a_backlog_that_keeps_moving_is_normal() -> None:
    played = Played()
    played.see(figures(SLOW.enter_after_s, SLOW.enter_after_s), 600)
    assert played.entered == []


def test_slow_is_left_only_below_its_lower_bound_for_a_while_and_after_its_dwell() -> None:
    played = Played()
    played.see(WAITS)
    between = figures((SLOW.enter_after_s + SLOW.leave_below_s) / 2)
    assert played.see(between, 60) is Mode.SLOW
    assert played.see(CALM, SLOW.calm_s - 1) is Mode.SLOW
    assert played.see(between) is Mode.SLOW
    assert played.see(CALM, SLOW.calm_s + 1) is Mode.NORMAL
    assert played.entered == [(Mode.SLOW, Cause.WAITS), (Mode.NORMAL, Cause.CALM)]


def test_severe_is_entered_by_turns_that_wait_and_never_by_what_is_frozen_or_routine() -> None:
    played = Played()
    assert played.see(figures(3_600), 60) is Mode.SLOW
    assert played.see(TURNS_WAIT) is Mode.SEVERE
    assert played.see(figures(3_600), SEVERE.dwell_s - 2) is Mode.SEVERE
    assert played.see(figures(3_600), SEVERE.calm_s + 2) is Mode.SLOW
    assert played.entered[-1] == (Mode.SLOW, Cause.CAUGHT_UP)


def test_a_dwell_holds_back_what_is_milder_and_never_an_outage() -> None:
    played = Played()
    played.see(TURNS_WAIT)
    assert played.see(CALM, SEVERE.dwell_s - 1) is Mode.SEVERE
    assert played.see(OPEN) is Mode.OUTAGE


def test_an_outage_ends_when_the_breaker_stays_closed_and_recovery_when_what_waited_then_is_written() -> None:
    played = Played()
    played.see(OPEN, 60)
    assert played.see(figures(60)) is Mode.OUTAGE
    assert played.see(OPEN) is Mode.OUTAGE
    played.see(figures(60), POLICY.outage.calm_s + 0.5)
    assert played.modes.mode is Mode.RECOVERY
    back_at = played.modes.back_at
    assert back_at is not None
    assert played.see(figures(70), 10) is Mode.RECOVERY
    newer_s = (played.now + 500 - back_at) / 1000 - 0.1
    assert played.see(figures(newer_s)) is not Mode.RECOVERY
    assert [cause for _, cause in played.entered] == [Cause.BREAKER_OPEN, Cause.ANSWERS_AGAIN, Cause.DRAINED]


def test_what_waited_through_an_outage_is_no_reason_for_severe_and_what_waits_on_after_it_is() -> None:
    played = Played()
    played.see(OPEN, 600)
    played.see(figures(turn_s=600), SEVERE.enter_after_s - 1)
    assert played.modes.mode is Mode.RECOVERY
    assert played.see(figures(turn_s=620), 4) is Mode.SEVERE
    assert played.see(figures(620, 0.1), SEVERE.dwell_s + SEVERE.calm_s) is Mode.RECOVERY
    assert played.see(CALM) is Mode.NORMAL
    assert [cause for _, cause in played.entered][-3:] == [Cause.TURNS_WAIT, Cause.CAUGHT_UP, Cause.DRAINED]


def test_an_outage_during_recovery_is_an_outage_again() -> None:
    played = Played()
    for _ in range(2):
        played.see(OPEN, 5)
        played.see(figures(60), 5)
    assert [mode for mode, _ in played.entered] == [Mode.OUTAGE, Mode.RECOVERY] * 2


def test_a_forced_mode_holds_whatever_the_figures_say_and_ends_with_its_time() -> None:
    played = Played()
    played.force(Mode.SEVERE, 60)
    assert played.see(CALM, 59) is Mode.SEVERE
    assert played.modes.is_forced
    assert played.see(CALM, 2) is Mode.NORMAL
    assert played.entered == [(Mode.SEVERE, Cause.FORCED), (Mode.NORMAL, Cause.EXPIRED)]


def test_a_release_lets_the_figures_decide_at_once_and_an_order_for_the_mode_that_it_is_in_is_told_too() -> None:
    played = Played()
    played.see(WAITS, 10)
    played.force(Mode.SLOW)
    played.see(WAITS, 10)
    played.force(Mode.NORMAL)
    played.see(TURNS_WAIT, 10)
    played.order = None
    played.see(TURNS_WAIT)
    assert played.entered == [
        (Mode.SLOW, Cause.WAITS),
        (Mode.SLOW, Cause.FORCED),
        (Mode.NORMAL, Cause.FORCED),
        (Mode.SEVERE, Cause.RELEASED),
    ]


def test_in_a_forced_outage_nothing_is_sent_and_what_waited_is_recovered_when_it_ends() -> None:
    played = Played()
    played.force(Mode.OUTAGE, 30)
    played.see(figures(1), 30)
    assert played.modes.holds is False
    assert played.entered[0] == (Mode.OUTAGE, Cause.FORCED)
    assert played.modes.mode is Mode.RECOVERY
    assert played.entered[1] == (Mode.RECOVERY, Cause.EXPIRED)


def test_a_destination_that_does_not_answer_is_in_outage_whatever_is_forced_and_the_order_holds_again_after_it() -> None:
    played = Played()
    played.force(Mode.NORMAL)
    played.see(CALM)
    assert played.see(OPEN, 10) is Mode.OUTAGE
    assert not played.modes.holds
    played.see(figures(60), 60)
    assert played.entered[-1] == (Mode.NORMAL, Cause.FORCED)
    played.order = None
    played.see(figures(600))
    played.see(CALM)
    assert played.entered[-2:] == [(Mode.RECOVERY, Cause.RELEASED), (Mode.NORMAL, Cause.DRAINED)]


HOUR_MS = 3_600_000


def test_a_clock_that_is_set_back_prolongs_no_outage_no_recovery_and_no_calm() -> None:
    played = Played()
    played.see(OPEN, 5)
    played.see(figures(60))
    played.now -= HOUR_MS
    assert played.see(figures(60), POLICY.outage.calm_s + 1) is Mode.RECOVERY
    played.now -= HOUR_MS
    assert played.see(CALM) is Mode.NORMAL
    played.see(WAITS)
    played.see(CALM, SLOW.calm_s / 2)
    played.now -= HOUR_MS
    assert played.see(CALM, max(SLOW.calm_s, SLOW.dwell_s) + 1) is Mode.NORMAL


def test_a_clock_that_is_set_back_in_a_recovery_hides_no_wait() -> None:
    played = Played()
    played.see(OPEN, 5)
    played.see(figures(60), POLICY.outage.calm_s + 1)
    played.now -= HOUR_MS
    assert played.see(figures(turn_s=600), SEVERE.enter_after_s + 1) is Mode.SEVERE


# -- a restart


def test_after_a_restart_in_an_outage_a_breaker_that_knows_nothing_does_not_end_it() -> None:
    played = Played(Known(Mode.OUTAGE, Cause.BREAKER_OPEN, Millis(NOW_MS - 60_000)))
    assert played.see(figures(60, answers=False), 30) is Mode.OUTAGE
    assert played.see(figures(60), 2) is Mode.RECOVERY
    assert played.entered == [(Mode.RECOVERY, Cause.ANSWERS_AGAIN)]


def test_after_a_restart_in_severe_what_was_frozen_stays_so_and_the_freeze_is_as_old_as_it_was() -> None:
    played = Played(Known(Mode.SEVERE, Cause.TURNS_WAIT, Millis(NOW_MS - 60_000), None, Millis(NOW_MS - 60_000)))
    assert played.modes.freezes == SEVERE.freezes
    assert played.see(TURNS_WAIT, 60) is Mode.SEVERE
    assert played.modes.frozen_since == NOW_MS - 60_000
    assert played.entered == []


def test_after_a_restart_in_severe_during_a_recovery_the_recovery_is_ended_and_told() -> None:
    played = Played(Known(Mode.SEVERE, Cause.TURNS_WAIT, Millis(NOW_MS - 60_000), Millis(NOW_MS - 90_000)))
    played.see(figures(600, 0.1), 20)
    played.see(CALM)
    assert played.entered == [(Mode.RECOVERY, Cause.CAUGHT_UP), (Mode.NORMAL, Cause.DRAINED)]


@pytest.mark.parametrize("mode", [Mode.SEVERE, Mode.NORMAL])
def test_after_a_restart_a_forced_mode_holds_without_being_told_again_and_ends_visibly_if_its_time_passed(mode: Mode) -> None:
    played = Played(Known(mode, Cause.FORCED, Millis(NOW_MS - 60_000)))
    played.force(mode, 10)
    played.see(CALM, 9)
    assert played.entered == []
    played.see(CALM, 2)
    assert played.entered == [(Mode.NORMAL, Cause.EXPIRED)]


def test_after_a_restart_in_a_forced_outage_that_ended_meanwhile_nobody_waits_for_an_answer() -> None:
    played = Played(Known(Mode.OUTAGE, Cause.FORCED, Millis(NOW_MS - 60_000)))
    assert played.see(figures(answers=False), 1) is Mode.NORMAL
    assert played.entered == [(Mode.RECOVERY, Cause.RELEASED), (Mode.NORMAL, Cause.DRAINED)]


# -- the longest freeze


def test_a_freeze_that_lasts_as_long_as_it_may_thaws_in_part_and_not_all_at_once() -> None:
    thaw = POLICY.thaw
    played = Played()
    played.see(TURNS_WAIT)
    began = played.now
    assert played.modes.thaws(Millis(began + int(thaw.after_s * 1000) - 1)) == 0
    let_go = 0
    for step in range(241):
        let_go += played.modes.thaws(Millis(began + int(thaw.after_s * 1000) + step * 500))
    assert let_go == pytest.approx(1 + 120 * thaw.per_s, abs=1)
    played.see(CALM, SEVERE.dwell_s + SLOW.dwell_s + 5)
    assert played.modes.mode is Mode.NORMAL
    assert played.modes.thaws(Millis(played.now + 10_000_000)) == 0


def thawing() -> Played:
    """A freeze that has lasted for longer than it may."""
    played = Played()
    played.see(TURNS_WAIT)
    played.now += int(POLICY.thaw.after_s * 1000) + 60_000
    assert played.modes.thaws(Millis(played.now)) == 1
    return played


def test_a_clock_that_is_set_back_a_little_amid_a_thaw_takes_nothing_back() -> None:
    played = thawing()
    played.now -= 3_000
    assert played.modes.thaws(Millis(played.now)) == 0
    played.now += int(5_000 / POLICY.thaw.per_s)
    assert played.modes.thaws(Millis(played.now)) == 5


def test_a_clock_that_is_set_back_before_the_freeze_lets_it_last_no_longer_than_it_may_from_then_on() -> None:
    played = thawing()
    played.now -= HOUR_MS
    assert played.modes.thaws(Millis(played.now)) == 0
    played.now += int(POLICY.thaw.after_s * 1000)
    assert played.modes.thaws(Millis(played.now)) == 1, "one, and not all that might have thawed meanwhile"


def test_normal_and_recovery_freeze_nothing() -> None:
    played = Played()
    assert played.modes.freezes == ()
    played.see(OPEN)
    played.see(figures(600), 5)
    assert (played.modes.mode, played.modes.freezes) == (Mode.RECOVERY, ())
