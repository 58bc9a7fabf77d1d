"""The life of one subscription at a server: what was heard, what is missing, and what to do about it. Pure.

Event numbers only ever raise an alarm; they never suppress an event: whatever arrives is handed over, and a repeat is told
by its id further on. So numbers may repeat, come late or start anew without loss. What can't be proven is read again.

- `front` is the highest number that the server is known to have given. Numbers up to it that were not heard are gaps; the
  cursor is the number before the first gap. A gap is visible at once, acted upon after `GAP_GRACE_MS` (disorder is normal),
  and open until its numbers are heard, fetched by `$events`, or everything since was read again.
- `complete_to` is the time up to which nothing can be missing: everything made before it was handed over or read again.
  It rises with a message whose count is the front while nothing is open, and with each re-read that ends.
- A count that falls back is a restart of the server's counter. At a server that tells times, a lower number with a later
  time proves it, and one with an earlier time is a repeat. Without times, a lower number counts as late or repeated for
  `LATE_MS` after the front, and as a restart after that: a mistake costs one re-read and loses nothing.
- The clock may be set back: no time that is kept lies ahead of now (`not_ahead`).
- Numbers can't prove everything (a restart hidden in a gap): whatever they say, `audit_ms` reads again what changed since.

The state is stored after the events are durable, so an older one only repeats work; `on_start` reads the time since again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from pipeline.domain.identifiers import Millis
from pipeline.domain.subscriptions.state import (
    CHECK_EVERY_MS,
    DISORDER_MS,
    FETCH_TRIES,
    GAP_GRACE_MS,
    LATE_MS,
    MAX_FETCH,
    MAX_FETCHES,
    OVERLAP_MS,
    POLL_AFTER_MS,
    REREAD_SPACING_MS,
    RESTORE_TRIES,
    SILENT_CHECKS,
    Action,
    CheckStatus,
    Create,
    Fetch,
    Gap,
    Missed,
    ReRead,
    Restore,
    State,
    SubscriptionStatus,
    Tries,
    Why,
    backoff_ms,
    bounded,
    decode_state,
    encode_state,
    first_state,
    not_ahead,
)

__all__ = [
    "Action",
    "CheckStatus",
    "Create",
    "Fetch",
    "Gap",
    "Missed",
    "ReRead",
    "Restore",
    "State",
    "SubscriptionStatus",
    "Tries",
    "Watch",
    "Why",
    "backoff_ms",
    "decode_state",
    "encode_state",
    "first_state",
]


@dataclass(frozen=True, slots=True)
class Watch:
    """The rules of one feed, and the steps of its state.

    `heartbeat_ms`: how often the server promises to be heard; None where it has no heartbeat. `numbered`: notifications
    carry numbers (a classic rest-hook has none). `unique`: no two events have one number, so that a seamless count proves
    that all was heard. `fetches`: the server answers `$events`. `poll_ms`: while polling. `sweep_ms`: how long it may go
    unproven that all was heard. `audit_ms`: how often the numbers are not believed; None for never.
    """

    heartbeat_ms: int | None = None
    numbered: bool = True
    unique: bool = True
    fetches: bool = True
    poll_ms: int = 30_000
    sweep_ms: int = 600_000
    audit_ms: int | None = 3_600_000

    @property
    def overdue_ms(self) -> int | None:
        """How long silence is normal: the heartbeat and half of it, at least five seconds more."""
        return None if self.heartbeat_ms is None else self.heartbeat_ms + max(self.heartbeat_ms // 2, 5_000)

    # -- what happens

    def on_start(self, state: State, now: Millis) -> tuple[State, tuple[Action, ...]]:
        """The receiver starts with what it kept, maybe an older state: the time since is read again, the status asked for."""
        state = _miss(not_ahead(state, now), Why.STARTED, now)
        missed = msgspec.structs.replace(state.missed, tried=0, next_at=now) if state.missed else None
        link = {"status": SubscriptionStatus.UNKNOWN, "checks": Tries(0, now), "repairs": Tries()}
        state = _replace(state, missed=missed, alive_at=None, broken_since=None, **link)
        return self.on_tick(state, now)

    def on_notification(
        self,
        state: State,
        numbers: Sequence[int],
        events_since_start: int | None,
        at: Millis,
        made_at: Sequence[Millis | None] = (),
        status: SubscriptionStatus = SubscriptionStatus.UNKNOWN,
    ) -> tuple[State, tuple[Action, ...]]:
        """A notification whose events are durable already: handshake and heartbeat have no numbers.

        `made_at`: the server's time of each number, where it tells one. `status` as the notification says it.
        """
        if self._overdue(state, at):
            state = _miss(state, Why.SILENCE, at)
        state = _replace(state, heard_at=at, alive_at=at)
        state = self._with_status(state, _implied(state, status, bool(numbers) or not self.numbered), at)
        if self.numbered:
            state = self._count(state, numbers, events_since_start, at, made_at)
        return self.on_tick(state, at)

    def on_refused(self, state: State, at: Millis) -> tuple[State, tuple[Action, ...]]:
        """A notification without the secret came. Nothing of it counts; but what the server wants to tell may be lost."""
        return self.on_tick(_replace(state, refused_at=at), at)

    def on_fetched(
        self, state: State, action: Fetch, numbers: Sequence[int], at: Millis, made_at: Sequence[Millis | None] = ()
    ) -> tuple[State, tuple[Action, ...]]:
        """`$events` answered, and its events are durable. A number that it left out stays missing."""
        if action.restarts == state.restarts:
            if _proves_restart(state, numbers, made_at):
                state = _anew(state, None, at, None)
            else:
                state = _heard(state, [number for number in numbers if action.first <= number <= action.last])
        return self.on_tick(state, at)

    def on_reread(self, state: State, action: ReRead, started_at: Millis, at: Millis) -> tuple[State, tuple[Action, ...]]:
        """Everything that changed since `action.since` was read, from `started_at` on, and is durable. Where the clock was set
        back meanwhile nobody can say when it began: it proves nothing, and what is missing is read again."""
        if started_at > at:
            return self.on_tick(state, at)
        reaches = action.since <= max(state.complete_to - OVERLAP_MS, 0)
        if reaches:
            state = _replace(
                state,
                complete_to=max(state.complete_to, started_at),
                gaps=tuple(gap for gap in state.gaps if gap.since >= started_at),
            )
        if action.since <= max(state.audited_to - OVERLAP_MS, 0):
            state = _replace(state, audited_to=max(state.audited_to, started_at))
        missed = state.missed
        if missed is not None:
            known = missed.until <= action.until or missed.until < started_at
            done = known and action.since <= max(missed.since - OVERLAP_MS, 0)
            next_at = Millis(max(started_at + REREAD_SPACING_MS, at))
            state = _replace(state, missed=None if done else msgspec.structs.replace(missed, tried=0, next_at=next_at))
        return self.on_tick(state, at)

    def on_status(
        self, state: State, status: SubscriptionStatus, events_since_start: int | None, asked_at: Millis, at: Millis
    ) -> tuple[State, tuple[Action, ...]]:
        """The server answered how the subscription stands; ABSENT for a 404 or 410. No answer is no call."""
        state = self._with_status(state, status, at)
        if status is SubscriptionStatus.ACTIVE and events_since_start is not None and self.numbered:
            state = self._confirm(state, events_since_start, Millis(min(asked_at, at)), at)
        if status is SubscriptionStatus.ACTIVE and self.heartbeat_ms is None:
            state = _replace(state, alive_at=at, checks=Tries(0, Millis(at + CHECK_EVERY_MS)))
        return self.on_tick(state, at)

    def on_created(
        self, state: State, status: SubscriptionStatus, at: Millis, adopted: bool = False
    ) -> tuple[State, tuple[Action, ...]]:
        """Another subscription is there now. The count of a new one begins at 0, that of an adopted one is not known."""
        state = _replace(_anew(state, None if adopted else 0, at, None), status=status)
        state = _replace(state, repairs=Tries(), checks=Tries(0, at), alive_at=at)
        return self.on_tick(state, at)

    def on_tick(self, state: State, now: Millis) -> tuple[State, tuple[Action, ...]]:
        """What is due now. Call it every second or so."""
        state = self._judge(not_ahead(state, now), now)
        state, actions = self._tend(state, now)
        state, fetches = self._close_gaps(state, now)
        state = self._keep_complete(state, now)
        state, rereads = _reread_due(state, now)
        return state, (*actions, *fetches, *rereads)

    # -- counting

    def _count(
        self, state: State, numbers: Sequence[int], count: int | None, at: Millis, made_at: Sequence[Millis | None]
    ) -> State:
        if not numbers and count is None:
            return state
        top = max((count or 0, *numbers))
        latest = max((made for made in made_at if made is not None), default=None)
        if state.front is None or self._fell_back(state, numbers, top, at, made_at):
            return _anew(state, top, at, latest)
        state = _heard(state, numbers)
        if top > (state.front or 0):
            state = _advanced(state, numbers, top, at, latest)
        return _proved(state, count, at) if self.unique else state

    def _fell_back(self, state: State, numbers: Sequence[int], top: int, at: Millis, made_at: Sequence[Millis | None]) -> bool:
        if _proves_restart(state, numbers, made_at):
            return True
        front = state.front or 0
        if top >= front:
            return False
        told = numbers and len(made_at) == len(numbers) and all(made is not None for made in made_at)
        if told and state.front_made_at is not None:
            return False
        return at - state.front_at > LATE_MS

    def _confirm(self, state: State, count: int, asked_at: Millis, at: Millis) -> State:
        """A count that was asked for. What arrived after the question may be ahead of the answer."""
        state = _replace(state, alive_at=at, checks=Tries())
        if state.front is None:
            return _anew(state, count, at, None)
        if count < state.front:
            return state if state.front_at >= asked_at else _anew(state, count, at, None)
        if count > state.front:
            state = _advanced(state, (), count, at, None)
        return _proved(state, count, asked_at) if self.unique else state

    # -- the link

    def _overdue(self, state: State, now: Millis) -> bool:
        limit = self.overdue_ms
        return limit is not None and state.alive_at is not None and now - state.alive_at > limit

    def _with_status(self, state: State, status: SubscriptionStatus, at: Millis) -> State:
        if status is SubscriptionStatus.UNKNOWN or status is state.status:
            return state
        if status is SubscriptionStatus.ACTIVE:
            if state.status is not SubscriptionStatus.UNKNOWN:
                state = _miss(state, Why.RESTORED, at)
            return _replace(state, status=status, alive_at=at, checks=Tries(0, at), repairs=Tries())
        repairs = state.repairs if state.status is not SubscriptionStatus.ACTIVE else Tries()
        return _replace(state, status=status, repairs=repairs, checks=Tries(0, at))

    def _judge(self, state: State, now: Millis) -> State:
        """Whether the link is broken, and for how long: then polling takes its place."""
        alive_at = now if state.alive_at is None else state.alive_at
        state = _replace(state, alive_at=alive_at)
        if state.status is SubscriptionStatus.ACTIVE and not self._overdue(state, now):
            return _replace(state, broken_since=None, polling_since=None)
        broken = now if state.broken_since is None else state.broken_since
        polls = now - broken >= POLL_AFTER_MS
        polling = state.polling_since if state.polling_since is not None or not polls else now
        return _replace(state, broken_since=broken, polling_since=polling)

    def _tend(self, state: State, now: Millis) -> tuple[State, tuple[Action, ...]]:
        """What the subscription itself needs."""
        match state.status:
            case SubscriptionStatus.ABSENT | SubscriptionStatus.ENTERED_IN_ERROR:
                return _repair(state, Create(), now)
            case SubscriptionStatus.ERROR | SubscriptionStatus.OFF:
                return _repair(state, Restore() if state.repairs.count < RESTORE_TRIES else Create(), now)
            case SubscriptionStatus.ACTIVE:
                if not self._overdue(state, now) and self.heartbeat_ms is not None:
                    return state, ()
                if self._overdue(state, now) and state.checks.count >= SILENT_CHECKS:
                    return _repair(state, Restore(), now)
        return _check(state, now)

    # -- what is missing

    def _close_gaps(self, state: State, now: Millis) -> tuple[State, tuple[Action, ...]]:
        gaps: list[Gap] = []
        fetches: list[Fetch] = []
        unfetched = False
        for gap in state.gaps:
            if gap.next_at > now:
                gaps.append(gap)
                continue
            asks = self.fetches and gap.tried < FETCH_TRIES and gap.last - gap.first < MAX_FETCH
            if asks and len(fetches) >= MAX_FETCHES:
                gaps.append(gap)
                continue
            if asks:
                fetches.append(Fetch(gap.first, gap.last, state.restarts))
            unfetched = unfetched or not asks
            tried = gap.tried + 1
            gaps.append(msgspec.structs.replace(gap, tried=tried, next_at=Millis(now + backoff_ms(tried))))
        state = _replace(state, gaps=tuple(gaps))
        return (_miss(state, Why.GAP, now) if unfetched else state), tuple(fetches)

    def _keep_complete(self, state: State, now: Millis) -> State:
        unproven = now - state.complete_to
        if state.missed is not None:
            return state
        if state.polling_since is not None and unproven >= self.poll_ms:
            return _miss(state, Why.POLLING, now)
        if state.refused_at is not None and state.refused_at >= state.complete_to and unproven >= self.poll_ms:
            return _miss(state, Why.REFUSED, now)
        if unproven >= self.sweep_ms:
            return _miss(state, Why.SWEEP, now)
        if self.audit_ms is not None and now - state.audited_to >= self.audit_ms:
            return _replace(state, missed=Missed(state.audited_to, now, Why.AUDIT, now, 0, now))
        return state


# -- steps


def _replace(state: State, **changes: object) -> State:
    return msgspec.structs.replace(state, **changes)


def _implied(state: State, status: SubscriptionStatus, events: bool) -> SubscriptionStatus:
    """Only an active subscription tells events; after a known fault they may be late ones, and prove nothing."""
    waiting = state.status in (SubscriptionStatus.UNKNOWN, SubscriptionStatus.REQUESTED)
    return SubscriptionStatus.ACTIVE if status is SubscriptionStatus.UNKNOWN and events and waiting else status


def _miss(state: State, why: Why, now: Millis) -> State:
    """All since `complete_to` has to be read again. What is open already is widened, and due as it was."""
    missed = state.missed
    if missed is None:
        return _replace(state, missed=Missed(state.complete_to, now, why, now, 0, now))
    since = Millis(min(missed.since, state.complete_to))
    return _replace(state, missed=msgspec.structs.replace(missed, since=since, until=Millis(max(missed.until + 1, now))))


def _anew(state: State, front: int | None, at: Millis, made_at: Millis | None) -> State:
    """The server counts from the start again, or its count was not known: all before counts as missed, the gaps with it."""
    known = state.front is not None
    state = _miss(state, Why.RESTARTED if known else Why.STARTED, at)
    return _replace(state, front=front, front_at=at, front_made_at=made_at, gaps=(), restarts=state.restarts + known)


def _proves_restart(state: State, numbers: Sequence[int], made_at: Sequence[Millis | None]) -> bool:
    if state.front is None or state.front_made_at is None:
        return False
    limit = state.front_made_at + DISORDER_MS
    return any(
        number <= state.front and made is not None and made > limit for number, made in zip(numbers, made_at, strict=False)
    )


def _heard(state: State, numbers: Sequence[int]) -> State:
    gaps = state.gaps
    for number in sorted(set(numbers)):
        gaps = tuple(part for gap in gaps for part in _without(gap, number))
    return _replace(state, gaps=bounded(gaps)) if gaps is not state.gaps else state


def _without(gap: Gap, number: int) -> tuple[Gap, ...]:
    if not gap.first <= number <= gap.last:
        return (gap,)
    parts = ((gap.first, number - 1), (number + 1, gap.last))
    return tuple(Gap(first, last, gap.since, gap.tried, gap.next_at) for first, last in parts if first <= last)


def _advanced(state: State, numbers: Sequence[int], top: int, at: Millis, made_at: Millis | None) -> State:
    new = Gap((state.front or 0) + 1, top, at, 0, Millis(at + GAP_GRACE_MS))
    state = _replace(state, gaps=(*state.gaps, new), front=top, front_at=at, front_made_at=made_at)
    return _heard(state, [number for number in numbers if number >= new.first])


def _proved(state: State, count: int | None, at: Millis) -> State:
    """A message that is the front, with nothing missing, proves that all made before it was handed over."""
    whole = count is not None and count == state.front and not state.gaps and state.missed is None
    return _replace(state, complete_to=max(state.complete_to, at)) if whole else state


def _repair(state: State, action: Restore | Create, now: Millis) -> tuple[State, tuple[Action, ...]]:
    if state.repairs.next_at > now:
        return state, ()
    count = state.repairs.count + 1
    return _replace(state, repairs=Tries(count, Millis(now + backoff_ms(count)))), (action,)


def _check(state: State, now: Millis) -> tuple[State, tuple[Action, ...]]:
    if state.checks.next_at > now:
        return state, ()
    count = state.checks.count + 1
    return _replace(state, checks=Tries(count, Millis(now + backoff_ms(count)))), (CheckStatus(),)


def _reread_due(state: State, now: Millis) -> tuple[State, tuple[Action, ...]]:
    missed = state.missed
    if missed is None or missed.next_at > now:
        return state, ()
    tried = missed.tried + 1
    later = msgspec.structs.replace(missed, tried=tried, next_at=Millis(now + backoff_ms(tried)))
    return _replace(state, missed=later), (ReRead(Millis(max(missed.since - OVERLAP_MS, 0)), missed.why, missed.until),)
