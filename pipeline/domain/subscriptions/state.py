"""What is kept of one subscription, what is to be done about it, and the bounds of both."""

from dataclasses import dataclass, field
from typing import Final

import msgspec

from pipeline.domain.event import Described
from pipeline.domain.identifiers import Millis

STATE_VERSION: Final = 1

GAP_GRACE_MS: Final = 5_000
"""How long a missing number may simply be late."""
LATE_MS: Final = 5_000
"""How long after the front a lower number counts as late or repeated, where the server tells no times."""
DISORDER_MS: Final = 1_000
"""How much later a lower number may be made than a higher one, by the server's clock, without a restart."""
OVERLAP_MS: Final = 300_000
"""How much further back a re-read begins: covers the difference of clocks, slow commits and messages under way."""
POLL_AFTER_MS: Final = 60_000
"""How long a subscription may be broken before polling takes its place."""
CHECK_EVERY_MS: Final = 300_000
"""How often a subscription without a heartbeat is looked at."""
RETRY_FIRST_MS: Final = 5_000
RETRY_MAX_MS: Final = 300_000
"""Between two tries of one action: doubled from the first to the last."""
LONGEST_WAIT_MS: Final = max(RETRY_MAX_MS, CHECK_EVERY_MS)
"""No action is put off for longer."""
REREAD_SPACING_MS: Final = 5_000
"""Between the starts of two re-reads."""
FETCH_TRIES: Final = 2
"""How often `$events` is asked for a gap before it is closed by a re-read."""
RESTORE_TRIES: Final = 3
"""How often a subscription is restored before a new one is made."""
SILENT_CHECKS: Final = 3
"""How often a silent subscription may call itself active before it is reset."""
MAX_FETCH: Final = 1_000
"""Widest gap that is fetched; a wider one is read again."""
MAX_FETCHES: Final = 4
"""Fetches asked for at once."""
MAX_GAPS: Final = 64
"""Gaps kept apart; beyond it the nearest are shown as one."""


class SubscriptionStatus(Described):
    """How a subscription stands at its server."""

    REQUESTED = "requested", "the server has not tried our endpoint yet"
    ACTIVE = "active", "the server notifies"
    ERROR = "error", "the server could not reach us, or could not evaluate the topic"
    OFF = "off", "switched off"
    ENTERED_IN_ERROR = "entered-in-error", "withdrawn"
    ABSENT = "absent", "there is none at the server"
    UNKNOWN = "unknown", "not told"


class Why(Described):
    """Why everything that changed since a time is read again."""

    STARTED = "started", "the receiver started: it was deaf until then"
    RESTARTED = "restarted", "the server's counter began anew"
    GAP = "gap", "numbers are missing that the server does not tell again"
    RESTORED = "restored", "the subscription was broken for a while"
    SILENCE = "silence", "nothing was heard for longer than the heartbeat"
    POLLING = "polling", "there is no working subscription: the backup"
    REFUSED = "refused", "notifications came without the secret, and were refused"
    SWEEP = "sweep", "nothing proved for a while that all was heard"
    AUDIT = "audit", "now and then, whatever the numbers say"


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask `$events` for the numbers from `first` to `last`, both included. Hand it back with `on_fetched`."""

    first: int
    last: int
    restarts: int


@dataclass(frozen=True, slots=True)
class ReRead:
    """Read everything that changed since `since` (the overlap is taken off already). Hand it back with `on_reread`.

    `until` tells which misses were known when it was asked for; of those that came later its start decides.
    """

    since: Millis
    why: Why
    until: Millis = field(default=Millis(0), compare=False)


@dataclass(frozen=True, slots=True)
class CheckStatus:
    """Ask the server how the subscription stands; `on_status` takes the answer."""


@dataclass(frozen=True, slots=True)
class Restore:
    """Ask the server to activate the subscription again; `on_status` takes what becomes of it."""


@dataclass(frozen=True, slots=True)
class Create:
    """Adopt the feed's subscription, or make it; `on_created` or `on_status` takes what becomes of it."""


Action = Fetch | ReRead | CheckStatus | Restore | Create
"""What is to be done. One that is not handed back is told again later: it is not begun again while it is under way."""


class Gap(msgspec.Struct, frozen=True, array_like=True):
    """Numbers that were not heard, both ends included; open since `since`, fetched `tried` times."""

    first: int
    last: int
    since: Millis
    tried: int = 0
    next_at: Millis = Millis(0)


class Missed(msgspec.Struct, frozen=True, array_like=True):
    """A time to be read again: from `since`, all that was made before `until`. Open since `opened_at`."""

    since: Millis
    until: Millis
    why: Why
    opened_at: Millis
    tried: int = 0
    next_at: Millis = Millis(0)


class Tries(msgspec.Struct, frozen=True, array_like=True):
    """How often something was tried in a row, and when it is due next."""

    count: int = 0
    next_at: Millis = Millis(0)


class State(msgspec.Struct, frozen=True, array_like=True):
    """What has to survive of one subscription. Holds no patient data. `front` is None until the server's count is known."""

    complete_to: Millis
    audited_to: Millis
    status: SubscriptionStatus = SubscriptionStatus.UNKNOWN
    front: int | None = None
    front_at: Millis = Millis(0)
    front_made_at: Millis | None = None
    gaps: tuple[Gap, ...] = ()
    missed: Missed | None = None
    heard_at: Millis | None = None
    alive_at: Millis | None = None
    restarts: int = 0
    broken_since: Millis | None = None
    polling_since: Millis | None = None
    checks: Tries = Tries()
    repairs: Tries = Tries()
    refused_at: Millis | None = None

    @property
    def cursor(self) -> int:
        """Highest number up to which nothing is missing; 0 before the first."""
        return self.gaps[0].first - 1 if self.gaps else self.front or 0

    @property
    def missing(self) -> int:
        """How many numbers were not heard."""
        return sum(gap.last - gap.first + 1 for gap in self.gaps)

    @property
    def open_since(self) -> Millis | None:
        """Since when something is known to be missing and not yet read again; None where all is well."""
        found = [gap.since for gap in self.gaps] + ([self.missed.opened_at] if self.missed else [])
        return min(found) if found else None


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(State)
_PREFIX: Final = bytes([STATE_VERSION])


def encode_state(state: State) -> bytes:
    """The record to keep: a version byte, then MessagePack."""
    return _PREFIX + _ENCODER.encode(state)


def decode_state(data: bytes) -> State | None:
    """Inverse of `encode_state`; None for a record that this version can't read: start as if there were none."""
    if data[:1] != _PREFIX:
        return None
    try:
        return _DECODER.decode(memoryview(data)[1:])
    except msgspec.DecodeError:
        return None


def first_state(now: Millis, since: Millis | None = None) -> State:
    """State of a feed that was never run: what changed since `since` (default: now) will be read."""
    start = now if since is None else since
    return State(complete_to=start, audited_to=start)


def not_ahead(state: State, now: Millis) -> State:
    """The state, with no time in it that lies ahead of `now`: where one does, the clock was set back since.

    What was complete then is complete up to now: by a clock that ran ahead no further was reached, and by one that falls behind
    something is read twice. Without this nothing would be read again before the clock is where it was.
    """
    latest = max(state.complete_to, state.audited_to, state.front_at, state.alive_at or 0, state.refused_at or 0)
    latest = max(latest, state.broken_since or 0, state.polling_since or 0, *(gap.since for gap in state.gaps))
    waits = [state.checks.next_at, state.repairs.next_at, *(gap.next_at for gap in state.gaps)]
    waits += [state.missed.next_at] if state.missed is not None else []
    if latest <= now and max(waits) <= now + LONGEST_WAIT_MS:
        return state

    def past(at: Millis) -> Millis:
        return min(at, now)

    def due(at: Millis) -> Millis:
        return at if at <= now + LONGEST_WAIT_MS else now

    def known(at: Millis | None) -> Millis | None:
        return None if at is None else past(at)

    replace, missed = msgspec.structs.replace, state.missed
    return replace(
        state,
        complete_to=past(state.complete_to),
        audited_to=past(state.audited_to),
        front_at=past(state.front_at),
        gaps=tuple(replace(gap, since=past(gap.since), next_at=due(gap.next_at)) for gap in state.gaps),
        missed=None if missed is None else replace(missed, since=past(missed.since), next_at=due(missed.next_at)),
        alive_at=known(state.alive_at),
        broken_since=known(state.broken_since),
        polling_since=known(state.polling_since),
        checks=replace(state.checks, next_at=due(state.checks.next_at)),
        repairs=replace(state.repairs, next_at=due(state.repairs.next_at)),
        refused_at=known(state.refused_at),
    )


def backoff_ms(tried: int) -> int:
    """Wait before the next try after `tried` ones."""
    return int(min(RETRY_FIRST_MS << min(max(tried - 1, 0), 16), RETRY_MAX_MS))


def bounded(gaps: tuple[Gap, ...]) -> tuple[Gap, ...]:
    """At most `MAX_GAPS`: the two with the least between them become one, as young as the younger."""
    while len(gaps) > MAX_GAPS:
        at = min(range(len(gaps) - 1), key=lambda index: gaps[index + 1].first - gaps[index].last)
        left, right = gaps[at], gaps[at + 1]
        one = Gap(left.first, right.last, Millis(max(left.since, right.since)), right.tried, right.next_at)
        gaps = (*gaps[:at], one, *gaps[at + 2 :])
    return gaps
