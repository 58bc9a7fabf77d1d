"""A stream of changes of beds, published while something is harmed."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.domain.event import Event
from tests.hazards.harness import ANSWER_S, STATES, Site, now_ms


@dataclass(frozen=True, slots=True)
class Stream:
    """Changes of `beds` beds: 15 % published twice, 10 % late, the same for the same seed."""

    seed: int
    beds: int
    changes: int

    def events(self, to: Site) -> list[Event]:
        chance, base = random.Random(self.seed), now_ms()
        made: list[tuple[float, Event]] = []
        for step in range(self.changes):
            for bed in range(self.beds):
                place, number = step * self.beds + bed, self.seed * 1_000_000 + step * self.beds + bed
                event = to.bed(f"B/{bed}/A", STATES[chance.randrange(4)], at=base + place, number=number)
                late = place + (chance.uniform(1, 3) * self.beds if chance.random() < 0.1 else 0)
                made.append((late, event))
                if chance.random() < 0.15:
                    made.append((place + chance.uniform(0.1, 4) * self.beds, event))
        return [event for _, event in sorted(made, key=lambda pair: pair[0])]


@contextmanager
def flowing(to: Site, events: Sequence[Event], rate_per_s: float) -> Iterator[Callable[[], None]]:
    """Publishes in the background; the callable waits until all were acknowledged."""
    failure: list[BaseException] = []

    def run() -> None:
        try:
            size = max(1, int(rate_per_s / 5))
            for start in range(0, len(events), size):
                to.publish(*events[start : start + size])
                time.sleep(size / rate_per_s)
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def wait() -> None:
        thread.join(10 * ANSWER_S)
        assert not thread.is_alive()
        if failure:
            raise failure[0]

    yield wait
    wait()
