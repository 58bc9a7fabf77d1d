"""What the reconcile role follows: runs and orders, modes, and gaps of subscriptions."""

import threading
from collections.abc import Callable
from typing import Final, TypeVar

from pipeline import topology
from pipeline.domain.identifiers import Millis
from pipeline.domain.reconcile.compare import Repairs
from pipeline.domain.reconcile.record import Reconciliation, ReconciliationOrder
from pipeline.domain.reconcile.schedule import Due, Schedule
from pipeline.domain.records import FeedState, LagReport, ModeChange
from pipeline.domain.subscriptions.life import decode_state
from pipeline.domain.writing.modes import Cause as ModeCause
from pipeline.domain.writing.modes import Mode
from pipeline.kafka.client import Message
from pipeline.kafka.projections import decoded
from pipeline.kafka.reader import Follower
from pipeline.roles.process import Process
from pipeline.settings.model import Settings

T = TypeVar("T")

HEARD_MS: Final = 60_000
"""A writer that has not reported for so long says nothing of its destination any more."""
LAG_SINCE_MS: Final = 300_000
BEGINS: Final = frozenset({Mode.NORMAL.value})
GOES_ON: Final = frozenset({Mode.NORMAL.value, Mode.SLOW.value})
"""Modes in which a run may begin, and in which it goes on: slow freezes nothing, and repairs stand behind all else."""


class Watch:
    """Fed by threads, asked on the loop."""

    def __init__(self, process: Process, schedule: Schedule, repairs: Repairs, now: Millis) -> None:
        kafka = process.settings.kafka
        self._codec = process.codec
        self._schedule = schedule
        self._repairs = repairs
        self._feeds = feeds_at(process.settings)
        self._modes: dict[tuple[str, str], tuple[str, Millis]] = {}
        self._lock = threading.Lock()
        told = (topology.RECONCILIATIONS, topology.MODES, topology.SUBSCRIPTIONS)
        self.followers: Final = (
            Follower(kafka, told, self._apply).start(),
            Follower(kafka, (topology.LAG,), self._apply, max(0, now - LAG_SINCE_MS)).start(),
        )

    def due(self, now: Millis) -> Due | None:
        """The run that is to begin now, where the mode of its destination lets it."""
        blocked = {name for name in self._schedule.destinations if not self.allows(name, now, BEGINS)}
        with self._lock:
            return self._schedule.due(now, blocked)

    def allows(self, destination: str, now: Millis, modes: frozenset[str] = GOES_ON) -> bool:
        """Whether every writer of a destination that was heard lately is in one of these modes."""
        with self._lock:
            told = [mode for (name, _), (mode, at) in self._modes.items() if name == destination and at > now - HEARD_MS]
        return all(mode in modes for mode in told)

    def ask(self, question: Callable[[Schedule], T]) -> T:
        """Ask the schedule something, apart from the threads that feed it."""
        with self._lock:
            return question(self._schedule)

    def _apply(self, message: Message) -> None:
        record = decoded(self._codec, message) if message.value is not None else None
        with self._lock:
            match record:
                case Reconciliation() as run:
                    self._schedule.on_run(run)
                    for subject in run.repairs:
                        self._repairs.note(subject, run.begun_at)
                case ReconciliationOrder() as order:
                    self._schedule.on_order(order)
                case ModeChange() as change if change.cause == ModeCause.DRAINED:
                    self._schedule.on_recovered(change.destination, change.at)
                case LagReport() as report:
                    self._modes[report.destination, report.instance] = report.mode, report.window_end
                case FeedState() as feed if feed.feed in self._feeds:
                    state = decode_state(feed.state)
                    if state is not None and state.open_since is not None:
                        for destination in self._feeds[feed.feed]:
                            self._schedule.on_gap(destination, state.open_since)
                case _:
                    return


def feeds_at(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Destinations that are the same server as a feed's."""
    return {
        name: tuple(
            destination
            for destination, writer in settings.writers.items()
            if writer.base_url.rstrip("/") == feed.base_url.rstrip("/")
        )
        for name, feed in settings.fhir.feeds.items()
    }
