"""The four answers per destination: are we current, are we delayed, what is stuck, what was last confirmed.

Made from what the writers report on `lag` and `modes`. That nobody has reported is an answer too, never "current".
"""

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import msgspec

from pipeline.domain.identifiers import Millis, Revision
from pipeline.domain.records import LANES, RANK, Accepted, FeedState, LagReport, Lane, LaneWindow, ModeChange, ModeOrder, Stuck
from pipeline.domain.writing.modes import Mode
from pipeline.ops.file_lines import FileLine, read_file_lines
from pipeline.ops.subscriptions import SubscriptionLine, newest_lines
from pipeline.ops.topics import Decoder, Topics, decoded, tail
from pipeline.topology import ACCEPTED, ENTITY_PARTITIONS, LAG, MODES, SUBSCRIPTIONS

STALE_AFTER_MS: Final = 30_000
"""A report older than this says nothing about now."""

DELAYED_AFTER_S: Final = 5.0
"""A destination is delayed when its oldest unconfirmed change has waited this long."""

STUCK_LIMIT: Final = 20
TAIL_REPORTS: Final = 2_000
"""Reports looked at from the end of `lag`: more than all writers make in STALE_AFTER_MS."""

TAIL_MODES: Final = 20_000
"""Records looked at from the end of `modes`: more than a day of changes, and no order lasts longer."""

TAIL_STATES: Final = 20_000
"""Records looked at from the end of `intake.subscriptions`; a feed that was silent for longer is not shown."""

TAIL_ACCEPTED: Final = 1_000
"""Accepted records looked at per partition, for when each feed was last heard."""

_SEVERITY: Final = (Mode.NORMAL, Mode.SLOW, Mode.RECOVERY, Mode.SEVERE, Mode.OUTAGE)


class Verdict(enum.StrEnum):
    """One word for a destination, worst last."""

    CURRENT = "current"
    SHADOW = "in shadow"
    CATCHING_UP = "catching up"
    DELAYED = "delayed"
    STUCK = "stuck"
    UNKNOWN = "unknown"


class InstanceStatus(msgspec.Struct, frozen=True):
    """One writer instance and the age of its newest report."""

    instance: str
    partitions: tuple[int, ...]
    reported_at: Millis
    stale: bool


class DestinationStatus(msgspec.Struct, frozen=True):
    """The four answers. Times are None for never; `unreported` are partitions that no fresh report covers."""

    destination: str
    verdict: Verdict
    mode: str
    mode_since: Millis | None
    mode_cause: str
    mode_figures: dict[str, float]
    order: ModeOrder | None
    frozen: dict[str, int]
    pending: dict[str, int]
    parked: int
    shadowed: int
    double_occupied: int
    in_flight: int
    oldest_open_since: Millis | None
    stuck: tuple[Stuck, ...]
    last_confirmed_at: Millis | None
    last_confirmed_revision: Revision
    last_report_at: Millis | None
    unreported: tuple[int, ...]
    windows: tuple[LaneWindow, ...]
    instances: tuple[InstanceStatus, ...]
    unread: int = 0

    @property
    def waiting(self) -> int:
        """Entities that wait; at a destination told of each, changes."""
        return sum(self.pending.values()) + self.unread


class FeedStatus(msgspec.Struct, frozen=True, order=True):
    """When a source's feed was last heard, as far as accepted changes tell."""

    source_system: str
    feed: str
    last_received_at: Millis


class Status(msgspec.Struct, frozen=True):
    """Everything that `surgeline status` shows, as of `at`."""

    at: Millis
    verdict: Verdict
    destinations: tuple[DestinationStatus, ...]
    feeds: tuple[FeedStatus, ...]
    subscriptions: tuple[SubscriptionLine, ...] = ()
    files: tuple[FileLine, ...] = ()


def assemble(
    now: Millis,
    reports: Iterable[LagReport],
    modes: Iterable[ModeChange],
    feeds: Iterable[FeedStatus],
    destinations: Sequence[str],
    orders: Iterable[ModeOrder] = (),
    *,
    partitions: int = ENTITY_PARTITIONS,
    stale_after_ms: int = STALE_AFTER_MS,
) -> Status:
    """The status. Pure; records in any order, the newest of each writer counts.

    For a partition that two instances report, the newer report counts; an instance that has lost all its partitions to
    newer reports isn't shown. `destinations` are those that should report: one that doesn't is there as unknown.
    """
    newest: dict[str, dict[str, LagReport]] = {name: {} for name in destinations}
    for report in reports:
        known = newest.setdefault(report.destination, {}).get(report.instance)
        if known is None or report.window_end >= known.window_end:
            newest[report.destination][report.instance] = report
    changes: dict[tuple[str, str], ModeChange] = {}
    for change in modes:
        where = change.destination, change.instance
        if where not in changes or change.at >= changes[where].at:
            changes[where] = change
    in_force = _in_force(orders, now)
    shown = tuple(
        _destination(now, name, list(by_instance.values()), changes, in_force.get(name), partitions, stale_after_ms)
        for name, by_instance in sorted(newest.items())
    )
    order = list(Verdict)
    verdict = max((destination.verdict for destination in shown), key=order.index, default=Verdict.UNKNOWN)
    return Status(now, verdict, shown, tuple(sorted(_newest_feeds(feeds))))


def _in_force(orders: Iterable[ModeOrder], now: Millis) -> dict[str, ModeOrder]:
    """What operators force at this moment, by destination."""
    newest: dict[str, ModeOrder] = {}
    for order in orders:
        if order.destination not in newest or order.at >= newest[order.destination].at:
            newest[order.destination] = order
    return {name: order for name, order in newest.items() if order.mode is not None and now < order.until}


def _newest_feeds(feeds: Iterable[FeedStatus]) -> Iterator[FeedStatus]:
    newest: dict[tuple[str, str], FeedStatus] = {}
    for feed in feeds:
        known = newest.get((feed.source_system, feed.feed))
        if known is None or feed.last_received_at > known.last_received_at:
            newest[feed.source_system, feed.feed] = feed
    yield from newest.values()


def _serving(reports: list[LagReport]) -> tuple[list[LagReport], dict[int, LagReport]]:
    """Reports that still speak for something, and the report that speaks for each partition."""
    speaks: dict[int, LagReport] = {}
    for report in sorted(reports, key=lambda report: report.window_end):
        speaks.update(dict.fromkeys(report.partitions, report))
    voices = {id(report) for report in speaks.values()}
    return [report for report in reports if id(report) in voices], speaks


def _destination(
    now: Millis,
    name: str,
    reports: list[LagReport],
    changes: dict[tuple[str, str], ModeChange],
    order: ModeOrder | None,
    partitions: int,
    stale_after_ms: int,
) -> DestinationStatus:
    serving, speaks = _serving(reports)
    fresh = {report.instance for report in serving if now - report.window_end <= stale_after_ms}
    unreported = tuple(p for p in range(partitions) if p not in speaks or speaks[p].instance not in fresh)
    mode = max((report.mode for report in serving), key=_severity, default="unknown")
    entered = [changes[name, r.instance] for r in serving if r.mode == mode and (name, r.instance) in changes]
    entered = sorted((change for change in entered if change.mode == mode), key=lambda change: change.at)
    stuck = sorted((s for report in serving for s in report.stuck), key=lambda s: s.since)[:STUCK_LIMIT]
    last = max(reports, key=lambda report: report.last_confirmed_at or 0, default=None)
    pending = {lane.value: sum(report.pending.get(lane.value, 0) for report in serving) for lane in LANES}
    parked = sum(report.parked for report in serving)
    unread = sum(report.unread for report in serving)
    shadowed = sum(report.shadowed for report in serving)
    oldest = min((report.oldest_open_since for report in serving if report.oldest_open_since is not None), default=None)
    return DestinationStatus(
        destination=name,
        verdict=_verdict(now, bool(unreported), bool(parked or stuck), oldest, sum(pending.values()) + unread, shadowed),
        mode=mode,
        mode_since=entered[0].at if entered else None,
        mode_cause=entered[0].cause if entered else "",
        mode_figures=entered[0].figures if entered else {},
        order=order,
        frozen=_summed(report.frozen for report in serving),
        pending=pending,
        parked=parked,
        shadowed=shadowed,
        double_occupied=max((report.double_occupied for report in serving), default=0),
        in_flight=sum(report.in_flight for report in serving),
        oldest_open_since=oldest,
        stuck=tuple(stuck),
        last_confirmed_at=last.last_confirmed_at if last else None,
        last_confirmed_revision=last.last_confirmed_revision if last else Revision(0),
        last_report_at=max((report.window_end for report in reports), default=None),
        unreported=unreported,
        windows=_windows(report for report in serving if report.instance in fresh),
        instances=tuple(
            InstanceStatus(r.instance, r.partitions, r.window_end, r.instance not in fresh)
            for r in sorted(serving, key=lambda report: report.instance)
        ),
        unread=unread,
    )


def _summed(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    whole: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            whole[name] = whole.get(name, 0) + count
    return dict(sorted(whole.items()))


def _severity(mode: str) -> int:
    found = [index for index, known in enumerate(_SEVERITY) if known.value == mode]
    return found[0] if found else len(_SEVERITY)


def _verdict(now: Millis, unreported: bool, stuck: bool, oldest: Millis | None, pending: int, shadowed: int) -> Verdict:
    if unreported:
        return Verdict.UNKNOWN
    if stuck:
        return Verdict.STUCK
    if oldest is not None and now - oldest > DELAYED_AFTER_S * 1000:
        return Verdict.DELAYED
    if pending or oldest is not None:
        return Verdict.CATCHING_UP
    return Verdict.SHADOW if shadowed else Verdict.CURRENT


def _windows(reports: Iterable[LagReport]) -> tuple[LaneWindow, ...]:
    """One row per lane and entity type over all instances: counts add up, of each figure the worst is shown."""
    rows: dict[tuple[Lane, str], LaneWindow] = {}
    for window in (window for report in reports for window in report.windows):
        where = window.lane, window.entity_type.value
        known = rows.get(where)
        rows[where] = window if known is None else _worst(known, window)
    return tuple(rows[where] for where in sorted(rows, key=lambda where: (RANK[where[0]], where[1])))


def _worst(one: LaneWindow, other: LaneWindow) -> LaneWindow:
    return LaneWindow(
        lane=one.lane,
        entity_type=one.entity_type,
        count=one.count + other.count,
        p50_ms=max(one.p50_ms, other.p50_ms),
        p99_ms=max(one.p99_ms, other.p99_ms),
        max_ms=max(one.max_ms, other.max_ms),
    )


def read_status(topics: Topics, decoder: Decoder, destinations: Sequence[str], clock: Callable[[], Millis]) -> Status:
    """Read the tails of `lag`, `modes`, `events.accepted`, `intake.subscriptions` and `files`, and assemble.

    KafkaUnavailable where they can't be read. Reads no group and commits nothing; safe to repeat as often as wanted.
    """
    reports, modes, feeds, states = list[LagReport](), list[ModeChange](), list[FeedStatus](), list[FeedState]()
    orders = list[ModeOrder]()
    tails = ((LAG, TAIL_REPORTS), (MODES, TAIL_MODES), (ACCEPTED, TAIL_ACCEPTED), (SUBSCRIPTIONS, TAIL_STATES))
    for topic, records in tails:
        for message in tail(topics, topic, records):
            match decoded(decoder, message) if message.value is not None else None:
                case LagReport() as report:
                    reports.append(report)
                case ModeChange() as change:
                    modes.append(change)
                case ModeOrder() as order:
                    orders.append(order)
                case Accepted() as accepted:
                    feeds.append(FeedStatus(accepted.source_system, accepted.feed, accepted.received_at))
                case FeedState() as state:
                    states.append(state)
                case _:
                    continue
    status = assemble(clock(), reports, modes, feeds, destinations, orders)
    files = read_file_lines(topics, decoder, status.at)
    return msgspec.structs.replace(status, subscriptions=newest_lines(states), files=files)
