"""An EHR that counts requests and says for how long it wants to be left alone, and who writes to it by `Pace`: simulated."""

import functools
import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.domain.identifiers import Millis
from pipeline.domain.writing.pace import Pace


class Counter(Protocol):
    """How an EHR counts; `per_s` may change on the way."""

    per_s: float

    def takes(self, now_ms: float) -> bool: ...


@dataclass(slots=True)
class Bucket:
    """Lends `lent_s` of its worth at once, at least one request."""

    per_s: float
    lent_s: float
    _tokens: float = 0.0
    _at_ms: float = 0.0

    def takes(self, now_ms: float) -> bool:
        """Whether there is one left."""
        most = max(1.0, self.per_s * self.lent_s)
        self._tokens = min(most, self._tokens + (now_ms - self._at_ms) / 1000 * self.per_s)
        self._at_ms = now_ms
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


@dataclass(slots=True)
class Window:
    """So many in any `window_ms`, or in each where it does not slide."""

    per_s: float
    slides: bool
    window_ms: float = 1_000.0
    _taken: deque[float] = field(default_factory=deque)

    def takes(self, now_ms: float) -> bool:
        """Whether the window has room."""
        begin = now_ms - self.window_ms if self.slides else now_ms // self.window_ms * self.window_ms - 1e-6
        while self._taken and self._taken[0] <= begin:
            self._taken.popleft()
        if len(self._taken) >= self.per_s * self.window_ms / 1000:
            return False
        self._taken.append(now_ms)
        return True


@dataclass(slots=True)
class Course:
    """What came of it. Times in ms."""

    taken: list[float] = field(default_factory=list)
    started: list[tuple[float, float]] = field(default_factory=list)
    """Each start with the rate that was learnt by then."""
    pauses: list[float] = field(default_factory=list)
    lags: list[tuple[float, float]] = field(default_factory=list)
    """Of each critical change when it came, and how long it waited for its answer."""

    def taken_per_s(self, begin: float, end: float) -> float:
        """Between two times."""
        return sum(begin <= at < end for at in self.taken) * 1000 / (end - begin)

    def p99_ms(self, begin: float, end: float) -> float:
        """Of the critical changes that came between two times."""
        lags = sorted(lag for at, lag in self.lags if begin <= at < end)
        return lags[int(len(lags) * 0.99)]

    def busiest(self, begin: float) -> float:
        """The busiest second after `begin`: requests in it for each that the rate learnt by then allowed."""
        most, first = 0.0, 0
        late = [each for each in self.started if each[0] >= begin]
        for number, (at, _) in enumerate(late):
            while late[first][0] <= at - 1_000:
                first += 1
            within = late[first : number + 1]
            most = max(most, (len(within) - 1) / max(rate for _, rate in within))
        return most


@dataclass(slots=True)
class Events:
    """What will happen, in the order of its time; several writers of one EHR share it."""

    _heap: list[tuple[float, int, "Surge", Callable[[float], None]]] = field(default_factory=list)
    _serial: int = 0

    def add(self, at_ms: float, surge: "Surge", event: Callable[[float], None]) -> None:
        """Something of one writer."""
        self._serial += 1
        heapq.heappush(self._heap, (at_ms, self._serial, surge, event))

    def play(self, span_ms: float) -> None:
        """All that happens within a span."""
        while self._heap and self._heap[0][0] <= span_ms:
            now, _, surge, event = heapq.heappop(self._heap)
            event(now)
            surge.start_what_may(now)


@dataclass(slots=True)
class Surge:
    """An endless backlog beside critical changes, at most `at_once` under way. The EHR is healthy until `limited_from_ms`."""

    ehr: Counter
    pace: Pace
    critical_per_s: float
    retry_after_s: float
    seed: int
    at_once: int = 16
    answer_ms: float = 5.0
    jitter_ms: float = 5.0
    record_ms: float = 15.0
    """Time until an answered write makes room for the next."""
    limited_from_ms: float = 2_000.0
    changes: tuple[tuple[float, float], ...] = ()
    """When the limit changes, and to what."""
    course: Course = field(default_factory=Course)
    _chance: random.Random = field(init=False)
    _waiting: deque[float] = field(default_factory=deque)
    """When each critical change came that has not been asked for."""
    _hold_ms: float = 0.0
    _under_way: int = 0
    _looks_ms: float = -1.0
    events: Events = field(default_factory=Events)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def run(self, span_ms: float) -> Course:
        """Play it, alone."""
        self.begin(span_ms)
        self.events.play(span_ms)
        return self.end(span_ms)

    def begin(self, span_ms: float) -> None:
        """What comes to it from outside."""
        at = 0.0
        while at < span_ms:
            self._at(at, self._waiting.append)
            at += 1000 / self.critical_per_s * (0.5 + self._chance.random())
        for when, per_s in self.changes:
            self._at(when, functools.partial(self._limit, per_s))

    def end(self, span_ms: float) -> Course:
        """What came of it; what still waits has waited until now."""
        self.course.lags += [(born, span_ms - born) for born in self._waiting]
        return self.course

    def _limit(self, per_s: float, _now: float) -> None:
        self.ehr.per_s = per_s

    def start_what_may(self, now: float) -> None:
        """As many as may start now."""
        tick = Millis(int(now))
        while now >= self._hold_ms and self._under_way < self.at_once:
            critical = bool(self._waiting)
            if not critical and self._under_way >= self.at_once - self.at_once // 8:
                return
            wait_ms = self.pace.wait_ms(tick, critical)
            if wait_ms > 0:
                self._look_at(now, now + wait_ms)
                return
            self.pace.start(tick)
            self._under_way += 1
            self.course.started.append((now, self.pace.per_s(tick)))
            took_ms = self.answer_ms + self._chance.random() * self.jitter_ms
            taken = now < self.limited_from_ms or self.ehr.takes(now + took_ms / 2)
            born = self._waiting.popleft() if critical else None
            self._at(now + took_ms, functools.partial(self._taken if taken else self._refused, born))
        if self._hold_ms > now:
            self._look_at(now, self._hold_ms)

    def _look_at(self, now: float, at: float) -> None:
        if not now < self._looks_ms <= at:
            self._looks_ms = at
            self._at(at, lambda _: None)

    def _taken(self, born: float | None, now: float) -> None:
        self.pace.taken(Millis(int(now)))
        self.course.taken.append(now)
        if born is not None:
            self.course.lags.append((born, now - born))
        self._at(now + self.record_ms, self._free)

    def _refused(self, born: float | None, now: float) -> None:
        tick = Millis(int(now))
        if now >= self._hold_ms:
            self.course.pauses.append(now)
        self._pause(now, self.retry_after_s)
        self._pause(now, self.pace.limited(tick))
        if born is not None:
            self._waiting.appendleft(born)
        self._at(now + self.record_ms, self._free)

    def _pause(self, now: float, pause_s: float) -> None:
        if pause_s > 0:
            self._hold_ms = max(self._hold_ms, now + pause_s * 1000)
            self.pace.paused(Millis(int(now)), Millis(int(self._hold_ms)))

    def _free(self, _now: float) -> None:
        self._under_way -= 1

    def _at(self, at_ms: float, event: Callable[[float], None]) -> None:
        self.events.add(at_ms, self, event)
