"""The status for people: words and signs beside colours, and an age beside each figure that can be old."""

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.domain.identifiers import show_revision
from pipeline.domain.records import ModeOrder
from pipeline.domain.writing.modes import Cause
from pipeline.kafka.client import KafkaUnavailable
from pipeline.ops.file_lines import FileLine
from pipeline.ops.status import DestinationStatus, FeedStatus, Status, Verdict
from pipeline.ops.subscriptions import SubscriptionLine
from pipeline.ops.words import age_of, duration_of

_SIGNS: Final = {
    Verdict.CURRENT: ("✔", "green"),
    Verdict.SHADOW: ("◌", "blue"),
    Verdict.CATCHING_UP: ("…", "cyan"),
    Verdict.DELAYED: ("▲", "yellow"),
    Verdict.STUCK: ("✘", "red"),
    Verdict.UNKNOWN: ("?", "magenta"),
}


def status_json(status: Status) -> bytes:
    """For `--json`."""
    return msgspec.json.encode(status)


def render_status(status: Status) -> Group:
    """Everything, the destinations first."""
    parts: list[Text | Table] = []
    for destination in status.destinations:
        parts += _destination(destination, status.at)
    if not status.destinations:
        parts.append(Text("? no destination is configured and none has reported", style="magenta"))
    parts.append(_feeds(status.feeds, status.at))
    if status.subscriptions:
        parts.append(_subscriptions(status.subscriptions, status.at))
    if status.files:
        parts.append(_files(status.files, status.at))
    return Group(*parts)


def _destination(at: DestinationStatus, now: int) -> Iterable[Text | Table]:
    sign, colour = _SIGNS[at.verdict]
    yield Text(f"{sign} {at.destination}: {at.verdict.value.upper()}", style=f"bold {colour}")
    table = Table(show_header=False, box=None, pad_edge=True)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for question, answer in _answers(at, now):
        table.add_row(question, escape(answer))
    yield table
    if at.stuck:
        yield _stuck(at, now)
    if at.windows:
        yield _windows(at)


def _answers(at: DestinationStatus, now: int) -> Iterable[tuple[str, str]]:
    yield "Current?", _current(at, now)
    yield "Delayed?", _delayed(at, now)
    if at.unread:
        yield "To read", f"{at.unread} records of the history"
    yield "Stuck?", f"{at.parked} given up, {len(at.stuck)} named below" if at.parked or at.stuck else "nothing"
    if at.shadowed:
        yield "Shadow?", f"{at.shadowed} entities were only compared, by the flags; see `surgeline shadow report`"
    if at.double_occupied:
        yield "Disagreement", f"{at.double_occupied} beds that more than one stay claims; ask the units who lies there"
    last = f"{age_of(now, at.last_confirmed_at)}, revision {show_revision(at.last_confirmed_revision)}"
    yield "Last confirmed", last if at.last_confirmed_at is not None else "nothing yet"
    yield "Mode", mode_words(at, now)
    if at.order is not None:
        yield "Forced?", order_words(at.order, now)
    if at.frozen:
        yield "Frozen?", frozen_words(at.frozen)
    for instance in at.instances:
        partitions = ", ".join(map(str, instance.partitions))
        stale = "no report since" if instance.stale else "reported"
        yield f"Writer {instance.instance}", f"partitions {partitions}; {stale} {age_of(now, instance.reported_at)}"


def mode_words(at: DestinationStatus, now: int) -> str:
    """The mode, since when, and why."""
    if at.mode_since is None:
        return at.mode
    why = Cause(at.mode_cause).doc if at.mode_cause in set(Cause) else at.mode_cause
    return f"{at.mode}, entered {age_of(now, at.mode_since)}: {why}"


def order_words(order: ModeOrder, now: int) -> str:
    """Who forces what, how long yet, and why."""
    return f"to {order.mode} by {order.actor}, for {duration_of(max(0, order.until - now))} yet: {order.reason}"


def frozen_words(frozen: Mapping[str, int]) -> str:
    """How many, and what."""
    what = ", ".join(f"{count} {name}" for name, count in frozen.items())
    return f"{sum(frozen.values())} entities stay pending until the mode ends ({what})"


def _current(at: DestinationStatus, now: int) -> str:
    if at.unreported:
        which = ", ".join(map(str, at.unreported))
        if at.last_report_at is None:
            return "unknown: no writer has reported yet"
        return f"unknown: no fresh report for partitions {which}; the last one came {age_of(now, at.last_report_at)}"
    if at.verdict is Verdict.SHADOW:
        return "no: what the flags let be written is there, the rest was only compared"
    return "yes" if at.verdict is Verdict.CURRENT else f"no: {at.waiting} entities wait, {at.in_flight} writes under way"


def _delayed(at: DestinationStatus, now: int) -> str:
    if at.oldest_open_since is None:
        return "unknown" if at.unreported else "no"
    lanes = ", ".join(f"{lane} {count}" for lane, count in at.pending.items() if count)
    word = "as of the last report, " if at.unreported else ""
    return f"{word}the oldest change waits for {duration_of(now - at.oldest_open_since)}" + (f" ({lanes})" if lanes else "")


def _stuck(at: DestinationStatus, now: int) -> Table:
    table = Table(title="Stuck, longest first", title_justify="left")
    for column in ("what", "subject", "lane", "why", "attempts", "waits for", "revision"):
        table.add_column(column, overflow="fold")
    for item in at.stuck:
        row = (item.entity_type.value, escape(item.subject), item.lane.value, item.reason.doc, str(item.attempts))
        table.add_row(*row, duration_of(now - item.since), show_revision(item.revision))
    return table


def _windows(at: DestinationStatus) -> Table:
    table = Table(title="Lag from receipt to confirmation, last window", title_justify="left")
    for column in ("lane", "what", "changes", "p50", "p99", "max"):
        table.add_column(column, justify="left" if column in ("lane", "what") else "right")
    for window in at.windows:
        figures = (duration_of(value) for value in (window.p50_ms, window.p99_ms, window.max_ms))
        table.add_row(window.lane.value, window.entity_type.value, str(window.count), *figures)
    return table


def _feeds(feeds: tuple[FeedStatus, ...], now: int) -> Table:
    table = Table(title="Feeds", title_justify="left", caption="by accepted changes" if feeds else "nothing was accepted yet")
    for column in ("source", "feed", "last received"):
        table.add_column(column, overflow="fold")
    for feed in feeds:
        table.add_row(escape(feed.source_system), escape(feed.feed), age_of(now, feed.last_received_at))
    return table


def _subscriptions(lines: tuple[SubscriptionLine, ...], now: int) -> Table:
    table = Table(title="FHIR subscriptions", title_justify="left", caption="as the receiver last wrote it")
    for column in ("feed", "status", "heard", "up to", "missing", "for", "written"):
        table.add_column(column, overflow="fold")
    for line in lines:
        good = line.status == "active" and not line.polling
        sign = "✔" if good and not line.missing else "▲" if good else "✘"
        table.add_row(
            escape(line.feed),
            f"{sign} {escape(line.status)}" + (", polling instead" if line.polling else ""),
            "never" if line.last_heard_at is None else age_of(now, line.last_heard_at),
            str(line.cursor),
            str(line.missing),
            "–" if line.open_since is None else age_of(now, line.open_since),
            age_of(now, line.written_at),
        )
    return table


def _files(lines: tuple[FileLine, ...], now: int) -> Table:
    table = Table(title="Managed files", title_justify="left", caption="more of each: surgeline files show")
    for column in ("partner", "waits for a part", "held", "being landed", "refused in a day", "oldest waits", "last taken"):
        table.add_column(column, overflow="fold")
    for line in lines:
        sign = "✘" if line.held else "▲" if line.awaited or line.refused_lately else "✔"
        table.add_row(
            f"{sign} {escape(line.partner)}",
            str(line.awaited),
            str(line.held),
            str(line.landing),
            str(line.refused_lately),
            "–" if line.oldest_since is None else duration_of(max(0, now - line.oldest_since)),
            "never" if line.last_taken_at is None else age_of(now, line.last_taken_at),
        )
    return table


def watch(read: Callable[[], Status], console: Console, stop: threading.Event, interval_s: float = 2.0) -> None:
    """Show the status anew every `interval_s` until `stop` is set. While Kafka can't be read, says so over the last one."""
    last: Status | None = None
    with Live(console=console, auto_refresh=False) as live:
        while True:
            try:
                last = read()
                live.update(render_status(last), refresh=True)
            except KafkaUnavailable:
                known = [render_status(last)] if last is not None else []
                live.update(
                    Group(Text("? the brokers don't answer; below is the last known", style="bold magenta"), *known), refresh=True
                )
            if stop.wait(interval_s):
                return
