"""Hands each message to a sender when it is due, and keeps what the senders were answered. One per load process.

Open loop: a message is due when it is due, however slow the answers to those before are; what a sender waits for one to
become free is part of the time that is measured. What may be under way is bounded by the number of senders.
"""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import gevent
from gevent.event import Event
from gevent.queue import SimpleQueue

from loadtest.plan import Order, make_plan
from loadtest.shapes import SHAPES
from pipeline.domain.identifiers import Millis
from pipeline.domain.lag import Histogram
from pipeline.local.demo.drive import subject_of
from pipeline.local.demo.trace import Step

HTTP_NAME, MLLP_NAME = "event", "message"
"""In Locust's statistics."""

SOON_S: Final = 0.002
YES_AT_ONCE: Final = 20_000
"""Answered ids told to the master in one report."""


@dataclass(slots=True)
class Answers:
    """What the senders of one process heard. Ids are derived event ids, which say nothing of a patient."""

    yes: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    slowed: int = 0
    """Answers that asked to wait (429, 503, AE, CE)."""
    unanswered: int = 0
    """Attempts without any answer."""
    slip: Histogram = field(default_factory=Histogram)
    """How late messages were handed to the senders, ms: above a few, this machine was the limit. What a message waits for a
    sender whose message before is not answered yet is the pipeline's, and counts into the time to its answer."""


@dataclass(frozen=True, slots=True)
class Due:
    """One message and when it should have been sent, in seconds of the monotonic clock."""

    step: Step
    at: float


class Feeder:
    """Queues between the plan and the senders."""

    def __init__(self) -> None:
        self.http: SimpleQueue[Due] = SimpleQueue()
        self.answers = Answers()
        self.total: int | None = None
        self.done = 0
        self.started = Event()
        self._connections: list[SimpleQueue[Due]] = []
        self._unserved: list[SimpleQueue[Due]] = []
        self._owner: dict[str, SimpleQueue[Due]] = {}
        self._load: Counter[int] = Counter()
        self._yes: list[str] = []

    def connection(self) -> "SimpleQueue[Due]":
        """Queue of a new MLLP connection. It gets subjects that none has yet."""
        if self._unserved:
            return self._unserved.pop()
        queue: SimpleQueue[Due] = SimpleQueue()
        self._connections.append(queue)
        return queue

    def play(self, order: Order, worker: int) -> None:
        """Make the plan and hand out this worker's share of it; returns when the last was handed out."""
        shape = SHAPES[order.shape].scaled(order.rate, order.time)
        steps = make_plan(shape, order.seed, order.begins_at).share_of(worker, order.workers)
        base = time.monotonic() + order.begins_at / 1000 - time.time()
        self.total = len(steps)
        self.started.set()
        for step in steps:
            while (wait_s := base + step.at_s - time.monotonic()) > 0:
                gevent.sleep(max(wait_s, SOON_S))
            self.answers.slip.add(int((time.monotonic() - base - step.at_s) * 1000))
            (self.http if step.kind == "http" else self._queue_of(subject_of(step))).put(Due(step, base + step.at_s))

    def _queue_of(self, subject: str) -> "SimpleQueue[Due]":
        owner = self._owner.get(subject)
        if owner is None:
            if not self._connections:  # the first connection to come will serve it
                self._unserved.append(SimpleQueue())
                self._connections.append(self._unserved[0])
            number = min(range(len(self._connections)), key=lambda index: (self._load[index], index))
            self._load[number] += 1
            owner = self._owner[subject] = self._connections[number]
        return owner

    def answered(self, code: str, event_ids: list[str]) -> None:
        """ "Yes": from now on these must not be lost."""
        self.done += 1
        self.answers.yes += 1
        self.answers.codes[code] += 1
        self._yes += event_ids

    def refused(self, code: str) -> None:
        """Never, or no answer within the bound."""
        self.done += 1
        self.answers.refused += 1
        self.answers.codes[code] += 1

    def told(self) -> dict[str, Any]:
        """For the master: counts so far, and the ids answered since the last call."""
        yes, self._yes = self._yes[:YES_AT_ONCE], self._yes[YES_AT_ONCE:]
        answers = self.answers
        return {
            "total": self.total,
            "done": self.done,
            "yes": yes,
            "yes_left": len(self._yes),
            "answered": answers.yes,
            "codes": dict(answers.codes),
            "refused": answers.refused,
            "slowed": answers.slowed,
            "unanswered": answers.unanswered,
            "slip_p99_ms": answers.slip.p99_ms,
            "slip_max_ms": float(answers.slip.max_ms),
        }


def begins_at(now_s: float, messages: int, warm_up_s: float) -> Millis:
    """When a shape begins that is ordered now: late enough for every worker to make its plan and for the warm-up."""
    making_s = 4.0 + messages / 2_000 + (messages / 8_000) ** 2
    return Millis(int((now_s + making_s + warm_up_s) * 1000))
