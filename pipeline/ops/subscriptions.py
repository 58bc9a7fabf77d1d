"""How each FHIR feed stands, as its receiver last wrote it to `intake.subscriptions`."""

from collections.abc import Iterable

import msgspec

from pipeline.domain.identifiers import Millis
from pipeline.domain.records import FeedState
from pipeline.domain.subscriptions.life import decode_state


class SubscriptionLine(msgspec.Struct, frozen=True):
    """One feed. `status` is `unreadable` where another version wrote it; times are None for never.

    `cursor`: number up to which no event is missing. `missing`: how many are, since `open_since`; that is also set while
    a time is to be read again. `written_at`: when the receiver last said so.
    """

    feed: str
    status: str
    last_heard_at: Millis | None
    cursor: int
    missing: int
    open_since: Millis | None
    polling: bool
    written_at: Millis


def newest_lines(states: Iterable[FeedState]) -> tuple[SubscriptionLine, ...]:
    """The newest word on each feed, by name."""
    newest: dict[str, FeedState] = {}
    for state in states:
        if state.feed not in newest or state.at >= newest[state.feed].at:
            newest[state.feed] = state
    return tuple(_line(newest[name]) for name in sorted(newest))


def _line(record: FeedState) -> SubscriptionLine:
    state = decode_state(record.state)
    if state is None:
        return SubscriptionLine(record.feed, "unreadable", None, 0, 0, None, False, Millis(record.at))
    return SubscriptionLine(
        feed=record.feed,
        status=state.status.value,
        last_heard_at=state.heard_at,
        cursor=state.cursor,
        missing=state.missing,
        open_since=state.open_since,
        polling=state.polling_since is not None,
        written_at=Millis(record.at),
    )
