"""What is on its way to a broker: so much as comes through in good time, whatever is on offer."""

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from typing import Final

import pytest

from pipeline.kafka.window import FREE_BYTES, INTERVAL_S, LEAST_BYTES, TARGET_S, Window

MOST: Final = 32 * 1024 * 1024
STEP_S: Final = 0.02
RECORD: Final = 16_000


class Line:
    """A broker that takes `per_s` bytes in a second, in turn, and senders that offer without end; a clock moved by hand."""

    def __init__(self, per_s: float) -> None:
        self.per_s, self.now = per_s, 0.0
        self.window = Window(MOST, self.now)
        self.queue: deque[tuple[float, int]] = deque()
        self.in_flight = self.refused = 0
        self.waits: list[float] = []
        self._budget = 0.0

    def pass_s(self, seconds: float, offered_per_step: int) -> None:
        """Time goes by, with so many records on offer in each step."""
        until = self.now + seconds
        while self.now < until:
            self.now += STEP_S
            for _ in range(offered_per_step):
                self._offer()
            self._take()

    def _offer(self) -> None:
        oldest = self.now - self.queue[0][0] if self.queue else 0.0
        if self.window.pressure(self.in_flight, oldest, self.now) >= 1.0:
            self.refused += 1
            return
        self.queue.append((self.now, RECORD))
        self.in_flight += RECORD

    def _take(self) -> None:
        self._budget = min(self._budget + self.per_s * STEP_S, max(RECORD, self.per_s * STEP_S)) if self.queue else 0.0
        while self.queue and self._budget >= self.queue[0][1]:
            begun, size = self.queue.popleft()
            self._budget -= size
            self.in_flight -= size
            self.waits.append(self.now - begun)
            self.window.acknowledged(size, self.now - begun)


@pytest.mark.parametrize("per_s", [500_000.0, 1_000_000.0, 10_000_000.0])
def test_under_a_flood_what_is_taken_in_is_acknowledged_in_good_time_and_the_line_stays_busy(per_s: float) -> None:
    line = Line(per_s)
    line.pass_s(80.0, offered_per_step=30)
    line.waits.clear()
    line.pass_s(20.0, offered_per_step=30)
    assert max(line.waits) <= 2 * TARGET_S
    assert len(line.waits) * RECORD >= 0.8 * per_s * 20.0, "nothing of the line is left unused"
    assert line.refused > 0


def test_a_line_that_becomes_slow_is_overfilled_once_at_most_by_what_was_free() -> None:
    line = Line(50_000_000.0)
    line.pass_s(5.0, offered_per_step=1)
    line.per_s = 100_000.0
    line.pass_s(8.0, offered_per_step=100)
    assert line.in_flight <= FREE_BYTES + RECORD
    assert line.window.limit_bytes <= 100_000 * TARGET_S * 1.1


def test_a_broker_that_stands_still_is_given_the_least_and_all_of_it_again_soon_after_it_is_back() -> None:
    line = Line(10_000_000.0)
    line.pass_s(5.0, offered_per_step=5)
    line.per_s = 0.0
    line.pass_s(10.0, offered_per_step=5)
    assert line.window.limit_bytes == LEAST_BYTES
    line.per_s = 10_000_000.0
    line.pass_s(10 * INTERVAL_S, offered_per_step=5)
    before = line.refused
    line.pass_s(5.0, offered_per_step=5)
    assert line.refused == before, "4 MB/s on offer, 10 MB/s go through: nobody is refused"


def test_a_quick_broker_is_no_reason_to_refuse_anybody() -> None:
    line = Line(100_000_000.0)
    line.pass_s(10.0, offered_per_step=50)
    assert line.refused == 0
    assert line.window.limit_bytes >= FREE_BYTES


def test_a_window_never_exceeds_what_was_allowed_at_most() -> None:
    window = Window(FREE_BYTES // 2, 0.0)
    for step in range(100):
        window.pressure(FREE_BYTES, 0.0, float(step))
        assert LEAST_BYTES <= window.limit_bytes <= FREE_BYTES // 2


# -- why: ways in under a flood, with and without it

GIVE_UP_S: Final = 10.0
"""When a sender is told no."""
DELIVERY_S: Final = 30.0
"""When the client drops what it could not deliver."""
AGAIN_S: Final = 0.2
FOLLOWS: Final = (900, 400)
"""Bytes of what a message needs after its raw bytes were acknowledged: its event, then its receipt."""


class WayIn:
    """Senders that send again whenever they were answered, before a line that takes records in their order; simulated time.

    What a sender gave up stays on the line's queue: it can't be taken back from the client.
    """

    def __init__(self, per_s: float, senders: int, size: int, window: Window | None) -> None:
        self.per_s, self.size, self.window, self.now = per_s, size, window, 0.0
        self.yes: list[float] = []
        self._queue: deque[tuple[float, int, list[bool], int]] = deque()
        self._in_flight = 0
        self._turns: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        for number in range(senders):
            self._at(number * 0.001, self._send)
        self._busy = False

    def run(self, until: float) -> None:
        """Let it happen."""
        while self._turns and self.now < until:
            self.now, _, turn = heapq.heappop(self._turns)
            turn()

    def goodput(self, since: float, until: float) -> float:
        """Yeses, of what the line could have carried."""
        told = sum(since <= at < until for at in self.yes)
        return told * (self.size + sum(FOLLOWS)) / ((until - since) * self.per_s)

    def _at(self, at: float, turn: Callable[[], None]) -> None:
        heapq.heappush(self._turns, (at, next(self._numbers), turn))

    def _is_full(self) -> bool:
        if self.window is None:
            return self._in_flight >= MOST
        oldest_s = self.now - self._queue[0][0] if self._queue else 0.0
        return self.window.pressure(self._in_flight, oldest_s, self.now) >= 1.0

    def _send(self) -> None:
        if self._is_full():
            self._at(self.now + AGAIN_S, self._send)
            return
        waits = [True]
        self._at(self.now + GIVE_UP_S, lambda: self._give_up(waits))
        self._publish(self.size, waits, 0)

    def _give_up(self, waits: list[bool]) -> None:
        if waits[0]:
            waits[0] = False
            self._at(self.now + AGAIN_S, self._send)

    def _publish(self, size: int, waits: list[bool], step: int) -> None:
        self._queue.append((self.now, size, waits, step))
        self._in_flight += size
        if not self._busy:
            self._serve()

    def _serve(self) -> None:
        while self._queue and self.now - self._queue[0][0] > DELIVERY_S:
            self._over(delivered=False)
        self._busy = bool(self._queue)
        if self._busy:
            self._at(self.now + self._queue[0][1] / self.per_s, self._delivered)

    def _over(self, delivered: bool) -> tuple[list[bool], int]:
        begun, size, waits, step = self._queue.popleft()
        self._in_flight -= size
        if self.window is not None:
            self.window.acknowledged(size if delivered else 0, self.now - begun)
        return waits, step

    def _delivered(self) -> None:
        waits, step = self._over(delivered=True)
        if waits[0] and step < len(FOLLOWS):
            self._publish(FOLLOWS[step], waits, step + 1)
        elif waits[0]:
            waits[0] = False
            self.yes.append(self.now)
            self._at(self.now + 0.001, self._send)
        self._serve()


FLOODS: Final = [(120_000.0, 130, 16_000), (50_000.0, 400, 1_000), (1_000_000.0, 200, 200_000)]


@pytest.mark.parametrize(("per_s", "senders", "size"), FLOODS)
def test_a_slow_broker_is_used_to_the_full_by_messages_that_are_answered_yes(per_s: float, senders: int, size: int) -> None:
    flood = WayIn(per_s, senders, size, Window(MOST, 0.0))
    flood.run(60.0)
    assert flood.goodput(30.0, 60.0) > 0.9


def test_without_a_window_a_slow_broker_is_kept_busy_by_what_nobody_waits_for_any_more() -> None:
    flood = WayIn(*FLOODS[0], None)
    flood.run(60.0)
    assert flood.goodput(30.0, 60.0) < 0.1, "the hazard itself: were it gone, the window could go"
