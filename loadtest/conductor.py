"""One run, seen from the node that leads it: orders the load, makes the trouble, says when it is over, and judges it."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import gevent

from loadtest import evidence
from loadtest.director import Director
from loadtest.feeder import HTTP_NAME, MLLP_NAME, begins_at
from loadtest.findings import Findings, report_of
from loadtest.judge import Limits, WayFigures
from loadtest.page import render
from loadtest.plan import Order, warm_up_s
from loadtest.report import write
from loadtest.shapes import Shape
from loadtest.target import Opened
from pipeline.domain.identifiers import Millis
from pipeline.kafka.client import KafkaUnavailable
from pipeline.local.demo.drive import GIVE_UP_S

if TYPE_CHECKING:  # importing it changes the whole process: sockets and threads become gevent's
    from locust.env import Environment

LOG: Final = logging.getLogger("surgeline.loadtest")
QUIET_S: Final = 3.0
"""Nothing waits and nothing came for so long: it is over."""

BOOKS_WAIT_S: Final = 10.0
PROGRESS_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for."""

    opened: Opened
    shape: Shape
    rate: float
    time: float
    seed: int
    limits: Limits
    folder: Path


@dataclass(slots=True)
class Conductor:
    """Leads one run. `environment` is Locust's."""

    wanted: Wanted
    environment: "Environment"
    order: Order | None = None
    told: dict[str, dict[str, Any]] = field(default_factory=dict)
    promised: set[str] = field(default_factory=set)
    watching: dict[str, Any] = field(default_factory=dict)
    """What the observer said last, wherever it runs."""
    _acting: Any = None
    _director: Director | None = None
    _told_s: float = 0.0

    def begin(self, workers: int) -> Order:
        """The order for all workers; the trouble is made from now on at its times."""
        shape = self.wanted.shape
        messages = shape.messages
        begin = begins_at(time.time(), messages, warm_up_s(shape))
        self.order = Order(shape.name, self.wanted.rate, self.wanted.time, self.wanted.seed, begin, workers)
        self._director = Director(self.wanted.opened.target, begin)
        self._director.calm()
        self._acting = gevent.spawn(self._director.play, shape.acts)
        LOG.info("%s begins in %.0f s: %d messages in %.0f s", shape.name, begin / 1000 - time.time(), messages, shape.for_s)
        return self.order

    def take(self, client: str, data: dict[str, Any]) -> None:
        """What a load process tells of its senders and, where it runs there, of the observer."""
        self.promised.update(data.pop("yes"))
        if (watching := data.pop("observer", None)) is not None:
            self.watching = watching
        self.told[client] = data

    def over(self) -> bool:
        """Whether everything was sent, answered and confirmed, or it has taken too long."""
        if self.order is None:
            return False
        now_s = time.time() - self.order.begins_at / 1000
        self._progress(now_s)
        if now_s > self.wanted.shape.for_s + GIVE_UP_S + self.wanted.limits.drained_s:
            LOG.warning("given up: %d messages without an answer, %s", self.left(), self.watching)
            return True
        return now_s > self.wanted.shape.for_s and self.left() == 0 and self._acting.ready() and self._calm()

    def left(self) -> int:
        """Messages not answered yet; 1 at least while a worker has not made its plan."""
        assert self.order is not None
        silent = self.order.workers - sum(data["total"] is not None for data in self.told.values())
        known = ((data["total"] or 0, data["done"], data["yes_left"]) for data in self.told.values())
        return max(0, silent) + sum(int(total - done + untold) for total, done, untold in known)

    def _progress(self, now_s: float) -> None:
        if now_s - self._told_s >= PROGRESS_S:
            self._told_s = now_s
            answered, waiting = sum(data["answered"] for data in self.told.values()), self.watching.get("waiting", "unknown")
            LOG.info("second %.0f: %d messages answered, changes that wait: %s", now_s, answered, waiting)

    def _calm(self) -> bool:
        watching = self.watching
        return bool(watching.get("on")) and watching["waiting"] == 0 and watching["quiet_s"] >= QUIET_S

    def finish(self) -> int:
        """Judge it and write the reports; the exit code: 0 all held, 1 not, 2 it could not be judged."""
        if self.order is None or self._director is None:
            LOG.error("the run never began")
            return 2
        self._director.calm()
        try:
            report = report_of(self._findings(self.order), self.wanted.limits)
        except KafkaUnavailable as error:
            LOG.error("the topics could not be read: %s", error)
            return 2
        write(report, self.wanted.folder / "report.json")
        (self.wanted.folder / "report.html").write_text(render(report), encoding="utf-8")
        for check in report.checks:
            LOG.info("%s %s: %s (%s)", "ok  " if check.held else "FAIL", check.name, check.seen, check.limit)
        LOG.info("%s; report: %s", "every threshold held" if report.passed else "NOT HELD", self.wanted.folder / "report.html")
        return 0 if report.passed else 1

    # -- what was found

    def _findings(self, order: Order) -> Findings:
        wanted, target = self.wanted, self.wanted.opened.target
        since = Millis(order.begins_at - int(warm_up_s(wanted.shape) * 1000))
        books = evidence.close_books(wanted.opened.path(target.surgeline), BOOKS_WAIT_S, ask=target.ask_destinations)
        return Findings(
            shape=wanted.shape,
            order=order,
            since=since,
            found=evidence.read(wanted.opened.settings(), since),
            books=books,
            promised=frozenset(self.promised),
            told=tuple(self.told.values()),
            left=self.left(),
            deeds=tuple(self._acting.value or ()) if self._acting is not None and self._acting.ready() else (),
            ways=tuple(self._ways()),
            seen=self._seen(),
        )

    def _ways(self) -> Iterator[WayFigures]:
        for way, name in (("HTTP", HTTP_NAME), ("MLLP", MLLP_NAME)):
            entry = self.environment.stats.get(name, way)
            at, longest = entry.get_response_time_percentile, round(entry.max_response_time, 1)
            answered = entry.num_requests - entry.num_failures
            yield WayFigures(way, answered, entry.num_failures, float(at(0.5)), float(at(0.99)), longest)

    def _seen(self) -> dict[tuple[str, str], tuple[float, float]]:
        """What the observer saw live: destination and lane to p50 and p99."""
        seen = {}
        for (name, kind), entry in self.environment.stats.entries.items():
            if kind == "EHR" and entry.num_requests:
                lane, _, destination = name.partition(" at ")
                at = entry.get_response_time_percentile
                seen[destination, lane] = (float(at(0.5)), float(at(0.99)))
        return seen
