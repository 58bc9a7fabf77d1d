"""Each FHIR feed is shown with what it misses and whether it polls, however it was written."""

import io

from rich.console import Console

from pipeline.domain.identifiers import Millis
from pipeline.domain.records import FeedState
from pipeline.domain.subscriptions.life import Gap, State, SubscriptionStatus, encode_state
from pipeline.ops.render.status import render_status
from pipeline.ops.status import Status, Verdict
from pipeline.ops.subscriptions import newest_lines

NOW = Millis(1_790_000_000_000)


def kept(feed: str, state: bytes, ago_ms: int = 0) -> FeedState:
    return FeedState(feed=feed, instance="0", subscription="s1", state=state, at=Millis(NOW - ago_ms))


def state(**fields: object) -> bytes:
    return encode_state(State(complete_to=NOW, audited_to=NOW, **fields))  # type: ignore[arg-type]


def test_the_newest_word_on_each_feed_counts_and_says_what_is_missing_since_when() -> None:
    gap = Gap(3, 4, Millis(NOW - 60_000))
    active = state(status=SubscriptionStatus.ACTIVE, front=9, gaps=(gap,), heard_at=Millis(NOW - 1_000))
    polling = state(status=SubscriptionStatus.ERROR, polling_since=Millis(NOW - 5_000))
    lines = newest_lines([kept("b", active), kept("a", polling), kept("a", active, 9_000), kept("c", b"\xffother")])
    assert [(line.feed, line.status, line.polling) for line in lines] == [
        ("a", "error", True),
        ("b", "active", False),
        ("c", "unreadable", False),
    ]
    assert (lines[1].cursor, lines[1].missing, lines[1].open_since) == (2, 2, gap.since)


def test_people_see_a_sign_and_words_and_not_colours_alone() -> None:
    lines = newest_lines([kept("beds", state(status=SubscriptionStatus.ERROR, polling_since=Millis(NOW - 5_000)))])
    console = Console(record=True, width=160, color_system=None, force_terminal=False, file=io.StringIO())
    console.print(render_status(Status(NOW, Verdict.CURRENT, (), (), lines)))
    shown = console.export_text()
    assert "beds" in shown
    assert "✘ error, polling instead" in shown
