"""One subscription under everything that can happen to it: notifications lost, late, repeated and in any order, a server whose
counter begins anew, a receiver that comes back with any earlier state, `$events` or not, times told or not.

At the end each event that the server made was handed over or read again, and nothing stays open.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

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
    decode_state,
    encode_state,
    first_state,
)
from pipeline.domain.subscriptions.state import MAX_GAPS
from tests.support.examples import examples

START = 1_800_000_000_000
TRANSIT_MS = 60_000
"""How long a notification may be under way."""
RESTART_MS = 10_000
"""How long a server is away while it restarts: longer than a lower number counts as late."""
BACK_AT_ONCE_MS = 2_000
HEARTBEAT_MS = 30_000
HOUR_MS = 3_600_000
STEPS_TO_THE_END = 400


@dataclass
class Event:
    number: int
    life: int
    made_at: int


@dataclass
class Message:
    events: tuple[Event, ...]
    count: int
    sent_at: int


@dataclass
class Server:
    """Counts its events in memory; keeps the resources, and the events of this life."""

    skew_ms: int
    life: int = 0
    count: int = 0
    status: SubscriptionStatus = SubscriptionStatus.ACTIVE
    events: list[Event] = field(default_factory=list)
    transit: list[Message] = field(default_factory=list)

    def make(self, now: int, several: int) -> None:
        made = []
        for _ in range(several):
            self.count += 1
            made.append(Event(self.count, self.life, now + self.skew_ms))
        self.events += made
        if self.status is SubscriptionStatus.ACTIVE:
            self.transit.append(Message(tuple(made), self.count, now))


class SubscriptionMachine(RuleBasedStateMachine):
    """Everything at once; now and then all is read again, whatever the numbers say."""

    restarts: ClassVar[bool] = True
    audit_ms: ClassVar[int | None] = HOUR_MS
    times_told: ClassVar[bool] = False

    @initialize(
        fetches=st.booleans(), timed=st.booleans(), heartbeat=st.booleans(), skew=st.integers(min_value=-60_000, max_value=60_000)
    )
    def begin(self, fetches: bool, timed: bool, heartbeat: bool, skew: int) -> None:
        self.now = START
        self.timed = timed or self.times_told
        self.server = Server(skew)
        beat = HEARTBEAT_MS if heartbeat else None
        self.watch = Watch(heartbeat_ms=beat, fetches=fetches, sweep_ms=10 * HOUR_MS, audit_ms=self.audit_ms)
        self.handed: set[int] = set()
        self.kept: list[bytes] = []
        self.todo: list[Action] = []
        self.reading: tuple[ReRead, Millis] | None = None
        self.state = first_state(Millis(self.now))
        self.take(self.watch.on_start(self.state, Millis(self.now)))
        self.do_all()

    # -- the receiver

    def take(self, told: tuple[State, tuple[Action, ...]]) -> None:
        self.state = told[0]
        self.kept.append(encode_state(self.state))
        self.todo = [action for action in self.todo if action not in told[1]] + list(told[1])

    def hand_over(self, events: tuple[Event, ...] | list[Event]) -> None:
        self.handed |= {id(event) for event in events}

    def do(self, action: Action) -> None:
        now = Millis(self.now)
        match action:
            case ReRead(since=since):
                self.hand_over([event for event in self.server.events if event.made_at >= since])
                self.take(self.watch.on_reread(self.state, action, now, now))
            case Fetch(first=first, last=last):
                found = [e for e in self.server.events if e.life == self.server.life and first <= e.number <= last]
                self.hand_over(found)
                self.take(self.watch.on_fetched(self.state, action, [e.number for e in found], now, self.times(found)))
            case CheckStatus():
                self.take(self.watch.on_status(self.state, self.server.status, self.server.count, now, now))
            case Restore():
                self.server.status = SubscriptionStatus.ACTIVE
                self.take(self.watch.on_status(self.state, self.server.status, None, now, now))
            case Create():
                self.server.status, self.server.count = SubscriptionStatus.ACTIVE, 0
                self.server.life += 1
                self.take(self.watch.on_created(self.state, self.server.status, now))

    def do_all(self) -> None:
        for _ in range(20):
            if not self.todo:
                return
            self.do(self.todo.pop(0))

    def times(self, events: tuple[Event, ...] | list[Event]) -> list[Millis | None]:
        return [Millis(event.made_at) if self.timed else None for event in events]

    # -- what happens

    @rule(seconds=st.sampled_from([1, 3, 7, 20, 70]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds * 1000
        self.server.transit = [m for m in self.server.transit if self.now - m.sent_at <= TRANSIT_MS]
        self.take(self.watch.on_tick(self.state, Millis(self.now)))

    @rule(several=st.integers(min_value=1, max_value=3), gap_s=st.integers(min_value=0, max_value=3))
    def something_happens_at_the_server(self, several: int, gap_s: int) -> None:
        self.now += gap_s * 1000
        self.server.make(self.now, several)

    @precondition(lambda self: self.server.transit)
    @rule(data=st.data(), stays=st.booleans())
    def a_notification_arrives(self, data: st.DataObject, stays: bool) -> None:
        index = data.draw(st.integers(min_value=0, max_value=len(self.server.transit) - 1))
        message = self.server.transit[index] if stays else self.server.transit.pop(index)
        self.arrives(message)

    def arrives(self, message: Message) -> None:
        self.hand_over(message.events)
        numbers = [event.number for event in message.events]
        told = self.watch.on_notification(self.state, numbers, message.count, Millis(self.now), self.times(message.events))
        self.take(told)

    @precondition(lambda self: self.server.transit)
    @rule(data=st.data())
    def a_notification_is_lost(self, data: st.DataObject) -> None:
        self.server.transit.pop(data.draw(st.integers(min_value=0, max_value=len(self.server.transit) - 1)))

    @precondition(lambda self: self.server.status is SubscriptionStatus.ACTIVE)
    @rule()
    def a_heartbeat(self) -> None:
        self.take(self.watch.on_notification(self.state, (), self.server.count, Millis(self.now)))

    @rule(status=st.sampled_from([SubscriptionStatus.ERROR, SubscriptionStatus.OFF, SubscriptionStatus.ABSENT]))
    def the_subscription_breaks(self, status: SubscriptionStatus) -> None:
        if self.restarts or status is not SubscriptionStatus.ABSENT:
            self.server.status = status

    @precondition(lambda self: self.restarts)
    @rule()
    def the_counter_begins_anew(self) -> None:
        self.restart()

    def restart(self, away_ms: int = RESTART_MS) -> None:
        self.now += away_ms
        self.server.life += 1
        self.server.count = 0
        self.server.transit = []

    @precondition(lambda self: self.todo)
    @rule()
    def the_receiver_does_what_is_due(self) -> None:
        self.do(self.todo.pop(0))

    @precondition(lambda self: any(isinstance(action, ReRead) for action in self.todo))
    @rule()
    def a_reread_begins(self) -> None:
        action = next(action for action in self.todo if isinstance(action, ReRead))
        self.todo.remove(action)
        self.reading = (action, Millis(self.now))
        self.hand_over([event for event in self.server.events if event.made_at >= action.since])

    @precondition(lambda self: self.reading)
    @rule()
    def a_reread_ends(self) -> None:
        assert self.reading is not None
        (action, started_at), self.reading = self.reading, None
        self.take(self.watch.on_reread(self.state, action, started_at, Millis(self.now)))

    @precondition(lambda self: self.todo)
    @rule()
    def what_is_due_fails(self) -> None:
        self.todo.pop(0)

    @rule(data=st.data())
    def the_receiver_comes_back_with_an_earlier_state(self, data: st.DataObject) -> None:
        state = decode_state(self.kept[data.draw(st.integers(min_value=0, max_value=len(self.kept) - 1))])
        assert state is not None
        self.todo = []
        self.reading = None
        self.take(self.watch.on_start(state, Millis(self.now)))

    # -- what has to hold

    @invariant()
    def gaps_are_apart_and_in_order(self) -> None:
        if not hasattr(self, "state"):
            return
        ends = [end for gap in self.state.gaps for end in (gap.first, gap.last)]
        assert ends == sorted(ends)
        assert len(self.state.gaps) <= MAX_GAPS
        assert self.state.cursor <= (self.state.front or 0)
        assert all(gap.last <= (self.state.front or 0) for gap in self.state.gaps)

    def teardown(self) -> None:
        if not hasattr(self, "state"):
            return
        self.server.transit = []
        limit = self.now + (self.audit_ms or 0) + 15 * 60_000
        for _ in range(STEPS_TO_THE_END):
            self.now += 15_000
            if self.server.status is SubscriptionStatus.ACTIVE:
                self.take(self.watch.on_notification(self.state, (), self.server.count, Millis(self.now)))
            else:
                self.take(self.watch.on_tick(self.state, Millis(self.now)))
            self.do_all()
            if self.now > limit:
                break
        missing = [(event.life, event.number) for event in self.server.events if id(event) not in self.handed]
        assert missing == []
        assert self.state.gaps == ()
        assert self.state.missed is None
        assert self.state.open_since is None
        assert self.state.status is SubscriptionStatus.ACTIVE
        assert self.state.polling_since is None


class WithoutAudit(SubscriptionMachine):
    """As long as the server keeps its count, the numbers alone find everything that was lost."""

    restarts = False
    audit_ms = None


class RestartsThatShow(SubscriptionMachine):
    """A restart behind a front that we know is found by the count that falls back, without an audit."""

    audit_ms = None

    @precondition(lambda self: self.state.front == self.server.count and self.server.status is SubscriptionStatus.ACTIVE)
    @rule()
    def the_counter_begins_anew(self) -> None:
        self.restart()
        self.take(self.watch.on_notification(self.state, (), 0, Millis(self.now)))


class RestartsThatTimesProve(SubscriptionMachine):
    """A server that tells times and is back at once: a lower number with a later time is enough."""

    audit_ms = None
    times_told = True

    @precondition(
        lambda self: (
            self.state.front == self.server.count
            and self.state.front_made_at is not None
            and self.server.status is SubscriptionStatus.ACTIVE
        )
    )
    @rule()
    def the_counter_begins_anew(self) -> None:
        self.restart(BACK_AT_ONCE_MS)
        self.server.make(self.now, 1)
        self.arrives(self.server.transit.pop())


TestSubscription = SubscriptionMachine.TestCase
TestSubscription.settings = settings(max_examples=examples(70), stateful_step_count=40, deadline=None)
TestWithoutAudit = WithoutAudit.TestCase
TestWithoutAudit.settings = settings(max_examples=examples(70), stateful_step_count=40, deadline=None)
TestRestartsThatShow = RestartsThatShow.TestCase
TestRestartsThatShow.settings = settings(max_examples=examples(70), stateful_step_count=40, deadline=None)
TestRestartsThatTimesProve = RestartsThatTimesProve.TestCase
TestRestartsThatTimesProve.settings = settings(max_examples=examples(70), stateful_step_count=40, deadline=None)
