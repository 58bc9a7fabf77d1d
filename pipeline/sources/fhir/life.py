"""The life of one feed's subscription in this process: the pure state, and the actions that it asks for."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

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
)
from pipeline.domain.subscriptions.state import MAX_FETCHES, OVERLAP_MS
from pipeline.formats.fhir.notification import Notification

STRAY_MS: Final = 60_000
"""Between two looks for other subscriptions to our address."""

LinkAction = CheckStatus | Restore | Create
_STRENGTH: Final = (CheckStatus, Restore, Create)


class Life:
    """State of one feed. Called from one event loop; no call waits. A wake is set when there is something to do."""

    def __init__(self, watch: Watch, state: State, subscription: str | None) -> None:
        """`subscription` is the id at the server, where it is known."""
        self.watch = watch
        self.state = state
        self.subscription = subscription
        self.link_wake = asyncio.Event()
        self.read_wake = asyncio.Event()
        self._link: LinkAction | None = None
        self._stray_at = Millis(0)
        self._fetches: dict[tuple[int, int], Fetch] = {}
        self._reread: ReRead | None = None

    # -- what happens

    def start(self, now: Millis) -> None:
        """The receiver begins."""
        self._step(*self.watch.on_start(self.state, now))

    def tick(self, now: Millis) -> None:
        """Every second or so."""
        self._step(*self.watch.on_tick(self.state, now))

    def heard(self, said: Notification, numbers: Sequence[int], made_at: Sequence[Millis | None], at: Millis) -> None:
        """A notification of which the events of these numbers are durable.

        One of another subscription to our address says nothing about this one; it is looked for, and switched off.
        """
        if said.subscription is not None and said.subscription != f"Subscription/{self.subscription}":
            if self.subscription is not None and at - self._stray_at >= STRAY_MS:
                self._stray_at = at
                self._push((Create(),))
            return
        self._step(*self.watch.on_notification(self.state, numbers, said.events_since_start, at, made_at, said.status))

    def refused(self, at: Millis) -> None:
        """A notification without the secret was refused."""
        self._step(*self.watch.on_refused(self.state, at))

    def fetched(self, action: Fetch, numbers: Sequence[int], made_at: Sequence[Millis | None], at: Millis) -> None:
        """`$events` answered, and its events are durable."""
        self._fetches.pop((action.first, action.last), None)
        self._step(*self.watch.on_fetched(self.state, action, numbers, at, made_at))

    def reread(self, action: ReRead, started_at: Millis, at: Millis) -> None:
        """Everything since was read and is durable."""
        if self._reread is not None and self._reread.since >= action.since:
            self._reread = None  # told again while it was under way
        self._step(*self.watch.on_reread(self.state, action, started_at, at))

    def status(self, status: SubscriptionStatus, count: int | None, asked_at: Millis, at: Millis) -> None:
        """How the subscription stands; one that is absent has no id any more."""
        if status is SubscriptionStatus.ABSENT:
            self.subscription = None
        self._step(*self.watch.on_status(self.state, status, count, asked_at, at))

    def created(self, subscription: str, status: SubscriptionStatus, at: Millis, adopted: bool) -> None:
        """There is a subscription now; one that is known already was only restored."""
        known = adopted and subscription == self.subscription
        self.subscription = subscription
        if known:
            self._step(*self.watch.on_status(self.state, status, None, at, at))
        else:
            self._step(*self.watch.on_created(self.state, status, at, adopted))

    def check(self) -> None:
        """Look at the subscription soon."""
        self._push((CheckStatus(),))

    def read_again(self) -> None:
        """Read soon what changed lately: somebody said that something did, and not what."""
        self._push((ReRead(Millis(max(self.state.complete_to - OVERLAP_MS, 0)), Why.GAP),))

    # -- what is to be done

    def take_link(self) -> LinkAction | None:
        """What to do about the subscription itself."""
        action, self._link = self._link, None
        return action

    def take_fetch(self) -> Fetch | None:
        """A gap to fetch."""
        if not self._fetches:
            return None
        return self._fetches.pop(next(iter(self._fetches)))

    def take_reread(self) -> ReRead | None:
        """A time to read again."""
        action, self._reread = self._reread, None
        return action

    def _step(self, state: State, actions: Sequence[Action]) -> None:
        self.state = state
        self._push(actions)

    def _push(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Fetch | ReRead):
                self.read_wake.set()
            else:
                self.link_wake.set()
            if isinstance(action, Fetch):
                if len(self._fetches) < MAX_FETCHES:
                    self._fetches[(action.first, action.last)] = action
            elif isinstance(action, ReRead):
                if self._reread is None or action.since <= self._reread.since:
                    self._reread = action
            elif self._link is None or _STRENGTH.index(type(action)) >= _STRENGTH.index(type(self._link)):
                self._link = action

    # -- what is shown

    def show(self, now: Millis) -> dict[str, Any]:
        """For people; no patient data. Ages in seconds, times in milliseconds since 1970."""
        return show_state(self.state, self.subscription, now)


def show_state(state: State, subscription: str | None, now: Millis) -> dict[str, Any]:
    """What a state says, for people."""
    missed = state.missed
    return {
        "subscription": subscription,
        "status": state.status.value,
        "last_heard_at": state.heard_at,
        "last_refused_at": state.refused_at,
        "cursor": state.cursor,
        "front": state.front,
        "complete_to": state.complete_to,
        "gaps": [
            {"first": gap.first, "last": gap.last, "age_s": _age_s(gap.since, now), "fetched": gap.tried} for gap in state.gaps
        ],
        "reading_again": None
        if missed is None
        else {"why": missed.why.value, "since": missed.since, "age_s": _age_s(missed.opened_at, now), "tried": missed.tried},
        "polling": state.polling_since is not None,
        "polling_since": state.polling_since,
        "counter_restarts": state.restarts,
    }


def _age_s(since: Millis, now: Millis) -> float:
    return round(max(now - since, 0) / 1000, 1)
