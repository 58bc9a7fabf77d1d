"""Hooks that gate and writers share: what is logged, counted and timed around a rebalance."""

import time
from collections.abc import Awaitable, Callable

from pipeline.ops import log_catalogue as lines
from pipeline.ops import metrics
from pipeline.ops.log_catalogue import LogEvent
from pipeline.ops.logs import emit
from pipeline.ops.watchdog import Cause, exit_now
from pipeline.roles.process import Process
from pipeline.stream.worker.app import Hooks, Still
from pipeline.stream.worker.progress import RECOVERY_STALL_S
from pipeline.topology import without_prefix

START = "start"
REBALANCE = "rebalance"


def table_hooks(
    process: Process,
    table: str,
    recovered: Callable[[frozenset[int], Still], Awaitable[None]],
    revoked: Callable[[frozenset[int]], None],
) -> Hooks:
    """Hooks of one worker. A start or a rebalance that does not end in time ends the process; while a recovery reads on, its
    time begins anew."""
    begun = [time.monotonic()]

    async def on_recovered(partitions: frozenset[int], still: Still) -> None:
        await recovered(partitions, still)
        if not still():
            return
        duration_ms = (time.monotonic() - begun[0]) * 1000
        emit(lines.TABLE_RECOVERED, topic=table, count=len(partitions), duration_ms=duration_ms)
        emit(lines.PARTITIONS_ASSIGNED, topic=table, count=len(partitions))
        metrics.PARTITIONS_CHANGED.of("assigned").inc(len(partitions))

    def on_revoked(partitions: frozenset[int]) -> None:
        begun[0] = time.monotonic()
        # Of one that had nothing too: it may get some, and a recovery that ends by itself would be waited for for ever.
        process.watchdog.begin(REBALANCE, process.settings.worker.start_timeout_s)
        if partitions:
            emit(lines.PARTITIONS_REVOKED, topic=table, count=len(partitions))
            metrics.PARTITIONS_CHANGED.of("revoked").inc(len(partitions))
        revoked(partitions)

    def on_started() -> None:
        process.watchdog.finish(START)
        process.watchdog.finish(REBALANCE)

    def gets_on() -> None:
        for phase in (START, REBALANCE):
            process.watchdog.renew(phase, process.settings.worker.start_timeout_s)

    def at(line: LogEvent, topic: str, partition: int, offset: int) -> None:
        emit(line, topic=without_prefix(topic, process.prefix), partition=partition, offset=offset)

    return Hooks(
        recovered=on_recovered,
        revoked=on_revoked,
        started=on_started,
        on_hole=lambda tp, _, first: at(lines.LOG_TRUNCATED, tp.topic, tp.partition, first),
        on_rewind=lambda tp, _, start: at(lines.POSITION_SOUGHT_BACK, tp.topic, tp.partition, start),
        on_stall=lambda: exit_now(Cause.PHASE_OVERDUE, RECOVERY_STALL_S),
        gets_on=gets_on,
    )
