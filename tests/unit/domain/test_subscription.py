"""One subscription, promise by promise. The property test plays everything at once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from pipeline.domain.identifiers import Millis
from pipeline.domain.subscriptions.life import (
    Action,
    CheckStatus,
    Create,
    Fetch,
    ReRead,
    Restore,
    State,
    SubscriptionStatus,
    Watch,
    Why,
    backoff_ms,
    decode_state,
    encode_state,
    first_state,
)
from pipeline.domain.subscriptions.state import (
    FETCH_TRIES,
    GAP_GRACE_MS,
    LATE_MS,
    MAX_FETCH,
    MAX_GAPS,
    OVERLAP_MS,
    POLL_AFTER_MS,
    RESTORE_TRIES,
    RETRY_MAX_MS,
    SILENT_CHECKS,
)

START = 1_800_000_000_000
HEARTBEAT_MS = 30_000
MINUTE_MS = 60_000
HOUR_MS = 3_600_000
ACTIVE = SubscriptionStatus.ACTIVE


@dataclass
class Feed:
    """A feed that runs: its first re-read is done, its subscription active, and nothing open."""

    watch: Watch = field(default_factory=lambda: Watch(heartbeat_ms=HEARTBEAT_MS, audit_ms=None))
    now: int = START
    state: State = field(default_factory=lambda: first_state(Millis(START)))
    told: tuple[Action, ...] = ()

    def __post_init__(self) -> None:
        self.status(ACTIVE, count=0)
        self.take(self.watch.on_start(self.state, self.at))
        self.reread_all()
        self.status(ACTIVE, count=0)
        assert self.state.open_since is None
        self.told = ()

    @property
    def at(self) -> Millis:
        return Millis(self.now)

    def take(self, told: tuple[State, tuple[Action, ...]]) -> tuple[Action, ...]:
        self.state, self.told = told
        return self.told

    def hears(
        self,
        *numbers: int,
        count: int | None = None,
        made_at: Sequence[int] = (),
        status: SubscriptionStatus = SubscriptionStatus.UNKNOWN,
    ) -> tuple[Action, ...]:
        count = max(numbers, default=0) if count is None else count
        made = [Millis(each) for each in made_at]
        return self.take(self.watch.on_notification(self.state, numbers, count, self.at, made, status))

    def after(self, ms: int) -> tuple[Action, ...]:
        self.now += ms
        return self.take(self.watch.on_tick(self.state, self.at))

    def status(self, status: SubscriptionStatus, count: int | None = None) -> tuple[Action, ...]:
        return self.take(self.watch.on_status(self.state, status, count, self.at, self.at))

    def reread_all(self) -> None:
        while (action := next((each for each in self.told if isinstance(each, ReRead)), None)) is not None:
            self.take(self.watch.on_reread(self.state, action, self.at, self.at))

    def alive_after(self, ms: int, count: int) -> tuple[Action, ...]:
        """Heartbeats until then; what the last one asks for."""
        for _ in range(ms // HEARTBEAT_MS + 1):
            self.now += min(HEARTBEAT_MS, ms)
            self.hears(count=count)
        return self.told


def one(actions: Sequence[Action], kind: type) -> Action:
    (found,) = [action for action in actions if isinstance(action, kind)]
    return found


# -- counting


def test_events_in_order_ask_for_nothing_and_prove_that_all_was_heard() -> None:
    feed = Feed()
    for number in range(1, 6):
        feed.now += 1000
        assert feed.hears(number) == ()
    assert (feed.state.cursor, feed.state.missing, feed.state.complete_to) == (5, 0, feed.now)


def test_several_events_in_one_notification_are_all_heard() -> None:
    feed = Feed()
    assert feed.hears(1, 2, 3) == ()
    assert feed.state.cursor == 3


def test_disorder_and_repeats_ask_for_nothing() -> None:
    feed = Feed()
    for number in (2, 1, 4, 4, 5, 3, 1):
        feed.now += 500
        assert feed.hears(number, count=5) == ()
    assert (feed.state.cursor, feed.state.gaps, feed.state.restarts) == (5, (), 0)


def test_a_gap_is_visible_at_once_and_fetched_after_the_grace() -> None:
    feed = Feed()
    feed.hears(1)
    assert feed.hears(4) == ()
    assert [(gap.first, gap.last) for gap in feed.state.gaps] == [(2, 3)]
    assert (feed.state.cursor, feed.state.open_since) == (1, feed.now)
    assert feed.after(GAP_GRACE_MS - 1) == ()
    (fetch,) = feed.after(1)
    assert fetch == Fetch(2, 3, feed.state.restarts)
    feed.take(feed.watch.on_fetched(feed.state, fetch, [3, 2], feed.at))
    assert (feed.state.cursor, feed.state.gaps) == (4, ())


def test_a_gap_stays_open_and_its_end_unproven_until_it_is_closed() -> None:
    feed = Feed()
    feed.hears(1)
    before = feed.state.complete_to
    feed.now += 1000
    feed.hears(3)
    feed.alive_after(2 * MINUTE_MS, count=3)
    assert [(gap.first, gap.last) for gap in feed.state.gaps] == [(2, 2)]
    assert feed.state.complete_to == before


def test_what_the_server_does_not_tell_again_is_read_again() -> None:
    feed = Feed()
    feed.hears(1)
    complete_to = feed.state.complete_to
    feed.now += 1000
    feed.hears(3)
    fetched = 0
    while not any(isinstance(action, ReRead) for action in feed.after(1000)):
        fetched += sum(isinstance(action, Fetch) for action in feed.told)
        feed.hears(count=3)
        assert feed.now < START + HOUR_MS
    assert fetched == FETCH_TRIES
    reread = one(feed.told, ReRead)
    assert reread == ReRead(Millis(complete_to - OVERLAP_MS), Why.GAP)
    feed.reread_all()
    assert (feed.state.gaps, feed.state.open_since, feed.state.complete_to) == ((), None, feed.now)


def test_a_server_without_events_operation_has_its_gap_read_again_after_the_grace() -> None:
    feed = Feed(Watch(fetches=False, audit_ms=None))
    feed.hears(2)
    assert isinstance(feed.after(GAP_GRACE_MS)[0], ReRead)


def test_a_reread_does_not_close_a_gap_that_opened_after_it_began() -> None:
    feed = Feed(Watch(fetches=False, audit_ms=None))
    feed.hears(2)
    reread = one(feed.after(GAP_GRACE_MS), ReRead)
    assert isinstance(reread, ReRead)
    started_at = feed.at
    feed.now += 1000
    feed.hears(4)
    feed.take(feed.watch.on_reread(feed.state, reread, started_at, feed.at))
    assert [(gap.first, gap.last) for gap in feed.state.gaps] == [(3, 3)]
    assert feed.state.complete_to == started_at


def test_a_reread_of_a_shorter_time_closes_nothing() -> None:
    feed = Feed(Watch(fetches=False, audit_ms=None))
    feed.hears(2)
    feed.after(GAP_GRACE_MS)
    feed.take(feed.watch.on_reread(feed.state, ReRead(feed.at, Why.SWEEP), feed.at, feed.at))
    assert feed.state.gaps
    assert feed.state.missed is not None


def test_a_reread_that_fails_is_asked_for_again() -> None:
    feed = Feed(Watch(fetches=False, audit_ms=None))
    feed.hears(2)
    one(feed.after(GAP_GRACE_MS), ReRead)
    assert feed.after(1) == ()
    one(feed.after(RETRY_MAX_MS), ReRead)


def test_a_heartbeat_tells_of_a_lost_tail() -> None:
    feed = Feed()
    feed.hears(1)
    feed.now += HEARTBEAT_MS
    feed.hears(count=3)
    assert [(gap.first, gap.last) for gap in feed.state.gaps] == [(2, 3)]


def test_a_wide_gap_is_read_again_instead_of_fetched() -> None:
    feed = Feed()
    feed.hears(1)
    feed.hears(MAX_FETCH + 3)
    assert [type(action) for action in feed.after(GAP_GRACE_MS)] == [ReRead]


def test_numbers_out_of_all_bounds_are_got_over() -> None:
    feed = Feed()
    feed.hears(1)
    feed.hears((1 << 63) - 1)
    feed.now += LATE_MS + 1
    feed.hears(2)
    feed.reread_all()
    assert (feed.state.cursor, feed.state.gaps) == (2, ())


def test_many_gaps_are_bounded_and_none_is_forgotten() -> None:
    feed = Feed()
    numbers = range(2, 6 * MAX_GAPS, 2)
    for number in numbers:
        feed.hears(number)
    assert len(feed.state.gaps) <= MAX_GAPS
    covered = {number for gap in feed.state.gaps for number in range(gap.first, gap.last + 1)}
    assert {number - 1 for number in numbers} <= covered
    assert len(encode_state(feed.state)) < 4096


# -- a counter that begins anew


def test_a_counter_that_falls_back_is_a_restart_and_not_a_gap() -> None:
    feed = Feed()
    feed.hears(*range(1, 101))
    complete_to = feed.state.complete_to
    feed.now += LATE_MS + 1
    (reread,) = feed.hears(1)
    assert reread == ReRead(Millis(complete_to - OVERLAP_MS), Why.RESTARTED)
    assert (feed.state.cursor, feed.state.gaps, feed.state.restarts) == (1, (), 1)


def test_numbers_that_repeat_after_a_restart_are_not_taken_as_heard() -> None:
    feed = Feed()
    feed.hears(*range(1, 101))
    feed.now += LATE_MS + 1
    feed.hears(1)
    feed.hears(4)
    assert [(gap.first, gap.last) for gap in feed.state.gaps] == [(2, 3)]


def test_nothing_is_proved_between_a_restart_and_its_reread() -> None:
    feed = Feed()
    feed.hears(*range(1, 101))
    complete_to = feed.state.complete_to
    feed.now += LATE_MS + 1
    feed.hears(1)
    feed.now += 1000
    feed.hears(2)
    assert feed.state.complete_to == complete_to


def test_a_lower_number_just_after_the_front_is_late_where_no_times_are_told() -> None:
    feed = Feed()
    feed.hears(*range(1, 101))
    feed.now += LATE_MS
    assert feed.hears(50) == ()
    assert feed.state.restarts == 0


def test_a_repeat_with_its_old_time_is_no_restart_however_late() -> None:
    feed = Feed()
    feed.hears(1, 2, made_at=(START, START + 10))
    feed.now += MINUTE_MS // 2
    assert feed.hears(1, made_at=(START,)) == ()
    assert feed.state.restarts == 0


def test_a_lower_number_with_a_later_time_is_a_restart_at_once() -> None:
    feed = Feed()
    feed.hears(1, 2, 3, made_at=(START, START, START))
    feed.now += 1500
    (reread,) = feed.hears(2, made_at=(feed.now,))
    assert isinstance(reread, ReRead)
    assert feed.state.restarts == 1


def test_the_front_s_own_number_with_a_later_time_is_a_restart() -> None:
    feed = Feed()
    feed.hears(1, made_at=(START,))
    feed.now += 1500
    assert isinstance(feed.hears(1, made_at=(feed.now,))[0], ReRead)


def test_an_answer_to_a_fetch_of_the_old_count_says_nothing_about_the_new_one() -> None:
    feed = Feed()
    feed.hears(1)
    feed.hears(4)
    fetch = one(feed.after(GAP_GRACE_MS), Fetch)
    assert isinstance(fetch, Fetch)
    feed.now += 2 * LATE_MS
    feed.hears(1)
    feed.hears(4)
    feed.take(feed.watch.on_fetched(feed.state, fetch, [2, 3], feed.at))
    assert [(gap.first, gap.last) for gap in feed.state.gaps] == [(2, 3)]


def test_a_fetch_that_tells_events_of_a_new_count_is_found_out_by_their_times() -> None:
    feed = Feed()
    feed.hears(1, made_at=(START,))
    feed.hears(4, made_at=(START,))
    fetch = one(feed.after(GAP_GRACE_MS), Fetch)
    assert isinstance(fetch, Fetch)
    actions = feed.take(feed.watch.on_fetched(feed.state, fetch, [2, 3], feed.at, [feed.at, feed.at]))
    assert isinstance(one(actions, ReRead), ReRead)


def test_an_asked_count_below_the_front_is_a_restart_unless_the_front_came_meanwhile() -> None:
    feed = Feed()
    feed.hears(1, 2)
    asked_at = feed.at
    feed.now += 100
    feed.hears(3)
    feed.take(feed.watch.on_status(feed.state, ACTIVE, 2, asked_at, feed.at))
    assert feed.state.restarts == 0
    feed.now += 100
    feed.take(feed.watch.on_status(feed.state, ACTIVE, 0, feed.at, feed.at))
    assert feed.state.restarts == 1


# -- the subscription itself


def test_a_heartbeat_that_is_overdue_has_the_status_checked() -> None:
    feed = Feed()
    feed.hears(1)
    limit = feed.watch.overdue_ms
    assert limit is not None
    assert feed.after(limit) == ()
    assert feed.after(1) == (CheckStatus(),)


def test_a_status_with_a_seamless_count_is_as_good_as_a_heartbeat() -> None:
    feed = Feed()
    feed.hears(1)
    feed.after(2 * HEARTBEAT_MS)
    assert feed.status(ACTIVE, count=1) == ()
    assert feed.after(HEARTBEAT_MS) == ()
    assert feed.state.broken_since is None


def test_after_silence_the_time_is_read_again() -> None:
    feed = Feed()
    feed.hears(1)
    complete_to = feed.state.complete_to
    feed.now += 10 * HEARTBEAT_MS
    reread = one(feed.hears(2), ReRead)
    assert reread == ReRead(Millis(complete_to - OVERLAP_MS), Why.SILENCE)


@pytest.mark.parametrize("status", [SubscriptionStatus.ERROR, SubscriptionStatus.OFF])
def test_a_broken_subscription_is_restored_and_then_made_anew(status: SubscriptionStatus) -> None:
    feed = Feed()
    feed.hears(1)
    done: list[Action] = [*feed.status(status)]
    while not any(isinstance(action, Create) for action in done):
        done += [action for action in feed.after(1000) if not isinstance(action, ReRead)]
        assert feed.now < START + HOUR_MS
    assert [type(action) for action in done] == [Restore] * RESTORE_TRIES + [Create]


@pytest.mark.parametrize("status", [SubscriptionStatus.ABSENT, SubscriptionStatus.ENTERED_IN_ERROR])
def test_a_subscription_that_is_gone_is_made_anew_and_counted_from_the_start(status: SubscriptionStatus) -> None:
    feed = Feed()
    feed.hears(1, 2, 3)
    complete_to = feed.state.complete_to
    feed.now += 1000
    assert feed.status(status) == (Create(),)
    feed.now += 1000
    actions = feed.take(feed.watch.on_created(feed.state, SubscriptionStatus.REQUESTED, feed.at))
    assert one(actions, ReRead) == ReRead(Millis(complete_to - OVERLAP_MS), Why.RESTARTED)
    feed.hears(2, status=ACTIVE)
    assert [(gap.first, gap.last) for gap in feed.state.gaps] == [(1, 1)]


def test_the_time_that_a_subscription_was_broken_is_read_again() -> None:
    feed = Feed(Watch(numbered=False, audit_ms=None))
    complete_to = feed.state.complete_to
    feed.now += 1000
    feed.status(SubscriptionStatus.ERROR)
    feed.now += 1000
    assert one(feed.status(ACTIVE), ReRead) == ReRead(Millis(complete_to - OVERLAP_MS), Why.RESTORED)


def test_an_adopted_subscription_has_an_unknown_count_and_no_gap() -> None:
    feed = Feed()
    feed.status(SubscriptionStatus.ABSENT)
    feed.take(feed.watch.on_created(feed.state, ACTIVE, feed.at, adopted=True))
    feed.hears(700)
    assert (feed.state.cursor, feed.state.gaps) == (700, ())


def test_a_silent_subscription_that_calls_itself_active_is_reset() -> None:
    feed = Feed()
    feed.hears(1)
    checks = 0
    while not any(isinstance(action, Restore) for action in feed.after(1000)):
        checks += sum(isinstance(action, CheckStatus) for action in feed.told)
        feed.status(ACTIVE)
        assert feed.now < START + HOUR_MS
    assert checks == SILENT_CHECKS


def test_a_subscription_without_heartbeat_is_looked_at_now_and_then() -> None:
    feed = Feed(Watch(audit_ms=None))
    feed.hears(1)
    seen = 0
    for _ in range(20):
        if CheckStatus() in feed.after(MINUTE_MS):
            seen += 1
            feed.status(ACTIVE)
        feed.reread_all()
    assert seen == 4
    assert feed.state.broken_since is None


def test_a_handshake_says_that_the_server_begins_and_events_that_it_is_active() -> None:
    feed = Feed()
    feed.hears(count=0, status=SubscriptionStatus.REQUESTED)
    assert feed.state.status is SubscriptionStatus.REQUESTED
    feed.hears(1)
    assert feed.state.status is ACTIVE


def test_polling_takes_the_place_of_a_broken_subscription_and_shows() -> None:
    feed = Feed(Watch(heartbeat_ms=HEARTBEAT_MS, poll_ms=20_000, audit_ms=None))
    feed.hears(1)
    feed.status(SubscriptionStatus.ERROR)
    assert feed.state.polling_since is None
    feed.after(POLL_AFTER_MS)
    polling_since = feed.state.polling_since
    assert polling_since == feed.now
    polls = 0
    for _ in range(60):
        polls += sum(action.why is Why.POLLING for action in feed.told if isinstance(action, ReRead))
        feed.reread_all()
        feed.after(2000)
    assert 4 <= polls <= 7
    feed.status(ACTIVE)
    assert feed.state.polling_since is None


def test_while_notifications_are_refused_what_changed_is_read_as_often_as_polling_would_and_no_more() -> None:
    feed = Feed(Watch(poll_ms=20_000, sweep_ms=HOUR_MS, audit_ms=None))
    reads = 0
    for _ in range(600):
        feed.take(feed.watch.on_refused(feed.state, feed.at))
        feed.after(200)
        reads += sum(action.why is Why.REFUSED for action in feed.told if isinstance(action, ReRead))
        feed.reread_all()
    assert 5 <= reads <= 7
    feed.after(20_000)
    feed.reread_all()
    feed.told = ()
    feed.after(10 * MINUTE_MS)
    assert not [action for action in feed.told if isinstance(action, ReRead)], "none is refused any more"


# -- what numbers can't prove


def test_a_channel_without_numbers_is_swept() -> None:
    feed = Feed(Watch(numbered=False, sweep_ms=10 * MINUTE_MS, audit_ms=None))
    complete_to = feed.state.complete_to
    feed.now += 9 * MINUTE_MS
    feed.take(feed.watch.on_notification(feed.state, (), None, feed.at))
    assert feed.state.complete_to == complete_to
    assert one(feed.after(MINUTE_MS), ReRead) == ReRead(Millis(complete_to - OVERLAP_MS), Why.SWEEP)


def test_numbers_that_are_not_unique_prove_nothing() -> None:
    feed = Feed(Watch(unique=False, sweep_ms=10 * MINUTE_MS, audit_ms=None))
    complete_to = feed.state.complete_to
    feed.now += 1000
    feed.hears(1)
    assert feed.state.complete_to == complete_to


def test_now_and_then_all_is_read_again_whatever_the_numbers_say() -> None:
    feed = Feed(Watch(heartbeat_ms=HEARTBEAT_MS, audit_ms=HOUR_MS))
    feed.hears(1)
    audited_to = feed.state.audited_to
    audits: list[ReRead] = []
    while not audits:
        feed.now += HEARTBEAT_MS
        audits = [action for action in feed.hears(count=1) if isinstance(action, ReRead)]
        assert feed.now <= START + HOUR_MS
    assert audits == [ReRead(Millis(audited_to - OVERLAP_MS), Why.AUDIT)]
    feed.reread_all()
    assert feed.state.audited_to == feed.now


# -- a clock that is set back


def test_a_feed_goes_on_being_swept_when_the_clock_is_set_back() -> None:
    feed = Feed(Watch(numbered=False, sweep_ms=10 * MINUTE_MS, audit_ms=None))
    feed.after(-HOUR_MS)
    back = feed.now
    assert not [action for action in feed.told if isinstance(action, ReRead)]
    assert one(feed.after(10 * MINUTE_MS), ReRead) == ReRead(Millis(back - OVERLAP_MS), Why.SWEEP)
    feed.reread_all()
    assert feed.state.complete_to == feed.now


@pytest.mark.parametrize("later_ms", [1, 10 * MINUTE_MS, 2 * HOUR_MS])
def test_after_the_clock_was_set_back_no_re_read_leaves_out_what_changed_since(later_ms: int) -> None:
    feed = Feed(Watch(heartbeat_ms=HEARTBEAT_MS, poll_ms=20_000, audit_ms=HOUR_MS))
    feed.hears(1)
    feed.status(SubscriptionStatus.ERROR)
    feed.after(-HOUR_MS)
    back = feed.now
    feed.after(later_ms)
    feed.after(POLL_AFTER_MS)
    asked = feed.told if any(isinstance(each, ReRead) for each in feed.told) else feed.after(RETRY_MAX_MS)
    assert min(action.since for action in asked if isinstance(action, ReRead)) <= back


def test_a_gap_of_before_the_clock_was_set_back_is_closed_by_a_re_read_after_it() -> None:
    feed = Feed(Watch(heartbeat_ms=HEARTBEAT_MS, fetches=False, audit_ms=None))
    feed.hears(1)
    feed.hears(3)
    feed.after(-HOUR_MS)
    feed.after(RETRY_MAX_MS)
    assert any(isinstance(action, ReRead) for action in feed.told)
    feed.now += 1
    feed.reread_all()
    assert (feed.state.gaps, feed.state.missed) == ((), None)


def test_a_re_read_in_whose_midst_the_clock_was_set_back_proves_nothing() -> None:
    feed = Feed(Watch(numbered=False, sweep_ms=10 * MINUTE_MS, audit_ms=None))
    action = one(feed.after(10 * MINUTE_MS), ReRead)
    assert isinstance(action, ReRead)
    started_at = feed.at
    feed.now -= HOUR_MS
    feed.take(feed.watch.on_reread(feed.state, action, started_at, feed.at))
    assert feed.state.missed is not None
    assert feed.state.complete_to <= feed.now


def test_a_receiver_that_starts_with_a_clock_behind_its_state_reads_from_now_and_not_from_then() -> None:
    feed = Feed()
    feed.now -= HOUR_MS
    actions = feed.take(feed.watch.on_start(feed.state, feed.at))
    assert one(actions, ReRead) == ReRead(Millis(feed.now - OVERLAP_MS), Why.STARTED)


# -- what is kept


def test_a_receiver_that_starts_reads_the_time_since_its_state_again() -> None:
    feed = Feed()
    feed.hears(1)
    kept = encode_state(feed.state)
    complete_to = feed.state.complete_to
    state = decode_state(kept)
    assert state == feed.state
    feed.now += HOUR_MS
    actions = feed.take(feed.watch.on_start(state, feed.at))
    assert one(actions, ReRead) == ReRead(Millis(complete_to - OVERLAP_MS), Why.STARTED)
    assert one(actions, CheckStatus) == CheckStatus()


def test_a_state_that_cannot_be_read_is_none() -> None:
    kept = encode_state(first_state(Millis(START)))
    assert decode_state(b"") is None
    assert decode_state(b"\xff" + kept[1:]) is None
    assert decode_state(kept[:-3]) is None


def test_a_first_state_reads_from_the_time_that_it_is_given() -> None:
    watch = Watch()
    _, actions = watch.on_start(first_state(Millis(START), since=Millis(START - HOUR_MS)), Millis(START))
    assert one(actions, ReRead) == ReRead(Millis(START - HOUR_MS - OVERLAP_MS), Why.STARTED)


def test_tries_wait_longer_each_time_up_to_a_bound() -> None:
    waits = [backoff_ms(tried) for tried in range(1, 40)]
    assert waits == sorted(waits)
    assert waits[-1] == RETRY_MAX_MS


def test_a_reread_that_began_before_a_restart_is_not_the_one_that_the_restart_asks_for() -> None:
    feed = Feed()
    feed.hears(1, 2)
    feed.now += LATE_MS + 1
    reread = one(feed.hears(1), ReRead)
    assert isinstance(reread, ReRead)
    started_at = feed.at
    feed.now += LATE_MS + 1
    feed.hears(count=0)
    feed.take(feed.watch.on_reread(feed.state, reread, started_at, feed.at))
    assert feed.state.missed is not None
    feed.reread_all()
    assert feed.state.missed is None


def test_a_repair_that_was_just_asked_for_is_not_asked_for_again() -> None:
    feed = Feed()
    assert Restore() in feed.status(SubscriptionStatus.ERROR)
    assert feed.after(1) == ()
    assert Restore() in feed.after(backoff_ms(1))


def test_an_event_of_the_very_moment_in_which_a_reread_began_is_not_taken_as_read() -> None:
    feed = Feed(Watch(fetches=False, audit_ms=None))
    feed.hears(2)
    reread = one(feed.after(GAP_GRACE_MS), ReRead)
    assert isinstance(reread, ReRead)
    feed.hears(4)
    feed.take(feed.watch.on_reread(feed.state, reread, feed.at, feed.at))
    assert [(gap.first, gap.last) for gap in feed.state.gaps] == [(3, 3)]


def test_what_is_open_stays_open_since_it_first_was() -> None:
    feed = Feed()
    feed.hears(1)
    feed.now += LATE_MS + 1
    feed.hears(count=0)
    opened_at = feed.now
    feed.hears(1)
    feed.now += LATE_MS + 1
    feed.hears(count=0)
    assert feed.state.open_since == opened_at
